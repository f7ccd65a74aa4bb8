//! Owns the other direction: making a request that a verifier takes, as its provider would. For samples, and for
//! upstreams that check the provider's signature themselves and are served late.
//!
//! Promises that what is made is taken by the same verifier at the same time. Deliberately absent: schemes whose keys are
//! public here; nobody but the provider can sign for those.

use std::{borrow::Cow, sync::Arc};

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    Encoding, Head, Kind, Verifier,
    grammar::{Grammar, Written},
    json,
    recipe::{Checker, Field, Piece, Recipe},
    timestamp::{Place, TimestampRule},
};
use crate::clock::Timestamp;

/// A request that is to be signed.
pub struct Sample<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// What it has already; the content type matters to some schemes.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a [u8],
    /// What stands in headers that are signed and that it does not have, such as the id of a message.
    pub id: &'a str,
    /// When it is signed.
    pub now: Timestamp,
}

/// A request as its provider would send it.
pub struct Signed<'a> {
    /// The sample's, with the secret in it if that is the scheme.
    pub path: String,
    /// The sample's, with what the scheme adds.
    pub query: Option<String>,
    /// To be set besides the sample's own, each in place of one of the same name. Secrets are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The sample's; owned if the scheme writes into it.
    pub body: Cow<'a, [u8]>,
}

/// What signing an event again, in its source's scheme, would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resigning {
    /// Nothing is signed: there is nothing to renew.
    Nothing,
    /// A signature holds for ever, unless the body changes.
    Undated,
    /// A signature grows stale.
    Dated,
    /// Only the provider can sign.
    Impossible,
}

/// Why a sample can't be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// Only the provider has the private key.
    #[error("{0} signs with a private key that only the provider has: send a test from there")]
    PrivateKey(&'static str),
    /// The scheme writes into the body, which is not of the right form.
    #[error("{0} writes into the body, which must be {1}")]
    Body(&'static str, &'static str),
    /// A value can't stand in a header.
    #[error("the value of {0} can't stand in a header")]
    Header(HeaderName),
}

impl<'a> Sample<'a> {
    /// Unchanged, with more headers.
    pub(super) fn with_headers(&self, headers: Vec<(HeaderName, HeaderValue)>) -> Signed<'a> {
        Signed {
            path: self.path.to_owned(),
            query: self.query.map(str::to_owned),
            headers,
            body: Cow::Borrowed(self.body),
        }
    }

    pub(super) const fn head(&'a self) -> Head<'a> {
        Head { method: self.method, path: self.path, query: self.query, headers: self.headers }
    }
}

impl Verifier {
    /// Whether samples can be signed.
    ///
    /// # Errors
    /// [`CannotSign::PrivateKey`] if only the provider can.
    pub fn can_sign(&self) -> Result<(), CannotSign> {
        let able = match &self.0 {
            Kind::Open(_) => true,
            Kind::Recipe(recipe) => recipe.keys.iter().any(|key| !matches!(key.checker, Checker::Public(_))),
            Kind::Special(special) => special.can_sign(),
        };
        if able { Ok(()) } else { Err(CannotSign::PrivateKey(self.scheme())) }
    }

    /// Signs a sample with the first secret that can.
    ///
    /// # Errors
    /// [`CannotSign`] with the reason.
    pub fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        match &self.0 {
            Kind::Open(_) => Ok(sample.with_headers(Vec::new())),
            Kind::Recipe(recipe) => recipe.sign(sample),
            Kind::Special(special) => special.sign(sample),
        }
    }

    /// What [`Verifier::sign_again`] would be.
    #[must_use]
    pub fn resigning(&self) -> Resigning {
        match &self.0 {
            Kind::Open(_) => Resigning::Nothing,
            Kind::Recipe(recipe) if recipe.signs_nothing() => Resigning::Nothing,
            Kind::Recipe(recipe) => {
                let able = recipe.keys.iter().any(|key| matches!(key.checker, Checker::Mac(_)));
                match (able, &recipe.timestamp) {
                    (false, _) => Resigning::Impossible,
                    (true, Some(_)) => Resigning::Dated,
                    (true, None) => Resigning::Undated,
                }
            }
            Kind::Special(special) => special.resigning(),
        }
    }

    /// Signs what an event has become, as its provider would have signed it now: with the first secret that can, under
    /// the names of headers that the event came with, and with the ids that it has. A secret that is merely presented
    /// is left as it stands.
    ///
    /// # Errors
    /// [`CannotSign`] with the reason.
    pub fn sign_again<'s>(&self, event: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        match &self.0 {
            _ if self.resigning() == Resigning::Nothing => Ok(event.with_headers(Vec::new())),
            Kind::Open(_) => Ok(event.with_headers(Vec::new())),
            Kind::Special(special) => special.sign_again(event),
            Kind::Recipe(recipe) => {
                let other = recipe.fallback.as_ref().filter(|other| other.speaks(event.headers));
                let Some(other) = other else { return recipe.sign(event) };
                let mut signed = other.sign(event)?;
                if recipe.speaks(event.headers) {
                    signed.headers.extend(recipe.sign(event)?.headers);
                }
                Ok(signed)
            }
        }
    }

    /// The reference of the secret that [`Verifier::sign_again`] signs with.
    #[must_use]
    pub fn signing_reference(&self) -> Option<&Arc<str>> {
        match &self.0 {
            Kind::Open(_) => None,
            Kind::Recipe(recipe) => {
                let mut able = recipe.keys.iter().filter(|key| !matches!(key.checker, Checker::Public(_)));
                able.next().map(|key| &key.reference)
            }
            Kind::Special(special) => special.references().into_iter().next(),
        }
    }

    /// The headers that carry signatures and timestamps of the scheme, all of which [`Verifier::sign_again`] makes
    /// worthless.
    #[must_use]
    pub fn signature_headers(&self) -> Vec<HeaderName> {
        match &self.0 {
            Kind::Open(_) => Vec::new(),
            Kind::Special(special) => special.signature_headers(),
            Kind::Recipe(recipe) => {
                let names = std::iter::once(recipe).chain(&recipe.fallback).flat_map(|recipe| {
                    let others: &[HeaderName] = match &recipe.signature.grammar {
                        Grammar::Family { others } => others,
                        _ => &[],
                    };
                    let stamp = recipe.timestamp.as_ref().and_then(TimestampRule::header);
                    std::iter::once(&recipe.signature.name).chain(others).chain(stamp)
                });
                names.cloned().collect()
            }
        }
    }
}

