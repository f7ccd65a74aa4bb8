//! Owns how signature headers are read: one signature after a prefix, pairs of key and value, versioned lists, families
//! of numbered headers.
//!
//! Promises that a header that stands there twice is refused, that a signature is decoded in one way only, that unknown
//! versions and keys are skipped, and that no more than [`SIGNATURES_MAX`] signatures are looked at.

use std::ops::RangeInclusive;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};

use super::{
    Encoding, Refusal,
    headers::{NotOne, only},
};

/// Canonical base64 (no stray bits at the end), with or without padding.
const BASE64_RULES: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, BASE64_RULES);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, BASE64_RULES);

/// The most signatures of one request: senders that rotate keys sign with each of them.
pub const SIGNATURES_MAX: usize = 16;

/// The longest signature of any scheme here, in bytes: ECDSA over P-256 in DER has at most 72.
const SIGNATURE_BYTES_MAX: usize = 72;

/// The length of what is compared if the secret itself is presented: its SHA-256.
pub(super) const DIGEST_BYTES: usize = 32;

/// Where signatures stand and how they are read.
#[derive(Clone)]
pub(super) struct SignatureRule {
    /// The first header; a family has others.
    pub(super) name: HeaderName,
    pub(super) grammar: Grammar,
    pub(super) encoding: Written,
    /// How long the signatures of HMAC keys are, in bytes.
    pub(super) mac_bytes: usize,
    /// How long those that public keys check are.
    pub(super) public_bytes: RangeInclusive<usize>,
}

/// How the header is read.
#[derive(Clone)]
pub(super) enum Grammar {
    Whole { prefix: Box<[u8]>, kind: Kind },
    Pairs { separator: u8, wanted: Box<[u8]>, timestamp: Option<Box<[u8]>> },
    Versions { mac: Box<[u8]>, public: Box<[u8]> },
    Family { others: Box<[HeaderName]> },
}

/// Which keys a signature may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mac,
    Public,
}

/// How one signature is written.
#[derive(Clone, Copy)]
pub(super) enum Written {
    Encoded(Encoding),
    /// Hex in lower case alone.
    LowerHex,
    /// The secret itself: compared by its hash, so that not even its length shows.
    Plain,
    /// The secret itself, base64.
    PlainBase64,
}

/// What the head presents.
pub(super) struct Presented<'h> {
    pub(super) signatures: Signatures,
    /// The timestamp, if it stands in the signature header.
    pub(super) timestamp: Option<&'h [u8]>,
}

/// One signature or more. One costs no allocation.
pub(super) struct Signatures {
    first: Signature,
    others: Vec<Signature>,
}

/// A decoded signature.
pub(super) struct Signature {
    pub(super) kind: Kind,
    bytes: [u8; SIGNATURE_BYTES_MAX],
    length: usize,
}

impl Signature {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Signatures {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Signature> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Collects signatures up to the limit.
#[derive(Default)]
struct Found {
    first: Option<Signature>,
    others: Vec<Signature>,
}

impl Found {
    fn push(&mut self, signature: Signature) -> Result<(), Refusal> {
        if self.first.is_none() {
            self.first = Some(signature);
        } else if self.others.len() + 1 < SIGNATURES_MAX {
            self.others.push(signature);
        } else {
            return Err(Refusal::MalformedSignature);
        }
        Ok(())
    }

    fn signatures(self) -> Result<Signatures, Refusal> {
        let first = self.first.ok_or(Refusal::MalformedSignature)?;
        Ok(Signatures { first, others: self.others })
    }
}

impl SignatureRule {
    /// Whether the request has the header at all.
    pub(super) fn is_present(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(&self.name)
    }

