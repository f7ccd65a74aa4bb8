//! Owns reading the log of a stopped instance, checking it, and repairing it.
//!
//! Readers share the directory's lock. Opening a sled database writes to it, so active segments are read from a copy
//! in a temporary directory: the stored log is never touched by looking at it.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::sync_channel,
    },
};

use arc_swap::ArcSwap;

use super::{OpenError, Recovered, Segments, Settings, Shared, open};
use crate::{
    clock::{Clock, Timestamp},
    event::{EventId, Seq},
    log::{
        Append, AppendError, DedupeKey, Entry, Follower, Kind, Log, LogStats, ReadError,
        dedupe::{self, Runs},
        disk::{Access, Identity, Lock, Temporary},
        entry::decode_carried,
        queue::{Queue, QueueLimits},
        segment::Sealed,
    },
    telemetry::Metrics,
};

/// The log of a stopped instance, for reading only.
pub struct OfflineLog {
    shared: Shared,
    _copies: Temporary,
}

impl OfflineLog {
    /// Opens the log of a data directory that no server uses.
    ///
    /// # Errors
    /// [`OpenError`], among others that a server has the directory.
    pub fn open(directory: &Path, clock: Clock) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: directory.display().to_string(), source };
        let lock = Lock::take(directory, Access::Shared)?;
        let identity = Identity::open(directory).map_err(io)?;
        let temporary = Temporary::new("stagepost-offline").map_err(io)?;
        let copies = temporary.path();
        fs::create_dir(copies.join("log")).map_err(io)?;
        let settings = Settings {
            directory: copies.to_owned(),
            segment_bytes: u64::MAX,
            max_size: u64::MAX,
            reserve: 0,
            queue: QueueLimits::standard(),
            barrier: Arc::new(|_| Ok(())),
        };
        let log_directory = directory.join("log");
        let mut segments = Segments::default();
        for (number, found) in open::list(&log_directory).map_err(io)? {
            let path = log_directory.join(format!("{number:08}.seg"));
            let sealed = if found.sealed { Sealed::open(&path, number).ok() } else { None };
            match sealed {
                Some(sealed) => segments.sealed.push(Arc::new(sealed)),
                None if found.directory => {
                    let name = format!("{number:08}");
                    copy(&log_directory.join(&name), &copies.join("log").join(name)).map_err(io)?;
                    open::open_active(&settings, number, &mut segments, &mut Recovered::default())?;
                }
                None => segments.sealed.extend(Sealed::salvage(&path, number).map_err(io)?.map(Arc::new)),
            }
        }
        segments.open.retain(|open| !open.active.is_empty());
        let end = segments.end()?;
        let (runs, ..) = Runs::open(&copies.join("dedupe"), clock.now()).map_err(ReadError::from)?;
        let (work, _) = sync_channel(1);
        let shared = Shared {
            queue: Queue::new(settings.queue),
            settings,
            partition: 0,
            identity,
            segments: ArcSwap::from_pointee(segments),
            end: AtomicU64::new(end),
            full: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            roll_asked: AtomicBool::new(false),
            prepare_asked: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            follower: OnceLock::new(),
            runs,
            forgotten: Mutex::default(),
            published: Mutex::default(),
            cache: super::read::Cache::default(),
            work,
            late: Mutex::default(),
            prepared: Mutex::new(None),
            making: Mutex::default(),
            metrics: Arc::new(Metrics::default()),
            clock,
            _lock: lock,
        };
        Ok(Self { shared, _copies: temporary })
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

impl Log for OfflineLog {
    fn append(&self, append: Append) {
        append.done.answer(Err(AppendError::Closed));
    }

    fn append_all(&self, batch: Vec<Append>) {
        batch.into_iter().for_each(|append| self.append(append));
    }

    fn seen(&self, _key: &mut DedupeKey, _now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        Ok(None)
    }

    fn fingerprint(&self, source: &str, key: &[u8]) -> u128 {
        dedupe::fingerprint(&self.shared.identity.fingerprint_key, source, key)
    }

    fn forget(&self, _fingerprint: u128) {}

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

    fn expire(&self, _before: Seq) {}

    fn follow(&self, _follower: Arc<dyn Follower>) {}

    fn stats(&self) -> LogStats {
        let segments = self.shared.segments.load();
        let first_open = segments.open.first().map(|open| open.first_seq);
        LogStats {
            segments: (segments.sealed.len() + segments.open.len()) as u64,
            oldest_at: segments.sealed.first().map(|sealed| sealed.first_time()),
            first_seq: segments.sealed.first().map(|sealed| sealed.first_seq()).or(first_open).unwrap_or(0),
            next_seq: self.end(),
            ..LogStats::default()
        }
    }

    fn writable(&self) -> Result<(), AppendError> {
        Err(AppendError::Closed)
    }
}

/// What a check of the stored log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments looked at.
    pub segments: u64,
    /// Entries that could be read.
    pub entries: u64,
    /// Events among them.
    pub events: u64,
    /// Bytes of payload among them.
    pub bytes: u64,
    /// What is damaged.
    pub damaged: Vec<DamagedStretch>,
    /// What was repaired.
    pub repaired: Vec<String>,
}

/// A stretch of the log that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    /// The file or directory.
    pub file: String,
    /// First and last sequence number.
    pub seqs: (Seq, Seq),
    /// The events that stood there or whose bodies did, where that is still known.
    pub events: Vec<EventId>,
}

/// What of the log could not be read, in order.
#[derive(Default)]
struct Unread {
    /// Nothing is stored there: numbers that were never used, and what a repair took out.
    gaps: Vec<(Seq, Seq)>,
    /// Where the next entry would stand.
    next: Seq,
}

