//! Owns counting what is in a state by age: from the sets alone, whatever their size.

use std::sync::Arc;

use roaring::RoaringTreemap;

use super::{State, Upstream};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Seq},
};

impl State {
    /// For each upstream how many of its deliveries are in one of these states, by the time at which their events were
    /// accepted: those before the first of `since` (ascending), those before the second, …, and last the rest. As exact as
    /// the timeline. Deliveries in review count as dead.
    #[must_use]
    pub fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Vec<(Arc<str>, Vec<u64>)> {
        let bounds: Vec<Seq> = since.iter().map(|time| self.timeline.first_since(*time)).collect();
        let count = |upstream: &Upstream| {
            let sets: Vec<&RoaringTreemap> = states.iter().flat_map(|state| sets(upstream, *state)).collect();
            let below = |bound: Seq| match bound.checked_sub(1) {
                None => 0,
                Some(last) => sets.iter().map(|set| set.rank(last)).sum::<u64>(),
            };
            let mut before = 0;
            let mut ages: Vec<u64> = Vec::with_capacity(bounds.len() + 1);
            for bound in &bounds {
                let reached = below(*bound);
                ages.push(reached.saturating_sub(before));
                before = before.max(reached);
            }
            ages.push(sets.iter().map(|set| set.len()).sum::<u64>().saturating_sub(before));
            ages
        };
        self.upstreams.iter().map(|upstream| (upstream.name.clone(), count(upstream))).collect()
    }
}

fn sets(upstream: &Upstream, state: DeliveryState) -> Vec<&RoaringTreemap> {
    match state {
        DeliveryState::Pending => vec![&upstream.waiting, &upstream.pending],
        DeliveryState::Held => vec![&upstream.held],
        DeliveryState::Dead | DeliveryState::Review => vec![&upstream.dead],
        DeliveryState::Delivered | DeliveryState::Superseded | DeliveryState::Ignored => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn ten_million_that_wait_are_counted_by_age_from_the_sets() {
        let mut state = State::new(1);
        for minute in 0..100_u64 {
            state.timeline.note(minute * 100_000, s(minute * 60));
        }
        let id = state.intern("billing");
        let upstream = state.upstream_mut(id).unwrap();
        upstream.waiting.insert_range(0..10_000_000);
        upstream.pending.insert(10_000_001);
        upstream.dead.insert_range(0..5);
        let counted = state.queue(&[DeliveryState::Pending, DeliveryState::Held], &[s(600), s(6_000 - 300)]);
        assert_eq!(counted, [("billing".into(), vec![1_000_000, 8_500_000, 500_001])]);
        assert_eq!(state.queue(&[DeliveryState::Dead], &[s(600)]), [("billing".into(), vec![5, 0])]);
    }

    #[test]
    fn nothing_is_lost_where_all_is_older_or_younger_than_every_bound() {
        let mut state = State::new(1);
        state.timeline.note(1, s(100));
        let id = state.intern("billing");
        state.upstream_mut(id).unwrap().held.insert_range(1..11);
        let counted = |since: &[Timestamp]| state.queue(&[DeliveryState::Held], since)[0].1.clone();
        assert_eq!(counted(&[s(1), s(2)]), [0, 0, 10]);
        assert_eq!(counted(&[s(101), s(102)]), [10, 0, 0]);
    }
}
