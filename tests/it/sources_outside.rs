//! SNS, PayPal, Pub/Sub and Salesforce on the real binary, with pinned keys: nothing leaves the machine.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use stagepost::clock::Clock;

use crate::harness::{Relay, Request};

const KEY: &str = include_str!("../fixtures/keys/rsa-one.pem");
const OTHER_KEY: &str = include_str!("../fixtures/keys/rsa-two.pem");
const CERTIFICATE: &str = include_str!("../fixtures/keys/certificate-one.pem");
const KEY_SET: &str = include_str!("../fixtures/keys/keys.json");
const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:orders";

fn relay(verify: &str) -> Relay {
    let mut relay = Relay::stopped(&format!(
        "[source.s]\npath = \"/in\"\nto = []\nallow = [\"127.0.0.1\"]\nverify = {{ {verify} }}\n"
    ));
    relay.write("key.pem", CERTIFICATE);
    relay.write("google.json", KEY_SET);
    relay.run();
    relay
}

fn sign(key: &str, message: &[u8]) -> Vec<u8> {
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap() else { panic!("PKCS#8") };
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

fn sns(key: &str, kind: &str, id: &str) -> Request {
    let mut message = json!({
        "Type": kind, "MessageId": id, "TopicArn": TOPIC, "Message": "{\"order\": 1}", "SignatureVersion": "2",
        "Timestamp": Clock::system().now().to_string(),
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/a.pem",
    });
    let mut names = vec!["Message", "MessageId", "Timestamp", "TopicArn", "Type"];
    if kind != "Notification" {
        message["SubscribeURL"] = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=tok".into();
        message["Token"] = "tok".into();
        names = vec!["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"];
    }
    let text: String = names.iter().map(|name| format!("{name}\n{}\n", message[*name].as_str().unwrap())).collect();
    message["Signature"] = STANDARD.encode(sign(key, text.as_bytes())).into();
    Request::post("/in", message.to_string()).header("Content-Type", "text/plain; charset=UTF-8")
}

fn refusals(relay: &Relay) -> Vec<String> {
    let lines = relay.cli(&["refused", "--json"]).done().lines();
    lines.iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_notification_of_sns_is_stored_once_and_a_forged_one_never() {
    let relay =
        relay(&format!("scheme = \"aws-sns\", topic_arn = \"{TOPIC}\", certificate = \"key.pem\", confirm = false"));
    let first = relay.send(&sns(KEY, "Notification", "a"));
    assert_eq!((first.status, first.text().as_str()), (200, ""));
    let again = relay.send(&sns(KEY, "Notification", "a"));
    assert_eq!((again.status, again.header("stagepost-duplicate")), (200, Some("true")));
    assert_eq!(relay.send(&sns(OTHER_KEY, "Notification", "b")).status, 401);
    let asked = relay.send(&sns(KEY, "SubscriptionConfirmation", "c"));
    assert_eq!((asked.status, asked.header("stagepost-event-id")), (200, None));
    relay.wait_for_diagnostics("ConfirmSubscription");
    let events = relay.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], "Notification");
    let shown = relay.show(first.header("stagepost-event-id").unwrap());
    assert_eq!(shown["verification"]["scheme"], "aws-sns");
    assert!(shown["verification"]["secret"].as_str().unwrap().ends_with("key.pem"));
    assert_eq!(refusals(&relay), ["bad_signature"]);
}

#[test]
fn a_topic_that_still_signs_with_sha_1_is_refused_with_the_setting_to_change() {
    let relay = relay(&format!("scheme = \"aws-sns\", topic_arn = \"{TOPIC}\", certificate = \"key.pem\""));
    let request = sns(KEY, "Notification", "a");
    let mut message: Value = serde_json::from_slice(&request.body).unwrap();
    message["SignatureVersion"] = "1".into();
    assert_eq!(relay.send(&Request::post("/in", message.to_string())).status, 401);
    assert_eq!(refusals(&relay), ["signature_version_1"]);
    relay.wait_for_diagnostics("attribute SignatureVersion to 2");
}

