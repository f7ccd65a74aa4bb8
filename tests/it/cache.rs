//! Answers that are kept for equal requests: of senders who wait, and of safe methods.

use std::{sync::mpsc, thread};

use crate::harness::{Answer, Relay, Request, Upstream, cli, wait_until};

/// A source whose answers are kept by `.q`, with more keys for the source.
fn cached(url: &str, keys: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/x"
        mode = "proxy"
        dedupe = {{ key = ".id" }}
        cache = {{ key = '.q // $query.q', ttl = "1h", max_size = "64KiB", max_entry = "20KiB" }}
        to = ["app"]
        {keys}

        [upstream.app]
        url = "{url}"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        "#
    )
}

fn post(id: u32, q: &str) -> Request {
    Request::post("/x", format!("{{\"id\":{id},\"q\":{q}}}"))
}

fn looks(relay: &Relay, result: &str) -> f64 {
    relay.metric(&format!("stagepost_cache_requests_total{{source=\"app\",result=\"{result}\"}}"))
}

#[test]
fn an_equal_request_gets_the_kept_answer_is_stored_and_reaches_no_upstream() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(201, vec![("X-Mine", "yes".into())], "made"));
    let mut relay = Relay::start(&cached(&upstream.url(), ""));
    let first = relay.send(&post(1, "\"a\""));
    assert_eq!((first.status, first.header("stagepost-cache")), (201, Some("miss")));
    let hit = relay.send(&post(2, "\"a\""));
    assert_eq!((hit.status, hit.text().as_str(), hit.header("x-mine")), (201, "made", Some("yes")));
    assert_eq!((hit.header("stagepost-cache"), hit.header("age").is_some()), (Some("hit"), true));
    assert_ne!(hit.event_id(), first.event_id());
    let shown = relay.wait_for_state(&hit.event_id(), "ignored");
    assert_eq!(
        (shown["answered"].as_str(), shown["deliveries"][0]["state"].as_str()),
        (Some("cache"), Some("ignored"))
    );
    assert_eq!((&shown["cached"]["event"], &shown["cached"]["upstream"]), (&first.event_id().into(), &"app".into()));
    let explained = relay.cli(&["explain", &hit.event_id()]).done().out;
    assert!(explained.contains(&format!("event {} got before", first.event_id())), "{explained}");
    // Who sends it again gets the same, after a restart as well, when nothing is kept any more.
    for _ in 0..2 {
        let again = relay.send(&post(2, "\"a\""));
        assert_eq!((again.status, again.text().as_str()), (201, "made"));
        assert_eq!((again.header("stagepost-duplicate"), again.event_id()), (Some("true"), hit.event_id()));
        relay.restart();
    }
    assert_eq!(upstream.received().len(), 1);
    let other = relay.send(&post(3, "\"a\""));
    assert_eq!(other.header("stagepost-cache"), Some("miss"));
    // A replay sends what was answered from the cache all the same.
    relay.cli(&["replay", &hit.event_id(), "--upstream", "app"]).done();
    upstream.wait_for_requests(3);
}

#[test]
fn requests_of_which_the_key_says_nothing_and_answers_that_are_no_2xx_are_not_kept() {
    let upstream = Upstream::start();
    let relay = Relay::start(&cached(&upstream.url(), ""));
    for id in 1..=2 {
        assert!(relay.send(&post(id, "null")).header("stagepost-cache").is_none());
    }
    assert_eq!((looks(&relay, "no_key"), upstream.received().len()), (2.0, 2));
    upstream.answer(Answer::Status(404));
    for id in 3..=4 {
        let answer = relay.send(&post(id, "[1]"));
        assert_eq!((answer.status, answer.header("stagepost-cache")), (404, Some("miss")));
    }
    let large: &'static str = Box::leak("x".repeat(30 * 1024).into_boxed_str());
    upstream.answer(Answer::With(200, Vec::new(), large));
    for id in 5..=6 {
        let answer = relay.send(&post(id, "{\"long\":true}"));
        assert!((answer.status, answer.text().as_str()) == (200, large), "{}", answer.body.len());
    }
    assert_eq!(upstream.received().len(), 6);
    assert_eq!(relay.metric("stagepost_cache_not_kept_total{source=\"app\"}"), 4.0);
    assert_eq!(relay.metric("stagepost_cache_bytes{source=\"app\"}"), 0.0);
}

