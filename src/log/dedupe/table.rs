//! Owns the table of recent dedupe keys. It belongs to the committer's thread and takes no lock.
//!
//! Two generations: inserts go to the young one; freezing makes it the frozen one in constant time, and it stays
//! there, readable, until its run is published. At most one generation is frozen at a time.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use super::Slot;
use crate::{
    clock::Timestamp,
    event::{EventId, Seq},
    log::DedupeKey,
};

/// From this many young keys on it is time to freeze. 2^18 buckets of 48 bytes hold 229,376 keys; staying below
/// leaves room for the batches that follow, so that the table does not double its 12.6 MB just before it is frozen.
pub const TABLE_KEYS_FULL: usize = 224_000;

/// More young keys than this must not be inserted: the runs can't be written. The committer answers busy instead.
pub const TABLE_KEYS_MAX: usize = 900_000;

type Keys<V> = HashMap<u128, V, BuildHasherDefault<Folded>>;

/// The keys are keyed hashes already: hashing them means to take one half.
#[derive(Default)]
pub(super) struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64 ^ key as u64;
    }
}

/// A generation of committed keys on its way to a run. Cheap to clone; a failed publication is tried again with it.
#[derive(Clone, Debug)]
pub struct Frozen(pub(super) Arc<Contents>);

#[derive(Debug)]
pub(super) struct Contents {
    pub(super) from: Seq,
    pub(super) to: Seq,
    pub(super) keys: Keys<Slot>,
    /// How often each key was forgotten since the freeze before this one.
    pub(super) forgotten: Keys<u32>,
}

/// The committer's table of recent keys.
#[derive(Debug)]
pub struct Table {
    young: Keys<Slot>,
    frozen: Option<Frozen>,
    forgotten: Keys<u32>,
    /// What the current batch replaced, to undo it.
    batch: Vec<(u128, Option<Slot>)>,
    batch_end: Seq,
    /// Everything before this sequence number is in runs or in the frozen generation.
    covered: Seq,
    /// Everything before this sequence number is committed.
    end: Seq,
    version: u64,
}

impl Table {
    /// An empty table for a log whose keys before `covered` are in runs (see [`super::Runs::open`]).
    #[must_use]
    pub fn new(covered: Seq) -> Self {
        Self {
            young: Keys::default(),
            frozen: None,
            forgotten: Keys::default(),
            batch: Vec::new(),
            batch_end: covered,
            covered,
            end: covered,
            version: 0,
        }
    }

    /// The first event with this key and whether its body differs, if the table knows it and its window lasts. Keys
    /// of the current batch count: such a duplicate shares the batch's fate.
    #[must_use]
    pub fn check(&self, key: &DedupeKey, now: Timestamp) -> Option<(EventId, bool)> {
        let slot = self.young.get(&key.fingerprint).or_else(|| self.frozen_slot(key.fingerprint))?;
        slot.answer(key.body, now)
    }

    fn frozen_slot(&self, fingerprint: u128) -> Option<&Slot> {
        let slot = self.frozen.as_ref()?.0.keys.get(&fingerprint)?;
        (!self.forgotten.contains_key(&fingerprint)).then_some(slot)
    }

    /// Whether a look-up in the runs that began at this version of theirs may have missed what has left the table
    /// since. The committer asks the runs again then.
    #[must_use]
    pub fn outdated(&self, version: u64) -> bool {
        version < self.version
    }

    /// Notes a key in the current batch. Call it only after [`Self::check`] found nothing.
    pub fn insert(&mut self, key: &DedupeKey, first: EventId) {
        let slot = Slot::new(first, key.expires_at, key.body);
        let replaced = self.young.insert(key.fingerprint, slot);
        self.batch.push((key.fingerprint, replaced));
        self.batch_end = self.batch_end.max(first.pos.seq.saturating_add(1));
    }

    /// The batch is durable: its keys stay.
    pub fn commit(&mut self) {
        self.batch.clear();
        self.end = self.batch_end;
    }

    /// The batch is not durable: its keys were never there.
    pub fn rollback(&mut self) {
        for (fingerprint, replaced) in self.batch.drain(..).rev() {
            match replaced {
                Some(slot) => self.young.insert(fingerprint, slot),
                None => self.young.remove(&fingerprint),
            };
        }
        self.batch_end = self.end;
    }

    /// Everything before `end` is committed, keys or not, so that a start need not read it again for the table once
    /// the next run is published. Between batches only.
    pub fn passed(&mut self, end: Seq) {
        self.end = self.end.max(end);
        self.batch_end = self.batch_end.max(self.end);
    }

    /// Forgets a key: its next arrival is a first one. Between batches, together with [`super::Runs::forget`].
    pub fn forget(&mut self, fingerprint: u128) {
        self.young.remove(&fingerprint);
        let times = self.forgotten.entry(fingerprint).or_default();
        *times = times.saturating_add(1);
    }

    /// Whether it is time to freeze. False while a frozen generation waits for its publication.
    #[must_use]
    pub fn full(&self) -> bool {
        self.frozen.is_none() && self.young.len().max(self.forgotten.len()) >= TABLE_KEYS_FULL
    }

    /// Whether nothing may be inserted until the frozen generation is published.
    #[must_use]
    pub fn overfull(&self) -> bool {
        self.young.len().max(self.forgotten.len()) >= TABLE_KEYS_MAX
    }

    /// Whether a frozen generation waits for its publication.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether something is committed that was not frozen yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.end != self.covered
    }

    /// Freezes the committed keys for a run; they stay readable here until [`Self::published`]. None if nothing was
    /// committed since the last time, if a generation is frozen already, or in the middle of a batch. It need not
    /// be [`Self::full`]: freezing before a shutdown saves the next start reading the log.
    pub fn take_frozen(&mut self) -> Option<Frozen> {
        let nothing = self.end == self.covered && self.young.is_empty() && self.forgotten.is_empty();
        if self.frozen.is_some() || !self.batch.is_empty() || nothing {
            return None;
        }
        let frozen = Frozen(Arc::new(Contents {
            from: self.covered,
            to: self.end,
            keys: std::mem::take(&mut self.young),
            forgotten: std::mem::take(&mut self.forgotten),
        }));
        self.covered = self.end;
        self.frozen = Some(frozen.clone());
        Some(frozen)
    }

    /// The frozen generation is in the runs from `version` on: it leaves the table.
    pub fn published(&mut self, frozen: &Frozen, version: u64) {
        if self.frozen.as_ref().is_some_and(|mine| Arc::ptr_eq(&mine.0, &frozen.0)) {
            self.frozen = None;
            self.version = self.version.max(version);
        }
    }

    /// How many keys the table holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.0.keys.len())
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
