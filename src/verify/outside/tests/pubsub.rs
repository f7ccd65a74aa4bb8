//! Google Pub/Sub.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::verify::PubSubSettings;

fn settings(keys: &[(&str, &str)]) -> PubSubSettings {
    let document = KeyDocument::key_set("file:google.json", key_set(keys).as_bytes()).unwrap();
    PubSubSettings {
        audience: "https://hooks.example.com/pubsub".to_owned(),
        service_account: "pusher@project.iam.gserviceaccount.com".to_owned(),
        tolerance: Duration::from_secs(60),
        pinned: Some(Arc::new(document)),
    }
}

fn verifier() -> Verifier {
    Verifier::google_pubsub(settings(&[("one", ONE)]))
}

fn header() -> Value {
    json!({ "alg": "RS256", "kid": "one", "typ": "JWT" })
}

fn claims() -> Value {
    json!({
        "aud": "https://hooks.example.com/pubsub",
        "azp": "113774264463038321964",
        "email": "pusher@project.iam.gserviceaccount.com",
        "email_verified": true,
        "exp": NOW_MS / 1000 + 3_590,
        "iat": NOW_MS / 1000 - 10,
        "iss": "https://accounts.google.com",
        "sub": "113774264463038321964",
    })
}

fn bearer(token: &str) -> Request {
    Request::new(&[("authorization", &format!("Bearer {token}"))], br#"{"message":{"messageId":"1"}}"#)
}

fn with_claim(name: &str, value: Value) -> Request {
    let mut claims = claims();
    claims[name] = value;
    bearer(&token(ONE, &header(), &claims))
}

fn with_header(name: &str, value: Value) -> Request {
    let mut header = header();
    header[name] = value;
    bearer(&token(ONE, &header, &claims()))
}

#[test]
fn a_token_of_google_for_this_audience_and_account_is_genuine() {
    let good = bearer(&token(ONE, &header(), &claims()));
    let verified = verdict(&verifier(), &good).unwrap();
    assert_eq!((verified.scheme, verified.skew_ms), ("google-pubsub", Some(-10_000)));
    assert_eq!(verified.secret.as_deref(), Some("file:google.json"));
    assert!(verdict(&verifier(), &with_claim("iss", "accounts.google.com".into())).is_ok());
    let fetching = Verifier::google_pubsub(PubSubSettings { pinned: None, ..settings(&[("one", ONE)]) });
    let verified = verdict_at(&fetching, &good, NOW_MS, |wanted| {
        assert_eq!(wanted.place.to_string(), "https://www.googleapis.com/oauth2/v3/certs");
        assert_eq!(wanted.kid.as_deref(), Some("one"));
        Arc::new(KeyDocument::key_set("web", key_set(&[("one", ONE)]).as_bytes()).unwrap())
    });
    assert!(verified.is_ok());
}

#[test]
fn a_rotated_key_counts_beside_the_old_one_and_only_under_its_own_name() {
    let verifier = Verifier::google_pubsub(settings(&[("one", ONE), ("two", TWO)]));
    let by = |kid: &str, key| bearer(&token(key, &json!({ "alg": "RS256", "kid": kid }), &claims()));
    assert!(verdict(&verifier, &by("one", ONE)).is_ok());
    assert!(verdict(&verifier, &by("two", TWO)).is_ok());
    assert_eq!(verdict(&verifier, &by("one", TWO)), Err(Refusal::BadSignature));
    assert_eq!(verdict(&verifier, &by("three", ONE)), refused(Reason::UnknownKey));
}

#[test]
fn every_claim_is_judged() {
    let now = NOW_MS / 1000;
    let cases = [
        (with_claim("aud", "https://other.example.com".into()), refused(Reason::OtherAudience)),
        (with_claim("iss", "https://evil.example".into()), refused(Reason::OtherIssuer)),
        (with_claim("email", "other@project.iam.gserviceaccount.com".into()), refused(Reason::OtherAccount)),
        (with_claim("email_verified", false.into()), refused(Reason::OtherAccount)),
        (with_claim("exp", (now - 61).into()), Err(Refusal::Stale)),
        (with_claim("exp", 0.into()), Err(Refusal::Stale)),
        (with_claim("iat", (now + 61).into()), Err(Refusal::Future)),
        (with_claim("email_verified", "true".into()), refused(Reason::MalformedToken)),
        (with_claim("exp", "soon".into()), refused(Reason::MalformedToken)),
        (with_claim("iat", Value::Null), refused(Reason::MalformedToken)),
        (with_claim("email", Value::Null), refused(Reason::MalformedToken)),
        (with_claim("aud", json!(["https://hooks.example.com/pubsub"])), refused(Reason::MalformedToken)),
    ];
    for (request, expected) in cases {
        assert_eq!(verdict(&verifier(), &request), expected, "{:?}", request.headers);
    }
    let mut expired = claims();
    (expired["iat"], expired["exp"]) = ((now - 3_660).into(), (now - 60).into());
    assert!(verdict(&verifier(), &bearer(&token(ONE, &header(), &expired))).is_ok(), "within the tolerance");
    (expired["iat"], expired["exp"]) = ((now - 30).into(), (now - 40).into());
    assert_eq!(verdict(&verifier(), &bearer(&token(ONE, &header(), &expired))), Err(Refusal::Stale));
    assert!(verdict(&verifier(), &with_claim("iat", (now + 60).into())).is_ok());
}

#[test]
fn the_algorithm_is_never_the_tokens_choice() {
    for alg in ["none", "None", "HS256", "RS384", "ES256", "rs256", ""] {
        assert_eq!(verdict(&verifier(), &with_header("alg", alg.into())), refused(Reason::OtherAlgorithm), "{alg}");
    }
    for (name, value) in [("kid", Value::Null), ("kid", "".into()), ("crit", json!(["exp"])), ("alg", Value::Null)] {
        assert_eq!(verdict(&verifier(), &with_header(name, value)), refused(Reason::MalformedToken), "{name}");
    }
    assert_eq!(verdict(&verifier(), &with_header("kid", "k".repeat(257).into())), refused(Reason::MalformedToken));
}

#[test]
fn what_is_no_token_is_refused() {
    let good = token(ONE, &header(), &claims());
    let unsigned = good.rsplit_once('.').unwrap().0.to_owned();
    let malformed = ["", "a", "a.b", "a.b.c", "...", unsigned.as_str(), &format!("{good}.x"), &"x".repeat(9000)];
    for text in malformed {
        assert_eq!(verdict(&verifier(), &bearer(text)), refused(Reason::MalformedToken), "{text}");
    }
    let request = bearer(&good);
    assert_eq!(verdict(&verifier(), &bearer(&format!("{unsigned}."))), Err(Refusal::BadSignature));
    assert_eq!(verdict(&verifier(), &bearer(&format!("{unsigned}.=="))), Err(Refusal::MalformedSignature));
    assert_eq!(verdict(&verifier(), &request.without("authorization")), Err(Refusal::MissingSignature));
    let twice = request.with_second("authorization", &format!("Bearer {good}"));
    assert_eq!(verdict(&verifier(), &twice), Err(Refusal::DuplicatedSignature));
    for scheme in ["Basic", "Bearer:"] {
        let other = request.with("authorization", &format!("{scheme} {good}"));
        assert_eq!(verdict(&verifier(), &other), refused(Reason::MalformedToken));
    }
    assert!(verdict(&verifier(), &request.with("authorization", &format!("bearer {good}"))).is_ok());
}

#[test]
fn no_change_of_a_single_bit_of_the_token_verifies() {
    let (good, verifier) = (token(ONE, &header(), &claims()), verifier());
    for flipped in flips(good.as_bytes()).filter_map(|bytes| String::from_utf8(bytes).ok()) {
        if HeaderValue::from_str(&flipped).is_ok() {
            assert!(verdict(&verifier, &bearer(&flipped)).is_err(), "{flipped}");
        }
    }
}
