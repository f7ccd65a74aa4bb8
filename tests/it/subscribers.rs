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
