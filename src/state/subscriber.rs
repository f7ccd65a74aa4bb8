//! Owns what the state knows of subscribers that were registered at run time, and of those that are disabled.
//!
//! Promises that a registration and a disabling are known as long as they count, also after their segment is gone (see
//! [`State::carried_subscribers`]). Deliberately absent: what they are in the routing table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Closed, State, Upstream, UpstreamId};
use crate::{
    clock::Timestamp,
    event::Seq,
    log::{
        Entry, Kind, NewEntry,
        entry::{self, Action, Command, Registration, Streak, Written},
    },
};

/// A subscriber that was registered at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// What it asked for.
    pub registration: Registration,
    /// The entry that says so.
    pub seq: Seq,
}

/// All there is to know of subscribers, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Subscribed {
    /// Those that were registered at run time, by the upstream that each is.
    pub registered: Arc<BTreeMap<Box<str>, Subscriber>>,
    /// Those that are disabled or removed, by the upstream that each is or was.
    pub closed: BTreeMap<Box<str>, Closed>,
    /// Those that an operator holds.
    pub held: BTreeSet<Box<str>>,
    /// Failures that no success interrupts, by upstream.
    pub streaks: BTreeMap<Box<str>, Streak>,
}

impl Subscribed {
    /// Why it is disabled, and since when.
    #[must_use]
    pub fn disabled(&self, upstream: &str) -> Option<(&str, Timestamp)> {
        let closed = self.closed.get(upstream)?;
        Some((closed.disabled.as_deref()?, closed.since))
    }
}

impl State {
    /// What is known of subscribers now.
    #[must_use]
    pub fn subscribed(&self) -> Subscribed {
        let upstreams = || self.upstreams.iter().map(|upstream| (Box::from(&*upstream.name), upstream));
        Subscribed {
            registered: self.subscribers.clone(),
            closed: upstreams().filter_map(|(name, upstream)| Some((name, upstream.closed.clone()?))).collect(),
            held: upstreams().filter(|(_, upstream)| upstream.hold.is_some()).map(|(name, _)| name).collect(),
            streaks: upstreams().filter_map(|(name, upstream)| Some((name, upstream.streak?))).collect(),
        }
    }

    /// Whether a subscriber of this name was registered at run time.
    #[must_use]
    pub fn is_registered(&self, upstream: &str) -> bool {
        self.subscribers.contains_key(upstream)
    }

    /// Applies a command about a subscriber. Gives whom it concerns, unless it changes nothing.
    pub(super) fn subscription(&mut self, entry: &Entry, actor: &str, action: Action) -> Option<UpstreamId> {
        let seq = entry.pos.seq;
        match action {
            Action::PutSubscriber { written, registration, streak } => {
                let (name, known) = (registration.upstream(), &mut self.subscribers);
                let is_removed = self.ids.get(&*name).and_then(|id| self.upstreams.get(*id as usize)).is_some_and(gone);
                if written == Written::SecretRotated && is_removed {
                    return None;
                }
                let is_new = Arc::make_mut(known)
                    .insert(name.clone(), Subscriber { registration: *registration, seq })
                    .is_none();
                let id = self.intern(&name);
                let upstream = self.upstream_mut(id)?;
                if written == Written::Added {
                    (upstream.closed, upstream.streak) = (None, None);
                } else if is_new {
                    // A rebuild: all that came before is gone.
                    upstream.streak = upstream.streak.or(streak);
                }
                Some(id)
            }
            Action::RemoveSubscriber { upstream } => {
                Arc::make_mut(&mut self.subscribers).remove(&upstream)?;
                let closed = Closed { seq, since: entry.time, disabled: None, actor: actor.to_owned() };
                self.close(&upstream, Some(closed))
            }
            Action::DisableSubscriber { upstream, why, since_ms } => {
                // One that was removed meanwhile is more than disabled.
                if self.id(&upstream).and_then(|id| self.upstream(id)).is_some_and(gone) {
                    return None;
                }
                let since = since_ms.map_or(entry.time, Timestamp::from_millis);
                self.close(&upstream, Some(Closed { seq, since, disabled: Some(why), actor: actor.to_owned() }))
            }
            // One that was removed meanwhile stays so: what is left for it dies.
            Action::EnableSubscriber { upstream } => {
                let is_removed = self.id(&upstream).and_then(|id| self.upstream(id)).is_some_and(gone);
                if is_removed { None } else { self.close(&upstream, None) }
            }
            _ => None,
        }
    }

    fn close(&mut self, upstream: &str, closed: Option<Closed>) -> Option<UpstreamId> {
        let id = self.intern(upstream);
        let upstream = self.upstream_mut(id)?;
        (upstream.closed, upstream.streak) = (closed, None);
        Some(id)
    }

