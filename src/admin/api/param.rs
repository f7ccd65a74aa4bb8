//! Owns the parameters that queries may have: their names, their forms, and those that several routes share.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::clock::Timestamp;

/// A parameter of a query.
pub(in crate::admin) struct Param {
    /// Its name.
    pub(in crate::admin) name: &'static str,
    /// What it must look like.
    pub(in crate::admin) kind: Kind,
    /// What it means.
    pub(in crate::admin) about: &'static str,
    /// Whether it must be given.
    pub(in crate::admin) required: bool,
}

/// The form of a parameter.
pub(in crate::admin) enum Kind {
    /// Any text.
    Text,
    /// RFC 3339 with a zone.
    Time,
    /// A whole number in a range.
    Number(RangeInclusive<u64>),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// What an earlier answer gave as `next`.
    Cursor,
}

impl Kind {
    /// What it wants, if that is not what it has got.
    pub(super) fn wants(&self, value: &str) -> Option<String> {
        match self {
            Self::Text if value.is_empty() => Some("a text: it is empty".to_owned()),
            Self::Text => None,
            Self::Time => Timestamp::parse_rfc3339(value)
                .is_none()
                .then(|| "a time since 1970 in RFC 3339 with a zone".to_owned()),
            Self::Number(range) => {
                let fits = value.parse().is_ok_and(|number| range.contains(&number));
                (!fits).then(|| format!("a whole number from {} to {}", range.start(), range.end()))
            }
            Self::Flag => (!matches!(value, "true" | "false")).then(|| "true or false".to_owned()),
            Self::OneOf(words) => (!words.contains(&value)).then(|| format!("one of {}", words.join(", "))),
            Self::Cursor => u64::from_str_radix(value, 16).is_err().then(|| "what an answer gave as next".to_owned()),
        }
    }

    /// The same as a JSON Schema.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Text => json!({"type": "string", "minLength": 1}),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::Number(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
            Self::Flag => json!({"type": "boolean"}),
            Self::OneOf(words) => json!({"type": "string", "enum": words}),
            Self::Cursor => json!({"type": "string", "pattern": "^[0-9a-f]{1,16}$"}),
        }
    }
}

const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param { name, kind, about, required: false }
}

/// States of events and deliveries.
const STATES: &[&str] = &["pending", "held", "review", "dead", "delivered", "superseded", "ignored", "unrouted"];

/// Which part of the queue.
pub(in crate::admin) const QUEUE: &[Param] =
    &[optional("state", Kind::OneOf(&["pending", "held", "dead"]), "Deliveries in this state; else pending and held.")];

/// Whether what is imported is delivered.
pub(in crate::admin) const DELIVER: &[Param] =
    &[optional("deliver", Kind::Flag, "Route and deliver the events as if they came now.")];

/// FILTERS of the command line.
pub(in crate::admin) const FILTERS: &[Param] = &[
    optional("source", Kind::Text, "The source's name."),
    optional("upstream", Kind::Text, "A delivery to this upstream."),
    optional("route", Kind::Text, "What this configured route takes today."),
    optional("type", Kind::Text, "The event type."),
    optional("tenant", Kind::Text, "Whose event it is."),
    optional("state", Kind::OneOf(STATES), "The state of the event or of one of its deliveries."),
    optional("status", Kind::Text, "The last answer's status: `503`, `5xx`."),
    optional("reason", Kind::Text, "Why a delivery is dead or held: a code, or a part of the text."),
    optional("since", Kind::Time, "Received then or later."),
    optional("until", Kind::Time, "Received before."),
    optional("grep", Kind::Text, "A text in headers, path, query or decoded body."),
    optional("where", Kind::Text, "A jq expression that is true."),
];

/// The most things on one page.
const PAGE_MAX: u64 = 500;

/// Things on a page unless something else is said.
pub(in crate::admin) const PAGE: u64 = 50;

/// Which page of a listing.
pub(in crate::admin) const PAGES: &[Param] = &[
    optional("after", Kind::Cursor, "Go on where an earlier answer ended: its `next`."),
    optional("limit", Kind::Number(1..=PAGE_MAX), "At most so many; 50 if it is not given."),
];

/// Whether credentials are shown.
pub(in crate::admin) const REVEAL: &[Param] =
    &[optional("reveal", Kind::Flag, "Show what is hidden. Takes the role `operate`, and is recorded.")];

/// Requests with higher numbers.
pub(in crate::admin) const NUMBERS: &[Param] =
    &[optional("after", Kind::Number(0..=u64::MAX), "Only those with numbers above this.")];

/// For how long a configuration is on probation.
pub(in crate::admin) const PROBATION: &[Param] = &[optional(
    "probation_ms",
    Kind::Number(1_000..=86_400_000),
    "Go back to the configuration before if refusals or failures jump in this time.",
)];

/// One upstream.
pub(in crate::admin) const UPSTREAM: &[Param] = &[optional("upstream", Kind::Text, "Of this upstream only.")];

/// Which deliveries.
pub(in crate::admin) const DELIVERIES: &[Param] = &[
    Param {
        name: "state",
        kind: Kind::OneOf(&["dead", "held", "review"]),
        about: "The state; of others no list is kept: ask for events.",
        required: true,
    },
    optional("upstream", Kind::Text, "Of this upstream only."),
];

/// Which dead letters.
pub(in crate::admin) const DEAD: &[Param] = UPSTREAM;

/// Which requests in quarantine.
pub(in crate::admin) const KEPT: &[Param] = &[
    optional("source", Kind::Text, "The source that refused it."),
    optional("tenant", Kind::Text, "Whose request it is."),
    optional("status", Kind::Text, "The answer's status: `401`, `4xx`."),
    optional("reason", Kind::Text, "Why it was refused."),
    optional("since", Kind::Time, "Received then or later."),
    optional("until", Kind::Time, "Received before."),
    optional("grep", Kind::Text, "A text in headers, path, query or decoded body."),
    optional("where", Kind::Text, "A jq expression that is true."),
];

/// Which deeds.
pub(in crate::admin) const TRAIL: &[Param] = &[
    optional("since", Kind::Time, "Done then or later."),
    optional("until", Kind::Time, "Done before."),
    optional("actor", Kind::Text, "By whom: a part of the name."),
    optional("action", Kind::Text, "What was done, in a word: `replay`, `reveal`, `login_failed`."),
];
