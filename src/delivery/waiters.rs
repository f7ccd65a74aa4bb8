//! Owns the senders who wait for an upstream's answer: who waits for which event, and who is being answered.
//!
//! Promises: an event's sender is known here before the event is handed out (it is entered by the committer, before the
//! log's follower is told); it is answered at most once; whoever sends the same again can wait until the first answer
//! is stored. At most [`WAITERS_MAX`] wait; more get their fallback at once. Where the last [`ANSWERS_MAX`] answers stand
//! is remembered, so that they need not be sought in the log.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::Response;
use tokio::sync::{oneshot, watch};

use super::answer::Answered;
use crate::{
    event::{EventId, Seq},
    telemetry::Metrics,
};

/// Senders who wait at once.
const WAITERS_MAX: usize = 10_000;
/// Events of which it is remembered where their first answer is stored, or that there is none.
const ANSWERS_MAX: usize = 65_536;

/// What a sender waits for.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// Whose answer.
    pub upstream: Arc<str>,
    /// It may be a 5xx, which then ends the delivery …
    pub pass_errors: bool,
    /// … and this dedupe key.
    pub dedupe: Option<u128>,
}

/// All who wait.
pub(crate) struct Waiters {
    /// Entries of the map: nobody looks at it while there are none.
    count: AtomicUsize,
    waiting: Mutex<HashMap<Seq, Waiter>>,
    answers: Mutex<Answers>,
    metrics: Arc<Metrics>,
}

struct Waiter {
    awaited: Awaited,
    /// None: somebody is about to answer.
    sender: Option<oneshot::Sender<Response<Answered>>>,
    /// Closed when the answer is stored, or will not come.
    over: watch::Sender<()>,
}

#[derive(Default)]
struct Answers {
    /// None: the sender got its fallback, and so do those who send again.
    at: HashMap<Seq, Option<Seq>>,
    order: VecDeque<Seq>,
}

/// The place of a sender among those who wait: entered when its event is stored, and given up when dropped.
pub struct Ticket {
    waiters: Arc<Waiters>,
    waiter: Mutex<Option<Waiter>>,
    event: Mutex<Stage>,
}

enum Stage {
    /// Not stored yet.
    Before,
    Entered(Seq),
    /// The sender is gone.
    Left,
}

/// The right to answer a sender, and the duty to say when it is over: by dropping it.
pub(crate) struct Claim {
    waiters: Arc<Waiters>,
    event: Seq,
    pub(crate) awaited: Awaited,
    sender: Option<oneshot::Sender<Response<Answered>>>,
}

/// Waits for the answer; None if there will be none.
pub struct Waiting {
    ticket: Arc<Ticket>,
    answer: oneshot::Receiver<Response<Answered>>,
}

