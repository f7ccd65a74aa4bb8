//! Owns the listing of events: newest first through the log, and on with what comes.
//!
//! Promises bounded memory: one stored block at a time, and the plans of events that were not reached yet (they
//! follow their events closely; at most [`PLANS_MAX`], an event without its plan is shown as pending). Damage is
//! reported and stepped over. Carried copies come last, since they are the oldest events; the state knows where they
//! stand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
};

use super::{
    filter::{Compiled, recorded},
    find::{Found, Plan, carried_copy, carried_plan, planned_after, plans},
    ports::{DeliveryView, EventView, PlannedFor, QueryError, Reads, TOO_SLOW, VIEWS_MAX},
    quiet::breathe,
};
use crate::{
    event::{DeliveryState, Event, EventId, Seq},
    log::{
        Kind, Log, ReadError,
        entry::{self, Entry},
        read_body,
    },
};

/// Plans and answer statuses remembered on the way back to their events.
const PLANS_MAX: usize = 500_000;

/// A page begins so many sequence numbers after its first event, since the plan of an event follows it closely. A plan
/// that stands further away is sought on its own.
const TRAIL_ENTRIES: u64 = 10_000;

/// Entries that one page looks at: about three seconds' worth.
const PAGE_ENTRIES_MAX: usize = 1_000_000;

/// Events in a state that keeps records that are remembered for one listing; with more of them the whole log is gone through.
const RECORDED_MAX: usize = 1_000_000;

/// Records asked for at once: of each upstream, on the agenda's thread.
const RECORDS_AT_ONCE: usize = 1_000;

/// So many events whose expression runs for too long end a listing: the rest would take as long.
const SLOW_MAX: u32 = 20;

/// Read at once when following.
const FOLLOW_BYTES: usize = 1024 * 1024;

/// Read at once behind an event that is asked for by its id: its plan stands there, and often the next event.
const NEAR_BYTES: usize = 64 * 1024;

/// What a listing gives.
#[derive(Debug)]
pub enum Item {
    /// An event that is meant.
    Event(Box<Found>),
    /// Something the operator must know.
    Note(String),
}

/// Shows the events that are meant, newest first, older than `before`, until it is told to stop.
///
/// # Errors
/// What can't be stepped over.
pub fn newest(
    reads: &dyn Reads,
    wanted: &Compiled,
    before: Seq,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    back(reads, wanted, before, reads.log().end(), usize::MAX, emit).map(|_| ())
}

