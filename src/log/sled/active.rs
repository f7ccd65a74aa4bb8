//! Owns one active segment: a sled database of commit frames, its barrier, and the traps that come with sled 0.34.
//!
//! Keys are the frame's first sequence number (u64, big-endian) and the part's number (u16, big-endian); values are
//! parts of at most 7 KiB, because sled moves larger leaves to a `blobs/` directory that it never syncs. Only plain
//! inserts are used: batches and transactions take a lock that is global to the process.
//! `Db::flush` ends in `sync_file_range`, which is no barrier against power loss; [`Active::barrier`] adds an
//! fdatasync on a handle of its own, opened before the first write, because a write error is reported once for
//! each open handle.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    event::Seq,
    log::{disk::sync_directory_of, frame},
};

/// How often, and how many times, a segment's file is looked at that sled has not let go yet: 5 seconds.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(20);
const LOCK_LOOKS: u32 = 250;

/// The largest value in bytes, so that 16 of them stay below sled's limit for a leaf (128 KiB).
pub const PART_VALUE_BYTES: usize = 7 * 1024;
/// Bytes that sled may cache for one segment. Only its tail is ever hot.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Makes written bytes durable: `File::sync_data`, unless a test wants to know, to fail or to forget.
pub type Barrier = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// One active (or sealing) segment.
pub struct Active {
    /// Its number.
    pub number: u64,
    path: PathBuf,
    db: ::sled::Db,
    file: File,
}

/// Why a segment can't be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system's error.
    #[error("{path}: {source}")]
    Io {
        /// The segment's directory.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// sled can't make sense of the bytes.
    #[error("{path} is damaged ({what}): run `stagepost verify --repair`")]
    Damaged {
        /// The segment's directory.
        path: String,
        /// What sled said.
        what: String,
    },
}

impl SegmentError {
    /// Whether the disk is full, which passes, in contrast to everything else.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || error.to_string().contains("No space left")
}

impl Active {
    /// Makes a new, empty segment and makes its existence durable before anything is acknowledged from it: it is made
    /// under another name, synced and renamed, so that a crash never leaves half a segment under its number.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn create(directory: &Path, number: u64, barrier: &Barrier) -> Result<Self, SegmentError> {
        let path = directory.join(format!("{number:08}"));
        let io = |source| SegmentError::Io { path: path.display().to_string(), source };
        let unfinished = path.with_extension("new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io)?;
        }
        Self::open_at(&unfinished, number)?.settle(barrier).map_err(io)?;
        fs::rename(&unfinished, &path).map_err(io)?;
        // Opening it again writes to `db`, which the barrier of the first commit makes durable, and a snapshot, which
        // sled syncs itself and can do without.
        let made = sync_directory_of(&path).map_err(io).and_then(|()| Self::open_at(&path, number));
        if made.is_err() {
            // It holds nothing, and the next try must find its number free.
            let _left = fs::remove_dir_all(&path);
        }
        made
    }

    /// Opens a segment, new or old, around sled's traps.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn open(directory: &Path, number: u64) -> Result<Self, SegmentError> {
        Self::open_at(&directory.join(format!("{number:08}")), number)
    }

    fn open_at(path: &Path, number: u64) -> Result<Self, SegmentError> {
        let io = |source| SegmentError::Io { path: path.display().to_string(), source };
        fs::create_dir_all(path).map_err(io)?;
        set_aside(path, |name| name.ends_with(".generating")).map_err(io)?;
        let db = match open_db(path) {
            Err(SegmentError::Damaged { .. }) => {
                set_aside(path, |name| name.starts_with("snap.")).map_err(io)?;
                open_db(path)?
            }
            other => other?,
        };
        let file = File::options().read(true).write(true).open(path.join("db")).map_err(io)?;
        Ok(Self { number, path: path.into(), db, file })
    }

    /// fsync of everything that must exist for the segment to be found after its rename: `conf`, `db`, the directory.
    /// No more than that: each fsync of metadata makes the commits beside it wait.
    fn settle(&self, barrier: &Barrier) -> io::Result<()> {
        self.db.flush().map_err(io::Error::other)?;
        barrier(&File::open(self.path.join("conf"))?)?;
        barrier(&self.file)?;
        File::open(&self.path)?.sync_all()
    }

    /// Inserts a frame. Not durable before [`Active::barrier`].
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn insert(&self, first_seq: Seq, frame: &[u8]) -> Result<(), SegmentError> {
        for (part, bytes) in (0_u16..).zip(frame.chunks(PART_VALUE_BYTES)) {
            self.db.insert(key(first_seq, part), bytes).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Makes all inserted frames survive a power cut.
    ///
    /// # Errors
    /// [`SegmentError`]; except for a full disk nothing may be acknowledged from this segment ever again.
    pub fn barrier(&self, barrier: &Barrier) -> Result<(), SegmentError> {
        self.db.flush().map_err(|error| self.error(error))?;
        barrier(&self.file).map_err(|source| SegmentError::Io { path: self.path.display().to_string(), source })
    }

    /// Removes every part of frames that are not whole at the end of the segment: what a crash left of the last
    /// commit, which nobody was told about. Frames inside are left for readers to report.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn drop_incomplete_tail(&self, barrier: &Barrier) -> Result<u64, SegmentError> {
        let mut dropped = 0;
        while let Some(last) = self.db.last().map_err(|error| self.error(error))? {
            let Some((first_seq, _)) = split_key(&last.0) else { break };
            if self.frame(first_seq)?.is_some_and(|bytes| frame::check(&bytes).is_ok()) {
                break;
            }
            for part in self.db.range(key(first_seq, 0)..=key(first_seq, u16::MAX)).keys() {
                let part = part.map_err(|error| self.error(error))?;
                self.db.remove(part).map_err(|error| self.error(error))?;
            }
            dropped += 1;
        }
        self.barrier(barrier)?;
        Ok(dropped)
    }

    /// The frame that holds `seq`, or the last one before it. Unchecked. None if there is none.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn frame_at(&self, seq: Seq) -> Result<Option<Vec<u8>>, SegmentError> {
        let found = self.db.range(..=key(seq, u16::MAX)).next_back().transpose().map_err(|error| self.error(error))?;
        match found.and_then(|(found, _)| split_key(&found)) {
            Some((first_seq, _)) => self.frame(first_seq),
            None => Ok(None),
        }
    }

    /// The first frame that begins at or after `seq`. Unchecked.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn frame_from(&self, seq: Seq) -> Result<Option<Vec<u8>>, SegmentError> {
        Ok(self.keyed_frame_from(seq)?.map(|(_, bytes)| bytes))
    }

    fn keyed_frame_from(&self, seq: Seq) -> Result<Option<(Seq, Vec<u8>)>, SegmentError> {
        let found = self.db.range(key(seq, 0)..).next().transpose().map_err(|error| self.error(error))?;
        match found.and_then(|(found, _)| split_key(&found)) {
            Some((first_seq, _)) => Ok(self.frame(first_seq)?.map(|bytes| (first_seq, bytes))),
            None => Ok(None),
        }
    }

    fn frame(&self, first_seq: Seq) -> Result<Option<Vec<u8>>, SegmentError> {
        let mut bytes = Vec::new();
        for part in self.db.range(key(first_seq, 0)..=key(first_seq, u16::MAX)).values() {
            bytes.extend_from_slice(&part.map_err(|error| self.error(error))?);
        }
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// All frames in order with the sequence numbers they stand under, unchecked.
    pub fn frames(&self) -> impl Iterator<Item = Result<(Seq, Vec<u8>), SegmentError>> + '_ {
        let mut parts = self.db.iter().peekable();
        std::iter::from_fn(move || {
            let (key, first) = match parts.next()? {
                Ok(part) => part,
                Err(error) => return Some(Err(self.error(error))),
            };
            // By its key: what a damaged frame says of itself may lead anywhere.
            let (first_seq, _) = split_key(&key)?;
            let mut bytes = first.to_vec();
            let same = |part: &::sled::Result<(::sled::IVec, ::sled::IVec)>| {
                part.as_ref().is_ok_and(|(key, _)| split_key(key).is_some_and(|(seq, _)| seq == first_seq))
            };
            while let Some(Ok((_, part))) = parts.next_if(same) {
                bytes.extend_from_slice(&part);
            }
            Some(Ok((first_seq, bytes)))
        })
    }

    /// Whether nothing was ever committed here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.db.is_empty()
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, error: ::sled::Error) -> SegmentError {
        segment_error(&self.path, error)
    }
}

