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
    BreakerView, Env, Signals,
    breaker::Step,
    classify::{self, Judgement, Rules},
    client::{Answer, EXCERPT_BYTES, Failure, Shared},
    gates::{Admitted, Evidence, Gates, Now, Ticket},
    pace::News,
    policy,
    rehearse::{self, Rehearsal},
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
            proxied: Arc::new(tokio::sync::Semaphore::new(PROXIED_MAX)),
            unsettled: AtomicUsize::new(0),
            rehearsal: ArcSwapOption::empty(),
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
            resting.iter().for_each(|desk| desk.bell.notify_one());
            self.more.notify_one();
            self.give_back(returned);
            return None;
        };
        let back = self.balance(upstream, now.time);
        let concurrency = upstream.concurrency;
        hall.gates.pace.configure(&upstream.pace, now.elapsed);
        hall.gates.tick(now);
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
        if let Some(window) = window {
            self.signal(|signals| signals.window(&self.name, window));
        }
        Some(rest.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(1)))
    }

    /// Sets the gauges.
    fn show(&self, gates: &Gates, concurrency: usize, now: Now) {
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

    /// One attempt, from the configuration of this moment to the entry in the log. Gives the concurrency to go on with.
    async fn attempt(self: &Arc<Self>, clients: &mut Clients, admitted: Admitted) -> usize {
        let (env, Admitted { job, ticket }) = (&self.env, admitted);
        let table = env.live.snapshot();
        let Some(upstream) = table.upstreams.get(&*self.name) else {
            self.put_back();
            self.give_back([job]);
            return 0;
        };
        if let Some(policy) = &upstream.batch {
            self.attempt_batch(clients.to(None), (job, ticket), (&table, upstream, policy)).await;
            return upstream.concurrency;
        }
        let chosen = self.choose(clients, upstream).await;
        let upstream = chosen.as_ref().map_or(upstream, |chosen| &chosen.upstream);
        let now = env.clock.now();
        match request::prepare(&job, upstream, &table, &env.log, &env.evaluator, &self.large_bodies, now).await {
            Ok(draft) => self.send((clients, chosen.as_ref()), &draft, (&job, ticket), upstream).await,
            Err(unsent) => {
                self.put_back();
                self.leave(&job, unsent);
            }
        }
        upstream.concurrency
    }

    /// Takes the targets of the configuration over. Gives when time alone changes something about them.
    fn balance(&self, upstream: &Upstream, now: Timestamp) -> Option<Timestamp> {
        self.balancer.adopt(upstream.targets.as_ref(), &self.metrics);
        upstream.targets.as_ref()?;
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
        self.env.waiters.returned(job.event.id.pos.seq, &self.name);
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
        (job, ticket): (&Job, Ticket),
        upstream: &Arc<Upstream>,
    ) {
        let env = &self.env;
        if let Some(rehearsal) = self.rehearsal.load_full() {
            return Box::pin(self.send_rehearsed(&rehearsal, draft, (job, ticket), upstream)).await;
        }
        if let Some(claim) = env.waiters.claim(job.event.id.pos.seq, &self.name) {
            // Boxed: what few sources ask for does not make every attempt larger.
            return Box::pin(self.send_awaited((clients.to(chosen), chosen), draft, (job, ticket), upstream, claim))
                .await;
        }
        let (at, started) = (env.clock.now(), env.clock.elapsed());
        let protocol = chosen.map_or(&self.protocol, |chosen| &*chosen.protocol);
        let result = clients.to(chosen).exchange(draft, upstream, protocol, kept_bytes(upstream)).await;
        if let Some(chosen) = chosen {
            self.balancer.observe(chosen, result.as_ref().map(|answer| answer.status), env.clock.steady());
        }
        let latency = env.clock.elapsed().saturating_sub(started);
        if let Err(Failure::Unsendable(words)) = &result {
            self.put_back();
            let change = Change::Die(Reason::with("unsendable", words));
            return self.write(settle::attempted(&job.into(), None, change), Done::nobody());
        }
        let mut judged = judge(&result, upstream, env.clock.now());
        let news = News::of(&result, latency, &mut judged, upstream, env.clock.now());
        self.conclude((job, ticket), draft, result, (judged, &news), (at, latency), upstream).await;
    }

    /// Applies the operator's own rules to an attempt, and settles it.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        (job, ticket): (&Job, Ticket),
        draft: &Draft<'_>,
        result: Result<Answer, Failure>,
        (mut judged, news): (Judgement, &News),
        times: (Timestamp, Duration),
        upstream: &Arc<Upstream>,
    ) {
        if let Some(answers) = &upstream.answers {
            // Boxed: what few upstreams ask for does not make every attempt larger.
            Box::pin(policy::apply(answers, &result, &mut judged, &self.env.evaluator)).await;
        }
        let attempt = self.made(job, draft, result, &judged, times);
        self.settle((job, ticket), attempt, (&judged, news), upstream);
    }

    /// Counts an attempt that was made, and describes it.
    pub(super) fn made(
        &self,
        job: &Job,
        draft: &Draft<'_>,
        result: Result<Answer, Failure>,
        judged: &Judgement,
        (at, latency): (Timestamp, Duration),
    ) -> Attempt {
        self.metrics.attempt.observe(latency);
        if matches!(result, Err(Failure::AddressRefused(_))) {
            self.metrics.addresses_refused.inc();
        }
        if draft.is_resigned() {
            self.metrics.resigned.inc();
        }
        if let Some(counter) = self.metrics.attempts.get(judged.outcome as usize) {
            counter.inc();
        }
        if judged.outcome == Outcome::Delivered {
            self.metrics.delivery.observe(self.env.clock.now().since(job.event.received_at));
        }
        Attempt {
            number: rehearse::number(job, judged),
            at,
            outcome: judged.outcome,
            status: result.as_ref().ok().map(|answer| answer.status.as_u16()),
            error: error_words(&result, judged),
            latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
            excerpt: result.map(excerpt).unwrap_or_default(),
            sent: draft.sent(),
        }
    }

    /// Tells the gates and the log what became of an attempt. Gives whether the breaker is open after it.
    pub(super) fn settle(
        self: &Arc<Self>,
        work: (&Job, Ticket),
        attempt: Attempt,
        said: (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        self.settle_by(work, Some(attempt), said, upstream)
    }

    /// Tells the gates alone: the log knows already.
    pub(super) fn observe(
        self: &Arc<Self>,
        work: (&Job, Ticket),
        said: (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        self.settle_by(work, None, said, upstream)
    }

    fn settle_by(
        self: &Arc<Self>,
        (job, ticket): (&Job, Ticket),
        attempt: Option<Attempt>,
        (judged, news): (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        let env = &self.env;
        let now = Now::of(&env.clock);
        let mut hall = lock(&self.hall);
        let observed = hall.gates.observe((judged, news), (job.event.id.pos.seq, ticket), upstream, now);
        let window = hall.gates.new_window(upstream.concurrency, events_each(upstream), now.elapsed);
        self.show(&hall.gates, upstream.concurrency, now);
        let failures = hall.gates.breaker.failures();
        drop(hall);

        if let Some(attempt) = attempt {
            let change = settle::change(job, judged, &upstream.retry, observed.open, &env.jitter, now.time);
            if matches!(change, Change::Divert(_)) {
                self.metrics.diverted.inc();
            }
            self.write(settle::attempted(&job.into(), Some(attempt), change), observed.done);
        }
        if window.is_some() || observed.step != Step::Same {
            self.tell(observed.step, window, failures, judged);
        }
        if news.quota.is_some() {
            self.bell.notify_one();
        }
        self.give_back(observed.returned);
        if !observed.revive.is_empty() {
            tokio::spawn(self.clone().revive(observed.revive));
        }
        observed.open
    }

    /// An attempt sent nothing: its token is free.
    pub(super) fn put_back(&self) {
        lock(&self.hall).gates.pace.put_back(self.env.clock.elapsed());
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
                // What is rehearsed goes on not to count towards giving up.
                let paused = self.rehearsal.load().is_some();
                self.signal(|signals| signals.paused(upstream, paused));
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
                let named = settle::Named {
                    event,
                    upstream: &self.name,
                    previous: Some(id.pos.seq),
                    replays: None,
                    turn: None,
                };
                let change = Change::Replay(self.env.clock.steady());
                self.write(settle::attempted(&named, None, change), Done::nobody());
            }
        }
    }
}

/// Bytes of an answer that are kept until it is judged.
fn kept_bytes(upstream: &Upstream) -> usize {
    match &upstream.answers {
        Some(answers) if answers.reads_bodies() => upstream.max_reply.max(EXCERPT_BYTES),
        _ => EXCERPT_BYTES,
    }
}

/// What the log keeps of an answer's body. A longer one is copied, so that the rest is not kept alive by it.
fn excerpt(answer: Answer) -> bytes::Bytes {
    match answer.body.get(..EXCERPT_BYTES) {
        Some(beginning) if answer.body.len() > EXCERPT_BYTES => bytes::Bytes::copy_from_slice(beginning),
        _ => answer.body,
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
        Err(failure @ Failure::AddressRefused(_)) => {
            Judgement { code: "address_refused", ..classify::no_answer(failure.to_string().into()) }
        }
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
