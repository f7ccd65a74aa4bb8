//! Requests that wait for keys from outside, and those that don't.

use std::sync::Arc;

use http::header;
use serde_json::{Value, json};

use super::{
    Seen,
    fake::{Door, source, table},
    post,
};
use crate::{
    clock::Timestamp,
    keys::{
        FAILED_FOR, Keys,
        testing::{Page, Web},
    },
    routing::{Challenge, ChallengeRule, Source},
    telemetry::RequestResult,
    verify::{
        SignatureVersion, SnsSettings, Verifier,
        testing::{NOW_MS, ONE, sign_base64},
    },
};

const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:orders";
const CERTIFICATE: &str = "https://sns.us-east-1.amazonaws.com/a.pem";
const CONFIRM: &str = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=1";

async fn door(confirm: bool) -> (Door, Arc<Web>) {
    let web = Web::start(&["sns.us-east-1.amazonaws.com"]).await;
    let door = Door::with_keys(Timestamp::from_millis(NOW_MS), |clock, metrics| {
        Keys::new(web.clone(), clock.clone(), metrics.clone(), Some(web.settings()))
    });
    let settings = SnsSettings {
        topics: vec![TOPIC.to_owned()],
        signature_version: SignatureVersion::Two,
        confirm,
        tolerance: std::time::Duration::from_secs(3600),
        pinned: None,
    };
    let sns = Source {
        verifier: Verifier::aws_sns(settings),
        challenge: Some(ChallengeRule::new(Challenge::Sns)),
        ..source("sns", "/sns")
    };
    door.live.swap(table(vec![Arc::new(sns), Arc::new(source("open", "/open"))], |_| {}));
    (door, web)
}

fn publish(web: &Web) {
    web.put(CERTIFICATE, Some(Page::new(web.authority.certify("sns.amazonaws.com", ONE, |_| {}))));
}

fn message(kind: &str) -> String {
    let mut message = json!({
        "Type": kind, "MessageId": "1", "TopicArn": TOPIC, "Message": "hello", "Timestamp": "2026-01-02T03:04:00.000Z",
        "SignatureVersion": "2", "SigningCertURL": CERTIFICATE,
    });
    let names: &[&str] = match kind {
        "Notification" => &["Message", "MessageId", "Timestamp", "TopicArn", "Type"],
        _ => {
            message["SubscribeURL"] = CONFIRM.into();
            message["Token"] = "1".into();
            &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        }
    };
    let text: String =
        names.iter().map(|name| format!("{name}\n{}\n", message[*name].as_str().unwrap_or_default())).collect();
    message["Signature"] = Value::from(sign_base64(ONE, text.as_bytes()));
    message.to_string()
}

async fn sent(door: &Door, body: String) -> Seen {
    door.ask(post("/sns", body)).await
}

#[tokio::test]
async fn keys_that_can_not_be_had_are_our_fault_and_the_request_may_come_again() {
    let (door, web) = door(true).await;
    let refused = sent(&door, message("Notification")).await;
    assert_eq!(refused.status, 503);
    let wait: u64 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((5..=30).contains(&wait));
    assert!(!refused.body.contains("sns"), "the sender does not read why: {}", refused.body);
    let recorded = door.ingress.refused().after(0).pop().unwrap();
    assert_eq!((recorded.reason, recorded.status), ("keys_unavailable", 503));
    assert_eq!(door.log.appended(), 0);
    publish(&web);
    door.time.advance(FAILED_FOR);
    assert_eq!(sent(&door, message("Notification")).await.status, 202);
    assert_eq!(door.log.event(0).verification.secret.as_deref(), Some(CERTIFICATE));
}

#[tokio::test]
async fn what_can_be_refused_without_a_key_asks_for_none() {
    let (door, web) = door(true).await;
    let elsewhere = message("Notification").replace("https://sns.us-east-1.amazonaws.com/", "https://evil.example/");
    for body in [elsewhere, message("Notification").replace(TOPIC, "arn:aws:sns:us-east-1:6:x"), String::new()] {
        assert_eq!(sent(&door, body).await.status, 401);
    }
    assert_eq!(web.dialled(), []);
}

#[tokio::test]
async fn a_source_without_keys_from_outside_never_waits() {
    let (door, web) = door(true).await;
    web.answers.forget_permits(usize::MAX);
    publish(&web);
    let (waiting, free) = tokio::join!(sent(&door, message("Notification")), async {
        web.asked_times(1).await;
        let free = door.ask(post("/open", "x")).await;
        web.answers.add_permits(1);
        free
    });
    assert_eq!((waiting.status, free.status), (202, 202));
    assert_eq!(door.log.event(0).source.as_ref(), "open", "it was stored first");
}

#[tokio::test]
async fn a_subscription_is_confirmed_only_if_it_was_signed_and_is_no_event() {
    let (door, web) = door(true).await;
    publish(&web);
    web.put(CONFIRM, Some(Page::new("<ConfirmSubscriptionResponse/>")));
    let forged = message("SubscriptionConfirmation").replace("\"hello\"", "\"forged\"");
    assert_eq!(sent(&door, forged).await.status, 401);
    let answer = sent(&door, message("SubscriptionConfirmation")).await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    web.asked_times(2).await;
    assert_eq!(web.asked(), [CERTIFICATE, CONFIRM]);
    assert_eq!(door.log.appended(), 0);
    assert_eq!(door.count("sns", RequestResult::Challenge), 1);
}

#[tokio::test]
async fn a_subscription_waits_for_the_operator_if_the_source_says_so() {
    let (door, web) = door(false).await;
    publish(&web);
    assert_eq!(sent(&door, message("SubscriptionConfirmation")).await.status, 200);
    assert_eq!(sent(&door, message("UnsubscribeConfirmation")).await.status, 202, "an event like any other");
    assert_eq!(web.asked(), [CERTIFICATE]);
    assert_eq!(door.log.appended(), 1);
}
