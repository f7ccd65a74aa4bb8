//! Owns which connections may become WebSocket connections, and how long they may be silent.

use std::time::Duration;

/// GET requests of a source that ask for it become WebSocket connections to its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradePolicy {
    /// Silence in both directions; then the connection ends.
    pub idle_timeout: Duration,
    /// Connections of the source at once.
    pub most: usize,
}
