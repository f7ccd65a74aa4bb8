//! Owns what is due and who gets it: planning, fairness between upstreams, retries, holds, replays, the in-flight
//! table.
//!
//! One thread owns everything ([`core::Core`], a pure state machine); this handle is how others speak to it. It
//! promises never to block the committer, the senders' threads or the engine; only operators' questions
//! ([`Agenda::ask`] and what is built on it) wait for an answer, and belong on threads that may block.
//!
//! Deliberately absent: sockets and attempts (`delivery`), what is stored (`state`, `log`).

mod command;
pub mod core;
mod duplicates;
mod feed;
mod lane;
mod notices;
mod order;
pub mod plan;
mod read;
mod retry;
#[cfg(test)]
mod tests;
mod thread;
mod turns;
mod view;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

pub use command::{CommandError, TARGETS_MAX, Ticket};
pub use core::Bounds;
pub use feed::{Bell, Feed, Next};
pub use read::read as read_events;
pub use view::Blocked;

use crate::{
    clock::{Clock, Timestamp},
    event::{EventId, Job, Seq},
    expr::Evaluator,
    log::Log,
    routing::Live,
    state::{Keep, Store, StoreError, Subscribed},
    telemetry::Metrics,
};

/// No question is taken while so much waits to be heard.
const ASKS_MAX: usize = 1024;

/// Where jobs go: the delivery engine.
pub trait Dispatch: Send + Sync {
    /// Takes a job. Must not block.
    fn dispatch(&self, job: Job);

    /// From now on these targets of an upstream get no new attempts, and no others are kept from them. Must not block.
    fn drained(&self, upstream: &str, targets: Vec<Box<str>>) {
        let _no_targets = (upstream, targets);
    }

    /// The sender of an event waits for an answer that will not come now. Must not block.
    fn unanswered(&self, event: Seq) {
        let _nobody_waits = event;
    }

    /// Subscribers came, went or changed. Called on the agenda's thread: first when the state has caught up with the log,
    /// and always before what comes after in the log is planned. Whoever puts them into the live table does it before
    /// this returns.
    fn subscribed(&self, subscribed: Subscribed) {
        let _nobody_asks = subscribed;
    }
}

/// How the agenda is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state's directory.
    pub dir: PathBuf,
    /// Bytes of committed entries that wait for the agenda.
    pub feed_bytes: usize,
    /// Limits in memory.
    pub bounds: Bounds,
    /// A checkpoint after so many bytes of log …
    pub checkpoint_bytes: u64,
    /// … or after so long, if anything changed.
    pub checkpoint_every: Duration,
    /// How long settled and dead deliveries stay.
    pub keep: Keep,
}

impl Settings {
    /// 32 MiB of feed, a checkpoint each 64 MiB or 10 s.
    #[must_use]
    pub const fn standard(dir: PathBuf, keep: Keep) -> Self {
        Self {
            dir,
            feed_bytes: 32 << 20,
            bounds: Bounds::standard(),
            checkpoint_bytes: 64 << 20,
            checkpoint_every: Duration::from_secs(10),
            keep,
        }
    }
}

/// What the agenda works with.
#[derive(Clone)]
#[expect(missing_docs, reason = "named after their types")]
pub struct Deps {
    pub log: Arc<dyn Log>,
    pub live: Live,
    pub evaluator: Evaluator,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Where jobs go.
    pub dispatch: Arc<dyn Dispatch>,
    /// Where filters that need the pool are awaited.
    pub runtime: tokio::runtime::Handle,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Agenda(Arc<Shared>);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many questions wait.
    #[error("the agenda is busy with other questions: try again")]
    Busy,
    /// The agenda's thread has ended.
    #[error("the agenda has stopped")]
    Stopped,
    /// The stored state could not be read; it is being rebuilt.
    #[error("the state of deliveries is being rebuilt: try again")]
    Rebuilding,
}

/// A question that is answered on the agenda's thread.
type Asking = Box<dyn FnOnce(&mut core::Core, Timestamp) + Send>;

/// What others tell the agenda's thread. The queue is bounded by what it speaks of: jobs in flight, orders under way,
/// upstreams, at most [`ASKS_MAX`] questions, and threads that wait for an entry.
enum Incoming {
    Window(Arc<str>, usize),
    Returned(Seq, Arc<str>),
    Paused(Arc<str>, bool),
    Configured,
    Loaded(core::Purpose, Vec<(Seq, core::Read)>),
    Answered(core::Question, Vec<(usize, plan::Answer)>),
    Upkeep(thread::UpkeepDone),
    Ask(Asking),
    /// Answered when everything below has been applied.
    Until(Seq, mpsc::SyncSender<()>),
    Stop,
}

