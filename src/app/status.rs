//! Owns the figures that need a memory: rates over the last minute, and how long an outage may last.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{clock::Timestamp, event::Outcome, telemetry::Metrics};

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two samples.
const EVERY: Duration = Duration::from_secs(5);

/// Samples of counters, one each five seconds, for a minute.
#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

struct Sample {
    at: Timestamp,
    store_bytes: u64,
    delivered: BTreeMap<Box<str>, u64>,
}

impl Samples {
    /// Takes a sample if it is time for one.
    pub(super) fn take(&self, now: Timestamp, store_bytes: u64, upstreams: &[Box<str>], metrics: &Metrics) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_some_and(|last| now.since(last.at) < EVERY) {
            return;
        }
        let delivered = upstreams.iter().map(|name| (name.clone(), delivered(metrics, name))).collect();
        samples.push_back(Sample { at: now, store_bytes, delivered });
        while samples.front().is_some_and(|first| now.since(first.at) > WINDOW) {
            samples.pop_front();
        }
    }

    /// Deliveries a second.
    pub(super) fn rate(&self, now: Timestamp, upstream: &str, metrics: &Metrics) -> f64 {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = samples.front() else { return 0.0 };
        let before = first.delivered.get(upstream).copied().unwrap_or(0);
        per_second(delivered(metrics, upstream).saturating_sub(before), now.since(first.at))
    }

    /// When the store is full if it grows on as it does now. None if it does not grow.
    pub(super) fn full_at(&self, now: Timestamp, store_bytes: u64, limit: u64) -> Option<Timestamp> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.front()?;
        let growth = per_second(store_bytes.saturating_sub(first.store_bytes), now.since(first.at));
        let left = limit.saturating_sub(store_bytes) as f64;
        (growth > 0.0).then(|| now.after(Duration::try_from_secs_f64(left / growth).unwrap_or(Duration::MAX)))
    }
}

fn delivered(metrics: &Metrics, upstream: &str) -> u64 {
    // One that was only just removed gets no series of its own.
    let handle = metrics.known_upstream(upstream);
    handle.and_then(|handle| Some(handle.attempts.get(Outcome::Delivered as usize)?.get())).unwrap_or(0)
}

fn per_second(count: u64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { count as f64 / over.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_the_time_to_full_come_from_the_last_minute() {
        let (samples, metrics) = (Samples::default(), Metrics::default());
        let at = |s: u64| Timestamp::from_millis(1_000_000 + s * 1_000);
        let names: Vec<Box<str>> = vec!["one".into()];
        samples.take(at(0), 1_000, &names, &metrics);
        metrics.upstream("one").attempts[Outcome::Delivered as usize].add(50);
        samples.take(at(3), 1_500, &names, &metrics);
        assert_eq!(samples.rate(at(10), "one", &metrics), 5.0);
        assert_eq!(samples.full_at(at(10), 2_000, 3_000), Some(at(20)));
        assert_eq!(samples.full_at(at(10), 1_000, 3_000), None);
    }
}
