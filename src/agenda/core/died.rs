//! Owns which dead deliveries are told of: those of upstreams that have it so, each up to a number a minute, and one word
//! about all others of that minute.
//!
//! Promises that this is decided where deaths are applied, whatever they come from, and that nothing is told of the death
//! of a notice. What is told, and how, is [`crate::agenda::notices`]'s business.

use std::{collections::BTreeMap, time::Duration};

use super::Core;
use crate::{
    clock::Timestamp,
    event::{Reason, Seq},
    state::{Key, StateError, UpstreamId},
};

/// Deaths are counted over so long.
const MINUTE: Duration = Duration::from_secs(60);

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Of one death.
    Death(Death),
    /// Of all others of a minute.
    More(More),
}

/// A dead delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Under which topic it is told.
    pub topic: Box<str>,
    /// Whose delivery.
    pub upstream: Box<str>,
    /// Where its event is stored.
    pub stored_at: Seq,
    /// The entry that it died of.
    pub entry: Seq,
    /// When, wall time.
    pub at: Timestamp,
    /// After so many attempts.
    pub attempts: u32,
    /// Why, without detail.
    pub reason: Reason,
}

/// Dead deliveries of one upstream that are not told of one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct More {
    /// Under which topic it is told.
    pub topic: Box<str>,
    /// Whose deliveries.
    pub upstream: Box<str>,
    /// By the codes of their reasons.
    pub reasons: BTreeMap<&'static str, u64>,
    /// The entry that the first of them died of, and when (wall time).
    pub first: (Seq, Timestamp),
    /// When the last of them died, wall time.
    pub until: Timestamp,
}

/// What was told of an upstream in the current minute.
pub(super) struct Told {
    since: Timestamp,
    count: u32,
    more: Option<More>,
}

impl Core {
    /// A delivery died of an entry.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn died(&mut self, key: Key, (entry, at): (Seq, Timestamp), now: Timestamp) -> Result<(), StateError> {
        let Some(name) = self.state.upstream(key.upstream).map(|upstream| upstream.name.clone()) else {
            return Ok(());
        };
        let policy = self.table().upstreams.get(&*name).and_then(|upstream| upstream.notify.clone());
        let (Some(policy), Some(record)) = (policy, self.state.record(key)?) else { return Ok(()) };
        let reason = Reason::from_number(record.reason);
        if self.told.get(&key.upstream).is_some_and(|told| now.since(told.since) >= MINUTE) {
            self.end_minute(key.upstream);
        }
        let told = self.told.entry(key.upstream).or_insert(Told { since: now, count: 0, more: None });
        let (topic, upstream): (_, Box<str>) = (policy.topic, (&*name).into());
        if told.count >= policy.per_minute {
            let more = More { topic, upstream, reasons: BTreeMap::new(), first: (entry, at), until: at };
            let more = told.more.get_or_insert(more);
            *more.reasons.entry(reason.code).or_default() += 1;
            more.until = at;
            return Ok(());
        }
        told.count += 1;
        let stored_at = self.state.stored_at(key.event)?;
        let death = Death { topic, upstream, stored_at, entry, at, attempts: record.attempts, reason };
        self.out.notices.push(Notice::Death(death));
        Ok(())
    }

    /// Ends the minutes that are over: what was not told one by one is told as one.
    pub fn end_minutes(&mut self, now: Timestamp) {
        let over = self.told.iter().filter(|(_, told)| now.since(told.since) >= MINUTE);
        let over: Vec<UpstreamId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_minute(id));
    }

    fn end_minute(&mut self, id: UpstreamId) {
        if let Some(more) = self.told.remove(&id).and_then(|told| told.more) {
            self.out.notices.push(Notice::More(more));
        }
    }
}
