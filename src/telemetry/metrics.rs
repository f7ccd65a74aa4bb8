//! Owns the metrics: names are exact (contract, section 7), handles are resolved once and then only counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    CacheMetrics, UpgradeMetrics,
    count::{Count, Counter, Gauge, Histogram},
    groups::Groups,
    trace::Traces,
};

/// What becomes of events of a tenant over its limit; a metric label.
pub const OVER: [&str; 3] = ["rejected", "held", "tagged"];

/// Percent of a budget at which a warning is given; a metric label.
pub const BUDGET_LEVELS: [&str; 3] = ["75", "90", "100"];

/// Who answered a sender who waited; a metric label: the upstream, nobody in time, the first answer once more, or an answer
/// to an equal request.
pub const ANSWERED: [&str; 4] = ["upstream", "fallback", "repeated", "cache"];

/// What a subscriber that was registered at run time is; a metric label.
pub const SUBSCRIBER_STATES: [&str; 4] = ["active", "paused", "disabled", "off"];

/// The rules of alerts; a metric label.
pub const ALERT_RULES: [&str; 14] = [
    "failures",
    "dead",
    "errors",
    "refusals",
    "backlog",
    "latency",
    "silence",
    "duplicates",
    "stale",
    "hold",
    "disk",
    "breaker",
    "reload",
    "unavailable",
];

/// All metrics of the process.
#[derive(Default)]
pub struct Metrics {
    sources: Mutex<BTreeMap<Box<str>, Arc<SourceMetrics>>>,
    upstreams: Mutex<BTreeMap<Box<str>, Arc<UpstreamMetrics>>>,
    groups: Mutex<Groups>,
    /// Subscribers that are registered at run time, by index of [`SUBSCRIBER_STATES`].
    pub subscribers: [Gauge; SUBSCRIBER_STATES.len()],
    /// How many may be.
    pub subscribers_limit: Gauge,
    /// Registrations of subscribers that were refused.
    pub subscribers_refused: Counter,
    topics: Mutex<BTreeMap<Box<str>, Arc<TopicMetrics>>>,
    shadows: Mutex<BTreeMap<Box<str>, Arc<ShadowMetrics>>>,
    /// Requests refused before any source was known, by [`RequestResult`] index (404, 400, 408, 431 …).
    pub unmatched: [Counter; RequestResult::ALL.len()],
    /// Connections open now.
    pub connections: Gauge,
    /// Connections refused because of `max_connections`.
    pub connections_refused: Counter,
    /// Senders who wait for an upstream's answer.
    pub waiting_senders: Gauge,
    /// Bytes of bodies in memory now.
    pub body_memory: Gauge,
    /// Bytes of bodies spooled now.
    pub spool_bytes: Gauge,
    /// Requests whose trailers were dropped.
    pub trailers_dropped: Counter,
    /// Duration of the barrier (flush and fdatasync).
    pub fsync: Histogram,
    /// Entries in a commit.
    pub commit_entries: Histogram<Count>,
    /// Bytes of the log on disk.
    pub store_bytes: Gauge,
    /// The budget.
    pub store_limit_bytes: Gauge,
    /// Segments sealed.
    pub seals: Counter,
    /// Checkpoints of the state written.
    pub checkpoints: Counter,
    /// Jobs that go on.
    pub jobs_running: Gauge,
    /// Jobs that wait for something.
    pub jobs_waiting: Gauge,
    /// Deliveries made due by jobs.
    pub job_deliveries: Counter,
    /// Entries of the feed that did not fit in memory and are read from the log.
    pub feed_overflows: Counter,
    /// 1 if the last reload succeeded, else 0.
    pub last_reload_success: Gauge,
    /// Configurations that failed their probation.
    pub reloads_rolled_back: Counter,
    /// Hash of the active configuration.
    pub config_hash: Mutex<String>,
    /// Tenants that reached a share of their budget, by index of [`BUDGET_LEVELS`].
    pub tenant_warnings: [Counter; BUDGET_LEVELS.len()],
    /// Documents with keys that were fetched.
    pub keys_fetched: Counter,
    /// Documents with keys that could not be had.
    pub keys_not_fetched: Counter,
    /// Alerts that stand, by index of [`ALERT_RULES`].
    pub alerts: [Gauge; ALERT_RULES.len()],
    /// Notices of alerts that could not be published and were given up.
    pub alerts_dropped: Counter,
    /// Notices of alerts beyond the limit of an hour.
    pub alerts_withheld: Counter,
    /// Spans on their way out.
    pub traces: Traces,
    /// Expressions killed at a limit.
    pub expressions_killed: Counter,
    /// Requests in quarantine.
    pub quarantine_entries: Gauge,
    /// Bytes of the quarantine's files.
    pub quarantine_bytes: Gauge,
    /// Refused requests that are not in quarantine (any more), by index of [`QuarantineDrop`].
    pub quarantine_drops: [Counter; QuarantineDrop::ALL.len()],
    /// Sessions of the web page.
    pub page_sessions: Gauge,
    /// Requests to the admin address that were refused, by index of [`AdminRefusal`].
    pub admin_refusals: [Counter; AdminRefusal::ALL.len()],
}

