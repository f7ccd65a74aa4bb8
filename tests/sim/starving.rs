//! What must be true of waiting, in the words of the model: what could go is handed out soon.
//!
//! A delivery could go while it is pending and due, its upstream is configured and held by nobody, and the engine has not
//! got it. Then, as long as no route asks for an order (`order` knows who may go then):
//!
//! - while its upstream's window has room and nothing is being read for it, it is handed out within [`STEPS_MAX`] steps of the
//!   agenda, or [`PATIENCE_MS`] if they come faster;
//! - whatever the window, at most [`TURNS_EACH`] others of its upstream go before it for each that was there when it could go
//!   for the first time: pending, held or not planned yet, itself included.

use std::collections::{BTreeMap, BTreeSet};

use stagepost::{
    clock::Timestamp,
    event::{Change, Job},
    log::{
        Entry, Kind, NewEntry,
        entry::{self, Action, Target},
    },
    routing::Table,
};

use crate::checker::{Checker, Is, Key};

/// Steps of the agenda that leave room in the window.
const STEPS_MAX: u32 = 8;

/// Somewhat more than what is put off for after a read that failed.
const PATIENCE_MS: u64 = 6_000;

/// First attempts of low priority have one turn of 21 of those that retries and replays leave, replays one of 32.
const TURNS_EACH: u32 = 33;

/// Who waits for how long.
#[derive(Default)]
pub struct Starving {
    /// When a delivery is due; what is not in here is due at once.
    due: BTreeMap<Key, u64>,
    /// What the engine has got, as far as the agenda knows.
    hands: BTreeSet<Key>,
    /// What the agenda settles by itself: that is on its way into the log.
    settling: BTreeSet<Key>,
    waits: BTreeMap<Key, Wait>,
}

struct Wait {
    /// Steps that left room, and when the first of them was.
    steps: u32,
    since: u64,
    /// Others that may yet go before it.
    turns: u32,
}

/// The world at the end of a step.
pub struct Around<'a> {
    pub now: u64,
    pub table: &'a Table,
    pub windows: &'a BTreeMap<String, usize>,
    /// Upstreams for which events are being read.
    pub reading: &'a BTreeSet<String>,
    /// Some route asks for an order.
    pub ordered: bool,
}

impl Starving {
    /// The process died.
    pub fn crashed(&mut self) {
        self.hands.clear();
        self.settling.clear();
        self.waits.clear();
    }

    /// The agenda has written an entry of its own.
    pub fn settles(&mut self, entry: &NewEntry) {
        if let Some(attempted) = Some(entry).filter(|entry| entry.kind == Kind::Attempted) {
            let attempted = entry::decode_attempted(&attempted.payload).unwrap();
            self.settling.insert((attempted.event, attempted.upstream.to_string()));
        }
    }

    /// The engine gave a job back.
    pub fn returned(&mut self, key: &Key) {
        self.hands.remove(key);
    }

    /// Events of an upstream were read, or could not be.
    pub fn read(&mut self, upstream: &str, now: u64) {
        for (_, wait) in self.waits.iter_mut().filter(|(key, _)| key.1 == upstream) {
            (wait.steps, wait.since) = (0, now);
        }
    }

