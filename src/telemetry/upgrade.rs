//! Owns the figures of upgraded (WebSocket) connections.

use super::{Counter, Gauge};

/// Figures of one source's upgraded connections.
#[derive(Default)]
pub struct UpgradeMetrics {
    /// Open now, those that are asked for included.
    pub now: Gauge,
    /// Upgraded so far.
    pub begun: Counter,
    /// Bytes from senders to upstreams.
    pub bytes_in: Counter,
    /// Bytes from upstreams to senders.
    pub bytes_out: Counter,
}
