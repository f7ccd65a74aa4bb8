//! Owns the threads on which operators' questions are answered: one for each, behind the threads that acknowledge.
//!
//! Promises that a search through the whole log takes little from senders: it runs at a low priority, and while events
//! come fast it pauses for most of the time, between pieces of work and outside every lock. At most [`QUESTIONS_MAX`]
//! run at once; one that nobody waits for any more ends with its next piece. Deliberately absent: probes, metrics and
//! commands, which do not wait.

use std::{
    cell::RefCell,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};

use super::ports::Ports;
use crate::{
    clock::Clock,
    event::Seq,
    log::{Log, yield_to_others},
};

/// Questions at once: as many as both servers have connections.
const QUESTIONS_MAX: u32 = 128;

/// Work between two pauses: less than a thread's time slice.
const WORK_SLICE: Duration = Duration::from_millis(1);

/// A pause is so many times as long as the work before it.
const PAUSE_SHARE: u32 = 4;

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Entries a second that come into the log of a relay that is busy.
const BUSY: u64 = 2_000;

/// How often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// At a stop, how long questions have to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The questions that are being answered.
pub struct Questions {
    free: Arc<Semaphore>,
    closed: Arc<AtomicBool>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(QUESTIONS_MAX as usize)), closed: Arc::default() }
    }
}

impl Questions {
    /// Ends those under way and waits for that, a few seconds at most; new ones are not answered.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let _late = tokio::time::timeout(ENDS_WITHIN, self.free.acquire_many(QUESTIONS_MAX)).await;
        self.free.close();
    }

    fn run(
        &self,
        permit: OwnedSemaphorePermit,
        is_left: impl Fn() -> bool + 'static + Send,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let (runtime, closed) = (Handle::current(), self.closed.clone());
        let run = move || {
            let _permit = permit;
            // Expressions that need the pool are awaited there.
            let _entered = runtime.enter();
            yield_to_others();
            let is_over = Box::new(move || closed.load(Ordering::Relaxed) || is_left());
            TURN.set(Some(Turn::new(is_over)));
            work();
        };
        let started = thread::Builder::new().name("operators".into()).spawn(run);
        started.map(drop).map_err(|error| format!("no thread is to be had: {error}"))
    }
}

/// Starts work that may read the disk or wait for the committer. Call it inside a runtime. `is_left`: nobody waits for it
/// any more.
///
/// # Errors
/// Why it can't be done now, in words.
pub(super) fn start(
    ports: &dyn Ports,
    is_left: impl Fn() -> bool + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let questions = ports.questions();
    let permit = questions.free.clone().try_acquire_owned();
    let permit = permit.map_err(|_| "too many questions are being answered; ask again in a moment".to_owned())?;
    questions.run(permit, is_left, work)
}

/// The same, and waits for its result. None if there is none: no thread was to be had, or the work came to no end.
pub(super) async fn quietly<T: Send + 'static>(
    ports: &Arc<dyn Ports>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let permit = ports.questions().free.clone().acquire_owned().await.ok()?;
    let (done, result) = oneshot::channel();
    let left = Left(Arc::default());
    let is_left = left.0.clone();
    let work = move || drop(done.send(work()));
    ports.questions().run(permit, move || is_left.load(Ordering::Relaxed), work).ok()?;
    result.await.ok()
}

/// Says, when it is dropped, that nobody waits.
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    /// Of a thread that answers a question.
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// How a question gets on.
struct Turn {
    is_over: Box<dyn Fn() -> bool>,
    clock: Clock,
    /// When the piece of work began.
    since: Duration,
    looked_at: Duration,
    /// Where the log ended then.
    end: Seq,
    is_busy: bool,
}

impl Turn {
    fn new(is_over: Box<dyn Fn() -> bool>) -> Self {
        let clock = Clock::system();
        let now = clock.elapsed();
        Self { is_over, clock, since: now, looked_at: now, end: 0, is_busy: true }
    }

