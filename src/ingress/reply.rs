//! Owns what senders are told: the one place that chooses HTTP statuses.
//!
//! A refusal has two faces: [`Refusal::status`] and its title are all that the sender may read; [`Refusal::word`] and
//! the `Display` text are for operators and say which check failed.

use std::{
    borrow::Cow,
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;

use super::{admit::Left, challenge::Fault, wait::Answered};
use crate::{
    event::EventId,
    expr::EvalError,
    jitter::Jitter,
    keys::KeysError,
    log::{AppendError, ReadError},
    routing::Reply,
    schema::Violation,
    telemetry::RequestResult,
    verify,
};

/// The id of the stored event, on every answer of an accepted request.
pub const EVENT_ID: HeaderName = HeaderName::from_static("stagepost-event-id");
/// `true` on the answer to a duplicate.
pub const DUPLICATE: HeaderName = HeaderName::from_static("stagepost-duplicate");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The methods that a source takes when it lists none.
pub(super) const ALL_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Seconds of `Retry-After`, at least and at most.
const RETRY_AFTER_S: (u64, u64) = (5, 30);

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no source takes this host and path")]
    NotFound,
    #[error("the path has dot segments under a subtree source")]
    DotSegments,
    #[error("the request has no Host, more than one, or one that names no host")]
    Host,
    #[error("the declared length is no number")]
    Length,
    #[error("the body's framing is not HTTP")]
    MalformedBody,
    #[error("the source does not take the method")]
    Method { allow: Cow<'static, str> },
    #[error("the body is larger than the source's max_body")]
    TooLarge,
    #[error("gRPC is not taken")]
    Grpc,
    #[error("the batch has more items than the source's max_items, or its items and their headers are too large")]
    TooManyItems,
    #[error("the source's schema does not accept the body: {violation}")]
    Schema {
        violation: Violation,
        /// What is to be kept in quarantine.
        keep: Option<Box<Left>>,
    },
    #[error("the verifier refused the request: {}", .0.as_str())]
    Unverified(verify::Refusal, Option<Box<Left>>),
    #[error("the secret segment of the path is wrong")]
    PathSecret,
    #[error("the client's address is not among the source's allow")]
    Address,
    #[error("the client shows no certificate that the source's client_certificate takes")]
    Certificate,
    #[error("the challenge is not answered: {}", .0.as_str())]
    Challenge(Fault),
    #[error("keys to verify the request with are not to be had: {0}")]
    Keys(#[source] KeysError),
    #[error("the body came too slowly")]
    TooSlow,
    #[error("the sender went away before the end of the body")]
    Disconnected,
    #[error("bodies in flight use all of server.body_memory")]
    NoMemory,
    #[error("spooled bodies use all of server.spool_size")]
    NoSpool,
    #[error("the spool can't be written or read")]
    Spool(#[source] io::Error),
    #[error("the log did not take the event: {0}")]
    Append(#[source] AppendError),
    #[error("stored dedupe keys can't be read: {0}")]
    Seen(#[source] ReadError),
    #[error("the dedupe key can't be evaluated: {0}")]
    Key(#[source] EvalError),
    #[error("more than the source or its tenant may send ({word}); it may again in {wait:?}")]
    Limited { word: &'static str, wait: Duration },
    #[error("as many connections of the source are upgraded as its upgrade.max allows")]
    Upgrades,
    #[error("the request came back to this relay")]
    Loop,
    #[error("the upstream can't be reached: {0}")]
    Unreachable(String),
    #[error("the upstream did not answer in time")]
    Late,
}

impl Refusal {
    /// The status that the sender sees.
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::PathSecret => StatusCode::NOT_FOUND,
            Self::Address | Self::Certificate | Self::Challenge(Fault::VerifyToken) => StatusCode::FORBIDDEN,
            Self::Challenge(Fault::Malformed) => StatusCode::BAD_REQUEST,
            // The specification: without permission the answer is 405, or one without the headers.
            Self::Challenge(Fault::Origin) => StatusCode::METHOD_NOT_ALLOWED,
            Self::DotSegments | Self::Host | Self::Length | Self::MalformedBody | Self::Disconnected => {
                StatusCode::BAD_REQUEST
            }
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge | Self::TooManyItems => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Schema { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Grpc => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unverified(..) => StatusCode::UNAUTHORIZED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            // RFC 5842, section 7.2.
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NoMemory
            | Self::NoSpool
            | Self::Spool(_)
            | Self::Append(_)
            | Self::Seen(_)
            | Self::Key(_)
            | Self::Upgrades
            | Self::Keys(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The word for operators, in `stagepost refused`.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::DotSegments => "dot_segments",
            Self::Host => "bad_host",
            Self::Length => "bad_length",
            Self::MalformedBody => "malformed_body",
            Self::Method { .. } => "method_not_allowed",
            Self::TooLarge => "body_too_large",
            Self::Grpc => "grpc",
            Self::Unverified(refusal, _) => refusal.as_str(),
            Self::TooManyItems => "too_many_items",
            Self::Schema { .. } => "schema",
            Self::PathSecret => "wrong_path_secret",
            Self::Address => "address_not_allowed",
            Self::Certificate => "client_certificate_not_allowed",
            Self::Challenge(fault) => fault.as_str(),
            Self::TooSlow => "body_too_slow",
            Self::Limited { word, .. } => word,
            Self::Loop => "loop",
            Self::Disconnected => "disconnected",
            Self::NoMemory => "body_memory_full",
            Self::NoSpool => "spool_full",
            Self::Spool(_) => "spool_unusable",
            Self::Append(AppendError::Full) => "log_full",
            Self::Append(AppendError::Busy) => "log_busy",
            Self::Append(_) => "log_unavailable",
            Self::Seen(_) => "dedupe_unreadable",
            Self::Key(_) => "evaluator_unavailable",
            Self::Keys(_) => "keys_unavailable",
            Self::Upgrades => "too_many_upgrades",
            Self::Unreachable(_) => "upstream_unreachable",
            Self::Late => "upstream_late",
        }
    }

    /// What the operator can do about it, if that is known.
    pub(super) const fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unverified(refusal, _) => refusal.advice(),
            _ => None,
        }
    }

    /// The metric label.
    pub(super) const fn result(&self) -> RequestResult {
        match self {
            Self::NotFound | Self::PathSecret => RequestResult::NotFound,
            Self::Address | Self::Certificate | Self::Challenge(Fault::VerifyToken | Fault::Origin) => {
                RequestResult::Forbidden
            }
            Self::Challenge(Fault::Malformed) => RequestResult::Malformed,
            Self::DotSegments | Self::Host | Self::Length | Self::MalformedBody => RequestResult::Malformed,
            Self::Method { .. } => RequestResult::MethodNotAllowed,
            Self::TooLarge | Self::TooManyItems => RequestResult::TooLarge,
            Self::Schema { .. } => RequestResult::Unprocessable,
            Self::Grpc => RequestResult::Unsupported,
            Self::Unverified(..) => RequestResult::Unauthorized,
            Self::TooSlow => RequestResult::TimedOut,
            Self::Limited { .. } => RequestResult::Limited,
            Self::Loop => RequestResult::Loop,
            Self::Disconnected => RequestResult::Disconnected,
            Self::NoMemory
            | Self::NoSpool
            | Self::Spool(_)
            | Self::Append(_)
            | Self::Seen(_)
            | Self::Key(_)
            | Self::Upgrades
            | Self::Keys(_) => RequestResult::Unavailable,
            Self::Unreachable(_) | Self::Late => RequestResult::UpstreamFailed,
        }
    }

    /// The whole answer (RFC 9457). `close` says that the rest of the request will not be read; `scheme` is that of
    /// the source's verifier, if there is a source.
    pub(super) fn answer(&self, close: bool, scheme: &str, jitter: &Jitter) -> Response<ReplyBody> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let detail = self.detail();
        let problem = format!(r#"{{"type":"about:blank","title":"{title}","status":{}{detail}}}"#, status.as_u16());
        let mut response = Response::new(ReplyBody::from(Bytes::from(problem)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM);
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match self {
            Self::Method { allow } => {
                if let Ok(allow) = HeaderValue::from_str(allow) {
                    headers.insert(header::ALLOW, allow);
                }
            }
            Self::Challenge(Fault::Origin) => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            Self::Unverified(..) => {
                headers.insert(header::WWW_AUTHENTICATE, wanted(scheme));
            }
            // Whole seconds, so that the next try is not a moment too early.
            Self::Limited { wait, .. } => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(header::RETRY_AFTER, seconds.max(1).into());
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                let (least, most) = RETRY_AFTER_S;
                headers.insert(header::RETRY_AFTER, (least + jitter.next_u64() % (most - least + 1)).into());
            }
            _ => {}
        }
        response
    }

    /// What the sender is told beyond the status, as a member of the problem.
    fn detail(&self) -> String {
        let text = match self {
            Self::Schema { violation, .. } => violation.as_str(),
            Self::TooManyItems => "the batch has more items than are taken at once; send smaller batches",
            _ => return String::new(),
        };
        serde_json::to_string(text).map_or_else(|_| String::new(), |text| format!(r#","detail":{text}"#))
    }

    /// Whether the connection can't go on after this answer, whatever is left of the request.
    pub(super) const fn ends_connection(&self) -> bool {
        matches!(self, Self::TooSlow | Self::TooLarge | Self::MalformedBody | Self::Disconnected | Self::Length)
    }
}

/// What a sender without the right credentials is told to bring (RFC 9110, section 11.6.1).
fn wanted(scheme: &str) -> HeaderValue {
    HeaderValue::from_static(match scheme {
        "basic" | "postmark" => "Basic realm=\"stagepost\", charset=\"UTF-8\"",
        "bearer" | "google-pubsub" => "Bearer realm=\"stagepost\"",
        "token" | "gitlab-token" | "telegram" | "google-calendar" | "okta" => "Token realm=\"stagepost\"",
        _ => "Signature realm=\"stagepost\"",
    })
}

/// What became of a request that was taken.
pub(super) enum Taken {
    /// Stored.
    Accepted(EventId),
    /// Known already; the first event's id.
    Duplicate(EventId),
    /// Answered by the upstream; the id if it was stored.
    Proxied(Option<EventId>, Response<ReplyBody>),
    /// Its sender waited for an answer.
    Answered(Box<Answered>),
    /// Nothing: it came from quarantine, to see whether it would be taken. Never reaches a sender.
    Rehearsed,
    /// A challenge, answered and forgotten.
    Challenged(Response<ReplyBody>),
}

impl Taken {
    /// The metric label.
    pub(super) const fn result(&self) -> RequestResult {
        match self {
            Self::Accepted(_) | Self::Rehearsed => RequestResult::Accepted,
            Self::Duplicate(_) => RequestResult::Duplicate,
            Self::Proxied(..) => RequestResult::Proxied,
            Self::Answered(answered) => answered.result(),
            Self::Challenged(_) => RequestResult::Challenge,
        }
    }

    /// The answer: the source's own, or the default.
    pub(super) fn answer(self, own: Option<&Reply>) -> Response<ReplyBody> {
        match self {
            Self::Accepted(id) => acknowledge(id, StatusCode::ACCEPTED, own),
            Self::Rehearsed => Response::new(ReplyBody::from(Bytes::new())),
            Self::Duplicate(first) => {
                let mut response = acknowledge(first, StatusCode::OK, own);
                response.headers_mut().insert(DUPLICATE, HeaderValue::from_static("true"));
                response
            }
            Self::Challenged(response) => response,
            Self::Answered(answered) => answered.into_response(),
            Self::Proxied(id, mut response) => {
                let id = id.and_then(|id| HeaderValue::from_bytes(&id.to_ascii()).ok());
                if let Some(id) = id {
                    response.headers_mut().insert(EVENT_ID, id);
                }
                response
            }
        }
    }
}

/// The answer without an upstream: the source's own, or the default.
pub(super) fn acknowledge(id: EventId, status: StatusCode, own: Option<&Reply>) -> Response<ReplyBody> {
    let ascii = id.to_ascii();
    let mut headers;
    let mut response = match own {
        None => {
            // One allocation holds body and header value.
            let mut json = Vec::with_capacity(35);
            json.extend_from_slice(br#"{"id":""#);
            json.extend_from_slice(&ascii);
            json.extend_from_slice(br#""}"#);
            headers = HeaderMap::with_capacity(4);
            headers.insert(header::CONTENT_TYPE, JSON);
            let mut response = Response::new(ReplyBody::from(Bytes::from(json)));
            *response.status_mut() = status;
            response
        }
        Some(own) => {
            headers = own.headers.clone();
            let mut response = Response::new(ReplyBody::from(own.body.clone()));
            *response.status_mut() = own.status;
            response
        }
    };
    if let Ok(id) = HeaderValue::from_bytes(&ascii) {
        headers.insert(EVENT_ID, id);
    }
    *response.headers_mut() = headers;
    response
}

/// The methods that a source takes, for `Allow`.
pub(super) fn allow(methods: Option<&[Method]>) -> Cow<'static, str> {
    match methods {
        None => ALL_METHODS.into(),
        Some(listed) => listed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ").into(),
    }
}

/// The body of an answer: our own bytes, or an upstream's answer as it comes.
pub struct ReplyBody(Source);

enum Source {
    Own(Option<Bytes>),
    Passed(BoxBody<Bytes, Box<dyn Error + Send + Sync>>),
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl ReplyBody {
    /// Passes an upstream's answer on.
    #[must_use]
    pub fn passed(body: BoxBody<Bytes, Box<dyn Error + Send + Sync>>) -> Self {
        Self(Source::Passed(body))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Passed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(bytes) => bytes.is_none(),
            Source::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Passed(body) => body.size_hint(),
        }
    }
}
