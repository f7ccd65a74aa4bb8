//! Owns the reading of what an upstream's answer says about its own limits: `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers, versions 8 and later, and the dictionary of version 7), the fields of earlier
//! versions (`RateLimit-Limit`, `-Remaining`, `-Reset`), and `X-RateLimit-*` or `X-Rate-Limit-*` as many services send
//! them, with seconds to the reset or the time of it.
//!
//! Promises that nothing a stranger writes panics or takes long: [`TEXT_MAX`] bytes and [`ITEMS_MAX`] items are read.
//! Of several limits the tightest counts. What follows is decided by `allowance`. Pure; time is an argument.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::clock::Timestamp;

/// Bytes of a field that are read.
const TEXT_MAX: usize = 2048;
/// Items of a list that are read.
const ITEMS_MAX: usize = 16;
/// A reset above is a time in seconds since 1970, not a number of seconds …
const EPOCH_SECONDS: u64 = 1_000_000_000;
/// … and above this one in milliseconds.
const EPOCH_MILLIS: u64 = 1_000_000_000_000;
/// What is said in whole seconds and is less than one.
const RESET_LEAST: Duration = Duration::from_secs(1);
/// Later than that is as good as never.
const RESET_MOST: Duration = Duration::from_secs(366 * 86_400);

/// What is left of a limit, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Requests that may still be made …
    pub(crate) remaining: u64,
    /// … until so much later: a second to a year.
    pub(crate) reset: Duration,
}

impl Quota {
    /// Whether less may be sent than by the other: nothing before something, then the lower rate.
    fn is_tighter_than(&self, other: &Self) -> bool {
        match (self.remaining, other.remaining) {
            (0, 0) => self.reset > other.reset,
            (0, _) => true,
            (_, 0) => false,
            (one, two) => u128::from(one) * other.reset.as_millis() < u128::from(two) * self.reset.as_millis(),
        }
    }
}

/// Whether an answer has any header of the kind: asked of every answer, so no more than a look at each name.
pub(crate) fn is_there(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str().as_bytes();
        name.starts_with(b"ratelimit") || name.starts_with(b"x-rate")
    })
}

/// The tightest limit that an answer tells of. `now` is wall time. None if it tells of none.
pub(crate) fn read(headers: &HeaderMap, now: Timestamp) -> Option<Quota> {
    if !is_there(headers) {
        return None;
    }
    let single = ["ratelimit", "x-ratelimit", "x-rate-limit"].map(|prefix| fields(headers, prefix, now));
    let all = structured(headers).into_iter().chain(single.into_iter().flatten());
    all.reduce(|tightest, other| if other.is_tighter_than(&tightest) { other } else { tightest })
}

/// `…-Remaining` with `…-Reset` or `…-Reset-After`.
fn fields(headers: &HeaderMap, prefix: &str, now: Timestamp) -> Option<Quota> {
    let number = |suffix: &str| {
        let name = HeaderName::try_from(format!("{prefix}-{suffix}")).ok()?;
        whole(headers.get(name)?.to_str().ok()?.trim())
    };
    let remaining = number("remaining")?;
    let reset = match (number("reset-after"), number("reset")) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, Some(time)) if time >= EPOCH_MILLIS => Timestamp::from_millis(time).since(now),
        (None, Some(time)) if time >= EPOCH_SECONDS => Timestamp::from_millis(time.saturating_mul(1000)).since(now),
        (None, Some(seconds)) => Duration::from_secs(seconds),
        (None, None) => return None,
    };
    Some(Quota { remaining, reset: reset.clamp(RESET_LEAST, RESET_MOST) })
}

/// `RateLimit`, with the windows of `RateLimit-Policy` for items that name none.
fn structured(headers: &HeaderMap) -> Vec<Quota> {
    let policies = items(headers, "ratelimit-policy");
    let window = |name: &str| policies.iter().find(|item| item.name == name).and_then(|item| item.get("w"));
    let mut quotas = Vec::new();
    let (mut remaining, mut reset) = (None, None);
    for item in items(headers, "ratelimit") {
        // The dictionary of version 7: limit=100, remaining=50, reset=30.
        match item.name.split_once('=') {
            Some(("remaining", number)) => remaining = whole(number),
            Some(("reset", number)) => reset = whole(number),
            _ => {
                let seconds = item.get("t").or_else(|| window(item.name));
                quotas.extend(quota(item.get("r"), seconds));
            }
        }
    }
    quotas.extend(quota(remaining, reset));
    quotas
}

fn quota(remaining: Option<u64>, seconds: Option<u64>) -> Option<Quota> {
    Some(Quota { remaining: remaining?, reset: Duration::from_secs(seconds?).clamp(RESET_LEAST, RESET_MOST) })
}

/// An item of a list with its parameters (RFC 9651, as far as these fields use it).
struct Item<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, u64)>,
}

