//! Owns the figures of kept answers: how often one was there, and what they take.

use super::{Counter, Gauge};

/// Figures of one source's kept answers.
#[derive(Default)]
pub struct CacheMetrics {
    /// Looks, by index of [`CacheResult`].
    pub looks: [Counter; CacheResult::ALL.len()],
    /// Answers that were passed on and not kept: no 2xx, not for others, too long, or not whole.
    pub not_kept: Counter,
    /// Answers that went before their time was over, to make room.
    pub evictions: Counter,
    /// Requests that wait for the answer to an equal one.
    pub waiting: Gauge,
    /// Answers that are kept.
    pub entries: Gauge,
    /// Their bytes, and those of answers that are being recorded.
    pub bytes: Gauge,
}

impl CacheMetrics {
    /// Counts a look.
    pub fn count(&self, result: CacheResult) {
        if let Some(counter) = self.looks.get(result as usize) {
            counter.inc();
        }
    }
}

/// What a look for a kept answer led to; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// It was there.
    Hit,
    /// Another request asked for it already; it was waited for.
    Shared,
    /// It was not there.
    Miss,
    /// The request has no key.
    NoKey,
}

impl CacheResult {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 4] = [Self::Hit, Self::Shared, Self::Miss, Self::NoKey];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Shared => "shared",
            Self::Miss => "miss",
            Self::NoKey => "no_key",
        }
    }
}
