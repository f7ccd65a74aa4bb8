//! Owns the delivery engine: it takes jobs, makes attempts, judges the answers and writes what follows to the log.
//!
//! Promises that each upstream has its own lane on one shard, so that a dead or hanging upstream delays no other; at
//! most `concurrency` attempts at once; that every wait has a limit; and that every job ends either in an
//! `attempted` entry or in [`Signals::returned`]. What is due and when is the agenda's business: it learns of outcomes
//! from the log, never from here. Limits: the window (see [`Signals::window`]) bounds queued jobs; 16 KiB of an
//! answer are kept (or what a sender waits for, in pieces) and 1 MiB more is read; connections are at most `concurrency` for HTTP/1 and one for HTTP/2.

mod adapt;
mod allowance;
mod answer;
mod attempt;
mod batch;
mod breaker;
mod bucket;
mod classify;
mod client;
mod cloudevents;
mod connection;
mod export;
mod gates;
mod handshake;
mod headers;
mod lane;
mod names;
mod pace;
mod policy;
pub mod preview;
mod program;
mod proxy;
mod publish;
mod ratelimit;
mod rehearse;
mod request;
mod resolve;
mod settle;
mod shadow;
mod sign;
mod sink;
mod stream;
mod targets;
#[cfg(test)]
pub(crate) mod tests;
mod trip;
mod unsettled;
mod upgrade;
mod waiters;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Notify};

pub use answer::Answered;
pub use breaker::BreakerState;
pub use export::export;
pub use pace::Throttle;
pub use proxy::{Proxied, ProxyError, Switched};
pub use resolve::{Lookup, Resolve, System};
pub use targets::TargetView;
pub use upgrade::{Upgrade, Upgraded};
pub use waiters::{Awaited, Ticket, Waiting};

use self::lane::Lane;
use crate::{
    clock::{Clock, Timestamp},
    event::{Job, Seq},
    expr::Evaluator,
    jitter::Jitter,
    log::{Log, entry::Fault},
    routing::Live,
    telemetry::Metrics,
};

/// What the engine works with.
pub struct Deps {
    /// Time.
    pub clock: Clock,
    /// Spreads retries.
    pub jitter: Jitter,
    /// Where outcomes are written and large bodies are read.
    pub log: Arc<dyn Log>,
    /// The routing table.
    pub live: Live,
    /// For transforms.
    pub evaluator: Evaluator,
    /// Knows the addresses of upstreams' names.
    pub resolver: Arc<dyn Resolve>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who is told about windows and pauses.
    pub signals: Arc<dyn Signals>,
    /// This node's name, for diagnostics.
    pub node: Arc<str>,
}

/// What the engine tells the agenda. Called from the shards; must not block.
pub trait Signals: Send + Sync {
    /// How many jobs of this upstream the engine takes from now on (dispatched and not yet settled or returned): 0
    /// while the breaker is open, the upstream asked for a pause or has not permitted anything, 1 for the half-open probe, doubling after that.
    fn window(&self, upstream: &str, window: usize);
    /// A job is given back without an attempt: the gates closed, the upstream is gone, the engine drains.
    fn returned(&self, event: Seq, upstream: &str);
    /// The breaker opened (true) or closed (false); the time between does not count towards giving up. Told false as
    /// well when an upstream's lane opens or closes, and possibly the same twice.
    fn paused(&self, upstream: &str, paused: bool);
}

/// The state of an upstream's gates, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerView {
    /// Which upstream.
    pub upstream: Arc<str>,
    /// Closed, half-open or open.
    pub state: BreakerState,
    /// Since when (steady time).
    pub since: Timestamp,
    /// When an open breaker lets a probe through (steady time).
    pub opens_until: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts that may be under way at once; None if the upstream is gone.
    pub limit: Option<usize>,
    /// Attempts that may begin in a second, if anything bounds them.
    pub rate: Option<f64>,
    /// What holds jobs back besides the breaker, and until when (steady time).
    pub throttled: Option<(Throttle, Timestamp)>,
    /// Its targets, if it has several.
    pub targets: Vec<TargetView>,
    /// What it said when it was asked for its permission, if it must be asked.
    pub handshake: Option<Arc<str>>,
    /// How attempts fail in a rehearsal, and until when (steady time).
    pub rehearsal: Option<(Fault, Timestamp)>,
}

