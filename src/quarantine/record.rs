//! Owns the bytes of one record of the ring.
//!
//! ```text
//! magic      4  "SPQ1"
//! kind       1  1 a request, 2 numbers of requests that were removed
//! length     4  of the payload
//! time       8  of the id: milliseconds
//! number     8  of the id
//! check      4  CRC32C of the payload
//! check      4  CRC32C of the 29 bytes before
//! payload
//! ```
//!
//! Integers are little-endian. The payload of a request is its format version (1), status and reason, then the payload
//! of an `accepted` entry of the log; that of a removal is a list of numbers. Reading damaged bytes gives None.

use bytes::Bytes;

use super::{Keep, Kept};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, QUARANTINE},
    log::{
        Kind as EntryKind,
        entry::{Entry, Reader, Writer, decode_event},
    },
};

const MAGIC: [u8; 4] = *b"SPQ1";

/// Bytes before the payload.
pub(super) const HEAD_BYTES: usize = 33;

/// The longest payload: a body, a header block, and room for names.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 20;

const VERSION: u64 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kept = 1,
    Removed = 2,
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) id: EventId,
    pub(super) check: u32,
}

/// The id of a request in quarantine.
pub(super) const fn id(time: Timestamp, number: u64) -> EventId {
    EventId { time, pos: Pos { partition: QUARANTINE, seq: number } }
}

/// A whole record. None if the payload is longer than [`PAYLOAD_BYTES_MAX`].
pub(super) fn encode(kind: Kind, id: EventId, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)?;
    let mut out = Vec::with_capacity(HEAD_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.push(kind as u8);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.time.as_millis().to_le_bytes());
    out.extend_from_slice(&id.pos.seq.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let check = crc32c::crc32c(&out);
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(payload);
    Some(out)
}

impl Head {
    /// Reads a head. None if it is none.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (checked, check) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*check) || !checked.starts_with(&MAGIC) {
            return None;
        }
        let kind = match checked.get(4)? {
            1 => Kind::Kept,
            2 => Kind::Removed,
            _ => return None,
        };
        let four = |at: usize| Some(u32::from_le_bytes(*checked.get(at..)?.first_chunk()?));
        let eight = |at: usize| Some(u64::from_le_bytes(*checked.get(at..)?.first_chunk()?));
        let id = id(Timestamp::from_millis(eight(9)?), eight(17)?);
        Some(Self { kind, length: four(5)?, id, check: four(25)? })
            .filter(|head| head.length as usize <= PAYLOAD_BYTES_MAX)
    }

    /// Whether this is the payload that was written.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && crc32c::crc32c(payload) == self.check
    }
}

/// The payload of a request.
pub(super) fn payload(keep: &Keep) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(32 + keep.accepted.len()));
    out.number(VERSION);
    out.number(u64::from(keep.status));
    out.text(keep.reason);
    out.0.extend_from_slice(&keep.accepted);
    out.0
}

/// The request of a payload.
pub(super) fn decode(id: EventId, payload: Bytes) -> Option<Kept> {
    let mut from = Reader(payload);
    if from.number()? != VERSION {
        return None;
    }
    let status = u16::try_from(from.number()?).ok()?;
    let reason = from.text()?;
    let entry = Entry { pos: id.pos, time: id.time, kind: EntryKind::Accepted, refs: Vec::new(), payload: from.0 };
    Some(Kept { reason, status, event: decode_event(&entry)? })
}

/// The payload of a removal.
pub(super) fn removal(ids: &[EventId]) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(ids.len() * 4));
    for id in ids {
        out.number(id.pos.seq);
    }
    out.0
}

/// The numbers of a removal.
pub(super) fn removed(payload: Bytes) -> Option<Vec<u64>> {
    let mut from = Reader(payload);
    let mut numbers = Vec::new();
    while !from.0.is_empty() {
        numbers.push(from.number()?);
    }
    Some(numbers)
}
