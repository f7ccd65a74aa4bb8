//! Owns the gaps in the numbers of senders who count their events: which numbers were left out and have not come since.
//!
//! Promises at most [`GAPS_MAX`] gaps a source; when there are more the oldest is forgotten (it stays counted). Numbers
//! that come late close their gap. A jump of more than [`RESTART_BEYOND`], in either direction, is taken for a new
//! count (Telegram begins anew at a random number after a quiet week) and forgets the gaps of the old one.
//!
//! What is known is written when the process ends in order, and read at the next start, which removes the file: after a
//! crash it would be behind the log and tell of gaps that are none, so that counting begins anew then.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::telemetry::SourceMetrics;

/// The most gaps that are remembered for a source; the oldest goes first.
pub const GAPS_MAX: usize = 256;

/// A larger jump is no gap.
pub const RESTART_BEYOND: u64 = 100_000;

/// The most that is read of the file, in bytes: more than a thousand sources with all their gaps.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The numbers of every source that counts, by its name.
pub struct Sequences {
    file: PathBuf,
    all: Mutex<BTreeMap<Arc<str>, Arc<Sequence>>>,
}

/// The numbers of one source.
#[derive(Default)]
pub struct Sequence(Mutex<Numbers>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// What the last process knew when it ended, if it ended in order. The file is removed.
    #[must_use]
    pub(super) fn open(file: PathBuf) -> Self {
        let known = read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "the numbers of senders who count their events are not known: counting begins anew");
            BTreeMap::new()
        });
        let all = known.into_iter().map(|(source, numbers)| (source.into(), Arc::new(Sequence(Mutex::new(numbers)))));
        Self { file, all: Mutex::new(all.collect()) }
    }

    /// Writes what is known, for the next process. To be called when nothing comes in any more. Blocks on the disk.
    ///
    /// # Errors
    /// When the file can't be written; then the next process begins anew.
    pub fn close(&self) -> io::Result<()> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Ok(());
        }
        let numbers = |sequence: &Arc<Sequence>| sequence.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known: BTreeMap<&str, Numbers> =
            all.iter().map(|(source, sequence)| (&**source, numbers(sequence))).collect();
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&known)?)?;
        fs::rename(fresh, &self.file)
    }

    /// The numbers of a configured source; they outlive a reload.
    pub(super) fn of(&self, source: &Arc<str>) -> Arc<Sequence> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).entry(source.clone()).or_default().clone()
    }

    /// What is missing now, of every source that counts, by name.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gaps> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
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
        metrics.missing.set(numbers.missing());
    }

    /// Sets the gauge to what was known at the start.
    pub(super) fn show(&self, metrics: &SourceMetrics) {
        metrics.missing.set(self.0.lock().unwrap_or_else(PoisonError::into_inner).missing());
    }
}

/// What a process left behind, nothing if it left nothing.
fn read(file: &PathBuf) -> io::Result<BTreeMap<String, Numbers>> {
    let mut text = String::new();
    match fs::File::open(file) {
        Ok(opened) => opened.take(FILE_BYTES_MAX).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    fs::remove_file(file)?;
    let mut known: BTreeMap<String, Numbers> = serde_json::from_str(&text)?;
    // Whoever has written it: gaps lie below the highest number, and there are not too many.
    known.retain(|_, numbers| {
        let below = |last: &u64| numbers.highest.is_some_and(|highest| *last < highest);
        numbers.gaps.len() <= GAPS_MAX && numbers.gaps.iter().all(|(first, last)| first <= last && below(last))
    });
    Ok(known)
}

impl Numbers {
    fn missing(&self) -> i64 {
        let missing = self.gaps.iter().map(|(first, last)| last - first + 1);
        i64::try_from(missing.fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
    }

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
        let (all, metrics) = (Sequences::open("/nonexistent/sequences.json".into()), SourceMetrics::default());
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

    #[test]
    fn what_was_known_at_an_orderly_end_is_known_at_the_next_start_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let (file, metrics) = (directory.path().join("sequences.json"), SourceMetrics::default());
        let first = Sequences::open(file.clone());
        for number in [1, 2, 5] {
            first.of(&"s".into()).note(number, &metrics);
        }
        first.close().unwrap();
        let second = Sequences::open(file.clone());
        second.of(&"s".into()).note(8, &metrics);
        assert_eq!(second.gaps()[0].ranges, [(3, 4), (6, 7)]);
        // It crashes.
        assert_eq!(Sequences::open(file.clone()).gaps(), []);
        for damage in
            ["", "{", "[]", r#"{"s":{"highest":1,"gaps":{"5":2}}}"#, r#"{"s":{"highest":null,"gaps":{"1":2}}}"#]
        {
            fs::write(&file, damage).unwrap();
            assert_eq!(Sequences::open(file.clone()).gaps(), [], "{damage}");
            assert!(!file.exists());
        }
    }
}
