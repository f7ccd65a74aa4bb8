//! Owns the forms of `stagepost status`: upstreams, their targets, the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;
use crate::clock::Timestamp;

/// `status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Status {
    pub version: String,
    pub node: String,
    pub uptime_s: u64,
    pub config: ConfigInfo,
    pub upstreams: Vec<Upstream>,
    pub store: Store,
    pub quarantine: Quarantine,
    /// What is missing of the events of senders who count them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gaps>,
}

/// What is missing of a source's events, by the numbers that its sender gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gaps {
    /// The source.
    pub source: String,
    /// The highest number so far; None if none has come since the start.
    pub highest: Option<u64>,
    /// Numbers that are missing.
    pub missing: u64,
    /// First and last number of each gap, ascending; the newest 256.
    pub ranges: Vec<(u64, u64)>,
}

/// The active configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct ConfigInfo {
    pub hash: String,
    pub loaded_at: Timestamp,
    /// Until then it is on probation; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_until: Option<Timestamp>,
}

/// An upstream's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Upstream {
    pub name: String,
    /// `closed`, `open` or `half-open`.
    pub breaker: String,
    /// Held by an operator until then; null for a hold without an end, and if it is not held.
    pub held_until: Option<Timestamp>,
    /// Held by an operator since then. Absent if it is not held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// In the operator's words.
    #[serde(default)]
    pub held_reason: Option<String>,
    pub pending: u64,
    /// Deliveries held, one by one or because the upstream is held.
    #[serde(default)]
    pub held: u64,
    pub dead: u64,
    /// Deliveries whose answer a person must judge.
    #[serde(default)]
    pub review: u64,
    pub oldest_at: Option<Timestamp>,
    pub in_flight: u64,
    /// Deliveries a second, over the last minute or so.
    pub rate: f64,
    /// Attempts that may be under way at once now.
    #[serde(default)]
    pub concurrency_limit: u64,
    /// Attempts that may begin in a second, by the configuration and by what the upstream says; None: any number.
    #[serde(default)]
    pub rate_limit: Option<f64>,
    /// Deliveries wait until then …
    #[serde(default)]
    pub throttled_until: Option<Timestamp>,
    /// … because of `rate` (the configuration), `rate_headers` (what the upstream says), `retry_after` (it asked for a
    /// pause), `handshake` (it has not permitted deliveries; it is asked again then) or `allowed_rate` (what it permitted).
    #[serde(default)]
    pub throttled_by: Option<String>,
    /// Its targets, if it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<UpstreamTarget>,
    /// Why it is disabled: it gets nothing. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<String>,
    /// The upstreams that get copies of what it answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<String>,
    /// What came of asking it for its permission: `granted`, `asked`, or `refused` or `unanswered` with the reason behind
    /// a colon. Absent if it need not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<String>,
    /// How attempts fail in a rehearsal: a status, `hang` or `reset`. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<String>,
    /// When the rehearsal ends by itself. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal_until: Option<Timestamp>,
}

/// One of several targets of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamTarget {
    /// As configured.
    pub url: String,
    /// `up`, `ejected`, `unhealthy` or `drained`.
    pub state: String,
    /// When an ejected one comes back.
    pub ejected_until: Option<Timestamp>,
    /// Attempts under way.
    pub in_flight: u64,
    /// When an operator took it out; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
    /// Who did; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_by: Option<String>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_reason: Option<String>,
}

/// What `stagepost drain` and `undrain` ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drain {
    /// Which upstream.
    pub upstream: String,
    /// Which target: its url, or its host and port.
    pub target: String,
    /// It gets attempts again.
    #[serde(default)]
    pub undo: bool,
    /// Even if no other target works.
    #[serde(default)]
    pub force: bool,
    /// In the operator's words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What became of [`Drain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// Which upstream.
    pub upstream: String,
    /// Which target, by its url.
    pub target: String,
    /// It gets no new attempts.
    pub drained: bool,
    /// That was not so before.
    pub changed: bool,
    /// Attempts that were under way at it.
    pub in_flight: u64,
    /// Other targets that work.
    pub left: u64,
}

/// What `stagepost rehearse` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rehearse {
    /// Which upstream.
    pub upstream: String,
    /// How its attempts fail; None ends a rehearsal.
    pub fault: Option<Fault>,
    /// For how long.
    pub for_ms: Option<u64>,
}

/// What became of [`Rehearse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsed {
    /// Which upstream.
    pub upstream: String,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// One was under way and has ended.
    pub ended: bool,
}

/// The log's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Store {
    pub bytes: u64,
    pub limit: u64,
    /// When the budget is used up if nothing is delivered and events come as they do now: how long an outage may
    /// last. None if nothing comes.
    pub full_at: Option<Timestamp>,
    pub segments: u64,
    pub oldest_at: Option<Timestamp>,
}

/// What was refused after reading and kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are defined in the contract, section 6")]
pub struct Quarantine {
    pub count: u64,
    pub bytes: u64,
}
