//! What only shows on a real connection: `Expect`, trailers, framing, and senders that go away.

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    fake::{Door, signed},
    *,
};

/// Serves one connection and gives the sender's end of it.
async fn connect(door: &Door) -> (TcpStream, tokio::task::JoinHandle<hyper::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (served, _) = listener.accept().await.unwrap();
    let service = door.gate.clone().service(door.caller.clone());
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(served), service);
    (stream, tokio::spawn(connection))
}

/// Reads until what was read contains the text.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    loop {
        let so_far = String::from_utf8_lossy(&read).into_owned();
        if so_far.contains(text) {
            return so_far;
        }
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed after {so_far:?}");
    }
}

#[tokio::test]
async fn a_hundred_continue_comes_only_after_path_method_and_length_are_accepted() {
    let door = Door::open();
    let head = |line: &str, length: usize| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    for (line, length, status) in [
        ("POST /nobody", 5, "404"),
        ("PUT /signed", 5, "405"),
        ("POST /open", fake::MAX_BODY + 1, "413"),
        ("POST /signed", 5, "401"),
    ] {
        let (mut stream, _served) = connect(&door).await;
        stream.write_all(head(line, length).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    let (mut stream, _served) = connect(&door).await;
    stream.write_all(head("POST /open", 5).as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "HTTP/1.1 202 Accepted").await;
}

#[tokio::test]
async fn trailers_are_dropped_and_counted() {
    let door = Door::open();
    let (mut stream, _served) = connect(&door).await;
    let request = "POST /open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 202 Accepted").await;
    assert_eq!(door.metrics.trailers_dropped.get(), 1);
    let event = door.log.event(0);
    assert!(matches!(&event.body, Stored::Inline(body) if &body[..] == b"hello"));
    assert!(!event.headers.contains_key("x-trailer"));
}

#[tokio::test]
async fn a_chunk_that_is_no_chunk_is_400_and_ends_the_connection() {
    let door = Door::open();
    let (mut stream, _served) = connect(&door).await;
    let request = "POST /open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!((door.last_reason(), door.log.appended()), ("malformed_body", 0));
}

#[tokio::test]
async fn a_sender_that_goes_away_inside_the_body_leaves_nothing_behind() {
    let door = Door::open();
    for sent in [10, PART_BYTES + 100_000] {
        let (mut stream, served) = connect(&door).await;
        let head = format!("POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", fake::MAX_BODY);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; sent]).await.unwrap();
        drop(stream);
        let _ended = served.await.unwrap();
        assert_eq!((door.log.appended(), door.used(), door.spooled_files()), (0, (0, 0), 0));
    }
    assert!(door.ingress.refused().after(0).iter().all(|refused| refused.reason == "disconnected"));
}

#[tokio::test]
async fn connect_and_trace_are_405_whatever_they_ask_for() {
    let door = Door::open();
    for (request, allow) in [
        ("CONNECT relay.example:443", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE /open", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE /signed", "POST"),
    ] {
        let (mut stream, _served) = connect(&door).await;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, r#""status":405}"#).await;
        assert!(answer.contains(&format!("allow: {allow}\r\n")), "{answer}");
    }
    let (mut stream, _served) = connect(&door).await;
    stream.write_all(b"TRACE /nobody HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, r#""status":404}"#).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_whose_small_body_never_comes_is_told_that_the_connection_ends() {
    let door = Door::open();
    let (mut stream, _served) = connect(&door).await;
    stream.write_all(b"POST /nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_refusal_of_a_small_request_keeps_the_connection() {
    let door = Door::open();
    let (mut stream, _served) = connect(&door).await;
    for _ in 0..2 {
        stream.write_all(b"POST /nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
        read_until(&mut stream, r#""status":404}"#).await;
    }
    let signature = signed(b"abc");
    let request =
        format!("POST /signed HTTP/1.1\r\nHost: x\r\nX-Signature: {signature}\r\nContent-Length: 3\r\n\r\nabc");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 202 Accepted").await;
}
