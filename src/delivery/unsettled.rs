//! Owns the way of settlements into the log, and what happens when the log refuses one.
//!
//! Promises that what was refused for a passing reason (queue or disk full) is offered again until it is taken: its
//! delivery stays in the agenda's hands meanwhile, and a drain waits for it as for an attempt. What is refused for
//! good (the log is poisoned or closed) is lost as in a crash: the delivery is made again after the restart. Both are
//! counted. Bounded by the window: the agenda hands nothing out in place of a job whose settlement it has not read.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::lane::Lane;
use crate::log::{Append, AppendError, Class, Done, NewEntry, publish::Publication};

/// What was refused is offered again after so long.
const OFFER_AGAIN: Duration = Duration::from_millis(100);

/// A settlement, and what is published with it.
pub(super) type Unsettled = (Option<Box<Publication>>, NewEntry);

impl Lane {
    /// Queues a settlement. The agenda learns of it from the log.
    pub(super) fn write(self: &Arc<Self>, entry: NewEntry, done: Done) {
        let (lane, kept) = (self.clone(), (None, entry.clone()));
        let done = done.or_else(Box::new(move |why, done| lane.refused(why, kept, done)));
        self.env.log.append(Append {
            parts: Vec::new(),
            entry,
            dedupe: None,
            class: Class::Upkeep,
            time: self.env.clock.now(),
            done,
        });
    }

    /// The log refused a settlement. May be called on the committer's thread: only counts, and leaves the rest to a
    /// task.
    pub(super) fn refused(self: &Arc<Self>, why: AppendError, (published, entry): Unsettled, done: Done) {
        self.metrics.settlements_refused.inc();
        let upstream = &*self.name;
        if !matches!(why, AppendError::Busy | AppendError::Full) {
            tracing::error!(upstream, %why, "an attempt's outcome is not stored: it is made again after the restart");
            return done.answer(Err(why));
        }
        if self.unsettled.fetch_add(1, Ordering::AcqRel) == 0 {
            tracing::warn!(upstream, %why, "outcomes of attempts wait for room in the log");
        }
        self.env.begin();
        let lane = self.clone();
        self.shard.spawn(async move {
            tokio::time::sleep(OFFER_AGAIN).await;
            lane.unsettled.fetch_sub(1, Ordering::AcqRel);
            match published {
                Some(published) => lane.write_both(published, entry, done),
                None => lane.write(entry, done),
            }
            lane.env.end();
        });
    }
}
