//! Owns what stands between a job and its attempt: the breaker, `Retry-After` of the whole upstream, concurrency.
//!
//! Promises pure decisions under one short lock: time and policies are arguments, effects are returned. Operator
//! holds are not here: the agenda keeps those jobs.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    breaker::{Breaker, BreakerState, Pass, Step},
    classify::{Health, Judgement},
};
use crate::{
    clock::Timestamp,
    event::{Job, Outcome, Seq},
    log::{Acked, Done},
    routing::Upstream,
};

/// Jobs an upstream may have in the engine for each attempt at once, so that workers never wait for the agenda.
const WINDOW_FACTOR: usize = 4;
/// And at least so many.
const WINDOW_MIN: usize = 16;
/// With several events in one attempt: full batches for all attempts, and as many that wait. At most so many jobs, or
/// one batch if it is larger.
const WINDOW_BATCHES: usize = 2;
const WINDOW_BATCH_MAX: usize = 4096;

/// The gates of one upstream, with the jobs that wait before them.
pub(crate) struct Gates {
    pub(crate) breaker: Breaker,
    /// Jobs that wait for a worker; the agenda keeps them within the window.
    pub(crate) queue: VecDeque<Job>,
    /// Attempts under way.
    pub(crate) in_flight: usize,
    /// The upstream asked for a pause until then (steady time).
    asked_pause: Option<Timestamp>,
    /// Deliveries that died of what may yet turn out to be a broken endpoint; at most the policy's `failures`.
    evidence: VecDeque<Evidence>,
    /// The window last told.
    told: Option<usize>,
}

/// A job that the gates let through.
pub(crate) struct Admitted {
    pub(crate) job: Job,
    /// In which of the breaker's states.
    pub(crate) pass: Pass,
}

/// A delivery that died of an endpoint's answer, and where its entry will stand.
pub(crate) struct Evidence {
    pub(crate) event: Seq,
    pub(crate) entry: oneshot::Receiver<Acked>,
}

/// What follows from an observation, besides the delivery's own change.
pub(crate) struct Observed {
    /// What the breaker did.
    pub(crate) step: Step,
    /// Nothing may die now.
    pub(crate) open: bool,
    /// To be made pending again.
    pub(crate) revive: VecDeque<Evidence>,
    /// To be given back.
    pub(crate) returned: VecDeque<Job>,
    /// Who is told when the attempt's entry is durable.
    pub(crate) done: Done,
}

