//! Owns Twilio's scheme: HMAC over the URL and the sorted form, or over a URL that carries the hash of the body.
//!
//! <https://www.twilio.com/docs/usage/security>. Promises that the algorithm is the configured one whatever the settings
//! header says, and that a body that neither stands in the form nor has its hash in the URL is refused. Twilio signs
//! what the form *says*: `%2B` and `%2b` are one form, so that two bodies that say the same have one signature.

use std::{collections::BTreeSet, sync::Arc};

use http::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{
    Algorithm, CannotSign, Encoding, Head, Refusal, Resigning, Sample, Secret, Signed, Special, Started, Verified,
    Whole,
    grammar::{Grammar, Kind, SignatureRule, Signatures, Written},
    headers::{NotOne, only},
    mac::Mac,
    sign::{encode, value},
    url::PublicUrl,
};
use crate::{clock::Timestamp, event::is_called_form};

const SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-signature");
const SETTINGS: HeaderName = HeaderName::from_static("x-twilio-webhooks-signature-settings");
/// The parameter of the query that carries the body's hash.
const BODY_HASH: &[u8] = b"bodySHA256";

/// The most fields of a form; more are refused. Twilio sends some dozens.
pub const FORM_FIELDS_MAX: usize = 10_000;

/// A Twilio source.
pub(super) struct TwilioRecipe {
    scheme: &'static str,
    algorithm: Algorithm,
    keys: Arc<[(Arc<str>, Mac)]>,
    signature: SignatureRule,
    url: PublicUrl,
}

/// A check that waits for the body.
struct Waiting {
    scheme: &'static str,
    keys: Arc<[(Arc<str>, Mac)]>,
    signatures: Signatures,
    /// Without and with the port.
    urls: [String; 2],
    /// Whether the body's fields are signed.
    is_form: bool,
    /// The body's hash, if the URL carries it; a body that neither is a form nor has its hash there must be empty.
    hash: Option<[u8; 32]>,
}

impl TwilioRecipe {
    pub(super) fn new(scheme: &'static str, algorithm: Algorithm, secrets: &[Secret], url: PublicUrl) -> Self {
        let keys = secrets.iter().map(|secret| (secret.reference().clone(), Mac::new(algorithm, secret.expose())));
        let signature = SignatureRule {
            name: SIGNATURE,
            grammar: Grammar::Whole { prefix: Box::default(), kind: Kind::Mac },
            encoding: Written::Encoded(Encoding::Base64),
            mac_bytes: algorithm.output_bytes(),
            public_bytes: 0..=0,
        };
        Self { scheme, algorithm, keys: keys.collect(), signature, url }
    }

    /// The settings header may repeat what is configured; it never chooses.
    fn agrees(&self, head: &Head<'_>) -> Result<(), Refusal> {
        let said = match only(head.headers, &SETTINGS) {
            Err(NotOne::Missing) => return Ok(()),
            Err(NotOne::Repeated) => return Err(Refusal::DuplicatedSignature),
            Ok(said) => said,
        };
        let expected: &[u8] = match self.algorithm {
            Algorithm::Sha1 => b"HMAC_SHA1",
            _ => b"HMAC_SHA256",
        };
        let named = said.split(|byte| *byte == b',').filter_map(|item| item.trim_ascii().strip_prefix(b"algorithm="));
        match named.clone().count() == 1 && named.clone().all(|algorithm| algorithm == expected) {
            true => Ok(()),
            false => Err(Refusal::MalformedSignature),
        }
    }
}

impl Special for TwilioRecipe {
    fn scheme(&self) -> &'static str {
        self.scheme
    }

    fn references(&self) -> Vec<&Arc<str>> {
        self.keys.iter().map(|(reference, _)| reference).collect()
    }

    fn can_sign(&self) -> bool {
        true
    }

    fn url(&self) -> Option<&PublicUrl> {
        Some(&self.url)
    }

    fn with_url(&self, url: &PublicUrl) -> Option<Arc<dyn Special>> {
        let (keys, signature, url) = (self.keys.clone(), self.signature.clone(), url.clone());
        Some(Arc::new(Self { scheme: self.scheme, algorithm: self.algorithm, keys, signature, url }))
    }

    fn resigning(&self) -> Resigning {
        Resigning::Undated
    }

    fn signature_headers(&self) -> Vec<HeaderName> {
        vec![SIGNATURE, SETTINGS]
    }

    fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let scheme = self.scheme;
        let (_, key) = self.keys.first().ok_or(CannotSign::PrivateKey(scheme))?;
        let is_form = is_called_form(sample.headers);
        let mut query = sample.query.map(str::to_owned);
        if !is_form && !sample.body.is_empty() {
            let kept = fields_without_hash(sample.query.unwrap_or_default());
            let hash = format!("bodySHA256={}", hex::encode(Sha256::digest(sample.body)));
            query = Some(if kept.is_empty() { hash } else { format!("{kept}&{hash}") });
        }
        let url = self.url.of(&Head { query: query.as_deref(), ..sample.head() });
        let fields = match is_form {
            true => signed_fields(sample.body).map_err(|_| CannotSign::Body(scheme, "a form with fewer fields"))?,
            false => Vec::new(),
        };
        let signature = encode(self.signature.encoding, tag(key, &url, &fields).as_slice());
        let mut headers = vec![(SIGNATURE, value(&SIGNATURE, signature.as_bytes(), false)?)];
        if self.algorithm != Algorithm::Sha1 {
            headers.push((SETTINGS, HeaderValue::from_static("algorithm=HMAC_SHA256")));
        }
        Ok(Signed { query, ..sample.with_headers(headers) })
    }

    fn begin(&self, head: &Head<'_>, _now: Timestamp) -> Result<Started, Refusal> {
        let signatures = self.signature.read(head.headers)?.signatures;
        self.agrees(head)?;
        let (is_form, hash) = (is_called_form(head.headers), body_hash(head.query)?);
        let (scheme, keys, urls) = (self.scheme, self.keys.clone(), self.url.port_variants(head));
        Ok(Started::Whole(Box::new(Waiting { scheme, keys, signatures, urls, is_form, hash })))
    }
}