#[test]
fn a_transmission_of_paypal_is_verified_by_its_checksum() {
    let relay = relay("scheme = \"paypal\", webhook_id = \"1JE4\", certificate = \"key.pem\"");
    let body = br#"{"id":"WH-1","event_type":"PAYMENT.CAPTURE.COMPLETED"}"#;
    let mut crc = flate2::Crc::new();
    crc.update(body);
    let time = Clock::system().now().to_string();
    let message = format!("id-1|{time}|1JE4|{}", crc.sum());
    let request = |body: &[u8]| {
        Request::post("/in", body)
            .header("PAYPAL-TRANSMISSION-ID", "id-1")
            .header("PAYPAL-TRANSMISSION-TIME", time.clone())
            .header("PAYPAL-TRANSMISSION-SIG", STANDARD.encode(sign(KEY, message.as_bytes())))
            .header("PAYPAL-CERT-URL", "https://api.paypal.com/v1/notifications/certs/CERT-1")
            .header("PAYPAL-AUTH-ALGO", "SHA256withRSA")
    };
    assert_eq!(relay.send(&request(body)).status, 200);
    assert_eq!(relay.send(&request(b"{}")).status, 401);
    assert_eq!(relay.events()[0]["type"], "PAYMENT.CAPTURE.COMPLETED");
}

#[test]
fn a_push_of_google_is_verified_by_its_token() {
    let relay = relay(
        "scheme = \"google-pubsub\", audience = \"https://x/in\", service_account = \"p@x.iam.gserviceaccount.com\", \
         jwks = \"google.json\"",
    );
    let now = Clock::system().now().as_millis() / 1000;
    let token = |audience: &str| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({
            "iss": "https://accounts.google.com", "aud": audience, "email": "p@x.iam.gserviceaccount.com",
            "email_verified": true, "iat": now, "exp": now + 3600,
        });
        let message = format!("{}.{}", part(json!({ "alg": "RS256", "kid": "one" })), part(claims));
        format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(sign(KEY, message.as_bytes())))
    };
    let push = |audience: &str| {
        Request::post("/in", r#"{"message":{"data":"eA==","messageId":"7"},"subscription":"s"}"#)
            .header("Authorization", token(audience))
    };
    let answer = relay.send(&push("https://x/in"));
    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    assert_eq!(relay.send(&push("https://x/in")).header("stagepost-duplicate"), Some("true"));
    assert_eq!(relay.send(&push("https://other/in")).status, 401);
    assert_eq!(refusals(&relay), ["other_audience"]);
    let shown = relay.cli(&["show", answer.header("stagepost-event-id").unwrap(), "--http"]).done();
    assert!(!shown.out.contains("eyJ"), "the token is hidden: {}", shown.out);
}

#[test]
fn a_message_of_salesforce_is_acknowledged_and_its_session_id_is_hidden() {
    let relay = relay("scheme = \"salesforce\", organization_id = \"00DD0000000FOOaMAO\"");
    let message = |organization: &str, ids: &[&str]| {
        let notifications: String =
            ids.iter().map(|id| format!("<Notification><Id>{id}</Id><sObject/></Notification>")).collect();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><e:Envelope \
             xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body><notifications \
             xmlns=\"http://soap.sforce.com/2005/09/outbound\"><OrganizationId>{organization}</OrganizationId>\
             <SessionId>live-credential</SessionId>{notifications}</notifications></e:Body></e:Envelope>"
        );
        Request::post("/in", body).header("Content-Type", "text/xml; charset=utf-8")
    };
    let first = relay.send(&message("00DD0000000FOOaMAO", &["04l1", "04l2"]));
    assert_eq!((first.status, first.header("content-type")), (200, Some("text/xml")));
    assert!(first.text().contains("<Ack>true</Ack>"));
    let again = relay.send(&message("00DD0000000FOOa", &["04l2", "04l1"]));
    assert_eq!((again.status, again.header("stagepost-duplicate")), (200, Some("true")));
    assert_eq!(again.text(), first.text());
    assert_eq!(relay.send(&message("00DD0000000BARa", &["04l3"])).status, 401);
    let id = first.header("stagepost-event-id").unwrap();
    for how in ["--body", "--http", "--curl"] {
        assert!(!relay.cli(&["show", id, how]).done().out.contains("live-credential"), "{how}");
        assert!(relay.cli(&["show", id, how, "--reveal"]).done().out.contains("live-credential"), "{how}");
    }
    assert!(!relay.diagnostics().contains("live-credential"));
}
