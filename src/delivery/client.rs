//! Owns connections to an upstream and one exchange over them.
//!
//! Promises: a connection belongs to one worker, which also drives it (no task beside it, no wake-up between
//! tasks); with HTTP/2, chosen by ALPN, all workers of an upstream share one connection. An exchange ends: connecting
//! by `connect_timeout`, the head by `timeout`, the body by `idle_timeout` for each piece and by `timeout` plus
//! `idle_timeout` as a whole, and after [`DRAIN_BYTES`] beyond what is kept. A kept connection that turns out to be
//! closed before a byte of the answer came is replaced by a new one once, unseen by anyone.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use super::stream::Stream;
use crate::routing::Upstream;

/// Read beyond what is kept of an answer, so that the connection can be used again; a longer answer costs it.
const DRAIN_BYTES: usize = 1024 * 1024;

/// What is kept of an answer's body for the log.
pub(crate) const EXCERPT_BYTES: usize = 16 * 1024;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// At most as much as was asked for.
    pub(crate) body: Bytes,
    /// Why the body ends before its end, if it does.
    pub(crate) cut: Option<Cut>,
}

/// Why an answer's body is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// Longer than what is kept.
    #[error("the answer is longer than what is kept of it")]
    Longer,
    /// Silence, or slower than it may be.
    #[error("the answer's body stopped coming")]
    Silent,
    /// The connection broke.
    #[error("the answer's body broke off: {0}")]
    Broken(Box<str>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("can't connect: {0}")]
    Connect(Box<str>),
    #[error("no connection within {} ms", .0.as_millis())]
    ConnectLate(Duration),
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the connection broke before the answer: {0}")]
    Broken(Box<str>),
    /// The request can't be written down; the upstream was not asked.
    #[error("the request can't be sent: {0}")]
    Unsendable(Box<str>),
}

/// A request for one protocol or the other; made anew for each connection it is tried on.
pub(crate) trait MakeRequest {
    /// The request with an origin-form target for HTTP/1, an absolute one for HTTP/2.
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error>;
}

/// What the workers of one upstream share about its protocol.
#[derive(Default)]
pub(crate) struct Shared(tokio::sync::Mutex<Protocol>);

#[derive(Default)]
enum Protocol {
    #[default]
    Unknown,
    Http1,
    Http2(Http2),
}

/// A worker's connection, if it has one.
#[derive(Default)]
pub(crate) struct Client(Option<Connection>);

enum Connection {
    Http1(Http1),
    Http2(Http2),
}

struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    ended: bool,
    answered: Arc<AtomicBool>,
    made_for: Arc<Upstream>,
}

#[derive(Clone)]
struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    made_for: Arc<Upstream>,
    /// Tells one connection from the next.
    identity: Arc<()>,
}

impl Client {
    /// Sends a request and reads the answer, keeping at most `keep` bytes of its body.
    pub(crate) async fn exchange(
        &mut self,
        request: &impl MakeRequest,
        upstream: &Arc<Upstream>,
        shared: &Shared,
        keep: usize,
    ) -> Result<Answer, Failure> {
        let head = timeout(upstream.timeout, self.head(request, upstream, shared)).await;
        let response = match head {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => {
                self.0 = None;
                return Err(failure);
            }
            Err(_late) => {
                // A silent HTTP/2 connection may be dead: whoever comes next makes a new one.
                if let Some(connection) = self.0.take() {
                    shared.forget(&connection).await;
                }
                return Err(Failure::Late(upstream.timeout));
            }
        };
        let (parts, body) = response.into_parts();
        let mut answer = Answer { status: parts.status, headers: parts.headers, body: Bytes::new(), cut: None };
        if !body.is_end_stream() {
            let mut kept = BytesMut::new();
            let whole = upstream.timeout.saturating_add(upstream.idle_timeout);
            let read = timeout(whole, self.body(body, &mut kept, keep, upstream.idle_timeout)).await;
            let (cut, reusable) = read.unwrap_or((Some(Cut::Silent), false));
            answer.cut = cut;
            answer.body = kept.freeze();
            if !reusable && matches!(self.0, Some(Connection::Http1(_))) {
                self.0 = None;
            }
        }
        Ok(answer)
    }

