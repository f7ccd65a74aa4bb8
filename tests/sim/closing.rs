//! What must be true of subscribers that are registered at run time, in the words of the model: a run of failures without any
//! success disables one, and nothing else does; who is disabled or removed gets nothing more.

use std::collections::{BTreeMap, BTreeSet};

use stagepost::{
    clock::Timestamp,
    event::{Attempt, Outcome},
    log::entry::{Action, Written},
    state::Subscribed,
};

use crate::table::DISABLE_AFTER;

/// Fewer failures than this disable nobody.
const FAILURES_MIN: u64 = 5;

/// The model of subscribers.
#[derive(Default)]
pub struct Closing {
    registered: BTreeSet<String>,
    /// Whether it is disabled; else it is removed.
    closed: BTreeMap<String, bool>,
    was_closed: BTreeSet<String>,
    /// Since when, and how many.
    failures: BTreeMap<String, (Timestamp, u64)>,
    /// One failure too many: it may be disabled …
    due: BTreeSet<String>,
    /// … and must be.
    overdue: BTreeSet<String>,
}

impl Closing {
    /// The process died: what it was about to do it may have forgotten, until the next failure.
    pub fn crashed(&mut self) {
        self.overdue.clear();
    }

    /// Whether it gets nothing more.
    pub fn is_closed(&self, upstream: &str) -> bool {
        self.closed.contains_key(upstream)
    }

    /// Whether what it has not got may have died of that.
    pub fn was_closed(&self, upstream: &str) -> bool {
        self.was_closed.contains(upstream)
    }

    /// An attempt that counts is over, by an entry of this time.
    pub fn attempted(&mut self, upstream: &str, attempt: &Attempt, at: Timestamp) {
        if attempt.outcome == Outcome::Delivered {
            self.failures.remove(upstream);
            return;
        }
        let failures = self.failures.entry(upstream.to_owned()).or_insert((at, 0));
        failures.1 += 1;
        let is_too_much = failures.1 >= FAILURES_MIN && at.since(failures.0) >= DISABLE_AFTER;
        if is_too_much && self.registered.contains(upstream) && !self.is_closed(upstream) {
            self.due.insert(upstream.to_owned());
            self.overdue.insert(upstream.to_owned());
        }
    }

    /// A command about a subscriber stands in the log.
    pub fn command(&mut self, action: &Action, by: &str) -> Result<(), String> {
        let (upstream, closed) = match action {
            Action::PutSubscriber { written, registration, .. } => {
                let upstream = registration.upstream();
                if *written != Written::Added && self.closed.get(&*upstream) == Some(&false) {
                    return Ok(());
                }
                self.registered.insert(upstream.to_string());
                if *written != Written::Added {
                    return Ok(());
                }
                (upstream, None)
            }
            Action::RemoveSubscriber { upstream } => {
                if !self.registered.remove(&**upstream) {
                    return Ok(());
                }
                (upstream.clone(), Some(false))
            }
            Action::DisableSubscriber { upstream, .. } if self.closed.get(&**upstream) == Some(&false) => return Ok(()),
            Action::DisableSubscriber { upstream, why, .. } => {
                if !self.due.remove(&**upstream) || by != "relay" {
                    return Err(format!(
                        "{upstream} is disabled by {by} after {:?}: {why}",
                        self.failures.get(&**upstream)
                    ));
                }
                (upstream.clone(), Some(true))
            }
            // One that was removed meanwhile stays so.
            Action::EnableSubscriber { upstream } if self.closed.get(&**upstream) == Some(&false) => return Ok(()),
            Action::EnableSubscriber { upstream } => (upstream.clone(), None),
            _ => return Ok(()),
        };
        let upstream = String::from(upstream);
        self.failures.remove(&upstream);
        self.overdue.remove(&upstream);
        match closed {
            None => drop(self.closed.remove(&upstream)),
            Some(disabled) => {
                self.was_closed.insert(upstream.clone());
                self.closed.insert(upstream, disabled);
            }
        }
        Ok(())
    }

    /// Who fails for too long and is not disabled, in words.
    pub fn unfinished(&self) -> Option<String> {
        self.overdue.first().map(|upstream| format!("{upstream} fails for too long and is not disabled"))
    }

    /// The state knows the same.
    pub fn same(&self, known: &Subscribed) -> Result<(), String> {
        let registered: BTreeSet<String> = known.registered.keys().map(|name| name.to_string()).collect();
        let closed = known.closed.iter().map(|(name, closed)| (name.to_string(), closed.disabled.is_some()));
        let closed: BTreeMap<String, bool> = closed.collect();
        if (&registered, &closed) == (&self.registered, &self.closed) {
            return Ok(());
        }
        let ours = (&self.registered, &self.closed);
        Err(format!("subscribers are {ours:?}, but the state says {:?}", (registered, closed)))
    }
}
