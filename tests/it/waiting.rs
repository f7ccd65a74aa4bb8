//! Senders who wait (`mode = "proxy"`): the upstream's answer, the fallback, the first answer once more.

use std::thread;

use crate::harness::{Answer, Connection, Relay, Request, Response, Upstream, cli, wait_until};

/// A source whose senders wait for `upstream`, with more keys for the source.
fn waiting(url: &str, keys: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/x"
        mode = "proxy"
        dedupe = {{ key = ".id" }}
        to = ["app"]
        {keys}

        [upstream.app]
        url = "{url}"
        max_reply = "600KiB"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        breaker = {{ failures = 3, cool_down = "1h" }}
        "#
    )
}

fn post(id: u32) -> Request {
    Request::post("/x", format!("{{\"id\":{id}}}"))
}

fn proxied(relay: &Relay, answered: &str) -> f64 {
    relay.metric(&format!("stagepost_proxied_total{{source=\"app\",answered=\"{answered}\"}}"))
}

#[test]
fn the_sender_gets_the_upstream_s_answer_and_a_duplicate_the_same_even_after_a_restart() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(201, vec![("X-Mine", "yes".into()), ("Connection", "keep-alive".into())], "made"));
    let mut relay = Relay::start(&waiting(&upstream.url(), ""));
    let first = relay.send(&post(1));
    assert_eq!((first.status, first.text().as_str(), first.header("x-mine")), (201, "made", Some("yes")));
    assert!(first.header("connection").is_none() && first.header("stagepost-duplicate").is_none());
    let shown = relay.wait_for_state(&first.event_id(), "delivered");
    assert_eq!(shown["answered"], "upstream");
    upstream.answer(Answer::Status(500));
    for again in 0..2 {
        let duplicate = relay.send(&post(1));
        assert_eq!((duplicate.status, duplicate.text().as_str()), (201, "made"), "{again}");
        assert_eq!((duplicate.header("x-mine"), duplicate.header("stagepost-duplicate")), (Some("yes"), Some("true")));
        assert_eq!(duplicate.event_id(), first.event_id());
        if again == 0 {
            assert!((proxied(&relay, "upstream"), proxied(&relay, "repeated")) == (1.0, 1.0));
            relay.restart();
        }
    }
    assert_eq!(upstream.received().len(), 1, "it was asked once");
}

#[test]
fn a_large_answer_is_stored_in_parts_and_one_beyond_max_reply_is_passed_but_not_stored() {
    let upstream = Upstream::start();
    let large: &'static str = Box::leak("0123456789abcdef".repeat(36_000).into_boxed_str());
    let larger: &'static str = Box::leak("0123456789abcdef".repeat(60_000).into_boxed_str());
    upstream.script(move |request| match request.text().contains('1') {
        true => Answer::With(200, Vec::new(), large),
        false => Answer::With(200, Vec::new(), larger),
    });
    let relay = Relay::start(&waiting(&upstream.url(), ""));
    for (id, body, repeated) in [(1, large, large), (2, larger, "")] {
        let first = relay.send(&post(id));
        assert!(first.status == 200 && first.text() == body, "{} bytes", first.body.len());
        relay.wait_for_state(&first.event_id(), "delivered");
        let duplicate = relay.send(&post(id));
        assert_eq!(duplicate.status, 200);
        match repeated {
            "" => assert_eq!(duplicate.json()["id"], first.event_id(), "the fallback"),
            _ => assert!(duplicate.text() == repeated, "{} bytes", duplicate.body.len()),
        }
    }
}

#[test]
fn a_4xx_is_an_answer_that_settles_and_a_duplicate_revives_nothing() {
    let upstream = Upstream::start();
    for (id, status) in [(1, 422), (2, 404), (3, 429)] {
        upstream.answer(Answer::Status(status));
        let relay = Relay::start(&waiting(&upstream.url(), ""));
        let asked = upstream.received().len();
        let first = relay.send(&post(id));
        assert_eq!(first.status, status);
        let shown = relay.wait_for_state(&first.event_id(), "dead");
        assert!(shown["deliveries"][0]["reason"].as_str().unwrap().contains(&status.to_string()), "{shown:#}");
        assert_eq!(relay.send(&post(id)).status, status);
        // What is handed out later comes after what a revival would have handed out.
        relay.send(&post(100 + id));
        assert_eq!(upstream.received().len(), asked + 2);
    }
}

