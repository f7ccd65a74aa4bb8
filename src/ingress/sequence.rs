//! Owns the gaps in the numbers of senders who count their events: which numbers were left out and have not come since.
//!
//! Promises at most [`GAPS_MAX`] gaps a source; when there are more the oldest is forgotten (it stays counted). Numbers
//! that come late close their gap. A jump of more than [`RESTART_BEYOND`], in either direction, is taken for a new
//! count (Telegram begins anew at a random number after a quiet week) and forgets the gaps of the old one. Counting
//! begins with the first number after a start: gaps from before are not known.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::telemetry::SourceMetrics;

/// The most gaps that are remembered for a source; the oldest goes first.
pub const GAPS_MAX: usize = 256;

/// A larger jump is no gap.
pub const RESTART_BEYOND: u64 = 100_000;

/// The numbers of every source that counts, by its name.
#[derive(Default)]
pub struct Sequences(Mutex<BTreeMap<Arc<str>, Arc<Sequence>>>);

/// The numbers of one source.
#[derive(Default)]
pub struct Sequence(Mutex<Numbers>);

#[derive(Default)]
struct Numbers {
    highest: Option<u64>,
    /// First and last number that is missing.
    gaps: BTreeMap<u64, u64>,
}

/// What is missing of a source's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// The source.
    pub source: Arc<str>,
    /// The highest number so far.
    pub highest: Option<u64>,
    /// First and last number of each gap, ascending.
    pub ranges: Vec<(u64, u64)>,
}

impl Sequences {
    /// The numbers of a configured source; they outlive a reload.
    pub(super) fn of(&self, source: &Arc<str>) -> Arc<Sequence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(source.clone()).or_default().clone()
    }

    /// What is missing now, of every source that counts, by name.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gaps> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = all.iter().map(|(source, sequence)| {
            let numbers = sequence.0.lock().unwrap_or_else(PoisonError::into_inner);
            let ranges = numbers.gaps.iter().map(|(first, last)| (*first, *last)).collect();
            Gaps { source: source.clone(), highest: numbers.highest, ranges }
        });
        gaps.collect()
    }
}

impl Sequence {
    /// Notes the number of a stored event.
    pub(super) fn note(&self, number: u64, metrics: &SourceMetrics) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = numbers.note(number);
        metrics.gaps.add(u64::from(opened));
        let missing: u64 = numbers.gaps.iter().map(|(first, last)| last - first + 1).sum();
        metrics.missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
    }
}

impl Numbers {
    /// Takes a number in; whether it opened a gap.
    fn note(&mut self, number: u64) -> bool {
        let Some(highest) = self.highest.filter(|highest| highest.abs_diff(number) <= RESTART_BEYOND) else {
            self.gaps.clear();
            self.highest = Some(number);
            return false;
        };
        if number <= highest {
            self.close(number);
            return false;
        }
        self.highest = Some(number);
        if number == highest + 1 {
            return false;
        }
        if self.gaps.len() >= GAPS_MAX {
            self.gaps.pop_first();
        }
        self.gaps.insert(highest + 1, number - 1);
        true
    }

    /// A number that was missing has come.
    fn close(&mut self, number: u64) {
        let Some((first, last)) = self.gaps.range(..=number).next_back().map(|(first, last)| (*first, *last)) else {
            return;
        };
        if number > last {
            return;
        }
        self.gaps.remove(&first);
        if first < number {
            self.gaps.insert(first, number - 1);
        }
        if number < last {
            self.gaps.insert(number + 1, last);
        }
        // A gap that was split may make one too many.
        if self.gaps.len() > GAPS_MAX {
            self.gaps.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(numbers: &[u64]) -> (u64, i64, Vec<(u64, u64)>) {
        let (all, metrics) = (Sequences::default(), SourceMetrics::default());
        let sequence = all.of(&"s".into());
        for number in numbers {
            sequence.note(*number, &metrics);
        }
        (metrics.gaps.get(), metrics.missing.get(), all.gaps().remove(0).ranges)
    }

    #[test]
    fn numbers_that_are_left_out_are_gaps_until_they_come() {
        assert_eq!(after(&[7, 8, 9]), (0, 0, vec![]));
        assert_eq!(after(&[1, 2, 5, 6, 9]), (2, 4, vec![(3, 4), (7, 8)]));
        assert_eq!(after(&[1, 10, 5]), (1, 7, vec![(2, 4), (6, 9)]));
        assert_eq!(after(&[1, 4, 2, 3]), (1, 0, vec![]));
        assert_eq!(after(&[1, 3, 2, 2, 1, 3]), (1, 0, vec![]), "a resend changes nothing");
    }

    #[test]
    fn a_large_jump_is_a_new_count() {
        assert_eq!(after(&[1, 3, 3 + RESTART_BEYOND + 1]), (1, 0, vec![]));
        assert_eq!(after(&[10 * RESTART_BEYOND, 5, 7]), (1, 1, vec![(6, 6)]));
        assert_eq!(after(&[u64::MAX, u64::MAX - 1, 0]), (0, 0, vec![]));
    }

    #[test]
    fn the_oldest_of_too_many_gaps_is_forgotten() {
        let numbers: Vec<u64> = (0..2 * GAPS_MAX as u64).map(|number| number * 2).collect();
        let (opened, missing, ranges) = after(&numbers);
        assert_eq!((opened, missing, ranges.len()), (2 * GAPS_MAX as u64 - 1, GAPS_MAX as i64, GAPS_MAX));
    }
}
