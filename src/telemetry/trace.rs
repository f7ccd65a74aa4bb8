//! Owns spans on their way out: whether they are wanted, which are sampled, and the queue to whoever sends them.
//!
//! Promises that nobody waits: a span that finds the queue full is dropped and counted. Off, as it is unless there is a
//! collector, it costs a load. Deliberately absent: sending.

use std::{
    hash::Hasher as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use siphasher::sip::SipHasher13;
use tokio::sync::mpsc;

use super::Counter;
use crate::event::{Event, EventId, RELAY, Step, TraceParent, own_trace, received_with, span_of};

/// A stretch of time in a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: u128,
    /// Itself.
    pub span: u64,
    /// Whose part it is.
    pub parent: Option<u64>,
    /// What it is called.
    pub name: &'static str,
    /// Which kind.
    pub kind: SpanKind,
    /// Nanoseconds since the epoch, wall time.
    pub start_ns: u64,
    /// The same.
    pub end_ns: u64,
    /// It went wrong.
    pub is_error: bool,
    /// What else there is to know; no text from outside but ids.
    pub attributes: Vec<(&'static str, Text)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// A text.
    Text(Box<str>),
    /// A number.
    Number(i64),
}

/// The kind of a span, as OTLP numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words speak for themselves")]
pub enum SpanKind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// A time on the wall, in nanoseconds, and how long it took to get there.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// When it ended, milliseconds since the epoch.
    pub end_ms: u64,
    /// How long before that it began.
    pub began: Duration,
    /// How long before that it ended.
    pub ended: Duration,
}

impl Stretch {
    fn nanos(self) -> (u64, u64) {
        let end = self.end_ms.saturating_mul(1_000_000);
        let before = |time: Duration| end.saturating_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        (before(self.began), before(self.ended))
    }
}

/// Where spans go.
#[derive(Default)]
pub struct Traces {
    queue: OnceLock<Queue>,
    unnamed: AtomicU64,
    /// Spans that a collector took.
    pub exported: Counter,
    /// Spans that found the queue full.
    pub overflowed: Counter,
    /// Spans that the collector did not take.
    pub refused: Counter,
}

struct Queue {
    sender: mpsc::Sender<Span>,
    sample: f64,
}

/// Where something stands in its trace; only what is sampled has one.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    trace: u128,
    /// The sender's span.
    parent: Option<u64>,
    id: Option<EventId>,
    /// The span that all steps are parts of; None: there is none of ours.
    receipt: Option<u64>,
}

impl Traces {
    /// Switches them on, once: gives the end of the queue. `sample` is the share of the traces that are begun here.
    pub fn open(&self, capacity: usize, sample: f64) -> Option<mpsc::Receiver<Span>> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        self.queue.set(Queue { sender, sample }).ok().map(|()| receiver)
    }

    /// Whether anybody wants spans.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.queue.get().is_some()
    }

    /// Where an event stands that is stored: with all items of a batch in the trace of the request they came in with.
    /// None if it is not sampled.
    #[must_use]
    pub fn standing_of(&self, event: &Event) -> Option<Standing> {
        self.queue.get()?;
        let received = received_with(event);
        let standing = self.standing(Some(received), event.headers.get("traceparent").map(HeaderValue::as_bytes))?;
        // What the relay published itself came in with no request.
        let receipt = if *event.client == *RELAY { standing.parent } else { standing.receipt };
        Some(Standing { id: Some(event.id), receipt, ..standing })
    }

    /// Where a request stands that became an event or a batch with this id, or neither. None if it is not sampled: a
    /// sender who samples decides, else the share does, the same for every span of a trace.
    #[must_use]
    pub fn standing(&self, id: Option<EventId>, traceparent: Option<&[u8]>) -> Option<Standing> {
        let queue = self.queue.get()?;
        let parent = traceparent.and_then(TraceParent::parse);
        // A request that became no event has a number, which is one of the process and no secret.
        let number = || self.unnamed.fetch_add(1, Ordering::Relaxed);
        let fallback = if id.is_none() { hash(&[number(), std::ptr::from_ref(self).addr() as u64]) } else { 0 };
        let trace = match (parent, id) {
            (Some(parent), _) => parent.trace,
            (None, Some(id)) => own_trace(id),
            (None, None) => (u128::from(fallback) << 64) | u128::from(hash(&[fallback])),
        };
        let is_sampled = match parent {
            Some(parent) => parent.flags & 1 == 1,
            None => (hash(&[trace as u64, (trace >> 64) as u64]) as f64) < queue.sample * u64::MAX as f64,
        };
        let receipt = id.map_or(fallback | 1, |id| span_of(id, Step::Receive));
        is_sampled.then_some(Standing { trace, parent: parent.map(|parent| parent.span), id, receipt: Some(receipt) })
    }

    /// Hands a span on.
    pub fn tell(
        &self,
        standing: &Standing,
        step: Step<'_>,
        stretch: Stretch,
        is_error: bool,
        attributes: Vec<(&'static str, Text)>,
    ) {
        let Some(queue) = self.queue.get() else { return };
        let (name, kind) = match step {
            Step::Receive => ("receive", SpanKind::Server),
            Step::Verify => ("verify", SpanKind::Internal),
            Step::Append => ("append", SpanKind::Internal),
            Step::Plan => ("plan", SpanKind::Internal),
            Step::Attempt { .. } => ("attempt", SpanKind::Client),
        };
        let (start_ns, end_ns) = stretch.nanos();
        let (own, trace) = (standing.id.map(|id| span_of(id, step)), standing.trace);
        let (span, parent) = match step {
            Step::Receive => (standing.receipt.or(own), standing.parent),
            _ => (own.or(standing.receipt), standing.receipt),
        };
        let Some(span) = span else { return };
        let span = Span { trace, span, parent, name, kind, start_ns, end_ns, is_error, attributes };
        if queue.sender.try_send(span).is_err() {
            self.overflowed.inc();
        }
    }
}

