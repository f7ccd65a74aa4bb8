//! Owns what is due when for one upstream, as far as it fits in memory.
//!
//! Due times are rounded up so that neighbours share a bucket, in which the order is that of the log: reading a
//! backlog back then reads the log once, in order. Promises a bound; beyond it the latest-due are left to the stored
//! records and fetched again (see [`Agenda::wants_refill`]) before their time comes.

use std::collections::BTreeSet;

use crate::{clock::Timestamp, event::Seq};

/// Events by due time.
#[derive(Debug)]
pub(super) struct Agenda {
    due: BTreeSet<(u64, Seq)>,
    most: usize,
    /// From there on, this is not complete.
    horizon: Option<(u64, Seq)>,
}

/// Rounds a due time up: to 0.1 s if it lies within 10 s, to 1 s within 10 min, else to 1 min.
#[must_use]
pub(super) fn bucket(due: Timestamp, now: Timestamp) -> Timestamp {
    let step = match due.since(now).as_millis() {
        0..10_000 => 100,
        10_000..600_000 => 1_000,
        _ => 60_000,
    };
    Timestamp::from_millis(due.as_millis().div_ceil(step).saturating_mul(step))
}

impl Agenda {
    /// Holds at most `most` events.
    #[must_use]
    pub(super) const fn new(most: usize) -> Self {
        Self { due: BTreeSet::new(), most, horizon: None }
    }

    /// Changes the bound; it takes effect with the next insert.
    pub(super) fn bound(&mut self, most: usize) {
        self.most = most;
    }

    /// An event is due at a time.
    pub(super) fn insert(&mut self, event: Seq, due: Timestamp, now: Timestamp) {
        let at = bucket(due, now).as_millis();
        if self.horizon.is_some_and(|horizon| (at, event) >= horizon) {
            return;
        }
        self.due.insert((at, event));
        while self.due.len() > self.most {
            self.horizon = self.due.pop_last();
        }
    }

    /// Takes what is due, at most `most`, in the order of buckets and of the log inside them.
    pub(super) fn take(&mut self, now: Timestamp, most: usize) -> Vec<Seq> {
        let mut taken = Vec::new();
        while taken.len() < most {
            match self.due.first() {
                Some((at, event)) if *at <= now.as_millis() => {
                    taken.push(*event);
                    self.due.pop_first();
                }
                _ => break,
            }
        }
        taken
    }

    /// When the next is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| Timestamp::from_millis(*at))
    }

    /// Whether there is more on disk and little left here and in the lane's other agenda, which has `others`.
    #[must_use]
    pub(super) fn wants_refill(&self, others: usize) -> bool {
        self.horizon.is_some() && self.due.len() + others <= self.most / 4
    }

    /// Everything stored before this bucket and event (everything at all, if None) is about to be offered by
    /// [`Agenda::insert`].
    pub(super) fn refilled(&mut self, until: Option<(u64, Seq)>) {
        self.horizon = until;
    }

    /// Events in memory.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn near_times_are_kept_finely_and_far_ones_coarsely() {
        for (due, expected) in [(1_001, 1_100), (9_999, 10_000), (30_001, 31_000), (700_001, 720_000)] {
            assert_eq!(bucket(ms(due), ms(0)), ms(expected), "{due}");
        }
    }

    #[test]
    fn in_a_bucket_the_order_is_that_of_the_log() {
        let mut agenda = Agenda::new(10);
        for (event, due) in [(9, 1_010), (3, 1_090), (5, 1_050), (1, 2_000)] {
            agenda.insert(event, ms(due), ms(0));
        }
        assert_eq!(agenda.take(ms(1_099), 9), [0_u64; 0]);
        assert_eq!(agenda.take(ms(1_100), 2), [3, 5]);
        assert_eq!(agenda.take(ms(2_000), 9), [9, 1]);
    }

    #[test]
    fn beyond_the_bound_the_latest_due_are_left_to_the_disk() {
        let mut agenda = Agenda::new(100);
        for event in 0..1000 {
            agenda.insert(event, ms(1_000 * (1000 - event)), ms(0));
        }
        assert!(agenda.len() <= 100 && !agenda.wants_refill(0));
        let taken = agenda.take(ms(80_000), 1000);
        assert_eq!(taken.first(), Some(&999), "the earliest due stay in memory");
        assert!(agenda.wants_refill(0));
    }
}
