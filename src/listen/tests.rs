//! Real connections against a service that only says what it read.

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::{Mutex, mpsc},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use super::*;
use crate::telemetry::{Metrics, RequestResult};

fn limits() -> Limits {
    Limits {
        max_connections: 100,
        handshake_timeout: Duration::from_secs(60),
        header_timeout: Duration::from_secs(60),
        max_header_bytes: 64 * 1024,
        idle_timeout: Duration::from_secs(60),
    }
}

/// A server that answers each request with its method, path and body; `/wait` waits for the gate first.
struct Echo {
    server: Arc<Server>,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    broken: Arc<Mutex<Vec<Broken>>>,
    begun: mpsc::Receiver<String>,
    gate: Arc<Notify>,
    shards: Shards,
}

fn serve(limits: Limits) -> Echo {
    serve_on(limits, Address::Tcp("127.0.0.1:0".parse().unwrap()), None)
}

fn serve_on(limits: Limits, address: Address, tls: Option<Arc<rustls::ServerConfig>>) -> Echo {
    serve_at(limits, Endpoint { address, tls, proxy_protocol: false })
}

fn serve_at(limits: Limits, endpoint: Endpoint) -> Echo {
    let shards = Shards::start(2).unwrap();
    let sockets = Socket::bind_all([endpoint]).unwrap();
    let address = sockets[0].local_address().unwrap_or_else(|| "127.0.0.1:1".parse().unwrap());
    let (metrics, gate, broken) = (Arc::new(Metrics::default()), Arc::new(Notify::new()), Arc::default());
    let (tell, begun) = mpsc::sync_channel(100);
    let on_broken: OnBroken = {
        let broken: Arc<Mutex<Vec<Broken>>> = Arc::clone(&broken);
        Arc::new(move |_info, why| broken.lock().unwrap().push(why))
    };
    let waited = gate.clone();
    let server = Server::start(&shards, sockets, limits, metrics.clone(), on_broken, move |_shard, _info| {
        let (gate, tell) = (waited.clone(), tell.clone());
        service_fn(move |request: Request<Incoming>| {
            let (gate, tell) = (gate.clone(), tell.clone());
            async move {
                let line = format!("{} {} {:?} ", request.method(), request.uri().path(), request.version());
                tell.send(line.clone()).unwrap();
                if request.uri().path() == "/wait" {
                    gate.notified().await;
                }
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from([line.as_bytes(), &body].concat()))))
            }
        })
    })
    .unwrap();
    Echo { server: Arc::new(server), address, metrics, broken, begun, gate, shards }
}

impl Echo {
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Writes all of it and reads until the server closes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        let _reset_after_the_answer = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn unmatched(&self, result: RequestResult) -> u64 {
        self.metrics.unmatched[result as usize].get()
    }
}

/// Reads one answer with a `content-length`, leaving the connection open.
fn read_answer(stream: &mut impl std::io::Read) -> String {
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if body.len() == length {
                return String::from_utf8(answer).unwrap();
            }
        }
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let echo = serve(limits());
    let mut stream = echo.connect();
    for n in 0..3 {
        write!(stream, "POST /{n} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab").unwrap();
        assert!(read_answer(&mut stream).ends_with(&format!("POST /{n} HTTP/1.1 ab")));
    }
    assert_eq!(echo.metrics.connections.get(), 1);
}

