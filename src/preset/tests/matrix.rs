//! Every preset against good, tampered, forged, stale and doubled requests, made by a sender that knows nothing of the
//! engine.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::{
    super::{Preset, all},
    sender::{Request, URL, secret, send},
};
use crate::{
    clock::Timestamp,
    verify::{Head, PresetSettings, Proof, Refusal, Sample, Secret, Verified, Verifier},
};

const NOW: u64 = 1_700_000_000_000;
const BODY: &[u8] = br#"{"id":"evt_1","type":"a.b","n":1}"#;

/// The presets whose requests are checked here without keys from outside.
fn own() -> impl Iterator<Item = &'static Preset> {
    const OUTSIDE: [&str; 4] = ["aws-sns", "paypal", "google-pubsub", "salesforce"];
    all().filter(|preset| !OUTSIDE.contains(&preset.name))
}

/// How a scheme treats the body.
fn covers_body(preset: &Preset) -> bool {
    !matches!(
        preset.name,
        "gitlab-token" | "telegram" | "google-calendar" | "okta" | "postmark" | "cloudevents" | "mailgun" | "ms-graph"
    )
}

/// Whether the scheme reads JSON in the body, so that no other body can be genuine.
fn needs_json(preset: &Preset) -> bool {
    matches!(preset.name, "linear" | "mailgun" | "ms-graph")
}

fn verifier(preset: &Preset, secrets: &[&str]) -> Verifier {
    let names = ["env:ONE", "env:TWO"];
    let secrets = names.iter().zip(secrets).map(|(name, value)| Secret::new(name, value.as_bytes().to_vec()));
    let settings =
        PresetSettings { secrets: secrets.collect(), public_url: Some(URL.to_owned()), ..Default::default() };
    Verifier::of(preset.name, &preset.proof, settings).unwrap_or_else(|error| panic!("{}: {error}", preset.name))
}

fn check(verifier: &Verifier, request: &Request, now_ms: u64) -> Result<Verified, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let method = Method::from_bytes(request.method.as_bytes()).unwrap();
    let head = Head { method: &method, path: "/elsewhere", query: request.query.as_deref(), headers: &headers };
    let mut check = verifier.begin(&head, Timestamp::from_millis(now_ms))?;
    let half = request.body.len() / 2;
    check.update(&request.body[..half]);
    check.update(&request.body[half..]);
    let whole = if check.needs_body() { request.body.as_slice() } else { &[] };
    check.finish(whole)
}

#[test]
fn what_the_provider_signs_is_taken_with_either_secret_and_the_secret_is_named() {
    for preset in own() {
        let name = preset.name;
        let ((first, key), (second, second_key)) = (secret(name, 1), secret(name, 2));
        let verifier = verifier(preset, &[&first, &second]);
        let took =
            |key: &[u8]| check(&verifier, &send(name, key, BODY, NOW), NOW).map(|taken| (taken.scheme, taken.secret));
        assert_eq!(took(&key), Ok((name, Some("env:ONE".into()))), "{name}");
        assert_eq!(took(&second_key), Ok((name, Some("env:TWO".into()))), "{name}");
    }
}

#[test]
fn an_empty_body_and_one_that_is_not_utf_8_are_taken_where_no_json_is_read() {
    for preset in own() {
        let name = preset.name;
        let (text, key) = secret(name, 1);
        let verifier = verifier(preset, &[&text]);
        for body in [&b""[..], b"\xff\xfe\x00\x80{"] {
            let mut request = send(name, &key, body, NOW);
            if needs_json(preset) {
                request.body = body.to_vec();
                assert!(check(&verifier, &request, NOW).is_err(), "{name}");
            } else {
                assert!(check(&verifier, &request, NOW).is_ok(), "{name}: {body:?}");
            }
        }
    }
}

