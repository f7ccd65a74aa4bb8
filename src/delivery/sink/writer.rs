//! Owns one file that is being written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Now, UNFINISHED};
use crate::{
    clock::Timestamp,
    routing::{Compression, FilePolicy},
};

/// Readable for the group, nobody else.
const MODE: u32 = 0o640;

/// The effort of compression: lines are written once and read seldom.
const ZSTD_LEVEL: i32 = 3;

/// Names that are tried for a new file; each is a millisecond later.
const NAMES_MAX: u64 = 1_000;

/// A file that is being written.
pub(super) struct Writer {
    policy: Arc<FilePolicy>,
    file: File,
    unfinished: PathBuf,
    finished: PathBuf,
    /// Bytes that are on disk for sure.
    good: u64,
    /// Steady time.
    opened: Timestamp,
    /// A write went wrong: it may only be finished.
    failed: bool,
}

impl Writer {
    /// Creates a file under a name that nobody has; its entry in the directory is on disk when this returns.
    pub(super) fn create(policy: Arc<FilePolicy>, now: Now) -> io::Result<Self> {
        for later in 0..NAMES_MAX {
            let finished =
                policy.directory.join(name(&policy, now.wall.after(std::time::Duration::from_millis(later))));
            if finished.exists() {
                continue;
            }
            let unfinished = unfinished(&finished);
            let created = OpenOptions::new().append(true).create_new(true).mode(MODE).open(&unfinished);
            let file = match created {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            };
            // A recovery that runs beside us leaves a locked file alone.
            file.lock()?;
            if !unfinished.exists() {
                continue;
            }
            sync_directory(&policy.directory)?;
            return Ok(Self { policy, file, unfinished, finished, good: 0, opened: now.steady, failed: false });
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no name is free for a new file"))
    }

    /// Whether a batch of so many bytes may be appended now.
    pub(super) fn takes(&self, policy: &Arc<FilePolicy>, bytes: u64, now: Timestamp) -> bool {
        let same = Arc::ptr_eq(&self.policy, policy) || *self.policy == **policy;
        let fits = self.good == 0 || self.good.saturating_add(bytes) <= self.policy.rotate_bytes;
        // Somebody may have removed or moved it: what is written there would be seen by nobody.
        same && fits && !self.failed && now < self.due() && self.unfinished.exists()
    }

    /// Appends and crosses the barrier. After an error the file may only be finished.
    pub(super) fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(batch).and_then(|()| self.file.sync_data());
        self.failed = written.is_err();
        written?;
        self.good += batch.len() as u64;
        Ok(())
    }

    /// Cuts off what is not known to be good and gives the file its name; an empty one is removed. True if there is a
    /// finished file now. May be called again after an error.
    pub(super) fn finish(&self) -> io::Result<bool> {
        if !self.unfinished.exists() {
            return Ok(false);
        }
        if self.good == 0 {
            fs::remove_file(&self.unfinished)?;
            return Ok(false);
        }
        self.file.set_len(self.good)?;
        self.file.sync_all()?;
        publish(&self.policy.directory, &self.unfinished, &self.finished)?;
        Ok(true)
    }

    /// When it is too old (steady time).
    pub(super) fn due(&self) -> Timestamp {
        self.opened.after(self.policy.rotate_every)
    }

    /// Whether it has reached its size.
    pub(super) fn is_full(&self) -> bool {
        self.good >= self.policy.rotate_bytes
    }

    /// Bytes on disk.
    pub(super) fn length(&self) -> u64 {
        self.good
    }

    /// Where its lines will be found.
    pub(super) fn url(&self) -> String {
        format!("file://{}", self.finished.display())
    }
}

/// The bytes of a batch as they stand in the file.
pub(super) fn packed(compression: Compression, lines: &[u8]) -> io::Result<std::borrow::Cow<'_, [u8]>> {
    match compression {
        Compression::None => Ok(lines.into()),
        Compression::Zstd => {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.write_all(lines)?;
            Ok(encoder.finish()?.into())
        }
    }
}

/// The name of a file that begins at this time: `20260102T030405678Z` in place of the mark.
fn name(policy: &FilePolicy, time: Timestamp) -> String {
    let time: String = time.to_string().chars().filter(|letter| !matches!(letter, '-' | ':' | '.')).collect();
    format!("{}{time}{}", policy.before, policy.behind)
}

/// How a file is named while it is written.
fn unfinished(finished: &Path) -> PathBuf {
    let mut name = finished.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Gives a file its name, which nobody has, and makes that durable.
pub(super) fn publish(directory: &Path, unfinished: &Path, finished: &Path) -> io::Result<()> {
    renameat_with(CWD, unfinished, CWD, finished, RenameFlags::NOREPLACE)?;
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
