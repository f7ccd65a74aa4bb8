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
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{sync::mpsc, time::timeout};

use super::{
    connection::{Connection, Http1, Http2, Unsent, drive, open, route, same_peer, words},
    names::Names,
    stream::Stream,
};
use crate::routing::{Target, Upstream};

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
    /// The upstream's guard takes none of its addresses; none was dialled.
    #[error("address refused: {0}")]
    AddressRefused(Box<str>),
    #[error("no connection within {} ms", .0.as_millis())]
    ConnectLate(Duration),
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the connection broke before the answer: {0}")]
    Broken(Box<str>),
    /// A program did not end well.
    #[error("{0}")]
    Program(Box<str>),
    /// The request can't be written down; the upstream was not asked.
    #[error("the request can't be sent: {0}")]
    Unsendable(Box<str>),
}

/// A request for one protocol or the other; made anew for each connection it is tried on.
pub(crate) trait MakeRequest {
    /// The request with an origin-form target for HTTP/1, an absolute one for HTTP/2.
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error>;
}

/// What the workers of one upstream share about its protocol and its addresses.
pub(crate) struct Shared {
    protocol: tokio::sync::Mutex<Protocol>,
    names: Arc<Names>,
}

impl Shared {
    pub(crate) fn new(names: Arc<Names>) -> Self {
        Self { protocol: tokio::sync::Mutex::default(), names }
    }
}

#[derive(Default)]
enum Protocol {
    #[default]
    Unknown,
    Http1,
    /// One for each address, if there are several.
    Http2(Vec<Http2>),
}

/// A worker's connection, if it has one.
#[derive(Default)]
pub(crate) struct Client(Option<Connection>);

impl Client {
    /// Sends a request and reads the answer, keeping at most `keep` bytes of its body.
    pub(crate) async fn exchange(
        &mut self,
        request: &impl MakeRequest,
        upstream: &Arc<Upstream>,
        shared: &Shared,
        keep: usize,
    ) -> Result<Answer, Failure> {
        let (parts, body) = self.begin(request, upstream, shared).await?.into_parts();
        let mut answer = Answer { status: parts.status, headers: parts.headers, body: Bytes::new(), cut: None };
        self.finish(body, &mut answer, upstream, keep).await;
        Ok(answer)
    }

    /// Sends a request and waits for the head of the answer. Its body must be read, by [`Client::finish`] or
    /// [`Client::relay`], or the client not used again.
    pub(crate) async fn begin(
        &mut self,
        request: &impl MakeRequest,
        upstream: &Arc<Upstream>,
        shared: &Shared,
    ) -> Result<Response<Incoming>, Failure> {
        let head = timeout(upstream.timeout, self.head(request, upstream, shared)).await;
        match head {
            Ok(Ok(response)) => {
                if let Some(seat) = self.0.as_ref().and_then(Connection::seat) {
                    seat.answered();
                }
                Ok(response)
            }
            Ok(Err(failure)) => {
                if let (Failure::Broken(_), Some(connection)) = (&failure, &self.0) {
                    shared.avoid(connection);
                }
                self.0 = None;
                Err(failure)
            }
            Err(_late) => {
                // A silent HTTP/2 connection may be dead: whoever comes next makes a new one.
                if let Some(connection) = self.0.take() {
                    shared.avoid(&connection);
                    shared.forget(&connection).await;
                }
                Err(Failure::Late(upstream.timeout))
            }
        }
    }

    /// Reads the body of an answer, keeping at most `keep` bytes of it.
    pub(crate) async fn finish(&mut self, body: Incoming, answer: &mut Answer, upstream: &Upstream, keep: usize) {
        if body.is_end_stream() {
            return;
        }
        let mut kept = BytesMut::new();
        let whole = upstream.timeout.saturating_add(upstream.idle_timeout);
        let read = timeout(whole, self.body(body, &mut kept, keep, upstream.idle_timeout)).await;
        let (cut, reusable) = read.unwrap_or((Some(Cut::Silent), false));
        answer.cut = cut;
        answer.body = kept.freeze();
        self.let_go_unless(reusable);
    }

