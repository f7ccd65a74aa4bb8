//! The servers over real sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::admin::{
    fake::Fake,
    wire::{self, Act, Query, Reply},
};

async fn ask(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

async fn over_socket(fake: Fake, request: &str) -> (String, Arc<Fake>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let ports = Arc::new(fake);
    let server = tokio::spawn(serve_socket(crate::admin::bind(&path, None).unwrap(), ports.clone()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let answer = ask(&mut stream, request).await;
    server.abort();
    (answer, ports)
}

#[tokio::test]
async fn the_tcp_address_has_probes_and_metrics_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_tcp(listener, None, Arc::new(Fake::default())));
    for (request, status, part) in [
        (get("/livez"), "200", "ok"),
        (get("/readyz"), "503", "the log is full"),
        (get("/metrics"), "200", "# TYPE stagepost_requests_total counter"),
        (get("/v1/status"), "401", "problem+json"),
        (post("/metrics", ""), "405", ""),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    server.abort();
}

#[tokio::test]
async fn the_socket_lists_events_line_by_line() {
    let fake = Fake::default();
    let ids: Vec<String> = (0..5).map(|_| fake.accept("stripe", b"{}").to_string()).collect();
    let query = serde_json::to_string(&Query { limit: 2, ..Query::default() }).unwrap();
    let (answer, _) = over_socket(fake, &post("/v1/log", &query)).await;
    let lines: Vec<Reply> =
        answer.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<&str> = lines
        .iter()
        .map(|reply| match reply {
            Reply::Event(line) => line.id.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [&ids[4], &ids[3]]);
}

#[tokio::test]
async fn a_command_is_recorded_with_the_user_of_the_peer() {
    let fake = Fake::default();
    let filters = wire::Filters { upstream: Some("billing".into()), ..wire::Filters::default() };
    let asked = Act {
        verb: wire::Verb::Hold,
        ids: Vec::new(),
        filters,
        all: false,
        to: None,
        interval_us: None,
        new_key: false,
        for_ms: None,
        reason: None,
        dry_run: false,
        before: None,
    };
    let (answer, ports) = over_socket(fake, &post("/v1/act", &serde_json::to_string(&asked).unwrap())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ports.commands()[0].actor.starts_with("uid "));
}

#[tokio::test]
async fn errors_are_told_apart_by_status() {
    let missing = "/v1/events/00000000000000000000000000";
    for (request, status) in [
        (get(missing), "404"),
        (get("/v1/events/x"), "400"),
        (post("/v1/reload", ""), "409"),
        (post("/v1/log", "{"), "400"),
        (post("/v1/log", r#"{"filters":{"state":"x"},"limit":1,"follow":false}"#), "400"),
        (get("/v1/nothing"), "404"),
    ] {
        let (answer, _) = over_socket(Fake::default(), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
    }
}

#[tokio::test]
async fn a_body_comes_as_the_bytes_that_were_received() {
    let fake = Fake::default();
    let id = fake.accept("stripe", b"exactly this");
    let (answer, _) = over_socket(fake, &get(&format!("/v1/events/{id}/body"))).await;
    assert!(answer.ends_with("\r\n\r\nexactly this"), "{answer}");
}
