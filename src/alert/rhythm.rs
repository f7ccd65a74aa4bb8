//! Owns a source's rhythm: how long it is usually silent, and for how long it is now.
//!
//! What is usual is the longest silence of each day, for [`DAYS`] days: nights and weekends are part of the rhythm once
//! they have been seen. A silence that was an alert counts no more than the limit that it exceeded, so that one outage
//! does not make the next one usual.

use std::{collections::VecDeque, time::Duration};

use crate::{alert::rules::SilenceRule, clock::Timestamp};

/// How many days are remembered.
const DAYS: usize = 15;

/// Silences that must have ended before anything is said.
const GAPS_MIN: u64 = 10;

/// What is known of a source.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Rhythm {
    since: Timestamp,
    last: Timestamp,
    gaps: u64,
    /// The day, and its longest silence in milliseconds; the newest last.
    days: VecDeque<(u64, u64)>,
    #[serde(skip)]
    total: u64,
}

/// A silence beyond its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) last: Timestamp,
    pub(super) usual: Duration,
}

impl Rhythm {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, last: now, gaps: 0, days: VecDeque::new(), total: 0 }
    }

    /// Takes the counter of what the source has sent since the process began.
    pub(super) fn listen(&mut self, now: Timestamp, total: u64, rule: &SilenceRule) -> Option<Silent> {
        let limit = self.limit(now, rule);
        if total > self.total {
            let gap = now.since(self.last);
            let gap = limit.map_or(gap, |limit| gap.min(limit));
            self.note(now, gap);
            (self.total, self.last) = (total, now);
            return None;
        }
        let is_over = limit.is_some_and(|limit| now.since(self.last) > limit);
        is_over.then(|| Silent { last: self.last, usual: self.longest() })
    }

    /// The time in which the relay was not running is nobody's silence.
    pub(super) fn resume(&mut self, stopped: Timestamp, now: Timestamp) {
        self.last = now.before(stopped.since(self.last));
    }

    fn note(&mut self, now: Timestamp, gap: Duration) {
        let day = now.as_millis() / 86_400_000;
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        self.gaps += 1;
        match self.days.back_mut() {
            Some((last, longest)) if *last >= day => *longest = gap_ms.max(*longest),
            _ => self.days.push_back((day, gap_ms)),
        }
        if self.days.len() > DAYS {
            self.days.pop_front();
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.days.iter().map(|(_, longest)| *longest).max().unwrap_or(0))
    }

    /// None while it is too early to say anything.
    fn limit(&self, now: Timestamp, rule: &SilenceRule) -> Option<Duration> {
        if self.gaps < GAPS_MIN || now.since(self.since) < rule.learn {
            return None;
        }
        let usual = Duration::try_from_secs_f64(self.longest().as_secs_f64() * rule.factor).unwrap_or(Duration::MAX);
        Some(usual.max(rule.floor))
    }
}
