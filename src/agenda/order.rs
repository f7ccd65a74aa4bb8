//! Owns who may go before whom in a lane whose routes ask for an order: one delivery of a key at a time.
//!
//! Of the deliveries of a key that are not settled the one with the lowest sequence number is the next, except that what
//! is under way is finished first. Nothing else decides, so that a restart changes nothing: who waits is known from
//! the state, and the keys are computed from the stored events with today's routes.
//!
//! Promises that a delivery is not handed out before the keys of all older ones are known (`unknown`), and a bound: of at
//! most [`Order::most`] deliveries the keys are in memory. Beyond it the others are bits, and wait until some of those
//! are settled. A replay of what was settled joins when its key is known, and holds nobody up before.
//!
//! Deliberately absent: reading events, and what a delivery's state is. That is `core`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use roaring::RoaringTreemap;

use super::{lane::weight, plan::Orders};
use crate::{
    clock::Timestamp,
    event::{Event, Seq},
    routing::OrderPolicy,
};

/// One delivery whose key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The hash of its key.
    pub(super) key: u64,
    /// Which policy.
    policy: u16,
    /// It is not to be sent yet, but those behind it wait already: its plan is not made, or holds it.
    pub(super) undecided: bool,
}

/// The deliveries of one key.
#[derive(Debug)]
struct Line {
    first: Seq,
    behind: BTreeSet<Seq>,
    /// Who is under way, or being settled before the others. Several only where they were sent before the order began.
    out: Vec<Seq>,
    /// When the first became the first, if others were before it.
    since: Option<Timestamp>,
}

/// The order of one lane.
pub(super) struct Order {
    pub(super) orders: Arc<Orders>,
    members: HashMap<Seq, Member>,
    lines: HashMap<u64, Line>,
    /// Not settled, and known to have no key.
    free: RoaringTreemap,
    /// Not settled, and not looked at: everything above the lowest waits.
    pub(super) unknown: RoaringTreemap,
    /// Of these, those that were under way before their keys were known: they are looked at first.
    pub(super) out_unknown: BTreeSet<Seq>,
    /// Firsts of their keys above the lowest that is not looked at.
    pub(super) barred: BTreeSet<Seq>,
    /// The same for replays, which hold nobody up.
    pub(super) late: RoaringTreemap,
    /// Events at hand that wait behind others.
    kept: HashMap<Seq, Arc<Event>>,
    kept_bytes: usize,
    /// Firsts that failed, are held, or are dead and park their key.
    pub(super) stalled: BTreeSet<Seq>,
    /// A read of unknown events is under way.
    pub(super) learning: bool,
    /// Events without a key since the last look …
    pub(super) missing: u64,
    /// … and turns at which versions could not be compared.
    pub(super) uncompared: u64,
    /// The next stalled one that is looked at.
    swept: Seq,
    most: usize,
}

impl Order {
    /// Nothing is known of what is not settled (`open`) yet.
    pub(super) fn new(orders: Arc<Orders>, open: RoaringTreemap, most: usize) -> Self {
        Self {
            orders,
            members: HashMap::new(),
            lines: HashMap::new(),
            free: RoaringTreemap::new(),
            unknown: open,
            out_unknown: BTreeSet::new(),
            barred: BTreeSet::new(),
            late: RoaringTreemap::new(),
            kept: HashMap::new(),
            kept_bytes: 0,
            stalled: BTreeSet::new(),
            learning: false,
            missing: 0,
            uncompared: 0,
            swept: 0,
            most,
        }
    }

    /// These are under way.
    pub(super) fn under_way(&mut self, out: impl Iterator<Item = Seq>) {
        self.out_unknown.extend(out);
        self.unknown.extend(self.out_unknown.iter());
    }

    /// The next first of its key that nobody unknown is before any more.
    pub(super) fn next_cleared(&mut self) -> Option<Seq> {
        let first = *self.barred.first()?;
        if self.is_behind_unknown(first) { None } else { self.barred.pop_first() }
    }

    /// One whose key is known.
    pub(super) fn member(&self, event: Seq) -> Option<Member> {
        self.members.get(&event).copied()
    }

    pub(super) fn member_mut(&mut self, event: Seq) -> Option<&mut Member> {
        self.members.get_mut(&event)
    }

    /// The policy of a member.
    pub(super) fn policy(&self, member: Member) -> Option<Arc<OrderPolicy>> {
        self.orders.policies.get(usize::from(member.policy)).cloned()
    }

    pub(super) fn is_free(&self, event: Seq) -> bool {
        self.free.contains(event)
    }

    /// It has no key.
    pub(super) fn free(&mut self, event: Seq) {
        self.looked_at(event);
        self.free.insert(event);
    }

