//! Owns the HTTP/1 servers of the operators: the Unix socket, and the TCP address with tokens.
//!
//! Promises at most [`CONNECTIONS_MAX`] connections for each server (more wait in the listener's backlog), that a
//! connection over TCP on which no token was shown ends after [`STRANGER_TIMEOUT`], and that what is asked goes through
//! the table of `api`. Dropping the future of a server closes its listener and its connections. On the socket its mode is
//! the lock, and the peer's credentials name the actor.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    task::{JoinSet, spawn_blocking},
};
use tokio_rustls::TlsAcceptor;

use super::{
    access::{Caller, Role},
    api::{self, Answer, Lookup, Refusal, Verdict},
    logins::{Logins, TELL_EVERY},
    page::{self, Site},
    ports::Ports,
    socket::user_name,
};
use crate::telemetry::AdminRefusal;

/// Connections at once, for each server.
const CONNECTIONS_MAX: usize = 64;

/// Between two tries to accept when the system refuses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The header block must arrive in this time, and the TLS handshake be done.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of a stranger lives no longer than this, so that slow readers of metrics never keep a probe out.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves the operators' socket until it is dropped.
pub async fn serve_socket(listener: UnixListener, ports: Arc<dyn Ports>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let uid = stream.peer_cred().map(|peer| peer.uid());
        let ports = ports.clone();
        connections.spawn(async move {
            let caller = Caller::local(match uid {
                Ok(uid) => spawn_blocking(move || user_name(uid)).await.unwrap_or_else(|_| format!("uid {uid}")),
                Err(_) => "unknown".to_owned(),
            });
            serve(stream, move |request| respond(ports.clone(), Who::Known(caller.clone()), request)).await;
        });
    }
}

/// Serves the TCP address until it is dropped; with TLS if there is a side for it.
pub async fn serve_tcp(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, ports: Arc<dyn Ports>) {
    let (mut connections, logins) = (JoinSet::new(), Arc::new(Logins::default()));
    let acceptor = tls.map(TlsAcceptor::from);
    let site = Arc::new(Site::new(acceptor.is_some()));
    let (mut telling, mut sampling) = (tokio::time::interval(TELL_EVERY), tokio::time::interval(page::SAMPLE_EVERY));
    sampling.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = telling.tick() => {
                let (logins, ports) = (logins.clone(), ports.clone());
                spawn_blocking(move || tell(&logins, &*ports));
                continue;
            }
            _ = sampling.tick() => {
                let (site, ports) = (site.clone(), ports.clone());
                spawn_blocking(move || site.sample(&*ports));
                continue;
            }
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let guest = Guest { client: peer.ip(), logins: logins.clone(), known: Arc::default(), site: site.clone() };
        connections.spawn(serve_guest(stream, acceptor.clone(), guest, ports.clone()));
    }
}

/// Somebody on the other end of a TCP connection.
#[derive(Clone)]
pub(super) struct Guest {
    client: IpAddr,
    logins: Arc<Logins>,
    /// A valid token was shown on this connection.
    known: Arc<AtomicBool>,
    /// The web page.
    pub(super) site: Arc<Site>,
}

impl Guest {
    /// Where it asks from.
    pub(super) fn origin(&self) -> String {
        self.client.to_string()
    }

    /// Its connection may stay.
    pub(super) fn is_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// The caller whose token this is. Wrong ones are counted, and too many of them are not heard.
    pub(super) fn admit(&self, shown: Option<&[u8]>, ports: &Arc<dyn Ports>) -> Result<Caller, Refusal> {
        let (tokens, now, metrics) = (ports.tokens(), ports.steady(), ports.metered());
        if let Some(wait) = self.logins.wait(self.client, tokens.limit(), now) {
            metrics.admin_refused(AdminRefusal::TooManyFailures).inc();
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens came from your address");
            return Err(refusal.with_header(header::RETRY_AFTER, seconds));
        }
        if let Some(token) = shown.and_then(|shown| tokens.find(shown)) {
            self.is_known();
            return Ok(token.caller(self.origin()));
        }
        self.logins.failed(self.client, tokens.limit(), now);
        metrics.admin_refused(AdminRefusal::WrongToken).inc();
        let (logins, ports) = (self.logins.clone(), ports.clone());
        spawn_blocking(move || tell(&logins, &*ports));
        Err(unauthorized("the token is not valid"))
    }
}

