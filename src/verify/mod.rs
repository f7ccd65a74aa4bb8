//! Owns who says that a request is genuine: signature schemes, freshness and secrets. Pure: no I/O but reading
//! secrets, no clock of its own.
//!
//! Promises constant-time comparisons, that the scheme is pinned by the configuration and never chosen by a header,
//! and that secrets have no `Debug`, `Display` or `Serialize` and are zeroized. A body is hashed as it arrives and
//! never kept. Deliberately absent: replay protection beyond freshness, which is the dedupe rule's business.

mod mac;
mod scheme;
mod secret;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, Method};
pub use mac::Algorithm;
pub use secret::{SECRET_BYTES_MAX, Secret, SecretError, SecretRef, references_files, resolve_embedded};
pub use settings::{Encoding, HmacSettings, SECRETS_MAX, SettingsError, TimestampSettings, TimestampUnit};
pub use template::TEMPLATE_BYTES_MAX;

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
    /// A header that the signature covers is missing or repeated.
    MalformedSignedHeader,
    /// The timestamp lies too far in the past.
    Stale,
    /// The timestamp lies too far in the future.
    Future,
    /// No secret matches.
    BadSignature,
}

impl Refusal {
    /// The word used in `stagepost refused`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingSignature => "missing_signature",
            Self::DuplicatedSignature => "duplicated_signature",
            Self::MalformedSignature => "malformed_signature",
            Self::MalformedTimestamp => "malformed_timestamp",
            Self::MalformedSignedHeader => "malformed_signed_header",
            Self::Stale => "stale",
            Self::Future => "future",
            Self::BadSignature => "bad_signature",
        }
    }
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
pub struct Verifier(Option<Arc<scheme::Recipe>>);

/// A check under way: fed with the body as it arrives. Dropping it checks nothing.
#[must_use = "a request is genuine only if `finish` says so"]
pub struct Check(Option<scheme::Running>);

impl Verifier {
    /// Checks nothing: scheme `none`.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Checks an HMAC over the body and what else the settings say: scheme `hmac`.
    ///
    /// # Errors
    /// The first [`SettingsError`], which names its field and the remedy.
    pub fn hmac(settings: HmacSettings) -> Result<Self, SettingsError> {
        Ok(Self(Some(Arc::new(settings.compile()?))))
    }

    /// The scheme's name: `none` or `hmac`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.0.as_ref().map_or("none", |recipe| recipe.scheme)
    }

    /// The references of the secrets that may have signed, never their values.
    pub fn secret_references(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().flat_map(|recipe| recipe.keys.iter().map(|key| &key.reference))
    }

    /// Checks what can be checked before the body, so that a forger's body is not even read.
    ///
    /// # Errors
    /// The [`Refusal`]: about the signature header first, then the timestamp, then other signed headers.
    pub fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Check, Refusal> {
        self.0.as_ref().map(|recipe| recipe.begin(head, now)).transpose().map(Check)
    }
}

impl Check {
    /// Takes the next piece of the body, as received.
    pub fn update(&mut self, piece: &[u8]) {
        if let Some(running) = &mut self.0 {
            running.update(piece);
        }
    }

    /// Whether the verdict needs the body in one piece, because the scheme reads what stands in it.
    #[must_use]
    pub const fn needs_body(&self) -> bool {
        false
    }

    /// The verdict after the last piece. `body` is the whole body if [`Check::needs_body`], else it is not looked at.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] if no secret matches.
    pub fn finish(self, _body: &[u8]) -> Result<Verified, Refusal> {
        match self.0 {
            Some(running) => running.finish(),
            None => Ok(Verified { scheme: "none", secret: None, skew_ms: None }),
        }
    }
}
