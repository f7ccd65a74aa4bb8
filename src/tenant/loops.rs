//! Owns how a request tells that it came through a relay before, and the counting of bodies that come back.
//!
//! Only requests that carry a relay's marks are looked at: equal bodies of a sender that never met a relay (heartbeats)
//! are nobody's business here. Promises a bounded table: [`SLOTS`] bodies, whatever comes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, header};

/// How many relays an attempt has come through, the sending one included.
pub const HOPS: HeaderName = HeaderName::from_static("stagepost-hops");
/// The sending relay's own mark on an attempt.
pub const ORIGIN: HeaderName = HeaderName::from_static("stagepost-origin");
/// The id of the event in the sending relay's log.
pub const EVENT_ID: HeaderName = HeaderName::from_static("stagepost-event-id");

/// What a relay calls itself in `Via`.
const NAME: &str = "stagepost";

/// Bodies that are counted at once.
pub const SLOTS: usize = 4096;

/// How many relays a request came through; None if it carries no mark of any, which costs three look-ups and no more.
#[must_use]
pub fn hops(headers: &HeaderMap) -> Option<u32> {
    let marked = headers.contains_key(&HOPS) || headers.contains_key(&EVENT_ID) || headers.contains_key(header::VIA);
    if marked { counted(headers) } else { None }
}

/// The largest of what the marks say. A number that is none counts as one relay.
fn counted(headers: &HeaderMap) -> Option<u32> {
    let said = headers.get_all(&HOPS).iter().map(|value| value.to_str().ok().and_then(|text| text.trim().parse().ok()));
    let said = said.map(|number: Option<u32>| number.unwrap_or(1).max(1)).max();
    // RFC 9110, section 7.6.3: protocol, then who received it, with commas between.
    let via = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    let via = via.flat_map(|value| value.split(','));
    let via = via.filter(|element| element.split_ascii_whitespace().nth(1) == Some(NAME)).count();
    let via = u32::try_from(via).ok().filter(|count| *count > 0);
    let bare = headers.contains_key(&EVENT_ID).then_some(1);
    said.max(via).max(bare)
}

/// Counts how often the same body came back. Takes no memory until the first one does.
#[derive(Debug, Default)]
pub struct Bounces(Mutex<Vec<Slot>>);

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    fingerprint: u128,
    since: Duration,
    count: u32,
}

impl Bounces {
    /// Counts one more of this keyed fingerprint (of source and body); how many there were in this window. A window
    /// begins with the first. Of two bodies that share a slot the one that comes more often stays.
    #[must_use]
    pub fn count(&self, fingerprint: u128, window: Duration, now: Duration) -> u32 {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(SLOTS, Slot::default());
        }
        let index = usize::try_from(fingerprint % SLOTS as u128).unwrap_or(0);
        let Some(slot) = slots.get_mut(index) else { return 0 };
        let over = now.saturating_sub(slot.since) > window;
        if slot.fingerprint == fingerprint && slot.count > 0 && !over {
            slot.count = slot.count.saturating_add(1);
            return slot.count;
        }
        slot.count = if over { 0 } else { slot.count.saturating_sub(1) };
        if slot.count == 0 {
            *slot = Slot { fingerprint, since: now, count: 1 };
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn said(headers: Headers) -> Option<u32> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        hops(&map)
    }

    #[test]
    fn hops_are_the_most_that_any_mark_says() {
        let cases: [(Headers, Option<u32>); 12] = [
            (&[], None),
            (&[("via", "1.1 edge, 1.1 varnish (stagepost)")], None),
            (&[("stagepost-attempt", "3")], None),
            (&[("via", "1.1 stagepost")], Some(1)),
            (&[("via", "1.1 stagepost, 1.1 edge"), ("via", "2 stagepost")], Some(2)),
            (&[("stagepost-hops", "7")], Some(7)),
            (&[("stagepost-hops", "7"), ("stagepost-hops", "9"), ("via", "1.1 stagepost")], Some(9)),
            (&[("stagepost-hops", "2"), ("via", "1.1 stagepost,1.1 stagepost,1.1 stagepost")], Some(3)),
            (&[("stagepost-hops", "many")], Some(1)),
            (&[("stagepost-hops", "0")], Some(1)),
            (&[("stagepost-hops", "4294967296")], Some(1)),
            (&[("stagepost-event-id", "x")], Some(1)),
        ];
        for (headers, expected) in cases {
            assert_eq!(said(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn the_same_body_is_counted_within_its_window() {
        let (bounces, window) = (Bounces::default(), Duration::from_secs(60));
        let at = Duration::from_secs;
        assert_eq!(bounces.count(7, window, at(1)), 1);
        assert_eq!(bounces.count(7, window, at(2)), 2);
        assert_eq!(bounces.count(8, window, at(2)), 1);
        assert_eq!(bounces.count(7, window, at(61)), 3);
        assert_eq!(bounces.count(7, window, at(62)), 1, "a new window");
    }

    #[test]
    fn a_flood_of_other_bodies_does_not_hide_one_that_comes_back_more_often() {
        let (bounces, window) = (Bounces::default(), Duration::from_secs(60));
        let mut most = 0;
        for round in 0..64_u128 {
            // In each round one other body falls on the same slot.
            let _others = bounces.count(5 + SLOTS as u128 * (round + 1), window, Duration::ZERO);
            most = bounces.count(5, window, Duration::ZERO).max(bounces.count(5, window, Duration::ZERO));
        }
        assert!(most > 20, "{most}");
    }
}
