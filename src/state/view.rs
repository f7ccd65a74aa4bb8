//! Owns what operators see of deliveries: one view for the running instance and for a stopped one.

use std::sync::Arc;

use super::{Drained, EVENT, Hold, Key, Record, State, StateError, expiry::reason_text};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Reason, Seq, Status},
    log::Log,
};

/// One delivery as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// Its upstream.
    pub upstream: Arc<str>,
    /// Its state. The reason comes without its text, see [`DeliveryView::with_reason`].
    pub status: Status,
    /// Attempts made.
    pub attempts: u32,
    /// The last `attempted` entry: history is walked back from there. None for a delivery that was delivered at its
    /// first attempt: its entry stands a little after the event.
    pub last: Option<Seq>,
    /// When something happens next by itself.
    pub due: Option<Timestamp>,
    /// An attempt is under way.
    pub in_flight: bool,
    /// The delivery of the same key that it waits for. Known to a running instance only.
    pub waits_for: Option<Seq>,
    /// The entry with the text of the reason.
    pub reason_at: Option<Seq>,
}

/// One event as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EventView {
    /// Routing has decided, and this is known here: what stands in the log may be newer.
    pub planned: bool,
    /// Deliveries that have something to say beyond "delivered at the first attempt".
    pub deliveries: Vec<DeliveryView>,
    /// An operator deleted it.
    pub deleted: bool,
    /// Resends.
    pub duplicates: u64,
    /// Resends with another body.
    pub body_differs: u64,
    /// Where it is stored now.
    pub stored_at: Seq,
}

/// A delivery in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The event.
    pub event: Seq,
    /// The upstream.
    pub upstream: Arc<str>,
}

/// The figures of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStats {
    /// Its name.
    pub name: Arc<str>,
    /// Deliveries that wait for an attempt, the first or another.
    pub pending: u64,
    /// Of these, never attempted.
    pub waiting: u64,
    /// Of these, to be tried again.
    pub retries: u64,
    /// Deliveries held one by one.
    pub held: u64,
    /// Deliveries that wait for a person.
    pub review: u64,
    /// Dead deliveries by reason code.
    pub dead: Vec<(&'static str, u64)>,
    /// When the oldest pending event was accepted.
    pub oldest_pending_at: Option<Timestamp>,
    /// Attempts under way.
    pub in_flight: u64,
    /// An operator's hold.
    pub hold: Option<Hold>,
    /// Targets that an operator took out.
    pub drained: Vec<Drained>,
    /// It is not in the configuration: its deliveries are held `upstream_removed`.
    pub removed: bool,
}

impl DeliveryView {
    /// From a record.
    #[must_use]
    pub fn new(upstream: Arc<str>, record: &Record) -> Self {
        let timed = matches!(record.state, DeliveryState::Pending | DeliveryState::Held) && record.due != super::NEVER;
        Self {
            upstream,
            status: record.status(),
            attempts: record.attempts,
            last: record.last,
            due: timed.then_some(record.due),
            in_flight: false,
            waits_for: None,
            reason_at: record.reason_at,
        }
    }

    /// What a delivery is whose plan has only just been made.
    fn not_attempted(upstream: Arc<str>) -> Self {
        Self { status: Status::Pending { due: Timestamp::ZERO }, attempts: 0, ..Self::delivered_at_first(upstream) }
    }

    /// What the absence of a record means for a planned delivery.
    #[must_use]
    pub fn delivered_at_first(upstream: Arc<str>) -> Self {
        Self {
            upstream,
            status: Status::Delivered,
            attempts: 1,
            last: None,
            due: None,
            in_flight: false,
            waits_for: None,
            reason_at: None,
        }
    }

    /// Adds the text of the reason, read from the log.
    #[must_use]
    pub fn with_reason(mut self, log: &dyn Log) -> Self {
        let text = self.reason_at.and_then(|seq| reason_text(log, seq));
        if let (
            Status::Dead(reason) | Status::Held(reason) | Status::Review(reason) | Status::Superseded(reason),
            Some(text),
        ) = (&mut self.status, text)
            && reason.code == text.code
        {
            *reason = text;
        }
        self
    }
}

