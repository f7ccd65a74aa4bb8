//! Owns recovery, in this order: lock the directory, finish or undo an interrupted seal, open the active segments,
//! remove what is left of an incomplete last commit, cross the barrier, and only then read and serve.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64},
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    Active, OpenError, OpenSegment, Recovered, SEQ_STRIDE, SegmentError, Segments, Settings, Shared, SledLog,
    committer::Committer,
    leftover,
    sealer::{Sealer, Work},
};
use crate::{
    clock::{Clock, Timestamp},
    event::Seq,
    log::{
        Kind, ReadError,
        dedupe::{Runs, Table},
        disk::{Access, Identity, Lock, Reserve, free_bytes, private_directory, sync_directory_of},
        entry, frame,
        queue::Queue,
        segment::Sealed,
    },
    telemetry::Metrics,
};

/// Work that may wait for the sealer; the committer never blocks on it.
const WORK_QUEUE: usize = 64;
/// Bytes read at a time while dedupe keys are read back.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// sled rewrites a part of each segment when it opens it: below this much free space the reserve is released first. It
/// is filled again when there is room.
const OPENING_BYTES: u64 = 16 * 1024 * 1024;

fn release_reserve(directory: &Path) {
    tracing::error!("the disk is full: the reserve is released so that the log can be opened");
    Reserve::of(directory).release();
}

/// Makes the first active segment; on a full disk with the room of the reserve.
fn create(settings: &Settings, number: u64) -> Result<Active, SegmentError> {
    let log_directory = settings.directory.join("log");
    match Active::create(&log_directory, number, &settings.barrier) {
        Err(error) if error.is_full() => {
            release_reserve(&settings.directory);
            Active::create(&log_directory, number, &settings.barrier)
        }
        other => other,
    }
}

/// What is found under one number.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sealed: bool,
    pub(super) directory: bool,
}

pub(super) fn open(settings: Settings, metrics: Arc<Metrics>, clock: Clock) -> Result<SledLog, OpenError> {
    let directory = settings.directory.clone();
    let log_directory = directory.join("log");
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| OpenError::Io { path, source }
    };
    private_directory(&log_directory).map_err(io(&log_directory))?;
    let lock = Lock::take(&directory, Access::Exclusive)?;
    let identity = Identity::open_or_create(&directory).map_err(io(&directory))?;
    let mut recovered = Recovered::default();
    let mut segments = Segments::default();
    if free_bytes(&directory).is_ok_and(|free| free < OPENING_BYTES) {
        release_reserve(&directory);
    }
    // A process that was killed between a rename and the sync of its directory leaves names that are not durable yet;
    // what follows deletes what they replace, and acknowledges from segments that have them.
    for path in [log_directory.join("."), log_directory.clone()] {
        sync_directory_of(&path).map_err(io(&path))?;
    }
    remove_temporary(&log_directory).map_err(io(&log_directory))?;
    for (number, found) in list(&log_directory).map_err(io(&log_directory))? {
        if found.sealed {
            let path = log_directory.join(format!("{number:08}.seg"));
            match Sealed::open(&path, number) {
                Ok(sealed) => {
                    if found.directory {
                        recovered.interrupted_seals += 1;
                        leftover::remove(&log_directory.join(format!("{number:08}"))).map_err(io(&log_directory))?;
                    }
                    segments.sealed.push(Arc::new(sealed));
                    continue;
                }
                Err(source) if !is_damage(&source) => return Err(io(&path)(source)),
                Err(_) if found.directory => {
                    recovered.interrupted_seals += 1;
                    fs::remove_file(&path).map_err(io(&path))?;
                }
                Err(_) => {
                    let sealed = Sealed::salvage(&path, number).map_err(io(&path))?;
                    recovered.salvaged.push(path.display().to_string());
                    segments.sealed.extend(sealed.map(Arc::new));
                    continue;
                }
            }
        }
        open_active(&settings, number, &mut segments, &mut recovered)?;
    }
    let prepared = take_empty(&mut segments);
    let last_seq = segments.end()?;
    let next_seq = (last_seq / SEQ_STRIDE + 1) * SEQ_STRIDE;
    let last_time = segments.last_time()?;
    let prepared = match prepared {
        Some(active) => active,
        None => create(&settings, segments.last_number() + 1)?,
    };
    let open = Arc::new(OpenSegment { active: prepared, first_seq: next_seq, first_time: 0.into() });
    segments.open.push(open.clone());

    let (runs, covered, damaged) = Runs::open(&directory.join("dedupe"), clock.now()).map_err(ReadError::from)?;
    recovered.damaged_runs = damaged.len() as u64;
    let (sender, work) = sync_channel(WORK_QUEUE);
    let shared = Arc::new(Shared {
        queue: Queue::new(settings.queue),
        settings,
        partition: 0,
        identity,
        segments: ArcSwap::from_pointee(segments),
        end: AtomicU64::new(next_seq),
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
        work: sender,
        late: Mutex::default(),
        prepared: Mutex::new(None),
        making: Mutex::default(),
        metrics,
        clock,
        _lock: lock,
    });
    let _no_room = Reserve::of(&directory).fill();
    let _full = shared.work.try_send(Work::Prepare);
    let _full = shared.work.try_send(Work::Seal);
    let table = read_dedupe_back(&shared, covered)?;
    let committer = Committer::new(shared.clone(), table, open, next_seq, last_time);
    start(shared, committer, work, recovered).map_err(io(&directory))
}

