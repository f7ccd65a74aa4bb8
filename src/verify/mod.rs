//! Owns who says that a request is genuine: signature schemes, freshness and secrets. Pure: no I/O but reading
//! secrets, no clock of its own.
//!
//! Promises constant-time comparisons, that the scheme is pinned by the configuration and never chosen by a header,
//! and that secrets have no `Debug`, `Display` or `Serialize` and are zeroized.

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::clock::Timestamp;

/// What a verifier may look at before the body comes.
pub struct Head<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// As received.
    pub path: &'a str,
    /// As received, without the question mark.
    pub query: Option<&'a str>,
    /// As received.
    pub headers: &'a HeaderMap,
}

/// Why a request is refused. The words are for diagnostics and `stagepost refused`, never for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The signature header is missing.
    MissingSignature,
    /// The signature header stands there more than once.
    DuplicatedSignature,
    /// The signature header can't be read (prefix, encoding, length).
    MalformedSignature,
    /// The timestamp header is missing, repeated, or no number.
    MalformedTimestamp,
    /// The timestamp lies too far in the past.
    Stale,
    /// The timestamp lies too far in the future.
    Future,
    /// No secret matches.
    BadSignature,
}

/// A request that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The scheme's name.
    pub scheme: &'static str,
    /// The reference of the secret that matched.
    pub secret: Option<Arc<str>>,
    /// Sender's timestamp minus our clock, in milliseconds, if the scheme has one.
    pub skew_ms: Option<i64>,
}

/// A compiled verifier of one source. Cheap to clone.
#[derive(Clone)]
pub struct Verifier;

/// A check under way: fed with the body as it arrives.
pub struct Check;

impl Verifier {
    /// Checks nothing: scheme `none`.
    #[must_use]
    pub fn none() -> Self {
        Self
    }

    /// Checks what can be checked before the body, so that a forger's body is not even read.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn begin(&self, _head: &Head<'_>, _now: Timestamp) -> Result<Check, Refusal> {
        Ok(Check)
    }
}

impl Check {
    /// Takes the next piece of the body, as received.
    pub fn update(&mut self, _piece: &[u8]) {}

    /// The verdict after the last piece.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn finish(self) -> Result<Verified, Refusal> {
        Ok(Verified { scheme: "none", secret: None, skew_ms: None })
    }
}
