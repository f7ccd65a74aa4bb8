//! Owns what follows for a delivery from an attempt: the change of its state, and how it is written to the log.
//!
//! Promises that nothing dies while the breaker is open and that giving up counts neither held time nor time with
//! an open breaker. What an answer means is decided by `classify`.

use std::time::Duration;

use super::{
    classify::{Health, Judgement},
    policy::{self, Decided},
};
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, Diversion, Job, Outcome, Reason, Seq, Turn},
    jitter::Jitter,
    log::{Kind, NewEntry, entry},
    routing::{FailureAction, RetryPolicy},
};

/// Where the timetable has ended, and nothing may end.
const REHEARSED_DELAY: Duration = Duration::from_secs(60);

/// What follows from a judged attempt. `open` says whether the breaker is open after it; `now` is steady time.
pub(crate) fn change(
    job: &Job,
    judged: &Judgement,
    policy: &RetryPolicy,
    open: bool,
    jitter: &Jitter,
    now: Timestamp,
) -> Change {
    if judged.decided == Some(Decided::Rehearsed) {
        return Change::Postpone(now.after(policy.delay_after(job.number, jitter).unwrap_or(REHEARSED_DELAY)));
    }
    if let Some(decided) = &judged.decided {
        return by_rule(decided, judged, open, now).unwrap_or_else(|| patience(job, judged, policy, open, jitter, now));
    }
    match judged.outcome {
        Outcome::Delivered => Change::Delivered,
        Outcome::Refused if open && judged.endpoint => Change::Postpone(now),
        Outcome::Refused => Change::Die(judged.reason()),
        Outcome::Deferred | Outcome::Degraded => patience(job, judged, policy, open, jitter, now),
    }
}

/// What the operator's own rules say. None: it is tried again as long as patience lasts.
fn by_rule(decided: &Decided, judged: &Judgement, open: bool, now: Timestamp) -> Option<Change> {
    let words = judged.words.as_deref().unwrap_or_default();
    let divert = |to: &str| {
        let diversion = Diversion { to: to.into(), due: now, reason: policy::diverted(to, judged) };
        Some(Change::Divert(Box::new(diversion)))
    };
    match decided {
        Decided::Row(FailureAction::Retry(_)) | Decided::Rehearsed => None,
        Decided::Row(FailureAction::Dead) if open && judged.health != Health::Alive => Some(Change::Postpone(now)),
        Decided::Row(FailureAction::Dead) => Some(Change::Die(Reason::with("policy", words))),
        Decided::Row(FailureAction::Hold) => Some(Change::Hold(Reason::with("policy", words))),
        Decided::Row(FailureAction::Divert(to)) | Decided::NotAccepted { fallback: Some(to) } => divert(to),
        Decided::NotAccepted { fallback: None } => Some(Change::Review(Reason::with("not_accepted", words))),
    }
}

/// Another try, or the end of patience; nothing dies while the breaker is open.
fn patience(
    job: &Job,
    judged: &Judgement,
    policy: &RetryPolicy,
    open: bool,
    jitter: &Jitter,
    now: Timestamp,
) -> Change {
    match retry(job, judged, policy, jitter, now) {
        Change::Die(_) if open => Change::Postpone(now),
        change => change,
    }
}

/// The next attempt's time, or the end of patience.
fn retry(job: &Job, judged: &Judgement, policy: &RetryPolicy, jitter: &Jitter, now: Timestamp) -> Change {
    let waited = now.since(job.planned_at).saturating_sub(job.paused);
    let scheduled = policy.delay_after(job.number, jitter);
    match scheduled {
        Some(delay) if policy.give_up_after.is_none_or(|limit| waited < limit) => {
            let ruled = match &judged.decided {
                Some(Decided::Row(FailureAction::Retry(delay))) => delay.map(|delay| policy.spread(delay, jitter)),
                _ => None,
            };
            let asked = judged.retry_after.map(|wait| policy.heed(wait, jitter));
            Change::Retry(now.after(asked.max(ruled).unwrap_or(delay)))
        }
        _ => Change::Die(given_up(job.number, waited, judged)),
    }
}

