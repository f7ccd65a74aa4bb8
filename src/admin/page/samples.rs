//! Owns the figures of the last hour that are drawn: a sample of the counters every few seconds.
//!
//! Promises bounded memory: at most [`SAMPLES_MAX`] samples of a fixed size. What a sample holds are sums over all sources
//! and upstreams, so that it is shown to visitors without limits only. After a restart there are none.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    admin::ports::Ports,
    clock::Timestamp,
    event::Outcome,
    telemetry::{BUCKETS_US, Counter, Histogram, Metrics, RequestResult},
};

/// An hour of samples, [`super::SAMPLE_EVERY`] apart.
const SAMPLES_MAX: usize = 721;

/// Counts of a histogram of latencies; they wrap, and only differences are looked at.
type Buckets = [u32; BUCKETS_US.len() + 1];

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Steady time.
    pub(super) at: Timestamp,
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    /// Requests that were answered 4xx.
    pub(super) refused: u64,
    /// Requests that were answered 503.
    pub(super) unavailable: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) pending: i64,
    pub(super) store_bytes: i64,
    ack: Buckets,
    delivery: Buckets,
}

/// The samples of the last hour.
#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    /// Takes a sample.
    pub(super) fn take(&self, ports: &dyn Ports) {
        let sample = Sample::of(&ports.metered(), ports.steady());
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn count(counter: Option<&Counter>) -> u64 {
    counter.map_or(0, Counter::get)
}

fn add(buckets: &mut Buckets, histogram: &Histogram) {
    for (sum, more) in buckets.iter_mut().zip(histogram.read().0) {
        *sum = sum.wrapping_add(more as u32);
    }
}

impl Sample {
    /// The counters now.
    pub(super) fn of(metrics: &Metrics, at: Timestamp) -> Self {
        use RequestResult as R;
        let mut sample = Self { at, store_bytes: metrics.store_bytes.get(), ..Self::default() };
        for (_, source) in metrics.all_sources() {
            for (counter, result) in source.requests.iter().zip(R::ALL) {
                match result {
                    R::Accepted => sample.accepted += counter.get(),
                    R::Unavailable => sample.unavailable += counter.get(),
                    R::Duplicate | R::Proxied | R::UpstreamFailed | R::Disconnected | R::Challenge => {}
                    _ => sample.refused += counter.get(),
                }
            }
            sample.duplicates += source.duplicates.get();
            add(&mut sample.ack, &source.ack);
        }
        sample.refused += metrics.unmatched.iter().map(Counter::get).sum::<u64>();
        for (_, upstream) in metrics.all_upstreams() {
            let of = |outcome: Outcome| count(upstream.attempts.get(outcome as usize));
            sample.delivered += of(Outcome::Delivered);
            sample.failed += of(Outcome::Deferred) + of(Outcome::Refused) + of(Outcome::Degraded);
            sample.pending += upstream.pending.get();
            add(&mut sample.delivery, &upstream.delivery);
        }
        sample
    }

    /// How much a second a counter grew since an earlier sample.
    pub(super) fn rate(&self, earlier: &Self, counter: fn(&Self) -> u64) -> f64 {
        let seconds = self.at.since(earlier.at).as_secs_f64();
        if seconds > 0.0 { counter(self).saturating_sub(counter(earlier)) as f64 / seconds } else { 0.0 }
    }

    /// From receipt to the answer: below this lies the share of what came since an earlier sample. None if nothing came.
    pub(super) fn ack(&self, earlier: &Self, share: f64) -> Option<Duration> {
        quantile(&grown(&self.ack, &earlier.ack), share)
    }

    /// From receipt to delivery, likewise.
    pub(super) fn delivery(&self, earlier: &Self, share: f64) -> Option<Duration> {
        quantile(&grown(&self.delivery, &earlier.delivery), share)
    }
}

fn grown(now: &Buckets, earlier: &Buckets) -> [u64; BUCKETS_US.len() + 1] {
    let mut grown = [0; BUCKETS_US.len() + 1];
    for ((grown, now), earlier) in grown.iter_mut().zip(now).zip(earlier) {
        *grown = u64::from(now.wrapping_sub(*earlier));
    }
    grown
}

/// Below this lies the share of what a histogram has counted: as exact as its buckets, even within each.
pub(super) fn quantile(buckets: &[u64], share: f64) -> Option<Duration> {
    let total: u64 = buckets.iter().sum();
    let wanted = share * total as f64;
    let (mut below, mut floor) = (0_u64, 0_u64);
    for (index, count) in buckets.iter().copied().enumerate() {
        let ceiling = BUCKETS_US.get(index).copied().unwrap_or(floor);
        if count > 0 && (below + count) as f64 >= wanted {
            let within = (wanted - below as f64).max(0.0) / count as f64;
            let micros = floor as f64 + within * ceiling.saturating_sub(floor) as f64;
            return Some(Duration::from_micros(micros as u64));
        }
        below += count;
        floor = ceiling;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;

    #[test]
    fn rates_and_latencies_are_those_between_two_samples() {
        let metrics = Metrics::default();
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
        metrics.source("app").requests[RequestResult::Accepted as usize].add(5);
        metrics.source("app").ack.observe(Duration::from_secs(50));
        let before = Sample::of(&metrics, at(100));
        metrics.source("app").requests[RequestResult::Accepted as usize].add(50);
        metrics.source("other").requests[RequestResult::Unauthorized as usize].add(10);
        metrics.upstream("u").attempts[Outcome::Deferred as usize].add(20);
        for _ in 0..100 {
            metrics.source("app").ack.observe(Duration::from_micros(300));
        }
        let now = Sample::of(&metrics, at(110));
        assert_eq!(now.rate(&before, |sample| sample.accepted), 5.0);
        assert_eq!(now.rate(&before, |sample| sample.refused), 1.0);
        assert_eq!(now.rate(&before, |sample| sample.failed), 2.0);
        let p99 = now.ack(&before, 0.99).unwrap();
        assert!(p99 > Duration::from_micros(250) && p99 <= Duration::from_micros(500), "{p99:?}");
        assert_eq!(now.delivery(&before, 0.99), None);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let (samples, fake) = (Samples::default(), Fake::default());
        for _ in 0..SAMPLES_MAX + 10 {
            samples.take(&fake);
        }
        assert_eq!(samples.all().len(), SAMPLES_MAX);
    }

    #[test]
    fn what_is_above_all_buckets_is_told_as_the_highest() {
        let mut buckets = [0; BUCKETS_US.len() + 1];
        *buckets.last_mut().unwrap() = 1;
        assert_eq!(quantile(&buckets, 0.5), Some(Duration::from_secs(600)));
        assert_eq!(quantile(&[0; 3], 0.5), None);
    }
}
