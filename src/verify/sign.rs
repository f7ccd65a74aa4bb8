//! Owns the other direction: making a request that a verifier takes, as its provider would. For samples, and for
//! upstreams that check the provider's signature themselves and are served late.
//!
//! Promises that what is made is taken by the same verifier at the same time. Deliberately absent: schemes whose keys are
//! public here; nobody but the provider can sign for those.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    Encoding, Head, Kind, Verifier,
    grammar::{Grammar, Written},
    recipe::{Checker, Field, Piece, Recipe},
    timestamp::Place,
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
pub struct Signed {
    /// The sample's, with the secret in it if that is the scheme.
    pub path: String,
    /// The sample's, with what the scheme adds.
    pub query: Option<String>,
    /// To be set besides the sample's own, each in place of one of the same name. Secrets are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The sample's, with what the scheme writes into it.
    pub body: Bytes,
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
    pub(super) fn with_headers(&self, headers: Vec<(HeaderName, HeaderValue)>) -> Signed {
        Signed {
            path: self.path.to_owned(),
            query: self.query.map(str::to_owned),
            headers,
            body: Bytes::copy_from_slice(self.body),
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
    pub fn sign(&self, sample: &Sample<'_>) -> Result<Signed, CannotSign> {
        match &self.0 {
            Kind::Open(_) => Ok(sample.with_headers(Vec::new())),
            Kind::Recipe(recipe) => recipe.sign(sample),
            Kind::Special(special) => special.sign(sample),
        }
    }
}

impl Recipe {
    fn sign(&self, sample: &Sample<'_>) -> Result<Signed, CannotSign> {
        let able = self.keys.iter().find(|key| !matches!(key.checker, Checker::Public(_)));
        let key = able.ok_or(CannotSign::PrivateKey(self.scheme))?;
        let mut made = Vec::new();
        let mut headers = sample.headers.clone();
        let mut body = Bytes::copy_from_slice(sample.body);
        let mut stamp = None;
        if let Some(rule) = &self.timestamp {
            let text = rule.unit.write(sample.now);
            match &rule.place {
                Place::Header(name) => set(&mut made, &mut headers, name, text.as_bytes(), false)?,
                Place::SignatureField => {}
                Place::Json(path) => body = with_number(self.scheme, sample.body, path, &text)?,
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

/// The body with a number at the end of a path of members.
fn with_number(scheme: &'static str, body: &[u8], path: &[&str], digits: &str) -> Result<Bytes, CannotSign> {
    let refused = || CannotSign::Body(scheme, "a JSON object");
    let mut whole: serde_json::Value = serde_json::from_slice(body).map_err(|_| refused())?;
    let mut at = &mut whole;
    for name in path {
        at = at.as_object_mut().ok_or_else(refused)?.entry(*name).or_insert_with(|| serde_json::json!({}));
    }
    *at = serde_json::from_str(digits).map_err(|_| refused())?;
    Ok(whole.to_string().into())
}

/// An object that a scheme writes into.
pub(super) fn object(scheme: &'static str, body: &[u8]) -> Result<serde_json::Value, CannotSign> {
    let whole: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match whole.is_object() {
        true => Ok(whole),
        false => Err(CannotSign::Body(scheme, "a JSON object")),
    }
}
