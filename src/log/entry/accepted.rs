//! Owns the `accepted` entry: a request as it was received.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Entry, Kind, Reader, VERSION, Writer, decode_carried};
use crate::{
    clock::Timestamp,
    event::{Body, Event, EventId, Extras, Proxy, Scheme, Seq, Verification},
    log::DedupeKey,
};

/// A request about to be stored, borrowed from where it was received: encoded once, copied once.
pub struct Accepting<'a> {
    /// See [`Event`] for the fields.
    pub received_at: Timestamp,
    #[expect(missing_docs, reason = "as in Event")]
    pub source: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub event_type: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub method: &'a Method,
    #[expect(missing_docs, reason = "as in Event")]
    pub scheme: Scheme,
    #[expect(missing_docs, reason = "as in Event")]
    pub path: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub query: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub headers: &'a HeaderMap,
    #[expect(missing_docs, reason = "as in Event")]
    pub client: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub proxy: Option<&'a Proxy>,
    #[expect(missing_docs, reason = "as in Event")]
    pub captures: &'a [(Box<str>, Box<str>)],
    #[expect(missing_docs, reason = "as in Event")]
    pub verification_scheme: &'a str,
    #[expect(missing_docs, reason = "as in Event")]
    pub verification_secret: Option<&'a str>,
    #[expect(missing_docs, reason = "as in Event")]
    pub config_generation: u64,
    #[expect(missing_docs, reason = "as in Event")]
    pub dedupe: Option<(u128, Timestamp, u64)>,
    #[expect(missing_docs, reason = "as in Event")]
    pub extras: Option<&'a Extras>,
    /// The pieces of the body, or None when it is appended as parts.
    pub body: Option<&'a [Bytes]>,
    /// The whole body's length in bytes.
    pub body_length: u64,
}

impl Accepting<'_> {
    /// Encodes the payload of an `accepted` entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let inline = self.body.map_or(0, |_| usize::try_from(self.body_length).unwrap_or(0));
        let mut out = Writer(Vec::with_capacity(inline + 256 + self.headers.len() * 48));
        out.number(VERSION);
        out.number(self.received_at.as_millis());
        out.text(self.source);
        out.text(self.event_type.unwrap_or(""));
        out.text(self.method.as_str());
        let extras = self.extras.filter(|extras| !extras.is_empty());
        out.number(scheme_bits(self.scheme, self.proxy) | if extras.is_some() { EXTRAS } else { 0 });
        out.text(self.path);
        out.option(self.query, |out, query| out.text(query));
        out.number(self.headers.len() as u64);
        for (name, value) in self.headers {
            out.text(name.as_str());
            out.bytes(value.as_bytes());
        }
        out.text(self.client);
        if let Some(proxy) = self.proxy {
            out.text(&proxy.address);
        }
        out.number(self.captures.len() as u64);
        for (name, value) in self.captures {
            out.text(name);
            out.text(value);
        }
        out.text(self.verification_scheme);
        out.option(self.verification_secret, |out, secret| out.text(secret));
        out.number(self.config_generation);
        out.option(self.dedupe, |out, (fingerprint, expires, body)| {
            out.0.extend_from_slice(&fingerprint.to_be_bytes());
            out.number(expires.as_millis());
            out.0.extend_from_slice(&body.to_be_bytes());
        });
        if let Some(extras) = extras {
            // Texts and numbers under fixed names always make JSON.
            out.bytes(&serde_json::to_vec(extras).unwrap_or_default());
        }
        out.number(self.body_length);
        out.number(u64::from(self.body.is_some()));
        for piece in self.body.unwrap_or_default() {
            out.0.extend_from_slice(piece);
        }
        out.0.into()
    }
}

/// In the number of the scheme: how the sender reached us …
const HTTPS: u64 = 1;
/// … whether the address of a trusted proxy follows that of the client …
const BY_PROXY: u64 = 2;
/// … how the proxy reached us …
const PROXY_HTTPS: u64 = 4;
/// … and whether extras follow the dedupe key.
const EXTRAS: u64 = 8;