impl Waiters {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), waiting: Mutex::default(), answers: Mutex::default(), metrics })
    }

    /// A place for a sender. None if all are taken.
    pub(crate) fn expect(self: &Arc<Self>, awaited: Awaited) -> Option<Waiting> {
        if self.count.load(Ordering::Relaxed) >= WAITERS_MAX {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter { awaited, sender: Some(sender), over: watch::Sender::new(()) };
        let (waiter, event) = (Mutex::new(Some(waiter)), Mutex::new(Stage::Before));
        Some(Waiting { ticket: Arc::new(Ticket { waiters: self.clone(), waiter, event }), answer })
    }

    /// Takes the right to answer an event's sender, if one waits for this upstream.
    pub(crate) fn claim(self: &Arc<Self>, event: Seq, upstream: &str) -> Option<Claim> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut waiting = lock(&self.waiting);
        let waiter = waiting.get_mut(&event).filter(|waiter| &*waiter.awaited.upstream == upstream)?;
        let sender = waiter.sender.take()?;
        let awaited = waiter.awaited.clone();
        drop(waiting);
        Some(Claim { waiters: self.clone(), event, awaited, sender: Some(sender) })
    }

    /// Nobody will answer the sender of an event for now: it gets its fallback.
    pub(crate) fn unanswered(&self, event: Seq) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut waiting = lock(&self.waiting);
            if waiting.get(&event).is_some_and(|waiter| waiter.sender.is_some()) {
                waiting.remove(&event);
                self.counted(&waiting);
                drop(waiting);
                self.remember(event, None);
            }
        }
    }

    /// The same, if the sender waits for this upstream.
    pub(crate) fn returned(self: &Arc<Self>, event: Seq, upstream: &str) {
        drop(self.claim(event, upstream));
    }

    /// Waits until the first answer to an event is stored, or will not come; at once if nobody waits for it.
    pub(crate) fn over(&self, event: Seq) -> impl Future<Output = ()> + Send + use<> {
        let over = lock(&self.waiting).get(&event).map(|waiter| waiter.over.subscribe());
        async move {
            if let Some(mut over) = over {
                // An error is the end that is waited for.
                while over.changed().await.is_ok() {}
            }
        }
    }

    /// Where the first answer to an event stands, if that is remembered.
    pub(crate) fn answered_at(&self, event: Seq) -> Option<Option<Seq>> {
        lock(&self.answers).at.get(&event).copied()
    }

    /// Remembers where the first answer to an event is stored, or that there is none.
    pub(crate) fn remember(&self, event: Seq, answer: Option<Seq>) {
        let mut answers = lock(&self.answers);
        match answers.at.get_mut(&event) {
            Some(known) => *known = known.or(answer),
            None => {
                answers.at.insert(event, answer);
                answers.order.push_back(event);
            }
        }
        if answers.order.len() > ANSWERS_MAX
            && let Some(oldest) = answers.order.pop_front()
        {
            answers.at.remove(&oldest);
        }
    }

    fn counted(&self, waiting: &HashMap<Seq, Waiter>) {
        self.count.store(waiting.len(), Ordering::Release);
        self.metrics.waiting_senders.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    }
}

impl Waiting {
    /// What is to be told that the event is stored.
    #[must_use]
    pub fn ticket(&self) -> Arc<Ticket> {
        self.ticket.clone()
    }

    /// The answer. Cancel-safe in that whoever stops waiting leaves its place.
    pub async fn answer(mut self) -> Option<Response<Answered>> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.ticket.leave();
    }
}

impl Ticket {
    /// The event is stored: its sender waits from now on.
    pub fn stored(&self, id: EventId) {
        let (mut stage, waiter) = (lock(&self.event), lock(&self.waiter).take());
        if let (Stage::Before, Some(waiter)) = (&*stage, waiter) {
            let mut waiting = lock(&self.waiters.waiting);
            waiting.insert(id.pos.seq, waiter);
            self.waiters.counted(&waiting);
            *stage = Stage::Entered(id.pos.seq);
        }
    }

    fn leave(&self) {
        let stage = std::mem::replace(&mut *lock(&self.event), Stage::Left);
        if let Stage::Entered(event) = stage {
            self.waiters.unanswered(event);
        }
    }
}

impl Claim {
    /// Answers the sender; false if it does not wait any more.
    pub(crate) fn answer(&mut self, response: Response<Answered>) -> bool {
        self.sender.take().is_some_and(|sender| sender.send(response).is_ok())
    }

    /// There is no answer: the sender gets its fallback now.
    pub(crate) fn fall_back(&mut self) {
        self.sender = None;
    }

    /// The answer is stored there.
    pub(crate) fn stored_at(&self, answer: Seq) {
        self.waiters.remember(self.event, Some(answer));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiters.waiting);
        waiting.remove(&self.event);
        self.waiters.counted(&waiting);
        drop(waiting);
        self.waiters.remember(self.event, None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, event::Pos};

    fn id(seq: Seq) -> EventId {
        EventId { time: Timestamp::from_millis(1), pos: Pos { partition: 0, seq } }
    }

