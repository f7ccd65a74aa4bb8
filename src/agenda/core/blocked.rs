//! Owns what is told about keys that are blocked, and letting those go whose first has gone with its segment.

use super::Core;
use crate::{
    agenda::view::{Blocked, own_metrics},
    clock::Timestamp,
    event::Seq,
    state::{DeliveryView, Key, StateError, UpstreamId},
    telemetry::Metrics,
};

/// Stalled firsts that are looked at in one tick.
const SWEPT_MAX: usize = 1_000;

impl Core {
    /// The delivery of the same key that one waits for.
    pub(in crate::agenda) fn waits_for(&self, key: Key) -> Option<Seq> {
        self.lanes.get(key.upstream as usize)?.order.as_ref()?.waits_for(key.event)
    }

    /// The firsts of blocked keys, the oldest of each upstream.
    pub(in crate::agenda) fn blocked_keys(&self, name: Option<&str>, most: usize) -> Result<Vec<Blocked>, StateError> {
        let mut found = Vec::new();
        for ((id, lane), upstream) in (0..).zip(&self.lanes).zip(self.state.upstreams()) {
            let Some(order) = lane.order.as_ref().filter(|_| name.is_none_or(|name| *name == *upstream.name)) else {
                continue;
            };
            for event in order.stalled.iter().filter(|event| order.is_first(**event)).take(most) {
                let Some(record) = self.state.record(Key::new(*event, id))? else { continue };
                found.push(Blocked {
                    stored_at: self.state.stored_at(*event)?,
                    delivery: DeliveryView::new(upstream.name.clone(), &record),
                    waiting: order.behind(*event),
                });
            }
        }
        Ok(found)
    }

    /// Sets the gauges of orders and hands out what was counted.
    pub(in crate::agenda) fn measure_order(&mut self, metrics: &Metrics) {
        for (lane, upstream) in self.lanes.iter_mut().zip(self.state.upstreams()) {
            let Some(gauges) = own_metrics(metrics, &upstream.name) else { continue };
            let (blocked, unknown) = match &mut lane.order {
                None => (0, 0),
                Some(order) => {
                    gauges.unordered.add(std::mem::take(&mut order.missing));
                    gauges.uncompared.add(std::mem::take(&mut order.uncompared));
                    (order.stalled.len() as u64, order.unknown_len())
                }
            };
            gauges.blocked_keys.set(i64::try_from(blocked).unwrap_or(i64::MAX));
            gauges.keys_unknown.set(i64::try_from(unknown).unwrap_or(i64::MAX));
        }
    }

    /// Lets those behind go whose first was forgotten with its segment, a few at a time.
    pub(super) fn sweep_stalled(&mut self, now: Timestamp) -> Result<(), StateError> {
        for id in 0..self.lanes.len() {
            let id = id as UpstreamId;
            let Some(order) = self.order_mut(id) else { continue };
            for event in order.next_stalled(SWEPT_MAX) {
                let known = self.state.upstream(id).is_some_and(|upstream| {
                    [&upstream.pending, &upstream.held, &upstream.dead].into_iter().any(|set| set.contains(event))
                });
                if !known {
                    self.revise(Key::new(event, id), now)?;
                }
            }
        }
        Ok(())
    }
}
