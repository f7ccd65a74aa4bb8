//! Owns what stands between a job and its attempt: the breaker, `Retry-After` of the whole upstream, concurrency, pace.
//!
//! Promises pure decisions under one short lock: time and policies are arguments, effects are returned. Operator
//! holds are not here: the agenda keeps those jobs.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::oneshot;

use super::{
    adapt::Start,
    breaker::{Breaker, BreakerState, Pass, Step},
    classify::{Health, Judgement},
    pace::{News, Pace, Throttle},
};
use crate::{
    clock::{Clock, Timestamp},
    event::{Job, Outcome, Seq},
    log::{Acked, Done},
    routing::Upstream,
};

/// Jobs that the pace would let wait for longer go back to the agenda, which knows better who is next by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The gates of one upstream, with the jobs that wait before them.
pub(crate) struct Gates {
    pub(crate) breaker: Breaker,
    /// Jobs that wait for a worker; the agenda keeps them within the window.
    pub(crate) queue: VecDeque<Job>,
    /// Attempts under way.
    pub(crate) in_flight: usize,
    /// Every target is drained, or nothing is permitted.
    pub(crate) stopped: bool,
    /// The upstream has not permitted deliveries; it is asked again then (steady time).
    pub(crate) unpermitted: Option<Timestamp>,
    /// The upstream asked for a pause until then (steady time).
    asked_pause: Option<Timestamp>,
    /// Deliveries that died of what may yet turn out to be a broken endpoint; at most the policy's `failures`.
    evidence: VecDeque<Evidence>,
    /// The window last told.
    told: Option<usize>,
    /// How fast attempts may begin.
    pub(crate) pace: Pace,
    /// The pace lets nothing begin before, and it is long until then.
    closed_until: Option<Duration>,
    /// When the steward looks again.
    alarm: Duration,
}

/// A moment, on both scales of the steady clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) time: Timestamp,
    /// Since the process began, finer than a millisecond.
    pub(crate) elapsed: Duration,
}

impl Now {
    /// This moment.
    pub(crate) fn of(clock: &Clock) -> Self {
        Self { time: clock.steady(), elapsed: clock.elapsed() }
    }
}

/// What an attempt shows when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// In which of the breaker's states it began.
    pub(crate) pass: Pass,
    /// Beside how many others.
    pub(crate) start: Start,
}

/// A job that the gates let through.
pub(crate) struct Admitted {
    pub(crate) job: Job,
    pub(crate) ticket: Ticket,
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
    /// All open, unless the upstream must be asked for its permission; a rate has no token yet.
    pub(crate) fn new(upstream: Option<&Upstream>, now: Now) -> Self {
        let mut pace = Pace::default();
        if let Some(upstream) = upstream {
            pace.configure(&upstream.pace, now.elapsed);
        }
        Self {
            breaker: Breaker::new(now.time),
            queue: VecDeque::new(),
            in_flight: 0,
            stopped: upstream.is_some_and(|upstream| upstream.handshake().is_some()),
            unpermitted: None,
            asked_pause: None,
            evidence: VecDeque::new(),
            told: None,
            pace,
            closed_until: None,
            alarm: Duration::ZERO,
        }
    }