impl Recipe {
    fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let able = self.keys.iter().find(|key| !matches!(key.checker, Checker::Public(_)));
        let key = able.ok_or(CannotSign::PrivateKey(self.scheme))?;
        let mut made = Vec::new();
        let mut headers = sample.headers.clone();
        let mut body = Cow::Borrowed(sample.body);
        let mut stamp = None;
        if let Some(rule) = &self.timestamp {
            let text = rule.unit.write(sample.now);
            match &rule.place {
                Place::Header(name) => set(&mut made, &mut headers, name, text.as_bytes(), false)?,
                Place::SignatureField => {}
                Place::Json(path) => {
                    let refused = CannotSign::Body(self.scheme, "a JSON object that names no member twice");
                    body = Cow::Owned(json::with_member(sample.body, path, &text).ok_or(refused)?);
                }
            }
            stamp = Some(text);
        }
        for piece in self.before.iter().chain(&self.after) {
            if let Piece::Field(Field::Header(name) | Field::Id(name)) = piece
                && !headers.contains_key(name)
            {
                set(&mut made, &mut headers, name, sample.id.as_bytes(), false)?;
            }
        }
        let signature = match &key.checker {
            Checker::Equal(_, secret) => self.plain(secret.expose()),
            Checker::Mac(mac) => {
                let mut mac = mac.clone();
                let head = Head { headers: &headers, ..sample.head() };
                let stamp = stamp.as_deref().map(str::as_bytes);
                let bytes_of = |piece| {
                    let refused = |_refusal| CannotSign::Header(self.signature.name.clone());
                    self.bytes_of(piece, &head, stamp).map_err(refused)
                };
                for piece in &self.before {
                    mac.update(&bytes_of(piece)?);
                }
                mac.update(&body);
                for piece in &self.after {
                    mac.update(&bytes_of(piece)?);
                }
                self.written(mac.finish().as_slice(), stamp.unwrap_or_default())
            }
            Checker::Public(_) => return Err(CannotSign::PrivateKey(self.scheme)),
        };
        set(&mut made, &mut headers, &self.signature.name, &signature, self.signs_nothing())?;
        Ok(Signed { body, ..sample.with_headers(made) })
    }

    /// The header of a secret that is presented as it is.
    fn plain(&self, secret: &[u8]) -> Vec<u8> {
        let text = match self.signature.encoding {
            Written::PlainBase64 => base64::prelude::BASE64_STANDARD.encode(secret).into_bytes(),
            Written::Plain | Written::Encoded(_) | Written::LowerHex => secret.to_vec(),
        };
        match &self.signature.grammar {
            Grammar::Whole { prefix, .. } => [prefix, text.as_slice()].concat(),
            _ => text,
        }
    }

    /// The header of a signature, as the sender writes it.
    fn written(&self, signature: &[u8], timestamp: &[u8]) -> Vec<u8> {
        let text = encode(self.signature.encoding, signature).into_bytes();
        match &self.signature.grammar {
            Grammar::Whole { prefix, .. } => [prefix, text.as_slice()].concat(),
            Grammar::Versions { mac, .. } => [mac, b",".as_slice(), &text].concat(),
            Grammar::Family { .. } => text,
            Grammar::Pairs { wanted, timestamp: None, .. } => [wanted, b"=".as_slice(), &text].concat(),
            Grammar::Pairs { separator, wanted, timestamp: Some(key) } => {
                [key, b"=".as_slice(), timestamp, &[*separator], wanted, b"=", &text].concat()
            }
        }
    }
}

/// A signature as text.
pub(super) fn encode(encoding: Written, signature: &[u8]) -> String {
    match encoding {
        Written::Encoded(Encoding::Base64) | Written::PlainBase64 => base64::prelude::BASE64_STANDARD.encode(signature),
        Written::Encoded(Encoding::Base64Url) => base64::prelude::BASE64_URL_SAFE.encode(signature),
        Written::Encoded(Encoding::Hex) | Written::LowerHex | Written::Plain => hex::encode(signature),
    }
}

/// A header's value; `secret` marks it as sensitive.
pub(super) fn value(name: &HeaderName, text: &[u8], secret: bool) -> Result<HeaderValue, CannotSign> {
    let mut value = HeaderValue::from_bytes(text).map_err(|_| CannotSign::Header(name.clone()))?;
    value.set_sensitive(secret);
    Ok(value)
}

fn set(
    made: &mut Vec<(HeaderName, HeaderValue)>,
    headers: &mut HeaderMap,
    name: &HeaderName,
    text: &[u8],
    secret: bool,
) -> Result<(), CannotSign> {
    let value = value(name, text, secret)?;
    headers.insert(name.clone(), value.clone());
    made.push((name.clone(), value));
    Ok(())
}
