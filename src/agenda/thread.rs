//! Owns the agenda's thread and its two helpers: the reader, which reads events back from the log, and the upkeep,
//! which writes checkpoints and searches stored records. They turn the core's orders into deeds.
//!
//! Every helper has a bounded queue; what does not fit is answered with "later". What the log refuses to take for a
//! passing reason (busy, full) is offered again: a plan or a revival is never lost while the process lives.

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use tokio::sync::oneshot::{self, error::TryRecvError};
use tracing::{error, info, warn};

use super::{
    Incoming, Shared,
    core::{Core, Effects, Hurry, Question, Read, ReadOrder},
    feed::{Feed, Next},
    notices::Notices,
    plan::{self, NoAnswer},
    read,
};
use crate::{
    clock::Timestamp,
    event::{Event, Seq, Step},
    log::{Acked, Append, AppendError, Class, Done, Entry, Kind, NewEntry, ReadError, read_body},
    state::{Forgetting, Frozen, Key, Layers, Note, State, StateError, Store, UpstreamId, Written, replay_telling},
    telemetry::Stretch,
};

/// Committed entries applied in one step.
const STEP_ENTRIES: usize = 1024;

/// Bytes of log read at once to close a gap.
const GAP_BYTES: usize = 1 << 20;

/// Orders that wait for the reader.
const ORDERS_MAX: usize = 1024;

/// Records looked up in one turn to forget what the log has let go: what else waits for the thread waits no longer.
const FORGET_AT_ONCE: usize = 1024;

/// The thread looks around at least so often.
const TICK: Duration = Duration::from_secs(1);

/// What the log refused for a passing reason is offered again after so long.
const OFFER_AGAIN: Duration = Duration::from_millis(100);

/// What died so long before a state is rebuilt is not told of again.
const REBUILT_BACK: Duration = Duration::from_secs(3600);

/// Deaths since the checkpoint that are told of after a start.
const DIED_MAX: usize = 100_000;

/// What the upkeep thread is to do.
enum Upkeep {
    Checkpoint(Frozen),
    Refill { upstream: UpstreamId, layers: Layers, most: usize, now: Timestamp },
    Clear,
}

/// What the upkeep thread did.
pub(super) enum UpkeepDone {
    Checkpoint(Option<Written>),
    Refill { upstream: UpstreamId, found: Result<read::Refill, StateError>, now: Timestamp },
    Cleared,
}

/// An entry on its way into the log.
struct Offered {
    entry: NewEntry,
    answer: oneshot::Receiver<Acked>,
}

/// What died, of which entry and when (wall time).
type Deaths = VecDeque<(Key, Seq, Timestamp)>;

/// Everything the thread works with.
pub(super) struct Run {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    store: Option<Store>,
    state: Option<State>,
}

impl Run {
    pub(super) fn new(shared: Arc<Shared>, feed: Arc<Feed>, store: Store, state: State) -> Self {
        Self { shared, feed, store: Some(store), state: Some(state) }
    }

    /// The thread's life: catch up, work, write a last checkpoint.
    pub(super) fn run(mut self) {
        self.shared.bell.mine();
        let (Some(state), Some(store)) = (self.state.take(), self.store.take()) else { return };
        let core = self.begin(state).or_else(|why| {
            warn!(%why, "the stored state can't be read: it is rebuilt from the log");
            self.begin(State::new(self.shared.deps.log.log_id()))
        });
        match core {
            Ok(Some(core)) => Work::new(self.shared.clone(), self.feed, core, store).work(),
            Ok(None) => {}
            Err(why) => error!(%why, "the state of deliveries can't be worked out: nothing is delivered"),
        }
        // What still waits for an answer learns that there will be none.
        let mut inbox = self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.stopped.store(true, Ordering::Release);
        inbox.clear();
    }

