//! Owns the shape of an accepted request and of one attempt, as they are stored and as everyone reads them.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

use super::{EventId, Outcome, Seq};
use crate::clock::Timestamp;

/// How the sender reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The trusted proxy that handed a request to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its address, or `unix`.
    pub address: Box<str>,
    /// How it reached us.
    pub scheme: Scheme,
}

/// What only some events have. Stored as JSON, and not at all if there is none of it; a field that an older version
/// did not know is left out by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// The event that this one is an item of, or an answer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<str>>,
    /// Which item of its parent's batch, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// Whose event it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Box<str>>,
    /// What the schema version header said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<Box<str>>,
    /// The first violation of the source's schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<Box<str>>,
    /// What was noticed about it at the door, in words (`over_budget`, …).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Box<str>>,
    /// How many relays it came through before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// Its deliveries are held from the beginning: the code of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Box<str>>,
    /// It is part of a loop and its deliveries are dead from the beginning: what was noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Box<str>>,
    /// Its sender waited for an upstream's answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub awaited: bool,
    /// Its sender got an answer that was given before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<Cached>,
    /// It was imported: the id under which it had been exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Box<str>>,
    /// It is stored and goes nowhere by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stored_only: bool,
}

/// Whose answer was given once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cached {
    /// The event that was answered first, if it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<str>>,
    /// The upstream that is not asked again: its delivery is settled from the beginning. None for a safe method, which
    /// has no deliveries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<str>>,
}

impl Extras {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One accepted request, as stored. Immutable.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id; made by the log, not stored in the payload.
    pub id: EventId,
    /// Wall time of receipt.
    pub received_at: Timestamp,
    /// The source that took it.
    pub source: Box<str>,
    /// The event type, if the source knows how to find it.
    pub event_type: Option<Box<str>>,
    /// As received.
    pub method: Method,
    /// As the sender reached us.
    pub scheme: Scheme,
    /// As received, never decoded.
    pub path: Box<str>,
    /// As received, without the question mark.
    pub query: Option<Box<str>>,
    /// As received, hop-by-hop headers included; names lower case, order kept for each name.
    pub headers: HeaderMap,
    /// The client's address, or `unix`.
    pub client: Box<str>,
    /// Who handed it to us, if that is a trusted proxy: then the headers say what lies before it.
    pub proxy: Option<Proxy>,
    /// What the path pattern captured.
    pub captures: Vec<(Box<str>, Box<str>)>,
    /// Who says that it is genuine.
    pub verification: Verification,
    /// The generation of the configuration that took it.
    pub config_generation: u64,
    /// If the source deduplicates: the keyed fingerprint of source and key, how long it counts, and the keyed
    /// fingerprint of the body.
    pub dedupe: Option<(u128, Timestamp, u64)>,
    /// What only some events have.
    pub extras: Option<Box<Extras>>,
    /// Where the body is.
    pub body: Body,
}

/// A stored body.
#[derive(Clone, Debug)]
pub enum Body {
    /// In the entry itself.
    Inline(Bytes),
    /// In part entries of their own.
    Parts {
        /// Where the parts stand, in order.
        seqs: Vec<Seq>,
        /// The whole body's length in bytes.
        length: u64,
    },
}

impl Body {
    /// The body's length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Parts { length, .. } => *length,
        }
    }
}

/// How a request was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The scheme's name, `none` if the source checks nothing.
    pub scheme: Box<str>,
    /// The *reference* of the secret that matched (`env:NAME`), never its value.
    pub secret: Option<Box<str>>,
}

/// One try of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1, 2, …
    pub number: u32,
    /// When it began, wall time.
    pub at: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong, in words.
    pub error: Option<Box<str>>,
    /// From the first byte of the connection to the end of the answer or the failure.
    pub latency_ms: u32,
    /// The beginning of the answer's body, at most 16 KiB.
    pub excerpt: Bytes,
    /// What was sent.
    pub sent: Sent,
}

/// What an attempt sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The absolute URL.
    pub url: Box<str>,
    /// SHA-256 of the body that was sent; None if that was the event's own body, unchanged.
    pub sha256: Option<[u8; 32]>,
    /// How we signed it, and with which secrets (references, with commas); None if we did not.
    pub signed: Option<Box<Verification>>,
}

/// One attempt that is to be made: a lease on a delivery, handed to the engine.
#[derive(Clone, Debug)]
pub struct Job {
    /// The event. Its body may stand in parts that are read from the log.
    pub event: std::sync::Arc<Event>,
    /// Which of its deliveries.
    pub upstream: std::sync::Arc<str>,
    /// The number of this attempt: 1, 2, …
    pub number: u32,
    /// How often the delivery was replayed by an operator or a resend.
    pub replays: u32,
    /// How many of those replays asked for a fresh idempotency key.
    pub new_keys: u32,
    /// The body goes as it was received: no transform.
    pub original: bool,
    /// Steady time at which the delivery was planned (or last replayed): giving up counts from here.
    pub planned_at: Timestamp,
    /// How much of the time since then does not count towards giving up (held, breaker open).
    pub paused: std::time::Duration,
    /// The entry of the attempt before this one.
    pub previous: Option<Seq>,
    /// What is to be stored with its settlement, if it is one of an ordered key and there is anything to say.
    pub turn: Option<std::sync::Arc<super::Turn>>,
}
