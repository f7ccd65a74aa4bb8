//! Owns the state's directory: checkpoints are written here and read back from here.
//!
//! ```text
//! state/MANIFEST            which runs count, and everything that is no record
//! state/<16 hex digits>.run records, sorted, never changed
//! ```
//!
//! Promises that a kill at any moment leaves the last checkpoint or the one before it: a run is complete before the
//! manifest names it, the manifest is replaced by a rename, and files are deleted only when no manifest names them.
//! What can't be used (missing, damaged, of another log, ahead of the log) is thrown away, with a line that says so.
//! At most [`RUNS_MAX`] runs are alive. One thread writes at a time; nothing here is called on the hot path.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use roaring::RoaringTreemap;
use tracing::warn;

use super::{Layers, Map, State, manifest, record::RECORD_BYTES};
use crate::{
    event::Seq,
    log::{
        disk::private_directory,
        run::{Run, RunError, merge},
    },
};

/// The most runs that are alive after a checkpoint.
pub(super) const RUNS_MAX: usize = 8;

const MANIFEST: &str = "MANIFEST";
const MANIFEST_TMP: &str = "MANIFEST.tmp";

/// The state's directory.
pub struct Store {
    dir: PathBuf,
    next_run: u64,
    #[cfg(test)]
    pub(super) steps_left: Option<u32>,
}

/// Why a checkpoint was not written. The one before it still stands, and the log has everything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("writing a checkpoint of the state to {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A run could not be read or written.
    #[error("writing a checkpoint of the state")]
    Run(#[from] RunError),
}

/// A state at rest, to be written while the live one goes on.
pub struct Frozen {
    body: Vec<u8>,
    records: Arc<Map>,
    runs: Vec<Arc<Run>>,
    first: Seq,
    carried: RoaringTreemap,
}

/// A checkpoint that was written: hand it to [`Layers::written`].
pub struct Written {
    /// The runs, newest first.
    pub runs: Vec<Arc<Run>>,
}

impl State {
    /// Freezes the state for a checkpoint. Records of events before `first`, the first sequence number still stored,
    /// are dropped when runs are merged, unless the event was carried. Costs a copy of the bitmaps.
    pub fn freeze(&mut self, first: Seq) -> Frozen {
        Frozen {
            body: manifest::encode(self),
            carried: self.carried.clone(),
            runs: self.layers.runs().to_vec(),
            records: self.layers.freeze(),
            first,
        }
    }
}

impl Store {
    /// Opens the directory, made if need be, and loads the last checkpoint. Without one that fits the log (`log_id`,
    /// and `end`, the number after its last durable entry) the directory is emptied and the state begins anew.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory can't be made, read or emptied.
    pub fn open(dir: &Path, log_id: u128, end: Seq) -> Result<(Self, State), StoreError> {
        private_directory(dir).map_err(|source| io_error(dir, source))?;
        let mut store = Self {
            dir: dir.to_owned(),
            next_run: 1,
            #[cfg(test)]
            steps_left: None,
        };
        let state = match load(dir, log_id, end) {
            Ok(state) => state,
            Err(why) => {
                warn!(%why, "the stored state can't be used: it is rebuilt from the log");
                None
            }
        };
        let state = state.unwrap_or_else(|| State::new(log_id));
        let runs: Vec<u64> = state.layers.runs().iter().filter_map(|run| number(run.path())).collect();
        store.next_run = runs.iter().max().map_or(1, |last| last + 1);
        store.sweep(&runs)?;
        Ok((store, state))
    }

