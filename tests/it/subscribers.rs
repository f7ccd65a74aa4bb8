//! Topics and their subscribers.

use crate::harness::{Relay, Request, Upstream};

fn relay(more: &str) -> Relay {
    Relay::start(&format!(
        "[source.shop]\npath = \"/*\"\ntype = \".kind\"\n[topic.orders]\n\
         [[route]]\nname = \"publish\"\nsource = \"shop\"\ntopic = \"orders\"\n{more}\n"
    ))
}

#[test]
fn each_subscriber_gets_the_types_that_it_wants_signed_with_its_own_secret() {
    let (crm, archive) = (Upstream::start(), Upstream::start());
    let relay = relay(&format!(
        "[subscriber.crm]\ntopic = \"orders\"\nurl = \"{}/base\"\ntypes = [\"invoice.*\"]\nwhen = \".amount > 100\"\n\
         secrets = [\"literal:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n\
         [subscriber.archive]\ntopic = \"orders\"\nurl = \"{}\"\n",
        crm.url(),
        archive.url()
    ));
    let wanted = relay.accept("/x", r#"{"kind":"invoice.paid","amount":101}"#);
    let small = relay.accept("/x", r#"{"kind":"invoice.paid","amount":1}"#);
    let other = relay.accept("/x", r#"{"kind":"order","amount":101}"#);
    for id in [&wanted, &small, &other] {
        relay.wait_for_state(id, "delivered");
    }
    assert_eq!(archive.wait_for_requests(3).len(), 3);
    let got = crm.received();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].header("webhook-id"), Some(wanted.as_str()));
    assert!(got[0].header("webhook-signature").unwrap().starts_with("v1,"));
    let explained = relay.cli(&["explain", &wanted]).done().out;
    assert!(explained.contains("It went to topic orders: 2 subscribers wanted it."), "{explained}");
    assert!(relay.cli(&["explain", &small]).done().out.contains("1 subscriber wanted it."));
}

#[test]
fn a_topic_without_a_taker_ignores_the_event_and_a_safe_request_reaches_no_subscriber() {
    let crm = Upstream::start();
    let relay = relay(&format!(
        "[subscriber.crm]\ntopic = \"orders\"\nurl = \"{}\"\n[subscriber.picky]\ntopic = \"orders\"\nurl = \"{}\"\n\
         types = [\"never\"]\n[source.other]\npath = \"/other\"\n[topic.empty]\n\
         [[route]]\nsource = \"other\"\ntopic = \"empty\"\n",
        crm.url(),
        crm.url()
    ));
    assert_eq!(relay.send(&Request::get("/x")).status, 502);
    assert!(crm.received().is_empty());
    let id = relay.accept("/other", "{}");
    relay.wait_for_state(&id, "ignored");
    let id = relay.accept("/x", "{}");
    relay.wait_for_state(&id, "delivered");
    assert_eq!(crm.received().len(), 1);
}

/// A relay whose run-time subscribers may be on this machine.
fn open_relay(more: &str) -> Relay {
    relay(&format!("[subscribers]\nallow = [\"127.0.0.0/8\"]\n{more}"))
}

fn listed(relay: &Relay, name: &str) -> serde_json::Value {
    let all = relay.cli(&["subscriber", "list", "--json"]).done().lines();
    all.into_iter().find(|one| one["name"] == name).unwrap_or(serde_json::Value::Null)
}

#[test]
fn a_subscriber_of_run_time_gets_what_it_wants_at_its_url_through_restarts_until_it_is_removed() {
    let crm = Upstream::start();
    let mut relay = open_relay("");
    let before = relay.accept("/x", r#"{"kind":"invoice.paid"}"#);
    relay.wait_for_state(&before, "ignored");
    let url = format!("{}/hook", crm.url());
    let add = ["subscriber", "add", "orders", "crm", "--url", &url, "--type", "invoice.*", "--when", ".amount != 0"];
    let told = relay.cli(&add).done().out;
    let secret = told.split("secret (shown once): ").nth(1).unwrap().trim().to_owned();
    assert!(secret.starts_with("whsec_"), "{told}");
    let first = relay.accept("/x", r#"{"kind":"invoice.paid"}"#);
    let unwanted = relay.accept("/x", r#"{"kind":"order"}"#);
    relay.wait_for_state(&first, "delivered");
    relay.wait_for_state(&unwanted, "ignored");
    let got = crm.wait_for_requests(1);
    assert_eq!((got[0].target.as_str(), got[0].header("webhook-id")), ("/hook", Some(first.as_str())));
    assert_eq!(got[0].header("host"), Some(crm.url().trim_start_matches("http://")));

    relay.restart();
    let second = relay.accept("/x", r#"{"kind":"invoice.late"}"#);
    relay.wait_for_state(&second, "delivered");
    let shown = listed(&relay, "crm");
    assert_eq!((&shown["state"], &shown["secrets"][0]), (&"active".into(), &"generated".into()));
    relay.kill();
    std::fs::remove_dir_all(relay.data().join("state")).unwrap();
    relay.run();
    let third = relay.accept("/x", r#"{"kind":"invoice.late"}"#);
    relay.wait_for_state(&third, "delivered");
    assert_eq!(crm.wait_for_requests(3).len(), 3);

    relay.cli(&["subscriber", "pause", "orders", "crm", "--reason", "theirs"]).done();
    let waits = relay.accept("/x", r#"{"kind":"invoice.held"}"#);
    relay.wait_for_state(&waits, "held");
    assert_eq!(listed(&relay, "crm")["why"], "theirs");
    relay.cli(&["subscriber", "remove", "orders", "crm"]).done();
    let dead = relay.wait_for_state(&waits, "dead");
    assert!(dead["deliveries"][0]["reason"].as_str().unwrap().starts_with("upstream_removed"), "{dead:#}");
    let after = relay.accept("/x", r#"{"kind":"invoice.late"}"#);
    relay.wait_for_state(&after, "ignored");
    assert!(relay.cli(&["subscriber", "list"]).done().out.contains("there are no subscribers"));
    for text in [relay.cli(&["log", "--json"]).done().out, relay.show(&first).to_string()] {
        assert!(!text.contains(&secret));
    }
}

#[test]
fn where_a_subscriber_may_not_be_is_refused_recorded_and_counted() {
    let inside = Upstream::start();
    let relay = relay("");
    for (url, why) in [
        (inside.url(), "leads to 127.0.0.1, which is loopback"),
        ("http://[::ffff:127.0.0.1]:1/".into(), "which is loopback"),
        ("http://0x7f.0.0.1/".into(), "writes an address as a number"),
        ("http://localhost:1/".into(), "which is loopback"),
        ("http://public.example@127.0.0.1/".into(), "holds a user or a password"),
    ] {
        let told = relay.cli(&["subscriber", "add", "orders", "bad", "--url", &url]);
        assert_eq!(told.code, 64, "{told:?}");
        assert!(told.err.contains("subscriber orders/bad is refused: url: ") && told.err.contains(why), "{told:?}");
    }
    assert_eq!(relay.metric("stagepost_subscribers_refused_total"), 5.0);
    assert_eq!(relay.cli(&["subscriber", "list", "--json"]).done().out, "");
    let none = relay.cli(&["subscriber", "add", "order", "x", "--url", "https://192.0.2.1/"]);
    assert_eq!(none.code, 64);
    assert_eq!(relay.cli(&["subscriber", "remove", "orders", "bad"]).code, 66);
    assert_eq!(relay.cli(&["subscriber", "remove", "orders", "b/d"]).code, 64);
    assert!(inside.received().is_empty());
}

#[test]
fn a_redirect_of_a_subscriber_is_followed_nowhere() {
    let (inside, outside) = (Upstream::start(), Upstream::start());
    outside.answer(crate::harness::Answer::With(302, vec![("Location", inside.url())], ""));
    let relay = open_relay("");
    relay.cli(&["subscriber", "add", "orders", "moved", "--url", &outside.url()]).done();
    let id = relay.accept("/x", "{}");
    let dead = relay.wait_for_state(&id, "dead");
    assert!(dead["deliveries"][0]["reason"].as_str().unwrap().starts_with("redirect"), "{dead:#}");
    assert!(inside.received().is_empty());
}

#[test]
fn a_secret_is_rotated_with_overlap_and_a_reload_leaves_run_time_subscribers_or_turns_them_off() {
    let crm = Upstream::start();
    let relay = open_relay("");
    relay.cli(&["subscriber", "add", "orders", "crm", "--url", &crm.url()]).done();
    let signatures = |number: usize| {
        let id = relay.accept("/x", "{}");
        relay.wait_for_state(&id, "delivered");
        let got = crm.wait_for_requests(number).pop().unwrap();
        got.header("webhook-signature").unwrap().split(' ').count()
    };
    assert_eq!(signatures(1), 1);
    let told = relay.cli(&["subscriber", "rotate-secret", "orders", "crm", "--overlap", "1h"]).done().out;
    assert!(told.contains("whsec_"), "{told}");
    assert_eq!(signatures(2), 2);
    relay.cli(&["subscriber", "rotate-secret", "orders", "crm", "--overlap", "0s", "--json"]).done();
    assert_eq!(signatures(3), 1);

    let with_topic = |more: &str| {
        format!(
            "[source.shop]\npath = \"/*\"\n{more}[[route]]\nname = \"publish\"\nsource = \"shop\"\nto = []\n\
             [subscribers]\nallow = [\"127.0.0.0/8\"]\n"
        )
    };
    relay.configure(&with_topic(""));
    let told = relay.cli(&["reload"]).done();
    assert!(told.err.contains("subscriber orders/crm is off: the configuration has no topic"), "{told:?}");
    assert_eq!(listed(&relay, "crm")["state"], "off");
    let ignored = relay.accept("/x", "{}");
    relay.wait_for_state(&ignored, "ignored");
    relay.configure(&with_topic("[topic.orders]\n").replace("to = []", "topic = \"orders\""));
    relay.cli(&["reload"]).done();
    assert_eq!(listed(&relay, "crm")["state"], "active");
    assert_eq!(signatures(4), 1);
}

#[test]
fn one_that_only_fails_is_disabled_its_owner_is_told_and_it_goes_on_when_it_is_resumed() {
    let (crm, support) = (Upstream::start(), Upstream::start());
    crm.answer(crate::harness::Answer::Status(503));
    let mut relay = relay(&format!(
        "[subscriber.crm]\ntopic = \"orders\"\nurl = \"{}\"\ndisable_after = \"1s\"\n\
         retry = {{ schedule = [\"50ms\"], jitter = 0.0, give_up_after = \"1h\" }}\nbreaker = {{ failures = 100000 }}\n\
         [topic.\"stagepost.subscribers\"]\n[subscriber.support]\ntopic = \"stagepost.subscribers\"\nurl = \"{}\"\n",
        crm.url(),
        support.url()
    ));
    let id = relay.accept("/x", "{}");
    let dead = relay.wait_for_state(&id, "dead");
    let reason = dead["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("subscriber_disabled: ") && reason.contains("503"), "{reason}");
    let notice: serde_json::Value = serde_json::from_str(&support.wait_for_requests(1)[0].text()).unwrap();
    assert_eq!((&notice["type"], &notice["upstream"]), (&"subscriber.disabled".into(), &"orders/crm".into()));
    let unwanted = relay.accept("/x", "{}");
    relay.wait_for_state(&unwanted, "ignored");
    relay.restart();
    assert_eq!(listed(&relay, "crm")["state"], "disabled");
    assert!(relay.cli(&["status"]).done().out.contains("subscriber orders/crm is disabled: "));
    assert!(relay.upstream("orders/crm")["disabled"].is_string());

    crm.answer(crate::harness::Answer::Status(200));
    relay.cli(&["subscriber", "resume", "orders", "crm"]).done();
    relay.cli(&["replay", "--upstream", "orders/crm", "--reason", "subscriber_disabled"]).done();
    relay.wait_for_state(&id, "delivered");
    let fresh = relay.accept("/x", "{}");
    relay.wait_for_state(&fresh, "delivered");
    assert_eq!(support.received().len(), 1, "it is told once");
}
