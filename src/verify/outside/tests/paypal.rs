//! PayPal.

use std::time::Duration;

use super::*;
use crate::verify::PayPalSettings;

const BODY: &[u8] = br#"{"id":"WH-1","event_type":"PAYMENT.CAPTURE.COMPLETED"}"#;
const CERTIFICATE: &str = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-df8cd2d5";
const TIME: &str = "2026-01-02T03:04:00Z";

fn verifier() -> Verifier {
    let tolerance = Duration::from_secs(3600);
    Verifier::paypal(PayPalSettings { webhook_id: "1JE4".to_owned(), tolerance, pinned: Some(pinned(&[ONE])) })
}

/// The checksum of the body above, by `python3 -c 'import zlib; print(zlib.crc32(…))'`.
const CRC: u32 = 2_325_436_976;

fn signed(key: &str, webhook_id: &str) -> Request {
    let message = format!("69cd13f0-d67a|{TIME}|{webhook_id}|{CRC}");
    let headers = [
        ("paypal-transmission-id", "69cd13f0-d67a"),
        ("paypal-transmission-time", TIME),
        ("paypal-transmission-sig", &sign_base64(key, message.as_bytes())),
        ("paypal-cert-url", CERTIFICATE),
        ("paypal-auth-algo", "SHA256withRSA"),
    ];
    Request::new(&headers, BODY)
}

#[test]
fn a_transmission_is_verified_by_the_id_of_the_webhook_and_the_checksum() {
    let verified = verdict(&verifier(), &signed(ONE, "1JE4")).unwrap();
    assert_eq!((verified.scheme, verified.skew_ms), ("paypal", Some(-5_000)));
    let tolerance = Duration::from_secs(3600);
    let fetching = Verifier::paypal(PayPalSettings { webhook_id: "1JE4".to_owned(), tolerance, pinned: None });
    let verified = verdict_at(&fetching, &signed(ONE, "1JE4"), NOW_MS, |wanted| {
        assert_eq!(wanted.place.to_string(), CERTIFICATE);
        pinned(&[ONE])
    });
    assert!(verified.is_ok());
}

#[test]
fn every_change_of_a_transmission_is_refused() {
    let good = signed(ONE, "1JE4");
    let bad = Err(Refusal::BadSignature);
    let malformed = Err(Refusal::MalformedSignature);
    let cases: Vec<(Request, Result<Verified, Refusal>)> = vec![
        (signed(TWO, "1JE4"), bad.clone()),
        (signed(ONE, "other"), bad.clone()),
        (good.with_body(*b"{}"), bad.clone()),
        (good.with_body(*b""), bad.clone()),
        (good.with_body(*b"\xff\xfe"), bad.clone()),
        (good.with("paypal-transmission-id", "69cd13f0-d67b"), bad.clone()),
        (good.with("paypal-transmission-time", "2026-01-02T03:04:01Z"), bad),
        (good.with("paypal-transmission-id", "a|b"), Err(Refusal::MalformedSignedHeader)),
        (good.with("paypal-transmission-time", "now"), Err(Refusal::MalformedTimestamp)),
        (good.with("paypal-transmission-time", "2026-01-02T02:04:04Z"), Err(Refusal::Stale)),
        (good.with("paypal-transmission-time", "2026-01-02T03:09:06Z"), Err(Refusal::Future)),
        (good.with("paypal-transmission-sig", "!"), malformed),
        (good.with("paypal-auth-algo", "SHA1withRSA"), refused(Reason::OtherAlgorithm)),
        (good.with("paypal-cert-url", "https://evil.example/cert"), refused(Reason::KeyAddress)),
        (good.with("paypal-cert-url", "http://api.paypal.com/cert"), refused(Reason::KeyAddress)),
    ];
    for (request, expected) in cases {
        assert_eq!(verdict(&verifier(), &request), expected, "{:?}", request.headers);
    }
    let names = [
        "paypal-transmission-id",
        "paypal-transmission-time",
        "paypal-transmission-sig",
        "paypal-cert-url",
        "paypal-auth-algo",
    ];
    for name in names {
        assert_eq!(verdict(&verifier(), &good.without(name)), Err(Refusal::MissingSignature), "{name}");
        let value = good.headers[name].to_str().unwrap().to_owned();
        let twice = verdict(&verifier(), &good.with_second(name, &value));
        assert_eq!(twice, Err(Refusal::DuplicatedSignature), "{name}");
    }
}

#[test]
fn no_change_of_a_single_bit_of_the_body_or_the_signature_verifies() {
    let (good, verifier) = (signed(ONE, "1JE4"), verifier());
    for body in flips(BODY) {
        assert_eq!(verdict(&verifier, &good.with_body(body)), Err(Refusal::BadSignature));
    }
    let signature = good.headers["paypal-transmission-sig"].as_bytes().to_vec();
    for flipped in flips(&signature).filter_map(|bytes| String::from_utf8(bytes).ok()) {
        if HeaderValue::from_str(&flipped).is_ok() {
            assert!(verdict(&verifier, &good.with("paypal-transmission-sig", &flipped)).is_err(), "{flipped}");
        }
    }
}
