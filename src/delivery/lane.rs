//! Owns the deliveries of one upstream: its queue, its gates, its workers and their connections.
//!
//! Promises that all of them live on one shard, that at most `concurrency` attempts are under way, and that a worker
//! with work never waits for another task: it makes an attempt, settles it and takes the next job itself. The
//! steward (one task for each lane) starts workers, and lets time open the gates. Workers that rested for
//! [`IDLE`] end and close their connections.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{runtime::Handle, sync::Notify, time::timeout};

use super::{
    BreakerState, BreakerView, Env, Signals,
    client::Shared,
    gates::{Admitted, Gates, Now},
    handshake::Handshake,
    names::Names,
    rehearse::Rehearsal,
    request::LargeBodies,
    sink::Files,
    targets::{Balancer, Choice, Clients},
};
use crate::{clock::Timestamp, event::Job, routing::Upstream, telemetry::UpstreamMetrics};

/// How long an idle worker keeps its connection.
const IDLE: Duration = Duration::from_secs(60);
/// Proxied requests to one upstream at once; more wait, within their time-out.
const PROXIED_MAX: usize = 256;

/// The deliveries of one upstream.
pub(crate) struct Lane {
    pub(crate) name: Arc<str>,
    pub(crate) env: Arc<Env>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    /// Jobs from the agenda's thread; bounded by the window the agenda was told.
    inbox: Mutex<Inbox>,
    pub(super) bell: Notify,
    /// Rung for whoever collects a batch: there may be more for it, or it ends.
    pub(super) more: Notify,
    /// Another lane may have taken its place: it takes no more jobs and tells the agenda nothing.
    retired: Mutex<bool>,
    pub(super) hall: Mutex<Hall>,
    pub(super) protocol: Shared,
    /// Its addresses.
    pub(super) names: Arc<Names>,
    /// Of an upstream that is files.
    pub(super) files: Arc<Files>,
    /// The targets, if there are several.
    pub(super) balancer: Arc<Balancer>,
    /// The upstream's permission, if it must be asked for.
    pub(super) handshake: Handshake,
    pub(crate) large_bodies: LargeBodies,
    pub(crate) proxied: Arc<tokio::sync::Semaphore>,
    /// Settlements that the log refused and that are offered again.
    pub(super) unsettled: AtomicUsize,
    /// Attempts fail as told.
    pub(super) rehearsal: ArcSwapOption<Rehearsal>,
    /// Where the lane lives.
    pub(super) shard: Handle,
}

/// Where jobs arrive.
#[derive(Default)]
struct Inbox {
    jobs: Vec<Job>,
    /// Nobody looks any more.
    closed: bool,
}

/// What the workers share. Locked briefly, by tasks of one thread (and by those who ask for figures).
pub(super) struct Hall {
    pub(super) gates: Gates,
    /// Resting workers; the last to rest is the first to work, so that few connections stay warm.
    resting: Vec<Arc<Desk>>,
    /// No more work is taken.
    pub(super) closed: bool,
    /// Attempts are batches.
    batches: bool,
    /// A worker collects a batch: all jobs that come are for it.
    pub(super) collecting: bool,
}

impl Hall {
    /// Takes the next job for an attempt of its own, if the gates let it through.
    fn take(&mut self, concurrency: usize, now: Duration) -> Option<Admitted> {
        if self.collecting {
            return None;
        }
        let job = self.gates.take(concurrency, now)?;
        self.collecting = self.batches;
        Some(job)
    }
}

/// Where a resting worker finds its next job.
#[derive(Default)]
struct Desk {
    job: Mutex<Option<Admitted>>,
    bell: Notify,
}

