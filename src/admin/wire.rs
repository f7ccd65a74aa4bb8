//! Owns the wire types: the JSON of the admin socket and of the CLI's `--json`.
//!
//! Promises the names of the contract. Times are RFC 3339, sizes bytes, durations `_ms` or `_s`; ids are texts.

mod alerts;
mod job;
mod parts;
mod plan;
mod queue;
mod status;
mod subscribers;
mod transfer;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use self::alerts::{Alert, TestAlert, TestedAlert};
pub use self::job::{Job, job_id, job_seq};
pub use self::parts::{
    Audited, AuditedPage, Configuration, DeliveriesPage, EventsPage, ListedDelivery, QuarantinePage, Route, Routes,
    Segment, Segments, Source, Sources, Upstreams,
};
pub use self::plan::{Difference, PlanAsk, PlanEvent, PlanReply, PlanSummary};
pub use self::queue::{Queue, QueueRow};
pub use self::status::{
    ConfigInfo, Drain, Draining, Gaps, Quarantine, Rehearse, Rehearsed, Status, Store, Upstream, UpstreamTarget,
};
pub use self::subscribers::{PauseSubscriber, RotateSecret, Subscribe, Subscriber, SubscriberDone, Subscribers};
pub use self::transfer::{
    BackupAsk, BackupPoint, EXPORT_FORMAT, Export, ExportReply, Exported, ExportedProxy, Imported, Importing,
};
use crate::clock::Timestamp;
pub use crate::log::entry::Fault;

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

/// Bytes from outside: text if they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Text {
    /// UTF-8.
    Plain(String),
    /// Anything else.
    Encoded {
        /// Standard alphabet, padded.
        base64: String,
    },
}

impl Text {
    /// From bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Encoded { base64: STANDARD.encode(bytes) },
        }
    }

    /// The bytes again.
    #[must_use]
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text.as_bytes()),
            Self::Encoded { base64 } => Cow::Owned(STANDARD.decode(base64).unwrap_or_default()),
        }
    }
}

/// An event in `log --json`, generic over what it tells about a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Line<D = Delivery> {
    pub id: String,
    pub received_at: Timestamp,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    pub method: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
    pub state: String,
    pub deliveries: Vec<D>,
    /// Of an item of a batch: the id of the batch. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Which item of the batch, from 0. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// Whose event it is, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The first violation of the source's schema. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation: Option<String>,
    /// It was imported: the id under which it had been exported. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// What was noticed about it at the door, in words. Absent if nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A delivery in `log --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Delivery {
    pub upstream: String,
    pub state: String,
    pub attempts: u32,
    pub reason: Option<String>,
    pub due_at: Option<Timestamp>,
}

/// `show --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Show {
    #[serde(flatten)]
    pub event: Line<ShownDelivery>,
    pub query: Option<String>,
    pub headers: Vec<(String, Text)>,
    pub client: String,
    pub verification: Verification,
    pub schema_version: Option<String>,
    pub answered: Option<String>,
    /// Whose answer its sender got once more. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<Cached>,
    pub duplicates: u64,
    /// Of these, how many had another body.
    #[serde(default)]
    pub body_differs: u64,
    pub config: Option<String>,
    /// `http` or `https`: how the sender reached us.
    pub scheme: String,
    /// Routing has decided where it goes.
    pub planned: bool,
    /// Headers, and with a question mark parameters of the query, whose values are not shown.
    pub hidden: Vec<String>,
    /// Why the body can't be read; it then has no `sha256`. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_lost: Option<String>,
}

/// Whose answer was given once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cached {
    /// The event that was answered first, if it was stored.
    pub event: Option<String>,
    /// The upstream that was not asked again; None for GET, HEAD and OPTIONS.
    pub upstream: Option<String>,
}

/// How a request was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Verification {
    pub scheme: String,
    pub result: String,
    /// The reference, never the value.
    pub secret: Option<String>,
}

/// A delivery in `show --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct ShownDelivery {
    pub upstream: String,
    pub state: String,
    pub reason: Option<String>,
    pub due_at: Option<Timestamp>,
    pub in_flight: bool,
    /// The event whose delivery goes before this one, since both have the same key. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// How often it was tried; more than there are `attempts` if the beginning of its history is no longer stored.
    pub attempts_total: u32,
    pub attempts: Vec<Attempt>,
    /// Why some attempts can't be read: they lie in a damaged part of the log. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// The event that its answer became. Absent if it became none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
}

/// One attempt in `show --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Attempt {
    pub number: u32,
    pub at: Timestamp,
    pub outcome: String,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub latency_ms: u32,
    pub excerpt: Text,
    pub sent: Sent,
}

/// What an attempt sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Sent {
    pub url: String,
    pub sha256: String,
    /// How we signed it. Absent if we did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
}

/// How an attempt was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signed {
    /// `standard-webhooks`, `hmac`, or the scheme of the event's source.
    pub scheme: String,
    /// The references of the secrets, with commas, never the values.
    pub secret: Option<String>,
}

