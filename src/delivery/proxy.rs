//! Owns the proxying of one safe request: sent once, now, its answer handed back.
//!
//! Promises the same request, target and limits as a delivery, but neither gates nor retries, and no entry in the log:
//! a reader's request says nothing about deliveries. Each uses a connection of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body::Body as _;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Engine,
    answer::{Answered, PIECES, SMALL_BYTES},
    client::{Answer, Client, Cut, Failure, Shared},
    headers,
    request::{self, Unsent},
};
use crate::event::{Event, Job};

/// A safe request that is to be answered by an upstream.
pub struct Proxied {
    /// The request, with its body inline.
    pub event: Arc<Event>,
    /// Who answers.
    pub upstream: Arc<str>,
    /// How long the sender waits for the head of the answer.
    pub timeout: Duration,
}

/// Why there is no answer to hand back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The name is not configured.
    #[error("upstream {0} is not configured")]
    NoUpstream(Arc<str>),
    /// No connection, or it broke.
    #[error("upstream {upstream}: {words}")]
    Unreachable {
        /// Which.
        upstream: Arc<str>,
        /// What happened.
        words: Box<str>,
    },
    /// No answer in time.
    #[error("upstream {0} did not answer in time")]
    Late(Arc<str>),
    /// The request can't be made: a transform failed, routes conflict.
    #[error("the request to upstream {upstream} can't be made: {words}")]
    Unsendable {
        /// Which.
        upstream: Arc<str>,
        /// What happened.
        words: Box<str>,
    },
}

impl Engine {
    /// Sends one safe request and gives the answer as it comes, hop-by-hop headers removed. Runs on the caller's runtime.
    ///
    /// # Errors
    /// [`ProxyError`]; the caller answers 502, or 504 if it is late.
    pub async fn proxy(&self, proxied: Proxied) -> Result<Response<Answered>, ProxyError> {
        let name = proxied.upstream.clone();
        match timeout(proxied.timeout, self.exchange(proxied)).await {
            Ok(result) => result,
            Err(_late) => Err(ProxyError::Late(name)),
        }
    }

    async fn exchange(&self, proxied: Proxied) -> Result<Response<Answered>, ProxyError> {
        let name = proxied.upstream;
        let table = self.0.env.live.snapshot();
        let lane = self.0.lanes.load().get(&*name).cloned();
        let (Some(lane), Some(upstream)) = (lane, table.upstreams.get(&*name)) else {
            return Err(ProxyError::NoUpstream(name));
        };
        let unreachable = |words: String| ProxyError::Unreachable { upstream: name.clone(), words: words.into() };
        let place = lane.proxied.clone().acquire_owned().await.map_err(|closed| unreachable(closed.to_string()))?;
        let job = Job {
            planned_at: self.0.env.clock.steady(),
            event: proxied.event,
            upstream: name.clone(),
            number: 1,
            replays: 0,
            new_keys: 0,
            original: false,
            paused: Duration::ZERO,
            previous: None,
            turn: None,
        };
        let env = &self.0.env;
        let chosen = match upstream.targets.as_deref() {
            Some(targets) => {
                let chosen = lane.balancer.choose(targets, env.clock.steady(), (&name, None));
                Some(chosen.ok_or_else(|| unreachable("every target is drained".to_owned()))?)
            }
            None => None,
        };
        let serving = chosen.as_ref().map_or(upstream, |chosen| &chosen.upstream).clone();
        let upstream = &serving;
        let draft =
            request::prepare(&job, upstream, &table, &env.log, &env.evaluator, &lane.large_bodies, env.clock.now())
                .await
                .map_err(|unsent| ProxyError::Unsendable { upstream: name.clone(), words: words(unsent) })?;
        let (shared, mut client) = (Shared::new(lane.names.clone()), Client::default());
        let begun = client.begin(&draft, upstream, &shared).await;
        if let Some(chosen) = &chosen {
            let _excused = lane.balancer.observe(chosen, begun.as_ref().map(Response::status), env.clock.steady());
        }
        let response = begun.map_err(|failure| match failure {
            Failure::Late(_) | Failure::ConnectLate(_) => ProxyError::Late(name.clone()),
            Failure::Unsendable(words) => ProxyError::Unsendable { upstream: name.clone(), words },
            Failure::Connect(_) | Failure::AddressRefused(_) | Failure::Broken(_) => unreachable(failure.to_string()),
        })?;
        let (parts, body) = response.into_parts();
        if parts.status.is_informational() {
            // hyper has swallowed those that come before an answer; this one ends HTTP on the connection.
            return Err(unreachable(format!("it answered {}, which nobody asked for", parts.status)));
        }
        let headers = end_to_end(&parts.headers, draft.is_head());
        let declared = body.size_hint().exact();
        let body = if declared.is_some_and(|length| length <= SMALL_BYTES) {
            let mut answer = Answer { status: parts.status, headers: parts.headers, body: Bytes::new(), cut: None };
            client.finish(body, &mut answer, upstream, usize::MAX).await;
            match answer.cut {
                None => Answered::whole(answer.body),
                Some(Cut::Silent | Cut::Longer) => return Err(ProxyError::Late(name)),
                Some(cut @ Cut::Broken(_)) => return Err(unreachable(cut.to_string())),
            }
        } else {
            let (out, pieces) = mpsc::channel(PIECES);
            let upstream = upstream.clone();
            tokio::spawn(async move {
                // Ends with the answer, its silence, or the sender: nothing is read for nobody.
                tokio::select! {
                    () = out.closed() => {}
                    _all = client.relay(body, &upstream, 0, out.clone()) => {}
                }
                drop((place, client, chosen));
            });
            Answered::pieces(pieces, declared)
        };
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// The answer's headers without those of the hop; the length of an answer to HEAD is its only trace and stays.
pub(super) fn end_to_end(received: &HeaderMap, head: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(received.len());
    headers::pass_on(received, &mut headers);
    if head && let Some(length) = received.get(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.clone());
    }
    headers
}

fn words(unsent: Unsent) -> Box<str> {
    match unsent {
        Unsent::Settled(crate::event::Change::Die(reason)) => reason.to_string().into(),
        Unsent::Settled(_) => "the route's transform discards it".into(),
        Unsent::Later(words) => words,
    }
}
