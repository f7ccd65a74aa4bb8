//! Owns one connection to an upstream: HTTP/1 for one worker, HTTP/2 shared by all.
//!
//! Promises that an HTTP/1 connection is driven by whoever uses it, in the same task, and that a request that a closed
//! connection never answered is told apart from one that may have arrived. Time limits are the caller's.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{
    client::{Failure, MakeRequest},
    names::{Names, Route, Seat},
    stream::{self, AddressRefused, Stream},
};
use crate::{clock::Timestamp, routing::Upstream};

/// A connection.
pub(crate) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

/// One worker's.
pub(crate) struct Http1 {
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    pub(crate) driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    pub(crate) ended: bool,
    pub(crate) answered: Arc<AtomicBool>,
    pub(crate) seat: Option<Seat>,
    pub(crate) made_for: Arc<Upstream>,
}

/// Everyone's.
pub(crate) struct Http2 {
    /// Of each of its users.
    pub(crate) seat: Option<Seat>,
    pub(crate) sender: http2::SendRequest<Full<Bytes>>,
    pub(crate) made_for: Arc<Upstream>,
    /// Tells one connection from the next.
    pub(crate) identity: Arc<()>,
}

/// What became of a request that got no answer.
pub(crate) enum Unsent {
    /// The connection had been closed before anything came back.
    Stale,
    Failed(Failure),
}

impl Connection {
    /// The address it goes to, if that is one of a name.
    pub(crate) fn seat(&self) -> Option<&Seat> {
        match self {
            Self::Http1(connection) => connection.seat.as_ref(),
            Self::Http2(connection) => connection.seat.as_ref(),
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(&mut self, request: &impl MakeRequest) -> Result<Response<Incoming>, Unsent> {
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
    pub(crate) async fn handshake(
        mut stream: Stream,
        answered: Arc<AtomicBool>,
        upstream: &Arc<Upstream>,
    ) -> Result<Self, Failure> {
        let seat = stream.seat.take();
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(connect_failure)?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false, answered, seat, made_for: upstream.clone() })
    }
}

impl Http2 {
    /// The driver runs as a task of its own and ends with the last user of the connection.
    pub(crate) async fn handshake(mut stream: Stream, upstream: &Arc<Upstream>) -> Result<Self, Failure> {
        let seat = stream.seat.take();
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(connect_failure)?;
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { seat, sender, made_for: upstream.clone(), identity: Arc::default() })
    }

    /// The same connection for one more user.
    pub(crate) fn share(&self, now: Timestamp) -> Self {
        let (sender, made_for) = (self.sender.clone(), self.made_for.clone());
        let seat = self.seat.as_ref().map(|seat| seat.share(now));
        Self { seat, sender, made_for, identity: self.identity.clone() }
    }
}

/// Opens a stream, with the flag that tells whether anything was read from it.
pub(crate) async fn open(upstream: &Upstream, from: (&Names, &Route)) -> Result<(Stream, Arc<AtomicBool>), Failure> {
    let answered = Arc::new(AtomicBool::new(false));
    let opened = Stream::connect(upstream, answered.clone(), from).await;
    let stream = opened.map_err(|error| Failure::Connect(error.to_string().into()))?;
    Ok((stream, answered))
}

/// Where an upstream may be dialled now.
pub(crate) async fn route(upstream: &Upstream, names: &Names) -> Result<Route, Failure> {
    stream::route(upstream, names).await.map_err(|error| match error.get_ref() {
        Some(inner) if inner.is::<AddressRefused>() => Failure::AddressRefused(error.to_string().into()),
        _ => Failure::Connect(error.to_string().into()),
    })
}

/// Whether two configurations of an upstream lead to the same peer with the same credentials.
pub(crate) fn same_peer(one: &Upstream, other: &Upstream) -> bool {
    let tls = match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(&one.config, &other.config),
        _ => false,
    };
    // A guard that is new or narrower judges the address anew.
    tls && one.target == other.target && one.guard == other.guard
}

/// Polls a connection's driver along with the work that needs it, in one task. Cancel-safe: both keep their state.
pub(crate) async fn drive<T>(
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
pub(crate) fn words(error: &hyper::Error) -> Box<str> {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}").into(),
        None => error.to_string().into(),
    }
}
