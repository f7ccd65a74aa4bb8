//! Owns what the log says about jobs: replays of many deliveries that go on for a while, step by step.

use serde::{Deserialize, Serialize};

use super::Target;
use crate::event::Seq;

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Which deliveries, as JSON: the filters of the command line.
    pub filters: String,
    /// To this upstream in place of the events' own.
    #[serde(default)]
    pub to: Option<Box<str>>,
    /// A fresh idempotency key.
    #[serde(default)]
    pub new_key: bool,
    /// Bodies are sent as they were received, without the routes' transforms.
    #[serde(default)]
    pub original: bool,
    /// Microseconds between two deliveries at the least.
    #[serde(default)]
    pub interval_us: Option<u64>,
    /// Where the log began when the job did.
    pub first: Seq,
    /// Only events before this number.
    pub before: Seq,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Everything before this number is done.
    pub next: Seq,
    /// Deliveries made due.
    pub deliveries: u64,
    /// Events among them.
    pub events: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Events that were left alone for a reason that is told once, in the diagnostics.
    #[serde(default)]
    pub skipped: u64,
}

/// Deliveries that are made due at once, alone or as a step of a job: the step and how far the job has come are one entry,
/// so that no crash repeats or leaves out a step. A step of a job that has ended or has come further is void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayStep {
    /// The job, and how far it has come with this step.
    #[serde(default)]
    pub job: Option<(Seq, JobProgress)>,
    /// How far the job had come before: everything before this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Seq>,
    /// Deliveries that exist.
    pub targets: Vec<Target>,
    /// Deliveries that did not exist before: their first attempt is number 1.
    #[serde(default)]
    pub created: Vec<Target>,
    /// A fresh idempotency key.
    #[serde(default)]
    pub new_key: bool,
    /// Bodies are sent as they were received.
    #[serde(default)]
    pub original: bool,
    /// Microseconds between two of them at the least.
    #[serde(default)]
    pub interval_us: Option<u64>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    /// Everything was made due.
    Done,
    /// An operator ended it.
    Cancelled,
    /// It can't go on.
    Failed,
}

impl JobEnd {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}
