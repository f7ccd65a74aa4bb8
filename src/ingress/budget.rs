//! Owns the byte budgets of bodies in flight: how much may be in memory and in the spool at once.
//!
//! When a budget is used up the request is answered 503; nothing waits for room, since whoever waits holds memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{Gauge, Metrics};

/// Which budget.
#[derive(Clone, Copy)]
enum Shown {
    Memory,
    Spool,
}

/// A number of bytes that all requests share. The limit is given with each charge, since a reload may change it.
pub(super) struct Budget {
    used: AtomicU64,
    shown: Shown,
}

/// Bytes taken from a budget, given back when dropped.
pub(super) struct Charge<'a> {
    budget: &'a Budget,
    metrics: &'a Metrics,
    limit: u64,
    bytes: u64,
}

/// The budget has no room for so many bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Budget {
    pub(super) const fn memory() -> Self {
        Self { used: AtomicU64::new(0), shown: Shown::Memory }
    }

    pub(super) const fn spool() -> Self {
        Self { used: AtomicU64::new(0), shown: Shown::Spool }
    }

    /// An empty charge under a limit.
    pub(super) const fn charge<'a>(&'a self, limit: u64, metrics: &'a Metrics) -> Charge<'a> {
        Charge { budget: self, metrics, limit, bytes: 0 }
    }

    /// Bytes taken now.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

impl Charge<'_> {
    /// Takes so many bytes more.
    pub(super) fn grow(&mut self, more: u64) -> Result<(), NoRoom> {
        if more == 0 {
            return Ok(());
        }
        let now = self.budget.used.fetch_add(more, Ordering::AcqRel).saturating_add(more);
        self.bytes += more;
        if now > self.limit {
            self.give_back(more);
            return Err(NoRoom);
        }
        self.gauge().set(i64::try_from(now).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Grows to so many bytes, if it holds fewer.
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    fn give_back(&mut self, bytes: u64) {
        let now = self.budget.used.fetch_sub(bytes, Ordering::AcqRel).saturating_sub(bytes);
        self.bytes -= bytes;
        self.gauge().set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    fn gauge(&self) -> &Gauge {
        match self.budget.shown {
            Shown::Memory => &self.metrics.body_memory,
            Shown::Spool => &self.metrics.spool_bytes,
        }
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_that_does_not_fit_takes_nothing_and_a_dropped_one_gives_back() {
        let (budget, metrics) = (Budget::memory(), Metrics::default());
        let mut first = budget.charge(100, &metrics);
        assert_eq!(first.grow(60), Ok(()));
        let mut second = budget.charge(100, &metrics);
        assert_eq!(second.grow(41), Err(NoRoom));
        assert_eq!(second.grow_to(40), Ok(()));
        assert_eq!(metrics.body_memory.get(), 100);
        drop(first);
        drop(second);
        assert_eq!((budget.used(), metrics.body_memory.get()), (0, 0));
    }
}
