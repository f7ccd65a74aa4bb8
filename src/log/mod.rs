//! Owns the event log: the one durable truth of the relay.
//!
//! Promises that an append answers only when its entries would survive a power cut, that dedupe and append are one
//! decision, that a position is never used twice and that a failed read is never taken for "empty". Frames,
//! segments and files are not in the trait: another engine may stand behind it.

mod ack;
mod answer;
#[cfg(test)]
mod contract;
pub mod dedupe;
pub mod disk;
pub mod entry;
pub mod frame;
pub mod memory;
pub mod publish;
mod queue;
pub mod run;
pub mod segment;
pub mod sled;
mod threads;

use std::sync::Arc;

pub use ack::{AckLane, Acked, Done};
pub use answer::{find_answer, read_answer};
use bytes::Bytes;
pub use entry::{Entry, Kind};
pub use queue::QueueLimits;
pub use threads::yield_to_others;

use crate::{
    clock::Timestamp,
    event::{Event, EventId, Seq},
};

/// The largest payload of one entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// Bodies above this many bytes are appended as part entries of this size.
pub const PART_BYTES: usize = 256 * 1024;

/// The payloads of one batch may have so many bytes together, parts aside: a batch is one frame, and a frame is what a
/// crash leaves whole or not at all.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The most appends of one batch.
pub const BATCH_APPENDS_MAX: usize = 10_000;

/// An entry that is to be appended: its kind and its encoded payload (see [`entry`]).
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// What it is.
    pub kind: Kind,
    /// At most [`ENTRY_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

/// What to do about an equal dedupe key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupeKey {
    /// Keyed fingerprint of (source, key), see [`Log::fingerprint`].
    pub fingerprint: u128,
    /// The first acceptance counts until then (wall time).
    pub expires_at: Timestamp,
    /// Keyed fingerprint of the body, to tell a resend from a different request under the same key.
    pub body: u64,
    /// Which version of the older keys was asked; set by [`Log::seen`].
    pub runs_version: u64,
}

/// What kind of room an append needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A new event: refused when the budget or the disk is full.
    Event,
    /// A settlement, plan or command: accepted as long as the reserve lasts.
    Upkeep,
}

/// One append: all of its entries become durable together, or none.
pub struct Append {
    /// The parts of a large body, appended before the entry; empty for almost all.
    pub parts: Vec<NewEntry>,
    /// The entry. If there are parts, their positions become the entry's references.
    pub entry: NewEntry,
    /// Dedupe and append are one decision.
    pub dedupe: Option<DedupeKey>,
    /// New event or upkeep.
    pub class: Class,
    /// Wall time of the entry; the log makes it ascend.
    pub time: Timestamp,
    /// Who waits for the answer.
    pub done: Done,
}

/// The answer to an append, given when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry is durable under this id.
    Appended(EventId),
    /// The key was there already; nothing was appended.
    Duplicate {
        /// The first event with this key.
        first: EventId,
        /// The first event had another body.
        body_differs: bool,
    },
}

/// Why an append was not done. Nothing of it will ever be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The byte budget or the disk is full.
    #[error("the log is full: raise store.max_size, free disk space, or settle what is undelivered")]
    Full,
    /// More waits for the committer than the queue may hold.
    #[error("the log's queue is full: the disk is slower than the senders")]
    Busy,
    /// A write or sync failed; the process must be restarted to find out what is on disk.
    #[error("the log is poisoned by an earlier write error: the process must restart")]
    Poisoned,
    /// An entry is larger than [`ENTRY_BYTES_MAX`].
    #[error("the entry is larger than the log takes")]
    TooLarge,
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
    /// Another owner has taken the partition over.
    #[error("the partition has a new owner")]
    Fenced,
}

/// How a damaged place is called, in errors and notes.
const DAMAGED: &str = "stored data is damaged";

/// Whether a note to an operator tells of damage in the log.
#[must_use]
pub fn tells_of_damage(note: &str) -> bool {
    note.contains(DAMAGED)
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The position was never written, or its segment is gone.
    #[error("nothing is stored at sequence {0}")]
    Missing(Seq),
    /// Bytes on disk are not what was written.
    #[error("{} in {file} between sequences {first} and {last}", DAMAGED)]
    Damaged {
        /// The file or directory.
        file: String,
        /// First sequence number that may be lost.
        first: Seq,
        /// Last sequence number that may be lost.
        last: Seq,
    },
    /// The operating system failed to read.
    #[error("reading {file}: {source}")]
    Io {
        /// The file or directory.
        file: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An entry of an unknown kind or format: written by a newer version.
    #[error("the entry at sequence {0} has a format this version does not know")]
    Format(Seq),
}

/// What the log tells its follower after each commit, in log order, on the committer's thread.
pub trait Follower: Send + Sync {
    /// Takes the entries of one commit. Must not block; what it has no room for it reads from the log later.
    fn committed(&self, entries: Vec<Entry>);
}

/// The figures an operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes on disk: segments, active and sealed.
    pub bytes: u64,
    /// The budget in bytes.
    pub limit: u64,
    /// Segments, the active one included.
    pub segments: u64,
    /// When the oldest entry was appended.
    pub oldest_at: Option<Timestamp>,
    /// The first sequence number that is still stored.
    pub first_seq: Seq,
    /// The next sequence number that will be used.
    pub next_seq: Seq,
    /// Bytes that commits have written since the start, compressed.
    pub written: u64,
}

