//! Owns token buckets, as the generic cell rate algorithm (ITU-T I.371, annex A): a bucket is one number, the time at
//! which it will be full again.
//!
//! Promises integers only and no clock: times are nanoseconds since the process began, costs thousandths of a unit.
//! What costs more than the whole burst is taken from a full bucket and paid for afterwards, so that it is late and
//! not impossible.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::UNIT;
use crate::routing::Rate;

/// The bucket of a source: shared without a lock.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Whether one event would find room now; nothing is taken.
    ///
    /// # Errors
    /// How long until it would.
    pub fn room(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        take(self.0.load(Ordering::Relaxed), rate, UNIT, nanos(now)).map(drop)
    }

    /// Takes room for one event.
    ///
    /// # Errors
    /// How long until there is room.
    pub fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            let next = take(full_at, rate, UNIT, nanos(now))?;
            match self.0.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }
}

/// When the bucket will be full again after this cost is taken; or how long until it can be.
pub(super) fn take(full_at: u64, rate: Rate, cost: u64, now: u64) -> Result<u64, Duration> {
    let (cost, burst) = (time_of(cost, rate), time_of(rate.burst.saturating_mul(UNIT), rate));
    let from = full_at.max(now);
    let lacks = from.saturating_add(cost.min(burst)).saturating_sub(now.saturating_add(burst));
    if lacks == 0 { Ok(from.saturating_add(cost)) } else { Err(Duration::from_nanos(lacks)) }
}

/// Nanoseconds in which a bucket gains so much.
pub(super) fn time_of(cost: u64, rate: Rate) -> u64 {
    const NANOS_OF_A_THOUSANDTH: u128 = 1_000_000_000 / UNIT as u128;
    let nanos = u128::from(cost) * NANOS_OF_A_THOUSANDTH / u128::from(rate.per_second.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_comes_at_once_and_the_rest_at_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate { per_second: 10, burst: 3 });
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, MS), Ok(()));
        }
        assert_eq!(bucket.room(rate, MS), Err(100 * MS));
        assert_eq!(bucket.take(rate, MS), Err(100 * MS));
        assert_eq!(bucket.take(rate, 100 * MS), Err(MS));
        assert_eq!(bucket.room(rate, 101 * MS), Ok(()));
        assert_eq!(bucket.take(rate, 101 * MS), Ok(()));
        assert_eq!(bucket.take(rate, 101 * MS), Err(100 * MS));
    }

    #[test]
    fn a_quiet_time_fills_the_bucket_and_no_more() {
        let (bucket, rate) = (Bucket::default(), Rate { per_second: 1000, burst: 2 });
        let taken = |now| (0..10).take_while(|_| bucket.take(rate, now).is_ok()).count();
        assert_eq!(taken(MS), 2);
        assert_eq!(taken(3_600_000 * MS), 2);
        assert_eq!(taken(3_600_001 * MS), 1);
    }

    #[test]
    fn a_cost_above_the_burst_is_late_and_not_impossible() {
        let rate = Rate { per_second: 10, burst: 5 };
        let second = 1_000_000_000;
        let after = take(0, rate, 20 * UNIT, second).unwrap();
        assert_eq!(after, 3 * second);
        // It wants a full bucket, not one that is fuller than full.
        assert_eq!(take(after, rate, 20 * UNIT, second), Err(Duration::from_secs(2)));
        assert!(take(after, rate, 20 * UNIT, 3 * second).is_ok());
        assert_eq!(take(after, rate, UNIT, 3 * second - second / 2), Err(Duration::from_millis(100)));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let wide = Rate { per_second: 1, burst: u64::MAX };
        assert!(take(u64::MAX, wide, u64::MAX, u64::MAX).is_ok());
        let narrow = Rate { per_second: 1, burst: 1 };
        assert!(take(u64::MAX, narrow, u64::MAX, 0).is_err());
        assert_eq!(time_of(UNIT, narrow), 1_000_000_000);
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let (bucket, rate) = (Bucket::default(), Rate { per_second: 1, burst: 1000 });
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(rate, MS).is_ok()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
