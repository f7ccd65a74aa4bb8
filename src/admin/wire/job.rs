//! Owns the form of a job, and its name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Filters;
use crate::{clock::Timestamp, event::Seq};

/// `jobs --json`: a replay of many deliveries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// `running`, `waiting`, `done`, `cancelled` or `failed`.
    pub state: String,
    /// What it waits for, or why it failed.
    pub why: Option<String>,
    /// Who began it.
    pub actor: String,
    /// When.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Which deliveries.
    pub filters: Filters,
    /// To this upstream in place of the events' own.
    pub to: Option<String>,
    /// With a fresh idempotency key.
    pub new_key: bool,
    /// Without the routes' transforms.
    pub original: bool,
    /// Microseconds between two deliveries at the least.
    pub interval_us: Option<u64>,
    /// Deliveries made due so far.
    pub deliveries: u64,
    /// Events among them.
    pub events: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Events that were left alone because something of them can't be read or evaluated.
    pub skipped: u64,
    /// The part of the log that is through, 0 to 1.
    pub progress: f64,
}

/// The name of the job that this entry began.
#[must_use]
pub fn job_id(seq: Seq) -> String {
    format!("j{seq}")
}

/// The entry that a job's name leads to.
#[must_use]
pub fn job_seq(id: &str) -> Option<Seq> {
    id.strip_prefix('j')?.parse().ok()
}