/// A reload that took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Hash of what is active now.
    pub hash: String,
    /// Whether anything is different from before.
    pub changed: bool,
    /// Warnings, and what needs a restart to take effect.
    pub messages: Vec<String>,
    /// Until then it goes back to the configuration before if refusals or failures jump; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_until: Option<Timestamp>,
}

/// A reload that was refused; the old configuration is still active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadRefused {
    /// All problems, each with file, line and key.
    pub problems: Vec<String>,
}

/// One blocked key in `keys --json`: its first delivery failed, is held, or is dead and parks the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedKey {
    /// Its upstream.
    pub upstream: String,
    /// The key, unless the body that it stands in is too large to be read for that.
    pub key: Option<String>,
    /// The event of the first delivery.
    pub event: String,
    /// The state of that.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is held or dead.
    pub reason: Option<String>,
    /// When it is tried again.
    pub due_at: Option<Timestamp>,
    /// When its event was accepted.
    pub since: Timestamp,
    /// How many wait behind it.
    pub waiting: u64,
}

/// One refused request in `refused --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Ascending; what `-f` follows.
    pub number: u64,
    /// Wall time.
    pub at: Timestamp,
    /// A word.
    pub reason: String,
    /// If the request got as far as that.
    pub source: Option<String>,
    /// The client's address.
    pub client: String,
    /// As received.
    pub method: String,
    /// As received, cut.
    pub path: String,
    /// Bytes of body that were read.
    pub size: u64,
    /// The answer's status.
    pub status: u16,
}

/// FILTERS of the contract, section 5. All that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Filters {
    /// The source's name.
    pub source: Option<String>,
    /// A delivery to this upstream.
    pub upstream: Option<String>,
    /// What a configured route takes today.
    pub route: Option<String>,
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Whose event it is, as the source's `tenant` says; without that what the path captured as `tenant`.
    pub tenant: Option<String>,
    /// The state of the event or of one of its deliveries.
    pub state: Option<String>,
    /// The last answer's status: `503`, `5xx`.
    pub status: Option<String>,
    /// Why a delivery is dead or held: a code, or a part of the text.
    pub reason: Option<String>,
    /// Received then or later.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
    /// A text in headers, path, query or decoded body.
    pub grep: Option<String>,
    /// A jq expression that is true.
    #[serde(rename = "where")]
    pub expression: Option<String>,
}

impl Filters {
    /// Whether none is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The upstream, if that and nothing else is given.
    #[must_use]
    pub fn only_upstream(&self) -> Option<&str> {
        let rest = Self { upstream: None, ..self.clone() };
        self.upstream.as_deref().filter(|_| rest.is_empty())
    }
}

/// The question of `stagepost log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Which events.
    #[serde(default)]
    pub filters: Filters,
    /// How many, counted from the newest.
    pub limit: u64,
    /// Go on with what comes; oldest first.
    #[serde(default)]
    pub follow: bool,
}

/// One line of the answer to [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "almost all of them are events, and none waits anywhere")]
pub enum Reply {
    /// An event.
    Event(Line),
    /// Something the operator must know: damage, an expression that failed.
    Note(String),
    /// The answer ends here because of this.
    Failed(String),
}

/// What an operator does to deliveries or events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Makes deliveries due again.
    Replay,
    /// Holds them.
    Hold,
    /// Lets them go.
    Release,
    /// Takes what was answered for good.
    Resolve,
    /// Hides events.
    Delete,
    /// Gives deliveries up.
    Expire,
    /// Makes deliveries that wait for a retry due now.
    Requeue,
}

impl Verb {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Resolve => "resolve",
            Self::Delete => "delete",
            Self::Expire => "expire",
            Self::Requeue => "requeue",
        }
    }
}

/// A command as the CLI asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// What.
    pub verb: Verb,
    /// Which events, by id.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Which, by filter.
    #[serde(default)]
    pub filters: Filters,
    /// Everything, on purpose.
    #[serde(default)]
    pub all: bool,
    /// Replay to this upstream instead of the event's own.
    pub to: Option<String>,
    /// Replay: microseconds between two deliveries.
    pub interval_us: Option<u64>,
    /// Replay: a fresh idempotency key.
    #[serde(default)]
    pub new_key: bool,
    /// Replay: bodies as they were received, without the routes' transforms.
    #[serde(default)]
    pub original: bool,
    /// Replay: as a job, however few there are.
    #[serde(default)]
    pub job: bool,
    /// Hold: for so many milliseconds.
    pub for_ms: Option<u64>,
    /// Hold, resolve and expire: in the operator's words.
    pub reason: Option<String>,
    /// Select and count, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Only events before this sequence number: what a dry run has counted, nothing newer.
    pub before: Option<u64>,
}