/// The seam between the relay and its storage engine.
pub trait Log: Send + Sync + 'static {
    /// Queues an append. Never blocks; the answer comes through `append.done` when it is durable, a duplicate, or
    /// refused. When the queue is full the answer is [`AppendError::Busy`] at once.
    fn append(&self, append: Append);

    /// Queues several appends that become durable together or not at all. A known key, older or of the same batch,
    /// leaves out only its own append; anything else that is wrong with one of them refuses all, with the same error:
    /// [`AppendError::TooLarge`] beyond [`BATCH_BYTES_MAX`] or [`BATCH_APPENDS_MAX`]. Each append is answered through
    /// its own `done`. Followers are told of all of them in one call.
    fn append_all(&self, batch: Vec<Append>);

    /// Asks the older dedupe keys, before the append, on the caller's thread. May read the disk briefly. The
    /// committer decides alone about recent keys; the two together leave no gap.
    ///
    /// # Errors
    /// A [`ReadError`] if the keys can't be read; the caller answers 503 then.
    fn seen(&self, key: &mut DedupeKey, now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError>;

    /// The keyed fingerprint (128 bits) of a source and its dedupe key, stable for this store.
    fn fingerprint(&self, source: &str, key: &[u8]) -> u128;

    /// Forgets a dedupe key, so that its next arrival is accepted.
    fn forget(&self, fingerprint: u128);

    /// Reads one entry.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn read(&self, seq: Seq) -> Result<Entry, ReadError>;

    /// Reads entries from `from` on, in log order, up to about `bytes_max` bytes of payload but at least one, and
    /// never past what is durable. Empty means that the end is reached. Damage is returned once as an error that
    /// names the range; go on at `last + 1`.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn scan(&self, from: Seq, bytes_max: usize) -> Result<Vec<Entry>, ReadError>;

    /// Reads entries before `before`, newest last: one stored block or more, empty at the beginning of the log.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError>;

    /// The sequence number after the last durable entry.
    fn end(&self) -> Seq;

    /// The identity of this log: state of another log is thrown away.
    fn log_id(&self) -> u128;

    /// Deletes segments whose entries all lie before `before`.
    fn expire(&self, before: Seq);

    /// Sets who is told about commits. Called once, before the first append.
    fn follow(&self, follower: Arc<dyn Follower>);

    /// Figures for operators.
    fn stats(&self) -> LogStats;

    /// Whether appends of new events can succeed at this moment.
    ///
    /// # Errors
    /// The reason they can't.
    fn writable(&self) -> Result<(), AppendError>;
}

/// The mark that this log puts on what is sent for an event of a source: nobody else can make it, and it tells the same
/// event when it comes back to the same source.
#[must_use]
pub fn origin(log: &dyn Log, source: &str, id: EventId) -> u128 {
    // No source is called like this.
    log.fingerprint("\0origin", &[&id.to_ascii(), source.as_bytes()].concat())
}

/// Reads an event and decodes it.
///
/// # Errors
/// See [`ReadError`]; an entry that is no event is [`ReadError::Missing`].
pub fn read_event(log: &dyn Log, seq: Seq) -> Result<Event, ReadError> {
    let entry = log.read(seq)?;
    entry::decode_event(&entry).ok_or(match entry.kind {
        Kind::Accepted | Kind::Carried => ReadError::Format(seq),
        _ => ReadError::Missing(seq),
    })
}

/// Reads the whole body of an event.
///
/// # Errors
/// See [`ReadError`].
pub fn read_body(log: &dyn Log, event: &Event) -> Result<Bytes, ReadError> {
    read_whole(log, &event.body)
}

/// Reads one part of a stored body. One that is not there is damage: parts go with their event.
///
/// # Errors
/// See [`ReadError`].
pub fn read_part(log: &dyn Log, seq: Seq) -> Result<Entry, ReadError> {
    log.read(seq).map_err(|error| match error {
        ReadError::Missing(seq) => ReadError::Damaged { file: "the log".to_owned(), first: seq, last: seq },
        other => other,
    })
}

/// Reads the whole of a stored body.
///
/// # Errors
/// See [`ReadError`].
pub fn read_whole(log: &dyn Log, body: &crate::event::Body) -> Result<Bytes, ReadError> {
    match body {
        crate::event::Body::Inline(bytes) => Ok(bytes.clone()),
        crate::event::Body::Parts { seqs, length } => {
            let mut whole = Vec::with_capacity(usize::try_from(*length).unwrap_or(0));
            for seq in seqs {
                whole.extend_from_slice(&read_part(log, *seq)?.payload);
            }
            Ok(whole.into())
        }
    }
}
