//! Input in bulk and at the edge of its limits: ten thousand forged posts, bodies of exactly the largest size.

use std::{fs, thread};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Connection, Relay, Request, distinct_bytes, signed};

const SECRET: &str = "correct horse battery staple";

/// Connections of the forger, and what each posts.
const CONNECTIONS: usize = 8;
const POSTS_EACH: usize = 1_250;

/// Memory that the second half of the forged posts may take. The process keeps the last 1,000 refusals, and these are
/// full by then.
const GROWTH_KIB_MAX: u64 = 512;

/// The default of `server.max_body`.
const MAX_BODY: usize = 10 * 1024 * 1024;

/// The forged post with a number: its body, path or headers are like those of no other.
fn forged(n: usize) -> Request {
    let body = format!(r#"{{"id":{n},"filler":"{}"}}"#, "x".repeat(n % 500));
    match n % 4 {
        0 => signed("/in", &body, &format!("guess {n}"), 0),
        1 => Request::post(&format!("/in/{n}"), &body).header("X-Signature", format!("sha256={n:064x}")),
        2 => Request::post("/in", &body).header(&format!("X-Guess-{n}"), "1"),
        _ => signed("/in", &body, SECRET, -1_000 - i64::try_from(n).unwrap()),
    }
}

/// Posts one half of the forged requests, each connection its own.
fn post_half(relay: &Relay, half: usize) {
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut open = Connection::open(relay.address());
                for post in 0..POSTS_EACH / 2 {
                    let n = (half * CONNECTIONS + connection) * POSTS_EACH / 2 + post;
                    let status = open.send(&forged(n)).status;
                    assert_eq!(status, if n % 4 == 1 { 404 } else { 401 }, "forged post {n}");
                }
            });
        }
    });
}

fn resident_kib(relay: &Relay) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Everything that an accepted event would change.
fn stored(relay: &Relay) -> (usize, u64, usize) {
    let spooled = fs::read_dir(relay.data().join("spool")).unwrap().count();
    (relay.events().len(), relay.metric("stagepost_commit_entries_sum") as u64, spooled)
}

fn series(relay: &Relay) -> usize {
    relay.ask_admin("/metrics").text().lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn ten_thousand_forged_posts_leave_no_trace_and_take_no_memory() {
    let mut relay = Relay::stopped(
        r#"
        [source.app]
        path = "/in"
        to = []
        type = ".id"
        dedupe = { key = ".id", window = "1h" }

        [source.app.verify]
        scheme = "hmac"
        header = "X-Signature"
        prefix = "sha256="
        template = "{timestamp}.{body}"
        timestamp = { header = "X-Timestamp" }
        secrets = ["env:IT_SECRET"]
        "#,
    );
    relay.environment("IT_SECRET", SECRET);
    relay.run();
    let (before, series_before) = (stored(&relay), series(&relay));
    assert_eq!((before.0, before.2), (0, 0));
    post_half(&relay, 0);
    let resident = resident_kib(&relay);
    post_half(&relay, 1);
    let grown = resident_kib(&relay).saturating_sub(resident);
    assert!(grown < GROWTH_KIB_MAX, "resident memory has grown by {grown} KiB");
    assert_eq!(stored(&relay), before);
    assert_eq!(series(&relay), series_before, "a forger has made metrics");
    let unauthorized = relay.metric("stagepost_requests_total{source=\"app\",result=\"unauthorized\"}");
    assert_eq!(unauthorized as usize, CONNECTIONS * POSTS_EACH / 4 * 3);

    // None of the keys is taken.
    let mut honest = Connection::open(relay.address());
    for n in [0, 2, 3, 9_999] {
        let body = format!(r#"{{"id":{n}}}"#);
        let answer = honest.send(&signed("/in", &body, SECRET, 0));
        assert_eq!((answer.status, answer.header("stagepost-duplicate")), (202, None), "key {n}");
    }
    assert_eq!(relay.events().len(), 4);
}

/// A body whose length nobody declares.
struct Undeclared(Bytes);

impl Body for Undeclared {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = 60_000.min(self.0.len());
        let piece = self.0.split_to(piece);
        std::task::Poll::Ready(if piece.is_empty() { None } else { Some(Ok(Frame::data(piece))) })
    }
}

/// Posts a body over HTTP/2; the status.
fn over_http2(relay: &Relay, body: Vec<u8>, declared: bool) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(relay.address()).await.unwrap();
        let body = if declared { Full::new(Bytes::from(body)).boxed() } else { Undeclared(body.into()).boxed() };
        let request = http::Request::post("http://relay.test/in").body(body).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let _driven = tokio::spawn(connection);
        sender.send_request(request).await.unwrap().status().as_u16()
    })
}

/// The same over HTTP/1.1.
fn over_http1(relay: &Relay, body: &[u8], declared: bool) -> u16 {
    if declared {
        return relay.send(&Request::post("/in", body)).status;
    }
    let mut wire = b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(60_000) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let mut connection = Connection::open(relay.address());
    // The relay may answer before it has read everything.
    let _answered_early = connection.write(wire);
    connection.read().unwrap().status
}

#[test]
fn a_body_of_10_mib_is_taken_and_one_byte_more_is_413_in_every_framing_and_protocol() {
    let relay = Relay::start("[source.app]\npath = \"/in\"\nto = []\n");
    let bytes = distinct_bytes(MAX_BODY + 1);
    let mut taken = 0;
    for (length, status) in [(MAX_BODY, 202), (MAX_BODY + 1, 413)] {
        let body = &bytes[..length];
        for declared in [true, false] {
            assert_eq!(over_http1(&relay, body, declared), status, "HTTP/1.1, {length} bytes, declared: {declared}");
            assert_eq!(over_http2(&relay, body.to_vec(), declared), status, "HTTP/2, {length} bytes: {declared}");
            taken += if status == 202 { 2 } else { 0 };
        }
    }
    let events = relay.events();
    assert_eq!(events.len(), taken);
    for event in &events {
        assert_eq!(event["size"].as_u64(), Some(MAX_BODY as u64));
        let shown = relay.cli(&["show", event["id"].as_str().unwrap(), "--body"]).done();
        assert!(shown.bytes == bytes[..MAX_BODY], "{} is stored otherwise than it came", event["id"]);
    }
    let spooled = fs::read_dir(relay.data().join("spool")).unwrap().count();
    assert_eq!((spooled, relay.metric("stagepost_spool_bytes") as u64), (0, 0));
    assert_eq!(relay.metric("stagepost_body_memory_bytes") as u64, 0);
}
