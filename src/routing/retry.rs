//! Owns the retry policy: when a delivery is tried again and when it is given up.
//!
//! Promises that every policy ends: by its last step, its number of attempts, or `give_up_after`.

use std::time::Duration;

use super::PolicyError;
use crate::jitter::Jitter;

/// The most steps of a schedule.
pub const STEPS_MAX: usize = 1000;

/// The largest share of a wait that an upstream asked for that is added to it.
const ASKED_JITTER_MAX: f64 = 0.1;

/// The most rows of a timetable.
pub const TIMETABLE_ROWS_MAX: usize = 40;

/// When to try again and when to give up. Made by [`RetryPolicy::new`], which refuses what makes no sense.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The delays.
    pub schedule: Schedule,
    /// Up to this share of each delay is added at random, 0 to 1.
    pub jitter: f64,
    /// Dead so long after planning (held and breaker-open time not counted). None: after the schedule's last step.
    pub give_up_after: Option<Duration>,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
}

/// The delays between attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Given one by one; with `give_up_after` the last repeats.
    Steps(Vec<Duration>),
    /// `first`, then times `factor` each, at most `max`; `attempts` tries in all, the first included.
    Exponential {
        /// Before the second attempt.
        first: Duration,
        /// At least 1.
        factor: f64,
        /// The longest delay.
        max: Duration,
        /// None: until `give_up_after`.
        attempts: Option<u32>,
    },
}

impl RetryPolicy {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`PolicyError`] if a value makes no sense or the policy would never end.
    pub fn new(
        schedule: Schedule,
        jitter: f64,
        give_up_after: Option<Duration>,
        retry_after_max: Duration,
    ) -> Result<Self, PolicyError> {
        if !(0.0..=1.0).contains(&jitter) {
            return Err(PolicyError::Jitter(jitter));
        }
        if give_up_after.is_some_and(|after| after.is_zero()) {
            return Err(PolicyError::GiveUpAfter);
        }
        schedule.validate(give_up_after.is_some())?;
        Ok(Self { schedule, jitter, give_up_after, retry_after_max })
    }

    /// After 1 s, 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, then hourly until 5 days after planning; up to half of each
    /// delay is added; a `Retry-After` of up to 1 h is honoured.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            schedule: Schedule::Steps([1, 5, 30, 120, 600, 1800, 3600].map(Duration::from_secs).to_vec()),
            jitter: 0.5,
            give_up_after: Some(Duration::from_secs(5 * 24 * 3600)),
            retry_after_max: Duration::from_secs(3600),
        }
    }

    /// The delay before the next attempt when so many were made, jitter added. None: no further attempt. The caller
    /// compares with `give_up_after`, since only it knows the time that does not count.
    #[must_use]
    pub fn delay_after(&self, attempts_made: u32, jitter: &Jitter) -> Option<Duration> {
        Some(self.spread(self.base_delay(attempts_made)?, jitter))
    }

    /// A delay with its jitter: at least the delay, at most the policy's share of it longer.
    #[must_use]
    pub fn spread(&self, delay: Duration, jitter: &Jitter) -> Duration {
        longer(delay, self.jitter, jitter)
    }

    /// The wait that an upstream asked for, spread by a tenth at most: it said the same to all, and meant what it said. Never
    /// shorter than it asked for, nor longer than `retry_after_max`.
    #[must_use]
    pub fn heed(&self, asked: Duration, jitter: &Jitter) -> Duration {
        longer(asked, self.jitter.min(ASKED_JITTER_MAX), jitter).min(self.retry_after_max)
    }

    /// When each attempt is made, counted from planning, if every attempt fails at once and no jitter is added: the
    /// first at zero, at most [`TIMETABLE_ROWS_MAX`].
    #[must_use]
    pub fn timetable(&self) -> Vec<Duration> {
        let mut offsets = vec![Duration::ZERO];
        let mut at = Duration::ZERO;
        for made in (1_u32..).take(TIMETABLE_ROWS_MAX - 1) {
            let Some(delay) = self.base_delay(made) else { break };
            at = at.saturating_add(delay);
            if self.give_up_after.is_some_and(|after| at > after) {
                break;
            }
            offsets.push(at);
        }
        offsets
    }

    fn base_delay(&self, attempts_made: u32) -> Option<Duration> {
        let Some(index) = attempts_made.checked_sub(1) else { return Some(Duration::ZERO) };
        match &self.schedule {
            Schedule::Steps(steps) => {
                let step = usize::try_from(index).ok().and_then(|index| steps.get(index));
                step.or_else(|| self.give_up_after.and_then(|_| steps.last())).copied()
            }
            Schedule::Exponential { attempts: Some(attempts), .. } if attempts_made >= *attempts => None,
            Schedule::Exponential { first, factor, max, .. } => {
                let grown = first.as_secs_f64() * factor.powf(f64::from(index));
                Some(Duration::try_from_secs_f64(grown).map_or(*max, |delay| delay.min(*max)))
            }
        }
    }
}

