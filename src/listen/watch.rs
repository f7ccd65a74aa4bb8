//! Owns what is noted of a connection's life and the decision when it has lasted too long without progress.
//!
//! Noting is a few relaxed stores; time is read only when something waits, never for each request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
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
    /// HTTP/2: part of a header block has come.
    block: AtomicBool,
    /// HTTP/2: answers that the peer has not taken, by the turn in which they last moved.
    untaken: [AtomicU32; 2],
    turn: AtomicUsize,
}

impl Activity {
    /// Bytes came.
    pub(super) fn read(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.head.store(true, Relaxed);
        }
    }

    /// HTTP/2: what was read ends inside a header block, or does not.
    pub(super) fn in_block(&self, inside: bool) {
        self.block.store(inside, Relaxed);
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
        InFlight { activity: self.clone(), untaken: None }
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

    /// The phase of an HTTP/2 connection: frames are no header blocks, and a block may come while requests are under
    /// way.
    pub(super) fn http2_phase(&self) -> Phase {
        match self.phase() {
            _ if self.block.load(Relaxed) => Phase::Head,
            Phase::Head => Phase::Idle,
            phase => phase,
        }
    }

    /// Begins a turn. True if an answer has not moved in the whole of the last one.
    fn next_turn(&self) -> bool {
        let turn = self.turn.load(Relaxed) ^ 1;
        self.turn.store(turn, Relaxed);
        self.untaken.get(turn).is_some_and(|count| count.load(Relaxed) > 0)
    }

    fn count_untaken(&self, turn: Option<usize>, change: impl FnOnce(u32) -> u32) {
        if let Some(count) = turn.and_then(|turn| self.untaken.get(turn)) {
            count.store(change(count.load(Relaxed)), Relaxed);
        }
    }

    fn progress(&self) -> u32 {
        self.progress.load(Relaxed)
    }
}

/// A request under way.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    /// The turn in which its answer last moved.
    untaken: Option<usize>,
}

impl InFlight {
    /// HTTP/2: its answer is there, or a piece of it was handed on; what is left waits for the peer.
    pub(super) fn moved(&mut self) {
        let activity = &*self.activity;
        activity.count_untaken(self.untaken, |count| count.saturating_sub(1));
        self.untaken = Some(activity.turn.load(Relaxed));
        activity.count_untaken(self.untaken, |count| count.saturating_add(1));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.count_untaken(self.untaken, |count| count.saturating_sub(1));
        self.activity.in_flight.fetch_sub(1, Relaxed);
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
    turn_ends: Instant,
    seen: u32,
}

impl Watch {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            head_since: None,
            quiet_since: now,
            turn_ends: now + limits.idle_timeout,
            seen: 0,
        }
    }

    /// Whether this phase changes the deadline, so that [`Watch::look`] must be asked now and not when it is due.
    pub(super) fn is_news(&self, phase: Phase) -> bool {
        (phase == Phase::Head) != self.head_since.is_some()
    }

    /// HTTP/2: whether the peer has left an answer untaken for the idle timeout, or up to twice as long. Looked at with
    /// every [`Watch::look`].
    pub(super) fn has_untaken(&mut self, activity: &Activity, now: Instant) -> bool {
        if now < self.turn_ends {
            return false;
        }
        self.turn_ends = now + self.idle_timeout;
        activity.next_turn()
    }

    /// Judges the connection as it is now.
    pub(super) fn look(&mut self, activity: &Activity, phase: Phase, now: Instant) -> Verdict {
        let progress = activity.progress();
        if phase == Phase::Head {
            if progress != self.seen {
                // A request came and went since: what has begun now is another one's header block.
                (self.seen, self.quiet_since, self.head_since) = (progress, now, None);
            }
            let since = *self.head_since.get_or_insert(now);
            let due = since + self.header_timeout;
            return if now >= due { Verdict::HeadTooSlow } else { Verdict::Wait(due) };
        }
        self.head_since = None;
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
    async fn each_header_block_has_its_own_time() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let mut watch = Watch::new(&limits(), start);
        let mut now = start;
        for _ in 0..10 {
            activity.read();
            assert!(matches!(watch.look(&activity, activity.phase(), now), Verdict::Wait(_)));
            drop(activity.begin());
            now += Duration::from_secs(8);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_answer_that_does_not_move_is_noticed_whatever_else_happens() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let mut watch = Watch::new(&limits(), start);
        let mut noticed = |seconds| watch.has_untaken(&activity, start + Duration::from_secs(seconds));
        let mut moving = activity.begin();
        moving.moved();
        assert!(!noticed(80), "it had not the whole time yet");
        moving.moved();
        assert!(!noticed(160), "it has moved");
        let _worked_on = activity.begin();
        drop(moving);
        assert!(!noticed(240), "nothing waits for the peer");
        let mut stuck = activity.begin();
        stuck.moved();
        assert!(!noticed(320) && !noticed(399));
        activity.wrote(false);
        assert!(noticed(400));
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
