//! Owns what is noted of a connection's life and the decision when it has lasted too long without progress.
//!
//! Noting is a few relaxed stores; time is read only when something waits, never for each request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Limits;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: between requests.
    Idle,
    /// Part of a header block has come.
    Head,
    /// A request is worked on.
    Busy,
    /// The peer does not take its answer.
    Stalled,
}

/// What is noted while a connection is read, written and served.
#[derive(Default)]
pub(super) struct Activity {
    in_flight: AtomicU32,
    progress: AtomicU32,
    head: AtomicBool,
    blocked: AtomicBool,
    ended: AtomicBool,
}

impl Activity {
    /// Bytes came.
    pub(super) fn read(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.head.store(true, Relaxed);
        }
    }

    /// The peer will send no more.
    pub(super) fn ended(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Bytes were written, or could not be.
    pub(super) fn wrote(&self, pending: bool) {
        self.blocked.store(pending, Relaxed);
        if !pending {
            self.progress.store(self.progress.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// A request begins; it ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.head.store(false, Relaxed);
        self.progress.store(self.progress.load(Relaxed).wrapping_add(1), Relaxed);
        InFlight(self.clone())
    }

    /// Whether the peer has said that it sends no more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    pub(super) fn phase(&self) -> Phase {
        match (self.in_flight.load(Relaxed), self.blocked.load(Relaxed), self.head.load(Relaxed)) {
            (_, true, _) => Phase::Stalled,
            (0, false, true) => Phase::Head,
            (0, false, false) => Phase::Idle,
            _ => Phase::Busy,
        }
    }

    fn progress(&self) -> u32 {
        self.progress.load(Relaxed)
    }
}

/// A request under way.
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// The header block took too long.
    HeadTooSlow,
    /// Nothing happened for too long.
    Idle,
}

/// Decides when a connection has lasted too long without progress.
pub(super) struct Watch {
    header_timeout: Duration,
    idle_timeout: Duration,
    head_since: Option<Instant>,
    quiet_since: Instant,
    seen: u32,
}

impl Watch {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            head_since: None,
            quiet_since: now,
            seen: 0,
        }
    }

    /// Whether this phase changes the deadline, so that [`Watch::look`] must be asked now and not when it is due.
    pub(super) fn is_news(&self, phase: Phase) -> bool {
        (phase == Phase::Head) != self.head_since.is_some()
    }

    /// Judges the connection as it is now.
    pub(super) fn look(&mut self, activity: &Activity, phase: Phase, now: Instant) -> Verdict {
        if phase == Phase::Head {
            let since = *self.head_since.get_or_insert(now);
            let due = since + self.header_timeout;
            return if now >= due { Verdict::HeadTooSlow } else { Verdict::Wait(due) };
        }
        self.head_since = None;
        let progress = activity.progress();
        if phase == Phase::Busy || progress != self.seen {
            self.seen = progress;
            self.quiet_since = now;
        }
        let due = self.quiet_since + self.idle_timeout;
        match now >= due {
            true => Verdict::Idle,
            // An eighth: a request that came and went since the last look is noticed soon enough.
            false => Verdict::Wait(due.min(now + (self.idle_timeout / 8).max(Duration::from_millis(1)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_connections: 1,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 65_536,
            idle_timeout: Duration::from_secs(80),
        }
    }

    /// Looks again whenever the watch asks to, until it does not wait any more.
    fn run(watch: &mut Watch, activity: &Activity, mut now: Instant) -> (Verdict, Instant) {
        loop {
            match watch.look(activity, activity.phase(), now) {
                Verdict::Wait(until) => now = until,
                verdict => return (verdict, now),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_block_has_its_time_from_its_first_byte() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let mut watch = Watch::new(&limits(), start);
        assert_eq!(watch.look(&activity, activity.phase(), start), Verdict::Wait(start + Duration::from_secs(10)));
        let first_byte = start + Duration::from_secs(5);
        activity.read();
        assert!(watch.is_news(activity.phase()));
        let (verdict, at) = run(&mut watch, &activity, first_byte);
        assert_eq!((verdict, at), (Verdict::HeadTooSlow, first_byte + Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let mut watch = Watch::new(&limits(), start);
        activity.read();
        let request = activity.begin();
        let late = start + Duration::from_secs(1_000);
        assert!(matches!(watch.look(&activity, activity.phase(), late), Verdict::Wait(_)));
        drop(request);
        let (verdict, at) = run(&mut watch, &activity, late);
        assert_eq!((verdict, at), (Verdict::Idle, late + Duration::from_secs(80)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_counts_as_idle() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let mut watch = Watch::new(&limits(), start);
        let _request = activity.begin();
        activity.wrote(true);
        assert_eq!(activity.phase(), Phase::Stalled);
        let (verdict, at) = run(&mut watch, &activity, start);
        assert_eq!((verdict, at), (Verdict::Idle, start + Duration::from_secs(80)));
    }
}
