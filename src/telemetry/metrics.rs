//! Owns the metrics: names are exact (contract, section 7), handles are resolved once and then only counted.

use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// All metrics of the process.
#[derive(Default)]
pub struct Metrics {
    sources: Mutex<BTreeMap<Box<str>, Arc<SourceMetrics>>>,
    upstreams: Mutex<BTreeMap<Box<str>, Arc<UpstreamMetrics>>>,
    /// Requests answered 404, 405 before any source was known, and so on.
    pub unmatched: AtomicU64,
}

/// Counters of one source; resolved once for each routing table.
#[derive(Default)]
pub struct SourceMetrics {
    /// Accepted requests.
    pub accepted: AtomicU64,
}

/// Counters of one upstream; resolved once for each routing table.
#[derive(Default)]
pub struct UpstreamMetrics {
    /// Attempts that delivered.
    pub delivered: AtomicU64,
}

impl Metrics {
    /// The handle of a configured source.
    #[must_use]
    pub fn source(&self, name: &str) -> Arc<SourceMetrics> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// The handle of a configured upstream.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// The text of the Prometheus exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        format!("stagepost_unmatched {}\n", self.unmatched.load(Ordering::Relaxed))
    }
}
