//! Owns the recipe by which a request is checked, as data: which keys, what is signed, how the signature header and
//! the timestamp are read. A new provider is a new recipe, not new code.
//!
//! Promises that the header and the timestamp are judged before the body is read, that every key is tried whatever
//! the others said, and that what is signed is taken as received: nothing is decoded, trimmed or normalised.

use std::sync::Arc;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName};
use subtle::ConditionallySelectable as _;

use super::{
    Encoding, Head, Refusal, TimestampUnit, Verified,
    mac::{Mac, SIGNATURE_BYTES_MAX},
};
use crate::clock::Timestamp;

/// Canonical base64 (no stray bits at the end), with or without padding.
const BASE64_RULES: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, BASE64_RULES);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, BASE64_RULES);

/// How one source's requests are checked.
pub(super) struct Recipe {
    pub(super) scheme: &'static str,
    pub(super) keys: Box<[Key]>,
    pub(super) signature: SignatureHeader,
    pub(super) timestamp: Option<TimestampRule>,
    /// Signed before the body.
    pub(super) before: Box<[Piece]>,
    /// Signed after the body.
    pub(super) after: Box<[Piece]>,
}

/// A key that may have signed, already worked into a state.
pub(super) struct Key {
    pub(super) reference: Arc<str>,
    pub(super) mac: Mac,
}

/// How the signature header is read: the prefix, then one signature.
pub(super) struct SignatureHeader {
    pub(super) name: HeaderName,
    pub(super) prefix: Box<[u8]>,
    pub(super) encoding: Encoding,
    /// In bytes, decoded.
    pub(super) length: usize,
}

/// How fresh a request must be.
pub(super) struct TimestampRule {
    pub(super) header: HeaderName,
    pub(super) unit: TimestampUnit,
    pub(super) tolerance_ms: u64,
}

/// A piece of what is signed.
pub(super) enum Piece {
    Literal(Box<[u8]>),
    Field(Field),
}

/// Something of the request that is signed.
pub(super) enum Field {
    Timestamp,
    Header(HeaderName),
    Method,
    Path,
    Query,
}

/// A check under way. Without a suffix and with one key it allocates nothing.
pub(super) struct Running {
    recipe: Arc<Recipe>,
    signature: Signature,
    skew_ms: Option<i64>,
    first: Mac,
    others: Vec<Mac>,
    suffix: Vec<u8>,
}

impl Recipe {
    /// Judges the head and begins to hash.
    pub(super) fn begin(self: &Arc<Self>, head: &Head<'_>, now: Timestamp) -> Result<Running, Refusal> {
        let signature = self.signature.read(head.headers)?;
        let skew_ms = self.timestamp.as_ref().map(|rule| rule.check(head.headers, now)).transpose()?;
        // The settings refuse a recipe without keys; if there were none, nothing could be genuine.
        let Some((first, others)) = self.keys.split_first() else { return Err(Refusal::BadSignature) };
        let mut running = Running {
            recipe: self.clone(),
            signature,
            skew_ms,
            first: first.mac.clone(),
            others: others.iter().map(|key| key.mac.clone()).collect(),
            suffix: Vec::new(),
        };
        for piece in &self.before {
            running.update(self.bytes_of(piece, head)?);
        }
        for piece in &self.after {
            running.suffix.extend_from_slice(self.bytes_of(piece, head)?);
        }
        Ok(running)
    }

    fn bytes_of<'a>(&'a self, piece: &'a Piece, head: &Head<'a>) -> Result<&'a [u8], Refusal> {
        match piece {
            Piece::Literal(bytes) => Ok(bytes),
            Piece::Field(Field::Method) => Ok(head.method.as_str().as_bytes()),
            Piece::Field(Field::Path) => Ok(head.path.as_bytes()),
            Piece::Field(Field::Query) => Ok(head.query.unwrap_or_default().as_bytes()),
            Piece::Field(Field::Header(name)) => only(head.headers, name).map_err(|_| Refusal::MalformedSignedHeader),
            Piece::Field(Field::Timestamp) => {
                let rule = self.timestamp.as_ref().ok_or(Refusal::MalformedTimestamp)?;
                only(head.headers, &rule.header).map_err(|_| Refusal::MalformedTimestamp)
            }
        }
    }
}

