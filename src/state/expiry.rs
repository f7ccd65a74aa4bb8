//! Owns what retention needs to know: which events must be carried before their segment may go, and forgetting what
//! has gone.
//!
//! Promises that nothing undelivered, held or waiting for a person is ever forgotten. Who deletes segments and how
//! much may be carried is the log's business.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use super::{EVENT, Key, NEVER, State, StateError, Upstream, UpstreamId};
use crate::{
    clock::Timestamp,
    event::{Change, DeliveryState, Reason, Seq},
    log::{
        Kind, Log, NewEntry,
        entry::{self, Action, Attempted, Command},
    },
};

/// How long settled and dead deliveries stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Counts from the last settlement.
    pub settled: Duration,
    /// For dead deliveries.
    pub dead: Duration,
}

/// An event that must be appended again before its segment goes.
#[derive(Clone, Debug)]
pub struct CarryOrder {
    /// Its own (first) sequence number.
    pub event: Seq,
    /// Where it is stored now.
    pub stored_at: Seq,
    /// Upstreams and attempts so far, for [`entry::Carried::history`].
    pub history: Vec<(Box<str>, u32)>,
    /// To be appended after the carried entry: what a rebuild could not know from it.
    pub then: Vec<NewEntry>,
}

/// What must be durable before a stretch of the log may go.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    /// Events, oldest first.
    pub carry: Vec<CarryOrder>,
    /// Commands that still count, for example holds. They are without effect if an operator's command has come before them:
    /// ask again until there are none.
    pub upkeep: Vec<NewEntry>,
    /// Where to go on: what comes before is in here, carry it and ask again from there. None: that was all.
    pub next: Option<Seq>,
}

/// How far [`State::forget`] has come.
#[derive(Clone, Debug, Default)]
pub struct Forgetting {
    /// The next carried event to look at.
    carried: Seq,
    /// All carried events were looked at, and everything but the dead is forgotten.
    dead: bool,
    /// The upstream, and the next of its dead deliveries.
    upstream: usize,
    event: Seq,
}

/// Deliveries that are looked at for each event that may be carried at once: a bound for the time of one question.
const LOOK_AT: usize = 16;

