//! Owns the making of one attempt's request: which route's changes apply, the transform, the target and the body.
//!
//! Promises that stored events are never changed, that transforms run anew for each attempt, and that nothing in a
//! path or query is decoded or encoded.

use std::{borrow::Cow, fmt::Write, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    client::MakeRequest,
    cloudevents::Dress,
    headers::{self, BodyForm, ORIGIN},
    sign::Seal,
};
use crate::{
    clock::Timestamp,
    event::{Body, Change, Event, Job, RELAY, Reason, Sent},
    expr::{EvalError, Evaluator, Expr, Input},
    log::{Log, ReadError, origin, read_body},
    routing::{Changes, HostPolicy, PathEdit, Route, Table, Target, Upstream, without_secret},
    verify::PATH_SCHEME,
};

/// A request that is ready to be sent.
pub(crate) struct Draft<'a> {
    pub(super) job: &'a Job,
    pub(super) upstream: &'a Upstream,
    route: Option<&'a Route>,
    pub(super) method: Method,
    pub(super) target: Bytes,
    pub(super) body: Bytes,
    pub(super) form: BodyForm,
    /// The headers of a CloudEvent, and those that it has none of; empty for anything else.
    pub(super) dress: Dress,
    /// Our own signature, if we sign.
    pub(super) seal: Option<Seal>,
    /// It asks for a WebSocket.
    pub(super) upgrades: bool,
    /// What tells that this relay sent it.
    origin: u128,
    /// Gives the memory of a large body back with the draft.
    _memory: Option<SemaphorePermit<'a>>,
}

/// Memory for bodies that are read from the log, for one upstream: a large body waits until there is room. One that is
/// larger than all of it goes alone.
pub(crate) struct LargeBodies(Semaphore);

/// Room in KiB: 64 MiB.
const LARGE_BODIES_KIB: u32 = 64 * 1024;

impl Default for LargeBodies {
    fn default() -> Self {
        Self(Semaphore::new(LARGE_BODIES_KIB as usize))
    }
}

impl LargeBodies {
    async fn room(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(LARGE_BODIES_KIB);
        self.0.acquire_many(kib).await.ok()
    }
}

/// Why nothing is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The delivery is settled without an attempt.
    Settled(Change),
    /// Our own failure, likely to pass: try again later without spending an attempt.
    Later(Box<str>),
}

/// Prepares an attempt that begins now (wall time).
pub(crate) async fn prepare<'a>(
    job: &'a Job,
    upstream: &'a Upstream,
    table: &'a Table,
    log: &Arc<dyn Log>,
    evaluator: &Evaluator,
    large_bodies: &'a LargeBodies,
    now: Timestamp,
) -> Result<Draft<'a>, Unsent> {
    let memory = match &job.event.body {
        Body::Inline(_) => None,
        Body::Parts { length, .. } => large_bodies.room(*length).await,
    };
    let body = body(log, &job.event).await?;
    let route = match table.changes(&job.event.source, &job.upstream) {
        Changes::None => None,
        Changes::Same(route) => Some(route),
        Changes::Choose(routes) => choose(&routes, &job.event, &body, evaluator).await?,
    };
    let subject = match upstream.cloudevents.as_ref().and_then(|policy| policy.subject.as_ref()) {
        Some(subject) => subject_of(subject, &job.event, &body, evaluator).await?,
        None => None,
    };
    let transform = route.and_then(|route| route.transform.as_ref()).filter(|_| !job.original);
    let (body, form) = match transform {
        None => (body, BodyForm::Original),
        Some(transform) => transformed(transform, &job.event, &body, evaluator).await?,
    };
    let method = route.and_then(|route| route.method.clone()).unwrap_or_else(|| job.event.method.clone());
    let target = target(&job.event, upstream, route);
    let origin = origin(&**log, &job.event.source, job.event.id);
    let (dress, seal, upgrades) = (Dress::new(), None, false);
    let mut draft =
        Draft { job, upstream, route, method, target, body, form, dress, seal, upgrades, origin, _memory: memory };
    if let Some(policy) = &upstream.cloudevents {
        draft.wrap(policy, subject)?;
    }
    draft.seal(table, now)?;
    Ok(draft)
}