    /// Takes note of an attempt's judgement and of what it told about the pace. It still counts as under way.
    pub(crate) fn observe(
        &mut self,
        (judged, news): (&Judgement, &News),
        (event, Ticket { pass, start }): (Seq, Ticket),
        upstream: &Upstream,
        Now { time: now, elapsed }: Now,
    ) -> Observed {
        let others = self.in_flight.saturating_sub(1);
        let excused = self.pace.observe(news, start, upstream, others, elapsed);
        let health = if excused { Health::Unknown } else { judged.health };
        let concurrency = self.pace.limit(upstream.concurrency);
        // What was under way when it opened is judged as if it were still open.
        let old = self.breaker.state() == BreakerState::HalfOpen && pass != self.breaker.pass();
        let step = self.breaker.observe(health, (event, pass), concurrency, &upstream.breaker, now);
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
        match health {
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

    /// Forgets what a rehearsal has shown.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        self.breaker.reset(now);
        self.evidence.clear();
    }

    /// Lets time pass. True if the breaker became half-open.
    pub(crate) fn tick(&mut self, now: Now) -> bool {
        if self.asked_pause.is_some_and(|until| now.time >= until) {
            self.asked_pause = None;
        }
        if self.closed_until.is_some_and(|until| now.elapsed >= until) {
            self.closed_until = None;
        }
        self.breaker.tick(now.time)
    }

    /// How many attempts may be under way at once.
    pub(crate) fn limit(&self, concurrency: usize) -> usize {
        if self.stopped || self.asked_pause.is_some() || self.closed_until.is_some() {
            return 0;
        }
        self.breaker.limit(self.pace.limit(concurrency))
    }

    /// Whether an attempt that has begun may go on: neither the breaker nor a pause that was asked for keeps it.
    pub(crate) fn is_open(&self) -> bool {
        !self.stopped && self.asked_pause.is_none() && self.breaker.limit(1) > 0
    }

    /// Lets an attempt that has begun send another request. Otherwise gives until when none may begin; None if that can't
    /// be told.
    pub(crate) fn another(&mut self, now: Duration) -> Result<(), Option<Duration>> {
        let others = self.in_flight.saturating_sub(1);
        if !self.is_open() {
            return Err(None);
        }
        if self.pace.take(others, now) { Ok(()) } else { Err(self.pace.throttle(others, now).map(|(_, until)| until)) }
    }

    /// Whether an attempt decides about the breaker.
    pub(crate) fn is_probing(&self) -> bool {
        self.breaker.state() == BreakerState::HalfOpen
    }

    /// Takes the next job if one waits and the gates let it through; it counts as under way then.
    pub(crate) fn take(&mut self, concurrency: usize, now: Duration) -> Option<Admitted> {
        if self.in_flight >= self.limit(concurrency) || self.queue.is_empty() || !self.pace.take(self.in_flight, now) {
            return None;
        }
        let job = self.queue.pop_front()?;
        self.in_flight += 1;
        Some(Admitted { job, ticket: Ticket { pass: self.breaker.pass(), start: self.pace.start(self.in_flight) } })
    }

    /// The jobs that have no place here: none may begin for a long time, or the window has become much smaller.
    pub(crate) fn spill(&mut self, concurrency: usize, events_each: usize, now: Duration) -> VecDeque<Job> {
        let throttled = self.pace.throttle(self.in_flight, now);
        self.closed_until = throttled
            .map(|(_, until)| until)
            .filter(|until| *until > now.saturating_add(PATIENCE) && *until != Duration::MAX);
        if self.limit(concurrency) == 0 {
            return std::mem::take(&mut self.queue);
        }
        if self.pace.is_fixed() {
            return VecDeque::new();
        }
        let most = self.window(concurrency, events_each, now).saturating_mul(2);
        if self.queue.len() > most { self.queue.split_off(most / 2) } else { VecDeque::new() }
    }

    /// How long nothing changes by time alone; None if nothing ever does. The steward looks again by then.
    pub(crate) fn rest(&mut self, concurrency: usize, now: Now) -> Option<Duration> {
        let times = [self.asked_pause, self.breaker.opens_until()];
        let times = times.into_iter().flatten().map(|at| at.since(now.time));
        let token = self.closed_until.or_else(|| self.token(concurrency, now.elapsed));
        let rest = times.chain(token.map(|at| at.saturating_sub(now.elapsed))).min();
        self.alarm = now.elapsed.saturating_add(rest.unwrap_or(Duration::MAX));
        rest
    }

    /// Whether a job waits for a token that comes before the steward looks.
    pub(crate) fn oversleeps(&self, concurrency: usize, now: Duration) -> bool {
        self.token(concurrency, now).is_some_and(|at| at < self.alarm)
    }

    /// When the next job that waits may begin, if only the pace keeps it.
    fn token(&self, concurrency: usize, now: Duration) -> Option<Duration> {
        if self.queue.is_empty() || self.in_flight >= self.limit(concurrency) {
            return None;
        }
        self.pace.throttle(self.in_flight, now).map(|(_, until)| until).filter(|until| *until != Duration::MAX)
    }

    /// What keeps jobs from their attempts besides the breaker, and until when (steady time).
    pub(crate) fn throttled(&self, now: Now) -> Option<(Throttle, Timestamp)> {
        if let Some(until) = self.unpermitted {
            return Some((Throttle::Handshake, until.max(now.time)));
        }
        if let Some(until) = self.asked_pause {
            return Some((Throttle::RetryAfter, until));
        }
        if self.queue.is_empty() && self.closed_until.is_none() {
            return None;
        }
        let (throttle, until) = self.pace.throttle(self.in_flight, now.elapsed)?;
        // For an answer that may come any moment.
        let until = if until == Duration::MAX { now.elapsed } else { until };
        Some((throttle, now.time.after(until.saturating_sub(now.elapsed))))
    }

    /// The window for attempts of so many events, if it is not what was told before. It counts as told then.
    pub(crate) fn new_window(&mut self, concurrency: usize, events_each: usize, now: Duration) -> Option<usize> {
        let window = self.window(concurrency, events_each, now);
        (self.told.replace(window) != Some(window)).then_some(window)
    }

    fn window(&mut self, concurrency: usize, events_each: usize, now: Duration) -> usize {
        let limit = self.limit(concurrency);
        // The probe is one event, also where batches are sent.
        if limit == 0 || self.is_probing() {
            return limit;
        }
        let window = self.pace.window(limit, self.in_flight, events_each, now);
        if self.breaker.is_full() || events_each > 1 { window } else { window.min(limit) }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::delivery::{
        adapt::Load,
        classify::{self, Rules},
        tests::rig,
    };

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn now(time: Timestamp) -> Now {
        Now { time, elapsed: Duration::ZERO }
    }

    fn judged(status: u16) -> Judgement {
        let rules = Rules { soft_bounce: false, retry_after_max: Duration::from_secs(60) };
        classify::answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), rules, T)
    }

