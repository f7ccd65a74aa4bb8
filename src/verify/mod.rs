//! Owns who says that a request is genuine: signature schemes, freshness and secrets. Pure: no I/O but reading
//! secrets, no clock of its own.
//!
//! Promises constant-time comparisons, that the scheme is pinned by the configuration and never chosen by a header,
//! and that secrets have no `Debug`, `Display` or `Serialize` and are zeroized. A body is hashed as it arrives and
//! never kept. Deliberately absent: replay protection beyond freshness, which is the dedupe rule's business.

mod mac;
mod outside;
mod prove;
mod scheme;
mod secret;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, Method};
pub use mac::Algorithm;
pub use outside::{
    DOCUMENT_BYTES_MAX, DocumentError, KeyDocument, NOTIFICATIONS_MAX, Notification, PayPalSettings, Place,
    PubSubSettings, Publisher, Reason, SalesforceSettings, SignatureVersion, SnsSettings, Subscription, Unproven,
    Wanted, hide_session_ids, notifications, subscription,
};
pub use prove::{hmac_sha256, matching};
pub use secret::{SECRET_BYTES_MAX, Secret, SecretError, SecretRef, references_files, resolve_embedded};
pub use settings::{Encoding, HmacSettings, SECRETS_MAX, SettingsError, TimestampSettings, TimestampUnit};
pub use template::TEMPLATE_BYTES_MAX;

#[cfg(test)]
pub(crate) use outside::testing;

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

/// The scheme of sources whose path holds the secret.
pub const PATH_SCHEME: &str = "path";

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
    /// What only a scheme with keys from outside can say.
    Outside(Reason),
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
            Self::Outside(reason) => reason.as_str(),
        }
    }

    /// What the operator can do about it, if the cause is likely a setting.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Outside(reason) => reason.advice(),
            _ => None,
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
pub struct Verifier(Kind);

#[derive(Clone)]
enum Kind {
    None,
    Recipe(Arc<scheme::Recipe>),
    Outside(Arc<outside::Outside>),
}

/// A check under way: fed with the body as it arrives. Dropping it checks nothing.
#[must_use = "a request is genuine only if `finish` says so"]
pub struct Check(Under);

#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and it is not to allocate")]
enum Under {
    None,
    Recipe(scheme::Running),
    Outside(Box<outside::OutsideCheck>),
}

impl Verifier {
    /// Checks nothing: scheme `none`.
    #[must_use]
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// Checks an HMAC over the body and what else the settings say: scheme `hmac`.
    ///
    /// # Errors
    /// The first [`SettingsError`], which names its field and the remedy.
    pub fn hmac(settings: HmacSettings) -> Result<Self, SettingsError> {
        Ok(Self(Kind::Recipe(Arc::new(settings.compile()?))))
    }

    fn outside(outside: outside::Outside) -> Self {
        Self(Kind::Outside(Arc::new(outside)))
    }

    /// The scheme's name, such as `none` or `hmac`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match &self.0 {
            Kind::None => "none",
            Kind::Recipe(recipe) => recipe.scheme,
            Kind::Outside(outside) => outside.scheme(),
        }
    }

    /// Whether documents with keys are fetched for it.
    #[must_use]
    pub fn fetches_keys(&self) -> bool {
        matches!(&self.0, Kind::Outside(outside) if outside.fetches())
    }

    /// Whether subscriptions ([`subscription`]) are confirmed without asking the operator.
    #[must_use]
    pub fn confirms_subscriptions(&self) -> bool {
        matches!(&self.0, Kind::Outside(outside) if outside.confirms())
    }

    /// The references of the secrets that may have signed, never their values.
    pub fn secret_references(&self) -> impl Iterator<Item = &Arc<str>> {
        let recipe = match &self.0 {
            Kind::Recipe(recipe) => Some(recipe),
            _ => None,
        };
        recipe.into_iter().flat_map(|recipe| recipe.keys.iter().map(|key| &key.reference))
    }

    /// Checks what can be checked before the body, so that a forger's body is not even read.
    ///
    /// # Errors
    /// The [`Refusal`]: about the signature header first, then the timestamp, then other signed headers.
    pub fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Check, Refusal> {
        Ok(Check(match &self.0 {
            Kind::None => Under::None,
            Kind::Recipe(recipe) => Under::Recipe(recipe.begin(head, now)?),
            Kind::Outside(outside) => Under::Outside(Box::new(outside.begin(head, now)?)),
        }))
    }
}

impl Check {
    /// Takes the next piece of the body, as received.
    pub fn update(&mut self, piece: &[u8]) {
        if let Under::Recipe(running) = &mut self.0 {
            running.update(piece);
        }
    }

    /// Whether the verdict needs the body in one piece, because the scheme reads what stands in it.
    #[must_use]
    pub const fn needs_body(&self) -> bool {
        matches!(self.0, Under::Outside(_))
    }

    /// Reads the whole body if [`Check::needs_body`], and says which document the verdict waits for. That goes to
    /// [`Check::provide`].
    ///
    /// # Errors
    /// Whatever refuses the request without it.
    pub fn wants(&mut self, body: &[u8]) -> Result<Option<Wanted>, Refusal> {
        match &mut self.0 {
            Under::Outside(check) => check.read(body),
            Under::None | Under::Recipe(_) => Ok(None),
        }
    }

    /// Takes the document that [`Check::wants`] asked for.
    pub fn provide(&mut self, document: Arc<KeyDocument>) {
        if let Under::Outside(check) = &mut self.0 {
            check.provide(document);
        }
    }

    /// The verdict after the last piece. `body` is the whole body if [`Check::needs_body`], else it is not looked at.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] if no secret matches.
    pub fn finish(self, _body: &[u8]) -> Result<Verified, Refusal> {
        match self.0 {
            Under::None => Ok(Verified { scheme: "none", secret: None, skew_ms: None }),
            Under::Recipe(running) => running.finish(),
            Under::Outside(check) => check.finish(),
        }
    }
}
