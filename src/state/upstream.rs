//! Owns what the state knows of one upstream: which deliveries wait, are pending, held or dead, who holds it, and
//! when it was paused.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use roaring::RoaringTreemap;

use super::{newest::Newest, record::Record};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Outcome, Seq},
    log::entry::Streak,
};

/// The most pauses that are remembered; beyond it the oldest is forgotten (its time counts towards giving up then).
pub(super) const PAUSES_MAX: usize = 256;

/// The most drained targets of one upstream, configured or not; beyond it the oldest is forgotten.
pub(super) const DRAINED_MAX: usize = 256;

/// One upstream's part of the state.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Events planned for it and never attempted; they have no record.
    pub waiting: RoaringTreemap,
    /// Events with a pending record.
    pub pending: RoaringTreemap,
    /// Events with a held record.
    pub held: RoaringTreemap,
    /// Events with a dead record (review counts as dead here: a person decides).
    pub dead: RoaringTreemap,
    /// Dead deliveries by the reason's number.
    pub dead_by_reason: [u64; 32],
    /// Of those that wait, the ones of high priority …
    pub high: RoaringTreemap,
    /// … and of low priority.
    pub low: RoaringTreemap,
    /// The newest delivered version of each key.
    pub newest: Newest,
    /// An operator's hold.
    pub hold: Option<Hold>,
    /// Targets that get no new attempts; at most [`DRAINED_MAX`].
    pub drained: Vec<Drained>,
    /// When it was held, or its breaker open, or it was not configured.
    pub pauses: Pauses,
    /// It gets nothing any more, and what it has not got dies.
    pub closed: Option<Closed>,
    /// Attempts that have failed since the last success.
    pub streak: Option<Streak>,
}

/// A subscriber that gets nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The command's entry.
    pub seq: Seq,
    /// Since when.
    pub since: Timestamp,
    /// Why it was disabled; None if it was removed.
    pub disabled: Option<String>,
    /// Who.
    pub actor: String,
}

/// A target that an operator took out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Its url as it was configured then.
    pub target: Box<str>,
    /// The command's entry.
    pub seq: Seq,
    /// When.
    pub since: Timestamp,
    /// In the operator's words.
    pub reason: Option<String>,
    /// Who.
    pub actor: String,
}

/// An operator's hold of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The command's entry.
    pub seq: Seq,
    /// When it began.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// In the operator's words.
    pub reason: Option<String>,
    /// Who.
    pub actor: String,
}

impl Upstream {
    /// One that nothing was planned for yet.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            waiting: RoaringTreemap::new(),
            pending: RoaringTreemap::new(),
            held: RoaringTreemap::new(),
            dead: RoaringTreemap::new(),
            dead_by_reason: [0; 32],
            high: RoaringTreemap::new(),
            low: RoaringTreemap::new(),
            newest: Newest::default(),
            hold: None,
            drained: Vec::new(),
            pauses: Pauses::default(),
            closed: None,
            streak: None,
        }
    }

    /// An attempt is over: counts failures that no success interrupts. An answer that is not acceptable is neither.
    pub(super) fn note_outcome(&mut self, outcome: Outcome, at: Timestamp) {
        match outcome {
            Outcome::Delivered => self.streak = None,
            Outcome::Degraded => {}
            Outcome::Deferred | Outcome::Refused => {
                let streak = self.streak.get_or_insert(Streak { since_ms: at.as_millis(), attempts: 0 });
                streak.attempts = streak.attempts.saturating_add(1);
            }
        }
    }

    /// A target is drained, or no longer.
    pub(super) fn drain(&mut self, target: &str, drained: Option<Drained>) {
        self.drained.retain(|other| &*other.target != target);
        if self.drained.len() >= DRAINED_MAX {
            self.drained.remove(0);
        }
        self.drained.extend(drained);
    }

    /// A delivery waits no longer for its first attempt. Whether it did.
    pub(super) fn take_waiting(&mut self, event: Seq) -> bool {
        if !self.high.is_empty() {
            self.high.remove(event);
        }
        if !self.low.is_empty() {
            self.low.remove(event);
        }
        self.waiting.remove(event)
    }

    /// Books a record out of or into the sets.
    pub(super) fn book(&mut self, event: Seq, record: &Record, present: bool) {
        let set = match record.state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Held => &mut self.held,
            DeliveryState::Dead | DeliveryState::Review => {
                let slot = self.dead_by_reason.get_mut(usize::from(record.reason).min(31));
                if let Some(count) = slot {
                    *count = if present { count.saturating_add(1) } else { count.saturating_sub(1) };
                }
                &mut self.dead
            }
            DeliveryState::Delivered | DeliveryState::Superseded | DeliveryState::Ignored => return,
        };
        if present {
            set.insert(event);
        } else {
            set.remove(event);
        }
    }

    /// The oldest event that is not settled (waiting, pending or held).
    #[must_use]
    pub fn oldest(&self) -> Option<Seq> {
        [&self.waiting, &self.pending, &self.held].into_iter().filter_map(RoaringTreemap::min).min()
    }

    /// The oldest event that waits or is pending.
    #[must_use]
    pub fn oldest_pending(&self) -> Option<Seq> {
        [&self.waiting, &self.pending].into_iter().filter_map(RoaringTreemap::min).min()
    }
}

