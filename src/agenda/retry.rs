//! Owns what is due when for one upstream, as far as it fits in memory.
//!
//! Due times are rounded up so that neighbours share a bucket, in which the order is that of the log: reading a
//! backlog back then reads the log once, in order. A bucket is handed out in slices, 10 ms apart or evenly over its own
//! width if it is full, so that retries that fall due together are no burst that everything else has to wait for; what is
//! overdue by more than that is handed out at once. Promises a bound; beyond it the latest-due are left to the stored records and fetched again
//! (see [`Agenda::wants_refill`]) before their time comes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{clock::Timestamp, event::Seq};

/// Events of a bucket that are handed out together: few enough to be no burst, enough to be read in one go.
const SLICE: usize = 16;

/// Milliseconds between two slices, unless the bucket is too full for that.
const PAUSE: u64 = 10;

/// Events by due time.
#[derive(Debug)]
pub(super) struct Agenda {
    due: BTreeSet<(u64, Seq)>,
    /// The same events, counted.
    buckets: BTreeMap<u64, Bucket>,
    most: usize,
    /// From there on, this is not complete.
    horizon: Option<(u64, Seq)>,
}

/// The events that share a due time.
#[derive(Debug, Default)]
struct Bucket {
    /// Over so many milliseconds at most they are handed out.
    width: u64,
    waiting: usize,
    taken: usize,
}

impl Bucket {
    fn slices(&self) -> u64 {
        (self.waiting + self.taken).div_ceil(SLICE) as u64
    }

    /// Over so many milliseconds they are handed out.
    fn spread(&self) -> u64 {
        self.width.min(self.slices().saturating_mul(PAUSE))
    }

    /// How many may be handed out so long after the bucket's time.
    fn allowed(&self, elapsed: u64) -> usize {
        let spread = self.spread();
        if elapsed >= spread {
            return self.waiting;
        }
        let slices = self.slices() * elapsed / spread + 1;
        (slices as usize * SLICE).saturating_sub(self.taken).min(self.waiting)
    }

    /// How long after the bucket's time the next slice may be handed out.
    fn next(&self) -> u64 {
        ((self.taken / SLICE) as u64 * self.spread()).div_ceil(self.slices().max(1)).min(self.spread())
    }
}

/// Rounds a due time up: to 0.1 s if it lies within 10 s, to 1 s within 10 min, else to 1 min.
#[must_use]
pub(super) fn bucket(due: Timestamp, now: Timestamp) -> Timestamp {
    let width = width(due, now);
    Timestamp::from_millis(due.as_millis().div_ceil(width).saturating_mul(width))
}

/// The width of the bucket of a due time, in milliseconds.
fn width(due: Timestamp, now: Timestamp) -> u64 {
    match due.since(now).as_millis() {
        0..10_000 => 100,
        10_000..600_000 => 1_000,
        _ => 60_000,
    }
}

impl Agenda {
    /// Holds at most `most` events.
    #[must_use]
    pub(super) const fn new(most: usize) -> Self {
        Self { due: BTreeSet::new(), buckets: BTreeMap::new(), most, horizon: None }
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
        if self.due.insert((at, event)) {
            let bucket = self.buckets.entry(at).or_default();
            bucket.width = bucket.width.max(width(due, now));
            bucket.waiting += 1;
        }
        while self.due.len() > self.most {
            let Some(last) = self.due.pop_last() else { break };
            self.count_out(last.0, 0);
            self.horizon = Some(last);
        }
    }

    /// Takes what may be handed out now, at most `most`, in the order of buckets and of the log inside them.
    pub(super) fn take(&mut self, now: Timestamp, most: usize) -> Vec<Seq> {
        let mut chosen = Vec::new();
        for (at, bucket) in self.buckets.range(..=now.as_millis()) {
            let count = bucket.allowed(now.as_millis() - at).min(most - chosen.len());
            chosen.extend(self.due.range((*at, 0)..).take(count));
        }
        for (at, event) in &chosen {
            self.due.remove(&(*at, *event));
            self.count_out(*at, 1);
        }
        chosen.into_iter().map(|(_, event)| event).collect()
    }

    fn count_out(&mut self, at: u64, taken: usize) {
        let Some(bucket) = self.buckets.get_mut(&at) else { return };
        bucket.waiting = bucket.waiting.saturating_sub(1);
        bucket.taken += taken;
        if bucket.waiting == 0 {
            self.buckets.remove(&at);
        }
    }

    /// When the next may be handed out.
    #[must_use]
    pub(super) fn next(&self) -> Option<Timestamp> {
        let mut next: Option<u64> = None;
        for (at, bucket) in &self.buckets {
            let due = at + bucket.next();
            next = Some(next.map_or(due, |next| next.min(due)));
            // Those after it are due later, and none of them has begun.
            if bucket.taken == 0 {
                break;
            }
        }
        next.map(Timestamp::from_millis)
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

    /// Forgets everything: all of it is to be found in the stored records.
    pub(super) fn forget(&mut self) {
        self.due.clear();
        self.buckets.clear();
        self.horizon = Some((0, 0));
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
    fn what_falls_due_together_is_handed_out_in_slices_and_no_longer_than_the_width_of_its_bucket() {
        let mut agenda = Agenda::new(10_000);
        for event in 0..3_200 {
            agenda.insert(event, ms(30_000), ms(0));
        }
        let mut taken = Vec::new();
        let mut slices = Vec::new();
        while let Some(next) = agenda.next() {
            assert!(agenda.take(ms(next.as_millis() - 1), 1000).is_empty(), "nothing is handed out before its time");
            let slice = agenda.take(next, 1000);
            slices.push((next.as_millis(), slice.len()));
            taken.extend(slice);
        }
        let even: Vec<_> = (0..200).map(|slice| (30_000 + 5 * slice, 16)).collect();
        assert_eq!(slices, even);
        assert!(taken.into_iter().eq(0..3_200), "in the order of the log");
    }

    #[test]
    fn a_wide_bucket_holds_no_narrow_one_back_and_what_is_overdue_is_handed_out_at_once() {
        let mut agenda = Agenda::new(1000);
        for event in 0..160 {
            agenda.insert(event, ms(660_000), ms(0));
        }
        agenda.insert(500, ms(660_100), ms(660_000));
        assert_eq!(agenda.take(ms(660_000), 1000).len(), 16);
        assert_eq!(agenda.take(ms(660_050), 1000).len(), 80);
        assert_eq!(agenda.take(ms(660_100), 1000).len(), 64 + 1);
        assert_eq!((agenda.next(), agenda.len()), (None, 0));
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
