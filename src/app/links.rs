//! Owns the adapters between stages that do not know each other: each passes a call on and decides nothing.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;

use super::subscribers::Subscribers;
use crate::{
    agenda::{Agenda, Dispatch},
    delivery::{self, Awaited, Engine, Proxied, Signals, Switched, Upgrade},
    event::{EventId, Job, Seq},
    ingress::{Awaiting, DuplicateSink, Expected, Forwarding, Kept, Passed, Proxy, ProxyError, SafeRequest},
    listen::Tunnel,
    log::{Log, ReadError, find_answer, read_answer, read_whole},
    routing::{OnDuplicate, OnError, WaitPolicy, topic_of},
    state::Subscribed,
};

/// The engine, once it is there: agenda and engine need each other, and the agenda comes first. What it hands out before
/// waits.
#[derive(Default)]
pub(super) struct ToEngine(pub(super) OnceLock<Engine>, pub(super) Option<Arc<Subscribers>>);

impl Dispatch for ToEngine {
    fn subscribed(&self, subscribed: Subscribed) {
        if let Some(subscribers) = &self.1 {
            subscribers.changed(subscribed);
        }
    }

    fn dispatch(&self, job: Job) {
        // The agenda's thread has nothing to do without an engine; a job that was dropped would be leased for long.
        self.0.wait().dispatch(job);
    }

    fn drained(&self, upstream: &str, targets: Vec<Box<str>>) {
        self.0.wait().drained(upstream, targets);
    }

    fn unanswered(&self, event: Seq) {
        self.0.wait().unanswered(event);
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

/// Searches for first answers at once: each may read 64 MiB of the log.
const SEARCHES_MAX: usize = 2;

/// Has answers through the engine, and those that were given from the log.
pub(super) struct ThroughEngine {
    engine: Engine,
    log: Arc<dyn Log>,
    searches: Arc<Semaphore>,
}

impl ThroughEngine {
    pub(super) fn new(engine: Engine, log: Arc<dyn Log>) -> Self {
        Self { engine, log, searches: Arc::new(Semaphore::new(SEARCHES_MAX)) }
    }
}

impl Proxy for ThroughEngine {
    fn expect(&self, policy: &WaitPolicy, dedupe: Option<u128>) -> Option<Expected> {
        let pass_errors = policy.on_error == OnError::Pass;
        let awaited = Awaited { upstream: (&*policy.reply_from).into(), pass_errors, dedupe };
        let waiting = self.engine.expect(awaited)?;
        let ticket = waiting.ticket();
        Some(Expected {
            stored: Arc::new(move |id| ticket.stored(id)),
            answer: Box::pin(async move { Some(waiting.answer().await?.map(BodyExt::boxed)) }),
        })
    }

    fn first_answer(&self, first: EventId) -> Awaiting {
        let (engine, log, searches) = (self.engine.clone(), self.log.clone(), self.searches.clone());
        Box::pin(async move {
            let known = engine.first_answer(first.pos.seq).await;
            // A storm of resends of old events takes its turns; whoever waits too long gets the fallback.
            let turn = match known {
                Some(_) => None,
                None => Some(searches.acquire_owned().await.ok()?),
            };
            let read = tokio::task::spawn_blocking(move || {
                let (seq, known) = (first.pos.seq, known.or_else(|| engine.answer_known(first.pos.seq)));
                let answer = stored_answer(&*log, seq, known, &|found| engine.answer_found(seq, found));
                drop(turn);
                answer
            });
            let read = read.await.ok()?;
            read.unwrap_or_else(|error| {
                tracing::warn!(event = %first, %error, "the first answer can't be read: a duplicate gets the fallback");
                None
            })
        })
    }

    fn keep(&self, event: EventId, answer: Kept) {
        self.engine.keep(event.pos.seq, answer.status, answer.headers, answer.body);
    }

    fn forward(&self, request: SafeRequest) -> Forwarding {
        let engine = self.engine.clone();
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
                upgrade: request.upgrade.map(|place| Upgrade {
                    event: request.id.map(|id| id.pos.seq),
                    idle_timeout: place.idle_timeout,
                    metrics: place.metrics().clone(),
                    place: Box::new(place),
                }),
            };
            match engine.proxy(proxied).await {
                Ok(mut response) => {
                    if let Some(switched) = response.extensions_mut().remove::<Switched>() {
                        response.extensions_mut().insert(Tunnel::new(Box::new(move |sender, ahead| {
                            match switched.take() {
                                Some(upgraded) => Box::pin(upgraded.run(sender, ahead)),
                                None => Box::pin(std::future::ready(())),
                            }
                        })));
                    }
                    Ok(response.map(BodyExt::boxed))
                }
                Err(delivery::ProxyError::Late(_)) => Err(ProxyError::Late),
                Err(other) => Err(ProxyError::Unreachable(other.to_string())),
            }
        })
    }
}

/// The first answer to an event as it was given; None if there was none or it was not kept.
fn stored_answer(
    log: &dyn Log,
    event: Seq,
    known: Option<Option<Seq>>,
    found: &dyn Fn(Option<Seq>),
) -> Result<Option<Response<Passed>>, ReadError> {
    let answer = match known {
        Some(None) => None,
        Some(Some(seq)) => Some(read_answer(log, seq)?),
        None => {
            let sought = find_answer(log, event)?;
            found(sought.as_ref().map(|(seq, _)| *seq));
            sought.map(|(_, answer)| answer)
        }
    };
    let Some((headers, body)) = answer.as_ref().and_then(|answer| answer.kept.as_ref()) else { return Ok(None) };
    let mut response = Response::new(whole(read_whole(log, body)?));
    *response.headers_mut() = headers.clone();
    let status = answer.as_ref().and_then(|answer| StatusCode::from_u16(answer.status).ok());
    Ok(status.map(|status| {
        *response.status_mut() = status;
        response
    }))
}

fn whole(bytes: Bytes) -> Passed {
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
