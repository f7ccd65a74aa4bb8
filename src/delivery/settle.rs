//! Owns what follows for a delivery from an attempt: the change of its state, and how it is written to the log.
//!
//! Promises that nothing dies while the breaker is open and that giving up counts neither held time nor time with
//! an open breaker. What an answer means is decided by `classify`.

use std::time::Duration;

use super::classify::Judgement;
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, Job, Outcome, Reason, Seq},
    jitter::Jitter,
    log::{Append, Class, Done, Kind, Log, NewEntry, entry},
    routing::RetryPolicy,
};

/// What follows from a judged attempt. `open` says whether the breaker is open after it; `now` is steady time.
pub(crate) fn change(
    job: &Job,
    judged: &Judgement,
    policy: &RetryPolicy,
    open: bool,
    jitter: &Jitter,
    now: Timestamp,
) -> Change {
    match judged.outcome {
        Outcome::Delivered => Change::Delivered,
        Outcome::Refused if open && judged.endpoint => Change::Postpone(now),
        Outcome::Refused => Change::Die(judged.reason()),
        Outcome::Deferred | Outcome::Degraded => match retry(job, judged, policy, jitter, now) {
            Change::Die(_) if open => Change::Postpone(now),
            change => change,
        },
    }
}

/// The next attempt's time, or the end of patience.
fn retry(job: &Job, judged: &Judgement, policy: &RetryPolicy, jitter: &Jitter, now: Timestamp) -> Change {
    let waited = now.since(job.planned_at).saturating_sub(job.paused);
    let scheduled = policy.delay_after(job.number, jitter);
    match scheduled {
        Some(delay) if policy.give_up_after.is_none_or(|limit| waited < limit) => {
            Change::Retry(now.after(judged.retry_after.unwrap_or(delay)))
        }
        _ => Change::Die(given_up(job.number, waited, judged)),
    }
}

fn given_up(attempts: u32, waited: Duration, judged: &Judgement) -> Reason {
    let last = judged.words.as_deref().unwrap_or("no answer");
    let times = if attempts == 1 { "attempt" } else { "attempts" };
    Reason::with("given_up", format!("after {attempts} {times} in {} s, the last one: {last}", waited.as_secs()))
}

/// Queues the `attempted` entry of a job. The agenda learns of it from the log. An append that the log refuses is
/// lost as in a crash: the delivery is leased until the restart, and made again then.
pub(crate) fn append(log: &dyn Log, job: &Job, attempt: Option<Attempt>, change: Change, time: Timestamp, done: Done) {
    append_named(
        log,
        &Named { event: job.event.id.pos.seq, upstream: &job.upstream, previous: job.previous },
        attempt,
        change,
        time,
        done,
    );
}

/// A delivery and the entry before.
pub(crate) struct Named<'a> {
    pub(crate) event: Seq,
    pub(crate) upstream: &'a str,
    pub(crate) previous: Option<Seq>,
}

/// As [`append`], for a delivery whose job is gone.
pub(crate) fn append_named(
    log: &dyn Log,
    named: &Named<'_>,
    attempt: Option<Attempt>,
    change: Change,
    time: Timestamp,
    done: Done,
) {
    let attempted = entry::Attempted {
        event: named.event,
        upstream: named.upstream.into(),
        attempt,
        change,
        previous: named.previous,
    };
    log.append(Append {
        parts: Vec::new(),
        entry: NewEntry { kind: Kind::Attempted, payload: entry::encode_attempted(&attempted) },
        dedupe: None,
        class: Class::Upkeep,
        time,
        done,
    });
}
