//! Owns the breaker of one upstream: a pure state machine, time and policy as arguments.
//!
//! ```text
//!            failures in a row, or error rate               cool_down passed
//!   closed ───────────────────────────────────▶ open ─────────────────────────▶ half-open
//!     ▲                                           ▲                                 │ │
//!     │                                           └────────── the probe fails ──────┘ │
//!     └──────────────── the probe succeeds (concurrency 1, 2, 4, …) ──────────────────┘
//! ```
//!
//! Promises that HTTP failures count once for an event and unreachability always, that only an attempt which began
//! half-open decides as the probe, and that memory is bounded by the policy's `failures`. Nothing here waits or sends.

use std::time::Duration;

use super::classify::Health;
use crate::{clock::Timestamp, event::Seq, routing::BreakerPolicy};

/// Buckets that the window of the error rate is made of.
const BUCKETS: u64 = 10;

/// The word for a breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Traffic flows.
    Closed,
    /// One probe may go.
    HalfOpen,
    /// Nothing goes.
    Open,
}

impl BreakerState {
    /// The word used in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// The number used in metrics.
    #[must_use]
    pub const fn as_number(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// What an observation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that anyone must know.
    Same,
    /// It opened, or opened again.
    Opened,
    /// It closed; concurrency starts at 1.
    Closed,
    /// The slow start took its next step.
    Grew,
}

/// In which of the breaker's states an attempt began: what tells a probe from an attempt that was under way before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(u64);

/// The breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    since: Timestamp,
    /// How often it came into a new state.
    changes: u64,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each upstream")]
enum State {
    Closed(Closed),
    Open { until: Timestamp, failures: u32 },
    HalfOpen { failures: u32 },
}

#[derive(Debug, Default)]
struct Closed {
    failures: u32,
    /// Events whose HTTP failure was counted; at most `failures` of the policy.
    counted: Vec<Seq>,
    rate: Rate,
    /// None: at full concurrency.
    slow_start: Option<SlowStart>,
}

#[derive(Debug)]
struct SlowStart {
    limit: usize,
    successes: usize,
}

impl Breaker {
    /// Closed, at full concurrency.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { state: State::Closed(Closed::default()), since: now, changes: 0 }
    }

    /// What an attempt that begins now shows when it ends.
    pub(crate) fn pass(&self) -> Pass {
        Pass(self.changes)
    }

    /// Takes note of what one attempt said.
    pub(crate) fn observe(
        &mut self,
        health: Health,
        (event, pass): (Seq, Pass),
        concurrency: usize,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Step {
        let step = match &mut self.state {
            State::Closed(closed) => closed.observe(health, event, concurrency, policy, now),
            State::Open { .. } => Step::Same,
            // Begun before: it says how the upstream was, not how it is.
            State::HalfOpen { .. } if pass != Pass(self.changes) => Step::Same,
            State::HalfOpen { failures } => observe_probe(health, failures),
        };
        match step {
            Step::Opened => {
                let (until, failures) = (now.after(policy.cool_down), self.failures());
                self.enter(State::Open { until, failures }, now);
            }
            Step::Closed => {
                let slow_start = (concurrency > 1).then_some(SlowStart { limit: 1, successes: 0 });
                self.enter(State::Closed(Closed { slow_start, ..Closed::default() }), now);
            }
            Step::Same | Step::Grew => {}
        }
        step
    }

    /// Lets time pass: an open breaker becomes half-open after its cool-down. True if it just did.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        match self.state {
            State::Open { until, failures } if now >= until => {
                self.enter(State::HalfOpen { failures }, now);
                true
            }
            _ => false,
        }
    }

    /// Forgets what it has seen: closed, at full concurrency.
    pub(crate) fn reset(&mut self, now: Timestamp) {
        self.enter(State::Closed(Closed::default()), now);
    }

    /// How many attempts may be under way at once.
    pub(crate) fn limit(&self, concurrency: usize) -> usize {
        match &self.state {
            State::Closed(Closed { slow_start: Some(slow), .. }) => slow.limit.min(concurrency),
            State::Closed(_) => concurrency,
            State::Open { .. } => 0,
            State::HalfOpen { .. } => 1,
        }
    }

    /// The word for its state.
    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether it is closed and past its slow start.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.state, State::Closed(Closed { slow_start: None, .. }))
    }

    /// When it came into its state (steady time).
    pub(crate) fn since(&self) -> Timestamp {
        self.since
    }

    /// When an open breaker becomes half-open.
    pub(crate) fn opens_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        match &self.state {
            State::Closed(closed) => closed.failures,
            State::Open { failures, .. } | State::HalfOpen { failures } => *failures,
        }
    }

    fn enter(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.since = now;
        self.changes += 1;
    }
}

