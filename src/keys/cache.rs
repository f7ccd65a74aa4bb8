//! Owns which documents are kept and when one is asked for again. Pure: time is an argument, nothing waits here.
//!
//! When it is full: of the documents the one goes that was not used for longest; of the failures the oldest. What is
//! being got stays.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    FAILED_FOR, FAILURES_MAX, FRESH_MIN, GRACE, KID_EVERY, KeysError, NEW_PER_MINUTE, Outcome, Settings, fetch::Got,
};
use crate::{
    clock::Timestamp,
    verify::{KeyDocument, Place, Wanted},
};

/// What is to be done for somebody who wants a document.
pub(super) enum Look {
    /// Nothing: here it is, or why not.
    Ready(Outcome),
    /// Somebody is getting it.
    Wait(watch::Receiver<Option<Outcome>>),
    /// Get it and tell. Who has an old one does not wait.
    Fetch { tell: watch::Sender<Option<Outcome>>, old: Option<Arc<KeyDocument>> },
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Place, Entry>,
    /// Counts looks, for who was used last.
    looks: u64,
    /// When the present minute began, and how many new places were asked in it.
    minute: (Timestamp, u32),
}

#[derive(Default)]
struct Entry {
    held: Option<Held>,
    failed: Option<(Timestamp, KeysError)>,
    flight: Option<watch::Receiver<Option<Outcome>>>,
    /// When it was asked last.
    asked: Timestamp,
    /// Which look used it last.
    used: u64,
}

struct Held {
    document: Arc<KeyDocument>,
    fresh_until: Timestamp,
    usable_until: Timestamp,
}

impl Entry {
    /// Whether somebody is getting it. A flight whose task is gone is none.
    fn is_in_flight(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.has_changed().is_ok())
    }

    /// What to say while the last failure counts.
    fn failure(&self, now: Timestamp) -> Option<KeysError> {
        let (at, error) = self.failed.as_ref()?;
        (now < at.after(FAILED_FOR)).then(|| error.clone())
    }
}

impl Cache {
    pub(super) fn look(&mut self, wanted: &Wanted, now: Timestamp, settings: &Settings) -> Look {
        self.looks += 1;
        let looks = self.looks;
        let mut old = None;
        let mut is_new = true;
        if let Some(entry) = self.entries.get_mut(&wanted.place) {
            entry.used = looks;
            is_new = entry.held.is_none();
            let held = entry.held.as_ref().filter(|held| now < held.usable_until);
            let lacks = |held: &Held| wanted.kid.as_deref().is_some_and(|kid| !held.document.has(kid));
            match held {
                // Asked a moment ago and still without it: then there is no such key.
                Some(held) if lacks(held) && !entry.is_in_flight() && now < entry.asked.after(KID_EVERY) => {
                    let failed = entry.failed.as_ref().map(|(_, error)| error.clone());
                    return Look::Ready(failed.map_or_else(|| Ok(held.document.clone()), Err));
                }
                Some(held) if lacks(held) => {}
                Some(held) if now < held.fresh_until => return Look::Ready(Ok(held.document.clone())),
                Some(held) => {
                    if entry.is_in_flight() || entry.failure(now).is_some() {
                        return Look::Ready(Ok(held.document.clone()));
                    }
                    old = Some(held.document.clone());
                }
                None => {}
            }
            if let Some(flight) = entry.flight.as_ref().filter(|_| entry.is_in_flight()) {
                return Look::Wait(flight.clone());
            }
            if let Some(error) = entry.failure(now) {
                return Look::Ready(Err(error));
            }
        }
        if !self.may_ask(is_new, now, settings) {
            return Look::Ready(old.map_or_else(|| Err(KeysError::Busy(wanted.place.shown())), Ok));
        }
        let (tell, flight) = watch::channel(None);
        let entry = self.entries.entry(wanted.place.clone()).or_default();
        entry.flight = Some(flight);
        entry.asked = now;
        entry.used = looks;
        Look::Fetch { tell, old }
    }

    /// Takes what came of asking. A failure leaves the document that was there.
    pub(super) fn settle(
        &mut self,
        place: &Place,
        got: Result<Got, KeysError>,
        now: Timestamp,
        wall: Timestamp,
        settings: &Settings,
    ) -> Outcome {
        let entry = self.entries.entry(place.clone()).or_default();
        entry.flight = None;
        let outcome = match got {
            Ok(Got { document, max_age }) => {
                let document = Arc::new(document);
                let fresh =
                    max_age.unwrap_or(settings.refresh).clamp(FRESH_MIN.min(settings.refresh), settings.refresh);
                let valid = document.not_after.map_or(Duration::MAX, |end| end.since(wall));
                entry.held = Some(Held {
                    document: document.clone(),
                    fresh_until: now.after(fresh.min(valid)),
                    usable_until: now.after(fresh.saturating_add(GRACE).min(valid)),
                });
                entry.failed = None;
                Ok(document)
            }
            Err(error) => {
                entry.failed = Some((now, error.clone()));
                Err(error)
            }
        };
        self.shrink(settings.max_documents);
        outcome
    }

    /// Whether one more may be got now.
    fn may_ask(&mut self, is_new: bool, now: Timestamp, settings: &Settings) -> bool {
        let under_way = self.entries.values().filter(|entry| entry.is_in_flight()).count();
        if under_way >= settings.max_fetches {
            return false;
        }
        let (begun, asked) = &mut self.minute;
        if now >= begun.after(Duration::from_secs(60)) {
            (*begun, *asked) = (now, 0);
        }
        let allowed = !is_new || *asked < NEW_PER_MINUTE;
        *asked += u32::from(is_new && allowed);
        allowed
    }

    fn shrink(&mut self, max_documents: usize) {
        self.remove_above(max_documents.max(1), |entry| entry.held.is_some(), |entry| entry.used);
        self.remove_above(FAILURES_MAX, |entry| entry.held.is_none(), |entry| entry.asked.as_millis());
    }

    /// Of the entries of one sort, removes those of the lowest rank until `max` are left.
    fn remove_above(&mut self, max: usize, sort: impl Fn(&Entry) -> bool, rank: impl Fn(&Entry) -> u64) {
        while self.entries.values().filter(|entry| sort(entry)).count() > max {
            let idle = self.entries.iter().filter(|(_, entry)| sort(entry) && !entry.is_in_flight());
            let Some(place) = idle.min_by_key(|(_, entry)| rank(entry)).map(|(place, _)| place.clone()) else { break };
            self.entries.remove(&place);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
