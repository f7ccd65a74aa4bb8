//! Owns the format of `attempted` entries: what was tried, what follows, and which replay it answers.

use bytes::Bytes;

use super::{
    VERSION,
    codec::{Reader, Writer},
};
use crate::clock::Timestamp;
use crate::event::{Attempt, Change, Diversion, Outcome, Reason, Sent, Seq, Turn, Verification, Version};

/// The number of the field that says how the request was signed.
const SIGNED: u64 = 1;

/// The number of the field with what an ordered delivery carries.
const TURN: u64 = 2;

/// The number of the field that an entry has which only says again what a delivery is.
const AGAIN: u64 = 3;

/// An attempt and the change that follows from it; or a change without an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// The event's own (first) sequence number.
    pub event: Seq,
    /// Which of its deliveries.
    pub upstream: Box<str>,
    /// What was tried; None for a change without an attempt.
    pub attempt: Option<Attempt>,
    /// What follows.
    pub change: Change,
    /// The entry of the attempt before this one, so that the history of a delivery can be walked back.
    pub previous: Option<Seq>,
    /// How often the delivery had been replayed when the job was handed out: an attempt that began before a replay
    /// does not settle it. None for a change that counts whatever came between, and in older entries.
    pub replays: Option<u32>,
    /// What an ordered delivery carries; None for all others, and in older entries. Stored only with `replays`.
    pub turn: Option<Turn>,
}

/// Encodes the payload of an `attempted` entry.
#[must_use]
pub fn encode_attempted(attempted: &Attempted) -> Bytes {
    let excerpt = attempted.attempt.as_ref().map_or(0, |attempt| attempt.excerpt.len());
    let mut out = Writer(Vec::with_capacity(96 + excerpt));
    out.number(VERSION);
    out.number(attempted.event);
    out.text(&attempted.upstream);
    out.option(attempted.previous, |out, seq| out.number(seq));
    out.option(attempted.attempt.as_ref(), |out, attempt| {
        out.number(u64::from(attempt.number));
        out.number(attempt.at.as_millis());
        out.number(attempt.outcome as u64);
        out.number(attempt.status.map_or(0, u64::from));
        out.text(attempt.error.as_deref().unwrap_or(""));
        out.number(u64::from(attempt.latency_ms));
        out.bytes(&attempt.excerpt);
        out.text(&attempt.sent.url);
        out.option(attempt.sent.sha256, |out, sum| out.0.extend_from_slice(&sum));
    });
    encode_change(&mut out, &attempted.change);
    if let Some(replays) = attempted.replays {
        out.number(u64::from(replays));
        // What comes behind is told apart by its number and skipped by those that do not know it.
        if let Some(signed) = attempted.attempt.as_ref().and_then(|attempt| attempt.sent.signed.as_deref()) {
            let mut field = Writer(Vec::with_capacity(64));
            field.text(&signed.scheme);
            field.text(signed.secret.as_deref().unwrap_or(""));
            out.number(SIGNED);
            out.bytes(&field.0);
        }
        if let Some(turn) = &attempted.turn {
            out.number(TURN);
            out.bytes(&encode_turn(turn));
        }
    }
    out.0.into()
}

/// Encodes what a delivery is, to be said again before the segment that says it goes: it counts only for who knows nothing
/// of that delivery but that it was carried. `until`: when a hold ends by itself.
#[must_use]
pub fn encode_again(attempted: &Attempted, until: Option<Timestamp>) -> Bytes {
    let mut out = Writer(encode_attempted(&Attempted { replays: Some(0), ..attempted.clone() }).into());
    let mut field = Writer(Vec::with_capacity(12));
    field.option(until, |out, until| out.number(until.as_millis()));
    out.number(AGAIN);
    out.bytes(&field.0);
    out.0.into()
}

/// Whether an `attempted` entry only says again what a delivery is; if so, when its hold ends by itself.
#[must_use]
pub fn said_again(payload: &Bytes) -> Option<Option<Timestamp>> {
    decode(payload)?.1
}

fn encode_turn(turn: &Turn) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(32));
    out.0.extend_from_slice(&turn.key.to_be_bytes());
    out.option(turn.begun, |out, begun| out.number(begun.as_millis()));
    match &turn.version {
        None => out.number(0),
        Some(Version::Number(number)) => {
            out.number(1);
            out.text(number);
        }
        Some(Version::Text(text)) => {
            out.number(2);
            out.text(text);
        }
    }
    out.0
}

