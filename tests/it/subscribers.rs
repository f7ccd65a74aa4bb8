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