/// Whether a sealed segment can't be opened because of what is in it, and not for a passing reason.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn start(
    shared: Arc<Shared>,
    committer: Committer,
    work: Receiver<Work>,
    recovered: Recovered,
) -> std::io::Result<SledLog> {
    let sealer = Sealer {
        shared: shared.clone(),
        work,
        unpublished: Cell::new(None),
        working_since: Cell::new(Duration::ZERO),
        leftovers: RefCell::default(),
    };
    let threads = vec![
        thread::Builder::new().name("committer".into()).spawn(move || committer.run())?,
        thread::Builder::new().name("sealer".into()).spawn(move || sealer.run())?,
    ];
    Ok(SledLog { shared, threads: Mutex::new(threads), recovered })
}

/// Numbers of segments, with what stands under each. Temporary files of interrupted seals are left out.
pub(super) fn list(log_directory: &Path) -> std::io::Result<BTreeMap<u64, Found>> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    for entry in fs::read_dir(log_directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = name.strip_suffix(".seg").and_then(|number| number.parse().ok()) {
            found.entry(number).or_default().sealed = true;
        } else if let Ok(number) = name.parse() {
            found.entry(number).or_default().directory = true;
        }
    }
    Ok(found)
}

/// Removes what interrupted seals and half-made segments left.
fn remove_temporary(log_directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(log_directory)? {
        let path = entry?.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("tmp") => fs::remove_file(path)?,
            Some("new") => fs::remove_dir_all(path)?,
            _ if leftover::is_leftover(&path) => fs::remove_dir_all(path)?,
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn open_active(
    settings: &Settings,
    number: u64,
    segments: &mut Segments,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let open = || {
        let active = Active::open(&settings.directory.join("log"), number)?;
        let dropped = active.drop_incomplete_tail(&settings.barrier)?;
        Ok::<_, SegmentError>((active, dropped))
    };
    let (active, dropped) = match open() {
        Err(error) if error.is_full() => {
            release_reserve(&settings.directory);
            open()?
        }
        other => other?,
    };
    recovered.incomplete_frames += dropped;
    let first = active.frame_from(0)?;
    let header = first.as_deref().and_then(|bytes| frame::Header::read(bytes).ok());
    let first_seq = first.as_deref().and_then(super::active::first_seq_of).unwrap_or(Seq::MAX);
    let first_time = header.map_or(0, |header| header.base_time.as_millis());
    segments.open.push(Arc::new(OpenSegment { active, first_seq, first_time: first_time.into() }));
    Ok(())
}

/// Takes the last empty segment out of the list, to be the active one; removes other empty ones.
fn take_empty(segments: &mut Segments) -> Option<Active> {
    let (empty, used): (Vec<_>, Vec<_>) = segments.open.drain(..).partition(|open| open.active.is_empty());
    segments.open = used;
    let above = segments.last_number();
    let mut prepared = None;
    for open in empty {
        let Ok(open) = Arc::try_unwrap(open) else { continue };
        let path = open.active.path().to_path_buf();
        if open.active.number > above && prepared.is_none() {
            prepared = Some(open.active);
        } else {
            drop(open);
            let _failed = fs::remove_dir_all(path);
        }
    }
    prepared
}

impl Segments {
    fn last_number(&self) -> u64 {
        let sealed = self.sealed.last().map_or(0, |sealed| sealed.number);
        self.open.last().map_or(0, |open| open.active.number).max(sealed)
    }

    /// The sequence number after the last that was ever used here.
    pub(super) fn end(&self) -> Result<Seq, OpenError> {
        let mut end = self.sealed.iter().map(|sealed| sealed.end()).max().unwrap_or(0);
        for open in &self.open {
            if let Some(bytes) = open.active.frame_at(Seq::MAX)? {
                let claimed = super::active::first_seq_of(&bytes).unwrap_or(0);
                end = end.max(frame::Header::read(&bytes).map_or(claimed + 1, |header| header.end()));
            }
        }
        Ok(end)
    }

    fn last_time(&self) -> Result<Timestamp, OpenError> {
        let mut last = self.sealed.iter().map(|sealed| sealed.last_time).max().unwrap_or(Timestamp::ZERO);
        for open in &self.open {
            if let Some(bytes) = open.active.frame_at(Seq::MAX)? {
                let entries = frame::decode(&bytes, 0).unwrap_or_default();
                last = last.max(entries.last().map_or(Timestamp::ZERO, |entry| entry.time));
            }
        }
        Ok(last)
    }
}

/// Reads the dedupe keys that no run holds yet back into the committer's table.
fn read_dedupe_back(shared: &Arc<Shared>, covered: Seq) -> Result<Table, OpenError> {
    let mut table = Table::new(covered);
    let now = shared.clock.now();
    let mut from = covered;
    loop {
        let entries = match shared.scan(from, REPLAY_BYTES) {
            Ok(entries) => entries,
            Err(ReadError::Damaged { file, first, last }) => {
                tracing::error!(file, first, last, "stored entries are damaged; their dedupe keys are lost");
                from = last + 1;
                continue;
            }
            Err(other) => return Err(other.into()),
        };
        let Some(last) = entries.last() else { return Ok(table) };
        from = last.pos.seq + 1;
        for entry in &entries {
            match entry.kind {
                Kind::Accepted => {
                    if let Some(key) = entry::dedupe_of(&entry.payload).filter(|key| key.expires_at > now) {
                        table.insert(&key, entry.id());
                    }
                }
                Kind::Answer => {
                    let answer = entry::decode_answer(&entry.payload, &entry.refs);
                    if let Some(fingerprint) = answer.and_then(|answer| answer.forgotten) {
                        table.commit();
                        table.forget(fingerprint);
                        shared.runs.forget(fingerprint);
                    }
                }
                _ => {}
            }
        }
        table.commit();
        table.passed(from);
        if table.full()
            && let Some(frozen) = table.take_frozen()
        {
            let version = shared.runs.publish(&frozen, now).map_err(ReadError::from)?;
            table.published(&frozen, version);
            shared.runs.tidy(now).map_err(ReadError::from)?;
        }
    }
}
