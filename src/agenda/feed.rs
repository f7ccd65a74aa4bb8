//! Owns the way from the committer to the agenda's thread.
//!
//! Promises never to block the committer and to hold at most a set number of bytes. When it is full, commits are
//! forgotten here and a gap is remembered; the agenda reads it back from the log, in order. A metric counts what
//! was forgotten.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::Thread,
};

use crate::{
    event::Seq,
    log::{Entry, Follower},
    telemetry::Metrics,
};

/// What an entry costs beyond its payload, in bytes.
const ENTRY_BYTES: usize = 128;

/// Wakes the agenda's thread.
#[derive(Clone, Default)]
pub struct Bell(Arc<OnceLock<Thread>>);

impl Bell {
    /// The thread that is to be woken: the caller's.
    pub fn mine(&self) {
        let _already = self.0.set(std::thread::current());
    }

    /// Wakes it, now or when it next wants to sleep.
    pub fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// The bounded queue of committed entries.
pub struct Feed {
    inner: Mutex<Inner>,
    most: usize,
    bell: Bell,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Item>,
    bytes: usize,
}

enum Item {
    Commit(Vec<Entry>),
    /// Everything below is in the log and not here.
    Gap(Seq),
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Nothing yet.
    Nothing,
    /// These entries, of one or more commits.
    Entries(Vec<Entry>),
    /// Read the log up to this number (exclusive), then ask again.
    Gap(Seq),
}

impl Feed {
    /// Holds at most `most` bytes.
    #[must_use]
    pub fn new(most: usize, bell: Bell, metrics: Arc<Metrics>) -> Self {
        Self { inner: Mutex::default(), most, bell, metrics }
    }

    /// Takes what comes next, about `most` entries at a time. A gap is gone once it was taken.
    #[must_use]
    pub fn take(&self, most: usize) -> Next {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Item::Gap(until)) = inner.queue.front() {
            let until = *until;
            inner.queue.pop_front();
            return Next::Gap(until);
        }
        let mut taken: Vec<Entry> = Vec::new();
        while taken.len() < most && matches!(inner.queue.front(), Some(Item::Commit(_))) {
            let Some(Item::Commit(entries)) = inner.queue.pop_front() else { break };
            inner.bytes = inner.bytes.saturating_sub(bytes(&entries));
            if taken.is_empty() { taken = entries } else { taken.extend(entries) }
        }
        if taken.is_empty() { Next::Nothing } else { Next::Entries(taken) }
    }
}

impl Follower for Feed {
    fn committed(&self, entries: Vec<Entry>) {
        let Some(until) = entries.last().map(|entry| entry.pos.seq.saturating_add(1)) else { return };
        let size = bytes(&entries);
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.bytes + size <= self.most {
                inner.bytes += size;
                inner.queue.push_back(Item::Commit(entries));
            } else {
                self.metrics.feed_overflows.add(entries.len() as u64);
                match inner.queue.back_mut() {
                    Some(Item::Gap(end)) => *end = until,
                    _ => inner.queue.push_back(Item::Gap(until)),
                }
            }
        }
        self.bell.ring();
    }
}

fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.payload.len() + ENTRY_BYTES).sum()
}
