//! Owns the walk through the log in its own order: every event that is meant, with its plan and its first attempts.
//!
//! Promises bounded memory: an event waits for its plan and its first attempts for [`AHEAD_BYTES`] of log, and goes
//! without those that stand further away. Damage is reported and stepped over. An event that was carried stands where
//! its newest copy does.

use std::collections::VecDeque;

use super::{
    filter::Compiled,
    find::{Found, Plan, carried_plan, plans},
    list::last_status,
    ports::{DeliveryView, PlannedFor, QueryError, Reads},
    quiet::breathe,
};
use crate::{
    clock::Timestamp,
    event::{Change, Event, Seq},
    log::{
        Kind, Log, ReadError,
        entry::{self, Attempted, Entry},
        read_body,
    },
};

/// How far an event waits for its plan and its first attempts.
const AHEAD_BYTES: u64 = 8 << 20;

/// Read at once.
const SCAN_BYTES: usize = 1 << 20;

/// Events in one question for their states.
const BATCH: usize = 200;

/// An event on the way, with what was met after it.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) found: Found,
    /// First attempts that delivered, for those that left no record.
    pub(super) firsts: Vec<Attempted>,
}

/// Some events in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) met: Vec<Met>,
    /// What the operator must know: damage, expressions that failed.
    pub(super) notes: Vec<String>,
    /// Events before this number are through.
    pub(super) reached: Seq,
}

struct Waiting {
    at: Seq,
    event: Event,
    plan: Option<Plan>,
    firsts: Vec<Attempted>,
    /// How much was read when it came.
    came_at: u64,
}

/// The walk.
pub(super) struct Forward<'a> {
    reads: &'a dyn Reads,
    wanted: &'a Compiled,
    log: std::sync::Arc<dyn Log>,
    /// Where the log began when the walk did.
    first: Seq,
    next: Seq,
    /// Events from here on are not meant.
    before: Seq,
    /// First attempts are of interest.
    attempts: bool,
    read: u64,
    at_end: bool,
    /// Where the log ended when the walk had come past `before`: what comes later is not waited for.
    until: Option<Seq>,
    waiting: VecDeque<Waiting>,
    /// Stretches that went from the log before the walk came to them: what counted of them was carried.
    gone: Vec<(Seq, Seq)>,
    notes: Vec<String>,
}

impl<'a> Forward<'a> {
    /// A walk over what stands in the log at `from` or later, of events before `before`.
    pub(super) fn new(reads: &'a dyn Reads, wanted: &'a Compiled, from: Seq, before: Seq, attempts: bool) -> Self {
        let log = reads.log();
        let first = log.stats().first_seq;
        let since = wanted.filters().since.map_or(first, |since| first_since(&*log, first, since));
        Self {
            reads,
            wanted,
            first,
            next: from.max(since),
            before,
            attempts,
            read: 0,
            at_end: false,
            until: None,
            waiting: VecDeque::new(),
            gone: Vec::new(),
            notes: Vec::new(),
            log,
        }
    }

    /// The next events that are meant; None at the end.
    ///
    /// # Errors
    /// What can't be stepped over.
    pub(super) fn batch(&mut self) -> Result<Option<Batch>, QueryError> {
        loop {
            let mut ready = Vec::new();
            while ready.len() < BATCH && self.waiting.front().is_some_and(|front| self.is_ready(front)) {
                ready.extend(self.waiting.pop_front());
            }
            if !ready.is_empty() {
                let reached = ready.last().map_or(0, |last: &Waiting| last.at.saturating_add(1));
                let met = self.meant(ready)?;
                return Ok(Some(Batch { met, notes: std::mem::take(&mut self.notes), reached }));
            }
            if self.at_end {
                let notes = std::mem::take(&mut self.notes);
                let last = Batch { met: Vec::new(), notes, reached: self.next };
                return Ok((!last.notes.is_empty()).then_some(last));
            }
            self.scan()?;
        }
    }

    fn is_ready(&self, one: &Waiting) -> bool {
        let met = |upstream: &str| one.firsts.iter().any(|first| *first.upstream == *upstream);
        let known = one.plan.as_ref().is_some_and(|plan| !self.attempts || plan.upstreams.iter().all(|name| met(name)));
        self.at_end || known || one.event.method.is_safe() || self.read.saturating_sub(one.came_at) > AHEAD_BYTES
    }

