//! Several targets of an upstream: turns, failures, health, reload, draining; and one that is a name.

use std::collections::BTreeSet;

use crate::harness::{Answer, Relay, Request, Upstream, free_port, wait_until};

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

#[test]
fn a_drained_target_gets_nothing_new_stays_out_through_restarts_and_comes_back() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let mut relay = Relay::start(&config(&[one.url(), other.url()], ""));
    for n in 0..4 {
        relay.wait_for_state(&relay.accept("/x", format!("{n}")), "delivered");
    }
    assert_eq!((bodies(&one).len(), bodies(&other).len()), (2, 2));
    let told = relay.cli(&["drain", "app", &other.url(), "--reason", "new kernel"]).done().out;
    assert!(told.contains("gets no new attempts of app") && told.contains("that work: 1"), "{told}");
    assert!(relay.cli(&["drain", "app", &other.url()]).done().out.contains("already"));
    let labels = format!("{{upstream=\"app\",target=\"{}\"}}", other.url());
    let stays_out = |relay: &Relay, from: usize| {
        for n in from..from + 4 {
            relay.wait_for_state(&relay.accept("/x", format!("{n}")), "delivered");
        }
        assert_eq!((bodies(&one).len(), bodies(&other).len()), (from + 2, 2));
        assert_eq!(state_of(relay, &other.url()), "drained");
        let status = relay.cli(&["status"]).done().out;
        assert!(status.contains("drained since") && status.contains("new kernel"), "{status}");
    };
    stays_out(&relay, 4);
    wait_until("it is counted", || relay.metric(&format!("stagepost_target_drained{labels}")) > 0.5);
    relay.restart();
    stays_out(&relay, 8);
    relay.kill();
    relay.run();
    stays_out(&relay, 12);
    relay.configure(&config(&[other.url(), one.url()], "balance = \"least_in_flight\""));
    relay.cli(&["reload"]).done();
    stays_out(&relay, 16);

    let refused = relay.cli(&["drain", "app", &one.url()]);
    assert_eq!(refused.code, 64, "{refused:?}");
    assert!(refused.err.contains("no other target of app works") && refused.err.contains("--force"), "{refused:?}");
    assert_eq!(relay.cli(&["drain", "app", "http://nowhere"]).code, 64);
    relay.cli(&["undrain", "app", other.url().trim_start_matches("http://")]).done();
    assert_eq!(state_of(&relay, &other.url()), "up");
    for n in 20..24 {
        relay.wait_for_state(&relay.accept("/x", format!("{n}")), "delivered");
    }
    assert_eq!(bodies(&other).len(), 4);
}

#[test]
fn without_any_target_left_deliveries_wait_and_nothing_is_given_up() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let text = config(&[one.url(), other.url()], "").replace("give_up_after = \"1h\"", "give_up_after = \"1s\"");
    let mut relay = Relay::start(&text);
    relay.cli(&["drain", "app", &one.url()]).done();
    relay.cli(&["drain", "app", &other.url(), "--force"]).done();
    let id = relay.accept("/x", "waits");
    wait_until("it waits", || relay.upstream("app")["pending"] == 1);
    let told = relay.cli(&["explain", &id]).done().out;
    assert!(told.contains("Every target of app is drained"), "{told}");
    assert_eq!(relay.send(&Request::get("/x")).status, 502);
    relay.restart();
    wait_until("it waits again", || relay.upstream("app")["pending"] == 1);
    assert!(one.received().is_empty() && other.received().is_empty());
    relay.cli(&["undrain", "app", &one.url()]).done();
    assert_eq!(relay.wait_for_state(&id, "delivered")["deliveries"][0]["attempts_total"], 1);
    assert_eq!((one.received().len(), other.received().len()), (1, 0));
}

#[test]
fn a_target_that_fails_does_not_open_the_breaker_while_another_works() {
    let (bad, good) = (Upstream::start(), Upstream::start());
    bad.answer(Answer::With(503, vec![("Retry-After", "3600".into())], ""));
    let settings = "breaker = { failures = 1 }\neject = { failures = 1000 }";
    let text =
        config(&[bad.url(), good.url()], settings).replace("jitter = 0.0", "jitter = 0.0, retry_after_max = \"0s\"");
    let relay = Relay::start(&text);
    for n in 0..10 {
        relay.wait_for_state(&relay.accept("/x", format!("{n}")), "delivered");
    }
    assert!(bad.received().len() > 2, "it had its turns");
    assert_eq!(relay.upstream("app")["breaker"], "closed");
    good.answer(Answer::Status(503));
    relay.accept("/x", "fails");
    wait_until("the breaker opens once none works", || relay.upstream("app")["breaker"] == "open");
}

#[test]
fn batches_go_to_several_targets_and_pass_one_that_is_not_there() {
    let (one, other) = (Upstream::start(), Upstream::start());
    let gone = format!("http://127.0.0.1:{}", free_port());
    let settings = "concurrency = 1\nbatch = { max_items = 2, max_wait = \"20ms\" }";
    let relay = Relay::start(&config(&[one.url(), gone, other.url()], settings));
    let ids: Vec<String> = (0..24).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        assert_eq!(relay.wait_for_state(id, "delivered")["deliveries"][0]["attempts_total"], 1);
    }
    let lines = |upstream: &Upstream| -> Vec<String> {
        upstream.received().iter().flat_map(|got| got.text().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let (first, second) = (lines(&one), lines(&other));
    assert!(!first.is_empty() && !second.is_empty(), "{first:?} {second:?}");
    let all: BTreeSet<String> = first.into_iter().chain(second).collect();
    assert_eq!(all.len(), 24);
}

#[test]
fn a_name_is_looked_up_once_for_many_attempts() {
    let one = Upstream::start();
    let url = one.url().replace("127.0.0.1", "localhost");
    let relay = Relay::start(&config(&[], "dns_refresh = \"1h\"").replace("url = []", &format!("url = \"{url}\"")));
    for n in 0..20 {
        relay.wait_for_state(&relay.accept("/x", format!("{n}")), "delivered");
    }
    assert_eq!(one.received().len(), 20);
    assert!((0.5..1.5).contains(&relay.metric("stagepost_name_lookups_total{upstream=\"app\",result=\"found\"}")));
    assert!(relay.metric("stagepost_addresses{upstream=\"app\"}") > 0.5);
}