/// Why a request to the admin address was refused before it was looked at; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminRefusal {
    /// It shows no token.
    NoToken,
    /// Its token is not one.
    WrongToken,
    /// Too many wrong ones came from there.
    TooManyFailures,
    /// Its token's role is too small.
    Role,
    /// Its token is limited to sources or upstreams.
    Scope,
}

impl AdminRefusal {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 5] = [Self::NoToken, Self::WrongToken, Self::TooManyFailures, Self::Role, Self::Scope];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::TooManyFailures => "too_many_failures",
            Self::Role => "role",
            Self::Scope => "scope",
        }
    }
}

/// Why a refused request is not in quarantine (any more); a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuarantineDrop {
    /// Its client, or all together, sent more than the rate.
    Rate,
    /// Its body is larger than `quarantine.max_body`, or could not be read.
    Unread,
    /// More waited to be written than the queue may hold.
    Busy,
    /// The disk did not take it.
    Unwritable,
    /// Newer ones pushed it out.
    Overflow,
    /// A file was found damaged at a start: one for each, however many were in it.
    Damaged,
}

impl QuarantineDrop {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 6] = [Self::Rate, Self::Unread, Self::Busy, Self::Unwritable, Self::Overflow, Self::Damaged];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Unread => "unread",
            Self::Busy => "busy",
            Self::Unwritable => "unwritable",
            Self::Overflow => "overflow",
            Self::Damaged => "damaged",
        }
    }
}

/// What became of a request at the front door; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words speak for themselves")]
pub enum RequestResult {
    Accepted,
    Duplicate,
    Proxied,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Malformed,
    TimedOut,
    TooLarge,
    Unsupported,
    Unavailable,
    UpstreamFailed,
    Disconnected,
    Challenge,
    Unprocessable,
    Limited,
    Loop,
}

impl RequestResult {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 18] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Proxied,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Malformed,
        Self::TimedOut,
        Self::TooLarge,
        Self::Unsupported,
        Self::Unavailable,
        Self::UpstreamFailed,
        Self::Disconnected,
        Self::Challenge,
        Self::Unprocessable,
        Self::Limited,
        Self::Loop,
    ];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Proxied => "proxied",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Malformed => "malformed",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::UpstreamFailed => "upstream_failed",
            Self::Disconnected => "disconnected",
            Self::Challenge => "challenge",
            Self::Unprocessable => "unprocessable",
            Self::Limited => "limited",
            Self::Loop => "loop",
        }
    }
}