    fn breathe(&mut self, log: &dyn Log) -> ControlFlow<()> {
        if (self.is_over)() {
            return ControlFlow::Break(());
        }
        let now = self.clock.elapsed();
        let worked = now.saturating_sub(self.since);
        if worked < WORK_SLICE {
            return ControlFlow::Continue(());
        }
        let looked = now.saturating_sub(self.looked_at);
        if looked >= LOOK_EVERY {
            let end = log.end();
            self.is_busy = is_busy(end.saturating_sub(self.end), looked);
            (self.looked_at, self.end) = (now, end);
        }
        if self.is_busy {
            thread::park_timeout(PAUSE_MAX.min(worked * PAUSE_SHARE));
        }
        self.since = self.clock.elapsed();
        ControlFlow::Continue(())
    }
}

/// Whether so many entries in this time are many.
fn is_busy(entries: Seq, time: Duration) -> bool {
    u128::from(entries) * 1_000_000 > u128::from(BUSY) * time.as_micros()
}

/// Called between small pieces of a long question, with no lock held: gives way to senders while they are busy. Break:
/// nobody waits for the answer any more. Does nothing on other threads.
pub(super) fn breathe(log: &dyn Log) -> ControlFlow<()> {
    TURN.with_borrow_mut(|turn| turn.as_mut().map_or(ControlFlow::Continue(()), |turn| turn.breathe(log)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{super::fake::Fake, *};

    fn priority() -> i32 {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap()
    }

    fn ports() -> (Arc<dyn Ports>, Arc<dyn Log>) {
        let fake = Fake::default();
        let log = crate::admin::ports::Reads::log(&fake);
        (Arc::new(fake), log)
    }

    #[tokio::test]
    async fn questions_are_answered_below_the_threads_that_acknowledge_and_may_wait_for_the_runtime() {
        let ((ports, _), own) = (ports(), priority());
        let answered = quietly(&ports, move || (priority(), Handle::current().block_on(async { 7 }))).await;
        assert_eq!(answered, Some((own.max(10), 7)));
        assert_eq!(priority(), own, "nobody else gives way");
        assert_eq!(quietly(&ports, || std::panic::resume_unwind(Box::new("lost"))).await, None::<()>);
    }

    #[tokio::test]
    async fn a_question_that_nobody_waits_for_any_more_ends() {
        let (ports, log) = ports();
        let (began, mut has_begun) = tokio::sync::mpsc::channel(1);
        let (ended, has_ended) = mpsc::sync_channel(1);
        let endless = move || {
            began.blocking_send(()).unwrap();
            while breathe(&*log).is_continue() {}
            ended.send(()).unwrap();
        };
        let asked = tokio::spawn({
            let ports = ports.clone();
            async move { quietly(&ports, endless).await }
        });
        has_begun.recv().await.unwrap();
        asked.abort();
        tokio::task::spawn_blocking(move || has_ended.recv().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn no_question_outlives_a_stop_and_none_begins_after_it() {
        let (ports, log) = ports();
        let (ended, has_ended) = mpsc::sync_channel(1);
        let endless = move || {
            while breathe(&*log).is_continue() {}
            ended.send(()).unwrap();
        };
        start(&*ports, || false, endless).unwrap();
        ports.questions().close().await;
        has_ended.try_recv().unwrap();
        assert!(start(&*ports, || false, || ()).is_err());
        assert_eq!(quietly(&ports, || ()).await, None);
    }

    #[tokio::test]
    async fn as_many_questions_as_connections_run_at_once() {
        let (ports, log) = ports();
        for _ in 0..QUESTIONS_MAX {
            let log = log.clone();
            start(&*ports, || false, move || while breathe(&*log).is_continue() {}).unwrap();
        }
        let refused = start(&*ports, || false, || ()).unwrap_err();
        assert!(refused.contains("too many questions"), "{refused}");
        ports.questions().close().await;
    }

    #[test]
    fn a_relay_is_busy_with_thousands_of_entries_a_second() {
        assert!(!is_busy(0, LOOK_EVERY) && !is_busy(40, LOOK_EVERY) && is_busy(41, LOOK_EVERY));
        assert!(!is_busy(2_000, Duration::from_secs(1)) && is_busy(2_001, Duration::from_secs(1)));
    }

    #[test]
    fn other_threads_do_not_wait() {
        let (_, log) = ports();
        assert!(breathe(&*log).is_continue());
    }
}