impl Running {
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.first.update(piece);
        for mac in &mut self.others {
            mac.update(piece);
        }
    }

    /// The verdict. Every key is compared; the first that matches is named.
    pub(super) fn finish(mut self) -> Result<Verified, Refusal> {
        if !self.suffix.is_empty() {
            let suffix = std::mem::take(&mut self.suffix);
            self.update(&suffix);
        }
        let mut matched = u32::MAX;
        let mut open = subtle::Choice::from(1);
        for (index, mac) in (0_u32..).zip(std::iter::once(self.first).chain(self.others)) {
            let same = mac.equals(self.signature.as_slice());
            matched.conditional_assign(&index, same & open);
            open &= !same;
        }
        let key = usize::try_from(matched).ok().and_then(|index| self.recipe.keys.get(index));
        let key = key.ok_or(Refusal::BadSignature)?;
        Ok(Verified { scheme: self.recipe.scheme, secret: Some(key.reference.clone()), skew_ms: self.skew_ms })
    }
}

/// A decoded signature.
struct Signature {
    bytes: [u8; SIGNATURE_BYTES_MAX],
    length: usize,
}

impl Signature {
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl SignatureHeader {
    fn read(&self, headers: &HeaderMap) -> Result<Signature, Refusal> {
        let value = only(headers, &self.name).map_err(|absent| match absent {
            NotOne::Missing => Refusal::MissingSignature,
            NotOne::Repeated => Refusal::DuplicatedSignature,
        })?;
        value
            .strip_prefix(&*self.prefix)
            .and_then(|text| decode(self.encoding, text, self.length))
            .ok_or(Refusal::MalformedSignature)
    }
}

/// Decodes a signature of exactly `length` bytes.
fn decode(encoding: Encoding, text: &[u8], length: usize) -> Option<Signature> {
    // Base64 decodes in blocks, so it wants a little more room than it fills.
    let mut room = [0; SIGNATURE_BYTES_MAX + 8];
    let decoded = match encoding {
        Encoding::Hex => hex::decode_to_slice(text, room.get_mut(..length)?).ok().map(|()| length),
        Encoding::Base64 => BASE64.decode_slice(text, &mut room).ok(),
        Encoding::Base64Url => BASE64_URL.decode_slice(text, &mut room).ok(),
    };
    let bytes = *room.first_chunk()?;
    (decoded == Some(length)).then_some(Signature { bytes, length })
}

impl TimestampRule {
    /// The sender's time minus ours in milliseconds, if it is within the tolerance.
    fn check(&self, headers: &HeaderMap, now: Timestamp) -> Result<i64, Refusal> {
        let text = only(headers, &self.header).map_err(|_| Refusal::MalformedTimestamp)?;
        let number = digits(text).ok_or(Refusal::MalformedTimestamp)?;
        let sent_ms = match self.unit {
            TimestampUnit::Seconds => number.saturating_mul(1000),
            TimestampUnit::Milliseconds => number,
        };
        let now_ms = now.as_millis();
        match sent_ms.abs_diff(now_ms) <= self.tolerance_ms {
            true => Ok(i64::try_from(i128::from(sent_ms) - i128::from(now_ms)).unwrap_or(i64::MAX)),
            false if sent_ms < now_ms => Err(Refusal::Stale),
            false => Err(Refusal::Future),
        }
    }
}

/// A plain decimal number: digits only, no sign, no space.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

enum NotOne {
    Missing,
    Repeated,
}

/// The value of a header that must stand there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a [u8], NotOne> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        (Some(_), Some(_)) => Err(NotOne::Repeated),
        (None, _) => Err(NotOne::Missing),
    }
}
