//! Owns the queue between those who append and the committer.
//!
//! Bounded in entries and bytes: a new event that does not fit is answered [`AppendError::Busy`] at once; upkeep is
//! always taken, because it is bounded by the attempts in flight. Two lanes: small appends first, then one part of a
//! large body a turn. The committer is woken only when it waits. Upkeep by itself waits a moment for company (see
//! [`LINGER`]); an event never does, and takes the upkeep along.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Append, AppendError, Class};

/// What may wait for the committer (`store.queue_events`, `store.queue_size`). A new event beyond is
/// [`AppendError::Busy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Small appends; large ones are bounded by their bytes.
    pub appends: usize,
    /// Bytes of payloads, small and large together. An append that is larger than this alone is never taken.
    pub bytes: usize,
}

impl QueueLimits {
    /// 20,000 appends and 64 MiB: what a disk that takes a second for a commit needs at the peak rate of two cores.
    #[must_use]
    pub const fn standard() -> Self {
        Self { appends: 20_000, bytes: 64 * 1024 * 1024 }
    }
}

/// Small appends that share one barrier at the most; the rest waits for the next.
pub const TURN_APPENDS: usize = 4096;

/// Upkeep alone waits so long for more of it or for an event before it costs a barrier of its own: nobody waits for it,
/// and each barrier makes the events that come meanwhile wait for it.
const LINGER: Duration = Duration::from_millis(2);
/// So much upkeep waits no longer: as it makes a good frame by itself.
const LINGER_APPENDS: usize = 1024;

/// What waits for the committer.
pub struct Queue {
    limits: QueueLimits,
    waiting: Mutex<Waiting>,
    bell: Condvar,
    linger: Duration,
}

#[derive(Default)]
struct Waiting {
    small: Vec<Append>,
    small_bytes: usize,
    large: VecDeque<Append>,
    large_bytes: usize,
    /// Something waits that somebody waits for.
    urgent: bool,
    committer: Committer,
    closed: bool,
    knocks: u64,
}

/// What the committer is doing, as far as it matters to those who append.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Committer {
    #[default]
    Works,
    /// Until there is work.
    Sleeps,
    /// Until there is urgent work.
    Lingers,
}

/// What the committer got.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the committer's stack")]
pub enum Taken {
    /// Small appends, at most [`TURN_APPENDS`], and a large one if it was wanted; or nothing within the timeout.
    Work(Vec<Append>, Option<Append>),
    /// Closed, and nothing waits any more.
    Closed,
}

