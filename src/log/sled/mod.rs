//! Owns the engine behind the log's seam: one partition on local disk, an active segment in sled, sealed segments
//! in flat files.
//!
//! ```text
//! DIR/LOCK              who uses the directory
//! DIR/IDENTITY          which log this is, and the key of its fingerprints
//! DIR/reserve           64 MiB that are given back when the disk is full
//! DIR/log/00000007.seg  sealed segments
//! DIR/log/00000008/     the active segment, and the next one, made ahead of need
//! DIR/dedupe/           older dedupe keys
//! ```
//!
//! One committer thread appends; one sealer thread makes segments ahead of need, seals finished ones and deletes
//! expired ones. Readers take no lock that either of them holds while it touches the disk.

mod active;
mod committer;
mod leftover;
pub mod offline;
mod open;
mod read;
mod sealer;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread::JoinHandle,
};

pub use active::{Active, Barrier, SegmentError};
use arc_swap::ArcSwap;

use super::{
    Append, AppendError, DedupeKey, Done, Entry, Follower, Log, LogStats, ReadError,
    dedupe::{self, Frozen, Runs},
    disk::{Identity, Lock, LockError},
    queue::{Queue, QueueLimits},
    segment::Sealed,
};
use crate::{
    clock::{Clock, Timestamp},
    event::{EventId, Seq},
    telemetry::Metrics,
};

/// Sequence numbers jump to the next multiple of this at every start.
pub const SEQ_STRIDE: u64 = 1 << 20;

/// What the engine needs to know.
#[derive(Clone)]
pub struct Settings {
    /// The data directory.
    pub directory: PathBuf,
    /// Stored bytes at which the active segment is finished.
    pub segment_bytes: u64,
    /// The budget of the whole store in bytes.
    pub max_size: u64,
    /// Free bytes on the file system below which new events are refused.
    pub reserve: u64,
    /// What may wait for the committer.
    pub queue: QueueLimits,
    /// The barrier; [`Settings::sync_data`] outside tests.
    pub barrier: Barrier,
}

impl Settings {
    /// fdatasync, as it should be.
    #[must_use]
    pub fn sync_data() -> Barrier {
        Arc::new(std::fs::File::sync_data)
    }
}

/// Why the log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The system.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Stored data can't be read while recovering.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What recovery found and did, for diagnostics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Frames that a crash left incomplete; nobody had been told about them.
    pub incomplete_frames: u64,
    /// Seals that were finished or undone.
    pub interrupted_seals: u64,
    /// Segments whose index had to be rebuilt from their blocks.
    pub salvaged: Vec<String>,
    /// Runs of dedupe keys that were damaged and are rebuilt from the log.
    pub damaged_runs: u64,
}

/// The engine. Closed by [`SledLog::close`]; dropping it without that is like a crash, and as harmless.
pub struct SledLog {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What recovery did.
    pub recovered: Recovered,
}

/// What the threads and the readers share.
struct Shared {
    settings: Settings,
    partition: u16,
    identity: Identity,
    queue: Queue,
    segments: ArcSwap<Segments>,
    /// The sequence number after the last durable entry.
    end: AtomicU64,
    full: AtomicBool,
    roll_asked: AtomicBool,
    /// The sealer was asked for the next segment and has not looked at it yet.
    prepare_asked: AtomicBool,
    poisoned: AtomicBool,
    /// The process stops: background work no longer gives way.
    closing: AtomicBool,
    /// Beats of the committer, for the watchdog.
    beats: AtomicU64,
    bytes: AtomicU64,
    /// Bytes of all commits since the start.
    written: AtomicU64,
    follower: OnceLock<Arc<dyn Follower>>,
    runs: Runs,
    forgotten: Mutex<Vec<u128>>,
    /// Frozen dedupe keys that stand in a run now, with the version of the runs since then.
    published: Mutex<Vec<(Frozen, u64)>>,
    cache: read::Cache,
    work: SyncSender<sealer::Work>,
    /// What the sealer's queue had no room for.
    late: Mutex<Vec<sealer::Work>>,
    prepared: Mutex<Option<Active>>,
    /// Held while a segment is made, so that no two are made under one number.
    making: Mutex<()>,
    metrics: Arc<Metrics>,
    clock: Clock,
    _lock: Lock,
}

