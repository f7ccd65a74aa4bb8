//! Owns the records in their layers: what changed since the last checkpoint in memory, over what is being written,
//! over immutable sorted runs on disk. The newest layer that knows a key decides.
//!
//! Promises that a look-up never confuses "no record" with a failed read. Writing runs is the business of `store`.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc};

use super::record::{Key, Record};
use crate::log::run::{Run, RunError};

/// Records in memory.
pub type Map = BTreeMap<Key, Record>;

/// The layers, newest first: overlay, frozen overlay, runs.
#[derive(Clone, Default)]
pub struct Layers {
    top: Map,
    frozen: Option<Arc<Map>>,
    runs: Vec<Arc<Run>>,
}

impl Layers {
    /// Over these runs, newest first.
    #[must_use]
    pub fn over(runs: Vec<Arc<Run>>) -> Self {
        Self { top: Map::new(), frozen: None, runs }
    }

    /// The record of a delivery, if it has one.
    ///
    /// # Errors
    /// A run can't be read.
    pub fn get(&self, key: Key) -> Result<Option<Record>, RunError> {
        let in_memory = self.top.get(&key).or_else(|| self.frozen.as_ref().and_then(|frozen| frozen.get(&key)));
        if let Some(record) = in_memory {
            return Ok(Some(*record));
        }
        for run in &self.runs {
            if let Some(bytes) = run.get(&key.to_bytes())? {
                return Ok(Record::decode(&bytes).map(|(_, record)| record));
            }
        }
        Ok(None)
    }

    /// Sets a record.
    pub fn put(&mut self, key: Key, record: Record) {
        self.top.insert(key, record);
    }

    /// Records changed since the last freeze.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.top.len()
    }

    /// Sets the overlay aside to be written. While a frozen one is still there, the two become one again.
    pub fn freeze(&mut self) -> Arc<Map> {
        let newer = std::mem::take(&mut self.top);
        let frozen = match self.frozen.take() {
            None => Arc::new(newer),
            Some(older) => {
                let mut both = Arc::try_unwrap(older).unwrap_or_else(|shared| (*shared).clone());
                both.extend(newer);
                Arc::new(both)
            }
        };
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// The frozen overlay is in these runs now.
    pub fn written(&mut self, runs: Vec<Arc<Run>>) {
        self.frozen = None;
        self.runs = runs;
    }

    /// The runs, newest first.
    #[must_use]
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// The frozen layers alone: what a background thread may read while the overlay goes on changing.
    #[must_use]
    pub fn lower(&self) -> Self {
        Self { top: Map::new(), frozen: self.frozen.clone(), runs: self.runs.clone() }
    }

    /// Records changed since the last freeze, in order.
    pub fn top(&self) -> impl Iterator<Item = (Key, Record)> + '_ {
        self.top.iter().map(|(key, record)| (*key, *record))
    }

    /// Whether a record changed since the last freeze.
    #[must_use]
    pub fn is_on_top(&self, key: Key) -> bool {
        self.top.contains_key(&key)
    }

    /// Every record from a key on, in the order of keys, each in its newest form. Reads the runs block by block.
    pub fn scan(&self, from: Key) -> Box<dyn Iterator<Item = Stored> + '_> {
        let mut layers: Box<dyn Iterator<Item = Stored> + '_> = Box::new(std::iter::empty());
        for run in self.runs.iter().rev() {
            let stored =
                run.range(&from.to_bytes()).filter_map(|bytes| bytes.map(|bytes| Record::decode(&bytes)).transpose());
            layers = newest(stored, layers);
        }
        for map in self.frozen.as_deref().into_iter().chain([&self.top]) {
            layers = newest(map.range(from..).map(|(key, record)| Ok((*key, *record))), layers);
        }
        layers
    }
}

/// A record on its way out of a layer.
pub(super) type Stored = Result<(Key, Record), RunError>;

/// Merges two layers that are sorted by key; the upper one decides.
struct Newest<'a, U: Iterator<Item = Stored>> {
    upper: Peekable<U>,
    lower: Peekable<Box<dyn Iterator<Item = Stored> + 'a>>,
}

fn newest<'a>(
    upper: impl Iterator<Item = Stored> + 'a,
    lower: Box<dyn Iterator<Item = Stored> + 'a>,
) -> Box<dyn Iterator<Item = Stored> + 'a> {
    Box::new(Newest { upper: upper.peekable(), lower: lower.peekable() })
}

impl<U: Iterator<Item = Stored>> Iterator for Newest<'_, U> {
    type Item = Stored;

    fn next(&mut self) -> Option<Stored> {
        let (upper, lower) = (self.upper.peek(), self.lower.peek());
        match (upper, lower) {
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) if upper > lower => self.lower.next(),
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) if upper == lower => {
                self.lower.next();
                self.upper.next()
            }
            (_, Some(Err(_))) | (None, _) => self.lower.next(),
            (Some(_), _) => self.upper.next(),
        }
    }
}
