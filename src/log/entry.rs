//! Owns the payload formats of log entries: what outlives the process, version after version.
//!
//! Integers are LEB128 varints unless said otherwise; texts and byte strings are length-prefixed. Each payload
//! begins with its format version (a varint, 1 today), so that a newer reader knows older entries.
//! Decoding never panics on damaged input: it gives `None`.

mod answer;
mod attempted;
mod codec;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

pub use self::answer::{Answer, decode_answer, encode_answer};
pub use self::attempted::{Attempted, decode_attempted, encode_attempted};
pub(crate) use self::codec::{Reader, Writer};
use super::DedupeKey;
use crate::{
    clock::Timestamp,
    event::{Body, Event, EventId, Extras, Pos, Proxy, Scheme, Seq, Verification},
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

/// Which upstreams a batch of events goes to: what routing decided once and for all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Planned {
    /// Generation of the routing table that decided.
    pub generation: u64,
    /// The names that `events` speak of by index.
    pub upstreams: Vec<Box<str>>,
    /// Event and indexes into `upstreams`; none means unrouted or ignored.
    pub events: Vec<PlannedEvent>,
    /// Deliveries that are not of normal priority: event, index into `upstreams`, priority. In the order of `events`.
    pub priorities: Vec<(Seq, u32, u8)>,
}

/// What routing decided about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    /// The event's own sequence number.
    pub event: Seq,
    /// Indexes into [`Planned::upstreams`].
    pub targets: Vec<u32>,
    /// A route took it and discarded it on purpose (`to = []`).
    pub ignored: bool,
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

/// One delivery, named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The event's own sequence number.
    pub event: Seq,
    /// The upstream's name.
    pub upstream: Box<str>,
}

/// An operator's command, stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who: `uid 1000 (alice)`, `relay` for what the relay does by itself.
    pub actor: String,
    /// What.
    pub action: Action,
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Holds all there is and all that will come for an upstream.
    HoldUpstream {
        /// Its name.
        upstream: Box<str>,
        /// Milliseconds since the epoch at which it goes on by itself.
        until_ms: Option<u64>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Ends a hold of an upstream.
    ReleaseUpstream {
        /// Its name.
        upstream: Box<str>,
    },
    /// Holds deliveries that exist.
    Hold {
        /// Which.
        targets: Vec<Target>,
        /// Milliseconds since the epoch at which they go on by themselves.
        until_ms: Option<u64>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Lets held deliveries go.
    Release {
        /// Which.
        targets: Vec<Target>,
    },
    /// Makes deliveries due again (or makes new ones, for an upstream the event had not been planned for).
    Replay {
        /// Which.
        targets: Vec<Target>,
        /// A fresh idempotency key: the number of the replay is added to it.
        new_key: bool,
        /// Microseconds between two of them at the least, if a rate was given.
        interval_us: Option<u64>,
        /// These deliveries did not exist before: their first attempt is number 1.
        #[serde(default)]
        created: bool,
    },
    /// Lets those go that wait behind dead deliveries of the same key.
    LetGo {
        /// The dead ones.
        targets: Vec<Target>,
    },
    /// Settles deliveries that wait for a person as delivered.
    Resolve {
        /// Which.
        targets: Vec<Target>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Hides events at once; their bytes go with the segment.
    Delete {
        /// Sequence numbers of events.
        events: Vec<Seq>,
    },
    /// Attempts of an upstream fail as told, without touching the network. Recorded only: a restart ends it.
    Rehearse {
        /// Its name.
        upstream: Box<str>,
        /// How.
        fault: Fault,
        /// For how long.
        for_ms: u64,
    },
    /// Ends a rehearsal before its time.
    EndRehearsal {
        /// Of which upstream.
        upstream: Box<str>,
    },
}

/// How attempts fail in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An answer with this status and no body.
    Status(u16),
    /// No answer within the upstream's time-out.
    Hang,
    /// The connection breaks before the answer.
    Reset,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Hang => f.write_str("hang"),
            Self::Reset => f.write_str("reset"),
        }
    }
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

/// A request about to be stored, borrowed from where it was received: encoded once, copied once.
pub struct Accepting<'a> {
    /// See [`Event`] for the fields.
    pub received_at: Timestamp,
    #[expect(missing_docs, reason = "as in Event")]
    pub source: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub event_type: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub method: &'a Method,
    #[expect(missing_docs, reason = "as in Event")]
    pub scheme: Scheme,
    #[expect(missing_docs, reason = "as in Event")]
    pub path: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub query: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub headers: &'a HeaderMap,
    #[expect(missing_docs, reason = "as in Event")]
    pub client: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub proxy: Option<&'a Proxy>,
    #[expect(missing_docs, reason = "as in Event")]
    pub captures: &'a [(Box<str>, Box<str>)],
    #[expect(missing_docs, reason = "as in Event")]
    pub verification_scheme: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub verification_secret: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub config_generation: u64,
    #[expect(missing_docs, reason = "as in Event")]
    pub dedupe: Option<(u128, Timestamp, u64)>,
    #[expect(missing_docs, reason = "as in Event")]
    pub extras: Option<&'a Extras>,
    /// The pieces of the body, or None when it is appended as parts.
    pub body: Option<&'a [Bytes]>,
    /// The whole body's length in bytes.
    pub body_length: u64,
}