/// The segments of one moment. Immutable; swapped as a whole.
#[derive(Clone, Default)]
struct Segments {
    /// Ascending.
    sealed: Vec<Arc<Sealed>>,
    /// Ascending; all but the last wait to be sealed.
    open: Vec<Arc<OpenSegment>>,
    /// Ascending; can't be read for a while.
    repairing: Vec<Repairing>,
}

/// A segment that met a full disk and is being opened again: what it holds is there, but not now.
#[derive(Clone, Copy, Debug)]
struct Repairing {
    number: u64,
    first_seq: Seq,
    first_time: Timestamp,
}

/// An active segment and the first sequence number that belongs to it.
struct OpenSegment {
    active: Active,
    first_seq: Seq,
    /// Time of its first entry.
    first_time: AtomicU64,
}

impl Shared {
    /// Changes the list of segments.
    fn change_segments(&self, change: impl Fn(&mut Segments)) {
        self.segments.rcu(|segments| {
            let mut next = Segments::clone(segments);
            change(&mut next);
            next
        });
    }

    fn log_directory(&self) -> PathBuf {
        self.settings.directory.join("log")
    }

    /// Asks the sealer for the next segment, once.
    fn ask_to_prepare(&self) {
        if !self.prepare_asked.swap(true, Ordering::SeqCst) {
            self.hand_over(sealer::Work::Prepare);
        }
    }

    /// Hands work to the sealer; never waits for it. What its queue has no room for (the disk may be full for long)
    /// is done after what stands there; once the sealer has ended, at the next start.
    fn hand_over(&self, work: sealer::Work) {
        if let Err(TrySendError::Full(work)) = self.work.try_send(work) {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(work);
        }
    }

    fn poison(&self, why: &dyn std::fmt::Display) {
        self.poisoned.store(true, Ordering::SeqCst);
        tracing::error!(error = %why, "the log is poisoned: nothing is acknowledged any more; restart after the disk is in order");
    }
}

impl SledLog {
    /// Opens or creates the log of a data directory and recovers it.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was acknowledged or lost by a failed open.
    pub fn open(settings: Settings, metrics: Arc<Metrics>, clock: Clock) -> Result<Self, OpenError> {
        open::open(settings, metrics, clock)
    }

    /// Commits what waits, refuses what comes, and ends the threads.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.queue.close();
        let _ended = self.shared.work.send(sealer::Work::End);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _panicked = thread.join();
        }
    }

    /// How often the committer went round; a number that stands still while work waits means a stuck disk.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    /// Whether a write or sync failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::SeqCst)
    }

    /// Tells the log that its budget or the disk is exhausted, or no longer.
    pub fn set_full(&self, full: bool) {
        self.shared.full.store(full, Ordering::SeqCst);
    }

    /// Finishes the active segment now, if it holds anything; for tests and backups.
    pub fn roll(&self) {
        let _ended = self.shared.work.send(sealer::Work::Roll);
        self.shared.queue.knock();
    }

    /// The stored segments, oldest first: what retention decides about.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.shared.segments.load();
        let sealed = segments.sealed.iter().map(|sealed| SegmentInfo {
            number: sealed.number,
            first_seq: sealed.first_seq(),
            end: sealed.end(),
            first_time: sealed.first_time(),
            last_time: sealed.last_time,
            bytes: sealed.bytes,
            sealed: true,
        });
        let end = self.shared.end.load(Ordering::Acquire);
        let open = segments.open.iter().map(|open| SegmentInfo {
            number: open.active.number,
            first_seq: open.first_seq,
            end,
            first_time: Timestamp::from_millis(open.first_time.load(Ordering::Relaxed)),
            last_time: Timestamp::from_millis(u64::MAX),
            bytes: super::disk::used_bytes(open.active.path()),
            sealed: false,
        });
        sealed.chain(open).collect()
    }

    /// How many events stand in a sealed segment, settled or not. Reads from the disk; 0 if that is not known.
    #[must_use]
    pub fn events_in(&self, number: u64) -> u64 {
        let segments = self.shared.segments.load();
        let sealed = segments.sealed.iter().find(|sealed| sealed.number == number);
        sealed.and_then(|sealed| sealed.event_ids(self.shared.partition)).map_or(0, |ids| ids.len() as u64)
    }

    /// Whether the disk has room for upkeep, such as sealing: more than the reserve for it.
    ///
    /// # Errors
    /// How much is missing, in words.
    pub fn room(&self) -> Result<(), String> {
        let (directory, reserve) = (self.directory(), self.shared.settings.reserve);
        let free = super::disk::free_bytes(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        if free >= reserve {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes >> 20;
        Err(format!(
            "the disk of {} has {} MiB left, and store.reserve asks for {} MiB: make room, then try again",
            directory.display(),
            mebibytes(free),
            mebibytes(reserve)
        ))
    }

    /// The data directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.settings.directory
    }
}

