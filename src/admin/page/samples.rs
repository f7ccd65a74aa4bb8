//! Owns the figures of the last hour that are drawn: a sample of the counters every few seconds.
//!
//! Promises bounded memory: at most [`SAMPLES_MAX`] samples of a fixed size, of the whole and of each of [`UPSTREAMS_MAX`]
//! upstreams. What a sample of the whole holds are sums over all sources and upstreams, so that it is shown to visitors
//! without limits only. After a restart there are none.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    admin::ports::Ports,
    clock::Timestamp,
    event::Outcome,
    telemetry::{BUCKETS_US, Counter, Histogram, Metrics, RequestResult, UpstreamMetrics},
};

/// An hour of samples, [`super::SAMPLE_EVERY`] apart.
const SAMPLES_MAX: usize = 721;

/// Upstreams with samples of their own, those that come first: each takes 30 KiB, all of them 2 MiB.
pub(super) const UPSTREAMS_MAX: usize = 64;

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

/// The counters of one upstream at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpstreamSample {
    /// Steady time.
    pub(super) at: Timestamp,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) pending: i64,
    /// Below this took 99 % of the attempts since the sample before, in seconds. None if there were none.
    pub(super) attempt_p99: Option<f32>,
}

/// The samples of the last hour.
#[derive(Default)]
pub(super) struct Samples(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    whole: VecDeque<Sample>,
    upstreams: BTreeMap<Box<str>, UpstreamSamples>,
}

/// The samples of one upstream.
#[derive(Default)]
struct UpstreamSamples {
    all: VecDeque<UpstreamSample>,
    /// How its attempts had been when the last one was taken.
    attempts: Buckets,
}

impl Samples {
    /// Takes a sample.
    pub(super) fn take(&self, ports: &dyn Ports) {
        let (metrics, now) = (ports.metered(), ports.steady());
        let (whole, upstreams) = (Sample::of(&metrics, now), metrics.all_upstreams());
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        push(&mut kept.whole, whole);
        // Those of run time are counted together, and have no page as such.
        for (name, metrics) in upstreams.into_iter().filter(|(name, _)| !name.ends_with("/*")) {
            if kept.upstreams.len() < UPSTREAMS_MAX || kept.upstreams.contains_key(&name) {
                kept.upstreams.entry(name).or_default().take(&metrics, now);
            }
        }
    }

    /// Those of the whole, oldest first.
    pub(super) fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).whole.iter().cloned().collect()
    }

    /// Those of an upstream, oldest first. None if none are kept of it.
    pub(super) fn of_upstream(&self, name: &str) -> Option<Vec<UpstreamSample>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = kept.upstreams.get(name).map(|samples| samples.all.iter().copied().collect());
        own.or_else(|| kept.whole.is_empty().then(Vec::new))
    }
}

impl UpstreamSamples {
    fn take(&mut self, metrics: &Arc<UpstreamMetrics>, at: Timestamp) {
        let mut attempts = Buckets::default();
        add(&mut attempts, &metrics.attempt);
        let p99 = quantile(&grown(&attempts, &self.attempts), 0.99);
        self.attempts = attempts;
        let (delivered, failed) = outcomes(metrics);
        let attempt_p99 = p99.map(|found| found.as_secs_f32());
        push(&mut self.all, UpstreamSample { at, delivered, failed, pending: metrics.pending.get(), attempt_p99 });
    }
}

/// Adds the newest; the oldest goes if there are too many.
fn push<T>(samples: &mut VecDeque<T>, newest: T) {
    if samples.len() >= SAMPLES_MAX {
        samples.pop_front();
    }
    samples.push_back(newest);
}

/// Attempts that delivered, and those that did not.
fn outcomes(upstream: &UpstreamMetrics) -> (u64, u64) {
    let of = |outcome: Outcome| count(upstream.attempts.get(outcome as usize));
    (of(Outcome::Delivered), of(Outcome::Deferred) + of(Outcome::Refused) + of(Outcome::Degraded))
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
            let (delivered, failed) = outcomes(&upstream);
            sample.delivered += delivered;
            sample.failed += failed;
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
        fake.metered().upstream("u").delivery.observe(Duration::ZERO);
        for _ in 0..SAMPLES_MAX + 10 {
            samples.take(&fake);
        }
        assert_eq!(samples.all().len(), SAMPLES_MAX);
        assert_eq!(samples.of_upstream("u").unwrap().len(), SAMPLES_MAX);
        assert!(SAMPLES_MAX * UPSTREAMS_MAX * size_of::<UpstreamSample>() <= 2 * 1024 * 1024);
    }

    #[test]
    fn some_upstreams_have_samples_of_their_own_and_the_first_keep_them() {
        let (samples, fake) = (Samples::default(), Fake::default());
        assert!(samples.of_upstream("m0").unwrap().is_empty(), "there are none yet");
        for number in 0..UPSTREAMS_MAX {
            fake.metered().upstream(&format!("m{number}")).pending.set(1);
        }
        samples.take(&fake);
        fake.metered().upstream("a late one").pending.set(1);
        fake.metered().upstream("m0").attempts[Outcome::Degraded as usize].add(7);
        fake.metered().upstream("m0").attempt.observe(Duration::from_millis(80));
        samples.take(&fake);
        samples.take(&fake);
        assert!(samples.of_upstream("a late one").is_none());
        let own = samples.of_upstream("m0").unwrap();
        assert_eq!(own.iter().map(|sample| sample.failed).collect::<Vec<_>>(), [0, 7, 7]);
        let slow: Vec<bool> = own.iter().map(|sample| sample.attempt_p99.is_some_and(|p99| p99 > 0.05)).collect();
        assert_eq!(slow, [false, true, false], "each tells of its own time only");
    }

    #[test]
    fn what_is_above_all_buckets_is_told_as_the_highest() {
        let mut buckets = [0; BUCKETS_US.len() + 1];
        *buckets.last_mut().unwrap() = 1;
        assert_eq!(quantile(&buckets, 0.5), Some(Duration::from_secs(600)));
        assert_eq!(quantile(&[0; 3], 0.5), None);
    }
}
