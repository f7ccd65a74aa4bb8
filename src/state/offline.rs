//! Owns the read side for a stopped instance: the last checkpoint and the tail of the log, without writing anything.

use std::path::Path;

use super::{Key, Note, State, StateError, store};
use crate::{
    event::Seq,
    log::{Entry, Log, ReadError},
};

/// How many bytes of the log are read at a time.
const SCAN_BYTES: usize = 1 << 20;

/// The state of a stopped instance.
pub struct Offline {
    /// All of it.
    pub state: State,
    /// Stretches of the log that could not be read: the state may be wrong about what stood there.
    pub damaged: Vec<(Seq, Seq)>,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The log can't be read.
    #[error("the log can't be read to work out the state of deliveries")]
    Log(#[from] ReadError),
    /// A stored run can't be read.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Offline {
    /// Loads the checkpoint in `dir`, if it is of use, and replays what came after it. Damaged stretches of the log
    /// are skipped and named.
    ///
    /// # Errors
    /// [`OfflineError`].
    pub fn open(dir: &Path, log: &dyn Log) -> Result<Self, OfflineError> {
        let stored = store::load(dir, log.log_id(), log.end()).ok().flatten();
        // A run is checked block by block as it is read: all of it is read once, so that later questions can't fail.
        let sound = stored.filter(|state| state.layers().scan(Key::new(0, 0)).all(|record| record.is_ok()));
        let mut state = sound.unwrap_or_else(|| State::new(log.log_id()));
        let damaged = replay(&mut state, log, &mut |_| {})?;
        Ok(Self { state, damaged })
    }
}

/// Applies the log from where the state stands to its durable end. `progress` hears of the number reached now and then.
///
/// # Errors
/// [`OfflineError`]; damage in the log is no error but is returned as ranges.
pub fn replay(
    state: &mut State,
    log: &dyn Log,
    progress: &mut dyn FnMut(Seq),
) -> Result<Vec<(Seq, Seq)>, OfflineError> {
    replay_telling(state, log, progress, &mut |_, _| {})
}

/// The same, and tells what each entry changed.
///
/// # Errors
/// See [`replay`].
pub fn replay_telling(
    state: &mut State,
    log: &dyn Log,
    progress: &mut dyn FnMut(Seq),
    tell: &mut dyn FnMut(&Entry, Note),
) -> Result<Vec<(Seq, Seq)>, OfflineError> {
    let mut damaged = Vec::new();
    loop {
        match log.scan(state.next, SCAN_BYTES) {
            Ok(entries) if entries.is_empty() => return Ok(damaged),
            Ok(entries) => {
                for entry in &entries {
                    state.apply(entry, &mut |note| tell(entry, note))?;
                }
                progress(state.next);
            }
            Err(ReadError::Damaged { file, first, last }) => {
                tracing::error!(%file, first, last, "a stretch of the log is damaged: its deliveries are not known");
                damaged.push((first, last));
                state.next = state.next.max(last.saturating_add(1));
            }
            Err(other) => return Err(other.into()),
        }
    }
}
