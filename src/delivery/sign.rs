//! Owns the signature of one attempt: our own, or the source's made anew.
//!
//! Promises that what is signed is what is sent (after the transform, with the method, path and headers that the
//! upstream sees), that every attempt has a fresh timestamp and the same id, that no header stands there twice, and
//! that the stored event is not touched. An upstream without `sign` costs one comparison for a fresh event.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    headers::BodyForm,
    request::{Draft, Unsent},
};
use crate::{
    clock::Timestamp,
    event::{Change, Reason, Verification},
    routing::{RESIGN_AFTER, SignPolicy, Table},
    verify::{CannotSign, Outgoing, Resigning, Sample, Signer, Verifier},
};

/// The scheme that operators describe themselves; only what is known of a provider is renewed unasked.
const HMAC_SCHEME: &str = "hmac";

/// A signature that an attempt carries.
pub(crate) struct Seal {
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What another signature of the same scheme stood in.
    removed: Vec<HeaderName>,
    /// Whether it is the source's, made anew.
    again: bool,
    /// How, and with which secret.
    pub(super) by: Verification,
}

impl Seal {
    /// Puts the signature in place of whatever had its headers.
    pub(super) fn put_on(&self, headers: &mut HeaderMap) {
        for name in &self.removed {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }
}

/// Why the source's signature is made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// The upstream says so.
    Configured,
    /// The sender's has grown old.
    Automatic,
}

impl Draft<'_> {
    /// Whether the source's signature was made anew.
    pub(super) fn is_resigned(&self) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.again)
    }

    /// Signs what is sent, if it is to be signed.
    pub(super) fn seal(&mut self, table: &Table, now: Timestamp) -> Result<(), Unsent> {
        match &self.upstream.sign {
            Some(SignPolicy::Own(signer)) => self.sign(signer, now),
            Some(SignPolicy::Source) => self.sign_again(table, Wish::Configured, now),
            None if now.since(self.job.event.received_at) > RESIGN_AFTER => {
                self.sign_again(table, Wish::Automatic, now)
            }
            Some(SignPolicy::Never) | None => Ok(()),
        }
    }

    fn sign(&mut self, signer: &Signer, now: Timestamp) -> Result<(), Unsent> {
        let (path, query) = split(&self.target);
        let id = self.job.event.id.to_ascii();
        let request = Outgoing {
            method: &self.method,
            path,
            query,
            headers: if signer.signs_headers() { self.seen_headers() } else { HeaderMap::new() },
            body: &self.body,
            id: std::str::from_utf8(&id).unwrap_or_default(),
            now,
        };
        let headers = signer.sign(request).map_err(|error| unsendable(&error))?;
        let by = Verification { scheme: signer.scheme().into(), secret: Some(signer.references().into()) };
        self.seal = Some(Seal { headers, removed: Vec::new(), again: false, by });
        Ok(())
    }

    fn sign_again(&mut self, table: &Table, wish: Wish, now: Timestamp) -> Result<(), Unsent> {
        let event = &*self.job.event;
        let Some(source) = table.source(&event.source) else { return Ok(()) };
        let verifier = &source.verifier;
        let is_changed = self.form != BodyForm::Original;
        let is_wanted = match (verifier.resigning(), wish) {
            (Resigning::Dated, Wish::Configured) => true,
            // Whoever changed the source's scheme since may have changed what the upstream checks, or not.
            (Resigning::Dated, Wish::Automatic) => {
                let scheme = verifier.scheme();
                scheme != HMAC_SCHEME && *event.verification.scheme == *scheme
            }
            (Resigning::Undated, Wish::Configured) => is_changed,
            (Resigning::Undated, Wish::Automatic) | (Resigning::Nothing | Resigning::Impossible, _) => false,
        };
        if !is_wanted {
            return Ok(());
        }
        let headers = self.seen_headers();
        let removed = verifier.signature_headers();
        // A route that takes the signature away does not want it back.
        let is_there = removed.is_empty() || removed.iter().any(|name| headers.contains_key(name));
        if wish == Wish::Automatic && !is_there {
            return Ok(());
        }
        match self.signed_again(verifier, &headers, removed, now) {
            Ok((seal, target, body)) => {
                self.seal = Some(seal);
                self.target = target.unwrap_or_else(|| self.target.clone());
                if let Some(body) = body {
                    self.body = body;
                    if self.form == BodyForm::Original {
                        self.form = BodyForm::Resigned;
                    }
                }
                Ok(())
            }
            // As it came is the best that there is.
            Err(_) if wish == Wish::Automatic => Ok(()),
            Err(error) => Err(unsendable(&error)),
        }
    }

    /// The seal, and another target and body if the scheme writes into them.
    fn signed_again(
        &self,
        verifier: &Verifier,
        headers: &HeaderMap,
        removed: Vec<HeaderName>,
        now: Timestamp,
    ) -> Result<(Seal, Option<Bytes>, Option<Bytes>), CannotSign> {
        let event = &*self.job.event;
        let (path, query) = split(&self.target);
        let id = event.id.to_ascii();
        let id = std::str::from_utf8(&id).unwrap_or_default();
        let sample = Sample { method: &self.method, path, query, headers, body: &self.body, id, now };
        let signed = verifier.sign_again(&sample)?;
        let target = (signed.query.as_deref() != query).then(|| match &signed.query {
            Some(query) => Bytes::from([path, "?", query].concat()),
            None => Bytes::copy_from_slice(path.as_bytes()),
        });
        let body = match signed.body {
            Cow::Owned(body) => Some(Bytes::from(body)),
            Cow::Borrowed(_) => None,
        };
        let secret = verifier.signing_reference().map(|reference| Box::from(&**reference));
        let by = Verification { scheme: verifier.scheme().into(), secret };
        Ok((Seal { headers: signed.headers, removed, again: true, by }, target, body))
    }

    /// The headers that the upstream sees, `Host` included.
    fn seen_headers(&self) -> HeaderMap {
        let mut headers = self.headers();
        if let Some(host) = self.host(&headers) {
            headers.insert(header::HOST, host);
        }
        headers
    }
}

/// Path and query of a target in origin form.
fn split(target: &Bytes) -> (&str, Option<&str>) {
    let target = std::str::from_utf8(target).unwrap_or_default();
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

fn unsendable(error: &CannotSign) -> Unsent {
    Unsent::Settled(Change::Die(Reason::with("unsendable", format!("it can't be signed: {error}"))))
}