/// A delay, longer by up to a share of it.
fn longer(delay: Duration, share: f64, jitter: &Jitter) -> Duration {
    let most = Duration::try_from_secs_f64(delay.as_secs_f64() * share).unwrap_or(Duration::ZERO);
    delay.saturating_add(jitter.up_to(most))
}

impl Schedule {
    fn validate(&self, has_give_up_after: bool) -> Result<(), PolicyError> {
        match self {
            Self::Steps(steps) if steps.is_empty() => Err(PolicyError::NoSteps),
            Self::Steps(steps) if steps.len() > STEPS_MAX => Err(PolicyError::TooManySteps(steps.len())),
            // One zero step at the beginning means "once more at once"; if it is repeated it is a busy loop.
            Self::Steps(steps) if steps.iter().skip(1).any(Duration::is_zero) => Err(PolicyError::ZeroStep),
            Self::Steps(steps) if has_give_up_after && steps.last().is_some_and(Duration::is_zero) => {
                Err(PolicyError::ZeroStep)
            }
            Self::Steps(_) => Ok(()),
            Self::Exponential { first, .. } if first.is_zero() => Err(PolicyError::ZeroFirst),
            Self::Exponential { factor, .. } if !(factor.is_finite() && *factor >= 1.0) => {
                Err(PolicyError::Factor(*factor))
            }
            Self::Exponential { first, max, .. } if max < first => Err(PolicyError::MaxBelowFirst),
            Self::Exponential { attempts: Some(0), .. } => Err(PolicyError::NoAttempts),
            Self::Exponential { attempts: None, .. } if !has_give_up_after => Err(PolicyError::Endless),
            Self::Exponential { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_secs).collect()
    }

    fn steps(values: &[u64], give_up: Option<u64>) -> Result<RetryPolicy, PolicyError> {
        let give_up = give_up.map(Duration::from_secs);
        RetryPolicy::new(Schedule::Steps(secs(values)), 0.5, give_up, Duration::from_secs(3600))
    }

    fn exponential(
        first: u64,
        factor: f64,
        max: u64,
        attempts: Option<u32>,
        give_up: Option<u64>,
    ) -> Result<RetryPolicy, PolicyError> {
        let (first, max) = (Duration::from_secs(first), Duration::from_secs(max));
        let schedule = Schedule::Exponential { first, factor, max, attempts };
        RetryPolicy::new(schedule, 0.0, give_up.map(Duration::from_secs), Duration::ZERO)
    }

    fn delays(policy: &RetryPolicy, made: impl Iterator<Item = u32>) -> Vec<Option<u64>> {
        made.map(|made| policy.delay_after(made, &Jitter::none()).map(|delay| delay.as_secs())).collect()
    }

    #[test]
    fn the_standard_policy_is_the_contracts_and_its_own_constructor_takes_it() {
        let standard = RetryPolicy::standard();
        assert_eq!(standard.timetable()[..9], secs(&[0, 1, 6, 36, 156, 756, 2556, 6156, 9756])[..]);
        assert_eq!(standard.timetable().len(), 40);
        assert_eq!(standard.delay_after(5000, &Jitter::none()), Some(Duration::from_secs(3600)));
        let RetryPolicy { schedule, jitter, give_up_after, retry_after_max } = standard.clone();
        assert_eq!(RetryPolicy::new(schedule, jitter, give_up_after, retry_after_max), Ok(standard));
    }

    #[test]
    fn without_give_up_after_the_last_step_is_the_end_and_with_it_the_last_step_repeats() {
        assert_eq!(delays(&steps(&[1, 5], None).unwrap(), 0..5), [Some(0), Some(1), Some(5), None, None]);
        assert_eq!(delays(&steps(&[1, 5], Some(20)).unwrap(), 1..5), [Some(1), Some(5), Some(5), Some(5)]);
        assert_eq!(steps(&[1, 5], None).unwrap().timetable(), secs(&[0, 1, 6]));
        assert_eq!(steps(&[1, 5], Some(16)).unwrap().timetable(), secs(&[0, 1, 6, 11, 16]));
    }

    #[test]
    fn exponential_delays_grow_to_their_maximum_and_attempts_count_the_first() {
        let policy = exponential(2, 2.0, 10, Some(6), None).unwrap();
        assert_eq!(delays(&policy, 1..8), [Some(2), Some(4), Some(8), Some(10), Some(10), None, None]);
        assert_eq!(exponential(1, 2.0, 1, Some(1), None).unwrap().timetable(), secs(&[0]));
        let endless = exponential(1, 10.0, 60, None, Some(3600)).unwrap();
        assert_eq!(delays(&endless, [1, u32::MAX].into_iter()), [Some(1), Some(60)]);
    }

    #[test]
    fn jitter_adds_up_to_its_share_and_never_takes_away() {
        let policy = steps(&[10], Some(60)).unwrap();
        let jitter = Jitter::seeded(1);
        let drawn: Vec<_> = (1..500).map(|made| policy.delay_after(made, &jitter).unwrap().as_millis()).collect();
        assert!(drawn.iter().all(|ms| (10_000..=15_000).contains(ms)));
        assert!(drawn.iter().any(|ms| *ms > 14_000) && drawn.iter().any(|ms| *ms < 11_000));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let jitter = |share| RetryPolicy::new(Schedule::Steps(secs(&[1])), share, None, Duration::ZERO);
        assert_eq!(jitter(1.5), Err(PolicyError::Jitter(1.5)));
        assert_eq!(jitter(-0.1), Err(PolicyError::Jitter(-0.1)));
        assert!(jitter(f64::NAN).is_err() && jitter(1.0).is_ok());
        assert_eq!(steps(&[], None), Err(PolicyError::NoSteps));
        assert_eq!(steps(&[1; 1001], None), Err(PolicyError::TooManySteps(1001)));
        assert_eq!(steps(&[1, 0], None), Err(PolicyError::ZeroStep));
        assert_eq!(steps(&[0], Some(60)), Err(PolicyError::ZeroStep));
        assert!(steps(&[0], None).is_ok() && steps(&[0, 5], Some(60)).is_ok());
        assert_eq!(steps(&[1], Some(0)), Err(PolicyError::GiveUpAfter));
        assert_eq!(exponential(0, 2.0, 5, Some(3), None), Err(PolicyError::ZeroFirst));
        assert_eq!(exponential(1, 0.9, 5, Some(3), None), Err(PolicyError::Factor(0.9)));
        assert!(exponential(1, f64::INFINITY, 5, Some(3), None).is_err());
        assert_eq!(exponential(6, 2.0, 5, Some(3), None), Err(PolicyError::MaxBelowFirst));
        assert_eq!(exponential(1, 2.0, 5, Some(0), None), Err(PolicyError::NoAttempts));
        assert_eq!(exponential(1, 2.0, 5, None, None), Err(PolicyError::Endless));
    }
}
