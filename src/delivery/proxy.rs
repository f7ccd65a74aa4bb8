//! Owns the proxying of one safe request: sent once, now, its answer handed back.
//!
//! Promises the same request, target and limits as a delivery, but neither gates nor retries, and no entry in the log:
//! a reader's request says nothing about deliveries. Each uses a connection of its own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Engine,
    answer::{Answered, PIECES, SMALL_BYTES},
    client::{Answer, Client, Cut, Failure, Shared},
    headers,
    request::{self, Unsent},
    upgrade::{Upgrade, Upgraded},
};
use crate::{
    event::{Event, Job},
    routing::{TlsClient, Upstream},
};

/// A safe request that is to be answered by an upstream.
pub struct Proxied {
    /// The request, with its body inline.
    pub event: Arc<Event>,
    /// Who answers.
    pub upstream: Arc<str>,
    /// How long the sender waits for the head of the answer.
    pub timeout: Duration,
    /// It is to become a WebSocket connection. An answer 101 has a [`Switched`] among its extensions then.
    pub upgrade: Option<Upgrade>,
}

/// The connection that goes with an answer 101; to be taken once.
#[derive(Clone)]
pub struct Switched(Arc<Mutex<Option<Upgraded>>>);

impl Switched {
    /// Takes it.
    #[must_use]
    pub fn take(&self) -> Option<Upgraded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
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
        let (name, upgrade) = (proxied.upstream, proxied.upgrade);
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
        let serving = if upgrade.is_some() { http1_only(&serving) } else { serving };
        let upstream = &serving;
        let mut draft =
            request::prepare(&job, upstream, &table, &env.log, &env.evaluator, &lane.large_bodies, env.clock.now())
                .await
                .map_err(|unsent| ProxyError::Unsendable { upstream: name.clone(), words: words(unsent) })?;
        let (shared, mut client) = (Shared::new(lane.names.clone()), Client::default());
        draft.upgrades = upgrade.is_some();
        let at = env.clock.now();
        let begun = client.begin(&draft, upstream, &shared).await;
        if let Some(chosen) = &chosen {
            let _excused = lane.balancer.observe(chosen, begun.as_ref().map(Response::status), env.clock.steady());
        }
        let response = begun.map_err(|failure| match failure {
            Failure::Late(_) | Failure::ConnectLate(_) => ProxyError::Late(name.clone()),
            Failure::Unsendable(words) => ProxyError::Unsendable { upstream: name.clone(), words },
            Failure::Connect(_) | Failure::AddressRefused(_) | Failure::Broken(_) | Failure::Program(_) => {
                unreachable(failure.to_string())
            }
        })?;
        let (parts, body) = response.into_parts();
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(upgrade)) = (parts.status, upgrade) {
            if !is_websocket(&parts.headers) {
                return Err(unreachable("it switched to another protocol than the one asked for".to_owned()));
            }
            let sent = draft.sent();
            let stream = client.into_stream().await;
            let stream = stream.ok_or_else(|| unreachable("the connection broke when it was upgraded".to_owned()))?;
            let upgraded = Upgraded::new(stream, upgrade, (lane.clone(), chosen), (at, sent));
            let mut response = Response::new(Answered::whole(Bytes::new()));
            *response.status_mut() = parts.status;
            *response.headers_mut() = end_to_end(&parts.headers, false);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response.extensions_mut().insert(Switched(Arc::new(Mutex::new(Some(upgraded)))));
            return Ok(response);
        }
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

/// The same upstream without HTTP/2, which can't be upgraded.
fn http1_only(upstream: &Arc<Upstream>) -> Arc<Upstream> {
    let Some(tls) = &upstream.tls else { return upstream.clone() };
    let mut config = (*tls.config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsClient { config: Arc::new(config), server_name: tls.server_name.clone() };
    Arc::new(Upstream { tls: Some(Arc::new(tls)), ..(**upstream).clone() })
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
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