#[test]
fn concurrent_equal_requests_share_one_call_and_go_on_their_own_if_it_fails() {
    let upstream = Upstream::start();
    let relay = Relay::start(&cached(&upstream.url(), ""));
    for (round, first, asked) in [(10, Answer::With(200, Vec::new(), "shared"), 1), (20, Answer::Status(400), 4)] {
        let before = upstream.received().len();
        let misses = looks(&relay, "miss");
        let (go, wait) = mpsc::sync_channel::<Answer>(1);
        let mut gate = Some(wait);
        upstream.script(move |_| gate.take().map_or(Answer::Status(200), |gate| gate.recv().unwrap()));
        thread::scope(|scope| {
            let ask = |id: u32| {
                scope.spawn({
                    let relay = &relay;
                    move || relay.send(&post(id, &round.to_string()))
                })
            };
            let leader = ask(round);
            wait_until("the first asks", || looks(&relay, "miss") > misses + 0.5);
            let others: Vec<_> = (1..=3).map(|more| ask(round + more)).collect();
            wait_until("the others wait", || relay.metric("stagepost_cache_waiting{source=\"app\"}") > 2.5);
            go.send(first.clone()).unwrap();
            let answer = leader.join().unwrap();
            for other in others {
                let other = other.join().unwrap();
                match answer.status {
                    200 => {
                        assert_eq!((other.text().as_str(), other.header("stagepost-cache")), ("shared", Some("hit")))
                    }
                    _ => assert_eq!((other.status, other.header("stagepost-cache")), (200, Some("miss"))),
                }
            }
        });
        assert_eq!(upstream.received().len(), before + asked, "{round}");
    }
    assert_eq!(looks(&relay, "shared"), 3.0);
}

#[test]
fn safe_methods_are_answered_from_the_cache_in_any_mode_and_methods_are_not_mixed() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(200, Vec::new(), "page"));
    let config = cached(&upstream.url(), "methods = [\"GET\", \"HEAD\", \"POST\"]").replace("mode = \"proxy\"", "");
    let relay = Relay::start(&config);
    let ask = |method: &str| relay.send(&Request::new(method, "/x?q=1"));
    let first = ask("GET");
    assert_eq!((first.text().as_str(), first.header("stagepost-cache")), ("page", Some("miss")));
    let hit = ask("GET");
    assert_eq!((hit.text().as_str(), hit.header("stagepost-cache")), ("page", Some("hit")));
    assert_eq!(relay.show(&hit.event_id())["answered"], "cache");
    // In this mode nobody waits for the answer to a POST.
    assert_eq!(relay.send(&post(1, "1")).status, 202);
    upstream.wait_for_requests(2);
    assert_eq!((looks(&relay, "hit"), looks(&relay, "miss")), (1.0, 1.0));
}

#[test]
fn a_forged_request_gets_no_kept_answer() {
    let upstream = Upstream::start();
    let keys = "verify = { scheme = \"bearer\", secrets = [\"literal:sesame\"] }";
    let relay = Relay::start(&cached(&upstream.url(), keys));
    let with = |id, token: &str| post(id, "1").header("Authorization", format!("Bearer {token}"));
    assert_eq!(relay.send(&with(1, "sesame")).status, 200);
    assert_eq!(relay.send(&with(2, "guess")).status, 401);
    assert_eq!(relay.send(&with(3, "sesame")).header("stagepost-cache"), Some("hit"));
    assert_eq!((looks(&relay, "miss"), looks(&relay, "hit")), (1.0, 1.0));
}

#[test]
fn a_cache_that_could_keep_nothing_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = "[[listen]]\naddress='127.0.0.1:1'\n[source.a]\npath='/x'\nmethods=['POST']\nto=['u']\n\
                  cache={key='.a'}\n[upstream.u]\nurl='http://127.0.0.1:1'\n";
    std::fs::write(directory.path().join("stagepost.toml"), config).unwrap();
    let checked = cli(directory.path(), &["check", "--config", "stagepost.toml"]);
    assert!(checked.code == 78 && checked.err.contains("write mode = \"proxy\""), "{checked:?}");
}
