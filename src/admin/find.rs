//! Owns the way from an id to the stored event, its plan and the history of its deliveries.
//!
//! Promises bounded work: plan and first attempts are sought in the [`TRAIL_BYTES_MAX`] of log after the event. An
//! entry that can't be read is an error, never "not there".

use std::ops::ControlFlow;

use super::ports::{DeliveryView, EventView, PlannedFor, Reads};
use crate::{
    event::{Change, DeliveryState, Event, EventId, EventState, Seq, event_state},
    log::{
        Kind, Log, ReadError,
        entry::{self, Attempted, Entry},
    },
};

/// How much of the log after an event is searched for its plan and for attempts that left no record.
pub(super) const TRAIL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Read at once while searching.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Attempts of one delivery that are walked back.
const HISTORY_MAX: usize = 1_000;

/// Where routing sent an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To these.
    pub upstreams: Vec<Box<str>>,
    /// A route took it and discarded it on purpose.
    pub ignored: bool,
}

/// An event with all that is known about it.
#[derive(Clone, Debug)]
pub struct Found {
    /// As stored.
    pub event: Event,
    /// None: not planned yet (or its plan stands too far away).
    pub plan: Option<Plan>,
    /// The states of its deliveries.
    pub view: EventView,
    /// Where its entry stands: not its own number if it was carried.
    pub stored_at: Seq,
}

impl Found {
    /// An event of which only some deliveries are known, for selections that ask for no more.
    pub(super) const fn bare(event: Event, view: EventView, stored_at: Seq) -> Self {
        Self { event, plan: None, view, stored_at }
    }

    /// The state of the event.
    #[must_use]
    pub fn state(&self) -> EventState {
        let states: Vec<DeliveryState> = self.view.deliveries.iter().map(|found| found.status.state()).collect();
        match &self.plan {
            _ if !states.is_empty() => event_state(&states),
            _ if self.event.method.is_safe() => EventState::Ignored,
            Some(plan) if plan.ignored => EventState::Ignored,
            Some(_) => EventState::Unrouted,
            None => EventState::Pending,
        }
    }
}

/// Why an id leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Not an id.
    #[error(transparent)]
    Id(#[from] crate::event::IdError),
    /// Never stored, expired, or deleted.
    #[error("no event {0} is stored")]
    NoSuch(EventId),
    /// The log can't be read there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state of deliveries can't be read.
    #[error("the state of deliveries can't be read: {0}")]
    State(String),
}

/// Finds an event by id.
///
/// # Errors
/// See [`FindError`].
pub fn find(reads: &dyn Reads, id: EventId) -> Result<Found, FindError> {
    let log = reads.log();
    let seq = id.pos.seq;
    let stored = match log.read(seq) {
        Err(ReadError::Missing(_)) => carried_copy(reads, &*log, seq)?,
        read => Some((seq, read?)),
    };
    let (stored_at, entry) = stored.ok_or(FindError::NoSuch(id))?;
    if !matches!(entry.kind, Kind::Accepted | Kind::Carried) {
        return Err(FindError::NoSuch(id));
    }
    let event = entry::decode_event(&entry).ok_or(ReadError::Format(stored_at))?;
    if event.id != id || !reads.scope().takes_source(&event.source) {
        return Err(FindError::NoSuch(id));
    }
    let plan = match carried_plan(&entry) {
        Some(plan) => Some(plan),
        None if event.method.is_safe() => None,
        None => planned_after(&*log, seq)?,
    };
    let planned = PlannedFor { event: seq, upstreams: plan.clone().unwrap_or_default().upstreams };
    let view = reads.views(&[planned]).map_err(FindError::State)?.pop().unwrap_or_default();
    // Of an event that goes to other upstreams alone no delivery is left.
    if view.deleted || (reads.scope().limits_upstreams() && view.deliveries.is_empty()) {
        return Err(FindError::NoSuch(id));
    }
    Ok(Found { event, plan, view, stored_at })
}

