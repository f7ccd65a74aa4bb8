//! Owns who says that a request is genuine: signature schemes, freshness and secrets. Pure: no I/O but reading
//! secrets, no clock of its own.
//!
//! Promises constant-time comparisons, that the scheme is pinned by the configuration and never chosen by a header,
//! and that secrets have no `Debug`, `Display` or `Serialize` and are zeroized. A body is hashed as it arrives and
//! never kept. Deliberately absent: replay protection beyond freshness, which is the dedupe rule's business.

mod compile;
mod diagnose;
mod grammar;
mod graph;
mod headers;
mod json;
mod mac;
mod mailgun;
mod outside;
mod path;
mod plan;
mod prove;
mod public;
mod recipe;
mod returned;
mod secret;
mod settings;
mod sign;
mod signer;
mod template;
#[cfg(test)]
mod tests;
mod timestamp;
mod twilio;
mod url;

use std::sync::Arc;

pub use compile::{PresetSettings, TOLERANCE, advice};
pub use diagnose::{Captured, Diagnosis, Mistake, SignedText};
pub use grammar::SIGNATURES_MAX;
pub use graph::ITEMS_MAX as GRAPH_ITEMS_MAX;
use http::{HeaderMap, Method};
pub use mac::Algorithm;
pub use outside::{
    DOCUMENT_BYTES_MAX, DocumentError, KeyDocument, NOTIFICATIONS_MAX, Notification, PayPalSettings, Place,
    PubSubSettings, Publisher, Reason, SalesforceSettings, SignatureVersion, SnsSettings, Subscription, Unproven,
    Wanted, hide_session_ids, notifications, subscription,
};
pub use plan::{
    Grammar, KeyForm, OutsideScheme, Part, Plan, Primitive, Proof, SignaturePlan, TimestampPlace, TimestampPlan,
};
pub use prove::{hmac_sha256, matching};
use recipe::{Begun, Recipe, Running};
pub use secret::{SECRET_BYTES_MAX, Secret, SecretError, SecretRef, references_files, resolve_embedded};
pub use settings::{Encoding, HmacSettings, SECRETS_MAX, SettingsError, TimestampSettings, TimestampUnit};
pub use sign::{CannotSign, Resigning, Sample, Signed};
pub use signer::{IdHeader, Outgoing, Signer, SignerSettings, StampHeader};
pub use template::TEMPLATE_BYTES_MAX;
pub use twilio::FORM_FIELDS_MAX;

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
    /// The scheme looks into the body and can't read it.
    UnreadableBody,
    /// The body carries no secret where the scheme has one.
    MissingCredentials,
    /// The secret that is presented is not one of ours.
    BadCredentials,
    /// The secret segment of the path is wrong: to the sender there is no such path.
    UnknownPath,
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
            Self::UnreadableBody => "unreadable_body",
            Self::MissingCredentials => "missing_credentials",
            Self::BadCredentials => "bad_credentials",
            Self::UnknownPath => "not_found",
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
    /// Nothing is checked; what the scheme is called.
    Open(&'static str),
    /// The engine.
    Recipe(Arc<Recipe>),
    /// Code of its own.
    Special(Arc<dyn Special>),
}

/// A scheme that needs code of its own.
trait Special: Send + Sync {
    /// Its name.
    fn scheme(&self) -> &'static str;

    /// The references of its secrets.
    fn references(&self) -> Vec<&Arc<str>>;

    /// Which segment of the path is secret, from 0.
    fn secret_segment(&self) -> Option<usize> {
        None
    }

    /// Whether a segment of some path is one of its secrets.
    fn is_path_secret(&self, _segment: &str) -> bool {
        false
    }

    /// Whether documents with keys are fetched for it.
    fn fetches_keys(&self) -> bool {
        false
    }

    /// Whether subscriptions are confirmed without asking the operator.
    fn confirms_subscriptions(&self) -> bool {
        false
    }

    /// Whether samples can be signed; by default only the provider can.
    fn can_sign(&self) -> bool {
        false
    }

