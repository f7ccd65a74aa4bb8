//! Owns how an entry of the log changes the state: the only writer of deliveries' states.
//!
//! Promises to be deterministic, to go on after entries it does not know (they are named in the diagnostics), and to
//! refuse impossible changes. Events with a safe method (GET, HEAD, OPTIONS) are no deliveries and leave no trace.

use std::time::Duration;

use tracing::{debug, warn};

use super::{Drained, EVENT, Hold, Job, Key, NEVER, PROMPT, Record, State, StateError, UpstreamId, upstream::Cause};
use crate::{
    clock::Timestamp,
    event::{Change, DeliveryState, Diversion, Reason, Seq, Status},
    log::{
        Entry, Kind,
        entry::{self, Action, Reader, ReplayStep, Target},
    },
};

/// The stored numbers of priorities.
const HIGH: u8 = 0;
const LOW: u8 = 2;

/// What an entry changed, for whoever schedules deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// An event waits for its plan.
    Accepted(Seq),
    /// A delivery waits for its first attempt.
    Planned(Key),
    /// The attempt that was under way is over (or a change came without one).
    Attempted(Key),
    /// A delivery has (again) something to happen at a time: pending from then on, or held until then.
    Due(Key, Timestamp),
    /// A replay made a delivery due: it runs below live traffic.
    Replayed(Key, Timestamp),
    /// A delivery must not be sent now.
    Stopped(Key),
    /// An upstream is held or released.
    Gate(UpstreamId),
    /// A subscriber was registered, changed, removed, disabled or enabled.
    Subscriber(UpstreamId),
    /// A target of an upstream is drained or gets attempts again.
    Drained(UpstreamId),
    /// A delivery died, of the entry with this number.
    Died(Key, Seq),
}

/// How deliveries are made due again.
#[derive(Clone, Copy)]
struct Again {
    /// Steady time.
    at: Timestamp,
    new_key: bool,
    original: bool,
    interval_us: Option<u64>,
    /// How many went before these.
    first: u64,
    created: bool,
}