impl Lane {
    /// Opens a lane on a shard.
    pub(crate) fn open(name: Arc<str>, env: Arc<Env>, shard: &Handle) -> Arc<Self> {
        let metrics = env.metrics.upstream(&name);
        let names = Names::new(env.resolver.clone(), env.clock.clone(), metrics.clone());
        let table = env.live.snapshot();
        let upstream = table.upstreams.get(&*name).map(AsRef::as_ref);
        let lane = Arc::new(Self {
            hall: Mutex::new(Hall {
                gates: Gates::new(upstream, Now::of(&env.clock)),
                resting: Vec::new(),
                closed: false,
                batches: false,
                collecting: false,
            }),
            name,
            metrics,
            inbox: Mutex::default(),
            bell: Notify::new(),
            more: Notify::new(),
            files: Arc::default(),
            retired: Mutex::new(false),
            protocol: Shared::new(names.clone()),
            balancer: Arc::new(Balancer::new(names.clone())),
            handshake: Handshake::default(),
            names,
            large_bodies: LargeBodies::default(),
            proxied: Arc::new(tokio::sync::Semaphore::new(PROXIED_MAX)),
            unsettled: AtomicUsize::new(0),
            rehearsal: ArcSwapOption::empty(),
            shard: shard.clone(),
            env,
        });
        // Whatever was remembered of a breaker before this lane: this one is closed.
        lane.env.signals.paused(&lane.name, lock(&lane.hall).gates.stopped);
        shard.spawn(lane.clone().run());
        lane
    }

