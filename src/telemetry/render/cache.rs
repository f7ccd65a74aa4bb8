//! Owns the text of the figures of kept answers.

use std::sync::Arc;

use super::{SourceMetrics, Text};
use crate::telemetry::{CacheMetrics, CacheResult};

pub(super) fn render(out: &mut Text, all: &[(Box<str>, Arc<SourceMetrics>)]) {
    let help = "Looks for an answer that was given before, by what they led to.";
    out.family("stagepost_cache_requests_total", "counter", help);
    for (source, metrics) in all {
        for (result, count) in CacheResult::ALL.iter().zip(&metrics.cache.looks) {
            let labels = [("source", &**source), ("result", result.as_str())];
            out.sample("stagepost_cache_requests_total", &labels, count.get());
        }
    }
    type Read = fn(&CacheMetrics) -> i64;
    let families: [(&str, &str, &str, Read); 5] = [
        ("stagepost_cache_not_kept_total", "counter", "Answers that were passed on and not kept.", |cache| {
            i64::try_from(cache.not_kept.get()).unwrap_or(i64::MAX)
        }),
        ("stagepost_cache_evictions_total", "counter", "Answers that went early, to make room.", |cache| {
            i64::try_from(cache.evictions.get()).unwrap_or(i64::MAX)
        }),
        ("stagepost_cache_waiting", "gauge", "Requests that wait for the answer to an equal one.", |cache| {
            cache.waiting.get()
        }),
        ("stagepost_cache_entries", "gauge", "Answers that are kept.", |cache| cache.entries.get()),
        ("stagepost_cache_bytes", "gauge", "Bytes of answers that are kept or recorded.", |cache| cache.bytes.get()),
    ];
    for (name, kind, help, read) in families {
        out.family(name, kind, help);
        for (source, metrics) in all {
            out.sample(name, &[("source", source)], read(&metrics.cache));
        }
    }
}
