//! Timestamps in headers, in signature headers and in bodies, against a second reader.
//!
//! Input: the text; how far our clock is ahead of it, in milliseconds.

use http::{HeaderMap, HeaderValue, Method};
use stagepost::{
    clock::Timestamp,
    verify::{Head, Refusal, TimestampUnit, Verifier},
};
use std::sync::LazyLock;

use super::{
    NOW_MS,
    genuine::{self, SOURCES},
    joined, pieces,
};

/// The tolerance of `genuine::settings`, and of the presets used here.
const TOLERANCE_MS: u64 = 300_000;
/// Linear's.
const LINEAR_MS: u64 = 60_000;
/// Longer texts are refused as they are.
const TEXT_BYTES_MAX: usize = 40;

struct Stamped {
    unit: TimestampUnit,
    verifier: Verifier,
    /// A preset with the same unit and tolerance, and its headers of signature and timestamp.
    preset: (&'static str, &'static str, &'static str, &'static str),
}

static UNITS: LazyLock<Vec<Stamped>> = LazyLock::new(|| {
    let of = |unit, preset| Stamped {
        unit,
        verifier: Verifier::hmac(genuine::settings(unit, "{timestamp}.{body}")).unwrap(),
        preset,
    };
    let zeros = "v0=0000000000000000000000000000000000000000000000000000000000000000";
    let base64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    vec![
        of(TimestampUnit::Seconds, ("slack", "x-slack-signature", zeros, "x-slack-request-timestamp")),
        of(TimestampUnit::Milliseconds, ("hubspot", "x-hubspot-signature-v3", base64, "x-hubspot-request-timestamp")),
        of(
            TimestampUnit::Rfc3339,
            ("zendesk", "x-zendesk-webhook-signature", base64, "x-zendesk-webhook-signature-timestamp"),
        ),
    ]
});

/// Takes any bytes.
pub fn run(data: &[u8]) -> bool {
    let [text, ahead] = pieces(data);
    let ahead: i64 = std::str::from_utf8(ahead).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    if let Some(time) = std::str::from_utf8(text).ok().and_then(Timestamp::parse_rfc3339) {
        assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time), "what is written is read again");
    }
    let Ok(value) = HeaderValue::from_bytes(text) else { return false };
    let mut fresh = false;
    for Stamped { unit, verifier, preset } in UNITS.iter() {
        let sent = reference(*unit, text);
        let now = sent.unwrap_or(NOW_MS).saturating_add_signed(ahead);
        let mut headers = HeaderMap::new();
        headers.insert("x-signature", HeaderValue::from_static(ZEROS));
        headers.insert("x-timestamp", value.clone());
        let verdict = begin(verifier, &headers, now);
        match sent {
            Some(sent) => assert_eq!(verdict, expected(sent, now, TOLERANCE_MS), "{unit:?}"),
            None if *unit == TimestampUnit::Rfc3339 => {}
            None => assert_eq!(verdict, Err(Refusal::MalformedTimestamp), "{unit:?}"),
        }
        fresh |= sent.is_some() && verdict.is_ok();
        let (name, signature_header, signature, header) = preset;
        let mut headers = HeaderMap::new();
        headers.insert(*signature_header, HeaderValue::from_static(signature));
        headers.insert(*header, value.clone());
        assert_eq!(begin(named(name), &headers, now), verdict, "{name} reads as the scheme hmac does");
        if *unit == TimestampUnit::Seconds {
            in_the_signature(text, now, verdict);
        }
    }
    fresh | in_the_body(text, ahead)
}

const ZEROS: &str = "v=0000000000000000000000000000000000000000000000000000000000000000";

fn named(name: &str) -> &'static Verifier {
    let source = SOURCES.iter().find(|source| source.name == name);
    &source.unwrap_or_else(|| panic!("there is a source of {name}")).verifier
}

fn begin(verifier: &Verifier, headers: &HeaderMap, now: u64) -> Result<(), Refusal> {
    let head = Head { method: &Method::POST, path: "/in", query: None, headers };
    verifier.begin(&head, Timestamp::from_millis(now)).map(|_check| ())
}

