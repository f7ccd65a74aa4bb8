//! What must be true of every history: an independent, slow and simple model of deliveries, fed with the durable
//! entries in the order of the log and with every job at the moment it is handed out.

use std::collections::{BTreeMap, BTreeSet};

use stagepost::{
    clock::Timestamp,
    event::{Change, Job, Seq},
    log::{
        Entry, Kind,
        entry::{self, Action, Target},
    },
    routing::Table,
};

use crate::{closing::Closing, order::Orders, replays::Jobs};

/// The model's word for a delivery's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Pending,
    Held,
    Dead,
    Delivered,
    /// Settled in another way.
    Gone,
}

/// What the model knows of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub is: Is,
    pub attempts: u32,
    pub replays: u32,
    pub new_keys: u32,
    /// It was kept back or replayed at least once, so its first attempt may come late.
    pub out_of_order: bool,
    /// It is dead, and those behind it of its key were let go.
    pub let_go: bool,
    /// It waits for its first attempt, and nobody has touched it.
    pub waits: bool,
    /// An operator gave it up, maybe while an attempt was under way.
    pub expired: bool,
    /// The last release that named it found it held.
    pub released: bool,
}

pub type Key = (Seq, String);

/// The model.
#[derive(Default)]
pub struct Checker {
    /// What senders were told: event and body.
    pub acknowledged: BTreeMap<Seq, Vec<u8>>,
    pub durable: BTreeMap<Seq, Vec<u8>>,
    /// When its entry was written.
    pub accepted_at: BTreeMap<Seq, Timestamp>,
    pub orders: Orders,
    pub jobs: Jobs,
    pub closing: Closing,
    /// Another took their place.
    pub superseded: BTreeSet<Key>,
    pub planned: BTreeSet<Seq>,
    pub deleted: BTreeSet<Seq>,
    pub deliveries: BTreeMap<Key, Known>,
    pub holds: BTreeMap<String, Option<u64>>,
    /// Handed to the engine and neither settled nor given back.
    pub in_flight: BTreeSet<Key>,
    /// How often the upstream got it.
    pub arrived: BTreeMap<Key, u32>,
    /// The last first attempt in this life of the process.
    last_first: BTreeMap<String, Seq>,
    /// Who had a first attempt in any life.
    begun: BTreeSet<Key>,
    /// What there was to be checked, and how often: a history without it shows nothing about it.
    pub reached: BTreeMap<&'static str, u64>,
    /// How often a delivery had been replayed when it was handed out last.
    replays_then: BTreeMap<Key, u32>,
}

const BLANK: Known = Known {
    is: Is::Pending,
    attempts: 0,
    replays: 0,
    new_keys: 0,
    out_of_order: false,
    released: false,
    let_go: false,
    waits: true,
    expired: false,
};

impl Known {
    fn replay(&mut self, new_key: bool) {
        (self.out_of_order, self.waits, self.expired, self.let_go) = (true, false, false, false);
        self.is = Is::Pending;
        self.replays += 1;
        self.new_keys += u32::from(new_key);
    }
}

impl Checker {
    /// Takes note of something that is to be checked.
    pub fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// The process died: nothing is in flight any more, and what was in flight may be sent again.
    pub fn crashed(&mut self) {
        self.jobs.crashed();
        self.in_flight.clear();
        self.last_first.clear();
        self.closing.crashed();
    }

    /// A durable entry, as the agenda is given it.
    pub fn applied(&mut self, entry: &Entry) -> Result<(), String> {
        match entry.kind {
            Kind::Accepted => {
                let event = entry::decode_event(entry).ok_or("an accepted entry can't be decoded")?;
                let stagepost::event::Body::Inline(body) = event.body else { return Err("not inline".into()) };
                self.durable.insert(entry.pos.seq, body.to_vec());
                self.accepted_at.insert(entry.pos.seq, entry.time);
                self.orders.sources.insert(entry.pos.seq, event.source.to_string());
            }
            Kind::Planned => self.plan(entry)?,
            Kind::Attempted => self.attempted(entry)?,
            Kind::Command => {
                self.command(entry)?;
                self.reconsider(None);
            }
            _ => {}
        }
        Ok(())
    }