struct Shared {
    inbox: Mutex<VecDeque<Incoming>>,
    bell: Bell,
    noted: duplicates::Noted,
    deps: Deps,
    settings: Settings,
    stopped: AtomicBool,
    /// The process ends: what can't be read is not waited for.
    ending: AtomicBool,
    ready: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Agenda {
    /// Opens the stored state and starts the thread, which first catches up with the log; meanwhile events are
    /// accepted and nothing is delivered. Becomes the log's follower, so it must be called before the first append.
    ///
    /// # Errors
    /// [`StoreError`] if the state's directory can't be used, or the thread can't be made.
    pub fn start(settings: Settings, deps: Deps) -> Result<Self, StoreError> {
        let bell = Bell::default();
        let feed = Arc::new(Feed::new(settings.feed_bytes, bell.clone(), deps.metrics.clone()));
        let (store, state) = Store::open(&settings.dir, deps.log.log_id(), written_end(&*deps.log))?;
        deps.log.follow(feed.clone());
        let dir = settings.dir.clone();
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            bell,
            noted: duplicates::Noted::default(),
            deps,
            settings,
            stopped: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let run = thread::Run::new(shared.clone(), feed, store, state);
        let handle = std::thread::Builder::new().name("agenda".into()).spawn(move || run.run());
        let handle = handle.map_err(|source| StoreError::Io { path: dir, source })?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(Self(shared))
    }

    /// Whether the state has caught up with the log and deliveries go out.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// The engine takes so many jobs of this upstream at once from now on: 0 while its breaker is open.
    pub fn window(&self, upstream: &str, window: usize) {
        self.0.tell(Incoming::Window(upstream.into(), window));
    }

    /// The engine gives a job back without an attempt.
    pub fn returned(&self, event: Seq, upstream: &str) {
        self.0.tell(Incoming::Returned(event, upstream.into()));
    }

    /// The breaker of an upstream opened or closed: the time between does not count towards giving up.
    pub fn paused(&self, upstream: &str, paused: bool) {
        self.0.tell(Incoming::Paused(upstream.into(), paused));
    }

    /// A new routing table is live.
    pub fn configured(&self) {
        self.0.tell(Incoming::Configured);
    }

    /// An event was sent again. From any thread; beyond 10,000 events at once it is not remembered.
    pub fn note_duplicate(&self, first: EventId, body_differs: bool) {
        if self.0.noted.note(first, body_differs) {
            self.0.bell.ring();
        }
    }

    /// Asks the thread something about its state and waits for the answer. Blocks: not for async threads.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut core::Core, Timestamp) -> T + Send + 'static,
    ) -> Result<T, AskError> {
        let (sender, answer) = mpsc::sync_channel(1);
        let ask = Incoming::Ask(Box::new(move |core, now| {
            let _gone = sender.send(question(core, now));
        }));
        if !self.0.tell_unless_full(ask) {
            return Err(AskError::Busy);
        }
        answer.recv().map_err(|_| AskError::Stopped)
    }

    /// Waits until the entry with this number has been applied, however much waits to be heard: what is stored has
    /// happened. Blocks: not for async threads.
    ///
    /// # Errors
    /// [`AskError::Stopped`].
    pub fn applied(&self, seq: Seq) -> Result<(), AskError> {
        let (sender, answer) = mpsc::sync_channel(1);
        self.0.tell(Incoming::Until(seq, sender));
        answer.recv().map_err(|_| AskError::Stopped)
    }

    /// The process ends: a state that waits for a log which can't be read is given up, and nobody waits for its answers.
    pub fn ending(&self) {
        self.0.ending.store(true, Ordering::Release);
        self.0.bell.ring();
    }

    /// Hands nothing out any more, writes a last checkpoint and ends the thread. Blocks.
    pub fn stop(&self) {
        self.ending();
        self.0.tell(Incoming::Stop);
        let handle = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            let _panicked = handle.join();
        }
    }
}

/// The sequence number after the last entry that stands in the log. [`Log::end`] jumps at every start, and so far
/// ahead that state from a newer copy of the log would not be noticed. What can't be read proves nothing.
fn written_end(log: &dyn Log) -> Seq {
    match log.scan_back(log.end()) {
        Ok(entries) => entries.last().map_or(0, |entry| entry.pos.seq.saturating_add(1)),
        Err(_) => log.end(),
    }
}

impl Shared {
    fn tell(&self, incoming: Incoming) {
        self.put(incoming, usize::MAX);
    }

    fn tell_unless_full(&self, incoming: Incoming) -> bool {
        self.put(incoming, ASKS_MAX)
    }

    /// False if so much waits already.
    fn put(&self, incoming: Incoming, most: usize) -> bool {
        {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: once the thread has stopped and emptied the inbox, nothing is put there any more.
            if inbox.len() >= most {
                return false;
            }
            if !self.stopped.load(Ordering::Acquire) {
                inbox.push_back(incoming);
            }
        }
        self.bell.ring();
        true
    }
}
