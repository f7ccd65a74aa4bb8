//! Owns planning inside the core: which events are read to be planned, what was decided about them, and how that is
//! written. What routing says about one event is [`crate::agenda::plan`].

use std::{mem, sync::Arc};

use super::{ASKING_MAX, Core, Hurry, Purpose, Question, READ_AGAIN, Read, ReadOrder, attempted};
use crate::{
    agenda::{
        lane::READ_EVENTS,
        plan::{Answer, Decision, Verdict},
    },
    clock::Timestamp,
    event::{Change, DeliveryState, Event, Seq},
    log::{
        Kind, NewEntry,
        entry::{self, Attempted, Planned, PlannedEvent},
    },
    state::{Key, Record, StateError},
};

/// Numbers in one `planned` entry, so that it stays far below the largest entry.
const PLAN_NUMBERS_MAX: usize = 20_000;

impl Core {
    pub(super) fn read_unplanned(&mut self, now: Timestamp) -> Result<(), StateError> {
        if self.planning {
            return Ok(());
        }
        self.catching_up = !self.unread.is_empty();
        let may_ask = self.asking < ASKING_MAX / 2 && now >= self.plan_after;
        let from = match self.catching_up {
            true => &mut self.unread,
            false if may_ask => &mut self.put_off,
            false => return Ok(()),
        };
        let events: Vec<Seq> = from.iter().take(READ_EVENTS).collect();
        for event in &events {
            from.remove(*event);
        }
        if events.is_empty() {
            return Ok(());
        }
        let mut order = ReadOrder { purpose: Purpose::Plan, events: Vec::with_capacity(events.len()) };
        for event in events {
            order.events.push((event, self.state.stored_at(event)?));
        }
        self.planning = true;
        self.out.read.push(order);
        Ok(())
    }

    pub(super) fn loaded_unplanned(&mut self, event: Seq, read: Read, now: Timestamp) -> Result<(), StateError> {
        if !self.state.unplanned().contains(event) {
            return self.unreserve(event, &[]);
        }
        match read {
            Read::Event(event) => self.plan(&event)?,
            Read::Lost(why) => self.lost_unplanned(event, &why),
            Read::Later(Hurry::AtOnce) => {
                self.unread.insert(event);
            }
            Read::Later(Hurry::AfterAWhile) => {
                self.put_off.insert(event);
                self.plan_after = now.after(READ_AGAIN);
            }
        }
        Ok(())
    }

    pub(super) fn lost_unplanned(&mut self, event: Seq, why: &str) {
        tracing::error!(event, why, "a stored event can't be read: it goes nowhere");
        self.unseen.remove(event);
        self.plans.push((event, Decision::default()));
    }

