//! Owns the settings of the `hmac` scheme: what the configuration may say, and how it becomes a recipe.
//!
//! Promises that a recipe signs the body, exactly once, and the timestamp if one is checked: settings under which a
//! forger could change either are refused here, with the field and the remedy. SHA-1 is only used by name.

use std::{str::FromStr, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    Secret,
    compile::millis,
    grammar::{Grammar, Kind, SignatureRule, Written},
    mac::{Algorithm, Mac},
    recipe::{Checker, Key, Recipe},
    template::{TEMPLATE_BYTES_MAX, signed_parts},
    timestamp::{Place, TimestampRule},
};

/// The most secrets of one source: each costs a hash of the body.
pub const SECRETS_MAX: usize = 16;

/// What the configuration says about an `hmac` source.
pub struct HmacSettings {
    /// Which hash.
    pub algorithm: Algorithm,
    /// The header that carries the signature.
    pub header: String,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What stands before the signature in its header, for example `sha256=`; empty for nothing.
    pub prefix: String,
    /// What is signed: text with `{body}`, `{timestamp}`, `{header:NAME}`, `{method}`, `{path}`, `{query}`, and
    /// `{{` for a brace. None: the body alone.
    pub template: Option<String>,
    /// None: signatures never expire.
    pub timestamp: Option<TimestampSettings>,
    /// Any of them may have signed.
    pub secrets: Vec<Secret>,
}

/// Where the sender's timestamp stands and how far it may be off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampSettings {
    /// The header that carries it: decimal digits since the Unix epoch, or RFC 3339.
    pub header: String,
    /// What it counts.
    pub unit: TimestampUnit,
    /// How far it may lie in the past or in the future; exactly so far is accepted.
    pub tolerance: Duration,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Either case.
    Hex,
    /// RFC 4648 section 4, with or without padding.
    Base64,
    /// RFC 4648 section 5, with or without padding.
    Base64Url,
}

/// What a timestamp counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampUnit {
    /// `s`.
    Seconds,
    /// `ms`.
    Milliseconds,
    /// `rfc3339`: a date and time with zone, down to nanoseconds.
    Rfc3339,
}

/// What is wrong with the settings of a verifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No such algorithm.
    #[error("unknown algorithm {0:?}: use \"sha256\", \"sha384\", \"sha512\", or \"sha1\" for an old sender")]
    Algorithm(String),
    /// No such encoding.
    #[error("unknown encoding {0:?}: use \"hex\", \"base64\" or \"base64url\"")]
    Encoding(String),
    /// No such unit.
    #[error("unknown unit {0:?}: use \"s\", \"ms\" or \"rfc3339\"")]
    Unit(String),
    /// The signature header has no valid name.
    #[error("{0:?} is no header name: header needs the name of the header that carries the signature")]
    Header(String),
    /// The timestamp header has no valid name.
    #[error("{0:?} is no header name: timestamp.header needs the name of the header that carries the timestamp")]
    TimestampHeader(String),
    /// The header of the id has no valid name.
    #[error("{0:?} is no header name: id.header needs the name of the header that carries the event's id")]
    IdHeader(String),
    /// The id would overwrite the signature or the timestamp.
    #[error("id.header is also the header of the signature or the timestamp: name one of its own")]
    SharedIdHeader,
    /// A header of one's own takes one signature.
    #[error(
        "secrets has {0} entries, but a header of your own carries one signature: let the receiver take the new secret \
         beside the old one, then replace it here (Standard Webhooks, without header, sends them all)"
    )]
    OneSignature(usize),
    /// The signature and the timestamp can't share a header.
    #[error("timestamp.header is also the header of the signature: name the one that carries the timestamp alone")]
    SharedHeader,
    /// A tolerance of nothing accepts nothing.
    #[error("timestamp.tolerance is zero and would refuse every request: use \"5m\"")]
    Tolerance,
    /// The prefix could never arrive.
    #[error("prefix {0:?} can't stand at the beginning of a header: use visible characters, without leading space")]
    Prefix(String),
    /// No secret.
    #[error("secrets is empty: name at least one, for example [\"env:SECRET\"]")]
    NoSecrets,
    /// The scheme's settings are other than secrets.
    #[error("scheme \"{0}\" is not made with secrets: it has settings of its own")]
    NoSecretScheme(&'static str),
    /// Too many secrets.
    #[error("secrets has {0} entries: at most {SECRETS_MAX}, remove those that are no longer used")]
    TooManySecrets(usize),
    /// A placeholder that does not exist.
    #[error(
        "unknown placeholder {{{0}}} in template: use {{body}}, {{timestamp}}, {{header:NAME}}, {{method}}, {{path}}, \
         {{query}}, or {{{{ for a brace"
    )]
    Placeholder(String),
    /// A brace that nothing closes or opens.
    #[error("unpaired brace at byte {0} of template: write {{{{ or }}}} for a brace that is signed")]
    Brace(usize),
    /// The body would not be signed.
    #[error("template has no {{body}}: anybody could change the body, add {{body}}")]
    NoBody,
    /// The body can be hashed once.
    #[error("template has more than one {{body}}: the body is read once, keep one")]
    TwoBodies,
    /// A timestamp that nobody declared.
    #[error("template has {{timestamp}} but timestamp is not set: add timestamp = {{ header = \"…\" }}")]
    TimestampNotSet,
    /// A timestamp that is not signed proves nothing.
    #[error("timestamp is set but not signed: add {{timestamp}} to template, or remove timestamp")]
    TimestampNotSigned,
    /// A signature can't sign itself.
    #[error("template signs the header of the signature itself: remove {{header:{0}}}")]
    SignsItself(String),
    /// The template is too long.
    #[error("template has {0} bytes: at most {TEMPLATE_BYTES_MAX}")]
    TooLong(usize),
    /// A preset's tolerance of nothing accepts nothing.
    #[error("tolerance is zero and would refuse every request: use \"5m\"")]
    PresetTolerance,
    /// The scheme has no such algorithm.
    #[error("{}", other_algorithm(scheme, *other))]
    OtherAlgorithm {
        /// The scheme.
        scheme: &'static str,
        /// What may be written.
        other: Option<Algorithm>,
    },
    /// The scheme signs the URL.
    #[error("{0} signs the URL: write public_url on the source, the whole URL as it is registered there")]
    NoPublicUrl(&'static str),
    /// The public URL can't be one.
    #[error("{0}")]
    PublicUrl(String),
    /// A secret is not in the form in which the provider hands it out.
    #[error("the secret {reference} {remedy}")]
    SecretForm {
        /// The reference, never the value.
        reference: Arc<str>,
        /// What is wrong and what to do.
        remedy: &'static str,
    },
}

