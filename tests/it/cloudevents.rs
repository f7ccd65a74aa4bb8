//! Events as CloudEvents on the way to an upstream.

use serde_json::{Value, json};

use crate::harness::{Answer, Received, Relay, Request, Upstream, wait_until};

/// A relay that sends to this upstream with these keys.
fn sending(upstream: &Upstream, settings: &str) -> Relay {
    Relay::start(&format!(
        "[source.shop]\npath = \"/*\"\ntype = \".kind\"\nto = [\"next\"]\n[upstream.next]\nurl = \"{}\"\n{settings}\n",
        upstream.url()
    ))
}

fn got(relay: &Relay, upstream: &Upstream, request: &Request) -> (String, Received) {
    let before = upstream.received().len();
    let answer = relay.send(request);
    let id = answer.header("stagepost-event-id").unwrap().to_owned();
    let all = upstream.wait_for_requests(before + 1);
    (id, all.last().unwrap().clone())
}

#[test]
fn structured_mode_wraps_the_body_and_keeps_every_digit() {
    let upstream = Upstream::start();
    let relay = sending(&upstream, "cloudevents = \"structured\"");
    let body = r#"{"kind":"paid","n":12345678901234567890.10}"#;
    let request = Request::post("/x", body).header("Content-Type", "application/json");
    let (id, request) = got(&relay, &upstream, &request);
    assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert!(request.text().ends_with(&format!(",\"data\":{body}}}")), "{}", request.text());
    let event: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&event["specversion"], &event["id"], &event["type"]), (&json!("1.0"), &json!(id), &json!("paid")));
    assert_eq!((&event["source"], &event["datacontenttype"]), (&json!("/sources/shop"), &json!("application/json")));
    let shown = relay.wait_for_state(&id, "delivered");
    assert_eq!(event["time"], shown["received_at"]);
    assert_ne!(shown["deliveries"][0]["attempts"][0]["sent"]["sha256"], shown["sha256"], "another body was sent");
    let binary = Request::post("/x", b"\xff\x00").header("Content-Type", "image/png");
    let (_, request) = got(&relay, &upstream, &binary);
    let event: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&event["data_base64"], &event["type"]), (&json!("/wA="), &json!("stagepost.event")));
}

#[test]
fn binary_mode_adds_headers_and_leaves_the_body() {
    let upstream = Upstream::start();
    let settings = "cloudevents = { mode = \"binary\", source = \"/shop\", type = \"other\", subject = \".who\" }";
    let relay = sending(&upstream, settings);
    let body = "{ \"who\": \"Zoë %\" }";
    let (id, request) = got(&relay, &upstream, &Request::post("/x", body).header("Content-Type", "application/json"));
    assert_eq!((request.text().as_str(), request.header("content-type")), (body, Some("application/json")));
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", id.as_str()),
        ("ce-source", "/shop"),
        ("ce-type", "other"),
        ("ce-subject", "Zo%C3%AB%20%25"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    let (_, request) = got(&relay, &upstream, &Request::post("/x", "{}"));
    assert_eq!(request.header("ce-subject"), None);
}

#[test]
fn what_came_as_a_cloud_event_keeps_its_attributes() {
    let upstream = Upstream::start();
    let relay = sending(&upstream, "cloudevents = \"structured\"");
    let theirs = Request::post("/x", "{\"a\":1}")
        .header("Content-Type", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "theirs")
        .header("ce-source", "https://x/%20y")
        .header("ce-comexampleextension", "1");
    let (_, request) = got(&relay, &upstream, &theirs);
    let event: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&event["id"], &event["source"]), (&json!("theirs"), &json!("https://x/ y")));
    assert_eq!((&event["comexampleextension"], &event["data"]), (&json!("1"), &json!({ "a": 1 })));
    assert!(request.headers.iter().all(|(name, _)| !name.starts_with("ce-")));
    let whole = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\"}";
    let structured = Request::post("/x", whole).header("Content-Type", "application/cloudevents+json");
    assert_eq!(got(&relay, &upstream, &structured).1.text(), whole);
}

#[test]
fn a_cloud_event_is_signed_as_it_is_sent() {
    let mut next = Relay::stopped(
        "[source.in]\npath = \"/*\"\nto = []\nverify = { scheme = \"standard-webhooks\", secrets = [\"file:key\"] }",
    );
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    next.write("key", key);
    next.run();
    let mut relay = Relay::stopped(&format!(
        "[source.shop]\npath = \"/*\"\nto = [\"next\"]\n[upstream.next]\nurl = \"http://{}\"\n\
         cloudevents = \"structured\"\nsign = {{ secrets = [\"file:key\"] }}\n",
        next.address()
    ));
    relay.write("key", key);
    relay.run();
    let id = relay.accept("/x", "{}");
    relay.wait_for_state(&id, "delivered");
    assert_eq!(next.events().len(), 1);
}