fn given_up(attempts: u32, waited: Duration, judged: &Judgement) -> Reason {
    let last = judged.words.as_deref().unwrap_or("no answer");
    let times = if attempts == 1 { "attempt" } else { "attempts" };
    // Nobody was asked: the remedy is in the configuration or in the name's records, not at the upstream.
    let code = if judged.code == "address_refused" { judged.code } else { "given_up" };
    Reason::with(code, format!("after {attempts} {times} in {} s, the last one: {last}", waited.as_secs()))
}

/// A delivery, the entry before and the replays its job knew of.
pub(crate) struct Named<'a> {
    pub(crate) event: Seq,
    pub(crate) upstream: &'a str,
    pub(crate) previous: Option<Seq>,
    /// See [`entry::Attempted::replays`].
    pub(crate) replays: Option<u32>,
    /// See [`entry::Attempted::turn`].
    pub(crate) turn: Option<&'a Turn>,
}

impl<'a> From<&'a Job> for Named<'a> {
    fn from(job: &'a Job) -> Self {
        let (event, previous) = (job.event.id.pos.seq, job.previous);
        Self { event, upstream: &job.upstream, previous, replays: Some(job.replays), turn: job.turn.as_deref() }
    }
}

/// The `attempted` entry that says what became of a delivery.
pub(crate) fn attempted(named: &Named<'_>, attempt: Option<Attempt>, change: Change) -> NewEntry {
    let attempted = entry::Attempted {
        event: named.event,
        upstream: named.upstream.into(),
        attempt,
        change,
        previous: named.previous,
        replays: named.replays,
        turn: named.turn.cloned(),
    };
    NewEntry { kind: Kind::Attempted, payload: entry::encode_attempted(&attempted) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::{
        delivery::{
            classify::{self, Rules},
            tests::rig,
        },
        routing::Schedule,
    };

    const PLANNED: Timestamp = Timestamp::from_millis(1_000_000);

    fn judged(status: u16) -> Judgement {
        let rules = Rules { soft_bounce: false, retry_after_max: Duration::from_secs(60) };
        classify::answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), rules, PLANNED)
    }

    fn job(number: u32, paused: u64) -> Job {
        let job = rig::job(rig::event(1).into(), "u", PLANNED);
        Job { number, paused: Duration::from_secs(paused), ..job }
    }

    fn after(seconds: u64) -> Timestamp {
        PLANNED.after(Duration::from_secs(seconds))
    }

    fn given(job: &Job, judged: &Judgement, policy: &RetryPolicy, open: bool, now: Timestamp) -> Change {
        change(job, judged, policy, open, &Jitter::none(), now)
    }

    #[test]
    fn the_timetable_is_that_of_the_policy() {
        let policy = RetryPolicy::standard();
        for (number, delay) in [(1, 1), (2, 5), (3, 30), (4, 120), (5, 600), (6, 1800), (7, 3600), (50, 3600)] {
            let change = given(&job(number, 0), &judged(500), &policy, false, after(10));
            assert_eq!(change, Change::Retry(after(10 + delay)), "after attempt {number}");
        }
    }

    #[test]
    fn retry_after_takes_the_place_of_the_timetable() {
        let wait = Judgement { retry_after: Some(Duration::from_secs(42)), ..judged(503) };
        assert_eq!(given(&job(1, 0), &wait, &RetryPolicy::standard(), false, after(0)), Change::Retry(after(42)));
    }

    #[test]
    fn retry_after_is_spread_by_a_tenth_and_neither_cut_short_nor_drawn_out_beyond_its_limit() {
        let jitter = Jitter::seeded(1);
        let dues = |asked: u64, share: f64| -> BTreeSet<Timestamp> {
            let policy = RetryPolicy { jitter: share, ..RetryPolicy::standard() };
            let wait = Judgement { retry_after: Some(Duration::from_secs(asked)), ..judged(503) };
            let due = |_| match change(&job(1, 0), &wait, &policy, false, &jitter, after(0)) {
                Change::Retry(due) => due,
                other => panic!("{other:?}"),
            };
            (0..100).map(due).collect()
        };
        let spread = dues(40, 0.5);
        assert!(spread.iter().all(|due| (after(40)..=after(44)).contains(due)), "{spread:?}");
        assert!(spread.len() > 50, "they come back at different times");
        assert!(dues(40, 0.05).iter().all(|due| (after(40)..=after(42)).contains(due)), "less, if that is configured");
        assert_eq!(dues(3_600, 0.5), [after(3_600)].into(), "the longest that is honoured");
        assert!(dues(3_500, 0.5).iter().all(|due| (after(3_500)..=after(3_600)).contains(due)));
    }

    #[test]
    fn giving_up_counts_from_planning_without_paused_time() {
        let policy = RetryPolicy { give_up_after: Some(Duration::from_secs(100)), ..RetryPolicy::standard() };
        let died = given(&job(9, 0), &judged(500), &policy, false, after(100));
        let Change::Die(reason) = died else { panic!("{died:?}") };
        assert_eq!(reason.to_string(), "given_up: after 9 attempts in 100 s, the last one: 500 Internal Server Error");
        assert!(matches!(given(&job(9, 0), &judged(500), &policy, false, after(99)), Change::Retry(_)));
        assert!(matches!(given(&job(9, 50), &judged(500), &policy, false, after(149)), Change::Retry(_)));
        assert!(matches!(given(&job(9, 50), &judged(500), &policy, false, after(150)), Change::Die(_)));
    }

    #[test]
    fn without_give_up_after_a_delivery_dies_after_the_last_step() {
        let schedule = Schedule::Steps(vec![Duration::from_secs(1)]);
        let policy = RetryPolicy { schedule, give_up_after: None, ..RetryPolicy::standard() };
        assert!(matches!(given(&job(1, 0), &judged(500), &policy, false, after(0)), Change::Retry(_)));
        assert!(matches!(given(&job(2, 0), &judged(500), &policy, false, after(1)), Change::Die(_)));
    }

    #[test]
    fn a_rule_takes_the_place_of_the_table_and_patience_still_ends() {
        let policy = RetryPolicy { give_up_after: Some(Duration::from_secs(100)), ..RetryPolicy::standard() };
        let ruled = |status, decided| Judgement { decided: Some(decided), ..judged(status) };
        let retry = ruled(404, Decided::Row(FailureAction::Retry(Some(Duration::from_secs(60)))));
        assert_eq!(given(&job(1, 0), &retry, &policy, false, after(1)), Change::Retry(after(61)));
        assert!(matches!(given(&job(1, 0), &retry, &policy, false, after(100)), Change::Die(_)));
        let dead = ruled(503, Decided::Row(FailureAction::Dead));
        assert!(matches!(given(&job(1, 0), &dead, &policy, false, after(1)), Change::Die(why) if why.code == "policy"));
        assert_eq!(given(&job(1, 0), &dead, &policy, true, after(1)), Change::Postpone(after(1)));
        let hold = ruled(403, Decided::Row(FailureAction::Hold));
        assert!(
            matches!(given(&job(1, 0), &hold, &policy, false, after(1)), Change::Hold(why) if why.code == "policy")
        );
        let review = ruled(200, Decided::NotAccepted { fallback: None });
        let change = given(&job(1, 0), &review, &policy, false, after(1));
        assert!(matches!(change, Change::Review(why) if why.code == "not_accepted"));
        let fallback = ruled(200, Decided::NotAccepted { fallback: Some("b".into()) });
        let Change::Divert(diversion) = given(&job(1, 0), &fallback, &policy, false, after(1)) else { panic!() };
        assert_eq!((&*diversion.to, diversion.due, diversion.reason.code), ("b", after(1), "diverted"));
    }

    #[test]
    fn nothing_ends_because_of_a_rehearsal() {
        let policy = RetryPolicy { give_up_after: Some(Duration::from_secs(1)), ..RetryPolicy::standard() };
        for status in [404, 500] {
            let rehearsed = Judgement { decided: Some(Decided::Rehearsed), ..judged(status) };
            assert_eq!(given(&job(1, 0), &rehearsed, &policy, false, after(9)), Change::Postpone(after(10)));
        }
    }

    #[test]
    fn nothing_dies_of_the_endpoint_while_the_breaker_is_open() {
        let policy = RetryPolicy { give_up_after: Some(Duration::from_secs(1)), ..RetryPolicy::standard() };
        for status in [404, 500] {
            assert_eq!(given(&job(3, 0), &judged(status), &policy, true, after(9)), Change::Postpone(after(9)));
            assert!(matches!(given(&job(3, 0), &judged(status), &policy, false, after(9)), Change::Die(_)));
        }
        assert_eq!(given(&job(3, 0), &judged(200), &policy, true, after(9)), Change::Delivered);
    }
}
