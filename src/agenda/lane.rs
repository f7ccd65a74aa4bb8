//! Owns what the agenda remembers of one upstream beyond the state: events at hand, what is due, who is in flight,
//! and how many may be.
//!
//! Promises that memory is bounded: events at hand by bytes, due times by count, leases by both and by the window.
//! What does not fit is a bit in `absent` and is read from the log when its turn comes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use roaring::RoaringTreemap;

use super::{order::Order, retry::Agenda, turns::Turns};
use crate::{
    clock::Timestamp,
    event::{Body, Event, Seq},
    routing::Priority,
    state::{Record, Upstream},
};

/// How many read events of a kind may wait in a lane.
pub(super) const READY_MAX: usize = 256;

/// How many events are asked for at once.
pub(super) const READ_EVENTS: usize = 256;

/// The kinds of work.
const KINDS: usize = 5;

/// The kinds of work, first attempts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Fresh(Priority),
    Retry,
    Replay,
}

impl Work {
    /// A place for each kind.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Fresh(priority) => priority as usize,
            Self::Retry => KINDS - 2,
            Self::Replay => KINDS - 1,
        }
    }

    /// What a pending delivery with a record is.
    pub(super) fn of(record: &Record) -> Self {
        if record.replayed { Self::Replay } else { Self::Retry }
    }
}

/// A delivery that the agenda has taken in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// Being read from the log, or read and in a queue.
    Queued,
    /// Handed to the engine then.
    Sent(Timestamp),
    /// Being settled without an attempt: its entry is on its way into the log.
    Closing,
}

/// One upstream's lane.
pub(super) struct Lane {
    /// Events at hand, by kind of work.
    queues: [VecDeque<Arc<Event>>; KINDS],
    bytes: usize,
    pub(super) leases: HashMap<Seq, Lease>,
    /// Planned, never attempted, and not at hand.
    pub(super) absent: Absent,
    /// Who may go before whom, if a route asks for an order.
    pub(super) order: Option<Box<Order>>,
    /// Retries and timed holds.
    pub(super) retries: Agenda,
    /// Replays.
    pub(super) replays: Agenda,
    /// Reads under way, by kind of work.
    pub(super) reading: [bool; KINDS],
    /// After a failed read: not before.
    pub(super) read_after: Timestamp,
    /// How many may be in flight.
    pub(super) window: usize,
    /// How many are.
    pub(super) in_flight: usize,
    /// It is in the configuration.
    pub(super) live: bool,
    /// The timed hold that was let go already.
    pub(super) released: Option<Seq>,
    /// The stored records are being searched for what is due.
    pub(super) refilling: bool,
    /// The command that disables it is on its way into the log.
    pub(super) disabling: bool,
    pub(super) turns: Turns,
}

impl Lane {
    pub(super) fn new(retries_max: usize) -> Self {
        Self {
            queues: Default::default(),
            bytes: 0,
            leases: HashMap::new(),
            absent: Absent::default(),
            order: None,
            retries: Agenda::new(retries_max),
            replays: Agenda::new(retries_max),
            reading: [false; KINDS],
            read_after: Timestamp::ZERO,
            window: 0,
            in_flight: 0,
            live: false,
            released: None,
            refilling: false,
            disabling: false,
            turns: Turns::new(),
        }
    }

    /// Keeps a new event at hand if nothing older is elsewhere and `most` bytes are not exceeded; otherwise it is read
    /// when its turn comes, and what comes after it waits behind it.
    ///
    /// A delivery that is in somebody's hands stays there: a crash took its plan away, but not what was attempted.
    pub(super) fn offer(&mut self, event: &Arc<Event>, priority: Priority, most: usize) {
        if self.leases.contains_key(&event.id.pos.seq) {
            return;
        }
        let work = Work::Fresh(priority);
        if self.absent.has_none(priority) && !self.reading(work) && self.bytes + weight(event) <= most {
            self.leases.insert(event.id.pos.seq, Lease::Queued);
            self.push(work, event.clone());
        } else {
            self.absent.insert(event.id.pos.seq, priority);
        }
    }