    /// Takes a job. Rings once for all jobs that come before the lane looks.
    pub(crate) fn push(&self, job: Job) {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            drop(inbox);
            return self.give_back([job]);
        }
        inbox.jobs.push(job);
        let first = inbox.jobs.len() == 1;
        drop(inbox);
        if first {
            self.bell.notify_one();
        }
    }

    /// Looks again at the configuration and at whether the engine drains.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Closes the lane: its upstream is gone from the configuration or the engine drains. What it tells the agenda by
    /// this is its last word, so that a lane that takes its place at once is not contradicted.
    pub(crate) fn retire(&self) {
        let mut retired = lock(&self.retired);
        if !std::mem::replace(&mut *retired, true) {
            self.env.signals.window(&self.name, 0);
            self.env.signals.paused(&self.name, false);
        }
        drop(retired);
        self.ring();
    }

    /// These targets get no new attempts from now on.
    pub(crate) fn drain(&self, targets: &[Box<str>]) {
        self.balancer.drain(targets);
        self.ring();
    }

    /// Tells the agenda something, unless the lane is retired.
    pub(super) fn signal(&self, tell: impl FnOnce(&dyn Signals)) {
        let retired = lock(&self.retired);
        if !*retired {
            tell(&*self.env.signals);
        }
    }

    /// Whether nothing is sent now: the breaker is open, or the upstream asked for a pause.
    pub(crate) fn is_shut(&self, concurrency: usize) -> bool {
        lock(&self.hall).gates.limit(concurrency) == 0
    }

    /// Figures for operators.
    pub(crate) fn view(&self) -> BreakerView {
        let (now, table) = (Now::of(&self.env.clock), self.env.live.snapshot());
        let hall = lock(&self.hall);
        let (gates, breaker) = (&hall.gates, &hall.gates.breaker);
        BreakerView {
            upstream: self.name.clone(),
            state: breaker.state(),
            since: breaker.since(),
            opens_until: breaker.opens_until(),
            failures: breaker.failures(),
            in_flight: gates.in_flight,
            limit: table.upstreams.get(&*self.name).map(|upstream| gates.limit(upstream.concurrency)),
            rate: gates.pace.per_second(now.elapsed),
            throttled: gates.throttled(now),
            targets: self.balancer.views(now.time),
            handshake: self.handshake.words(),
            rehearsal: self.rehearsal.load().as_ref().map(|rehearsal| (rehearsal.fault, rehearsal.until)),
        }
    }

    /// The steward. Ends when the upstream is gone from the configuration or the engine drains.
    async fn run(self: Arc<Self>) {
        self.recover_files().await;
        while let Some(wait) = self.clone().oversee() {
            // Cancel-safe: a permit of the bell is kept for the next turn.
            let _rung = timeout(wait, self.bell.notified()).await;
            if self.files.is_due(self.env.clock.steady()) {
                self.finish_files(false).await;
            }
        }
        if self.files.due().is_some() {
            self.finish_files(true).await;
        }
    }

    /// Starts what may start. Gives how long nothing changes by time alone; None at the end of the lane.
    fn oversee(self: Arc<Self>) -> Option<Duration> {
        let table = self.env.live.snapshot();
        let upstream = table.upstreams.get(&*self.name).filter(|_| !*lock(&self.retired));
        let now = Now::of(&self.env.clock);
        let rehearsed_until = self.rehearsed_until(now.time);
        let mut hall = lock(&self.hall);
        let mut inbox = lock(&self.inbox);
        hall.gates.queue.extend(inbox.jobs.drain(..));
        inbox.closed = upstream.is_none();
        drop(inbox);
        let Some(upstream) = upstream else {
            hall.closed = true;
            let returned = std::mem::take(&mut hall.gates.queue);
            let resting = std::mem::take(&mut hall.resting);
            drop(hall);
            self.balancer.retire();
            self.handshake.retire();
            resting.iter().for_each(|desk| desk.bell.notify_one());
            self.more.notify_one();
            self.give_back(returned);
            return None;
        };
        let back = self.balance(upstream, now.time);
        let concurrency = upstream.concurrency;
        hall.gates.pace.configure(&upstream.pace, now.elapsed);
        let permission = self.permission(upstream);
        hall.gates.pace.permit(permission.rate, now.elapsed);
        hall.gates.unpermitted = permission.missing_until;
        hall.gates.tick(now);
        let is_drained = upstream.targets.is_some() && self.balancer.is_drained();
        let stopped = is_drained || permission.missing_until.is_some();
        let has_changed = std::mem::replace(&mut hall.gates.stopped, stopped) != stopped;
        let is_paused = stopped || hall.gates.breaker.state() != BreakerState::Closed;
        let batches = upstream.batch.is_some();
        if std::mem::replace(&mut hall.batches, batches) != batches {
            hall.collecting = false;
        }
        while let Some(job) = hall.take(concurrency, now.elapsed) {
            self.start(&mut hall, job);
        }
        if hall.collecting {
            self.more.notify_one();
        }
        let returned = if hall.collecting && hall.gates.is_open() {
            // What waits is for the batch, whatever the pace says about the next one.
            VecDeque::new()
        } else {
            hall.gates.spill(concurrency, events_each(upstream), now.elapsed)
        };
        let window = hall.gates.new_window(concurrency, events_each(upstream), now.elapsed);
        let rest = hall.gates.rest(concurrency, now);
        let times = self.files.due().into_iter().chain(back).chain(rehearsed_until);
        let rest = rest.into_iter().chain(times.map(|due| due.since(now.time))).min();
        self.show(&hall.gates, concurrency, now);
        drop(hall);
        self.give_back(returned);
        if has_changed {
            self.signal(|signals| signals.paused(&self.name, is_paused));
        }
        if let Some(window) = window {
            self.signal(|signals| signals.window(&self.name, window));
        }
        Some(rest.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(1)))
    }

    /// Sets the gauges.
    pub(super) fn show(&self, gates: &Gates, concurrency: usize, now: Now) {
        self.metrics.breaker_state.set(gates.breaker.state().as_number());
        self.metrics.concurrency_limit.set(i64::try_from(gates.limit(concurrency)).unwrap_or(i64::MAX));
        self.metrics.set_rate_limit(gates.pace.per_second(now.elapsed));
        self.metrics.throttled.set(i64::from(gates.throttled(now).is_some()));
    }

    /// Gives a job to a resting worker or to a new one.
    fn start(self: &Arc<Self>, hall: &mut Hall, job: Admitted) {
        self.count(1);
        match hall.resting.pop() {
            Some(desk) => {
                *lock(&desk.job) = Some(job);
                desk.bell.notify_one();
            }
            None => drop(tokio::spawn(self.clone().work(job))),
        }
    }

    pub(super) fn give_back(&self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            self.env.waiters.returned(job.event.id.pos.seq, &self.name);
            self.env.signals.returned(job.event.id.pos.seq, &self.name);
        }
    }

    fn count(&self, by: i64) {
        self.metrics.in_flight.add(by);
        if by > 0 { self.env.begin() } else { self.env.end() }
    }

    /// A worker: makes attempts as long as there are jobs, rests, ends.
    async fn work(self: Arc<Self>, first: Admitted) {
        let mut clients = Clients::default();
        let desk = Arc::<Desk>::default();
        let mut next = Some(first);
        while let Some(job) = next {
            let concurrency = self.attempt(&mut clients, job).await;
            next = match self.next(&desk, concurrency) {
                Next::Job(job) => Some(job),
                Next::Rest => self.rest(&mut clients, &desk).await,
                Next::End => None,
            };
        }
    }

    /// Ends an attempt and takes the next job, or a place among the resting.
    fn next(&self, desk: &Arc<Desk>, concurrency: usize) -> Next {
        self.count(-1);
        let mut hall = lock(&self.hall);
        hall.gates.in_flight -= 1;
        if hall.closed || self.env.draining.load(Ordering::Acquire) {
            return Next::End;
        }
        if hall.gates.queue.is_empty() {
            self.take_inbox(&mut hall);
        }
        let now = self.env.clock.elapsed();
        match hall.take(concurrency, now) {
            Some(job) => {
                drop(hall);
                self.count(1);
                Next::Job(job)
            }
            None => {
                if hall.gates.oversleeps(concurrency, now) {
                    self.bell.notify_one();
                }
                hall.resting.push(desk.clone());
                Next::Rest
            }
        }
    }

    /// Moves what has arrived to what waits.
    pub(super) fn take_inbox(&self, hall: &mut Hall) {
        hall.gates.queue.extend(lock(&self.inbox).jobs.drain(..));
    }

    /// Waits for a job. None when none came for [`IDLE`] or the lane closed.
    async fn rest(&self, clients: &mut Clients, desk: &Arc<Desk>) -> Option<Admitted> {
        let wait = async {
            // Cancel-safe: the job stands on the desk until it is taken.
            let _tired = timeout(IDLE, desk.bell.notified()).await;
        };
        clients.rest(wait).await;
        let mut hall = lock(&self.hall);
        hall.resting.retain(|other| !Arc::ptr_eq(other, desk));
        lock(&desk.job).take()
    }

    /// Takes the targets of the configuration over. Gives when time alone changes something about them.
    fn balance(&self, upstream: &Upstream, now: Timestamp) -> Option<Timestamp> {
        self.balancer.adopt(upstream.targets.as_ref(), &self.metrics);
        upstream.targets.as_ref()?;
        self.balancer.watch(&self.env.clock, &self.env.jitter);
        self.balancer.tick(now)
    }

    /// The target of an attempt, if there are several: one that can't be connected to gives its turn to another, once.
    pub(super) async fn choose(&self, clients: &mut Clients, upstream: &Upstream) -> Choice {
        let Some(targets) = upstream.targets.as_deref() else { return Choice::Only };
        let now = self.env.clock.steady();
        let Some(first) = self.balancer.choose(targets, now, (&self.name, None)) else { return Choice::Nobody };
        let connected = clients.to(Some(&first)).ready(&first.upstream, &first.protocol).await;
        let Err(failure) = connected else { return Choice::One(first) };
        let now = self.env.clock.steady();
        let Some(other) = self.balancer.choose(targets, now, (&self.name, Some(&first.url))) else {
            return Choice::One(first);
        };
        self.balancer.note(&first, true, now);
        self.metrics.failovers.inc();
        let (upstream, target, other_target) = (&*self.name, &*first.url, &*other.url);
        tracing::debug!(upstream, target, other_target, %failure, "an attempt goes to another target");
        Choice::One(other)
    }
}

/// How many events an attempt holds at most.
pub(super) fn events_each(upstream: &Upstream) -> usize {
    upstream.batch.as_ref().map_or(1, |batch| batch.max_items)
}

/// What a worker does next.
enum Next {
    Job(Admitted),
    Rest,
    End,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