impl Draft<'_> {
    /// What the attempt's record says was sent.
    pub(crate) fn sent(&self) -> Sent {
        let path = std::str::from_utf8(&self.target).unwrap_or_default();
        let mut url = String::with_capacity(64 + path.len());
        match &self.upstream.target {
            Target::Http(uri) => url.extend(["http://", &authority(uri)]),
            Target::Https(uri) => url.extend(["https://", &authority(uri)]),
            Target::Unix(socket) => drop(write!(url, "unix:{}:", socket.display())),
            // The sink knows in which file.
            Target::File(_) | Target::Objects(_) => url.push_str("file:"),
            Target::Command(argv) => url.extend(["command:", argv.first().map_or("", |program| program)]),
        }
        match (&self.upstream.target, self.upstream.hides_url) {
            (Target::Command(_), _) => {}
            (_, true) => url.push_str("/…"),
            (_, false) => url.push_str(path),
        }
        let sha256 = (self.form != BodyForm::Original).then(|| Sha256::digest(&self.body).into());
        Sent { url: url.into(), sha256, signed: self.seal.as_ref().map(|seal| seal.by.clone().into()) }
    }

    /// Whether the answer has no body.
    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The headers of the attempt, without `Host` and without our own signature.
    pub(super) fn headers(&self) -> HeaderMap {
        let edit = self.route.map(|route| &route.headers);
        let mut headers = headers::build(self.job, self.form, edit, &self.upstream.headers);
        for (name, value) in &self.dress {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
        headers
    }

    /// The `Host` that the upstream sees.
    pub(super) fn host(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if let Some(configured) = headers.get(header::HOST) {
            return Some(configured.clone());
        }
        let own = || match &self.upstream.target {
            Target::Http(uri) | Target::Https(uri) => HeaderValue::from_str(&authority(uri)).ok(),
            Target::Unix(_) | Target::File(_) | Target::Objects(_) | Target::Command(_) => {
                Some(HeaderValue::from_static("localhost"))
            }
        };
        match &self.upstream.host {
            HostPolicy::Preserve => self.job.event.headers.get(header::HOST).cloned().or_else(own),
            HostPolicy::Upstream => own(),
            HostPolicy::Name(name) => Some(name.clone()),
        }
    }

    /// The body that is sent.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its job.
    pub(super) fn job(&self) -> &Job {
        self.job
    }
}

impl Draft<'_> {
    /// All headers of the attempt but `Host`.
    fn all_headers(&self) -> HeaderMap {
        let mut headers = self.headers();
        if let Some(seal) = &self.seal {
            seal.put_on(&mut headers);
        }
        if let Ok(origin) = HeaderValue::try_from(format!("{:032x}", self.origin)) {
            headers.insert(ORIGIN, origin);
        }
        headers
    }

    /// The same for a shadow: what the shadow's own settings say about url, `Host`, headers and signature, all else as it
    /// was sent. None if it can't be signed so.
    pub(super) fn copy_for(&self, shadow: &Upstream, table: &Table, now: Timestamp) -> Option<Copied> {
        let mut draft = Draft {
            job: self.job,
            upstream: shadow,
            route: self.route,
            method: self.method.clone(),
            target: target(&self.job.event, shadow, self.route),
            body: self.body.clone(),
            form: self.form,
            dress: self.dress.clone(),
            seal: None,
            origin: self.origin,
            upgrades: false,
            _memory: None,
        };
        draft.seal(table, now).ok()?;
        let mut headers = draft.all_headers();
        headers.insert(headers::SHADOW, HeaderValue::from_static("1"));
        let host = draft.host(&headers);
        let Draft { method, target, body, .. } = draft;
        Some(Copied { method, target, headers, host, body })
    }
}

impl MakeRequest for Draft<'_> {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut headers = self.all_headers();
        if self.upgrades && !http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        let host = self.host(&headers);
        made((&self.method, &self.target), headers, host, &self.body, http2)
    }
}

/// A request in full, which needs nothing else any more.
pub(super) struct Copied {
    method: Method,
    target: Bytes,
    headers: HeaderMap,
    host: Option<HeaderValue>,
    body: Bytes,
}

impl Copied {
    /// How long its body is, in bytes.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }
}

impl MakeRequest for Copied {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        made((&self.method, &self.target), self.headers.clone(), self.host.clone(), &self.body, http2)
    }
}