/// Finds the stored event of an id, without its plan and its deliveries.
///
/// # Errors
/// See [`FindError`].
pub(super) fn find_stored(reads: &dyn Reads, id: EventId) -> Result<Event, FindError> {
    let log = reads.log();
    let seq = id.pos.seq;
    let stored = match log.read(seq) {
        Err(ReadError::Missing(_)) => carried_copy(reads, &*log, seq)?,
        read => Some((seq, read?)),
    };
    let event = stored.and_then(|(_, entry)| entry::decode_event(&entry)).filter(|event| event.id == id);
    let event = event.ok_or(FindError::NoSuch(id))?;
    let asked = PlannedFor { event: seq, upstreams: Vec::new() };
    let view = reads.views(&[asked]).map_err(FindError::State)?.pop().unwrap_or_default();
    if view.deleted { Err(FindError::NoSuch(id)) } else { Ok(event) }
}

pub(super) fn carried_copy(reads: &dyn Reads, log: &dyn Log, seq: Seq) -> Result<Option<(Seq, Entry)>, FindError> {
    let Some(at) = reads.stored_at(seq).map_err(FindError::State)? else { return Ok(None) };
    Ok(Some((at, log.read(at)?)))
}

/// The plan of a carried event: what was carried with it, since the `planned` entry may be gone.
pub(super) fn carried_plan(entry: &Entry) -> Option<Plan> {
    if entry.kind != Kind::Carried {
        return None;
    }
    let carried = entry::decode_carried(&entry.payload)?;
    Some(Plan { upstreams: carried.history.into_iter().map(|(upstream, _)| upstream).collect(), ignored: false })
}

/// What one `planned` entry says about its events.
pub(super) fn plans(entry: &Entry) -> Vec<(Seq, Plan)> {
    let Some(planned) = (entry.kind == Kind::Planned).then(|| entry::decode_planned(&entry.payload)).flatten() else {
        return Vec::new();
    };
    let name = |target: &u32| planned.upstreams.get(*target as usize).cloned();
    let plan = |targets: &[u32], ignored| Plan { upstreams: targets.iter().filter_map(name).collect(), ignored };
    planned.events.iter().map(|event| (event.event, plan(&event.targets, event.ignored))).collect()
}

pub(super) fn planned_after(log: &dyn Log, seq: Seq) -> Result<Option<Plan>, ReadError> {
    let mut found = None;
    forward(log, seq, &mut |entry| match plans(entry).into_iter().find(|(event, _)| *event == seq) {
        Some((_, plan)) => {
            found = Some(plan);
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    })?;
    Ok(found)
}

/// What the log still says about the attempts of one delivery.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Oldest first. Fewer than the delivery's count where the log no longer reaches back, or is damaged.
    pub(super) attempts: Vec<Attempted>,
    /// Why some of them can't be read.
    pub(super) damaged: Option<String>,
    /// Where the attempt stands that delivered it.
    pub(super) delivered_at: Option<Seq>,
}

/// The attempts of one delivery: walked back from its record, or sought after the event if it was delivered at the
/// first attempt. Where the way back ends in a damaged entry, what is older is sought after the event.
///
/// # Errors
/// A [`ReadError`] that is no damage.
pub(super) fn history(
    log: &dyn Log,
    event: Seq,
    stored_at: Seq,
    delivery: &DeliveryView,
) -> Result<History, ReadError> {
    let Some(last) = delivery.last else {
        let delivered = delivery.status.state() == DeliveryState::Delivered && event == stored_at;
        return if delivered { sought(log, event, &delivery.upstream, Sought::First) } else { Ok(History::default()) };
    };
    let (mut walked, mut delivered_at) = (Vec::new(), None);
    let mut before = History::default();
    let mut next = Some(last);
    while let Some(seq) = next.take().filter(|_| walked.len() < HISTORY_MAX) {
        let attempted = match attempted_at(log, seq) {
            Ok(Some(attempted)) => attempted,
            Ok(None) | Err(ReadError::Missing(_)) => break,
            Err(damage @ (ReadError::Damaged { .. } | ReadError::Format(_))) => {
                before = sought(log, event, &delivery.upstream, Sought::Before(seq))?;
                before.damaged = Some(damage.to_string());
                break;
            }
            Err(error) => return Err(error),
        };
        next = attempted.previous.filter(|previous| *previous < seq);
        if attempted.change == Change::Delivered {
            delivered_at = delivered_at.or(Some(seq));
        }
        walked.push(attempted);
    }
    let oldest = walked.iter().filter_map(|found| Some(found.attempt.as_ref()?.number)).min();
    let is_cut = walked.len() >= HISTORY_MAX || before.damaged.is_some() || event != stored_at;
    if !is_cut && delivery.attempts > 0 && oldest.is_none_or(|oldest| oldest > 1) {
        // It was delivered at once and replayed later: the first attempt has left no trace to walk back to.
        let first = sought(log, event, &delivery.upstream, Sought::First)?;
        let is_older = |found: &Attempted| found.attempt.as_ref().is_some_and(|first| Some(first.number) < oldest);
        if oldest.is_none() || first.attempts.iter().all(is_older) {
            before = first;
        }
    }
    before.attempts.extend(walked.into_iter().rev());
    before.delivered_at = delivered_at.or(before.delivered_at);
    Ok(before)
}

