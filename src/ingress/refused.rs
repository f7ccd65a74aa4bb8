//! Owns the memory of refused requests: the last 1,000, for operators who ask why something did not arrive.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::clock::Timestamp;

/// How many are kept; the oldest goes first.
pub const REFUSED_MAX: usize = 1_000;

/// The longest path that is kept, in bytes.
pub(super) const PATH_BYTES_MAX: usize = 256;

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// Counts refusals since the process started, from 1; set when it is recorded.
    pub number: u64,
    /// Wall time.
    pub at: Timestamp,
    /// Why, in one word: for operators, never for the sender.
    pub reason: &'static str,
    /// The answer's status.
    pub status: u16,
    /// The source, if one was found.
    pub source: Option<Arc<str>>,
    /// The client's address, or `unix`.
    pub client: Arc<str>,
    /// The method; empty if the request could not be parsed.
    pub method: Box<str>,
    /// The beginning of the path, at most 256 bytes.
    pub path: Box<str>,
    /// Bytes of the body that were read.
    pub size: u64,
}

/// The last refused requests. Touched on refusals only.
#[derive(Default)]
pub struct Refused(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    last: u64,
    kept: VecDeque<RefusedRequest>,
}

impl Refused {
    /// Records one; the oldest makes room.
    pub fn record(&self, mut request: RefusedRequest) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        request.number = ring.last;
        if ring.kept.len() == REFUSED_MAX {
            ring.kept.pop_front();
        }
        ring.kept.push_back(request);
    }

    /// Those after a number, oldest first; 0 gives all that are kept. Follow by asking again with the last number.
    #[must_use]
    pub fn after(&self, number: u64) -> Vec<RefusedRequest> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.kept.iter().filter(|request| request.number > number).cloned().collect()
    }
}

/// The beginning of a text, cut at a character.
pub(super) fn cut(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(PATH_BYTES_MAX)).unwrap_or(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_refusals_are_kept_and_can_be_followed() {
        let refused = Refused::default();
        let request = RefusedRequest {
            number: 0,
            at: Timestamp::ZERO,
            reason: "not_found",
            status: 404,
            source: None,
            client: "192.0.2.1".into(),
            method: "POST".into(),
            path: cut(&"é".repeat(200)),
            size: 0,
        };
        assert_eq!(request.path.len(), 256);
        for _ in 0..1_005 {
            refused.record(request.clone());
        }
        let all = refused.after(0);
        assert_eq!((all.len(), all[0].number, all[999].number), (1_000, 6, 1_005));
        assert_eq!(refused.after(1_004).len(), 1);
        assert!(refused.after(1_005).is_empty());
    }
}
