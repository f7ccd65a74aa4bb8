//! Owns the quarantine: refused requests that an operator may want back, kept apart from the log in a bounded ring of
//! files (`DATA/quarantine`).
//!
//! Promises that no answer waits for it: a request is handed to a thread of its own through a queue of at most
//! [`QUEUE_MAX`] requests and [`QUEUE_BYTES_MAX`] bytes, what does not fit is dropped and counted, and nothing is synced
//! but removals. Whoever floods it costs a bounded amount of disk, memory and writing: the oldest go first, each client and
//! all together have a rate, and only [`CLIENTS_MAX`] clients are told apart. What was kept survives a restart and, as
//! far as the system had written it, a power cut; a damaged file loses what stands behind the damage and is never a
//! reason not to start.
//!
//! Deliberately absent: which refusals are kept, and judging a request again; both are `ingress`'s.

mod clients;
mod record;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
pub use clients::{BURST_S, CLIENTS_MAX};
pub use ring::{ENTRIES_MAX, PIECES};

use self::{
    clients::Clients,
    ring::{Mode, Ring},
};
use crate::{
    clock::Timestamp,
    event::{Event, EventId},
    telemetry::{Metrics, QuarantineDrop},
};

/// Requests that wait to be written; one more is dropped as `busy`.
pub const QUEUE_MAX: usize = 1_024;

/// Bytes of requests that wait to be written; beyond, they are dropped as `busy`.
pub const QUEUE_BYTES_MAX: u64 = 8 << 20;

/// How much may be kept, and how fast. Given with each request, since a reload may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the ring on disk.
    pub max_size: u64,
    /// Requests a second of one client; [`BURST_S`] seconds' worth may come at once.
    pub rate: u64,
    /// Bytes a second of all clients together, with the same burst.
    pub total_rate: u64,
}

/// A refused request that is to be kept.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Wall time of receipt.
    pub received_at: Timestamp,
    /// Why it was refused, in a word.
    pub reason: &'static str,
    /// The status it was answered with.
    pub status: u16,
    /// As `log::entry::Accepting` encodes it, with its body.
    pub accepted: Bytes,
}

/// A request that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Why it was refused, in a word.
    pub reason: Box<str>,
    /// The status it was answered with.
    pub status: u16,
    /// The request as it would have been stored, under its id in quarantine. The source is empty if none was found.
    pub event: Event,
}

/// What a request from quarantine is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether it would be taken now.
    Recheck,
    /// To take it if it is.
    Admit,
}

/// What today's configuration says about a request from quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It would be taken.
    Taken,
    /// It was taken: it is durable under this id.
    Admitted(EventId),
    /// It was taken before under this id.
    Duplicate(EventId),
    /// It is answered on the spot and is no event.
    NoEvent,
    /// It is refused, with the word of `stagepost refused`.
    Refused(&'static str),
}

/// Why a kept request can't be read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Never kept, pushed out by newer ones, admitted, or deleted.
    #[error("no request {0} is in quarantine")]
    NoSuch(EventId),
    /// The stored bytes are not what was written.
    #[error("{0} is damaged in the quarantine's files: delete it")]
    Damaged(EventId),
    /// What the system said.
    #[error("the quarantine can't be read: {0}")]
    Io(#[from] io::Error),
}

/// The figures of `stagepost status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests that are kept.
    pub count: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The quarantine of a data directory.
pub struct Quarantine {
    ring: Arc<Mutex<Ring>>,
    clients: Mutex<Clients>,
    waiting: Arc<AtomicU64>,
    /// None once it is closed, or if it was opened for reading.
    queue: Mutex<Option<SyncSender<Write>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    admitting: Mutex<()>,
    metrics: Arc<Metrics>,
}

/// What the thread is told to write.
struct Write {
    keep: Keep,
    max_size: u64,
    /// How much of the queue's bytes it takes up.
    length: u64,
}

