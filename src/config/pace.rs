//! Owns the keys of an upstream that say how fast it is sent to: `concurrency`, `rate`, `burst` and `rate_headers`.

use super::{reader::Section, tree::Value};
use crate::routing::{BURST_MAX, Pace, PaceRate, RateHeaders};

/// The most attempts at once.
const CONCURRENCY_MAX: u64 = 65_536;

/// The attempts at once, at most, and the pace besides.
pub(super) fn read(upstream: &Section<'_>) -> (usize, Pace) {
    let (least, most) = concurrency(upstream);
    let choices = [("follow", RateHeaders::Follow), ("ignore", RateHeaders::Ignore)];
    let headers = upstream.choice("rate_headers", "follow", &choices).unwrap_or(RateHeaders::Follow);
    (most, Pace { rate: rate(upstream), least, headers })
}

/// A number, or `{ min, max }` between which it adapts.
fn concurrency(upstream: &Section<'_>) -> (Option<usize>, usize) {
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    match upstream.value("concurrency") {
        Some(Value::Table(_)) => {
            let section = upstream.section("concurrency");
            let min = number(section.count("min", 1, 1..=CONCURRENCY_MAX));
            let max = number(section.count("max", 64, 1..=CONCURRENCY_MAX));
            let least = Pace::least(min, max).map_err(|_| {
                format!("is {min}, more than max ({max}); lower it, raise max, or write one number for a fixed one")
            });
            let least = section.accept("min", least);
            section.finish();
            (least, max)
        }
        None | Some(Value::Integer(_)) => (None, number(upstream.count("concurrency", 64, 1..=CONCURRENCY_MAX))),
        Some(other) => {
            let message = format!("takes a whole number, or {{ min = 1, max = 64 }}, not {}", other.kind());
            upstream.problem("concurrency", message);
            (None, 64)
        }
    }
}

fn rate(upstream: &Section<'_>) -> Option<PaceRate> {
    let rate = upstream.optional_pace("rate");
    let burst = upstream.optional_count("burst", 1..=BURST_MAX);
    let Some((count, per)) = rate else {
        if burst.is_some() && !upstream.has("rate") {
            upstream.problem("burst", "has no effect without rate; add rate = \"100/s\" or remove it");
        }
        return None;
    };
    let rate = upstream.accept("rate", PaceRate::new(count, per, burst))?;
    if burst.is_none() {
        upstream.note(&format!("burst: {}", rate.burst));
    }
    Some(rate)
}
