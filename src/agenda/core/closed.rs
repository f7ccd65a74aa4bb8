//! Owns the end of subscribers: disabling those that fail for too long, and settling what is left for those that are
//! disabled or removed.
//!
//! Promises that only a run of failures without any success disables one; that what is left dies a few deliveries at a
//! time, so that a backlog delays nobody; and that an attempt under way is waited for.

use super::{Core, attempted};
use crate::{
    agenda::lane::Lease,
    clock::Timestamp,
    event::{Change, Outcome, Reason, Seq},
    log::{
        Entry,
        entry::{self, Action, Attempted},
    },
    state::{Key, StateError, UpstreamId},
};

/// Fewer attempts than this say nothing about an endpoint, however long they are apart.
pub(in crate::agenda) const FAILURES_MIN: u64 = 5;

/// Deliveries of one upstream that die in one step.
const CLOSED_AT_ONCE: usize = 256;

impl Core {
    /// An attempt of an upstream is over: if it is one failure too many, the upstream is disabled.
    /// Both ends of the run are times of the log: a step of the wall clock, which the steady clock does not make, neither
    /// disables an upstream early nor keeps it from being disabled.
    pub(super) fn note_failures(&mut self, id: UpstreamId, entry: &Entry) {
        let Some(upstream) = self.state.upstream(id).filter(|upstream| upstream.closed.is_none()) else { return };
        let Some(streak) = upstream.streak.filter(|streak| streak.attempts >= FAILURES_MIN) else { return };
        let Some(limit) = self.table().upstreams.get(&*upstream.name).and_then(|known| known.disable_after) else {
            return;
        };
        let since = Timestamp::from_millis(streak.since_ms);
        if entry.time.since(since) < limit {
            return;
        }
        // What was put back or settled without an attempt is no failure.
        let last = entry::decode_attempted(&entry.payload).and_then(|attempted| attempted.attempt);
        let Some(last) = last.filter(|last| matches!(last.outcome, Outcome::Deferred | Outcome::Refused)) else {
            return;
        };
        let name: Box<str> = (&*upstream.name).into();
        let Some(lane) = self.lanes.get_mut(id as usize).filter(|lane| !lane.disabling) else { return };
        lane.disabling = true;
        let last = last.error.or_else(|| last.status.map(|status| status.to_string().into()));
        let last = last.unwrap_or_else(|| "no answer".into());
        let why = format!("{} attempts failed and none succeeded since {since}; the last: {last}", streak.attempts);
        tracing::warn!(upstream = &*name, why, "a subscriber is disabled");
        self.relay(Action::DisableSubscriber { upstream: name, why, since_ms: None });
    }

    /// What upstreams that are closed have not got dies.
    pub(super) fn settle_closed(&mut self) -> Result<(), StateError> {
        for id in 0..self.lanes.len() {
            let id = id as UpstreamId;
            let (Some(upstream), Some(lane)) = (self.state.upstream(id), self.lanes.get_mut(id as usize)) else {
                continue;
            };
            let Some(closed) = &upstream.closed else { continue };
            let is_taken = |event: &Seq| matches!(lane.leases.get(event), Some(Lease::Sent(_) | Lease::Closing));
            let open = upstream.waiting.iter().chain(&upstream.pending).filter(|event| !is_taken(event));
            let open: Vec<Seq> = open.take(CLOSED_AT_ONCE).collect();
            if open.is_empty() {
                // What has a plan that is on its way into the log keeps its place: the subscriber may be back by then.
                let unplanned = self.state.unplanned();
                lane.keep(|event| unplanned.contains(event));
                continue;
            }
            let reason = match &closed.disabled {
                Some(why) => Reason::with("subscriber_disabled", why),
                None => Reason::with("upstream_removed", format!("the subscriber was removed by {}", closed.actor)),
            };
            let name = upstream.name.clone();
            for event in open {
                let previous = self.state.record(Key::new(event, id))?.and_then(|record| record.last);
                let Some(lane) = self.lanes.get_mut(id as usize) else { break };
                lane.leases.insert(event, Lease::Closing);
                lane.absent.remove(event);
                let died = Attempted {
                    event,
                    upstream: (&*name).into(),
                    attempt: None,
                    change: Change::Die(reason.clone()),
                    previous,
                    replays: None,
                    turn: None,
                };
                self.out.append.push(attempted(died));
            }
        }
        Ok(())
    }
}
