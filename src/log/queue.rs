//! Owns the queue between those who append and the committer.
//!
//! Bounded in entries and bytes: a new event that does not fit is answered [`AppendError::Busy`] at once; upkeep is
//! always taken, because it is bounded by the attempts in flight. Two lanes: small appends first, then one part of a
//! large body a turn. Batches are taken whole; one with parts waits in the large lane. The committer is woken only when it waits. Upkeep by itself waits a moment for company (see
//! [`LINGER`]); an event never does, and takes the upkeep along.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Append, AppendError, BATCH_APPENDS_MAX, BATCH_BYTES_MAX, Class, Done, ENTRY_BYTES_MAX};

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

/// Bytes of batches that share one barrier with small appends; one batch may go beyond.
const TURN_BATCH_BYTES: usize = 1024 * 1024;
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
    /// Without parts.
    batches: VecDeque<Vec<Append>>,
    batches_appends: usize,
    /// Large bodies, alone or as a batch.
    large: VecDeque<Vec<Append>>,
    /// Of batches and large bodies.
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
pub enum Taken {
    /// A turn's worth; or nothing within the timeout.
    Work(Work),
    /// Closed, and nothing waits any more.
    Closed,
}

/// What the committer does in one turn.
#[derive(Default)]
pub struct Work {
    /// At most [`TURN_APPENDS`].
    pub small: Vec<Append>,
    /// Each durable as a whole or not at all.
    pub batches: Vec<Vec<Append>>,
    /// An append with parts, or a batch of them, if it was wanted.
    pub large: Option<Vec<Append>>,
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
        if let Some(error) = self.refusal(&waiting, append.class, 1, bytes) {
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
            waiting.large.push_back(vec![append]);
        }
        self.ring(waiting, urgent);
    }

    /// Puts a batch in its lane, or refuses all of it.
    pub fn push_all(&self, batch: Vec<Append>) {
        let Some(class) = batch.first().map(|append| append.class) else { return };
        let payloads = batch.iter().map(|append| append.entry.payload.len());
        let (largest, sum) = (payloads.clone().max().unwrap_or(0), payloads.sum::<usize>());
        let bytes = batch.iter().map(size).sum();
        let too_large = largest > ENTRY_BYTES_MAX || sum > BATCH_BYTES_MAX || batch.len() > BATCH_APPENDS_MAX;
        let mut waiting = self.lock();
        let refusal = match too_large {
            true => Some(AppendError::TooLarge),
            false => self.refusal(&waiting, class, batch.len(), bytes),
        };
        if let Some(error) = refusal {
            drop(waiting);
            Done::answer_all(batch.into_iter().map(|append| (append.done, Err(error))));
            return;
        }
        waiting.large_bytes += bytes;
        if batch.iter().all(|append| append.parts.is_empty()) {
            waiting.batches_appends += batch.len();
            waiting.batches.push_back(batch);
        } else {
            waiting.large.push_back(batch);
        }
        self.ring(waiting, true);
    }

    /// Wakes the committer if it waits for what was just put in.
    fn ring(&self, mut waiting: MutexGuard<'_, Waiting>, urgent: bool) {
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

    /// Why so many appends with so many bytes can't be taken now. A batch may be as large as it likes where nothing
    /// waits.
    fn refusal(&self, waiting: &Waiting, class: Class, appends: usize, bytes: usize) -> Option<AppendError> {
        let waits = waiting.small.len() + waiting.batches_appends;
        match class {
            _ if waiting.closed => Some(AppendError::Closed),
            Class::Event
                if (waits > 0 && waits + appends > self.limits.appends)
                    || waiting.small_bytes + waiting.large_bytes + bytes > self.limits.bytes =>
            {
                Some(AppendError::Busy)
            }
            _ => None,
        }
    }

    /// Takes what waits, one turn's worth; waits itself at most `timeout` if nothing does. A large append is taken only
    /// if the committer `wants_large`. `spare`, empty, becomes the new small lane.
    pub fn take(&self, mut spare: Vec<Append>, wants_large: bool, timeout: Duration) -> Taken {
        let mut waiting = self.lock();
        let nothing =
            waiting.small.is_empty() && waiting.batches.is_empty() && (waiting.large.is_empty() || !wants_large);
        if nothing && !waiting.closed && waiting.knocks == 0 && !timeout.is_zero() {
            waiting = self.wait(waiting, Committer::Sleeps, timeout);
        }
        let alone = !waiting.urgent && !waiting.small.is_empty() && waiting.small.len() < LINGER_APPENDS;
        if alone && wants_large && !waiting.closed && waiting.knocks == 0 && !timeout.is_zero() {
            waiting = self.wait(waiting, Committer::Lingers, self.linger.min(timeout));
        }
        waiting.knocks = 0;
        if waiting.closed && waiting.small.is_empty() && waiting.batches.is_empty() && waiting.large.is_empty() {
            return Taken::Closed;
        }
        let large = if wants_large { waiting.large.pop_front() } else { None };
        let batches = waiting.take_batches();
        let taken = batches.iter().chain(&large).flatten().map(size).sum();
        waiting.large_bytes = waiting.large_bytes.saturating_sub(taken);
        if waiting.small.len() > TURN_APPENDS {
            spare.extend(waiting.small.drain(..TURN_APPENDS));
            waiting.small_bytes = waiting.small_bytes.saturating_sub(spare.iter().map(size).sum());
            return Taken::Work(Work { small: spare, batches, large });
        }
        waiting.small_bytes = 0;
        waiting.urgent = !waiting.large.is_empty() || !waiting.batches.is_empty();
        Taken::Work(Work { small: std::mem::replace(&mut waiting.small, spare), batches, large })
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

impl Waiting {
    fn take_batches(&mut self) -> Vec<Vec<Append>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < TURN_BATCH_BYTES
            && let Some(batch) = self.batches.pop_front()
        {
            bytes += batch.iter().map(size).sum::<usize>();
            self.batches_appends = self.batches_appends.saturating_sub(batch.len());
            taken.push(batch);
        }
        taken
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
        let Taken::Work(first) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert_eq!(first.small.len(), TURN_APPENDS);
        assert!(push(&queue, 1, 0).try_recv().is_err());
        assert!(push(&queue, limits.bytes, 0).try_recv().is_ok_and(|acked| acked == Err(AppendError::Busy)));
        drop(waiting);
    }

    #[test]
    fn the_limits_of_the_configuration_are_kept() {
        let queue = Queue::new(QueueLimits { appends: 2, bytes: 100 });
        let is_taken = |bytes| push(&queue, bytes, 0).try_recv().is_err();
        assert!(is_taken(60) && !is_taken(41) && is_taken(40) && !is_taken(0));
        let Taken::Work(_) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert!(!is_taken(101) && is_taken(100));
    }

    #[test]
    fn batches_are_handed_out_whole_and_count_for_the_limits() {
        let queue = Queue::new(QueueLimits { appends: 5, bytes: 1_000 });
        let batch = |count: usize, bytes: usize| {
            let (appends, answers): (Vec<Append>, Vec<_>) = (0..count)
                .map(|_| {
                    let (done, answer) = Done::channel();
                    let entry = NewEntry { kind: Kind::Accepted, payload: vec![0; bytes].into() };
                    let append =
                        Append { parts: vec![], entry, dedupe: None, class: Class::Event, time: Timestamp::ZERO, done };
                    (append, answer)
                })
                .unzip();
            queue.push_all(appends);
            answers
        };
        let is_busy = |answers: Vec<tokio::sync::oneshot::Receiver<Acked>>| {
            answers.into_iter().all(|mut answer| answer.try_recv() == Ok(Err(AppendError::Busy)))
        };
        assert!(is_busy(batch(2, 501)));
        let _waiting = [batch(3, 10), batch(2, 10)];
        assert!(is_busy(batch(1, 10)));
        assert_eq!(push(&queue, 1, 0).try_recv(), Ok(Err(AppendError::Busy)));
        let Taken::Work(work) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert_eq!(work.batches.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        let _alone = batch(6, 10);
        queue.close();
        let Taken::Work(work) = queue.take(Vec::new(), true, Duration::ZERO) else { panic!() };
        assert_eq!(work.batches.iter().map(Vec::len).collect::<Vec<_>>(), [6], "alone it is taken");
        assert!(matches!(queue.take(Vec::new(), true, Duration::ZERO), Taken::Closed));
    }

    #[test]
    fn large_appends_are_handed_out_one_at_a_time_and_only_when_wanted() {
        let queue = Queue::new(QueueLimits::standard());
        let _waiting = [push(&queue, 1000, 3), push(&queue, 1000, 3), push(&queue, 5, 0)];
        let Taken::Work(work) = queue.take(Vec::new(), false, Duration::ZERO) else { panic!() };
        assert!(work.small.len() == 1 && work.large.is_none());
        for _ in 0..2 {
            assert!(matches!(queue.take(Vec::new(), true, Duration::ZERO), Taken::Work(Work { large: Some(_), .. })));
        }
        assert!(matches!(queue.take(Vec::new(), true, Duration::ZERO), Taken::Work(Work { large: None, .. })));
    }

    /// What the committer takes if upkeep waits, and then, once it lingers, `more` comes.
    fn taken_while_lingering(more: impl FnOnce(&Queue)) -> usize {
        let queue = Queue { linger: Duration::from_secs(3600), ..Queue::new(QueueLimits::standard()) };
        let _upkeep = push_as(&queue, Class::Upkeep, 1, 0);
        std::thread::scope(|scope| {
            let committer = scope.spawn(|| match queue.take(Vec::new(), true, Duration::from_secs(3600)) {
                Taken::Work(work) => work.small.len(),
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
        assert!(matches!(taken, Taken::Work(work) if work.small.len() == 1));
    }
}
