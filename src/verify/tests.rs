//! Tests of whole verifiers: published vectors, freshness, rotation, chunking, refusals and settings.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;

const GITHUB: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const GITHUB_BODY: &[u8] = b"Hello, World!";
const GITHUB_SECRET: &str = "It's a Secret to Everybody";

fn settings(secrets: &[(&str, &str)]) -> HmacSettings {
    HmacSettings {
        algorithm: Algorithm::Sha256,
        header: "X-Signature".to_owned(),
        encoding: Encoding::Hex,
        prefix: "sha256=".to_owned(),
        template: None,
        timestamp: None,
        secrets: secrets.iter().map(|(name, value)| Secret::new(name, value.as_bytes().to_vec())).collect(),
    }
}

fn github() -> Verifier {
    Verifier::hmac(settings(&[("env:GITHUB", GITHUB_SECRET)])).unwrap()
}

/// Slack's scheme, <https://docs.slack.dev/authentication/verifying-requests-from-slack>.
fn slack_settings(unit: TimestampUnit) -> HmacSettings {
    HmacSettings {
        header: "X-Slack-Signature".to_owned(),
        prefix: "v0=".to_owned(),
        template: Some("v0:{timestamp}:{body}".to_owned()),
        timestamp: Some(TimestampSettings {
            header: "X-Slack-Request-Timestamp".to_owned(),
            unit,
            tolerance: Duration::from_secs(300),
        }),
        ..settings(&[("env:SLACK", "8f742231b10e8888abcd99yyyzzz85a5")])
    }
}

const SLACK: [(&str, &str); 2] = [
    ("x-slack-request-timestamp", "1531420618"),
    ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
];
const SLACK_BODY: &[u8] = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2F\
hooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.\
803a0bc887a14d10d2c447fce8b6703c";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn begin(verifier: &Verifier, pairs: &[(&str, &str)], now_ms: u64) -> Result<Check, Refusal> {
    let head = Head { method: &Method::POST, path: "/in/%41", query: Some("a=1&b"), headers: &headers(pairs) };
    verifier.begin(&head, Timestamp::from_millis(now_ms))
}

fn verdict(verifier: &Verifier, pairs: &[(&str, &str)], body: &[u8], now_ms: u64) -> Result<Verified, Refusal> {
    let mut check = begin(verifier, pairs, now_ms)?;
    check.update(body);
    check.finish(&[])
}

#[test]
fn githubs_published_vector_is_accepted_and_the_secret_is_named() {
    let verified = verdict(&github(), &[("x-signature", GITHUB)], GITHUB_BODY, 0).unwrap();
    assert_eq!(verified, Verified { scheme: "hmac", secret: Some("env:GITHUB".into()), skew_ms: None });
}

#[test]
fn slacks_published_vector_is_accepted_with_its_skew() {
    let verifier = Verifier::hmac(slack_settings(TimestampUnit::Seconds)).unwrap();
    let verified = verdict(&verifier, &SLACK, SLACK_BODY, 1_531_420_619_250).unwrap();
    assert_eq!(verified.skew_ms, Some(-1_250));
}

#[test]
fn a_timestamp_is_accepted_up_to_its_tolerance_and_not_a_millisecond_further() {
    let verifier = Verifier::hmac(slack_settings(TimestampUnit::Seconds)).unwrap();
    let sent = 1_531_420_618_000;
    let cases = [
        (sent, Ok(0)),
        (sent + 300_000, Ok(-300_000)),
        (sent + 300_001, Err(Refusal::Stale)),
        (sent - 300_000, Ok(300_000)),
        (sent - 300_001, Err(Refusal::Future)),
    ];
    for (now, expected) in cases {
        let got = verdict(&verifier, &SLACK, SLACK_BODY, now).map(|verified| verified.skew_ms.unwrap());
        assert_eq!(got, expected, "at {now}");
    }
}

#[test]
fn a_timestamp_that_is_no_single_plain_number_is_refused_before_the_body() {
    let verifier = Verifier::hmac(slack_settings(TimestampUnit::Milliseconds)).unwrap();
    for text in ["", "-5", "+5", "5 ", "5.0", "0x5", "five", "99999999999999999999"] {
        let pairs = [SLACK[1], ("x-slack-request-timestamp", text)];
        assert_eq!(begin(&verifier, &pairs, 5).err(), Some(Refusal::MalformedTimestamp), "{text:?}");
    }
    let twice = [SLACK[1], SLACK[0], SLACK[0]];
    assert_eq!(begin(&verifier, &twice, 5).err(), Some(Refusal::MalformedTimestamp));
    assert_eq!(begin(&verifier, &SLACK[1..], 5).err(), Some(Refusal::MalformedTimestamp));
    let far = [SLACK[1], ("x-slack-request-timestamp", "18446744073709551615")];
    assert_eq!(begin(&verifier, &far, 5).err(), Some(Refusal::Future));
    assert!(begin(&verifier, &[SLACK[1], ("x-slack-request-timestamp", "5")], 5).is_ok());
}

