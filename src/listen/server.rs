//! Owns the running server: accepting, handing connections to shards, counting them, and the drain.

use std::{
    convert::Infallible,
    error::Error,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use tokio::{runtime::Handle, sync::Notify};

use super::{
    Broken, ConnectionInfo, Limits, OnBroken, Shards, Socket, conn,
    socket::{Fresh, Registered, Speaks},
};
use crate::telemetry::{Metrics, RequestResult};

/// How long accepting pauses when the process has no file descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a drain whose time is up waits for what it ends by itself: connections that have left HTTP.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Sockets that are being served.
pub struct Server {
    shared: Arc<Shared>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that still had a request under way when the time was up.
    pub cut_off: usize,
}

/// What all connections have in common.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) draining: AtomicBool,
    pub(super) drain: Notify,
    /// The time of the drain is up: what has left HTTP ends.
    cutting: AtomicBool,
    cut: Notify,
    on_broken: OnBroken,
    open: AtomicUsize,
    empty: Notify,
    next: AtomicUsize,
    turned_away: AtomicUsize,
}

impl Server {
    /// Serves the sockets on all shards. `factory` makes the service of each connection on shard `index`, after the
    /// handshake; `on_broken` is told about requests that never became one.
    ///
    /// # Errors
    /// When a socket can't be registered with a shard's event queue.
    pub fn start<F, S, B>(
        shards: &Shards,
        sockets: Vec<Socket>,
        limits: Limits,
        metrics: Arc<Metrics>,
        on_broken: OnBroken,
        factory: F,
    ) -> io::Result<Self>
    where
        F: Fn(usize, &ConnectionInfo) -> S + Send + Sync + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let shared = Arc::new(Shared {
            limits,
            metrics,
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            cutting: AtomicBool::new(false),
            cut: Notify::new(),
            on_broken,
            open: AtomicUsize::new(0),
            empty: Notify::new(),
            next: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
        });
        let factory = Arc::new(factory);
        for socket in sockets {
            let (handle, handles) = (shards.any(), shards.handles());
            let registered = {
                let _in_runtime = handle.enter();
                socket.listener.register()?
            };
            handle.spawn(accept(registered, socket.speaks, handles, shared.clone(), factory.clone()));
        }
        Ok(Self { shared })
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Ends in order: goes on as before for `delay` (so that load balancers notice), then closes the listeners and
    /// the connections that do nothing, and waits until the requests under way are answered, at most `timeout`.
    /// HTTP/2 peers get GOAWAY. Cancel-safe: a drain once begun goes on.
    pub async fn drain(&self, delay: Duration, timeout: Duration) -> Drained {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.shared.draining.store(true, Ordering::Release);
        self.shared.drain.notify_waiters();
        let all_gone = || async {
            loop {
                let mut gone = std::pin::pin!(self.shared.empty.notified());
                gone.as_mut().enable();
                if self.open() == 0 {
                    break;
                }
                gone.await;
            }
        };
        let _late = tokio::time::timeout(timeout, all_gone()).await;
        let cut_off = self.open();
        self.shared.cutting.store(true, Ordering::Release);
        self.shared.cut.notify_waiters();
        let _late = tokio::time::timeout(LAST_WORDS, all_gone()).await;
        Drained { cut_off }
    }
}

impl Shared {
    /// Whether the drain has begun.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Waits until the drain begins.
    pub(super) async fn drain_begun(&self) {
        let mut begun = std::pin::pin!(self.drain.notified());
        begun.as_mut().enable();
        if !self.is_draining() {
            begun.await;
        }
    }

    /// Waits until the time of the drain is up.
    pub(super) async fn cut_off(&self) {
        let mut cut = std::pin::pin!(self.cut.notified());
        cut.as_mut().enable();
        if !self.cutting.load(Ordering::Acquire) {
            cut.await;
        }
    }

    /// Counts and reports a request that never became one.
    pub(super) fn broken(&self, info: &ConnectionInfo, broken: Broken) {
        let result = match broken {
            Broken::Malformed | Broken::NotProxied => RequestResult::Malformed,
            Broken::HeadTooLarge => RequestResult::TooLarge,
            Broken::HeadTooSlow => RequestResult::TimedOut,
            Broken::TooManyConnections => {
                self.metrics.connections_refused.inc();
                return (self.on_broken)(info, broken);
            }
        };
        if let Some(counter) = self.metrics.unmatched.get(result as usize) {
            counter.inc();
        }
        (self.on_broken)(info, broken);
    }

    /// Takes a place among the connections; None if all are taken.
    fn admit(self: &Arc<Self>) -> Option<Place> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        self.metrics.connections.add(1);
        let place = Place(self.clone());
        (before < self.limits.max_connections).then_some(place)
    }
}

/// A place among the connections, given back when dropped.
pub(super) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.connections.add(-1);
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}

async fn accept<F, S, B>(
    listener: Registered,
    speaks: Speaks,
    handles: Vec<Handle>,
    shared: Arc<Shared>,
    factory: Arc<F>,
) where
    F: Fn(usize, &ConnectionInfo) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut drain = std::pin::pin!(shared.drain.notified());
    drain.as_mut().enable();
    while !shared.is_draining() {
        let fresh = tokio::select! {
            biased;
            () = &mut drain => break,
            fresh = listener.accept() => fresh,
        };
        let fresh = match fresh {
            Ok(fresh) => fresh,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let info = ConnectionInfo { peer: fresh.peer(), tls: speaks.tls.is_some(), certificate: None };
        let Some(place) = shared.admit() else {
            shared.broken(&info, Broken::TooManyConnections);
            // Spread over 5 to 30 s, so that those who were turned away do not return together.
            fresh.turn_away(speaks.tls.is_none(), 5 + shared.turned_away.fetch_add(11, Ordering::Relaxed) % 26);
            continue;
        };
        let index = shared.next.fetch_add(1, Ordering::Relaxed) % handles.len().max(1);
        let Some(handle) = handles.get(index) else { continue };
        let (speaks, shared, factory) = (speaks.clone(), shared.clone(), factory.clone());
        handle.spawn(async move {
            conn::serve(fresh, speaks, info, &shared, |info| factory(index, info)).await;
            drop(place);
        });
    }
}

/// Whether the peer gave up before it was accepted: no fault of ours.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected)
}

impl Fresh {
    fn peer(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }

    /// Closes the connection; says why if it can be said in plain text. Never blocks: the socket does not.
    fn turn_away(self, plain: bool, retry_after_s: usize) {
        if !plain {
            return;
        }
        const PROBLEM: &str = r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#;
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: {retry_after_s}\r\n\
             content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{PROBLEM}",
            PROBLEM.len()
        );
        let _gone = match self {
            Self::Tcp(mut stream, _) => stream.write_all(answer.as_bytes()),
            Self::Unix(mut stream) => stream.write_all(answer.as_bytes()),
        };
    }
}
