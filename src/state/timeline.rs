//! Owns the answer to "when, about, was this sequence number written": what a waiting delivery needs in order to
//! know its age without a record of its own.
//!
//! Promises at most [`SAMPLES_MAX`] samples. They are [`STEP`] apart at first; when the table is full every second
//! one is dropped, so that a very long log is known more coarsely. Deliberately a function of the log alone.

use std::time::Duration;

use crate::{clock::Timestamp, event::Seq};

/// The most samples that are kept: 512 KiB.
pub(super) const SAMPLES_MAX: usize = 32_768;

/// The least time between two samples.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// Samples of sequence numbers and their times, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline(Vec<(Seq, Timestamp)>);

impl Timeline {
    /// Takes note of an entry; most are too close to the last sample to be kept.
    pub fn note(&mut self, seq: Seq, time: Timestamp) {
        if self.0.last().is_some_and(|(_, last)| time.since(*last) < STEP) {
            return;
        }
        if self.0.len() >= SAMPLES_MAX {
            let mut index = 0_usize;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.0.push((seq, time));
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
    fn a_sequence_number_is_known_to_within_a_step() {
        let mut timeline = Timeline::default();
        for second in 0..100 {
            timeline.note(second * 10, s(second));
        }
        assert_eq!(timeline.at(999), s(95));
        assert_eq!(timeline.at(121), s(10));
        timeline.forget_before(500);
        assert_eq!(timeline.at(505), s(50));
        assert_eq!(timeline.at(3), s(50), "what was forgotten is as old as the oldest sample");
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
