//! Owns the use of kept answers: what makes two requests of a source equal, the look before an event is stored, and the
//! answer that was given before.
//!
//! Promises that nothing is looked up for a request that is not verified, and that requests with another method or of
//! another tenant are never equal, whatever the key says. A key that fails or gives nothing is no key: the request goes
//! on as if there were no cache, and is counted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    Gate,
    admit::Ask,
    cache::{Cache, Flight, Found, Key, Known},
    door::Doors,
    proxy::Passed,
    reply::ReplyBody,
};
use crate::{
    event::{Cached, EventId},
    telemetry::CacheResult,
};

/// `hit` on an answer that was given before, `miss` on one that was not.
pub(super) const CACHE: HeaderName = HeaderName::from_static("stagepost-cache");

/// What a look into the cache led to.
pub(super) enum Recalled {
    /// The answer is there.
    Hit(Arc<Cache>, Arc<Known>),
    /// The upstream is to be asked.
    Miss(Flight),
}

impl Gate {
    /// Looks for an answer that was given before; waits for one that is being asked for, for as long as a sender waits.
    /// None: the source keeps none, or the request has no key.
    pub(super) async fn consult(&self, doors: &Doors, ask: &Ask<'_>) -> Option<Recalled> {
        let policy = ask.source.cache.as_ref()?;
        let door = doors.door(ask.source)?;
        let cache = door.cache()?;
        let count = |result: CacheResult| door.metrics.cache.count(result);
        let text =
            self.evaluate(&policy.key, ask).await.ok().and_then(|output| match <[Bytes; 1]>::try_from(output.values) {
                Ok([value]) if !matches!(&value[..], b"null" | b"\"\"") => Some(value),
                _ => None,
            });
        let tenant = match &ask.source.tenants {
            None => Ok(None),
            Some(rule) => self.tenant(rule, ask).await,
        };
        let (Some(text), Ok(tenant)) = (text, tenant) else {
            count(CacheResult::NoKey);
            return None;
        };
        let (key, headers) = (key(ask.head.method.as_str(), tenant.as_deref(), &text), &ask.head.headers);
        let mut over = match cache.look(key, headers) {
            Found::Kept(known) => {
                count(CacheResult::Hit);
                return Some(Recalled::Hit(cache.clone(), known));
            }
            Found::Nothing(flight) => {
                count(CacheResult::Miss);
                return Some(Recalled::Miss(flight));
            }
            Found::Asked(over) => over,
        };
        let waiting = cache.waits();
        let ended = async { while over.changed().await.is_ok() {} };
        let _late = timeout(ask.source.reply_timeout, ended).await;
        drop(waiting);
        Some(match cache.look_again(key, headers) {
            Ok(known) => {
                count(CacheResult::Shared);
                Recalled::Hit(cache.clone(), known)
            }
            Err(flight) => {
                count(CacheResult::Miss);
                Recalled::Miss(flight)
            }
        })
    }
}

impl Recalled {
    /// What the event says of it.
    pub(super) fn noted(&self, upstream: Option<&str>) -> Option<Cached> {
        match self {
            Self::Hit(_, known) => {
                let event = known.event.map(|id| id.to_string().into());
                Some(Cached { event, upstream: upstream.map(Into::into) })
            }
            Self::Miss(_) => None,
        }
    }

    /// Passes on what the upstream answered, and keeps it.
    pub(super) fn record(
        self,
        answer: Response<Passed>,
        request: &HeaderMap,
        event: Option<EventId>,
    ) -> Response<ReplyBody> {
        match self {
            Self::Hit(cache, known) => again(&cache, &known),
            Self::Miss(flight) => missed(flight.record(answer, request, event)),
        }
    }
}

/// The answer that was given before, and how old it is (RFC 9111, section 5.1).
pub(super) fn again(cache: &Cache, known: &Known) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::from(known.body.clone()));
    *response.status_mut() = known.status;
    *response.headers_mut() = known.headers.clone();
    let age: Duration = cache.age(known);
    response.headers_mut().insert(header::AGE, age.as_secs().into());
    response.headers_mut().insert(CACHE, HeaderValue::from_static("hit"));
    response
}

/// Says that the answer was not given before.
pub(super) fn missed(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(CACHE, HeaderValue::from_static("miss"));
    response
}

/// Each part with its length, so that no two lists of parts look alike.
fn key(method: &str, tenant: Option<&str>, text: &[u8]) -> Key {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), tenant.unwrap_or_default().as_bytes(), text] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
