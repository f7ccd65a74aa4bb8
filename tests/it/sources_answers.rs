//! What presets answer and what they hold for the same event, on the traffic that providers really send.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use stagepost::clock::Clock;

use crate::harness::{Answer, Relay, Request, Response, Upstream, sign};

const SECRET: &str = "a-secret-of-the-tests";

fn relay(config: &str) -> Relay {
    let mut relay = Relay::stopped(config);
    relay.environment("S", SECRET);
    relay.environment("BASIC", "user:password");
    relay.environment("WHSEC", &format!("whsec_{}", STANDARD.encode([5; 32])));
    relay.run();
    relay
}

fn source(scheme: &str, secret: &str, more: &str) -> String {
    format!(
        "[source.s]\npath = \"/in\"\nto = []\nverify = {{ scheme = \"{scheme}\", secrets = [\"env:{secret}\"] }}\n{more}\n"
    )
}

fn github(id: &str, body: &str) -> Request {
    let signature = format!("sha256={}", sign(SECRET, body.as_bytes()));
    Request::post("/in", body)
        .header("X-Hub-Signature-256", signature)
        .header("X-GitHub-Delivery", id)
        .header("X-GitHub-Event", "issues")
}

fn standard_webhooks(id: &str, body: &str) -> Request {
    let now = Clock::system().now().as_millis() / 1000;
    let mut mac = Hmac::<Sha256>::new_from_slice(&[5; 32]).unwrap();
    mac.update(format!("{id}.{now}.{body}").as_bytes());
    Request::post("/in", body)
        .header("webhook-id", id)
        .header("webhook-timestamp", now.to_string())
        .header("webhook-signature", format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

fn twilio(token: &str) -> Request {
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(b"https://hooks.example.com/inBodyhiSid1");
    Request::post("/in", "Sid=1&Body=hi")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Twilio-Signature", STANDARD.encode(mac.finalize().into_bytes()))
        .header("I-Twilio-Idempotency-Token", token)
}

fn pagerduty(body: &str) -> Request {
    Request::post("/in", body).header("X-PagerDuty-Signature", format!("v1={}", sign(SECRET, body.as_bytes())))
}

fn calendar(number: u32) -> Request {
    Request::post("/in", "")
        .header("X-Goog-Channel-Token", SECRET)
        .header("X-Goog-Channel-ID", "channel")
        .header("X-Goog-Message-Number", number.to_string())
        .header("X-Goog-Resource-State", "exists")
}

fn hubspot(body: &str) -> Request {
    let hash = Sha256::digest(format!("{SECRET}{body}").as_bytes());
    Request::post("/in", body)
        .header("X-HubSpot-Signature", hex::encode(hash))
        .header("X-HubSpot-Signature-Version", "v1")
}

fn postmark(body: &str) -> Request {
    Request::post("/in", body).header("Authorization", format!("Basic {}", STANDARD.encode("user:password")))
}

fn is_duplicate(answer: &Response) -> bool {
    answer.header("stagepost-duplicate") == Some("true")
}

#[test]
fn a_preset_answers_what_its_provider_documents_and_a_duplicate_the_same() {
    let url = "public_url = \"https://hooks.example.com/in\"";
    let cases: [(String, Request, u16, &str, Option<&str>); 6] = [
        (source("github", "S", ""), github("1", "{}"), 200, "", None),
        (source("twilio", "S", url), twilio("1"), 200, "<Response/>", Some("text/xml")),
        (source("pagerduty", "S", ""), pagerduty(r#"{"event":{"id":"1"}}"#), 202, "", None),
        (source("google-calendar", "S", ""), calendar(1), 204, "", None),
        (source("telegram", "S", ""), telegram(1), 200, "", None),
        (
            source("github", "S", "reply = { status = 201, headers = { X-Own = \"yes\" }, body = \"thanks\" }"),
            github("1", "{}"),
            201,
            "thanks",
            None,
        ),
    ];
    for (config, request, status, body, kind) in cases {
        let relay = relay(&config);
        let (first, again) = (relay.send(&request), relay.send(&request));
        for answer in [&first, &again] {
            assert_eq!((answer.status, &*answer.text()), (status, body), "{config}");
            assert_eq!(answer.header("content-type").filter(|_| kind.is_some()), kind, "{config}");
        }
        assert!(!is_duplicate(&first) && is_duplicate(&again), "{config}");
        assert_eq!(first.header("stagepost-event-id"), again.header("stagepost-event-id"), "{config}");
        assert_eq!(relay.events().len(), 1);
    }
}

fn telegram(number: u32) -> Request {
    Request::post("/in", format!(r#"{{"update_id":{number},"message":{{}}}}"#))
        .header("X-Telegram-Bot-Api-Secret-Token", SECRET)
}

#[test]
fn standard_webhooks_is_answered_with_the_id_and_a_duplicate_200() {
    let relay = relay(&source("standard-webhooks", "WHSEC", ""));
    let first = relay.send(&standard_webhooks("msg_1", r#"{"type":"a"}"#));
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(first.json()["id"], first.header("stagepost-event-id").unwrap());
    let again = relay.send(&standard_webhooks("msg_1", r#"{"type":"a"}"#));
    assert_eq!((again.status, again.json()), (200, first.json()));
}

#[test]
fn what_a_source_answers_to_missing_credentials_fits_its_scheme() {
    for (config, expected) in [
        (source("postmark", "BASIC", ""), "Basic realm=\"stagepost\""),
        (source("github", "S", ""), "Signature realm=\"stagepost\""),
        (source("telegram", "S", ""), "Token realm=\"stagepost\""),
        (source("basic", "BASIC", ""), "Basic realm=\"stagepost\""),
        (source("bearer", "S", ""), "Bearer realm=\"stagepost\""),
    ] {
        let answer = relay(&config).send(&Request::post("/in", "{}"));
        let wanted = answer.header("www-authenticate").unwrap_or_default();
        assert!(answer.status == 401 && wanted.starts_with(expected), "{config}: {answer:?}");
    }
}

#[test]
fn a_redelivery_from_github_s_page_revives_what_had_died_and_is_a_duplicate_else() {
    let upstream = Upstream::start();
    upstream.script(|_| Answer::Status(400));
    let url = upstream.url();
    let relay = relay(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nverify = {{ scheme = \"github\", secrets = [\"env:S\"] }}\n\
         [upstream.app]\nurl = \"{url}\"\n"
    ));
    let body = r#"{"action":"opened"}"#;
    let first = relay.send(&github("72d3162e", body));
    let id = first.header("stagepost-event-id").unwrap().to_owned();
    relay.wait_for_state(&id, "dead");
    assert_eq!(relay.show(&id)["type"], "issues.opened");
    upstream.script(|_| Answer::Status(200));
    // Nobody is told by GitHub that it is a redelivery: the id is the first one's.
    let again = relay.send(&github("72d3162e", body));
    assert!(is_duplicate(&again) && again.header("stagepost-event-id") == Some(&*id));
    relay.wait_for_state(&id, "delivered");
    relay.send(&github("72d3162e", body));
    assert_eq!((relay.events().len(), upstream.wait_for_requests(2).len()), (1, 2));
}

#[test]
fn on_duplicate_says_whether_a_resend_revives_is_ignored_or_is_an_event_of_its_own() {
    let upstream = Upstream::start();
    upstream.script(|_| Answer::Status(400));
    let url = upstream.url();
    for (choice, events) in [("ignore", 1), ("accept", 2)] {
        let relay = relay(&format!(
            "[source.s]\npath = \"/in\"\nto = [\"app\"]\nverify = {{ scheme = \"github\", secrets = [\"env:S\"] }}\n\
             dedupe = {{ on_duplicate = \"{choice}\" }}\n[upstream.app]\nurl = \"{url}\"\n"
        ));
        let first = relay.send(&github("1", "{}"));
        let id = first.header("stagepost-event-id").unwrap().to_owned();
        relay.wait_for_state(&id, "dead");
        let again = relay.send(&github("1", "{}"));
        assert_eq!(is_duplicate(&again), choice == "ignore", "{choice}");
        assert_eq!(relay.events().len(), events, "{choice}");
        // A later event is delivered to the end; by then a revival would have happened.
        let later = relay.send(&github("2", "{}"));
        relay.wait_for_state(later.header("stagepost-event-id").unwrap(), "dead");
        assert_eq!(relay.show(&id)["state"], "dead", "{choice}");
    }
}

#[test]
fn a_batch_is_the_same_whatever_the_order_of_its_items_and_an_id_alone_is_not_enough() {
    let relay = relay(&source("hubspot-v1", "S", ""));
    let item = |event: u32, at: u32| {
        format!(
            r#"{{"eventId":{event},"subscriptionId":1,"objectId":2,"occurredAt":{at},"subscriptionType":"contact.creation"}}"#
        )
    };
    let (a, b, c) = (item(1, 10), item(2, 11), item(1, 12));
    let first = relay.send(&hubspot(&format!("[{a},{b}]")));
    assert_eq!(first.status, 200, "{}", first.text());
    assert!(is_duplicate(&relay.send(&hubspot(&format!("[ {b}, {a} ]")))));
    for other in [format!("[{a}]"), format!("[{a},{b},{c}]"), format!("[{c},{b}]")] {
        assert!(!is_duplicate(&relay.send(&hubspot(&other))), "{other}");
    }
    assert_eq!(relay.events().len(), 4);
    assert_eq!(relay.show(first.header("stagepost-event-id").unwrap())["type"], "contact.creation");
}

#[test]
fn every_open_of_a_message_is_an_event_of_its_own() {
    let relay = relay(&source("postmark", "BASIC", ""));
    let open = |at: &str| format!(r#"{{"RecordType":"Open","MessageID":"m1","ReceivedAt":"{at}"}}"#);
    let noon = open("2026-01-01T12:00:00Z");
    assert!(!is_duplicate(&relay.send(&postmark(&noon))));
    assert!(is_duplicate(&relay.send(&postmark(&noon))));
    assert!(!is_duplicate(&relay.send(&postmark(&open("2026-01-01T12:00:01Z")))));
    let click = noon.replace("Open", "Click");
    assert!(!is_duplicate(&relay.send(&postmark(&click))));
    assert_eq!(relay.events().len(), 3);
}

#[test]
fn notices_that_repeat_are_never_taken_for_resends() {
    let body = r#"{"list_folder":{"accounts":["dbid:1"]}}"#;
    let notice = Request::post("/in", body).header("X-Dropbox-Signature", sign(SECRET, body.as_bytes()));
    let graph = Request::post("/in", format!(r#"{{"value":[{{"clientState":"{SECRET}","changeType":"updated"}}]}}"#));
    for (scheme, request) in [("dropbox", notice), ("ms-graph", graph)] {
        let relay = relay(&source(scheme, "S", ""));
        for _ in 0..3 {
            let answer = relay.send(&request);
            assert!(answer.status == 200 && !is_duplicate(&answer), "{scheme}: {answer:?}");
        }
        assert_eq!(relay.events().len(), 3, "{scheme}");
    }
}

#[test]
fn updates_that_telegram_numbered_and_that_never_came_are_gaps() {
    let relay = relay(&source("telegram", "S", ""));
    for number in [100, 101, 104] {
        assert_eq!(relay.send(&telegram(number)).status, 200);
    }
    let gaps = relay.cli(&["status", "--json"]).done().json()["gaps"].clone();
    assert_eq!(gaps[0]["ranges"], serde_json::json!([[102, 103]]), "{gaps}");
    assert_eq!(relay.metric("stagepost_gaps_total{source=\"s\"}") as u64, 1);
}
