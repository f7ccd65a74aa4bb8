//! Owns the text of the figures of upgraded connections.

use std::sync::Arc;

use super::{SourceMetrics, Text};

pub(super) fn render(out: &mut Text, all: &[(Box<str>, Arc<SourceMetrics>)]) {
    out.family("stagepost_upgrades", "gauge", "WebSocket connections open now.");
    for (source, metrics) in all {
        out.sample("stagepost_upgrades", &[("source", source)], metrics.upgrades.now.get());
    }
    out.family("stagepost_upgrades_total", "counter", "WebSocket connections that were begun.");
    for (source, metrics) in all {
        out.sample("stagepost_upgrades_total", &[("source", source)], metrics.upgrades.begun.get());
    }
    let name = "stagepost_upgrade_bytes_total";
    out.family(name, "counter", "Bytes of WebSocket connections, from senders (in) and from upstreams (out).");
    for (source, metrics) in all {
        for (direction, count) in [("in", &metrics.upgrades.bytes_in), ("out", &metrics.upgrades.bytes_out)] {
            out.sample(name, &[("source", source), ("direction", direction)], count.get());
        }
    }
}
