//! Owns the agenda's step: committed entries in, work out. A pure state machine; time, routing and what was read are
//! arguments, and everything that touches the world is an order in [`Effects`].
//!
//! Promises: an event is planned once; a delivery is in flight once at a time; an upstream that hangs, is held or is
//! gone costs the others nothing but their share of memory; first attempts go before retries and retries before
//! replays, none of them starving.

mod blocked;
mod closed;
mod died;
mod dispatch;
mod fetch;
mod keys;
mod lease;
mod order;
mod planning;

pub use died::{Death, More, Notice};
pub use keys::key_text;

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use roaring::RoaringTreemap;

use super::{
    duplicates::Resends,
    lane::{Absent, Lane, Lease, Work, priority_of},
    plan::{Decision, Routes},
};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Event, Job, Seq},
    expr::Evaluator,
    log::{
        Entry, Kind, NewEntry,
        entry::{self, Action, Attempted, Command},
    },
    routing::{Priority, Table},
    state::{Cause, Key, NEVER, Note, Record, State, StateError, Subscribed, Upstream, UpstreamId},
};

/// Filters that may be under way in the pool at once; more wait in the log.
const ASKING_MAX: usize = 256;

/// After a read that failed for a passing reason.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(5);

/// Limits of the agenda.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of events at hand, all upstreams together; each upstream has an equal share, at least 1 MiB.
    pub events_bytes: usize,
    /// Due times in memory for one upstream.
    pub retries_each: usize,
    /// Due times in memory, all upstreams together.
    pub retries_all: usize,
    /// Deliveries of one upstream whose keys are known, if it has an order.
    pub ordered_each: usize,
}

impl Bounds {
    /// 64 MiB of events; 200,000 due times an upstream, 500,000 in all; 500,000 keys an upstream.
    #[must_use]
    pub const fn standard() -> Self {
        Self { events_bytes: 64 << 20, retries_each: 200_000, retries_all: 500_000, ordered_each: 500_000 }
    }
}

/// What a step wants done. Appends come before dispatches.
#[derive(Default)]
pub struct Effects {
    /// To be appended, in this order, without waiting.
    pub append: Vec<NewEntry>,
    /// To be handed to the engine.
    pub dispatch: Vec<Job>,
    /// Events whose senders wait for an answer that will not come now: nothing leads to the upstream, or it is held or
    /// its breaker is open.
    pub unanswered: Vec<Seq>,
    /// Upstreams and those of their targets that get no new attempts, where that changed; told before the dispatches.
    pub drained: Vec<(Arc<str>, Vec<Box<str>>)>,
    /// To be read from the log; the answer goes to [`Core::loaded`].
    pub read: Vec<ReadOrder>,
    /// Filters to be asked in the pool; the answer goes to [`Core::answered`].
    pub ask: Vec<Question>,
    /// Dead deliveries that are to be told of.
    pub notices: Vec<Notice>,
    /// Upstreams whose stored records are to be searched; the answer goes to [`Core::refilled`].
    pub refill: Vec<UpstreamId>,
    /// Events that were decided about, if anybody collects spans.
    pub decided: Vec<Arc<Event>>,
}

/// Events to be read, in the order of the log as far as possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOrder {
    /// What for.
    pub purpose: Purpose,
    /// Events by their own number, and where they are stored.
    pub events: Vec<(Seq, Seq)>,
}

/// What events are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be planned.
    Plan,
    /// To be sent for the first time.
    Fresh(UpstreamId, Priority),
    /// To be sent again.
    Retry(UpstreamId),
    /// To be sent again because of a replay.
    Replay(UpstreamId),
    /// To find out whether a resend revives it.
    Revive,
    /// To find out their keys.
    Keys(UpstreamId),
}

/// What reading an event gave.
#[derive(Debug)]
pub enum Read {
    /// The event.
    Event(Arc<Event>),
    /// It can't be read and never will be: why.
    Lost(String),
    /// Not now: too many bytes at once, or the system failed to read.
    Later(Hurry),
}

/// How soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurry {
    /// At once.
    AtOnce,
    /// After a while.
    AfterAWhile,
}

/// A question to the pool of evaluators.
#[derive(Clone)]
pub struct Question {
    /// The event.
    pub event: Arc<Event>,
    /// The routing snapshot.
    pub routes: Arc<Routes>,
    /// Whose filters: indexes into the table's routes.
    pub ask: Vec<usize>,
}