    /// Passes the body of an answer on as it comes, as fast as it is taken. Gives at most `keep` bytes of it, and why
    /// these are not all. When nobody takes it any more, or nothing for `idle_timeout`, the rest is read as in
    /// [`Client::finish`].
    pub(crate) async fn relay(
        &mut self,
        mut body: Incoming,
        upstream: &Upstream,
        keep: usize,
        out: mpsc::Sender<Result<Bytes, Cut>>,
    ) -> (Bytes, Option<Cut>) {
        let (mut kept, mut longer) = (BytesMut::new(), None);
        // Room for the word that the body is not whole: without it a cut body would look like one that ended.
        let mut last = out.clone().reserve_owned().await.ok();
        let (cut, reusable) = loop {
            let data = match self.piece(&mut body, upstream.idle_timeout).await {
                Piece::Data(data) => data,
                Piece::End => break (longer, true),
                Piece::Cut(cut) => {
                    last.take().map(|last| last.send(Err(cut.clone())));
                    break (Some(cut), false);
                }
            };
            let fits = data.len().min(keep.saturating_sub(kept.len()));
            kept.extend_from_slice(data.get(..fits).unwrap_or_default());
            if fits < data.len() {
                // Nobody can be told the whole again: the excerpt is all that is needed.
                longer = Some(Cut::Longer);
                kept.truncate(EXCERPT_BYTES);
            }
            // A sender who takes nothing for so long is treated as one who went away: others need the connection.
            if !matches!(timeout(upstream.idle_timeout, out.send(Ok(data))).await, Ok(Ok(()))) {
                last.take().map(|last| last.send(Err(Cut::Silent)));
                let whole = upstream.timeout.saturating_add(upstream.idle_timeout);
                let rest = timeout(whole, self.body(body, &mut kept, keep, upstream.idle_timeout)).await;
                let (cut, reusable) = rest.unwrap_or((Some(Cut::Silent), false));
                break (longer.or(cut), reusable);
            }
        };
        self.let_go_unless(reusable);
        (kept.freeze(), cut)
    }

    /// The connection itself, after an answer 101, and what was read behind the answer. None if it can't be had.
    pub(crate) async fn into_stream(mut self) -> Option<(Stream, Bytes)> {
        let Some(Connection::Http1(mut connection)) = self.0.take() else { return None };
        if !connection.ended {
            poll_fn(|cx| connection.driver.as_mut().poll(cx)).await.ok()?;
        }
        let parts = Pin::into_inner(connection.driver).into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }

    fn let_go_unless(&mut self, reusable: bool) {
        if !reusable && matches!(self.0, Some(Connection::Http1(_))) {
            self.0 = None;
        }
    }

    /// Makes sure that there is a connection, so that only its failure leads to another target: nothing was sent then.
    pub(crate) async fn ready(&mut self, upstream: &Arc<Upstream>, shared: &Shared) -> Result<(), Failure> {
        poll_fn(|cx| {
            self.poll_idle(cx);
            Poll::Ready(())
        })
        .await;
        if self.reuse(upstream, shared) {
            return Ok(());
        }
        self.0 = None;
        match timeout(upstream.connect_timeout, self.connect(upstream, shared)).await {
            Ok(connected) => connected.map(drop),
            Err(_late) => Err(Failure::ConnectLate(upstream.connect_timeout)),
        }
    }