    /// The pool's answer to a [`Question`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn answered(&mut self, question: &Question, answers: &[(usize, Answer)]) -> Result<(), StateError> {
        self.asking = self.asking.saturating_sub(1);
        let event = &question.event;
        if !self.state.unplanned().contains(event.id.pos.seq) {
            return self.unreserve(event.id.pos.seq, &[]);
        }
        match question.routes.plan(event, &self.evaluator, answers) {
            Verdict::Decided(decision) => self.decided(event, decision)?,
            Verdict::Ask(_) => {
                self.put_off.insert(event.id.pos.seq);
            }
            Verdict::Later(why) => self.plan_later(event.id.pos.seq, &why),
        }
        Ok(())
    }

    /// An event could not be planned for a reason that passes: it and all that are put off are planned again after
    /// [`READ_AGAIN`].
    fn plan_later(&mut self, event: Seq, why: &str) {
        if self.now >= self.plan_after {
            tracing::warn!(event, why, "an event can't be planned now: it is tried again");
        }
        self.put_off.insert(event);
        self.plan_after = self.now.after(READ_AGAIN);
    }

    pub(super) fn plan(&mut self, event: &Arc<Event>) -> Result<(), StateError> {
        let verdict = self.routes.plan(event, &self.evaluator, &[]);
        self.unseen.remove(event.id.pos.seq);
        if !matches!(verdict, Verdict::Decided(_)) {
            self.reserve(event);
        }
        match verdict {
            Verdict::Decided(decision) => self.decided(event, decision)?,
            Verdict::Ask(_) if self.asking >= ASKING_MAX => {
                self.put_off.insert(event.id.pos.seq);
            }
            Verdict::Ask(ask) => {
                self.asking += 1;
                self.out.ask.push(Question { event: event.clone(), routes: self.routes.clone(), ask });
            }
            Verdict::Later(why) => self.plan_later(event.id.pos.seq, &why),
        }
        Ok(())
    }

    fn decided(&mut self, event: &Arc<Event>, decision: Decision) -> Result<(), StateError> {
        if self.is_traced {
            self.out.decided.push(event.clone());
        }
        self.unreserve(event.id.pos.seq, &decision.targets)?;
        let share = (self.bounds.events_bytes / self.lanes.len().max(1)).max(1 << 20);
        for name in &decision.targets {
            let id = self.state.intern(name);
            self.grow();
            let goes = decision.held.is_none() && !decision.is_settled(name);
            let priority = decision.priority(name);
            if self.has_order(id) {
                self.offer_in_order(id, event, (priority, goes), share)?;
            } else if let Some(lane) = self.lanes.get_mut(id as usize)
                && goes
            {
                lane.offer(event, priority, share);
            }
        }
        if let Some(upstream) = self.routes.awaited(&event.source)
            && !self.leads_to_an_answer(upstream, &decision)
        {
            self.out.unanswered.push(event.id.pos.seq);
        }
        self.plans.push((event.id.pos.seq, decision));
        Ok(())
    }

    /// Whether an upstream is about to be sent what was decided.
    fn leads_to_an_answer(&self, upstream: &str, decision: &Decision) -> bool {
        decision.held.is_none()
            && decision.targets.iter().any(|name| &**name == upstream)
            && !decision.is_settled(upstream)
            && self.state.id(upstream).is_some_and(|id| self.is_open(id, self.now))
    }

    /// Writes what was decided in this step: deaths and holds first, so that no crash can leave a plan without them.
    pub(super) fn write_plans(&mut self) -> Result<(), StateError> {
        if self.plans.is_empty() {
            return Ok(());
        }
        self.plans.sort_by_key(|(event, _)| *event);
        let mut planned = Planned { generation: self.routes.table.generation, ..Planned::default() };
        let mut numbers = 0;
        for (event, decision) in mem::take(&mut self.plans) {
            let more = 2 + decision.targets.len() + 3 * decision.priorities.len();
            numbers += more;
            if numbers > PLAN_NUMBERS_MAX {
                let full = Planned { generation: planned.generation, ..Planned::default() };
                let full = mem::replace(&mut planned, full);
                self.out.append.push(NewEntry { kind: Kind::Planned, payload: entry::encode_planned(&full) });
                numbers = more;
            }
            let dead = decision.dead.iter().map(|(upstream, reason)| (upstream, Change::Die(reason.clone())));
            let answered = decision.answered.iter().map(|upstream| (upstream, Change::Ignore));
            let held = decision.held.iter().flat_map(|reason| {
                let alive = decision.targets.iter().filter(|name| !decision.is_settled(name));
                alive.map(|upstream| (upstream, Change::Hold(reason.clone())))
            });
            for (upstream, change) in dead.chain(answered).chain(held) {
                if self.decided_before_its_plan(event, upstream, &change)? {
                    continue;
                }
                let upstream = upstream.clone();
                let died =
                    Attempted { event, upstream, attempt: None, change, previous: None, replays: None, turn: None };
                self.out.append.push(attempted(died));
            }
            let mut targets = Vec::with_capacity(decision.targets.len());
            let priorities = decision.priorities;
            for name in decision.targets {
                let known = planned.upstreams.iter().position(|known| *known == name);
                let index = known.unwrap_or_else(|| {
                    planned.upstreams.push(name);
                    planned.upstreams.len() - 1
                });
                targets.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
            for (name, priority) in priorities {
                let index = planned.upstreams.iter().position(|known| *known == name);
                let index = index.and_then(|index| u32::try_from(index).ok());
                planned.priorities.extend(index.map(|index| (event, index, priority as u8)));
            }
            planned.events.push(PlannedEvent { event, targets, ignored: decision.ignored });
        }
        self.out.append.push(NewEntry { kind: Kind::Planned, payload: entry::encode_planned(&planned) });
        Ok(())
    }

    /// Whether a crash came between such a change and the plan. A delivery died once, and what the filter says now
    /// changes nothing; it was held once, and may have been released since; or it was sent and settled.
    fn decided_before_its_plan(&self, event: Seq, upstream: &str, change: &Change) -> Result<bool, StateError> {
        let (true, Some(id)) = (self.state.has_early_record(event), self.state.id(upstream)) else { return Ok(false) };
        let record = self.state.record(Key::new(event, id))?;
        let open = |record: &Record| matches!(record.state, DeliveryState::Pending | DeliveryState::Held);
        Ok(record.is_some_and(|record| matches!(change, Change::Hold(_)) || !open(&record)))
    }
}
