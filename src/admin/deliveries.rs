//! Owns the listing of deliveries by state: dead letters, what is held, what waits for a person.
//!
//! Promises that it costs what it shows, however many events the log has: the state keeps these deliveries. An event that
//! can't be read becomes a note.

use super::{
    line::{due_at, reason},
    ports::{DeliveryView, PlannedFor, QueryError, Reads, VIEWS_MAX},
    wire::{DeliveriesPage, ListedDelivery},
};
use crate::{
    event::{DeliveryState, Event, Seq},
    log::{Log, read_event},
};

/// Deliveries in a state that keeps records, oldest first, of events after `after`; about `limit` (an event is never cut
/// in two).
///
/// # Errors
/// [`QueryError`].
pub(super) fn deliveries(
    reads: &dyn Reads,
    state: DeliveryState,
    upstream: Option<&str>,
    after: Option<Seq>,
    limit: usize,
) -> Result<DeliveriesPage, QueryError> {
    let (log, mut after, mut page) = (reads.log(), after, DeliveriesPage::default());
    while page.deliveries.len() < limit {
        let listed = reads.records(state, upstream, after, limit - page.deliveries.len()).map_err(QueryError::State)?;
        let Some(last) = listed.last() else { return Ok(page) };
        after = Some(last.event);
        let mut planned: Vec<PlannedFor> = Vec::new();
        for target in listed {
            match planned.last_mut() {
                Some(same) if same.event == target.event => same.upstreams.push(target.upstream),
                _ => planned.push(PlannedFor { event: target.event, upstreams: vec![target.upstream] }),
            }
        }
        for some in planned.chunks(VIEWS_MAX) {
            for (planned, view) in some.iter().zip(reads.views(some).map_err(QueryError::State)?) {
                let stored_at = reads.stored_at(planned.event).map_err(QueryError::State)?.unwrap_or(planned.event);
                let event = match read_event(&*log, stored_at) {
                    // Of another's source, or deleted.
                    Ok(event) if view.deleted || !reads.scope().takes_source(&event.source) => continue,
                    Ok(event) => event,
                    Err(_) if !reads.scope().is_whole() => continue,
                    Err(error) => {
                        page.notes.push(error.to_string());
                        continue;
                    }
                };
                let meant = view.deliveries.iter().filter(|delivery| {
                    delivery.status.state() == state && planned.upstreams.contains(&delivery.upstream)
                });
                page.deliveries.extend(meant.map(|delivery| listed_delivery(&*log, &event, delivery)));
            }
        }
    }
    page.next = after.map(|after| format!("{after:x}"));
    Ok(page)
}

fn listed_delivery(log: &dyn Log, event: &Event, delivery: &DeliveryView) -> ListedDelivery {
    ListedDelivery {
        event: event.id.to_string(),
        received_at: event.received_at,
        source: event.source.to_string(),
        event_type: event.event_type.as_deref().map(str::to_owned),
        upstream: delivery.upstream.to_string(),
        state: delivery.status.state().as_str().to_owned(),
        attempts: delivery.attempts,
        reason: reason(log, delivery),
        due_at: due_at(delivery, event.received_at),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};

    #[test]
    fn dead_letters_come_oldest_first_in_pages_and_with_their_reasons() {
        let fake = Fake::default();
        let ids: Vec<_> = (0..5).map(|_| fake.accept("stripe", b"{}")).collect();
        for id in &ids {
            fake.plan(&[(*id, &["billing"])]);
            let last = fake.die(*id, "billing", Reason::with("refused", "404"));
            fake.set(
                *id,
                DeliveryView { last: Some(last), ..delivery("billing", Status::Dead(Reason::new("refused"))) },
            );
        }
        let list = |after| deliveries(&fake, DeliveryState::Dead, None, after, 3).unwrap();
        let first = list(None);
        assert_eq!((first.deliveries.len(), first.deliveries[0].event.clone()), (3, ids[0].to_string()));
        assert_eq!(first.deliveries[0].reason.as_deref(), Some("refused: 404"));
        let after = u64::from_str_radix(first.next.as_deref().unwrap(), 16).unwrap();
        let second = list(Some(after));
        assert_eq!((second.deliveries.len(), second.next), (2, None));
        assert!(deliveries(&fake, DeliveryState::Held, None, None, 3).unwrap().deliveries.is_empty());
    }
}
