//! Owns Mailgun's scheme: timestamp, token and signature stand inside the body, as JSON or (legacy) as form fields.
//!
//! <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>. The signature covers the
//! timestamp and the token, *not the rest of the body*: it proves that the sender once got one from Mailgun. Promises
//! freshness; the preset deduplicates by the token, so that a token counts once.

use std::{sync::Arc, time::Duration};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{
    Algorithm, CannotSign, Encoding, Head, Refusal, Resigning, Sample, Secret, Signed, Special, Started, TimestampUnit,
    Verified, Whole,
    compile::millis,
    grammar::{Grammar, Kind, Signature, SignatureRule, Written},
    json,
    mac::Mac,
    timestamp::{Place, TimestampRule},
};
use crate::{
    clock::Timestamp,
    event::{is_called_form, is_form, is_object_or_array},
};

/// How long Mailgun's tokens are, in bytes.
const MAILGUN_TOKEN_BYTES: usize = 50;

/// The longest token that is taken, in bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// A Mailgun source.
pub(super) struct MailgunRecipe(Arc<Shared>);

struct Shared {
    scheme: &'static str,
    keys: Box<[(Arc<str>, Mac)]>,
    signature: SignatureRule,
    timestamp: TimestampRule,
}

struct Waiting {
    shared: Arc<Shared>,
    now: Timestamp,
    is_called_form: bool,
    is_encoded: bool,
}

/// A body, as far as it is looked at. Members that stand there twice are refused.
#[derive(Deserialize)]
struct Body {
    signature: Inside,
}

#[derive(Deserialize)]
struct Inside {
    timestamp: Digits,
    token: String,
    signature: String,
    #[serde(rename = "parent-signature")]
    parent: Option<String>,
}

/// Digits, as a string or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Digits {
    Text(String),
    Number(u64),
}

impl MailgunRecipe {
    pub(super) fn new(scheme: &'static str, secrets: &[Secret], tolerance: Duration) -> Self {
        let key = |secret: &Secret| (secret.reference().clone(), Mac::new(Algorithm::Sha256, secret.expose()));
        Self(Arc::new(Shared {
            scheme,
            keys: secrets.iter().map(key).collect(),
            signature: SignatureRule {
                // It has no header; the rule is used for decoding alone.
                name: CONTENT_TYPE,
                grammar: Grammar::Whole { prefix: Box::default(), kind: Kind::Mac },
                encoding: Written::Encoded(Encoding::Hex),
                mac_bytes: Algorithm::Sha256.output_bytes(),
                public_bytes: 0..=0,
            },
            timestamp: TimestampRule {
                place: Place::SignatureField,
                unit: TimestampUnit::Seconds,
                tolerance_ms: millis(tolerance),
            },
        }))
    }
}

impl Special for MailgunRecipe {
    fn scheme(&self) -> &'static str {
        self.0.scheme
    }

    fn references(&self) -> Vec<&Arc<str>> {
        self.0.keys.iter().map(|(reference, _)| reference).collect()
    }

    fn can_sign(&self) -> bool {
        true
    }

    fn resigning(&self) -> Resigning {
        Resigning::Dated
    }

    fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let mut token = hex::encode(Sha256::digest(sample.id.as_bytes()));
        token.truncate(MAILGUN_TOKEN_BYTES);
        self.0.signed(sample, &token)
    }

    /// With the token that it has: an app that knows it must not take the event for another one.
    fn sign_again<'s>(&self, event: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let token = match is_form(event.headers, event.body) {
            true => of_form(event.body).ok().map(|inside| inside.token),
            false => json::scalar(event.body, &["signature", "token"]),
        };
        match token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX) {
            Some(token) => self.0.signed(event, &token),
            None => self.sign(event),
        }
    }

    fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Started, Refusal> {
        let is_encoded = head.headers.contains_key(CONTENT_ENCODING);
        let is_called_form = is_called_form(head.headers);
        Ok(Started::Whole(Box::new(Waiting { shared: self.0.clone(), now, is_called_form, is_encoded })))
    }
}