    fn waiting(waiters: &Arc<Waiters>) -> Waiting {
        waiters.expect(Awaited { upstream: "u".into(), pass_errors: false, dedupe: None }).unwrap()
    }

    fn response() -> Response<Answered> {
        Response::new(Answered::whole(bytes::Bytes::from_static(b"x")))
    }

    #[tokio::test]
    async fn a_sender_is_answered_once_and_by_the_upstream_it_waits_for() {
        let waiters = Waiters::new(Arc::default());
        let waiting = waiting(&waiters);
        assert!(waiters.claim(7, "u").is_none(), "its event is not stored yet");
        waiting.ticket().stored(id(7));
        assert!(waiters.claim(7, "other").is_none() && waiters.claim(8, "u").is_none());
        let mut claim = waiters.claim(7, "u").unwrap();
        assert!(waiters.claim(7, "u").is_none());
        assert!(claim.answer(response()));
        assert!(waiting.answer().await.is_some());
    }

    #[tokio::test]
    async fn who_sends_again_waits_until_the_answer_is_stored() {
        let waiters = Waiters::new(Arc::default());
        let waiting = waiting(&waiters);
        waiting.ticket().stored(id(7));
        let mut again = std::pin::pin!(waiters.over(7));
        let mut claim = waiters.claim(7, "u").unwrap();
        assert!(claim.answer(response()));
        assert!(futures_pending(again.as_mut()).await);
        claim.stored_at(9);
        drop(claim);
        again.await;
        assert_eq!((waiters.answered_at(7), waiters.answered_at(8)), (Some(Some(9)), None));
        waiters.over(7).await;
    }

    #[tokio::test]
    async fn that_the_first_sender_got_its_fallback_is_remembered_and_need_not_be_sought() {
        let waiters = Waiters::new(Arc::default());
        let (returned, held, late) = (waiting(&waiters), waiting(&waiters), waiting(&waiters));
        [&returned, &held, &late].iter().zip(1..).for_each(|(waiting, seq)| waiting.ticket().stored(id(seq)));
        waiters.returned(1, "u");
        waiters.unanswered(2);
        drop(late);
        assert_eq!([1, 2, 3, 4].map(|event| waiters.answered_at(event)), [Some(None), Some(None), Some(None), None]);
    }

    async fn futures_pending(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut future = future;
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn a_sender_that_leaves_leaves_nothing_behind_whenever_it_does() {
        let waiters = Waiters::new(Arc::default());
        let (before, after) = (waiting(&waiters), waiting(&waiters));
        let ticket = before.ticket();
        drop(before);
        ticket.stored(id(1));
        after.ticket().stored(id(2));
        drop(after);
        let claimed = waiting(&waiters);
        claimed.ticket().stored(id(3));
        let mut claim = waiters.claim(3, "u").unwrap();
        drop(claimed);
        assert!(!claim.answer(response()), "nobody waits");
        drop(claim);
        assert_eq!(waiters.count.load(Ordering::Relaxed), 0);
        assert!(lock(&waiters.waiting).is_empty());
    }

    #[tokio::test]
    async fn a_sender_is_told_at_once_that_no_answer_will_come() {
        let waiters = Waiters::new(Arc::default());
        let (one, other) = (waiting(&waiters), waiting(&waiters));
        one.ticket().stored(id(1));
        other.ticket().stored(id(2));
        waiters.unanswered(1);
        waiters.returned(2, "u");
        assert!(one.answer().await.is_none() && other.answer().await.is_none());
    }

    #[test]
    fn beyond_the_limit_nobody_waits() {
        let waiters = Waiters::new(Arc::default());
        waiters.count.store(WAITERS_MAX, Ordering::Relaxed);
        assert!(waiters.expect(Awaited { upstream: "u".into(), pass_errors: false, dedupe: None }).is_none());
    }
}