    /// Waits for `work` and keeps the idle connection driven, so that its end is noticed when it comes.
    pub(crate) async fn rest<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Some(Connection::Http1(connection)) = &mut self.0 {
            let done = poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if connection.ended => Poll::Ready(None),
                Poll::Pending => connection.driver.as_mut().poll(cx).map(|_ended| None),
            });
            if let Some(done) = done.await {
                return done;
            }
        }
        // The connection ended. Or it is shared: then it lives with those who use it, a resting worker lets it go.
        self.0 = None;
        work.await
    }

    async fn head(
        &mut self,
        request: &impl MakeRequest,
        upstream: &Arc<Upstream>,
        shared: &Shared,
    ) -> Result<Response<Incoming>, Failure> {
        let mut reused = self.reuse(upstream);
        loop {
            if !reused {
                self.0 = None;
                reused = match timeout(upstream.connect_timeout, self.connect(upstream, shared)).await {
                    Ok(connected) => connected?,
                    Err(_late) => return Err(Failure::ConnectLate(upstream.connect_timeout)),
                };
            }
            let Some(connection) = &mut self.0 else {
                return Err(Failure::Connect("the connection was not kept".into()));
            };
            match connection.send(request).await {
                Ok(response) => return Ok(response),
                Err(Unsent::Stale) if reused => {
                    shared.forget(connection).await;
                    reused = false;
                }
                Err(Unsent::Stale) => return Err(Failure::Broken("closed by the upstream".into())),
                Err(Unsent::Failed(failure)) => return Err(failure),
            }
        }
    }

    /// Whether the connection at hand is one to this upstream as it is configured now.
    fn reuse(&mut self, upstream: &Arc<Upstream>) -> bool {
        let (made_for, open) = match &mut self.0 {
            None => return false,
            Some(Connection::Http1(connection)) => (&mut connection.made_for, !connection.ended),
            Some(Connection::Http2(connection)) => (&mut connection.made_for, !connection.sender.is_closed()),
        };
        if !Arc::ptr_eq(made_for, upstream) {
            if !same_peer(made_for, upstream) {
                return false;
            }
            *made_for = upstream.clone();
        }
        open
    }

    /// Connects, or takes the shared connection. True if it was there before.
    async fn connect(&mut self, upstream: &Arc<Upstream>, shared: &Shared) -> Result<bool, Failure> {
        if !matches!(upstream.target, crate::routing::Target::Https(_)) {
            let (stream, answered) = open(upstream).await?;
            self.0 = Some(Connection::Http1(Http1::handshake(stream, answered, upstream).await?));
            return Ok(false);
        }
        // Held while connecting as long as HTTP/2 is possible: the others wait for the connection they will share.
        let mut protocol = shared.0.lock().await;
        let known = match &*protocol {
            Protocol::Http2(http2) if !http2.sender.is_closed() && same_peer(&http2.made_for, upstream) => {
                self.0 = Some(Connection::Http2(http2.clone()));
                return Ok(true);
            }
            Protocol::Http1 => {
                drop(protocol);
                None
            }
            Protocol::Unknown | Protocol::Http2(_) => {
                *protocol = Protocol::Unknown;
                Some(protocol)
            }
        };
        let (stream, answered) = open(upstream).await?;
        if stream.is_http2() {
            let http2 = Http2::handshake(stream, upstream).await?;
            match known {
                Some(mut protocol) => *protocol = Protocol::Http2(http2.clone()),
                None => *shared.0.lock().await = Protocol::Http2(http2.clone()),
            }
            self.0 = Some(Connection::Http2(http2));
        } else {
            if let Some(mut protocol) = known {
                *protocol = Protocol::Http1;
            }
            self.0 = Some(Connection::Http1(Http1::handshake(stream, answered, upstream).await?));
        }
        Ok(false)
    }

    /// Reads a body. Gives why it is cut, if it is, and whether the connection is good for another exchange.
    async fn body(
        &mut self,
        mut body: Incoming,
        kept: &mut BytesMut,
        keep: usize,
        idle: Duration,
    ) -> (Option<Cut>, bool) {
        let mut drained = 0;
        let mut cut = None;
        loop {
            let frame = match &mut self.0 {
                Some(Connection::Http1(connection)) => {
                    timeout(idle, drive(&mut connection.driver, &mut connection.ended, body.frame())).await
                }
                _ => timeout(idle, body.frame()).await,
            };
            let data = match frame {
                Err(_late) => return (Some(Cut::Silent), false),
                Ok(None) => return (cut, true),
                Ok(Some(Err(error))) => return (Some(Cut::Broken(words(&error))), false),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            let fits = data.len().min(keep.saturating_sub(kept.len()));
            kept.extend_from_slice(data.get(..fits).unwrap_or_default());
            if fits < data.len() {
                cut = Some(Cut::Longer);
                drained += data.len() - fits;
                if drained > DRAIN_BYTES {
                    return (cut, false);
                }
            }
        }
    }
}