impl Shared {
    fn signed<'s>(&self, sample: &Sample<'s>, token: &str) -> Result<Signed<'s>, CannotSign> {
        let scheme = self.scheme;
        let (_, key) = self.keys.first().ok_or(CannotSign::PrivateKey(scheme))?;
        let timestamp = self.timestamp.unit.write(sample.now);
        let mut mac = key.clone();
        mac.update(timestamp.as_bytes());
        mac.update(token.as_bytes());
        let signature = hex::encode(mac.finish().as_slice());
        let body = if is_form(sample.headers, sample.body) {
            // An event that is signed again carries the fields already; the others stay as they are.
            let mut form = Vec::with_capacity(sample.body.len() + 256);
            for item in sample.body.split(|byte| *byte == b'&').filter(|item| !item.is_empty()) {
                let name = form_urlencoded::parse(item).next().map(|(name, _)| name).unwrap_or_default();
                if !["timestamp", "token", "signature"].contains(&&*name) {
                    form.extend_from_slice(item);
                    form.push(b'&');
                }
            }
            let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
            form.extend_from_slice(format!("timestamp={timestamp}&token={token}&signature={signature}").as_bytes());
            form
        } else {
            let inside = serde_json::json!({ "timestamp": timestamp, "token": token, "signature": signature });
            let refused = CannotSign::Body(scheme, "a JSON object that names no member twice");
            json::with_member(sample.body, &["signature"], &inside.to_string()).ok_or(refused)?
        };
        Ok(Signed { body: body.into(), ..sample.with_headers(Vec::new()) })
    }
}

impl Whole for Waiting {
    fn finish(self: Box<Self>, body: &[u8]) -> Result<Verified, Refusal> {
        // What is read here must be what the dedupe rule reads, which alone keeps a token from counting twice: it takes
        // text as it stands, and undoes any other encoding.
        if self.is_encoded && std::str::from_utf8(body).is_err() {
            return Err(Refusal::UnreadableBody);
        }
        let is_form = self.is_called_form && !is_object_or_array(body);
        let signed = if is_form { of_form(body)? } else { of_json(body)? };
        let timestamp = match signed.timestamp {
            Digits::Text(text) => text,
            Digits::Number(number) => number.to_string(),
        };
        if signed.token.is_empty() || signed.token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::MalformedSignature);
        }
        let skew_ms = self.shared.timestamp.check(timestamp.as_bytes(), self.now)?;
        let decode = |text: &str| self.shared.signature.decode(Kind::Mac, text.as_bytes());
        let own = decode(&signed.signature).ok_or(Refusal::MalformedSignature)?;
        let parent = signed.parent.as_deref().and_then(decode);
        let signatures: Vec<Signature> = std::iter::once(own).chain(parent).collect();
        let mut matched = u32::MAX;
        let mut open = Choice::from(1);
        for (index, (_, key)) in (0_u32..).zip(&self.shared.keys) {
            let mut mac = key.clone();
            mac.update(timestamp.as_bytes());
            mac.update(signed.token.as_bytes());
            let tag = mac.finish();
            let same = signatures
                .iter()
                .fold(Choice::from(0), |found, signature| found | tag.as_slice().ct_eq(signature.as_slice()));
            matched.conditional_assign(&index, same & open);
            open &= !same;
        }
        let key = usize::try_from(matched).ok().and_then(|index| self.shared.keys.get(index));
        let (reference, _) = key.ok_or(Refusal::BadSignature)?;
        Ok(Verified { scheme: self.shared.scheme, secret: Some(reference.clone()), skew_ms: Some(skew_ms) })
    }
}

fn of_json(body: &[u8]) -> Result<Inside, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::UnreadableBody)?;
    let body: Body = serde_json::from_str(text).map_err(|error| match error.is_data() {
        true => Refusal::MissingSignature,
        false => Refusal::UnreadableBody,
    })?;
    Ok(body.signature)
}

fn of_form(body: &[u8]) -> Result<Inside, Refusal> {
    let (mut timestamp, mut token, mut signature) = (None, None, None);
    for (name, value) in form_urlencoded::parse(body) {
        let place = match &*name {
            "timestamp" => &mut timestamp,
            "token" => &mut token,
            "signature" => &mut signature,
            _ => continue,
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(Refusal::DuplicatedSignature);
        }
    }
    match (timestamp, token, signature) {
        (Some(timestamp), Some(token), Some(signature)) => {
            Ok(Inside { timestamp: Digits::Text(timestamp), token, signature, parent: None })
        }
        _ => Err(Refusal::MissingSignature),
    }
}