fn hash(numbers: &[u64]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7361_6d70_6c65_6420, 0x7472_6163_6573_2121);
    numbers.iter().for_each(|number| hasher.write_u64(*number));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pos;

    const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn id(seq: u64) -> EventId {
        EventId { time: crate::clock::Timestamp::from_millis(1_767_323_045_000), pos: Pos { partition: 0, seq } }
    }

    fn stretch() -> Stretch {
        Stretch { end_ms: 10, began: Duration::from_millis(4), ended: Duration::from_millis(1) }
    }

    #[test]
    fn off_nothing_stands_anywhere() {
        let traces = Traces::default();
        assert!(!traces.is_on() && traces.standing(Some(id(1)), Some(PARENT)).is_none());
    }

    #[test]
    fn a_sender_who_samples_decides_and_else_the_share() {
        let traces = Traces::default();
        let _queue = traces.open(8, 0.25).unwrap();
        assert!(traces.standing(Some(id(1)), Some(PARENT)).is_some());
        assert!(traces.standing(Some(id(1)), Some(UNSAMPLED)).is_none());
        let sampled = (0..10_000).filter(|seq| traces.standing(Some(id(*seq)), None).is_some()).count();
        assert!((2_300..2_700).contains(&sampled), "{sampled}");
        let sampled = (0..10_000).filter(|_| traces.standing(None, None).is_some()).count();
        assert!((2_300..2_700).contains(&sampled), "{sampled}");
    }

    #[test]
    fn steps_are_parts_of_the_receipt_and_that_is_part_of_the_senders_span() {
        let traces = Traces::default();
        let mut queue = traces.open(8, 1.0).unwrap();
        let standing = traces.standing(Some(id(1)), Some(PARENT)).unwrap();
        traces.tell(&standing, Step::Receive, stretch(), false, Vec::new());
        traces.tell(&standing, Step::Attempt { upstream: "u", number: 1 }, stretch(), true, Vec::new());
        let (receive, attempt) = (queue.try_recv().unwrap(), queue.try_recv().unwrap());
        assert_eq!((receive.parent, attempt.parent), (Some(0x00f0_67aa_0ba9_02b7), Some(receive.span)));
        assert_eq!((receive.trace, attempt.trace), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, receive.trace));
        assert_eq!((receive.start_ns, receive.end_ns), (6_000_000, 9_000_000));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let traces = Traces::default();
        let _queue = traces.open(2, 1.0).unwrap();
        let standing = traces.standing(None, None).unwrap();
        for _ in 0..5 {
            traces.tell(&standing, Step::Receive, stretch(), false, Vec::new());
        }
        assert_eq!(traces.overflowed.get(), 3);
        assert!(traces.open(2, 1.0).is_none());
    }
}
