//! Owns the forms of subscribers: what registers one, what is listed of it.
//!
//! A secret stands only in what registers or rotates, and in the one answer that shows a generated one; these have no
//! `Debug`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Registers a subscriber.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// The topic whose events it gets.
    pub topic: String,
    /// Its name under the topic.
    pub name: String,
    /// Where they go, exactly.
    pub url: String,
    /// Types, or beginnings with `*`; empty for every type.
    #[serde(default)]
    pub types: Vec<String>,
    /// jq that has to match besides.
    #[serde(default)]
    pub when: Option<String>,
    /// A reference to a signing secret; without it one is generated.
    #[serde(default)]
    pub secret: Option<String>,
    /// At most so fast, such as `10/s`.
    #[serde(default)]
    pub rate: Option<String>,
}

/// Gives a subscriber another secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// A reference; without it a secret is generated.
    #[serde(default)]
    pub secret: Option<String>,
    /// How long the old one signs too.
    pub overlap_ms: u64,
}

/// Pauses a subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PauseSubscriber {
    /// It goes on by itself after that.
    pub for_ms: Option<u64>,
    /// In the operator's words.
    pub reason: Option<String>,
}

/// What became of a subscriber.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubscriberDone {
    /// As it is now; None if it was removed.
    pub subscriber: Option<Subscriber>,
    /// A secret that was generated: it is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A subscriber in `subscriber list --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscriber {
    /// The topic whose events it gets.
    pub topic: String,
    /// Its name under the topic.
    pub name: String,
    /// The upstream that it is: `TOPIC/NAME`.
    pub upstream: String,
    /// Where its events go.
    pub url: String,
    /// `run-time`, or `config` for those of the configuration.
    pub origin: String,
    /// `active`, `paused`, `disabled`, or `off`: the configuration leaves no place for it.
    pub state: String,
    /// Why it is not active.
    pub why: Option<String>,
    /// When it is not paused any more; the year 9999 for a pause without an end.
    pub paused_until: Option<Timestamp>,
    /// Types, or beginnings with `*`; empty for every type. Of run-time ones only, as what follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// jq that has to match besides.
    pub when: Option<String>,
    /// At most so fast.
    pub rate: Option<String>,
    /// References of its secrets, never the values; `generated` for those of our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// When it was registered.
    pub registered_at: Option<Timestamp>,
    /// By whom.
    pub registered_by: Option<String>,
    /// Since when its attempts fail without a success between them.
    pub failing_since: Option<Timestamp>,
    /// How many have.
    pub failures: u64,
    /// Deliveries that wait.
    pub pending: u64,
    /// Dead ones.
    pub dead: u64,
}

/// All subscribers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribers {
    /// By topic and name.
    pub subscribers: Vec<Subscriber>,
}