    /// Every header of a family that is there; the first may be missing, since keys are removed one by one.
    fn read_family(&self, headers: &HeaderMap, others: &[HeaderName]) -> Result<Signatures, Refusal> {
        let mut found = Found::default();
        let mut is_missing = true;
        for name in std::iter::once(&self.name).chain(others).filter(|name| headers.contains_key(*name)) {
            is_missing = false;
            let signature = self.decode(Kind::Mac, one(headers, name)?);
            signature.map(|signature| found.push(signature)).transpose()?;
        }
        if is_missing { Err(Refusal::MissingSignature) } else { found.signatures() }
    }

    pub(super) fn read<'h>(&self, headers: &'h HeaderMap) -> Result<Presented<'h>, Refusal> {
        let value = || one(headers, &self.name);
        let mut timestamp = None;
        let signatures = match &self.grammar {
            Grammar::Whole { prefix, kind } => {
                let text = self.without_prefix(value()?, prefix).ok_or(Refusal::MalformedSignature)?;
                let first = self.decode(*kind, text).ok_or(Refusal::MalformedSignature)?;
                Signatures { first, others: Vec::new() }
            }
            Grammar::Pairs { separator, wanted, timestamp: key } => {
                let mut found = Found::default();
                for (name, text) in pairs(value()?, *separator, b'=') {
                    if *name == **wanted {
                        self.decode(Kind::Mac, text).map(|signature| found.push(signature)).transpose()?;
                    } else if key.as_ref().is_some_and(|key| **key == *name) && timestamp.replace(text).is_some() {
                        return Err(Refusal::MalformedTimestamp);
                    }
                }
                found.signatures()?
            }
            Grammar::Versions { mac, public } => {
                let mut found = Found::default();
                for (version, text) in pairs(value()?, b' ', b',') {
                    let kind = match version {
                        _ if *version == **mac => Kind::Mac,
                        _ if *version == **public => Kind::Public,
                        _ => continue,
                    };
                    self.decode(kind, text).map(|signature| found.push(signature)).transpose()?;
                }
                found.signatures()?
            }
            Grammar::Family { others } => self.read_family(headers, others)?,
        };
        Ok(Presented { signatures, timestamp })
    }

    /// The names of authentication schemes have no case (RFC 9110, section 11.1); prefixes of signatures do.
    fn without_prefix<'v>(&self, value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
        let (start, rest) = value.split_at_checked(prefix.len())?;
        let same = match self.encoding {
            Written::Plain | Written::PlainBase64 => start.eq_ignore_ascii_case(prefix),
            Written::Encoded(_) | Written::LowerHex => start == prefix,
        };
        same.then_some(rest)
    }

    /// Decodes one signature of the length that its kind has.
    pub(super) fn decode(&self, kind: Kind, text: &[u8]) -> Option<Signature> {
        let fits = |length: usize| match kind {
            Kind::Mac => length == self.mac_bytes,
            Kind::Public => self.public_bytes.contains(&length),
        };
        // Base64 decodes in blocks, so it wants a little more room than it fills.
        let mut room = [0; SIGNATURE_BYTES_MAX + 8];
        let length = match self.encoding {
            Written::LowerHex if text.iter().any(u8::is_ascii_uppercase) => return None,
            Written::Encoded(Encoding::Hex) | Written::LowerHex => {
                let length = text.len() / 2;
                hex::decode_to_slice(text, room.get_mut(..length)?).ok().map(|()| length)?
            }
            Written::Encoded(Encoding::Base64) => BASE64.decode_slice(text, &mut room).ok()?,
            Written::Encoded(Encoding::Base64Url) => BASE64_URL.decode_slice(text, &mut room).ok()?,
            Written::Plain => digest(text, &mut room)?,
            Written::PlainBase64 => digest(&BASE64.decode(text).ok()?, &mut room)?,
        };
        let bytes = *room.first_chunk()?;
        fits(length).then_some(Signature { kind, bytes, length })
    }
}

fn digest(secret: &[u8], room: &mut [u8]) -> Option<usize> {
    room.first_chunk_mut::<DIGEST_BYTES>()?.copy_from_slice(&Sha256::digest(secret));
    Some(DIGEST_BYTES)
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], Refusal> {
    only(headers, name).map_err(|not_one| match not_one {
        NotOne::Missing => Refusal::MissingSignature,
        NotOne::Repeated => Refusal::DuplicatedSignature,
    })
}