/// Metrics of one source; resolve once, keep the handle.
#[derive(Default)]
pub struct SourceMetrics {
    /// By index of [`RequestResult`].
    pub requests: [Counter; RequestResult::ALL.len()],
    /// Accepted events by type: those named in the configuration, anything else under `other`.
    pub events: Mutex<BTreeMap<Box<str>, Arc<Counter>>>,
    /// Duplicates.
    pub duplicates: Counter,
    /// Requests whose dedupe key was missing, null, empty or no scalar.
    pub without_key: Counter,
    /// Violations of the source's schema.
    pub violations: Counter,
    /// Bodies that were to be split and are no batch.
    pub unsplit: Counter,
    /// Gaps in the numbers of the sender's events.
    pub gaps: Counter,
    /// Numbers that are missing now.
    pub missing: Gauge,
    /// Events of tenants over their rate or budget, by index of [`OVER`].
    pub over_limit: [Counter; OVER.len()],
    /// Tenants that are told apart now.
    pub tenants: Gauge,
    /// Tenants whose place was taken by another.
    pub tenants_displaced: Counter,
    /// Requests that were cut because they came back.
    pub loops: Counter,
    /// Senders who waited, by index of [`ANSWERED`].
    pub answered: [Counter; ANSWERED.len()],
    /// Answers that are kept for equal requests.
    pub cache: Arc<CacheMetrics>,
    /// Connections that became WebSocket connections.
    pub upgrades: Arc<UpgradeMetrics>,
    /// Receipt of the head to the head of the answer, where the sender waits for an upstream's.
    pub reply: Histogram,
    /// Receipt of the head to the answer.
    pub ack: Histogram,
    /// Requests that were refused for their timestamp alone: the signature was right.
    pub stale: Counter,
    /// Absolute clock difference of signed timestamps.
    pub skew: Histogram,
}

/// Metrics of one topic; resolve once, keep the handle.
#[derive(Default)]
pub struct TopicMetrics {
    /// Events that the relay itself published under it.
    pub published: Counter,
}

/// What became of a copy for a shadow; a metric label: answered as the real one was, answered otherwise, not answered, or
/// not sent because too many bytes of copies wait.
pub const SHADOWED: [&str; 4] = ["same", "differs", "failed", "dropped"];

/// What became of the notice of a dead delivery; a metric label: it was published, it was counted with others in one, or it
/// was not told.
pub const NOTICES: [&str; 3] = ["published", "summed", "lost"];

/// Metrics of one shadow; resolve once, keep the handle.
#[derive(Default)]
pub struct ShadowMetrics {
    /// By index of [`SHADOWED`].
    pub copies: [Counter; SHADOWED.len()],
}

