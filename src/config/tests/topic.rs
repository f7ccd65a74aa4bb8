//! Topics and subscribers.

use std::time::Duration;

use super::*;

const BASE: &str = "[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/x'\n[topic.orders]\n\
                    [[route]]\ntopic = 'orders'\n";

fn with(text: &str) -> Directory {
    let directory = Directory::with(&format!("{BASE}{text}"));
    directory.write("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    directory
}

#[test]
fn a_subscriber_is_an_upstream_that_the_routes_of_its_topic_lead_to() {
    let directory = with(
        "[subscriber.crm]\ntopic = 'orders'\nurl = 'http://x'\ntypes = ['invoice.*']\nwhen = '.a'\n\
         secrets = ['file:key']\nconcurrency = 3\n[subscriber.all]\ntopic = 'orders'\nurl = 'http://y'\n",
    );
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let upstream = &loaded.table.upstreams["orders/crm"];
    assert_eq!((upstream.concurrency, upstream.sign.is_some()), (3, true));
    let shown: Vec<(&str, Vec<&str>)> =
        loaded.table.routes.iter().map(|route| (&*route.name, route.to.iter().map(|name| &**name).collect())).collect();
    assert_eq!(
        shown,
        [
            ("route-1", vec!["orders/all"]),
            ("topic:orders", vec!["orders/all"]),
            ("route-1/orders/crm", vec!["orders/crm"]),
            ("topic:orders/orders/crm", vec!["orders/crm"]),
        ]
    );
    let topic = &loaded.table.topics[0];
    assert_eq!((topic.max_subscribers, topic.max_hops), (1_000, 10));
    directory.write("stagepost.toml", effective(&loaded.config));
    let again = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(effective(&again.config), effective(&loaded.config));
    assert!(!effective(&again.config).contains("whsec_"));
    let none = with("").load().unwrap();
    assert_eq!(diff(&loaded.config, &none.config).removed_upstreams, ["orders/all", "orders/crm"]);
}

#[test]
fn what_can_not_work_is_refused_with_its_key_and_the_remedy() {
    for (text, expected) in [
        ("[subscriber.a]\nurl = 'http://x'\n", "subscriber.a.topic: is missing; name the topic whose events it gets"),
        (
            "[subscriber.a]\nurl = 'http://x'\ntopic = 'order'\n",
            "subscriber.a.topic: names the unknown topic \"order\"; did you mean \"orders\"?",
        ),
        ("[subscriber.a]\ntopic = 'orders'\n", "subscriber.a.url: is missing;"),
        (
            "[subscriber.a]\nurl = 'http://x'\ntopic = 'orders'\ntypes = []\n",
            "subscriber.a.types: is empty, so that nothing is wanted; leave it out to get every type",
        ),
        (
            "[subscriber.a]\nurl = 'http://x'\ntopic = 'orders'\ntypes = ['a*b']\n",
            "subscriber.a.types: takes names of types of at most 256 bytes, with * at the end at most",
        ),
        (
            "[subscriber.a]\nurl = 'http://x'\ntopic = 'orders'\nsecrets = ['file:key']\nsign = 'none'\n",
            "subscriber.a.secrets: can't stand beside sign, which has secrets of its own; remove one of the two",
        ),
        (
            "[topic.few]\nmax_subscribers = 1\n[subscriber.a]\nurl = 'http://x'\ntopic = 'few'\n\
             [subscriber.b]\nurl = 'http://x'\ntopic = 'few'\n",
            "topic.few.max_subscribers: is 1, but 2 subscribers are configured; raise it",
        ),
        ("[[route]]\ntopic = 'none'\n", "names the unknown topic \"none\""),
        ("[[route]]\nsource = 'topic:order'\nto = []\n", "unknown topic \"order\"; did you mean \"orders\"?"),
        ("[topic.few]\nmax_hops = 0\n", "topic.few.max_hops: takes a whole number from 1 to 1000"),
        ("[topic.'a/b']\n", "\"a/b\" is no name;"),
        ("[subscribers]\nallow = ['home']\n", "subscribers.allow: \"home\" is no network; write an address or a CIDR"),
        ("[subscribers]\nmax = 10001\n", "subscribers.max: "),
        ("[subscribers]\ndisable_after = 'never'\n", "subscribers.disable_after: \"never\" is no duration"),
        (
            "[subscriber.a]\nurl = 'http://x'\ntopic = 'orders'\ndisable_after = '5'\n",
            "subscriber.a.disable_after: \"5\" is no duration",
        ),
        ("[subscribers]\nalow = []\n", "subscribers.alow: unknown key; did you mean \"allow\"?"),
    ] {
        let directory = with(text);
        let problems = directory.load().err().unwrap_or_else(|| panic!("{text} is taken"));
        let messages = directory.messages(&problems.0).join("\n");
        assert!(messages.contains(expected), "{messages}");
    }
}

#[test]
fn subscribers_of_run_time_have_rules_and_those_of_the_configuration_are_disabled_only_if_they_say_so() {
    let loaded = with("[subscriber.a]\ntopic = 'orders'\nurl = 'http://x'\n").load().unwrap();
    let settings = &loaded.config.subscribers;
    assert!(settings.allow.is_empty());
    assert_eq!((settings.max, settings.disable_after), (1_000, Some(Duration::from_secs(5 * 86_400))));
    assert_eq!(loaded.table.upstreams["orders/a"].disable_after, None);
    let loaded = with(
        "[subscribers]\nallow = ['10.0.0.0/8']\nmax = 0\ndisable_after = 'off'\n\
         [subscriber.a]\ntopic = 'orders'\nurl = 'http://x'\ndisable_after = '1h'\n",
    );
    let loaded = loaded.load().unwrap();
    let settings = &loaded.config.subscribers;
    assert_eq!((settings.allow.len(), settings.max, settings.disable_after), (1, 0, None));
    assert_eq!(loaded.table.upstreams["orders/a"].disable_after, Some(Duration::from_secs(3_600)));
}
