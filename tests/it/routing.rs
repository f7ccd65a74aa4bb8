//! Which event goes where, and how it is changed on the way.

use crate::harness::{Relay, Request, Upstream};

#[test]
fn a_transform_changes_what_is_sent_and_never_what_is_stored() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/in/{{tenant}}"
        type = ".type"

        [upstream.app]
        url = "{}"
        headers = {{ Authorization = "Bearer literal:token-of-a-test" }}

        [[route]]
        name = "paid"
        source = "app"
        when = '(.type // "") | startswith("invoice.")'
        to = ["app"]
        transform = '{{id, amount: .data.amount, tenant: $captures.tenant, how: $method}}'
        headers = {{ set = {{ X-Kind = "invoice" }}, remove = ["Cookie"] }}
        "#,
        upstream.url()
    ));
    let body = r#"{"type":"invoice.paid","id":12345678901234567890123,"data":{"amount":1.10}}"#;
    let answer = relay.send(&Request::post("/in/acme", body).header("Cookie", "secret").header("X-Kind", "mine"));
    let id = answer.header("stagepost-event-id").unwrap().to_owned();
    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!(
        got.text(),
        r#"{"id":12345678901234567890123,"amount":1.10,"tenant":"acme","how":"POST"}"#,
        "digits and order are kept"
    );
    assert_eq!((got.header("x-kind"), got.header("cookie")), (Some("invoice"), None));
    assert_eq!(got.header("authorization"), Some("Bearer token-of-a-test"));
    assert_eq!(relay.cli(&["show", &id, "--body"]).out, body);

    let other = relay.accept("/in/acme", r#"{"type":"customer.created"}"#);
    relay.wait_for_state(&other, "unrouted");
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn two_routes_deliver_to_two_upstreams_each_in_its_own_form() {
    let (plain, changed) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/in"
        to = ["plain"]

        [upstream.plain]
        url = "{}"

        [upstream.changed]
        url = "{}"

        [[route]]
        name = "short"
        to = ["changed"]
        transform = '"only \(.a)"'
        "#,
        plain.url(),
        changed.url()
    ));
    let id = relay.accept("/in", r#"{"a":1}"#);
    assert_eq!(plain.wait_for_requests(1)[0].text(), r#"{"a":1}"#);
    assert_eq!(changed.wait_for_requests(1)[0].text(), "only 1");
    let deliveries = relay.wait_for_state(&id, "delivered")["deliveries"].as_array().unwrap().len();
    assert_eq!(deliveries, 2);
}

#[test]
fn routes_that_want_different_things_from_one_upstream_make_the_delivery_dead_and_check_warns() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/in"

        [upstream.app]
        url = "{}"

        [[route]]
        name = "a"
        to = ["app"]
        transform = '1'

        [[route]]
        name = "b"
        to = ["app"]
        transform = '2'
        "#,
        upstream.url()
    ));
    let id = relay.accept("/in", "{}");
    let shown = relay.wait_for_state(&id, "dead");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("conflicting routes a, b"), "{reason}");
    assert!(upstream.received().is_empty());
    let check = relay.cli_by_config(&["check"]).done();
    assert!(check.err.contains("warning") && check.err.contains("routes a and b"), "{}", check.err);
}

#[test]
fn an_empty_to_discards_on_purpose() {
    let relay = Relay::start("[source.app]\npath = \"/in\"\nto = []");
    relay.wait_for_state(&relay.accept("/in", "x"), "ignored");
}

#[test]
fn paths_and_hosts_follow_the_upstreams_rules() {
    let upstream = Upstream::start();
    let url = upstream.url();
    let relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/hooks/*"
        to = ["stripped", "replaced", "named", "preserved"]

        [upstream.stripped]
        url = "{url}/base"
        strip_prefix = "/hooks"

        [upstream.replaced]
        url = "{url}"
        path = "/webhook"

        [upstream.named]
        url = "{url}/n"
        host = "name.example"

        [upstream.preserved]
        url = "{url}/p"
        host = "upstream"
        "#
    ));
    relay.accept("/hooks/a%2Fb//c?q=%20", "x");
    let got = upstream.wait_for_requests(4);
    let mut told: Vec<_> =
        got.iter().map(|request| (request.target.as_str(), request.header("host").unwrap())).collect();
    told.sort_unstable();
    let own = url.trim_start_matches("http://");
    assert_eq!(
        told,
        [
            ("/base/a%2Fb//c?q=%20", "relay.test"),
            ("/n/hooks/a%2Fb//c?q=%20", "name.example"),
            ("/p/hooks/a%2Fb//c?q=%20", own),
            ("/webhook?q=%20", "relay.test"),
        ]
    );
}

#[test]
fn a_host_comes_before_none_exact_before_subtree_and_longer_first() {
    let source = |name: &str, rest: &str| format!("[source.{name}]\n{rest}\nto = []\n");
    let relay = Relay::start(
        &[
            source("any", "path = \"/*\""),
            source("tree", "path = \"/a/*\""),
            source("exact", "path = \"/a/b\""),
            source("named", "path = \"/*\"\nhost = \"hooks.example\""),
        ]
        .concat(),
    );
    for (host, path, expected) in [
        ("x.example", "/other", "any"),
        ("x.example", "/a/c", "tree"),
        ("x.example", "/a/b", "exact"),
        ("HOOKS.example:8080", "/a/b", "named"),
    ] {
        let answer = relay.send(&Request::post(path, "x").header("Host", host));
        let shown = relay.show(answer.header("stagepost-event-id").unwrap());
        assert_eq!(shown["source"], expected, "{host} {path}");
    }
}