    /// Signs a sample.
    fn sign<'s>(&self, _sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        Err(CannotSign::PrivateKey(self.scheme()))
    }

    /// What signing an event again would be; by default only the provider can.
    fn resigning(&self) -> Resigning {
        Resigning::Impossible
    }

    /// Signs an event again; asked only if [`Special::resigning`] says that it can be.
    fn sign_again<'s>(&self, event: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        self.sign(event)
    }

    /// The headers that carry its signature.
    fn signature_headers(&self) -> Vec<http::HeaderName> {
        Vec::new()
    }

    /// The URL that it signs, if it does.
    fn url(&self) -> Option<&url::PublicUrl> {
        None
    }

    /// The same with another URL; None if it signs none.
    fn with_url(&self, _url: &url::PublicUrl) -> Option<Arc<dyn Special>> {
        None
    }

    /// Judges the head; keeps of it what the verdict needs.
    fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Started, Refusal>;
}

/// What a scheme with code of its own says about the head.
enum Started {
    /// The body does not matter.
    Decided(Verified),
    /// The body decides.
    Whole(Box<dyn Whole>),
}

/// A check that waits for the whole body.
trait Whole: Send {
    /// Reads the body, and says which document the verdict waits for.
    fn wants(&mut self, _body: &[u8]) -> Result<Option<Wanted>, Refusal> {
        Ok(None)
    }

    /// Takes the document.
    fn provide(&mut self, _document: Arc<KeyDocument>) {}

    /// The verdict.
    fn finish(self: Box<Self>, body: &[u8]) -> Result<Verified, Refusal>;
}

/// A check under way: fed with the body as it arrives. Dropping it checks nothing.
#[must_use = "a request is genuine only if `finish` says so"]
pub struct Check(State);

#[expect(clippy::large_enum_variant, reason = "the large one is the common one, and boxing it would cost each request")]
enum State {
    Decided(Verified),
    Running(Running),
    Whole(Box<dyn Whole>),
}

impl Verifier {
    /// Checks nothing: scheme `none`.
    #[must_use]
    pub const fn none() -> Self {
        Self(Kind::Open("none"))
    }

    /// Checks an HMAC over the body and what else the settings say: scheme `hmac`.
    ///
    /// # Errors
    /// The first [`SettingsError`], which names its field and the remedy.
    pub fn hmac(settings: HmacSettings) -> Result<Self, SettingsError> {
        Ok(Self::recipe(Arc::new(settings.compile()?)))
    }

    /// Checks that a segment of the path (from 0) is one of the secrets: scheme `path`.
    ///
    /// # Errors
    /// [`SettingsError`] if there are no secrets or too many, or one could not stand in a path.
    pub fn path(segment: usize, secrets: Vec<Secret>) -> Result<Self, SettingsError> {
        compile::check_path_secrets(&secrets)?;
        Ok(Self::special(Arc::new(path::PathRecipe::new(segment, secrets))))
    }

    const fn open(scheme: &'static str) -> Self {
        Self(Kind::Open(scheme))
    }

    const fn recipe(recipe: Arc<Recipe>) -> Self {
        Self(Kind::Recipe(recipe))
    }

    fn special(special: Arc<dyn Special>) -> Self {
        Self(Kind::Special(special))
    }