    /// Applies what the log has beyond the checkpoint and works out what is due. None: the process ends before that.
    fn begin(&self, mut state: State) -> Result<Option<Core>, StateError> {
        let deps = &self.shared.deps;
        // A checkpoint is never far behind; of a state that is rebuilt, what died long ago was told of.
        let told_before = if state.next > 0 { Timestamp::ZERO } else { deps.clock.now().before(REBUILT_BACK) };
        let from = state.next;
        let Some(died) = catch_up(&self.shared, &mut state, from, told_before)? else { return Ok(None) };
        deps.dispatch.subscribed(state.subscribed());
        let (table, evaluator, now) = (deps.live.snapshot(), deps.evaluator.clone(), deps.clock.steady());
        let mut core = Core::new(state, table, evaluator, self.shared.settings.bounds, now)?;
        core.is_traced = deps.metrics.traces.is_on();
        for (key, seq, at) in died {
            core.died(key, (seq, at), now)?;
        }
        Ok(Some(core))
    }
}

/// Replays the log; reads that fail for a passing reason are tried again until they succeed or the process stops. Gives
/// what died of entries from `died_from` on that are not older than `died_since` (wall time): the last of them. None: the
/// process ends.
fn catch_up(
    shared: &Shared,
    state: &mut State,
    died_from: Seq,
    died_since: Timestamp,
) -> Result<Option<Deaths>, StateError> {
    let (from, mut died) = (state.next, Deaths::new());
    loop {
        let mut tell = |entry: &Entry, note| {
            if let Note::Died(key, seq) = note
                && seq >= died_from
                && entry.time >= died_since
            {
                died.push_back((key, seq, entry.time));
                if died.len() > DIED_MAX {
                    died.pop_front();
                }
            }
        };
        match replay_telling(state, &*shared.deps.log, &mut |_| {}, &mut tell) {
            Ok(_) => {
                info!(from, to = state.next, "the state of deliveries has caught up with the log");
                return Ok(Some(died));
            }
            Err(crate::state::OfflineError::State(why)) => return Err(why),
            Err(crate::state::OfflineError::Log(_)) if shared.ending.load(Ordering::Acquire) => return Ok(None),
            Err(crate::state::OfflineError::Log(why)) => {
                error!(%why, at = state.next, "the log can't be read: deliveries wait");
                std::thread::park_timeout(TICK);
            }
        }
    }
}

struct Work {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    core: Core,
    reader: SyncSender<ReadOrder>,
    upkeep: SyncSender<Upkeep>,
    helpers: Vec<std::thread::JoinHandle<()>>,
    upkeep_busy: bool,
    /// The state was rebuilt while the upkeep was at work: its answer is about the old one.
    upkeep_stale: bool,
    refills: VecDeque<UpstreamId>,
    offered: VecDeque<Offered>,
    /// What the log had no room for, and everything after it: the order of entries is kept.
    held_back: VecDeque<NewEntry>,
    /// Read the log up to here before the feed is asked again.
    gap: Option<Seq>,
    until: Vec<(Seq, SyncSender<()>)>,
    bytes_since: u64,
    checkpoint_at: Timestamp,
    checkpoint_next: Seq,
    /// The state has forgotten everything stored before.
    first: Seq,
    /// What is being forgotten, and how far that has come.
    forgetting: Option<(Seq, Forgetting)>,
    notices: Notices,
    tick_at: Timestamp,
    stop: bool,
}

impl Work {
    fn new(shared: Arc<Shared>, feed: Arc<Feed>, core: Core, store: Store) -> Self {
        let (reader, orders) = sync_channel(ORDERS_MAX);
        let (upkeep, tasks) = sync_channel(4);
        let (for_reader, for_upkeep) = (shared.clone(), shared.clone());
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(work);
        let helpers = [
            spawn("agenda-reader", Box::new(move || run_reader(&for_reader, &orders))),
            spawn("agenda-upkeep", Box::new(move || run_upkeep(&for_upkeep, store, &tasks))),
        ];
        if let Some(Err(why)) = helpers.iter().find(|helper| helper.is_err()) {
            error!(%why, "a thread can't be made: backlogs and checkpoints stand still");
        }
        let now = shared.deps.clock.steady();
        Self {
            checkpoint_at: now.after(shared.settings.checkpoint_every),
            checkpoint_next: core.state().next,
            notices: Notices::start(shared.clone()),
            shared,
            feed,
            core,
            reader,
            upkeep,
            helpers: helpers.into_iter().flatten().collect(),
            upkeep_busy: false,
            upkeep_stale: false,
            refills: VecDeque::new(),
            offered: VecDeque::new(),
            held_back: VecDeque::new(),
            gap: None,
            until: Vec::new(),
            bytes_since: 0,
            first: 0,
            forgetting: None,
            tick_at: now,
            stop: false,
        }
    }

