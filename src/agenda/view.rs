//! Owns what operators and retention may ask the running agenda. All of it blocks for an answer of the agenda's
//! thread: not for async threads.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::Duration,
};

use super::{Agenda, AskError, Incoming, core::Core};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Reason, Seq},
    routing::topic_of,
    state::{DeliveryView, EventView, Expiry, Job, Key, Listed, StateError, UpstreamStats},
    telemetry::{Metrics, UpstreamMetrics},
};

/// The most events in one question, so that the thread is not held up.
const VIEW_MAX: usize = 1_000;

/// Who asks for the gauges waits no longer for them.
const MEASURED_WITHIN: Duration = Duration::from_millis(250);

/// Keys of one upstream in one answer.
const BLOCKED_MAX: usize = 1_000;

/// The first delivery of a key that is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Where its event is stored.
    pub stored_at: Seq,
    /// It, with its reason but without the text of that.
    pub delivery: DeliveryView,
    /// How many wait behind it.
    pub waiting: usize,
}

impl Agenda {
    /// The deliveries of events, in the order asked for; beyond the first 1,000 nothing is answered. See
    /// [`crate::state::deliveries`] for those that were delivered at the first attempt.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn view(&self, events: &[Seq]) -> Result<Vec<EventView>, AskError> {
        let events: Vec<Seq> = events.iter().copied().take(VIEW_MAX).collect();
        let views = self.ask(move |core, _| events.iter().map(|event| core.view(*event)).collect::<Result<_, _>>())?;
        views.map_err(|_: StateError| AskError::Rebuilding)
    }

    /// The figures of every upstream.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn upstreams(&self) -> Result<Vec<UpstreamStats>, AskError> {
        self.ask(|core, _| core.upstream_stats())
    }

    /// Deliveries in a state, in the order of the log: of one upstream or all, of events after `after`, about `limit`
    /// (an event is never cut in two).
    ///
    /// # Errors
    /// [`AskError`].
    pub fn list(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Listed>, AskError> {
        let upstream: Option<Box<str>> = upstream.map(Into::into);
        self.ask(move |core, _| core.state.list(state, upstream.as_deref(), after, limit))
    }

    /// What must be appended again before the entries before `before` may be deleted: at most `limit` events, of those
    /// from `from` on.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn plan_expiry(&self, from: Seq, before: Seq, limit: usize) -> Result<Expiry, AskError> {
        let (log, keep) = (self.0.deps.log.clone(), self.0.settings.keep);
        let expiry = self.ask(move |core, now| core.state.plan_expiry(&*log, from..before, now, keep, limit))?;
        expiry.map_err(|_| AskError::Rebuilding)
    }

    /// The first deliveries of keys that are blocked: they failed, are held, or are dead and park their key. Of one
    /// upstream or all, about [`BLOCKED_MAX`] of each.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn blocked_keys(&self, upstream: Option<&str>) -> Result<Vec<Blocked>, AskError> {
        let upstream: Option<Box<str>> = upstream.map(Into::into);
        let blocked = self.ask(move |core, _| core.blocked_keys(upstream.as_deref(), BLOCKED_MAX))?;
        blocked.map_err(|_| AskError::Rebuilding)
    }

    /// Events that were carried, newest first, those before `before`, at most `limit`: own number and where it is stored.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, AskError> {
        let carried = self.ask(move |core, _| core.state.carried_before(before, limit))?;
        carried.map_err(|_| AskError::Rebuilding)
    }

    /// Where commands of operators stand, newest first, those before `before`, at most `limit`: own number and place.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, AskError> {
        self.ask(move |core, _| core.state.audited(before, limit))
    }

    /// Replays of many deliveries, under way and ended, oldest first.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn jobs(&self) -> Result<Vec<Job>, AskError> {
        self.ask(|core, _| core.state.jobs().iter().cloned().collect())
    }

    /// Since when first attempts to an upstream wait; None if none does. The time is that of the event's entry.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn live_since(&self, upstream: &str) -> Result<Option<Timestamp>, AskError> {
        let upstream: Box<str> = upstream.into();
        self.ask(move |core, _| {
            let state = &core.state;
            state.id(&upstream).and_then(|id| state.upstream(id)).and_then(|upstream| state.oldest_waiting(upstream))
        })
    }

    /// Sets the gauges to what is known now. Blocks for a moment at most: while the thread is busy they stay as they were
    /// at its last look.
    pub fn measure(&self) {
        if !self.is_ready() {
            return;
        }
        let (sender, measured) = mpsc::sync_channel(1);
        let metrics = self.0.deps.metrics.clone();
        let ask = Incoming::Ask(Box::new(move |core, now| {
            core.measure(&metrics, now);
            let _late = sender.try_send(());
        }));
        if self.0.tell_unless_full(ask) {
            let _late = measured.recv_timeout(MEASURED_WITHIN);
        }
    }

    /// The oldest event that is not settled.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn oldest_live(&self) -> Result<Option<Seq>, AskError> {
        self.ask(|core, _| core.state.oldest_live())
    }
}