    /// Drives an idle connection and lets go of one that ended, or that is shared with others.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let is_over = match &mut self.0 {
            Some(Connection::Http1(connection)) => connection.ended || connection.driver.as_mut().poll(cx).is_ready(),
            Some(Connection::Http2(connection)) => connection.sender.is_closed(),
            None => return,
        };
        if is_over {
            self.0 = None;
        }
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
        let mut reused = self.reuse(upstream, shared);
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

    /// Whether the connection at hand is one to this upstream as it is configured now, and to one of its addresses.
    fn reuse(&mut self, upstream: &Arc<Upstream>, shared: &Shared) -> bool {
        if let Some(seat) = self.0.as_ref().and_then(Connection::seat)
            && !shared.names.keeps(seat, upstream)
        {
            return false;
        }
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
        if !matches!(upstream.target, Target::Https(_)) {
            let route = route(upstream, &shared.names).await?;
            let (stream, answered) = open(upstream, (&shared.names, &route)).await?;
            self.0 = Some(Connection::Http1(Http1::handshake(stream, answered, upstream).await?));
            return Ok(false);
        }
        // Held while connecting as long as HTTP/2 is possible: the others wait for the connection they will share.
        let mut protocol = shared.protocol.lock().await;
        let route = route(upstream, &shared.names).await?;
        let held = match &mut *protocol {
            Protocol::Http2(all) => {
                all.retain(|known| {
                    let is_usable = !known.sender.is_closed() && same_peer(&known.made_for, upstream);
                    is_usable && route.has(known.seat.as_ref())
                });
                let first = route.addresses.first();
                let next = all.iter().find(|known| known.seat.as_ref().is_none_or(|seat| Some(&seat.address) == first));
                if let Some(http2) = next {
                    self.0 = Some(Connection::Http2(http2.share(shared.names.now())));
                    return Ok(true);
                }
                if all.is_empty() {
                    *protocol = Protocol::Unknown;
                }
                Some(protocol)
            }
            Protocol::Http1 => {
                drop(protocol);
                None
            }
            Protocol::Unknown => Some(protocol),
        };
        let (stream, answered) = open(upstream, (&shared.names, &route)).await?;
        let is_http2 = stream.is_http2();
        self.0 = Some(if is_http2 {
            Connection::Http2(Http2::handshake(stream, upstream).await?)
        } else {
            Connection::Http1(Http1::handshake(stream, answered, upstream).await?)
        });
        let protocol = match held {
            Some(held) => Some(held),
            None if is_http2 => Some(shared.protocol.lock().await),
            None => None,
        };
        match (protocol, &self.0) {
            (Some(mut protocol), Some(Connection::Http2(http2))) => match &mut *protocol {
                Protocol::Http2(all) => all.push(http2.share(shared.names.now())),
                other => *other = Protocol::Http2(vec![http2.share(shared.names.now())]),
            },
            (Some(mut protocol), _) if matches!(*protocol, Protocol::Unknown) => *protocol = Protocol::Http1,
            _ => {}
        }
        Ok(false)
    }

    /// The next piece of a body.
    async fn piece(&mut self, body: &mut Incoming, idle: Duration) -> Piece {
        let frame = match &mut self.0 {
            Some(Connection::Http1(connection)) => {
                timeout(idle, drive(&mut connection.driver, &mut connection.ended, body.frame())).await
            }
            _ => timeout(idle, body.frame()).await,
        };
        match frame {
            Err(_late) => Piece::Cut(Cut::Silent),
            Ok(None) => Piece::End,
            Ok(Some(Err(error))) => Piece::Cut(Cut::Broken(words(&error))),
            // Trailers are dropped.
            Ok(Some(Ok(frame))) => Piece::Data(frame.into_data().unwrap_or_default()),
        }
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
            let data = match self.piece(&mut body, idle).await {
                Piece::Data(data) => data,
                Piece::End => return (cut, true),
                Piece::Cut(cut) => return (Some(cut), false),
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

/// What comes next of a body.
enum Piece {
    Data(Bytes),
    End,
    Cut(Cut),
}

impl Shared {
    /// Forgets a shared connection that turned out to be closed or silent.
    async fn forget(&self, connection: &Connection) {
        if let Connection::Http2(gone) = connection
            && let Protocol::Http2(all) = &mut *self.protocol.lock().await
        {
            all.retain(|known| !Arc::ptr_eq(&known.identity, &gone.identity));
        }
    }

    /// No answer came over a connection: others to its address are not made for a while, if there is another address.
    fn avoid(&self, connection: &Connection) {
        if let Some(seat) = connection.seat() {
            seat.failed(self.names.now());
        }
    }
}