    fn plan(&mut self, entry: &Entry) -> Result<(), String> {
        let planned = entry::decode_planned(&entry.payload).ok_or("a plan can't be decoded")?;
        for event in &planned.events {
            if !self.planned.insert(event.event) {
                return Err(format!("event {} is planned twice", event.event));
            }
            if event.targets.is_empty() && !self.deleted.contains(&event.event) {
                return Err(format!("event {} has a route and was planned for nobody", event.event));
            }
            if self.deleted.contains(&event.event) {
                continue;
            }
            for target in &event.targets {
                let name = planned.upstreams[*target as usize].to_string();
                self.deliveries.entry((event.event, name)).or_insert(BLANK);
            }
        }
        Ok(())
    }

    fn attempted(&mut self, entry: &Entry) -> Result<(), String> {
        let attempted = entry::decode_attempted(&entry.payload).ok_or("an attempt can't be decoded")?;
        let key = (attempted.event, attempted.upstream.to_string());
        if self.deleted.contains(&attempted.event) {
            return Ok(());
        }
        self.settled_in_order(&attempted)?;
        let then = self.replays_then.get(&key).copied();
        // Settled by the agenda itself, which knows how often it was replayed.
        let closed = attempted.attempt.is_none()
            && match &attempted.change {
                Change::Supersede(_) => true,
                Change::Die(reason) => reason.code == "skipped",
                _ => false,
            };
        let Some(known) = self.known(&key) else { return Err(format!("{key:?} was attempted and is unknown")) };
        if !closed && attempted.replays.is_some() && attempted.replays != then {
            return Err(format!(
                "{key:?} was handed out with {then:?} replays and settled with {:?}",
                attempted.replays
            ));
        }
        // What began before a replay does not settle it.
        let overtaken = attempted.replays.is_some_and(|replays| replays < known.replays);
        known.waits = false;
        let counts = attempted.attempt.as_ref().filter(|attempt| attempt.number > known.attempts);
        if let Some(attempt) = &attempted.attempt {
            known.attempts = attempt.number;
        }
        let late = known.is == Is::Dead && known.expired && counts.is_some();
        let diverted = match &attempted.change {
            Change::Divert(diversion) if !overtaken && matches!(known.is, Is::Pending | Is::Held) => {
                Some((key.0, diversion.to.to_string()))
            }
            _ => None,
        };
        known.is = match (known.is, &attempted.change) {
            (is @ (Is::Pending | Is::Held), _) if overtaken => is,
            // Whatever was under way then: it stays given up.
            (Is::Dead, _) if known.expired => Is::Dead,
            (Is::Pending | Is::Held, Change::Delivered) => Is::Delivered,
            (Is::Pending | Is::Held, Change::Ignore | Change::Supersede(_) | Change::Divert(_)) => Is::Gone,
            (Is::Pending | Is::Held, Change::Die(_)) => Is::Dead,
            (is @ (Is::Pending | Is::Held), Change::Retry(_) | Change::Postpone(_)) => is,
            (Is::Pending | Is::Held, Change::Hold(_)) => Is::Held,
            (is, change) => return Err(format!("{key:?} is {is:?} and was attempted: {change:?}")),
        };
        if let Some(attempt) = counts {
            self.closing.attempted(&key.1, attempt, entry.time);
        }
        let ended = match &attempted.change {
            Change::Die(reason) => matches!(reason.code, "subscriber_disabled" | "upstream_removed"),
            _ => false,
        };
        if ended && !self.closing.was_closed(&key.1) {
            return Err(format!("{key:?} dies as if its subscriber were gone"));
        }
        if ended {
            self.reach("died with its subscriber");
        }
        if late {
            self.reach("was given up while under way");
        }
        self.reconsider(Some(&key));
        if let Some(to) = diverted {
            // Once: a second diversion finds it there, whatever became of it.
            self.deliveries.entry(to).or_insert(Known { out_of_order: true, waits: false, ..BLANK });
            self.superseded.insert(key);
        }
        Ok(())
    }

