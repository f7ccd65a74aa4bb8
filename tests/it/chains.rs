//! Answers that become events, and what ends a chain of them.

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream};

const SOON: &str = "retry = { schedule = [\"100ms\"], jitter = 0.0, give_up_after = \"1h\" }";

/// A source whose events go to a worker; what the worker answers is published and goes to a subscriber.
fn chain(worker: &Upstream, last: &Upstream, more: &str) -> Relay {
    Relay::start(&format!(
        "[source.in]\npath = \"/*\"\nto = [\"worker\"]\n[topic.done]\n\
         [upstream.worker]\nurl = \"{}\"\npublish = \"done\"\n{SOON}\n{more}\n\
         [subscriber.last]\ntopic = \"done\"\nurl = \"{}/hooks\"\n",
        worker.url(),
        last.url()
    ))
}

/// The events that were published, newest first.
fn published(relay: &Relay) -> Vec<Value> {
    relay.cli(&["log", "--json", "-n", "1000", "--source", "topic:done"]).done().lines()
}

#[test]
fn the_answer_of_an_upstream_becomes_an_event_that_names_its_parent_and_goes_on_with_its_trace() {
    let (worker, last) = (Upstream::start(), Upstream::start());
    worker.answer(Answer::With(
        200,
        vec![("Content-Type", "application/json; charset=utf-8".into()), ("X-Other", "1".into())],
        r#"{"kind":"text.analysed","words":2}"#,
    ));
    let relay = chain(&worker, &last, "publish_type = \".kind\"");
    let id = relay.accept("/x", "two words");
    let got = last.wait_for_requests(1).remove(0);
    assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", "/hooks"));
    assert_eq!(got.text(), r#"{"kind":"text.analysed","words":2}"#);
    assert_eq!(got.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!((got.header("x-other"), got.header("x-forwarded-for")), (None, None));
    assert_eq!(got.header("stagepost-hops"), Some("2"));
    let trace = |header: Option<&str>| header.unwrap()[3..35].to_owned();
    assert_eq!(trace(got.header("traceparent")), trace(worker.received()[0].header("traceparent")));

    let event = published(&relay).remove(0);
    assert_eq!((&event["source"], &event["type"]), (&"topic:done".into(), &"text.analysed".into()));
    assert_eq!(event["parent"], id.as_str());
    let child = event["id"].as_str().unwrap().to_owned();
    let shown = relay.wait_for_state(&id, "delivered");
    assert_eq!(shown["deliveries"][0]["published"], child.as_str());
    let told = relay.cli(&["explain", &child]).done().out;
    assert!(told.contains("was published by this relay under topic done at"), "{told}");
    assert!(told.contains(&format!("because of event {id}")), "{told}");
    let told = relay.cli(&["explain", &id]).done().out;
    assert!(told.contains(&format!("The answer of worker became event {child}.")), "{told}");
    assert!(relay.cli(&["show", &child]).done().out.contains("Parent"));
    assert!(relay.cli(&["show", &id]).done().out.contains(&format!("its answer became event {child}")));
    assert!(relay.metric("stagepost_published_total{topic=\"done\"}") == 1.0);
}

#[test]
fn an_empty_answer_and_one_that_is_no_success_publish_nothing_and_a_replay_publishes_again() {
    let (worker, last) = (Upstream::start(), Upstream::start());
    worker.answer(Answer::Status(204));
    let relay = chain(&worker, &last, "");
    let id = relay.accept("/x", "a");
    relay.wait_for_state(&id, "delivered");
    worker.answer(Answer::Status(404));
    let refused = relay.accept("/x", "b");
    relay.wait_for_state(&refused, "dead");
    assert!(published(&relay).is_empty());
    worker.answer(Answer::Status(200));
    for replays in 1..3 {
        relay.cli(&["replay", &refused]).done();
        last.wait_for_requests(replays);
    }
    assert_eq!(published(&relay).len(), 2);
}

#[test]
fn an_answer_that_is_too_long_refuses_the_delivery_and_one_that_breaks_off_is_asked_for_again() {
    let (worker, last) = (Upstream::start(), Upstream::start());
    let long: &'static str = Box::leak("x".repeat(20_000).into_boxed_str());
    worker.answer(Answer::With(200, Vec::new(), long));
    let relay = chain(&worker, &last, "max_reply = \"18000B\"\nidle_timeout = \"200ms\"\ntimeout = \"300ms\"");
    let id = relay.accept("/x", "a");
    let shown = relay.wait_for_state(&id, "dead");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("unpublishable: the answer is longer than max_reply, 18000 bytes"), "{reason}");
    let mut first = true;
    worker.script(move |_| if std::mem::take(&mut first) { Answer::HangAfterHead } else { Answer::Status(200) });
    let id = relay.accept("/x", "b");
    relay.wait_for_state(&id, "delivered");
    assert_eq!(last.wait_for_requests(1)[0].text(), "ok");
    assert_eq!(published(&relay).len(), 1);
}

#[test]
fn a_large_answer_is_published_whole() {
    let (worker, last) = (Upstream::start(), Upstream::start());
    let long: &'static str = Box::leak("0123456789".repeat(60_000).into_boxed_str());
    worker.answer(Answer::With(200, Vec::new(), long));
    let relay = chain(&worker, &last, "");
    let id = relay.accept("/x", "a");
    assert_eq!(last.wait_for_requests(1)[0].text(), long);
    assert_eq!(relay.wait_for_state(&id, "delivered")["deliveries"][0]["published"], published(&relay)[0]["id"]);
}

#[test]
fn a_chain_that_leads_back_to_itself_ends_after_max_hops() {
    let worker = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.in]\npath = \"/*\"\nto = [\"worker\"]\n[topic.again]\nmax_hops = 4\n\
         [upstream.worker]\nurl = \"{}\"\npublish = \"again\"\n\
         [[route]]\nsource = \"topic:again\"\nto = [\"worker\"]\n",
        worker.url()
    ));
    relay.accept("/x", "round and round");
    // The event itself and three answers are sent; the fourth answer is stored and cut.
    let events = crate::harness::wait_for("the last event of the chain", || {
        let events = relay.events();
        (events.len() == 5 && events[0]["state"] == "dead").then_some(events)
    });
    let reason = events[0]["deliveries"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "loop: it came through 4 relays and answers");
    assert_eq!(worker.received().len(), 4);
}

#[test]
fn the_answer_that_a_waiting_sender_gets_is_published_too() {
    let (worker, last) = (Upstream::start(), Upstream::start());
    worker.answer(Answer::With(200, vec![("Content-Type", "text/plain".into())], "an answer"));
    let relay = Relay::start(&format!(
        "[source.in]\npath = \"/*\"\nmode = \"proxy\"\nto = [\"worker\"]\n[topic.done]\n\
         [upstream.worker]\nurl = \"{}\"\npublish = \"done\"\n[subscriber.last]\ntopic = \"done\"\nurl = \"{}\"\n",
        worker.url(),
        last.url()
    ));
    let answer = relay.send(&crate::harness::Request::post("/x", "a"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "an answer"));
    assert_eq!(last.wait_for_requests(1)[0].text(), "an answer");
}
