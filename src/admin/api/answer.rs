//! Owns the answers of the admin interfaces: JSON, lines, bytes, and the one place that chooses the status of an error.

use std::{
    io,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

use super::call::Call;
use crate::{
    admin::{
        act::ActError,
        filter::FilterError,
        find::FindError,
        ports::QueryError,
        privacy::BodyError,
        quarantine::{KeptBodyError, QuarantineError},
        quiet::start,
        wire::Problem,
    },
    event::IdError,
    log::ReadError,
    quarantine::KeptError,
};

/// Lines of a listing that wait for their reader.
pub(in crate::admin) const LINES_MAX: usize = 64;

/// An answer, whole or line by line.
pub(in crate::admin) type Answer = Response<Either<Full<Bytes>, Lines>>;

/// Why a request is not done: `application/problem+json` (RFC 9457).
#[derive(Clone, Debug)]
pub(in crate::admin) struct Refusal {
    status: StatusCode,
    title: String,
    details: Vec<String>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Refusal {
    pub(in crate::admin) fn new(status: StatusCode, title: impl Into<String>) -> Self {
        Self { status, title: title.into(), details: Vec::new(), header: None }
    }

    pub(in crate::admin) fn bad(title: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, title)
    }

    pub(in crate::admin) fn forbidden(title: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, title)
    }

    pub(in crate::admin) fn unavailable(title: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, title)
    }

    pub(in crate::admin) fn with_details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    pub(in crate::admin) fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// What is wrong: the status, in words, and more of them.
    pub(in crate::admin) fn parts(&self) -> (StatusCode, &str, &[String]) {
        (self.status, &self.title, &self.details)
    }

    /// As an answer.
    pub(in crate::admin) fn answer(self) -> Answer {
        let problem = Problem { status: self.status.as_u16(), title: self.title, details: self.details };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut answer = typed(self.status, "application/problem+json", body.into());
        if let Some((name, value)) = self.header.map(|header| *header) {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::Damaged { .. } | ReadError::Format(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ReadError::Missing(_) | ReadError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Read(error) => error.into(),
            QueryError::State(_) => Self::unavailable(error.to_string()),
            QueryError::TooSlow(_) => Self::bad(error.to_string()),
        }
    }
}

impl From<FindError> for Refusal {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Id(error) => error.into(),
            FindError::NoSuch(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            FindError::Read(error) => error.into(),
            FindError::State(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<ActError> for Refusal {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Usage(_) | ActError::Filter(_) => Self::bad(error.to_string()),
            ActError::NotAllowed(_) => Self::forbidden(error.to_string()),
            ActError::Query(error) => error.into(),
            ActError::Refused(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<QuarantineError> for Refusal {
    fn from(error: QuarantineError) -> Self {
        match error {
            QuarantineError::Io(_) | QuarantineError::Unrecorded(_) => Self::unavailable(error.to_string()),
            _ => Self::bad(error.to_string()),
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Read(error) => error.into(),
            BodyError::Unknown(_) => Self::forbidden(error.to_string()),
        }
    }
}

impl From<KeptBodyError> for Refusal {
    fn from(error: KeptBodyError) -> Self {
        match error {
            KeptBodyError::Kept(error) => error.into(),
            KeptBodyError::Unknown(_) => Self::forbidden(error.to_string()),
        }
    }
}

impl From<KeptError> for Refusal {
    fn from(error: KeptError) -> Self {
        let status = match error {
            KeptError::NoSuch(_) => StatusCode::NOT_FOUND,
            KeptError::Damaged(_) => StatusCode::UNPROCESSABLE_ENTITY,
            KeptError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// A value as JSON.
pub(in crate::admin) fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body.into()),
        Err(error) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).answer(),
    }
}

/// Bytes as they were received. A browser never takes them for a page.
pub(in crate::admin) fn bytes(body: Bytes) -> Answer {
    let mut answer = typed(StatusCode::OK, "application/octet-stream", body);
    answer.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    answer
}

/// A text for people.
pub(in crate::admin) fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.into().into())
}

/// Any body. Nothing of the interface may be kept by caches, or be read as another type than it has.
pub(in crate::admin) fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    finished(status, kind, Either::Left(Full::new(body)))
}

/// An answer of one JSON object a line, made on a thread of its own while it is read.
///
/// # Errors
/// 503 if it can't be made now: an answer without lines would say that there is nothing.
pub(in crate::admin) fn streamed(
    call: &Call,
    lines_max: usize,
    work: impl FnOnce(&mpsc::Sender<Bytes>) + Send + 'static,
) -> Result<Answer, Refusal> {
    let (sender, receiver) = mpsc::channel(lines_max);
    let reader = sender.clone();
    start(&*call.ports, move || reader.is_closed(), move || work(&sender)).map_err(Refusal::unavailable)?;
    Ok(lines(receiver))
}

/// Where the lines of an answer go, and what becomes its body with [`lines`].
pub(in crate::admin) fn channel() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(LINES_MAX)
}

/// An answer of the lines that come.
pub(in crate::admin) fn lines(receiver: mpsc::Receiver<Bytes>) -> Answer {
    finished(StatusCode::OK, "application/x-ndjson", Either::Right(Lines(receiver)))
}

fn finished(status: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Lines>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Sends one line; breaks if its reader is gone. Blocks while the reader is slow.
pub(in crate::admin) fn send(sender: &mpsc::Sender<Bytes>, reply: &impl Serialize) -> ControlFlow<()> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    match sender.blocking_send(line.into()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
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