impl Core {
    /// The deliveries of one event.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn view(&self, event: Seq) -> Result<EventView, StateError> {
        let table = self.table();
        let mut view = self.state.view(event, &|name| table.upstreams.contains_key(name))?;
        let (count, differs) = self.resends.unwritten(event);
        view.duplicates += count;
        view.body_differs += differs;
        for delivery in &mut view.deliveries {
            let id = self.state.id(&delivery.upstream);
            delivery.in_flight = id.is_some_and(|id| self.is_in_flight(Key::new(event, id)));
            delivery.waits_for = id.and_then(|id| self.waits_for(Key::new(event, id)));
        }
        Ok(view)
    }

    /// The figures of every upstream. What waits for one that is not configured, or that an operator
    /// holds, counts as held.
    #[must_use]
    pub fn upstream_stats(&self) -> Vec<UpstreamStats> {
        let mut stats = self.state.stats();
        for (id, stats) in (0..).zip(&mut stats) {
            let (in_flight, live) = self.lane(id);
            stats.in_flight = in_flight as u64;
            stats.removed = !live;
            if !live || stats.hold.is_some() {
                stats.held += std::mem::take(&mut stats.pending);
            }
        }
        stats
    }

    /// Sets the gauges.
    pub(super) fn measure(&mut self, metrics: &Metrics, now: Timestamp) {
        self.measure_order(metrics);
        let mut gone: BTreeMap<Box<str>, Vec<UpstreamStats>> =
            metrics.upstream_groups().into_iter().map(|topic| (topic, Vec::new())).collect();
        for stats in self.upstream_stats() {
            match own_metrics(metrics, &stats.name) {
                Some(gauges) => show(&gauges, &[stats], now),
                None => gone.entry(topic_of(&stats.name).unwrap_or_default().into()).or_default().push(stats),
            }
        }
        for (topic, stats) in gone {
            show(&metrics.upstreams_gone(&topic), &stats, now);
        }
    }
}

/// The metrics of an upstream; None for a subscriber that is gone and has none of its own: its name may come from outside.
pub(super) fn own_metrics(metrics: &Metrics, upstream: &str) -> Option<Arc<UpstreamMetrics>> {
    match topic_of(upstream) {
        Some(_) => metrics.known_upstream(upstream),
        None => Some(metrics.upstream(upstream)),
    }
}

/// Sets the gauges to the figures of all of these upstreams.
fn show(gauges: &UpstreamMetrics, all: &[UpstreamStats], now: Timestamp) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let sum = |of: fn(&UpstreamStats) -> u64| number(all.iter().map(of).sum());
    gauges.pending.set(sum(|stats| stats.pending));
    gauges.held.set(sum(|stats| stats.held));
    gauges.review.set(sum(|stats| stats.review));
    let oldest = all.iter().filter(|stats| stats.pending > 0).filter_map(|stats| stats.oldest_pending_at).min();
    gauges.oldest_pending_seconds.set(oldest.map_or(0, |at| number(now.since(at).as_secs())));
    let mut dead = gauges.dead.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    dead.values_mut().for_each(|count| *count = 0);
    for (code, count) in all.iter().flat_map(|stats| &stats.dead) {
        *dead.entry(Reason::new(code).code).or_default() += number(*count);
    }
}