#[test]
fn a_wrong_secret_and_a_tampered_body_are_refused() {
    for preset in own() {
        let name = preset.name;
        let (text, key) = secret(name, 1);
        let wrong = match preset.proof {
            Proof::GraphClientState | Proof::BearerIfSet => Refusal::BadCredentials,
            _ if !covers_body(preset) && name != "mailgun" => Refusal::BadCredentials,
            _ => Refusal::BadSignature,
        };
        let (_, other) = secret(name, 2);
        let verifier = verifier(preset, &[&text]);
        assert_eq!(check(&verifier, &send(name, &other, BODY, NOW), NOW), Err(wrong), "{name}");
        if covers_body(preset) {
            let good = send(name, &key, BODY, NOW);
            let longer = Request { body: [&good.body[..], b" "].concat(), ..good.clone() };
            let shorter = Request { body: good.body[..good.body.len() - 1].to_vec(), ..good.clone() };
            let empty = Request { body: Vec::new(), ..good };
            for tampered in [longer, shorter, empty] {
                assert_eq!(check(&verifier, &tampered, NOW), Err(Refusal::BadSignature), "{name}");
            }
        }
    }
}

#[test]
fn no_single_bit_of_the_body_or_of_a_signed_header_can_be_changed() {
    for preset in own() {
        let name = preset.name;
        let (text, key) = secret(name, 1);
        let verifier = verifier(preset, &[&text]);
        let good = send(name, &key, BODY, NOW);
        if covers_body(preset) {
            for bit in 0..good.body.len() * 8 {
                let mut request = good.clone();
                request.body[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&verifier, &request, NOW).is_err(), "{name}: bit {bit} of the body");
            }
        }
        for (index, (header, value)) in good.headers.iter().enumerate() {
            if ["Content-Type", "X-GitHub-Delivery", "X-HubSpot-Signature-Version"].contains(&header.as_str()) {
                continue;
            }
            // The name of an authentication scheme has no case.
            let from = value.find(' ').map_or(0, |space| if header == "Authorization" { space } else { 0 });
            for bit in from * 8..value.len() * 8 {
                let mut changed = value.clone().into_bytes();
                changed[bit / 8] ^= 1 << (bit % 8);
                let Some(text) = String::from_utf8(changed).ok().filter(|text| HeaderValue::from_str(text).is_ok())
                else {
                    continue;
                };
                let mut request = good.clone();
                request.headers[index].1 = text;
                assert!(check(&verifier, &request, NOW).is_err(), "{name}: {header}: bit {bit}");
            }
        }
    }
}

#[test]
fn a_timestamp_beyond_the_tolerance_is_stale_or_future_and_the_tolerance_is_configurable() {
    let mut stamped = 0;
    for preset in own().filter(|preset| preset.proof.has_timestamp()) {
        let name = preset.name;
        stamped += 1;
        let tolerance = match name {
            "linear" => 60_000,
            "twitch" => 600_000,
            _ => 300_000,
        };
        let (text, key) = secret(name, 1);
        let verifier = verifier(preset, &[&text]);
        let sent = |at: u64| check(&verifier, &send(name, &key, BODY, at), NOW).map(drop);
        assert_eq!(sent(NOW - tolerance), Ok(()), "{name}");
        assert_eq!(sent(NOW + tolerance - 1000), Ok(()), "{name}");
        assert_eq!(sent(NOW - tolerance - 1000), Err(Refusal::Stale), "{name}");
        assert_eq!(sent(NOW + tolerance + 1000), Err(Refusal::Future), "{name}");
        let settings = PresetSettings {
            secrets: vec![Secret::new("env:ONE", text.clone().into_bytes())],
            public_url: Some(URL.to_owned()),
            tolerance: Some(Duration::from_secs(5)),
            algorithm: None,
        };
        let strict = Verifier::of(name, &preset.proof, settings).ok().unwrap();
        let sent = |at: u64| check(&strict, &send(name, &key, BODY, at), NOW).map(drop);
        assert_eq!((sent(NOW - 5_000), sent(NOW - 6_000)), (Ok(()), Err(Refusal::Stale)), "{name}");
    }
    assert!(stamped >= 15, "{stamped}");
}