#[test]
fn a_signature_header_that_can_not_be_read_is_refused_before_the_body() {
    let digest = GITHUB.strip_prefix("sha256=").unwrap();
    let cases: [(&[(&str, &str)], Refusal); 8] = [
        (&[], Refusal::MissingSignature),
        (&[("x-signature", GITHUB), ("x-signature", GITHUB)], Refusal::DuplicatedSignature),
        (&[("x-signature", "")], Refusal::MalformedSignature),
        (&[("x-signature", "sha256=")], Refusal::MalformedSignature),
        (&[("x-signature", digest)], Refusal::MalformedSignature),
        (&[("x-signature", &GITHUB[..70])], Refusal::MalformedSignature),
        (&[("x-signature", &format!("{GITHUB}00"))], Refusal::MalformedSignature),
        (&[("x-signature", &GITHUB.replace('7', "g"))], Refusal::MalformedSignature),
    ];
    for (pairs, expected) in cases {
        assert_eq!(begin(&github(), pairs, 0).err(), Some(expected), "{pairs:?}");
    }
}

#[test]
fn the_second_secret_matches_and_is_named_and_a_third_party_is_refused() {
    let rotated = [("env:NEW", "n"), ("file:old", GITHUB_SECRET), ("env:SAME", GITHUB_SECRET)];
    let verifier = Verifier::hmac(settings(&rotated)).unwrap();
    let verified = verdict(&verifier, &[("x-signature", GITHUB)], GITHUB_BODY, 0).unwrap();
    assert_eq!(verified.secret.as_deref(), Some("file:old"));
    assert_eq!(
        verifier.secret_references().into_iter().map(|r| &**r).collect::<Vec<_>>(),
        ["env:NEW", "file:old", "env:SAME"]
    );
    let other = Verifier::hmac(settings(&rotated[..1])).unwrap();
    assert_eq!(verdict(&other, &[("x-signature", GITHUB)], GITHUB_BODY, 0), Err(Refusal::BadSignature));
}

#[test]
fn base64_is_read_with_and_without_padding_in_its_own_alphabet_and_canonically() {
    let raw = hex::decode(GITHUB.strip_prefix("sha256=").unwrap()).unwrap();
    let padded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &raw);
    let url = padded.replace('+', "-").replace('/', "_");
    let verifier = |encoding| {
        let prefix = String::new();
        Verifier::hmac(HmacSettings { encoding, prefix, ..settings(&[("env:GITHUB", GITHUB_SECRET)]) }).unwrap()
    };
    for (encoding, text) in [(Encoding::Base64, &padded), (Encoding::Base64Url, &url)] {
        for text in [text.as_str(), text.trim_end_matches('=')] {
            assert!(verdict(&verifier(encoding), &[("x-signature", text)], GITHUB_BODY, 0).is_ok(), "{text}");
        }
    }
    let last = padded.trim_end_matches('=').chars().last().unwrap();
    let stray = padded.replace(&format!("{last}="), &format!("{}=", char::from(last as u8 + 1)));
    assert_eq!(
        begin(&verifier(Encoding::Base64), &[("x-signature", &stray)], 0).err(),
        Some(Refusal::MalformedSignature)
    );
    let long = "A".repeat(4096);
    assert_eq!(
        begin(&verifier(Encoding::Base64), &[("x-signature", &long)], 0).err(),
        Some(Refusal::MalformedSignature)
    );
}

#[test]
fn a_template_signs_method_path_query_headers_and_braces_as_received() {
    let template = "{method} {path}?{query}|{{{header:X-Id}}}|{body}|{header:x-id}.";
    let settings = HmacSettings { template: Some(template.to_owned()), ..settings(&[("env:A", "key")]) };
    let verifier = Verifier::hmac(settings).unwrap();
    // printf 'POST /in/%%41?a=1&b|{7}|body|7.' | openssl dgst -sha256 -hmac key
    let signature = "sha256=10a2d5c09edd5567c23aacb5022b7db995cb0657fb0f787fc4b725197f3e2bf6";
    let signed = [("x-signature", signature), ("x-id", "7")];
    assert!(verdict(&verifier, &signed, b"body", 0).is_ok());
    assert_eq!(verdict(&verifier, &signed, b"Body", 0), Err(Refusal::BadSignature));
    let changed = [("x-signature", signature), ("x-id", "8")];
    assert_eq!(verdict(&verifier, &changed, b"body", 0), Err(Refusal::BadSignature));
    assert_eq!(begin(&verifier, &signed[..1], 0).err(), Some(Refusal::MalformedSignedHeader));
    let twice = [signed[0], signed[1], signed[1]];
    assert_eq!(begin(&verifier, &twice, 0).err(), Some(Refusal::MalformedSignedHeader));
}

