//! Amazon SNS.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::verify::{SignatureVersion, SnsSettings, Subscription, subscription};

const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:orders";
const CERTIFICATE: &str = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-01d0.pem";

fn settings() -> SnsSettings {
    SnsSettings {
        topics: vec![TOPIC.to_owned()],
        signature_version: SignatureVersion::Two,
        confirm: true,
        tolerance: Duration::from_secs(3600),
        pinned: Some(pinned(&[ONE])),
    }
}

fn verifier() -> Verifier {
    Verifier::aws_sns(settings())
}

fn notification() -> Value {
    json!({
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Subject": "My First Message",
        "Message": "Hello\nworld, caf\u{e9} \"quoted\"",
        "Timestamp": "2026-01-02T03:04:00.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE,
        "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=a",
    })
}

fn confirmation() -> Value {
    json!({
        "Type": "SubscriptionConfirmation",
        "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": "2336412f37",
        "TopicArn": TOPIC,
        "Message": "You have chosen to subscribe to the topic.",
        "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37",
        "Timestamp": "2026-01-02T03:04:00.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE,
    })
}

/// The text that SNS signs, written down from its developer guide.
fn canonical(message: &Value) -> String {
    let names: &[&str] = match message["Type"].as_str() {
        Some("Notification") => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
        _ => &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"],
    };
    let present = names.iter().filter_map(|name| Some((name, message[*name].as_str()?)));
    present.map(|(name, value)| format!("{name}\n{value}\n")).collect()
}

fn signed_by(key: &str, mut message: Value) -> Request {
    message["Signature"] = sign_base64(key, canonical(&message).as_bytes()).into();
    Request::new(&[("content-type", "text/plain; charset=UTF-8")], message.to_string().as_bytes())
}

fn signed(message: Value) -> Request {
    signed_by(ONE, message)
}

fn changed(name: &str, value: Value) -> Value {
    let mut message = notification();
    message[name] = value;
    message
}

#[test]
fn every_type_of_message_is_verified_with_its_own_fields() {
    let mut unsubscribe = confirmation();
    unsubscribe["Type"] = "UnsubscribeConfirmation".into();
    let mut without_subject = notification();
    without_subject.as_object_mut().unwrap().remove("Subject");
    for message in [notification(), confirmation(), unsubscribe, without_subject, changed("Subject", Value::Null)] {
        let verified = verdict(&verifier(), &signed(message.clone())).unwrap();
        assert_eq!(verified.scheme, "aws-sns", "{message}");
        assert_eq!(verified.secret.as_deref(), Some("file:pinned.pem"));
        assert_eq!(verified.skew_ms, Some(-5_000));
    }
}

#[test]
fn what_is_signed_can_not_be_changed() {
    let good = signed(notification());
    let message: Value = serde_json::from_slice(&good.body).unwrap();
    for name in ["Message", "MessageId", "Subject", "Timestamp", "Type"] {
        let mut tampered = message.clone();
        tampered[name] = match name {
            "Timestamp" => "2026-01-02T03:03:00.000Z".into(),
            "Type" => "UnsubscribeConfirmation".into(),
            _ => "other".into(),
        };
        assert!(verdict(&verifier(), &good.with_body(tampered.to_string())).is_err(), "{name}");
    }
    let mut without = message.clone();
    without.as_object_mut().unwrap().remove("Subject");
    assert_eq!(verdict(&verifier(), &good.with_body(without.to_string())), Err(Refusal::BadSignature));
    assert_eq!(verdict(&verifier(), &signed_by(TWO, notification())), Err(Refusal::BadSignature));
}

#[test]
fn no_change_of_a_single_bit_of_the_signed_fields_verifies() {
    let (good, verifier) = (signed(notification()), verifier());
    let text = String::from_utf8(good.body.clone()).unwrap();
    // What SNS does not sign may change: the unsubscribe address, and where the certificate stands (it is pinned here).
    let unsigned = ["UnsubscribeURL", "SigningCertURL"].map(|name| {
        let at = text.find(name).unwrap() - 1;
        at..at + text[at..].find(',').map_or(text.len() - at, |end| end)
    });
    let original: Value = serde_json::from_slice(&good.body).unwrap();
    for (bit, body) in flips(&good.body).enumerate() {
        if unsigned.iter().any(|range| range.contains(&(bit / 8))) {
            continue;
        }
        let same = serde_json::from_slice::<Value>(&body).is_ok_and(|value| value == original);
        assert!(same || verdict(&verifier, &good.with_body(body)).is_err(), "bit {bit}");
    }
}

#[test]
fn both_certificates_of_a_pinned_file_count() {
    let verifier = Verifier::aws_sns(SnsSettings { pinned: Some(pinned(&[TWO, ONE])), ..settings() });
    assert!(verdict(&verifier, &signed_by(ONE, notification())).is_ok());
    assert!(verdict(&verifier, &signed_by(TWO, notification())).is_ok());
}

#[test]
fn a_message_must_be_fresh() {
    let (verifier, good) = (verifier(), signed(notification()));
    let sent = NOW_MS - 5_000;
    let at = |now| verdict_at(&verifier, &good, now, |_| panic!()).map(|verified| verified.skew_ms);
    assert_eq!(at(sent + 3_600_000), Ok(Some(-3_600_000)));
    assert_eq!(at(sent + 3_600_001), Err(Refusal::Stale));
    assert_eq!(at(sent - 900_000), Ok(Some(900_000)));
    assert_eq!(at(sent - 900_001), Err(Refusal::Future));
    let undated = verdict(&verifier, &signed(changed("Timestamp", "yesterday".into())));
    assert_eq!(undated, Err(Refusal::MalformedTimestamp));
}

