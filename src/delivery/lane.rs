//! Owns the deliveries of one upstream: its queue, its gates, its workers and their connections.
//!
//! Promises that all of them live on one shard, that at most `concurrency` attempts are under way, and that a worker
//! with work never waits for another task: it makes an attempt, settles it and takes the next job itself. The
//! steward (one task for each lane) starts workers, and lets time open the gates. Workers that rested for
//! [`IDLE`] end and close their connections.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, time::timeout};

use super::{
    BreakerView, Env, Signals,
    breaker::{Pass, Step},
    classify::{self, Judgement, Rules},
    client::{Answer, EXCERPT_BYTES, Failure, Shared},
    gates::{Admitted, Evidence, Gates},
    request::{self, Draft, LargeBodies, Unsent},
    settle,
    sink::Files,
    targets::{Balancer, Chosen, Clients},
};
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, Job, Outcome, Reason},
    log::Done,
    routing::Upstream,
    telemetry::UpstreamMetrics,
};

/// How long an idle worker keeps its connection.
const IDLE: Duration = Duration::from_secs(60);
/// When an attempt that failed on our side (an expression worker gone, the disk unreadable) is made again.
const OUR_FAULT_DELAY: Duration = Duration::from_secs(5);
/// Proxied requests to one upstream at once; more wait, within their time-out.
const PROXIED_MAX: usize = 256;