    /// Forgets everything that was stored: the state is about to be rebuilt.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear(&mut self) -> Result<(), StoreError> {
        let path = self.dir.join(MANIFEST);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io_error(&path, source)),
            _ => {}
        }
        self.sync_dir()?;
        self.sweep(&[])
    }

    /// Writes a checkpoint. Takes as long as the disk does, and longer when runs are merged.
    ///
    /// # Errors
    /// [`StoreError`]: the checkpoint before it still stands.
    pub fn write(&mut self, frozen: Frozen) -> Result<Written, StoreError> {
        let mut runs = frozen.runs;
        if !frozen.records.is_empty() {
            let records = frozen.records.iter().map(|(key, record)| Ok(record.encode(*key)));
            let path = self.new_path();
            runs.insert(0, Arc::new(Run::write(&path, RECORD_BYTES, true, b"", records)?));
        }
        self.step()?;
        let merged = self.tiered(runs, |event| event >= frozen.first || frozen.carried.contains(event))?;
        self.step()?;
        let names: Vec<u64> = merged.iter().filter_map(|run| number(run.path())).collect();
        self.write_manifest(&manifest::finish(frozen.body, &names))?;
        self.step()?;
        self.sweep(&names)?;
        Ok(Written { runs: merged })
    }

    /// Merges the newest runs as long as the next older one is at most twice as long, and as long as there are too
    /// many: so that run lengths at least double, and few are alive.
    fn tiered(&mut self, runs: Vec<Arc<Run>>, live: impl Fn(Seq) -> bool) -> Result<Vec<Arc<Run>>, StoreError> {
        let mut take = 1;
        let mut records = runs.first().map_or(0, |run| run.len());
        while let Some(older) = runs.get(take) {
            if older.len() > records.saturating_mul(2) && runs.len() - take < RUNS_MAX {
                break;
            }
            records += older.len();
            take += 1;
        }
        if take < 2 {
            return Ok(runs);
        }
        let (newer, older) = runs.split_at(take);
        let last = older.is_empty();
        let event = |record: &[u8]| record.first_chunk::<8>().map_or(0, |seq| Seq::from_be_bytes(*seq));
        let keep = |record: &[u8]| !last || live(event(record));
        let path = self.new_path();
        let inputs: Vec<&Run> = newer.iter().map(Arc::as_ref).collect();
        let merged = Run::write(&path, RECORD_BYTES, true, b"", merge(&inputs, keep))?;
        Ok(std::iter::once(Arc::new(merged)).chain(older.iter().cloned()).collect())
    }

    fn write_manifest(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (tmp, path) = (self.dir.join(MANIFEST_TMP), self.dir.join(MANIFEST));
        let write = || {
            let mut file = File::create(&tmp)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|source| io_error(&tmp, source))?;
        self.step()?;
        fs::rename(&tmp, &path).map_err(|source| io_error(&path, source))?;
        self.step()?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|source| io_error(&self.dir, source))
    }

    /// Deletes what no manifest names.
    fn sweep(&self, runs: &[u64]) -> Result<(), StoreError> {
        let named: HashSet<u64> = runs.iter().copied().collect();
        let entries = fs::read_dir(&self.dir).map_err(|source| io_error(&self.dir, source))?;
        for entry in entries {
            let path = entry.map_err(|source| io_error(&self.dir, source))?.path();
            let named = number(&path).is_some_and(|run| named.contains(&run));
            if !named && !path.ends_with(MANIFEST) {
                fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            }
        }
        Ok(())
    }

    fn new_path(&mut self) -> PathBuf {
        let path = run_path(&self.dir, self.next_run);
        self.next_run += 1;
        path
    }

    /// A place where a test may let the process die.
    #[cfg(test)]
    fn step(&mut self) -> Result<(), StoreError> {
        match &mut self.steps_left {
            Some(0) => Err(io_error(&self.dir, io::Error::other("killed here"))),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the tests' form of it can fail")]
    fn step(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Why a stored state can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the manifest can't be read: {0}")]
    Unreadable(io::Error),
    #[error("the manifest is damaged")]
    Damaged,
    #[error("it belongs to another log")]
    OtherLog,
    #[error("it knows entries up to {next}, but the log ends at {end}")]
    Ahead { next: Seq, end: Seq },
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Reads the last checkpoint without changing anything. None if there never was one.
pub(super) fn load(dir: &Path, log_id: u128, end: Seq) -> Result<Option<State>, Unusable> {
    let bytes = match fs::read(dir.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unusable::Unreadable(error)),
    };
    let (mut state, numbers) = manifest::decode(bytes).ok_or(Unusable::Damaged)?;
    if state.log_id != log_id {
        return Err(Unusable::OtherLog);
    }
    if state.next > end {
        return Err(Unusable::Ahead { next: state.next, end });
    }
    let open = |number: &u64| Run::open(&run_path(dir, *number)).map(Arc::new);
    let runs: Vec<Arc<Run>> = numbers.iter().map(open).collect::<Result<_, _>>()?;
    if runs.iter().any(|run| run.record_len() != RECORD_BYTES) {
        return Err(Unusable::Damaged);
    }
    state.layers = Layers::over(runs);
    Ok(Some(state))
}

fn run_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.run"))
}

fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".run")?;
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}
