//! Owns the HTTP/1 servers of the operators: everything on the Unix socket; `/metrics`, `/livez` and `/readyz` on
//! the TCP address.
//!
//! Promises at most [`CONNECTIONS_MAX`] connections for each server (more wait in the listener's backlog), request
//! bodies of at most [`BODY_BYTES_MAX`], and listings that are streamed through a queue of [`LINES_MAX`] lines: a
//! reader that stops reading stops the listing. Every question runs on a blocking thread. Dropping the future of a
//! server closes its listener and its connections. Deliberately absent: tokens; the socket's mode is the lock.

use std::{
    convert::Infallible,
    io,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use super::{
    act::{ActError, act},
    explain::explain,
    filter::{Compiled, FilterError},
    find::{FindError, find},
    line::{listed, reply},
    list::follow_once,
    ports::{Ports, QueryError},
    privacy,
    quarantine::{QuarantineError, Selected, Wanted, delete, kept_listed, quarantined_body, quarantined_show, recheck},
    rehearse::rehearse,
    show::show,
    socket::user_name,
    subscribers::{self, SubscriberError},
    wire::{Act, Discard, PauseSubscriber, Problem, Query, Recheck, Rehearse, Reply, RotateSecret, Subscribe},
};
use crate::{
    event::{EventId, Seq},
    log::ReadError,
    quarantine::KeptError,
    telemetry::Metrics,
};

/// Connections at once, for each server.
const CONNECTIONS_MAX: usize = 64;

/// Room for 100,000 ids.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lines of a listing that wait for their reader.
const LINES_MAX: usize = 64;

/// How often a follower looks whether the log has grown.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// The header block must arrive in this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the probes lives no longer than this, so that slow readers of metrics never keep a probe out.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

type Answer = Response<Either<Full<Bytes>, Lines>>;

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
            tokio::time::sleep(FOLLOW_EVERY).await;
            continue;
        };
        let uid = stream.peer_cred().map(|peer| peer.uid());
        let ports = ports.clone();
        connections.spawn(async move {
            let actor: Arc<str> = match uid {
                Ok(uid) => spawn_blocking(move || user_name(uid)).await.unwrap_or_else(|_| format!("uid {uid}")).into(),
                Err(_) => "unknown".into(),
            };
            serve(stream, move |request| socket_answer(ports.clone(), actor.clone(), request)).await;
        });
    }
}

/// Serves `/metrics`, `/livez` and `/readyz` until it is dropped.
pub async fn serve_tcp(listener: TcpListener, ports: Arc<dyn Ports>) {
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
            tokio::time::sleep(FOLLOW_EVERY).await;
            continue;
        };
        let ports = ports.clone();
        connections.spawn(async move {
            let served = serve(stream, move |request| probe_answer(ports.clone(), request));
            let _too_slow = tokio::time::timeout(PROBE_TIMEOUT, served).await;
        });
    }
}

async fn serve<I, F, R>(stream: I, answer: F)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
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

async fn probe_answer(ports: Arc<dyn Ports>, request: Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    let path = request.uri().path().to_owned();
    blocking(move || match path.as_str() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match ports.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => {
            let mut answer = text(StatusCode::OK, ports.metrics());
            let kind = header::HeaderValue::from_static(Metrics::CONTENT_TYPE);
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
        _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
    })
    .await
}

