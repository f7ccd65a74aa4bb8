//! Owns freshness: where the sender's timestamp stands, what it counts, and how far it may be off.
//!
//! Promises that a number is digits and nothing else, that both directions are bounded, and that the text itself stays
//! as it was sent: it is the text that is signed.

use http::{HeaderMap, HeaderName};

use super::{Refusal, TimestampUnit, headers::only};
use crate::clock::Timestamp;

/// The longest timestamp that is looked at, in bytes; RFC 3339 with nanoseconds has 35.
const TEXT_BYTES_MAX: usize = 40;

/// How fresh a request must be.
#[derive(Clone)]
pub(super) struct TimestampRule {
    pub(super) place: Place,
    pub(super) unit: TimestampUnit,
    /// Into the past, and into the future.
    pub(super) tolerance_ms: u64,
}

/// Where the timestamp stands.
#[derive(Clone)]
pub(super) enum Place {
    Header(HeaderName),
    SignatureField,
    Json(&'static [&'static str]),
}

impl TimestampRule {
    /// The header it stands in, if it has one of its own.
    pub(super) const fn header(&self) -> Option<&HeaderName> {
        match &self.place {
            Place::Header(name) => Some(name),
            Place::SignatureField | Place::Json(_) => None,
        }
    }

    /// Its text, if the head has it; `field` is what the signature header said.
    pub(super) fn text<'h>(&self, headers: &'h HeaderMap, field: Option<&'h [u8]>) -> Result<&'h [u8], Refusal> {
        match &self.place {
            Place::Header(name) => only(headers, name).map_err(|_| Refusal::MalformedTimestamp),
            Place::SignatureField => field.ok_or(Refusal::MalformedTimestamp),
            Place::Json(_) => Err(Refusal::MalformedTimestamp),
        }
    }

    /// The sender's time minus ours in milliseconds, if it is within the tolerance.
    pub(super) fn check(&self, text: &[u8], now: Timestamp) -> Result<i64, Refusal> {
        let sent_ms = self.unit.read(text).ok_or(Refusal::MalformedTimestamp)?;
        let now_ms = now.as_millis();
        match sent_ms.abs_diff(now_ms) <= self.tolerance_ms {
            true => Ok(i64::try_from(i128::from(sent_ms) - i128::from(now_ms)).unwrap_or(i64::MAX)),
            false if sent_ms < now_ms => Err(Refusal::Stale),
            false => Err(Refusal::Future),
        }
    }
}

impl TimestampUnit {
    /// Milliseconds since the epoch.
    pub(super) fn read(self, text: &[u8]) -> Option<u64> {
        match self {
            Self::Seconds => digits(text).map(|number| number.saturating_mul(1000)),
            Self::Milliseconds => digits(text),
            Self::Rfc3339 => rfc3339(text),
        }
    }

    /// The text of a time.
    pub(super) fn write(self, time: Timestamp) -> String {
        match self {
            Self::Seconds => (time.as_millis() / 1000).to_string(),
            Self::Milliseconds => time.as_millis().to_string(),
            Self::Rfc3339 => time.to_string(),
        }
    }
}

/// A plain decimal number: digits only, no sign, no space.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// RFC 3339, `2026-01-02T03:04:05Z` with or without a fraction, or with an offset; nothing else that a parser of dates
/// may know.
fn rfc3339(text: &[u8]) -> Option<u64> {
    let (date, rest) = text.split_at_checked(19)?;
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = date.iter().zip(shape).all(|(byte, form)| match form {
        b'd' => byte.is_ascii_digit(),
        _ => byte == form,
    });
    let rest_fits = rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'Z' | b'+' | b'-' | b':'));
    if !fits || !rest_fits || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    Timestamp::parse_rfc3339(std::str::from_utf8(text).ok()?).map(Timestamp::as_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_down_to_nanoseconds_and_nothing_that_only_resembles_it() {
        let read = |text: &str| TimestampUnit::Rfc3339.read(text.as_bytes());
        assert_eq!(read("2021-07-25T10:00:00Z"), Some(1_627_207_200_000));
        assert_eq!(read("2021-07-25T10:00:00.123456789Z"), Some(1_627_207_200_123));
        assert_eq!(read("2021-07-25T12:00:00.5+02:00"), Some(1_627_207_200_500));
        for text in [
            "",
            "1627207200",
            "2021-07-25",
            "2021-07-25T10:00:00",
            "2021-07-25 10:00:00Z",
            "2021-07-25T10:00Z",
            "2021-07-25t10:00:00z",
            "2021-07-25T10:00:00Z[UTC]",
            " 2021-07-25T10:00:00Z",
            "2021-13-25T10:00:00Z",
            "1960-01-01T00:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let time = Timestamp::from_millis(1_627_207_200_000);
        for unit in [TimestampUnit::Seconds, TimestampUnit::Milliseconds, TimestampUnit::Rfc3339] {
            assert_eq!(unit.read(unit.write(time).as_bytes()), Some(time.as_millis()));
        }
    }
}
