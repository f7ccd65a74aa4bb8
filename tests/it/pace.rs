//! How fast upstreams are sent to: a configured rate, what their answers say, and concurrency that adapts.

use crate::harness::{Answer, Relay, Upstream, all_to, wait_until};

/// When the first attempts of these events began, in milliseconds, in order.
fn begun(relay: &Relay, ids: &[String]) -> Vec<i64> {
    let at = |id: &String| {
        let shown = relay.wait_for_state(id, "delivered");
        let at: jiff::Timestamp = shown["deliveries"][0]["attempts"][0]["at"].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    let mut begun: Vec<i64> = ids.iter().map(at).collect();
    begun.sort_unstable();
    begun
}

fn explained(relay: &Relay, id: &str) -> String {
    relay.cli(&["explain", id]).done().out
}

#[test]
fn no_more_attempts_begin_than_the_rate_lets_and_the_rate_is_used_up() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!("{}\nrate = \"40/s\"\nburst = 1", all_to(&upstream)));
    let ids: Vec<String> = (0..24).map(|n| relay.accept("/x", format!("{n}"))).collect();
    let begun = begun(&relay, &ids);
    // Tokens are handed out 25 ms apart; what an attempt does before it begins may take some milliseconds.
    let span = begun[23] - begun[0];
    assert!(span >= 23 * 25 - 25, "24 attempts in {span} ms: {begun:?}");
    assert!((relay.metric("stagepost_rate_limit{upstream=\"app\"}") - 40.0).abs() < 0.001);
    assert_eq!(relay.upstream("app")["rate_limit"], 40.0);
}

#[test]
fn a_delivery_that_the_rate_holds_back_says_so_and_goes_when_a_reload_raises_it() {
    let upstream = Upstream::start();
    let config = all_to(&upstream);
    let relay = Relay::start(&format!("{config}\nrate = \"1/h\""));
    let id = relay.accept("/x", "x");
    wait_until("explain names the rate", || explained(&relay, &id).contains("held back by the rate of app until"));
    let shown = relay.upstream("app");
    assert_eq!((shown["throttled_by"].as_str(), shown["concurrency_limit"].as_u64()), (Some("rate"), Some(0)));
    assert!(shown["throttled_until"].is_string() && relay.metric("stagepost_throttled{upstream=\"app\"}") > 0.5);
    assert!(upstream.received().is_empty());
    relay.configure(&format!("{config}\nrate = \"100/s\""));
    relay.cli(&["reload"]).done();
    relay.wait_for_state(&id, "delivered");
    wait_until("nothing holds it back", || relay.upstream("app")["throttled_until"].is_null());
}

#[test]
fn an_upstream_that_says_nothing_is_left_is_not_asked_until_its_reset_unless_it_is_ignored() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(200, vec![("RateLimit", "\"day\";r=0;t=3600".to_owned())], "ok"));
    let config = all_to(&upstream);
    let relay = Relay::start(&config);
    relay.wait_for_state(&relay.accept("/x", "first"), "delivered");
    let id = relay.accept("/x", "second");
    wait_until("explain names the upstream", || explained(&relay, &id).contains("what app says about its rate"));
    assert_eq!((upstream.received().len(), relay.upstream("app")["throttled_by"].as_str()), (1, Some("rate_headers")));
    relay.configure(&format!("{config}\nrate_headers = \"ignore\""));
    relay.cli(&["reload"]).done();
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn concurrency_that_adapts_grows_under_load_and_stays_within_its_bounds() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!("{}\nconcurrency = {{ min = 1, max = 6 }}", all_to(&upstream)));
    assert_eq!(relay.upstream("app")["concurrency_limit"], 1);
    let ids: Vec<String> = (0..200).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    assert!((1..=6).contains(&relay.upstream("app")["concurrency_limit"].as_u64().unwrap()));
    upstream.answer(Answer::HangBeforeHead);
    for n in 0..20 {
        relay.accept("/x", format!("{n}"));
    }
    wait_until("attempts are under way", || {
        relay.upstream("app")["in_flight"].as_u64().is_some_and(|count| count >= 1)
    });
    assert!(relay.upstream("app")["in_flight"].as_u64().unwrap() <= 6);
}
