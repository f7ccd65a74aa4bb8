//! Owns the forms of `stagepost alerts`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// Which rule.
    pub rule: String,
    /// `info`, `warning` or `critical`: the worst so far.
    pub severity: String,
    /// Which upstream, source or part of the relay.
    pub subject: String,
    /// The upstream, if it is about one.
    pub upstream: Option<String>,
    /// The source, if it is about one.
    pub source: Option<String>,
    /// When it was raised.
    pub since: Timestamp,
    /// In a sentence.
    pub text: String,
}

/// A request to try a destination of alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestAlert {
    /// Its name.
    pub to: String,
}

/// The event that tries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestedAlert {
    /// Its id.
    pub id: String,
}
