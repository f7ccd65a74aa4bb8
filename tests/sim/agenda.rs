//! The agenda's thread, its reader and its pool: one step at a time, answers in any order.

use crate::{checker::Is, pieces::told, starving::Around, table::Mode, world::World};
use stagepost::{
    agenda::{
        Next,
        core::{Effects, Hurry, Purpose, Read, ReadOrder},
        plan::{Answer, NoAnswer},
        read_events,
    },
    expr::EvalError,
    log::{
        Entry, Kind, Log,
        entry::{self},
    },
    state::{Key as StateKey, NEVER, UpstreamId},
};

impl World {
    /// One turn of the agenda's thread.
    pub fn step(&mut self) -> Result<(), String> {
        let entries = self.entries();
        // A command may change the table that what comes after it is planned with.
        let mut pieces = entries.split_inclusive(|entry| entry.kind == Kind::Command);
        let mut piece = Some(pieces.next().unwrap_or_default());
        while let Some(some) = piece {
            self.apply(some)?;
            let effects =
                self.core.step(some, self.now(), &told(self.sabotage, &self.table)).map_err(|why| why.to_string())?;
            self.perform(effects)?;
            piece = pieces.next();
            if let Some(known) = self.core.take_subscribed() {
                self.subscribed(&known);
                piece = Some(piece.unwrap_or_default());
            }
        }
        // Leases are long: what was settled before they end has been heard of.
        let now = self.now();
        if self.log.end() <= self.core.state().next && !self.uncommitted {
            self.core.end_old_leases(now).map_err(|why| why.to_string())?;
        }
        let reading = self.orders.iter().filter_map(|order| self.read_for(order)).collect();
        let around = Around {
            now: now.as_millis(),
            table: &self.table,
            windows: &self.told,
            reading: &reading,
            ordered: matches!(self.mode, Mode::Ordered | Mode::Otherwise),
        };
        self.starving.stepped(&self.checker, &around)
    }

