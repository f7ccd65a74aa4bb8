//! Owns the words in which a provider's scheme is written down as data: primitive, form of the keys, what is signed,
//! how the signature header and the timestamp are read. A preset is a value of these; [`super::compile`] makes it work.
//!
//! Promises nothing by itself: it is text. Deliberately absent: functions. What can't be said here has a module of its
//! own and a variant of [`Proof`].

use std::time::Duration;

use super::{Algorithm, Encoding, TimestampUnit};

/// How a request proves that it is genuine.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each row of a static table")]
pub enum Proof {
    /// It does not; with secrets it may carry one as `Authorization: Bearer`.
    BearerIfSet,
    /// By what a plan says.
    Plan(Plan),
    /// As Twilio signs: the URL and the sorted form, or the URL and the hash of the body.
    Twilio,
    /// As Mailgun signs: inside the body, which is not covered.
    Mailgun,
    /// As Microsoft Graph does: each item of the body repeats a secret.
    GraphClientState,
    /// With settings of its own in place of secrets; see [`OutsideScheme`].
    Outside(OutsideScheme),
}

/// The schemes whose keys are published, or that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideScheme {
    /// Amazon SNS: RSA by a certificate; see [`SnsSettings`](super::SnsSettings).
    AwsSns,
    /// PayPal: RSA by a certificate; see [`PayPalSettings`](super::PayPalSettings).
    PayPal,
    /// Google Pub/Sub: a JSON Web Token; see [`PubSubSettings`](super::PubSubSettings).
    GooglePubSub,
    /// Salesforce: no signature; see [`SalesforceSettings`](super::SalesforceSettings).
    Salesforce,
}

/// A scheme as data.
#[derive(Debug)]
pub struct Plan {
    /// What the signature is made with.
    pub primitive: Primitive,
    /// The form in which the provider hands its keys out.
    pub key: KeyForm,
    /// Where the signature stands and how it is written.
    pub signature: SignaturePlan,
    /// What is signed, in order; the body at most once.
    pub signed: &'static [Part],
    /// How fresh a request must be.
    pub timestamp: Option<TimestampPlan>,
    /// If the signature header is missing: the same with header names that begin with the second text where they begin
    /// with the first.
    pub renamed: Option<(&'static str, &'static str)>,
    /// What `algorithm` in the configuration may choose instead, in so many words.
    pub instead: Option<(Algorithm, &'static Plan)>,
}

/// What a signature is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// HMAC (RFC 2104).
    Hmac(Algorithm),
    /// SHA-256 of the secret followed by what is signed.
    SecretFirstHash,
    /// The secret itself; nothing is signed.
    Equal,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA over P-256 with SHA-256, the signature in DER.
    EcdsaP256,
}

/// The form in which keys are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// The text as it stands.
    Text,
    /// The text as it stands; so many characters, all of them printable ASCII without space.
    Ascii {
        /// At least.
        min: usize,
        /// At most.
        max: usize,
    },
    /// The text as it stands; so many letters, digits, `_` and `-`.
    Word {
        /// At most.
        max: usize,
    },
    /// `whsec_` and base64 (HMAC), or `whpk_` and base64 (Ed25519), as Standard Webhooks writes keys.
    StandardWebhooks {
        /// How long decoded secrets usually are, at least; others are warned about.
        min: usize,
        /// And at most.
        max: usize,
    },
    /// As [`KeyForm::StandardWebhooks`] with `whsec_`; without the prefix the text as it stands.
    WhsecOrText,
    /// `user:password`.
    UserPassword,
    /// A public key, hex.
    Hex,
    /// A public key as base64 SPKI, with or without PEM armour.
    Spki,
}

/// Where a signature stands.
#[derive(Debug)]
pub struct SignaturePlan {
    /// The header, lower case; the beginning of its name for [`Grammar::Family`].
    pub header: &'static str,
    /// How the header is read.
    pub grammar: Grammar,
    /// How one signature is written.
    pub encoding: Encoding,
}

/// How a signature header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One signature after a prefix.
    Whole {
        /// May be empty.
        prefix: &'static str,
    },
    /// `t=…,v1=…,v1=…`: key and value; unknown keys are skipped.
    Pairs {
        /// Between pairs.
        separator: u8,
        /// The key of signatures; any may match.
        wanted: &'static str,
        /// The key of the timestamp, if it stands here.
        timestamp: Option<&'static str>,
    },
    /// `v1,… v1a,…`: version and signature; unknown versions are skipped.
    Versions {
        /// The version that HMAC keys make.
        mac: &'static str,
        /// The version that public keys check.
        public: &'static str,
    },
    /// Headers that end in 1, 2, …; any may match.
    Family,
}

/// A piece of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(&'static str),
    /// The body as received.
    Body,
    /// The timestamp's text as received.
    Timestamp,
    /// The method.
    Method,
    /// The configured public URL with the query as received.
    Url,
    /// The same after `HubSpot`'s decoding.
    HubSpotUrl,
    /// A header that must stand there once.
    Header(&'static str),
}

/// How fresh a request must be.
#[derive(Debug)]
pub struct TimestampPlan {
    /// Where the timestamp stands.
    pub place: TimestampPlace,
    /// What it counts.
    pub unit: TimestampUnit,
    /// How far it may be off, in the past and in the future, unless the configuration says `tolerance`.
    pub tolerance: Duration,
}

/// Where a timestamp stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampPlace {
    /// In a header.
    Header(&'static str),
    /// In the signature header, see [`Grammar::Pairs`].
    SignatureField,
    /// In the body, which the signature covers: the names of the members that lead to it.
    Json(&'static [&'static str]),
}

impl Proof {
    /// Whether `public_url` must be configured.
    #[must_use]
    pub fn needs_public_url(&self) -> bool {
        match self {
            Self::Twilio => true,
            Self::Plan(plan) => plan.signed.iter().any(|part| matches!(part, Part::Url | Part::HubSpotUrl)),
            _ => false,
        }
    }

    /// Whether a timestamp is checked, so that `tolerance` may be configured.
    #[must_use]
    pub const fn has_timestamp(&self) -> bool {
        match self {
            Self::Plan(plan) => plan.timestamp.is_some(),
            Self::Mailgun => true,
            _ => false,
        }
    }

    /// The algorithm that may be asked for in place of the scheme's own.
    #[must_use]
    pub fn other_algorithm(&self) -> Option<Algorithm> {
        match self {
            Self::Plan(plan) => plan.instead.map(|(algorithm, _)| algorithm),
            Self::Twilio => Some(Algorithm::Sha256),
            _ => None,
        }
    }
}
