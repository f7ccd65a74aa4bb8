//! Owns the janitor: the thread that lets old segments go after what still counts in them was carried forward.
//!
//! Segments go one after the other, so that no more than one is there twice. Carrying is capped at a tenth of the budget
//! in one go. A store that is full of what still counts is copied once: if that freed too little, reclaiming pauses, and
//! new events are refused rather than old ones lost. What is damaged can't be carried: it is named and goes, so that it
//! keeps nothing else from going.

use std::{cell::Cell, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{rounds::Rounds, subscribers::Subscribers};
use crate::{
    agenda::Agenda,
    clock::Clock,
    config::{StoreSettings, WhenFull},
    event::Seq,
    log::{
        Acked, Append, AppendError, Class, Done, Kind, Log, NewEntry, ReadError,
        entry::{Carried, decode_carried, encode_carried},
        segment::retention::{Candidate, Pass, Rules, expire_before},
        sled::{SegmentInfo, SledLog},
    },
    state::CarryOrder,
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);
/// How long reclaiming pauses after a pass over the whole store that freed too little.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Events carried between two waits for the disk.
const CARRY_AT_ONCE: usize = 256;
/// How often commands are said again in one go because an operator's came before them.
const AGAIN_MAX: usize = 20;
/// At most one part in so many of the budget is carried in one go.
const CARRY_SHARE: u64 = 10;

struct Work {
    log: Arc<SledLog>,
    agenda: Agenda,
    subscribers: Arc<Subscribers>,
    clock: Clock,
    store: StoreSettings,
    /// The pass of reclaiming that is under way.
    pass: Cell<Option<Pass>>,
    /// No reclaiming before this time (of the clock's own scale).
    paused_until: Cell<Duration>,
}

/// What was carried.
#[derive(Clone, Copy, Default)]
struct CarriedSum {
    events: u64,
    bytes: u64,
}

/// Why a round ended early. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("more is undelivered than may be carried forward: {0} bytes")]
    TooMuch(u64),
    #[error("operators' commands come all the time")]
    Commanded,
    #[error(transparent)]
    Agenda(#[from] crate::agenda::AskError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Starts the thread; dropping what it gives stops it.
pub(super) fn start(
    log: Arc<SledLog>,
    agenda: Agenda,
    subscribers: Arc<Subscribers>,
    clock: Clock,
    store: StoreSettings,
) -> std::io::Result<Rounds> {
    let work = Work { log, agenda, subscribers, clock, store, pass: Cell::new(None), paused_until: Cell::default() };
    Rounds::start("janitor", EVERY, move || {
        if let Err(kept) = work.round() {
            tracing::warn!(reason = %kept, "old segments stay for now");
        }
    })
}

impl Work {
    fn round(&self) -> Result<(), Kept> {
        if !self.agenda.is_ready() {
            return Ok(());
        }
        let segments = self.log.segments();
        let sealed: Vec<Candidate> = segments
            .iter()
            .filter(|segment| segment.sealed)
            .map(|segment| Candidate { end: segment.end, last_time: segment.last_time, bytes: segment.bytes })
            .collect();
        let rules = Rules {
            retention: self.store.retention,
            max_size: self.store.max_size,
            reclaim: self.store.when_full == WhenFull::Reclaim && self.may_reclaim(segments.first()),
        };
        let used = self.log.stats().bytes;
        // A wall clock that was stepped far ahead must not age everything at once.
        let now = self.clock.now().min(self.clock.steady());
        let Some(before) = expire_before(&sealed, used, now, &rules) else { return Ok(()) };
        let aged = expire_before(&sealed, used, now, &Rules { reclaim: false, ..rules });
        let mut carried_bytes = 0;
        for segment in segments.iter().filter(|segment| segment.sealed && segment.end <= before) {
            let met = self.log.events_in(segment.number);
            let carried = self.let_go(segment.end)?;
            if aged.is_none_or(|aged| segment.end > aged) {
                let mut pass = self.pass.get().unwrap_or_else(|| Pass::beginning(self.log.end()));
                pass.took(met.max(carried.events), carried.events);
                self.pass.set(Some(pass));
            }
            carried_bytes += carried.bytes;
            if carried_bytes > self.store.max_size / CARRY_SHARE {
                break;
            }
        }
        Ok(())
    }

    /// Whether segments may go before their time; not for a while after a pass that freed too little.
    fn may_reclaim(&self, oldest: Option<&SegmentInfo>) -> bool {
        let now = self.clock.elapsed();
        if let (Some(pass), Some(oldest)) = (self.pass.get(), oldest)
            && let Some(worth_it) = pass.over(oldest.first_seq)
        {
            self.pass.set(None);
            if !worth_it {
                self.paused_until.set(now + PAUSE);
                tracing::warn!(
                    pause_seconds = PAUSE.as_secs(),
                    "the store is full of events that still count: nothing is reclaimed for a while"
                );
            }
        }
        now >= self.paused_until.get()
    }

    /// Carries what counts before `before`, waits until that is durable and known, and lets the segments go.
    fn let_go(&self, before: Seq) -> Result<CarriedSum, Kept> {
        let mut sum = CarriedSum::default();
        // What the agenda has not heard of yet can't be asked about.
        self.agenda.applied(before.saturating_sub(1))?;
        let (mut from, mut carried, mut again) = (0, false, 0);
        loop {
            let mut waiting = Vec::new();
            // What is carried of subscribers must not overtake an operator's change of them.
            let turn = self.subscribers.turn();
            let expiry = self.agenda.plan_expiry(from, before, CARRY_AT_ONCE)?;
            let said = !expiry.upkeep.is_empty();
            for entry in expiry.upkeep {
                waiting.push(self.append(Vec::new(), entry));
            }
            drop(turn);
            for order in &expiry.carry {
                let (parts, entry) = match self.copy_of(order) {
                    Ok(copy) => copy,
                    Err(passing @ ReadError::Io { .. }) => return Err(passing.into()),
                    Err(lost) => {
                        tracing::error!(
                            event = order.event,
                            stored_at = order.stored_at,
                            %lost,
                            "a stored event can't be read and is lost: it goes with its segment"
                        );
                        continue;
                    }
                };
                carried = true;
                sum.events += 1;
                sum.bytes += (entry.payload.len() + parts.iter().map(|part| part.payload.len()).sum::<usize>()) as u64;
                if sum.bytes > self.store.max_size / CARRY_SHARE {
                    return Err(Kept::TooMuch(sum.bytes));
                }
                let large = !parts.is_empty();
                let answer = self.append(parts, entry);
                if large {
                    // Its parts take turns: what is said about the event must not overtake it.
                    answer.blocking_recv().unwrap_or(Err(AppendError::Closed))?;
                } else {
                    waiting.push(answer);
                }
                for then in &order.then {
                    waiting.push(self.append(Vec::new(), then.clone()));
                }
            }
            for answer in waiting {
                answer.blocking_recv().unwrap_or(Err(AppendError::Closed))?;
            }
            self.agenda.applied(self.log.end().saturating_sub(1))?;
            match expiry.next {
                Some(next) => from = next,
                // Again from the start, until there is nothing left: an operator may have revived something.
                _ if carried => (from, carried) = (0, false),
                // A command that an operator's came before has had no effect.
                _ if said && again < AGAIN_MAX => (from, again) = (0, again + 1),
                _ if said => return Err(Kept::Commanded),
                _ => break,
            }
        }
        self.log.expire(before);
        tracing::info!(before, carried_events = sum.events, carried_bytes = sum.bytes, "old segments are let go");
        Ok(sum)
    }

    fn append(&self, parts: Vec<NewEntry>, entry: NewEntry) -> oneshot::Receiver<Acked> {
        let (done, answer) = Done::channel();
        self.log.append(Append { parts, entry, dedupe: None, class: Class::Upkeep, time: self.clock.now(), done });
        answer
    }

    /// An event's entry and parts, to be appended again.
    fn copy_of(&self, order: &CarryOrder) -> Result<(Vec<NewEntry>, NewEntry), ReadError> {
        let stored = self.log.read(order.stored_at)?;
        let (id, accepted) = match stored.kind {
            Kind::Carried => {
                let carried = decode_carried(&stored.payload).ok_or(ReadError::Format(order.stored_at))?;
                (carried.id, carried.accepted)
            }
            _ => (stored.id(), stored.payload.clone()),
        };
        let carried = Carried { id, history: order.history.clone(), accepted };
        let parts = stored
            .refs
            .iter()
            .map(|seq| self.log.read(*seq).map(|part| NewEntry { kind: Kind::Part, payload: part.payload }));
        let parts = parts.collect::<Result<_, _>>()?;
        Ok((parts, NewEntry { kind: Kind::Carried, payload: encode_carried(&carried) }))
    }
}

#[cfg(test)]
#[path = "janitor_tests.rs"]
mod tests;
