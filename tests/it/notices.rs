//! Notices of dead deliveries.

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream, wait_until};

/// An upstream that refuses everything, and a subscriber that hears of it.
fn relay(app: &str, desk: &str, more: &str) -> Relay {
    Relay::start(&format!(
        "[source.in]\npath = \"/*\"\ntype = \".kind\"\nto = [\"app\"]\n[topic.deaths]\n\
         [upstream.app]\nurl = \"{app}\"\nnotify_dead = \"deaths\"\n{more}\n\
         [subscriber.desk]\ntopic = \"deaths\"\nurl = \"{desk}\"\n"
    ))
}

fn notices(relay: &Relay, result: &str) -> f64 {
    relay.metric(&format!("stagepost_notices_total{{upstream=\"app\",result=\"{result}\"}}"))
}

#[test]
fn a_dead_delivery_is_told_of_without_its_payload() {
    let (app, desk) = (Upstream::start(), Upstream::start());
    app.answer(Answer::Status(422));
    let relay = relay(&app.url(), &desk.url(), "");
    let id = relay.accept("/x", r#"{"kind":"order","card":"secret"}"#);
    let got = desk.wait_for_requests(1).remove(0);
    assert_eq!(got.header("content-type"), Some("application/json"));
    let told: Value = serde_json::from_slice(&got.body).unwrap();
    let shown = relay.show(&id);
    assert_eq!(told["received_at"], shown["received_at"]);
    assert!(told["at"].as_str().unwrap() >= told["received_at"].as_str().unwrap());
    for (key, expected) in [
        ("id", Value::from(id.as_str())),
        ("source", "in".into()),
        ("type", "order".into()),
        ("upstream", "app".into()),
        ("reason", "refused".into()),
        ("detail", "422 Unprocessable Entity".into()),
        ("attempts", 1.into()),
    ] {
        assert_eq!(told[key], expected, "{key}");
    }
    assert!(!got.text().contains("secret"));
    let event = relay.cli(&["log", "--json", "--source", "topic:deaths"]).done().lines().remove(0);
    assert_eq!((&event["type"], &event["parent"]), (&"delivery.dead".into(), &id.as_str().into()));
    assert_eq!(notices(&relay, "published"), 1.0);
}

#[test]
fn what_dies_before_an_attempt_is_told_of_and_the_death_of_a_notice_is_not() {
    let (app, desk) = (Upstream::start(), Upstream::start());
    desk.answer(Answer::Status(410));
    let route = "[[route]]\nname = \"broken\"\nsource = \"in\"\nwhen = '.a | error'\nto = [\"other\"]\n\
                 [upstream.other]\nurl = \"http://127.0.0.1:1\"\nnotify_dead = \"deaths\"\n";
    let relay = Relay::start(&format!(
        "[server]\nnotify_dead = \"deaths\"\n[source.in]\npath = \"/*\"\nto = [\"app\"]\n[topic.deaths]\n\
         [upstream.app]\nurl = \"{}\"\n{route}[subscriber.desk]\ntopic = \"deaths\"\nurl = \"{}\"\n",
        app.url(),
        desk.url()
    ));
    relay.accept("/x", r#"{"a":"why"}"#);
    let told: Value = serde_json::from_slice(&desk.wait_for_requests(1)[0].body).unwrap();
    assert_eq!((&told["upstream"], &told["reason"]), (&"other".into(), &"filter_failed".into()));
    assert_eq!(told["attempts"], 0);
    let notice = relay.cli(&["log", "--json", "--source", "topic:deaths"]).done().lines().remove(0);
    relay.wait_for_state(notice["id"].as_str().unwrap(), "dead");
    // Another death, so that whatever would follow from the first has happened.
    relay.accept("/x", r#"{"a":"why"}"#);
    assert_eq!(desk.wait_for_requests(2).len(), 2);
    assert_eq!(relay.cli(&["log", "--json", "--source", "topic:deaths"]).done().lines().len(), 2);
}

#[test]
fn more_than_a_number_a_minute_are_not_told_of_one_by_one() {
    let (app, desk) = (Upstream::start(), Upstream::start());
    app.answer(Answer::Status(422));
    let relay = relay(&app.url(), &desk.url(), "notify_dead_max = 2");
    let ids: Vec<String> = (0..5).map(|number| relay.accept("/x", number.to_string())).collect();
    for id in &ids {
        relay.wait_for_state(id, "dead");
    }
    desk.wait_for_requests(2);
    wait_until("two are told of", || notices(&relay, "published") == 2.0);
    assert_eq!(relay.cli(&["log", "--json", "--source", "topic:deaths"]).done().lines().len(), 2);
}

#[test]
fn a_death_is_told_of_once_although_the_process_dies() {
    let (app, desk) = (Upstream::start(), Upstream::start());
    app.answer(Answer::Status(422));
    let mut relay = relay(&app.url(), &desk.url(), "");
    let ids: Vec<String> = (0..10).map(|number| relay.accept("/x", number.to_string())).collect();
    for id in &ids {
        relay.wait_for_state(id, "dead");
    }
    relay.kill();
    relay.run();
    // The state is older than the deaths: they are met again.
    let told = || relay.cli(&["log", "--json", "-n", "100", "--source", "topic:deaths"]).done().lines();
    wait_until("all are told of", || told().len() >= ids.len());
    let after = relay.accept("/x", "after");
    relay.wait_for_state(&after, "dead");
    wait_until("the last one is told of", || told().iter().any(|event| event["parent"] == after.as_str()));
    let mut parents: Vec<String> = told().iter().map(|event| event["parent"].as_str().unwrap().to_owned()).collect();
    parents.sort();
    let mut all = [ids, vec![after]].concat();
    all.sort();
    assert_eq!(parents, all);
}
