//! Owns the payload formats of log entries: what outlives the process, version after version.
//!
//! Integers are LEB128 varints unless said otherwise; texts and byte strings are length-prefixed. Each payload
//! begins with its format version (a varint, 1 today), so that a newer reader knows older entries.
//! Decoding never panics on damaged input: it gives `None`.

mod accepted;
mod answer;
mod attempted;
mod codec;
mod command;
mod job;
mod planned;
mod subscriber;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::accepted::{Accepting, decode_event, dedupe_of};
pub use self::answer::{Answer, decode_answer, encode_answer};
pub use self::attempted::{Attempted, decode_attempted, encode_again, encode_attempted, said_again};
pub(crate) use self::codec::{Reader, Writer};
pub use self::command::{Action, Command, Fault, Target, command_time, encode_command};
pub use self::job::{JobEnd, JobProgress, JobSpec, ReplayStep};
pub use self::planned::{Planned, PlannedEvent, decode_planned, encode_planned};
pub use self::subscriber::{Registration, SigningSecret, StoredSecret, Streak, Written};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, Seq},
};

/// The format version written today.
const VERSION: u64 = 1;

/// What an entry is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An accepted request.
    Accepted = 1,
    /// A piece of a large body; the payload is the piece itself.
    Part = 2,
    /// Which upstreams events go to.
    Planned = 3,
    /// An attempt and what follows from it.
    Attempted = 4,
    /// Resends of an event, aggregated.
    Duplicate = 5,
    /// An event appended again, whole, before its segment is deleted.
    Carried = 6,
    /// An operator's command.
    Command = 7,
    /// A configuration became active.
    Config = 8,
    /// What a sender who waited was answered.
    Answer = 9,
}

impl Kind {
    /// From its stored number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Accepted,
            2 => Self::Part,
            3 => Self::Planned,
            4 => Self::Attempted,
            5 => Self::Duplicate,
            6 => Self::Carried,
            7 => Self::Command,
            8 => Self::Config,
            9 => Self::Answer,
            _ => return None,
        })
    }
}

/// A stored entry, its payload not yet decoded.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its sequence number.
    pub pos: Pos,
    /// When it was appended; never goes back along the log.
    pub time: Timestamp,
    /// What it is.
    pub kind: Kind,
    /// Positions of the parts that belong to it.
    pub refs: Vec<Seq>,
    /// See the encode and decode functions of this module.
    pub payload: Bytes,
}

impl Entry {
    /// The id of the event, if this is one (for a carried event the original id is in the payload).
    #[must_use]
    pub const fn id(&self) -> EventId {
        EventId { time: self.time, pos: self.pos }
    }
}

/// Resends of an event since the last such entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The first event's sequence number.
    pub first: Seq,
    /// How many.
    pub count: u64,
    /// How many of them had another body.
    pub body_differs: u64,
}

/// An event appended again, whole.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Its original id.
    pub id: EventId,
    /// Deliveries: upstream and attempts so far, for history.
    pub history: Vec<(Box<str>, u32)>,
    /// The payload of the original `accepted` entry.
    pub accepted: Bytes,
}

/// A configuration that became active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigActivated {
    /// The generation that later entries name.
    pub generation: u64,
    /// SHA-256 of the effective configuration, hex.
    pub hash: String,
    /// The upstreams it has.
    pub upstreams: Vec<Box<str>>,
}

/// Encodes the payload of a `duplicate` entry.
#[must_use]
pub fn encode_duplicate(duplicate: &Duplicate) -> Bytes {
    let mut out = Writer(Vec::with_capacity(16));
    for number in [VERSION, duplicate.first, duplicate.count, duplicate.body_differs] {
        out.number(number);
    }
    out.0.into()
}

/// Decodes the payload of a `duplicate` entry.
#[must_use]
pub fn decode_duplicate(payload: &Bytes) -> Option<Duplicate> {
    let mut from = Reader(payload.clone());
    from.version()?;
    Some(Duplicate { first: from.number()?, count: from.number()?, body_differs: from.number()? })
}

/// Encodes the payload of a `carried` entry.
#[must_use]
pub fn encode_carried(carried: &Carried) -> Bytes {
    let mut out = Writer(Vec::with_capacity(64 + carried.accepted.len()));
    out.number(VERSION);
    out.number(carried.id.time.as_millis());
    out.number(u64::from(carried.id.pos.partition));
    out.number(carried.id.pos.seq);
    out.number(carried.history.len() as u64);
    for (upstream, attempts) in &carried.history {
        out.text(upstream);
        out.number(u64::from(*attempts));
    }
    out.bytes(&carried.accepted);
    out.0.into()
}

/// Decodes the payload of a `carried` entry.
#[must_use]
pub fn decode_carried(payload: &Bytes) -> Option<Carried> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let time = from.time()?;
    let pos = Pos { partition: u16::try_from(from.number()?).ok()?, seq: from.number()? };
    let history =
        (0..from.count()?).map(|_| Some((from.text()?, u32::try_from(from.number()?).ok()?))).collect::<Option<_>>()?;
    Some(Carried { id: EventId { time, pos }, history, accepted: from.slice()? })
}

/// Encodes a command or a configuration: one version number, then JSON.
#[must_use]
pub fn encode_json<T: Serialize>(value: &T) -> Bytes {
    let mut out = Writer(Vec::with_capacity(128));
    out.number(VERSION);
    let encoded = serde_json::to_writer(&mut out.0, value);
    debug_assert!(encoded.is_ok(), "commands have no maps with odd keys");
    out.0.into()
}

/// Decodes what [`encode_json`] wrote.
#[must_use]
pub fn decode_json<T: for<'de> Deserialize<'de>>(payload: &Bytes) -> Option<T> {
    let mut from = Reader(payload.clone());
    from.version()?;
    serde_json::from_slice(&from.0).ok()
}
