//! Owns admission: from a request's head to the answer that says it is durable, and every refusal on the way.
//!
//! Promises that a 2xx leaves only after the log has said that the event would survive a power cut, that nothing
//! unverified enters the log, that limits are applied while reading, and that a fault of ours is never a 4xx.
//! Knows nothing of deliveries and nothing of sockets: it meets the first in the log and is called by the second.
//!
//! Diagnostics have the target `access`: refusals are `info` (`warn` when the fault is ours), what was taken is
//! `debug`; the setting `diagnostics.access` is a filter on that target.

mod admit;
mod again;
mod body;
mod budget;
mod cache;
mod cached;
mod certificate;
mod challenge;
mod client;
mod door;
mod head;
mod items;
mod kept;
mod limits;
mod outside;
mod proxy;
mod refused;
mod reply;
mod secret_path;
mod select;
mod sequence;
mod spool;
#[cfg(test)]
mod tests;
mod traced;
mod upgrade;
mod wait;

use std::{convert::Infallible, error::Error, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
pub use client::Caller;
use http::{Request, Response, request::Parts};
use http_body::Body;
pub use proxy::{Awaiting, DuplicateSink, Expected, Forwarding, Kept, Passed, Proxy, ProxyError, SafeRequest};
pub use refused::{REFUSED_MAX, Refused, RefusedRequest};
pub use reply::{DUPLICATE, EVENT_ID, ReplyBody};
pub use sequence::{GAPS_MAX, Gaps, Sequences};
use tokio::sync::Semaphore;
pub use upgrade::Upgrading;

use self::{
    admit::Progress,
    budget::Budget,
    cache::Caches,
    door::Doors,
    reply::{Refusal, Taken},
    spool::Spool,
    upgrade::Upgrades,
};
use crate::{
    clock::Clock,
    expr::Evaluator,
    jitter::Jitter,
    keys::Keys,
    log::{AckLane, Log},
    quarantine::Quarantine,
    routing::{Live, Table},
    telemetry::{Counter, Metrics},
    tenant::Tenants,
};

/// What admission works with.
pub struct Setup {
    /// The routing table in force.
    pub live: Live,
    /// Where events are stored.
    pub log: Arc<dyn Log>,
    /// Time.
    pub clock: Clock,
    /// For `Retry-After`.
    pub jitter: Jitter,
    /// For dedupe keys and event types.
    pub evaluator: Evaluator,
    /// Gets keys from outside.
    pub keys: Keys,
    /// Counted into.
    pub metrics: Arc<Metrics>,
    /// Has answers of upstreams.
    pub proxy: Arc<dyn Proxy>,
    /// Is told about resends.
    pub duplicates: Arc<dyn DuplicateSink>,
    /// Keeps refused requests.
    pub quarantine: Arc<Quarantine>,
    /// `DATA/spool`: where large bodies wait to be verified. What lies in it is removed.
    pub spool_dir: PathBuf,
    /// `DATA/sequences.json`: what an orderly end leaves behind about numbers that are missing.
    pub sequence_file: PathBuf,
    /// `DATA/tenants.json`: what tenants have spent today.
    pub tenant_file: PathBuf,
}

/// The front door of the process.
pub struct Ingress {
    live: Live,
    log: Arc<dyn Log>,
    clock: Clock,
    jitter: Jitter,
    evaluator: Evaluator,
    keys: Keys,
    metrics: Arc<Metrics>,
    proxy: Arc<dyn Proxy>,
    duplicates: Arc<dyn DuplicateSink>,
    quarantine: Arc<Quarantine>,
    memory: Budget,
    spool_budget: Budget,
    spool: Spool,
    refused: Refused,
    sequences: Sequences,
    tenants: Tenants,
    caches: Caches,
    upgrades: Upgrades,
    /// Event ids that are looked up to find a loop.
    lookups: Arc<Semaphore>,
}

/// The front door as one shard uses it: what is shared is read, what is written is the shard's own.
pub struct Gate {
    ingress: Arc<Ingress>,
    lane: Arc<AckLane>,
    doors: ArcSwap<Doors>,
}

impl Ingress {
    /// Opens the door.
    ///
    /// # Errors
    /// When the spool directory can't be made or emptied.
    pub fn open(setup: Setup) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            live: setup.live,
            log: setup.log,
            clock: setup.clock,
            jitter: setup.jitter,
            evaluator: setup.evaluator,
            keys: setup.keys,
            metrics: setup.metrics,
            proxy: setup.proxy,
            duplicates: setup.duplicates,
            quarantine: setup.quarantine,
            memory: Budget::memory(),
            spool_budget: Budget::spool(),
            spool: Spool::open(setup.spool_dir)?,
            refused: Refused::default(),
            sequences: Sequences::open(setup.sequence_file),
            tenants: Tenants::open(setup.tenant_file),
            caches: Caches::default(),
            upgrades: Upgrades::default(),
            lookups: Arc::new(Semaphore::new(limits::LOOKUPS_MAX)),
        }))
    }

    /// The last refused requests.
    #[must_use]
    pub const fn refused(&self) -> &Refused {
        &self.refused
    }

    /// What is missing of the events of senders who count them.
    #[must_use]
    pub const fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// What senders have used up of their limits.
    #[must_use]
    pub const fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Records a request that never became one (not HTTP, header block too large or too slow); `reason` is a word.
    pub fn record_broken(&self, caller: &Caller, reason: &'static str, status: u16) {
        tracing::info!(target: "access", client = %caller.shown(), reason, status, "refused");
        self.refused.record(RefusedRequest {
            number: 0,
            at: self.clock.now(),
            reason,
            status,
            source: None,
            client: caller.shown().clone(),
            method: Box::default(),
            path: Box::default(),
            size: 0,
        });
    }
}