impl Quarantine {
    /// Opens the quarantine of a serving process. Files that can't be read are removed, and the loss is counted.
    ///
    /// # Errors
    /// When its thread can't be started.
    pub fn open(directory: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut ring = Ring::open(directory, Mode::Write);
        metrics.quarantine_drop(QuarantineDrop::Damaged).add(ring.take_damaged());
        let ring = Arc::new(Mutex::new(ring));
        let waiting = Arc::new(AtomicU64::new(0));
        let (queue, writes) = sync_channel(QUEUE_MAX);
        let thread = {
            let (ring, waiting, metrics) = (ring.clone(), waiting.clone(), metrics.clone());
            std::thread::Builder::new()
                .name("quarantine".to_owned())
                .spawn(move || write_all(&writes, &ring, &waiting, &metrics))?
        };
        let quarantine = Self {
            ring,
            clients: Mutex::default(),
            waiting,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(thread)),
            admitting: Mutex::default(),
            metrics,
        };
        tell(&quarantine.ring(), &quarantine.metrics);
        Ok(quarantine)
    }

    /// Opens the quarantine of a stopped process, for reading alone: nothing on disk is changed.
    #[must_use]
    pub fn open_for_reading(directory: &Path) -> Self {
        Self {
            ring: Arc::new(Mutex::new(Ring::open(directory, Mode::Read))),
            clients: Mutex::default(),
            waiting: Arc::default(),
            queue: Mutex::default(),
            writer: Mutex::default(),
            admitting: Mutex::default(),
            metrics: Arc::default(),
        }
    }

    /// Whether one more request of this client may be looked at, to be kept or not; counts it. `now` is steady time.
    pub fn takes(&self, client: &str, bounds: &Bounds, now: Timestamp) -> bool {
        lock(&self.clients).takes(client, bounds.rate, now)
    }

    /// Keeps a request, unless all clients together are too fast or the thread is behind; then it is dropped and
    /// counted. Never waits.
    pub fn keep(&self, keep: Keep, bounds: &Bounds, now: Timestamp) {
        let length = keep.accepted.len() as u64;
        if !lock(&self.clients).takes_bytes(length, bounds.total_rate, now) {
            return self.dropped(QuarantineDrop::Rate);
        }
        if self.waiting.fetch_add(length, Ordering::Relaxed) + length > QUEUE_BYTES_MAX {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            return self.dropped(QuarantineDrop::Busy);
        }
        let write = Write { keep, max_size: bounds.max_size, length };
        let queued = lock(&self.queue).as_ref().is_some_and(|queue| queue.try_send(write).is_ok());
        if !queued {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            self.dropped(QuarantineDrop::Busy);
        }
    }

    /// Counts a request that could not be kept.
    pub fn dropped(&self, why: QuarantineDrop) {
        self.metrics.quarantine_drop(why).inc();
    }

    /// The ids of what is kept, oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<EventId> {
        self.ring().ids()
    }

    /// Reads one request.
    ///
    /// # Errors
    /// [`KeptError`].
    pub fn read(&self, id: EventId) -> Result<Kept, KeptError> {
        let place = self.ring().find(id).ok_or(KeptError::NoSuch(id))?;
        record::decode(id, place.read()?).ok_or(KeptError::Damaged(id))
    }

    /// Keeps others from admitting until it is dropped, so that no request is admitted twice.
    pub fn one_admits(&self) -> impl Drop {
        lock(&self.admitting)
    }

    /// Removes requests for good, also from the next start's point of view; how many there were.
    ///
    /// # Errors
    /// What the system said; then they are still there.
    pub fn remove(&self, ids: &[EventId]) -> io::Result<u64> {
        let mut ring = self.ring();
        let removed = ring.remove(ids);
        tell(&ring, &self.metrics);
        removed
    }

    /// The figures of now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.ring().figures()
    }

    /// Writes what waits and ends the thread. What is refused from now on is dropped.
    pub fn close(&self) {
        drop(lock(&self.queue).take());
        if let Some(writer) = lock(&self.writer).take() {
            let _panicked = writer.join();
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }
}

/// The thread: writes what comes until the queue is closed. Complains once about a disk that does not take it.
fn write_all(writes: &Receiver<Write>, ring: &Mutex<Ring>, waiting: &AtomicU64, metrics: &Metrics) {
    let mut works = true;
    for Write { keep, max_size, length } in writes {
        let mut ring = lock(ring);
        match ring.keep(&keep, max_size) {
            Ok(pushed_out) => {
                metrics.quarantine_drop(QuarantineDrop::Overflow).add(pushed_out);
                works = true;
            }
            Err(error) => {
                metrics.quarantine_drop(QuarantineDrop::Unwritable).inc();
                if works {
                    tracing::warn!(%error, "refused requests can't be kept in quarantine");
                }
                works = false;
            }
        }
        tell(&ring, metrics);
        waiting.fetch_sub(length, Ordering::Relaxed);
    }
}

fn tell(ring: &Ring, metrics: &Metrics) {
    let Figures { count, bytes } = ring.figures();
    metrics.quarantine_entries.set(i64::try_from(count).unwrap_or(i64::MAX));
    metrics.quarantine_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
