//! Owns how lanes with an order learn the keys of deliveries, and how whoever is next of a key gets where it is handed
//! out from. Who is next is [`crate::agenda::order`]; this is called whenever anything changed about a delivery.

use std::sync::Arc;

use roaring::RoaringTreemap;

use super::{
    Core, Hurry, Purpose, READ_AGAIN, Read, ReadOrder, attempted,
    keys::{Keyed, key_of, version_of},
    schedule,
};
use crate::{
    agenda::{
        lane::{Absent, Lease, READ_EVENTS, Work, priority_of},
        order::Order,
    },
    clock::Timestamp,
    event::{Change, DeliveryState, Event, Reason, Seq, Turn},
    log::{
        Entry,
        entry::{self, Attempted},
    },
    routing::{OnFailure, Priority},
    state::{Key, NEVER, Record, StateError, UpstreamId},
};

/// Deliveries that are settled at once in favour of the newest of their key; the next step goes on.
const COALESCED_MAX: usize = 256;

/// The largest body of an event that is kept because its key was wanted.
const KEPT_BODY_MAX: u64 = 64 << 10;

/// How a lane took an event.
enum Entered {
    Free,
    Member(u64),
    Unknown,
}

/// Where a delivery stands.
enum Standing {
    Fresh,
    Pending(Record),
    Held(Record),
    Parked,
    Settled,
}

impl Core {
    /// Whether a lane has an order.
    pub(super) fn has_order(&self, id: UpstreamId) -> bool {
        self.lanes.get(id as usize).is_some_and(|lane| lane.order.is_some())
    }

    pub(super) fn order_mut(&mut self, id: UpstreamId) -> Option<&mut Order> {
        self.lanes.get_mut(id as usize)?.order.as_deref_mut()
    }

    /// Lanes get the order that today's routes ask for. Where it is another one, all keys are computed anew.
    pub(super) fn configure_order(&mut self) {
        for (lane, upstream) in self.lanes.iter_mut().zip(self.state.upstreams()) {
            let wanted = self.routes.orders(&upstream.name);
            if lane.order.as_ref().map(|order| &order.orders) == wanted {
                continue;
            }
            lane.clear();
            lane.leases.retain(|_, lease| *lease != Lease::Queued);
            match wanted {
                Some(orders) => {
                    let mut open = &(&upstream.waiting | &upstream.pending) | &upstream.held;
                    if orders.parks() {
                        open |= &upstream.dead;
                    }
                    lane.absent = Absent::default();
                    let mut order = Order::new(orders.clone(), open, self.bounds.ordered_each);
                    let out = lane.leases.iter().filter(|(_, lease)| matches!(lease, Lease::Sent(_)));
                    order.under_way(out.map(|(event, _)| *event));
                    lane.order = Some(Box::new(order));
                    // Plans that are on their way into the log are not in there yet.
                    self.unseen |= self.state.unplanned();
                }
                None => {
                    lane.order = None;
                    lane.absent = Absent::of(upstream);
                    // Only the next ones of each key were in there.
                    lane.retries.forget();
                    lane.replays.forget();
                }
            }
        }
        self.has_orders = self.lanes.iter().any(|lane| lane.order.is_some());
        if !self.has_orders {
            self.unseen.clear();
        }
    }

    /// Remembers the answer that an entry tells of, where a delivery may be skipped because of it.
    pub(super) fn hear(&mut self, id: UpstreamId, entry: &Entry) {
        let skips =
            |order: &Order| order.orders.policies.iter().any(|policy| matches!(policy.on_failure, OnFailure::Skip(_)));
        if self.lanes.get(id as usize).and_then(|lane| lane.order.as_deref()).is_some_and(skips) {
            let attempt = entry::decode_attempted(&entry.payload).and_then(|attempted| attempted.attempt);
            self.heard = attempt
                .and_then(|attempt| attempt.error.or_else(|| attempt.status.map(|status| status.to_string().into())));
        }
    }

