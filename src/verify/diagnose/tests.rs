//! Every mistake that is known, made on purpose and found.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::verify::{HmacSettings, PresetSettings, Proof, Secret, TimestampSettings, TimestampUnit};

const NOW_MS: u64 = 1_767_323_045_000;

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn secrets(text: &str) -> Vec<Secret> {
    vec![Secret::new("env:S", text.as_bytes().to_vec())]
}

/// HMAC-SHA256 in hex, over the timestamp and the body.
fn own(secret: &str, unit: TimestampUnit) -> Verifier {
    Verifier::hmac(HmacSettings {
        algorithm: Algorithm::Sha256,
        header: "X-Signature".to_owned(),
        encoding: Encoding::Hex,
        prefix: "sha256=".to_owned(),
        template: Some("{timestamp}.{body}".to_owned()),
        timestamp: Some(TimestampSettings {
            header: "X-Timestamp".to_owned(),
            unit,
            tolerance: Duration::from_secs(300),
        }),
        secrets: secrets(secret),
    })
    .unwrap()
}

fn head(headers: &[(&'static str, String)]) -> HeaderMap {
    let one =
        |(name, value): &(&'static str, String)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    headers.iter().map(one).collect()
}

fn diagnosed(verifier: &Verifier, headers: &[(&'static str, String)], query: Option<&str>, body: &[u8]) -> Diagnosis {
    let headers = head(headers);
    let head = Head { method: &Method::POST, path: "/in", query, headers: &headers };
    verifier.diagnose(&Captured { head, body, at: Timestamp::from_millis(NOW_MS) })
}

fn kinds(diagnosis: &Diagnosis) -> Vec<&'static str> {
    diagnosis.mistakes.iter().map(|mistake| mistake.kind).collect()
}

fn stamped(verifier: &Verifier, stamp: &str, signature: String, body: &[u8]) -> Diagnosis {
    diagnosed(verifier, &[("x-timestamp", stamp.to_owned()), ("x-signature", signature)], None, body)
}

#[test]
fn a_genuine_request_has_no_mistake_and_its_signed_text_is_shown() {
    let verifier = own("secret", TimestampUnit::Seconds);
    let signature = format!("sha256={}", hex::encode(mac(b"secret", b"1767323045.{}")));
    let diagnosis = stamped(&verifier, "1767323045", signature, b"{}");
    assert!(diagnosis.is_taken() && diagnosis.mistakes.is_empty());
    assert_eq!(diagnosis.signed, Some(SignedText { before: b"1767323045.".to_vec(), after: Vec::new() }));
    assert_eq!(diagnosis.skew_ms, Some(0));
}

#[test]
fn mistakes_with_the_body_are_named() {
    let verifier = own("secret", TimestampUnit::Seconds);
    let body = br#"{"a": [1, 2], "b": "x"}"#;
    for signed in [
        &br#"{"a":[1,2],"b":"x"}"#[..],
        b"{\"a\": [1, 2], \"b\": \"x\"}\n",
        b"{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": \"x\"\n}",
        b"",
    ] {
        let signature = format!("sha256={}", hex::encode(mac(b"secret", &[b"1767323045.", signed].concat())));
        let diagnosis = stamped(&verifier, "1767323045", signature, body);
        assert_eq!(kinds(&diagnosis), ["body"], "{:?}", String::from_utf8_lossy(signed));
        assert_eq!(diagnosis.verdict, Some(Err(Refusal::BadSignature)));
    }
}

#[test]
fn mistakes_with_the_secret_the_algorithm_and_the_encoding_are_named() {
    let text = "1767323045.{}".as_bytes();
    let raw = [7_u8; 24];
    let encoded = BASE64_STANDARD.encode(raw);
    let whsec = format!("whsec_{encoded}");
    let hexed = hex::encode(raw);
    let of = |secret: &str, signature: String| {
        let diagnosis = stamped(&own(secret, TimestampUnit::Seconds), "1767323045", signature, b"{}");
        assert!(!diagnosis.is_taken());
        for mistake in &diagnosis.mistakes {
            assert!(!mistake.text.contains(secret), "{}", mistake.text);
        }
        kinds(&diagnosis)
    };
    let hex_of = |key: &[u8]| format!("sha256={}", hex::encode(mac(key, text)));
    assert_eq!(of(&encoded, hex_of(&raw)), ["secret_form"]);
    assert_eq!(of(&whsec, hex_of(&raw)), ["secret_form"]);
    assert_eq!(of(&whsec, hex_of(encoded.as_bytes())), ["secret_form"]);
    assert_eq!(of(&hexed, hex_of(&raw)), ["secret_form"]);
    assert_eq!(of("S3CR3T\n", hex_of(b"S3CR3T")), ["secret_form"]);
    assert_eq!(of("\"S3CR3T\"", hex_of(b"S3CR3T")), ["secret_form"]);
    let mut sha1 = Hmac::<Sha1>::new_from_slice(b"S3CR3T").unwrap();
    sha1.update(text);
    assert_eq!(of("S3CR3T", format!("sha1={}", hex::encode(sha1.finalize().into_bytes()))), ["algorithm"]);
    let plain = hex::encode(Sha256::digest([b"S3CR3T".as_slice(), text].concat()));
    assert_eq!(of("S3CR3T", format!("sha256={plain}")), ["algorithm"]);
    assert_eq!(of("S3CR3T", format!("sha256={}", BASE64_STANDARD.encode(mac(b"S3CR3T", text)))), ["encoding"]);
    assert_eq!(of("S3CR3T", hex::encode(mac(b"S3CR3T", text))), ["prefix"]);
    assert_eq!(of("other", hex_of(b"S3CR3T")), Vec::<&str>::new());
}

#[test]
fn mistakes_with_the_timestamp_are_named_and_the_clock_is_told_apart() {
    let verifier = own("secret", TimestampUnit::Seconds);
    let signature = |stamp: &str| format!("sha256={}", hex::encode(mac(b"secret", format!("{stamp}.{{}}").as_bytes())));
    let milliseconds = stamped(&verifier, "1767323045000", signature("1767323045000"), b"{}");
    assert_eq!((kinds(&milliseconds), milliseconds.only_the_clock), (vec!["timestamp_unit"], true));
    let date = stamped(&verifier, "2026-01-02T03:04:05Z", signature("2026-01-02T03:04:05Z"), b"{}");
    assert_eq!(kinds(&date), ["timestamp_unit"]);
    let old = stamped(&verifier, "1767319445", signature("1767319445"), b"{}");
    assert!(old.only_the_clock && old.mistakes.is_empty());
    assert_eq!((old.verdict, old.skew_ms), (Some(Err(Refusal::Stale)), Some(-3_600_000)));
    assert!(old.meaning.contains("60 min"), "{}", old.meaning);
    let signed_otherwise = stamped(&verifier, "1767323045", signature("1767323045000"), b"{}");
    assert_eq!(kinds(&signed_otherwise), ["timestamp_unit"]);
    let without = stamped(&verifier, "1767323045", format!("sha256={}", hex::encode(mac(b"secret", b"{}"))), b"{}");
    assert_eq!(kinds(&without), ["template"]);
}

#[test]
fn a_signature_in_another_header_is_found() {
    let verifier = own("secret", TimestampUnit::Seconds);
    let signature = format!("sha256={}", hex::encode(mac(b"secret", b"1767323045.{}")));
    let headers = [("x-timestamp", "1767323045".to_owned()), ("x-other", signature)];
    let diagnosis = diagnosed(&verifier, &headers, None, b"{}");
    assert_eq!(diagnosis.verdict, Some(Err(Refusal::MissingSignature)));
    assert_eq!(kinds(&diagnosis), ["header"]);
}

fn preset(name: &str, url: Option<&str>, secret: &str) -> Verifier {
    // The plans are the presets' own business; two of them are enough here.
    let proof: &Proof = match name {
        "twilio" => &Proof::Twilio,
        _ => &SQUARE,
    };
    let settings =
        PresetSettings { secrets: secrets(secret), public_url: url.map(str::to_owned), ..PresetSettings::default() };
    Verifier::of("scheme", proof, settings).unwrap()
}

const SQUARE: Proof = Proof::Plan(crate::verify::Plan {
    primitive: crate::verify::Primitive::Hmac(Algorithm::Sha256),
    key: crate::verify::KeyForm::Text,
    signature: crate::verify::SignaturePlan {
        header: "x-signature",
        grammar: crate::verify::Grammar::Whole { prefix: "" },
        encoding: Encoding::Base64,
    },
    signed: &[crate::verify::Part::Url, crate::verify::Part::Body],
    timestamp: None,
    renamed: None,
    instead: None,
});

#[test]
fn mistakes_with_the_url_are_named() {
    let verifier = preset("square", Some("https://a.example/in"), "secret");
    for signed in
        ["http://a.example/in", "https://a.example/in/", "https://a.example:443/in", "https://real.example/in"]
    {
        let signature = BASE64_STANDARD.encode(mac(b"secret", format!("{signed}{{}}").as_bytes()));
        let headers = [("host", "real.example".to_owned()), ("x-signature", signature)];
        let diagnosis = diagnosed(&verifier, &headers, None, b"{}");
        assert_eq!(kinds(&diagnosis), ["url"], "{signed}");
        assert!(diagnosis.mistakes[0].text.contains(signed), "{}", diagnosis.mistakes[0].text);
    }
    let signature = BASE64_STANDARD.encode(mac(b"secret", b"https://a.example/in{}"));
    let diagnosis = diagnosed(&verifier, &[("x-signature", signature)], Some("a=1"), b"{}");
    assert_eq!(kinds(&diagnosis), ["url"]);
}

#[test]
fn a_scheme_with_code_of_its_own_is_tried_with_other_urls() {
    let verifier = preset("twilio", Some("https://a.example/in/"), "secret");
    let mut sha1 = Hmac::<Sha1>::new_from_slice(b"secret").unwrap();
    sha1.update(b"https://a.example/inA1");
    let signature = BASE64_STANDARD.encode(sha1.finalize().into_bytes());
    let form = "application/x-www-form-urlencoded".to_owned();
    let headers = [("content-type", form), ("x-twilio-signature", signature)];
    assert_eq!(kinds(&diagnosed(&verifier, &headers, None, b"A=1")), ["url"]);
}

#[test]
fn a_token_in_another_form_or_header_is_found_and_never_shown() {
    let verifier = Verifier::token("X-Token", secrets("a-token\n")).unwrap();
    for (headers, taken) in [
        (vec![("x-token", "a-token".to_owned())], false),
        (vec![("authorization", "Bearer a-token".to_owned())], false),
        (vec![("x-token", "another".to_owned())], true),
    ] {
        let diagnosis = diagnosed(&verifier, &headers, None, b"");
        assert!(!diagnosis.is_taken());
        assert_eq!(diagnosis.mistakes.is_empty(), taken, "{headers:?}");
        assert!(diagnosis.mistakes.iter().all(|mistake| !mistake.text.contains("a-token")));
    }
}