/// The delivery engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    env: Arc<Env>,
    shards: Vec<Handle>,
    lanes: ArcSwap<HashMap<Box<str>, Arc<Lane>>>,
    /// Serializes changes of `lanes`; counts lanes opened, for the choice of a shard.
    opened: Mutex<usize>,
    /// Targets that get no new attempts, by upstream; of those that are not configured as well.
    drained: Mutex<HashMap<Box<str>, Vec<Box<str>>>>,
}

/// What all lanes share.
pub(crate) struct Env {
    clock: Clock,
    jitter: Jitter,
    log: Arc<dyn Log>,
    live: Live,
    evaluator: Evaluator,
    resolver: Arc<dyn Resolve>,
    metrics: Arc<Metrics>,
    signals: Arc<dyn Signals>,
    /// Senders who wait for answers.
    waiters: Arc<waiters::Waiters>,
    /// Who gets copies.
    shadows: shadow::Shadows,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    quiet: Notify,
}

impl Env {
    /// Something begins that a drain waits for: an attempt, or a settlement that the log refused.
    fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// It ended.
    fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.quiet.notify_waiters();
        }
    }
}

impl Engine {
    /// Starts a lane for each upstream of the live table. Each upstream is pinned to one of the shards: tokio
    /// runtimes of one thread, with I/O and time enabled. Without shards every job is returned.
    #[must_use]
    pub fn start(deps: Deps, shards: &[Handle]) -> Self {
        tracing::debug!(node = &*deps.node, shards = shards.len(), "the delivery engine starts");
        let env = Env {
            clock: deps.clock,
            jitter: deps.jitter,
            log: deps.log,
            live: deps.live,
            evaluator: deps.evaluator,
            resolver: deps.resolver,
            waiters: waiters::Waiters::new(deps.metrics.clone()),
            metrics: deps.metrics,
            signals: deps.signals,
            shadows: shadow::Shadows::default(),
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            quiet: Notify::new(),
        };
        let engine = Self(Arc::new(Inner {
            env: Arc::new(env),
            shards: shards.to_vec(),
            lanes: ArcSwap::default(),
            opened: Mutex::new(0),
            drained: Mutex::default(),
        }));
        engine.configure();
        engine
    }

    /// Takes a job. Never blocks; may be called from any thread. Jobs beyond the window wait in memory: keep to it.
    /// A job for an upstream that is not configured, or that comes while the engine drains, is returned at once.
    pub fn dispatch(&self, job: Job) {
        match self.0.lanes.load().get(&*job.upstream) {
            Some(lane) => lane.push(job),
            None => {
                self.0.env.waiters.returned(job.event.id.pos.seq, &job.upstream);
                self.0.env.signals.returned(job.event.id.pos.seq, &job.upstream);
            }
        }
    }

    /// A place for a sender who waits for the answer to an event that is not stored yet. None if there will be none: the
    /// upstream takes nothing now, or too many wait.
    #[must_use]
    pub fn expect(&self, awaited: Awaited) -> Option<Waiting> {
        let table = self.0.env.live.snapshot();
        let upstream = table.upstreams.get(&*awaited.upstream)?;
        let lanes = self.0.lanes.load();
        let lane = lanes.get(&*awaited.upstream)?;
        if upstream.batch.is_some() || lane.is_shut(upstream.concurrency) {
            None
        } else {
            self.0.env.waiters.expect(awaited)
        }
    }

    /// The sender of an event waits for an answer that will not come now.
    pub fn unanswered(&self, event: Seq) {
        self.0.env.waiters.unanswered(event);
    }

