//! Owns the policy of an upstream with several targets: which they are, how they take turns, and when one is left out.
//!
//! Promises at least two targets, no two of them alike. Which one is healthy now is the engine's business.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::Upstream;

/// Targets of one upstream: each is asked about its health and counted in metrics.
pub const TARGETS_MAX: usize = 64;

/// The longest time that a target is ejected for, however often that happened before.
pub const EJECTED_MAX: Duration = Duration::from_secs(3600);

/// Why settings make no policy. The messages name the key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TargetsError {
    /// Nothing to choose from.
    #[error("holds {0} urls: name from 2 to {max}, or write one url without a list", max = TARGETS_MAX)]
    Number(usize),
    /// Twice the same.
    #[error("names {0} twice; each target stands once")]
    Twice(String),
    /// Would be ejected for nothing.
    #[error("failures is 0: a target would be ejected without a failure")]
    Failures,
    /// No pause.
    #[error("for is zero: an ejected target would come back at once")]
    NoTime,
    /// Longer than the longest.
    #[error("for is longer than 1h, the longest time that a target is left out")]
    TooLong,
    /// Not a share.
    #[error("max is {0}: it is the share of the targets that may be ejected at once, above 0 and below 1")]
    Max(f64),
}

/// Several targets.
#[derive(Clone)]
pub struct Targets {
    /// At least two.
    pub members: Vec<Member>,
    /// Who is next.
    pub balance: Balance,
    /// None: nobody is asked.
    pub health: Option<HealthCheck>,
    /// When a target is left out for its answers to deliveries.
    pub eject: EjectPolicy,
}

/// One target.
#[derive(Clone)]
pub struct Member {
    /// Its url as configured; there is neither user nor password in it.
    pub url: Arc<str>,
    /// The upstream as if this were its only target.
    pub upstream: Arc<Upstream>,
}

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// Who has the fewest attempts under way; of equals one after the other.
    LeastInFlight,
}

/// How targets are asked whether they work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Asked with GET; the base path of the url does not come before it.
    pub path: Box<str>,
    /// Between the end of one question and the next.
    pub every: Duration,
    /// To the whole answer.
    pub timeout: Duration,
    /// Good answers in a row after which it is healthy.
    pub healthy: u32,
    /// Bad ones in a row after which it is not.
    pub unhealthy: u32,
    /// First and last status of each range that counts as good.
    pub status: Vec<(u16, u16)>,
}

impl HealthCheck {
    /// Whether an answer with this status is a good one.
    #[must_use]
    pub fn accepts(&self, status: StatusCode) -> bool {
        self.status.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16()))
    }
}

/// When a target is left out for its answers to deliveries.
#[derive(Clone, Debug, PartialEq)]
pub struct EjectPolicy {
    /// Attempts in a row without an answer or with a 5xx.
    pub failures: u32,
    /// For so long the first time; each repeat doubles it, up to [`EJECTED_MAX`].
    pub time: Duration,
    /// The share of targets that may be ejected at once.
    pub max: f64,
}

impl EjectPolicy {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`TargetsError`] if it would eject for nothing, for no time, or everyone.
    pub fn new(failures: u32, time: Duration, max: f64) -> Result<Self, TargetsError> {
        match (failures, time) {
            (0, _) => Err(TargetsError::Failures),
            (_, Duration::ZERO) => Err(TargetsError::NoTime),
            (_, time) if time > EJECTED_MAX => Err(TargetsError::TooLong),
            _ if !(max > 0.0 && max < 1.0) => Err(TargetsError::Max(max)),
            _ => Ok(Self { failures, time, max }),
        }
    }

    /// How many of so many targets may be ejected at once: at least one, and never all.
    #[must_use]
    pub fn ejected_max(&self, targets: usize) -> usize {
        // Exact: there are at most TARGETS_MAX.
        let share = (1..=targets).take_while(|count| *count as f64 <= targets as f64 * self.max).count();
        share.max(1).min(targets.saturating_sub(1))
    }

    /// How long a target is left out for the n-th time in a row.
    #[must_use]
    pub fn time_of(&self, times: u32) -> Duration {
        let doubled = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.time.saturating_mul(doubled).min(EJECTED_MAX)
    }
}

impl Targets {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`TargetsError`] for fewer than two targets, too many, or one that stands there twice.
    pub fn new(
        members: Vec<Member>,
        balance: Balance,
        health: Option<HealthCheck>,
        eject: EjectPolicy,
    ) -> Result<Self, TargetsError> {
        if !(2..=TARGETS_MAX).contains(&members.len()) {
            return Err(TargetsError::Number(members.len()));
        }
        let twice = members.iter().enumerate().find(|(index, member)| {
            members.iter().take(*index).any(|other| other.upstream.target == member.upstream.target)
        });
        match twice {
            Some((_, member)) => Err(TargetsError::Twice(member.url.to_string())),
            None => Ok(Self { members, balance, health, eject }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_may_be_ejected_is_at_least_one_and_never_all() {
        let eject = |max| EjectPolicy::new(5, Duration::from_secs(30), max).unwrap();
        for (max, targets, expected) in
            [(0.5, 2, 1), (0.5, 3, 1), (0.5, 4, 2), (0.1, 3, 1), (0.99, 2, 1), (0.99, 64, 63), (0.01, 64, 1)]
        {
            assert_eq!(eject(max).ejected_max(targets), expected, "{max} of {targets}");
        }
    }

    #[test]
    fn each_repeat_doubles_the_time_up_to_an_hour() {
        let eject = EjectPolicy::new(5, Duration::from_secs(30), 0.5).unwrap();
        for (times, seconds) in [(1, 30), (2, 60), (3, 120), (8, 3600), (33, 3600), (u32::MAX, 3600)] {
            assert_eq!(eject.time_of(times), Duration::from_secs(seconds), "{times}");
        }
    }

    #[test]
    fn policies_that_make_no_sense_are_refused() {
        let minute = Duration::from_secs(60);
        assert_eq!(EjectPolicy::new(0, minute, 0.5), Err(TargetsError::Failures));
        assert_eq!(EjectPolicy::new(1, Duration::ZERO, 0.5), Err(TargetsError::NoTime));
        assert_eq!(EjectPolicy::new(1, Duration::from_secs(3601), 0.5), Err(TargetsError::TooLong));
        for max in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(matches!(EjectPolicy::new(1, minute, max), Err(TargetsError::Max(_))), "{max}");
        }
    }
}