#[test]
fn a_topic_of_somebody_else_is_refused_before_any_key_is_asked_for() {
    let verifier = Verifier::aws_sns(SnsSettings { pinned: None, ..settings() });
    let message = changed("TopicArn", "arn:aws:sns:us-east-1:666666666666:evil".into());
    assert_eq!(verdict(&verifier, &signed(message)), refused(Reason::OtherTopic));
    let message = changed("SigningCertURL", "https://sns.us-east-1.amazonaws.com.evil.example/a.pem".into());
    assert_eq!(verdict(&verifier, &signed(message)), refused(Reason::KeyAddress));
}

#[test]
fn the_certificate_is_asked_for_where_the_message_says() {
    let verifier = Verifier::aws_sns(SnsSettings { pinned: None, ..settings() });
    assert!(verifier.fetches_keys());
    let verified = verdict_at(&verifier, &signed(notification()), NOW_MS, |wanted| {
        assert_eq!(wanted.place.to_string(), CERTIFICATE);
        assert_eq!(wanted.kid, None);
        pinned(&[ONE])
    });
    assert!(verified.is_ok());
    assert!(!Verifier::aws_sns(settings()).fetches_keys());
}

#[test]
fn sha_1_is_taken_only_when_the_configuration_says_so() {
    use base64::Engine as _;
    // Made with `openssl dgst -sha1 -sign rsa-one.pem` over the canonical text of the notification.
    let signature = include_str!("../../../../tests/fixtures/keys/sns-version-1.base64").trim();
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(signature).unwrap().len(), 256);
    let mut message = changed("SignatureVersion", "1".into());
    message["Signature"] = signature.into();
    let request = Request::new(&[], message.to_string().as_bytes());
    let refusal = verdict(&verifier(), &request).unwrap_err();
    assert_eq!(refusal.as_str(), "signature_version_1");
    assert!(refusal.advice().unwrap().contains("attribute SignatureVersion to 2"));
    let old = Verifier::aws_sns(SnsSettings { signature_version: SignatureVersion::One, ..settings() });
    assert!(verdict(&old, &request).is_ok());
    assert!(verdict(&old, &signed(notification())).is_ok(), "version 2 is always taken");
    message["Message"] = "other".into();
    assert_eq!(verdict(&old, &request.with_body(message.to_string())), Err(Refusal::BadSignature));
    // The version is not signed: a signature of one kind is none of the other.
    let mut claims_two: Value = serde_json::from_slice(&request.body).unwrap();
    claims_two["SignatureVersion"] = "2".into();
    assert_eq!(verdict(&old, &request.with_body(claims_two.to_string())), Err(Refusal::BadSignature));
    let three = verdict(&old, &signed(changed("SignatureVersion", "3".into())));
    assert_eq!(three, refused(Reason::SignatureVersion));
}

#[test]
fn raw_delivery_is_refused_with_the_setting_to_change() {
    let request = Request::new(&[("x-amz-sns-rawdelivery", "true")], b"bare");
    let refusal = verdict(&verifier(), &request).unwrap_err();
    assert_eq!(refusal.as_str(), "raw_message_delivery");
    assert!(refusal.advice().unwrap().contains("RawMessageDelivery"));
}

#[test]
fn what_is_no_message_is_refused() {
    let good = signed(notification());
    let twice = String::from_utf8(good.body.clone()).unwrap().replacen('{', "{\"Message\":\"first\",", 1);
    let bodies: [&[u8]; 7] = [b"", b"{}", b"[]", b"\xff\xfe", b"null", twice.as_bytes(), b"{\"Type\":1}"];
    for body in bodies {
        assert_eq!(verdict(&verifier(), &good.with_body(body)), refused(Reason::MalformedBody));
    }
    for (name, value) in [("Type", "Other"), ("MessageId", "a\nSubject\nb"), ("Subject", "a\nb"), ("Subject", "a\rb")] {
        assert_eq!(verdict(&verifier(), &signed(changed(name, value.into()))), refused(Reason::MalformedBody));
    }
    let mut message: Value = serde_json::from_slice(&good.body).unwrap();
    message["Signature"] = "not base64!".into();
    assert_eq!(verdict(&verifier(), &good.with_body(message.to_string())), Err(Refusal::MalformedSignature));
    message["Signature"] = "".into();
    assert_eq!(verdict(&verifier(), &good.with_body(message.to_string())), Err(Refusal::BadSignature));
}

#[test]
fn the_fields_of_a_message_can_not_be_cut_otherwise() {
    // The genuine text of a message with a line break, read as one with another message, id and subject.
    let good = signed(changed("Message", "real\nMessageId\nforged".into()));
    let mut message: Value = serde_json::from_slice(&good.body).unwrap();
    message["Message"] = "real".into();
    message["MessageId"] = "forged\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324".into();
    assert_eq!(canonical(&message), canonical(&serde_json::from_slice(&good.body).unwrap()));
    assert_eq!(verdict(&verifier(), &good.with_body(message.to_string())), refused(Reason::MalformedBody));
}

#[test]
fn a_subscription_is_told_from_other_messages() {
    let body = confirmation().to_string();
    assert_eq!(subscription(body.as_bytes()), None, "it needs a signature to be a message at all");
    let signed = signed(confirmation());
    let Some(Subscription { topic, place: Some(place) }) = subscription(&signed.body) else { panic!() };
    assert_eq!(topic, TOPIC);
    assert_eq!(place.to_string(), "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37");
    assert_eq!(subscription(&super::sns::signed(notification()).body), None);
    let mut elsewhere = confirmation();
    elsewhere["SubscribeURL"] = "https://10.0.0.1/admin".into();
    let asked = subscription(&super::sns::signed(elsewhere).body).unwrap();
    assert_eq!(asked.place, None);
}
