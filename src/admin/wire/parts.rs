//! Owns the forms of what the API lists: pages of events, deliveries and deeds; sources, routes, segments, the
//! configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Line, Quarantined, Upstream};
use crate::clock::Timestamp;

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsPage {
    /// Newest first.
    pub events: Vec<Line>,
    /// What the operator must know: damage, an expression that failed.
    pub notes: Vec<String>,
    /// Go on with `after` = this. A page may be short, or empty, and not be the last: a search stops now and then.
    pub next: Option<String>,
}

/// A delivery in a listing of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedDelivery {
    /// The event.
    pub event: String,
    /// When that was received.
    pub received_at: Timestamp,
    /// Its source.
    pub source: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Where it goes.
    pub upstream: String,
    /// What became of it.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is dead, held or in review.
    pub reason: Option<String>,
    /// When something happens by itself.
    pub due_at: Option<Timestamp>,
}

/// A page of deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveriesPage {
    /// In the order of the log, oldest first.
    pub deliveries: Vec<ListedDelivery>,
    /// What the operator must know: damage.
    pub notes: Vec<String>,
    /// Go on with `after` = this.
    pub next: Option<String>,
}

/// A page of the quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuarantinePage {
    /// Newest first.
    pub requests: Vec<Quarantined>,
    /// What the operator must know: damage, an expression that failed.
    pub notes: Vec<String>,
    /// Go on with `after` = this.
    pub next: Option<String>,
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Audited {
    /// Of its entry in the log.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Who: `uid 1000 (alice)`, `token ops`, `SIGHUP`, `relay`.
    pub actor: String,
    /// From where: `socket`, `signal`, a client's address.
    pub origin: Option<String>,
    /// What: `replay`, `hold_upstream`, `reload`, `reveal`, `login_failed`, …
    pub action: String,
    /// To what, as far as it has names: upstreams, ids; the first of them.
    pub targets: Vec<String>,
    /// How many deliveries, events or things.
    pub count: u64,
    /// What was asked for: ids and filters.
    pub asked: Option<String>,
    /// In the operator's words.
    pub reason: Option<String>,
    /// A hold that ends by itself then.
    pub until: Option<Timestamp>,
}

/// A page of the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditedPage {
    /// Newest first.
    pub entries: Vec<Audited>,
    /// What the operator must know: damage.
    pub notes: Vec<String>,
    /// Go on with `after` = this.
    pub next: Option<String>,
}

/// A configured source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// None: any.
    pub host: Option<String>,
    /// As configured.
    pub path: String,
    /// None: all.
    pub methods: Option<Vec<String>>,
    /// Who checks: `none`, `hmac`, `stripe`, …
    pub scheme: String,
    /// `store` or `proxy`.
    pub mode: String,
    /// Whether resends are recognised.
    pub deduplicates: bool,
    /// Whether refused requests are kept.
    pub quarantine: bool,
    /// The largest body, in bytes.
    pub max_body: u64,
    /// Requests since the start, by result.
    pub requests: BTreeMap<String, u64>,
    /// Resends since the start.
    pub duplicates: u64,
}

/// A configured route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// None: all.
    pub sources: Option<Vec<String>>,
    /// Its filter, jq. None: always.
    pub when: Option<String>,
    /// Under which topic it publishes.
    pub topic: Option<String>,
    /// Its upstreams; empty discards on purpose.
    pub to: Vec<String>,
    /// What it makes of the body, jq.
    pub transform: Option<String>,
    /// Whether it asks for an order.
    pub is_ordered: bool,
}

/// The upstreams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Upstreams {
    /// By name.
    pub upstreams: Vec<Upstream>,
}

/// The sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sources {
    /// In the order in which a path is looked up.
    pub sources: Vec<Source>,
}

/// The routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Routes {
    /// As configured; subscribers' own at the end.
    pub routes: Vec<Route>,
}

/// A stretch of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// Ascending.
    pub number: u64,
    /// Its first sequence number.
    pub first: u64,
    /// The sequence number after its last.
    pub end: u64,
    /// Time of its first entry.
    pub first_at: Option<Timestamp>,
    /// Time of its last entry; None if it is written to.
    pub last_at: Option<Timestamp>,
    /// Bytes on disk.
    pub bytes: u64,
    /// It is a flat file and does not change any more.
    pub sealed: bool,
}

/// The segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segments {
    /// Oldest first.
    pub segments: Vec<Segment>,
}

/// The active configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Configuration {
    /// Its hash; also the answer's `ETag`.
    pub hash: String,
    /// Since when.
    pub loaded_at: Timestamp,
    /// All of it as TOML, defaults included, secrets as references.
    pub text: String,
}
