//! Owns whose turn it is in a lane: first attempts by priority, the shares of retries and of replays.
//!
//! Promises, while first attempts wait: retries get at most their share of the attempts, replays at most theirs, and of
//! 21 first attempts 16 are of high, 4 of normal and 1 of low priority, as far as there are any. So whatever waits is
//! handed out at the latest after 21 first attempts, or after one divided by its share of attempts, if it is a retry or a
//! replay. What the others leave is taken by whoever is there.

use super::lane::Work;
use crate::routing::{Priority, Share, TurnPolicy};

/// First attempts in one round of the priorities; the last is that of the low ones.
const ROUND: u32 = 21;

/// Every so many first attempts the turn is that of the normal ones.
const NORMAL: u32 = 5;

/// The turns of one lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    policy: TurnPolicy,
    /// What retries and replays have saved up, in millionths of an attempt; never more than one attempt, so that a long
    /// silence is no burst afterwards.
    retries: u32,
    replays: u32,
    /// First attempts in this round.
    first: u32,
}

impl Turns {
    pub(super) const fn new() -> Self {
        Self { policy: TurnPolicy::standard(), retries: 0, replays: 0, first: 0 }
    }

    /// From now on by this policy.
    pub(super) const fn set(&mut self, policy: TurnPolicy) {
        self.policy = policy;
    }

    /// Whose turn it is, of those that are ready.
    pub(super) fn next(&mut self, ready: impl Fn(Work) -> bool) -> Option<Work> {
        let first = self.first_of(&ready);
        let (retry, replay) = (ready(Work::Retry), ready(Work::Replay));
        if first.is_none() && !retry && !replay {
            return None;
        }
        self.retries = (self.retries + self.policy.retries.millionths()).min(Share::WHOLE);
        self.replays = (self.replays + self.policy.replays.millionths()).min(Share::WHOLE);
        if replay && (self.replays == Share::WHOLE || (first.is_none() && !retry)) {
            self.replays = 0;
            return Some(Work::Replay);
        }
        if retry && (self.retries == Share::WHOLE || first.is_none()) {
            self.retries = 0;
            return Some(Work::Retry);
        }
        if first.is_some() {
            self.first = (self.first + 1) % ROUND;
        }
        first
    }

    fn first_of(&self, ready: &impl Fn(Work) -> bool) -> Option<Work> {
        let turn = match self.first {
            last if last == ROUND - 1 => Priority::Low,
            turn if turn % NORMAL == NORMAL - 1 => Priority::Normal,
            _ => Priority::High,
        };
        std::iter::once(turn).chain(Priority::ALL).map(Work::Fresh).find(|work| ready(*work))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counts(turns: &mut Turns, ready: &[Work], total: usize) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..total {
            let work = turns.next(|work| ready.contains(&work)).unwrap();
            *counts.entry(work.index()).or_default() += 1;
        }
        counts
    }

    const HIGH: Work = Work::Fresh(Priority::High);
    const NORMAL: Work = Work::Fresh(Priority::Normal);
    const LOW: Work = Work::Fresh(Priority::Low);

    #[test]
    fn while_all_wait_each_gets_exactly_its_share() {
        let all = [HIGH, NORMAL, LOW, Work::Retry, Work::Replay];
        let of = |work: Work, share: usize| (work.index(), share);
        let shares = counts(&mut Turns::new(), &all[..3], 2_100);
        assert_eq!(shares, [of(HIGH, 1_600), of(NORMAL, 400), of(LOW, 100)].into());
        let shares = counts(&mut Turns::new(), &[NORMAL, Work::Retry], 800);
        assert_eq!(shares, [of(NORMAL, 700), of(Work::Retry, 100)].into());
        let shares = counts(&mut Turns::new(), &[NORMAL, Work::Replay], 3_200);
        assert_eq!(shares, [of(NORMAL, 3_100), of(Work::Replay, 100)].into());
        let shares = counts(&mut Turns::new(), &[Work::Retry, Work::Replay], 3_200);
        assert_eq!(shares, [of(Work::Retry, 3_100), of(Work::Replay, 100)].into());
        let mut turns = Turns::new();
        turns.set(TurnPolicy { retries: Share::new(0.5).unwrap(), replays: Share::new(0.01).unwrap() });
        let shares = counts(&mut turns, &all, 1_000);
        assert_eq!((shares[&Work::Replay.index()], shares[&Work::Retry.index()]), (10, 499));
    }

    #[test]
    fn nothing_that_is_ready_waits_longer_than_the_bound() {
        let all = [HIGH, NORMAL, LOW, Work::Retry, Work::Replay];
        for (work, bound) in [(HIGH, 4), (NORMAL, 9), (LOW, 26), (Work::Retry, 9), (Work::Replay, 32)] {
            let mut turns = Turns::new();
            let mut waited = 0;
            for _ in 0..10_000 {
                waited = if turns.next(|ready| all.contains(&ready)) == Some(work) { 0 } else { waited + 1 };
                assert!(waited <= bound, "{work:?} waited {waited} turns");
            }
        }
    }

    #[test]
    fn alone_everybody_takes_all_and_saves_up_at_most_one_attempt() {
        let mut turns = Turns::new();
        for work in [LOW, Work::Replay, Work::Retry, NORMAL] {
            assert_eq!(counts(&mut turns, &[work], 500), [(work.index(), 500)].into());
        }
        let after: Vec<Work> = (0..4).filter_map(|_| turns.next(|work| work != LOW && work != HIGH)).collect();
        assert_eq!(after, [Work::Replay, Work::Retry, NORMAL, NORMAL]);
        assert_eq!(turns.next(|_| false), None);
    }
}