/// The agenda's state machine.
pub struct Core {
    /// Steady time of the last step.
    now: Timestamp,
    pub(super) state: State,
    pub(super) lanes: Vec<Lane>,
    pub(super) resends: Resends,
    routes: Arc<Routes>,
    evaluator: Evaluator,
    bounds: Bounds,
    /// Unplanned events that are not at hand; what is accepted after them waits behind them.
    unread: RoaringTreemap,
    /// Some lane has an order: only then is there anything to do for it.
    has_orders: bool,
    /// Unplanned events that no lane with an order has heard of. Only kept while some lane has one.
    unseen: RoaringTreemap,
    /// Unplanned events that lanes with an order have heard of before their plan.
    reserved: RoaringTreemap,
    /// Unplanned events that nobody waits behind: too many filters are asked, or reading failed.
    put_off: RoaringTreemap,
    /// Events are being read to be planned …
    planning: bool,
    /// … and others wait behind them.
    catching_up: bool,
    plan_after: Timestamp,
    asking: usize,
    turn: usize,
    plans: Vec<(Seq, Decision)>,
    /// What was told of dead deliveries in this minute, by upstream.
    told: HashMap<UpstreamId, died::Told>,
    /// The answer in the entry that is being heeded, if that is wanted.
    heard: Option<Box<str>>,
    /// A command about subscribers was applied.
    subscribers_changed: bool,
    /// Somebody collects spans.
    pub(super) is_traced: bool,
    out: Effects,
}

impl Core {
    /// Goes on from a state that has applied the log so far.
    ///
    /// # Errors
    /// [`StateError`] if the stored records can't be read.
    pub fn new(
        state: State,
        table: Arc<Table>,
        evaluator: Evaluator,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<Self, StateError> {
        let mut core = Self {
            now,
            unread: state.unplanned().clone(),
            has_orders: false,
            unseen: RoaringTreemap::new(),
            reserved: RoaringTreemap::new(),
            state,
            lanes: Vec::new(),
            resends: Resends::default(),
            routes: Arc::new(Routes::new(table)),
            evaluator,
            bounds,
            put_off: RoaringTreemap::new(),
            planning: false,
            catching_up: false,
            told: HashMap::new(),
            plan_after: Timestamp::ZERO,
            asking: 0,
            turn: 0,
            plans: Vec::new(),
            heard: None,
            subscribers_changed: false,
            is_traced: false,
            out: Effects::default(),
        };
        core.configure(now);
        for (id, lane) in (0..).zip(&mut core.lanes) {
            if let Some(upstream) = core.state.upstream_mut(id) {
                upstream.pauses.set(Cause::Breaker, false, now);
                if lane.order.is_none() {
                    lane.absent = Absent::of(upstream);
                }
            }
        }
        let drained = (0..).zip(core.state.upstreams()).filter(|(_, upstream)| !upstream.drained.is_empty());
        let drained: Vec<UpstreamId> = drained.map(|(id, _)| id).collect();
        drained.into_iter().for_each(|id| core.tell_drained(id));
        let Self { state, lanes, .. } = &mut core;
        for record in state.layers().scan(Key::new(0, 0)) {
            let (key, record) = record?;
            schedule_record(lanes, key, &record, now);
        }
        Ok(core)
    }

    /// Takes a state that was rebuilt in place of one that could not be read; what is in flight stays in flight.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn replace_state(&mut self, state: State, now: Timestamp) -> Result<(), StateError> {
        let table = self.routes.table.clone();
        let mut fresh = Self::new(state, table, self.evaluator.clone(), self.bounds, now)?;
        for (id, old) in (0..).zip(&self.lanes) {
            let Some(name) = self.state.upstream(id).map(|upstream| upstream.name.clone()) else { continue };
            let id = fresh.state.intern(&name);
            fresh.grow();
            let Some(lane) = fresh.lanes.get_mut(id as usize) else { continue };
            lane.window = old.window;
            for (event, lease) in &old.leases {
                if matches!(lease, Lease::Sent(_)) {
                    lane.leases.insert(*event, *lease);
                    lane.absent.remove(*event);
                    lane.in_flight += 1;
                    // What was settled meanwhile is in nobody's way.
                    if let Some(order) = &mut lane.order
                        && (order.is_unknown(*event) || fresh.state.unplanned().contains(*event))
                    {
                        order.under_way(std::iter::once(*event));
                    }
                } else if *lease == Lease::Closing {
                    lane.leases.insert(*event, *lease);
                    lane.absent.remove(*event);
                }
            }
        }
        fresh.asking = 0;
        *self = fresh;
        Ok(())
    }