    /// Keeps an event at hand that was read because it is wanted.
    pub(super) fn push(&mut self, work: Work, event: Arc<Event>) {
        self.bytes += weight(&event);
        if let Some(queue) = self.queues.get_mut(work.index()) {
            queue.push_back(event);
        }
    }

    /// The next event at hand, see [`Turns`].
    pub(super) fn pop(&mut self) -> Option<(Work, Arc<Event>)> {
        let Self { turns, queues, .. } = self;
        let work = turns.next(|work| queues.get(work.index()).is_some_and(|queue| !queue.is_empty()))?;
        let event = self.queues.get_mut(work.index())?.pop_front()?;
        self.bytes = self.bytes.saturating_sub(weight(&event));
        Some((work, event))
    }

    /// Forgets all events at hand; their leases are the caller's business.
    pub(super) fn clear(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.bytes = 0;
    }

    /// Forgets events at hand, and that they were, but for those that `is_kept` takes.
    pub(super) fn keep(&mut self, is_kept: impl Fn(Seq) -> bool) {
        self.queues.iter_mut().for_each(|queue| queue.retain(|event| is_kept(event.id.pos.seq)));
        self.bytes = self.queues.iter().flatten().map(|event| weight(event)).sum();
        self.leases.retain(|event, lease| *lease != Lease::Queued || is_kept(*event));
    }

    /// Events at hand of a kind.
    pub(super) fn ready(&self, work: Work) -> usize {
        self.queues.get(work.index()).map_or(0, VecDeque::len)
    }

    /// Whether a read for a kind of work is under way.
    pub(super) fn reading(&self, work: Work) -> bool {
        self.reading.get(work.index()).copied().unwrap_or(false)
    }

    pub(super) fn set_reading(&mut self, work: Work, reading: bool) {
        if let Some(slot) = self.reading.get_mut(work.index()) {
            *slot = reading;
        }
    }

    /// What is due, by kind of work.
    pub(super) fn agenda(&mut self, work: Work) -> &mut Agenda {
        if work == Work::Replay { &mut self.replays } else { &mut self.retries }
    }

    /// Bytes of events at hand.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// First attempts whose events are not at hand, by priority.
#[derive(Default)]
pub(super) struct Absent([RoaringTreemap; 3]);

impl Absent {
    /// All that wait for an upstream.
    pub(super) fn of(upstream: &Upstream) -> Self {
        let rest = match upstream.high.is_empty() && upstream.low.is_empty() {
            true => upstream.waiting.clone(),
            false => &(&upstream.waiting - &upstream.high) - &upstream.low,
        };
        Self([upstream.high.clone(), rest, upstream.low.clone()])
    }

    pub(super) fn insert(&mut self, event: Seq, priority: Priority) {
        if let Some(set) = self.0.get_mut(priority as usize) {
            set.insert(event);
        }
    }

    pub(super) fn remove(&mut self, event: Seq) {
        for set in self.0.iter_mut().filter(|set| !set.is_empty()) {
            set.remove(event);
        }
    }

    pub(super) fn has_none(&self, priority: Priority) -> bool {
        self.0.get(priority as usize).is_none_or(RoaringTreemap::is_empty)
    }

    /// Takes the oldest of a priority.
    pub(super) fn take(&mut self, priority: Priority, most: usize) -> Vec<Seq> {
        let Some(set) = self.0.get_mut(priority as usize) else { return Vec::new() };
        let events: Vec<Seq> = set.iter().take(most).collect();
        for event in &events {
            set.remove(*event);
        }
        events
    }
}

/// The priority of a delivery that waits for its first attempt.
pub(super) fn priority_of(upstream: &Upstream, event: Seq) -> Priority {
    match event {
        event if !upstream.high.is_empty() && upstream.high.contains(event) => Priority::High,
        event if !upstream.low.is_empty() && upstream.low.contains(event) => Priority::Low,
        _ => Priority::Normal,
    }
}

/// What an event costs in memory, roughly.
pub(super) fn weight(event: &Event) -> usize {
    let body = match &event.body {
        Body::Inline(body) => body.len(),
        Body::Parts { seqs, .. } => seqs.len() * 8,
    };
    body + 1024
}
