//! Owns what the tools for sources ask of the engine, as plain data: captured requests and samples.

use std::sync::Arc;

use serde::Serialize;

use crate::admin::{Timestamp, wire::Text};

/// A request that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Its method.
    pub method: String,
    /// As received.
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    /// In their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// As received.
    pub body: Vec<u8>,
    /// The time by which freshness is judged.
    pub at: Timestamp,
}

/// What there is to say about a captured request.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// The source.
    pub source: String,
    /// Its scheme.
    pub scheme: String,
    /// Whether it would be taken.
    pub verifies: bool,
    /// The word of `stagepost refused`, if not.
    pub reason: Option<String>,
    /// In words.
    pub meaning: String,
    /// The reference of the secret that matched.
    pub secret: Option<String>,
    /// The sender's timestamp minus the time that counts.
    pub skew_ms: Option<i64>,
    /// The signature itself is right.
    pub only_the_clock: bool,
    /// What is signed before the body and after it; a secret that is hashed stands there as `{secret}`.
    pub signed: Option<SignedAround>,
    /// What would have matched.
    pub mistakes: Vec<Explanation>,
    /// How many mistakes were tried.
    pub tried: usize,
}

/// What is signed around the body.
#[derive(Clone, Debug, Serialize)]
pub struct SignedAround {
    /// Before it.
    pub before: Text,
    /// Its length.
    pub body_bytes: u64,
    /// After it.
    pub after: Text,
}

/// A mistake.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// A word for programs.
    pub kind: String,
    /// What it is and what to do.
    pub text: String,
}

/// What is to be wrong with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Its signature.
    BadSignature,
    /// Its age.
    Stale,
}

/// A sample that is asked for.
#[derive(Clone, Debug)]
pub struct SampleAsk {
    /// The source that is to take it.
    pub source: String,
    /// The event type.
    pub kind: Option<String>,
    /// In place of the sample's own.
    pub body: Option<Vec<u8>>,
    /// What is wrong with it.
    pub fault: Fault,
    /// In place of the listener of the configuration: `http://HOST:PORT`, `https://HOST:PORT`, `unix:PATH`.
    pub to: Option<String>,
    /// When it is signed.
    pub now: Timestamp,
}

/// A sample, and where it goes.
pub struct Sampled {
    /// The scheme that signed it.
    pub scheme: String,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The same for people, without a secret segment.
    pub shown: String,
    /// With `Host`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
    /// The status that is to come; None for any that is a success.
    pub expected: Option<u16>,
    /// Where it goes.
    pub door: Door,
}

/// A front door.
pub struct Door {
    /// `HOST:PORT`, or `unix:PATH`.
    pub address: String,
    /// The name that is asked for, and what is trusted; None without TLS.
    pub tls: Option<(String, Arc<rustls::ClientConfig>)>,
}