#[test]
fn a_5xx_gives_the_fallback_and_the_delivery_goes_on_behind() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(500));
    let fallback = r#"fallback = { status = 203, headers = { X-Late = "1" }, body = "later" }"#;
    let relay = Relay::start(&waiting(&upstream.url(), fallback));
    let first = relay.send(&post(1));
    assert_eq!((first.status, first.text().as_str(), first.header("x-late")), (203, "later", Some("1")));
    upstream.wait_for_requests(2);
    upstream.answer(Answer::Status(200));
    let shown = relay.wait_for_state(&first.event_id(), "delivered");
    assert_eq!(shown["answered"], "fallback");
    let duplicate = relay.send(&post(1));
    assert_eq!((duplicate.status, duplicate.text().as_str()), (203, "later"));
    assert_eq!(duplicate.header("stagepost-duplicate"), Some("true"));
}

#[test]
fn an_upstream_that_is_late_gives_the_fallback_at_reply_timeout() {
    let upstream = Upstream::start();
    upstream.answer(Answer::HangBeforeHead);
    let relay = Relay::start(&waiting(&upstream.url(), "reply_timeout = \"200ms\""));
    let first = relay.send(&post(1));
    assert_eq!((first.status, first.json()["id"].as_str()), (202, Some(first.event_id().as_str())));
    assert!(proxied(&relay, "fallback") > 0.5 && relay.metric("stagepost_waiting_senders") < 1.5);
    upstream.wait_for_requests(1);
}

#[test]
fn concurrent_duplicates_wait_for_the_answer_to_the_first() {
    let upstream = Upstream::start();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    upstream.script(move |_| {
        wait.recv().unwrap();
        Answer::With(200, Vec::new(), "once")
    });
    let relay = Relay::start(&waiting(&upstream.url(), ""));
    let answers: Vec<Response> = thread::scope(|scope| {
        let first = scope.spawn(|| relay.send(&post(1)));
        // The script has not answered, and received() counts answers: the sender who waits is seen by its gauge.
        wait_until("the first waits", || relay.metric("stagepost_waiting_senders") > 0.5);
        let others: Vec<_> = (0..4).map(|_| scope.spawn(|| relay.send(&post(1)))).collect();
        wait_until("the others came", || relay.metric("stagepost_duplicates_total{source=\"app\"}") > 3.5);
        go.send(()).unwrap();
        std::iter::once(first).chain(others).map(|sender| sender.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == "once"), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.header("stagepost-duplicate").is_none()).count(), 1);
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn with_on_error_pass_the_sender_gets_the_5xx_and_its_retry_is_a_new_event_even_after_a_restart() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(503, Vec::new(), "try again"));
    let mut relay = Relay::start(&waiting(&upstream.url(), "on_error = \"pass\""));
    let first = relay.send(&post(1));
    assert_eq!((first.status, first.text().as_str()), (503, "try again"));
    let shown = relay.wait_for_state(&first.event_id(), "dead");
    assert!(shown["deliveries"][0]["reason"].as_str().unwrap().contains("answered_error"), "{shown:#}");
    let second = relay.send(&post(1));
    assert!(second.status == 503 && second.event_id() != first.event_id(), "{second:?}");
    relay.kill();
    upstream.answer(Answer::Status(200));
    relay.run();
    let third = relay.send(&post(1));
    assert!(third.status == 200 && third.header("stagepost-duplicate").is_none(), "{third:?}");
    assert!(third.event_id() != second.event_id());
    let fourth = relay.send(&post(1));
    assert_eq!((fourth.header("stagepost-duplicate"), fourth.event_id()), (Some("true"), third.event_id()));
}

