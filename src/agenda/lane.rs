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

use super::retry::Agenda;
use crate::{
    clock::Timestamp,
    event::{Body, Event, Seq},
    state::Record,
};

/// How many read events of a kind may wait in a lane.
pub(super) const READY_MAX: usize = 256;

/// How many events are asked for at once.
pub(super) const READ_EVENTS: usize = 256;

/// The three kinds of work, first attempts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Fresh,
    Retry,
    Replay,
}

impl Work {
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
}

/// One upstream's lane.
pub(super) struct Lane {
    /// Events at hand, by kind of work.
    queues: [VecDeque<Arc<Event>>; 3],
    bytes: usize,
    pub(super) leases: HashMap<Seq, Lease>,
    /// Planned, never attempted, and not at hand.
    pub(super) absent: RoaringTreemap,
    /// Retries and timed holds.
    pub(super) retries: Agenda,
    /// Replays.
    pub(super) replays: Agenda,
    /// Reads under way, by kind of work.
    pub(super) reading: [bool; 3],
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
    turn: usize,
}

impl Lane {
    pub(super) fn new(retries_max: usize) -> Self {
        Self {
            queues: Default::default(),
            bytes: 0,
            leases: HashMap::new(),
            absent: RoaringTreemap::new(),
            retries: Agenda::new(retries_max),
            replays: Agenda::new(retries_max),
            reading: [false; 3],
            read_after: Timestamp::ZERO,
            window: 0,
            in_flight: 0,
            live: false,
            released: None,
            refilling: false,
            turn: 0,
        }
    }

    /// Keeps a new event at hand if nothing older is elsewhere and `most` bytes are not exceeded; otherwise it is read
    /// when its turn comes, and what comes after it waits behind it.
    ///
    /// A delivery that is in somebody's hands stays there: a crash took its plan away, but not what was attempted.
    pub(super) fn offer(&mut self, event: &Arc<Event>, most: usize) {
        if self.leases.contains_key(&event.id.pos.seq) {
            return;
        }
        if self.absent.is_empty() && !self.reading(Work::Fresh) && self.bytes + weight(event) <= most {
            self.leases.insert(event.id.pos.seq, Lease::Queued);
            self.push(Work::Fresh, event.clone());
        } else {
            self.absent.insert(event.id.pos.seq);
        }
    }

    /// Keeps an event at hand that was read because it is wanted.
    pub(super) fn push(&mut self, work: Work, event: Arc<Event>) {
        self.bytes += weight(&event);
        if let Some(queue) = self.queues.get_mut(work as usize) {
            queue.push_back(event);
        }
    }

    /// The next event at hand. First attempts go first; every eighth turn retries do, every 32nd replays.
    pub(super) fn pop(&mut self) -> Option<(Work, Arc<Event>)> {
        let order = match self.turn % 32 {
            31 => [Work::Replay, Work::Retry, Work::Fresh],
            7 | 15 | 23 => [Work::Retry, Work::Fresh, Work::Replay],
            _ => [Work::Fresh, Work::Retry, Work::Replay],
        };
        for work in order {
            if let Some(event) = self.queues.get_mut(work as usize).and_then(VecDeque::pop_front) {
                self.turn = self.turn.wrapping_add(1);
                self.bytes = self.bytes.saturating_sub(weight(&event));
                return Some((work, event));
            }
        }
        None
    }

    /// Events at hand of a kind.
    pub(super) fn ready(&self, work: Work) -> usize {
        self.queues.get(work as usize).map_or(0, VecDeque::len)
    }

    /// Whether a read for a kind of work is under way.
    pub(super) fn reading(&self, work: Work) -> bool {
        self.reading.get(work as usize).copied().unwrap_or(false)
    }

    pub(super) fn set_reading(&mut self, work: Work, reading: bool) {
        if let Some(slot) = self.reading.get_mut(work as usize) {
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

/// What an event costs in memory, roughly.
pub(super) fn weight(event: &Event) -> usize {
    let body = match &event.body {
        Body::Inline(body) => body.len(),
        Body::Parts { seqs, .. } => seqs.len() * 8,
    };
    body + 1024
}