impl Queue {
    /// Empty.
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, waiting: Mutex::default(), bell: Condvar::new(), linger: LINGER }
    }

    /// Puts an append in its lane.
    pub fn push(&self, append: Append) {
        let bytes = size(&append);
        let mut waiting = self.lock();
        let refused = match append.class {
            _ if waiting.closed => Some(AppendError::Closed),
            Class::Event
                if waiting.small.len() >= self.limits.appends
                    || waiting.small_bytes + waiting.large_bytes + bytes > self.limits.bytes =>
            {
                Some(AppendError::Busy)
            }
            _ => None,
        };
        if let Some(error) = refused {
            drop(waiting);
            append.done.answer(Err(error));
            return;
        }
        let urgent = append.class == Class::Event || !append.parts.is_empty();
        if append.parts.is_empty() {
            waiting.small_bytes += bytes;
            waiting.small.push(append);
        } else {
            waiting.large_bytes += bytes;
            waiting.large.push_back(append);
        }
        waiting.urgent |= urgent;
        let wake = match waiting.committer {
            Committer::Works => false,
            Committer::Sleeps => true,
            Committer::Lingers => urgent || waiting.small.len() >= LINGER_APPENDS,
        };
        if wake {
            waiting.committer = Committer::Works;
        }
        drop(waiting);
        if wake {
            self.bell.notify_one();
        }
    }

    /// Takes what waits, one turn's worth; waits itself at most `timeout` if nothing does. A large append is taken only
    /// if the committer `wants_large`. `spare`, empty, becomes the new small lane.
    pub fn take(&self, mut spare: Vec<Append>, wants_large: bool, timeout: Duration) -> Taken {
        let mut waiting = self.lock();
        let nothing = waiting.small.is_empty() && (waiting.large.is_empty() || !wants_large);
        if nothing && !waiting.closed && waiting.knocks == 0 && !timeout.is_zero() {
            waiting = self.wait(waiting, Committer::Sleeps, timeout);
        }
        let alone = !waiting.urgent && !waiting.small.is_empty() && waiting.small.len() < LINGER_APPENDS;
        if alone && wants_large && !waiting.closed && waiting.knocks == 0 && !timeout.is_zero() {
            waiting = self.wait(waiting, Committer::Lingers, self.linger.min(timeout));
        }
        waiting.knocks = 0;
        if waiting.closed && waiting.small.is_empty() && waiting.large.is_empty() {
            return Taken::Closed;
        }
        let large = if wants_large { waiting.large.pop_front() } else { None };
        waiting.large_bytes = waiting.large_bytes.saturating_sub(large.as_ref().map_or(0, size));
        if waiting.small.len() > TURN_APPENDS {
            spare.extend(waiting.small.drain(..TURN_APPENDS));
            waiting.small_bytes = waiting.small_bytes.saturating_sub(spare.iter().map(size).sum());
            return Taken::Work(spare, large);
        }
        waiting.small_bytes = 0;
        waiting.urgent = !waiting.large.is_empty();
        Taken::Work(std::mem::replace(&mut waiting.small, spare), large)
    }

    /// Wakes the committer although nothing was appended.
    pub fn knock(&self) {
        self.lock().knocks += 1;
        self.bell.notify_one();
    }

    /// Refuses new appends; what waits is still committed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    fn wait<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        how: Committer,
        timeout: Duration,
    ) -> MutexGuard<'a, Waiting> {
        waiting.committer = how;
        let (mut waiting, _) = self.bell.wait_timeout(waiting, timeout).unwrap_or_else(PoisonError::into_inner);
        waiting.committer = Committer::Works;
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(append: &Append) -> usize {
    append.entry.payload.len() + append.parts.iter().map(|part| part.payload.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        log::{Acked, Done, Kind, NewEntry},
    };

    fn push(queue: &Queue, bytes: usize, parts: usize) -> tokio::sync::oneshot::Receiver<Acked> {
        push_as(queue, Class::Event, bytes, parts)
    }

    fn push_as(queue: &Queue, class: Class, bytes: usize, parts: usize) -> tokio::sync::oneshot::Receiver<Acked> {
        let (done, answer) = Done::channel();
        let entry = |bytes| NewEntry { kind: Kind::Accepted, payload: vec![0; bytes].into() };
        queue.push(Append {
            parts: (0..parts).map(|_| entry(bytes)).collect(),
            entry: entry(bytes),
            dedupe: None,
            class,
            time: Timestamp::ZERO,
            done,
        });
        answer
    }

    #[test]
    fn what_does_not_fit_is_busy_at_once_and_room_returns_with_what_is_taken() {
        let limits = QueueLimits::standard();
        let queue = Queue::new(limits);
        let waiting: Vec<_> = (0..limits.appends).map(|_| push(&queue, 1, 0)).collect();
        assert_eq!(push(&queue, 1, 0).try_recv(), Ok(Err(AppendError::Busy)));
        let Taken::Work(first, None) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert_eq!(first.len(), TURN_APPENDS);
        assert!(push(&queue, 1, 0).try_recv().is_err());
        assert!(push(&queue, limits.bytes, 0).try_recv().is_ok_and(|acked| acked == Err(AppendError::Busy)));
        drop(waiting);
    }

    #[test]
    fn the_limits_of_the_configuration_are_kept() {
        let queue = Queue::new(QueueLimits { appends: 2, bytes: 100 });
        let is_taken = |bytes| push(&queue, bytes, 0).try_recv().is_err();
        assert!(is_taken(60) && !is_taken(41) && is_taken(40) && !is_taken(0));
        let Taken::Work(_, None) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert!(!is_taken(101) && is_taken(100));
    }

    #[test]
    fn large_appends_are_handed_out_one_at_a_time_and_only_when_wanted() {
        let queue = Queue::new(QueueLimits::standard());
        let _waiting = [push(&queue, 1000, 3), push(&queue, 1000, 3), push(&queue, 5, 0)];
        let Taken::Work(small, None) = queue.take(Vec::new(), false, Duration::ZERO) else { panic!() };
        assert_eq!(small.len(), 1);
        for _ in 0..2 {
            assert!(matches!(queue.take(Vec::new(), true, Duration::ZERO), Taken::Work(_, Some(_))));
        }
        assert!(matches!(queue.take(Vec::new(), true, Duration::ZERO), Taken::Work(_, None)));
    }

    /// What the committer takes if upkeep waits, and then, once it lingers, `more` comes.
    fn taken_while_lingering(more: impl FnOnce(&Queue)) -> usize {
        let queue = Queue { linger: Duration::from_secs(3600), ..Queue::new(QueueLimits::standard()) };
        let _upkeep = push_as(&queue, Class::Upkeep, 1, 0);
        std::thread::scope(|scope| {
            let committer = scope.spawn(|| match queue.take(Vec::new(), true, Duration::from_secs(3600)) {
                Taken::Work(small, None) => small.len(),
                _ => 0,
            });
            while queue.lock().committer != Committer::Lingers {
                std::thread::yield_now();
            }
            more(&queue);
            committer.join().unwrap()
        })
    }

    #[test]
    fn upkeep_alone_waits_for_company_and_an_event_takes_it_along_at_once() {
        let taken = taken_while_lingering(|queue| {
            let _more = push_as(queue, Class::Upkeep, 1, 0);
            assert!(queue.lock().committer == Committer::Lingers, "more upkeep is no reason to hurry");
            let _event = push(queue, 1, 0);
        });
        assert_eq!(taken, 3);
    }

    #[test]
    fn much_upkeep_a_knock_and_the_end_let_the_committer_linger_no_longer() {
        let much = |queue: &Queue| (1..LINGER_APPENDS).for_each(|_| drop(push_as(queue, Class::Upkeep, 1, 0)));
        assert_eq!(taken_while_lingering(much), LINGER_APPENDS);
        assert_eq!(taken_while_lingering(Queue::knock), 1);
        assert_eq!(taken_while_lingering(Queue::close), 1);
    }

    #[test]
    fn upkeep_lingers_only_so_long() {
        let queue = Queue::new(QueueLimits::standard());
        let _upkeep = push_as(&queue, Class::Upkeep, 1, 0);
        let taken = queue.take(Vec::new(), true, Duration::from_secs(3600));
        assert!(matches!(taken, Taken::Work(small, None) if small.len() == 1));
    }
}
