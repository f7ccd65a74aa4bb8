//! Owns the threads on which operators' questions are answered: one for each, on the time
//! that is left over.
//!
//! Promises that a search through the whole log makes no sender wait. As many as there are connections; none is used again,
//! since a thread's priority can be lowered and not raised. Deliberately absent: probes and metrics, which may not wait, and
//! commands, which an overloaded relay needs most.

use std::{io, thread};

use tokio::{runtime::Handle, sync::oneshot};

use crate::log::run_when_idle;

/// Starts work that may read the disk or wait for the committer. Call it inside a runtime.
///
/// # Errors
/// The system has no thread to give.
pub(super) fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = Handle::current();
    let run = move || {
        // Expressions that need the pool are awaited there.
        let _entered = runtime.enter();
        run_when_idle();
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

    /// What the system says of this thread: a number of sched(7), in field 41 of proc_pid_stat(5).
    fn policy() -> String {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().to_owned()
    }

    #[tokio::test]
    async fn questions_are_answered_on_the_time_that_is_left_over_and_may_wait_for_the_runtime() {
        let answered = quietly(move || (policy(), Handle::current().block_on(async { policy() }))).await;
        assert_eq!(answered, Some(("5".to_owned(), "5".to_owned())), "SCHED_IDLE");
        assert_eq!(policy(), "0", "nobody else gives way");
        assert_eq!(quietly(|| std::panic::resume_unwind(Box::new("lost"))).await, None::<()>);
    }
}
