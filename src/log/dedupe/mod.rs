//! Owns the memory of dedupe keys: which event was the first with a key, and until when that counts.
//!
//! Promises that the window is exact to the millisecond (a key counts while `now` is *before* `expires_at`, the
//! millisecond itself is outside), that a look-up never misses an entry that moves from the table to a run, and that
//! a forgotten key stays forgotten whatever older runs say. Equal fingerprints mean equal keys; nothing is read to
//! confirm. Absent on purpose: any write to the log, and any thread: the callers bring both.
//!
//! Recent keys are in the committer's [`Table`], older ones in [`Runs`] on disk. One append goes like this:
//!
//! ```text
//! request thread   v = runs.version();  runs.seen(key, now)?      → duplicate, or go on with v in the append
//! committer        if table.outdated(v) { runs.seen(key, now)? }  → the runs have grown since: ask again
//!                  table.check(key, now)                          → duplicate (waits for the batch if it is in it)
//!                  table.insert(key, id)
//!                  … the barrier …   table.commit() or table.rollback()
//! committer        table.full() → table.take_frozen()             → to the background thread
//! background       version = runs.publish(&frozen, now)?          → back to the committer; then runs.tidy(now)?
//! committer        table.published(&frozen, version)              → the entries leave the table
//! ```
//!
//! **Why nothing falls between.** An entry leaves the table only in `published`, when its run can already be found.
//! A look-up that began before that run was there carries a version below `version`; `outdated` says so from the
//! moment the entries are gone, and the committer asks the runs itself. A version is read *before* the look-up and
//! raised *after* the run can be found, so that a look-up with the new version has seen the run.
//!
//! **Forgetting** is the committer's too, between batches: `table.forget(f)` and `runs.forget(f)`. The runs hide the
//! key at once, in memory; the next frozen table carries the fact to disk. Until then a crash loses it, so a start
//! replays what was forgotten from the log together with what was accepted, in the log's order.
//!
//! **Start.** `Runs::open` names the sequence number from which the log is read into `Table::new(covered)`: each
//! accepted event with a key is inserted and committed, whatever the table says, each forgotten key forgotten; a full
//! table is frozen and published as always. Only then requests are served.

mod runs;
mod table;
#[cfg(test)]
mod tests;

use std::hash::Hasher;

pub use runs::{RUNS_MAX, Runs};
use siphasher::sip128::{Hasher128, SipHasher13};
pub use table::{Frozen, TABLE_KEYS_FULL, TABLE_KEYS_MAX, Table};

use crate::{
    clock::Timestamp,
    event::{EventId, Pos},
};

/// The fingerprint of a source and its dedupe key: SipHash-1-3 of 128 bits under the store's key (Aumasson,
/// Bernstein 2012). The source's length goes first, so that no two pairs are the same bytes.
#[must_use]
pub fn fingerprint(key: &[u8; 16], source: &str, key_bytes: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(&(source.len() as u64).to_le_bytes());
    hasher.write(source.as_bytes());
    hasher.write(key_bytes);
    hasher.finish128().as_u128()
}

/// What is known about a key. The id is packed: 48 bits of milliseconds and 16 of partition, then the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    time_and_partition: u64,
    seq: u64,
    expires_at: u64,
    body: u64,
}

impl Slot {
    fn new(first: EventId, expires_at: Timestamp, body: u64) -> Self {
        Self {
            time_and_partition: first.time.as_millis() << 16 | u64::from(first.pos.partition),
            seq: first.pos.seq,
            expires_at: expires_at.as_millis(),
            body,
        }
    }

    fn first(self) -> EventId {
        EventId {
            time: Timestamp::from_millis(self.time_and_partition >> 16),
            pos: Pos { partition: self.time_and_partition as u16, seq: self.seq },
        }
    }

    /// The first event and whether its body differs, while the window lasts.
    fn answer(self, body: u64, now: Timestamp) -> Option<(EventId, bool)> {
        (now.as_millis() < self.expires_at).then(|| (self.first(), self.body != body))
    }
}
