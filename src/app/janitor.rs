//! Owns the janitor: the thread that lets old segments go after what still counts in them was carried forward.
//!
//! Carrying is capped at a tenth of the budget in one go: more than that undelivered means that the store is full,
//! and new events are refused rather than old ones lost.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    agenda::Agenda,
    clock::Clock,
    config::{StoreSettings, WhenFull},
    event::Seq,
    log::{
        Acked, Append, AppendError, Class, Done, Kind, Log, NewEntry, ReadError,
        entry::{Carried, decode_carried, encode_carried},
        segment::retention::{Candidate, Rules, expire_before},
        sled::SledLog,
    },
    state::CarryOrder,
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);
/// Events carried between two waits for the disk.
const CARRY_AT_ONCE: usize = 256;

/// The running janitor; stops when dropped.
pub(super) struct Janitor {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    log: Arc<SledLog>,
    agenda: Agenda,
    clock: Clock,
    store: StoreSettings,
}

/// Why a round ended early. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("more is undelivered than may be carried forward: {0} bytes")]
    TooMuch(u64),
    #[error(transparent)]
    Agenda(#[from] crate::agenda::AskError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Janitor {
    pub(super) fn start(
        log: Arc<SledLog>,
        agenda: Agenda,
        clock: Clock,
        store: StoreSettings,
    ) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = stop.clone();
        let work = Work { log, agenda, clock, store };
        let run = move || {
            let (flag, bell) = &*stopped;
            loop {
                let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
                let (guard, _) = bell.wait_timeout(guard, EVERY).unwrap_or_else(PoisonError::into_inner);
                if *guard {
                    return;
                }
                drop(guard);
                if let Err(kept) = work.round() {
                    tracing::warn!(reason = %kept, "old segments stay for now");
                }
            }
        };
        let thread = std::thread::Builder::new().name("janitor".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        let (flag, bell) = &*self.stop;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Work {
    fn round(&self) -> Result<(), Kept> {
        if !self.agenda.is_ready() {
            return Ok(());
        }
        let sealed: Vec<Candidate> = self
            .log
            .segments()
            .iter()
            .filter(|segment| segment.sealed)
            .map(|segment| Candidate { end: segment.end, last_time: segment.last_time, bytes: segment.bytes })
            .collect();
        let rules = Rules {
            retention: self.store.retention,
            max_size: self.store.max_size,
            reclaim: self.store.when_full == WhenFull::Reclaim,
        };
        let used = self.log.stats().bytes;
        // A wall clock that was stepped far ahead must not age everything at once.
        let now = self.clock.now().min(self.clock.steady());
        match expire_before(&sealed, used, now, &rules) {
            Some(before) => self.let_go(before),
            None => Ok(()),
        }
    }

    /// Carries what counts before `before`, waits until that is durable and known, and lets the segments go.
    fn let_go(&self, before: Seq) -> Result<(), Kept> {
        let mut carried_bytes = 0;
        // What the agenda has not heard of yet can't be asked about.
        self.agenda.applied(before.saturating_sub(1))?;
        let (mut from, mut carried) = (0, false);
        loop {
            let expiry = self.agenda.plan_expiry(from, before, CARRY_AT_ONCE)?;
            let mut waiting = Vec::new();
            for entry in expiry.upkeep {
                waiting.push(self.append(Vec::new(), entry));
            }
            for order in &expiry.carry {
                let (parts, entry) = self.copy_of(order)?;
                carried_bytes +=
                    (entry.payload.len() + parts.iter().map(|part| part.payload.len()).sum::<usize>()) as u64;
                if carried_bytes > self.store.max_size / 10 {
                    return Err(Kept::TooMuch(carried_bytes));
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
            carried |= !expiry.carry.is_empty();
            match expiry.next {
                Some(next) => from = next,
                // Again from the start, until there is nothing left: an operator may have revived something.
                _ if carried => (from, carried) = (0, false),
                _ => break,
            }
        }
        self.log.expire(before);
        tracing::info!(before, carried_bytes, "old segments are let go");
        Ok(())
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
