//! The quarantine: what was refused by mistake comes back as the event it should have been, and a flood of forgeries
//! costs nobody anything.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{Connection, Output, Relay, Request, Upstream, signed, wait_for, wait_until};

const OLD: &str = "the secret of yesterday";
const NEW: &str = "the secret of today";

/// A source whose secret stands in a file, and what else the test needs.
fn config(more: &str, to: &str) -> String {
    format!(
        r#"
        {more}

        [source.app]
        path = "/t/{{tenant}}/in"
        to = [{to}]
        dedupe = {{ key = ".id", window = "1h" }}

        [source.app.verify]
        scheme = "hmac"
        header = "X-Signature"
        prefix = "sha256="
        template = "{{timestamp}}.{{body}}"
        timestamp = {{ header = "X-Timestamp", tolerance = "5m" }}
        secrets = ["file:secret"]
        "#
    )
}

fn relay(more: &str) -> Relay {
    let mut relay = Relay::stopped(&config(more, ""));
    relay.write("secret", OLD);
    relay.run();
    relay
}

fn post(body: &str, secret: &str, offset_s: i64) -> Request {
    signed("/t/acme/in?a=1", body, secret, offset_s)
}

impl Relay {
    fn quarantine(&self, args: &[&str]) -> Output {
        self.cli(&[&["quarantine"], args].concat())
    }

    /// Everything in quarantine, newest first, once there are so many.
    fn wait_for_kept(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} requests in quarantine"), || {
            let kept = self.quarantine(&["--json", "-n", "100000"]).done().lines();
            (kept.len() == count).then_some(kept)
        })
    }

    fn refuses(&self, request: &Request) {
        assert_eq!(self.send(request).status, 401);
    }

    fn ring_bytes(&self) -> u64 {
        bytes_in(&self.data().join("quarantine"))
    }
}

fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.len())).sum()
}

fn id_of(kept: &Value) -> &str {
    kept["id"].as_str().unwrap()
}

