//! Owns the recipe by which a request is checked: which keys, what is signed, how the signature header and the
//! timestamp are read. A plan or the settings of the `hmac` scheme become one; a new provider is new data, not new code.
//!
//! Promises that the header and the timestamp are judged before the body is read, that every key is tried whatever
//! the others said, and that what is signed is taken as received: nothing is decoded, trimmed or normalised but what
//! the plan says. A body is hashed as it comes; only public keys and a timestamp inside the body need it whole.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{
    Head, Refusal, Secret, Verified,
    grammar::{Kind, SignatureRule, Signatures},
    headers::only,
    json,
    mac::Mac,
    public::PublicKey,
    timestamp::{Place, TimestampRule},
    url::PublicUrl,
};
use crate::clock::Timestamp;

/// The longest id that a preset takes in a signed header, in bytes.
const ID_BYTES_MAX: usize = 256;

/// How one source's requests are checked.
pub(super) struct Recipe {
    pub(super) scheme: &'static str,
    pub(super) keys: Box<[Key]>,
    pub(super) signature: SignatureRule,
    pub(super) timestamp: Option<TimestampRule>,
    /// Signed before the body.
    pub(super) before: Box<[Piece]>,
    /// Signed after the body.
    pub(super) after: Box<[Piece]>,
    /// Where pieces speak of the URL.
    pub(super) url: Option<PublicUrl>,
    /// What holds if the request has none of the recipe's own headers: the same with other header names.
    pub(super) fallback: Option<Arc<Recipe>>,
}

/// A key that may have signed.
pub(super) struct Key {
    pub(super) reference: Arc<str>,
    pub(super) checker: Checker,
    /// As it was configured: for explaining why something does not match.
    pub(super) secret: Secret,
}

/// How a key checks.
#[derive(Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and a few of them live as long as a source"
)]
pub(super) enum Checker {
    /// The key is already worked into a state.
    Mac(Mac),
    /// A signature over the whole message.
    Public(PublicKey),
    /// The secret itself is presented: the SHA-256 of what is expected, and the secret for making samples.
    Equal([u8; 32], Secret),
}

/// A piece of what is signed.
#[derive(Clone)]
pub(super) enum Piece {
    Literal(Box<[u8]>),
    Field(Field),
}

/// Something of the request that is signed.
#[derive(Clone)]
pub(super) enum Field {
    Timestamp,
    Header(HeaderName),
    /// A header that holds an id: see [`is_id`].
    Id(HeaderName),
    Method,
    Path,
    Query,
    Url,
    HubSpotUrl,
}

/// A check under way. Without a suffix and with one HMAC key it allocates nothing.
pub(super) struct Running {
    recipe: Arc<Recipe>,
    signatures: Signatures,
    skew_ms: Option<i64>,
    now: Timestamp,
    /// One for each HMAC key, in their order.
    first: Option<Mac>,
    others: Vec<Mac>,
    /// What stands before the body, if a public key needs the message whole.
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

/// What the head alone says.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, and boxing it would cost each request")]
pub(super) enum Begun {
    /// The request is genuine whatever its body is: the scheme signs nothing.
    Decided(Verified),
    /// The body decides.
    Running(Running),
}

impl Recipe {
    /// Judges the head and begins to hash.
    pub(super) fn begin(self: &Arc<Self>, head: &Head<'_>, now: Timestamp) -> Result<Begun, Refusal> {
        if let Some(fallback) = &self.fallback
            && !self.speaks(head.headers)
        {
            return fallback.begin(head, now);
        }
        let presented = self.signature.read(head.headers)?;
        let timestamp = match &self.timestamp {
            Some(rule) if !self.reads_timestamp_in_body() => {
                let text = rule.text(head.headers, presented.timestamp)?;
                Some((text, rule.check(text, now)?))
            }
            _ => None,
        };
        let mut macs = self.keys.iter().filter_map(|key| match &key.checker {
            Checker::Mac(mac) => Some(mac.clone()),
            Checker::Public(_) | Checker::Equal(..) => None,
        });
        let mut running = Running {
            recipe: self.clone(),
            signatures: presented.signatures,
            skew_ms: timestamp.map(|(_, skew)| skew),
            now,
            first: macs.next(),
            others: macs.collect(),
            prefix: Vec::new(),
            suffix: Vec::new(),
        };
        if self.signs_nothing() {
            return running.finish(&[]).map(Begun::Decided);
        }
        let whole = self.has_public_key();
        for piece in &self.before {
            let bytes = self.bytes_of(piece, head, timestamp.map(|(text, _)| text))?;
            running.update(&bytes);
            if whole {
                running.prefix.extend_from_slice(&bytes);
            }
        }
        for piece in &self.after {
            running.suffix.extend_from_slice(&self.bytes_of(piece, head, timestamp.map(|(text, _)| text))?);
        }
        Ok(Begun::Running(running))
    }

    /// Whether the request has any of the headers that this recipe is about. A header of one set of names beside a
    /// signature of the other would be believed by a dedupe rule that knows both, and signed by nobody.
    pub(super) fn speaks(&self, headers: &HeaderMap) -> bool {
        let signed = self.before.iter().chain(&self.after).any(|piece| match piece {
            Piece::Field(Field::Header(name) | Field::Id(name)) => headers.contains_key(name),
            _ => false,
        });
        let stamped = self.timestamp.as_ref().and_then(TimestampRule::header);
        signed || self.signature.is_present(headers) || stamped.is_some_and(|name| headers.contains_key(name))
    }

