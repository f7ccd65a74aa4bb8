//! Owns the figures of the live view: what `/metrics` says, and the difference of two moments.
//!
//! Pure. What can't be read is left out.

use std::collections::BTreeMap;

/// A histogram's buckets: upper end in seconds, and how many lie below it.
type Buckets = Vec<(f64, u64)>;

/// What one look at `/metrics` gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counters {
    /// Requests taken, all sources together.
    pub(super) accepted: u64,
    /// Requests refused, all sources together.
    pub(super) refused: u64,
    /// Attempts that delivered, by upstream.
    pub(super) delivered: BTreeMap<String, u64>,
    /// Attempts that did not, by upstream.
    pub(super) failed: BTreeMap<String, u64>,
    /// How long attempts take, by upstream.
    pub(super) latency: BTreeMap<String, Buckets>,
    /// Receipt to answer, all sources together.
    pub(super) ack: Buckets,
}

impl Counters {
    /// From the Prometheus text format, as this program writes it.
    pub(super) fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |wanted: &str| label(labels, wanted);
            let Ok(count) = value.parse::<u64>() else { continue };
            match name {
                "stagepost_requests_total" => match label("result").as_deref() {
                    Some("accepted" | "duplicate" | "proxied") => found.accepted += count,
                    _ => found.refused += count,
                },
                "stagepost_attempts_total" => {
                    let Some(upstream) = label("upstream") else { continue };
                    let delivered = label("outcome").as_deref() == Some("delivered");
                    let counts = if delivered { &mut found.delivered } else { &mut found.failed };
                    *counts.entry(upstream).or_default() += count;
                }
                "stagepost_attempt_seconds_bucket" => {
                    let (Some(upstream), Some(bound)) = (label("upstream"), bound(label("le"))) else { continue };
                    found.latency.entry(upstream).or_default().push((bound, count));
                }
                "stagepost_ack_seconds_bucket" => {
                    let Some(bound) = bound(label("le")) else { continue };
                    match found.ack.iter_mut().find(|(known, _)| *known == bound) {
                        Some((_, sum)) => *sum += count,
                        None => found.ack.push((bound, count)),
                    }
                }
                _ => {}
            }
        }
        found
    }
}

fn bound(le: Option<String>) -> Option<f64> {
    match le?.as_str() {
        "+Inf" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

/// The value of a label, its escapes undone.
fn label(labels: &str, wanted: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => match letters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, letter) => value.push(letter),
            }
        };
        if name.trim_start_matches(',') == wanted {
            return Some(value);
        }
        rest = after.get(end + 1..)?;
    }
}

/// The value below which a share of what came between two moments lies, in seconds. None if nothing came.
pub(super) fn quantile(before: &[(f64, u64)], now: &[(f64, u64)], share: f64) -> Option<f64> {
    let came = |index: usize| {
        let (bound, count) = now.get(index)?;
        Some((*bound, count.saturating_sub(before.get(index).map_or(0, |(_, count)| *count))))
    };
    let (_, all) = came(now.len().checked_sub(1)?)?;
    if all == 0 {
        return None;
    }
    let wanted = share * all as f64;
    let (mut low, mut below) = (0.0, 0);
    for index in 0..now.len() {
        let (bound, count) = came(index)?;
        if count as f64 >= wanted {
            // What lies beyond the last bound is at least that.
            if bound.is_infinite() {
                return Some(low);
            }
            let part = (wanted - below as f64) / (count - below).max(1) as f64;
            return Some(low + (bound - low) * part);
        }
        (low, below) = (bound, count);
    }
    Some(low)
}

/// How many a second.
pub(super) fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_renders_is_understood() {
        let metrics = crate::telemetry::Metrics::default();
        metrics.source("stripe").requests[0].add(3);
        let upstream = metrics.upstream("bill\"ing");
        upstream.attempts[0].add(5);
        upstream.attempts[1].add(2);
        for millis in [10, 20, 30, 400] {
            upstream.attempt.observe(std::time::Duration::from_millis(millis));
        }
        let found = Counters::read(&metrics.render());
        assert_eq!((found.accepted, found.refused), (3, 0));
        assert_eq!((found.delivered["bill\"ing"], found.failed["bill\"ing"]), (5, 2));
        let buckets = &found.latency["bill\"ing"];
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 4)));
        let half = quantile(&[], buckets, 0.5).unwrap();
        assert!((0.005..=0.05).contains(&half), "{half}");
        assert!(quantile(&[], buckets, 0.99).unwrap() > 0.1);
        assert_eq!(quantile(buckets, buckets, 0.5), None);
        assert!(!found.ack.is_empty());
    }

    #[test]
    fn a_quantile_lies_between_the_ends_of_its_bucket() {
        let now = [(0.1, 10), (0.2, 90), (0.4, 100), (f64::INFINITY, 100)];
        let about = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-9;
        assert!(about(quantile(&[], &now, 0.5), 0.15));
        assert_eq!(quantile(&[], &[(0.1, 0), (f64::INFINITY, 5)], 0.5), Some(0.1));
        let before = [(0.1, 10), (0.2, 90), (0.4, 90), (f64::INFINITY, 90)];
        assert!(about(quantile(&before, &now, 0.5), 0.3));
        assert_eq!((rate(10, 30, 2.0), rate(10, 30, 0.0), rate(30, 10, 1.0)), (10.0, 0.0, 0.0));
    }
}