    /// What is to be appended again before the entries before `before` go.
    pub(super) fn carried_subscribers(&self, before: Seq) -> impl Iterator<Item = NewEntry> {
        let command = |actor: &str, action| NewEntry {
            kind: Kind::Command,
            // It is the state that counts: that somebody asked for it has its own record.
            payload: entry::encode_json(&Command { piece: 1, ..Command::new(actor, action) }),
        };
        let registered = self.subscribers.iter().filter(move |(_, subscriber)| subscriber.seq < before);
        let registered = registered.map(move |(name, subscriber)| {
            let upstream = self.id(name).and_then(|id| self.upstream(id));
            let action = Action::PutSubscriber {
                written: Written::Carried,
                registration: Box::new(subscriber.registration.clone()),
                streak: upstream.and_then(|upstream| upstream.streak),
            };
            command(&subscriber.registration.by, action)
        });
        let disabled = self.upstreams.iter().filter_map(move |upstream| {
            let closed = upstream.closed.as_ref().filter(|closed| closed.seq < before)?;
            let action = Action::DisableSubscriber {
                upstream: (&*upstream.name).into(),
                why: closed.disabled.clone()?,
                since_ms: Some(closed.since.as_millis()),
            };
            Some(command(&closed.actor, action))
        });
        registered.chain(disabled)
    }
}

/// Whether it was removed.
fn gone(upstream: &Upstream) -> bool {
    upstream.closed.as_ref().is_some_and(|closed| closed.disabled.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Change,
        log::Log as _,
        state::{
            Keep, replay,
            testing::{TestLog, registration},
        },
    };

    fn rebuilt(log: &TestLog) -> State {
        let mut state = State::new(1);
        replay(&mut state, log, &mut |_| {}).unwrap();
        state
    }

    fn put(written: Written, name: &str) -> Action {
        Action::PutSubscriber { written, registration: Box::new(registration(name)), streak: None }
    }

    #[test]
    fn what_counts_of_subscribers_outlives_its_segment() {
        let log = TestLog::new();
        log.command(put(Written::Added, "crm"));
        log.command(put(Written::Added, "gone"));
        log.command(Action::RemoveSubscriber { upstream: "orders/gone".into() });
        let why = "it failed".to_owned();
        log.command(Action::DisableSubscriber { upstream: "orders/crm".into(), why, since_ms: Some(77) });
        let event = log.accept("s");
        log.plan(event, &["orders/crm"]);
        let retry = Change::Retry(Timestamp::from_millis(9));
        log.attempt(event, "orders/crm", 1, retry.clone());
        log.attempt(event, "orders/crm", 2, retry);
        let state = rebuilt(&log);
        let day = std::time::Duration::from_secs(86_400);
        let keep = Keep { settled: day, dead: day };
        let expiry = state.plan_expiry(&*log, 0..log.end(), Timestamp::ZERO, keep, 10).unwrap();
        let carried = expiry.upkeep.iter().filter_map(|new| entry::decode_json::<Command>(&new.payload));
        let carried = carried.filter(|command| !matches!(command.action, Action::Past { .. })).count();
        assert_eq!(carried, 2, "nothing is carried of what was removed");
        // All that is left is what was carried.
        let rest = TestLog::new();
        rest.put_all(expiry.upkeep);
        let (before, after) = (state.subscribed(), rebuilt(&rest).subscribed());
        assert_eq!(after.registered["orders/crm"].registration, before.registered["orders/crm"].registration);
        assert_eq!(after.registered.len(), 1);
        assert_eq!(after.disabled("orders/crm"), Some(("it failed", Timestamp::from_millis(77))));
    }

    #[test]
    fn failures_count_until_a_success_and_a_new_registration_begins_anew() {
        let log = TestLog::new();
        log.command(put(Written::Added, "crm"));
        let event = log.accept("s");
        log.plan(event, &["orders/crm"]);
        let retry = Change::Retry(Timestamp::from_millis(9));
        for number in 1..=3 {
            log.attempt(event, "orders/crm", number, retry.clone());
        }
        // Rehearsed: it has the number of the one before.
        log.attempt(event, "orders/crm", 3, retry.clone());
        let streak = |log: &TestLog| rebuilt(log).subscribed().streaks.get("orders/crm").map(|streak| streak.attempts);
        assert_eq!(streak(&log), Some(3));
        log.command(put(Written::SecretRotated, "crm"));
        assert_eq!(streak(&log), Some(3));
        log.command(Action::RemoveSubscriber { upstream: "orders/crm".into() });
        // All of these were on their way when it was removed.
        let why = "it failed".to_owned();
        log.command(Action::DisableSubscriber { upstream: "orders/crm".into(), why, since_ms: None });
        log.command(Action::EnableSubscriber { upstream: "orders/crm".into() });
        log.command(put(Written::SecretRotated, "crm"));
        assert!(rebuilt(&log).subscribed().closed["orders/crm"].disabled.is_none());
        assert!(rebuilt(&log).subscribed().registered.is_empty());
        log.command(put(Written::Added, "crm"));
        assert_eq!(streak(&log), None);
        assert!(rebuilt(&log).subscribed().closed.is_empty());
        log.attempt(event, "orders/crm", 4, Change::Retry(Timestamp::from_millis(9)));
        log.attempt(event, "orders/crm", 5, Change::Delivered);
        assert_eq!(streak(&log), None);
    }
}
