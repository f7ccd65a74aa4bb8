//! Owns the ids of traces (W3C Trace Context, level 1): the sender's trace if it sent one, else one made of the event's id.
//!
//! Promises that all of them are functions of what is stored, so that an attempt that is made days later, by another
//! process, stands in the trace of the receipt without anything being kept for it.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::{Event, EventId};

/// A `traceparent` as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// The sender's span.
    pub span: u64,
    /// Its flags; the lowest says whether it is sampled.
    pub flags: u8,
}

impl TraceParent {
    /// Reads one. None if it is not valid: then it counts as absent.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (version, trace, span, flags) = (text.get(0..2)?, text.get(3..35)?, text.get(36..52)?, text.get(53..55)?);
        let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let dashes = [2, 35, 52].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        let length = text.len() == 55 || (version != "00" && text.as_bytes().get(55) == Some(&b'-'));
        let valid = dashes && length && version != "ff" && [version, trace, span, flags].into_iter().all(hex);
        let read = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (valid && read.trace != 0 && read.span != 0).then_some(read)
    }
}

/// A step in an event's way that is a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// From the head of the request to its answer: the parent of all others.
    Receive,
    /// Reading the body and checking who sent it.
    Verify,
    /// Making it durable.
    Append,
    /// Until it is known where it goes.
    Plan,
    /// An attempt.
    Attempt {
        /// At which upstream.
        upstream: &'a str,
        /// Its number.
        number: u32,
    },
}

/// The id that stands for the request an event came in with: of an item the batch's, else its own.
#[must_use]
pub fn received_with(event: &Event) -> EventId {
    let of_item = event.extras.as_deref().filter(|extras| extras.item.is_some());
    let batch = of_item.and_then(|extras| extras.parent.as_deref()).and_then(|parent| parent.parse().ok());
    batch.unwrap_or(event.id)
}

/// The trace of an event, or of a batch, that came without one.
#[must_use]
pub fn own_trace(id: EventId) -> u128 {
    let bits = (u128::from(id.time.as_millis() & 0xFFFF_FFFF_FFFF) << 80)
        | (u128::from(id.pos.partition) << 64)
        | u128::from(id.pos.seq);
    bits.max(1)
}

/// The span of a step of an event.
#[must_use]
pub fn span_of(id: EventId, step: Step<'_>) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7374_6167_6570_6f73, 0x7472_6163_6570_6172);
    hasher.write(&own_trace(id).to_be_bytes());
    match step {
        Step::Receive => hasher.write_u8(1),
        Step::Verify => hasher.write_u8(2),
        Step::Append => hasher.write_u8(3),
        Step::Plan => hasher.write_u8(4),
        Step::Attempt { upstream, number } => {
            hasher.write(upstream.as_bytes());
            hasher.write_u32(number);
        }
    }
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, event::Pos};

    #[test]
    fn only_what_the_standard_allows_is_a_parent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = TraceParent::parse(good.as_bytes()).unwrap();
        assert_eq!(
            (read.trace, read.span, read.flags),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, 1)
        );
        assert!(TraceParent::parse(format!("01{}-more", &good[2..]).as_bytes()).is_some());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn each_step_and_each_attempt_at_each_upstream_is_a_span_of_its_own() {
        let id = EventId { time: Timestamp::from_millis(1), pos: Pos { partition: 0, seq: 7 } };
        let steps = [Step::Receive, Step::Verify, Step::Append, Step::Plan];
        let attempts = [("a", 1), ("a", 2), ("b", 1)].map(|(upstream, number)| Step::Attempt { upstream, number });
        let mut spans: Vec<u64> = steps.iter().chain(&attempts).map(|step| span_of(id, *step)).collect();
        assert_eq!(span_of(id, Step::Receive), spans[0]);
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 7);
    }
}