impl Accepting<'_> {
    /// Encodes the payload of an `accepted` entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let inline = self.body.map_or(0, |_| usize::try_from(self.body_length).unwrap_or(0));
        let mut out = Writer(Vec::with_capacity(inline + 256 + self.headers.len() * 48));
        out.number(VERSION);
        out.number(self.received_at.as_millis());
        out.text(self.source);
        out.text(self.event_type.unwrap_or(""));
        out.text(self.method.as_str());
        let extras = self.extras.filter(|extras| !extras.is_empty());
        out.number(scheme_bits(self.scheme, self.proxy) | if extras.is_some() { EXTRAS } else { 0 });
        out.text(self.path);
        out.option(self.query, |out, query| out.text(query));
        out.number(self.headers.len() as u64);
        for (name, value) in self.headers {
            out.text(name.as_str());
            out.bytes(value.as_bytes());
        }
        out.text(self.client);
        if let Some(proxy) = self.proxy {
            out.text(&proxy.address);
        }
        out.number(self.captures.len() as u64);
        for (name, value) in self.captures {
            out.text(name);
            out.text(value);
        }
        out.text(self.verification_scheme);
        out.option(self.verification_secret, |out, secret| out.text(secret));
        out.number(self.config_generation);
        out.option(self.dedupe, |out, (fingerprint, expires, body)| {
            out.0.extend_from_slice(&fingerprint.to_be_bytes());
            out.number(expires.as_millis());
            out.0.extend_from_slice(&body.to_be_bytes());
        });
        if let Some(extras) = extras {
            // Texts and numbers under fixed names always make JSON.
            out.bytes(&serde_json::to_vec(extras).unwrap_or_default());
        }
        out.number(self.body_length);
        out.number(u64::from(self.body.is_some()));
        for piece in self.body.unwrap_or_default() {
            out.0.extend_from_slice(piece);
        }
        out.0.into()
    }
}

/// In the number of the scheme: how the sender reached us …
const HTTPS: u64 = 1;
/// … whether the address of a trusted proxy follows that of the client …
const BY_PROXY: u64 = 2;
/// … how the proxy reached us …
const PROXY_HTTPS: u64 = 4;
/// … and whether extras follow the dedupe key.
const EXTRAS: u64 = 8;

fn scheme_bits(scheme: Scheme, proxy: Option<&Proxy>) -> u64 {
    let https = |scheme: Scheme, bit: u64| if scheme == Scheme::Https { bit } else { 0 };
    https(scheme, HTTPS) | proxy.map_or(0, |proxy| BY_PROXY | https(proxy.scheme, PROXY_HTTPS))
}

/// Decodes the event of an `accepted` or `carried` entry. None if it is neither, or of an unknown format.
#[must_use]
pub fn decode_event(entry: &Entry) -> Option<Event> {
    match entry.kind {
        Kind::Accepted => decode_accepted(entry.id(), &entry.payload, &entry.refs),
        Kind::Carried => {
            let carried = decode_carried(&entry.payload)?;
            decode_accepted(carried.id, &carried.accepted, &entry.refs)
        }
        _ => None,
    }
}

fn decode_accepted(id: EventId, payload: &Bytes, refs: &[Seq]) -> Option<Event> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let received_at = from.time()?;
    let source = from.text()?;
    let event_type = Some(from.text()?).filter(|text| !text.is_empty());
    let method = Method::from_bytes(&from.slice()?).ok()?;
    let bits = from.number()?;
    let scheme_of = |bit: u64| if bits & bit == 0 { Scheme::Http } else { Scheme::Https };
    let scheme = scheme_of(HTTPS);
    let path = from.text()?;
    let query = from.option(Reader::text)?;
    let count = from.count()?;
    let mut headers = HeaderMap::with_capacity(count.min(256));
    for _ in 0..count {
        let name = HeaderName::from_bytes(&from.slice()?).ok()?;
        headers.try_append(name, HeaderValue::from_maybe_shared(from.slice()?).ok()?).ok()?;
    }
    let client = from.text()?;
    let proxy = match bits & BY_PROXY {
        0 => None,
        _ => Some(Proxy { address: from.text()?, scheme: scheme_of(PROXY_HTTPS) }),
    };
    let captures = (0..from.count()?).map(|_| Some((from.text()?, from.text()?))).collect::<Option<_>>()?;
    let verification = Verification { scheme: from.text()?, secret: from.option(Reader::text)? };
    let config_generation = from.number()?;
    let dedupe = from.option(|from| {
        let fingerprint = u128::from_be_bytes(from.take(16)?.as_ref().try_into().ok()?);
        Some((fingerprint, from.time()?, u64::from_be_bytes(from.take(8)?.as_ref().try_into().ok()?)))
    })?;
    let extras = match bits & EXTRAS {
        0 => None,
        _ => Some(serde_json::from_slice(&from.slice()?).ok()?),
    };
    let length = from.number()?;
    let body = match from.number()? {
        0 => Body::Parts { seqs: refs.to_vec(), length },
        _ => Body::Inline(from.take(usize::try_from(length).ok()?)?),
    };
    Some(Event {
        id,
        received_at,
        source,
        event_type,
        method,
        scheme,
        path,
        query,
        headers,
        client,
        proxy,
        captures,
        verification,
        config_generation,
        dedupe,
        extras,
        body,
    })
}

