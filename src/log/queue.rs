//! Owns the queue between those who append and the committer.
//!
//! Bounded in entries and bytes: a new event that does not fit is answered [`AppendError::Busy`] at once; upkeep is
//! always taken, because it is bounded by the attempts in flight. Two lanes: small appends first, then one part of a
//! large body a turn. The committer is woken only when it waits.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Append, AppendError, Class};

/// Appends that may wait.
const ENTRIES_MAX: usize = 20_000;
/// Bytes that may wait.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What waits for the committer.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Default)]
struct Waiting {
    small: Vec<Append>,
    large: VecDeque<Append>,
    bytes: usize,
    committer_sleeps: bool,
    closed: bool,
    knocks: u64,
}

/// What the committer got.
pub enum Taken {
    /// Appends, or nothing within the timeout.
    Work(Vec<Append>, VecDeque<Append>),
    /// Closed, and nothing waits any more.
    Closed,
}

impl Queue {
    /// Puts an append in its lane.
    pub fn push(&self, append: Append) {
        let bytes = append.entry.payload.len() + append.parts.iter().map(|part| part.payload.len()).sum::<usize>();
        let mut waiting = self.lock();
        let refused = match append.class {
            _ if waiting.closed => Some(AppendError::Closed),
            Class::Event if waiting.small.len() >= ENTRIES_MAX || waiting.bytes + bytes > BYTES_MAX => {
                Some(AppendError::Busy)
            }
            _ => None,
        };
        if let Some(error) = refused {
            drop(waiting);
            append.done.answer(Err(error));
            return;
        }
        waiting.bytes += bytes;
        if append.parts.is_empty() {
            waiting.small.push(append)
        } else {
            waiting.large.push_back(append)
        }
        let wake = std::mem::take(&mut waiting.committer_sleeps);
        drop(waiting);
        if wake {
            self.bell.notify_one();
        }
    }

    /// Takes all that waits; waits itself at most `timeout` if nothing does. `spare` becomes the new small lane.
    pub fn take(&self, spare: Vec<Append>, timeout: Duration) -> Taken {
        let mut waiting = self.lock();
        if waiting.small.is_empty() && waiting.large.is_empty() && !waiting.closed && waiting.knocks == 0 {
            waiting.committer_sleeps = true;
            (waiting, _) = self.bell.wait_timeout(waiting, timeout).unwrap_or_else(PoisonError::into_inner);
            waiting.committer_sleeps = false;
        }
        waiting.knocks = 0;
        if waiting.closed && waiting.small.is_empty() && waiting.large.is_empty() {
            return Taken::Closed;
        }
        waiting.bytes = 0;
        let small = std::mem::replace(&mut waiting.small, spare);
        Taken::Work(small, std::mem::take(&mut waiting.large))
    }

    /// Wakes the committer although nothing was appended.
    pub fn knock(&self) {
        self.lock().knocks += 1;
        self.bell.notify_one();
    }

    /// Refuses new appends; what waits is still committed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
