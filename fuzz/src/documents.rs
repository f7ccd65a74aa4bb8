//! What tells where keys stand, and the keys: addresses, certificates, messages of Amazon SNS.
//!
//! Input: an address; a document, which is read as a certificate and as a message.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use stagepost::{
    clock::Timestamp,
    verify::{Head, KeyDocument, Place, Publisher, Unproven, subscription},
};

use super::{
    NOW_MS,
    genuine::{self, TOPIC},
    joined, pieces,
};

/// Takes any bytes.
pub fn run(data: &[u8]) -> bool {
    let [address, document] = pieces(data);
    if let Ok(address) = std::str::from_utf8(address) {
        for publisher in [Publisher::AwsSns, Publisher::PayPal, Publisher::Google] {
            if let Some(place) = Place::certificate(publisher, address) {
                allowed(&place, address, publisher == Publisher::PayPal);
                assert!(publisher != Publisher::Google, "Google publishes no certificates");
                assert!(publisher == Publisher::PayPal || place.target().ends_with(".pem"));
                certificate(publisher, &place, document);
            }
        }
        if let Some(place) = Place::confirmation(address) {
            allowed(&place, address, false);
        }
    }
    if let Ok(keys) = KeyDocument::pinned_certificates("file:any.pem", document) {
        assert!(!keys.reference().is_empty());
    }
    message(document)
}

/// The address says the same to the parser of the HTTP client.
fn allowed(place: &Place, address: &str, is_paypal: bool) {
    let uri: Uri = address.parse().expect("an address that may be asked is one");
    assert_eq!((uri.scheme_str(), uri.port()), (Some("https"), None));
    let authority = uri.authority().unwrap().as_str();
    assert!(authority.eq_ignore_ascii_case(place.host()), "{authority:?} is not {:?}", place.host());
    let rules: &[&str] = if is_paypal { &[".paypal.com"] } else { &[".amazonaws.com", ".amazonaws.com.cn"] };
    assert!(rules.iter().any(|end| place.host().ends_with(end)), "{:?} is nobody's", place.host());
    assert!(is_paypal || place.host().starts_with("sns."));
    assert_eq!(uri.path_and_query().unwrap().as_str(), place.target());
}

/// Nobody vouches for anything here.
fn certificate(publisher: Publisher, place: &Place, pem: &[u8]) {
    let Ok(mut read) = Unproven::read(publisher, place, pem) else { return };
    let _address = read.issuer_address();
    read.add(pem.to_vec());
    read.add_issuer(pem.to_vec());
    assert!(read.prove(&[], Timestamp::from_millis(NOW_MS)).is_err(), "a chain that ends nowhere is none");
}

fn message(body: &[u8]) -> bool {
    let headers = HeaderMap::new();
    let head = Head { method: &Method::POST, path: "/in", query: None, headers: &headers };
    let verdict = super::headers::judge(&genuine::sns(), &head, body, &[body]);
    // The second reader is stricter about members that do not matter.
    let Ok(said) = serde_json::from_slice::<Value>(body) else { return verdict.is_ok() };
    if let Some(asked) = subscription(body) {
        assert_eq!(said["Type"], "SubscriptionConfirmation");
        assert_eq!(said["TopicArn"].as_str(), Some(&*asked.topic));
    }
    if verdict.is_ok() {
        let signed: Value =
            serde_json::from_str(if said["Token"].is_null() { NOTIFICATION } else { CONFIRMATION }).unwrap();
        for name in ["Message", "MessageId", "TopicArn", "Type", "Timestamp"] {
            assert_eq!(said[name], signed[name], "nobody signed this {name}");
        }
    }
    verdict.is_ok()
}

const NOTIFICATION: &str = r#"{"Type":"Notification","MessageId":"m-1","TopicArn":"arn:aws:sns:us-east-1:123456789012:orders","Message":"{\"order\": 1}\nline two","Timestamp":"2026-01-02T03:04:05.000Z"}"#;
const CONFIRMATION: &str = r#"{"Type":"SubscriptionConfirmation","MessageId":"m-2","TopicArn":"arn:aws:sns:us-east-1:123456789012:orders","Message":"You have chosen to subscribe","Timestamp":"2026-01-02T03:04:05.000Z"}"#;
const CERTIFICATE_ADDRESS: &str = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem";

/// A notification and a request to confirm, with addresses of each publisher.
pub fn seeds() -> Vec<Vec<u8>> {
    let confirm = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns&Token=abc";
    let paypal = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77";
    let mut notification: Value = serde_json::from_str(NOTIFICATION).unwrap();
    let mut confirmation: Value = serde_json::from_str(CONFIRMATION).unwrap();
    confirmation["SubscribeURL"] = confirm.into();
    confirmation["Token"] = "abc".into();
    for (message, names) in [
        (&mut notification, &["Message", "MessageId", "Timestamp", "TopicArn", "Type"][..]),
        (&mut confirmation, &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"][..]),
    ] {
        assert_eq!(message["TopicArn"], TOPIC);
        let text: String = names.iter().map(|name| format!("{name}\n{}\n", message[*name].as_str().unwrap())).collect();
        message["SignatureVersion"] = "2".into();
        message["SigningCertURL"] = CERTIFICATE_ADDRESS.into();
        message["Signature"] = BASE64_STANDARD.encode(genuine::rsa(text.as_bytes())).into();
    }
    let (notification, confirmation) = (notification.to_string(), confirmation.to_string());
    let pieces = [(CERTIFICATE_ADDRESS, &notification), (confirm, &confirmation), (paypal, &notification)];
    pieces.iter().map(|(address, document)| joined(&[address.as_bytes(), document.as_bytes()])).collect()
}

/// Inputs that are worth beginning with, though nobody signed them.
pub fn hints() -> Vec<Vec<u8>> {
    let certificate = include_bytes!("../../tests/fixtures/keys/certificate-one.pem");
    vec![joined(&[CERTIFICATE_ADDRESS.as_bytes(), certificate])]
}
