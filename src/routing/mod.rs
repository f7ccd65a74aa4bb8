//! Owns the immutable routing table: sources, routes and upstreams as validated values, and the live handle to it.
//!
//! Promises that a table never changes; a reload swaps the whole. A unit of work takes one snapshot and keeps it.

mod batch;
mod cache;
mod chain;
mod challenge;
mod changes;
mod cloudevents;
mod failure;
mod guard;
mod index;
mod limits;
mod order;
mod pace;
mod pattern;
mod policy;
mod provider;
mod public_only;
mod retry;
mod sign;
mod sink;
mod table;
mod targets;
#[cfg(test)]
mod tests;
mod topic;
mod turns;
mod upgrade;
mod wait;

use std::sync::Arc;

use arc_swap::ArcSwap;
pub use batch::{ItemForm, Items, OnViolation, SchemaRule, SplitRule, item_path};
pub use cache::CachePolicy;
pub use chain::{NotifyPolicy, PublishPolicy, ShadowPolicy};
pub use challenge::{Challenge, ChallengeRule};
pub use changes::{Changes, Conflict};
pub use cloudevents::{CLOUDEVENT_TYPE, CloudEvents, CloudEventsMode, Handshake};
pub use failure::{Accept, AnswerPolicy, FAILURE_ROWS_MAX, FailureAction, FailureRow, FailureSet, NoAnswer};
pub use guard::{Certificate, CertificateRule, Guard};
pub use limits::{LoopRule, Over, Rate, TenantKey, TenantLimit, TenantRule};
pub use order::{OnFailure, OrderError, OrderKey, OrderPolicy};
pub use pace::{BURST_MAX, Pace, PaceError, PaceRate, RateHeaders, waiting};
pub use pattern::{
    PATTERN_BYTES_MAX, PathPattern, PatternError, SECRET_CAPTURE, SECRET_SEGMENT, has_dot_segments, without_secret,
};
pub use policy::{
    BreakerPolicy, ErrorRate, HeaderEdit, HostPolicy, Lookup, PathEdit, PolicyError, QuarantinePolicy, Reply, Unmatched,
};
pub use provider::{BATCH, BATCH_ITEMS_MAX, ItemRule, NoItems, Numbering};
pub use public_only::PublicOnly;
pub use retry::{RetryPolicy, STEPS_MAX, Schedule, TIMETABLE_ROWS_MAX};
pub use sign::{RESIGN_AFTER, SignPolicy};
pub use sink::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BatchFormat, BatchPolicy, Bucket, Compression, Content, FilePolicy, ObjectPlace,
    ObjectPolicy, SinkError, TIME_MARK,
};
pub use table::{
    DedupeRule, KeySelector, Limits, Listener, Matched, OnDuplicate, Privacy, Route, Source, Table, TableParts, Target,
    TlsClient, TlsServer, Upstream,
};
pub use targets::{Balance, EJECTED_MAX, EjectPolicy, HealthCheck, Member, TARGETS_MAX, Targets, TargetsError};
pub use topic::{Subscriber, TYPE_BYTES_MAX, Topic, Types, TypesError, subscriber_name, topic_of};
pub use turns::{NoShare, Priority, Share, TurnPolicy};
pub use upgrade::UpgradePolicy;
pub use wait::{OnError, WaitPolicy};

/// The live table: read by everyone, swapped by reload.
#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Table>>);

impl Live {
    /// A handle to a first table.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(table)))
    }

    /// The snapshot of now. Keep it for the whole unit of work.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Table> {
        self.0.load_full()
    }

    /// Puts another table in its place; the old one lives as long as somebody works with it.
    pub fn swap(&self, table: Table) {
        self.0.store(Arc::new(table));
    }
}
