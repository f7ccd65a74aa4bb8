//! Owns what follows from the limits an upstream tells of itself: what is left is spread over the time that is left, and
//! nothing is sent if nothing is left.
//!
//! Promises that an upstream can slow only itself, and not for ever: no longer than `retry_after_max` at a time, and
//! then one attempt asks again. It is never faster for it: the configured rate and the concurrency hold as well. Up to
//! a tenth of what is left may go at once, so that a short burst is not spread over an hour.

use std::time::Duration;

use super::{bucket::Bucket, ratelimit::Quota};
use crate::routing::PaceRate;

/// What is left is counted up to here: more is as good as no limit.
const LEFT_MAX: u64 = 1_000_000_000;
/// A limit above that is no limit: attempts a millisecond.
const FREE_PER_MILLI: u128 = 10;
/// The part of what is left that may go at once.
const AT_ONCE: u64 = 10;

/// What an upstream allows.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    left: u64,
    /// What it said holds until then.
    ends: Duration,
    bucket: Bucket,
    /// What it said has ended, and an attempt is under way that asks again.
    asking: bool,
}

impl Allowance {
    /// Takes note of an answer: what it says takes the place of what was said before. `under_way` attempts began and
    /// have not ended, besides the one that told: the upstream may not have counted them yet. `longest` is how long it
    /// is believed. None if there is nothing to heed (any more).
    pub(crate) fn heed(
        before: Option<Self>,
        told: Option<Quota>,
        under_way: usize,
        longest: Duration,
        now: Duration,
    ) -> Option<Self> {
        let Some(quota) = told else {
            // Answers without a word change nothing, unless what was said has ended.
            return before.filter(|before| now < before.ends);
        };
        let time = quota.reset.min(longest).max(Duration::from_millis(1));
        let others = u64::try_from(under_way).unwrap_or(u64::MAX);
        let left = match quota.remaining.min(LEFT_MAX) {
            0 => 0,
            some => some.saturating_sub(others).max(1),
        };
        if u128::from(left) >= time.as_millis() * FREE_PER_MILLI {
            return None;
        }
        let rate = PaceRate { count: left.max(1), per: time, burst: (left / AT_ONCE).max(1) };
        let bucket = match before {
            Some(before) => {
                let mut bucket = before.bucket;
                bucket.change(rate, now);
                bucket
            }
            None => Bucket::full(rate, now),
        };
        Some(Self { left, ends: now.saturating_add(time), bucket, asking: false })
    }

    /// When the next attempt may begin: `now` if it may.
    pub(crate) fn next(&self, in_flight: usize, now: Duration) -> Duration {
        match () {
            // The answer, or the end of the attempt that asks, is what comes next.
            () if now >= self.ends && self.asking && in_flight > 0 => Duration::MAX,
            () if now >= self.ends => now,
            () if self.left == 0 => self.ends,
            () => self.bucket.next(now).min(self.ends),
        }
    }

    /// An attempt begins that [`Allowance::next`] lets begin.
    pub(crate) fn take(&mut self, now: Duration) {
        if now >= self.ends {
            self.asking = true;
        } else {
            self.left = self.left.saturating_sub(1);
            self.bucket.take(now);
        }
    }

    /// An attempt that began was none.
    pub(crate) fn put_back(&mut self, now: Duration) {
        if self.asking {
            self.asking = false;
        } else {
            self.left = self.left.saturating_add(1);
            self.bucket.put_back(now);
        }
    }