impl State {
    /// What must be appended again before the entries before the end of `range` are deleted: at most `limit` events, of
    /// those in `range`. Looks at no more than [`LOOK_AT`] times `limit` of them, so that a store full of carried events
    /// is asked about in pieces.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn plan_expiry(
        &self,
        log: &dyn Log,
        range: Range<Seq>,
        now: Timestamp,
        keep: Keep,
        limit: usize,
    ) -> Result<Expiry, StateError> {
        let before = range.end;
        let most = limit.max(1).saturating_mul(LOOK_AT);
        // Everything below was looked at.
        let mut until = before;
        let mut live = BTreeSet::new();
        let open = self.upstreams.iter().flat_map(|upstream| [&upstream.waiting, &upstream.pending, &upstream.held]);
        for set in open.chain([&self.unplanned]) {
            let mut events = set.iter();
            events.advance_to(range.start);
            for (looked_at, event) in (0..).zip(events.take_while(|event| *event < before)) {
                if looked_at == most || event >= until {
                    until = until.min(event);
                    break;
                }
                if self.stored_at(event)? < before {
                    live.insert(event);
                }
            }
        }
        for (looked_at, record) in (0..).zip(self.layers.scan(Key::new(range.start, 0))) {
            let (key, record) = record?;
            if key.event >= until {
                break;
            }
            // An event is looked at whole.
            if looked_at >= most && key.event > range.start {
                until = key.event;
                break;
            }
            let age = now.since(record.settled_at);
            let wanted = match record.state {
                DeliveryState::Dead => age < keep.dead,
                DeliveryState::Review => true,
                _ => key.upstream != EVENT && age < keep.settled && !self.deleted.contains(key.event),
            };
            if wanted && self.stored_at(key.event)? < before {
                live.insert(key.event);
            }
        }
        let mut expiry = Expiry { next: (until < before).then_some(until), ..Expiry::default() };
        for (carried, event) in (0..).zip(live.range(..until)) {
            if carried == limit {
                expiry.next = Some(*event);
                break;
            }
            expiry.carry.push(self.carry_order(log, *event)?);
        }
        expiry.upkeep = self.upstreams.iter().flat_map(|upstream| upkeep(upstream, before, self.next)).collect();
        expiry.upkeep.extend(self.carried_subscribers(before));
        let (records, is_more) = self.audit.carry(log, before);
        expiry.upkeep.extend(records);
        if is_more && expiry.next.is_none() {
            expiry.next = Some(before);
        }
        let jobs = self.jobs.to_carry(before).map(|job| {
            let action = Action::StartJob {
                id: Some(job.id),
                spec: job.spec.clone(),
                progress: job.progress,
                started_ms: job.started_at.as_millis(),
            };
            // The audit trail has it already.
            let command = Command { piece: 1, as_of: Some(self.next), ..Command::new(job.actor.clone(), action) };
            let payload = entry::encode_json(&command);
            NewEntry { kind: Kind::Command, payload }
        });
        expiry.upkeep.extend(jobs);
        Ok(expiry)
    }

    /// The oldest event that is not settled.
    #[must_use]
    pub fn oldest_live(&self) -> Option<Seq> {
        self.upstreams.iter().filter_map(super::Upstream::oldest).chain(self.unplanned.min()).min()
    }

    /// Forgets events whose entries are gone: everything stored before `first`. One slice of the work: at most `most`
    /// records are looked up. True when it is done; until then call it again with the same `at`, which begins as its
    /// default. Entries may be applied in between.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn forget(&mut self, first: Seq, at: &mut Forgetting, most: usize) -> Result<bool, StateError> {
        let mut left = most;
        if !at.dead {
            let mut events = self.carried.iter();
            events.advance_to(at.carried);
            let old: Vec<Seq> = events.take_while(|event| *event < first).take(most.saturating_add(1)).collect();
            for event in &old {
                if left == 0 {
                    at.carried = *event;
                    return Ok(false);
                }
                left -= 1;
                if self.stored_at(*event)? < first {
                    self.carried.remove(*event);
                }
            }
            self.forget_all_but_the_dead(first);
            at.dead = true;
        }
        while let Some(upstream) = self.upstreams.get_mut(at.upstream) {
            let id = UpstreamId::try_from(at.upstream).unwrap_or(EVENT);
            let mut events = upstream.dead.iter();
            events.advance_to(at.event);
            let carried = &self.carried;
            let next = events.take_while(|event| *event < first).find(|event| !carried.contains(*event));
            let Some(event) = next else {
                (at.upstream, at.event) = (at.upstream + 1, 0);
                continue;
            };
            at.event = event;
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            if let Some(record) = self.layers.get(Key::new(event, id))? {
                upstream.book(event, &record, false);
            }
            upstream.dead.remove(event);
        }
        self.jobs.forget(first);
        self.timeline.forget_before(self.oldest_live().map_or(first, |oldest| oldest.min(first)));
        Ok(true)
    }

    fn forget_all_but_the_dead(&mut self, first: Seq) {
        self.audit.forget(first);
        let sets = self.upstreams.iter_mut();
        let sets = sets.flat_map(|upstream| {
            upstream.newest.forget(first);
            let Upstream { waiting, pending, held, high, low, .. } = upstream;
            [waiting, pending, held, high, low]
        });
        for set in sets.chain([&mut self.unplanned, &mut self.early, &mut self.deleted]) {
            if set.min().is_some_and(|oldest| oldest < first) {
                let mut gone = set.clone();
                gone.remove_range(first..);
                gone -= &self.carried;
                *set -= gone;
            }
        }
    }

    fn carry_order(&self, log: &dyn Log, event: Seq) -> Result<CarryOrder, StateError> {
        let mut order = CarryOrder { event, stored_at: self.stored_at(event)?, history: Vec::new(), then: Vec::new() };
        for (id, upstream) in (0..).zip(&self.upstreams) {
            let Some(record) = self.record(Key::new(event, id))? else { continue };
            order.history.push(((&*upstream.name).into(), record.attempts.max(u32::from(record.last.is_some()))));
            let reason =
                || record.reason_at.and_then(|seq| reason_text(log, seq)).unwrap_or(Reason::from_number(record.reason));
            let change = match record.state {
                DeliveryState::Dead => Change::Die(reason()),
                DeliveryState::Held => Change::Hold(reason()),
                DeliveryState::Delivered => Change::Delivered,
                DeliveryState::Ignored => Change::Ignore,
                DeliveryState::Review => Change::Review(reason()),
                DeliveryState::Superseded => Change::Supersede(reason()),
                DeliveryState::Pending => continue,
            };
            let name = (&*upstream.name).into();
            let (upstream, previous) = (name, record.last);
            let attempted = Attempted { event, upstream, attempt: None, change, previous, replays: None, turn: None };
            let until = Some(record.due).filter(|due| record.state == DeliveryState::Held && *due != NEVER);
            order.then.push(NewEntry { kind: Kind::Attempted, payload: entry::encode_again(&attempted, until) });
        }
        Ok(order)
    }
}

/// An upstream's commands that still count and stand before this entry, as they are known before the next one.
fn upkeep(upstream: &Upstream, before: Seq, next: Seq) -> Vec<NewEntry> {
    let name = || Box::from(&*upstream.name);
    let hold = upstream.hold.iter().filter(|hold| hold.seq < before).map(|hold| {
        let until_ms = hold.until.map(Timestamp::as_millis);
        let action = Action::HoldUpstream { upstream: name(), until_ms, reason: hold.reason.clone() };
        (hold.actor.clone(), action)
    });
    let drained = upstream.drained.iter().filter(|drained| drained.seq < before).map(|drained| {
        let (target, reason) = (drained.target.clone(), drained.reason.clone());
        (drained.actor.clone(), Action::DrainTarget { upstream: name(), target, reason })
    });
    // It is the state that counts, not that somebody asked for it: that has its own record.
    let entry = |(actor, action): (String, Action)| {
        let command = Command { piece: 1, as_of: Some(next), ..Command::new(actor, action) };
        NewEntry { kind: Kind::Command, payload: entry::encode_json(&command) }
    };
    hold.chain(drained).map(entry).collect()
}

/// The reason an entry gives for a delivery that is dead, held, in review or superseded, with its text.
pub(super) fn reason_text(log: &dyn Log, seq: Seq) -> Option<Reason> {
    let entry = log.read(seq).ok()?;
    match entry.kind {
        Kind::Attempted => entry::decode_attempted(&entry.payload)?.change.reason().cloned(),
        Kind::Command => match entry::decode_json::<Command>(&entry.payload)?.action {
            Action::Hold { reason: Some(text), .. } | Action::Expire { reason: Some(text), .. } => {
                Some(Reason::with("operator", text))
            }
            _ => None,
        },
        _ => None,
    }
}