    /// Waits until the sender of an event has its answer and it is stored, or has none; at once if nobody waits. Gives
    /// where it stands, if that is remembered.
    pub async fn first_answer(&self, event: Seq) -> Option<Option<Seq>> {
        self.0.env.waiters.over(event).await;
        self.answer_known(event)
    }

    /// Where the first answer to an event is stored; None inside if there is none, None outside if that is not remembered.
    #[must_use]
    pub fn answer_known(&self, event: Seq) -> Option<Option<Seq>> {
        self.0.env.waiters.answered_at(event)
    }

    /// The first answer to an event was sought in the log: what came of it is remembered for the next duplicate.
    pub fn answer_found(&self, event: Seq, answer: Option<Seq>) {
        self.0.env.waiters.remember(event, answer);
    }

    /// Looks at the live table again, after it was swapped: opens lanes for new upstreams, closes those of removed
    /// ones (their jobs are returned; attempts under way are finished) and tells changed windows.
    pub fn configure(&self) {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.0.env.live.snapshot();
        let drained = self.0.drained.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.lanes.load_full();
        let mut lanes = HashMap::with_capacity(table.upstreams.len());
        if !self.0.env.draining.load(Ordering::Acquire) {
            for (name, upstream) in &table.upstreams {
                if let Some(lane) = before.get(name) {
                    lanes.insert(name.clone(), lane.clone());
                } else if let Some(shard) = self.0.shards.get(*opened % self.0.shards.len().max(1)) {
                    let lane = Lane::open(upstream.name.clone(), self.0.env.clone(), shard);
                    if let Some(targets) = drained.get(name) {
                        lane.drain(targets);
                    }
                    lanes.insert(name.clone(), lane);
                    *opened += 1;
                }
            }
        }
        let current = Arc::new(lanes);
        self.0.lanes.store(current.clone());
        for (name, lane) in &*before {
            if current.get(name).is_some_and(|now| Arc::ptr_eq(now, lane)) { lane.ring() } else { lane.retire() }
        }
    }

    /// From now on these targets of an upstream get no new attempts, and all its others do. Attempts under way go on. With
    /// no target left the upstream stands still, as if its breaker were open.
    pub fn drained(&self, upstream: &str, targets: Vec<Box<str>>) {
        let mut drained = self.0.drained.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = self.0.lanes.load().get(upstream) {
            lane.drain(&targets);
        }
        if targets.is_empty() {
            drained.remove(upstream)
        } else {
            drained.insert(upstream.into(), targets)
        };
    }

    /// Lets the attempts of an upstream fail as told for a time, without touching the network; None ends that at once.
    /// When it ends its breaker is closed. False if there is no such upstream, or nothing to end.
    #[must_use]
    pub fn rehearse(&self, upstream: &str, how: Option<(Fault, Duration)>) -> bool {
        self.0.lanes.load().get(upstream).is_some_and(|lane| lane.rehearse(how))
    }

    /// The breakers of all upstreams, by name.
    #[must_use]
    pub fn breakers(&self) -> Vec<BreakerView> {
        let mut views: Vec<BreakerView> = self.0.lanes.load().values().map(|lane| lane.view()).collect();
        views.sort_by(|one, other| one.upstream.cmp(&other.upstream));
        views
    }

    /// Takes no more jobs, gives back those that wait and lets attempts under way finish, for at most `deadline`.
    /// What is still under way then is made again after the restart. Cancel-safe; the engine stays closed.
    pub async fn drain(&self, deadline: Duration) {
        self.0.env.draining.store(true, Ordering::Release);
        self.configure();
        let quiet = async {
            loop {
                let notified = self.0.env.quiet.notified();
                if self.0.env.in_flight.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        if tokio::time::timeout(deadline, quiet).await.is_err() {
            let left = self.0.env.in_flight.load(Ordering::Acquire);
            tracing::warn!(left, "attempts were still under way at the end of the drain");
        }
    }
}
