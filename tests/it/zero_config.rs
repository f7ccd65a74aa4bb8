//! One command and no configuration file: from nothing to forwarding.

use std::net::Ipv4Addr;

use sha2::{Digest as _, Sha256};

use crate::harness::{Connection, Relay, Request, Upstream, cli, distinct_bytes};

#[test]
fn one_command_stores_answers_202_with_the_id_and_forwards() {
    let upstream = Upstream::start();
    let relay = Relay::zero_config(&upstream.url());
    let answer = relay.send(&Request::post("/hooks/any?a=1&b=%2F", r#"{"n":1}"#).header("X-Custom", "kept"));
    assert_eq!(answer.status, 202);
    let id = answer.header("stagepost-event-id").unwrap().to_owned();
    assert_eq!(answer.json(), serde_json::json!({ "id": id }));
    let is_base32 = |byte: u8| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(&byte);
    assert!(id.len() == 26 && id.bytes().all(is_base32), "{id}");

    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", "/hooks/any?a=1&b=%2F"));
    assert_eq!(got.text(), r#"{"n":1}"#);
    assert_eq!(got.header("x-custom"), Some("kept"));
    assert_eq!(got.header("host"), Some("relay.test"));
    assert_eq!(got.header("stagepost-event-id"), Some(id.as_str()));
    assert_eq!(got.header("stagepost-attempt"), Some("1"));
    assert!(got.header("stagepost-received-at").unwrap().ends_with('Z'));
    assert!(got.header("idempotency-key").is_some());
    assert_eq!(got.header("x-forwarded-for"), Some(Ipv4Addr::LOCALHOST.to_string().as_str()));
    assert_eq!(got.header("x-forwarded-host"), Some("relay.test"));
    assert_eq!(got.header("x-forwarded-proto"), Some("http"));
    assert!(got.header("via").is_some() && got.header("traceparent").is_some());
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn commands_find_the_instance_in_the_working_directory() {
    let upstream = Upstream::start();
    let relay = Relay::zero_config(&upstream.url());
    let id = relay.accept("/x", "{}");
    let told = cli(relay.directory(), &["log", "--json"]).done().lines();
    assert_eq!(told[0]["id"], id.as_str());
}

#[test]
fn hop_by_hop_headers_and_a_senders_own_stagepost_headers_are_not_forwarded() {
    let upstream = Upstream::start();
    let relay = Relay::zero_config(&upstream.url());
    let request = Request::post("/", "x")
        .header("Connection", "close, X-Mine")
        .header("X-Mine", "1")
        .header("Stagepost-Attempt", "99")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("Idempotency-Key", "of-the-sender")
        .header("X-Twice", "a")
        .header("X-Twice", "b");
    assert_eq!(relay.send(&request).status, 202);
    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!(got.header("x-mine"), None);
    assert_eq!(got.header("stagepost-attempt"), Some("1"));
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.header("idempotency-key"), Some("of-the-sender"));
    let twice: Vec<&str> =
        got.headers.iter().filter(|(name, _)| name == "x-twice").map(|(_, value)| value.as_str()).collect();
    assert_eq!(twice, ["a", "b"]);
}

#[test]
fn a_large_body_arrives_byte_for_byte_with_and_without_a_declared_length() {
    let upstream = Upstream::start();
    let relay = Relay::zero_config(&upstream.url());
    let body = distinct_bytes(3 * 1024 * 1024 + 17);
    relay.accept("/declared", &body);

    let mut connection = Connection::open(relay.address());
    connection.write("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for chunk in body.chunks(70_000) {
        connection.write(format!("{:x}\r\n", chunk.len())).unwrap();
        connection.write(chunk).unwrap();
        connection.write("\r\n").unwrap();
    }
    connection.write("0\r\n\r\n").unwrap();
    let answer = connection.read().unwrap();
    assert_eq!(answer.status, 202);

    for got in upstream.wait_for_requests(2) {
        assert!(got.body == body, "{} came with {} bytes", got.target, got.body.len());
    }
    let id = answer.header("stagepost-event-id").unwrap();
    let shown = relay.cli(&["show", id, "--body"]).done();
    assert!(shown.bytes == body);
    let line = relay.show(id);
    assert_eq!((line["size"].as_u64(), line["sha256"].as_str()), (Some(body.len() as u64), Some(&*digest(&body))));
}

fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}
