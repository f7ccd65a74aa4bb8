//! Owns the pace of an upstream as validated values: how many attempts may begin in a time, how many may be under way,
//! and whether what the upstream says about its own limits is followed. What has been used up is not here.

use std::time::Duration;

/// The highest rate of attempts in a second.
const RATE_MAX: u64 = 1_000_000;
/// The largest burst.
pub const BURST_MAX: u64 = 1_000_000;

/// A burst that is not written: what comes in so long, so that coarse timers cost nothing of the rate …
const BURST_TIME: Duration = Duration::from_millis(10);
/// … and at least so many, for the same reason.
const BURST_LEAST: u64 = 2;

/// Jobs an upstream may have in the engine for each attempt at once, so that workers never wait for the agenda.
const WINDOW_FACTOR: usize = 4;
/// And at least so many.
const WINDOW_MIN: usize = 16;
/// With several events in one attempt: full batches for all attempts, and as many that wait. At most so many jobs, or
/// one batch if it is larger.
const WINDOW_BATCHES: usize = 2;
const WINDOW_BATCH_MAX: usize = 4096;

/// How fast an upstream is sent to, beside its `concurrency`, which is the most in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Attempts in a time; None: any number.
    pub rate: Option<PaceRate>,
    /// The least attempts at once, if the number adapts between this and `concurrency`. None: it is fixed.
    pub least: Option<usize>,
    /// What its answers say about its limits is followed.
    pub headers: RateHeaders,
}

/// What is made of the rate headers of an upstream's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateHeaders {
    /// What is left is spread over the time that is left.
    Follow,
    /// Nothing.
    Ignore,
}

/// So many attempts in a time, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceRate {
    /// Attempts in `per`, at least 1.
    pub count: u64,
    /// The time, not zero.
    pub per: Duration,
    /// Attempts at once, at least 1.
    pub burst: u64,
}

/// Why settings make no pace. The messages name the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaceError {
    /// Nothing would ever be sent, or faster than can be counted.
    #[error("rate must lie between one attempt in its time and {RATE_MAX} a second")]
    Rate,
    /// Nothing would ever be sent, or everything at once.
    #[error("burst must lie between 1 and {BURST_MAX}")]
    Burst,
    /// No number lies between them.
    #[error("concurrency.min is {min} and must lie between 1 and concurrency.max ({max})")]
    Bounds {
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
}

impl Pace {
    /// As fast as `concurrency` lets it, slower if the upstream's answers ask for it.
    #[must_use]
    pub const fn standard() -> Self {
        Self { rate: None, least: None, headers: RateHeaders::Follow }
    }

    /// The least number of attempts at once that adapts up to `max`.
    ///
    /// # Errors
    /// [`PaceError::Bounds`].
    pub fn least(min: usize, max: usize) -> Result<usize, PaceError> {
        if (1..=max).contains(&min) { Ok(min) } else { Err(PaceError::Bounds { min, max }) }
    }

    /// Jobs that the engine takes from the agenda with so many attempts at once of so many events, whatever the rate.
    #[must_use]
    pub fn window(limit: usize, events_each: usize) -> usize {
        if events_each > 1 {
            let wanted = limit.saturating_mul(events_each).saturating_mul(WINDOW_BATCHES);
            return wanted.min(WINDOW_BATCH_MAX.max(events_each)).max(WINDOW_MIN);
        }
        limit.saturating_mul(WINDOW_FACTOR).max(WINDOW_MIN)
    }

    /// Jobs that the engine takes before it says otherwise.
    #[must_use]
    pub fn first_window(&self, concurrency: usize) -> usize {
        let window = Self::window(self.least.unwrap_or(concurrency), 1);
        self.rate.map_or(window, |rate| window.min(waiting(rate.per_second())))
    }
}

/// Jobs that wait in the engine before a rate: what goes in about a quarter of a second, and a few. More would be
/// beyond the reach of priorities, which the agenda decides.
#[must_use]
pub fn waiting(per_second: f64) -> usize {
    // Saturates; a rate is neither negative nor endless.
    (per_second / 4.0).ceil() as usize + 2
}

impl PaceRate {
    /// A rate from its settings.
    ///
    /// # Errors
    /// [`PaceError`] if it is zero, too fast, or its burst is.
    pub fn new(count: u64, per: Duration, burst: Option<u64>) -> Result<Self, PaceError> {
        let most = u128::from(RATE_MAX) * per.as_nanos() / Duration::from_secs(1).as_nanos();
        if count == 0 || u128::from(count) > most {
            return Err(PaceError::Rate);
        }
        let usual = (u128::from(count) * BURST_TIME.as_nanos()).div_ceil(per.as_nanos());
        let burst = burst.unwrap_or_else(|| u64::try_from(usual).unwrap_or(BURST_MAX).max(BURST_LEAST));
        if !(1..=BURST_MAX).contains(&burst) {
            return Err(PaceError::Burst);
        }
        Ok(Self { count, per, burst })
    }

    /// Attempts a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.per.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_that_is_not_written_is_ten_milliseconds_worth_and_at_least_two() {
        for (count, per, burst) in [(200, 1, 2), (5000, 1, 50), (1, 60, 2), (1_000_000, 1, 10_000), (301, 1, 4)] {
            let rate = PaceRate::new(count, SECOND * per, None).unwrap();
            assert_eq!(rate.burst, burst, "{count} in {per} s");
        }
        assert_eq!(PaceRate::new(5, SECOND, Some(1)).unwrap().burst, 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (count, per) in [(0, SECOND), (1, Duration::ZERO), (1_000_001, SECOND)] {
            assert_eq!(PaceRate::new(count, per, None), Err(PaceError::Rate), "{count}");
        }
        assert_eq!(PaceRate::new(1, SECOND, Some(0)), Err(PaceError::Burst));
        assert_eq!(PaceRate::new(1, SECOND, Some(BURST_MAX + 1)), Err(PaceError::Burst));
        assert_eq!((Pace::least(1, 64), Pace::least(64, 64)), (Ok(1), Ok(64)));
        assert!(Pace::least(0, 64).is_err() && Pace::least(65, 64).is_err());
    }

    #[test]
    fn the_first_window_is_small_if_the_rate_or_the_least_concurrency_is() {
        let rate = |count| Some(PaceRate::new(count, SECOND, None).unwrap());
        assert_eq!(Pace::standard().first_window(64), 256);
        assert_eq!(Pace { least: Some(1), ..Pace::standard() }.first_window(64), 16);
        assert_eq!(Pace { rate: rate(8), ..Pace::standard() }.first_window(64), 4);
        assert_eq!(Pace { rate: rate(100_000), ..Pace::standard() }.first_window(64), 256);
    }
}