fn made(
    (method, target): (&Method, &Bytes),
    mut headers: HeaderMap,
    host: Option<HeaderValue>,
    body: &Bytes,
    http2: bool,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = if http2 {
        headers.remove(header::HOST);
        let target = PathAndQuery::from_maybe_shared(target.clone())?;
        let authority = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        Uri::builder().scheme("https").authority(authority).path_and_query(target).build()?
    } else {
        if let Some(host) = host {
            headers.insert(header::HOST, host);
        }
        Uri::from_maybe_shared(target.clone())?
    };
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Host and port as the URL has them, without user information.
pub(super) fn authority(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The path of requests that are about the upstream rather than about one event.
pub(super) fn own_path(upstream: &Upstream) -> String {
    let base = match &upstream.target {
        Target::Http(uri) | Target::Https(uri) => uri.path(),
        Target::Unix(_) | Target::File(_) | Target::Objects(_) | Target::Command(_) => "/",
    };
    match &upstream.path.path {
        Some(_) => upstream.path.apply(base, ""),
        None => base.to_owned(),
    }
}

/// Their `Host`.
pub(super) fn own_host(upstream: &Upstream) -> HeaderValue {
    const LOCAL: HeaderValue = HeaderValue::from_static("localhost");
    match (&upstream.host, &upstream.target) {
        (HostPolicy::Name(name), _) => name.clone(),
        (_, Target::Http(uri) | Target::Https(uri)) => HeaderValue::from_str(&authority(uri)).unwrap_or(LOCAL),
        (_, Target::Unix(_) | Target::File(_) | Target::Objects(_) | Target::Command(_)) => LOCAL,
    }
}

/// Path and query in origin form.
fn target(event: &Event, upstream: &Upstream, route: Option<&Route>) -> Bytes {
    let base = match &upstream.target {
        Target::Http(uri) | Target::Https(uri) => uri.path(),
        Target::Unix(_) | Target::File(_) | Target::Objects(_) | Target::Command(_) => "/",
    };
    let own = route.map(|route| &route.path).filter(|edit| **edit != PathEdit::default());
    let path = match &*event.verification.scheme {
        // The secret itself was never stored; what stands in its place is not the upstream's business.
        PATH_SCHEME => Cow::Owned(without_secret(&event.path)),
        // It was sent to no path: it goes to that of the url.
        RELAY => Cow::Borrowed(""),
        _ => Cow::Borrowed(&*event.path),
    };
    let mut target = own.unwrap_or(&upstream.path).apply(base, &path);
    if let Some(query) = &event.query {
        target.push('?');
        target.push_str(query);
    }
    target.into()
}

/// The whole body; one that stands in parts is read on a blocking thread.
async fn body(log: &Arc<dyn Log>, event: &Arc<Event>) -> Result<Bytes, Unsent> {
    if let Body::Inline(body) = &event.body {
        return Ok(body.clone());
    }
    let (log, event) = (log.clone(), event.clone());
    match tokio::task::spawn_blocking(move || read_body(&*log, &event)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error @ ReadError::Io { .. })) => Err(Unsent::Later(error.to_string().into())),
        Ok(Err(error)) => Err(Unsent::Settled(Change::Die(Reason::with("body_unreadable", error.to_string())))),
        Err(gone) => Err(Unsent::Later(gone.to_string().into())),
    }
}

/// Of several routes that change a request differently, the one whose `when` matches.
async fn choose<'a>(
    routes: &[&'a Route],
    event: &Event,
    body: &Bytes,
    evaluator: &Evaluator,
) -> Result<Option<&'a Route>, Unsent> {
    let mut chosen: Option<&Route> = None;
    for route in routes {
        let matches = match &route.when {
            None => true,
            Some(when) => evaluator
                .eval(when, &input(event, body))
                .await
                .map_err(|error| unevaluated("filter_failed", &route.name, &error))?
                .truthy(),
        };
        match chosen {
            _ if !matches => {}
            None => chosen = Some(route),
            Some(other) if other.changes_like(route) => {}
            Some(other) => {
                let names = format!("{}, {}", other.name, route.name);
                return Err(Unsent::Settled(Change::Die(Reason::with("conflicting_routes", names))));
            }
        }
    }
    Ok(chosen)
}

/// Runs a transform: exactly one output; a string is sent as it is, anything else as JSON, none is `ignored`.
async fn transformed(
    transform: &Expr,
    event: &Event,
    body: &Bytes,
    evaluator: &Evaluator,
) -> Result<(Bytes, BodyForm), Unsent> {
    let output = evaluator
        .eval(transform, &input(event, body))
        .await
        .map_err(|error| unevaluated("transform_failed", transform.text(), &error))?;
    let failed = |words: String| Unsent::Settled(Change::Die(Reason::with("transform_failed", words)));
    match output.values.as_slice() {
        [] => Err(Unsent::Settled(Change::Ignore)),
        [text] if text.first() == Some(&b'"') => {
            let text: String = serde_json::from_slice(text).map_err(|error| failed(error.to_string()))?;
            Ok((text.into(), BodyForm::Text))
        }
        [json] => Ok((json.clone(), BodyForm::Json)),
        several => Err(failed(format!("{} outputs where exactly one is needed", several.len()))),
    }
}

/// The subject of a CloudEvent, read from the event as it came; none if it can't be.
async fn subject_of(
    subject: &Expr,
    event: &Event,
    body: &Bytes,
    evaluator: &Evaluator,
) -> Result<Option<String>, Unsent> {
    match evaluator.eval(subject, &input(event, body)).await {
        Ok(output) => Ok(output.scalar().map(Cow::into_owned)),
        Err(error @ EvalError::Unavailable(_)) => Err(Unsent::Later(error.to_string().into())),
        Err(_) => Ok(None),
    }
}

fn unevaluated(code: &str, what: &str, error: &EvalError) -> Unsent {
    match error {
        EvalError::Unavailable(_) => Unsent::Later(error.to_string().into()),
        _ => Unsent::Settled(Change::Die(Reason::with(code, format!("{error} (in {what})")))),
    }
}

fn input<'a>(event: &'a Event, body: &'a [u8]) -> Input<'a> {
    Input {
        body,
        headers: &event.headers,
        query: event.query.as_deref(),
        path: &event.path,
        captures: &event.captures,
        method: event.method.as_str(),
        source: &event.source,
        id: Some(event.id),
        received_at: event.received_at,
    }
}
