//! Deliveries by key: one at a time in the order of acceptance, whatever the first one meets.

use crate::harness::{Answer, Relay, Upstream, wait_until};

fn ordered(upstream: &Upstream, more: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/*"

        [upstream.app]
        url = "{}"
        retry = {{ schedule = ["200ms"], jitter = 0.0, give_up_after = "1h" }}

        [[route]]
        name = "ordered"
        source = "app"
        to = ["app"]
        order_by = ".k"
        {more}
        "#,
        upstream.url()
    )
}

fn body(key: &str, n: usize) -> String {
    format!(r#"{{"k":"{key}","n":{n}}}"#)
}

#[test]
fn a_key_that_fails_keeps_its_order_through_retries_and_a_restart_and_delays_no_other() {
    let upstream = Upstream::start();
    upstream.script(|request| Answer::Status(if request.text().contains("\"a\"") { 503 } else { 200 }));
    let mut relay = Relay::start(&ordered(&upstream, ""));
    let first: Vec<String> = (0..5).map(|n| relay.accept("/x", body("a", n))).collect();
    let others: Vec<String> = (0..5).map(|n| relay.accept("/x", body("b", n))).collect();
    for id in &others {
        relay.wait_for_state(id, "delivered");
    }
    let why = relay.cli(&["explain", &first[3]]).done().out;
    assert!(why.contains(&format!("waits behind event {}", first[0])), "{why}");
    let keys = relay.cli(&["keys", "--json"]).done().lines();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!((keys[0]["key"].as_str(), keys[0]["event"].as_str()), (Some("a"), Some(first[0].as_str())));
    assert_eq!((keys[0]["state"].as_str(), keys[0]["waiting"].as_u64()), (Some("pending"), Some(4)));
    assert_eq!(keys[0]["since"], relay.show(&first[0])["received_at"]);
    wait_until("the metric tells it", || relay.metric("stagepost_blocked_keys{upstream=\"app\"}") > 0.5);
    relay.restart();
    upstream.answer(Answer::Status(200));
    for id in &first {
        relay.wait_for_state(id, "delivered");
    }
    let taken: Vec<String> = upstream.received().iter().map(|request| request.text()).collect();
    let a: Vec<&String> = taken.iter().filter(|text| text.contains("\"a\"")).collect();
    let tried_first = a.iter().take_while(|text| ***text == body("a", 0)).count();
    assert_eq!(a[tried_first..], (1..5).map(|n| body("a", n)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert_eq!(relay.cli(&["keys"]).done().out, "no key is blocked\n");
}

#[test]
fn a_parked_key_waits_until_its_dead_event_is_released() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(422));
    let mut relay = Relay::start(&ordered(&upstream, "on_failure = \"park\""));
    let (dead, behind) = (relay.accept("/x", body("a", 0)), relay.accept("/x", body("a", 1)));
    relay.wait_for_state(&dead, "dead");
    upstream.answer(Answer::Status(200));
    relay.restart();
    let other = relay.accept("/x", body("b", 0));
    relay.wait_for_state(&other, "delivered");
    let listed = relay.cli(&["keys"]).done().out;
    assert!(listed.contains(&dead) && listed.contains("dead") && listed.contains("422"), "{listed}");
    assert_eq!(upstream.received().len(), 2, "the one behind waits");
    relay.cli(&["release", &dead]).done();
    relay.wait_for_state(&behind, "delivered");
    assert_eq!(relay.show(&dead)["state"], "dead");
}

#[test]
fn a_stale_version_is_superseded_and_a_skipped_event_is_dead() {
    let upstream = Upstream::start();
    let more = "on_failure = { skip = 2 }\nversion = \".n\"";
    let relay = Relay::start(&ordered(&upstream, more));
    let newest = relay.accept("/x", body("a", 10));
    relay.wait_for_state(&newest, "delivered");
    let stale = relay.accept("/x", body("a", 9));
    let shown = relay.wait_for_state(&stale, "superseded");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("stale: version 9 is older than 10"), "{reason}");
    upstream.answer(Answer::Status(503));
    let skipped = relay.accept("/x", body("a", 11));
    let shown = relay.wait_for_state(&skipped, "dead");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("skipped: after 2 attempts, the last one: 503"), "{reason}");
    assert_eq!(upstream.received().len(), 3);
}
