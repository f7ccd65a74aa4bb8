//! Owns an upstream's usual latency: a p95 for each window, and the exponentially weighted mean of their logarithms.

use crate::{alert::rules::LatencyRule, clock::Timestamp, telemetry::BUCKETS_US};

/// Attempts by how long they took, in the buckets of the metrics; the last is above all bounds.
pub type Counts = [u64; BUCKETS_US.len() + 1];

/// How much a new window weighs: after ten windows of another pace two thirds are forgotten.
const WEIGHT: f64 = 0.1;

/// The same while the alert's threshold is exceeded: what lasts for days is usual in the end.
const WEIGHT_OVER: f64 = 0.005;

/// Windows that must have been seen before anything is compared.
const LEARNED_MIN: u32 = 6;

/// A window with too few attempts goes on for so many windows, then it is thrown away.
const EXTENDED_MAX: u32 = 12;

/// What is usual, and what was measured last.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Baseline {
    /// The usual p95: its natural logarithm, in microseconds.
    usual: f64,
    /// Windows that went into it.
    learned: u32,
    #[serde(skip)]
    began: Option<(Timestamp, Counts)>,
    #[serde(skip)]
    last: Compared,
}

/// How the last window compares with what is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Compared {
    /// Not known, or nothing happened.
    #[default]
    Unknown,
    /// As usual, or a little slower.
    Usual,
    /// Slower, by less than the factor.
    Slower,
    /// By more.
    Slow {
        /// The p95 of the last window, in microseconds.
        p95_us: f64,
        /// The usual one.
        usual_us: f64,
    },
}

impl Baseline {
    /// Takes the counters; gives how the last whole window compares.
    pub(super) fn compare(&mut self, now: Timestamp, counts: &Counts, rule: &LatencyRule) -> Compared {
        let Some((began, before)) = &self.began else {
            self.began = Some((now, *counts));
            return self.last;
        };
        if now.since(*began) < rule.window {
            return self.last;
        }
        let mut grown = *counts;
        grown.iter_mut().zip(before).for_each(|(count, before)| *count = count.saturating_sub(*before));
        if grown.iter().sum::<u64>() >= rule.minimum {
            self.last = self.judge(quantile(&grown, 0.95), rule);
        } else if now.since(*began) < rule.window * EXTENDED_MAX {
            return self.last;
        } else {
            self.last = Compared::Unknown;
        }
        self.began = Some((now, *counts));
        self.last
    }

    fn judge(&mut self, p95_us: f64, rule: &LatencyRule) -> Compared {
        let (log, usual_us) = (p95_us.max(1.0).ln(), self.usual.exp());
        let is_known = self.learned >= LEARNED_MIN;
        let reaches = |factor: f64| p95_us >= usual_us * factor && p95_us >= rule.floor.as_micros() as f64;
        let compared = match is_known {
            false => Compared::Unknown,
            true if reaches(rule.factor) => Compared::Slow { p95_us, usual_us },
            true if reaches(f64::midpoint(1.0, rule.factor)) => Compared::Slower,
            true => Compared::Usual,
        };
        let weight = match compared {
            Compared::Slow { .. } => WEIGHT_OVER,
            // The first windows weigh the same.
            _ => WEIGHT.max(1.0 / f64::from(self.learned + 1)),
        };
        self.usual += (log - self.usual) * weight;
        self.learned = self.learned.saturating_add(1);
        compared
    }
}

/// A quantile of what was counted, in microseconds; inside a bucket all are taken to be spread evenly.
fn quantile(counts: &Counts, share: f64) -> f64 {
    let wanted = counts.iter().sum::<u64>() as f64 * share;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, upper) in counts.iter().zip(BUCKETS_US) {
        let (count, upper) = (*count as f64, upper as f64);
        if below + count >= wanted && count > 0.0 {
            return lower + (upper - lower) * ((wanted - below) / count);
        }
        (below, lower) = (below + count, upper);
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let mut counts: Counts = Default::default();
        assert_eq!(quantile(&counts, 0.95), 600_000_000.0);
        counts[0] = 100;
        assert_eq!(quantile(&counts, 0.95), 237.5);
        counts[5] = 100;
        assert_eq!(quantile(&counts, 0.95), 9_500.0);
        counts[18] = 10_000;
        assert_eq!(quantile(&counts, 0.95), 600_000_000.0);
    }
}
