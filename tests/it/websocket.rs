//! WebSocket connections through the relay, between an independent client and server.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    sync::Arc,
    thread,
};

use rustix::process::Signal;
use rustls::{ServerConnection, StreamOwned};
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest as _,
    handshake::server::{Request as Handshake, Response as Agreed},
    http::HeaderValue,
};

use crate::harness::{Answer, Authority, PATIENCE, Relay, Request, Upstream, cli, exchange, wait_for, wait_until};

fn config(url: &str, keys: &str) -> String {
    format!(
        "[server]\nshutdown_timeout = \"300ms\"\n[source.app]\npath = \"/ws/*\"\nto = [\"app\"]\n{keys}\n\
         [upstream.app]\nurl = \"{url}\"\nidle_timeout = \"1s\"\n"
    )
}

/// Says back what it hears, until the client closes or is gone; chooses the protocol `chat`.
fn echo<S: Read + Write>(stream: S) {
    #[expect(clippy::result_large_err, reason = "the form of the server's callback")]
    let choose = |request: &Handshake, mut answer: Agreed| {
        assert!(request.headers().contains_key("stagepost-event-id"));
        if request.headers().contains_key("sec-websocket-protocol") {
            answer.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        }
        Ok(answer)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, choose) else { return };
    while let Ok(message) = socket.read() {
        if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            return;
        }
    }
}

/// An echoing server; its url.
fn echoing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || echo(stream));
        }
    });
    url
}

fn tcp(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn open<S: Read + Write>(stream: S, path: &str) -> WebSocket<S> {
    let mut request = format!("ws://relay.test{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat, other"));
    let (socket, answer) = tungstenite::client(request, stream).map_err(|error| error.to_string()).unwrap();
    assert!(answer.status() == 101 && answer.headers()["sec-websocket-protocol"] == "chat", "{answer:?}");
    socket
}

fn hears<S: Read + Write>(socket: &mut WebSocket<S>, message: Message) {
    socket.send(message.clone()).unwrap();
    assert_eq!(socket.read().unwrap(), message);
}

/// The bytes of a handshake, to see a refusal.
fn handshake() -> Request {
    Request::get("/ws/chat")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

fn end_of(relay: &Relay, how: &str) -> serde_json::Value {
    let id = relay.events()[0]["id"].as_str().unwrap().to_owned();
    let shown = relay.wait_for_state(&id, "delivered");
    let attempt = &shown["deliveries"][0]["attempts"][0];
    assert_eq!((attempt["status"].as_u64(), attempt["outcome"].as_str()), (Some(101), Some("delivered")), "{shown:#}");
    assert!(attempt["error"].as_str().unwrap().contains(how), "{attempt}");
    let explained = relay.cli(&["explain", &id]).done().out;
    assert!(explained.contains("a WebSocket connection of"), "{explained}");
    attempt.clone()
}

#[test]
fn messages_pass_both_ways_and_the_end_is_recorded_with_its_bytes() {
    let mut relay = Relay::start(&config(&echoing(), "upgrade = true"));
    let mut socket = open(tcp(&relay), "/ws/chat?room=1");
    hears(&mut socket, Message::text("hello"));
    hears(&mut socket, Message::binary(vec![7; 300_000]));
    assert_eq!(relay.metric("stagepost_upgrades{source=\"app\"}"), 1.0);
    assert_eq!(relay.events()[0]["path"], "/ws/chat");
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    let attempt = end_of(&relay, "bytes out: ");
    assert!(attempt["sent"]["url"].as_str().unwrap().ends_with("/ws/chat?room=1"), "{attempt}");
    wait_until("its place is free", || relay.metric("stagepost_upgrades{source=\"app\"}") < 0.5);
    assert_eq!(relay.metric("stagepost_upgrades_total{source=\"app\"}"), 1.0);
    let passed =
        |direction| relay.metric(&format!("stagepost_upgrade_bytes_total{{source=\"app\",direction=\"{direction}\"}}"));
    assert!(passed("in") > 300_005.0 && passed("out") > 300_005.0);
    // It is in the log, and what is read from there says the same.
    relay.restart();
    end_of(&relay, "both sides have ended it");
}

#[test]
fn what_is_sent_ahead_of_the_answer_arrives() {
    let relay = Relay::start(&config(&echoing(), "upgrade = true"));
    let mut sender = tcp(&relay);
    // A masked text frame of RFC 6455, section 5.7: "Hello".
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    sender.write_all(&[handshake().wire(), hello.to_vec()].concat()).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\x81\x05Hello") {
        let mut buffer = [0; 1024];
        let count = sender.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..count]);
    }
    let head = String::from_utf8_lossy(&heard);
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
}