fn decode_turn(field: Bytes) -> Option<Turn> {
    let mut from = Reader(field);
    let key = u64::from_be_bytes(from.take(8)?.as_ref().try_into().ok()?);
    let begun = from.option(Reader::time)?;
    let version = match from.number()? {
        0 => None,
        1 => Some(Version::Number(from.text()?)),
        2 => Some(Version::Text(from.text()?)),
        _ => return None,
    };
    Some(Turn { begun, key, version })
}

/// Decodes the payload of an `attempted` entry.
#[must_use]
pub fn decode_attempted(payload: &Bytes) -> Option<Attempted> {
    Some(decode(payload)?.0)
}

/// The entry, and what the field of one says that was said again.
fn decode(payload: &Bytes) -> Option<(Attempted, Option<Option<Timestamp>>)> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let event = from.number()?;
    let upstream = from.text()?;
    let previous = from.option(Reader::number)?;
    let mut attempt = from.option(|from| {
        Some(Attempt {
            number: u32::try_from(from.number()?).ok()?,
            at: from.time()?,
            outcome: match from.number()? {
                0 => Outcome::Delivered,
                1 => Outcome::Deferred,
                2 => Outcome::Refused,
                3 => Outcome::Degraded,
                _ => return None,
            },
            status: Some(u16::try_from(from.number()?).ok()?).filter(|status| *status != 0),
            error: Some(from.text()?).filter(|text| !text.is_empty()),
            latency_ms: u32::try_from(from.number()?).ok()?,
            excerpt: from.slice()?,
            sent: Sent {
                url: from.text()?,
                sha256: from.option(|from| from.take(32)?.as_ref().try_into().ok())?,
                signed: None,
            },
        })
    })?;
    let change = decode_change(&mut from)?;
    // The first releases wrote nothing behind the change.
    let replays = if from.0.is_empty() { None } else { Some(u32::try_from(from.number()?).ok()?) };
    let (mut turn, mut again) = (None, None);
    while !from.0.is_empty() {
        let (number, field) = (from.number()?, from.slice()?);
        match (number, &mut attempt) {
            (TURN, _) => turn = Some(decode_turn(field)?),
            (AGAIN, _) => again = Some(Reader(field).option(Reader::time)?),
            (SIGNED, Some(attempt)) => {
                let mut field = Reader(field);
                let (scheme, secret) = (field.text()?, field.text()?);
                let secret = Some(secret).filter(|secret| !secret.is_empty());
                attempt.sent.signed = Some(Verification { scheme, secret }.into());
            }
            _ => {}
        }
    }
    Some((Attempted { event, upstream, attempt, change, previous, replays, turn }, again))
}

fn encode_change(out: &mut Writer, change: &Change) {
    let reason = |out: &mut Writer, tag, reason: &Reason| {
        out.number(tag);
        out.text(reason.code);
        out.option(reason.detail.as_deref(), |out, detail| out.text(detail));
    };
    match change {
        Change::Delivered => out.number(0),
        Change::Retry(due) => out.pair(1, due.as_millis()),
        Change::Postpone(due) => out.pair(2, due.as_millis()),
        Change::Die(why) => reason(out, 3, why),
        Change::Ignore => out.number(4),
        Change::Hold(why) => reason(out, 5, why),
        Change::Release(due) => out.pair(6, due.as_millis()),
        Change::Replay(due) => out.pair(7, due.as_millis()),
        Change::Review(why) => reason(out, 8, why),
        Change::Supersede(why) => reason(out, 9, why),
        Change::Divert(diversion) => {
            reason(out, 10, &diversion.reason);
            out.text(&diversion.to);
            out.number(diversion.due.as_millis());
        }
        Change::Resolve => out.number(11),
    }
}

