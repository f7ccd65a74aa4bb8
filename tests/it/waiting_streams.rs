//! Answers that come in pieces: to senders who wait and to safe methods, with bounded memory.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::harness::{PATIENCE, Relay, Request, wait_until};

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Takes one request and gives the stream on which it is answered.
fn request_of(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    lines.read_exact(&mut vec![0; length]).unwrap();
    stream
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn relay_to(listener: &TcpListener) -> Relay {
    relay_with(listener, "")
}

fn relay_with(listener: &TcpListener, more: &str) -> Relay {
    Relay::start(&format!(
        "[source.app]\npath = \"/x\"\nmode = \"proxy\"\ndedupe = {{ key = \".id\" }}\nto = [\"app\"]\n\
         [upstream.app]\nurl = \"http://{}\"\n{more}",
        listener.local_addr().unwrap()
    ))
}

/// Reads until this text has come.
fn read_until(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{text:?} should come: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn a_stream_of_events_arrives_piece_by_piece() {
    for request in [Request::post("/x", "{\"id\":1}"), Request::get("/x")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = relay_to(&listener);
        let mut sender = TcpStream::connect(relay.address()).unwrap();
        sender.set_read_timeout(Some(PATIENCE)).unwrap();
        sender.write_all(&request.wire()).unwrap();
        let mut upstream = request_of(&listener);
        upstream.write_all(SSE.as_bytes()).unwrap();
        let mut seen = String::new();
        for piece in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            upstream.write_all(chunk(piece).as_bytes()).unwrap();
            read_until(&mut sender, &mut seen, piece);
        }
        assert!(seen.contains("content-type: text/event-stream") && seen.contains("stagepost-event-id"), "{seen}");
        upstream.write_all(b"0\r\n\r\n").unwrap();
        read_until(&mut sender, &mut seen, "\r\n0\r\n\r\n");
    }
}

/// A sender who waits and has the beginning of the answer, and the upstream that goes on with it.
fn begun(relay: &Relay, listener: &TcpListener, first: &str) -> (TcpStream, TcpStream) {
    let mut sender = TcpStream::connect(relay.address()).unwrap();
    sender.set_read_timeout(Some(PATIENCE)).unwrap();
    sender.write_all(&Request::post("/x", "{\"id\":1}").wire()).unwrap();
    let mut upstream = request_of(listener);
    upstream.write_all(format!("{SSE}{}", chunk(first)).as_bytes()).unwrap();
    read_until(&mut sender, &mut String::new(), first);
    (sender, upstream)
}

/// What is left of an answer; it does not say that it is whole.
fn breaks_off(mut sender: TcpStream) {
    let mut rest = Vec::new();
    let _reset = sender.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "no end that says it is whole");
}

fn is_delivered(relay: &Relay) -> bool {
    relay.events().iter().any(|event| event["state"] == "delivered")
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_sender_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_to(&listener);
    let (sender, upstream) = begun(&relay, &listener, "half");
    drop(upstream);
    breaks_off(sender);
}

#[test]
fn a_sender_that_takes_nothing_keeps_the_upstream_no_longer_than_its_idle_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_with(&listener, "idle_timeout = \"300ms\"\n");
    let (sender, mut upstream) = begun(&relay, &listener, "one");
    // More than all buffers on the way hold; it ends when the relay lets the connection go.
    let piece = chunk(&"x".repeat(64 * 1024));
    let serving = thread::spawn(move || while upstream.write_all(piece.as_bytes()).is_ok() {});
    wait_until("the delivery is settled", || is_delivered(&relay));
    serving.join().unwrap();
    breaks_off(sender);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_large_answer_passes_through_in_bounded_memory_whoever_is_slow() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 1024;
    for request in [Request::post("/x", "{\"id\":1}"), Request::get("/x")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = relay_to(&listener);
        let serving = thread::spawn(move || {
            let mut upstream = request_of(&listener);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CHUNK * CHUNKS);
            upstream.write_all(head.as_bytes()).unwrap();
            for _ in 0..CHUNKS {
                upstream.write_all(&[7; CHUNK]).unwrap();
            }
        });
        let mut sender = TcpStream::connect(relay.address()).unwrap();
        sender.set_read_timeout(Some(PATIENCE)).unwrap();
        sender.write_all(&request.wire()).unwrap();
        let mut seen = vec![0; 4096];
        assert!(sender.read(&mut seen).unwrap() > 0);
        let before = resident_kib(relay.pid());
        let (mut left, mut most) = (CHUNK * CHUNKS - 8192, 0);
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let count = sender.read(&mut buffer).unwrap();
            assert!(count > 0, "{left} bytes are missing");
            left = left.saturating_sub(count);
            most = most.max(resident_kib(relay.pid()));
        }
        serving.join().unwrap();
        let grown = most.saturating_sub(before);
        assert!(grown < 16 * 1024, "resident memory grew by {grown} KiB");
    }
}

#[test]
fn a_sender_that_goes_away_in_the_middle_settles_by_the_head() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_to(&listener);
    let (sender, mut upstream) = begun(&relay, &listener, "one");
    drop(sender);
    upstream.write_all(format!("{}0\r\n\r\n", chunk("two")).as_bytes()).unwrap();
    wait_until("it is delivered", || is_delivered(&relay));
}
