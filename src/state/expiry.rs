//! Owns what retention needs to know: which events must be carried before their segment may go, and forgetting what
//! has gone.
//!
//! Promises that nothing undelivered, held or waiting for a person is ever forgotten. Who deletes segments and how
//! much may be carried is the log's business.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use roaring::RoaringTreemap;

use super::{EVENT, Key, State, StateError};
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
    /// Commands that still count, for example holds.
    pub upkeep: Vec<NewEntry>,
    /// There is more to carry than `limit`: carry this, then ask again.
    pub more: bool,
}

impl State {
    /// What must be appended again before the entries before the end of `range` are deleted: at most `limit` events, of
    /// those in `range`.
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
        let mut live = BTreeSet::new();
        let open = self.upstreams.iter().flat_map(|upstream| [&upstream.waiting, &upstream.pending, &upstream.held]);
        for set in open.chain([&self.unplanned]) {
            let mut taken = 0;
            let mut events = set.iter();
            events.advance_to(range.start);
            for event in events.take_while(|event| *event < before) {
                if taken > limit {
                    break;
                }
                if self.stored_at(event)? < before {
                    live.insert(event);
                    taken += 1;
                }
            }
        }
        for record in self.layers.scan(Key::new(range.start, 0)) {
            let (key, record) = record?;
            if key.event >= before {
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
            if live.len() > limit && live.last().is_some_and(|last| *last < key.event) {
                break;
            }
        }
        let mut expiry = Expiry { more: live.len() > limit, ..Expiry::default() };
        for event in live.into_iter().take(limit) {
            expiry.carry.push(self.carry_order(log, event)?);
        }
        expiry.upkeep = self
            .upstreams
            .iter()
            .filter_map(|upstream| {
                let hold = upstream.hold.as_ref().filter(|hold| hold.seq < before)?;
                let action = Action::HoldUpstream {
                    upstream: (&*upstream.name).into(),
                    until_ms: hold.until.map(Timestamp::as_millis),
                    reason: hold.reason.clone(),
                };
                let payload = entry::encode_json(&Command { actor: hold.actor.clone(), action });
                Some(NewEntry { kind: Kind::Command, payload })
            })
            .collect();
        Ok(expiry)
    }

    /// The oldest event that is not settled.
    #[must_use]
    pub fn oldest_live(&self) -> Option<Seq> {
        self.upstreams.iter().filter_map(super::Upstream::oldest).chain(self.unplanned.min()).min()
    }

    /// Forgets events whose entries are gone: everything stored before `first`.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn expire(&mut self, first: Seq) -> Result<(), StateError> {
        for event in self.carried.iter().take_while(|event| *event < first).collect::<Vec<_>>() {
            if self.stored_at(event)? < first {
                self.carried.remove(event);
            }
        }
        let carried = self.carried.clone();
        let gone = |set: &RoaringTreemap| {
            let old = set.iter().take_while(|event| *event < first);
            old.filter(|event| !carried.contains(*event)).collect::<Vec<_>>()
        };
        for set in [&mut self.unplanned, &mut self.early, &mut self.deleted] {
            for event in gone(set) {
                set.remove(event);
            }
        }
        for (id, upstream) in (0..).zip(&mut self.upstreams) {
            for event in gone(&upstream.dead) {
                if let Some(record) = self.layers.get(Key::new(event, id))? {
                    upstream.book(event, &record, false);
                }
                upstream.dead.remove(event);
            }
            for set in [&mut upstream.waiting, &mut upstream.pending, &mut upstream.held] {
                for event in gone(set) {
                    set.remove(event);
                }
            }
        }
        self.timeline.forget_before(self.oldest_live().map_or(first, |oldest| oldest.min(first)));
        Ok(())
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
                DeliveryState::Pending | DeliveryState::Review | DeliveryState::Superseded => continue,
            };
            let name = (&*upstream.name).into();
            let (upstream, previous) = (name, record.last);
            let attempted = Attempted { event, upstream, attempt: None, change, previous, replays: None };
            order.then.push(NewEntry { kind: Kind::Attempted, payload: entry::encode_attempted(&attempted) });
        }
        Ok(order)
    }
}

/// The reason an entry gives for a delivery that is dead or held, with its text.
pub(super) fn reason_text(log: &dyn Log, seq: Seq) -> Option<Reason> {
    let entry = log.read(seq).ok()?;
    match entry.kind {
        Kind::Attempted => match entry::decode_attempted(&entry.payload)?.change {
            Change::Die(reason) | Change::Hold(reason) => Some(reason),
            _ => None,
        },
        Kind::Command => match entry::decode_json::<Command>(&entry.payload)?.action {
            Action::Hold { reason: Some(text), .. } => Some(Reason::with("operator", text)),
            _ => None,
        },
        _ => None,
    }
}