impl Ingress {
    fn doors(&self, table: Arc<Table>) -> Doors {
        let stands = door::Stands {
            metrics: &self.metrics,
            sequences: &self.sequences,
            tenants: &self.tenants,
            caches: &self.caches,
            upgrades: &self.upgrades,
            clock: &self.clock,
        };
        Doors::new(table, &stands)
    }
}

impl Gate {
    /// A gate for one shard. `lane` is the shard's; its [`AckLane::run`] must run there.
    #[must_use]
    pub fn new(ingress: Arc<Ingress>, lane: Arc<AckLane>) -> Arc<Self> {
        let doors = ArcSwap::from_pointee(ingress.doors(ingress.live.snapshot()));
        Arc::new(Self { ingress, lane, doors })
    }

    /// The service of one connection.
    pub fn service<B>(
        self: Arc<Self>,
        caller: Arc<Caller>,
    ) -> impl hyper::service::Service<
        Request<B>,
        Response = Response<ReplyBody>,
        Error = Infallible,
        Future = impl Future<Output = Result<Response<ReplyBody>, Infallible>> + Send + use<B>,
    > + Send
    + Sync
    + use<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        hyper::service::service_fn(move |request| {
            let (gate, caller) = (self.clone(), caller.clone());
            async move { Ok(gate.handle(&caller, request).await) }
        })
    }

    /// Answers one request.
    pub async fn handle<B>(&self, caller: &Caller, request: Request<B>) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let begun = self.ingress.clock.elapsed();
        let (mut head, mut body) = request.into_parts();
        head::name_host(&mut head);
        let doors = self.doors();
        let mut progress = Progress::default();
        match self.admit(&doors, caller, &mut head, &mut body, &mut progress).await {
            Ok(taken) => {
                if self.ingress.metrics.traces.is_on() {
                    self.ingress.trace_taken(&head, &progress, begun, &taken);
                }
                let source = progress.source.as_ref();
                if let Some(door) = source.and_then(|source| doors.door(source)) {
                    door.count(taken.result());
                    let took = self.ingress.clock.elapsed().saturating_sub(begun);
                    match &taken {
                        Taken::Answered(answered) => answered.measure(&door.metrics, took),
                        _ => door.metrics.ack.observe(took),
                    }
                }
                if let Taken::Challenged(_) = &taken {
                    // Rare, and what an operator waits for while a provider is set up.
                    let source = source.map(|source| &*source.name);
                    tracing::info!(target: "access", source, client = %caller.shown(), "answered a challenge");
                }
                tracing::debug!(
                    target: "access",
                    result = taken.result().as_str(),
                    source = source.map(|source| &*source.name),
                    client = %caller.shown(),
                    method = %head.method,
                    path = head.uri.path(),
                    size = progress.read,
                    "taken"
                );
                taken.answer(source.and_then(|source| source.reply.as_ref()))
            }
            // Boxed: what is rare does not make the future of every request larger.
            Err(refusal) => {
                if self.ingress.metrics.traces.is_on() {
                    self.ingress.trace_refused(&head, &progress, begun, &refusal);
                }
                Box::pin(self.refuse(&doors, caller, &head, &mut body, progress, refusal)).await
            }
        }
    }

    /// Answers a refused request, once it is in quarantine if it is of a kind that is kept.
    async fn refuse<B>(
        &self,
        doors: &Doors,
        caller: &Caller,
        head: &Parts,
        body: &mut B,
        mut progress: Progress,
        refusal: Refusal,
    ) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.set_aside(doors, caller, head, body, &mut progress, &refusal).await;
        let close = refusal.ends_connection() || progress.leaves_much(head, body.is_end_stream());
        self.record(doors, caller, head, &progress, &refusal);
        let scheme = progress.source.as_ref().map_or("", |source| source.verifier.scheme());
        refusal.answer(close && head.version <= http::Version::HTTP_11, scheme, &self.ingress.jitter)
    }

    /// Counts and remembers a refusal.
    fn record(&self, doors: &Doors, caller: &Caller, head: &Parts, progress: &Progress, refusal: &Refusal) {
        let ingress = &*self.ingress;
        let (reason, status) = (refusal.word(), refusal.status().as_u16());
        match progress.source.as_ref().and_then(|source| doors.door(source)) {
            Some(door) => door.count(refusal.result()),
            None => _ = ingress.metrics.unmatched.get(refusal.result() as usize).map(Counter::inc),
        }
        let (client, _) = caller.client(&head.headers, &doors.table.limits.trusted_proxies);
        let source = progress.source.as_ref().map(|source| source.name.clone());
        let path = head.uri.path();
        let path = if source.is_some() { path.into() } else { secret_path::shown(&doors.table, path) };
        if refusal.status().is_server_error() {
            tracing::warn!(target: "access", reason, status, source = source.as_deref(), %client, %refusal, "refused");
        } else {
            let advice = refusal.advice();
            tracing::info!(target: "access", reason, status, source = source.as_deref(), %client, advice, "refused");
        }
        ingress.refused.record(RefusedRequest {
            number: 0,
            at: ingress.clock.now(),
            reason,
            status,
            source,
            client,
            method: head.method.as_str().into(),
            path: refused::cut(&path),
            size: progress.read,
        });
    }

    /// The doors of the table in force.
    fn doors(&self) -> Arc<Doors> {
        let (doors, table) = (self.doors.load_full(), self.ingress.live.snapshot());
        if Arc::ptr_eq(&doors.table, &table) {
            return doors;
        }
        let doors = Arc::new(self.ingress.doors(table));
        self.doors.store(doors.clone());
        doors
    }
}
