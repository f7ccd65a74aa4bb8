//! What machines ask: metrics, probes, the JSON of `status`.

use std::net::TcpStream;

use crate::harness::{Relay, Request, Upstream, all_to, exchange, free_port};

#[test]
fn metrics_and_probes_answer_on_the_admin_address_without_a_token() {
    let upstream = Upstream::start();
    let port = free_port();
    let relay = Relay::start(&format!("[admin]\naddress = \"127.0.0.1:{port}\"\n{}", all_to(&upstream)));
    let id = relay.accept("/x", "x");
    relay.wait_for_state(&id, "delivered");
    relay.send(&Request::get("/x"));
    let ask = |path: &str| exchange(TcpStream::connect(("127.0.0.1", port)).unwrap(), &Request::get(path)).unwrap();
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(path).status, 200, "{path}");
    }
    let metrics = ask("/metrics").text();
    for name in [
        "stagepost_requests_total{source=\"app\",result=\"accepted\"} 1",
        "stagepost_events_total{source=\"app\",type=\"other\"}",
        "stagepost_duplicates_total{source=\"app\"} 0",
        "stagepost_ack_seconds_count{source=\"app\"}",
        "stagepost_attempts_total{upstream=\"app\",outcome=\"delivered\"} ",
        "stagepost_attempt_seconds_count{upstream=\"app\"}",
        "stagepost_delivery_seconds_count{upstream=\"app\"} ",
        "stagepost_pending{upstream=\"app\"} 0",
        "stagepost_oldest_pending_seconds{upstream=\"app\"} 0",
        "stagepost_held{upstream=\"app\"} 0",
        "stagepost_breaker_state{upstream=\"app\"} 0",
        "stagepost_store_bytes ",
        "stagepost_store_limit_bytes 21474836480",
        "stagepost_fsync_seconds_count ",
        "stagepost_commit_entries_count ",
        "stagepost_last_reload_success 1",
        "stagepost_config_info{hash=\"",
        "stagepost_signature_skew_seconds_count{source=\"app\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is not in\n{metrics}");
    }
    assert_eq!(ask("/").status, 303, "the page leads to its login");
    for path in ["/v1/status", "/v1/events/x"] {
        assert_eq!(ask(path).status, 401, "{path} must not be open on the network");
    }
}

#[test]
fn metric_labels_hold_only_configured_names() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream).replace("to = [\"app\"]", "to = [\"app\"]\ntype = '.type'"));
    for n in 0..5 {
        relay.accept(&format!("/path-{n}"), format!(r#"{{"type":"stranger-{n}"}}"#));
    }
    let metrics = relay.ask_admin("/metrics").text();
    assert!(!metrics.contains("stranger-") && !metrics.contains("path-"), "{metrics}");
    assert_eq!(relay.metric("stagepost_events_total{source=\"app\",type=\"other\"}") as u64, 5);
}

#[test]
fn events_are_counted_by_the_types_that_the_source_names_also_after_a_reload() {
    let config = |types: &str| format!("[source.app]\npath = \"/x\"\nto = []\ntype = '.type'\ntypes = {types}\n");
    let relay = Relay::start(&config(r#"["invoice.paid"]"#));
    let count = |kind: &str| relay.metric(&format!("stagepost_events_total{{source=\"app\",type=\"{kind}\"}}")) as u64;
    assert!(relay.ask_admin("/metrics").text().contains("type=\"invoice.paid\"} 0"), "it counts from the start");
    for kind in ["invoice.paid", "customer.created", "invoice.paid"] {
        relay.accept("/x", format!(r#"{{"type":"{kind}"}}"#));
    }
    assert_eq!((count("invoice.paid"), count("other")), (2, 1));
    relay.configure(&config(r#"["customer.created"]"#));
    relay.cli_by_config(&["reload"]).done();
    for kind in ["invoice.paid", "customer.created"] {
        relay.accept("/x", format!(r#"{{"type":"{kind}"}}"#));
    }
    assert_eq!((count("customer.created"), count("invoice.paid"), count("other")), (1, 2, 2));
}

#[test]
fn readiness_does_not_depend_on_upstreams() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = [\"u\"]\n[upstream.u]\nurl = \"http://127.0.0.1:1\"\n");
    relay.accept("/a", "x");
    assert_eq!(relay.ask_admin("/readyz").status, 200);
}

#[test]
fn status_json_has_the_names_of_the_contract() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let status = relay.cli(&["status", "--json"]).done().json();
    for pointer in [
        "/version",
        "/node",
        "/uptime_s",
        "/config/hash",
        "/config/loaded_at",
        "/upstreams/0/name",
        "/upstreams/0/breaker",
        "/upstreams/0/held_until",
        "/upstreams/0/pending",
        "/upstreams/0/dead",
        "/upstreams/0/oldest_at",
        "/upstreams/0/in_flight",
        "/upstreams/0/rate",
        "/upstreams/0/concurrency_limit",
        "/upstreams/0/rate_limit",
        "/upstreams/0/throttled_until",
        "/store/bytes",
        "/store/limit",
        "/store/full_at",
        "/store/segments",
        "/store/oldest_at",
        "/quarantine/count",
        "/quarantine/bytes",
    ] {
        assert!(status.pointer(pointer).is_some(), "{pointer} is not in {status}");
    }
    let metrics = relay.ask_admin("/metrics").text();
    assert!(metrics.contains(status["config"]["hash"].as_str().unwrap()));
}

#[test]
fn diagnostics_can_be_json_and_never_hold_a_body_or_a_secret() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[diagnostics]\nformat = \"json\"\nlevel = \"debug\"\naccess = \"all\"\n{}",
        all_to(&upstream).replace("url =", "headers = { Authorization = \"Bearer literal:very-secret\" }\nurl =")
    ));
    relay.send(&Request::post("/x", "body-of-a-customer").header("Authorization", "Bearer of-the-sender"));
    upstream.wait_for_requests(1);
    let said = relay.diagnostics();
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    for secret in ["very-secret", "of-the-sender", "body-of-a-customer"] {
        assert!(!said.contains(secret), "{said}");
    }
}