#[test]
fn none_accepts_anything_and_names_no_secret() {
    let verifier = Verifier::none();
    assert_eq!((verifier.scheme(), verifier.secret_references().len()), ("none", 0));
    let verified = verdict(&verifier, &[], b"anything", 0).unwrap();
    assert_eq!(verified, Verified { scheme: "none", secret: None, skew_ms: None });
}

#[test]
fn settings_that_could_not_protect_are_refused_with_their_field() {
    let with = |change: fn(&mut HmacSettings)| {
        let mut settings = slack_settings(TimestampUnit::Seconds);
        change(&mut settings);
        Verifier::hmac(settings).err().expect("it should be refused")
    };
    let template = |text: &str| {
        let settings = HmacSettings { template: Some(text.to_owned()), ..settings(&[("env:A", "k")]) };
        Verifier::hmac(settings).err().expect("it should be refused")
    };
    let cases = [
        (with(|s| s.secrets.clear()), "secrets", "at least one"),
        (with(|s| s.header = "X Signature".to_owned()), "header", "X Signature"),
        (with(|s| s.prefix = " v0=".to_owned()), "prefix", "leading space"),
        (with(|s| s.template = None), "timestamp", "{timestamp}"),
        (with(|s| s.template = Some("v0:{body}".to_owned())), "timestamp", "add {timestamp}"),
        (with(|s| s.timestamp.as_mut().unwrap().header = String::new()), "timestamp.header", "no header name"),
        (with(|s| s.timestamp.as_mut().unwrap().header = s.header.clone()), "timestamp.header", "also the header"),
        (with(|s| s.timestamp.as_mut().unwrap().tolerance = Duration::ZERO), "timestamp.tolerance", "5m"),
        (template("{body}{body}"), "template", "more than one {body}"),
        (template("abc"), "template", "add {body}"),
        (template("{timestamp}.{body}"), "template", "timestamp is not set"),
        (template("{bodi}"), "template", "unknown placeholder {bodi}"),
        (template("{header:}{body}"), "template", "unknown placeholder {header:}"),
        (template("a{body"), "template", "byte 1"),
        (template("{body}}"), "template", "byte 6"),
        (template("{header:x-signature}{body}"), "template", "remove {header:x-signature}"),
        (template(&"x".repeat(2000)), "template", "at most 1024"),
        ("md5".parse::<Algorithm>().unwrap_err(), "algorithm", "\"sha256\""),
        ("HEX".parse::<Encoding>().unwrap_err(), "encoding", "\"hex\""),
        ("us".parse::<TimestampUnit>().unwrap_err(), "timestamp.unit", "\"ms\""),
    ];
    for (error, field, remedy) in cases {
        assert_eq!(error.field(), field, "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn a_timestamp_may_be_signed_through_its_header() {
    let mut settings = slack_settings(TimestampUnit::Seconds);
    settings.template = Some("v0:{header:X-Slack-Request-Timestamp}:{body}".to_owned());
    let verifier = Verifier::hmac(settings).unwrap();
    assert!(verdict(&verifier, &SLACK, SLACK_BODY, 1_531_420_618_000).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_verdict(cuts in prop::collection::vec(0..SLACK_BODY.len(), 0..20)) {
        let verifier = Verifier::hmac(slack_settings(TimestampUnit::Seconds)).unwrap();
        let mut check = begin(&verifier, &SLACK, 1_531_420_618_000).ok().unwrap();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts {
            check.update(&SLACK_BODY[from..cut]);
            from = cut;
        }
        check.update(&SLACK_BODY[from..]);
        prop_assert!(check.finish(&[]).is_ok());
    }

    #[test]
    fn any_flipped_bit_of_the_body_is_refused(bit in 0..SLACK_BODY.len() * 8) {
        let verifier = Verifier::hmac(slack_settings(TimestampUnit::Seconds)).unwrap();
        let mut body = SLACK_BODY.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(verdict(&verifier, &SLACK, &body, 1_531_420_618_000), Err(Refusal::BadSignature));
    }

    #[test]
    fn any_flipped_bit_of_the_signature_is_refused(bit in 0..256_usize) {
        let mut signature = hex::decode(GITHUB.strip_prefix("sha256=").unwrap()).unwrap();
        signature[bit / 8] ^= 1 << (bit % 8);
        let value = format!("sha256={}", hex::encode(signature));
        let got = verdict(&github(), &[("x-signature", &value)], GITHUB_BODY, 0);
        prop_assert_eq!(got, Err(Refusal::BadSignature));
    }

    #[test]
    fn any_other_fresh_timestamp_is_refused(offset in 1..300_u64) {
        let verifier = Verifier::hmac(slack_settings(TimestampUnit::Seconds)).unwrap();
        let other = (1_531_420_618 + offset).to_string();
        let pairs = [SLACK[1], ("x-slack-request-timestamp", other.as_str())];
        let got = verdict(&verifier, &pairs, SLACK_BODY, 1_531_420_618_000);
        prop_assert_eq!(got, Err(Refusal::BadSignature));
    }
}