/// Whether an answer is a refusal as RFC 9457 has it, with the length that it says.
fn assert_problem(answer: &str, status: u16, title: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} {title}\r\n")), "{answer}");
    assert_eq!(body, format!(r#"{{"type":"about:blank","title":"{title}","status":{status}}}"#));
    let head = head.to_lowercase();
    assert!(head.contains("content-type: application/problem+json") && head.contains("connection: close"), "{answer}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
}

#[test]
fn what_is_not_http_is_answered_400_and_reported() {
    let echo = serve(limits());
    let requests = [
        "\x16\x03\x01nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    ];
    for request in requests {
        assert_problem(&echo.exchange(request.as_bytes()), 400, "Bad Request");
    }
    let mut stream = echo.connect();
    stream.write_all(b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).ends_with("GET /fine HTTP/1.1 "));
    stream.write_all(b"GET /\0 HTTP/1.1\r\n\r\n").unwrap();
    assert_problem(&read_answer(&mut stream), 400, "Bad Request");
    // It is reported before the connection ends.
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(*echo.broken.lock().unwrap(), [Broken::Malformed; 6]);
    assert_eq!(echo.unmatched(RequestResult::Malformed), 6);
}

#[test]
fn a_header_block_beyond_its_limit_is_answered_431() {
    let echo = serve(limits());
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(70_000));
    assert_problem(&echo.exchange(head.as_bytes()), 431, "Request Header Fields Too Large");
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert!(echo.exchange(format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes()).starts_with("HTTP/1.1 431"));
    assert_eq!(*echo.broken.lock().unwrap(), [Broken::HeadTooLarge; 2]);
    let fits = format!("GET /fits HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "a".repeat(60_000));
    assert!(echo.exchange(fits.as_bytes()).contains("GET /fits"));
}

#[test]
fn a_header_block_that_comes_too_slowly_is_answered_408() {
    let echo = serve(Limits { header_timeout: Duration::from_millis(50), ..limits() });
    let answer = echo.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    assert_eq!(*echo.broken.lock().unwrap(), [Broken::HeadTooSlow]);
}

#[test]
fn the_second_header_block_of_a_connection_has_the_same_limit() {
    let echo = serve(Limits { header_timeout: Duration::from_millis(50), ..limits() });
    let mut stream = echo.connect();
    stream.write_all(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    stream.write_all(b"GET /2 HT").unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 408"));
}

#[test]
fn a_connection_without_requests_is_closed_without_a_word() {
    let echo = serve(Limits { idle_timeout: Duration::from_millis(50), ..limits() });
    assert_eq!(echo.exchange(b""), "");
    let mut stream = echo.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn one_connection_too_many_is_answered_503_and_counted() {
    let echo = serve(Limits { max_connections: 1, ..limits() });
    let mut first = echo.connect();
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    read_answer(&mut first);
    let answer = echo.exchange(b"");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: "), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())));
    assert_eq!(echo.metrics.connections_refused.get(), 1);
}

#[test]
fn nothing_after_an_ambiguous_length_is_taken_for_a_request() {
    let echo = serve(limits());
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
    ] {
        let answer = echo.exchange(format!("POST /first HTTP/1.1\r\nHost: x\r\n{lengths}\r\n{smuggled}").as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 ").count() - answer.matches("/first HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert!(echo.begun.try_iter().all(|line| line.starts_with("POST /first")));
}

#[test]
fn a_sender_that_closes_its_side_after_the_request_is_answered() {
    let echo = serve(limits());
    let mut stream = echo.connect();
    stream.write_all(b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    echo.begun.recv().unwrap();
    echo.gate.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("POST /wait HTTP/1.1 z"), "{answer}");
}

#[test]
fn a_drain_answers_what_has_begun_closes_the_rest_and_takes_no_more() {
    let echo = serve(limits());
    let mut idle = echo.connect();
    idle.write_all(b"GET /idle HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    read_answer(&mut idle);
    let mut busy = echo.connect();
    busy.write_all(b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab").unwrap();
    while !echo.begun.recv().unwrap().contains("/wait") {}

    let server = echo.server.clone();
    let draining = echo.shards.handles()[0].spawn(async move { server.drain(Duration::ZERO, LONG).await });
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    echo.gate.notify_one();
    busy.write_all(b"cd").unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(answer.ends_with("POST /wait HTTP/1.1 abcd"), "{answer}");
    drop(busy);
    let drained = block_on(draining).unwrap();
    assert_eq!((drained, echo.server.open()), (Drained { cut_off: 0 }, 0));
    assert!(TcpStream::connect(echo.address).is_err());
}

#[test]
fn a_drain_does_not_wait_for_a_peer_that_has_its_answer_and_does_not_hang_up() {
    let echo = serve(limits());
    let mut told = echo.connect();
    told.write_all(b"GET /told HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    told.read_to_string(&mut answer).unwrap();
    let mut busy = echo.connect();
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    while !echo.begun.recv().unwrap().contains("/wait") {}
    let server = echo.server.clone();
    // Less than a closed connection is read while nothing drains.
    let draining =
        echo.shards.handles()[0].spawn(async move { server.drain(Duration::ZERO, conn::LINGER / 5 * 4).await });
    echo.gate.notify_one();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("GET /wait HTTP/1.1 "), "{answer}");
    assert_eq!(block_on(draining).unwrap(), Drained { cut_off: 0 });
    drop((told, busy));
}

#[test]
fn a_drain_ends_at_its_deadline_and_says_how_many_were_cut_off() {
    let echo = serve(limits());
    let mut busy = echo.connect();
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    echo.begun.recv().unwrap();
    let drained = block_on(async { echo.server.drain(Duration::ZERO, Duration::from_millis(20)).await });
    assert_eq!(drained, Drained { cut_off: 1 });
}

#[test]
fn a_unix_socket_serves_like_a_tcp_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.sock");
    let _echo = serve_on(limits(), Address::Unix(path.clone()), None);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /unix HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).ends_with("GET /unix HTTP/1.1 "));
}

#[test]
fn http2_is_spoken_by_prior_knowledge_and_told_to_go_away_by_a_drain() {
    let echo = serve(limits());
    block_on(async {
        let stream = tokio::net::TcpStream::connect(echo.address).await.unwrap();
        let (answer, connection) = ask_http2(stream).await;
        assert!(answer.starts_with("POST /two HTTP/2.0"), "{answer}");
        let (drained, _goaway) = tokio::join!(echo.server.drain(Duration::ZERO, LONG), connection);
        assert_eq!(drained, Drained { cut_off: 0 });
    });
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET http://x/` and `GET http://x/wait` in HPACK (RFC 7541).
const GET: &[u8] = b"\x82\x86\x84\x01\x01x";
const GET_WAIT: &[u8] = b"\x82\x86\x04\x05/wait\x01\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An HTTP/2 connection of raw frames.
fn frames(echo: &Echo, settings: &[u8]) -> TcpStream {
    let mut stream = echo.connect();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
    stream
}

#[test]
fn an_http2_header_block_that_comes_too_slowly_ends_the_connection_whatever_else_is_under_way() {
    let echo = serve(Limits { header_timeout: Duration::from_millis(50), ..limits() });
    let mut stream = frames(&echo, &[]);
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET_WAIT)).unwrap();
    assert!(echo.begun.recv().unwrap().contains("/wait"));
    stream.write_all(&frame(HEADERS, END_STREAM, 3, GET)).unwrap();
    stream.write_all(&frame(CONTINUATION, 0, 3, b"")).unwrap();
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    assert_eq!(*echo.broken.lock().unwrap(), [Broken::HeadTooSlow]);
    assert_eq!(echo.unmatched(RequestResult::TimedOut), 1);
}

#[test]
fn an_http2_header_block_in_pieces_is_read_when_it_ends_in_time() {
    let echo = serve(limits());
    let mut stream = frames(&echo, &[]);
    let (one, two) = GET_WAIT.split_at(4);
    stream.write_all(&frame(HEADERS, END_STREAM, 1, one)).unwrap();
    stream.write_all(&frame(CONTINUATION, END_HEADERS, 1, two)).unwrap();
    assert!(echo.begun.recv().unwrap().contains("/wait"));
}

#[test]
fn an_http2_peer_that_takes_no_answer_is_let_go_even_if_it_pings() {
    let brief = Duration::from_millis(50);
    let echo = serve(Limits { idle_timeout: brief, header_timeout: brief, ..limits() });
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut stream = frames(&echo, &[0, 4, 0, 0, 0, 0]);
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).unwrap();
    echo.begun.recv().unwrap();
    let mut buffer = [0; 1024];
    let start = crate::clock::Clock::system();
    while stream.write_all(&frame(PING, 0, 0, b"answerme")).is_ok() && matches!(stream.read(&mut buffer), Ok(1..)) {
        assert!(start.elapsed() < LONG / 10, "it is still connected");
    }
}

#[test]
fn http2_is_chosen_by_alpn_over_tls_and_http1_without_it() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let echo = serve_on(limits(), Address::Tcp("127.0.0.1:0".parse().unwrap()), Some(Arc::new(config)));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    block_on(async {
        for (alpn, version) in [(&b"h2"[..], Version::HTTP_2), (b"http/1.1", Version::HTTP_11)] {
            client.alpn_protocols = vec![alpn.to_vec()];
            let tcp = tokio::net::TcpStream::connect(echo.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client.clone()));
            let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
            let answer = match version {
                Version::HTTP_2 => ask_http2(stream).await.0,
                _ => ask_http1(stream).await,
            };
            assert!(answer.starts_with(&format!("POST /two {version:?} hello")), "{answer}");
        }
    });
}

#[test]
fn a_peer_that_does_not_shake_hands_is_let_go() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![key.cert.der().clone()], private).unwrap();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..limits() };
    let echo = serve_on(limits, Address::Tcp("127.0.0.1:0".parse().unwrap()), Some(Arc::new(config)));
    assert_eq!(echo.exchange(b""), "");
}

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(600);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn question() -> Request<Full<Bytes>> {
    Request::post("http://localhost/two").body(Full::new(Bytes::from("hello"))).unwrap()
}

async fn ask_http2<T>(stream: T) -> (String, impl Future)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(question()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), async move {
        let _sender_lives_on = sender;
        connection.await
    })
}

async fn ask_http1<T>(stream: T) -> String
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(question()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}
