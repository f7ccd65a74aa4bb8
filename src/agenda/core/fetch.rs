//! Owns what the core reads back from the log for deliveries that are due and whose events are not at hand. Orders go
//! out in [`super::Effects`], what was read comes back as an argument.

use super::{Core, Hurry, Purpose, READ_AGAIN, Read, ReadOrder, attempted};
use crate::{
    agenda::lane::{Lease, READ_EVENTS, READY_MAX, Work},
    clock::Timestamp,
    event::{Change, DeliveryState, Reason, Seq},
    log::entry::{Action, Attempted, Target},
    routing::Priority,
    state::{Key, StateError, UpstreamId},
};

impl Core {
    /// Orders reads of what should be sent next and is not at hand.
    pub(super) fn fetch(&mut self, id: UpstreamId, now: Timestamp) -> Result<(), StateError> {
        if !self.is_open(id, now) {
            return Ok(());
        }
        let share = (self.bounds.events_bytes / self.lanes.len().max(1)).max(1 << 20);
        let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
        let (retries, replays) = (lane.retries.len(), lane.replays.len());
        if !lane.refilling && (lane.retries.wants_refill(replays) || lane.replays.wants_refill(retries)) {
            lane.refilling = true;
            self.out.refill.push(id);
        }
        if now < lane.read_after {
            return Ok(());
        }
        self.learn(id)?;
        let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
        if lane.bytes() >= share {
            return Ok(());
        }
        for priority in Priority::ALL {
            let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
            let work = Work::Fresh(priority);
            if !lane.reading(work) && !lane.absent.has_none(priority) && lane.ready(work) < READ_EVENTS / 2 {
                let events = lane.absent.take(priority, READ_EVENTS);
                self.order(id, work, events)?;
            }
        }
        self.fetch_due(id, Work::Retry, now)?;
        self.fetch_due(id, Work::Replay, now)
    }

    fn fetch_due(&mut self, id: UpstreamId, work: Work, now: Timestamp) -> Result<(), StateError> {
        let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
        if lane.reading(work) || lane.ready(work) >= READY_MAX / 2 {
            return Ok(());
        }
        let mut events = Vec::new();
        let mut release = Vec::new();
        for event in lane.agenda(work).take(now, READ_EVENTS) {
            let Some(record) = self.state.record(Key::new(event, id))? else { continue };
            match record.state {
                // A stale entry: the record was made due at another time since.
                _ if record.due > now => {}
                DeliveryState::Held => release.push(event),
                DeliveryState::Pending if Work::of(&record) == work => events.push(event),
                // It became another kind of work while it was in hand, where its entry of that kind was passed over.
                DeliveryState::Pending => lane.agenda(Work::of(&record)).insert(event, record.due, now),
                _ => {}
            }
        }
        if let Some(name) = self.state.upstream(id).map(|upstream| upstream.name.clone())
            && !release.is_empty()
        {
            let targets = release.into_iter().map(|event| Target { event, upstream: (&*name).into() }).collect();
            self.relay(Action::Release { targets });
        }
        self.order(id, work, events)
    }

    fn order(&mut self, id: UpstreamId, work: Work, events: Vec<Seq>) -> Result<(), StateError> {
        let Some(lane) = self.lanes.get_mut(id as usize) else { return Ok(()) };
        let mut order = Vec::with_capacity(events.len());
        for event in events {
            // Who is not next in an ordered lane is put where it belongs when it is.
            let waits = lane.order.as_mut().is_some_and(|order| !order.may_go(event));
            if waits || lane.leases.contains_key(&event) {
                continue;
            }
            lane.leases.insert(event, Lease::Queued);
            order.push((event, self.state.stored_at(event)?));
        }
        if order.is_empty() {
            return Ok(());
        }
        lane.set_reading(work, true);
        let purpose = match work {
            Work::Fresh(priority) => Purpose::Fresh(id, priority),
            Work::Retry => Purpose::Retry(id),
            Work::Replay => Purpose::Replay(id),
        };
        self.out.read.push(ReadOrder { purpose, events: order });
        Ok(())
    }

    pub(super) fn loaded_due(&mut self, id: UpstreamId, work: Work, events: Vec<(Seq, Read)>, now: Timestamp) {
        let Some(name) = self.state.upstream(id).map(|upstream| upstream.name.clone()) else { return };
        let Some(lane) = self.lanes.get_mut(id as usize) else { return };
        lane.set_reading(work, false);
        for (event, read) in events {
            // Whoever was held, deleted or settled meanwhile has no lease any more.
            if lane.leases.get(&event) != Some(&Lease::Queued) {
                continue;
            }
            match read {
                Read::Event(event) => lane.push(work, event),
                Read::Later(hurry) => {
                    lane.leases.remove(&event);
                    if hurry == Hurry::AfterAWhile {
                        lane.read_after = now.after(READ_AGAIN);
                    }
                    match work {
                        Work::Fresh(priority) => lane.absent.insert(event, priority),
                        Work::Retry | Work::Replay => lane.agenda(work).insert(event, now, now),
                    }
                }
                Read::Lost(why) => {
                    tracing::error!(event, upstream = %name, why, "a stored event can't be read: its delivery is dead");
                    lane.leases.remove(&event);
                    let change = Change::Die(Reason::with("body_unreadable", why));
                    let previous = self.state.record(Key::new(event, id)).ok().flatten().and_then(|record| record.last);
                    let upstream = (&*name).into();
                    let died =
                        Attempted { event, upstream, attempt: None, change, previous, replays: None, turn: None };
                    self.out.append.push(attempted(died));
                }
            }
        }
    }
}
