//! Owns the table of presets: one row for each provider, which says how its requests prove themselves and what is known
//! of its events, answers and habits. A new provider is a row and a published vector.
//!
//! Promises that every row can be compiled. Deliberately absent: code for single providers; where a scheme needs some,
//! it is a module of `verify`, and a challenge is answered by `ingress`.
//!
//! What a row says comes from the provider's own documentation or official SDK; windows that are not documented are left
//! out rather than guessed.

mod others;
pub mod samples;
mod signed;
mod stamped;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::{
    expr::{CompileError, Expr},
    routing::{Challenge, ItemRule, KeySelector, Reply},
    verify::Proof,
};

/// A provider, as far as a source needs to know it.
#[derive(Debug)]
pub struct Preset {
    /// What `verify.scheme` says.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// How a request proves that it is genuine.
    pub proof: Proof,
    /// The methods of its events; challenges may come with others.
    pub methods: &'static [&'static str],
    /// What it wants to hear when an event is taken, and when it was known already.
    pub answer: Answer,
    /// What makes two requests one event; None if nothing does.
    pub dedupe: Option<KeyPlan>,
    /// How long the first acceptance counts, unless the configuration says.
    pub window: Duration,
    /// For how long the provider is known to send again what was not taken.
    pub retries_for: Option<Duration>,
    /// Where the event type stands.
    pub event_type: Option<KeyPlan>,
    /// Where the items of a batch stand.
    pub items: Option<ItemPlan>,
    /// What it asks of an endpoint before it sends events.
    pub challenge: Option<Challenge>,
    /// The largest body that it sends, in bytes, if that is more than the usual limit.
    pub max_body: Option<u64>,
    /// How its events are numbered.
    pub numbering: Option<NumberingPlan>,
}

/// What a provider wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The default: 202 with the id, 200 for a duplicate.
    Id,
    /// Always this.
    Fixed {
        /// A status from 200 to 299.
        status: u16,
        /// With its body; empty if there is none.
        content_type: &'static str,
        /// May be empty.
        body: &'static str,
    },
}

/// Where a key or type stands, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPlan {
    /// In a header.
    Header(&'static str),
    /// By jq.
    Jq(&'static str),
    /// The body's hash.
    BodyHash,
    /// All of these.
    Joined(&'static [KeyPlan]),
    /// The first that is there.
    FirstOf(&'static [KeyPlan]),
    /// `TYPE` or `TYPE.ACTION`.
    Dotted(&'static [KeyPlan; 2]),
    /// The keys of a batch's items.
    Items(ItemPlan),
    /// The type that a batch's items have in common, or `batch`.
    ItemTypes(ItemPlan),
    /// The ids of the notifications of a Salesforce message.
    Notifications,
}

/// Where the items of a batch stand, as text; see [`ItemRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemPlan {
    /// The way to the items.
    pub array: &'static str,
    /// The ways to what makes an item's key.
    pub key: &'static [&'static str],
    /// The way to an item's type.
    pub kind: Option<&'static str>,
}

/// How events are numbered, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberingPlan {
    /// Where the number stands.
    pub key: KeyPlan,
    /// Whether the next event has the next number.
    pub consecutive: bool,
}

/// The preset of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Preset> {
    all().find(|preset| preset.name == name)
}

/// All presets, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Preset> + Clone {
    signed::ROWS.iter().chain(stamped::ROWS).chain(others::ROWS)
}

impl Preset {
    /// Its methods.
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        self.methods.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
    }

    /// Its answer, if that is not the default one.
    #[must_use]
    pub fn reply(&self) -> Option<Reply> {
        let Answer::Fixed { status, content_type, body } = self.answer else { return None };
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let body = Bytes::from_static(body.as_bytes());
        Some(Reply { status: StatusCode::from_u16(status).ok()?, headers, body })
    }
}

impl KeyPlan {
    /// Compiles it.
    ///
    /// # Errors
    /// If its jq is none, which a test of the table rules out.
    pub fn selector(&self) -> Result<KeySelector, CompileError> {
        let each = |parts: &[Self]| parts.iter().map(Self::selector).collect::<Result<Vec<_>, _>>();
        Ok(match self {
            Self::Header(name) => KeySelector::Header(http::HeaderName::from_static(name)),
            Self::Jq(text) => KeySelector::Expr(Expr::compile(text)?),
            Self::BodyHash => KeySelector::BodyHash,
            Self::Joined(parts) => KeySelector::Joined(each(parts)?),
            Self::FirstOf(parts) => KeySelector::FirstOf(each(parts)?),
            Self::Dotted([kind, action]) => KeySelector::Dotted(Box::new([kind.selector()?, action.selector()?])),
            Self::Items(plan) => KeySelector::Items(std::sync::Arc::new(plan.rule())),
            Self::ItemTypes(plan) => KeySelector::ItemTypes(std::sync::Arc::new(plan.rule())),
            Self::Notifications => KeySelector::Notifications,
        })
    }
}

impl std::fmt::Display for KeyPlan {
    /// For people: `X-GitHub-Delivery`, `.id`, `body hash`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, parts: &[Self], between: &str| {
            for (index, part) in parts.iter().enumerate() {
                let before = if index == 0 { "" } else { between };
                write!(f, "{before}{part}")?;
            }
            Ok(())
        };
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Jq(text) => f.write_str(text),
            Self::BodyHash => f.write_str("hash of the body"),
            Self::Joined(parts) => list(f, parts, " and "),
            Self::FirstOf(parts) => list(f, parts, ", else "),
            Self::Dotted(parts) => list(f, &parts[..], ", with "),
            Self::Items(plan) => write!(f, "{} of each item of {plan}", plan.key.join(" and ")),
            Self::ItemTypes(plan) => write!(f, "{} of the items of {plan}", plan.kind.unwrap_or_default()),
            Self::Notifications => f.write_str("Id of each Notification"),
        }
    }
}

impl std::fmt::Display for ItemPlan {
    /// The way to the items, for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.array == "[]" { "the list" } else { self.array })
    }
}

impl ItemPlan {
    /// Makes the rule.
    #[must_use]
    pub fn rule(&self) -> ItemRule {
        ItemRule {
            array: self.array.into(),
            key: self.key.iter().map(|path| (*path).into()).collect(),
            kind: self.kind.map(Into::into),
        }
    }
}

// The words of the table.

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The window of keys that are unique.
const WEEK: Duration = Duration::from_secs(7 * DAY);
/// The window of keys that are the body's hash: bodies may repeat, so it is no longer than retries need.
const BODY_WINDOW: Duration = Duration::from_secs(HOUR);

const EMPTY_200: Answer = Answer::Fixed { status: 200, content_type: "", body: "" };
const EMPTY_202: Answer = Answer::Fixed { status: 202, content_type: "", body: "" };
const EMPTY_204: Answer = Answer::Fixed { status: 204, content_type: "", body: "" };

/// What most rows have in common: POST, an empty 200, and nothing known of its events.
const ROW: Preset = Preset {
    name: "",
    title: "",
    proof: Proof::BearerIfSet,
    methods: &["POST"],
    answer: EMPTY_200,
    dedupe: None,
    window: WEEK,
    retries_for: None,
    event_type: None,
    items: None,
    challenge: None,
    max_body: None,
    numbering: None,
};

const fn hours(hours: u64) -> Option<Duration> {
    Some(Duration::from_secs(hours * HOUR))
}

const fn minutes(minutes: u64) -> Option<Duration> {
    Some(Duration::from_secs(minutes * MINUTE))
}