#[test]
fn nobody_waits_while_the_upstream_is_held_its_breaker_is_open_or_no_route_leads_there() {
    let upstream = Upstream::start();
    let more = "\n[upstream.other]\nurl = \"http://127.0.0.1:1\"\n\
                [[route]]\nname = \"some\"\nsource = \"some\"\nwhen = '.id == 1'\nto = [\"app\"]\n\
                [source.some]\npath = \"/some\"\nmode = \"proxy\"\nreply_timeout = \"1h\"\n";
    let relay = Relay::start(&format!("{}{more}", waiting(&upstream.url(), "reply_timeout = \"1h\"")));
    assert_eq!(relay.send(&Request::post("/some", "{\"id\":1}")).text(), "ok");
    assert_eq!(relay.send(&Request::post("/some", "{\"id\":2}")).status, 202);
    relay.cli(&["hold", "--upstream", "app"]).done();
    let held = relay.send(&post(1));
    assert_eq!(held.status, 202);
    relay.cli(&["release", "--upstream", "app"]).done();
    relay.wait_for_state(&held.event_id(), "delivered");
    upstream.answer(Answer::Status(500));
    for id in 2..5 {
        assert_eq!(relay.send(&post(id)).status, 202);
    }
    wait_until("the breaker opens", || relay.upstream("app")["breaker"] == "open");
    let asked = upstream.received().len();
    assert_eq!(relay.send(&post(9)).status, 202);
    assert_eq!(upstream.received().len(), asked);
}

#[test]
fn a_sender_who_goes_away_leaves_the_delivery_as_it_is() {
    let upstream = Upstream::start();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    upstream.script(move |_| {
        wait.recv().unwrap();
        Answer::With(200, Vec::new(), "too late")
    });
    let relay = Relay::start(&waiting(&upstream.url(), ""));
    let mut sender = Connection::open(relay.address());
    sender.write(post(1).wire()).unwrap();
    wait_until("it waits", || relay.metric("stagepost_waiting_senders") > 0.5);
    drop(sender);
    go.send(()).unwrap();
    wait_until("it is delivered", || relay.events().iter().any(|event| event["state"] == "delivered"));
    wait_until("nobody waits", || relay.metric("stagepost_waiting_senders") < 0.5);
}

#[test]
fn a_sender_who_waits_at_shutdown_is_answered() {
    let upstream = Upstream::start();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    upstream.script(move |_| {
        wait.recv().unwrap();
        Answer::With(200, Vec::new(), "at last")
    });
    let mut relay = Relay::start(&waiting(&upstream.url(), ""));
    let mut sender = Connection::open(relay.address());
    sender.write(post(1).wire()).unwrap();
    wait_until("it waits", || relay.metric("stagepost_waiting_senders") > 0.5);
    relay.signal(rustix::process::Signal::TERM);
    relay.wait_for_diagnostics("stopping");
    go.send(()).unwrap();
    let answer = sender.read().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last"));
    assert_eq!(relay.wait().0, 0);
}

#[test]
fn what_can_not_be_waited_for_is_refused_with_the_remedy() {
    let base = "[store]\npath = \"d\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
                [upstream.a]\nurl = \"http://127.0.0.1:1\"\n[upstream.b]\nurl = \"http://127.0.0.1:2\"\n\
                [upstream.c]\nurl = \"http://127.0.0.1:3\"\n[upstream.c.batch]\nmax_items = 10\n\
                [[route]]\nname = \"r\"\nsource = \"other\"\nto = [\"b\"]\n[source.other]\npath = \"/o\"\n[source.s]\npath = \"/s\"\n";
    for (keys, said) in [
        (
            "mode = \"proxy\"\nto = [\"a\", \"b\"]",
            "source.s.reply_from: is missing: its routes lead to several upstreams",
        ),
        (
            "mode = \"proxy\"\nto = [\"a\"]\nreply_from = \"b\"",
            "which no route of the source leads to; it may be \"a\"",
        ),
        ("mode = \"proxy\"", "no route leads its events to an upstream that could answer"),
        ("to = [\"a\"]\non_error = \"pass\"", "source.s.on_error: has no effect without mode = \"proxy\""),
        ("to = [\"a\"]\nfallback = { status = 204 }", "source.s.fallback: has no effect without mode = \"proxy\""),
        ("mode = \"proxy\"\nto = [\"a\"]\nfallback = { status = 101 }", "source.s.fallback.status"),
        ("mode = \"proxy\"\nto = [\"c\"]", "upstream \"c\" takes batches or is files"),
        ("mode = \"proxy\"\nto = [\"a\"]\nsplit = true", "source.s.split: stands beside mode = \"proxy\""),
        ("mode = \"proxy\"\nto = [\"a\"]\non_error = \"drop\"", "known: fallback, pass"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("stagepost.toml"), format!("{base}{keys}\n")).unwrap();
        let output = cli(directory.path(), &["check", "--config", "stagepost.toml"]);
        assert!(output.code == 78 && (output.err + &output.out).contains(said), "{keys}: expected {said}");
    }
}