    /// An event whose plan takes a while: those behind it of its key wait for that.
    pub(super) fn reserve(&mut self, event: &Arc<Event>) {
        let ids = (0..)
            .zip(&self.lanes)
            .filter(|(_, lane)| lane.order.as_ref().is_some_and(|order| order.orders.of(&event.source).is_some()));
        let ids: Vec<UpstreamId> = ids.map(|(id, _)| id).collect();
        for id in ids {
            self.enter(id, event, true);
            self.reserved.insert(event.id.pos.seq);
        }
    }

    /// What an event is planned for is known now: it is not in the way anywhere else.
    pub(super) fn unreserve(&mut self, event: Seq, targets: &[Box<str>]) -> Result<(), StateError> {
        self.unseen.remove(event);
        if !self.reserved.remove(event) {
            return Ok(());
        }
        let now = self.now;
        for id in 0..self.lanes.len() {
            let id = id as UpstreamId;
            let is_target =
                self.state.upstream(id).is_some_and(|upstream| targets.iter().any(|name| **name == *upstream.name));
            if is_target {
                continue;
            }
            // A delivery from before a crash, or made by hand, stays.
            let known = self.state.record(Key::new(event, id))?.is_some();
            let next = if known { None } else { self.order_mut(id).and_then(|order| order.leave(event, now)) };
            if let Some(next) = next {
                self.place(id, next, None, now)?;
            }
        }
        Ok(())
    }

    /// A planned event for a lane with an order: `goes` is false if it is dead or held from the beginning.
    pub(super) fn offer_in_order(
        &mut self,
        id: UpstreamId,
        event: &Arc<Event>,
        (priority, goes): (Priority, bool),
        share: usize,
    ) -> Result<(), StateError> {
        let entered = self.enter(id, event, !goes);
        let Some(lane) = self.lanes.get_mut(id as usize).filter(|_| goes) else { return Ok(()) };
        match entered {
            Entered::Free => lane.offer(event, priority, share),
            Entered::Member(key) => {
                let seq = event.id.pos.seq;
                let Some(order) = lane.order.as_mut() else { return Ok(()) };
                if !lane.leases.contains_key(&seq) {
                    order.keep(event, share / 2);
                }
                if order.is_first(seq) {
                    return self.place(id, key, Some((seq, priority)), self.now);
                }
            }
            Entered::Unknown => {}
        }
        Ok(())
    }

    /// Makes an event known to a lane's order.
    fn enter(&mut self, id: UpstreamId, event: &Arc<Event>, undecided: bool) -> Entered {
        let seq = event.id.pos.seq;
        let unseen = self.first_unseen();
        let Self { lanes, state, evaluator, .. } = self;
        let Some(order) = lanes.get_mut(id as usize).and_then(|lane| lane.order.as_mut()) else { return Entered::Free };
        if let Some(member) = order.member_mut(seq) {
            member.undecided &= undecided;
            return Entered::Member(member.key);
        }
        if order.is_free(seq) {
            return Entered::Free;
        }
        let waits = order.is_unknown(seq) || order.is_behind_unknown(seq) || unseen.is_some_and(|unseen| unseen < seq);
        match if waits || order.is_full() {
            Keyed::NeedsBody
        } else {
            key_of(evaluator, state.log_id, &order.orders, event)
        } {
            Keyed::NeedsBody => {
                order.unknown.insert(seq);
                Entered::Unknown
            }
            Keyed::Free => {
                order.missing += u64::from(order.orders.of(&event.source).is_some());
                order.free(seq);
                Entered::Free
            }
            Keyed::Key(key, policy) => {
                order.join(seq, (key, policy), undecided, None);
                Entered::Member(key)
            }
        }
    }

