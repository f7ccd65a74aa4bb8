//! Owns one connection from its first byte to its close: TLS, the choice of protocol, hyper, limits, drain.

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{HttpService, Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Broken, ConnectionInfo, proxied,
    server::Shared,
    socket::{Fresh, Speaks},
    stream::{Ahead, Metered, Raw, Stream, WhoCloses},
    tunnel::Tunnel,
    watch::{Activity, InFlight, Phase, Verdict, Watch},
};

/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;

/// Bytes that an HTTP/2 peer may send ahead of what is read: on one stream, and on the whole connection.
const WINDOWS: (u32, u32) = (128 * 1024, 256 * 1024);

/// How long a connection is still read, and what comes thrown away, after our last answer: closing while the peer
/// sends would reset the connection and could take the answer with it.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// While the server drains, a peer that sends nothing for so long has had its answer: a stop does not wait until it hangs
/// up.
const SILENCE: Duration = Duration::from_millis(300);

/// The answer to a header block that came too slowly.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-type: application/problem+json\r\ncontent-length: 61\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408}";

/// Serves one connection to its end. `factory` makes its service once it is open.
pub(super) async fn serve<S, B>(
    fresh: Fresh,
    speaks: Speaks,
    mut info: ConnectionInfo,
    shared: &Shared,
    factory: impl FnOnce(&ConnectionInfo) -> S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Some(mut stream) = open(fresh, speaks, &mut info, shared).await else { return };
    let mut ahead = Ahead::default();
    let protocol = match &stream {
        Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => Protocol::Http2,
        Stream::Tls(_) => Protocol::Http1,
        Stream::Plain(_) => match sniff(&mut stream, &mut ahead, shared).await {
            Some(protocol) => protocol,
            None => return,
        },
    };
    if let Stream::Tls(tls) = &stream {
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        info.certificate = shown.map(|certificate| (&**certificate).into());
    }
    let activity = Arc::new(Activity::default());
    let tunnel = Arc::<Mutex<Option<Tunnel>>>::default();
    let service = {
        let tunnel = tunnel.clone();
        let (activity, is_http2) = (activity.clone(), matches!(protocol, Protocol::Http2));
        let service = factory(&info);
        service_fn(move |request| {
            let mut guard = activity.begin();
            let answer = service.call(request);
            let tunnel = tunnel.clone();
            async move {
                let mut response = answer.await?;
                if let Some(taken) = response.extensions_mut().remove::<Tunnel>() {
                    *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
                }
                if is_http2 {
                    guard.moved();
                }
                Ok::<_, Infallible>(response.map(|body| Held { body, guard, is_http2 }))
            }
        })
    };
    let io = |end| TokioIo::new(Metered::new(stream, activity.clone(), ahead, end));
    match protocol {
        Protocol::Http1 => http1(io(WhoCloses::Owner), &info, shared, &activity, service, &tunnel).await,
        Protocol::Http2 => http2(io(WhoCloses::Hyper), &info, shared, &activity, service).await,
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Registers the stream with this thread's runtime and shakes hands. None: the connection is over.
async fn open(fresh: Fresh, speaks: Speaks, info: &mut ConnectionInfo, shared: &Shared) -> Option<Stream> {
    let limits = &shared.limits;
    let mut raw = match fresh {
        Fresh::Tcp(stream, _) => Raw::Tcp(TcpStream::from_std(stream).ok()?),
        Fresh::Unix(stream) => Raw::Unix(UnixStream::from_std(stream).ok()?),
    };
    if speaks.proxy_protocol {
        match timeout(limits.handshake_timeout, proxied::read(&mut raw)).await {
            Ok(Ok(Some(told))) => info.peer = told.or(info.peer),
            Ok(Ok(None)) => return None,
            Ok(Err(_)) | Err(_) => {
                shared.broken(info, Broken::NotProxied);
                return None;
            }
        }
    }
    let Some(config) = speaks.tls else { return Some(Stream::Plain(raw)) };
    match timeout(limits.handshake_timeout, TlsAcceptor::from(config).accept(raw)).await {
        Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_late) => None,
    }
}

/// Reads until it is clear which protocol is spoken. None: nothing came, or the drain began before anything did.
async fn sniff(stream: &mut Stream, ahead: &mut Ahead, shared: &Shared) -> Option<Protocol> {
    let mut drain = pin!(shared.drain.notified());
    drain.as_mut().enable();
    let mut due = Instant::now() + shared.limits.idle_timeout;
    loop {
        let first = ahead.bytes().is_empty();
        if first && shared.is_draining() {
            return None;
        }
        let read = tokio::select! {
            biased;
            read = timeout_at(due, stream.read(ahead.room())) => read,
            // Cancel-safe: a read that is not ready has taken nothing.
            () = &mut drain, if first => return None,
        };
        match read {
            Ok(Ok(0) | Err(_)) if first => return None,
            Err(_late) if first => return None,
            // hyper finds out about the end or the silence and answers it.
            Ok(Ok(0) | Err(_)) | Err(_) => return Some(Protocol::Http1),
            Ok(Ok(count)) => ahead.add(count),
        }
        if first {
            due = Instant::now() + shared.limits.header_timeout;
        }
        match ahead.bytes() {
            bytes if bytes == PREFACE => return Some(Protocol::Http2),
            bytes if PREFACE.starts_with(bytes) => {}
            _ => return Some(Protocol::Http1),
        }
    }
}

/// How hyper's part ended.
enum End {
    /// By itself.
    Over(hyper::Result<()>),
    /// A header block took too long.
    HeadTooSlow,
    /// Nothing to wait for.
    Idle,
}

async fn http1<S>(
    io: TokioIo<Metered>,
    info: &ConnectionInfo,
    shared: &Shared,
    activity: &Activity,
    service: S,
    tunnel: &Mutex<Option<Tunnel>>,
) where
    S: HttpService<Incoming, Error = Infallible>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let limits = &shared.limits;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    // Timeouts are the watch's: hyper would arm a timer for each request, and could not answer 408.
    builder.header_read_timeout(None);
    builder.max_header_size(limits.max_header_bytes);
    builder.max_buf_size(limits.max_header_bytes.max(16 * 1024));
    // Our answers are small: one copy into the head's buffer costs less than a vectored write.
    builder.writev(false);
    // A sender that has shut down its side after the request still waits for its answer.
    builder.half_close(true);
    let mut connection = builder.serve_connection(io, service);

    let mut watch = Watch::new(limits, Instant::now());
    let mut alarm = pin!(tokio::time::sleep_until(Instant::now()));
    let mut drain = pin!(shared.drain.notified());
    drain.as_mut().enable();
    let (mut armed, mut told) = (false, false);
    let end = poll_fn(|cx| {
        if !armed {
            // Once is enough: the task stays the same, and so does its waker.
            let _not_yet = drain.as_mut().poll(cx);
        }
        loop {
            if let Poll::Ready(over) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(End::Over(over));
            }
            let phase = activity.phase();
            if shared.is_draining() {
                match phase {
                    Phase::Idle => return Poll::Ready(End::Idle),
                    Phase::Busy | Phase::Stalled if !told => {
                        told = true;
                        Pin::new(&mut connection).graceful_shutdown();
                        continue;
                    }
                    // What has begun is read to its end; its answer then says that it is the last.
                    Phase::Head | Phase::Busy | Phase::Stalled => {}
                }
            }
            if armed && !alarm.is_elapsed() && !watch.is_news(phase) {
                return Poll::Pending;
            }
            armed = true;
            match watch.look(activity, phase, Instant::now()) {
                Verdict::HeadTooSlow => return Poll::Ready(End::HeadTooSlow),
                Verdict::Idle => return Poll::Ready(End::Idle),
                Verdict::Wait(until) => alarm.as_mut().reset(until),
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;

    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().stream;
    let taken = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take().and_then(|tunnel| tunnel.take());
    if let (End::Over(Ok(())), Some(taker)) = (&end, taken) {
        // What is dropped here ends: the peer sees the connection close.
        tokio::select! {
            () = taker(Box::new(stream), parts.read_buf) => {}
            () = shared.cut_off() => {}
        }
        return;
    }
    match end {
        End::HeadTooSlow => {
            shared.broken(info, Broken::HeadTooSlow);
            let _gone = timeout(LINGER, stream.write_all(TOO_SLOW)).await;
        }
        End::Over(Err(error)) if error.is_parse_too_large() => shared.broken(info, Broken::HeadTooLarge),
        End::Over(Err(error)) if error.is_parse() => shared.broken(info, Broken::Malformed),
        // The peer is gone, or nothing was said that closing could take away.
        End::Over(Err(_)) | End::Idle => return,
        End::Over(Ok(())) => {}
    }
    close(stream, activity.has_ended(), shared).await;
}

async fn http2<S>(io: TokioIo<Metered>, info: &ConnectionInfo, shared: &Shared, activity: &Activity, service: S)
where
    S: HttpService<Incoming, Error = Infallible>,
    S::Future: Send + 'static,
    S::ResBody: Send + 'static,
    <S::ResBody as Body>::Data: Send,
    <S::ResBody as Body>::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let limits = &shared.limits;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder.max_concurrent_streams(STREAMS_MAX);
    builder.initial_stream_window_size(WINDOWS.0);
    builder.initial_connection_window_size(WINDOWS.1);
    builder.max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    let mut connection = pin!(builder.serve_connection(io, service));

    let mut watch = Watch::new(limits, Instant::now());
    let mut alarm = pin!(tokio::time::sleep_until(Instant::now()));
    let mut drain = pin!(shared.drain.notified());
    drain.as_mut().enable();
    let (mut armed, mut told, mut untaken) = (false, false, false);
    poll_fn(|cx| {
        if !armed {
            let _not_yet = drain.as_mut().poll(cx);
        }
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if shared.is_draining() && !told {
                told = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            let phase = activity.http2_phase();
            if armed && !alarm.is_elapsed() && !watch.is_news(phase) {
                return Poll::Pending;
            }
            armed = true;
            let now = Instant::now();
            untaken |= watch.has_untaken(activity, now);
            match if untaken { Verdict::Idle } else { watch.look(activity, phase, now) } {
                // Nothing else can come on this connection as long as the block is open, not even a farewell's answer.
                Verdict::HeadTooSlow => {
                    shared.broken(info, Broken::HeadTooSlow);
                    return Poll::Ready(());
                }
                // Told and still here: it has had its time.
                Verdict::Idle if told => return Poll::Ready(()),
                Verdict::Idle => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                    alarm.as_mut().reset(Instant::now() + limits.header_timeout);
                    let _not_yet = alarm.as_mut().poll(cx);
                }
                Verdict::Wait(until) => {
                    alarm.as_mut().reset(until);
                    if alarm.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
    .await;
}

/// Closes the stream so that the peer can still read our last answer.
async fn close(mut stream: Stream, peer_has_ended: bool, shared: &Shared) {
    let lingering = async {
        stream.shutdown().await?;
        let mut scrap = vec![0; if peer_has_ended { 0 } else { 16 * 1024 }];
        while !scrap.is_empty() {
            let silence = async {
                shared.drain_begun().await;
                tokio::time::sleep(SILENCE).await;
            };
            tokio::select! {
                // Cancel-safe: what is read is thrown away.
                read = stream.read(&mut scrap) => if read? == 0 { break },
                () = silence => break,
            }
        }
        io::Result::Ok(())
    };
    let _late_or_gone = timeout(LINGER, lingering).await;
}

/// A body that counts as a request under way until it is sent.
struct Held<B> {
    body: B,
    guard: InFlight,
    is_http2: bool,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.is_http2 && polled.is_ready() {
            this.guard.moved();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
