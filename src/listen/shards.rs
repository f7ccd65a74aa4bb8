//! Owns the threads that requests are worked on: each has a runtime of its own, so that a request stays on one core.

use std::{io, sync::atomic::AtomicUsize, sync::atomic::Ordering, thread::JoinHandle};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// On threads that look up often: tasks polled before sockets, and what other threads brought, are looked at again.
const POLLS_BETWEEN_LOOKS: u32 = 8;

/// A fixed set of threads, each with a single-threaded runtime. Dropping it ends them and what runs on them.
pub struct Shards {
    shards: Vec<Shard>,
    next: AtomicUsize,
}

struct Shard {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shards {
    /// Starts `count` threads (at least one).
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        Self::start_with(count, |_| {})
    }

    /// Starts `count` threads (at least one) that look at their sockets and at what other threads brought after every
    /// few tasks, so that many tasks that are ready at once delay the others less. Costs a system call each time.
    ///
    /// # Errors
    /// As [`Shards::start`].
    pub fn start_attentive(count: usize) -> io::Result<Self> {
        Self::start_with(count, |builder| {
            builder.event_interval(POLLS_BETWEEN_LOOKS).global_queue_interval(POLLS_BETWEEN_LOOKS);
        })
    }

    fn start_with(count: usize, adjust: impl Fn(&mut Builder)) -> io::Result<Self> {
        let shards = (0..count.max(1)).map(|index| Shard::start(index, &adjust)).collect::<io::Result<_>>()?;
        Ok(Self { shards, next: AtomicUsize::new(0) })
    }

    /// As many as there are cores.
    #[must_use]
    pub fn default_count() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// The runtimes, by index of the shard.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.shards.iter().map(|shard| shard.handle.clone()).collect()
    }

    /// The runtimes in turn: for long tasks that may run on any of them.
    #[must_use]
    pub fn any(&self) -> Handle {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
        self.shards.get(index).map_or_else(Handle::current, |shard| shard.handle.clone())
    }
}

impl Shard {
    fn start(index: usize, adjust: impl Fn(&mut Builder)) -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        adjust(builder.enable_all());
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            let _stopped_or_dropped = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            drop(shard.stop.take());
        }
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take()
                && thread.thread().id() != std::thread::current().id()
            {
                let _panicked = thread.join();
            }
        }
    }
}