    /// The scheme's name: `none`, `hmac`, a preset's.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match &self.0 {
            Kind::Open(scheme) => scheme,
            Kind::Recipe(recipe) => recipe.scheme,
            Kind::Special(special) => special.scheme(),
        }
    }

    /// Whether its scheme is data: what such a scheme refuses for its time can be judged as of then.
    #[must_use]
    pub const fn is_recipe(&self) -> bool {
        matches!(self.0, Kind::Recipe(_))
    }

    /// Whether nothing is checked at all.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.0, Kind::Open(_))
    }

    /// Which segment of the path is secret, from 0; None for all schemes but `path`. Whoever shows, stores or forwards a
    /// path of such a source takes the segment out first.
    #[must_use]
    pub fn secret_segment(&self) -> Option<usize> {
        match &self.0 {
            Kind::Special(special) => special.secret_segment(),
            Kind::Open(_) | Kind::Recipe(_) => None,
        }
    }

    /// Whether a segment of a path is one of the secrets of the scheme `path`, wherever it stands.
    #[must_use]
    pub fn is_path_secret(&self, segment: &str) -> bool {
        matches!(&self.0, Kind::Special(special) if special.is_path_secret(segment))
    }

    /// Whether documents with keys are fetched for it.
    #[must_use]
    pub fn fetches_keys(&self) -> bool {
        matches!(&self.0, Kind::Special(special) if special.fetches_keys())
    }

    /// Whether subscriptions ([`subscription`]) are confirmed without asking the operator.
    #[must_use]
    pub fn confirms_subscriptions(&self) -> bool {
        matches!(&self.0, Kind::Special(special) if special.confirms_subscriptions())
    }

    /// The references of the secrets that may have signed, never their values.
    #[must_use]
    pub fn secret_references(&self) -> Vec<&Arc<str>> {
        match &self.0 {
            Kind::Open(_) => Vec::new(),
            Kind::Recipe(recipe) => recipe.keys.iter().map(|key| &key.reference).collect(),
            Kind::Special(special) => special.references(),
        }
    }

    /// Checks what can be checked before the body, so that a forger's body is not even read.
    ///
    /// # Errors
    /// The [`Refusal`]: about the signature header first, then the timestamp, then other signed headers.
    pub fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Check, Refusal> {
        let state = match &self.0 {
            Kind::Open(scheme) => State::Decided(Verified { scheme, secret: None, skew_ms: None }),
            Kind::Recipe(recipe) => match recipe.begin(head, now)? {
                Begun::Decided(verified) => State::Decided(verified),
                Begun::Running(running) => State::Running(running),
            },
            Kind::Special(special) => match special.begin(head, now)? {
                Started::Decided(verified) => State::Decided(verified),
                Started::Whole(whole) => State::Whole(whole),
            },
        };
        Ok(Check(state))
    }
}

impl Check {
    /// A check that has been made already: the body does not matter.
    pub const fn decided(verified: Verified) -> Self {
        Self(State::Decided(verified))
    }

    /// Takes the next piece of the body, as received.
    pub fn update(&mut self, piece: &[u8]) {
        if let State::Running(running) = &mut self.0 {
            running.update(piece);
        }
    }

    /// Whether the verdict needs the body in one piece, because the scheme reads what stands in it or its keys are
    /// public ones.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        match &self.0 {
            State::Decided(_) => false,
            State::Running(running) => running.needs_body(),
            State::Whole(_) => true,
        }
    }

    /// Reads the whole body if [`Check::needs_body`], and says which document the verdict waits for. That goes to
    /// [`Check::provide`].
    ///
    /// # Errors
    /// Whatever refuses the request without it.
    pub fn wants(&mut self, body: &[u8]) -> Result<Option<Wanted>, Refusal> {
        match &mut self.0 {
            State::Whole(whole) => whole.wants(body),
            State::Decided(_) | State::Running(_) => Ok(None),
        }
    }

    /// Takes the document that [`Check::wants`] asked for.
    pub fn provide(&mut self, document: Arc<KeyDocument>) {
        if let State::Whole(whole) = &mut self.0 {
            whole.provide(document);
        }
    }

    /// The verdict after the last piece. `body` is the whole body if [`Check::needs_body`], else it is not looked at.
    ///
    /// # Errors
    /// The [`Refusal`]: [`Refusal::BadSignature`] if no secret matches; about the body or its timestamp if the scheme
    /// looks into it.
    pub fn finish(self, body: &[u8]) -> Result<Verified, Refusal> {
        match self.0 {
            State::Decided(verified) => Ok(verified),
            State::Running(running) => running.finish(body),
            State::Whole(whole) => whole.finish(body),
        }
    }
}