/// Metrics of one upstream; resolve once, keep the handle.
#[derive(Default)]
pub struct UpstreamMetrics {
    /// Attempts by outcome: delivered, deferred, refused, degraded.
    pub attempts: [Counter; 4],
    /// Duration of attempts.
    pub attempt: Histogram,
    /// Receipt to delivered.
    pub delivery: Histogram,
    /// Deliveries pending.
    pub pending: Gauge,
    /// Age of the oldest pending delivery, seconds.
    pub oldest_pending_seconds: Gauge,
    /// Dead deliveries by reason code.
    pub dead: Mutex<BTreeMap<&'static str, i64>>,
    /// Deliveries held.
    pub held: Gauge,
    /// Dead deliveries that are to be told of, by index of [`NOTICES`].
    pub notices: [Counter; NOTICES.len()],
    /// Deliveries that wait for a person.
    pub review: Gauge,
    /// Deliveries that went to another upstream in place of this one.
    pub diverted: Counter,
    /// Attempts that were rehearsed.
    pub rehearsed: Counter,
    /// 0 closed, 1 half-open, 2 open.
    pub breaker_state: Gauge,
    /// Attempts under way.
    pub in_flight: Gauge,
    /// Keys whose first delivery failed, is held, or is dead and parks its key.
    pub blocked_keys: Gauge,
    /// Undelivered events whose key is not looked at.
    pub keys_unknown: Gauge,
    /// Events without a key in a route that asks for an order.
    pub unordered: Counter,
    /// Turns of events whose version could not be compared.
    pub uncompared: Counter,
    /// Attempts that may be under way now.
    pub concurrency_limit: Gauge,
    /// See [`UpstreamMetrics::set_rate_limit`].
    rate_limit: Gauge,
    /// 1 if jobs wait for the rate, for what the upstream allows or for the end of a pause that it asked for.
    pub throttled: Gauge,
    /// Handshakes by what came of them: see [`HANDSHAKES`].
    pub handshakes: [Counter; HANDSHAKES.len()],
    /// 2 if the upstream permits deliveries, 1 if it has not, 0 if it is not asked.
    pub permitted: Gauge,
    /// Outcomes of attempts that the log refused, each time it did.
    pub settlements_refused: Counter,
    /// Attempts that dialled nothing, because the guard takes none of the upstream's addresses.
    pub addresses_refused: Counter,
    /// Times that a name of its was looked up.
    pub lookups: Counter,
    /// Of these, in vain.
    pub lookups_failed: Counter,
    /// Addresses that its names have.
    pub addresses: Gauge,
    /// Events in one request or one write, where several go together.
    pub batch_items: Histogram<Count>,
    /// Batches that were halved because the upstream did not take them whole.
    pub batch_splits: Counter,
    /// Files finished.
    pub sink_files: Counter,
    /// Bytes of the file that is being written.
    pub sink_open_bytes: Gauge,
    /// Attempts for which the signature of the event's source was made anew.
    pub resigned: Counter,
    /// By url as configured; empty for an upstream with one target.
    targets: Mutex<BTreeMap<Box<str>, Arc<TargetMetrics>>>,
    /// 1 while no target is up and all of them are tried.
    pub panic: Arc<Gauge>,
    /// Attempts that went to another target because the first could not be connected to.
    pub failovers: Counter,
}

/// What comes of asking an upstream for its permission, in the order of [`UpstreamMetrics::handshakes`].
pub const HANDSHAKES: [&str; 3] = ["granted", "refused", "unanswered"];

/// Metrics of one of several targets of an upstream; resolve once, keep the handle.
#[derive(Default)]
pub struct TargetMetrics {
    /// 1 if it gets attempts, 0 if it is left out.
    pub up: Gauge,
    /// 1 if an operator took it out.
    pub drained: Gauge,
    /// Attempts under way.
    pub in_flight: Gauge,
    /// Times that it was left out for its answers to deliveries.
    pub ejections: Counter,
}

impl UpstreamMetrics {
    /// The handle of a configured target. Never call with a name from outside.
    #[must_use]
    pub fn target(&self, url: &str) -> Arc<TargetMetrics> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).entry(url.into()).or_default().clone()
    }

    /// Forgets targets that are not configured any more.
    pub fn keep_targets(&self, mut is_configured: impl FnMut(&str) -> bool) {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).retain(|url, _| is_configured(url));
    }

    /// All targets, by url.
    #[must_use]
    pub fn targets(&self) -> Vec<(Box<str>, Arc<TargetMetrics>)> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.iter().map(|(url, metrics)| (url.clone(), metrics.clone())).collect()
    }
}

impl UpstreamMetrics {
    /// Attempts that may begin in a second; None if nothing bounds them.
    pub fn set_rate_limit(&self, per_second: Option<f64>) {
        // In thousandths, as rates may be below one a second, and one more: 0 is none. Saturates.
        self.rate_limit.set(per_second.map_or(0, |rate| ((rate * 1000.0) as i64).saturating_add(1)));
    }

    /// What was set.
    #[must_use]
    pub fn rate_limit(&self) -> Option<f64> {
        match self.rate_limit.get() {
            0 => None,
            more => Some((more - 1) as f64 / 1000.0),
        }
    }
}

