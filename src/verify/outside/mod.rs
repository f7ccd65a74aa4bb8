//! Owns the schemes of which the verdict needs a document from outside, or which no table can describe: Amazon SNS,
//! PayPal, Google Pub/Sub, Salesforce outbound messages.
//!
//! Promises that which keys may be asked for is decided here, by the publisher's rule ([`Place`]), after everything
//! else that can be judged without a key; that algorithms are pinned; and that the signed text is made of what was
//! received. Pure: it says which document it wants, `keys` gets it. A check goes `begin` (head), `wants`
//! (body), `provide` (if asked), `finish`.

mod document;
mod paypal;
mod place;
mod pubsub;
mod salesforce;
mod sns;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub use document::{DOCUMENT_BYTES_MAX, DocumentError, KeyDocument, Unproven};
use http::{HeaderMap, HeaderName};
pub use paypal::PayPalSettings;
pub use place::{Place, Publisher};
pub use pubsub::PubSubSettings;
pub use salesforce::{NOTIFICATIONS_MAX, Notification, SalesforceSettings, hide_session_ids, notifications};
pub use sns::{SignatureVersion, SnsSettings, Subscription, subscription};

use super::{Head, Refusal, Special, Started, Verified, Verifier, Whole};
use crate::clock::Timestamp;

/// A document that a verdict waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub publisher: Publisher,
    /// Where it stands.
    pub place: Place,
    /// The key that must be in it. A document without it may be out of date.
    pub kid: Option<Box<str>>,
}

/// Why a request is refused by one of these schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The body is not what the provider sends.
    MalformedBody,
    /// The place of the key is not one of the publisher's.
    KeyAddress,
    /// The key set is up to date and has no such key.
    UnknownKey,
    /// SNS signs with SHA-1, and the source does not take that.
    SignatureVersion1,
    /// SNS signs in a way that is not known here.
    SignatureVersion,
    /// SNS sends the bare message, without a signature.
    RawDelivery,
    /// Another topic than the source's.
    OtherTopic,
    /// Another signature algorithm than the scheme's.
    OtherAlgorithm,
    /// A token for somebody else.
    OtherAudience,
    /// A token of another issuer.
    OtherIssuer,
    /// A token of another service account, or one whose address is not verified.
    OtherAccount,
    /// A token that can't be read.
    MalformedToken,
    /// Another Salesforce organization than the source's.
    OtherOrganization,
}

impl Reason {
    /// The word used in `stagepost refused`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedBody => "malformed_body",
            Self::KeyAddress => "key_address_not_allowed",
            Self::UnknownKey => "unknown_key",
            Self::SignatureVersion1 => "signature_version_1",
            Self::SignatureVersion => "unknown_signature_version",
            Self::RawDelivery => "raw_message_delivery",
            Self::OtherTopic => "other_topic",
            Self::OtherAlgorithm => "other_algorithm",
            Self::OtherAudience => "other_audience",
            Self::OtherIssuer => "other_issuer",
            Self::OtherAccount => "other_account",
            Self::MalformedToken => "malformed_token",
            Self::OtherOrganization => "other_organization",
        }
    }

    /// What the operator can do about it, if the cause is likely a setting.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::SignatureVersion1 => Some(
                "set the topic's attribute SignatureVersion to 2 (aws sns set-topic-attributes --attribute-name \
                 SignatureVersion --attribute-value 2), or take SHA-1 with verify.signature_version = 1",
            ),
            Self::RawDelivery => Some(
                "turn raw message delivery off for the subscription (attribute RawMessageDelivery = false): raw \
                 messages carry no signature",
            ),
            Self::OtherTopic => Some("list the topic in verify.topic_arn if it is yours"),
            Self::OtherAudience => {
                Some("make verify.audience equal to the subscription's audience (by default its push endpoint)")
            }
            Self::OtherAccount => Some("make verify.service_account equal to the subscription's service account"),
            Self::OtherOrganization => Some("make verify.organization_id equal to the organization's id"),
            _ => None,
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Outside(reason)
    }
}

/// How one source's requests are checked.
enum Outside {
    Sns(sns::Sns),
    PayPal(paypal::PayPal),
    PubSub(pubsub::PubSub),
    Salesforce(salesforce::Salesforce),
}

/// A check under way.
struct OutsideCheck {
    recipe: Arc<Outside>,
    now: Timestamp,
    state: State,
    document: Option<Arc<KeyDocument>>,
}

/// What was read so far.
enum State {
    Nothing,
    Signed(Signed),
    Checked,
}

/// What a publisher's key must have signed.
pub(super) struct Signed {
    digest: document::Digest,
    kid: Option<Box<str>>,
    message: Vec<u8>,
    signature: Vec<u8>,
    skew_ms: Option<i64>,
    wanted: Wanted,
}

/// One of them as the engine knows schemes.
struct Recipe(Arc<Outside>);

impl Verifier {
    fn outside(outside: Outside) -> Self {
        Self::special(Arc::new(Recipe(Arc::new(outside))))
    }
}