#[test]
fn tls_on_both_sides_and_unix_sockets_are_passed_through() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    // A server that would rather speak HTTP/2, which has no upgrades.
    let mut server = (*authority.server(&authority.identity("localhost"), None)).clone();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Arc::new(server);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let tls = ServerConnection::new(server.clone()).unwrap();
            thread::spawn(move || echo(StreamOwned::new(tls, stream)));
        }
    });
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = { certificate = \"a.pem\", key = \"a.key\" }\n";
    let trusted = format!("{listen}{}tls = {{ ca = \"ca.pem\" }}\n", config(&url, "upgrade = true"));
    let mut relay = Relay::stopped(&trusted);
    let identity = authority.identity("relay.test");
    relay.write("a.pem", &identity.pem);
    relay.write("a.key", &identity.key_pem);
    relay.write("ca.pem", &authority.pem);
    relay.run();
    let mut socket = open(authority.connect(relay.address(), "relay.test", &["http/1.1"], None), "/ws/tls");
    hears(&mut socket, Message::text("over TLS"));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || echo(stream));
        }
    });
    let relay = Relay::start(&config(&format!("unix:{}", path.display()), "upgrade = true"));
    hears(&mut open(tcp(&relay), "/ws/unix"), Message::text("over a socket of the machine"));
}

#[test]
fn a_connection_that_is_silent_ends_and_so_does_one_beyond_the_drain() {
    let mut relay = Relay::start(&config(&echoing(), "upgrade = { idle_timeout = \"400ms\" }"));
    let mut socket = open(tcp(&relay), "/ws/silent");
    assert!(socket.read().is_err(), "nothing comes");
    end_of(&relay, "nothing passed for idle_timeout");
    drop(socket);
    relay.configure(&config(&echoing(), "upgrade = true"));
    relay.restart();
    let mut socket = open(tcp(&relay), "/ws/long");
    hears(&mut socket, Message::text("here"));
    relay.signal(Signal::TERM);
    assert!(socket.read().is_err(), "it ends with the relay");
    assert_eq!(relay.wait().0, 0);
    relay.run();
    end_of(&relay, "the relay stopped");
}

#[test]
fn only_so_many_are_upgraded_and_nothing_unverified() {
    let keys = "upgrade = { max = 1 }\nverify = { scheme = \"bearer\", secrets = [\"literal:sesame\"] }";
    let relay = Relay::start(&config(&echoing(), keys));
    assert_eq!(exchange(tcp(&relay), &handshake()).unwrap().status, 401);
    let allowed = handshake().header("Authorization", "Bearer sesame");
    let mut first = tcp(&relay);
    first.write_all(&allowed.wire()).unwrap();
    let mut beginning = [0; 12];
    first.read_exact(&mut beginning).unwrap();
    assert_eq!(&beginning, b"HTTP/1.1 101");
    let refused = exchange(tcp(&relay), &allowed).unwrap();
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    assert!(relay.cli(&["refused"]).done().out.contains("too_many_upgrades"));
    drop(first);
    wait_for("the place is free", || {
        let again = exchange(tcp(&relay), &allowed).ok()?;
        (again.status == 101).then_some(())
    });
}

#[test]
fn an_upstream_that_does_not_want_to_answers_as_usual_and_without_the_key_nothing_is_asked() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(426, vec![("Upgrade", "other".into())], "no"));
    let relay = Relay::start(&config(&upstream.url(), "upgrade = true"));
    let refused = exchange(tcp(&relay), &handshake()).unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (426, "no"));
    assert_eq!(upstream.wait_for_requests(1)[0].header("upgrade"), Some("websocket"));
    wait_until("its place is free", || relay.metric("stagepost_upgrades{source=\"app\"}") < 0.5);
    let relay = Relay::start(&config(&upstream.url(), ""));
    assert_eq!(exchange(tcp(&relay), &handshake()).unwrap().status, 426);
    assert_eq!(upstream.wait_for_requests(2)[1].header("upgrade"), None);
    // CONNECT is refused whatever is upgraded.
    let connect = Request::new("CONNECT", "relay.test:80");
    assert!(matches!(exchange(tcp(&relay), &connect).unwrap().status, 400 | 405));
}

#[test]
fn an_upgrade_without_get_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let text = config("http://127.0.0.1:1", "methods = [\"POST\"]\nupgrade = true");
    std::fs::write(directory.path().join("s.toml"), format!("[[listen]]\naddress='127.0.0.1:1'\n{text}")).unwrap();
    let checked = cli(directory.path(), &["check", "--config", "s.toml"]);
    assert!(checked.code == 78 && checked.err.contains("a WebSocket begins with a GET"), "{checked:?}");
}
