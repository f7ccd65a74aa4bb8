//! Owns the merging of runs: one ascending stream out of several.

use super::{KEY_BYTES, Run, RunError, RunIter};

/// The records of all runs in ascending order, without those that `keep` refuses. `runs` come newest first; of
/// records with an equal key the newest wins and the others are not shown to `keep`. An error ends the stream: what
/// came before it must not be taken for the whole.
pub fn merge<'a>(
    runs: &[&'a Run],
    mut keep: impl FnMut(&[u8]) -> bool + 'a,
) -> impl Iterator<Item = Result<Vec<u8>, RunError>> + 'a {
    merge_by(runs, move |equal| {
        let newest = equal.first_mut().map(std::mem::take)?;
        keep(&newest).then_some(newest)
    })
}

/// Like [`merge`], but `choose` sees all records with an equal key, newest first, and says what to make of them: one
/// record with the same key, or nothing.
pub fn merge_by<'a>(
    runs: &[&'a Run],
    choose: impl FnMut(&mut [Vec<u8>]) -> Option<Vec<u8>> + 'a,
) -> impl Iterator<Item = Result<Vec<u8>, RunError>> + 'a {
    let lanes = runs.iter().map(|run| Lane { rest: run.range(&[0; KEY_BYTES]), head: None, started: false }).collect();
    Merge { lanes, choose, equal: Vec::new(), failed: false }
}

/// Runs are few, so the smallest head is found by looking at all.
struct Merge<'a, F> {
    lanes: Vec<Lane<'a>>,
    choose: F,
    equal: Vec<Vec<u8>>,
    failed: bool,
}

struct Lane<'a> {
    rest: RunIter<'a>,
    head: Option<Vec<u8>>,
    started: bool,
}

impl Lane<'_> {
    fn advance(&mut self) -> Result<(), RunError> {
        self.started = true;
        self.head = self.rest.next().transpose()?;
        Ok(())
    }
}

impl<F: FnMut(&mut [Vec<u8>]) -> Option<Vec<u8>>> Merge<'_, F> {
    fn step(&mut self) -> Result<Option<Vec<u8>>, RunError> {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.started) {
            lane.advance()?;
        }
        loop {
            let smallest = self.lanes.iter().filter_map(|lane| key(lane.head.as_deref())).min();
            let Some(smallest) = smallest else { return Ok(None) };
            self.equal.clear();
            for lane in &mut self.lanes {
                if key(lane.head.as_deref()) == Some(smallest) {
                    self.equal.extend(lane.head.take());
                    lane.advance()?;
                }
            }
            if let Some(chosen) = (self.choose)(&mut self.equal) {
                return Ok(Some(chosen));
            }
        }
    }
}

impl<F: FnMut(&mut [Vec<u8>]) -> Option<Vec<u8>>> Iterator for Merge<'_, F> {
    type Item = Result<Vec<u8>, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step();
        self.failed = next.is_err();
        next.transpose()
    }
}

fn key(record: Option<&[u8]>) -> Option<[u8; KEY_BYTES]> {
    record?.first_chunk().copied()
}