/// The deliveries of one upstream.
pub(crate) struct Lane {
    pub(crate) name: Arc<str>,
    pub(crate) env: Arc<Env>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    /// Jobs from the agenda's thread; bounded by the window the agenda was told.
    inbox: Mutex<Inbox>,
    bell: Notify,
    /// Rung for whoever collects a batch: there may be more for it, or it ends.
    pub(super) more: Notify,
    /// Another lane may have taken its place: it takes no more jobs and tells the agenda nothing.
    retired: Mutex<bool>,
    pub(super) hall: Mutex<Hall>,
    pub(super) protocol: Shared,
    /// Of an upstream that is files.
    pub(super) files: Arc<Files>,
    /// The targets, if there are several.
    pub(super) balancer: Arc<Balancer>,
    pub(crate) large_bodies: LargeBodies,
    pub(crate) proxied: tokio::sync::Semaphore,
    /// Settlements that the log refused and that are offered again.
    pub(super) unsettled: AtomicUsize,
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
    fn take(&mut self, concurrency: usize) -> Option<Admitted> {
        if self.collecting {
            return None;
        }
        let job = self.gates.take(concurrency)?;
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
        let lane = Arc::new(Self {
            hall: Mutex::new(Hall {
                gates: Gates::new(env.clock.steady()),
                resting: Vec::new(),
                closed: false,
                batches: false,
                collecting: false,
            }),
            name,
            env,
            metrics,
            inbox: Mutex::default(),
            bell: Notify::new(),
            more: Notify::new(),
            files: Arc::default(),
            retired: Mutex::new(false),
            protocol: Shared::default(),
            balancer: Arc::default(),
            large_bodies: LargeBodies::default(),
            proxied: tokio::sync::Semaphore::new(PROXIED_MAX),
            unsettled: AtomicUsize::new(0),
            shard: shard.clone(),
        });
        // Whatever was remembered of a breaker before this lane: this one is closed.
        lane.env.signals.paused(&lane.name, false);
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

    /// Tells the agenda something, unless the lane is retired.
    fn signal(&self, tell: impl FnOnce(&dyn Signals)) {
        let retired = lock(&self.retired);
        if !*retired {
            tell(&*self.env.signals);
        }
    }

    /// Figures for operators.
    pub(crate) fn view(&self) -> BreakerView {
        let hall = lock(&self.hall);
        let breaker = &hall.gates.breaker;
        BreakerView {
            upstream: self.name.clone(),
            state: breaker.state(),
            since: breaker.since(),
            opens_until: breaker.opens_until(),
            failures: breaker.failures(),
            in_flight: hall.gates.in_flight,
            targets: self.balancer.views(self.env.clock.steady()),
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
        let now = self.env.clock.steady();
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
            resting.iter().for_each(|desk| desk.bell.notify_one());
            self.more.notify_one();
            self.give_back(returned);
            return None;
        };
        let back = self.balance(upstream, now);
        hall.gates.tick(now);
        let batches = upstream.batch.is_some();
        if std::mem::replace(&mut hall.batches, batches) != batches {
            hall.collecting = false;
        }
        let limit = hall.gates.limit(upstream.concurrency);
        let returned = if limit == 0 { std::mem::take(&mut hall.gates.queue) } else { Default::default() };
        while let Some(job) = hall.take(upstream.concurrency) {
            self.start(&mut hall, job);
        }
        if hall.collecting {
            self.more.notify_one();
        }
        let deadline = hall.gates.deadline().into_iter().chain(self.files.due()).chain(back).min();
        let window = hall.gates.new_window(upstream.concurrency, events_each(upstream));
        self.metrics.breaker_state.set(hall.gates.breaker.state().as_number());
        drop(hall);
        self.give_back(returned);
        if let Some(window) = window {
            self.signal(|signals| signals.window(&self.name, window));
        }
        Some(deadline.map_or(Duration::from_secs(3600), |at| at.since(now).max(Duration::from_millis(1))))
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
        match hall.take(concurrency) {
            Some(job) => {
                drop(hall);
                self.count(1);
                Next::Job(job)
            }
            None => {
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

    /// One attempt, from the configuration of this moment to the entry in the log. Gives the concurrency to go on with.
    async fn attempt(self: &Arc<Self>, clients: &mut Clients, admitted: Admitted) -> usize {
        let (env, Admitted { job, pass }) = (&self.env, admitted);
        let table = env.live.snapshot();
        let Some(upstream) = table.upstreams.get(&*self.name) else {
            self.give_back([job]);
            return 0;
        };
        if let Some(policy) = &upstream.batch {
            self.attempt_batch(clients.to(None), (job, pass), (&table, upstream, policy)).await;
            return upstream.concurrency;
        }
        let chosen = self.choose(clients, upstream).await;
        let upstream = chosen.as_ref().map_or(upstream, |chosen| &chosen.upstream);
        let now = env.clock.now();
        match request::prepare(&job, upstream, &table, &env.log, &env.evaluator, &self.large_bodies, now).await {
            Ok(draft) => self.send((clients, chosen.as_ref()), &draft, (&job, pass), upstream).await,
            Err(unsent) => self.leave(&job, unsent),
        }
        upstream.concurrency
    }

    /// Takes the targets of the configuration over. Gives when time alone changes something about them.
    fn balance(&self, upstream: &Upstream, now: Timestamp) -> Option<Timestamp> {
        self.balancer.adopt(upstream.targets.as_ref(), &self.metrics);
        if upstream.targets.is_none() {
            return None;
        }
        self.balancer.watch(&self.env.clock, &self.env.jitter);
        self.balancer.tick(now)
    }

    /// The target of an attempt, if there are several: one that can't be connected to gives its turn to another, once.
    async fn choose(&self, clients: &mut Clients, upstream: &Upstream) -> Option<Chosen> {
        let targets = upstream.targets.as_deref()?;
        let now = self.env.clock.steady();
        let first = self.balancer.choose(targets, now, (&self.name, None))?;
        let connected = clients.to(Some(&first)).ready(&first.upstream, &first.protocol).await;
        let Err(failure) = connected else { return Some(first) };
        let now = self.env.clock.steady();
        let Some(other) = self.balancer.choose(targets, now, (&self.name, Some(&first.url))) else {
            return Some(first);
        };
        self.balancer.note(&first, true, now);
        self.metrics.failovers.inc();
        let (upstream, target, other_target) = (&*self.name, &*first.url, &*other.url);
        tracing::debug!(upstream, target, other_target, %failure, "an attempt goes to another target");
        Some(other)
    }

    /// What becomes of a delivery that can't be attempted.
    pub(super) fn leave(self: &Arc<Self>, job: &Job, unsent: Unsent) {
        let change = match unsent {
            Unsent::Settled(change) => change,
            Unsent::Later(words) => {
                tracing::warn!(upstream = &*self.name, event = %job.event.id, reason = &*words, "an attempt is put off");
                Change::Postpone(self.env.clock.steady().after(OUR_FAULT_DELAY))
            }
        };
        self.write(settle::attempted(&job.into(), None, change), Done::nobody());
    }

    async fn send(
        self: &Arc<Self>,
        (clients, chosen): (&mut Clients, Option<&Chosen>),
        draft: &Draft<'_>,
        (job, pass): (&Job, Pass),
        upstream: &Arc<Upstream>,
    ) {
        let env = &self.env;
        let (at, started) = (env.clock.now(), env.clock.elapsed());
        let protocol = chosen.map_or(&self.protocol, |chosen| &*chosen.protocol);
        let result = clients.to(chosen).exchange(draft, upstream, protocol, EXCERPT_BYTES).await;
        if let Some(chosen) = chosen {
            self.balancer.observe(chosen, &result, env.clock.steady());
        }
        let latency = env.clock.elapsed().saturating_sub(started);
        if let Err(Failure::Unsendable(words)) = &result {
            let change = Change::Die(Reason::with("unsendable", words));
            return self.write(settle::attempted(&job.into(), None, change), Done::nobody());
        }
        let judged = judge(&result, upstream, env.clock.now());
        self.metrics.attempt.observe(latency);
        if draft.is_resigned() {
            self.metrics.resigned.inc();
        }
        if let Some(counter) = self.metrics.attempts.get(judged.outcome as usize) {
            counter.inc();
        }
        if judged.outcome == Outcome::Delivered {
            self.metrics.delivery.observe(env.clock.now().since(job.event.received_at));
        }
        let attempt = Attempt {
            number: job.number,
            at,
            outcome: judged.outcome,
            status: result.as_ref().ok().map(|answer| answer.status.as_u16()),
            error: error_words(&result, &judged),
            latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
            excerpt: result.map(|answer| answer.body).unwrap_or_default(),
            sent: draft.sent(),
        };
        self.settle((job, pass), attempt, &judged, upstream);
    }

    /// Tells the gates and the log what became of an attempt. Gives whether the breaker is open after it.
    pub(super) fn settle(
        self: &Arc<Self>,
        (job, pass): (&Job, Pass),
        attempt: Attempt,
        judged: &Judgement,
        upstream: &Upstream,
    ) -> bool {
        let env = &self.env;
        let now = env.clock.steady();
        let mut hall = lock(&self.hall);
        let observed = hall.gates.observe(judged, (job.event.id.pos.seq, pass), upstream, now);
        let window = hall.gates.new_window(upstream.concurrency, events_each(upstream));
        self.metrics.breaker_state.set(hall.gates.breaker.state().as_number());
        let failures = hall.gates.breaker.failures();
        drop(hall);

        let change = settle::change(job, judged, &upstream.retry, observed.open, &env.jitter, now);
        self.write(settle::attempted(&job.into(), Some(attempt), change), observed.done);
        if window.is_some() || observed.step != Step::Same {
            self.tell(observed.step, window, failures, judged);
        }
        self.give_back(observed.returned);
        if !observed.revive.is_empty() {
            tokio::spawn(self.clone().revive(observed.revive));
        }
        observed.open
    }

    fn tell(&self, step: Step, window: Option<usize>, failures: u32, judged: &Judgement) {
        let upstream = &*self.name;
        match step {
            Step::Opened => {
                let reason = judged.words.as_deref().unwrap_or_default();
                tracing::warn!(upstream, failures, reason, "the breaker opened");
                self.signal(|signals| signals.paused(upstream, true));
            }
            Step::Closed => {
                tracing::info!(upstream, "the breaker closed");
                self.signal(|signals| signals.paused(upstream, false));
            }
            Step::Same | Step::Grew => {}
        }
        if let Some(window) = window {
            self.signal(|signals| signals.window(upstream, window));
        }
        self.bell.notify_one();
    }

    /// Makes deliveries pending again that died of the answers that opened the breaker.
    async fn revive(self: Arc<Self>, deliveries: impl IntoIterator<Item = Evidence> + Send) {
        let deliveries: Vec<Evidence> = deliveries.into_iter().collect();
        for Evidence { event, entry } in deliveries {
            // Without its entry the delivery never died; it is still leased, and made again after a restart.
            if let Ok(Ok(crate::log::Appended::Appended(id))) = entry.await {
                let named = settle::Named { event, upstream: &self.name, previous: Some(id.pos.seq), replays: None };
                let change = Change::Replay(self.env.clock.steady());
                self.write(settle::attempted(&named, None, change), Done::nobody());
            }
        }
    }
}

/// How many events an attempt holds at most.
fn events_each(upstream: &Upstream) -> usize {
    upstream.batch.as_ref().map_or(1, |batch| batch.max_items)
}

/// What a worker does next.
enum Next {
    Job(Admitted),
    Rest,
    End,
}

pub(super) fn judge(result: &Result<Answer, Failure>, upstream: &Upstream, now: crate::clock::Timestamp) -> Judgement {
    let rules = Rules { soft_bounce: upstream.soft_bounce, retry_after_max: upstream.retry.retry_after_max };
    match result {
        Ok(answer) => classify::answer(answer.status, &answer.headers, rules, now),
        Err(failure) => classify::no_answer(failure.to_string().into()),
    }
}

/// What went wrong, for people: the failure or the status in words, or why a good answer's body is not whole.
pub(super) fn error_words(result: &Result<Answer, Failure>, judged: &Judgement) -> Option<Box<str>> {
    let cut = result.as_ref().ok().and_then(|answer| answer.cut.as_ref());
    let cut = cut.filter(|cut| **cut != super::client::Cut::Longer);
    judged.words.clone().or_else(|| cut.map(|cut| cut.to_string().into()))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