    /// The oldest unplanned event that lanes with an order have not heard of.
    fn first_unseen(&mut self) -> Option<Seq> {
        while let Some(first) = self.unseen.min() {
            if self.state.unplanned().contains(first) {
                return Some(first);
            }
            self.unseen.remove(first);
        }
        None
    }

    /// Orders a read of events whose keys are not known.
    pub(super) fn learn(&mut self, id: UpstreamId) -> Result<(), StateError> {
        let unseen = self.first_unseen().unwrap_or(Seq::MAX);
        let now = self.now;
        while let Some(event) = self.order_mut(id).and_then(Order::next_cleared) {
            self.revise(Key::new(event, id), now)?;
        }
        let Some(order) = self.order_mut(id) else { return Ok(()) };
        if order.learning || order.is_full() {
            return Ok(());
        }
        let take =
            |set: &RoaringTreemap, below| set.iter().take_while(|event| *event < below).take(READ_EVENTS).collect();
        // Whoever is under way keeps others of its key waiting: before anybody is sent, that key is known.
        let mut events: Vec<Seq> = order.out_unknown.iter().copied().take(READ_EVENTS).collect();
        if events.is_empty() {
            events = take(&order.unknown, unseen);
        }
        if events.is_empty() {
            events = take(&order.late, Seq::MAX);
        }
        if events.is_empty() {
            return Ok(());
        }
        order.learning = true;
        let stored: Result<_, StateError> =
            events.into_iter().map(|event| Ok((event, self.state.stored_at(event)?))).collect();
        self.want(ReadOrder { purpose: Purpose::Keys(id), events: stored? });
        Ok(())
    }

    /// What was read to learn keys. Of what nobody may overtake the oldest must come first.
    pub(super) fn loaded_keys(
        &mut self,
        id: UpstreamId,
        mut events: Vec<(Seq, Read)>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let share = (self.bounds.events_bytes / self.lanes.len().max(1)).max(1 << 20);
        events.sort_by_key(|(event, _)| *event);
        if let Some(order) = self.order_mut(id) {
            order.learning = false;
        }
        for (seq, read) in events {
            let key = Key::new(seq, id);
            let Some(order) = self.order_mut(id) else { return Ok(()) };
            let out = order.out_unknown.contains(&seq);
            let next = order.out_unknown.is_empty() && order.unknown.min() == Some(seq);
            if !out && (order.is_full() || !(next || order.late.contains(seq))) {
                continue;
            }
            let parks = order.orders.parks();
            if matches!(self.standing(key, parks)?, Standing::Settled) && !self.is_in_flight(key) {
                self.order_mut(id).map(|order| order.leave(seq, now));
                continue;
            }
            match read {
                Read::Event(event) => self.learnt(id, &event, share, now)?,
                Read::Later(Hurry::AtOnce) => {}
                Read::Later(Hurry::AfterAWhile) => {
                    if let Some(lane) = self.lanes.get_mut(id as usize) {
                        lane.read_after = now.after(READ_AGAIN);
                    }
                }
                // Its delivery dies when it is read to be sent.
                Read::Lost(_) => {
                    if let Some(order) = self.order_mut(id) {
                        order.free(seq);
                    }
                    self.revise(key, now)?;
                }
            }
        }
        Ok(())
    }

    fn learnt(&mut self, id: UpstreamId, event: &Arc<Event>, share: usize, now: Timestamp) -> Result<(), StateError> {
        let seq = event.id.pos.seq;
        let undecided = self.is_undecided(Key::new(seq, id))?;
        let waits = self.state.upstream(id).is_some_and(|upstream| upstream.waiting.contains(seq));
        let Self { lanes, state, evaluator, .. } = self;
        let Some(lane) = lanes.get_mut(id as usize) else { return Ok(()) };
        let Some(order) = lane.order.as_mut() else { return Ok(()) };
        let Keyed::Key(key, policy) = key_of(evaluator, state.log_id, &order.orders, event) else {
            order.free(seq);
            return self.revise(Key::new(seq, id), now);
        };
        // What it waited behind others before a restart is not known; that it waited is.
        order.join(seq, (key, policy), undecided, waits.then_some(now));
        if matches!(lane.leases.get(&seq), Some(Lease::Sent(_))) {
            order.sent(seq);
        }
        if event.body.length() <= KEPT_BODY_MAX {
            order.keep(event, share / 2);
        }
        if order.is_first(seq) { self.place(id, key, None, now) } else { Ok(()) }
    }