fn expected(sent: u64, now: u64, tolerance: u64) -> Result<(), Refusal> {
    match sent.abs_diff(now) <= tolerance {
        true => Ok(()),
        false if sent < now => Err(Refusal::Stale),
        false => Err(Refusal::Future),
    }
}

/// Stripe's timestamp stands among the signatures.
fn in_the_signature(text: &[u8], now: u64, verdict: Result<(), Refusal>) {
    if text.iter().any(|byte| !byte.is_ascii_alphanumeric()) {
        return;
    }
    let value = [b"t=", text, b",v1=0000000000000000000000000000000000000000000000000000000000000000"].concat();
    let mut headers = HeaderMap::new();
    headers.insert("stripe-signature", HeaderValue::from_bytes(&value).unwrap());
    assert_eq!(begin(named("stripe"), &headers, now), verdict, "a field is read as a header is");
}

/// Linear's stands in the body, as a number.
fn in_the_body(text: &[u8], ahead: i64) -> bool {
    let body = [b"{\"a\":[{\"webhookTimestamp\":7}],\"webhookTimestamp\":", text, b"}"].concat();
    let sent = reference(TimestampUnit::Milliseconds, text).filter(|_| text == b"0" || !text.starts_with(b"0"));
    let now = sent.unwrap_or(NOW_MS).saturating_add_signed(ahead);
    let mut headers = HeaderMap::new();
    let signature = genuine::hmac_hex(&body);
    headers.insert("linear-signature", HeaderValue::from_str(&signature).unwrap());
    let head = Head { method: &Method::POST, path: "/in", query: None, headers: &headers };
    let verifier = named("linear");
    let Ok(mut check) = verifier.begin(&head, Timestamp::from_millis(now)) else { panic!("the head is in order") };
    check.update(&body);
    let verdict = check.finish(&body).map(|_verified| ());
    match sent {
        Some(sent) => assert_eq!(verdict, expected(sent, now, LINEAR_MS), "in the body"),
        None if text.iter().all(u8::is_ascii_digit) => assert!(verdict.is_err(), "in the body"),
        None => {}
    }
    sent.is_some() && verdict.is_ok()
}

/// Milliseconds since the epoch, for what certainly is a timestamp. Times with a leap second and
/// those of the year 9999, which not every offset leaves in it, are left out.
fn reference(unit: TimestampUnit, text: &[u8]) -> Option<u64> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    match unit {
        TimestampUnit::Seconds => digits(text).map(|seconds| seconds.saturating_mul(1000)),
        TimestampUnit::Milliseconds => digits(text),
        TimestampUnit::Rfc3339 => rfc3339(text),
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 3339, section 5.6: at most nine digits of a second, days counted as Howard Hinnant's `days_from_civil` does.
fn rfc3339(text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| digits(text.get(from..to)?).and_then(|number| i64::try_from(number).ok());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if marks.iter().any(|(at, mark)| text.get(*at) != Some(mark))
        || year == 9999
        || !(1..=last).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&length) {
            return None;
        }
        let padded: Vec<u8> = fraction[..length].iter().copied().chain(*b"00").take(3).collect();
        millis = i64::try_from(digits(&padded)?).ok()?;
        rest = &fraction[length..];
    }
    let offset = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = i64::try_from(hours * 60 + minutes).ok()?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    u64::try_from(seconds * 1000 + millis).ok()
}

/// A timestamp of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        ("1767323045", "0"),
        ("1767323045000", "60000"),
        ("2026-01-02T03:04:05Z", "-300000"),
        ("2026-01-02T03:04:05.123456789Z", "300000"),
        ("2024-02-29T23:59:59.5-08:00", "1"),
        ("1970-01-01T00:00:00+00:00", "1000"),
        ("9998-12-31T00:00:00Z", "0"),
        ("0", "0"),
        ("18446744073709551615", "0"),
    ];
    texts.iter().map(|(text, ahead)| joined(&[text.as_bytes(), ahead.as_bytes()])).collect()
}
