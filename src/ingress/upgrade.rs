//! Owns the decision whether a request is to become a WebSocket connection, and the places of those that have.
//!
//! Promises that only a verified GET over HTTP/1.1 of a source that allows it is upgraded, and that a source has at most
//! its `max` at once. Deliberately absent: the bytes, which pass between the sockets of `listen` and `delivery`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, HeaderName, Method, Version, header, request::Parts};

use super::{door::Doors, reply::Refusal};
use crate::{
    routing::Source,
    telemetry::{SourceMetrics, UpgradeMetrics},
};

/// How many connections of each source are upgraded; outlives reloads.
#[derive(Default)]
pub(super) struct Upgrades(Mutex<HashMap<Box<str>, Arc<AtomicUsize>>>);

impl Upgrades {
    pub(super) fn of(&self, source: &str) -> Arc<AtomicUsize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(source.into()).or_default().clone()
    }
}

/// A place among the upgraded connections of a source, given back when dropped.
pub struct Upgrading {
    count: Arc<AtomicUsize>,
    metrics: Arc<UpgradeMetrics>,
    /// Silence in both directions that ends it.
    pub idle_timeout: std::time::Duration,
}

impl Upgrading {
    /// What is counted of it.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<UpgradeMetrics> {
        &self.metrics
    }
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        self.metrics.now.add(-1);
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place for a request that is to become a WebSocket connection; None if it is none.
pub(super) fn place(doors: &Doors, source: &Arc<Source>, head: &Parts) -> Result<Option<Upgrading>, Refusal> {
    let Some(policy) = source.upgrade.filter(|_| asks_for_websocket(head)) else { return Ok(None) };
    let Some(door) = doors.door(source) else { return Ok(None) };
    let (count, metrics): (_, &SourceMetrics) = (door.upgrades(), &door.metrics);
    let before = count.fetch_add(1, Ordering::AcqRel);
    metrics.upgrades.now.add(1);
    let place = Upgrading { count, metrics: metrics.upgrades.clone(), idle_timeout: policy.idle_timeout };
    if before < policy.most { Ok(Some(place)) } else { Err(Refusal::Upgrades) }
}

/// RFC 6455, section 4.1.
fn asks_for_websocket(head: &Parts) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && has_word(&head.headers, &header::UPGRADE, "websocket")
        && has_word(&head.headers, &header::CONNECTION, "upgrade")
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_http_1_1_that_asks_for_it_in_both_headers_is_upgraded() {
        let asks = |method: Method, version: Version, upgrade: &str, connection: &str| {
            let request = http::Request::builder().method(method).version(version);
            let request = request.header("upgrade", upgrade).header("connection", connection);
            asks_for_websocket(&request.body(()).unwrap().into_parts().0)
        };
        let (get, new) = (Method::GET, Version::HTTP_11);
        assert!(asks(get.clone(), new, "websocket", "Upgrade"));
        assert!(asks(get.clone(), new, "h2c, WebSocket", "keep-alive, upgrade"));
        assert!(!asks(get.clone(), new, "h2c", "Upgrade") && !asks(get.clone(), new, "websocket", "close"));
        assert!(!asks(get, Version::HTTP_10, "websocket", "Upgrade"));
        assert!(!asks(Method::POST, new, "websocket", "Upgrade"));
    }
}