/// All deliveries of an event: those the plan names and those that were made later (`replay --to`). `planned` are
/// the upstreams of its `planned` entry, which may not have been applied yet when the view was taken.
#[must_use]
pub fn deliveries(planned: &[Box<str>], view: &EventView) -> Vec<DeliveryView> {
    let known = |name: &str| view.deliveries.iter().find(|delivery| &*delivery.upstream == name);
    let mut all: Vec<DeliveryView> = planned
        .iter()
        .map(|name| match known(name) {
            Some(known) => known.clone(),
            None if view.planned => DeliveryView::delivered_at_first((&**name).into()),
            None => DeliveryView::not_attempted((&**name).into()),
        })
        .collect();
    let later = view.deliveries.iter().filter(|delivery| planned.iter().all(|name| **name != *delivery.upstream));
    all.extend(later.cloned());
    all
}

impl State {
    /// What is known of an event. `live` says which upstreams are configured: what is pending for another one is
    /// shown as held `upstream_removed`, and as held `upstream_held` while an operator holds the upstream.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn view(&self, event: Seq, live: &dyn Fn(&str) -> bool) -> Result<EventView, StateError> {
        let about = self.layers.get(Key::new(event, EVENT))?;
        let mut view = EventView {
            planned: event < self.next && !self.unplanned.contains(event),
            deleted: self.deleted.contains(event),
            duplicates: about.map_or(0, |about| about.attempts.into()),
            body_differs: about.map_or(0, |about| about.replays.into()),
            stored_at: self.stored_at(event)?,
            deliveries: Vec::new(),
        };
        for (id, upstream) in (0..).zip(&self.upstreams) {
            let Some(record) = self.record(Key::new(event, id))? else { continue };
            let mut delivery = DeliveryView::new(upstream.name.clone(), &record);
            if record.state == DeliveryState::Pending && !live(&upstream.name) {
                delivery.status = Status::Held(Reason::new("upstream_removed"));
                delivery.due = None;
            } else if let (DeliveryState::Pending, Some(hold)) = (record.state, &upstream.hold) {
                delivery.status = Status::Held(match &hold.reason {
                    Some(text) => Reason::with("upstream_held", text),
                    None => Reason::new("upstream_held"),
                });
                delivery.due = hold.until;
            }
            view.deliveries.push(delivery);
        }
        Ok(view)
    }

    /// Deliveries in a state, in the order of the log: of one upstream or all, after `after`, at most `limit`.
    /// Settled ones other than dead are not listed.
    #[must_use]
    pub fn list(&self, state: DeliveryState, upstream: Option<&str>, after: Option<Seq>, limit: usize) -> Vec<Listed> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let mut found = Vec::new();
        for known in self.upstreams.iter().filter(|known| upstream.is_none_or(|name| name == &*known.name)) {
            let sets = match state {
                DeliveryState::Pending => vec![&known.waiting, &known.pending],
                DeliveryState::Held => vec![&known.held],
                DeliveryState::Dead | DeliveryState::Review => vec![&known.dead],
                DeliveryState::Delivered | DeliveryState::Superseded | DeliveryState::Ignored => vec![],
            };
            for set in sets {
                let mut events = set.iter();
                events.advance_to(from);
                found.extend(events.take(limit).map(|event| Listed { event, upstream: known.name.clone() }));
            }
        }
        found.sort_by(|one, two| (one.event, &one.upstream).cmp(&(two.event, &two.upstream)));
        // Cut between events, never inside one, so that `after` can be an event.
        if let Some(cut) = found.get(limit).map(|listed| listed.event) {
            let whole = found.partition_point(|listed| listed.event < cut);
            let end = found.partition_point(|listed| listed.event <= cut);
            found.truncate(if whole == 0 { end } else { whole });
        }
        found
    }

    /// The figures of every upstream. In-flight and removed are filled in by who knows.
    #[must_use]
    pub fn stats(&self) -> Vec<UpstreamStats> {
        let stats = self.upstreams.iter().map(|upstream| {
            let (waiting, retries) = (upstream.waiting.len(), upstream.pending.len());
            let by_code = (0..).zip(upstream.dead_by_reason).filter(|(_, count)| *count > 0);
            let by_code = by_code.map(|(number, count)| (Reason::from_number(number).code, count));
            // Nothing dies of an answer that is not accepted: with this reason it waits for a person.
            let (review, dead): (Vec<_>, Vec<_>) = by_code.partition(|(code, _)| *code == "not_accepted");
            UpstreamStats {
                name: upstream.name.clone(),
                pending: waiting + retries,
                waiting,
                retries,
                held: upstream.held.len(),
                review: review.iter().map(|(_, count)| count).sum(),
                dead,
                oldest_pending_at: upstream.oldest_pending().map(|event| self.timeline.at(event)),
                in_flight: 0,
                hold: upstream.hold.clone(),
                drained: upstream.drained.clone(),
                removed: false,
            }
        });
        stats.collect()
    }
}