    /// A durable entry, as the agenda is given it and the checker has it.
    pub fn applied(&mut self, entry: &Entry, checker: &Checker) {
        let stored = entry.time.as_millis();
        match entry.kind {
            Kind::Attempted => {
                let Some(attempted) = entry::decode_attempted(&entry.payload) else { return };
                let key = (attempted.event, attempted.upstream.to_string());
                self.hands.remove(&key);
                self.settling.remove(&key);
                let replays = checker.deliveries.get(&key).map_or(0, |known| known.replays);
                if attempted.replays.is_some_and(|then| then < replays) {
                    // The replay is still due when it is.
                    return;
                }
                match &attempted.change {
                    Change::Retry(due) | Change::Postpone(due) | Change::Release(due) => {
                        self.due.insert(key, due.as_millis());
                    }
                    Change::Divert(diversion) => {
                        self.due.insert((key.0, diversion.to.to_string()), diversion.due.as_millis());
                    }
                    _ => {}
                }
            }
            Kind::Command => {
                let Some(command) = entry::decode_json::<entry::Command>(&entry.payload) else { return };
                let (targets, spread) = match command.action {
                    // What is not held keeps its time.
                    Action::Release { mut targets } => {
                        let known = |target: &Target| {
                            Some(checker.deliveries.get(&(target.event, target.upstream.to_string()))?.released)
                        };
                        targets.retain(|target| known(target) == Some(true));
                        (targets, 0)
                    }
                    Action::Requeue { mut targets } => {
                        let is = |target: &Target| {
                            Some(checker.deliveries.get(&(target.event, target.upstream.to_string()))?.is)
                        };
                        targets.retain(|target| is(target) == Some(Is::Pending));
                        (targets, 0)
                    }
                    Action::ReplayStep(_) if checker.jobs.last_was_void => return,
                    Action::Replay { targets, interval_us, .. } => (targets, interval_us.unwrap_or(0)),
                    Action::ReplayStep(step) => {
                        (step.targets.into_iter().chain(step.created).collect(), step.interval_us.unwrap_or(0))
                    }
                    _ => return,
                };
                let given = entry::command_time(&entry.payload).map_or(stored, Timestamp::as_millis);
                for (index, target) in (0..).zip(targets) {
                    let due = given + spread * index / 1_000 + 1;
                    self.due.insert((target.event, target.upstream.to_string()), due);
                }
            }
            _ => {}
        }
    }

    /// A job is handed out: whoever could go and has no turn left was passed over too often.
    pub fn dispatched(&mut self, job: &Job) -> Result<(), String> {
        let key = (job.event.id.pos.seq, job.upstream.to_string());
        self.waits.remove(&key);
        for (other, wait) in self.waits.iter_mut().filter(|(other, _)| other.1 == key.1) {
            wait.turns =
                wait.turns.checked_sub(1).ok_or_else(|| format!("{other:?} starves: {key:?} went before it"))?;
        }
        self.hands.insert(key);
        Ok(())
    }

    /// The agenda has made a step.
    pub fn stepped(&mut self, checker: &Checker, around: &Around<'_>) -> Result<(), String> {
        if around.ordered {
            self.waits.clear();
            return Ok(());
        }
        let could_go: Vec<&Key> = checker
            .deliveries
            .iter()
            .filter(|(key, known)| known.is == Is::Pending && self.could_go(key, checker, around))
            .map(|(key, _)| key)
            .collect();
        // Whoever waits for this upstream or may turn out to, since older events go first whenever they come.
        let unplanned = checker.durable.keys().filter(|event| !checker.planned.contains(event)).count() as u32;
        let mut ahead: BTreeMap<&str, u32> = BTreeMap::new();
        for ((_, upstream), _) in
            checker.deliveries.iter().filter(|(_, known)| matches!(known.is, Is::Pending | Is::Held))
        {
            *ahead.entry(upstream).or_insert(unplanned) += 1;
        }
        let has_room = |upstream: &str| {
            let window = around.windows.get(upstream).copied().unwrap_or(16);
            self.hands.iter().filter(|(_, other)| *other == upstream).count() < window
        };
        let with_room: BTreeSet<&str> = ahead.keys().copied().filter(|upstream| has_room(upstream)).collect();
        let mut waits = BTreeMap::new();
        for key in could_go.iter().copied() {
            let fresh = || Wait { steps: 0, since: around.now, turns: TURNS_EACH * (ahead[&*key.1] + 1) };
            let mut wait = self.waits.remove(key).unwrap_or_else(fresh);
            if around.reading.contains(&key.1) || !with_room.contains(&*key.1) {
                (wait.steps, wait.since) = (0, around.now);
            } else {
                wait.steps += 1;
            }
            let waited = around.now - wait.since;
            if wait.steps > STEPS_MAX && waited > PATIENCE_MS {
                return Err(format!("{key:?} starves: it could go for {} steps and {waited} ms", wait.steps));
            }
            waits.insert(key.clone(), wait);
        }
        self.waits = waits;
        Ok(())
    }

    fn could_go(&self, key: &Key, checker: &Checker, around: &Around<'_>) -> bool {
        let is_held = checker.holds.get(&key.1).is_some_and(|until| until.is_none_or(|until| until >= around.now));
        !is_held
            && checker.planned.contains(&key.0)
            && around.table.upstreams.contains_key(&*key.1)
            && !checker.closing.is_closed(&key.1)
            && !self.hands.contains(key)
            && !self.settling.contains(key)
            && self.due.get(key).is_none_or(|due| *due < around.now)
    }
}