/// The dedupe key of an `accepted` payload, without decoding the rest into an event.
#[must_use]
pub fn dedupe_of(payload: &Bytes) -> Option<DedupeKey> {
    let mut from = Reader(payload.clone());
    from.version()?;
    from.number()?;
    for _ in 0..3 {
        from.slice()?;
    }
    let bits = from.number()?;
    from.slice()?;
    from.option(Reader::slice)?;
    for _ in 0..from.count()? {
        from.slice()?;
        from.slice()?;
    }
    from.slice()?;
    if bits & BY_PROXY != 0 {
        from.slice()?;
    }
    for _ in 0..from.count()? {
        from.slice()?;
        from.slice()?;
    }
    from.slice()?;
    from.option(Reader::slice)?;
    from.number()?;
    from.option(|from| {
        let fingerprint = u128::from_be_bytes(from.take(16)?.as_ref().try_into().ok()?);
        let expires_at = from.time()?;
        let body = u64::from_be_bytes(from.take(8)?.as_ref().try_into().ok()?);
        Some(DedupeKey { fingerprint, expires_at, body, runs_version: 0 })
    })?
}

/// Encodes the payload of a `planned` entry.
#[must_use]
pub fn encode_planned(planned: &Planned) -> Bytes {
    let mut out = Writer(Vec::with_capacity(16 + planned.events.len() * 4));
    out.number(VERSION);
    out.number(planned.generation);
    out.number(planned.upstreams.len() as u64);
    for name in &planned.upstreams {
        out.text(name);
    }
    out.number(planned.events.len() as u64);
    let mut last = 0;
    for event in &planned.events {
        out.number(event.event.wrapping_sub(last));
        last = event.event;
        out.number((event.targets.len() as u64) << 1 | u64::from(event.ignored));
        for target in &event.targets {
            out.number(u64::from(*target));
        }
    }
    // The first releases knew no priorities; without any an entry looks as it did then.
    if !planned.priorities.is_empty() {
        out.number(planned.priorities.len() as u64);
        let mut last = 0;
        for (event, target, priority) in &planned.priorities {
            out.number(event.wrapping_sub(last));
            last = *event;
            out.number(u64::from(*target));
            out.number(u64::from(*priority));
        }
    }
    out.0.into()
}

/// Decodes the payload of a `planned` entry.
#[must_use]
pub fn decode_planned(payload: &Bytes) -> Option<Planned> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let generation = from.number()?;
    let upstreams: Vec<Box<str>> = (0..from.count()?).map(|_| from.text()).collect::<Option<_>>()?;
    let mut last: Seq = 0;
    let mut events = Vec::new();
    for _ in 0..from.count()? {
        last = last.wrapping_add(from.number()?);
        let head = from.number()?;
        let mut targets = Vec::new();
        for _ in 0..head >> 1 {
            let target = u32::try_from(from.number()?).ok()?;
            upstreams.get(target as usize)?;
            targets.push(target);
        }
        events.push(PlannedEvent { event: last, targets, ignored: head & 1 == 1 });
    }
    let mut priorities = Vec::new();
    if !from.0.is_empty() {
        let mut last: Seq = 0;
        for _ in 0..from.count()? {
            last = last.wrapping_add(from.number()?);
            let target = u32::try_from(from.number()?).ok()?;
            upstreams.get(target as usize)?;
            priorities.push((last, target, u8::try_from(from.number()?).ok()?));
        }
    }
    Some(Planned { generation, upstreams, events, priorities })
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

/// A command with the steady time at which it was given, so that a step of the wall clock (and with it of the log's
/// times) never moves what becomes due by it.
#[derive(Serialize)]
struct Stamping<'a> {
    #[serde(flatten)]
    command: &'a Command,
    at_ms: u64,
}

#[derive(Deserialize)]
struct Stamp {
    at_ms: Option<u64>,
}

/// Encodes a command with its steady time.
#[must_use]
pub fn encode_command(command: &Command, at: Timestamp) -> Bytes {
    encode_json(&Stamping { command, at_ms: at.as_millis() })
}

/// The steady time at which a command was given. None if it was stored without one.
#[must_use]
pub fn command_time(payload: &Bytes) -> Option<Timestamp> {
    decode_json::<Stamp>(payload)?.at_ms.map(Timestamp::from_millis)
}

/// Decodes what [`encode_json`] wrote.
#[must_use]
pub fn decode_json<T: for<'de> Deserialize<'de>>(payload: &Bytes) -> Option<T> {
    let mut from = Reader(payload.clone());
    from.version()?;
    serde_json::from_slice(&from.0).ok()
}