fn other_algorithm(scheme: &str, other: Option<Algorithm>) -> String {
    match other {
        Some(other) => {
            let word = other.as_str();
            format!(
                "{scheme} takes only algorithm = \"{word}\", for what is not signed as usual; remove it or write that"
            )
        }
        None => format!("{scheme} has one algorithm; remove it"),
    }
}

impl SettingsError {
    /// The key of the configuration it is about, inside `verify`.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Algorithm(_) => "algorithm",
            Self::Encoding(_) => "encoding",
            Self::Unit(_) => "timestamp.unit",
            Self::Header(_) => "header",
            Self::TimestampHeader(_) | Self::SharedHeader => "timestamp.header",
            Self::IdHeader(_) | Self::SharedIdHeader => "id.header",
            Self::OneSignature(_) => "secrets",
            Self::Tolerance => "timestamp.tolerance",
            Self::Prefix(_) => "prefix",
            Self::NoSecrets | Self::NoSecretScheme(_) | Self::TooManySecrets(_) | Self::SecretForm { .. } => "secrets",
            Self::PresetTolerance => "tolerance",
            Self::OtherAlgorithm { .. } => "algorithm",
            Self::NoPublicUrl(_) | Self::PublicUrl(_) => "public_url",
            Self::TimestampNotSigned => "timestamp",
            Self::Placeholder(_)
            | Self::Brace(_)
            | Self::NoBody
            | Self::TwoBodies
            | Self::TimestampNotSet
            | Self::SignsItself(_)
            | Self::TooLong(_) => "template",
        }
    }
}

impl FromStr for Algorithm {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            "sha1" => Ok(Self::Sha1),
            other => Err(SettingsError::Algorithm(other.to_owned())),
        }
    }
}

impl FromStr for Encoding {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "hex" => Ok(Self::Hex),
            "base64" => Ok(Self::Base64),
            "base64url" => Ok(Self::Base64Url),
            other => Err(SettingsError::Encoding(other.to_owned())),
        }
    }
}

impl FromStr for TimestampUnit {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "s" => Ok(Self::Seconds),
            "ms" => Ok(Self::Milliseconds),
            "rfc3339" => Ok(Self::Rfc3339),
            other => Err(SettingsError::Unit(other.to_owned())),
        }
    }
}

impl HmacSettings {
    /// Checks everything once and makes the recipe.
    pub(super) fn compile(self) -> Result<Recipe, SettingsError> {
        let name: HeaderName = self.header.parse().map_err(|_| SettingsError::Header(self.header.clone()))?;
        let sendable = self.prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !sendable || self.prefix.starts_with(' ') {
            return Err(SettingsError::Prefix(self.prefix));
        }
        let timestamp = self.timestamp.map(|settings| timestamp_rule(settings, &name)).transpose()?;
        let (before, after) = match self.template {
            Some(template) => signed_parts(&template, &name, timestamp.as_ref())?,
            None if timestamp.is_some() => return Err(SettingsError::TimestampNotSigned),
            None => (Vec::new(), Vec::new()),
        };
        match self.secrets.len() {
            0 => return Err(SettingsError::NoSecrets),
            many if many > SECRETS_MAX => return Err(SettingsError::TooManySecrets(many)),
            _ => {}
        }
        let key = |secret: &Secret| Key {
            reference: secret.reference().clone(),
            checker: Checker::Mac(Mac::new(self.algorithm, secret.expose())),
            secret: secret.clone(),
        };
        Ok(Recipe {
            scheme: "hmac",
            keys: self.secrets.iter().map(key).collect(),
            signature: SignatureRule {
                name,
                grammar: Grammar::Whole { prefix: self.prefix.into_bytes().into(), kind: Kind::Mac },
                encoding: Written::Encoded(self.encoding),
                mac_bytes: self.algorithm.output_bytes(),
                public_bytes: 0..=0,
            },
            timestamp,
            before: before.into(),
            after: after.into(),
            url: None,
            fallback: None,
        })
    }
}

fn timestamp_rule(settings: TimestampSettings, signature: &HeaderName) -> Result<TimestampRule, SettingsError> {
    let header: HeaderName =
        settings.header.parse().map_err(|_| SettingsError::TimestampHeader(settings.header.clone()))?;
    if header == *signature {
        return Err(SettingsError::SharedHeader);
    }
    if settings.tolerance.is_zero() {
        return Err(SettingsError::Tolerance);
    }
    let tolerance_ms = millis(settings.tolerance);
    Ok(TimestampRule { place: Place::Header(header), unit: settings.unit, tolerance_ms })
}
