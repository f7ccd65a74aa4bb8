//! Owns the files of an upstream of `kind = "file"`: the one that is open, when it is finished, and what a crash left.
//!
//! Promises that a batch is on disk (one `fdatasync`, the directory's entry included) before [`Files::write`] says so,
//! that a write which fails leaves no part of a line behind, that a finished file appears under its name at once and
//! whole, and that no file is written by two. Everything here blocks: it is called on blocking threads only. Which
//! events stand in a batch is `batch`'s business.

mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use self::writer::Writer;
use crate::{clock::Timestamp, routing::FilePolicy};

/// How a file is named while it is written, behind its later name.
const UNFINISHED: &str = ".part";

/// The files of one upstream.
pub(crate) struct Files {
    writer: Mutex<Option<Writer>>,
    /// When the open file is too old (steady milliseconds); read without the lock.
    due: AtomicU64,
    /// Files finished so far.
    finished: AtomicU64,
    /// Bytes of the open file.
    open_bytes: AtomicU64,
}

/// Nothing is open.
const NEVER: u64 = u64::MAX;

impl Default for Files {
    fn default() -> Self {
        Self {
            writer: Mutex::default(),
            due: AtomicU64::new(NEVER),
            finished: AtomicU64::new(0),
            open_bytes: AtomicU64::new(0),
        }
    }
}

/// The times of one call: on the wall for names, steady for ages.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) steady: Timestamp,
}

impl Files {
    /// Appends whole lines as one batch and gives the URL of the file they will stand in. On an error none of them is
    /// in any file.
    pub(crate) fn write(&self, policy: &Arc<FilePolicy>, lines: &[u8], now: Now) -> io::Result<String> {
        let batch = writer::packed(policy.compression, lines)?;
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |writer: &Writer| !writer.takes(policy, batch.len() as u64, now.steady);
        if slot.as_ref().is_some_and(is_over) {
            self.finish(&mut slot)?;
        }
        let writer = match &mut *slot {
            Some(writer) => writer,
            None => slot.insert(Writer::create(policy.clone(), now)?),
        };
        if let Err(error) = writer.append(&batch) {
            // What the kernel holds of this file is in doubt: it ends where it is known to be good.
            self.finish(&mut slot)?;
            return Err(error);
        }
        let url = writer.url();
        self.due.store(writer.due().as_millis(), Ordering::Release);
        self.open_bytes.store(writer.length(), Ordering::Relaxed);
        if writer.is_full()
            && let Err(error) = self.finish(&mut slot)
        {
            // The lines are safe; the name is given at the next batch or at the next start.
            tracing::warn!(%error, url, "a file of events could not be given its name yet");
        }
        Ok(url)
    }

    /// Whether [`Files::finish_old`] has something to do. Cheap.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.due.load(Ordering::Acquire) <= now.as_millis()
    }

    /// When the open file is too old.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let due = self.due.load(Ordering::Acquire);
        (due != NEVER).then_some(Timestamp::from_millis(due))
    }

    /// Finishes the open file, if there is one and it is old enough or `anyway`.
    pub(crate) fn finish_old(&self, now: Timestamp, anyway: bool) -> io::Result<()> {
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if anyway || self.is_due(now) {
            self.finish(&mut slot)?;
        }
        Ok(())
    }

    /// Ends what an earlier process left unfinished: cut back to the last whole line, each file gets its name.
    pub(crate) fn recover(&self, policy: &FilePolicy) -> io::Result<()> {
        let finished = recover::all(policy)?;
        self.finished.fetch_add(finished, Ordering::Relaxed);
        Ok(())
    }

    /// Files finished since it was last asked.
    pub(crate) fn take_finished(&self) -> u64 {
        self.finished.swap(0, Ordering::Relaxed)
    }

    /// Bytes of the open file.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.open_bytes.load(Ordering::Relaxed)
    }

    fn finish(&self, slot: &mut Option<Writer>) -> io::Result<()> {
        if let Some(writer) = slot {
            let kept = writer.finish()?;
            self.finished.fetch_add(u64::from(kept), Ordering::Relaxed);
        }
        *slot = None;
        self.due.store(NEVER, Ordering::Release);
        self.open_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }
}
