//! What we sign, as upstreams see it: another relay checks it.

use serde_json::Value;

use crate::harness::{Answer, Relay, Request, Upstream};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SOON: &str = "retry = { schedule = [\"100ms\"], jitter = 0.0, give_up_after = \"1h\" }";

/// A relay that checks what it gets.
fn checking(verify: &str) -> Relay {
    let mut relay = Relay::stopped(&format!("[source.in]\npath = \"/*\"\nto = []\nverify = {verify}\n"));
    relay.environment("IT_KEY", KEY);
    relay.environment("IT_OTHER", "another secret");
    relay.run();
    relay
}

/// A relay that signs what it sends there.
fn signing(to: &str, settings: &str) -> Relay {
    let mut relay = Relay::stopped(&format!(
        "[source.app]\npath = \"/*\"\nto = [\"next\"]\n[upstream.next]\nurl = \"{to}\"\n{SOON}\n{settings}\n"
    ));
    relay.environment("IT_KEY", KEY);
    relay.environment("IT_OTHER", "another secret");
    relay.run();
    relay
}

fn signed(shown: &Value) -> Value {
    let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
    attempts.last().unwrap()["sent"]["signed"].clone()
}

#[test]
fn standard_webhooks_are_taken_by_a_receiver_that_has_either_secret() {
    let next = checking("{ scheme = \"standard-webhooks\", secrets = [\"env:IT_KEY\"] }");
    let to = format!("http://{}", next.address());
    let relay = signing(&to, "sign = { secrets = [\"env:IT_OTHER\", \"env:IT_KEY\"] }");
    let id = relay.accept("/x", "{\"id\":1}");
    let shown = relay.wait_for_state(&id, "delivered");
    let expected = serde_json::json!({ "scheme": "standard-webhooks", "secret": "env:IT_OTHER, env:IT_KEY" });
    assert_eq!(signed(&shown), expected);
    let taken = next.show(next.events()[0]["id"].as_str().unwrap());
    assert_eq!(taken["verification"]["secret"], "env:IT_KEY");
    assert!(taken["headers"].as_array().unwrap().contains(&serde_json::json!(["webhook-id", id])), "{taken}");
    let told = relay.cli(&["explain", &id]).done().out;
    assert!(
        told.contains("We signed attempt 1 ourselves, as standard-webhooks with the secret env:IT_OTHER, env:IT_KEY"),
        "{told}"
    );
    let page = relay.cli(&["show", &id]).done().out;
    assert!(page.contains("signed by us: standard-webhooks with env:IT_OTHER, env:IT_KEY"), "{page}");
    for text in [&told, &page, &relay.diagnostics(), &shown.to_string()] {
        assert!(!text.contains("MfKQ9r8") && !text.contains("another secret"), "a secret is shown: {text}");
    }
}

#[test]
fn a_form_of_ones_own_is_taken_by_an_hmac_source_with_the_same_settings() {
    let form = "header = \"X-Signature\", prefix = \"v1=\", encoding = \"base64\", \
                template = \"{method} {path}?{query} {header:x-event-id} {timestamp}.{body}\"";
    let next = checking(&format!(
        "{{ scheme = \"hmac\", {form}, timestamp = {{ header = \"X-Timestamp\", unit = \"ms\" }}, secrets = [\"env:IT_OTHER\"] }}"
    ));
    let to = format!("http://{}/base", next.address());
    let sign = format!(
        "sign = {{ {form}, timestamp = {{ header = \"X-Timestamp\", unit = \"ms\" }}, id = {{ header = \"X-Event-Id\" }}, \
         secrets = [\"env:IT_OTHER\"] }}"
    );
    let relay = signing(&to, &sign);
    let answer = relay.send(&Request::new("PUT", "/x%2Fy?a=%20b"));
    let id = answer.header("stagepost-event-id").unwrap();
    relay.wait_for_state(id, "delivered");
    assert_eq!(next.events()[0]["path"], "/base/x%2Fy");
}

#[test]
fn every_attempt_has_the_same_id_and_a_time_of_its_own() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let form = "header = \"X-S\", template = \"{timestamp}.{body}\", timestamp = { header = \"X-T\", unit = \"ms\" }, \
                id = { header = \"X-Id\" }";
    let relay = signing(&upstream.url(), &format!("sign = {{ {form}, secrets = [\"env:IT_OTHER\"] }}"));
    let id = relay.accept("/x", "body");
    let got = upstream.wait_for_requests(3);
    assert!(got.iter().all(|request| request.header("x-id") == Some(&id)));
    let at = |request: &crate::harness::Received| request.header("x-t").unwrap().parse::<u64>().unwrap();
    assert!(got.windows(2).all(|pair| at(&pair[0]) < at(&pair[1])));
    assert!(got.windows(2).all(|pair| pair[0].header("x-s") != pair[1].header("x-s")));
}

#[test]
fn an_app_that_checks_the_providers_signature_gets_one_that_holds_for_the_transformed_body() {
    let next = checking("{ scheme = \"stripe\", secrets = [\"env:IT_OTHER\"] }");
    let mut relay = Relay::stopped(&format!(
        "[source.stripe]\npath = \"/in\"\nverify = {{ scheme = \"stripe\", secrets = [\"file:key\"] }}\n\
         [[route]]\nname = \"r\"\nto = [\"next\"]\ntransform = '{{id, renamed: .type}}'\n\
         [upstream.next]\nurl = \"http://{}\"\nsign = \"source\"\n",
        next.address()
    ));
    relay.write("key", "another secret");
    relay.run();
    let door = format!("http://{}", relay.address());
    relay.cli_by_config(&["send", "--source", "stripe", "--to", &door]).done();
    let id = relay.events()[0]["id"].as_str().unwrap().to_owned();
    let shown = relay.wait_for_state(&id, "delivered");
    assert_eq!(signed(&shown), serde_json::json!({ "scheme": "stripe", "secret": "file:key" }));
    assert_eq!(next.events().len(), 1, "its receiver took it");
    assert!(relay.metric("stagepost_resigned_total{upstream=\"next\"}") > 0.5);
}

#[test]
fn a_secret_that_is_replaced_signs_after_a_reload() {
    let upstream = Upstream::start();
    let mut relay = Relay::stopped(&format!(
        "[source.app]\npath = \"/*\"\nto = [\"next\"]\n[upstream.next]\nurl = \"{}\"\nsign = {{ secrets = [\"file:key\"] }}\n",
        upstream.url()
    ));
    relay.write("key", KEY);
    relay.run();
    relay.accept("/x", "same");
    upstream.wait_for_requests(1);
    relay.write("key", "another");
    relay.cli(&["reload"]).done();
    relay.accept("/x", "same");
    let got = upstream.wait_for_requests(2);
    let count = |request: &crate::harness::Received| request.header("webhook-signature").unwrap().split(' ').count();
    assert!(got.iter().all(|request| count(request) == 1));
}