/// The attempt that an entry records; None if it records something else.
fn attempted_at(log: &dyn Log, seq: Seq) -> Result<Option<Attempted>, ReadError> {
    let entry = log.read(seq)?;
    if entry.kind != Kind::Attempted {
        return Ok(None);
    }
    entry::decode_attempted(&entry.payload).map(Some).ok_or(ReadError::Format(seq))
}

/// Which attempts are sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sought {
    /// The first alone.
    First,
    /// All whose entries stand before this one.
    Before(Seq),
}

fn sought(log: &dyn Log, event: Seq, upstream: &str, which: Sought) -> Result<History, ReadError> {
    let (mut attempts, mut delivered_at) = (Vec::new(), None);
    let damage = forward(log, event, &mut |entry| {
        if matches!(which, Sought::Before(end) if entry.pos.seq >= end) || attempts.len() >= HISTORY_MAX {
            return ControlFlow::Break(());
        }
        if entry.kind == Kind::Attempted
            && let Some(attempted) = entry::decode_attempted(&entry.payload)
            && attempted.event == event
            && &*attempted.upstream == upstream
        {
            if attempted.change == Change::Delivered {
                delivered_at = Some(entry.pos.seq);
            }
            attempts.push(attempted);
            if which == Sought::First {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    let damaged = damage.filter(|_| attempts.is_empty()).map(|damage| damage.to_string());
    Ok(History { attempts, damaged, delivered_at })
}

/// Shows the entries from `from` on until it is told to stop, at most [`TRAIL_BYTES_MAX`]. Damage is stepped over:
/// the event itself is readable, and what is sought may stand behind. Gives the last damage it has met.
fn forward(
    log: &dyn Log,
    from: Seq,
    visit: &mut dyn FnMut(&Entry) -> ControlFlow<()>,
) -> Result<Option<ReadError>, ReadError> {
    let (mut next, mut left, mut damage) = (from, TRAIL_BYTES_MAX, None);
    loop {
        let entries = match log.scan(next, CHUNK_BYTES.min(left)) {
            Err(ReadError::Damaged { file, first, last }) if last >= next => {
                next = last.saturating_add(1);
                damage = Some(ReadError::Damaged { file, first, last });
                continue;
            }
            scanned => scanned?,
        };
        let Some(last) = entries.last() else { return Ok(damage) };
        next = last.pos.seq.saturating_add(1);
        for entry in &entries {
            left = left.saturating_sub(entry.payload.len());
            if visit(entry).is_break() {
                return Ok(damage);
            }
        }
        if left == 0 {
            return Ok(damage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};
    use crate::event::{Reason, Status};

    #[test]
    fn an_id_leads_to_the_event_its_plan_and_its_first_attempt() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.accept("other", b"{}");
        fake.plan(&[(id, &["billing"])]);
        fake.attempt(id, "billing", 1, Some(200), None);
        let found = find(&fake, id).unwrap();
        assert_eq!(found.plan.as_ref().unwrap().upstreams, vec!["billing".into()]);
        assert_eq!(found.state(), EventState::Delivered);
        let attempts = history(&*fake.log(), id.pos.seq, found.stored_at, &found.view.deliveries[0]).unwrap();
        assert_eq!((attempts.attempts.len(), attempts.damaged), (1, None));
    }

    #[test]
    fn the_first_attempt_of_what_was_delivered_at_once_and_replayed_is_found() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        fake.attempt(id, "billing", 1, Some(200), None);
        let numbers = |attempts, last| {
            fake.set(id, DeliveryView { last, attempts, ..delivery("billing", Status::Delivered) });
            let found = find(&fake, id).unwrap();
            let history = history(&*fake.log(), id.pos.seq, found.stored_at, &found.view.deliveries[0]).unwrap();
            assert_eq!(history.damaged, None);
            history.attempts.iter().filter_map(|found| Some(found.attempt.as_ref()?.number)).collect::<Vec<u32>>()
        };
        let two = fake.attempt(id, "billing", 2, Some(503), None);
        assert_eq!(numbers(2, Some(two)), [1, 2]);
        let three = fake.attempt(id, "billing", 3, Some(200), Some(two));
        assert_eq!(numbers(3, Some(three)), [1, 2, 3]);
    }

    #[test]
    fn an_attempt_that_cannot_be_read_hides_no_other() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let mut seqs: Vec<Seq> = Vec::new();
        for number in 1..=8 {
            let status = if number == 8 { Some(200) } else { Some(503) };
            seqs.push(fake.attempt(id, "billing", number, status, seqs.last().copied()));
            // What lies between belongs to others.
            let other = fake.accept("other", b"{}");
            fake.attempt(other, "billing", 1, Some(200), None);
        }
        fake.set(id, DeliveryView { last: seqs.last().copied(), ..delivery("billing", Status::Delivered) });
        let read = || {
            let found = find(&fake, id).unwrap();
            let history = history(&*fake.log(), id.pos.seq, found.stored_at, &found.view.deliveries[0]).unwrap();
            let numbers = history.attempts.iter().filter_map(|found| Some(found.attempt.as_ref()?.number));
            (numbers.collect::<Vec<u32>>(), history.damaged)
        };
        assert_eq!(read(), ((1..=8).collect(), None));
        fake.damage(seqs[5]);
        let (numbers, damaged) = read();
        assert_eq!(numbers[numbers.len() - 2..], [7, 8]);
        assert!(numbers.starts_with(&[1, 2, 3]) && !numbers.contains(&6), "{numbers:?}");
        assert!(damaged.unwrap().contains("0001.seg"));
    }

    #[test]
    fn a_first_attempt_that_cannot_be_read_is_told() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let seq = fake.attempt(id, "billing", 1, Some(200), None);
        let found = find(&fake, id).unwrap();
        fake.damage(seq);
        let history = history(&*fake.log(), id.pos.seq, found.stored_at, &found.view.deliveries[0]).unwrap();
        assert!(history.attempts.is_empty() && history.damaged.is_some());
    }

    #[test]
    fn a_history_is_walked_back_and_given_oldest_first() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let one = fake.attempt(id, "billing", 1, Some(503), None);
        let two = fake.attempt(id, "billing", 2, None, Some(one));
        fake.set(id, DeliveryView { last: Some(two), ..delivery("billing", Status::Dead(Reason::new("given_up"))) });
        let found = find(&fake, id).unwrap();
        let attempts = history(&*fake.log(), id.pos.seq, found.stored_at, &found.view.deliveries[0]).unwrap();
        let numbers = attempts.attempts.iter().filter_map(|found| Some(found.attempt.as_ref()?.number));
        assert_eq!(numbers.collect::<Vec<u32>>(), [1, 2]);
    }

    #[test]
    fn what_is_not_stored_is_no_such_id_but_what_cannot_be_read_is_an_error() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        let never = EventId { pos: crate::event::Pos { seq: 99, ..id.pos }, ..id };
        assert!(matches!(find(&fake, never), Err(FindError::NoSuch(_))));
        let other_time = EventId { time: crate::clock::Timestamp::ZERO, ..id };
        assert!(matches!(find(&fake, other_time), Err(FindError::NoSuch(_))));
        fake.damage(id.pos.seq);
        assert!(matches!(find(&fake, id), Err(FindError::Read(_))));
    }

    #[test]
    fn a_deleted_event_is_not_there() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.delete(id);
        assert!(matches!(find(&fake, id), Err(FindError::NoSuch(_))));
    }

    #[test]
    fn a_carried_event_is_found_by_its_own_id_with_its_plan() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.accept("stripe", b"{}");
        fake.carry(id, &["billing"]);
        let found = find(&fake, id).unwrap();
        assert_eq!(found.event.id, id);
        assert_ne!(found.stored_at, id.pos.seq);
        assert_eq!(found.plan.unwrap().upstreams, vec!["billing".into()]);
    }
}