impl Whole for Waiting {
    fn finish(self: Box<Self>, body: &[u8]) -> Result<Verified, Refusal> {
        let fields = if self.is_form { signed_fields(body)? } else { Vec::new() };
        // A hash counts whatever the content type says, which nobody signed; and a form without fields is covered by
        // nothing else.
        let is_covered = match &self.hash {
            Some(expected) => bool::from(Sha256::digest(body).as_slice().ct_eq(expected)),
            None => !fields.is_empty() || body.is_empty(),
        };
        if !is_covered {
            return Err(Refusal::BadSignature);
        }
        let mut matched = u32::MAX;
        let mut open = Choice::from(1);
        for (index, (_, key)) in (0_u32..).zip(&*self.keys) {
            let mut same = Choice::from(0);
            for url in &self.urls {
                let tag = tag(key, url, &fields);
                same |= self.signatures.any(Kind::Mac, |signature| tag.as_slice().ct_eq(signature));
            }
            matched.conditional_assign(&index, same & open);
            open &= !same;
        }
        let key = usize::try_from(matched).ok().and_then(|index| self.keys.get(index));
        let (reference, _) = key.ok_or(Refusal::BadSignature)?;
        Ok(Verified { scheme: self.scheme, secret: Some(reference.clone()), skew_ms: None })
    }
}

fn tag(key: &Mac, url: &str, fields: &[u8]) -> super::mac::Tag {
    let mut mac = key.clone();
    mac.update(url.as_bytes());
    mac.update(fields);
    mac.finish()
}

/// The hash of the body that the query carries; it may stand there once.
fn body_hash(query: Option<&str>) -> Result<Option<[u8; 32]>, Refusal> {
    let fields = fields(query.unwrap_or_default().as_bytes());
    let mut hashes = fields.iter().filter(|(name, _)| name == BODY_HASH).map(|(_, value)| value);
    match (hashes.next(), hashes.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let mut hash = [0; 32];
            hex::decode_to_slice(value, &mut hash).map_err(|_| Refusal::MalformedSignature)?;
            Ok(Some(hash))
        }
        (Some(_), Some(_)) => Err(Refusal::DuplicatedSignature),
    }
}

/// A query as it stands, without the hash of another body.
fn fields_without_hash(query: &str) -> String {
    let kept = query.split('&').filter(|item| !item.is_empty() && !item.starts_with("bodySHA256="));
    kept.collect::<Vec<_>>().join("&")
}

/// Each name with each of its distinct values, both in the order of their bytes.
fn signed_fields(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    if body.split(|byte| *byte == b'&').take(FORM_FIELDS_MAX + 1).count() > FORM_FIELDS_MAX {
        return Err(Refusal::UnreadableBody);
    }
    let distinct: BTreeSet<(Vec<u8>, Vec<u8>)> = fields(body).into_iter().collect();
    Ok(distinct.into_iter().flat_map(|(name, value)| [name, value]).flatten().collect())
}

/// The fields of a form as bytes, so that what is not UTF-8 is told apart.
fn fields(form: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let items = form.split(|byte| *byte == b'&').filter(|item| !item.is_empty());
    let field = |item: &[u8]| {
        let at = item.iter().position(|byte| *byte == b'=').unwrap_or(item.len());
        let (name, value) = item.split_at_checked(at).unwrap_or((item, b""));
        (decoded(name), decoded(value.get(1..).unwrap_or_default()))
    };
    items.map(field).collect()
}

/// `+` is a space, `%41` is `A`, and a percent sign that begins nothing is itself.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escape = tail.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = escape.and_then(|digits| hex::decode(digits).ok()).and_then(|byte| byte.first().copied());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_bytes_sorted_and_equal_fields_count_once() {
        let signed = |form: &[u8]| signed_fields(form).unwrap();
        assert_eq!(signed(b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234"), {
            b"Digits1234Digits5678SidCA123SidAccountAC123"
        });
        assert_eq!(signed(b"b=%2B1+2&a=%C3%A4&&c&d=="), "aäb+1 2cd=".as_bytes());
        assert_eq!(signed(b"a=%FF"), b"a\xff");
        assert_ne!(signed(b"a=%FF"), signed(b"a=%FE"));
        assert_eq!(signed(b"a=%F&b=%zz%"), b"a%Fb%zz%");
        assert_eq!(signed(b""), b"");
        let many = "a=1&".repeat(FORM_FIELDS_MAX);
        assert_eq!(signed_fields(many.as_bytes()), Err(Refusal::UnreadableBody));
    }
}