impl Shared {
    /// Forgets a shared connection that turned out to be closed or silent.
    async fn forget(&self, connection: &Connection) {
        if let Connection::Http2(gone) = connection {
            let mut protocol = self.0.lock().await;
            if matches!(&*protocol, Protocol::Http2(known) if Arc::ptr_eq(&known.identity, &gone.identity)) {
                *protocol = Protocol::Unknown;
            }
        }
    }
}

/// What became of a request that got no answer.
enum Unsent {
    /// The connection had been closed before anything came back.
    Stale,
    Failed(Failure),
}

impl Connection {
    async fn send(&mut self, request: &impl MakeRequest) -> Result<Response<Incoming>, Unsent> {
        let unsendable = |error: http::Error| Unsent::Failed(Failure::Unsendable(error.to_string().into()));
        match self {
            Self::Http1(connection) => {
                let Http1 { sender, driver, ended, answered, .. } = connection;
                answered.store(false, Ordering::Relaxed);
                drive(driver, ended, sender.ready()).await.map_err(|_closed| Unsent::Stale)?;
                let request = request.make(false).map_err(unsendable)?;
                drive(driver, ended, sender.send_request(request)).await.map_err(|error| {
                    if !answered.load(Ordering::Relaxed) && is_closed(&error) {
                        return Unsent::Stale;
                    }
                    Unsent::Failed(Failure::Broken(words(&error)))
                })
            }
            Self::Http2(connection) => {
                connection.sender.ready().await.map_err(|_closed| Unsent::Stale)?;
                let request = request.make(true).map_err(unsendable)?;
                connection.sender.send_request(request).await.map_err(|error| {
                    if error.is_canceled() || error.is_closed() {
                        return Unsent::Stale;
                    }
                    Unsent::Failed(Failure::Broken(words(&error)))
                })
            }
        }
    }
}

impl Http1 {
    async fn handshake(stream: Stream, answered: Arc<AtomicBool>, upstream: &Arc<Upstream>) -> Result<Self, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(connect_failure)?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false, answered, made_for: upstream.clone() })
    }
}

impl Http2 {
    /// The driver runs as a task of its own and ends with the last user of the connection.
    async fn handshake(stream: Stream, upstream: &Arc<Upstream>) -> Result<Self, Failure> {
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(connect_failure)?;
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { sender, made_for: upstream.clone(), identity: Arc::default() })
    }
}

async fn open(upstream: &Upstream) -> Result<(Stream, Arc<AtomicBool>), Failure> {
    let answered = Arc::new(AtomicBool::new(false));
    let stream = Stream::connect(upstream, answered.clone())
        .await
        .map_err(|error| Failure::Connect(error.to_string().into()))?;
    Ok((stream, answered))
}

/// Whether two configurations of an upstream lead to the same peer with the same credentials.
fn same_peer(one: &Upstream, other: &Upstream) -> bool {
    let tls = match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(&one.config, &other.config),
        _ => false,
    };
    tls && one.target == other.target
}

/// Polls a connection's driver along with the work that needs it, in one task. Cancel-safe: both keep their state.
async fn drive<T>(
    driver: &mut Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    ended: &mut bool,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if *ended {
            return Poll::Pending;
        }
        *ended = driver.as_mut().poll(cx).is_ready();
        work.as_mut().poll(cx)
    })
    .await
}

/// Whether the error means that the peer had closed the connection.
fn is_closed(error: &hyper::Error) -> bool {
    use std::io::ErrorKind as K;
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || io.is_some_and(|io| {
            matches!(
                io.kind(),
                K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected | K::UnexpectedEof
            )
        })
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn connect_failure(error: hyper::Error) -> Failure {
    Failure::Connect(words(&error))
}

/// The error with its cause.
fn words(error: &hyper::Error) -> Box<str> {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}").into(),
        None => error.to_string().into(),
    }
}
