//! Tests of whole requests: what is genuine, and every way in which one is not.

mod documents;
mod paypal;
mod pubsub;
mod salesforce;
mod sns;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{KeyDocument, Reason, Wanted, testing::*};
use crate::{
    clock::Timestamp,
    verify::{Head, Refusal, Verified, Verifier},
};

/// A request as it comes.
#[derive(Clone)]
struct Request {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    fn new(headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Self { headers: map, body: body.to_vec() }
    }

    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.insert(name, HeaderValue::from_str(value).unwrap());
        changed
    }

    fn with_second(&self, name: &'static str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.append(name, HeaderValue::from_str(value).unwrap());
        changed
    }

    fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.remove(name);
        changed
    }

    fn with_body(&self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self.clone() }
    }
}

/// The verdict, with the document that is asked for; a request that asks for none gets none.
fn verdict_at(
    verifier: &Verifier,
    request: &Request,
    now: u64,
    provide: impl FnOnce(&Wanted) -> Arc<KeyDocument>,
) -> Result<Verified, Refusal> {
    let head = Head { method: &Method::POST, path: "/", query: None, headers: &request.headers };
    let mut check = verifier.begin(&head, Timestamp::from_millis(now))?;
    check.update(&request.body);
    assert!(check.needs_body());
    if let Some(wanted) = check.wants(&request.body)? {
        check.provide(provide(&wanted));
    }
    check.finish(&request.body)
}

fn verdict(verifier: &Verifier, request: &Request) -> Result<Verified, Refusal> {
    verdict_at(verifier, request, NOW_MS, |wanted| panic!("nothing is fetched: {wanted:?}"))
}

/// The certificate of a key, pinned.
fn pinned(keys: &[&str]) -> Arc<KeyDocument> {
    let authority = Authority::new("any");
    let pem: String = keys.iter().map(|key| authority.certify("sns.amazonaws.com", key, |_| {})).collect();
    Arc::new(KeyDocument::pinned_certificates("file:pinned.pem", pem.as_bytes()).unwrap())
}

/// Every text that differs from this one in a single bit.
fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

fn refused(reason: Reason) -> Result<Verified, Refusal> {
    Err(Refusal::Outside(reason))
}