impl Unread {
    fn read(&mut self, seq: Seq) {
        if seq > self.next {
            self.gaps.push((self.next, seq - 1));
        }
        self.next = seq + 1;
    }

    fn is_gap(&self, seq: Seq) -> bool {
        let at = self.gaps.partition_point(|(_, last)| *last < seq);
        self.gaps.get(at).is_some_and(|(first, _)| *first <= seq)
    }
}

/// Reads every stored byte of a stopped instance and checks it.
///
/// # Errors
/// [`OpenError`] if the log can't be opened at all.
pub fn verify(directory: &Path, clock: Clock) -> Result<Report, OpenError> {
    let log = OfflineLog::open(directory, clock)?;
    let segments = log.shared.segments.load_full();
    let mut report = Report { segments: log.stats().segments, ..Report::default() };
    let (mut unread, mut from) = (Unread::default(), 0);
    loop {
        match log.scan(from, 4 << 20) {
            Ok(entries) => {
                let Some(last) = entries.last() else { return Ok(report) };
                from = last.pos.seq + 1;
                report.entries += entries.len() as u64;
                report.bytes += entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
                report.events += entries.iter().filter(|entry| entry.kind == Kind::Accepted).count() as u64;
                for entry in &entries {
                    unread.read(entry.pos.seq);
                    // Parts stand before the entry that refers to them.
                    if let Some(id) = id_of_large(entry) {
                        report.blame(id, entry, &unread, &directory.join("log"));
                    }
                }
            }
            Err(ReadError::Damaged { file, first, last }) => {
                let holder = segments.sealed.iter().find(|sealed| sealed.first_seq() <= first && first < sealed.end());
                let ids = holder.and_then(|sealed| sealed.event_ids(0)).unwrap_or_default();
                let events = ids.into_iter().filter(|id| (first..=last).contains(&id.pos.seq)).collect();
                report.damaged.push(DamagedStretch { file, seqs: (first, last), events });
                from = last + 1;
                unread.next = from;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

/// The event that an entry with parts is about.
fn id_of_large(entry: &Entry) -> Option<EventId> {
    match entry.kind {
        _ if entry.refs.is_empty() => None,
        Kind::Accepted => Some(entry.id()),
        Kind::Carried => decode_carried(&entry.payload).map(|carried| carried.id),
        _ => None,
    }
}

impl Report {
    /// Names the event wherever a part of its body is lost: with the stretch that the part stands in, or in a stretch of
    /// its own if nothing is left of it.
    fn blame(&mut self, id: EventId, entry: &Entry, unread: &Unread, log: &Path) {
        for stretch in &mut self.damaged {
            let (first, last) = stretch.seqs;
            if entry.refs.iter().any(|seq| (first..=last).contains(seq)) && !stretch.events.contains(&id) {
                stretch.events.push(id);
            }
        }
        let mut gone = entry.refs.iter().copied().filter(|seq| unread.is_gap(*seq));
        if let Some(first) = gone.next() {
            let seqs = (first, gone.next_back().unwrap_or(first));
            self.damaged.push(DamagedStretch { file: log.display().to_string(), seqs, events: vec![id] });
        }
    }
}

/// Puts the stored log of a stopped instance in order: active segments that can't be opened are set aside, segments
/// with damaged blocks are rewritten without them (the damaged file stays beside as `.damaged`), and state that does
/// not fit the log is removed, to be rebuilt at the next start.
///
/// # Errors
/// [`OpenError`].
pub fn repair(directory: &Path) -> Result<Vec<String>, OpenError> {
    let io = |source| OpenError::Io { path: directory.display().to_string(), source };
    let _lock = Lock::take(directory, Access::Exclusive)?;
    let log_directory = directory.join("log");
    let mut repaired = Vec::new();
    for (number, found) in open::list(&log_directory).map_err(io)? {
        let path = log_directory.join(format!("{number:08}.seg"));
        let folder = log_directory.join(format!("{number:08}"));
        if found.sealed && !found.directory {
            if let Some(line) = rewrite(&path, number).map_err(io)? {
                repaired.push(line);
            }
        } else if found.directory && super::Active::open(&log_directory, number).is_err() {
            let aside = folder.with_extension("damaged");
            fs::rename(&folder, &aside).map_err(io)?;
            repaired.push(format!("{} could not be opened and was set aside as {}", folder.display(), aside.display()));
        }
    }
    if !repaired.is_empty() {
        let state = directory.join("state");
        if state.exists() {
            fs::remove_dir_all(&state).map_err(io)?;
            repaired.push(format!("{} was removed; it is rebuilt from the log at the next start", state.display()));
        }
    }
    Ok(repaired)
}

/// Rewrites a sealed segment without its damaged blocks. None if there are none.
fn rewrite(path: &Path, number: u64) -> io::Result<Option<String>> {
    let intact = Sealed::open(path, number)
        .is_ok_and(|sealed| sealed.blocks().iter().all(|block| sealed.read(block, 0).is_ok()));
    if intact {
        return Ok(None);
    }
    let aside = path.with_extension("seg.damaged");
    let frames = Sealed::salvage(path, number)?.map_or_else(Vec::new, |sealed| sealed.raw_frames());
    fs::rename(path, &aside)?;
    let kept = frames.len();
    if kept > 0 {
        crate::log::segment::seal(path, number, 0, frames.into_iter().map(Ok))?;
    }
    Ok(Some(format!("{}: {kept} intact blocks kept; the damaged file is {}", path.display(), aside.display())))
}
