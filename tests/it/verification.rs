//! Signatures of the generic scheme, and dedupe: what is forged reaches neither the log nor the dedupe window.

use crate::harness::{Relay, Request, Upstream, sign, signed};

const SECRET: &str = "correct horse battery staple";

fn verified() -> Relay {
    let mut relay = Relay::stopped(
        r#"
        [source.app]
        path = "/in"
        to = []
        dedupe = { key = ".id", window = "1h" }

        [source.app.verify]
        scheme = "hmac"
        algorithm = "sha256"
        header = "X-Signature"
        encoding = "hex"
        prefix = "sha256="
        template = "{timestamp}.{body}"
        timestamp = { header = "X-Timestamp", unit = "s", tolerance = "5m" }
        secrets = ["env:IT_SECRET", "file:previous"]
        "#,
    );
    relay.environment("IT_SECRET", SECRET);
    relay.write("previous", "old secret\n");
    relay.run();
    relay
}

#[test]
fn what_is_signed_is_taken_with_today_s_and_yesterday_s_secret() {
    let relay = verified();
    assert_eq!(relay.send(&signed("/in", r#"{"id":1}"#, SECRET, 0)).status, 202);
    let answer = relay.send(&signed("/in", r#"{"id":2}"#, "old secret", -120));
    assert_eq!(answer.status, 202);
    let shown = relay.show(answer.header("stagepost-event-id").unwrap());
    assert_eq!(
        shown["verification"],
        serde_json::json!({ "scheme": "hmac", "result": "verified", "secret": "file:previous" })
    );
}

#[test]
fn forged_missing_stale_and_future_signatures_are_401_and_nothing_is_stored() {
    let relay = verified();
    let body = r#"{"id":7}"#;
    let good = signed("/in", body, SECRET, 0);
    let without = |name: &str| {
        let headers = good.headers.iter().filter(|(known, _)| known != name).cloned().collect();
        Request { headers, ..good.clone() }
    };
    let altered = Request { body: br#"{"id":8}"#.to_vec(), ..good.clone() };
    let unprefixed = without("X-Signature").header("X-Signature", sign(SECRET, body.as_bytes()));
    let cases = [
        ("forged", signed("/in", body, "wrong secret", 0)),
        ("altered", altered),
        ("without prefix", unprefixed),
        ("without a signature", without("X-Signature")),
        ("without a timestamp", without("X-Timestamp")),
        ("stale", signed("/in", body, SECRET, -400)),
        ("from the future", signed("/in", body, SECRET, 400)),
    ];
    for (what, request) in &cases {
        let answer = relay.send(request);
        assert_eq!(answer.status, 401, "{what}");
        assert!(answer.header("www-authenticate").is_some(), "{what}");
        assert!(!answer.text().contains("stamp") && !answer.text().contains("stale"), "{what}: {}", answer.text());
    }
    assert!(relay.events().is_empty());
    assert_eq!(relay.cli(&["refused", "--json"]).lines().len(), cases.len());
    let unauthorized = relay.metric("stagepost_requests_total{source=\"app\",result=\"unauthorized\"}");
    assert_eq!(unauthorized as usize, cases.len());
    assert_eq!(relay.send(&good).status, 202, "a forged request used up the dedupe key");
}

#[test]
fn forged_large_posts_leave_nothing_on_the_disk() {
    let relay = verified();
    let body = format!("{{\"id\":\"{}\"}}", "x".repeat(600 * 1024));
    for _ in 0..20 {
        assert_eq!(relay.send(&signed("/in", &body, "wrong", 0)).status, 401);
    }
    assert!(relay.events().is_empty());
    let spool = std::fs::read_dir(relay.data().join("spool")).unwrap().count();
    assert_eq!((spool, relay.metric("stagepost_spool_bytes") as u64), (0, 0));
    assert!(relay.cli(&["status", "--json"]).json()["store"]["bytes"].as_u64().unwrap() < 5 * 1024 * 1024);
}

#[test]
fn a_duplicate_is_answered_with_the_first_id_and_delivered_once_also_after_a_restart() {
    let upstream = Upstream::start();
    let url = upstream.url();
    let mut relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/in"
        to = ["app"]
        dedupe = {{ key = ".id", window = "1h" }}

        [upstream.app]
        url = "{url}"
        "#
    ));
    let first = relay.accept("/in", r#"{"id":"a","n":1}"#);
    let resend = |relay: &Relay, body: &str| {
        let answer = relay.send(&Request::post("/in", body));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("stagepost-duplicate"), Some("true"));
        assert_eq!(answer.json()["id"], first.as_str());
    };
    resend(&relay, r#"{"id":"a","n":1}"#);
    relay.wait_for_state(&first, "delivered");
    relay.restart();
    resend(&relay, r#"{"id":"a","n":2}"#);
    relay.kill();
    relay.run();
    resend(&relay, r#"{"id":"a"}"#);

    let other = relay.accept("/in", r#"{"id":"b"}"#);
    relay.wait_for_state(&other, "delivered");
    let keyless = [r#"{"id":null}"#, r#"{"id":""}"#, r#"{"id":[1]}"#, "{}", "no json"];
    for body in keyless {
        assert_ne!(relay.accept("/in", body), relay.accept("/in", body), "{body}");
    }
    let got = upstream.wait_for_requests(2 + 2 * keyless.len());
    assert_eq!(got.iter().filter(|request| request.text().contains(r#""id":"a""#)).count(), 1);
    assert!(relay.metric("stagepost_without_key_total{source=\"app\"}") >= keyless.len() as f64);
}

#[test]
fn a_secret_comes_from_the_credentials_of_the_service_manager_and_a_missing_one_refuses_to_start() {
    let mut relay = Relay::stopped(
        "[source.a]\npath = \"/in\"\nto = []\n[source.a.verify]\nscheme = \"hmac\"\nheader = \"X-Signature\"\n\
         secrets = [\"credential:hook\"]\n",
    );
    let told = relay.cli_by_config(&["check"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("credential"), "{}", told.err);
    relay.write("hook", "from systemd\n");
    let directory = relay.directory().to_str().unwrap().to_owned();
    relay.environment("CREDENTIALS_DIRECTORY", &directory);
    relay.run();
    let request = Request::post("/in", "x").header("X-Signature", sign("from systemd", b"x"));
    assert_eq!(relay.send(&request).status, 202);
}

#[test]
fn genuine_requests_that_come_too_late_are_told_from_forged_ones() {
    let relay = verified();
    assert_eq!(relay.send(&signed("/in", r#"{"id":1}"#, "wrong secret", -3600)).status, 401);
    assert_eq!(relay.metric("stagepost_stale_total{source=\"app\"}"), 0.0);
    assert_eq!(relay.send(&signed("/in", r#"{"id":1}"#, SECRET, -3600)).status, 401);
    assert_eq!(relay.send(&signed("/in", r#"{"id":1}"#, "old secret", 3600)).status, 401);
    assert_eq!(relay.metric("stagepost_stale_total{source=\"app\"}"), 2.0);
}