    /// What the log has is new to the model, too.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries.iter().filter(|entry| entry.pos.seq >= self.core.state().next) {
            self.tell(|| {
                let attempted = entry::decode_attempted(&entry.payload);
                format!("  applied {} {:?} {attempted:?}", entry.pos.seq, entry.kind)
            });
            self.checker.applied(entry)?;
            self.starving.applied(entry, &self.checker);
        }
        Ok(())
    }

    fn perform(&mut self, effects: Effects) -> Result<(), String> {
        for entry in effects.append {
            self.note(&format!("append {:?} {}", entry.kind, hex::encode(&entry.payload)));
            self.starving.settles(&entry);
            self.offered.push_back(entry);
        }
        self.offer_all();
        for job in effects.dispatch {
            self.dispatch(job)?;
        }
        self.orders.extend(effects.read);
        self.questions.extend(effects.ask);
        // An order that ends leaves what was behind it to a search; otherwise all due times fit into memory.
        if !effects.refill.is_empty() && self.plain {
            return Err("a search of stored records was ordered below the bound".into());
        }
        for id in effects.refill {
            self.refill(id)?;
        }
        Ok(())
    }

    /// Searches the stored records of an upstream, as the upkeep does.
    pub fn refill(&mut self, id: UpstreamId) -> Result<(), String> {
        let mut found = Vec::new();
        for record in self.core.state().layers().scan(StateKey::new(0, 0)) {
            let (key, record) = record.map_err(|why| why.to_string())?;
            if key.upstream == id && matches!(record.state.as_str(), "pending" | "held") && record.due != NEVER {
                found.push((key, record));
            }
        }
        let now = self.now();
        self.core.refilled(id, &found, None, now);
        Ok(())
    }

    /// What was committed since, from the feed or from the log where the feed has a gap.
    pub fn entries(&mut self) -> Vec<Entry> {
        if self.gap.is_none() {
            match self.feed.take(1 + self.up_to(64) as usize) {
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
        self.log.scan(next, 2_000).unwrap()
    }

    /// As the agenda's thread does: in order, behind what found the log's queue full.
    pub fn offer_all(&mut self) {
        while let Some(entry) = self.offered.pop_front() {
            // The log's queue is full now and then.
            if !self.draining && self.up_to(20) == 0 {
                self.offered.push_front(entry);
                return;
            }
            self.append(entry.kind, entry.payload);
        }
    }

    /// Some of the reads that were ordered, in any order; some are put off.
    pub fn read_some(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let order = self.orders.remove(self.up_to(self.orders.len() as u64) as usize);
        let mut read = read_events(&*self.log, &order);
        // What does not fit is put off, from some event on; what is to be planned stays in order only if it is at once.
        if !self.draining && self.up_to(4) == 0 {
            let hurry = match order.purpose {
                Purpose::Plan => Hurry::AtOnce,
                _ if self.up_to(2) == 0 => Hurry::AtOnce,
                _ => Hurry::AfterAWhile,
            };
            let from = self.up_to(read.len() as u64 + 1) as usize;
            for (_, read) in read.iter_mut().skip(from) {
                *read = Read::Later(hurry);
            }
        }
        let now = self.now();
        if let Some(upstream) = self.read_for(&order) {
            self.starving.read(&upstream, now.as_millis());
        }
        self.core.loaded(order.purpose, read, now).unwrap();
    }

    /// The upstream that events are read for.
    pub fn read_for(&self, order: &ReadOrder) -> Option<String> {
        let id = match order.purpose {
            Purpose::Fresh(id, _) | Purpose::Retry(id) | Purpose::Replay(id) | Purpose::Keys(id) => id,
            Purpose::Plan | Purpose::Revive => return None,
        };
        self.core.state().upstream(id).map(|upstream| upstream.name.to_string())
    }

    /// The pool answers one question.
    pub fn answer_some(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let question = self.questions.remove(self.up_to(self.questions.len() as u64) as usize);
        let answers: Vec<_> = question.ask.iter().map(|route| (*route, self.answer())).collect();
        self.core.answered(&question, &answers).unwrap();
    }

    pub fn answer(&self) -> Answer {
        match self.up_to(if self.draining { 6 } else { 8 }) {
            0 => Err(NoAnswer::Failed(EvalError::TooSlow(250))),
            1..3 => Ok(false),
            6 => Err(EvalError::Unavailable("the pool is busy".into()).into()),
            7 => Err(NoAnswer::Later("the disk does not answer".into())),
            _ => Ok(true),
        }
    }

    /// The agenda's state says the same as the model, as far as it has read.
    pub fn compare(&mut self) -> Result<(), String> {
        let state = self.core.state();
        for ((event, upstream), known) in &self.checker.deliveries {
            let id = state.id(upstream).ok_or_else(|| format!("upstream {upstream} is not known"))?;
            let record = state.record(StateKey::new(*event, id)).map_err(|why| why.to_string())?;
            let is = record.map_or(Is::Delivered, |record| match record.state.as_str() {
                "pending" => Is::Pending,
                "held" => Is::Held,
                "dead" => Is::Dead,
                "delivered" => Is::Delivered,
                _ => Is::Gone,
            });
            // Of an event that is not planned, what waits has no record.
            if is != known.is && (record.is_some() || self.checker.planned.contains(event)) {
                return Err(format!("delivery of {event} to {upstream} is {:?}, but the state says {is:?}", known.is));
            }
        }
        for event in self.checker.acknowledged.keys().filter(|event| **event < state.next) {
            let gone = self.checker.planned.contains(event) || self.checker.deleted.contains(event);
            if !gone && !state.unplanned().contains(*event) {
                return Err(format!("event {event} waits for its plan, and the state has forgotten it"));
            }
        }
        self.checker.same_jobs(state.jobs())?;
        self.checker.closing.same(&state.subscribed())
    }
}
