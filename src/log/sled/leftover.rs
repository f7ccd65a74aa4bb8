//! Owns the directories of segments that are sealed, until they are gone.
//!
//! A directory is renamed from `N` to `N.gone` before anything of it is touched, so that what is called `N` is always
//! whole, and a start removes what is called `N.gone` without looking at it. Deleting a database of 90 MB at once makes
//! the file system's journal large and the next commit wait for it; therefore its files are shortened in steps first,
//! while the sealer has nothing better to do. Absent on purpose: any decision that a segment is sealed.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use super::OpenSegment;
use crate::log::disk::sync_directory_of;

/// Bytes by which a file becomes shorter in one step.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// The pause between two steps.
pub(super) const STEP_EVERY: Duration = Duration::from_millis(20);

/// Directories that may wait; with more, the oldest goes at once.
const WAITING_MAX: usize = 2;

/// What a directory is called while it is being deleted.
const ENDING: &str = "gone";

/// How many steps a directory waits for the readers of its segment. Then it is deleted at once: they go on with files
/// that have no names any more.
const READER_STEPS_MAX: u32 = 250;

/// Directories that are being deleted, oldest first.
#[derive(Default)]
pub(super) struct Leftovers(VecDeque<Leftover>);

struct Leftover {
    directory: PathBuf,
    /// Those who still read from it.
    readers: Weak<OpenSegment>,
    waited: u32,
}

impl Leftovers {
    /// Whether nothing is left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a segment that is not needed any more and in no list: it is sealed, and its file's name is durable.
    pub(super) fn add(&mut self, segment: &Arc<OpenSegment>) {
        self.put(segment.active.path(), Arc::downgrade(segment));
    }

    fn put(&mut self, directory: &Path, readers: Weak<OpenSegment>) {
        if let Ok(directory) = set_apart(directory) {
            self.0.push_back(Leftover { directory, readers, waited: 0 });
        }
        while self.0.len() > WAITING_MAX {
            self.remove_oldest();
        }
    }

    /// Shortens one file a little, or deletes a directory whose files are short.
    pub(super) fn step(&mut self) {
        let Some(oldest) = self.0.front_mut() else { return };
        if oldest.readers.strong_count() > 0 && oldest.waited < READER_STEPS_MAX {
            oldest.waited += 1;
        } else if oldest.readers.strong_count() > 0 || !matches!(shorten(&oldest.directory.join("db")), Ok(true)) {
            self.remove_oldest();
        }
    }

    /// Deletes all of them at once.
    pub(super) fn finish(&mut self) {
        while !self.is_empty() {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some(Leftover { directory, .. }) = self.0.pop_front() else { return };
        // What can't be deleted now is deleted by the next start.
        let _left = fs::remove_dir_all(&directory).and_then(|()| sync_directory_of(&directory));
    }
}

/// Whether a name in the log's directory is that of a directory whose deletion has begun.
pub(super) fn is_leftover(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ENDING)
}

/// Deletes the directory of a sealed segment, whose file's name is durable, at once.
///
/// # Errors
/// What the system said; what is left is garbage.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    fs::remove_dir_all(set_apart(directory)?)
}

fn set_apart(directory: &Path) -> io::Result<PathBuf> {
    let gone = directory.with_extension(ENDING);
    if gone.exists() {
        fs::remove_dir_all(&gone)?;
    }
    fs::rename(directory, &gone)?;
    Ok(gone)
}

/// Whether there was something to cut off.
fn shorten(path: &Path) -> io::Result<bool> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let Some(rest) = length.checked_sub(STEP_BYTES).filter(|rest| *rest > 0) else { return Ok(false) };
    file.set_len(rest)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_renamed_shortened_in_steps_and_deleted() {
        let log = tempfile::tempdir().unwrap();
        let segment = log.path().join("00000001");
        fs::create_dir(&segment).unwrap();
        fs::write(segment.join("conf"), "x").unwrap();
        File::create(segment.join("db")).unwrap().set_len(2 * STEP_BYTES + 1).unwrap();
        let mut leftovers = Leftovers::default();
        leftovers.put(&segment, Weak::new());
        assert!(!segment.exists());
        let mut lengths = Vec::new();
        while !leftovers.is_empty() {
            lengths.push(fs::metadata(log.path().join("00000001.gone/db")).unwrap().len());
            leftovers.step();
        }
        assert_eq!(lengths, [2 * STEP_BYTES + 1, STEP_BYTES + 1, 1]);
        assert_eq!(fs::read_dir(log.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_more_than_a_few_wait() {
        let log = tempfile::tempdir().unwrap();
        let mut leftovers = Leftovers::default();
        for number in 0..WAITING_MAX + 3 {
            let segment = log.path().join(format!("{number:08}"));
            fs::create_dir(&segment).unwrap();
            leftovers.put(&segment, Weak::new());
        }
        assert_eq!(fs::read_dir(log.path()).unwrap().count(), WAITING_MAX);
        leftovers.finish();
        assert_eq!(fs::read_dir(log.path()).unwrap().count(), 0);
    }
}
