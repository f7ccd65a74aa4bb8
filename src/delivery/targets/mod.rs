//! Owns the choice among several targets of an upstream, and what is known about each of them.
//!
//! Promises that a drained target gets none; that one that is ejected or unhealthy gets no new attempts while another one may have them, that with
//! none left all are tried, that at least one is never ejected, and that all of this costs an upstream with one
//! target nothing. A failure of one while another works is not told to the breaker. What is known lasts as long as the lane: a reload keeps it for targets that stay. One that a reload
//! takes out finishes its attempts and gets no new ones. Deliberately absent: weights, and sticking to a target.

mod clients;
mod health;
mod pool;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use tokio::sync::Notify;

use self::pool::Pool;
pub(crate) use self::{clients::Clients, pool::Standing};
use super::{
    client::{Failure, Shared},
    names::Names,
};
use crate::{
    clock::Timestamp,
    routing::{Targets, Upstream},
    telemetry::{TargetMetrics, UpstreamMetrics},
};

/// A target, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetView {
    /// As configured.
    pub url: Arc<str>,
    /// `up`, `ejected`, `unhealthy` or `drained`.
    pub state: &'static str,
    /// Attempts under way.
    pub in_flight: usize,
    /// When an ejected one comes back (steady time).
    pub ejected_until: Option<Timestamp>,
}

/// The targets of one lane. Empty for an upstream with one.
pub(crate) struct Balancer {
    names: Arc<Names>,
    pool: Mutex<Pool>,
    /// Rung when the targets change or the lane ends.
    changed: Notify,
}

/// Where an attempt goes.
pub(crate) enum Choice {
    /// The upstream has one target.
    Only,
    /// To this one of several.
    One(Chosen),
    /// Nowhere: all are drained.
    Nobody,
}

/// A target that an attempt is made at; counted as under way until it is dropped.
pub(crate) struct Chosen {
    /// The upstream as if this were its only target.
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) url: Arc<str>,
    pub(crate) index: usize,
    /// What its workers share about its protocol.
    pub(crate) protocol: Arc<Shared>,
    metrics: Arc<TargetMetrics>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.metrics.in_flight.add(-1);
    }
}

impl Balancer {
    pub(crate) fn new(names: Arc<Names>) -> Self {
        Self { pool: Mutex::new(Pool::new(names.clone())), names, changed: Notify::new() }
    }

    /// Takes the targets of this configuration over. Called by the lane's steward only.
    pub(crate) fn adopt(&self, targets: Option<&Arc<Targets>>, metrics: &UpstreamMetrics) {
        if lock(&self.pool).adopt(targets, metrics) {
            self.changed.notify_waiters();
        }
    }

    /// Whoever asks targets about their health stops.
    pub(crate) fn retire(&self) {
        lock(&self.pool).adopt(None, &UpstreamMetrics::default());
        self.changed.notify_waiters();
    }

    /// Lets time pass (steady). Gives when time alone changes something.
    pub(crate) fn tick(&self, now: Timestamp) -> Option<Timestamp> {
        lock(&self.pool).tick(now)
    }

    /// These targets get no new attempts from now on, and no others are kept from them.
    pub(crate) fn drain(&self, urls: &[Box<str>]) {
        lock(&self.pool).drain(urls);
    }

    /// Whether all of them are drained.
    pub(crate) fn is_drained(&self) -> bool {
        lock(&self.pool).is_drained()
    }

    /// The target of the next attempt, of those of this configuration; not `except` if there is another. None if all are
    /// drained, or there is none but `except`.
    pub(crate) fn choose(
        &self,
        targets: &Targets,
        now: Timestamp,
        (upstream, except): (&str, Option<&str>),
    ) -> Option<Chosen> {
        let mut pool = lock(&self.pool);
        let (index, began) = pool.choose(targets, now, except)?;
        let member = targets.members.get(index)?;
        let (metrics, protocol) = pool.shared(index, &member.url);
        metrics.in_flight.add(1);
        drop(pool);
        if let Some(panic) = began {
            if panic {
                tracing::warn!(upstream, "no target is up: all of them are tried");
            } else {
                tracing::info!(upstream, "targets are up again");
            }
        }
        let (upstream, url) = (member.upstream.clone(), member.url.clone());
        Some(Chosen { upstream, url, index, protocol, metrics })
    }

    /// Takes note of what an exchange with a target led to. True if it failed and another target works: then it says
    /// nothing about the upstream.
    pub(crate) fn observe(&self, chosen: &Chosen, result: Result<StatusCode, &Failure>, now: Timestamp) -> bool {
        let is_failure = match result {
            Ok(status) => status.is_server_error(),
            Err(Failure::Unsendable(_)) => return false,
            Err(_) => true,
        };
        self.note(chosen, is_failure, now);
        is_failure && lock(&self.pool).has_better(&chosen.url, now)
    }

    /// The same, if only the connection was tried.
    pub(crate) fn note(&self, chosen: &Chosen, is_failure: bool, now: Timestamp) {
        let standing = lock(&self.pool).observe(&chosen.url, is_failure, now);
        if let Some(Standing::Ejected(time)) = standing {
            let (upstream, target) = (&*chosen.upstream.name, &*chosen.url);
            tracing::warn!(upstream, target, seconds = time.as_secs(), "a target failed too often and is left out");
        }
    }

    /// For operators.
    pub(crate) fn views(&self, now: Timestamp) -> Vec<TargetView> {
        lock(&self.pool).views(now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
