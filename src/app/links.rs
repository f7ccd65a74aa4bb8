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
    routing::{OnDuplicate, topic_of},
};

/// The engine, once it is there: agenda and engine need each other, and the agenda comes first. What it hands out before
/// waits.
#[derive(Default)]
pub(super) struct ToEngine(pub(super) OnceLock<Engine>);

impl Dispatch for ToEngine {
    fn dispatch(&self, job: Job) {
        // The agenda's thread has nothing to do without an engine; a job that was dropped would be leased for long.
        self.0.wait().dispatch(job);
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
                // Subscribers only get what is published.
                let name = route.to.iter().find(|name| topic_of(name).is_none())?;
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::delivery::tests::rig::{Said, event, job, rig_on};

    #[test]
    fn a_job_that_comes_before_the_engine_waits_for_it() {
        let to_engine = Arc::new(ToEngine::default());
        let rig = rig_on(&[], Vec::new(), Vec::new());
        let early = job(Arc::new(event(7)), "u", rig.clock.steady());
        let agenda = thread::spawn({
            let to_engine = to_engine.clone();
            move || to_engine.dispatch(early)
        });
        // Time for a job to be dropped.
        for _ in 0..10_000 {
            thread::yield_now();
        }
        let _first = to_engine.0.set(rig.engine.clone());
        agenda.join().unwrap();
        // No upstream is configured: the engine gives everything back.
        assert_eq!(rig.signals.said(), [Said::Returned(7, "u".into())]);
    }
}