impl Special for Recipe {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn references(&self) -> Vec<&Arc<str>> {
        self.0.pinned().map(|document| document.reference()).into_iter().collect()
    }

    fn fetches_keys(&self) -> bool {
        self.0.fetches()
    }

    fn confirms_subscriptions(&self) -> bool {
        self.0.confirms()
    }

    fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Started, Refusal> {
        Ok(Started::Whole(Box::new(self.0.begin(head, now)?)))
    }
}

impl Whole for OutsideCheck {
    fn wants(&mut self, body: &[u8]) -> Result<Option<Wanted>, Refusal> {
        self.read(body)
    }

    fn provide(&mut self, document: Arc<KeyDocument>) {
        self.document = Some(document);
    }

    fn finish(self: Box<Self>, _body: &[u8]) -> Result<Verified, Refusal> {
        self.verdict()
    }
}

impl Outside {
    const fn scheme(&self) -> &'static str {
        match self {
            Self::Sns(_) => "aws-sns",
            Self::PayPal(_) => "paypal",
            Self::PubSub(_) => "google-pubsub",
            Self::Salesforce(_) => "salesforce",
        }
    }

    /// The keys that the operator pinned.
    const fn pinned(&self) -> Option<&Arc<KeyDocument>> {
        match self {
            Self::Sns(sns) => sns.pinned.as_ref(),
            Self::PayPal(paypal) => paypal.pinned.as_ref(),
            Self::PubSub(pubsub) => pubsub.pinned.as_ref(),
            Self::Salesforce(_) => None,
        }
    }

    /// Whether documents are fetched for it.
    const fn fetches(&self) -> bool {
        !matches!(self, Self::Salesforce(_)) && self.pinned().is_none()
    }

    /// Whether subscriptions are confirmed without asking.
    const fn confirms(&self) -> bool {
        matches!(self, Self::Sns(sns::Sns { confirm: true, .. }))
    }

    /// Judges what stands in the head.
    fn begin(self: &Arc<Self>, head: &Head<'_>, now: Timestamp) -> Result<OutsideCheck, Refusal> {
        let state = match &**self {
            Self::Sns(_) => sns::begin(head).map(|()| State::Nothing)?,
            Self::PayPal(paypal) => State::Signed(paypal.begin(head, now)?),
            Self::PubSub(pubsub) => State::Signed(pubsub.begin(head, now)?),
            Self::Salesforce(_) => State::Nothing,
        };
        Ok(OutsideCheck { recipe: self.clone(), now, state, document: self.pinned().cloned() })
    }
}

impl OutsideCheck {
    /// Judges the body, and says which document the verdict needs.
    ///
    /// # Errors
    /// Whatever can be said without it.
    fn read(&mut self, body: &[u8]) -> Result<Option<Wanted>, Refusal> {
        match (&*self.recipe, &mut self.state) {
            (Outside::Sns(sns), state) => *state = State::Signed(sns.read(body, self.now)?),
            (Outside::PayPal(_), State::Signed(signed)) => paypal::read(signed, body),
            (Outside::Salesforce(salesforce), state) => {
                salesforce.read(body)?;
                *state = State::Checked;
            }
            _ => {}
        }
        Ok(match &self.state {
            State::Signed(signed) if self.document.is_none() => Some(signed.wanted.clone()),
            _ => None,
        })
    }

    /// The verdict. Without the body having been read, or without a document that was asked for, nothing is genuine.
    fn verdict(self) -> Result<Verified, Refusal> {
        let scheme = self.recipe.scheme();
        let signed = match self.state {
            State::Nothing => return Err(Refusal::BadSignature),
            State::Checked => return Ok(Verified { scheme, secret: None, skew_ms: None }),
            State::Signed(signed) => signed,
        };
        let document = self.document.ok_or(Refusal::BadSignature)?;
        let kid = signed.kid.as_deref();
        if kid.is_some_and(|kid| !document.has(kid)) {
            return Err(Reason::UnknownKey.into());
        }
        match document.verify(signed.digest, kid, &signed.message, &signed.signature) {
            true => Ok(Verified { scheme, secret: Some(document.reference().clone()), skew_ms: signed.skew_ms }),
            false => Err(Refusal::BadSignature),
        }
    }
}

/// Judges how far a time is off. The sender's time minus ours, in milliseconds.
fn fresh(sent: Timestamp, now: Timestamp, past: Duration, future: Duration) -> Result<i64, Refusal> {
    if sent.after(past) < now {
        return Err(Refusal::Stale);
    }
    if sent > now.after(future) {
        return Err(Refusal::Future);
    }
    let skew = i128::from(sent.as_millis()) - i128::from(now.as_millis());
    Ok(i64::try_from(skew).unwrap_or(i64::MAX))
}

/// The value of a header that must stand there once, as visible text.
fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    missing: Refusal,
    malformed: Refusal,
) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| malformed),
        (Some(_), Some(_)) => Err(Refusal::DuplicatedSignature),
        (None, _) => Err(missing),
    }
}