impl State {
    /// Applies one committed entry. Entries that were applied before are skipped.
    ///
    /// # Errors
    /// [`StateError`] if a record can't be read; the state must be thrown away then.
    pub fn apply(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<(), StateError> {
        if entry.pos.seq < self.next {
            return Ok(());
        }
        let known = match entry.kind {
            Kind::Accepted => self.accepted(entry, note),
            Kind::Planned => self.planned(entry, note)?,
            Kind::Attempted => self.attempted(entry, note)?,
            Kind::Duplicate => self.duplicate(entry)?,
            Kind::Carried => self.carried(entry, note)?,
            Kind::Command => self.command(entry, note)?,
            Kind::Part | Kind::Config | Kind::Answer => Some(()),
        };
        if known.is_none() {
            warn!(seq = entry.pos.seq, kind = ?entry.kind, "an entry has a format this version does not know: skipped");
        }
        self.next = entry.pos.seq.saturating_add(1);
        Ok(())
    }

    fn accepted(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Option<()> {
        self.timeline.note(entry.pos.seq, entry.time);
        if !has_safe_method(&entry.payload)? {
            self.unplanned.insert(entry.pos.seq);
            note(Note::Accepted(entry.pos.seq));
        }
        Some(())
    }

    fn planned(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<Option<()>, StateError> {
        let Some(planned) = entry::decode_planned(&entry.payload) else { return Ok(None) };
        let ids: Vec<UpstreamId> = planned.upstreams.iter().map(|name| self.intern(name)).collect();
        for event in planned.events {
            // A second plan of the same event changes nothing: the first one counts.
            if !self.unplanned.remove(event.event) {
                continue;
            }
            let early = self.early.remove(event.event);
            for id in event.targets.iter().filter_map(|index| ids.get(*index as usize)) {
                let key = Key::new(event.event, *id);
                if early && self.layers.get(key)?.is_some() {
                    continue;
                }
                if let Some(upstream) = self.upstream_mut(*id) {
                    upstream.waiting.insert(event.event);
                }
                note(Note::Planned(key));
            }
        }
        for (event, target, priority) in planned.priorities {
            let upstream = ids.get(target as usize).and_then(|id| self.upstreams.get_mut(*id as usize));
            let Some(upstream) = upstream.filter(|upstream| upstream.waiting.contains(event)) else { continue };
            match priority {
                HIGH => upstream.high.insert(event),
                LOW => upstream.low.insert(event),
                _ => false,
            };
        }
        Ok(Some(()))
    }

    fn attempted(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<Option<()>, StateError> {
        let Some(attempted) = entry::decode_attempted(&entry.payload) else { return Ok(None) };
        let key = Key::new(attempted.event, self.intern(&attempted.upstream));
        if let Some(until) = attempted.attempt.is_none().then(|| entry::said_again(&entry.payload)).flatten() {
            self.said_again(key, &attempted.change, until, entry, note)?;
            return Ok(Some(()));
        }
        note(Note::Attempted(key));
        if attempted.attempt.as_ref().is_some_and(|attempt| attempt.status == Some(UPGRADED))
            && attempted.change == Change::Delivered
        {
            return self.upgraded(key, entry);
        }
        let Some(old) = self.before(key)? else { return Ok(Some(())) };
        // What was only rehearsed has no number of its own.
        let counted = attempted.attempt.as_ref().filter(|attempt| attempt.number > old.attempts);
        if let Some(attempt) = counted
            && let Some(upstream) = self.upstream_mut(key.upstream)
        {
            upstream.note_outcome(attempt.outcome, entry.time);
        }
        // An attempt that began before a replay: it is counted, and the replay is still due. Or one that was under way when
        // its delivery was given up: it is counted, and that stays given up.
        let overtaken = match old.state {
            DeliveryState::Pending | DeliveryState::Held => {
                attempted.replays.is_some_and(|replays| replays < old.replays)
            }
            DeliveryState::Dead => counted.is_some(),
            _ => false,
        };
        let status = match old.status().change(attempted.change.clone()) {
            _ if overtaken => old.status(),
            Ok(status) => status,
            Err(impossible) => {
                debug!(event = key.event, upstream = %attempted.upstream, %impossible, "an entry changes nothing");
                return Ok(Some(()));
            }
        };
        let mut new = old;
        if !overtaken {
            new.set_status(&status, entry.time);
        }
        new.last = Some(entry.pos.seq);
        if !overtaken && attempted.change.reason().is_some() {
            new.reason_at = Some(entry.pos.seq);
        }
        if let Some(turn) = &attempted.turn {
            // What it waited for others of its key does not count towards giving up.
            if let Some(begun) = turn.begun
                && !overtaken
                && (old.attempts == 0 || old.replayed)
            {
                new.planned_at = new.planned_at.max(begun);
            }
            if let (Some(version), Change::Delivered) = (&turn.version, &attempted.change)
                && let Some(upstream) = self.upstream_mut(key.upstream)
            {
                upstream.newest.note(turn.key, version, entry.pos.seq);
            }
        }
        if let Some(attempt) = &attempted.attempt {
            new.attempts = attempt.number;
            new.replayed = overtaken && old.replayed;
            new.origin_unknown = false;
        }
        let first = old.last.is_none() && old.replays == 0 && new.attempts == 1;
        let prompt = entry.time.since(self.timeline.at(key.event)) < PROMPT;
        if first && prompt && status.state() == DeliveryState::Delivered && self.take_waiting(key) {
            return Ok(Some(()));
        }
        self.put(key, &old, new);
        tell(key, &new, note);
        tell_of_death(key, (&old, &new), entry, note);
        if let (Change::Divert(diversion), false) = (&attempted.change, overtaken) {
            self.divert(key.event, diversion, note)?;
        }
        Ok(Some(()))
    }

    /// What a delivery is, said again when its event was carried. It counts if nothing else is known of that delivery;
    /// otherwise it is the same, or what has become of it since counts.
    fn said_again(
        &mut self,
        key: Key,
        change: &Change,
        until: Option<Timestamp>,
        entry: &Entry,
        note: &mut impl FnMut(Note),
    ) -> Result<(), StateError> {
        let Some(old) = self.record(key)?.filter(|_| !self.deleted.contains(key.event)) else { return Ok(()) };
        let mut new = old;
        if is_as_carried(&old) {
            let Ok(status) = old.status().change(change.clone()) else { return Ok(()) };
            new.set_status(&status, entry.time);
            new.due = until.unwrap_or(new.due);
            new.last = Some(entry.pos.seq);
            note(Note::Attempted(key));
        } else if !is_said(&old, change) {
            return Ok(());
        }
        new.reason_at = change.reason().map(|_| entry.pos.seq).or(new.reason_at);
        self.put(key, &old, new);
        if new.state != old.state {
            tell(key, &new, note);
        }
        Ok(())
    }

    /// The end of a connection that was upgraded: the one attempt of an event that was never planned.
    fn upgraded(&mut self, key: Key, entry: &Entry) -> Result<Option<()>, StateError> {
        if !self.deleted.contains(key.event) && self.record(key)?.is_none() {
            let mut new = Record::waiting(self.timeline.at(key.event));
            new.set_status(&Status::Delivered, entry.time);
            (new.last, new.attempts) = (Some(entry.pos.seq), 1);
            self.layers.put(key, new);
        }
        Ok(Some(()))
    }

    /// Makes the delivery that takes the place of a diverted one, unless the event has one to that upstream already. One
    /// that was delivered at its first attempt has left no trace and is made again: twice rather than not at all.
    fn divert(&mut self, event: Seq, diversion: &Diversion, note: &mut impl FnMut(Note)) -> Result<(), StateError> {
        let key = Key::new(event, self.intern(&diversion.to));
        if self.record(key)?.is_some() {
            return Ok(());
        }
        if self.unplanned.contains(event) {
            self.early.insert(event);
        }
        let new = Record { due: diversion.due, ..Record::waiting(diversion.due) };
        if let Some(upstream) = self.upstream_mut(key.upstream) {
            upstream.book(event, &new, true);
        }
        self.layers.put(key, new);
        tell(key, &new, note);
        Ok(())
    }

    fn duplicate(&mut self, entry: &Entry) -> Result<Option<()>, StateError> {
        let Some(duplicate) = entry::decode_duplicate(&entry.payload) else { return Ok(None) };
        let key = Key::new(duplicate.first, EVENT);
        let mut about = self.layers.get(key)?.unwrap_or(about_event(entry.time));
        let add = |to: u32, more: u64| to.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        about.attempts = add(about.attempts, duplicate.count);
        about.replays = add(about.replays, duplicate.body_differs);
        self.layers.put(key, about);
        Ok(Some(()))
    }

    fn carried(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<Option<()>, StateError> {
        let Some(carried) = entry::decode_carried(&entry.payload) else { return Ok(None) };
        let event = carried.id.pos.seq;
        let key = Key::new(event, EVENT);
        let mut about = self.layers.get(key)?.unwrap_or(about_event(carried.id.time));
        about.reason_at = Some(entry.pos.seq);
        self.layers.put(key, about);
        self.carried.insert(event);
        if self.deleted.contains(event) {
            return Ok(Some(()));
        }
        if carried.history.is_empty() && event < self.next && self.first_seen(event) {
            // Nothing was planned before its segment went: it is planned from here on.
            self.unplanned.insert(event);
            note(Note::Accepted(event));
        }
        for (upstream, attempts) in &carried.history {
            let key = Key::new(event, self.intern(upstream));
            if self.record(key)?.is_some() {
                continue;
            }
            let mut record = Record::waiting(carried.id.time);
            record.attempts = *attempts;
            if *attempts == 0 {
                if let Some(upstream) = self.upstream_mut(key.upstream) {
                    upstream.waiting.insert(event);
                }
                note(Note::Planned(key));
            } else {
                record.due = entry.time;
                self.put(key, &about, record);
                tell(key, &record, note);
            }
        }
        Ok(Some(()))
    }

    /// Whether the state has never heard of an event: it is neither planned nor unplanned in here.
    fn first_seen(&self, event: Seq) -> bool {
        !self.unplanned.contains(event) && self.timeline.samples().first().is_none_or(|(first, _)| event < *first)
    }

    fn command(&mut self, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<Option<()>, StateError> {
        let Some(command) = entry::decode_json::<entry::Command>(&entry.payload) else { return Ok(None) };
        self.audit.note(entry.pos.seq, &command);
        if command.as_of.is_some_and(|as_of| self.commanded > as_of) {
            debug!(seq = entry.pos.seq, "what was said again has no effect: an operator's command has come before it");
            return Ok(Some(()));
        }
        if command.as_of.is_none() && is_said_again_as_of(&command.action) {
            self.commanded = entry.pos.seq.saturating_add(1);
        }
        // Due times are steady time; the entry's own time steps with the wall clock.
        let at = entry::command_time(&entry.payload).unwrap_or(entry.time);
        match command.action {
            Action::HoldUpstream { upstream, until_ms, reason } => {
                let until = until_ms.map(Timestamp::from_millis);
                let known = self.id(&upstream).and_then(|id| self.upstream(id)?.hold.as_ref());
                let since = known.filter(|_| command.as_of.is_some()).map_or(entry.time, |hold| hold.since);
                // One that says nothing of a reason leaves the reason that is known.
                let reason = reason.or_else(|| self.reason_of_hold(&upstream, entry.time));
                let hold = Hold { seq: entry.pos.seq, since, until, reason, actor: command.actor };
                self.gate(&upstream, Some(hold), entry.time, note);
            }
            Action::ReleaseUpstream { upstream } => self.gate(&upstream, None, entry.time, note),
            Action::Hold { targets, until_ms, .. } => {
                let until = until_ms.map_or(NEVER, Timestamp::from_millis);
                self.change_all(entry, &targets, &Change::Hold(Reason::new("operator")), note, |record, _| {
                    record.due = until;
                })?;
            }
            Action::Release { targets } => {
                self.change_all(entry, &targets, &Change::Release(at), note, |_, _| {})?;
            }
            Action::Replay { targets, new_key, interval_us, created } => {
                let how = Again { at, new_key, original: false, interval_us, first: 0, created };
                self.again(entry, &targets, how, note)?;
            }
            Action::ReplayStep(step) => {
                let ReplayStep { job, from, targets, created, new_key, original, interval_us } = step;
                if job.is_some_and(|(job, _)| self.jobs.is_void(job, from)) {
                    debug!(
                        seq = entry.pos.seq,
                        "a step of a job changes nothing: the job has ended or has come further"
                    );
                    return Ok(Some(()));
                }
                let how = Again { at, new_key, original, interval_us, first: 0, created: false };
                self.again(entry, &targets, how, note)?;
                self.again(entry, &created, Again { first: targets.len() as u64, created: true, ..how }, note)?;
                if let Some((job, progress)) = job {
                    self.jobs.step(job, progress);
                }
            }
            Action::StartJob { id, spec, progress, started_ms } => {
                let (id, started_at) = (id.unwrap_or(entry.pos.seq), Timestamp::from_millis(started_ms));
                let stored_at = entry.pos.seq;
                self.jobs.start(Job { id, actor: command.actor, started_at, spec, progress, ended: None, stored_at });
            }
            Action::EndJob { job, end, why } => self.jobs.end(job, entry.time, end, why),
            Action::Expire { targets, reason } => {
                let reason = reason.map_or_else(|| Reason::new("operator"), |text| Reason::with("operator", text));
                self.change_all(entry, &targets, &Change::Die(reason), note, |record, _| {
                    record.reason_at = Some(entry.pos.seq);
                })?;
            }
            Action::Requeue { targets } => {
                self.change_all(entry, &targets, &Change::Postpone(at), note, |_, _| {})?;
            }
            Action::LetGo { targets } => self.let_go(&targets, note)?,
            Action::Resolve { targets, .. } => {
                self.change_all(entry, &targets, &Change::Resolve, note, |_, _| {})?;
            }
            Action::Delete { events } => {
                for event in events {
                    self.delete(event, entry, note)?;
                }
            }
            Action::DrainTarget { upstream, target, reason } => {
                let (seq, since, actor) = (entry.pos.seq, entry.time, command.actor);
                let drained = Drained { target: target.clone(), seq, since, reason, actor };
                self.drain(&upstream, &target, Some(drained), note);
            }
            Action::UndrainTarget { upstream, target } => self.drain(&upstream, &target, None, note),
            // The engine's, as long as the process lives; and what changes nothing.
            Action::Rehearse { .. } | Action::EndRehearsal { .. } | Action::Noted { .. } | Action::Past { .. } => {}
            action @ (Action::PutSubscriber { .. }
            | Action::RemoveSubscriber { .. }
            | Action::RefuseSubscriber { .. }
            | Action::DisableSubscriber { .. }
            | Action::EnableSubscriber { .. }) => {
                if let Some(id) = self.subscription(entry, &command.actor, action) {
                    note(Note::Subscriber(id));
                }
            }
        }
        Ok(Some(()))
    }

    /// Makes deliveries due again.
    fn again(
        &mut self,
        entry: &Entry,
        targets: &[Target],
        how: Again,
        note: &mut impl FnMut(Note),
    ) -> Result<(), StateError> {
        let Again { at, new_key, original, interval_us, first, created } = how;
        self.change_all(entry, targets, &Change::Replay(at), note, |record, index| {
            let spread = interval_us.unwrap_or(0).saturating_mul(first.saturating_add(index));
            record.due = at.after(Duration::from_micros(spread));
            record.planned_at = record.due;
            record.replayed = true;
            record.let_go = false;
            record.original = original;
            if created && record.origin_unknown {
                record.attempts = 0;
                record.origin_unknown = false;
            }
            record.replays = record.replays.saturating_add(1);
            record.new_keys = record.new_keys.saturating_add(u32::from(new_key));
        })
    }

    /// Why an upstream is held at this time, if anybody said so.
    fn reason_of_hold(&mut self, upstream: &str, at: Timestamp) -> Option<String> {
        let id = self.intern(upstream);
        let hold = self.upstream_mut(id)?.hold.as_ref()?;
        hold.reason.clone().filter(|_| hold.until.is_none_or(|until| until > at))
    }

    fn gate(&mut self, upstream: &str, hold: Option<Hold>, at: Timestamp, note: &mut impl FnMut(Note)) {
        let id = self.intern(upstream);
        if let Some(upstream) = self.upstream_mut(id) {
            upstream.pauses.set(Cause::Held, hold.is_some(), at);
            upstream.hold = hold;
        }
        note(Note::Gate(id));
    }

    fn drain(&mut self, upstream: &str, target: &str, drained: Option<Drained>, note: &mut impl FnMut(Note)) {
        let id = self.intern(upstream);
        if let Some(upstream) = self.upstream_mut(id) {
            upstream.drain(target, drained);
        }
        note(Note::Drained(id));
    }

    /// The same change for many deliveries; those that it makes no sense for stay as they are.
    fn change_all(
        &mut self,
        entry: &Entry,
        targets: &[Target],
        change: &Change,
        note: &mut impl FnMut(Note),
        finish: impl Fn(&mut Record, u64),
    ) -> Result<(), StateError> {
        let mut index = 0;
        for target in targets {
            let key = Key::new(target.event, self.intern(&target.upstream));
            let Some(old) = self.before(key)? else { continue };
            let Ok(status) = old.status().change(change.clone()) else { continue };
            let mut new = old;
            new.set_status(&status, entry.time);
            finish(&mut new, index);
            if matches!(change, Change::Hold(_)) {
                new.reason_at = Some(entry.pos.seq);
            }
            self.put(key, &old, new);
            tell(key, &new, note);
            tell_of_death(key, (&old, &new), entry, note);
            index += 1;
        }
        Ok(())
    }

    /// Dead deliveries that keep those behind them of their key waiting do so no longer.
    fn let_go(&mut self, targets: &[Target], note: &mut impl FnMut(Note)) -> Result<(), StateError> {
        for target in targets {
            let key = Key::new(target.event, self.intern(&target.upstream));
            let Some(old) = self.before(key)?.filter(|old| old.state == DeliveryState::Dead) else { continue };
            self.put(key, &old, Record { let_go: true, ..old });
            note(Note::Stopped(key));
        }
        Ok(())
    }

    fn delete(&mut self, event: Seq, entry: &Entry, note: &mut impl FnMut(Note)) -> Result<(), StateError> {
        if event >= entry.pos.seq {
            return Ok(());
        }
        self.deleted.insert(event);
        self.unplanned.remove(event);
        for id in (0..).take(self.upstreams.len()) {
            let key = Key::new(event, id);
            let Some(old) = self.record(key)? else { continue };
            let mut new = old;
            new.state = DeliveryState::Ignored;
            new.settled_at = entry.time;
            self.put(key, &old, new);
            note(Note::Stopped(key));
        }
        Ok(())
    }

    /// The record a delivery has before a change. One without a trace was delivered at the first attempt, unless its
    /// event is not planned yet. None for deleted events.
    fn before(&mut self, key: Key) -> Result<Option<Record>, StateError> {
        if self.deleted.contains(key.event) {
            return Ok(None);
        }
        if let Some(record) = self.record(key)? {
            return Ok(Some(record));
        }
        let blank = Record::waiting(self.timeline.at(key.event));
        if self.unplanned.contains(key.event) {
            self.early.insert(key.event);
            return Ok(Some(blank));
        }
        Ok(Some(Record { state: DeliveryState::Delivered, attempts: 1, origin_unknown: true, ..blank }))
    }

    fn take_waiting(&mut self, key: Key) -> bool {
        self.upstream_mut(key.upstream).is_some_and(|upstream| upstream.take_waiting(key.event))
    }

    fn put(&mut self, key: Key, old: &Record, new: Record) {
        if let Some(upstream) = self.upstream_mut(key.upstream) {
            if !upstream.take_waiting(key.event) {
                upstream.book(key.event, old, false);
            }
            upstream.book(key.event, &new, true);
        }
        self.layers.put(key, new);
    }
}

/// The status of an answer that ends HTTP on its connection: no delivery is settled well by it.
const UPGRADED: u16 = 101;

/// Whether it is one of the commands that are said again as of an entry, or ends what one of them has begun.
const fn is_said_again_as_of(action: &Action) -> bool {
    matches!(
        action,
        Action::HoldUpstream { .. }
            | Action::ReleaseUpstream { .. }
            | Action::DrainTarget { .. }
            | Action::UndrainTarget { .. }
            | Action::StartJob { .. }
            | Action::EndJob { .. }
    )
}

/// Whether no more is known of a delivery than that its event was carried.
fn is_as_carried(record: &Record) -> bool {
    let untouched = record.last.is_none() && record.reason_at.is_none() && record.replays == 0;
    record.state == DeliveryState::Pending && untouched
}

/// Whether a delivery is what a change makes of one.
fn is_said(record: &Record, change: &Change) -> bool {
    let pending = Status::Pending { due: record.due };
    let made = pending.change(change.clone()).ok();
    made.is_some_and(|made| {
        made.state() == record.state && made.reason().is_none_or(|reason| reason.number() == record.reason)
    })
}

/// Says what is to happen with a delivery now.
fn tell(key: Key, record: &Record, note: &mut impl FnMut(Note)) {
    match record.state {
        DeliveryState::Pending if record.replayed => note(Note::Replayed(key, record.due)),
        DeliveryState::Pending => note(Note::Due(key, record.due)),
        DeliveryState::Held => {
            note(Note::Stopped(key));
            if record.due != NEVER {
                note(Note::Due(key, record.due));
            }
        }
        _ => note(Note::Stopped(key)),
    }
}

/// Says that a delivery died, if it did.
fn tell_of_death(key: Key, (old, new): (&Record, &Record), entry: &Entry, note: &mut impl FnMut(Note)) {
    if new.state == DeliveryState::Dead && old.state != DeliveryState::Dead {
        note(Note::Died(key, entry.pos.seq));
    }
}

/// A blank record about an event: no state of a delivery.
fn about_event(time: Timestamp) -> Record {
    Record { state: DeliveryState::Ignored, ..Record::waiting(time) }
}

/// Whether an accepted request is one that is answered directly and never planned. Looks only as far as the method.
fn has_safe_method(payload: &bytes::Bytes) -> Option<bool> {
    let mut from = Reader(payload.clone());
    from.version()?;
    from.number()?;
    from.slice()?;
    from.slice()?;
    Some(matches!(&from.slice()?[..], b"GET" | b"HEAD" | b"OPTIONS"))
}
