//! Owns resends: aggregated to at most one `duplicate` entry a minute for each event, and reviving dead deliveries.
//!
//! Promises a bound of [`EVENTS_MAX`] events; resends of more at once are not recorded (they are still answered).
//! A revival is written as a replay by the relay, so that it is durable and counted like one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use roaring::RoaringTreemap;

use super::{
    core::{Core, Hurry, Purpose, READ_AGAIN, Read, ReadOrder},
    lane::READ_EVENTS,
};
use crate::{
    clock::Timestamp,
    event::{EventId, Reason, Seq},
    log::{
        Kind, NewEntry,
        entry::{self, Action, Duplicate, Target},
    },
    routing::OnDuplicate,
    state::{Key, StateError},
};

/// The most events whose resends are remembered.
pub(super) const EVENTS_MAX: usize = 10_000;

/// Between two `duplicate` entries of one event.
const EVERY: Duration = Duration::from_secs(60);

/// Between two looks at whether an event's dead deliveries should be revived.
const REVIVE_EVERY: Duration = Duration::from_secs(5);

/// Resends noted by request threads and not yet taken.
#[derive(Default)]
pub(super) struct Noted(Mutex<HashMap<Seq, (u64, u64)>>);

impl Noted {
    /// Notes one resend. Never blocks for long. False if there is no room to remember it.
    pub(super) fn note(&self, first: EventId, body_differs: bool) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = first.pos.seq;
        if noted.len() >= EVENTS_MAX && !noted.contains_key(&seq) {
            return false;
        }
        let (count, differs) = noted.entry(seq).or_default();
        *count += 1;
        *differs += u64::from(body_differs);
        true
    }

    /// Takes all.
    pub(super) fn take(&self) -> HashMap<Seq, (u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Resends that are counted and perhaps not yet written.
#[derive(Default)]
pub(super) struct Resends {
    counts: BTreeMap<Seq, Counted>,
    /// Nothing is to be written or forgotten before: a storm of resends must not be walked over at every step.
    look_at: Timestamp,
    /// Events that could not be read to be revived, at most [`EVENTS_MAX`] …
    unread: RoaringTreemap,
    /// … and when they are read again.
    read_at: Timestamp,
}

#[derive(Default)]
struct Counted {
    count: u64,
    body_differs: u64,
    write_after: Timestamp,
    revive_after: Timestamp,
}

impl Resends {
    /// How many of an event are counted and not yet written, and how many of them had another body.
    pub(super) fn unwritten(&self, first: Seq) -> (u64, u64) {
        self.counts.get(&first).map_or((0, 0), |counted| (counted.count, counted.body_differs))
    }

    /// When the next entry is to be written.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let write = Some(self.look_at).filter(|at| *at > now && !self.counts.is_empty());
        let read = Some(self.read_at).filter(|at| *at > now && !self.unread.is_empty());
        write.into_iter().chain(read).min()
    }
}

impl Core {
    /// An event was sent again, so many times since the last call.
    pub fn resent(&mut self, first: Seq, count: u64, body_differs: u64, now: Timestamp) {
        let dead = self.state.upstreams().iter().any(|upstream| upstream.dead.contains(first));
        if self.resends.counts.len() >= EVENTS_MAX && !self.resends.counts.contains_key(&first) {
            return;
        }
        let counted = self.resends.counts.entry(first).or_default();
        counted.count += count;
        counted.body_differs += body_differs;
        self.resends.look_at = self.resends.look_at.min(counted.write_after);
        if dead && now >= counted.revive_after {
            counted.revive_after = now.after(REVIVE_EVERY);
            let stored_at = self.state.stored_at(first).unwrap_or(first);
            self.want(ReadOrder { purpose: Purpose::Revive, events: vec![(first, stored_at)] });
        }
    }

    /// Writes the counts whose minute has passed and forgets events that were not resent for a minute.
    pub(super) fn write_resends(&mut self, now: Timestamp) {
        if now < self.resends.look_at {
            return;
        }
        let mut write = Vec::new();
        let mut look_at = now.after(EVERY);
        self.resends.counts.retain(|first, counted| {
            if now < counted.write_after {
                look_at = look_at.min(counted.write_after);
                return true;
            }
            if counted.count == 0 {
                return false;
            }
            write.push(Duplicate { first: *first, count: counted.count, body_differs: counted.body_differs });
            *counted =
                Counted { write_after: now.after(EVERY), revive_after: counted.revive_after, ..Counted::default() };
            true
        });
        self.resends.look_at = look_at;
        for duplicate in write {
            self.append(NewEntry { kind: Kind::Duplicate, payload: entry::encode_duplicate(&duplicate) });
        }
    }

    /// Orders what could not be read to be revived once more.
    pub(super) fn read_resent(&mut self, now: Timestamp) -> Result<(), StateError> {
        if now < self.resends.read_at || self.resends.unread.is_empty() {
            return Ok(());
        }
        let events: Vec<Seq> = self.resends.unread.iter().take(READ_EVENTS).collect();
        let mut order = ReadOrder { purpose: Purpose::Revive, events: Vec::with_capacity(events.len()) };
        for event in events {
            self.resends.unread.remove(event);
            order.events.push((event, self.state.stored_at(event)?));
        }
        self.want(order);
        Ok(())
    }

    /// Revives dead deliveries of events whose source wants that.
    pub(super) fn loaded_resent(&mut self, events: Vec<(Seq, Read)>, now: Timestamp) {
        for (seq, read) in events {
            let event = match read {
                Read::Event(event) => event,
                Read::Later(hurry) => {
                    if self.resends.unread.len() < EVENTS_MAX as u64 {
                        self.resends.unread.insert(seq);
                    }
                    if hurry == Hurry::AfterAWhile {
                        self.resends.read_at = now.after(READ_AGAIN);
                    }
                    continue;
                }
                Read::Lost(why) => {
                    tracing::error!(event = seq, why, "a stored event can't be read: a resend does not revive it");
                    continue;
                }
            };
            let source = self.table().sources.iter().find(|source| *source.name == *event.source);
            let rule = source.and_then(|source| source.dedupe.as_ref()).map(|rule| rule.on_duplicate);
            if rule != Some(OnDuplicate::Revive) {
                continue;
            }
            // What the sender who waited was answered is final, whatever it was.
            let answered = |name: &str| {
                let id = self.state.id(name).filter(|_| self.awaits(&event.source, name));
                let record = id.and_then(|id| self.state.record(Key::new(seq, id)).ok().flatten());
                record.is_some_and(|record| record.reason != Reason::new("given_up").number())
            };
            let dead = self.state.upstreams().iter().filter(|upstream| upstream.dead.contains(seq));
            let dead = dead.filter(|upstream| !answered(&upstream.name));
            let targets: Vec<Target> =
                dead.map(|upstream| Target { event: seq, upstream: (&*upstream.name).into() }).collect();
            if !targets.is_empty() {
                self.relay(Action::Replay { targets, new_key: false, interval_us: None, created: false });
            }
        }
    }
}
