//! Owns the probation of a configuration: what counts against it, and when it has failed.
//!
//! Promises to be pure: counters in, a verdict out. Deliberately absent: going back, which is `reload`'s.
//!
//! A source or an upstream counts against a configuration if, since it became active, at least [`LEAST`] of its
//! requests were refused (attempts failed), and their share is more than twice what it was before and 5 percentage points
//! more. A share before is that of the whole time since the process started.

use std::collections::BTreeMap;

use crate::{
    clock::Timestamp,
    event::Outcome,
    telemetry::{Metrics, RequestResult},
};

/// Fewer refusals or failures than this say nothing.
const LEAST: u64 = 10;

/// By so much a share must have grown besides having doubled.
const POINTS: f64 = 0.05;

/// What is refused because of what the configuration says of it.
const REFUSALS: [RequestResult; 7] = [
    RequestResult::Unauthorized,
    RequestResult::Forbidden,
    RequestResult::NotFound,
    RequestResult::MethodNotAllowed,
    RequestResult::TooLarge,
    RequestResult::Unprocessable,
    RequestResult::Limited,
];

const ACCEPTED: [RequestResult; 3] = [RequestResult::Accepted, RequestResult::Duplicate, RequestResult::Proxied];

/// Good and bad so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) good: u64,
    pub(super) bad: u64,
}

impl Tally {
    fn share(self) -> f64 {
        match self.good + self.bad {
            0 => 0.0,
            all => self.bad as f64 / all as f64,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self { good: self.good.saturating_sub(earlier.good), bad: self.bad.saturating_sub(earlier.bad) }
    }

    /// Whether this is so much worse than before that it is no chance.
    fn has_jumped(self, before: Self) -> bool {
        self.bad >= LEAST && self.share() > 2.0 * before.share() && self.share() > before.share() + POINTS
    }
}

/// All of them, by what they are of, in words.
pub(super) type Tallies = BTreeMap<String, Tally>;

/// Reads the counters.
pub(super) fn tallies(metrics: &Metrics, sources: &[Box<str>], upstreams: &[Box<str>]) -> Tallies {
    let requests = |counters: &[crate::telemetry::Counter]| {
        let sum = |results: &[RequestResult]| {
            results.iter().filter_map(|result| counters.get(*result as usize)).map(crate::telemetry::Counter::get).sum()
        };
        Tally { good: sum(&ACCEPTED), bad: sum(&REFUSALS) }
    };
    let mut all = Tallies::new();
    // Requests that no source took: a path that is gone shows here. What is good stands with the sources.
    let mut nobodys = requests(&metrics.unmatched);
    for name in sources {
        let tally = requests(&metrics.source(name).requests);
        nobodys.good += tally.good;
        all.insert(format!("refused requests of source {name}"), tally);
    }
    all.insert("requests that no source takes".into(), nobodys);
    for name in upstreams {
        let attempts = &metrics.upstream(name).attempts;
        let count = |outcome: Outcome| attempts.get(outcome as usize).map_or(0, crate::telemetry::Counter::get);
        let bad = count(Outcome::Deferred) + count(Outcome::Refused) + count(Outcome::Degraded);
        all.insert(format!("failed attempts of upstream {name}"), Tally { good: count(Outcome::Delivered), bad });
    }
    all
}

/// A configuration on probation.
#[derive(Clone, Debug)]
pub(super) struct Probation {
    /// Steady time at which it has passed.
    pub(super) until: Timestamp,
    /// The counters when it became active.
    pub(super) before: Tallies,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Wait,
    /// It has passed.
    Passed,
    /// It has failed: why, in words.
    Failed(String),
}

impl Probation {
    /// Judges by the counters of now.
    pub(super) fn judge(&self, now: Timestamp, tallies: &Tallies) -> Verdict {
        for (what, tally) in tallies {
            let before = self.before.get(what).copied().unwrap_or_default();
            let since = tally.since(before);
            if since.has_jumped(before) {
                let percent = |tally: Tally| format!("{:.0} %", tally.share() * 100.0);
                let (after, all) = (percent(since), since.good + since.bad);
                return Verdict::Failed(format!("{what}: {after} of {all}, {} before", percent(before)));
            }
        }
        if now >= self.until { Verdict::Passed } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(before: (u64, u64), now: (u64, u64), at_ms: u64) -> Verdict {
        let tally = |(good, bad)| Tallies::from([("x".to_owned(), Tally { good, bad })]);
        let probation = Probation { until: Timestamp::from_millis(1000), before: tally(before) };
        probation.judge(Timestamp::from_millis(at_ms), &tally(now))
    }

    #[test]
    fn only_a_jump_of_the_share_fails_a_configuration_and_time_passes_it() {
        assert_eq!(judge((100, 0), (200, 9), 0), Verdict::Wait, "too few to say anything");
        assert!(matches!(judge((100, 0), (100, 10), 0), Verdict::Failed(_)));
        assert_eq!(judge((100, 0), (100, 10), 0), Verdict::Failed("x: 100 % of 10, 0 % before".into()));
        assert_eq!(judge((100, 100), (150, 160), 0), Verdict::Wait, "it was so before");
        assert_eq!(judge((1000, 10), (2000, 30), 0), Verdict::Wait, "twice as many, but hardly any");
        assert!(matches!(judge((1000, 10), (1000, 30), 999), Verdict::Failed(_)));
        assert_eq!(judge((1000, 10), (2000, 10), 999), Verdict::Wait);
        assert_eq!(judge((1000, 10), (2000, 10), 1000), Verdict::Passed);
    }

    #[test]
    fn what_is_new_had_no_failures_before() {
        let probation = Probation { until: Timestamp::from_millis(1000), before: Tallies::new() };
        let now = Tallies::from([("new".to_owned(), Tally { good: 3, bad: 12 })]);
        assert!(matches!(probation.judge(Timestamp::ZERO, &now), Verdict::Failed(_)));
    }
}
