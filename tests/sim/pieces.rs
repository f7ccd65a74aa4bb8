//! What the world is made of and need not look at: tables as the agenda is told them, entries, the feed.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use stagepost::{
    agenda::{Bell, Feed},
    clock::Timestamp,
    event::{Change, Job, Scheme, Seq},
    log::{
        Acked,
        entry::{Accepting, Target},
    },
    routing::{Route, Table, TableParts, Upstream},
    telemetry::Metrics,
};
use tokio::sync::oneshot;

/// Bytes between the committer and the agenda: few, so that it overflows and the log is read instead.
const FEED_BYTES: usize = 3_000;

/// What is broken on purpose, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// A restart takes the end of the log for applied without applying it.
    ForgetAtRestart,
    /// The engine claims a delivery that it never made.
    SettleWithoutSending,
    /// A job is handed to the engine twice.
    DispatchTwice,
    /// The agenda is not told that there is an order.
    ForgetOrder,
    /// Deliveries are stored without their versions.
    ForgetVersions,
    /// The agenda is not told that a job came back.
    ForgetReturned,
    /// The agenda is told that an upstream takes nothing, whatever it takes.
    CloseWindow,
    /// A step of a job loses its last delivery.
    LeaveOut,
    /// Jobs are not told that live events wait.
    OverlookLag,
    /// The agenda is not told that subscribers may be disabled.
    NeverDisable,
}

/// A send whose answer is awaited.
pub struct Sending {
    pub answer: oneshot::Receiver<Acked>,
    pub body: Vec<u8>,
    pub key: u64,
    pub at: Timestamp,
}

/// What the engine does with a job, and when.
pub enum Fate {
    Settle(Change, bool),
    Return,
}

pub struct Working {
    pub job: Job,
    pub at: Timestamp,
    pub fate: Fate,
}

/// The table that the agenda is given.
pub fn told(sabotage: Sabotage, table: &Arc<Table>) -> Arc<Table> {
    let order = |route: &Route| route.order.clone().filter(|_| sabotage != Sabotage::ForgetOrder);
    let disable_after = |after| if sabotage == Sabotage::NeverDisable { None } else { after };
    if !matches!(sabotage, Sabotage::ForgetOrder | Sabotage::NeverDisable) {
        return table.clone();
    }
    let routes = table.routes.iter().map(|route| Route { order: order(route), ..route.clone() }).collect();
    let upstreams = table.upstreams.iter().map(|(name, upstream)| {
        let upstream = Upstream { disable_after: disable_after(upstream.disable_after), ..(**upstream).clone() };
        (name.clone(), Arc::new(upstream))
    });
    let (sources, upstreams) = (table.sources.clone(), upstreams.collect());
    let (generation, hash, limits) = (table.generation, table.hash.clone(), table.limits.clone());
    Arc::new(Table::new(TableParts { generation, hash, sources, routes, upstreams, limits }))
}

pub fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(FEED_BYTES, Bell::default(), Arc::new(Metrics::default())))
}

pub fn target(event: Seq, upstream: &str) -> Target {
    Target { event, upstream: upstream.into() }
}

pub fn accepted(source: &str, body: &[u8], now: Timestamp) -> Bytes {
    let body = Bytes::copy_from_slice(body);
    Accepting {
        received_at: now,
        source,
        event_type: None,
        method: &Method::POST,
        scheme: Scheme::Http,
        path: "/hooks",
        query: None,
        headers: &HeaderMap::new(),
        client: "127.0.0.1",
        proxy: None,
        captures: &[],
        verification_scheme: "none",
        verification_secret: None,
        config_generation: 1,
        dedupe: None,
        body_length: body.len() as u64,
        extras: None,
        body: Some(&[body]),
    }
    .encode()
}
