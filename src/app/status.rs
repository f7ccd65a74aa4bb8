//! Owns the figures that need a memory: rates over the last minute, and how long an outage may last.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{clock::Timestamp, event::Outcome, log::LogStats, telemetry::Metrics};

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two samples.
const EVERY: Duration = Duration::from_secs(5);

/// Samples of counters, one each five seconds, for a minute.
#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

struct Sample {
    at: Timestamp,
    written: u64,
    delivered: BTreeMap<Box<str>, u64>,
}

impl Samples {
    /// Takes a sample if it is time for one. `written` is what commits have written since the start.
    pub(super) fn take(&self, now: Timestamp, written: u64, upstreams: &[Box<str>], metrics: &Metrics) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_some_and(|last| now.since(last.at) < EVERY) {
            return;
        }
        let delivered = upstreams.iter().map(|name| (name.clone(), delivered(metrics, name))).collect();
        samples.push_back(Sample { at: now, written, delivered });
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

    /// When the room is used up if as much comes in as now. None if nothing comes in and there is room.
    pub(super) fn full_at(&self, now: Timestamp, written: u64, room: u64) -> Option<Timestamp> {
        if room == 0 {
            return Some(now);
        }
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.front()?;
        let growth = per_second(written.saturating_sub(first.written), now.since(first.at));
        (growth > 0.0).then(|| now.after(Duration::try_from_secs_f64(room as f64 / growth).unwrap_or(Duration::MAX)))
    }
}

/// Bytes that may still come in while nothing is delivered: up to `store.max_size`, where what is not `used` goes when it
/// is needed, unless the disk has less above `store.reserve` than the store would still grow by.
pub(super) fn room(log: &LogStats, used: u64, disk_free: Option<u64>, reserve: u64) -> u64 {
    let grows = log.limit.saturating_sub(log.bytes);
    let on_disk = disk_free.map(|free| free.saturating_sub(reserve)).filter(|left| *left < grows);
    on_disk.unwrap_or_else(|| log.limit.saturating_sub(used))
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
        assert_eq!(samples.full_at(at(10), 2_000, 1_000), Some(at(20)));
        assert_eq!(samples.full_at(at(10), 1_000, 1_000), None, "as long as nothing comes in");
        assert_eq!(samples.full_at(at(10), 1_000, 0), Some(at(10)), "it is full");
    }

    #[test]
    fn there_is_as_much_room_as_the_budget_and_the_disk_have() {
        let log = LogStats { bytes: 1_000, limit: 5_000, ..LogStats::default() };
        for (used, free, expected) in [
            (1_000, None, 4_000),
            (1_000, Some(100_000), 4_000),
            (1_000, Some(700), 600),
            (1_000, Some(50), 0),
            // 800 of the 1,000 are settled and go at 5,000, which this disk never reaches.
            (200, Some(700), 600),
            (200, Some(100_000), 4_800),
            (5_001, Some(100_000), 0),
        ] {
            assert_eq!(room(&log, used, free, 100), expected, "{used} {free:?}");
        }
    }
}