impl Closed {
    /// Closed: failures in a row, or their share in the window, open it; successes let a slow start grow.
    fn observe(
        &mut self,
        health: Health,
        event: Seq,
        concurrency: usize,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Step {
        let failed = match health {
            Health::Unknown => return Step::Same,
            Health::Alive => false,
            Health::Failing if self.counted.contains(&event) => return Step::Same,
            Health::Failing | Health::Unreachable => true,
        };
        let rate_reached = policy.error_rate.as_ref().is_some_and(|rule| {
            self.rate.add(failed, rule.window, now);
            failed && self.rate.total >= rule.min_requests && self.rate.share() >= rule.share
        });
        if !failed {
            self.failures = 0;
            self.counted.clear();
            return self.grow(concurrency);
        }
        self.failures = self.failures.saturating_add(1);
        if health == Health::Failing {
            self.counted.push(event);
        }
        if self.failures >= policy.failures || rate_reached { Step::Opened } else { Step::Same }
    }

    /// Doubles the concurrency after as many successes as it stands at.
    fn grow(&mut self, concurrency: usize) -> Step {
        let Some(slow) = &mut self.slow_start else { return Step::Same };
        slow.successes += 1;
        if slow.successes < slow.limit {
            return Step::Same;
        }
        slow.successes = 0;
        slow.limit = slow.limit.saturating_mul(2);
        if slow.limit >= concurrency {
            self.slow_start = None;
        }
        Step::Grew
    }
}

/// Half-open: the probe decides.
fn observe_probe(health: Health, failures: &mut u32) -> Step {
    match health {
        Health::Alive => Step::Closed,
        Health::Unknown => Step::Same,
        Health::Failing | Health::Unreachable => {
            *failures = failures.saturating_add(1);
            Step::Opened
        }
    }
}

/// Attempts and failures in a sliding window of [`BUCKETS`] buckets.
#[derive(Debug, Default)]
struct Rate {
    buckets: [(u64, u32, u32); BUCKETS as usize],
    total: u32,
    failed: u32,
}

impl Rate {
    fn add(&mut self, failed: bool, window: Duration, now: Timestamp) {
        let width = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).div_ceil(BUCKETS).max(1);
        let number = now.as_millis() / width;
        if let Some(bucket) = self.buckets.get_mut((number % BUCKETS) as usize) {
            if bucket.0 != number {
                *bucket = (number, 0, 0);
            }
            bucket.1 = bucket.1.saturating_add(1);
            bucket.2 = bucket.2.saturating_add(u32::from(failed));
        }
        let live = self.buckets.iter().filter(|bucket| bucket.0 + BUCKETS > number);
        (self.total, self.failed) = live
            .fold((0, 0), |sum: (u32, u32), bucket| (sum.0.saturating_add(bucket.1), sum.1.saturating_add(bucket.2)));
    }

