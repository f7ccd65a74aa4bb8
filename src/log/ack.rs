//! Owns the way back from the committer to whoever waits for an append.
//!
//! Promises one cross-thread wake-up for each commit and thread, not one for each request: answers for the same
//! [`AckLane`] are handed over together, and the lane's own task wakes its neighbours locally.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::{AppendError, Appended};
use crate::event::EventId;

/// The answer to an append.
pub type Acked = Result<Appended, AppendError>;

/// What is done about a refusal, with what is left of the [`Done`] it came with: whoever waits. Called on the thread
/// that refuses, which may be the committer's: must not block.
pub type Refused = Box<dyn FnOnce(AppendError, Done) + Send>;

/// Is told the id of what was stored, on the committer's thread and before any follower: must not block.
pub type Stored = Box<dyn FnOnce(EventId) + Send>;

/// Where the answer to one append goes.
#[derive(Default)]
pub struct Done {
    waiter: Option<oneshot::Sender<Acked>>,
    lane: Option<Arc<AckLane>>,
    refused: Option<Refused>,
    stored: Option<Stored>,
}

impl Done {
    /// Nobody waits.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// A waiter that is woken directly.
    #[must_use]
    pub fn channel() -> (Self, oneshot::Receiver<Acked>) {
        let (sender, receiver) = oneshot::channel();
        (Self { waiter: Some(sender), ..Self::default() }, receiver)
    }

    /// A waiter that is woken through the lane of its thread.
    #[must_use]
    pub fn through(lane: &Arc<AckLane>) -> (Self, oneshot::Receiver<Acked>) {
        let (sender, receiver) = oneshot::channel();
        (Self { waiter: Some(sender), lane: Some(lane.clone()), ..Self::default() }, receiver)
    }

    /// A refusal goes there instead of to whoever waits.
    #[must_use]
    pub fn or_else(self, refused: Refused) -> Self {
        Self { refused: Some(refused), ..self }
    }

    /// Somebody is told first if it is stored: before whoever waits, and before the log's follower.
    #[must_use]
    pub fn first_telling(self, stored: Stored) -> Self {
        Self { stored: Some(stored), ..self }
    }

    /// Answers at once, on this thread.
    pub fn answer(mut self, acked: Acked) {
        self.tell(acked);
        if let (Err(error), Some(refused)) = (&acked, self.refused.take()) {
            return refused(*error, self);
        }
        if let Some(waiter) = self.waiter {
            let _gone = waiter.send(acked);
        }
    }

    fn tell(&mut self, acked: Acked) {
        if let (Some(stored), Ok(Appended::Appended(id))) = (self.stored.take(), acked) {
            stored(id);
        }
    }

    /// Answers many, with one wake-up for each lane.
    pub fn answer_all(batch: impl Iterator<Item = (Self, Acked)>) {
        let mut lanes: Vec<(Arc<AckLane>, Vec<Waiting>)> = Vec::new();
        for (mut done, acked) in batch {
            done.tell(acked);
            if acked.is_err() && done.refused.is_some() {
                done.answer(acked);
                continue;
            }
            let Some(waiter) = done.waiter else { continue };
            match done.lane {
                None => {
                    let _gone = waiter.send(acked);
                }
                Some(lane) => match lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &lane)) {
                    Some((_, waiting)) => waiting.push((waiter, acked)),
                    None => lanes.push((lane, vec![(waiter, acked)])),
                },
            }
        }
        for (lane, waiting) in lanes {
            lane.inbox.lock().unwrap_or_else(PoisonError::into_inner).extend(waiting);
            lane.bell.notify_one();
        }
    }
}

type Waiting = (oneshot::Sender<Acked>, Acked);

/// One thread's inbox for answers. Bounded by the number of requests in flight on that thread.
#[derive(Default)]
pub struct AckLane {
    inbox: Mutex<Vec<Waiting>>,
    bell: Notify,
}

impl AckLane {
    /// A lane; spawn [`AckLane::run`] on the thread whose requests use it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Hands answers to their waiters, for ever. Cancel-safe: what was taken is sent before the next await.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.bell.notified().await;
            let waiting = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
            for (waiter, acked) in waiting {
                let _gone = waiter.send(acked);
            }
        }
    }
}
