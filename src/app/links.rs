//! Owns the adapters between stages that do not know each other: each passes a call on and decides nothing.

use std::{
    error::Error,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};

use crate::{
    agenda::{Agenda, Dispatch},
    delivery::{self, Engine, Proxied, Signals},
    event::{EventId, Job, Seq},
    ingress::{DuplicateSink, Forwarding, Proxy, ProxyError, SafeRequest},
    routing::OnDuplicate,
};

/// The engine, once it is there: agenda and engine need each other, and the agenda comes first. It hands nothing out
/// before the engine has told its windows.
#[derive(Default)]
pub(super) struct ToEngine(pub(super) OnceLock<Engine>);

impl Dispatch for ToEngine {
    fn dispatch(&self, job: Job) {
        if let Some(engine) = self.0.get() {
            engine.dispatch(job);
        }
    }
}

/// What the engine tells the agenda.
pub(super) struct ToAgenda(pub(super) Agenda);

impl Signals for ToAgenda {
    fn window(&self, upstream: &str, window: usize) {
        self.0.window(upstream, window);
    }

    fn returned(&self, event: Seq, upstream: &str) {
        self.0.returned(event, upstream);
    }

    fn paused(&self, upstream: &str, paused: bool) {
        self.0.paused(upstream, paused);
    }
}

impl DuplicateSink for ToAgenda {
    fn duplicate(&self, first: EventId, body_differs: bool, _on_duplicate: OnDuplicate) {
        self.0.note_duplicate(first, body_differs);
    }
}

/// Answers safe methods through the engine.
pub(super) struct ThroughEngine(pub(super) Engine);

impl Proxy for ThroughEngine {
    fn forward(&self, request: SafeRequest) -> Forwarding {
        let engine = self.0.clone();
        Box::pin(async move {
            let source = request.source.clone();
            let upstream = request.table.routes.iter().filter(|route| route.takes(&source.name)).find_map(|route| {
                let name = route.to.first()?;
                request.table.upstreams.get(name)
            });
            let Some(upstream) = upstream else {
                return Err(ProxyError::Unreachable("no route of the source names an upstream".into()));
            };
            let proxied = Proxied {
                event: Arc::new(request.event),
                upstream: upstream.name.clone(),
                timeout: source.reply_timeout,
                reply_bytes_max: upstream.max_reply,
            };
            match engine.proxy(proxied).await {
                Ok(response) => Ok(response.map(whole)),
                Err(delivery::ProxyError::Late(_)) => Err(ProxyError::Late),
                Err(other) => Err(ProxyError::Unreachable(other.to_string())),
            }
        })
    }
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, Box<dyn Error + Send + Sync>> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}
