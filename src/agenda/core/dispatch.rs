//! Owns who is handed to the engine now: upstreams take turns, and inside a lane [`crate::agenda::turns`] decides.

use std::sync::Arc;

use super::Core;
use crate::{
    agenda::lane::{Lease, Work},
    clock::Timestamp,
    event::{DeliveryState, Event, Job, Seq},
    state::{Key, Record, StateError, UpstreamId},
};

/// Jobs an upstream gets in one turn before the next upstream's turn comes.
const QUANTUM: usize = 32;

impl Core {
    /// Upstreams take turns, a quantum each, until nobody has work or room.
    pub(super) fn dispatch(&mut self, now: Timestamp) -> Result<(), StateError> {
        let count = self.lanes.len();
        let mut idle = 0;
        while idle < count {
            let before = self.out.dispatch.len();
            self.dispatch_from((self.turn % count) as UpstreamId, now)?;
            self.turn = (self.turn + 1) % count;
            idle = if self.out.dispatch.len() == before { idle + 1 } else { 0 };
        }
        Ok(())
    }

    fn dispatch_from(&mut self, id: UpstreamId, now: Timestamp) -> Result<(), StateError> {
        if !self.is_open(id, now) {
            return Ok(());
        }
        // Those that turned out not to be next, or not to be sent at all.
        let mut passed_over: Vec<Seq> = Vec::new();
        let mut jobs = 0;
        while jobs < QUANTUM {
            let Some((work, event)) = self.pop(id) else { break };
            let seq = event.id.pos.seq;
            let Some(record) = self.due_record(id, work, &event, now)? else {
                passed_over.push(seq);
                continue;
            };
            let Some(turn) = self.take_turn(id, &event, &record) else {
                passed_over.push(seq);
                continue;
            };
            let (Some(lane), Some(upstream)) = (self.lanes.get_mut(id as usize), self.state.upstream(id)) else {
                break;
            };
            lane.leases.insert(seq, Lease::Sent(now));
            lane.in_flight += 1;
            jobs += 1;
            let begun = turn.as_ref().and_then(|turn| turn.begun);
            // The state knows only about when the event came.
            let known = if record.replays == 0 { record.planned_at.max(event.id.time) } else { record.planned_at };
            let planned_at = begun.map_or(known, |begun| begun.max(known));
            self.out.dispatch.push(Job {
                event,
                upstream: upstream.name.clone(),
                number: record.attempts.saturating_add(1),
                replays: record.replays,
                new_keys: record.new_keys,
                original: record.original,
                planned_at,
                paused: upstream.pauses.overlap(planned_at, now),
                previous: record.last,
                turn,
            });
        }
        if self.has_order(id) {
            for seq in passed_over {
                self.revise(Key::new(seq, id), now)?;
            }
        }
        Ok(())
    }

    /// The next event at hand, if one more may be under way.
    fn pop(&mut self, id: UpstreamId) -> Option<(Work, Arc<Event>)> {
        let lane = self.lanes.get_mut(id as usize)?;
        loop {
            if lane.in_flight >= lane.window {
                return None;
            }
            let (work, event) = lane.pop()?;
            if lane.leases.get(&event.id.pos.seq) == Some(&Lease::Queued) {
                return Some((work, event));
            }
        }
    }

    /// The record of a delivery that may be sent now. None if it may not: then its lease is gone.
    fn due_record(
        &mut self,
        id: UpstreamId,
        work: Work,
        event: &Event,
        now: Timestamp,
    ) -> Result<Option<Record>, StateError> {
        let seq = event.id.pos.seq;
        let (Some(lane), Some(upstream)) = (self.lanes.get_mut(id as usize), self.state.upstream(id)) else {
            return Ok(None);
        };
        let first = matches!(work, Work::Fresh(_));
        // The common case needs no look-up: nothing but acceptance is known of it.
        if first
            && (upstream.waiting.contains(seq)
                || (self.state.unplanned().contains(seq) && !self.state.has_early_record(seq)))
        {
            return Ok(Some(Record::waiting(event.id.time)));
        }
        match self.state.record(Key::new(seq, id))? {
            // Attempted in an earlier life and planned anew: it waits for its retry.
            Some(record) if record.state == DeliveryState::Pending && record.due > now => {
                lane.leases.remove(&seq);
                lane.agenda(Work::of(&record)).insert(seq, record.due, now);
                Ok(None)
            }
            Some(record) if record.state == DeliveryState::Pending => Ok(Some(record)),
            // Another delivery of the event was settled before the plan, which is on its way into the log.
            None if first && self.state.unplanned().contains(seq) => Ok(Some(Record::waiting(event.id.time))),
            _ => {
                lane.leases.remove(&seq);
                Ok(None)
            }
        }
    }

    /// Whether an upstream is configured, not held or disabled, and its engine takes anything at all.
    pub(super) fn is_open(&self, id: UpstreamId, now: Timestamp) -> bool {
        let lane = self.lanes.get(id as usize).is_some_and(|lane| lane.live && lane.window > 0);
        let Some(upstream) = self.state.upstream(id).filter(|upstream| upstream.closed.is_none()) else { return false };
        lane && upstream.hold.as_ref().is_none_or(|hold| hold.until.is_some_and(|until| until <= now))
    }
}
