//! Owns the derived state: what the log says about every delivery that is not simply delivered at the first attempt.
//!
//! Promises that the state is a function of the log alone (breaker pauses excepted, which only shift giving up),
//! that it never passes the durable position (only committed entries are applied) and that it is disposable: damaged,
//! foreign or ahead of the log it is thrown away and rebuilt.
//!
//! A delivery is in exactly one of these places:
//!
//! | place | meaning |
//! |---|---|
//! | `unplanned` | the event is accepted, routing has not decided yet |
//! | `waiting` of its upstream, no record | planned, never attempted: a bit |
//! | a record | attempted and not settled, held, dead, or settled in any other way than the next line |
//! | nowhere | delivered at the first attempt within [`PROMPT`] of its acceptance |
//!
//! Deliberately absent: what is due, who is in flight, routing. That is `agenda`.

mod apply;
mod audit;
mod expiry;
mod jobs;
mod manifest;
mod newest;
mod offline;
mod overlay;
mod queue;
mod record;
mod store;
mod subscriber;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timeline;
mod upstream;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

pub use apply::Note;
pub use audit::{AUDITED_MAX, Audit};
pub use expiry::{CarryOrder, Expiry, Forgetting, Keep};
pub use jobs::{ENDED_MAX, Job, Jobs};
pub use newest::{NEWEST_MAX, Newest};
pub use offline::{Offline, OfflineError, replay, replay_telling};
pub use overlay::{Layers, Map};
pub use record::{EVENT, Key, NEVER, Record, UpstreamId};
use roaring::RoaringTreemap;
pub use store::{Frozen, Store, StoreError, Written};
pub use subscriber::{Subscribed, Subscriber};
pub use timeline::Timeline;
pub use upstream::{Cause, Closed, Drained, Hold, Pauses, Upstream};
pub use view::{DeliveryView, EventView, Listed, UpstreamStats, deliveries};

use crate::{clock::Timestamp, event::Seq, log::run::RunError};

/// A first attempt that succeeds this soon after the event was accepted leaves no record: for retention it counts as
/// settled when it was accepted.
pub const PROMPT: Duration = Duration::from_secs(3600);

/// The derived state.
#[derive(Clone)]
pub struct State {
    /// The log it is derived from.
    pub log_id: u128,
    /// The next sequence number that is to be applied: everything below it is in here.
    pub next: Seq,
    pub(crate) unplanned: RoaringTreemap,
    /// Events with a record that came before their plan.
    early: RoaringTreemap,
    deleted: RoaringTreemap,
    carried: RoaringTreemap,
    audit: Audit,
    upstreams: Vec<Upstream>,
    /// Registered at run time, by the upstream that each is.
    subscribers: Arc<BTreeMap<Box<str>, Subscriber>>,
    ids: HashMap<Arc<str>, UpstreamId>,
    timeline: Timeline,
    /// After the last command about what is said again with its number: holds and drained targets of upstreams, jobs.
    /// After a start that is where the state stands, as one may have come before.
    commanded: Seq,
    jobs: Jobs,
    layers: Layers,
}

/// Why the state can't go on: it must be thrown away and rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A run of records can't be read.
    #[error("the stored state can't be read and must be rebuilt from the log")]
    Run(#[from] RunError),
}

impl State {
    /// The state of an empty log.
    #[must_use]
    pub fn new(log_id: u128) -> Self {
        Self {
            log_id,
            next: 0,
            unplanned: RoaringTreemap::new(),
            early: RoaringTreemap::new(),
            deleted: RoaringTreemap::new(),
            carried: RoaringTreemap::new(),
            audit: Audit::default(),
            upstreams: Vec::new(),
            subscribers: Arc::default(),
            ids: HashMap::new(),
            timeline: Timeline::default(),
            commanded: 0,
            jobs: Jobs::default(),
            layers: Layers::default(),
        }
    }

    /// The number of an upstream, made if need be. Names come from the configuration and the log only.
    pub fn intern(&mut self, name: &str) -> UpstreamId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let id = UpstreamId::try_from(self.upstreams.len()).unwrap_or(EVENT - 1);
        self.ids.insert(name.clone(), id);
        self.upstreams.push(Upstream::new(name));
        id
    }

    /// The number of an upstream that was ever planned for.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<UpstreamId> {
        self.ids.get(name).copied()
    }

    /// One upstream.
    #[must_use]
    pub fn upstream(&self, id: UpstreamId) -> Option<&Upstream> {
        self.upstreams.get(id as usize)
    }

    /// One upstream, to note a pause.
    pub fn upstream_mut(&mut self, id: UpstreamId) -> Option<&mut Upstream> {
        self.upstreams.get_mut(id as usize)
    }

    /// All upstreams, by number.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Replays of many deliveries, under way and ended.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// When the oldest event was accepted that waits for its first attempt to an upstream: how far live traffic lags.
    #[must_use]
    pub fn oldest_waiting(&self, upstream: &Upstream) -> Option<Timestamp> {
        upstream.waiting.min().map(|event| self.timeline.at(event))
    }

    /// Events accepted and not planned.
    #[must_use]
    pub fn unplanned(&self) -> &RoaringTreemap {
        &self.unplanned
    }

    /// Whether an event has records although it is not planned.
    #[must_use]
    pub fn has_early_record(&self, event: Seq) -> bool {
        self.early.contains(event)
    }

    /// Whether an event was deleted by an operator.
    #[must_use]
    pub fn is_deleted(&self, event: Seq) -> bool {
        self.deleted.contains(event)
    }

    /// Where an event is stored now: at its own number, or where it was carried to.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn stored_at(&self, event: Seq) -> Result<Seq, StateError> {
        if !self.carried.contains(event) {
            return Ok(event);
        }
        Ok(self.layers.get(Key::new(event, EVENT))?.and_then(|record| record.reason_at).unwrap_or(event))
    }

    /// Events that were carried, newest first, those before `before`, at most `limit`: own number and where it is stored.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn carried_before(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, StateError> {
        let older = before.checked_sub(1).map_or(0, |last| self.carried.rank(last));
        let events = (0..older).rev().take(limit).filter_map(|index| self.carried.select(index));
        events.map(|event| Ok((event, self.stored_at(event)?))).collect()
    }

    /// The record of a delivery; one that waits for its first attempt gets the record it would have.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn record(&self, key: Key) -> Result<Option<Record>, StateError> {
        if self.upstream(key.upstream).is_some_and(|upstream| upstream.waiting.contains(key.event)) {
            return Ok(Some(Record::waiting(self.timeline.at(key.event))));
        }
        Ok(self.layers.get(key)?)
    }

    /// The records in their layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The records in their layers, for checkpoints.
    pub fn layers_mut(&mut self) -> &mut Layers {
        &mut self.layers
    }
}
