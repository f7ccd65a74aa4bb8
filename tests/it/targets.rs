//! Several targets of an upstream: turns, failures, health, reload.

use std::collections::BTreeSet;

use crate::harness::{Answer, Relay, Upstream, free_port, wait_until};

fn config(urls: &[String], settings: &str) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["app"]

        [upstream.app]
        url = [{}]
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        {settings}
        "#,
        urls.join(", ")
    )
}

fn bodies(upstream: &Upstream) -> BTreeSet<String> {
    upstream.received().iter().filter(|request| request.method == "POST").map(|request| request.text()).collect()
}

fn state_of(relay: &Relay, url: &str) -> String {
    let targets = relay.upstream("app")["targets"].as_array().cloned().unwrap_or_default();
    targets
        .iter()
        .find(|target| target["url"] == url)
        .map(|target| target["state"].as_str().unwrap().to_owned())
        .unwrap()
}

#[test]
fn targets_take_turns_and_an_attempt_says_where_it_went() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&config(&[one.url(), format!("{}/base", other.url())], ""));
    let ids: Vec<String> = (0..10).map(|n| relay.accept("/x", format!("{n}"))).collect();
    let mut urls = BTreeSet::new();
    for id in &ids {
        let shown = relay.wait_for_state(id, "delivered");
        urls.insert(shown["deliveries"][0]["attempts"][0]["sent"]["url"].as_str().unwrap().to_owned());
    }
    assert_eq!(urls, [format!("{}/x", one.url()), format!("{}/base/x", other.url())].into());
    assert_eq!((one.received().len(), other.received().len()), (5, 5));
    let status = relay.cli(&["status"]).done().out;
    assert!(status.contains("TARGET") && status.contains(&other.url()), "{status}");
}

#[test]
fn a_target_that_is_not_there_costs_no_attempt() {
    let one = Upstream::start();
    let gone = format!("http://127.0.0.1:{}", free_port());
    let relay = Relay::start(&config(&[one.url(), gone.clone()], "eject = { failures = 3, for = \"1h\" }"));
    let ids: Vec<String> = (0..20).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        assert_eq!(relay.wait_for_state(id, "delivered")["deliveries"][0]["attempts_total"], 1);
    }
    assert_eq!(bodies(&one).len(), 20);
    wait_until("it is ejected", || state_of(&relay, &gone) == "ejected");
    let labels = format!("{{upstream=\"app\",target=\"{gone}\"}}");
    assert!(relay.metric(&format!("stagepost_target_up{labels}")) < 0.5);
    assert!(relay.metric(&format!("stagepost_target_ejections_total{labels}")) > 0.5);
    assert!(relay.metric("stagepost_target_failovers_total{upstream=\"app\"}") > 2.5);
}

#[test]
fn a_target_that_dies_under_load_loses_nothing_and_the_other_takes_over() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&config(
        &[one.url(), other.url()],
        "eject = { failures = 2, for = \"1h\" }\nbreaker = { failures = 1000 }",
    ));
    let mut ids: Vec<String> = (0..30).map(|n| relay.accept("/x", format!("{n}"))).collect();
    other.answer(Answer::Reset);
    ids.extend((30..100).map(|n| relay.accept("/x", format!("{n}"))));
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    let both: BTreeSet<String> = bodies(&one).union(&bodies(&other)).cloned().collect();
    assert_eq!(both.len(), 100);
    wait_until("it is ejected", || state_of(&relay, &other.url()) == "ejected");
    let failed = relay.metric("stagepost_attempts_total{upstream=\"app\",outcome=\"deferred\"}");
    assert!(failed < 66.0, "{failed} attempts failed: at most one for each attempt under way and each of two failures");
}

#[test]
fn an_unhealthy_target_is_left_out_until_it_is_healthy_again() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let health = "health = { path = \"/healthz\", every = \"20ms\", healthy = 1, unhealthy = 2 }";
    other.script(|request| Answer::Status(if request.target == "/healthz" { 503 } else { 200 }));
    let relay = Relay::start(&config(&[one.url(), other.url()], health));
    wait_until("it is unhealthy", || state_of(&relay, &other.url()) == "unhealthy");
    for n in 0..6 {
        let id = relay.accept("/x", format!("{n}"));
        relay.wait_for_state(&id, "delivered");
    }
    assert_eq!((bodies(&one).len(), bodies(&other).len()), (6, 0));

    one.script(|request| Answer::Status(if request.target == "/healthz" { 503 } else { 200 }));
    wait_until("both are unhealthy", || state_of(&relay, &one.url()) == "unhealthy");
    let id = relay.accept("/x", "panic");
    relay.wait_for_state(&id, "delivered");
    assert!(relay.metric("stagepost_targets_panic{upstream=\"app\"}") > 0.5);

    other.answer(Answer::Status(200));
    wait_until("it is healthy again", || state_of(&relay, &other.url()) == "up");
    let before = bodies(&one).len();
    for n in 10..13 {
        let id = relay.accept("/x", format!("{n}"));
        relay.wait_for_state(&id, "delivered");
    }
    assert_eq!(bodies(&one).len(), before);
    assert!(relay.metric("stagepost_targets_panic{upstream=\"app\"}") < 0.5);
}

#[test]
fn a_reload_takes_a_target_out_and_puts_another_in() {
    let (one, other, third) = (Upstream::start(), Upstream::start(), Upstream::start());
    let relay = Relay::start(&config(&[one.url(), other.url()], ""));
    let id = relay.accept("/x", "first");
    relay.wait_for_state(&id, "delivered");
    relay.configure(&config(&[one.url(), third.url()], ""));
    relay.cli(&["reload"]).done();
    let before = other.received().len();
    for n in 0..6 {
        let id = relay.accept("/x", format!("{n}"));
        relay.wait_for_state(&id, "delivered");
    }
    assert_eq!((other.received().len(), third.received().len()), (before, 3));
}