    /// A plan is in the log: if its delivery waits behind others nothing follows from that.
    pub(super) fn planned_in_order(&mut self, key: Key, now: Timestamp) -> Result<(), StateError> {
        let Some(order) = self.order_mut(key.upstream) else { return Ok(()) };
        match order.member(key.event) {
            Some(member) if !member.undecided && !order.is_first(key.event) => Ok(()),
            _ => self.revise(key, now),
        }
    }

    /// Whether a delivery's plan is not made, or not known to hold it back.
    fn is_undecided(&self, key: Key) -> Result<bool, StateError> {
        if !self.state.unplanned().contains(key.event) {
            return Ok(false);
        }
        Ok(!self.state.has_early_record(key.event) || self.state.record(key)?.is_none())
    }

    /// Something changed about a delivery, or may have: it is put where it belongs, and whoever is next of its key, too.
    pub(super) fn revise(&mut self, key: Key, now: Timestamp) -> Result<(), StateError> {
        let (id, seq) = (key.upstream, key.event);
        let Some(order) = self.order_mut(id) else { return Ok(()) };
        let Some(member) = order.member(seq) else { return self.revise_unordered(key, now) };
        let parks = order.policy(member).is_some_and(|policy| policy.on_failure == OnFailure::Park);
        let undecided = member.undecided && self.is_undecided(key)?;
        let settled = matches!(self.standing(key, parks)?, Standing::Settled);
        let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
        let out = matches!(lane.leases.get(&seq), Some(Lease::Sent(_)));
        let Some(order) = lane.order.as_mut() else { return Ok(()) };
        // One that is under way is finished before the next goes, also if it was deleted.
        if settled && out {
            return Ok(());
        }
        if settled {
            lane.absent.remove(seq);
            return match order.leave(seq, now) {
                Some(next) => self.place(id, next, None, now),
                None => Ok(()),
            };
        }
        if let Some(member) = order.member_mut(seq) {
            member.undecided = undecided;
        }
        // Also if it is not the first: that may have been passed over while this one was under way.
        self.place(id, member.key, None, now)
    }

    /// The same for a delivery without a key, or whose key is not known.
    fn revise_unordered(&mut self, key: Key, now: Timestamp) -> Result<(), StateError> {
        let seq = key.event;
        let Some(order) = self.order_mut(key.upstream) else { return Ok(()) };
        let (free, unknown, parks) = (order.is_free(seq), order.is_unknown(seq), order.orders.parks());
        let standing = self.standing(key, parks)?;
        let out = self.is_in_flight(key);
        match standing {
            Standing::Settled if out && unknown => {}
            Standing::Settled => {
                self.order_mut(key.upstream).map(|order| order.leave(seq, now));
            }
            Standing::Parked if free => {
                self.order_mut(key.upstream).map(|order| order.leave(seq, now));
            }
            _ if unknown => {}
            // Its plan is yet to be made, or on its way into the log; that is heard of.
            Standing::Fresh if free && self.state.unplanned().contains(seq) => {}
            Standing::Fresh if free => self.miss(key),
            Standing::Pending(record) if free => schedule(&mut self.lanes, key, record.due, Work::of(&record), now),
            Standing::Held(record) if free => {
                if record.due != NEVER {
                    schedule(&mut self.lanes, key, record.due, Work::Retry, now);
                }
            }
            Standing::Pending(record) if record.replayed => {
                self.order_mut(key.upstream).map(|order| order.late.insert(seq));
            }
            _ => {
                self.order_mut(key.upstream).map(|order| order.unknown.insert(seq));
            }
        }
        Ok(())
    }

