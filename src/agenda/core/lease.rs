//! Owns how long a job may be in the engine's hands before it counts as lost.
//!
//! Promises that a job which waits in the engine behind attempts that take their time is not handed out a second time.

use std::time::Duration;

use super::Core;
use crate::{
    agenda::lane::{Lane, Lease},
    clock::Timestamp,
    routing::Upstream,
    state::{Key, StateError},
};

/// A job that the engine has neither settled nor returned is taken back after so long, and the time that those before
/// it may take.
const LEASE: Duration = Duration::from_secs(15 * 60);

/// An attempt takes at most so many timeouts: one to the head of the answer, and as long again for its body.
const TIMEOUTS: u32 = 2;

impl Core {
    /// Ends a lease; whether there was one.
    pub(super) fn end_lease(&mut self, key: Key) -> bool {
        let Some(lane) = self.lanes.get_mut(key.upstream as usize) else { return false };
        let sent = match lane.leases.get(&key.event) {
            Some(Lease::Sent(_)) => true,
            Some(Lease::Closing) => false,
            Some(Lease::Queued) | None => return false,
        };
        lane.leases.remove(&key.event);
        if sent {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        if let Some(order) = &mut lane.order {
            order.back(key.event);
        }
        sent
    }

    /// Takes jobs back whose settlement never came. Called now and then.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn end_old_leases(&mut self, now: Timestamp) -> Result<(), StateError> {
        let mut old = Vec::new();
        for ((id, lane), upstream) in (0..).zip(&self.lanes).zip(self.state.upstreams()) {
            let lease = lease(lane, self.routes.table.upstreams.get(&*upstream.name).map(AsRef::as_ref));
            let lost =
                lane.leases.iter().filter(|(_, state)| matches!(state, Lease::Sent(at) if now.since(*at) > lease));
            old.extend(lost.map(|(event, _)| Key::new(*event, id)));
        }
        self.sweep_stalled(now)?;
        for key in old {
            tracing::warn!(event = key.event, "a job was neither settled nor returned: it is due again");
            self.end_lease(key);
            self.reschedule(key, now)?;
        }
        Ok(())
    }
}

/// How long a job of this lane may be in the engine's hands: all that the engine may have goes first.
fn lease(lane: &Lane, upstream: Option<&Upstream>) -> Duration {
    let Some(upstream) = upstream else { return LEASE };
    let at_once = upstream.pace.least.unwrap_or(upstream.concurrency).max(1);
    let before = lane.window.max(lane.in_flight) / at_once + 1;
    let each = upstream.timeout.saturating_mul(TIMEOUTS);
    LEASE.saturating_add(each.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX)))
}