async fn serve_guest(stream: TcpStream, acceptor: Option<TlsAcceptor>, guest: Guest, ports: Arc<dyn Ports>) {
    let known = guest.known.clone();
    let answer = move |request| respond(ports.clone(), Who::Guest(guest.clone()), request);
    let served = async move {
        match acceptor {
            None => serve(stream, answer).await,
            Some(acceptor) => match tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, answer).await,
                Ok(Err(error)) => tracing::debug!(%error, "an operator's TLS handshake failed"),
                Err(_) => {}
            },
        }
    };
    tokio::pin!(served);
    if tokio::time::timeout(STRANGER_TIMEOUT, &mut served).await.is_err() && known.load(Ordering::Relaxed) {
        served.await;
    }
}

async fn serve<I, F, R>(stream: I, answer: F)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let service = hyper::service::service_fn(|request| {
        let answering = answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an operator's connection ended early");
    }
}

/// Who asks, as far as the connection says it.
enum Who {
    Known(Caller),
    Guest(Guest),
}

async fn respond(ports: Arc<dyn Ports>, who: Who, request: Request<Incoming>) -> Answer {
    if let Who::Guest(guest) = &who
        && let Some(found) = page::find(request.method(), request.uri().path())
    {
        return page::answer(found, ports, guest.clone(), request).await;
    }
    let lookup = api::find(request.method(), request.uri().path());
    if let (Who::Guest(_), Lookup::Nothing) = (&who, &lookup)
        && !request.uri().path().starts_with("/v1/")
        && is_for_people(request.headers())
    {
        return page::missing();
    }
    let is_open = match &lookup {
        Lookup::Route(route, _) => route.role == Role::Nobody,
        Lookup::Methods(_, role) => *role == Role::Nobody,
        Lookup::Nothing => false,
    };
    let caller = match who {
        Who::Known(caller) => caller,
        // What is open needs no token, and a wrong one does no harm there.
        Who::Guest(guest) if is_open => Caller::nobody(guest.client.to_string()),
        Who::Guest(guest) => match admitted(&guest, request.headers(), &ports) {
            Ok(caller) => caller,
            Err(refusal) => return refusal.answer(),
        },
    };
    let (reason, refusal) = match api::allowed(&caller, &lookup) {
        Verdict::Allowed => return api::answer(ports, caller, lookup, request).await,
        Verdict::Unknown => (AdminRefusal::NoToken, unauthorized("this takes a token")),
        Verdict::Role => {
            let title = "this takes a token with role = \"operate\"";
            (AdminRefusal::Role, Refusal::forbidden(title))
        }
        Verdict::Scope => {
            let title = "this is about the whole instance: it takes a token without sources and upstreams";
            (AdminRefusal::Scope, Refusal::forbidden(title))
        }
    };
    ports.metered().admin_refused(reason).inc();
    refusal.answer()
}

/// Whether a browser asks.
fn is_for_people(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// The caller whose token is shown; somebody without a token is nobody.
fn admitted(guest: &Guest, headers: &HeaderMap, ports: &Arc<dyn Ports>) -> Result<Caller, Refusal> {
    let Some(shown) = headers.get(header::AUTHORIZATION) else {
        return Ok(Caller::nobody(guest.client.to_string()));
    };
    guest.admit(bearer(shown), ports)
}

/// The token in `Authorization: Bearer TOKEN`.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn unauthorized(title: &str) -> Refusal {
    let challenge = HeaderValue::from_static("Bearer realm=\"stagepost\"");
    Refusal::new(StatusCode::UNAUTHORIZED, title).with_header(header::WWW_AUTHENTICATE, challenge)
}

/// Writes down that logins failed, if it is time to.
fn tell(logins: &Logins, ports: &dyn Ports) {
    let Some(command) = logins.tell(ports.steady()) else { return };
    tracing::warn!(from = command.origin.as_deref().unwrap_or_default(), "logins with wrong tokens");
    if let Err(error) = ports.command(command) {
        tracing::warn!(error, "failed logins are not recorded in the audit trail");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