async fn socket_answer(ports: Arc<dyn Ports>, actor: Arc<str>, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => blocking(move || json(&ports.status())).await,
        (&Method::POST, "/v1/reload") => blocking(move || reload(&*ports)).await,
        (&Method::POST, "/v1/log") => match read::<Query>(request).await {
            Ok(query) => listing(ports, query).await,
            Err(answer) => answer,
        },
        (&Method::POST, "/v1/act") => match read::<Act>(request).await {
            Ok(asked) => blocking(move || acted(act(&*ports, &asked, &actor))).await,
            Err(answer) => answer,
        },
        (&Method::POST, "/v1/rehearse") => match read::<Rehearse>(request).await {
            Ok(asked) => blocking(move || acted(rehearse(&*ports, &asked, &actor))).await,
            Err(answer) => answer,
        },
        (&Method::GET, "/v1/refused") => {
            let after = query.strip_prefix("after=").and_then(|number| number.parse().ok()).unwrap_or(0);
            blocking(move || json(&ports.refused(after))).await
        }
        (&Method::GET, "/v1/keys") => {
            let upstream = query.strip_prefix("upstream=").map(str::to_owned);
            blocking(move || match ports.blocked_keys(upstream.as_deref()) {
                Ok(keys) => json(&keys),
                Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
            })
            .await
        }
        (_, path) if path == "/v1/subscribers" || path.starts_with("/v1/subscribers/") => {
            subscribers_answer(ports, actor, (&method, path), request).await
        }
        (&Method::POST, "/v1/quarantine/list") => match read::<Query>(request).await {
            Ok(query) => quarantine_list(ports, query).await,
            Err(answer) => answer,
        },
        (&Method::POST, "/v1/quarantine/recheck") => match read::<Recheck>(request).await {
            Ok(asked) => quarantine_recheck(ports, asked, actor).await,
            Err(answer) => answer,
        },
        (&Method::POST, "/v1/quarantine/delete") => match read::<Discard>(request).await {
            Ok(asked) => blocking(move || discarded(&*ports, &asked, &actor)).await,
            Err(answer) => answer,
        },
        (&Method::GET, path) if path.starts_with("/v1/quarantine/") => {
            let path = path.to_owned();
            blocking(move || quarantined(&*ports, &path, query == "reveal=true")).await
        }
        (&Method::GET, path) if path.starts_with("/v1/events/") => {
            let path = path.to_owned();
            blocking(move || event(&*ports, &path, query == "reveal=true")).await
        }
        _ => probe_answer(ports, request).await,
    }
}