impl Item<'_> {
    fn get(&self, key: &str) -> Option<u64> {
        self.parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

/// The items of all lines of a field; what is no number is passed over.
fn items<'a>(headers: &'a HeaderMap, field: &str) -> Vec<Item<'a>> {
    let lines = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    let lines = lines.filter(|text| text.len() <= TEXT_MAX);
    let parts = lines.flat_map(|text| split(text, ','));
    let item = |text: &'a str| {
        let mut parts = split(text, ';');
        let name = parts.next().unwrap_or_default().trim_matches('"');
        let parameters = parts.take(ITEMS_MAX).filter_map(|part| part.split_once('='));
        let parameters = parameters.filter_map(|(key, value)| Some((key.trim(), whole(value.trim())?))).collect();
        Item { name, parameters }
    };
    parts.take(ITEMS_MAX).map(item).collect()
}

/// The parts between separators that stand outside quotes, trimmed.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character: char| {
        if escaped {
            escaped = false;
        } else {
            match character {
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => return !quoted && character == separator,
            }
        }
        false
    })
    .map(str::trim)
}

/// A number, rounded up to a whole one. None if it is negative or none; more digits than fit are the largest.
fn whole(text: &str) -> Option<u64> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !is_number(digits) || !is_number(fraction) {
        return None;
    }
    let up = u64::from(fraction.bytes().any(|byte| byte != b'0'));
    Some(digits.parse::<u64>().unwrap_or(u64::MAX).saturating_add(up))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-02T03:04:05Z
    const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_000);

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn told(lines: &[(&str, &str)]) -> Option<(u64, u64)> {
        read(&headers(lines), NOW).map(|quota| (quota.remaining, quota.reset.as_secs()))
    }

    #[test]
    fn every_form_is_read() {
        type Case = (&'static [(&'static str, &'static str)], Option<(u64, u64)>);
        let cases: &[Case] = &[
            (&[("ratelimit", "\"default\";r=50;t=30")], Some((50, 30))),
            (&[("ratelimit", "default ; r=50 ; t=30;pk=:abc=:")], Some((50, 30))),
            (&[("ratelimit", "\"a,b;r=1;t=9\";r=50;t=30")], Some((50, 30))),
            (&[("ratelimit", "\"quote\\\"d\";r=5;t=3")], Some((5, 3))),
            (&[("ratelimit", "limit=100, remaining=7, reset=20")], Some((7, 20))),
            (&[("ratelimit", "\"day\";r=1000;t=3600, \"second\";r=1;t=5")], Some((1, 5))),
            (&[("ratelimit", "\"day\";r=0;t=3600"), ("ratelimit", "\"second\";r=1;t=5")], Some((0, 3600))),
            (&[("ratelimit", "\"x\";r=9"), ("ratelimit-policy", "\"y\";q=9;w=1, \"x\";q=100;w=60")], Some((9, 60))),
            (&[("ratelimit", "\"x\";r=9")], None),
            (&[("ratelimit", "\"x\";t=9")], None),
            (&[("ratelimit-policy", "\"x\";q=100;w=60")], None),
            (
                &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "3"), ("ratelimit-reset", "12")],
                Some((3, 12)),
            ),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767323055")], Some((0, 10))),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767323055500")], Some((0, 10))),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")], Some((0, 1))),
            (&[("x-ratelimit-remaining", "2"), ("x-ratelimit-reset", "1767000000")], Some((2, 1))),
            (&[("x-ratelimit-remaining", "2"), ("x-ratelimit-reset-after", "1.25")], Some((2, 2))),
            (&[("x-rate-limit-remaining", "2"), ("x-rate-limit-reset", "30")], Some((2, 30))),
            (&[("x-ratelimit-remaining", "2")], None),
            (&[("x-ratelimit-remaining", "-2"), ("x-ratelimit-reset", "30")], None),
            (&[("x-ratelimit-remaining", "two"), ("x-ratelimit-reset", "30")], None),
            (
                &[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "99999999999999999999999")],
                Some((1, 31_622_400)),
            ),
            (
                &[("x-ratelimit-remaining", "9"), ("x-ratelimit-reset", "10"), ("ratelimit", "\"b\";r=1;t=10")],
                Some((1, 10)),
            ),
            (&[("content-type", "text/plain")], None),
        ];
        for (lines, expected) in cases {
            assert_eq!(told(lines), *expected, "{lines:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

        #[test]
        fn nothing_that_is_written_panics_and_what_is_read_is_sound(
            lines in proptest::collection::vec(
                (0..8_usize, "[a-z\"\\\\;,=.:0-9 -]{0,60}|[ -~]{0,3000}|(\"[a-z]{0,3}\";r=[0-9]{1,25};t=[0-9]{1,25},? ?){0,30}"),
                0..6,
            ),
            now in 0..u64::MAX,
        ) {
            let names = [
                "ratelimit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset", "x-ratelimit-remaining",
                "x-ratelimit-reset", "x-ratelimit-reset-after", "x-rate-limit-reset",
            ];
            let mut headers = HeaderMap::new();
            for (name, value) in &lines {
                headers.append(names[*name], HeaderValue::from_str(value).unwrap());
            }
            let read = read(&headers, Timestamp::from_millis(now));
            prop_assert!(read.is_none_or(|quota| (RESET_LEAST..=RESET_MOST).contains(&quota.reset)));
        }
    }
}
