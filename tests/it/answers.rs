//! What an upstream's own rules make of its answers: rows of failures, answers that are not accepted, the review.

use crate::harness::{Answer, Relay, Upstream, wait_until};

/// Everything goes to `app`, which has these keys; `other` is there to be diverted to.
fn judged(app: &Upstream, other: &Upstream, keys: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["app"]

        [upstream.other]
        url = "{}"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}

        [upstream.app]
        url = "{}"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        {keys}
        "#,
        other.url(),
        app.url()
    )
}

#[test]
fn an_answer_that_is_not_accepted_waits_for_a_person_through_a_restart_and_is_resolved() {
    let (app, other) = (Upstream::start(), Upstream::start());
    app.answer(Answer::With(200, Vec::new(), r#"{"ok":false}"#));
    let mut relay = Relay::start(&judged(&app, &other, "accept = '.ok'"));
    let (one, two) = (relay.accept("/x", "1"), relay.accept("/x", "2"));
    for id in [&one, &two] {
        let delivery = &relay.wait_for_state(id, "review")["deliveries"][0];
        assert!(delivery["reason"].as_str().unwrap().starts_with("not_accepted: "), "{delivery}");
        assert_eq!(delivery["attempts"][0]["outcome"], "degraded");
    }
    wait_until("the metric tells it", || relay.metric("stagepost_review{upstream=\"app\"}") > 1.5);
    relay.restart();
    assert_eq!(relay.upstream("app")["review"], 2);
    assert_eq!(relay.cli(&["log", "--state", "review", "--json"]).done().lines().len(), 2);
    let told = relay.cli(&["explain", &one]).done();
    assert!(told.out.contains("stagepost resolve"), "{}", told.out);
    relay.cli(&["resolve", &one, "--reason", "seen"]).done();
    relay.wait_for_state(&one, "delivered");
    app.answer(Answer::With(200, Vec::new(), r#"{"ok":true}"#));
    relay.cli(&["replay", &two]).done();
    relay.wait_for_state(&two, "delivered");
    assert_eq!(relay.upstream("app")["review"], 0);
    assert!(other.received().is_empty());
}

#[test]
fn an_answer_that_is_not_accepted_goes_to_the_fallback_once_and_both_answers_are_kept() {
    let (app, other) = (Upstream::start(), Upstream::start());
    app.answer(Answer::With(200, Vec::new(), "busy"));
    let mut relay = Relay::start(&judged(&app, &other, "accept = '.ok'\nfallback = \"other\""));
    let id = relay.accept("/x", "body");
    let shown = relay.wait_for_state(&id, "delivered");
    let of = |name: &str| {
        let deliveries = shown["deliveries"].as_array().unwrap();
        deliveries.iter().find(|delivery| delivery["upstream"] == name).unwrap().clone()
    };
    assert_eq!((of("app")["state"].as_str(), of("other")["state"].as_str()), (Some("superseded"), Some("delivered")));
    assert!(of("app")["reason"].as_str().unwrap().starts_with("diverted: to other"), "{}", of("app"));
    assert_eq!(of("app")["attempts"][0]["excerpt"], "busy");
    assert_eq!(of("other")["attempts"][0]["number"], 1);
    relay.kill();
    relay.run();
    relay.wait_for_state(&id, "delivered");
    assert_eq!((other.received().len(), other.received()[0].text()), (1, "body".to_owned()));
}

#[test]
fn rows_of_failures_decide_what_a_status_leads_to() {
    let (app, other) = (Upstream::start(), Upstream::start());
    let rows = r#"
        [[upstream.app.failure]]
        status = "400"
        when = '[.code | test("^loc")] | any'
        action = "retry"
        delay = "100ms"
        [[upstream.app.failure]]
        status = "402"
        action = "hold"
        [[upstream.app.failure]]
        status = "5xx"
        action = "dead"
        [[upstream.app.failure]]
        status = "410"
        action = "divert"
        to = "other"
    "#;
    let relay = Relay::start(&judged(&app, &other, rows));
    app.answer(Answer::With(400, Vec::new(), r#"{"code":"locked"}"#));
    let retried = relay.accept("/x", "1");
    app.wait_for_requests(2);
    app.answer(Answer::Status(200));
    relay.wait_for_state(&retried, "delivered");
    app.answer(Answer::Status(402));
    let held = relay.wait_for_state(&relay.accept("/x", "2"), "held");
    assert!(held["deliveries"][0]["reason"].as_str().unwrap().starts_with("policy: 402"), "{held}");
    app.answer(Answer::Status(500));
    relay.wait_for_state(&relay.accept("/x", "3"), "dead");
    app.answer(Answer::Status(410));
    relay.wait_for_state(&relay.accept("/x", "4"), "delivered");
    assert_eq!(other.wait_for_requests(1)[0].text(), "4");
    assert!(relay.metric("stagepost_diverted_total{upstream=\"app\"}") > 0.5);
}

#[test]
fn a_rehearsal_sends_nothing_kills_nothing_and_ends() {
    let (app, other) = (Upstream::start(), Upstream::start());
    let rows = "[[upstream.app.failure]]\nstatus = \"404\"\naction = \"dead\"";
    let mut relay = Relay::start(&judged(&app, &other, rows));
    relay.cli(&["rehearse", "app", "--status", "404", "--for", "1h"]).done();
    let id = relay.accept("/x", "1");
    wait_until("it is rehearsed", || relay.metric("stagepost_rehearsed_total{upstream=\"app\"}") > 1.5);
    let delivery = &relay.show(&id)["deliveries"][0];
    assert_eq!(delivery["state"], "pending");
    let attempt = &delivery["attempts"][0];
    assert!(attempt["error"].as_str().unwrap().starts_with("rehearsal: 404"), "{attempt}");
    assert_eq!(relay.upstream("app")["rehearsal"], "404");
    let told = relay.cli(&["explain", &id]).done();
    assert!(told.out.contains("A rehearsal of app"), "{}", told.out);
    assert!(app.received().is_empty());
    relay.cli(&["rehearse", "app", "--stop"]).done();
    let shown = relay.wait_for_state(&id, "delivered");
    assert_eq!(shown["deliveries"][0]["attempts_total"], 1, "{shown}");
    relay.cli(&["rehearse", "app", "--hang", "--for", "300ms"]).done();
    relay.wait_for_state(&relay.accept("/x", "2"), "delivered");
    relay.cli(&["rehearse", "app", "--reset", "--for", "1h"]).done();
    relay.restart();
    relay.wait_for_state(&relay.accept("/x", "3"), "delivered");
    assert_eq!(app.received().len(), 3);
    assert!(!relay.cli(&["rehearse", "app", "--status", "200", "--for", "1m"]).out.contains("fail until"));
}