/// What a command did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Acted {
    /// The upstream that was held or released as a whole.
    pub upstream: Option<String>,
    /// Deliveries (events for `delete`) that were changed, or would be.
    pub count: u64,
    /// Different events among them.
    pub events: u64,
    /// Bytes of the bodies that a replay sends.
    #[serde(default)]
    pub bytes: u64,
    /// How long a replay takes, about, by its rate or by what the upstreams took lately. None: that can't be told.
    #[serde(default)]
    pub estimate_s: Option<u64>,
    /// The job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The first of them: id and upstream (none for `delete`), at most 20.
    pub sample: Vec<(String, Option<String>)>,
    /// Ids that lead to no stored event, at most 100.
    pub missing: Vec<String>,
    /// How many ids lead to no stored event.
    pub missing_count: u64,
    /// What was selected but left alone, with the reason, at most 100.
    pub skipped: Vec<String>,
    /// There was more than one command takes: run it again.
    pub truncated: bool,
    /// The end of the log when the selection was made.
    pub before: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// A request in `quarantine list --json`: an event's names where it has the same things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantined {
    /// Its id in quarantine.
    pub id: String,
    /// Wall time.
    pub received_at: Timestamp,
    /// None if no source took its path.
    pub source: Option<String>,
    /// As received.
    pub method: String,
    /// As received.
    pub path: String,
    /// Bytes of the body.
    pub size: u64,
    /// Of the body.
    pub sha256: String,
    /// Why it was refused, in a word.
    pub reason: String,
    /// The answer's status.
    pub status: u16,
    /// The client's address.
    pub client: String,
}

/// Which requests of the quarantine: by id, or by what all of the filters take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pick {
    /// By id.
    pub ids: Vec<String>,
    /// By filter.
    pub filters: Filters,
    /// Everything, on purpose.
    pub all: bool,
}

impl Pick {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.filters.is_empty() && !self.all
    }
}

/// The question of `stagepost quarantine recheck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recheck {
    /// Which; nothing said means all, unless they are to be admitted.
    #[serde(default)]
    pub pick: Pick,
    /// Append those that are taken to the log, and remove them from quarantine.
    #[serde(default)]
    pub admit: bool,
}

/// The question of `stagepost quarantine delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discard {
    /// Which.
    pub pick: Pick,
    /// Count, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What today's configuration says about a request in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rechecked {
    /// Its id in quarantine.
    pub id: String,
    /// Wall time of receipt.
    pub received_at: Timestamp,
    /// The source that refused it.
    pub source: Option<String>,
    /// Why it was refused then.
    pub reason: String,
    /// `verified`, `admitted`, `duplicate`, `no_event` or `refused`.
    pub result: String,
    /// Why it is refused now.
    pub why: Option<String>,
    /// The event that it became, or is a duplicate of.
    pub event: Option<String>,
}

/// One line of an answer about the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineReply {
    /// A request.
    Kept(Quarantined),
    /// A request that was judged again.
    Judged(Rechecked),
    /// An id that leads nowhere.
    Missing(String),
    /// Something the operator must know: damage, an expression that failed.
    Note(String),
    /// The answer ends here because of this.
    Failed(String),
}

/// What is wrong, in an error answer (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// In words.
    pub title: String,
    /// More of them, one a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_every_byte() {
        for bytes in [&b"plain"[..], b"\xff\x00", "ü".as_bytes(), b""] {
            assert_eq!(&*Text::new(bytes).bytes(), bytes);
        }
        assert_eq!(serde_json::to_string(&Text::new(b"\xff")).unwrap(), r#"{"base64":"/w=="}"#);
    }

    #[test]
    fn an_upstream_and_nothing_else_is_recognised() {
        let upstream = Filters { upstream: Some("billing".into()), ..Filters::default() };
        assert_eq!(upstream.only_upstream(), Some("billing"));
        assert_eq!(Filters { source: Some("stripe".into()), ..upstream }.only_upstream(), None);
        assert_eq!(Filters::default().only_upstream(), None);
    }

    #[test]
    fn the_json_of_a_line_has_the_names_of_the_contract() {
        let line = Line {
            id: "ID".into(),
            received_at: Timestamp::from_millis(1_767_323_045_678),
            source: "stripe".into(),
            event_type: None,
            method: "POST".into(),
            path: "/hooks/stripe".into(),
            size: 2,
            sha256: "44".into(),
            state: "pending".into(),
            deliveries: vec![Delivery {
                upstream: "billing".into(),
                state: "pending".into(),
                attempts: 1,
                reason: None,
                due_at: Some(Timestamp::from_millis(1_767_323_046_000)),
            }],
            parent: None,
            item: None,
            tenant: None,
            violation: None,
            imported: None,
            tags: Vec::new(),
        };
        let expected = concat!(
            r#"{"id":"ID","received_at":"2026-01-02T03:04:05.678Z","source":"stripe","type":null,"method":"POST","#,
            r#""path":"/hooks/stripe","size":2,"sha256":"44","state":"pending","deliveries":[{"upstream":"billing","#,
            r#""state":"pending","attempts":1,"reason":null,"due_at":"2026-01-02T03:04:06.000Z"}]}"#,
        );
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), line);
        let item = Line { parent: Some("BATCH".into()), item: Some(2), violation: Some("/a: wrong".into()), ..line };
        let json = serde_json::to_string(&item).unwrap();
        assert!(json.ends_with(r#"],"parent":"BATCH","item":2,"violation":"/a: wrong"}"#), "{json}");
        assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), item);
    }
}
