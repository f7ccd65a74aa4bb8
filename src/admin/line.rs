//! Owns the wire form of events in listings.
//!
//! Promises that an event whose body or history can't be read becomes a note, never a line with a gap in it.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::{
    filter::Compiled,
    find::Found,
    list::{Item, newest},
    ports::{DeliveryView, QueryError, Reads},
    wire::{self, Reply},
};
use crate::{
    clock::Timestamp,
    event::{Body, Change, Event, Extras, Seq, Status},
    log::{Log, ReadError, entry, read_part},
};

/// Gives the newest events that are meant, newest first, as they are shown to an operator; at most `limit`.
///
/// # Errors
/// What can't be stepped over.
pub fn listed(
    reads: &dyn Reads,
    wanted: &Compiled,
    before: Seq,
    limit: usize,
    emit: &mut dyn FnMut(Reply) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    let log = reads.log();
    let mut left = limit;
    if left == 0 {
        return Ok(());
    }
    newest(reads, wanted, before, &mut |item| {
        let is_event = matches!(item, Item::Event(_));
        emit(reply(&*log, item))?;
        left -= usize::from(is_event);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// The wire form of what a listing gives; an event that can't be read becomes a note.
pub(super) fn reply(log: &dyn Log, item: Item) -> Reply {
    match item {
        Item::Note(note) => Reply::Note(note),
        Item::Event(found) => match line(log, &found) {
            Ok(line) => Reply::Event(line),
            Err(error) => Reply::Note(format!("{}: {error}", found.event.id)),
        },
    }
}

/// The wire form of an event in a listing.
///
/// # Errors
/// A [`ReadError`] if its body can't be read.
fn line(log: &dyn Log, found: &Found) -> Result<wire::Line, ReadError> {
    let deliveries = found.view.deliveries.iter().map(|delivery| wire::Delivery {
        upstream: delivery.upstream.to_string(),
        state: delivery.status.state().as_str().to_owned(),
        attempts: delivery.attempts,
        reason: reason(log, delivery),
        due_at: due_at(delivery, found.event.received_at),
    });
    Ok(head(found, hex::encode(body_sha256(log, &found.event)?), deliveries.collect()))
}

/// The part that listing and showing have in common.
pub(super) fn head<D>(found: &Found, sha256: String, deliveries: Vec<D>) -> wire::Line<D> {
    let event = &found.event;
    let extras = event.extras.as_deref();
    let text =
        |pick: fn(&Extras) -> &Option<Box<str>>| extras.and_then(|extras| pick(extras).as_deref()).map(str::to_owned);
    wire::Line {
        id: event.id.to_string(),
        received_at: event.received_at,
        source: event.source.to_string(),
        event_type: event.event_type.as_deref().map(str::to_owned),
        method: event.method.as_str().to_owned(),
        path: event.path.to_string(),
        size: event.body.length(),
        sha256,
        state: found.state().as_str().to_owned(),
        deliveries,
        parent: text(|extras| &extras.parent),
        item: extras.and_then(|extras| extras.item),
        tenant: text(|extras| &extras.tenant),
        violation: text(|extras| &extras.violation),
        imported: text(|extras| &extras.imported),
        tags: extras.map_or_else(Vec::new, |extras| extras.tags.iter().map(ToString::to_string).collect()),
    }
}

/// When a delivery that waits is due: never before its event came, which the state knows only about.
pub(super) fn due_at(delivery: &DeliveryView, received_at: Timestamp) -> Option<Timestamp> {
    match delivery.status {
        Status::Pending { .. } if delivery.in_flight => None,
        Status::Pending { due } => Some(delivery.due.unwrap_or(due).max(received_at)),
        _ => None,
    }
}

/// Why a delivery is dead or held, with the detail that only the log has.
pub(super) fn reason(log: &dyn Log, delivery: &DeliveryView) -> Option<String> {
    let reason = delivery.status.reason()?;
    if reason.detail.is_some() {
        return Some(reason.to_string());
    }
    let entry = delivery.last.and_then(|last| log.read(last).ok());
    let change = entry.and_then(|entry| entry::decode_attempted(&entry.payload)).map(|attempted| attempted.change);
    match change.as_ref().and_then(Change::reason) {
        Some(stored) if stored.code == reason.code => Some(stored.to_string()),
        _ => Some(reason.to_string()),
    }
}

/// The digest of an event's body, part by part.
pub(super) fn body_sha256(log: &dyn Log, event: &Event) -> Result<[u8; 32], ReadError> {
    let mut digest = Sha256::new();
    match &event.body {
        Body::Inline(bytes) => digest.update(bytes),
        Body::Parts { seqs, .. } => {
            for seq in seqs {
                digest.update(&read_part(log, *seq)?.payload);
            }
        }
    }
    Ok(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};

    #[test]
    fn the_reason_of_a_dead_delivery_has_the_detail_of_its_last_attempt() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let last = fake.die(id, "billing", Reason::with("refused", "404 Not Found"));
        fake.set(id, DeliveryView { last: Some(last), ..delivery("billing", Status::Dead(Reason::new("refused"))) });
        let found = super::super::find(&fake, id).unwrap();
        let line = line(&*fake.log(), &found).unwrap();
        assert_eq!(line.deliveries[0].reason.as_deref(), Some("refused: 404 Not Found"));
        assert_eq!(line.state, "dead");
    }
}
