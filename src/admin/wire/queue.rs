//! Owns the form of `stagepost queue`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// `queue --json`: how much waits, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Queue {
    /// When it was counted.
    pub at: Timestamp,
    /// Deliveries in these states.
    pub states: Vec<String>,
    /// The upper ends of the ages, ascending; what is older comes last.
    pub bounds_s: Vec<u64>,
    /// One for each upstream that has any, the most first.
    pub rows: Vec<QueueRow>,
    /// Events that are not routed yet.
    pub unplanned: u64,
}

/// What waits for one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueRow {
    /// Its name.
    pub upstream: String,
    /// All of them.
    pub total: u64,
    /// By age: up to the first bound, up to the second, …, older than the last.
    pub ages: Vec<u64>,
}