#[test]
fn a_missing_header_and_a_doubled_one_are_refused() {
    for preset in own() {
        let name = preset.name;
        let (text, key) = secret(name, 1);
        let verifier = verifier(preset, &[&text]);
        let good = send(name, &key, BODY, NOW);
        for (index, (header, value)) in good.headers.iter().enumerate() {
            if ["Content-Type", "X-GitHub-Delivery", "X-HubSpot-Signature-Version"].contains(&header.as_str()) {
                continue;
            }
            let mut without = good.clone();
            without.headers.remove(index);
            let mut doubled = good.clone();
            doubled.headers.push((header.clone(), value.clone()));
            let is_signature = header.to_lowercase().contains("signature") && !header.ends_with("Timestamp")
                || ["X-Shopify-Hmac-Sha256", "Authorization"].contains(&header.as_str())
                || header.ends_with("Token");
            let refusals = (check(&verifier, &without, NOW), check(&verifier, &doubled, NOW));
            if is_signature {
                assert_eq!(refusals, (Err(Refusal::MissingSignature), Err(Refusal::DuplicatedSignature)), "{name}");
            } else {
                assert!(refusals.0.is_err() && refusals.1.is_err(), "{name}: {header}");
            }
        }
    }
}

#[test]
fn what_we_sign_is_what_the_provider_signs() {
    for preset in own() {
        let name = preset.name;
        let (text, key) = secret(name, 1);
        let verifier = verifier(preset, &[&text]);
        let theirs = send(name, &key, BODY, NOW);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = if name == "ms-graph" { br#"{"value":[{},{"a":1}]}"# } else { BODY };
        let query = if name == "twilio" { None } else { theirs.query.as_deref() };
        let sample = Sample {
            method: &Method::POST,
            path: "/in",
            query,
            headers: &headers,
            body,
            id: "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
            now: Timestamp::from_millis(NOW),
        };
        let signed = match verifier.sign(&sample) {
            Ok(signed) => signed,
            Err(error) => {
                assert!(matches!(name, "discord" | "sendgrid"), "{name}: {error}");
                assert_eq!(verifier.can_sign(), Err(error));
                continue;
            }
        };
        assert_eq!(verifier.can_sign(), Ok(()), "{name}");
        let mut ours = Request {
            method: "POST",
            query: signed.query.clone(),
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: signed.body.to_vec(),
        };
        for (header, value) in &signed.headers {
            ours.headers.push((header.to_string(), value.to_str().unwrap().to_owned()));
            let said = theirs.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(header.as_str()));
            // A fraction of a second, or a body that was written anew, makes another signature of the same meaning.
            if !matches!(name, "twitch" | "zendesk" | "linear") {
                assert_eq!(said.map(|(_, value)| value.as_str()), value.to_str().ok(), "{name}: {header}");
            }
        }
        assert!(check(&verifier, &ours, NOW).is_ok(), "{name}");
        assert_eq!(signed.query, theirs.query, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_body_is_taken_as_it_was_signed_and_with_no_bit_changed(
        body in prop::collection::vec(any::<u8>(), 1..300),
        bit in any::<prop::sample::Index>(),
    ) {
        for preset in own().filter(|preset| covers_body(preset) && !needs_json(preset)) {
            let name = preset.name;
            let (text, key) = secret(name, 1);
            let verifier = verifier(preset, &[&text]);
            let mut request = send(name, &key, &body, NOW);
            prop_assert!(check(&verifier, &request, NOW).is_ok(), "{}", name);
            let bit = bit.index(request.body.len() * 8);
            request.body[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(check(&verifier, &request, NOW), Err(Refusal::BadSignature), "{}", name);
        }
    }
}