fn decode_change(from: &mut Reader) -> Option<Change> {
    fn reason(from: &mut Reader) -> Option<Reason> {
        let code = from.text()?;
        Some(Reason { detail: from.option(Reader::text)?, ..Reason::new(&code) })
    }
    Some(match from.number()? {
        0 => Change::Delivered,
        1 => Change::Retry(from.time()?),
        2 => Change::Postpone(from.time()?),
        3 => Change::Die(reason(from)?),
        4 => Change::Ignore,
        5 => Change::Hold(reason(from)?),
        6 => Change::Release(from.time()?),
        7 => Change::Replay(from.time()?),
        8 => Change::Review(reason(from)?),
        9 => Change::Supersede(reason(from)?),
        10 => {
            let reason = reason(from)?;
            Change::Divert(Box::new(Diversion { reason, to: from.text()?, due: from.time()? }))
        }
        11 => Change::Resolve,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_known_are_skipped_and_an_unsigned_attempt_is_written_as_before() {
        let signed = Verification { scheme: "stripe".into(), secret: Some("env:S".into()) };
        let attempt = |signed: Option<Verification>| Attempt {
            number: 2,
            at: Timestamp::from_millis(5),
            outcome: Outcome::Deferred,
            status: Some(503),
            error: None,
            latency_ms: 1,
            excerpt: Bytes::new(),
            sent: Sent { url: "u".into(), sha256: None, signed: signed.map(Box::new) },
        };
        let entry = |signed| Attempted {
            event: 7,
            upstream: "a".into(),
            attempt: Some(attempt(signed)),
            change: Change::Delivered,
            previous: None,
            replays: Some(0),
            turn: None,
        };
        let plain = encode_attempted(&entry(None));
        assert_eq!(&plain[..], [1, 7, 1, b'a', 0, 1, 2, 5, 1, 0xF7, 3, 0, 1, 0, 1, b'u', 0, 0, 0]);
        let with = encode_attempted(&entry(Some(signed.clone())));
        assert_eq!(&with[plain.len()..], *b"\x01\x0d\x06stripe\x05env:S");
        assert_eq!(decode_attempted(&with), Some(entry(Some(signed))));
        let unknown = Bytes::from([&plain[..], &[99, 2, 1, 2]].concat());
        assert_eq!(decode_attempted(&unknown), Some(entry(None)));
        for cut in plain.len() + 1..with.len() {
            assert_eq!(decode_attempted(&with.slice(..cut)), None, "{cut}");
        }
    }

    #[test]
    fn an_entry_of_the_first_releases_counts_whatever_came_between() {
        let change = Change::Retry(Timestamp::from_millis(9));
        let old = Attempted {
            event: 7,
            upstream: "a".into(),
            attempt: None,
            change,
            previous: Some(3),
            replays: None,
            turn: None,
        };
        let stored = encode_attempted(&old);
        assert_eq!(&stored[..], [1, 7, 1, b'a', 1, 3, 0, 1, 9], "byte for byte as it was written then");
        assert_eq!(decode_attempted(&stored), Some(old.clone()));
        for replays in [0, 1, u32::MAX] {
            let new = Attempted { replays: Some(replays), ..old.clone() };
            let stored = encode_attempted(&new);
            assert_eq!(decode_attempted(&stored), Some(new));
        }
    }

    #[test]
    fn what_an_ordered_delivery_carries_stands_behind_and_fields_of_later_versions_are_passed_over() {
        let (upstream, change) = ("a".into(), Change::Delivered);
        let plain =
            Attempted { event: 7, upstream, attempt: None, change, previous: None, replays: Some(0), turn: None };
        let unordered = encode_attempted(&plain);
        let versions = [None, Some(Version::Number("12".into())), Some(Version::Text("b".into()))];
        for (version, begun) in versions.into_iter().zip([None, Some(Timestamp::from_millis(9)), None]) {
            let ordered = Attempted { turn: Some(Turn { begun, key: 1 << 63, version }), ..plain.clone() };
            let stored = encode_attempted(&ordered);
            assert!(stored.starts_with(&unordered));
            assert_eq!(decode_attempted(&stored), Some(ordered.clone()));
            let later = [&stored[..], &[99, 2, 1, 1]].concat();
            assert_eq!(decode_attempted(&later.into()), Some(ordered));
        }
    }

    #[test]
    fn a_diversion_names_the_other_upstream_and_when_it_is_due() {
        let due = Timestamp::from_millis(9);
        let change = Change::Divert(Box::new(Diversion { to: "b".into(), due, reason: Reason::new("diverted") }));
        let entry = Attempted {
            event: 7,
            upstream: "a".into(),
            attempt: None,
            change,
            previous: None,
            replays: Some(2),
            turn: None,
        };
        let stored = encode_attempted(&entry);
        assert_eq!(&stored[..], b"\x01\x07\x01a\x00\x00\x0a\x08diverted\x00\x01b\x09\x02", "as it is written today");
        assert_eq!(decode_attempted(&stored), Some(entry));
    }
}