    /// One step: applies committed entries, plans, and hands out what may be sent now.
    ///
    /// # Errors
    /// [`StateError`]: the state must be rebuilt, see [`Core::replace_state`].
    pub fn step(&mut self, entries: &[Entry], now: Timestamp, table: &Arc<Table>) -> Result<Effects, StateError> {
        self.now = now;
        if !Arc::ptr_eq(&self.routes.table, table) {
            self.routes = Arc::new(Routes::new(table.clone()));
            self.configure(now);
        }
        let mut notes = Vec::new();
        for entry in entries {
            self.state.apply(entry, &mut |note| notes.push(note))?;
            for note in notes.drain(..) {
                self.heed(note, entry, now)?;
            }
            self.heard = None;
        }
        self.grow();
        self.read_unplanned(now)?;
        self.write_plans()?;
        self.write_resends(now);
        self.read_resent(now)?;
        self.end_timed_holds(now);
        self.settle_closed()?;
        for id in 0..self.lanes.len() {
            self.fetch(id as UpstreamId, now)?;
        }
        self.dispatch(now)?;
        Ok(mem::take(&mut self.out))
    }

    /// What is known of subscribers, if that has changed since it was asked for.
    pub fn take_subscribed(&mut self) -> Option<Subscribed> {
        mem::take(&mut self.subscribers_changed).then(|| self.state.subscribed())
    }