    /// Whether the verdict needs the body in one piece.
    pub(super) fn needs_body(&self) -> bool {
        self.has_public_key() || self.reads_timestamp_in_body()
    }

    fn has_public_key(&self) -> bool {
        self.keys.iter().any(|key| matches!(key.checker, Checker::Public(_)))
    }

    /// Whether the secret itself is presented.
    pub(super) fn signs_nothing(&self) -> bool {
        self.keys.iter().all(|key| matches!(key.checker, Checker::Equal(..)))
    }

    fn reads_timestamp_in_body(&self) -> bool {
        self.timestamp.as_ref().is_some_and(|rule| matches!(rule.place, Place::Json(_)))
    }

    /// The bytes that a piece stands for.
    pub(super) fn bytes_of<'a>(
        &'a self,
        piece: &'a Piece,
        head: &Head<'a>,
        timestamp: Option<&'a [u8]>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        let field = match piece {
            Piece::Literal(bytes) => return Ok(Cow::Borrowed(bytes)),
            Piece::Field(field) => field,
        };
        match field {
            Field::Method => Ok(Cow::Borrowed(head.method.as_str().as_bytes())),
            Field::Path => Ok(Cow::Borrowed(head.path.as_bytes())),
            Field::Query => Ok(Cow::Borrowed(head.query.unwrap_or_default().as_bytes())),
            Field::Header(name) => {
                only(head.headers, name).map(Cow::Borrowed).map_err(|_| Refusal::MalformedSignedHeader)
            }
            Field::Id(name) => {
                let id = only(head.headers, name).ok().filter(|id| is_id(id));
                id.map(Cow::Borrowed).ok_or(Refusal::MalformedSignedHeader)
            }
            Field::Timestamp => timestamp.map(Cow::Borrowed).ok_or(Refusal::MalformedTimestamp),
            // A recipe that speaks of the URL is not made without one.
            Field::Url => {
                let url = self.url.as_ref().ok_or(Refusal::BadSignature)?;
                Ok(Cow::Owned(url.of(head).into_bytes()))
            }
            Field::HubSpotUrl => {
                let url = self.url.as_ref().ok_or(Refusal::BadSignature)?;
                Ok(Cow::Owned(url.hubspot(head).into_bytes()))
            }
        }
    }
}

/// Whether a header holds what providers make ids of. Ids stand before the body in what is signed, with at most a full
/// stop between: could they hold what bodies are made of, the beginning of a body might be moved into the id, and one
/// signature would hold for two requests.
fn is_id(text: &[u8]) -> bool {
    text.len() <= ID_BYTES_MAX && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/~@|".contains(byte))
}

impl Running {
    pub(super) fn update(&mut self, piece: &[u8]) {
        if let Some(mac) = &mut self.first {
            mac.update(piece);
        }
        for mac in &mut self.others {
            mac.update(piece);
        }
    }

    /// Whether the verdict needs the body in one piece.
    pub(super) fn needs_body(&self) -> bool {
        self.recipe.needs_body()
    }

    /// The verdict. Every key is compared with every signature; the first key that matches is named.
    pub(super) fn finish(mut self, body: &[u8]) -> Result<Verified, Refusal> {
        if !self.suffix.is_empty() {
            let suffix = std::mem::take(&mut self.suffix);
            self.update(&suffix);
            self.suffix = suffix;
        }
        let message = match self.recipe.has_public_key() {
            true => [&self.prefix, body, &self.suffix].concat(),
            false => Vec::new(),
        };
        let mut macs = self.first.into_iter().chain(self.others);
        let mut matched = u32::MAX;
        let mut open = Choice::from(1);
        for (index, key) in (0_u32..).zip(&self.recipe.keys) {
            let same = match &key.checker {
                Checker::Mac(_) => macs.next().map_or(Choice::from(0), |mac| {
                    let tag = mac.finish();
                    self.signatures.any(Kind::Mac, |signature| tag.as_slice().ct_eq(signature))
                }),
                Checker::Equal(digest, _) => {
                    self.signatures.any(Kind::Mac, |presented| digest.as_slice().ct_eq(presented))
                }
                Checker::Public(public) => self
                    .signatures
                    .any(Kind::Public, |signature| Choice::from(u8::from(public.verifies(&message, signature)))),
            };
            matched.conditional_assign(&index, same & open);
            open &= !same;
        }
        let key = usize::try_from(matched).ok().and_then(|index| self.recipe.keys.get(index));
        let key = key.ok_or(match self.recipe.signs_nothing() {
            true => Refusal::BadCredentials,
            false => Refusal::BadSignature,
        })?;
        let mut skew_ms = self.skew_ms;
        if let Some(rule @ TimestampRule { place: Place::Json(path), .. }) = &self.recipe.timestamp {
            let text = json::scalar(body, path).ok_or(Refusal::MalformedTimestamp)?;
            skew_ms = Some(rule.check(text.as_bytes(), self.now)?);
        }
        Ok(Verified { scheme: self.recipe.scheme, secret: Some(key.reference.clone()), skew_ms })
    }
}

impl Signatures {
    /// Whether any signature of a kind is the one, each looked at whatever the others were.
    pub(super) fn any(&self, kind: Kind, same: impl Fn(&[u8]) -> Choice) -> Choice {
        self.iter()
            .filter(|signature| signature.kind == kind)
            .fold(Choice::from(0), |found, signature| found | same(signature.as_slice()))
    }
}