#[test]
fn what_a_wrong_secret_refused_is_admitted_with_the_right_one_and_delivered_once_as_it_was_received() {
    let upstream = Upstream::start();
    let url = upstream.url();
    let mut relay = Relay::stopped(&config(&format!("[upstream.app]\nurl = \"{url}\""), "\"app\""));
    relay.write("secret", OLD);
    relay.run();
    let body = "{\"id\": \"a\",  \"text\": \"ünd\\u0000\"}\r\n";
    let request = post(body, NEW, 0);
    relay.refuses(&request);
    relay.refuses(&post(r#"{"id":"b"}"#, "a forger's guess", 0));
    relay.refuses(&post(r#"{"id":"c"}"#, NEW, -400));
    let kept = relay.wait_for_kept(3);
    let reasons: Vec<&str> = kept.iter().map(|kept| kept["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["stale", "bad_signature", "bad_signature"]);
    let first = kept[2].clone();
    assert_eq!(
        (&first["source"], &first["status"], &first["path"]),
        (&json!("app"), &json!(401), &json!("/t/acme/in"))
    );

    let rechecked = relay.quarantine(&["recheck", "--json"]);
    assert_eq!(rechecked.code, 1);
    assert!(rechecked.lines().iter().all(|judged| judged["result"] == "refused"), "{rechecked:?}");

    relay.write("secret", NEW);
    relay.cli(&["reload"]).done();
    let rechecked = relay.quarantine(&["recheck", "--json"]);
    let results: Vec<Value> = rechecked.lines().into_iter().map(|judged| judged["result"].clone()).collect();
    assert_eq!(results, ["verified", "refused", "refused"]);
    assert!(relay.events().is_empty(), "a recheck admits nothing");
    let why: Vec<Value> = rechecked.lines().into_iter().map(|judged| judged["why"].clone()).collect();
    assert_eq!(why, [Value::Null, json!("bad_signature"), json!("stale")]);

    let admitted = relay.quarantine(&["recheck", "--admit", "--all", "--json"]);
    assert_eq!(admitted.code, 1, "{admitted:?}");
    let event = admitted.lines()[0]["event"].as_str().unwrap().to_owned();
    let shown = relay.wait_for_state(&event, "delivered");
    assert_eq!((&shown["received_at"], &shown["client"]), (&first["received_at"], &first["client"]));
    assert_eq!(shown["verification"], json!({ "scheme": "hmac", "result": "verified", "secret": "file:secret" }));
    assert_eq!(relay.cli(&["show", &event, "--body"]).bytes, body.as_bytes());
    let got = upstream.wait_for_requests(1);
    assert_eq!((got[0].body.as_slice(), got[0].target.as_str()), (body.as_bytes(), "/t/acme/in?a=1"));
    assert_eq!(got[0].header("stagepost-event-id"), Some(event.as_str()));

    assert_eq!(relay.wait_for_kept(2).len(), 2, "what was admitted leaves the quarantine");
    let again = relay.quarantine(&["recheck", id_of(&first), "--admit"]);
    assert_eq!(again.code, 66, "{again:?}");
    let resend = relay.send(&request);
    assert_eq!((resend.status, resend.header("stagepost-duplicate")), (200, Some("true")));
    let next = relay.send(&post(r#"{"id":"d"}"#, NEW, 0));
    relay.wait_for_state(next.header("stagepost-event-id").unwrap(), "delivered");
    assert_eq!(upstream.wait_for_requests(2).len(), 2, "it was delivered once");
    assert!(relay.diagnostics().contains("requests were admitted from quarantine"));
}

#[test]
fn what_was_sent_again_meanwhile_is_a_duplicate_and_leaves_the_quarantine() {
    let relay = relay("");
    let request = post(r#"{"id":"a"}"#, NEW, 0);
    relay.refuses(&request);
    relay.wait_for_kept(1);
    relay.write("secret", NEW);
    relay.cli(&["reload"]).done();
    let accepted = relay.send(&request).header("stagepost-event-id").unwrap().to_owned();
    let admitted = relay.quarantine(&["recheck", "--admit", "--all", "--json"]).done().lines();
    assert_eq!((&admitted[0]["result"], &admitted[0]["event"]), (&json!("duplicate"), &json!(accepted)));
    relay.wait_for_kept(0);
    assert_eq!(relay.events().len(), 1);
}

#[test]
fn what_is_kept_is_shown_like_an_event_and_survives_a_restart_and_a_kill() {
    let mut relay = relay("");
    relay.refuses(&post(r#"{"id":"a"}"#, NEW, 0));
    let kept = relay.wait_for_kept(1).remove(0);
    let id = id_of(&kept);
    assert_eq!((id.len(), &id[10..13]), (26, "ZZZ"), "an id of the quarantine is told apart by its partition: {id}");
    let status = relay.cli(&["status", "--json"]).done().json();
    assert_eq!(status["quarantine"], json!({ "count": 1, "bytes": relay.ring_bytes() }));
    assert_eq!(relay.metric("stagepost_quarantine_entries") as u64, 1);
    assert_eq!(relay.metric("stagepost_quarantine_bytes") as u64, relay.ring_bytes());

    let show = |relay: &Relay| relay.quarantine(&["show", id, "--json"]).done().json();
    let shown = show(&relay);
    assert_eq!((&shown["state"], &shown["source"]), (&json!("quarantined"), &json!("app")));
    assert_eq!(shown["verification"], json!({ "scheme": "hmac", "result": "bad_signature", "secret": null }));
    assert!(!shown.to_string().contains("sha256="), "the signature is shown: {shown}");
    assert!(relay.quarantine(&["show", id, "--http", "--reveal"]).done().out.contains("sha256="));
    assert_eq!(relay.quarantine(&["show", id, "--body"]).done().out, r#"{"id":"a"}"#);
    let elsewhere = relay.cli(&["show", id]);
    assert_eq!(elsewhere.code, 66);
    assert!(elsewhere.err.contains("stagepost quarantine show"), "{}", elsewhere.err);

    relay.restart();
    assert_eq!(relay.wait_for_kept(1), std::slice::from_ref(&kept));
    relay.kill();
    let offline = |args: &[&str]| relay.quarantine(args).done();
    assert_eq!(offline(&["--json"]).lines(), std::slice::from_ref(&kept), "of a stopped instance");
    assert_eq!(offline(&["show", id, "--body"]).out, r#"{"id":"a"}"#);
    assert_eq!(show(&relay)["verification"], shown["verification"]);
    assert_eq!(relay.quarantine(&["recheck"]).code, 69);
    relay.run();
    assert_eq!(relay.wait_for_kept(1), std::slice::from_ref(&kept));
    relay.quarantine(&["delete", id, "--yes"]).done();
    relay.restart();
    assert!(relay.wait_for_kept(0).is_empty());
}

#[test]
fn the_oldest_make_room_for_the_newest() {
    let relay = relay("[quarantine]\nmax_size = \"1MiB\"");
    let body = |n: usize| format!("{{\"id\":{n},\"pad\":\"{}\"}}", "x".repeat(100 << 10));
    for n in 0..30 {
        relay.refuses(&post(&body(n), NEW, 0));
    }
    wait_until("older ones are pushed out", || {
        let overflow = relay.metric("stagepost_quarantine_dropped_total{reason=\"overflow\"}") as usize;
        overflow + relay.metric("stagepost_quarantine_entries") as usize == 30
    });
    assert!(relay.ring_bytes() <= 1 << 20, "{} bytes", relay.ring_bytes());
    let kept = relay.quarantine(&["--json", "-n", "100"]).done().lines();
    assert!((5..=10).contains(&kept.len()), "{}", kept.len());
    assert!(relay.quarantine(&["show", id_of(&kept[0]), "--body"]).done().out.starts_with("{\"id\":29,"));
    let too_large = format!("{{\"pad\":\"{}\"}}", "x".repeat(257 << 10));
    relay.refuses(&post(&too_large, NEW, 0));
    assert_eq!(relay.metric("stagepost_quarantine_dropped_total{reason=\"unread\"}") as u64, 1);
}

#[test]
fn a_damaged_file_is_dropped_and_keeps_nobody_from_starting() {
    let mut relay = relay("[quarantine]\nmax_size = \"1MiB\"");
    for n in 0..4 {
        relay.refuses(&post(&format!("{{\"id\":{n},\"pad\":\"{}\"}}", "x".repeat(60 << 10)), NEW, 0));
    }
    relay.wait_for_kept(4);
    assert_eq!(relay.stop(), 0);
    let directory = relay.data().join("quarantine");
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    fs::write(&files[1], "not what was written").unwrap();
    relay.run();
    assert_eq!(relay.wait_for_kept(3).len(), 3);
    assert_eq!(relay.metric("stagepost_quarantine_dropped_total{reason=\"damaged\"}") as u64, 1);
    assert!(relay.diagnostics().contains("quarantine is damaged"), "{}", relay.diagnostics());
    relay.refuses(&post("{}", NEW, 0));
    relay.wait_for_kept(4);
}

#[test]
fn a_client_is_kept_at_its_rate_only() {
    let relay = relay("[quarantine]\nrate = \"1/s\"");
    let posts = 100;
    for n in 0..posts {
        relay.refuses(&post(&format!("{{\"id\":{n}}}"), NEW, 0));
    }
    let dropped = relay.metric("stagepost_quarantine_dropped_total{reason=\"rate\"}") as usize;
    assert!(dropped > 0, "nothing was dropped");
    relay.wait_for_kept(posts - dropped);
    assert_eq!(relay.cli(&["refused", "--json"]).done().lines().len(), posts, "all of them are refused and seen");
}

#[test]
fn only_what_is_wanted_is_kept() {
    let relay = relay("[server]\nunmatched = \"store\"");
    assert_eq!(relay.send(&Request::post("/old/path?x=1", "lost")).status, 404);
    assert_eq!(relay.send(&Request::get("/wp-login.php")).status, 404);
    relay.refuses(&Request::post("/t/acme/in", "unsigned"));
    let kept = relay.wait_for_kept(1).remove(0);
    assert_eq!((&kept["reason"], &kept["source"], &kept["status"]), (&json!("not_found"), &Value::Null, &json!(404)));

    let with_old_path = config("[server]\nunmatched = \"refuse\"\n[source.old]\npath = \"/old/path\"\nto = []", "");
    relay.configure(&with_old_path.replace("secrets = [", "# kept below\n        secrets = ["));
    relay.cli(&["reload"]).done();
    let admitted = relay.quarantine(&["recheck", "--admit", "--reason", "not_found", "--json"]).done().lines();
    let event = relay.show(admitted[0]["event"].as_str().unwrap());
    assert_eq!((&event["source"], &event["query"]), (&json!("old"), &json!("x=1")));

    assert_eq!(relay.send(&Request::post("/another/path", "lost")).status, 404);
    let without = config("", "").replace("dedupe =", "quarantine = false\n        dedupe =");
    relay.configure(&without);
    relay.cli(&["reload"]).done();
    relay.refuses(&post("{}", NEW, 0));
    let status = relay.cli(&["status", "--json"]).done().json();
    assert_eq!(status["quarantine"]["count"], 0);
}

#[test]
fn ten_thousand_forged_posts_leave_the_ring_within_its_limit_and_honest_senders_unharmed() {
    let relay = relay("[quarantine]\nmax_size = \"1MiB\"\nrate = \"100000/s\"\ntotal_rate = \"1GiB/s\"");
    let series =
        |relay: &Relay| relay.ask_admin("/metrics").text().lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(relay.send(&post(r#"{"id":"first"}"#, OLD, 0)).status, 202);
    let (before, stored) = (series(&relay), relay.events().len());
    let mut forger = Connection::open(relay.address());
    let mut honest = Connection::open(relay.address());
    for n in 0..10_000 {
        let offset_s = if n % 3 == 0 { -400 } else { 0 };
        let forged = post(&format!("{{\"id\":{n},\"pad\":\"{}\"}}", "x".repeat(1_000)), "a guess", offset_s);
        assert_eq!(forger.send(&forged).status, 401);
        if n % 500 == 0 {
            assert_eq!(honest.send(&post(&format!("{{\"id\":\"honest {n}\"}}"), OLD, 0)).status, 202);
        }
    }
    wait_until("every forged post is kept or counted", || {
        let metrics = relay.ask_admin("/metrics").text();
        let sum: u64 = metrics
            .lines()
            .filter(|line| {
                line.starts_with("stagepost_quarantine_dropped_total{")
                    || line.starts_with("stagepost_quarantine_entries ")
            })
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        sum == 10_000
    });
    assert!(relay.ring_bytes() <= 1 << 20, "{} bytes", relay.ring_bytes());
    assert!(relay.metric("stagepost_quarantine_entries") > 100.0);
    assert_eq!(series(&relay), before, "nobody outside adds a metric");
    assert_eq!(relay.events().len(), stored + 20);
}

#[test]
fn what_a_schema_refused_is_judged_by_the_schema_of_today_and_admitted_item_by_item() {
    let config = "[source.s]\npath = \"/in\"\nto = []\nsplit = true\n[source.s.schema]\nfile = \"a.schema.json\"\n\
                  on_violation = \"quarantine\"\n";
    let mut relay = Relay::stopped(config);
    relay.write("a.schema.json", r#"{"required": ["amount"]}"#);
    relay.run();
    assert_eq!(relay.send(&Request::post("/in", r#"[{"amount":1},{"total":2}]"#)).status, 422);
    let kept = relay.wait_for_kept(1);
    assert_eq!(kept[0]["reason"], "schema");
    assert_eq!(relay.quarantine(&["recheck", "--json"]).lines()[0]["why"], "schema");
    let violations = "stagepost_schema_violations_total{source=\"s\"}";
    assert_eq!(relay.metric(violations), 1.0, "a recheck counts nothing");

    relay.write("a.schema.json", "{}");
    relay.cli(&["reload"]).done();
    assert_eq!(relay.quarantine(&["recheck", "--json"]).lines()[0]["result"], "verified");
    assert!(relay.events().is_empty(), "a recheck admits nothing");
    relay.quarantine(&["recheck", "--admit", "--all"]).done();
    let items: Vec<Value> = relay.events().iter().map(|event| event["item"].clone()).collect();
    assert_eq!(items, [json!(1), json!(0)]);
    relay.wait_for_kept(0);
}