    fn command(&mut self, entry: &Entry) -> Result<(), String> {
        let command: entry::Command = entry::decode_json(&entry.payload).ok_or("a command can't be decoded")?;
        let key = |target: &Target| (target.event, target.upstream.to_string());
        match command.action {
            Action::HoldUpstream { upstream, until_ms, .. } => {
                self.holds.insert(upstream.into(), until_ms);
            }
            Action::ReleaseUpstream { upstream } => {
                self.holds.remove(&*upstream);
            }
            Action::Hold { targets, .. } => self.each(targets.iter().map(key), |known| {
                (known.out_of_order, known.waits) = (true, false);
                if known.is == Is::Pending {
                    known.is = Is::Held;
                }
            }),
            Action::Release { targets } => self.each(targets.iter().map(key), |known| {
                known.released = known.is == Is::Held;
                if known.released {
                    known.is = Is::Pending;
                }
            }),
            Action::Replay { targets, new_key, .. } => {
                self.each(targets.iter().map(key), |known| known.replay(new_key));
            }
            Action::Expire { targets, .. } => self.each(targets.iter().map(key), |known| {
                if matches!(known.is, Is::Pending | Is::Held) {
                    (known.is, known.expired, known.waits, known.out_of_order) = (Is::Dead, true, false, true);
                }
            }),
            Action::Requeue { targets } => self.each(targets.iter().map(key), |known| {
                if known.is == Is::Pending {
                    (known.waits, known.out_of_order) = (false, true);
                }
            }),
            Action::StartJob { id: None, spec, .. } => self.begins(entry.pos.seq, spec)?,
            Action::StartJob { .. } => return Err("nothing is carried here".to_owned()),
            Action::EndJob { job, end, why } => self.ends(job, end, why.as_deref())?,
            Action::ReplayStep(step) => {
                self.steps(&step)?;
                self.reach(if self.jobs.last_was_void { "void step" } else { "step" });
                if !self.jobs.last_was_void {
                    for key in step.created.iter().map(key).filter(|key| !self.deleted.contains(&key.0)) {
                        self.deliveries.entry(key).or_insert(BLANK);
                    }
                    let all = step.targets.iter().chain(&step.created).map(key);
                    self.each(all, |known| known.replay(step.new_key));
                }
            }
            Action::LetGo { targets } => self.each(targets.iter().map(key), |known| {
                known.let_go |= known.is == Is::Dead;
            }),
            action @ (Action::PutSubscriber { .. }
            | Action::RemoveSubscriber { .. }
            | Action::DisableSubscriber { .. }
            | Action::EnableSubscriber { .. }) => {
                self.reach(match &action {
                    Action::DisableSubscriber { .. } => "subscriber disabled",
                    Action::EnableSubscriber { upstream } if self.closing.is_closed(upstream) => "subscriber enabled",
                    _ => "subscriber",
                });
                self.closing.command(&action, &command.actor)?;
            }
            Action::RefuseSubscriber { .. } => return Err("nobody is refused here".to_owned()),
            // Nothing is ever in review here: no upstream of the simulation has `accept`.
            Action::Resolve { .. } => return Err("a delivery was resolved that nobody reviewed".to_owned()),
            Action::Delete { events } => {
                self.deliveries.retain(|(event, _), _| !events.contains(event));
                self.deleted.extend(events);
            }
            // The simulation's operators rehearse nothing, and the log's side of it is nothing but a record.
            // Whom a target's name leads to is the engine's business.
            Action::DrainTarget { .. } | Action::UndrainTarget { .. } => {}
            Action::Rehearse { .. } | Action::EndRehearsal { .. } | Action::Noted { .. } | Action::Past { .. } => {}
        }
        Ok(())
    }

    fn each(&mut self, keys: impl Iterator<Item = Key>, change: impl Fn(&mut Known)) {
        for key in keys {
            if let Some(known) = self.known(&key) {
                change(known);
            }
        }
    }

    /// What is known of a delivery; of one that is not planned yet, that it waits.
    fn known(&mut self, key: &Key) -> Option<&mut Known> {
        if self.deleted.contains(&key.0) {
            return None;
        }
        if !self.planned.contains(&key.0) && self.durable.contains_key(&key.0) {
            self.deliveries.entry(key.clone()).or_insert(BLANK);
        }
        self.deliveries.get_mut(key)
    }

