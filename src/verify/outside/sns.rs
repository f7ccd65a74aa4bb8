//! Owns Amazon SNS: the canonical text of its messages, and what a confirmation asks for.
//!
//! Source: "Verifying the signatures of Amazon SNS messages" of the SNS developer guide. Promises that the topic is
//! one of the source's, that a line break stands in the message only (else two messages could have one canonical
//! text), and that SHA-1 is taken only when the configuration says so.

use std::{borrow::Cow, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderName;

use super::{KeyDocument, Outside, Place, Publisher, Reason, Signed, Wanted, document::Digest, fresh};
use crate::{
    clock::Timestamp,
    verify::{Head, Refusal, Verifier},
};

const RAW_DELIVERY: HeaderName = HeaderName::from_static("x-amz-sns-rawdelivery");

/// How far a message's time may lie in the future.
const FUTURE: Duration = Duration::from_secs(15 * 60);

/// What the configuration says about an `aws-sns` source.
pub struct SnsSettings {
    /// The topics that may post here; not empty.
    pub topics: Vec<String>,
    /// Which signatures are taken.
    pub signature_version: SignatureVersion,
    /// Whether subscriptions are confirmed without asking.
    pub confirm: bool,
    /// How old a message may be.
    pub tolerance: Duration,
    /// Pinned certificates; None: they are fetched.
    pub pinned: Option<Arc<KeyDocument>>,
}

/// Which signatures are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureVersion {
    /// RSA with SHA-1 as well as with SHA-256.
    One,
    /// RSA with SHA-256 only.
    Two,
}

pub(in crate::verify) struct Sns {
    topics: Vec<String>,
    signature_version: SignatureVersion,
    pub(super) confirm: bool,
    tolerance: Duration,
    pub(super) pinned: Option<Arc<KeyDocument>>,
}

impl Verifier {
    /// Checks messages of Amazon SNS: scheme `aws-sns`.
    #[must_use]
    pub fn aws_sns(settings: SnsSettings) -> Self {
        let SnsSettings { topics, signature_version, confirm, tolerance, pinned } = settings;
        Self::outside(Outside::Sns(Sns { topics, signature_version, confirm, tolerance, pinned }))
    }
}

/// A message, as far as it is signed. A name that stands there twice is refused.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'a> {
    #[serde(rename = "Type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    topic_arn: Cow<'a, str>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(rename = "SubscribeURL", borrow)]
    subscribe_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature_version: Cow<'a, str>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    #[serde(rename = "SigningCertURL", borrow)]
    signing_cert_url: Cow<'a, str>,
}

impl<'a> Message<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The signed text; None for an unknown type or a line break where none may be.
    fn canonical(&self) -> Option<Vec<u8>> {
        let fields: [(&str, Option<&str>); 7] = match &*self.kind {
            "Notification" => [
                ("Message", Some(&self.message)),
                ("MessageId", Some(&self.message_id)),
                ("Subject", self.subject.as_deref()),
                ("Timestamp", Some(&self.timestamp)),
                ("TopicArn", Some(&self.topic_arn)),
                ("Type", Some(&self.kind)),
                ("", None),
            ],
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => [
                ("Message", Some(&self.message)),
                ("MessageId", Some(&self.message_id)),
                ("SubscribeURL", Some(self.subscribe_url.as_deref()?)),
                ("Timestamp", Some(&self.timestamp)),
                ("Token", Some(self.token.as_deref()?)),
                ("TopicArn", Some(&self.topic_arn)),
                ("Type", Some(&self.kind)),
            ],
            _ => return None,
        };
        let mut text = Vec::with_capacity(self.message.len() + 512);
        for (name, value) in fields {
            let Some(value) = value else { continue };
            if name != "Message" && value.contains(['\n', '\r']) {
                return None;
            }
            for line in [name, value] {
                text.extend_from_slice(line.as_bytes());
                text.push(b'\n');
            }
        }
        Some(text)
    }
}

/// What can be said before the body comes.
pub(super) fn begin(head: &Head<'_>) -> Result<(), Refusal> {
    let raw = head.headers.get(RAW_DELIVERY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    if raw { Err(Reason::RawDelivery.into()) } else { Ok(()) }
}

impl Sns {
    pub(super) fn read(&self, body: &[u8], now: Timestamp) -> Result<Signed, Refusal> {
        let message = Message::parse(body).ok_or(Reason::MalformedBody)?;
        if !self.topics.iter().any(|topic| *topic == *message.topic_arn) {
            return Err(Reason::OtherTopic.into());
        }
        let digest = match (&*message.signature_version, self.signature_version) {
            ("2", _) => Digest::Sha256,
            ("1", SignatureVersion::One) => Digest::Sha1,
            ("1", SignatureVersion::Two) => return Err(Reason::SignatureVersion1.into()),
            _ => return Err(Reason::SignatureVersion.into()),
        };
        let sent = Timestamp::parse_rfc3339(&message.timestamp).ok_or(Refusal::MalformedTimestamp)?;
        let skew_ms = Some(fresh(sent, now, self.tolerance, FUTURE)?);
        let signature = STANDARD.decode(&*message.signature).map_err(|_| Refusal::MalformedSignature)?;
        let canonical = message.canonical().ok_or(Reason::MalformedBody)?;
        let place = Place::certificate(Publisher::AwsSns, &message.signing_cert_url).ok_or(Reason::KeyAddress)?;
        let wanted = Wanted { publisher: Publisher::AwsSns, place, kid: None };
        Ok(Signed { digest, kid: None, message: canonical, signature, skew_ms, wanted })
    }
}

/// A verified message that asks to confirm a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Which topic.
    pub topic: String,
    /// The address to ask for, if SNS's rule allows it.
    pub place: Option<Place>,
}

/// The subscription that a *verified* body asks to confirm; None for any other message.
#[must_use]
pub fn subscription(body: &[u8]) -> Option<Subscription> {
    let message = Message::parse(body).filter(|message| message.kind == "SubscriptionConfirmation")?;
    let place = Place::confirmation(message.subscribe_url.as_deref()?);
    Some(Subscription { topic: message.topic_arn.into_owned(), place })
}