fn scheme_bits(scheme: Scheme, proxy: Option<&Proxy>) -> u64 {
    let https = |scheme: Scheme, bit: u64| if scheme == Scheme::Https { bit } else { 0 };
    https(scheme, HTTPS) | proxy.map_or(0, |proxy| BY_PROXY | https(proxy.scheme, PROXY_HTTPS))
}

/// Decodes the event of an `accepted` or `carried` entry. None if it is neither, or of an unknown format.
#[must_use]
pub fn decode_event(entry: &Entry) -> Option<Event> {
    match entry.kind {
        Kind::Accepted => decode_accepted(entry.id(), &entry.payload, &entry.refs),
        Kind::Carried => {
            let carried = decode_carried(&entry.payload)?;
            decode_accepted(carried.id, &carried.accepted, &entry.refs)
        }
        _ => None,
    }
}

fn decode_accepted(id: EventId, payload: &Bytes, refs: &[Seq]) -> Option<Event> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let received_at = from.time()?;
    let source = from.text()?;
    let event_type = Some(from.text()?).filter(|text| !text.is_empty());
    let method = Method::from_bytes(&from.slice()?).ok()?;
    let bits = from.number()?;
    let scheme_of = |bit: u64| if bits & bit == 0 { Scheme::Http } else { Scheme::Https };
    let scheme = scheme_of(HTTPS);
    let path = from.text()?;
    let query = from.option(Reader::text)?;
    let count = from.count()?;
    let mut headers = HeaderMap::with_capacity(count.min(256));
    for _ in 0..count {
        let name = HeaderName::from_bytes(&from.slice()?).ok()?;
        headers.try_append(name, HeaderValue::from_maybe_shared(from.slice()?).ok()?).ok()?;
    }
    let client = from.text()?;
    let proxy = match bits & BY_PROXY {
        0 => None,
        _ => Some(Proxy { address: from.text()?, scheme: scheme_of(PROXY_HTTPS) }),
    };
    let captures = (0..from.count()?).map(|_| Some((from.text()?, from.text()?))).collect::<Option<_>>()?;
    let verification = Verification { scheme: from.text()?, secret: from.option(Reader::text)? };
    let config_generation = from.number()?;
    let dedupe = from.option(|from| {
        let fingerprint = u128::from_be_bytes(from.take(16)?.as_ref().try_into().ok()?);
        Some((fingerprint, from.time()?, u64::from_be_bytes(from.take(8)?.as_ref().try_into().ok()?)))
    })?;
    let extras = match bits & EXTRAS {
        0 => None,
        _ => Some(serde_json::from_slice(&from.slice()?).ok()?),
    };
    let length = from.number()?;
    let body = match from.number()? {
        0 => Body::Parts { seqs: refs.to_vec(), length },
        _ => Body::Inline(from.take(usize::try_from(length).ok()?)?),
    };
    Some(Event {
        id,
        received_at,
        source,
        event_type,
        method,
        scheme,
        path,
        query,
        headers,
        client,
        proxy,
        captures,
        verification,
        config_generation,
        dedupe,
        extras,
        body,
    })
}

/// The dedupe key of an `accepted` payload, without decoding the rest into an event.
#[must_use]
pub fn dedupe_of(payload: &Bytes) -> Option<DedupeKey> {
    let mut from = Reader(payload.clone());
    from.version()?;
    from.number()?;
    for _ in 0..3 {
        from.slice()?;
    }
    let bits = from.number()?;
    from.slice()?;
    from.option(Reader::slice)?;
    for _ in 0..from.count()? {
        from.slice()?;
        from.slice()?;
    }
    from.slice()?;
    if bits & BY_PROXY != 0 {
        from.slice()?;
    }
    for _ in 0..from.count()? {
        from.slice()?;
        from.slice()?;
    }
    from.slice()?;
    from.option(Reader::slice)?;
    from.number()?;
    from.option(|from| {
        let fingerprint = u128::from_be_bytes(from.take(16)?.as_ref().try_into().ok()?);
        let expires_at = from.time()?;
        let body = u64::from_be_bytes(from.take(8)?.as_ref().try_into().ok()?);
        Some(DedupeKey { fingerprint, expires_at, body, runs_version: 0 })
    })?
}