    /// A job is handed out now, at most `window` at once for its upstream.
    pub fn dispatched(
        &mut self,
        job: &Job,
        window: usize,
        live: bool,
        (now, table, plain): (u64, &Table, bool),
    ) -> Result<(), String> {
        let seq = job.event.id.pos.seq;
        let key = (seq, job.upstream.to_string());
        let what = format!("{key:?}, attempt {}", job.number);
        let Some(body) = self.durable.get(&seq) else { return Err(format!("{what}: sent before it was durable")) };
        if !matches!(&job.event.body, stagepost::event::Body::Inline(sent) if *sent == *body) {
            return Err(format!("{what}: another body than the stored one"));
        }
        if self.deleted.contains(&seq) {
            return Err(format!("{what}: deleted before it was sent"));
        }
        if !live {
            return Err(format!("{what}: sent to an upstream that is not configured"));
        }
        if self.closing.is_closed(&key.1) {
            return Err(format!("{what}: sent to a subscriber that is disabled or removed"));
        }
        if self.holds.get(&key.1).is_some_and(|until| until.is_none_or(|until| until > now)) {
            return Err(format!("{what}: sent to an upstream that is held"));
        }
        // An event's plan may still be on its way into the log.
        let known = self.deliveries.get(&key).copied().unwrap_or(BLANK);
        if known.is != Is::Pending {
            return Err(format!("{what}: it is {:?}", known.is));
        }
        let expected = (known.attempts + 1, known.replays, known.new_keys);
        if (job.number, job.replays, job.new_keys) != expected {
            let got = (job.number, job.replays, job.new_keys);
            return Err(format!("{what}: number, replays and new keys are {got:?}, not {expected:?}"));
        }
        self.replays_then.insert(key.clone(), known.replays);
        if !self.in_flight.insert(key.clone()) {
            return Err(format!("{what}: it is under way already"));
        }
        let at_once = self.in_flight.iter().filter(|(_, upstream)| *upstream == key.1).count();
        if at_once > window {
            return Err(format!("{what}: {at_once} at once, but the window is {window}"));
        }
        self.in_turn(job, table)?;
        // Filters that only the pool can answer are answered in any order.
        let first = self.begun.insert(key.clone()) && known.attempts == 0 && !known.out_of_order;
        if first && plain && !matches!(job.event.source.as_ref(), "asked" | "slow") {
            let last = self.last_first.entry(key.1).or_default();
            if *last > seq {
                return Err(format!("{what}: its first attempt comes after that of {last}"));
            }
            *last = seq;
        }
        Ok(())
    }

    /// What is not finished, in words. None if everything acknowledged has its end.
    pub fn unfinished(&self) -> Option<String> {
        let event =
            self.acknowledged.keys().find(|event| !self.deleted.contains(event) && !self.planned.contains(event));
        if let Some(event) = event {
            return Some(format!("event {event} is not planned"));
        }
        let open = self.deliveries.iter().find(|(_, known)| matches!(known.is, Is::Pending | Is::Held));
        let open = open.map(|(key, known)| format!("delivery {key:?} is {:?}", known.is));
        open.or_else(|| self.unfinished_job()).or_else(|| self.closing.unfinished())
    }

    /// At the end: everything acknowledged is stored unaltered, and what is settled has arrived.
    pub fn ended(&self, ignored: &BTreeSet<Key>) -> Result<(), String> {
        if let Some(what) = self.unfinished() {
            return Err(format!("at the end: {what}"));
        }
        for (event, body) in &self.acknowledged {
            if self.durable.get(event) != Some(body) {
                return Err(format!("event {event} was acknowledged and is not stored as it was"));
            }
            let mut deliveries = self.deliveries.range((*event, String::new())..(*event + 1, String::new())).peekable();
            if deliveries.peek().is_none() && !self.deleted.contains(event) {
                return Err(format!("event {event} was acknowledged and goes nowhere"));
            }
            for (key, known) in deliveries {
                if matches!(known.is, Is::Delivered | Is::Gone)
                    && !self.arrived.contains_key(key)
                    && !ignored.contains(key)
                    && !self.superseded.contains(key)
                {
                    return Err(format!("delivery {key:?} is settled and never arrived"));
                }
            }
        }
        Ok(())
    }
}