impl Gates {
    /// All open.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            breaker: Breaker::new(now),
            queue: VecDeque::new(),
            in_flight: 0,
            asked_pause: None,
            evidence: VecDeque::new(),
            told: None,
        }
    }

    /// Takes note of an attempt's judgement. `now` is steady time.
    pub(crate) fn observe(
        &mut self,
        judged: &Judgement,
        (event, pass): (Seq, Pass),
        upstream: &Upstream,
        now: Timestamp,
    ) -> Observed {
        // What was under way when it opened is judged as if it were still open.
        let old = self.breaker.state() == BreakerState::HalfOpen && pass != self.breaker.pass();
        let step = self.breaker.observe(judged.health, (event, pass), upstream.concurrency, &upstream.breaker, now);
        let mut observed = Observed {
            step,
            open: old || self.breaker.state() == BreakerState::Open,
            revive: VecDeque::new(),
            returned: VecDeque::new(),
            done: Done::nobody(),
        };
        if judged.hold_upstream
            && let Some(wait) = judged.retry_after
        {
            self.asked_pause = self.asked_pause.max(Some(now.after(wait)));
            observed.returned = std::mem::take(&mut self.queue);
        }
        match judged.health {
            Health::Alive => self.evidence.clear(),
            _ if step == Step::Opened => {
                observed.revive = std::mem::take(&mut self.evidence);
                observed.returned.append(&mut self.queue);
            }
            _ if judged.endpoint && judged.outcome == Outcome::Refused && !observed.open => {
                if self.evidence.len() >= upstream.breaker.failures as usize {
                    self.evidence.pop_front();
                }
                let (done, entry) = Done::channel();
                observed.done = done;
                self.evidence.push_back(Evidence { event, entry });
            }
            _ => {}
        }
        observed
    }

    /// Lets time pass. True if the breaker became half-open.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        if self.asked_pause.is_some_and(|until| now >= until) {
            self.asked_pause = None;
        }
        self.breaker.tick(now)
    }

    /// How many attempts may be under way at once.
    pub(crate) fn limit(&self, concurrency: usize) -> usize {
        if self.asked_pause.is_some() { 0 } else { self.breaker.limit(concurrency) }
    }

    /// Whether an attempt decides about the breaker.
    pub(crate) fn is_probing(&self) -> bool {
        self.breaker.state() == BreakerState::HalfOpen
    }

    /// Takes the next job if one waits and the gates let it through; it counts as under way then.
    pub(crate) fn take(&mut self, concurrency: usize) -> Option<Admitted> {
        if self.in_flight >= self.limit(concurrency) {
            return None;
        }
        let job = self.queue.pop_front()?;
        self.in_flight += 1;
        Some(Admitted { job, pass: self.breaker.pass() })
    }

    /// When time alone changes something.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match (self.asked_pause, self.breaker.opens_until()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The window for attempts of so many events, if it is not what was told before. It counts as told then.
    pub(crate) fn new_window(&mut self, concurrency: usize, events_each: usize) -> Option<usize> {
        let limit = self.limit(concurrency);
        let window = match () {
            // The probe is one event, also where batches are sent.
            () if limit == 0 || self.breaker.state() == BreakerState::HalfOpen => limit,
            () if events_each > 1 => {
                let wanted = limit.saturating_mul(events_each).saturating_mul(WINDOW_BATCHES);
                wanted.min(WINDOW_BATCH_MAX.max(events_each)).max(WINDOW_MIN)
            }
            () if !self.breaker.is_full() => limit,
            () => limit.saturating_mul(WINDOW_FACTOR).max(WINDOW_MIN),
        };
        (self.told.replace(window) != Some(window)).then_some(window)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::delivery::{
        classify::{self, Rules},
        tests::rig,
    };

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn judged(status: u16) -> Judgement {
        let rules = Rules { soft_bounce: false, retry_after_max: Duration::from_secs(60) };
        classify::answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), rules, T)
    }

    #[test]
    fn an_attempt_from_before_the_opening_neither_closes_nor_opens_a_half_open_breaker_and_kills_nothing() {
        let upstream = rig::upstream("u", crate::routing::Target::Unix("/run/app.sock".into()));
        let mut gates = Gates::new(T);
        gates.queue.extend((0..7).map(|seq| rig::job(rig::event(seq).into(), "u", T)));
        let mut taken: Vec<Admitted> = (0..7).filter_map(|_| gates.take(8)).collect();
        let end = |gates: &mut Gates, status, admitted: Admitted, now| {
            gates.in_flight -= 1;
            gates.observe(&judged(status), (admitted.job.event.id.pos.seq, admitted.pass), &upstream, now)
        };
        for admitted in taken.drain(..5) {
            end(&mut gates, 500, admitted, T);
        }
        let later = T.after(Duration::from_secs(3600));
        assert!(gates.breaker.state() == BreakerState::Open && gates.tick(later));
        for status in [200, 404] {
            let observed = end(&mut gates, status, taken.pop().unwrap(), later);
            assert!(observed.open && observed.step == Step::Same, "{status}");
            assert_eq!(gates.breaker.state(), BreakerState::HalfOpen, "{status}");
        }
        gates.queue.push_back(rig::job(rig::event(8).into(), "u", T));
        let probe = gates.take(8).unwrap();
        assert_eq!(end(&mut gates, 200, probe, later).step, Step::Closed);
    }
}
