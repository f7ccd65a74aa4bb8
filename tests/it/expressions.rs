//! jq from the configuration over bodies from strangers: what runs away costs its own delivery and nothing else.

use crate::harness::{Relay, Request, Upstream, wait_until};

/// Three routes by type; each transform is bad in its own way. `fine` has none.
fn config(upstream: &Upstream) -> String {
    let route = |name: &str, transform: &str| {
        format!("[[route]]\nname = \"{name}\"\nwhen = '.type == \"{name}\"'\nto = [\"app\"]\n{transform}\n")
    };
    [
        format!("[source.app]\npath = \"/in\"\n\n[upstream.app]\nurl = \"{}\"\n", upstream.url()),
        route("fails", "transform = '.type + 1'"),
        route("loops", "transform = 'def f: f; [.n] | until(false; .)'"),
        route("explodes", "transform = 'reduce range(.n) as $i (\"x\"; . + .)'"),
        route("several", "transform = '1, 2'"),
        route("empties", "transform = 'empty'"),
        route("fine", ""),
    ]
    .concat()
}

#[test]
fn runaway_and_failing_transforms_are_dead_and_others_are_delivered_meanwhile() {
    let upstream = Upstream::start();
    let relay = Relay::start(&config(&upstream));
    let send = |kind: &str| relay.accept("/in", format!(r#"{{"type":"{kind}","n":1000}}"#));
    let bad: Vec<String> = ["loops", "explodes", "fails", "several"].map(send).to_vec();
    let fine: Vec<String> = (0..20).map(|_| send("fine")).collect();
    upstream.wait_for_requests(fine.len());
    for id in &fine {
        relay.wait_for_state(id, "delivered");
    }
    for id in &bad {
        let shown = relay.wait_for_state(id, "dead");
        let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("transform_failed"), "{reason}");
    }
    relay.wait_for_state(&send("empties"), "ignored");
    assert_eq!(upstream.received().len(), fine.len());
    wait_until("the metric counts those that ran away", || relay.metric("stagepost_expressions_killed_total") > 1.5);
}

#[test]
fn a_filter_that_fails_is_a_dead_delivery_with_its_reason() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.app]\npath = \"/in\"\n[upstream.app]\nurl = \"{}\"\n\
         [[route]]\nname = \"r\"\nto = [\"app\"]\nwhen = '.a.b.c | tonumber > 1'\n",
        upstream.url()
    ));
    let shown = relay.wait_for_state(&relay.accept("/in", r#"{"a":{"b":{"c":"no number"}}}"#), "dead");
    assert!(shown["deliveries"][0]["reason"].as_str().unwrap().contains("filter_failed"));
    relay.wait_for_state(&relay.accept("/in", r#"{"a":{"b":{"c":"2"}}}"#), "delivered");
    relay.wait_for_state(&relay.accept("/in", r#"{"a":{"b":{"c":"0"}}}"#), "unrouted");
}

#[test]
fn json_that_is_called_a_form_has_its_type_is_filtered_and_transformed_as_json() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.app]\npath = \"/in\"\ntype = \".kind\"\n[upstream.app]\nurl = \"{}\"\n\
         [[route]]\nname = \"r\"\nto = [\"app\"]\nwhen = '.kind | startswith(\"paid\")'\ntransform = '{{n}}'\n",
        upstream.url()
    ));
    let form = |body: &str| {
        let request = Request::post("/in", body).header("Content-Type", "application/x-www-form-urlencoded");
        relay.send(&request).event_id()
    };
    let id = form(r#"{"kind":"paid.late","n":1.50}"#);
    assert_eq!(relay.wait_for_state(&id, "delivered")["type"], "paid.late");
    let id = form("kind=paid&n=2");
    assert_eq!(relay.wait_for_state(&id, "delivered")["type"], "paid");
    let mut bodies: Vec<String> = upstream.received().iter().map(|request| request.text()).collect();
    bodies.sort();
    assert_eq!(bodies, [r#"{"n":"2"}"#, r#"{"n":1.50}"#]);
}

#[test]
fn a_dedupe_key_that_runs_away_does_not_keep_the_event_out() {
    let relay = Relay::start(
        "[source.app]\npath = \"/in\"\nto = []\ndedupe = { key = '[.n] | until(false; .)', window = \"1h\" }\n",
    );
    relay.accept("/in", r#"{"n":1}"#);
    relay.accept("/in", r#"{"n":1}"#);
    assert_eq!(relay.events().len(), 2);
}

#[test]
fn an_expression_that_does_not_compile_is_refused_with_its_place() {
    let relay = Relay::stopped("[source.app]\npath = \"/in\"\nto = []\ntype = '.a |'\n");
    let check = relay.cli_by_config(&["check"]);
    assert_eq!(check.code, 78);
    assert!(check.err.contains("stagepost.toml:") && check.err.contains("type"), "{}", check.err);
}