    pub(super) fn is_unknown(&self, event: Seq) -> bool {
        self.unknown.contains(event) || self.late.contains(event)
    }

    fn looked_at(&mut self, event: Seq) {
        self.unknown.remove(event);
        self.late.remove(event);
        self.out_unknown.remove(&event);
    }

    /// Whether no more keys fit in. Those that somebody waits for who was under way before his key was known, always do:
    /// he stands above them, and may be what the table is full of.
    pub(super) fn is_full(&self) -> bool {
        self.members.len() >= self.most && self.barred.is_empty()
    }

    /// Whether somebody older is not looked at, or anybody under way, who may be of its key and is finished first.
    pub(super) fn is_behind_unknown(&self, event: Seq) -> bool {
        !self.out_unknown.is_empty() || self.unknown.min().is_some_and(|oldest| oldest < event)
    }

    /// Its key is known from now on.
    pub(super) fn join(&mut self, event: Seq, (key, policy): (u64, u16), undecided: bool, since: Option<Timestamp>) {
        self.looked_at(event);
        if self.members.insert(event, Member { key, policy, undecided }).is_some() {
            return;
        }
        match self.lines.get_mut(&key) {
            None => {
                self.lines.insert(key, Line { first: event, behind: BTreeSet::new(), out: Vec::new(), since });
            }
            Some(line) if event < line.first => {
                line.behind.insert(line.first);
                line.first = event;
                line.since = None;
            }
            Some(line) => {
                line.behind.insert(event);
            }
        }
    }

    /// It is settled, or was never to be sent. The key, if there are others.
    pub(super) fn leave(&mut self, event: Seq, now: Timestamp) -> Option<u64> {
        self.free.remove(event);
        self.looked_at(event);
        self.barred.remove(&event);
        self.stalled.remove(&event);
        self.take_kept(event);
        let member = self.members.remove(&event)?;
        let line = self.lines.get_mut(&member.key)?;
        line.out.retain(|out| *out != event);
        if line.first != event {
            line.behind.remove(&event);
            return Some(member.key);
        }
        match line.behind.pop_first() {
            Some(next) => {
                line.first = next;
                line.since = Some(now);
                Some(member.key)
            }
            None => {
                self.lines.remove(&member.key);
                None
            }
        }
    }

    /// Who goes next of a key. None while any is under way.
    pub(super) fn next(&self, key: u64) -> Option<Seq> {
        self.lines.get(&key).filter(|line| line.out.is_empty()).map(|line| line.first)
    }

    /// Whether it is the first of its key.
    pub(super) fn is_first(&self, event: Seq) -> bool {
        self.line_of(event).is_some_and(|line| line.first == event)
    }

    /// Whether it may be handed out now, as far as the order is concerned. The first of its key that has only those before it
    /// that are not looked at is remembered: see [`Self::next_cleared`].
    pub(super) fn may_go(&mut self, event: Seq) -> bool {
        if self.free.contains(event) {
            return true;
        }
        let is_next = self.line_of(event).is_some_and(|line| line.first == event && line.out.is_empty())
            && self.members.get(&event).is_some_and(|member| !member.undecided);
        // One that was under way when the order began has its key looked at before all older ones.
        let waits = is_next && self.is_behind_unknown(event);
        if waits {
            self.barred.insert(event);
        }
        is_next && !waits
    }

    /// It is under way.
    pub(super) fn sent(&mut self, event: Seq) {
        if let Some(line) = self.members.get(&event).and_then(|member| self.lines.get_mut(&member.key))
            && !line.out.contains(&event)
        {
            line.out.push(event);
        }
    }

    /// It is not under way any more.
    pub(super) fn back(&mut self, event: Seq) {
        self.out_unknown.remove(&event);
        if let Some(line) = self.members.get(&event).and_then(|member| self.lines.get_mut(&member.key)) {
            line.out.retain(|out| *out != event);
        }
    }

    /// When it became the first of its key, if others were before it.
    pub(super) fn since(&self, event: Seq) -> Option<Timestamp> {
        self.line_of(event).filter(|line| line.first == event)?.since
    }

    /// Those of a key, the first of all before them.
    pub(super) fn line(&self, key: u64) -> impl Iterator<Item = Seq> {
        let line = self.lines.get(&key);
        line.into_iter().flat_map(|line| std::iter::once(line.first).chain(line.behind.iter().copied()))
    }

    /// The newest of a key that is such.
    pub(super) fn newest(&self, key: u64, is_such: impl Fn(&Seq) -> bool) -> Option<Seq> {
        let line = self.lines.get(&key)?;
        line.behind.iter().rev().chain(std::iter::once(&line.first)).copied().find(|event| is_such(event))
    }

