//! Owns the answer to "when, about, was this sequence number written": what a waiting delivery needs in order to
//! know its age without a record of its own.
//!
//! Promises at most [`SAMPLES_MAX`] samples. When the table is full they are thinned out: what is known to within a
//! thousandth of its age stays, to within [`STEP`] at the coarsest; of what is older still every second one is dropped, so
//! that a very long log is known more coarsely. Deliberately a function of the log alone.

use std::time::Duration;

use crate::{clock::Timestamp, event::Seq};

/// The most samples that are kept: 512 KiB.
pub(super) const SAMPLES_MAX: usize = 32_768;

/// The least time between two samples.
const FINE: Duration = Duration::from_millis(1);

/// The most that thinning out leaves between two samples, unless the log is very long.
const STEP: Duration = Duration::from_secs(5);

/// The time between two samples is one part in so many of their age.
const GRAIN: u32 = 1_000;

/// Samples of sequence numbers and their times, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline(Vec<(Seq, Timestamp)>);

impl Timeline {
    /// Takes note of an entry; most are too close to the last sample to be kept.
    pub fn note(&mut self, seq: Seq, time: Timestamp) {
        if self.0.last().is_some_and(|(_, last)| time.since(*last) < FINE) {
            return;
        }
        if self.0.len() >= SAMPLES_MAX {
            self.thin_out(time);
        }
        self.0.push((seq, time));
    }

    /// Makes room for at least a quarter of the samples.
    fn thin_out(&mut self, now: Timestamp) {
        let mut kept: Option<Timestamp> = None;
        self.0.retain(|(_, time)| {
            let step = (now.since(*time) / GRAIN).clamp(FINE, STEP);
            let keep = kept.is_none_or(|kept| time.since(kept) >= step);
            if keep {
                kept = Some(*time);
            }
            keep
        });
        if self.0.len() > SAMPLES_MAX / 4 * 3 {
            let mut index = 0_usize;
            self.0.retain(|(_, time)| {
                index += 1;
                index % 2 == 1 || now.since(*time) < STEP * GRAIN
            });
        }
    }

    /// The time of the last sample at or before a sequence number, or of the first one.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Timestamp {
        let after = self.0.partition_point(|(known, _)| *known <= seq);
        self.0.get(after.saturating_sub(1)).map_or(Timestamp::ZERO, |(_, time)| *time)
    }

    /// The first sequence number whose time is this or later; beyond all numbers if there is none.
    #[must_use]
    pub fn first_since(&self, time: Timestamp) -> Seq {
        let before = self.0.partition_point(|(_, known)| *known < time);
        match before {
            0 => 0,
            _ => self.0.get(before).map_or(Seq::MAX, |(seq, _)| *seq),
        }
    }

    /// Forgets what lies before a sequence number, except the last sample, which speaks for what follows.
    pub fn forget_before(&mut self, seq: Seq) {
        let after = self.0.partition_point(|(known, _)| *known <= seq);
        self.0.drain(..after.saturating_sub(1));
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> &[(Seq, Timestamp)] {
        &self.0
    }

    /// From stored samples; None unless they ascend.
    #[must_use]
    pub fn from_samples(samples: Vec<(Seq, Timestamp)>) -> Option<Self> {
        samples.is_sorted().then_some(Self(samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn the_time_of_a_sequence_number_is_known() {
        let mut timeline = Timeline::default();
        for second in 0..100 {
            timeline.note(second * 10, s(second));
        }
        assert_eq!(timeline.at(999), s(99));
        assert_eq!(timeline.at(121), s(12));
        timeline.forget_before(500);
        assert_eq!(timeline.at(505), s(50));
        assert_eq!(timeline.at(3), s(50), "what was forgotten is as old as the oldest sample");
    }

    #[test]
    fn under_load_what_is_new_is_known_exactly_and_what_is_older_to_within_a_thousandth_of_its_age() {
        let mut timeline = Timeline::default();
        let now = 400_000;
        for ms in 0..=now {
            timeline.note(ms, Timestamp::from_millis(ms));
            assert!(timeline.samples().len() <= SAMPLES_MAX);
        }
        for age in [0, 1, 900, 5_000, 60_000, 300_000] {
            let off = Timestamp::from_millis(now - age).since(timeline.at(now - age));
            assert!(off.as_millis() <= u128::from(age) / 1_000 + 1, "{off:?} of {age} ms");
        }
    }

    #[test]
    fn a_very_long_log_is_known_more_coarsely_but_within_the_bound() {
        let mut timeline = Timeline::default();
        for step in 0..(SAMPLES_MAX as u64 * 4) {
            timeline.note(step, s(step * 5));
            assert!(timeline.samples().len() <= SAMPLES_MAX);
        }
        assert!(timeline.at(70_000) <= s(70_000 * 5));
        assert!(timeline.samples().is_sorted());
    }
}
