//! Owns Google Pub/Sub's push tokens: a JSON Web Token (RFC 7519) in `Authorization`, signed RS256 by Google.
//!
//! Source: "Authenticate push subscriptions" of the Pub/Sub documentation, and OpenID Connect Core for the claims. The
//! token names who sends and to whom; it does not cover the body, and Google uses one for up to an hour.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;

use super::{
    KeyDocument, Outside, Place, Publisher, Reason, Signed, Wanted,
    document::{Digest, KID_BYTES_MAX},
    fresh, only,
};
use crate::{
    clock::Timestamp,
    verify::{Head, Refusal, Verifier},
};

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Google's name as issuer, in both forms that its documentation has.
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// What the configuration says about a `google-pubsub` source.
pub struct PubSubSettings {
    /// Whom the tokens must be for.
    pub audience: String,
    /// The address of the service account that the subscription pushes as.
    pub service_account: String,
    /// How far Google's clock and ours may be apart.
    pub tolerance: Duration,
    /// Pinned keys; None: they are fetched.
    pub pinned: Option<Arc<KeyDocument>>,
}

pub(in crate::verify) struct PubSub {
    audience: String,
    service_account: String,
    tolerance: Duration,
    pub(super) pinned: Option<Arc<KeyDocument>>,
}

impl Verifier {
    /// Checks pushes of Google Pub/Sub: scheme `google-pubsub`.
    #[must_use]
    pub fn google_pubsub(settings: PubSubSettings) -> Self {
        let PubSubSettings { audience, service_account, tolerance, pinned } = settings;
        Self::outside(Outside::PubSub(PubSub { audience, service_account, tolerance, pinned }))
    }
}

/// The header of a token. A name that stands there twice is refused.
#[derive(serde::Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Extensions that must be understood: none is.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    email: String,
    email_verified: bool,
    /// Seconds.
    exp: u64,
    /// Seconds.
    iat: u64,
}

impl PubSub {
    /// Judges the token's claims; the signature is judged at the end.
    pub(super) fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Signed, Refusal> {
        let malformed = Refusal::from(Reason::MalformedToken);
        let value = only(head.headers, &AUTHORIZATION, Refusal::MissingSignature, malformed)?;
        let (scheme, token) = value.split_once(' ').ok_or(malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.len() > TOKEN_BYTES_MAX {
            return Err(malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = message.split_once('.').ok_or(malformed)?;
        let header: Header = part(header).ok_or(malformed)?;
        let claims: Claims = part(claims).ok_or(malformed)?;
        if header.alg != "RS256" {
            return Err(Reason::OtherAlgorithm.into());
        }
        if header.crit.is_some() || header.kid.is_empty() || header.kid.len() > KID_BYTES_MAX {
            return Err(malformed);
        }
        let skew_ms = Some(self.judge(&claims, now)?);
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::MalformedSignature)?;
        let kid: Box<str> = header.kid.into();
        let wanted = Wanted { publisher: Publisher::Google, place: Place::google_keys(), kid: Some(kid.clone()) };
        let message = message.as_bytes().to_vec();
        Ok(Signed { digest: Digest::Sha256, kid: Some(kid), message, signature, skew_ms, wanted })
    }

    fn judge(&self, claims: &Claims, now: Timestamp) -> Result<i64, Refusal> {
        if !ISSUERS.contains(&&*claims.iss) {
            return Err(Reason::OtherIssuer.into());
        }
        if claims.aud != self.audience {
            return Err(Reason::OtherAudience.into());
        }
        if claims.email != self.service_account || !claims.email_verified {
            return Err(Reason::OtherAccount.into());
        }
        let seconds = |seconds: u64| Timestamp::from_millis(seconds.saturating_mul(1000));
        let (issued, expires) = (seconds(claims.iat), seconds(claims.exp));
        if expires.after(self.tolerance) < now || expires < issued {
            return Err(Refusal::Stale);
        }
        fresh(issued, now, Duration::MAX, self.tolerance)
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}