    #[test]
    fn an_attempt_from_before_the_opening_neither_closes_nor_opens_a_half_open_breaker_and_kills_nothing() {
        let upstream = rig::upstream("u", crate::routing::Target::Unix("/run/app.sock".into()));
        let mut gates = Gates::new(None, now(T));
        gates.queue.extend((0..7).map(|seq| rig::job(rig::event(seq).into(), "u", T)));
        let mut taken: Vec<Admitted> = (0..7).filter_map(|_| gates.take(8, Duration::ZERO)).collect();
        let end = |gates: &mut Gates, status, admitted: Admitted, now| {
            gates.in_flight -= 1;
            let news = News { load: Load::Unsaid, latency: Duration::ZERO, quota: None };
            gates.observe((&judged(status), &news), (admitted.job.event.id.pos.seq, admitted.ticket), &upstream, now)
        };
        for admitted in taken.drain(..5) {
            end(&mut gates, 500, admitted, now(T));
        }
        let later = now(T.after(Duration::from_secs(3600)));
        assert!(gates.breaker.state() == BreakerState::Open && gates.tick(later));
        for status in [200, 404] {
            let observed = end(&mut gates, status, taken.pop().unwrap(), later);
            assert!(observed.open && observed.step == Step::Same, "{status}");
            assert_eq!(gates.breaker.state(), BreakerState::HalfOpen, "{status}");
        }
        gates.queue.push_back(rig::job(rig::event(8).into(), "u", T));
        let probe = gates.take(8, Duration::ZERO).unwrap();
        assert_eq!(end(&mut gates, 200, probe, later).step, Step::Closed);
    }
}