    fn work(mut self) {
        self.shared.ready.store(true, Ordering::Release);
        while !self.stop {
            let now = self.shared.deps.clock.steady();
            let busy = match self.turn(now) {
                Ok(busy) => busy,
                Err(why) => {
                    self.rebuild(&why, now);
                    true
                }
            };
            if !busy && !self.stop {
                std::thread::park_timeout(self.rest(now));
            }
        }
        self.finish();
    }

    /// One turn: what others said, what was committed, what follows. Whether there may be more at once.
    fn turn(&mut self, now: Timestamp) -> Result<bool, StateError> {
        let incoming = std::mem::take(&mut *self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let told = !incoming.is_empty();
        // Before what is asked: who has resent something and asks then is answered by what is counted.
        for (first, (count, differs)) in self.shared.noted.take() {
            self.core.resent(first, count, differs, now);
        }
        for incoming in incoming {
            self.hear(incoming, now)?;
        }
        let entries = self.entries();
        self.bytes_since += entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
        // A command may change the table that what comes after it is planned with.
        let mut pieces = entries.split_inclusive(|entry| entry.kind == Kind::Command);
        let mut piece = Some(pieces.next().unwrap_or_default());
        while let Some(some) = piece {
            let effects = self.core.step(some, now, &self.shared.deps.live.snapshot())?;
            self.perform(effects);
            if let Some(subscribed) = self.core.take_subscribed() {
                self.shared.deps.dispatch.subscribed(subscribed);
            }
            piece = pieces.next();
        }
        let next = self.core.state().next;
        self.until.retain(|(seq, waiter)| {
            let waits = *seq >= next;
            if !waits {
                let _gone = waiter.try_send(());
            }
            waits
        });
        self.offer_again();
        if now >= self.tick_at {
            self.tick_at = now.after(TICK);
            self.core.measure(&self.shared.deps.metrics, now);
            self.core.end_minutes(now);
            // While the log refuses, outcomes of attempts wait in the engine: they are late, not lost.
            if self.shared.deps.log.writable().is_ok() {
                self.core.end_old_leases(now)?;
            }
        }
        self.keep_up(now)?;
        Ok(told || !entries.is_empty() || self.gap.is_some() || self.forgetting.is_some())
    }

    fn hear(&mut self, incoming: Incoming, now: Timestamp) -> Result<(), StateError> {
        match incoming {
            Incoming::Window(upstream, window) => self.core.window(&upstream, window),
            Incoming::Returned(event, upstream) => self.core.returned(event, &upstream, now)?,
            Incoming::Paused(upstream, paused) => self.core.paused(&upstream, paused, now),
            // The step looks at the live table by itself.
            Incoming::Configured => {}
            Incoming::Loaded(purpose, events) => self.core.loaded(purpose, events, now)?,
            Incoming::Answered(question, answers) => self.core.answered(&question, &answers)?,
            Incoming::Upkeep(done) => self.upkeep_done(done)?,
            Incoming::Ask(question) => question(&mut self.core, now),
            Incoming::Until(seq, waiter) => self.until.push((seq, waiter)),
            Incoming::Stop => self.stop = true,
        }
        Ok(())
    }

    /// The next committed entries: from the feed, or from the log where the feed has a gap.
    fn entries(&mut self) -> Vec<Entry> {
        if self.gap.is_none() {
            match self.feed.take(STEP_ENTRIES) {
                Next::Nothing => return Vec::new(),
                Next::Entries(entries) => return entries,
                Next::Gap(until) => self.gap = Some(until),
            }
        }
        let next = self.core.state().next;
        if self.gap.is_some_and(|until| next >= until) {
            self.gap = None;
            return Vec::new();
        }
        match self.shared.deps.log.scan(next, GAP_BYTES) {
            Ok(entries) => {
                if entries.is_empty() {
                    self.gap = None;
                }
                entries
            }
            Err(ReadError::Damaged { file, first, last }) => {
                error!(%file, first, last, "a stretch of the log is damaged: its deliveries are not known");
                let state = self.core.state_mut();
                state.next = state.next.max(last.saturating_add(1));
                Vec::new()
            }
            Err(why) => {
                error!(%why, at = next, "the log can't be read: deliveries wait");
                std::thread::park_timeout(OFFER_AGAIN);
                Vec::new()
            }
        }
    }

    /// Appends come first: what is planned is on its way into the log before it is handed out.
    fn perform(&mut self, effects: Effects) {
        for entry in effects.append {
            self.offer(entry);
        }
        for (upstream, targets) in effects.drained {
            self.shared.deps.dispatch.drained(&upstream, targets);
        }
        for event in effects.decided {
            self.trace(&event);
        }
        for job in effects.dispatch {
            self.shared.deps.dispatch.dispatch(job);
        }
        for event in effects.unanswered {
            self.shared.deps.dispatch.unanswered(event);
        }
        for order in effects.read {
            if let Err(refused) = self.reader.try_send(order) {
                let (std::sync::mpsc::TrySendError::Full(order) | std::sync::mpsc::TrySendError::Disconnected(order)) =
                    refused;
                let later = order.events.iter().map(|(event, _)| (*event, Read::Later(Hurry::AfterAWhile))).collect();
                self.shared.tell(Incoming::Loaded(order.purpose, later));
            }
        }
        for question in effects.ask {
            self.ask(question);
        }
        self.refills.extend(effects.refill);
        self.notices.take(effects.notices, self.shared.deps.clock.steady());
    }

    /// Tells whoever collects spans how long it took until it was known where an event goes.
    fn trace(&self, event: &Event) {
        let deps = &self.shared.deps;
        let Some(standing) = deps.metrics.traces.standing_of(event) else { return };
        let now = deps.clock.now();
        let (end_ms, began) = (now.as_millis(), now.since(event.id.time));
        let stretch = Stretch { end_ms, began, ended: Duration::ZERO };
        deps.metrics.traces.tell(&standing, Step::Plan, stretch, false, Vec::new());
    }

    /// Offers an entry to the log, after all that were offered before it.
    fn offer(&mut self, entry: NewEntry) {
        if !self.held_back.is_empty() || !self.try_offer(&entry) {
            self.held_back.push_back(entry);
        }
    }

    /// False if it has to wait: the log has no room, or it is a plan that rests on deaths the log may yet refuse, and
    /// that must not overtake them.
    fn try_offer(&mut self, entry: &NewEntry) -> bool {
        let is_death = |offered: &Offered| offered.entry.kind == Kind::Attempted;
        if entry.kind == Kind::Planned && self.offered.iter().any(is_death) {
            return false;
        }
        let (done, mut answer) = Done::channel();
        self.shared.deps.log.append(Append {
            parts: Vec::new(),
            entry: entry.clone(),
            dedupe: None,
            class: Class::Upkeep,
            time: self.shared.deps.clock.now(),
            done,
        });
        match answer.try_recv() {
            Ok(Err(AppendError::Busy | AppendError::Full)) => return false,
            Ok(Err(why)) => error!(%why, kind = ?entry.kind, "the log did not take an entry of the agenda"),
            Ok(Ok(_)) | Err(TryRecvError::Closed) => {}
            Err(TryRecvError::Empty) => self.offered.push_back(Offered { entry: entry.clone(), answer }),
        }
        true
    }

    /// Looks after what was offered to the log; what it refused for a passing reason is offered again, before what
    /// waits behind it.
    fn offer_again(&mut self) {
        let mut refused = Vec::new();
        while let Some(mut offered) = self.offered.pop_front() {
            match offered.answer.try_recv() {
                Err(TryRecvError::Empty) => {
                    // Answers come in order: those behind have none yet either.
                    self.offered.push_front(offered);
                    break;
                }
                Ok(Err(AppendError::Busy | AppendError::Full)) => refused.push(offered.entry),
                Ok(Err(why)) => error!(%why, kind = ?offered.entry.kind, "the log did not take an entry of the agenda"),
                Ok(Ok(_)) | Err(TryRecvError::Closed) => {}
            }
        }
        refused.into_iter().rev().for_each(|entry| self.held_back.push_front(entry));
        while let Some(entry) = self.held_back.pop_front() {
            if !self.try_offer(&entry) {
                self.held_back.push_front(entry);
                break;
            }
        }
    }

    fn ask(&self, question: Question) {
        let shared = self.shared.clone();
        let runtime = shared.deps.runtime.clone();
        runtime.spawn(async move {
            let answers = answer(&shared, &question).await;
            shared.tell(Incoming::Answered(question, answers));
        });
    }

    /// Checkpoints, searches and expiry: one at a time, on the upkeep thread.
    fn keep_up(&mut self, now: Timestamp) -> Result<(), StateError> {
        if self.upkeep_busy {
            return Ok(());
        }
        let changed = self.core.state().next != self.checkpoint_next;
        let due = now >= self.checkpoint_at || self.bytes_since >= self.shared.settings.checkpoint_bytes;
        if changed && due && self.notices.is_idle(now) {
            if !self.forget()? {
                return Ok(());
            }
            let frozen = self.core.state_mut().freeze(self.first);
            self.checkpoint_next = self.core.state().next;
            self.bytes_since = 0;
            self.checkpoint_at = now.after(self.shared.settings.checkpoint_every);
            self.start(Upkeep::Checkpoint(frozen));
            return Ok(());
        }
        // After the checkpoints, so that one search after the other never keeps them from being written.
        if let Some(upstream) = self.refills.pop_front() {
            let (layers, most) = (self.core.state().layers().lower(), self.core.refill_most(upstream));
            self.start(Upkeep::Refill { upstream, layers, most, now });
        }
        Ok(())
    }

    /// Forgets what the log has let go since the last checkpoint, a slice a turn. Whether all of it is forgotten.
    fn forget(&mut self) -> Result<bool, StateError> {
        if self.forgetting.is_none() {
            let first = self.shared.deps.log.stats().first_seq;
            if first <= self.first {
                return Ok(true);
            }
            self.forgetting = Some((first, Forgetting::default()));
        }
        if let Some((first, at)) = &mut self.forgetting {
            if !self.core.state_mut().forget(*first, at, FORGET_AT_ONCE)? {
                return Ok(false);
            }
            self.first = *first;
        }
        self.forgetting = None;
        Ok(true)
    }

    fn start(&mut self, task: Upkeep) {
        self.upkeep_busy = self.upkeep.try_send(task).is_ok();
    }

    fn upkeep_done(&mut self, done: UpkeepDone) -> Result<(), StateError> {
        if self.upkeep_stale {
            self.upkeep_stale = !matches!(done, UpkeepDone::Cleared);
            self.upkeep_busy = self.upkeep_stale;
            return Ok(());
        }
        self.upkeep_busy = false;
        match done {
            UpkeepDone::Checkpoint(Some(written)) => {
                self.core.state_mut().layers_mut().written(written.runs);
                self.shared.deps.metrics.checkpoints.inc();
            }
            UpkeepDone::Checkpoint(None) | UpkeepDone::Cleared => {}
            UpkeepDone::Refill { upstream, found, now } => {
                let (found, until) = found?;
                self.core.refilled(upstream, &found, until, now);
            }
        }
        Ok(())
    }

    /// The stored state can't be read: begin anew from the log. What is in flight stays in flight.
    fn rebuild(&mut self, why: &StateError, now: Timestamp) {
        error!(%why, "the state of deliveries is rebuilt from the log; deliveries wait");
        self.shared.ready.store(false, Ordering::Release);
        self.refills.clear();
        (self.first, self.forgetting) = (0, None);
        self.upkeep_stale = self.upkeep.try_send(Upkeep::Clear).is_ok();
        self.upkeep_busy = self.upkeep_stale;
        let mut state = State::new(self.shared.deps.log.log_id());
        // What died meanwhile is told of as if it had been applied in turn.
        let applied = self.core.state().next;
        let died = catch_up(&self.shared, &mut state, applied, Timestamp::ZERO);
        let rebuilt = died.and_then(|died| {
            let Some(died) = died else {
                self.stop = true;
                return Ok(());
            };
            self.shared.deps.dispatch.subscribed(state.subscribed());
            self.core.replace_state(state, now)?;
            died.into_iter().try_for_each(|(key, seq, at)| self.core.died(key, (seq, at), now))
        });
        match rebuilt {
            Ok(()) => self.shared.ready.store(true, Ordering::Release),
            Err(why) => {
                error!(%why, "the state of deliveries can't be rebuilt: the agenda stops");
                self.stop = true;
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn rest(&self, now: Timestamp) -> Duration {
        let due = self.core.next_due(now).map_or(TICK, |due| due.since(now));
        let offers = if self.offered.is_empty() && self.held_back.is_empty() { TICK } else { OFFER_AGAIN };
        due.min(offers).min(TICK)
    }

    /// A last checkpoint, after the one that may be under way.
    fn finish(mut self) {
        // What is not told is met again by the next start, which begins at the checkpoint before.
        if self.notices.finish() && !self.upkeep_stale {
            // What is not forgotten yet is forgotten after the next start.
            let frozen = self.core.state_mut().freeze(self.first);
            let _ended = self.upkeep.send(Upkeep::Checkpoint(frozen));
        }
        drop((self.reader, self.upkeep));
        for helper in self.helpers {
            let _panicked = helper.join();
        }
    }
}

fn run_reader(shared: &Shared, orders: &Receiver<ReadOrder>) {
    for order in orders {
        let events = read::read(&*shared.deps.log, &order);
        shared.tell(Incoming::Loaded(order.purpose, events));
    }
}

fn run_upkeep(shared: &Shared, mut store: Store, tasks: &Receiver<Upkeep>) {
    for task in tasks {
        let done = match task {
            Upkeep::Checkpoint(frozen) => UpkeepDone::Checkpoint(
                store.write(frozen).inspect_err(|why| warn!(%why, "the checkpoint before it still stands")).ok(),
            ),
            Upkeep::Refill { upstream, layers, most, now } => {
                UpkeepDone::Refill { upstream, found: read::refill(&layers, upstream, most, now), now }
            }
            Upkeep::Clear => {
                if let Err(why) = store.clear() {
                    warn!(%why, "the stored state can't be removed");
                }
                UpkeepDone::Cleared
            }
        };
        shared.tell(Incoming::Upkeep(done));
    }
}

/// Asks the pool about one event. The body of a large one is read first, on a thread that may block.
async fn answer(shared: &Arc<Shared>, question: &Question) -> Vec<(usize, plan::Answer)> {
    let body = {
        let (shared, event) = (shared.clone(), question.event.clone());
        tokio::task::spawn_blocking(move || read_body(&*shared.deps.log, &event)).await
    };
    let body = match body {
        Ok(Ok(body)) => body,
        Ok(Err(why @ ReadError::Io { .. })) => return unanswered(question, &NoAnswer::Later(why.to_string())),
        Ok(Err(why)) => return unanswered(question, &NoAnswer::Unreadable(why.to_string())),
        Err(why) => return unanswered(question, &NoAnswer::Later(why.to_string())),
    };
    let mut answers = Vec::with_capacity(question.ask.len());
    for index in &question.ask {
        let when = question.routes.table.routes.get(*index).and_then(|route| route.when.as_ref());
        let Some(when) = when else { continue };
        let output = shared.deps.evaluator.eval(when, &plan::input(&question.event, &body)).await;
        answers.push((*index, output.map(|output| output.truthy()).map_err(NoAnswer::from)));
    }
    answers
}

fn unanswered(question: &Question, why: &NoAnswer) -> Vec<(usize, plan::Answer)> {
    question.ask.iter().map(|index| (*index, Err(why.clone()))).collect()
}