/// The items of a list that have a name, which ends at the first `between`; spaces around items don't count.
fn pairs(value: &[u8], separator: u8, between: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(move |byte| *byte == separator).filter_map(move |item| {
        let item = item.trim_ascii();
        let at = item.iter().position(|byte| *byte == between)?;
        let (name, rest) = item.split_at_checked(at)?;
        Some((name, rest.get(1..)?))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn rule(grammar: Grammar) -> SignatureRule {
        let encoding = Written::Encoded(Encoding::Hex);
        SignatureRule { name: HeaderName::from_static("s"), grammar, encoding, mac_bytes: 2, public_bytes: 3..=4 }
    }

    fn read(rule: &SignatureRule, value: &str) -> Result<(Vec<String>, Option<String>), Refusal> {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("s"), HeaderValue::from_str(value).unwrap())]);
        let presented = rule.read(&headers)?;
        let signatures = presented.signatures.iter().map(|found| hex::encode(found.as_slice())).collect();
        Ok((signatures, presented.timestamp.map(|text| String::from_utf8(text.to_vec()).unwrap())))
    }

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn pairs_give_all_wanted_signatures_and_one_timestamp_and_skip_the_rest() {
        let rule =
            rule(Grammar::Pairs { separator: b',', wanted: b"v1".as_slice().into(), timestamp: Some((*b"t").into()) });
        let at = Some("7".to_owned());
        assert_eq!(read(&rule, "t=7,v1=aaaa,v0=bbbb,v1=cccc"), Ok((list(&["aaaa", "cccc"]), at.clone())));
        assert_eq!(read(&rule, "v1=aaaa, t=7 ,,x"), Ok((list(&["aaaa"]), at.clone())));
        assert_eq!(read(&rule, "t=7,v1=zz,v1=aaaa"), Ok((list(&["aaaa"]), at)));
        assert_eq!(read(&rule, "v1=aaaa"), Ok((list(&["aaaa"]), None)));
        assert_eq!(read(&rule, "t=7=8,v1=aaaa"), Ok((list(&["aaaa"]), Some("7=8".to_owned()))));
        assert_eq!(read(&rule, "t=7,t=7,v1=aaaa"), Err(Refusal::MalformedTimestamp));
        for value in ["", "t=7", "t=7,v0=aaaa", "t=7,v1", "t=7,v1=aaaaaa", "t=7,V1=aaaa"] {
            assert_eq!(read(&rule, value), Err(Refusal::MalformedSignature), "{value:?}");
        }
    }

    #[test]
    fn versions_are_told_apart_and_unknown_ones_skipped() {
        let rule = rule(Grammar::Versions { mac: b"v1".as_slice().into(), public: b"v1a".as_slice().into() });
        assert_eq!(read(&rule, "v2,aaaa v1,bbbb v1a,cccccc").unwrap().0, list(&["bbbb", "cccccc"]));
        for value in ["", "aaaa", "v2,aaaa", "v1 aaaa", "v1,aaaaaa", "v1a,aaaa", "v1=aaaa"] {
            assert_eq!(read(&rule, value), Err(Refusal::MalformedSignature), "{value:?}");
        }
    }

    #[test]
    fn more_signatures_than_the_limit_are_refused() {
        let rule = rule(Grammar::Versions { mac: b"v1".as_slice().into(), public: b"v1a".as_slice().into() });
        let many = |count: usize| vec!["v1,aaaa"; count].join(" ");
        assert_eq!(read(&rule, &many(SIGNATURES_MAX)).unwrap().0.len(), SIGNATURES_MAX);
        assert_eq!(read(&rule, &many(SIGNATURES_MAX + 1)), Err(Refusal::MalformedSignature));
    }
}