    /// Attempts a second: none if nothing is left, or while one asks.
    pub(crate) fn per_second(&self, now: Duration) -> f64 {
        if self.left == 0 || now >= self.ends { 0.0 } else { self.bucket.rate().per_second() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn told(remaining: u64, seconds: u64) -> Option<Quota> {
        Some(Quota { remaining, reset: Duration::from_secs(seconds) })
    }

    fn heed(told: Option<Quota>, now: Duration) -> Option<Allowance> {
        Allowance::heed(None, told, 0, HOUR, now)
    }

    /// When attempts begin if they all take no time and no answer says anything new.
    fn begun(mut allowance: Allowance, mut now: Duration, until: Duration) -> Vec<Duration> {
        let mut begun = Vec::new();
        while now < until {
            now = allowance.next(0, now);
            if now < until {
                allowance.take(now);
                begun.push(now);
            }
            if now >= allowance.ends {
                break;
            }
        }
        begun
    }

    #[test]
    fn what_is_left_is_spread_over_the_time_that_is_left_but_for_a_tenth() {
        let begun = begun(heed(told(20, 10), SECOND).unwrap(), SECOND, 11 * SECOND);
        assert_eq!(begun.len(), 20);
        assert_eq!(begun[..2], [SECOND, SECOND]);
        assert!(begun[1..].windows(2).all(|pair| pair[1] - pair[0] == SECOND / 2), "{begun:?}");
    }

    #[test]
    fn nothing_left_is_a_pause_until_the_reset_and_never_longer_than_it_is_believed() {
        for (seconds, pause) in [(30, 30 * SECOND), (u64::MAX, HOUR)] {
            let allowance = heed(told(0, seconds), SECOND).unwrap();
            assert_eq!(allowance.next(0, SECOND), SECOND + pause);
            assert_eq!(allowance.next(0, SECOND + pause), SECOND + pause);
            assert_eq!(allowance.per_second(SECOND), 0.0);
        }
        let slow = heed(told(1, u64::MAX), SECOND).unwrap();
        let begun = begun(slow, SECOND, 3 * HOUR);
        assert_eq!(begun, [SECOND, SECOND + HOUR], "one at once, the next when nothing is believed any more");
    }

    #[test]
    fn after_the_reset_one_attempt_asks_and_its_answer_decides() {
        let mut allowance = heed(told(0, 30), Duration::ZERO).unwrap();
        let later = 31 * SECOND;
        allowance.take(later);
        assert_eq!(allowance.next(1, later), Duration::MAX);
        assert_eq!(allowance.next(0, later), later, "an attempt that ended without a word is no reason to wait");
        let again = Allowance::heed(Some(allowance.clone()), told(0, 10), 0, HOUR, later).unwrap();
        assert_eq!(again.next(0, later), 41 * SECOND);
        assert!(Allowance::heed(Some(allowance.clone()), None, 0, HOUR, later).is_none(), "it is free again");
        allowance.put_back(later);
        assert_eq!(allowance.next(1, later), later, "what asked was no attempt");
    }

    #[test]
    fn an_answer_without_a_word_changes_nothing_and_attempts_under_way_are_counted() {
        let before = Allowance::heed(None, told(10, 100), 4, HOUR, SECOND).unwrap();
        assert_eq!(before.left, 6);
        let after = Allowance::heed(Some(before), None, 4, HOUR, 2 * SECOND).unwrap();
        assert_eq!((after.left, after.ends), (6, 101 * SECOND));
        assert_eq!(Allowance::heed(None, told(3, 100), 50, HOUR, SECOND).unwrap().left, 1);
    }

    #[test]
    fn repeating_an_answer_gives_no_second_burst() {
        let mut allowance = heed(told(100, 100), Duration::ZERO);
        let mut taken = 0;
        for _ in 0..100 {
            let mut now = allowance.unwrap();
            while now.next(0, SECOND) == SECOND {
                now.take(SECOND);
                taken += 1;
            }
            allowance = Allowance::heed(Some(now), told(100, 100), 0, HOUR, SECOND);
        }
        assert!(taken <= 11, "{taken}");
    }

    #[test]
    fn a_limit_far_above_what_can_be_sent_is_none() {
        assert!(heed(told(u64::MAX, 1), SECOND).is_none());
        assert!(heed(told(5000, 3600), SECOND).is_some());
    }
}
