//! Owns the wire types of `stagepost plan`: a configuration against stored requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Filters, Text};
use crate::clock::Timestamp;

/// Which configuration, against which requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlanAsk {
    /// The configuration's file, absolute, as the server sees it; none: the file that a reload would read.
    pub file: Option<String>,
    /// Which of the stored requests.
    pub filters: Filters,
    /// How many, counted from the newest.
    pub limit: u64,
}

/// One line of the answer to [`PlanAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanReply {
    /// A request that would fare otherwise.
    Event(PlanEvent),
    /// Something the operator must know.
    Note(String),
    /// The last line.
    Summary(PlanSummary),
    /// The answer ends here because of this.
    Failed(String),
}

/// A request that would fare otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanEvent {
    /// Its id.
    pub id: String,
    /// The source that took it.
    pub source: String,
    /// When.
    pub received_at: Timestamp,
    /// What would be different.
    pub differences: Vec<Difference>,
}

/// What would be different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Difference {
    /// Another source takes it, or none.
    Source {
        /// Today's.
        before: Option<String>,
        /// The new one's.
        after: Option<String>,
    },
    /// The door says something else; none means that it is taken.
    Door {
        /// Why it is refused today.
        before: Option<String>,
        /// Why it would be refused.
        after: Option<String>,
    },
    /// An upstream would get it that does not today.
    Added {
        /// Which.
        upstream: String,
    },
    /// An upstream gets it today that would not.
    Removed {
        /// Which.
        upstream: String,
    },
    /// A request can be made for it on one side only, or fails for another reason; none means that it can be made.
    Unsent {
        /// Which upstream.
        upstream: String,
        /// Why nothing is sent today.
        before: Option<String>,
        /// Why nothing would be sent.
        after: Option<String>,
    },
    /// Another method or URL.
    Target {
        /// Which upstream.
        upstream: String,
        /// Today's.
        before: String,
        /// The new one's.
        after: String,
    },
    /// Other headers; their values are not told, since credentials are among them.
    Headers {
        /// Which upstream.
        upstream: String,
        /// Names of those that differ.
        names: Vec<String>,
    },
    /// Another body.
    Body {
        /// Which upstream.
        upstream: String,
        /// Today's.
        before: Text,
        /// The new one's.
        after: Text,
        /// Only the beginnings are told.
        cut: bool,
    },
}

/// What a configuration would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanSummary {
    /// The new configuration's hash.
    pub hash: String,
    /// Requests that were looked at.
    pub events: u64,
    /// Of them, those that would fare otherwise.
    pub different: u64,
    /// Would be refused and are taken today.
    pub refused: u64,
    /// Would be taken and are refused today.
    pub taken: u64,
    /// Would be another source's.
    pub moved: u64,
    /// Would reach an upstream that they do not reach today, or miss one that they do.
    pub rerouted: u64,
    /// Would be sent as another request: method, URL, headers or body.
    pub changed: u64,
    /// Could not be verified again: items of batches, secrets in paths, documents that would have to be fetched.
    pub unverified: u64,
}
