//! Batches that become events of their own, and bodies that are judged by a schema.

use std::io::Write as _;

use serde_json::Value;

use crate::harness::{Relay, Request, Response, Upstream, sign};

const SECRET: &str = "a-secret-of-the-tests";

fn relay(config: &str) -> Relay {
    let mut relay = Relay::stopped(config);
    relay.environment("S", SECRET);
    relay.run();
    relay
}

fn is_duplicate(answer: &Response) -> bool {
    answer.header("stagepost-duplicate") == Some("true")
}

fn bodies(upstream: &Upstream, count: usize) -> Vec<String> {
    let mut bodies: Vec<String> =
        upstream.wait_for_requests(count).into_iter().map(|received| received.text()).collect();
    bodies.sort();
    bodies
}

#[test]
fn each_item_of_a_batch_is_an_event_with_its_own_bytes_type_and_key() {
    let upstream = Upstream::start();
    let relay = relay(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nsplit = true\nitems = \".data.events\"\ntype = \".kind\"\n\
         dedupe = {{ key = \".id\" }}\n[upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    let body = r#"{"data": {"events": [ {"id" : 1, "kind":"open", "n":1.50}, {"kind":"click","id":2} ,{"id":1}]}}"#;
    let answer = relay.send(&Request::post("/in", body).header("X-Kept", "yes"));
    assert_eq!(answer.status, 202);
    assert!(!is_duplicate(&answer));
    assert_eq!(
        bodies(&upstream, 2),
        [r#"{"id" : 1, "kind":"open", "n":1.50}"#, r#"{"kind":"click","id":2}"#],
        "the third has the first one's key"
    );
    for received in upstream.received() {
        assert_eq!(received.header("x-kept"), Some("yes"));
        assert_eq!(received.header("content-length"), Some(&*received.body.len().to_string()));
    }
    let mut events = relay.events();
    events.reverse();
    assert_eq!(events.len(), 2);
    let (first, second) = (&events[0], &events[1]);
    assert_eq!(answer.header("stagepost-event-id"), first["id"].as_str());
    assert_eq!((&first["type"], &second["type"]), (&Value::from("open"), &Value::from("click")));
    assert_eq!((&first["item"], &second["item"]), (&Value::from(0), &Value::from(1)));
    assert!(first["parent"].is_string() && first["parent"] == second["parent"]);
    let shown = relay.cli(&["show", second["id"].as_str().unwrap()]).done().out;
    assert!(shown.contains(&format!("item 1 of {}", second["parent"].as_str().unwrap())), "{shown}");

    let more = r#"{"data": {"events": [{"id":2,"kind":"click"},{"id":3,"kind":"open"}]}}"#;
    let answer = relay.send(&Request::post("/in", more));
    assert!(!is_duplicate(&answer), "one of them is new");
    assert_eq!(relay.show(answer.header("stagepost-event-id").unwrap())["item"], 1);
    assert_eq!(relay.events().len(), 3);
    let again = relay.send(&Request::post("/in", more));
    assert_eq!((again.status, is_duplicate(&again)), (200, true));
    assert_eq!(again.header("stagepost-event-id"), second["id"].as_str(), "the first item's first event");
    assert_eq!(relay.events().len(), 3);
    assert_eq!(relay.metric("stagepost_duplicates_total{source=\"s\"}"), 4.0);
    assert_eq!(relay.metric("stagepost_requests_total{source=\"s\",result=\"accepted\"}"), 2.0);
}

#[test]
fn a_key_that_all_items_have_in_common_is_the_batchs_and_loses_none_of_them() {
    let relay = relay("[source.s]\npath = \"/in\"\nto = []\nsplit = true\ndedupe = { header = \"X-Id\" }\n");
    let batch = |id: &str, body: &str| relay.send(&Request::post("/in", body).header("X-Id", id));
    assert!(!is_duplicate(&batch("1", r#"[{"a":1},{"a":2}]"#)));
    assert!(is_duplicate(&batch("1", r#"[{"a":1},{"a":2}]"#)));
    assert!(!is_duplicate(&batch("2", r#"[{"a":1},{"a":2}]"#)));
    assert_eq!(relay.events().len(), 4);
}

#[test]
fn a_presets_batches_are_split_by_its_own_rules_and_wrapped_on_request() {
    let upstream = Upstream::start();
    let relay = relay(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nsplit = \"wrap\"\n\
         verify = {{ scheme = \"okta\", secrets = [\"env:S\"] }}\n[upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    let body = r#"{"data":{"events":[{"uuid":"a","eventType":"x"},{"uuid":"b","eventType":"y"}]}}"#;
    let request = Request::post("/in", body).header("Authorization", SECRET);
    assert_eq!(relay.send(&request).status, 200);
    assert_eq!(bodies(&upstream, 2), [r#"[{"uuid":"a","eventType":"x"}]"#, r#"[{"uuid":"b","eventType":"y"}]"#]);
    assert!(is_duplicate(&relay.send(&request)));
    let types: Vec<Value> = relay.events().into_iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["y", "x"]);
}

#[test]
fn a_message_of_salesforce_becomes_one_message_for_each_notification() {
    let upstream = Upstream::start();
    let relay = relay(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nsplit = \"wrap\"\n\
         verify = {{ scheme = \"salesforce\", organization_id = \"00DD0000000FOOaMAO\" }}\n\
         [upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    let message = |inner: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><e:Envelope \
             xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body><notifications \
             xmlns=\"http://soap.sforce.com/2005/09/outbound\"><OrganizationId>00DD0000000FOOaMAO</OrganizationId>\
             {inner}</notifications></e:Body></e:Envelope>"
        )
    };
    let item = |id: &str| format!("<Notification><Id>{id}</Id><sObject a='1'/></Notification>");
    let whole = message(&format!("{} {}", item("04l1"), item("04l2")));
    let answer = relay.send(&Request::post("/in", &whole).header("Content-Type", "text/xml"));
    assert!(answer.status == 200 && answer.text().contains("<Ack>true</Ack>"));
    assert_eq!(bodies(&upstream, 2), [message(&item("04l1")), message(&item("04l2"))]);
    let again = message(&format!("{}{}", item("04l2"), item("04l3")));
    assert!(!is_duplicate(&relay.send(&Request::post("/in", &again).header("Content-Type", "text/xml"))));
    assert_eq!(relay.events().len(), 3);
}

#[test]
fn a_body_that_is_no_batch_is_stored_whole_and_says_so() {
    let relay = relay("[source.s]\npath = \"/in\"\nto = []\nsplit = true\n");
    for body in ["{\"a\":1}", "[]", "not json", ""] {
        let id = relay.accept("/in", body);
        let shown = relay.show(&id);
        assert_eq!(shown["tags"], Value::from(vec!["unsplit"]), "{body}");
        assert_eq!(shown["size"], body.len());
        assert!(shown["parent"].is_null());
    }
    assert_eq!(relay.metric("stagepost_unsplit_total{source=\"s\"}"), 4.0);
}

#[test]
fn a_batch_with_too_many_items_is_refused_and_nothing_of_it_is_stored() {
    let relay = relay("[source.s]\npath = \"/in\"\nto = []\nsplit = true\nmax_items = 3\n");
    let answer = relay.send(&Request::post("/in", "[1,2,3,4]"));
    assert_eq!(answer.status, 413);
    assert!(answer.json()["detail"].as_str().unwrap().contains("smaller batches"));
    assert_eq!(relay.send(&Request::post("/in", "[1,2,3]")).status, 202);
    assert_eq!(relay.events().len(), 3);
    let refused = relay.cli(&["refused", "--json"]).done().lines();
    assert_eq!(refused[0]["reason"], "too_many_items");
}

#[test]
fn a_large_compressed_batch_is_split_into_decoded_items() {
    let upstream = Upstream::start();
    let relay = relay(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nsplit = true\n[upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    // 3 MB in all and one item of more than a part.
    let mut items: Vec<String> =
        (0..30).map(|n| format!("\"{n:03}{}\"", hex::encode(crate::harness::distinct_bytes(45_000)))).collect();
    items.push(format!("\"last{}\"", hex::encode(crate::harness::distinct_bytes(200_000))));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(format!("[{}]", items.join(",")).as_bytes()).unwrap();
    let request = Request::post("/in", packed.finish().unwrap()).header("Content-Encoding", "gzip");
    assert_eq!(relay.send(&request).status, 202);
    items.sort();
    assert!(bodies(&upstream, items.len()) == items);
    assert!(upstream.received().iter().all(|received| received.header("content-encoding").is_none()));
}

const SCHEMA: &str = r#"{"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer"}}}"#;

fn judging(on_violation: &str, more: &str) -> Relay {
    let config = format!(
        "[source.s]\npath = \"/in\"\nto = []\n{more}\n[source.s.schema]\nfile = \"invoice.schema.json\"\n\
         on_violation = \"{on_violation}\"\nversion_header = \"X-Schema-Version\"\n"
    );
    let mut relay = Relay::stopped(&config);
    relay.write("invoice.schema.json", SCHEMA);
    relay.run();
    relay
}

#[test]
fn an_event_that_violates_the_schema_says_so() {
    let relay = judging("tag", "");
    let good = relay.send(&Request::post("/in", r#"{"amount":1}"#).header("X-Schema-Version", "2"));
    let shown = relay.show(good.header("stagepost-event-id").unwrap());
    assert!(shown["violation"].is_null() && shown["schema_version"] == "2");
    let bad = relay.accept("/in", r#"{"amount":"secret-value"}"#);
    let shown = relay.show(&bad);
    let violation = shown["violation"].as_str().unwrap();
    assert!(violation.starts_with("/amount: ") && !violation.contains("secret-value"), "{violation}");
    assert!(relay.cli(&["show", &bad]).done().out.contains("Violation"));
    assert_eq!(relay.metric("stagepost_schema_violations_total{source=\"s\"}"), 1.0);
}

#[test]
fn a_request_that_violates_the_schema_is_refused_with_the_first_violation() {
    for how in ["reject", "quarantine"] {
        let relay = judging(how, "");
        assert_eq!(relay.send(&Request::post("/in", r#"{"amount":1}"#)).status, 202);
        let answer = relay.send(&Request::post("/in", r#"{"amount":"secret-value"}"#));
        assert_eq!((answer.status, answer.header("content-type")), (422, Some("application/problem+json")));
        assert!(answer.json()["detail"].as_str().unwrap().starts_with("/amount: "));
        assert!(!answer.text().contains("secret-value"));
        assert_eq!(relay.send(&Request::post("/in", "not json")).status, 422);
        assert_eq!(relay.events().len(), 1);
        assert_eq!(relay.metric("stagepost_requests_total{source=\"s\",result=\"unprocessable\"}"), 2.0);
    }
}

#[test]
fn a_schema_is_asked_about_each_item_and_one_bad_item_refuses_the_batch() {
    let relay = judging("reject", "split = true");
    let answer = relay.send(&Request::post("/in", r#"[{"amount":1},{"amount":"x"}]"#));
    assert_eq!(answer.status, 422);
    assert!(answer.json()["detail"].as_str().unwrap().starts_with("item 1: /amount: "));
    assert_eq!(relay.events().len(), 0);
    let relay = judging("tag", "split = true");
    relay.accept("/in", r#"[{"amount":1},{"amount":"x"}]"#);
    let violations: Vec<bool> = relay.events().iter().map(|event| event["violation"].is_string()).collect();
    assert_eq!(violations, [true, false]);
}

#[test]
fn a_changed_schema_takes_effect_with_a_reload_and_a_broken_one_does_not() {
    let relay = judging("reject", "");
    let wanted = |body: &str| relay.send(&Request::post("/in", body)).status;
    assert_eq!((wanted(r#"{"amount":1}"#), wanted(r#"{"total":1}"#)), (202, 422));
    relay.write("invoice.schema.json", r#"{"type": "strin"}"#);
    let failed = relay.cli(&["reload"]);
    assert!(failed.err.contains("invoice.schema.json") && failed.err.contains("/type"), "{}", failed.err);
    assert_eq!(wanted(r#"{"total":1}"#), 422);
    relay.write("invoice.schema.json", SCHEMA.replace("amount", "total"));
    relay.cli(&["reload"]).done();
    assert_eq!((wanted(r#"{"amount":1}"#), wanted(r#"{"total":1}"#)), (422, 202));
}

#[test]
fn a_signed_batch_is_verified_as_a_whole_before_it_is_split() {
    let relay = relay(
        "[source.s]\npath = \"/in\"\nto = []\nsplit = true\n\
         verify = { scheme = \"hmac\", header = \"X-Signature\", secrets = [\"env:S\"] }\n",
    );
    let body = "[1,2]";
    let signed = |signature: String| relay.send(&Request::post("/in", body).header("X-Signature", signature)).status;
    assert_eq!(signed(sign(SECRET, b"[1]")), 401);
    assert_eq!(signed(sign(SECRET, body.as_bytes())), 202);
    assert_eq!(relay.events().len(), 2);
}
