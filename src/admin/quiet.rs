//! Owns the threads on which operators' questions are answered: one for each, below the threads that acknowledge.
//!
//! Promises that a search through the whole log takes hardly any time from senders when the cores are busy. As many as
//! there are connections; none is used again, since a thread's priority can be lowered and not raised. Deliberately
//! absent: probes and metrics, which may not wait.

use std::{io, thread};

use tokio::{runtime::Handle, sync::oneshot};

use crate::log::yield_to_others;

/// Starts work that may read the disk or wait for the committer. Call it inside a runtime.
///
/// # Errors
/// The system has no thread to give.
pub(super) fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = Handle::current();
    let run = move || {
        // Expressions that need the pool are awaited there.
        let _entered = runtime.enter();
        yield_to_others();
        work();
    };
    thread::Builder::new().name("operators".into()).spawn(run).map(drop)
}

/// The same, and waits for its result. None if there is none: no thread was to be had, or the work came to no end.
pub(super) async fn quietly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    start(move || drop(done.send(work()))).ok()?;
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap()
    }

    #[tokio::test]
    async fn questions_are_answered_below_the_threads_that_acknowledge_and_may_wait_for_the_runtime() {
        let own = priority();
        let answered = quietly(move || (priority(), Handle::current().block_on(async { 7 }))).await;
        assert_eq!(answered, Some((own.max(10), 7)));
        assert_eq!(priority(), own, "nobody else gives way");
        assert_eq!(quietly(|| std::panic::resume_unwind(Box::new("lost"))).await, None::<()>);
    }
}