    /// When the next step is needed if nothing happens before.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.lanes.iter().filter(|lane| lane.live && lane.window > lane.in_flight);
        let due = due.flat_map(|lane| [lane.retries.next(), lane.replays.next(), Some(lane.read_after)]);
        let holds = self.state.upstreams().iter().map(|upstream| upstream.hold.as_ref().and_then(|hold| hold.until));
        due.chain(holds).chain([Some(self.plan_after), self.resends.next(now)]).flatten().filter(|due| *due > now).min()
    }

    /// The engine takes so many jobs of an upstream at once from now on.
    pub fn window(&mut self, upstream: &str, window: usize) {
        let id = self.state.intern(upstream);
        self.grow();
        if let Some(lane) = self.lanes.get_mut(id as usize) {
            lane.window = window;
        }
    }

    /// The engine gave a job back without an attempt.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn returned(&mut self, event: Seq, upstream: &str, now: Timestamp) -> Result<(), StateError> {
        let key = Key::new(event, self.state.intern(upstream));
        self.grow();
        if self.end_lease(key) { self.reschedule(key, now) } else { Ok(()) }
    }

    /// The breaker of an upstream opened or closed.
    pub fn paused(&mut self, upstream: &str, paused: bool, now: Timestamp) {
        let id = self.state.intern(upstream);
        if let Some(upstream) = self.state.upstream_mut(id) {
            upstream.pauses.set(Cause::Breaker, paused, now);
        }
    }

    /// The answer to a [`ReadOrder`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn loaded(&mut self, purpose: Purpose, events: Vec<(Seq, Read)>, now: Timestamp) -> Result<(), StateError> {
        match purpose {
            Purpose::Plan => {
                self.planning = false;
                self.catching_up = false;
                for (event, read) in events {
                    self.loaded_unplanned(event, read, now)?;
                }
            }
            Purpose::Revive => self.loaded_resent(events, now),
            Purpose::Fresh(id, priority) => self.loaded_due(id, Work::Fresh(priority), events, now),
            Purpose::Retry(id) => self.loaded_due(id, Work::Retry, events, now),
            Purpose::Replay(id) => self.loaded_due(id, Work::Replay, events, now),
            Purpose::Keys(id) => self.loaded_keys(id, events, now)?,
        }
        Ok(())
    }

    /// What a search of the stored records gave: all that is due before `until`. `now` is the time the search took
    /// for the present.
    pub fn refilled(&mut self, id: UpstreamId, found: &[(Key, Record)], until: Option<(u64, Seq)>, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(id as usize) else { return };
        lane.refilling = false;
        lane.retries.refilled(until);
        lane.replays.refilled(until);
        let layers = self.state.layers();
        let changed = layers.top().filter(|(key, _)| key.upstream == id);
        // What changed since the search's layers were frozen counts as it is now: most of it is settled.
        let unchanged = found.iter().copied().filter(|(key, _)| !layers.is_on_top(*key));
        for (key, record) in unchanged.chain(changed) {
            // Their records say pending, but they are in somebody's hands.
            if self.lanes.get(id as usize).is_some_and(|lane| !lane.leases.contains_key(&key.event)) {
                schedule_record(&mut self.lanes, key, &record, now);
            }
        }
    }

    /// The state that this agenda works on.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state, for checkpoints and expiry.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Whether an attempt of a delivery is under way.
    #[must_use]
    pub fn is_in_flight(&self, key: Key) -> bool {
        let lane = self.lanes.get(key.upstream as usize);
        lane.is_some_and(|lane| matches!(lane.leases.get(&key.event), Some(Lease::Sent(_))))
    }

    /// Attempts under way for an upstream, and whether it is configured.
    #[must_use]
    pub fn lane(&self, id: UpstreamId) -> (usize, bool) {
        self.lanes.get(id as usize).map_or((0, false), |lane| (lane.in_flight, lane.live))
    }

    /// How many records a search is to find: more than are in somebody's hands or changed since the layers that it
    /// sees were frozen, or it might find nothing new.
    #[must_use]
    pub fn refill_most(&self, id: UpstreamId) -> usize {
        let in_hands = self.lanes.get(id as usize).map_or(0, |lane| lane.leases.len());
        let changed = self.state.layers().top().filter(|(key, _)| key.upstream == id).count();
        self.retries_each() / 2 + in_hands + changed
    }

    /// How many due times a lane may hold.
    fn retries_each(&self) -> usize {
        self.bounds.retries_each.min(self.bounds.retries_all / self.lanes.len().max(1)).max(1000)
    }

    fn heed(&mut self, note: Note, entry: &Entry, now: Timestamp) -> Result<(), StateError> {
        match note {
            Note::Accepted(seq) if self.catching_up || !self.unread.is_empty() => {
                self.unread.insert(seq);
                if self.has_orders {
                    self.unseen.insert(seq);
                }
            }
            Note::Accepted(seq) => match entry::decode_event(entry) {
                Some(event) if event.id.pos.seq == seq => self.plan(&Arc::new(event))?,
                _ => self.lost_unplanned(seq, "its format is not known"),
            },
            Note::Planned(key) => {
                self.grow();
                if self.has_order(key.upstream) {
                    return self.planned_in_order(key, now);
                }
                self.miss(key);
            }
            Note::Attempted(key) => {
                self.grow();
                self.end_lease(key);
                self.hear(key.upstream, entry);
                if let Some(lane) = self.lanes.get_mut(key.upstream as usize) {
                    lane.absent.remove(key.event);
                }
                self.note_failures(key.upstream, entry);
                return self.revise(key, now);
            }
            Note::Due(key, _) | Note::Replayed(key, _) if self.has_order(key.upstream) => {
                self.grow();
                return self.revise(key, now);
            }
            Note::Due(key, due) => {
                self.grow();
                schedule(&mut self.lanes, key, due, Work::Retry, now);
            }
            Note::Replayed(key, due) => {
                self.grow();
                schedule(&mut self.lanes, key, due, Work::Replay, now);
            }
            Note::Stopped(key) => {
                self.grow();
                if let Some(lane) = self.lanes.get_mut(key.upstream as usize) {
                    lane.absent.remove(key.event);
                    if lane.leases.get(&key.event) == Some(&Lease::Queued) {
                        lane.leases.remove(&key.event);
                    }
                }
                return self.revise(key, now);
            }
            Note::Gate(id) => {
                let name = self.state.upstream(id).map(|upstream| upstream.name.clone());
                self.subscribers_changed |= name.is_some_and(|name| self.state.is_registered(&name));
            }
            Note::Subscriber(id) => {
                self.grow();
                self.subscribers_changed = true;
                // Another secret changes nothing about a run of failures that was one too many.
                let is_decided = |upstream: &Upstream| upstream.closed.is_some() || upstream.streak.is_none();
                if self.state.upstream(id).is_some_and(is_decided)
                    && let Some(lane) = self.lanes.get_mut(id as usize)
                {
                    lane.disabling = false;
                }
            }
            Note::Drained(id) => self.tell_drained(id),
            Note::Died(key, seq) => return self.died(key, (seq, entry.time), now),
        }
        Ok(())
    }

    fn tell_drained(&mut self, id: UpstreamId) {
        if let Some(upstream) = self.state.upstream(id) {
            let targets = upstream.drained.iter().map(|drained| drained.target.clone()).collect();
            self.out.drained.push((upstream.name.clone(), targets));
        }
    }

    /// A delivery waits for its first attempt, and its event is not at hand.
    fn miss(&mut self, key: Key) {
        let (Some(lane), Some(upstream)) =
            (self.lanes.get_mut(key.upstream as usize), self.state.upstream(key.upstream))
        else {
            return;
        };
        if !lane.leases.contains_key(&key.event) {
            lane.absent.insert(key.event, priority_of(upstream, key.event));
        }
    }

    /// New upstreams get lanes; those that are not configured stand still.
    fn configure(&mut self, now: Timestamp) {
        let table = self.routes.table.clone();
        let mut names: Vec<&str> = table.upstreams.keys().map(|name| &**name).collect();
        names.sort_unstable();
        for name in names {
            self.state.intern(name);
        }
        self.grow();
        for (id, lane) in (0..).zip(&mut self.lanes) {
            let Some(upstream) = self.state.upstream_mut(id) else { continue };
            let configured = table.upstreams.get(&*upstream.name);
            upstream.pauses.set(Cause::Removed, configured.is_none(), now);
            if let (Some(configured), false) = (configured, lane.live) {
                // Until the engine says otherwise.
                lane.window = lane.window.max(configured.pace.first_window(configured.concurrency));
            }
            lane.live = configured.is_some();
            if let Some(configured) = configured {
                lane.turns.set(configured.turns);
            }
        }
        self.configure_order();
    }

    /// A lane for every upstream of the state.
    fn grow(&mut self) {
        let count = self.state.upstreams().len();
        if self.lanes.len() == count {
            return;
        }
        self.lanes.resize_with(count, || Lane::new(0));
        let most = self.retries_each();
        for lane in &mut self.lanes {
            lane.retries.bound(most);
            lane.replays.bound(most);
        }
    }

    fn end_timed_holds(&mut self, now: Timestamp) {
        let mut ended = Vec::new();
        for (lane, upstream) in self.lanes.iter_mut().zip(self.state.upstreams()) {
            if let Some(hold) = &upstream.hold
                && hold.until.is_some_and(|until| until <= now)
                && lane.released != Some(hold.seq)
            {
                lane.released = Some(hold.seq);
                ended.push((&*upstream.name).into());
            }
        }
        for upstream in ended {
            self.relay(Action::ReleaseUpstream { upstream });
        }
    }

    /// Puts a delivery that is in nobody's hands back where its state says it belongs.
    fn reschedule(&mut self, key: Key, now: Timestamp) -> Result<(), StateError> {
        if self.has_order(key.upstream) {
            return self.revise(key, now);
        }
        if self.state.upstream(key.upstream).is_some_and(|upstream| upstream.waiting.contains(key.event)) {
            self.miss(key);
            return Ok(());
        }
        if let Some(record) = self.state.record(key)? {
            schedule_record(&mut self.lanes, key, &record, now);
        }
        Ok(())
    }

    /// A command by the relay itself.
    pub(super) fn relay(&mut self, action: Action) {
        let payload = entry::encode_command(&Command::new("relay", action), self.now);
        self.out.append.push(NewEntry { kind: Kind::Command, payload });
    }

    pub(super) fn append(&mut self, entry: NewEntry) {
        self.out.append.push(entry);
    }

    pub(super) fn want(&mut self, order: ReadOrder) {
        self.out.read.push(order);
    }

    /// Whether senders of a source wait for the answer of an upstream.
    pub(super) fn awaits(&self, source: &str, upstream: &str) -> bool {
        self.routes.awaited(source) == Some(upstream)
    }

    /// The routing snapshot of the last step.
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.routes.table
    }
}

fn schedule_record(lanes: &mut [Lane], key: Key, record: &Record, now: Timestamp) {
    match record.state {
        DeliveryState::Pending => schedule(lanes, key, record.due, Work::of(record), now),
        DeliveryState::Held if record.due != NEVER => schedule(lanes, key, record.due, Work::Retry, now),
        _ => {}
    }
}

fn schedule(lanes: &mut [Lane], key: Key, due: Timestamp, work: Work, now: Timestamp) {
    if let Some(lane) = lanes.get_mut(key.upstream as usize) {
        lane.absent.remove(key.event);
        lane.agenda(work).insert(key.event, due, now);
    }
}

fn attempted(attempted: Attempted) -> NewEntry {
    NewEntry { kind: Kind::Attempted, payload: entry::encode_attempted(&attempted) }
}