/// An upstream that answers questions for its permission as told and takes everything else.
fn asked(answer: Answer) -> Upstream {
    let upstream = Upstream::start();
    answers(&upstream, answer);
    upstream
}

fn answers(upstream: &Upstream, answer: Answer) {
    upstream.script(move |request| match request.method.as_str() {
        "OPTIONS" => answer.clone(),
        _ => Answer::Status(204),
    });
}

fn permits(origin: &str, rate: &str) -> Answer {
    let headers = vec![("WebHook-Allowed-Origin", origin.to_owned()), ("WebHook-Allowed-Rate", rate.to_owned())];
    Answer::With(200, headers, "")
}

const HANDSHAKE: &str = "cloudevents = { mode = \"binary\", handshake = true, origin = \"hooks.shop.example\" }";

#[test]
fn an_upstream_that_permits_it_is_asked_once_and_gets_events_that_name_their_origin() {
    let upstream = asked(permits("hooks.shop.example", "*"));
    let relay = sending(&upstream, &format!("{HANDSHAKE}\nrate = \"100/s\"\nheaders = {{ X-Token = \"t\" }}"));
    let ids: Vec<String> = (0..3).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        let shown = relay.wait_for_state(id, "delivered");
        assert_eq!(shown["deliveries"][0]["attempts"].as_array().unwrap().len(), 1);
    }
    let received = upstream.received();
    let (question, events) = received.split_first().unwrap();
    assert_eq!((question.method.as_str(), question.target.as_str()), ("OPTIONS", "/"));
    for (name, value) in
        [("webhook-request-origin", "hooks.shop.example"), ("webhook-request-rate", "6000"), ("x-token", "t")]
    {
        assert_eq!(question.header(name), Some(value), "{name}");
    }
    assert_eq!(events.len(), 3);
    for event in events {
        assert_eq!((event.method.as_str(), event.header("origin")), ("POST", Some("hooks.shop.example")));
    }
    assert_eq!(relay.upstream("next")["handshake"], "granted");
    assert!((relay.metric("stagepost_handshake_permitted{upstream=\"next\"}") - 1.0).abs() < 0.001);
}

#[test]
fn an_upstream_that_refuses_is_held_back_says_so_and_gets_everything_when_a_reload_asks_again() {
    let upstream = asked(Answer::Status(405));
    let relay = sending(&upstream, HANDSHAKE);
    let id = relay.accept("/x", "x");
    let said = "next has not permitted deliveries (handshake refused: it answered 405)";
    wait_until("explain says what is missing", || relay.cli(&["explain", &id]).done().out.contains(said));
    let shown = relay.upstream("next");
    assert_eq!((&shown["throttled_by"], &shown["concurrency_limit"]), (&json!("handshake"), &json!(0)));
    assert!(shown["throttled_until"].is_string());
    assert!(relay.cli(&["status"]).done().out.contains("closed (handshake refused: it answered 405)"));
    assert!(relay.metric("stagepost_handshakes_total{upstream=\"next\",result=\"refused\"}") > 0.5);
    let delivery = &relay.show(&id)["deliveries"][0];
    assert_eq!((&delivery["state"], delivery["attempts"].as_array().map(Vec::len)), (&json!("pending"), Some(0)));
    assert!(upstream.received().iter().all(|request| request.method == "OPTIONS"));
    relay.wait_for_diagnostics("does not permit deliveries");

    answers(&upstream, permits("*", "6000"));
    relay.cli(&["reload"]).done();
    let shown = relay.wait_for_state(&id, "delivered");
    assert_eq!(shown["deliveries"][0]["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(relay.upstream("next")["rate_limit"], 100.0);
}

#[test]
fn a_relay_in_front_of_a_relay_permits_what_it_is_asked() {
    let upstream = Upstream::start();
    let inner = Relay::start(&format!(
        "[source.in]\npath = \"/in\"\nto = [\"app\"]\nverify = {{ scheme = \"cloudevents\", secrets = [\"literal:t\"], \
         allowed_origins = [\"hooks.shop.example\"], allowed_rate = 60000 }}\n[upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    let outer = Relay::start(&format!(
        "[source.shop]\npath = \"/*\"\nto = [\"next\"]\n[upstream.next]\nurl = \"http://{}/in\"\nstrip_prefix = \"/x\"\n\
         {HANDSHAKE}\nheaders = {{ Authorization = \"Bearer literal:t\" }}\n",
        inner.address()
    ));
    let id = outer.accept("/x", "hello");
    outer.wait_for_state(&id, "delivered");
    let got = upstream.wait_for_requests(1);
    assert_eq!((got[0].text().as_str(), got[0].header("origin")), ("hello", Some("hooks.shop.example")));
    assert_eq!(outer.upstream("next")["rate_limit"], 1000.0);
}