/// `/v1/subscribers`, `/v1/subscribers/TOPIC/NAME`, `/v1/subscribers/TOPIC/NAME/VERB`.
async fn subscribers_answer(
    ports: Arc<dyn Ports>,
    actor: Arc<str>,
    (method, path): (&Method, &str),
    request: Request<Incoming>,
) -> Answer {
    let rest = path.trim_start_matches("/v1/subscribers").trim_start_matches('/');
    let mut parts = rest.splitn(3, '/');
    let (topic, name, verb) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let upstream = format!("{topic}/{name}");
    match (method, rest, verb) {
        (&Method::GET, "", _) => blocking(move || subscriber_answer(subscribers::subscribers(&*ports))).await,
        (&Method::POST, "", _) => match read::<Subscribe>(request).await {
            Ok(asked) => blocking(move || subscriber_answer(subscribers::subscribe(&*ports, &asked, &actor))).await,
            Err(answer) => answer,
        },
        (&Method::POST, _, Some("pause")) => match read::<PauseSubscriber>(request).await {
            Ok(asked) => {
                blocking(move || subscriber_answer(subscribers::pause(&*ports, &upstream, &asked, &actor))).await
            }
            Err(answer) => answer,
        },
        (&Method::POST, _, Some("rotate-secret")) => match read::<RotateSecret>(request).await {
            Ok(asked) => {
                blocking(move || subscriber_answer(subscribers::rotate(&*ports, &upstream, &asked, &actor))).await
            }
            Err(answer) => answer,
        },
        (&Method::POST, _, Some("resume")) => {
            blocking(move || subscriber_answer(subscribers::resume(&*ports, &upstream, &actor))).await
        }
        (&Method::DELETE, _, None) => {
            blocking(move || subscriber_answer(subscribers::unsubscribe(&*ports, &upstream, &actor))).await
        }
        _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn subscriber_answer<T: Serialize>(done: Result<T, SubscriberError>) -> Answer {
    match done {
        Ok(told) => json(&told),
        Err(error) => {
            let status = match error {
                SubscriberError::Usage(_) => StatusCode::BAD_REQUEST,
                SubscriberError::NoSuch(_) => StatusCode::NOT_FOUND,
                SubscriberError::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            problem(status, error.to_string())
        }
    }
}

/// `/v1/events/ID`, `/v1/events/ID/body`, `/v1/events/ID/explain`.
fn event(ports: &dyn Ports, path: &str, reveal: bool) -> Answer {
    let mut parts = path.trim_start_matches("/v1/events/").split('/');
    let (id, what) = (parts.next().unwrap_or_default(), parts.next());
    let found = match id.parse::<EventId>().map_err(FindError::from).and_then(|id| find(ports, id)) {
        Ok(found) => found,
        Err(error) => return not_found(&error),
    };
    let answer = match what {
        None => show(ports, &found, reveal).map(|show| json(&show)),
        Some("body") => privacy::body(&*ports.log(), &found.event, reveal).map(bytes),
        Some("explain") => show(ports, &found, false).map(|show| json(&explain(&show, &ports.status(), ports.now()))),
        Some(_) => return problem(StatusCode::NOT_FOUND, "there is nothing here"),
    };
    answer.unwrap_or_else(|error| unreadable(&error))
}

/// `/v1/quarantine/ID`, `/v1/quarantine/ID/body`.
fn quarantined(ports: &dyn Ports, path: &str, reveal: bool) -> Answer {
    let mut parts = path.trim_start_matches("/v1/quarantine/").split('/');
    let (id, what) = (parts.next().unwrap_or_default(), parts.next());
    let id = match id.parse::<EventId>() {
        Ok(id) => id,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let answer = match what {
        None => quarantined_show(ports, id, reveal).map(|show| json(&show)),
        Some("body") => quarantined_body(ports, id, reveal).map(bytes),
        Some(_) => return problem(StatusCode::NOT_FOUND, "there is nothing here"),
    };
    answer.unwrap_or_else(|error| {
        let status = match error {
            KeptError::NoSuch(_) => StatusCode::NOT_FOUND,
            KeptError::Damaged(_) => StatusCode::UNPROCESSABLE_ENTITY,
            KeptError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        problem(status, error.to_string())
    })
}

fn discarded(ports: &dyn Ports, asked: &Discard, actor: &str) -> Answer {
    match delete(ports, asked, actor) {
        Ok(acted) => json(&acted),
        Err(error @ QuarantineError::Io(_)) => problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => problem(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn quarantine_list(ports: Arc<dyn Ports>, query: Query) -> Answer {
    let compiling = ports.clone();
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    match spawn_blocking(move || Wanted::new(query.filters, &*compiling)).await {
        Ok(Ok(wanted)) => streamed(move |lines| kept_listed(&*ports, &wanted, limit, &mut |reply| send(lines, &reply))),
        Ok(Err(error)) => problem(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the filters could not be compiled"),
    }
}

async fn quarantine_recheck(ports: Arc<dyn Ports>, asked: Recheck, actor: Arc<str>) -> Answer {
    let (selecting, admit) = (ports.clone(), asked.admit);
    match spawn_blocking(move || Selected::to_recheck(&*selecting, &asked)).await {
        Ok(Ok(selected)) => streamed(move |lines| {
            recheck(&*ports, selected, admit, &actor, &mut |reply| send(lines, &reply));
        }),
        Ok(Err(error)) => problem(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the requests could not be selected"),
    }
}

/// An answer of one JSON object a line, made on a blocking thread while it is read.
fn streamed(work: impl FnOnce(&mpsc::Sender<Bytes>) + Send + 'static) -> Answer {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    spawn_blocking(move || work(&sender));
    lines(receiver)
}

fn lines(receiver: mpsc::Receiver<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Right(Lines(receiver)));
    let kind = header::HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn reload(ports: &dyn Ports) -> Answer {
    match ports.reload() {
        Ok(reloaded) => json(&reloaded),
        Err(refused) => problems(
            StatusCode::CONFLICT,
            "the configuration was not applied; the one before is still active",
            refused.problems,
        ),
    }
}

fn acted<T: Serialize>(done: Result<T, ActError>) -> Answer {
    match done {
        Ok(acted) => json(&acted),
        Err(error @ (ActError::Usage(_) | ActError::Filter(_))) => problem(StatusCode::BAD_REQUEST, error.to_string()),
        Err(ActError::Query(QueryError::Read(error))) => unreadable(&error),
        Err(error @ (ActError::Query(_) | ActError::Refused(_))) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}

fn not_found(error: &FindError) -> Answer {
    match error {
        FindError::Id(_) => problem(StatusCode::BAD_REQUEST, error.to_string()),
        FindError::NoSuch(_) => problem(StatusCode::NOT_FOUND, error.to_string()),
        FindError::Read(error) => unreadable(error),
        FindError::State(_) => problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn unreadable(error: &ReadError) -> Answer {
    let status = match error {
        ReadError::Damaged { .. } | ReadError::Format(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ReadError::Missing(_) | ReadError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem(status, error.to_string())
}

/// Streams a listing, one JSON object a line.
async fn listing(ports: Arc<dyn Ports>, query: Query) -> Answer {
    let compiling = ports.clone();
    let filters = query.filters.clone();
    let compiled: Result<Compiled, FilterError> =
        match spawn_blocking(move || Compiled::new(filters, &*compiling)).await {
            Ok(compiled) => compiled,
            Err(_) => return problem(StatusCode::INTERNAL_SERVER_ERROR, "the filters could not be compiled"),
        };
    let wanted = match compiled {
        Ok(wanted) => Arc::new(wanted),
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::spawn(produce(ports, wanted, query, sender));
    lines(receiver)
}

/// Ends when the listing does, or when its reader is gone.
async fn produce(ports: Arc<dyn Ports>, wanted: Arc<Compiled>, query: Query, sender: mpsc::Sender<Bytes>) {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut next = ports.log().end();
    let first = {
        let (ports, wanted, sender) = (ports.clone(), wanted.clone(), sender.clone());
        let before = next;
        spawn_blocking(move || match query.follow {
            true => send_all(&sender, oldest_first(&*ports, &wanted, before, limit)),
            false => send_newest(&*ports, &wanted, limit, &sender),
        })
        .await
    };
    if first.is_err() || !query.follow {
        return;
    }
    while !sender.is_closed() {
        if ports.log().end() > next {
            let (ports, wanted, lines) = (ports.clone(), wanted.clone(), sender.clone());
            let from = next;
            match spawn_blocking(move || send_following(&*ports, &wanted, from, &lines)).await {
                Ok(Some(reached)) => next = reached,
                Ok(None) | Err(_) => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            () = sender.closed() => return,
        }
    }
}

fn send_newest(reads: &dyn Ports, wanted: &Compiled, limit: usize, sender: &mpsc::Sender<Bytes>) {
    let result = listed(reads, wanted, Seq::MAX, limit, &mut |reply| send(sender, &reply));
    if let Err(error) = result {
        let _gone = send(sender, &Reply::Failed(error.to_string()));
    }
}

/// The newest events, oldest first: what a follower sees before it waits. At most 10,000, since they are collected.
fn oldest_first(reads: &dyn Ports, wanted: &Compiled, before: Seq, limit: usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    let result = listed(reads, wanted, before, limit.min(10_000), &mut |reply| {
        replies.push(reply);
        ControlFlow::Continue(())
    });
    replies.reverse();
    replies.extend(result.err().map(|error| Reply::Failed(error.to_string())));
    replies
}

fn send_all(sender: &mpsc::Sender<Bytes>, replies: Vec<Reply>) {
    for reply in &replies {
        if send(sender, reply).is_break() {
            return;
        }
    }
}

fn send_following(reads: &dyn Ports, wanted: &Compiled, from: Seq, sender: &mpsc::Sender<Bytes>) -> Option<Seq> {
    let log = reads.log();
    match follow_once(reads, wanted, from, &mut |item| send(sender, &reply(&*log, item))) {
        Ok(next) => Some(next),
        Err(error) => {
            let _gone = send(sender, &Reply::Failed(error.to_string()));
            None
        }
    }
}

fn send(sender: &mpsc::Sender<Bytes>, reply: &impl Serialize) -> ControlFlow<()> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    match sender.blocking_send(line.into()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|_| {
        problem(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large: use filters in place of so many ids")
    })?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}")))
}

async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be finished"))
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body.into()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn bytes(body: Bytes) -> Answer {
    typed(StatusCode::OK, "application/octet-stream", body)
}

fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.into().into())
}

fn problem(status: StatusCode, title: impl Into<String>) -> Answer {
    problems(status, title, Vec::new())
}

fn problems(status: StatusCode, title: impl Into<String>, details: Vec<String>) -> Answer {
    let problem = Problem { status: status.as_u16(), title: title.into(), details };
    typed(status, "application/problem+json", serde_json::to_vec(&problem).unwrap_or_default().into())
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

/// A body that comes line by line from a blocking thread.
pub struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
