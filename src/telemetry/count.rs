//! Owns the forms of metrics: counters, gauges and histograms, all lock-free.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Becomes this.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Changes by this.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of latency buckets, in microseconds; above the last is `+Inf`.
pub const BUCKETS_US: [u64; 18] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    15_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
];

/// Upper bounds of the buckets for counts of things, such as the entries of a commit; above the last is `+Inf`.
pub const BUCKETS_COUNT: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// The bounds of a histogram's buckets, chosen by its type.
pub trait Scale {
    /// Upper bounds, ascending; at most as many as [`BUCKETS_US`].
    const BOUNDS: &'static [u64];
    /// How many of the counted units make one unit of the exported metric (microseconds to seconds).
    const UNIT: u64;
}

/// Latencies: counted in microseconds, exported in seconds.
#[derive(Debug)]
pub struct Latency;

impl Scale for Latency {
    const BOUNDS: &'static [u64] = &BUCKETS_US;
    const UNIT: u64 = 1_000_000;
}

/// Counts of things, exported as they are.
#[derive(Debug)]
pub struct Count;

impl Scale for Count {
    const BOUNDS: &'static [u64] = &BUCKETS_COUNT;
    const UNIT: u64 = 1;
}

/// A histogram of latencies, or of counts as `Histogram<Count>`; lock-free.
pub struct Histogram<S: Scale = Latency> {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum: AtomicU64,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        Self { buckets: Default::default(), sum: AtomicU64::new(0), scale: PhantomData }
    }
}

impl Histogram<Latency> {
    /// Counts one latency.
    pub fn observe(&self, latency: Duration) {
        self.observe_number(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX / 4));
    }
}

impl<S: Scale> Histogram<S> {
    /// Counts one number on the scale of the buckets.
    pub fn observe_number(&self, number: u64) {
        let index = S::BOUNDS.partition_point(|bound| *bound < number);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Adds what another has counted.
    pub(super) fn add(&self, other: &Self) {
        let (counts, sum) = other.read();
        for (bucket, count) in self.buckets.iter().zip(counts) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// Counts for each bucket (not cumulative), the one after the last bound is above all bounds; and the sum.
    #[must_use]
    pub fn read(&self) -> ([u64; BUCKETS_US.len() + 1], u64) {
        let mut counts = [0; BUCKETS_US.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        (counts, self.sum.load(Ordering::Relaxed))
    }
}