impl Metrics {
    /// The counter of requests to the admin address that were refused for this reason.
    #[must_use]
    pub const fn admin_refused(&self, why: AdminRefusal) -> &Counter {
        let [no_token, wrong_token, too_many_failures, role, scope] = &self.admin_refusals;
        match why {
            AdminRefusal::NoToken => no_token,
            AdminRefusal::WrongToken => wrong_token,
            AdminRefusal::TooManyFailures => too_many_failures,
            AdminRefusal::Role => role,
            AdminRefusal::Scope => scope,
        }
    }

    /// The counter of requests that are not in quarantine for this reason.
    #[must_use]
    pub const fn quarantine_drop(&self, why: QuarantineDrop) -> &Counter {
        let [rate, unread, busy, unwritable, overflow, damaged] = &self.quarantine_drops;
        match why {
            QuarantineDrop::Rate => rate,
            QuarantineDrop::Unread => unread,
            QuarantineDrop::Busy => busy,
            QuarantineDrop::Unwritable => unwritable,
            QuarantineDrop::Overflow => overflow,
            QuarantineDrop::Damaged => damaged,
        }
    }

    /// The handle of a configured source. Never call with a name from outside.
    #[must_use]
    pub fn source(&self, name: &str) -> Arc<SourceMetrics> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// The handle of a configured upstream, or of one that was registered at run time and grouped before. Never call with
    /// another name from outside.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        if let Some(member) = self.groups.lock().unwrap_or_else(PoisonError::into_inner).member(name) {
            return member;
        }
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// The handle of a configured topic. Never call with a name from outside.
    #[must_use]
    pub fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// The handle of a configured shadow. Never call with a name from outside.
    #[must_use]
    pub fn shadow(&self, name: &str) -> Arc<ShadowMetrics> {
        self.shadows.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    /// All shadows seen so far, by name.
    pub(super) fn all_shadows(&self) -> Vec<(Box<str>, Arc<ShadowMetrics>)> {
        let shadows = self.shadows.lock().unwrap_or_else(PoisonError::into_inner);
        shadows.iter().map(|(name, metrics)| (name.clone(), metrics.clone())).collect()
    }

    /// All topics seen so far, by name.
    pub(super) fn all_topics(&self) -> Vec<(Box<str>, Arc<TopicMetrics>)> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.iter().map(|(name, metrics)| (name.clone(), metrics.clone())).collect()
    }

    /// All sources seen so far, by name.
    #[must_use]
    pub fn all_sources(&self) -> Vec<(Box<str>, Arc<SourceMetrics>)> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|(name, metrics)| (name.clone(), metrics.clone())).collect()
    }

    /// All upstreams seen so far, by name; those that were registered at run time together, under `TOPIC/*`.
    #[must_use]
    pub fn all_upstreams(&self) -> Vec<(Box<str>, Arc<UpstreamMetrics>)> {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).summed();
        upstreams.iter().map(|(name, metrics)| (name.clone(), metrics.clone())).chain(groups).collect()
    }

    /// The handle of an upstream that has one already.
    #[must_use]
    pub fn known_upstream(&self, name: &str) -> Option<Arc<UpstreamMetrics>> {
        let member = self.groups.lock().unwrap_or_else(PoisonError::into_inner).member(name);
        member.or_else(|| self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    /// From now on these upstreams, each with its topic, are shown together with the others of the topic: their names
    /// come from outside. What those before them counted stays in the sum.
    pub fn group_upstreams(&self, members: &[(&str, &str)]) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).set(members);
    }

    /// Those of a topic's group that are no upstreams any more.
    #[must_use]
    pub fn upstreams_gone(&self, topic: &str) -> Arc<UpstreamMetrics> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).gone(topic)
    }

    /// The topics with a group.
    #[must_use]
    pub fn upstream_groups(&self) -> Vec<Box<str>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).topics()
    }
}