    fn scan(&mut self) -> Result<(), QueryError> {
        let is_past = self.next >= self.before && self.next >= *self.until.get_or_insert_with(|| self.log.end());
        if is_past || breathe(&*self.log).is_break() {
            self.at_end = true;
            return Ok(());
        }
        let entries = match self.log.scan(self.next, SCAN_BYTES) {
            Err(ReadError::Damaged { file, first, last }) if last >= self.next => {
                self.next = last.saturating_add(1);
                self.notes.push(ReadError::Damaged { file, first, last }.to_string());
                return Ok(());
            }
            read => read?,
        };
        let (Some(begin), Some(last)) = (entries.first(), entries.last()) else {
            self.at_end = true;
            return Ok(());
        };
        if begin.pos.seq > self.next {
            self.gone.push((self.next, begin.pos.seq));
        }
        self.next = last.pos.seq.saturating_add(1);
        for entry in &entries {
            self.read += entry.payload.len() as u64;
            self.take(entry)?;
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry) -> Result<(), QueryError> {
        match entry.kind {
            Kind::Accepted => self.wait(entry, None),
            Kind::Carried => {
                let Some(carried) = entry::decode_carried(&entry.payload) else { return Ok(()) };
                let seq = carried.id.pos.seq;
                let met_before = seq >= self.first && !self.gone.iter().any(|(from, to)| (*from..*to).contains(&seq));
                let at = self.reads.stored_at(seq).map_err(QueryError::State)?;
                if !met_before && at == Some(entry.pos.seq) {
                    self.wait(entry, carried_plan(entry));
                }
            }
            Kind::Planned => {
                for (event, plan) in plans(entry) {
                    if let Some(waiting) = self.at(event) {
                        waiting.plan = Some(plan);
                    }
                }
            }
            Kind::Attempted if self.attempts => {
                let Some(attempted) = entry::decode_attempted(&entry.payload) else { return Ok(()) };
                if matches!(attempted.change, Change::Delivered)
                    && let Some(waiting) = self.at(attempted.event)
                {
                    waiting.firsts.push(attempted);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn wait(&mut self, entry: &Entry, plan: Option<Plan>) {
        let Some(event) = entry::decode_event(entry) else { return };
        if event.id.pos.seq < self.before && self.wanted.takes_event(&event) {
            let (at, came_at) = (entry.pos.seq, self.read);
            self.waiting.push_back(Waiting { at, event, plan, firsts: Vec::new(), came_at });
        }
    }

    /// The event of this number, if it waits and was not carried.
    fn at(&mut self, event: Seq) -> Option<&mut Waiting> {
        let index = self.waiting.binary_search_by_key(&event, |waiting| waiting.at).ok()?;
        self.waiting.get_mut(index)
    }

    fn meant(&mut self, ready: Vec<Waiting>) -> Result<Vec<Met>, QueryError> {
        let planned = |one: &Waiting| PlannedFor {
            event: one.event.id.pos.seq,
            upstreams: one.plan.clone().unwrap_or_default().upstreams,
        };
        let planned: Vec<PlannedFor> = ready.iter().map(planned).collect();
        let views = self.reads.views(&planned).map_err(QueryError::State)?;
        let mut met = Vec::with_capacity(ready.len());
        for (Waiting { at, event, plan, firsts, .. }, view) in ready.into_iter().zip(views) {
            if view.deleted {
                continue;
            }
            let found = Found { event, plan, view, stored_at: at };
            match self.takes(&found, &firsts) {
                Ok(true) => met.push(Met { found, firsts }),
                Ok(false) => {}
                Err(why) => self.notes.push(format!("{}: {why}", found.event.id)),
            }
        }
        Ok(met)
    }

    fn takes(&self, found: &Found, firsts: &[Attempted]) -> Result<bool, String> {
        let mut status = |delivery: &DeliveryView| match delivery.last {
            Some(_) => last_status(&*self.log, delivery),
            None => {
                let first = firsts.iter().find(|first| first.upstream == delivery.upstream);
                first.and_then(|first| first.attempt.as_ref()?.status)
            }
        };
        if !self.wanted.takes_deliveries(&found.view, found.state(), &mut status) {
            return Ok(false);
        }
        let body = || read_body(&*self.log, &found.event).map_err(|error| error.to_string());
        self.wanted.takes_content(&found.event, &body, self.reads)
    }
}

/// The first number whose entry was appended at this time or later, about: never too far.
fn first_since(log: &dyn Log, first: Seq, since: Timestamp) -> Seq {
    let (mut early, mut late) = (first, log.end());
    while early < late {
        let middle = early + (late - early) / 2;
        match log.scan(middle, 1).ok().and_then(|entries| entries.first().map(|entry| (entry.pos.seq, entry.time))) {
            Some((seq, time)) if time < since => early = seq.saturating_add(1),
            Some(_) => late = middle,
            // Nothing stands there, or it can't be read: what is before decides.
            None => late = middle,
        }
    }
    early
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{fake::*, wire::Filters},
        event::EventId,
    };

    fn walked(fake: &Fake, filters: Filters) -> (Vec<(EventId, usize)>, Vec<String>) {
        let wanted = Compiled::new(filters, fake).unwrap();
        let mut walk = Forward::new(fake, &wanted, 0, Seq::MAX, true);
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        while let Some(batch) = walk.batch().unwrap() {
            all.extend(batch.met.iter().map(|met| (met.found.event.id, met.firsts.len())));
            notes.extend(batch.notes);
        }
        (all, notes)
    }

    #[test]
    fn events_come_oldest_first_with_plans_and_attempts_that_stand_after_others() {
        let fake = Fake::default();
        let ids = [fake.accept("a", b"1"), fake.accept("a", b"2"), fake.accept("a", b"3")];
        fake.plan(&[(ids[0], &["billing"]), (ids[1], &["billing"]), (ids[2], &[])]);
        fake.attempt(ids[1], "billing", 1, Some(200), None);
        fake.attempt(ids[0], "billing", 1, Some(200), None);
        let (all, notes) = walked(&fake, Filters::default());
        assert_eq!(all, [(ids[0], 1), (ids[1], 1), (ids[2], 0)]);
        assert!(notes.is_empty());
        let two = Filters { expression: Some("2".into()), ..Filters::default() };
        assert_eq!(walked(&fake, two).0, [(ids[1], 1)]);
    }

    #[test]
    fn a_carried_event_comes_once_and_what_is_damaged_or_deleted_does_not() {
        let fake = Fake::default();
        let ids: Vec<EventId> = (0..8).map(|_| fake.accept("a", b"x")).collect();
        for id in &ids {
            fake.plan(&[(*id, &["billing"])]);
        }
        fake.carry(ids[0], &["billing"]);
        fake.delete(ids[2]);
        fake.damage(ids[5].pos.seq);
        let (all, notes) = walked(&fake, Filters::default());
        let all: Vec<EventId> = all.into_iter().map(|(id, _)| id).collect();
        assert_eq!(all.iter().filter(|id| **id == ids[0]).count(), 1, "{all:?}");
        assert_eq!(all.last(), Some(&ids[0]));
        assert!(!all.contains(&ids[2]) && !all.contains(&ids[5]) && all.contains(&ids[7]));
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn the_walk_ends_where_the_log_ended_when_the_last_event_was_met() {
        let fake = Fake::default();
        let id = fake.accept("a", b"x");
        let wanted = Compiled::new(Filters::default(), &fake).unwrap();
        let mut walk = Forward::new(&fake, &wanted, 0, fake.log().end(), true);
        let (mut met, mut rounds) = (Vec::new(), 0);
        while let Some(batch) = walk.batch().unwrap() {
            met.extend(batch.met.into_iter().map(|met| met.found.event.id));
            fake.accept("a", b"later");
            rounds += 1;
        }
        assert_eq!((met, rounds), (vec![id], 1));
    }

    #[test]
    fn the_walk_begins_where_the_time_says() {
        let fake = Fake::default();
        for _ in 0..50 {
            fake.accept("a", b"x");
        }
        let log = fake.log();
        let time = log.read(20).unwrap().time;
        assert_eq!(first_since(&*log, 1, time), 20);
        assert_eq!(first_since(&*log, 1, Timestamp::ZERO), 1);
        assert_eq!(first_since(&*log, 1, time.after(std::time::Duration::from_secs(9))), 51);
    }
}