    /// Puts the next of a key where it is handed out from. `offered` is the priority of one whose plan is on its way into
    /// the log.
    fn place(
        &mut self,
        id: UpstreamId,
        line: u64,
        offered: Option<(Seq, Priority)>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        loop {
            let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
            let Some(order) = lane.order.as_mut() else { return Ok(()) };
            let Some(seq) = order.next(line) else { return Ok(()) };
            let Some(member) = order.member(seq) else { return Ok(()) };
            if member.undecided || lane.leases.contains_key(&seq) {
                return Ok(());
            }
            if order.is_behind_unknown(seq) {
                order.barred.insert(seq);
                return Ok(());
            }
            let Some(policy) = order.policy(member) else { return Ok(()) };
            let key = Key::new(seq, id);
            let standing = self.standing(key, policy.on_failure == OnFailure::Park)?;
            let (Some(lane), Some(upstream)) = (self.lanes.get_mut(id as usize), self.state.upstream(id)) else {
                return Ok(());
            };
            let Some(order) = lane.order.as_mut() else { return Ok(()) };
            match standing {
                Standing::Fresh => {
                    let offered = offered.filter(|(event, _)| *event == seq).map(|(_, priority)| priority);
                    let priority = offered.unwrap_or_else(|| priority_of(upstream, seq));
                    match order.take_kept(seq) {
                        Some(event) => {
                            lane.leases.insert(seq, Lease::Queued);
                            lane.push(Work::Fresh(priority), event);
                        }
                        None => lane.absent.insert(seq, priority),
                    }
                }
                Standing::Pending(record) => match policy.on_failure {
                    OnFailure::Skip(attempts) if record.attempts >= attempts && !record.replayed => {
                        let last =
                            self.heard.as_deref().map_or(String::new(), |last| format!(", the last one: {last}"));
                        let times = if record.attempts == 1 { "attempt" } else { "attempts" };
                        let why = Reason::with("skipped", format!("after {} {times}{last}", record.attempts));
                        self.close(key, Change::Die(why), &record);
                    }
                    _ => {
                        if record.attempts > 0 {
                            order.stalled.insert(seq);
                        }
                        schedule(&mut self.lanes, key, record.due, Work::of(&record), now);
                    }
                },
                Standing::Held(record) => {
                    order.stalled.insert(seq);
                    if record.due != NEVER {
                        schedule(&mut self.lanes, key, record.due, Work::Retry, now);
                    }
                }
                Standing::Parked => {
                    order.stalled.insert(seq);
                }
                Standing::Settled => {
                    order.leave(seq, now);
                    continue;
                }
            }
            return Ok(());
        }
    }

    fn standing(&self, key: Key, parks: bool) -> Result<Standing, StateError> {
        let seq = key.event;
        let Some(upstream) = self.state.upstream(key.upstream) else { return Ok(Standing::Settled) };
        let unplanned = self.state.unplanned().contains(seq);
        if upstream.waiting.contains(seq) || (unplanned && !self.state.has_early_record(seq)) {
            return Ok(Standing::Fresh);
        }
        // What was delivered at the first attempt has no record; the sets know that without a look at the disk.
        let has_record = upstream.pending.contains(seq) || upstream.held.contains(seq) || upstream.dead.contains(seq);
        if !has_record && !unplanned {
            return Ok(Standing::Settled);
        }
        Ok(match self.state.record(key)? {
            None if unplanned => Standing::Fresh,
            Some(record) => match record.state {
                DeliveryState::Pending => Standing::Pending(record),
                DeliveryState::Held => Standing::Held(record),
                DeliveryState::Dead if parks && !record.let_go => Standing::Parked,
                _ => Standing::Settled,
            },
            None => Standing::Settled,
        })
    }

