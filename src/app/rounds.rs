//! Owns a thread that does its work in rounds: every so often, until it is dropped.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{Builder, JoinHandle},
    time::Duration,
};

/// The running thread. Dropping it waits for the end of a round that is under way.
pub(super) struct Rounds {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Rounds {
    /// Starts it; the first round comes after `every`.
    pub(super) fn start(name: &str, every: Duration, mut round: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = stop.clone();
        let run = move || {
            let (flag, bell) = &*stopped;
            loop {
                let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
                let (guard, _) = bell.wait_timeout(guard, every).unwrap_or_else(PoisonError::into_inner);
                if *guard {
                    return;
                }
                drop(guard);
                round();
            }
        };
        Ok(Self { stop, thread: Some(Builder::new().name(name.into()).spawn(run)?) })
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        let (flag, bell) = &*self.stop;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