/// The same for one page: it begins close to `before`, wherever that is, and stops by itself after some entries; then it
/// gives where to go on.
///
/// # Errors
/// As for [`newest`].
pub(super) fn page(
    reads: &dyn Reads,
    wanted: &Compiled,
    before: Seq,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<Option<Seq>, QueryError> {
    let start = before.saturating_add(TRAIL_ENTRIES).min(reads.log().end());
    back(reads, wanted, before, start, PAGE_ENTRIES_MAX, emit)
}

/// Goes back through the log from `start`, which is late enough for the plans of the events before `before`, then through
/// what was carried. Some: it stopped by itself, and what is older than this was not looked at.
fn back(
    reads: &dyn Reads,
    wanted: &Compiled,
    before: Seq,
    start: Seq,
    entries_max: usize,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<Option<Seq>, QueryError> {
    let log = reads.log();
    let only = only_these(reads, wanted)?;
    let mut walk = Walk::new(reads, wanted, &*log, only);
    let first = log.stats().first_seq;
    let (mut end, mut left) = (start, entries_max);
    loop {
        if let Some(only) = &walk.only {
            let next = only.range(..end).next_back().filter(|next| **next >= first);
            let Some(next) = next else { break };
            // Late enough for its plan.
            end = end.min(next.saturating_add(1 + TRAIL_ENTRIES));
        }
        if breathe(&*log).is_break() {
            return Ok(None);
        }
        let entries = match log.scan_back(end) {
            Err(ReadError::Damaged { file, first, last }) if first < end => {
                end = first;
                let note = ReadError::Damaged { file, first, last }.to_string();
                if emit(Item::Note(note)).is_break() {
                    return Ok(None);
                }
                continue;
            }
            read => read?,
        };
        let Some(oldest) = entries.first() else { break };
        let reached = wanted.filters().since.is_some_and(|since| oldest.time < since);
        end = oldest.pos.seq;
        if walk.block(&entries, before, emit)?.is_break() {
            return Ok(None);
        }
        if reached {
            break;
        }
        left = left.saturating_sub(entries.len());
        if left == 0 {
            return Ok(Some(end.min(before)));
        }
    }
    let mut before = before.min(first);
    loop {
        let places = reads.carried(before, VIEWS_MAX).map_err(QueryError::State)?;
        let Some((oldest, _)) = places.last() else { return Ok(None) };
        before = *oldest;
        for (event, at) in places.into_iter().filter(|(event, _)| walk.may_be(*event)).collect::<Vec<_>>() {
            let entry = match log.read(at) {
                Ok(entry) => entry,
                Err(error @ (ReadError::Damaged { .. } | ReadError::Missing(_))) => {
                    if emit(Item::Note(error.to_string())).is_break() {
                        return Ok(None);
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(found) = entry::decode_event(&entry).filter(|found| found.id.pos.seq == event) else { continue };
            if walk.show(vec![(at, found, carried_plan(&entry))], emit)?.is_break() {
                return Ok(None);
            }
        }
    }
}

/// Shows the events from `from` on that are meant, oldest first, until what stands at `until` or later is reached; gives
/// where to go on.
///
/// # Errors
/// What can't be stepped over.
pub fn follow_once(
    reads: &dyn Reads,
    wanted: &Compiled,
    from: Seq,
    until: Seq,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<Seq, QueryError> {
    let log = reads.log();
    let mut walk = Walk::new(reads, wanted, &*log, None);
    let mut next = from;
    loop {
        if next >= until || breathe(&*log).is_break() {
            return Ok(next);
        }
        let entries = match log.scan(next, FOLLOW_BYTES) {
            Err(ReadError::Damaged { file, first, last }) if last >= next => {
                next = last.saturating_add(1);
                if emit(Item::Note(ReadError::Damaged { file, first, last }.to_string())).is_break() {
                    return Ok(next);
                }
                continue;
            }
            read => read?,
        };
        let Some(last) = entries.last() else { return Ok(next) };
        next = last.pos.seq.saturating_add(1);
        walk.plans = entries.iter().flat_map(plans).collect();
        let events = walk.events(entries.iter(), Seq::MAX);
        if walk.show(events, emit)?.is_break() {
            return Ok(next);
        }
    }
}

/// Shows these events as they are now, oldest first, if they are stored and meant. What stands in a damaged place is left out.
///
/// # Errors
/// What can't be stepped over.
pub(super) fn these(
    reads: &dyn Reads,
    wanted: &Compiled,
    ids: &[EventId],
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    let log = reads.log();
    let mut walk = Walk::new(reads, wanted, &*log, None);
    let asked: BTreeMap<Seq, EventId> = ids.iter().map(|id| (id.pos.seq, *id)).collect();
    let mut found: BTreeMap<Seq, (Seq, Event)> = BTreeMap::new();
    let mut next = 0;
    for seq in asked.keys() {
        if found.contains_key(seq) && walk.plans.contains_key(seq) {
            continue;
        }
        let entries = match log.scan(next.max(*seq), NEAR_BYTES) {
            Err(ReadError::Damaged { .. }) => continue,
            read => read?,
        };
        let Some(last) = entries.last() else { continue };
        next = last.pos.seq.saturating_add(1);
        walk.plans.extend(entries.iter().flat_map(plans).filter(|(event, _)| asked.contains_key(event)));
        let accepted =
            entries.iter().filter(|entry| entry.kind == Kind::Accepted && asked.contains_key(&entry.pos.seq));
        found.extend(accepted.filter_map(|entry| Some((entry.pos.seq, (entry.pos.seq, entry::decode_event(entry)?)))));
    }
    for seq in asked.keys().filter(|seq| !found.contains_key(seq)).copied().collect::<Vec<_>>() {
        let Some((at, entry)) = carried_copy(reads, &*log, seq).ok().flatten() else { continue };
        walk.plans.extend(carried_plan(&entry).map(|plan| (seq, plan)));
        found.extend(entry::decode_event(&entry).map(|event| (seq, (at, event))));
    }
    let meant = |event: &Event| asked.get(&event.id.pos.seq) == Some(&event.id) && wanted.takes_event(event);
    let events = found.into_values().filter(|(_, event)| meant(event));
    let events = events.map(|(at, event)| {
        let plan = walk.plans.remove(&event.id.pos.seq);
        (at, event, plan)
    });
    let events: Vec<_> = events.collect();
    walk.show(events, emit).map(|_| ())
}

/// The newest answer status of each delivery of an event.
type Statuses = Vec<(Box<str>, Option<u16>)>;

/// A walk through the log with what was met on the way.
struct Walk<'a> {
    reads: &'a dyn Reads,
    wanted: &'a Compiled,
    log: &'a dyn Log,
    plans: HashMap<Seq, Plan>,
    /// Newest answer statuses of deliveries, kept only if they are asked for.
    statuses: HashMap<Seq, Statuses>,
    /// Events whose expression ran for too long.
    slow: u32,
    /// No others can be meant.
    only: Option<BTreeSet<Seq>>,
}

/// The events that alone can be meant, if the state keeps records of what is asked for. (What is held with its upstream
/// has no record.)
fn only_these(reads: &dyn Reads, wanted: &Compiled) -> Result<Option<BTreeSet<Seq>>, QueryError> {
    let Some(state) = wanted.filters().state.as_deref().and_then(recorded) else { return Ok(None) };
    if state == DeliveryState::Held {
        return Ok(None);
    }
    let (mut only, mut after) = (BTreeSet::new(), None);
    loop {
        let upstream = wanted.filters().upstream.as_deref();
        let page = reads.records(state, upstream, after, RECORDS_AT_ONCE).map_err(QueryError::State)?;
        let Some(last) = page.last() else { return Ok(Some(only)) };
        after = Some(last.event);
        only.extend(page.iter().map(|target| target.event));
        if only.len() > RECORDED_MAX {
            return Ok(None);
        }
    }
}

impl<'a> Walk<'a> {
    fn new(reads: &'a dyn Reads, wanted: &'a Compiled, log: &'a dyn Log, only: Option<BTreeSet<Seq>>) -> Self {
        Self { reads, wanted, log, plans: HashMap::new(), statuses: HashMap::new(), slow: 0, only }
    }

    /// Whether an event can be meant at all.
    fn may_be(&self, event: Seq) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&event))
    }

    fn block(
        &mut self,
        entries: &[Entry],
        before: Seq,
        emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, QueryError> {
        for entry in entries.iter().rev() {
            if self.plans.len() < PLANS_MAX {
                self.plans.extend(plans(entry));
            }
            if self.wanted.wants_status() && entry.kind == Kind::Attempted && self.statuses.len() < PLANS_MAX {
                self.note_status(entry);
            }
        }
        let events = self.events(entries.iter().rev(), before);
        self.show(events, emit)
    }

    fn note_status(&mut self, entry: &Entry) {
        let Some(attempted) = entry::decode_attempted(&entry.payload) else { return };
        let Some(attempt) = attempted.attempt else { return };
        let known = self.statuses.entry(attempted.event).or_default();
        if !known.iter().any(|(upstream, _)| *upstream == attempted.upstream) {
            known.push((attempted.upstream, attempt.status));
        }
    }

    /// The events among entries whose heads are meant, with their plans.
    fn events<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>, before: Seq) -> Vec<(Seq, Event, Option<Plan>)> {
        let mut events = Vec::new();
        for entry in entries.filter(|entry| entry.kind == Kind::Accepted) {
            let plan = self.plans.remove(&entry.pos.seq);
            if !self.may_be(entry.pos.seq) {
                self.statuses.remove(&entry.pos.seq);
                continue;
            }
            let Some(event) = entry::decode_event(entry) else { continue };
            if entry.pos.seq < before && self.wanted.takes_event(&event) {
                events.push((entry.pos.seq, event, plan));
            } else {
                self.statuses.remove(&entry.pos.seq);
            }
        }
        events
    }

    fn show(
        &mut self,
        events: Vec<(Seq, Event, Option<Plan>)>,
        emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, QueryError> {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let some: Vec<_> =
                events.by_ref().take(VIEWS_MAX).filter(|(_, event, _)| self.may_be_meant(event)).collect();
            if some.is_empty() {
                continue;
            }
            let planned: Vec<PlannedFor> = some
                .iter()
                .map(|(_, event, plan)| PlannedFor {
                    event: event.id.pos.seq,
                    upstreams: plan.clone().unwrap_or_default().upstreams,
                })
                .collect();
            let views = self.reads.views(&planned).map_err(QueryError::State)?;
            for ((stored_at, event, mut plan), mut view) in some.into_iter().zip(views) {
                if plan.is_none() && view.planned && !view.deleted && !event.method.is_safe() {
                    (plan, view) = self.planned_far_away(&event, view)?;
                }
                if breathe(self.log).is_break() || self.show_one(stored_at, event, plan, view, emit).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if self.slow >= SLOW_MAX {
                    return Err(QueryError::TooSlow(SLOW_MAX));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether an event is worth the question for its state: most of what a text is searched in does not have it.
    fn may_be_meant(&mut self, event: &Event) -> bool {
        if !self.wanted.asks_text_only() {
            return true;
        }
        if breathe(self.log).is_break() {
            return false;
        }
        let body = || read_body(self.log, event).map_err(|error| error.to_string());
        let may_be = self.wanted.takes_content(event, &body, self.reads).unwrap_or(true);
        if !may_be {
            self.statuses.remove(&event.id.pos.seq);
        }
        may_be
    }

    /// An event whose plan was not met on the way.
    fn planned_far_away(&self, event: &Event, view: EventView) -> Result<(Option<Plan>, EventView), QueryError> {
        let seq = event.id.pos.seq;
        let Some(plan) = planned_after(self.log, seq)? else { return Ok((None, view)) };
        let planned = PlannedFor { event: seq, upstreams: plan.upstreams.clone() };
        let view = self.reads.views(&[planned]).map_err(QueryError::State)?.pop().unwrap_or(view);
        Ok((Some(plan), view))
    }

    fn show_one(
        &mut self,
        stored_at: Seq,
        event: Event,
        plan: Option<Plan>,
        view: EventView,
        emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let statuses = self.statuses.remove(&event.id.pos.seq).unwrap_or_default();
        if view.deleted || !self.wanted.takes_event(&event) {
            return ControlFlow::Continue(());
        }
        let found = Found { event, plan, view, stored_at };
        match self.meant(&found, &statuses) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => emit(Item::Event(Box::new(found))),
            Err(note) => {
                self.slow += u32::from(note.starts_with(TOO_SLOW));
                emit(Item::Note(format!("{}: {note}", found.event.id)))
            }
        }
    }

    fn meant(&self, found: &Found, statuses: &[(Box<str>, Option<u16>)]) -> Result<bool, String> {
        let mut status = |delivery: &DeliveryView| {
            // What the state remembers is the last; what was met on the way is all there is of a first attempt.
            if delivery.last.is_some() {
                return last_status(self.log, delivery);
            }
            statuses.iter().find(|(upstream, _)| *upstream == delivery.upstream).and_then(|(_, status)| *status)
        };
        if !self.wanted.takes_deliveries(&found.view, found.state(), &mut status) {
            return Ok(false);
        }
        let body = || read_body(self.log, &found.event).map_err(|error| error.to_string());
        self.wanted.takes_content(&found.event, &body, self.reads)
    }
}

/// The status of the last answer of a delivery that has a record.
pub(super) fn last_status(log: &dyn Log, delivery: &DeliveryView) -> Option<u16> {
    let entry = log.read(delivery.last?).ok()?;
    entry::decode_attempted(&entry.payload)?.attempt?.status
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};
    use crate::admin::wire::Filters;

    fn ids(fake: &Fake, change: impl FnOnce(&mut Filters)) -> Vec<String> {
        let mut filters = Filters::default();
        change(&mut filters);
        let wanted = Compiled::new(filters, fake).unwrap();
        let mut found = Vec::new();
        newest(fake, &wanted, Seq::MAX, &mut |item| {
            found.push(match item {
                Item::Event(event) => event.event.id.to_string(),
                Item::Note(note) => note,
            });
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    fn filled(count: usize) -> (Fake, Vec<EventId>) {
        let fake = Fake::default();
        let all: Vec<EventId> = (0..count)
            .map(|number| {
                let id = fake.accept(if number % 2 == 0 { "even" } else { "odd" }, format!("{number}").as_bytes());
                fake.plan(&[(id, &["billing"])]);
                fake.attempt(id, "billing", 1, Some(200), None);
                id
            })
            .collect();
        (fake, all)
    }

    #[test]
    fn events_come_newest_first_with_their_states() {
        let (fake, all) = filled(10);
        let expected: Vec<String> = all.iter().rev().map(ToString::to_string).collect();
        assert_eq!(ids(&fake, |_| {}), expected);
        assert_eq!(ids(&fake, |f| f.state = Some("delivered".into())), expected);
        assert!(ids(&fake, |f| f.state = Some("pending".into())).is_empty());
        assert_eq!(ids(&fake, |f| f.source = Some("odd".into())).len(), 5);
        assert_eq!(ids(&fake, |f| f.status = Some("2xx".into())), expected);
        assert!(ids(&fake, |f| f.status = Some("500".into())).is_empty());
        assert_eq!(ids(&fake, |f| f.grep = Some("7".into())), [all[7].to_string()]);
    }

    #[test]
    fn a_state_with_records_is_found_without_a_question_about_all_other_events() {
        let fake = Fake::default();
        let all: Vec<EventId> = (0..25_000).map(|_| fake.accept("stripe", b"{}")).collect();
        let dead: Vec<EventId> = [24_990, 12_000, 11_999, 0].map(|index| all[index]).into();
        for id in &dead {
            fake.plan(&[(*id, &["billing", "crm"])]);
            let last = fake.die(*id, "crm", Reason::new("refused"));
            fake.set(*id, DeliveryView { last: Some(last), ..delivery("crm", Status::Dead(Reason::new("refused"))) });
        }
        fake.carry(dead[3], &["billing", "crm"]);
        let expected: Vec<String> = dead.iter().map(ToString::to_string).collect();
        let asked = |of: &dyn Fn(&mut Filters)| {
            let before = fake.asked.load(std::sync::atomic::Ordering::SeqCst);
            let found = ids(&fake, |filters| of(filters));
            (found, fake.asked.load(std::sync::atomic::Ordering::SeqCst) - before)
        };
        let (found, questions) = asked(&|filters| filters.state = Some("dead".into()));
        assert_eq!(found, expected);
        assert!(questions <= 8, "asked about {questions} events");
        let (found, _) = asked(&|f| (f.state, f.upstream) = (Some("dead".into()), Some("crm".into())));
        assert_eq!(found, expected);
        let (found, questions) = asked(&|f| (f.state, f.upstream) = (Some("dead".into()), Some("billing".into())));
        assert_eq!((found.len(), questions), (0, 0));
        assert_eq!(asked(&|filters| filters.state = Some("review".into())), (Vec::new(), 0));
    }

    #[test]
    fn a_search_for_a_text_asks_about_those_events_only_that_have_it() {
        let (fake, all) = filled(300);
        assert_eq!(ids(&fake, |f| f.grep = Some("277".into())), [all[277].to_string()]);
        assert_eq!(fake.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    #[test]
    fn an_event_without_a_plan_is_pending() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        assert_eq!(ids(&fake, |f| f.state = Some("pending".into())), [id.to_string()]);
    }

    #[test]
    fn damage_is_reported_and_the_rest_is_shown() {
        let (fake, all) = filled(3);
        fake.damage(all[1].pos.seq);
        let found = ids(&fake, |_| {});
        assert_eq!(found.first(), Some(&all[2].to_string()));
        assert_eq!(found.last(), Some(&all[0].to_string()));
        assert!(found[1].contains("damaged"), "{found:?}");
    }

    #[test]
    fn a_carried_event_is_listed_once_and_last() {
        let fake = Fake::default();
        let old = fake.accept("stripe", b"{}");
        let young = fake.accept("stripe", b"{}");
        fake.carry(old, &["billing"]);
        assert_eq!(ids(&fake, |_| {}), [young.to_string(), old.to_string()]);
    }

    #[test]
    fn pages_show_every_event_once_and_begin_where_the_last_one_ended() {
        let (fake, all) = filled(7);
        fake.carry(all[0], &["billing"]);
        let wanted = Compiled::new(Filters::default(), &fake).unwrap();
        let (mut found, mut before) = (Vec::new(), Seq::MAX);
        loop {
            let mut events = Vec::new();
            let stopped = page(&fake, &wanted, before, &mut |item| {
                let Item::Event(event) = item else { panic!("a note") };
                events.push(event.event.id);
                if events.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(stopped.unwrap(), None);
            let Some(last) = events.last() else { break };
            before = last.pos.seq;
            found.extend(events);
        }
        assert_eq!(found.len(), 7);
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{found:?}");
        assert_eq!(found.last(), all.first());
    }

    #[test]
    fn an_expression_that_runs_for_too_long_each_time_ends_the_listing() {
        let (fake, _) = filled(50);
        let mut seen = 0;
        let mut listed = |expression: &str| {
            seen = 0;
            let filters = Filters { expression: Some(expression.into()), ..Filters::default() };
            let ended = newest(&fake, &Compiled::new(filters, &fake).unwrap(), Seq::MAX, &mut |_| {
                seen += 1;
                ControlFlow::Continue(())
            });
            (ended.map_err(|error| error.to_string()), seen)
        };
        let (ended, seen) = listed("slow");
        assert!(ended.unwrap_err().contains("too long on 20 events"));
        assert_eq!(seen, 20);
        assert_eq!(listed("error"), (Ok(()), 50), "others may be of another form");
    }

    #[test]
    fn following_ends_where_the_log_ended_when_it_began() {
        let fake = Fake::default();
        let first = fake.accept("stripe", b"{}");
        let end = fake.log().end();
        let wanted = Compiled::new(Filters::default(), &fake).unwrap();
        let mut count = 0;
        let next = follow_once(&fake, &wanted, first.pos.seq, end, &mut |_| {
            count += 1;
            fake.accept("stripe", b"{}");
            ControlFlow::Continue(())
        });
        assert_eq!((next.unwrap(), count), (end, 1));
    }

    #[test]
    fn following_goes_on_where_it_stopped() {
        let (fake, _) = filled(2);
        let wanted = Compiled::new(Filters::default(), &fake).unwrap();
        let mut count = 0;
        let mut emit = |_: Item| {
            count += 1;
            ControlFlow::Continue(())
        };
        let next = follow_once(&fake, &wanted, 0, Seq::MAX, &mut emit).unwrap();
        fake.accept("stripe", b"{}");
        let after = follow_once(&fake, &wanted, next, Seq::MAX, &mut emit).unwrap();
        assert_eq!((count, after > next), (3, true));
    }

    #[test]
    fn events_that_are_asked_for_are_shown_as_they_are_now_wherever_they_stand() {
        let (fake, all) = filled(9);
        let (lone, gone) = (fake.accept("even", b"lone"), fake.accept("even", b"gone"));
        fake.carry(all[1], &["billing"]);
        fake.delete(gone);
        fake.set(all[4], delivery("billing", Status::Held(Reason::new("operator"))));
        fake.damage(all[8].pos.seq);
        let shown = |ids: &[EventId]| {
            let wanted = Compiled::new(Filters::default(), &fake).unwrap();
            let mut shown = Vec::new();
            these(&fake, &wanted, ids, &mut |item| {
                let Item::Event(found) = item else { panic!("{item:?}") };
                shown.push((found.event.id, found.state().as_str()));
                ControlFlow::Continue(())
            })
            .unwrap();
            shown
        };
        let expected = [(all[0], "delivered"), (all[1], "delivered"), (all[4], "held"), (lone, "pending")];
        assert_eq!(shown(&[lone, all[4], gone, all[0], all[8], all[1]]), expected);
        // An id is more than its number.
        let other = EventId { time: fake.clock().before(std::time::Duration::from_secs(1)), ..all[0] };
        assert_eq!(shown(&[other]), []);
    }
}