    /// Whether a delivery at hand is to be sent now, and what is to be stored with what becomes of it. None if not: it
    /// is not its turn, or it is settled without an attempt.
    #[expect(clippy::option_option, reason = "most deliveries that are sent have nothing to store")]
    pub(super) fn take_turn(
        &mut self,
        id: UpstreamId,
        event: &Arc<Event>,
        record: &Record,
    ) -> Option<Option<Arc<Turn>>> {
        let seq = event.id.pos.seq;
        let lane = self.lanes.get_mut(id as usize)?;
        let Some(order) = lane.order.as_mut() else { return Some(None) };
        if !order.may_go(seq) {
            lane.leases.remove(&seq);
            return None;
        }
        let Some((member, policy)) = order.member(seq).and_then(|member| Some((member, order.policy(member)?))) else {
            return Some(None);
        };
        if policy.coalesce && self.coalesce(id, seq, member.key) {
            return None;
        }
        let upstream = self.state.upstream(id)?;
        let order = self.lanes.get_mut(id as usize)?.order.as_mut()?;
        let version = policy.version.as_ref().and_then(|expr| version_of(&self.evaluator, expr, event));
        let newest = upstream.newest.get(member.key);
        order.uncompared += u64::from(policy.version.is_some() && version.is_none());
        if let (Some(version), Some(newest)) = (&version, newest) {
            order.uncompared += u64::from(version.compare(newest).is_none());
            if version.is_older_than(newest) {
                let why =
                    format!("version {} is older than {}, which was delivered", version.as_str(), newest.as_str());
                self.close(Key::new(seq, id), Change::Supersede(Reason::with("stale", why)), record);
                return None;
            }
        }
        let first = record.attempts == 0 || record.replayed;
        let begun = order.since(seq).filter(|_| first);
        order.sent(seq);
        let turn = Turn { begun, key: member.key, version };
        Some((turn.begun.is_some() || turn.version.is_some()).then(|| Arc::new(turn)))
    }

    /// Settles all that wait for their first attempt but the newest of a key. Whether `seq` is among them.
    fn coalesce(&mut self, id: UpstreamId, seq: Seq, line: u64) -> bool {
        let (Some(lane), Some(upstream)) = (self.lanes.get(id as usize), self.state.upstream(id)) else { return false };
        let Some(order) = &lane.order else { return false };
        let waits = |event: &Seq| {
            upstream.waiting.contains(*event) && (*event == seq || lane.leases.get(event) != Some(&Lease::Closing))
        };
        let Some(newest) = order.newest(line, waits).filter(|newest| *newest != seq && waits(&seq)) else {
            return false;
        };
        let older: Vec<Seq> =
            order.line(line).filter(|event| *event != newest && waits(event)).take(COALESCED_MAX).collect();
        for event in older {
            let record = Record::waiting(self.now);
            self.close(Key::new(event, id), Change::Supersede(Reason::new("coalesced")), &record);
        }
        if let Some(order) = self.order_mut(id) {
            order.sent(seq);
        }
        true
    }

    /// Settles a delivery without an attempt: until its entry is applied it is nobody's.
    fn close(&mut self, key: Key, change: Change, record: &Record) {
        let Some(name) = self.state.upstream(key.upstream).map(|upstream| upstream.name.clone()) else { return };
        let Some(lane) = self.lanes.get_mut(key.upstream as usize) else { return };
        lane.leases.insert(key.event, Lease::Closing);
        if let Some(order) = &mut lane.order
            && order.is_first(key.event)
        {
            order.sent(key.event);
        }
        let closed = Attempted {
            event: key.event,
            upstream: (&*name).into(),
            attempt: None,
            change,
            previous: record.last,
            replays: Some(record.replays),
            turn: None,
        };
        self.out.append.push(attempted(closed));
    }
}
