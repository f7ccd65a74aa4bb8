//! Owns what is said about an alert: the notice as an event.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rules::{Rule, Severity, Subjects};
use crate::clock::Timestamp;

/// An alert that stands, or stood.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Alert {
    /// Which rule.
    pub rule: Rule,
    /// Which upstream, source or part.
    pub subject: Box<str>,
    /// How bad it is, at its worst.
    pub severity: Severity,
    /// When it was raised.
    pub since: Timestamp,
    /// In a sentence. Holds no text from outside.
    pub text: String,
}

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// It is new.
    Raised,
    /// It is worse than when it was told last.
    Worsened,
    /// It still stands.
    Repeated,
    /// It is over.
    Resolved,
}

impl News {
    /// The type of the event.
    #[must_use]
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::Raised => "alert.raised",
            Self::Worsened => "alert.worsened",
            Self::Repeated => "alert.repeated",
            Self::Resolved => "alert.resolved",
        }
    }
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// What happened.
    pub news: News,
    /// To which alert.
    pub alert: Alert,
    /// When.
    pub at: Timestamp,
}

impl Notice {
    /// The type of an event that tries a destination.
    pub const TEST_TYPE: &'static str = "alert.test";

    /// What is the same for the same notice and for no other: a notice that is published twice is a duplicate.
    #[must_use]
    pub fn key(&self) -> String {
        let Alert { rule, subject, since, .. } = &self.alert;
        format!("{} {} {subject} {since} {}", self.news.event_type(), rule.as_str(), self.at)
    }

    /// The body of the event. `node` is the host's name.
    #[must_use]
    pub fn payload(&self, node: &str) -> Value {
        let Alert { rule, subject, severity, since, text } = &self.alert;
        let word = self.news.event_type().trim_start_matches("alert.");
        let (upstream, source) = match rule.subjects() {
            Subjects::Upstreams => (Some(subject), None),
            Subjects::Sources => (None, Some(subject)),
            Subjects::Parts => (None, None),
        };
        json!({
            "type": self.news.event_type(),
            "timestamp": self.at,
            "data": {
                "rule": rule.as_str(),
                "state": word,
                "severity": severity.as_str(),
                "subject": subject,
                "upstream": upstream,
                "source": source,
                "since": since,
                "node": node,
                "text": format!("[{}] {word} on {node}: {text}", severity.as_str()),
            }
        })
    }

    /// The body of an event that tries the destination `to`.
    #[must_use]
    pub fn test_payload(to: &str, at: Timestamp, node: &str) -> Value {
        json!({
            "type": Self::TEST_TYPE,
            "timestamp": at,
            "data": {
                "rule": "test",
                "state": "test",
                "severity": Severity::Info.as_str(),
                "subject": "",
                "upstream": null,
                "source": null,
                "since": at,
                "node": node,
                "to": to,
                "text": format!("test on {node}: alerts for {to} arrive here"),
            }
        })
    }
}

/// How many notices of one severity there were in an hour besides those that were told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Withheld {
    /// Of which severity.
    pub severity: Severity,
    /// How many, by rule.
    pub rules: BTreeMap<Rule, u64>,
    /// When the hour began.
    pub since: Timestamp,
    /// When it was over.
    pub at: Timestamp,
}

impl Withheld {
    /// The type of the event.
    pub const TYPE: &'static str = "alert.withheld";

    pub(super) fn key(&self) -> String {
        format!("{} {} {}", Self::TYPE, self.severity.as_str(), self.since)
    }

    pub(super) fn payload(&self, node: &str) -> Value {
        let Self { severity, rules, since, at } = self;
        let count: u64 = rules.values().sum();
        let severity = severity.as_str();
        let told: Vec<String> = rules.iter().map(|(rule, count)| format!("{count} {}", rule.as_str())).collect();
        let told = told.join(", ");
        json!({
            "type": Self::TYPE,
            "timestamp": at,
            "data": {
                "rule": null,
                "state": "withheld",
                "severity": severity,
                "subject": "",
                "upstream": null,
                "source": null,
                "since": since,
                "node": node,
                "count": count,
                "rules": rules,
                "text": format!(
                    "[{severity}] withheld on {node}: {count} more in an hour ({told}); `stagepost alerts` lists what stands"
                ),
            }
        })
    }
}