    /// Some of the stalled, others each time.
    pub(super) fn next_stalled(&mut self, most: usize) -> Vec<Seq> {
        let some: Vec<Seq> = self.stalled.range(self.swept..).take(most).copied().collect();
        self.swept = some.last().map_or(0, |last| last + 1);
        some
    }

    /// The delivery that it waits for, if it waits for one, and how many wait behind the first.
    pub(super) fn waits_for(&self, event: Seq) -> Option<Seq> {
        let line = self.line_of(event)?;
        if line.out.contains(&event) {
            return None;
        }
        let before = line.out.first().copied().unwrap_or(line.first);
        (before != event).then_some(before)
    }

    /// How many wait behind the first of a key.
    pub(super) fn behind(&self, event: Seq) -> usize {
        self.line_of(event).map_or(0, |line| line.behind.len())
    }

    /// Keeps an event at hand until its turn, if all that are kept stay below `most` bytes.
    pub(super) fn keep(&mut self, event: &Arc<Event>, most: usize) {
        let size = weight(event);
        if self.kept_bytes + size <= most && self.kept.insert(event.id.pos.seq, event.clone()).is_none() {
            self.kept_bytes += size;
        }
    }

    pub(super) fn take_kept(&mut self, event: Seq) -> Option<Arc<Event>> {
        let kept = self.kept.remove(&event)?;
        self.kept_bytes = self.kept_bytes.saturating_sub(weight(&kept));
        Some(kept)
    }

    /// How many are not looked at.
    pub(super) fn unknown_len(&self) -> u64 {
        self.unknown.len() + self.late.len()
    }

    fn line_of(&self, event: Seq) -> Option<&Line> {
        self.lines.get(&self.members.get(&event)?.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(7);

    fn order() -> Order {
        Order::new(Arc::new(Orders::default()), RoaringTreemap::new(), 100)
    }

    #[test]
    fn the_oldest_of_a_key_goes_first_and_whoever_is_under_way_is_finished_before() {
        let mut order = order();
        for event in [10, 20, 30] {
            order.join(event, (1, 0), false, None);
        }
        order.join(15, (2, 0), false, None);
        assert!(order.may_go(10) && order.may_go(15) && !order.may_go(20));
        order.sent(10);
        assert!(!order.may_go(10) && order.next(1).is_none());
        order.join(5, (1, 0), false, None);
        assert!(!order.may_go(5), "an older one waits for the one under way");
        order.back(10);
        assert!(order.may_go(5) && !order.may_go(10), "then it goes first");
        assert_eq!((order.leave(5, NOW), order.next(1), order.since(10)), (Some(1), Some(10), Some(NOW)));
        assert_eq!((order.leave(20, NOW), order.leave(10, NOW), order.next(1)), (Some(1), Some(1), Some(30)));
        assert_eq!((order.leave(30, NOW), order.next(1)), (None, None));
    }

    #[test]
    fn all_that_were_under_way_before_the_order_began_are_finished_first() {
        let mut order = order();
        for event in [10, 20, 30] {
            order.join(event, (1, 0), false, None);
        }
        order.sent(30);
        order.sent(20);
        assert_eq!((order.waits_for(10), order.waits_for(20)), (Some(30), None));
        order.leave(30, NOW);
        assert!(!order.may_go(10) && order.next(1).is_none());
        order.back(20);
        assert!(order.may_go(10) && !order.may_go(20));
    }

    #[test]
    fn what_was_under_way_before_its_key_was_known_waits_after_that_for_all_older_ones_that_are_not_looked_at() {
        let mut order = Order::new(Arc::new(Orders::default()), [10, 30].into_iter().collect(), 100);
        order.under_way(std::iter::once(30));
        order.join(30, (1, 0), false, None);
        order.back(30);
        assert!(!order.may_go(30), "10 may be of its key");
        assert_eq!(order.next_cleared(), None);
        order.join(10, (2, 0), false, None);
        assert_eq!(order.next_cleared(), Some(30), "it is not forgotten");
        assert!(order.may_go(30));
    }

    #[test]
    fn what_has_no_key_waits_for_nobody_and_what_is_undecided_for_its_plan() {
        let mut order = order();
        order.free(3);
        order.join(4, (1, 0), true, None);
        order.join(5, (1, 0), false, None);
        assert!(order.may_go(3) && !order.may_go(4) && !order.may_go(5));
        assert_eq!(order.waits_for(5), Some(4));
        order.leave(4, NOW);
        assert!(order.may_go(5));
    }
}