/// The first sequence number that a frame claims; read without trusting the rest of it.
#[must_use]
pub fn first_seq_of(frame: &[u8]) -> Option<Seq> {
    Some(u64::from_be_bytes(*frame.get(2..)?.first_chunk()?))
}

/// sled locks its file, and lets it go some time after a failed open or after the last handle was dropped: its threads
/// end when they like. The directory's own lock keeps other processes out, so it can only be that.
fn open_db(path: &Path) -> Result<::sled::Db, SegmentError> {
    for _ in 0..LOCK_LOOKS {
        match open_db_once(path) {
            Err(SegmentError::Io { source, .. }) if is_locked(&source) => std::thread::park_timeout(LOCK_LOOK_EVERY),
            other => return other,
        }
    }
    open_db_once(path)
}

fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

fn open_db_once(path: &Path) -> Result<::sled::Db, SegmentError> {
    let config = ::sled::Config::new()
        .path(path)
        .mode(::sled::Mode::HighThroughput)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let opened = super::quietly(|| catch_unwind(AssertUnwindSafe(|| config.open())));
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(segment_error(path, error)),
        Err(_panic) => Err(SegmentError::Damaged { path: path.display().to_string(), what: "sled panicked".into() }),
    }
}

fn segment_error(path: &Path, error: ::sled::Error) -> SegmentError {
    let path = path.display().to_string();
    match error {
        ::sled::Error::Io(source) => SegmentError::Io { path, source },
        other => SegmentError::Damaged { path, what: other.to_string() },
    }
}

/// Renames the files of a segment that `which` names, so that sled does not see them.
fn set_aside(path: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if which(name) && !name.starts_with("aside.") {
            fs::rename(entry.path(), path.join(format!("aside.{name}")))?;
        }
    }
    Ok(())
}

fn key(first_seq: Seq, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    let (seq, number) = key.split_at_mut(8);
    seq.copy_from_slice(&first_seq.to_be_bytes());
    number.copy_from_slice(&part.to_be_bytes());
    key
}

fn split_key(key: &[u8]) -> Option<(Seq, u16)> {
    let (seq, part) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*seq), u16::from_be_bytes(*part.first_chunk()?)))
}