    fn share(&self) -> f64 {
        f64::from(self.failed) / f64::from(self.total.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::ErrorRate;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn policy() -> BreakerPolicy {
        BreakerPolicy { failures: 5, error_rate: None, cool_down: Duration::from_secs(60) }
    }

    /// What an attempt said that began in the state it ends in.
    fn seen(
        breaker: &mut Breaker,
        health: Health,
        event: Seq,
        concurrency: usize,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Step {
        let pass = breaker.pass();
        breaker.observe(health, (event, pass), concurrency, policy, now)
    }

    fn opened(policy: &BreakerPolicy) -> Breaker {
        let mut breaker = Breaker::new(T);
        for _ in 0..policy.failures {
            seen(&mut breaker, Health::Unreachable, 1, 64, policy, T);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn five_different_events_open_it_and_one_event_alone_never_does() {
        let mut breaker = Breaker::new(T);
        for _ in 0..100 {
            assert_eq!(seen(&mut breaker, Health::Failing, 1, 64, &policy(), T), Step::Same);
        }
        for event in 2..5 {
            assert_eq!(seen(&mut breaker, Health::Failing, event, 64, &policy(), T), Step::Same);
        }
        assert_eq!(seen(&mut breaker, Health::Failing, 5, 64, &policy(), T), Step::Opened);
        assert_eq!(breaker.opens_until(), Some(T.after(Duration::from_secs(60))));
        assert_eq!(breaker.limit(64), 0);
    }

    #[test]
    fn unreachability_counts_always() {
        let mut breaker = Breaker::new(T);
        for _ in 0..4 {
            assert_eq!(seen(&mut breaker, Health::Unreachable, 1, 64, &policy(), T), Step::Same);
        }
        assert_eq!(seen(&mut breaker, Health::Unreachable, 1, 64, &policy(), T), Step::Opened);
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let mut breaker = Breaker::new(T);
        for event in 0..40 {
            let health = if event % 4 == 3 { Health::Alive } else { Health::Failing };
            assert_eq!(seen(&mut breaker, health, event, 64, &policy(), T), Step::Same);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn after_the_cool_down_one_probe_decides() {
        let mut breaker = opened(&policy());
        assert!(!breaker.tick(T.after(Duration::from_millis(59_999))));
        let later = T.after(Duration::from_secs(60));
        assert!(breaker.tick(later));
        assert_eq!((breaker.state(), breaker.limit(64)), (BreakerState::HalfOpen, 1));
        assert_eq!(seen(&mut breaker, Health::Failing, 9, 64, &policy(), later), Step::Opened);
        assert!(!breaker.tick(later.after(Duration::from_secs(59))));
        assert!(breaker.tick(later.after(Duration::from_secs(60))));
        assert_eq!(seen(&mut breaker, Health::Unknown, 9, 64, &policy(), later), Step::Same);
        assert_eq!(seen(&mut breaker, Health::Alive, 9, 64, &policy(), later), Step::Closed);
        assert_eq!(breaker.failures(), 0);
    }

    #[test]
    fn an_attempt_from_before_the_half_open_state_is_not_taken_for_the_probe() {
        let mut breaker = Breaker::new(T);
        let old = breaker.pass();
        for event in 0..5 {
            breaker.observe(Health::Unreachable, (event, old), 64, &policy(), T);
        }
        let later = T.after(Duration::from_secs(60));
        breaker.tick(later);
        for health in [Health::Alive, Health::Failing, Health::Unreachable] {
            assert_eq!(breaker.observe(health, (9, old), 64, &policy(), later), Step::Same);
            assert_eq!((breaker.state(), breaker.failures()), (BreakerState::HalfOpen, 5), "{health:?}");
        }
        let probe = breaker.pass();
        assert_eq!(breaker.observe(Health::Alive, (9, probe), 64, &policy(), later), Step::Closed);
    }

    #[test]
    fn after_closing_concurrency_starts_at_one_and_doubles() {
        let mut breaker = opened(&policy());
        breaker.tick(T.after(Duration::from_secs(60)));
        seen(&mut breaker, Health::Alive, 9, 10, &policy(), T);
        let mut limits = vec![breaker.limit(10)];
        while !breaker.is_full() {
            if seen(&mut breaker, Health::Alive, 9, 10, &policy(), T) == Step::Grew {
                limits.push(breaker.limit(10));
            }
        }
        assert_eq!(limits, [1, 2, 4, 8, 10]);
    }

    #[test]
    fn what_was_under_way_when_it_opened_changes_nothing() {
        let mut breaker = opened(&policy());
        assert_eq!(seen(&mut breaker, Health::Alive, 7, 64, &policy(), T), Step::Same);
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn a_share_of_failures_in_the_window_opens_it() {
        let rule = ErrorRate { share: 0.5, window: Duration::from_secs(10), min_requests: 20 };
        let policy = BreakerPolicy { failures: 1000, error_rate: Some(rule), ..policy() };
        let mut breaker = Breaker::new(T);
        for event in 0..19 {
            let health = if event % 2 == 0 { Health::Failing } else { Health::Alive };
            assert_eq!(seen(&mut breaker, health, event, 64, &policy, T), Step::Same);
        }
        let much_later = T.after(Duration::from_secs(11));
        assert_eq!(
            seen(&mut breaker, Health::Failing, 50, 64, &policy, much_later),
            Step::Same,
            "the window has passed"
        );
        for event in 100..118 {
            let health = if event % 2 == 0 { Health::Alive } else { Health::Failing };
            assert_eq!(seen(&mut breaker, health, event, 64, &policy, much_later), Step::Same);
        }
        assert_eq!(seen(&mut breaker, Health::Failing, 200, 64, &policy, much_later), Step::Opened);
    }
}
