//! Owns reading events back from the log and searching stored records, on threads of their own: one backlog never
//! delays the others by more than one order.
//!
//! An order is at most a few hundred events; of their bytes at most [`ORDER_BYTES`] are read, the rest is answered
//! with "later, at once", so that memory stays bounded whatever the size of the bodies.

use std::{collections::BinaryHeap, sync::Arc};

use super::{
    core::{Hurry, Purpose, Read, ReadOrder},
    retry::bucket,
};
use crate::{
    clock::Timestamp,
    event::{Body, DeliveryState, Event, Seq},
    log::{Entry, Log, ReadError, entry, read_body},
    state::{Key, Layers, NEVER, Record, StateError, UpstreamId},
};

/// The most bytes of payload that one order reads.
const ORDER_BYTES: usize = 4 << 20;

/// Events closer together than this many entries are read by one scan.
const NEAR: u64 = 64;

const SCAN_BYTES: usize = 256 << 10;

/// Carries out an order.
#[must_use]
pub fn read(log: &dyn Log, order: &ReadOrder) -> Vec<(Seq, Read)> {
    let mut wanted = order.events.clone();
    wanted.sort_by_key(|(_, stored_at)| *stored_at);
    let mut answers = Vec::with_capacity(wanted.len());
    let mut bytes = 0;
    let mut rest = wanted.as_slice();
    while let Some(((event, stored_at), after)) = rest.split_first() {
        if bytes > ORDER_BYTES {
            answers.push((*event, Read::Later(Hurry::AtOnce)));
            rest = after;
            continue;
        }
        let near = after.first().is_some_and(|(_, next)| next - stored_at < NEAR);
        let entries =
            if near { log.scan(*stored_at, SCAN_BYTES) } else { log.read(*stored_at).map(|entry| vec![entry]) };
        match entries {
            Ok(entries) => {
                let last = entries.last().map_or(0, |entry| entry.pos.seq).max(*stored_at);
                let reached = rest.partition_point(|(_, stored_at)| *stored_at <= last);
                let (here, beyond) = rest.split_at(reached);
                for (event, stored_at) in here {
                    let found = find(&entries, *stored_at, &mut bytes);
                    let whole = matches!(order.purpose, Purpose::Keys(_));
                    answers.push((*event, if whole { with_body(log, found, &mut bytes) } else { found }));
                }
                rest = beyond;
            }
            Err(error) => {
                answers.push((*event, unreadable(&error)));
                rest = after;
            }
        }
    }
    answers
}

fn find(entries: &[Entry], stored_at: Seq, bytes: &mut usize) -> Read {
    let found = entries.binary_search_by_key(&stored_at, |entry| entry.pos.seq).ok();
    let Some(entry) = found.and_then(|index| entries.get(index)) else {
        return Read::Lost(format!("nothing is stored at sequence {stored_at}"));
    };
    *bytes += entry.payload.len();
    match entry::decode_event(entry) {
        Some(event) => Read::Event(Arc::new(event)),
        None => Read::Lost(format!("the entry at sequence {stored_at} is no event")),
    }
}

/// The event with its body at hand, if that stands in parts: what is asked of it is asked on a thread that reads nothing.
fn with_body(log: &dyn Log, found: Read, bytes: &mut usize) -> Read {
    match found {
        Read::Event(event) if matches!(event.body, Body::Parts { .. }) => match read_body(log, &event) {
            Ok(body) => {
                *bytes += body.len();
                Read::Event(Arc::new(Event { body: Body::Inline(body), ..(*event).clone() }))
            }
            Err(error) => unreadable(&error),
        },
        found => found,
    }
}

fn unreadable(error: &ReadError) -> Read {
    match error {
        ReadError::Io { .. } => {
            tracing::warn!(%error, "an event can't be read now: it is tried again");
            Read::Later(Hurry::AfterAWhile)
        }
        lost => Read::Lost(lost.to_string()),
    }
}

/// What a search gave.
pub(super) type Refill = (Vec<(Key, Record)>, Option<(u64, Seq)>);

/// The `most` earliest due records of an upstream, and from which bucket and event on there are more.
///
/// # Errors
/// [`StateError`].
pub(super) fn refill(layers: &Layers, upstream: UpstreamId, most: usize, now: Timestamp) -> Result<Refill, StateError> {
    let mut earliest: BinaryHeap<(u64, Seq)> = BinaryHeap::new();
    let mut until = None;
    let mut records = std::collections::HashMap::new();
    for record in layers.scan(Key::new(0, 0)) {
        let (key, record) = record?;
        let due = matches!(record.state, DeliveryState::Pending | DeliveryState::Held) && record.due != NEVER;
        if key.upstream != upstream || !due {
            continue;
        }
        earliest.push((bucket(record.due, now).as_millis(), key.event));
        records.insert(key.event, record);
        if earliest.len() > most
            && let Some(latest) = earliest.pop()
        {
            records.remove(&latest.1);
            until = Some(until.map_or(latest, |until: (u64, Seq)| until.min(latest)));
        }
    }
    Ok((records.into_iter().map(|(event, record)| (Key::new(event, upstream), record)).collect(), until))
}