/// One stored segment, for retention and for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its first sequence number.
    pub first_seq: Seq,
    /// The sequence number after its last.
    pub end: Seq,
    /// Time of its first entry.
    pub first_time: Timestamp,
    /// Time of its last entry.
    pub last_time: Timestamp,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether it is a flat file already.
    pub sealed: bool,
}

impl Log for SledLog {
    fn append(&self, append: Append) {
        if self.is_poisoned() {
            append.done.answer(Err(AppendError::Poisoned));
            return;
        }
        self.shared.queue.push(append);
    }

    fn append_all(&self, batch: Vec<Append>) {
        if self.is_poisoned() {
            Done::answer_all(batch.into_iter().map(|append| (append.done, Err(AppendError::Poisoned))));
            return;
        }
        self.shared.queue.push_all(batch);
    }

    fn seen(&self, key: &mut DedupeKey, now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        key.runs_version = self.shared.runs.version();
        self.shared.runs.seen(key, now).map_err(ReadError::from)
    }

    fn fingerprint(&self, source: &str, key: &[u8]) -> u128 {
        dedupe::fingerprint(&self.shared.identity.fingerprint_key, source, key)
    }

    fn forget(&self, fingerprint: u128) {
        self.shared.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(fingerprint);
        self.shared.queue.knock();
    }

    fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        self.shared.read(seq)
    }

    fn scan(&self, from: Seq, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        self.shared.scan(from, bytes_max)
    }

    fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError> {
        self.shared.scan_back(before)
    }

    fn end(&self) -> Seq {
        self.shared.end.load(Ordering::Acquire)
    }

    fn log_id(&self) -> u128 {
        self.shared.identity.log_id
    }

    fn expire(&self, before: Seq) {
        let _ended = self.shared.work.send(sealer::Work::Expire(before));
    }

    fn follow(&self, follower: Arc<dyn Follower>) {
        let _second = self.shared.follower.set(follower);
    }

    fn stats(&self) -> LogStats {
        let segments = self.shared.segments.load();
        let open = segments.open.iter().map(|open| open.first_time.load(Ordering::Relaxed));
        let repairing = segments.repairing.iter().map(|segment| segment.first_time);
        let times = open.map(Timestamp::from_millis).chain(segments.sealed.iter().map(|sealed| sealed.first_time()));
        let times = times.chain(repairing);
        LogStats {
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            limit: self.shared.settings.max_size,
            segments: (segments.sealed.len() + segments.open.len() + segments.repairing.len()) as u64,
            oldest_at: times.filter(|time| *time > Timestamp::ZERO).min(),
            first_seq: segments.first_seq().unwrap_or(0),
            next_seq: self.end(),
            written: self.shared.written.load(Ordering::Relaxed),
        }
    }

    fn writable(&self) -> Result<(), AppendError> {
        match () {
            () if self.is_poisoned() => Err(AppendError::Poisoned),
            () if self.shared.full.load(Ordering::SeqCst) => Err(AppendError::Full),
            () => Ok(()),
        }
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.close();
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs something whose panic is caught and reported as an error.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    let before = QUIET.replace(true);
    let result = run();
    QUIET.set(before);
    result
}

/// Whether this thread is about to catch a panic of sled: the process's panic hook must let it pass then.
#[must_use]
pub fn panic_is_expected() -> bool {
    QUIET.get()
}

/// A convenience for callers that wait on their own thread.
///
/// # Errors
/// As [`Log::append`].
pub fn append_and_wait(log: &dyn Log, mut append: Append) -> super::Acked {
    let (done, answer) = Done::channel();
    append.done = done;
    log.append(append);
    answer.blocking_recv().unwrap_or(Err(AppendError::Closed))
}
