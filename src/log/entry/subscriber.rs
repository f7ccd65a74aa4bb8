//! Owns what the log says about subscribers that are registered at run time: their registration, whole.
//!
//! Promises that a secret leaves a registration only for the log itself and for whoever signs: it has no `Display`, and
//! its `Debug` shows nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A subscriber that was registered at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The topic that it gets.
    pub topic: Box<str>,
    /// Its own name, under the topic.
    pub name: Box<str>,
    /// Where its events go.
    pub url: Box<str>,
    /// Types of events, or beginnings with `*`; empty for every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<Box<str>>,
    /// jq that has to match besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Box<str>>,
    /// What its deliveries are signed with, the newest first.
    pub secrets: Vec<SigningSecret>,
    /// How fast, such as `10/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Box<str>>,
    /// When it was registered, milliseconds since the epoch.
    pub since_ms: u64,
    /// Who registered it.
    pub by: String,
}

impl Registration {
    /// The name of the upstream that it is.
    #[must_use]
    pub fn upstream(&self) -> Box<str> {
        format!("{}/{}", self.topic, self.name).into()
    }
}

/// A secret of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecret {
    /// The reference, or the secret itself as `literal:…`.
    pub secret: StoredSecret,
    /// After a rotation: until when it still signs, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// A reference to a secret, or a secret that was generated and stands in the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct StoredSecret(String);

impl StoredSecret {
    /// From `env:NAME`, `file:/path`, `credential:NAME` or `literal:VALUE`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text, for whoever resolves it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Why a registration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Written {
    /// It is new.
    Added,
    /// It has another secret.
    SecretRotated,
    /// Its segment goes: nothing is different.
    Carried,
}

/// Attempts that have failed without a success between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// When the first of them failed, milliseconds since the epoch.
    pub since_ms: u64,
    /// How many.
    pub attempts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::{Action, Command, decode_json, encode_json};

    #[test]
    fn a_secret_is_stored_and_shown_nowhere() {
        let registration = Registration {
            topic: "orders".into(),
            name: "crm".into(),
            url: "https://crm.example/hook".into(),
            types: vec!["invoice.*".into()],
            when: None,
            secrets: vec![SigningSecret { secret: StoredSecret::new("literal:whsec_c2VjcmV0"), until_ms: Some(5) }],
            rate: None,
            since_ms: 4,
            by: "me".into(),
        };
        let action = Action::PutSubscriber {
            written: Written::Added,
            registration: Box::new(registration),
            streak: Some(Streak { since_ms: 1, attempts: 2 }),
        };
        let command = Command::new("me", action);
        assert!(!format!("{command:?}").contains("c2VjcmV0"), "{command:?}");
        assert_eq!(decode_json::<Command>(&encode_json(&command)), Some(command));
    }
}
