//! Owns the token bucket of an upstream.
//!
//! Promises that over any time no more than `rate × time + burst` tokens are taken, to the nanosecond and without
//! drift: credit is counted in whole units, of which one token costs as many as the rate's time has nanoseconds and one
//! nanosecond gains as many as the rate's count. A changed rate keeps the tokens there are, and so the debt. Pure: times
//! are nanoseconds of a steady clock.

use std::time::Duration;

use crate::routing::PaceRate;

/// A token bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: PaceRate,
    /// At most the burst's worth.
    credit: u128,
    /// When the credit was counted.
    at: Duration,
}

impl Bucket {
    /// Without a token: what the process before this one took at the same moment is not known.
    pub(crate) fn empty(rate: PaceRate, now: Duration) -> Self {
        Self { rate, credit: 0, at: now }
    }

    /// With its burst.
    pub(crate) fn full(rate: PaceRate, now: Duration) -> Self {
        Self { rate, credit: most(&rate), at: now }
    }

    /// The rate.
    pub(crate) fn rate(&self) -> PaceRate {
        self.rate
    }

    /// Goes on at another rate with the tokens that are there, as far as the new burst lets it.
    pub(crate) fn change(&mut self, rate: PaceRate, now: Duration) {
        let credit = self.credit(now) * cost(&rate) / cost(&self.rate);
        *self = Self { rate, credit: credit.min(most(&rate)), at: self.at.max(now) };
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.credit = self.credit(now);
        self.at = self.at.max(now);
        let left = self.credit.checked_sub(cost(&self.rate));
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    /// Puts a token back that was not used.
    pub(crate) fn put_back(&mut self, now: Duration) {
        self.credit = (self.credit(now) + cost(&self.rate)).min(most(&self.rate));
        self.at = self.at.max(now);
    }

    /// When there is a token, at the earliest: `now` if there is.
    pub(crate) fn next(&self, now: Duration) -> Duration {
        let lacks = cost(&self.rate).saturating_sub(self.credit(now));
        let nanos = lacks.div_ceil(u128::from(self.rate.count.max(1)));
        now.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn credit(&self, now: Duration) -> u128 {
        let gained = now.saturating_sub(self.at).as_nanos() * u128::from(self.rate.count);
        (self.credit + gained).min(most(&self.rate))
    }
}

/// What a token costs.
fn cost(rate: &PaceRate) -> u128 {
    rate.per.as_nanos().max(1)
}

/// The credit of a full bucket.
fn most(rate: &PaceRate) -> u128 {
    cost(rate) * u128::from(rate.burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jitter::Jitter;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn rate(count: u64, per: Duration, burst: u64) -> PaceRate {
        PaceRate { count, per, burst }
    }

    #[test]
    fn an_empty_bucket_gives_its_first_token_after_its_time_and_then_the_burst_after_a_quiet_while() {
        let mut bucket = Bucket::empty(rate(10, SECOND, 3), SECOND);
        assert!(!bucket.take(SECOND + 99 * MS));
        assert_eq!(bucket.next(SECOND + 99 * MS), SECOND + 100 * MS);
        assert!(bucket.take(SECOND + 100 * MS) && !bucket.take(SECOND + 100 * MS));
        let later = Duration::from_secs(3600);
        assert_eq!((0..10).take_while(|_| bucket.take(later)).count(), 3);
        bucket.put_back(later);
        assert!(bucket.take(later) && !bucket.take(later));
        let mut full = Bucket::full(rate(1, SECOND, 5), later);
        assert_eq!((0..10).take_while(|_| full.take(later)).count(), 5);
    }

    #[test]
    fn a_rate_that_does_not_divide_the_second_does_not_drift_in_a_year() {
        for (count, per) in
            [(7, SECOND), (999_983, SECOND), (1, Duration::from_secs(60)), (3, Duration::from_secs(86_400))]
        {
            let mut bucket = Bucket::empty(rate(count, per, 1_000_000), Duration::ZERO);
            let (mut taken, mut now) = (0_u128, Duration::ZERO);
            // A hundred steps of three and a half days, each of which takes what there is, up to the burst.
            for _ in 0..1000 {
                now += per * 317 / 1000;
                while bucket.take(now) {
                    taken += 1;
                }
            }
            assert_eq!(taken, now.as_nanos() * u128::from(count) / per.as_nanos(), "{count} in {per:?}");
        }
    }

    #[test]
    fn timers_of_a_millisecond_do_not_lower_the_rate() {
        for count in [10, 100, 250, 1000, 5000, 100_000] {
            let jitter = Jitter::seeded(count);
            let mut bucket = Bucket::empty(PaceRate::new(count, SECOND, None).unwrap(), Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0);
            while now < 10 * SECOND {
                // Woken up to two milliseconds late, on a whole one.
                let due = bucket.next(now) + jitter.up_to(MS);
                now = Duration::from_millis(u64::try_from(due.as_millis()).unwrap() + 1);
                while bucket.take(now) {
                    taken += 1;
                }
            }
            assert!(taken >= count * 99 / 10 && taken <= count * 10 + count / 50 + 2, "{taken} of {count}/s in 10 s");
        }
    }

    #[test]
    fn a_changed_rate_keeps_the_debt_and_clips_to_the_new_burst() {
        let mut bucket = Bucket::full(rate(10, SECOND, 10), Duration::ZERO);
        for _ in 0..10 {
            assert!(bucket.take(Duration::ZERO));
        }
        bucket.change(rate(1000, SECOND, 50), Duration::ZERO);
        assert!(!bucket.take(Duration::ZERO));
        assert_eq!(bucket.next(Duration::ZERO), MS);
        bucket.change(rate(1, Duration::from_secs(60), 1), 30 * MS);
        assert!(bucket.take(30 * MS) && !bucket.take(30 * MS), "of thirty tokens one is left");
    }

    #[test]
    fn extremes_do_not_overflow_and_a_clock_that_goes_back_gives_nothing() {
        let mut wide = Bucket::full(rate(u64::from(u32::MAX), Duration::from_secs(86_400), 1_000_000), Duration::ZERO);
        assert!(wide.take(Duration::from_secs(u64::from(u32::MAX))));
        let mut bucket = Bucket::full(rate(1, SECOND, 1), 10 * SECOND);
        assert!(bucket.take(10 * SECOND) && !bucket.take(9 * SECOND) && !bucket.take(10 * SECOND));
        assert!(bucket.take(11 * SECOND));
    }
}