/// Why an upstream stands still; several may be true at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// An operator holds it.
    Held = 1,
    /// Its breaker is open.
    Breaker = 2,
    /// It is not in the configuration.
    Removed = 4,
}

/// Stretches of time in which an upstream stood still. They do not count towards giving up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    pub(super) causes: u8,
    pub(super) since: Timestamp,
    pub(super) past: VecDeque<(Timestamp, Timestamp)>,
}

impl Pauses {
    /// A cause begins or ends.
    pub fn set(&mut self, cause: Cause, active: bool, now: Timestamp) {
        let before = self.causes;
        self.causes = if active { before | cause as u8 } else { before & !(cause as u8) };
        match (before, self.causes) {
            (0, 1..) => self.since = now,
            (1.., 0) => {
                if self.past.len() >= PAUSES_MAX {
                    self.past.pop_front();
                }
                self.past.push_back((self.since, now));
            }
            _ => {}
        }
    }

    /// How much of the time from `from` to `now` it stood still.
    #[must_use]
    pub fn overlap(&self, from: Timestamp, now: Timestamp) -> Duration {
        let open = (self.causes != 0).then_some((self.since, now));
        let stretches = self.past.iter().copied().chain(open).rev();
        stretches.take_while(|(_, end)| *end > from).map(|(begin, end)| end.min(now).since(begin.max(from))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_pause_lasts_as_long_as_any_of_its_causes() {
        let mut pauses = Pauses::default();
        pauses.set(Cause::Held, true, s(10));
        pauses.set(Cause::Breaker, true, s(15));
        pauses.set(Cause::Held, false, s(20));
        pauses.set(Cause::Breaker, false, s(30));
        pauses.set(Cause::Removed, true, s(50));
        assert_eq!(pauses.overlap(s(0), s(60)), Duration::from_secs(30));
        assert_eq!(pauses.overlap(s(25), s(55)), Duration::from_secs(10));
        assert_eq!(pauses.overlap(s(31), s(40)), Duration::ZERO);
    }

    #[test]
    fn the_oldest_pauses_are_forgotten_beyond_the_bound() {
        let mut pauses = Pauses::default();
        for begin in 0..1000 {
            pauses.set(Cause::Breaker, true, s(begin * 2));
            pauses.set(Cause::Breaker, false, s(begin * 2 + 1));
        }
        assert_eq!(pauses.overlap(s(0), s(5000)), Duration::from_secs(PAUSES_MAX as u64));
    }
}
