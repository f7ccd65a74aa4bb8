//! Owns connections that an upstream has upgraded to WebSocket: bytes pass both ways as they come, and how it ended is
//! written to the log.
//!
//! Promises: at most [`BUFFER_BYTES`] are under way in each direction, so that the slower side decides; silence in both
//! directions for the source's `idle_timeout` ends it; when it is over, for whatever reason, the event of its handshake
//! has an attempt with the bytes each way and the duration. Nothing that passes is looked into or stored.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::{Instant, sleep},
};

use super::{lane::Lane, settle, stream::Stream, targets::Chosen};
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, Outcome, Sent, Seq},
    log::Done,
    telemetry::UpgradeMetrics,
};

/// Bytes under way in each direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long the other side may be silent once one has ended: WebSockets have no half-closed life.
const HALF_ENDED: Duration = Duration::from_secs(10);

/// A request that is to be upgraded.
pub struct Upgrade {
    /// The event of the handshake, if it is stored.
    pub event: Option<Seq>,
    /// Silence in both directions that ends the connection.
    pub idle_timeout: Duration,
    /// What is counted.
    pub metrics: Arc<UpgradeMetrics>,
    /// Dropped when the connection is over.
    pub place: Box<dyn std::any::Any + Send>,
}

/// A connection to an upstream that has left HTTP. Dropping it ends it.
pub struct Upgraded {
    stream: Stream,
    /// What the upstream sent behind its answer.
    ahead: Bytes,
    idle_timeout: Duration,
    ending: Ending,
}

impl Upgraded {
    pub(super) fn new(
        (stream, ahead): (Stream, Bytes),
        upgrade: Upgrade,
        (lane, chosen): (Arc<Lane>, Option<Chosen>),
        (at, sent): (Timestamp, Sent),
    ) -> Self {
        let started = lane.env.clock.elapsed();
        upgrade.metrics.begun.inc();
        let ending = Ending {
            event: upgrade.event,
            lane,
            at,
            started,
            sent: Some(sent),
            how: "the relay stopped, or the sender was gone",
            passed: Arc::default(),
            metrics: upgrade.metrics,
            _held: (upgrade.place, chosen),
        };
        Self { stream, ahead, idle_timeout: upgrade.idle_timeout, ending }
    }

    /// Passes bytes between the sender and the upstream until one of them is gone or both are silent. `ahead` is what the
    /// sender sent behind its request. Dropping the future ends the connection as well.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, sender: S, ahead: Bytes) {
        let Self { stream, ahead: from_upstream, idle_timeout, mut ending } = self;
        let passed = ending.passed.clone();
        let mut sender = Counted { stream: sender, ahead, read: passed.clone(), which: Passed::count_in };
        let mut upstream = Counted { stream, ahead: from_upstream, read: passed.clone(), which: Passed::count_out };
        let copied = copy_bidirectional_with_sizes(&mut sender, &mut upstream, BUFFER_BYTES, BUFFER_BYTES);
        ending.how = tokio::select! {
            copied = copied => match copied {
                Ok(_) => "both sides have ended it",
                Err(_) => "it broke off",
            },
            how = silence(&passed, idle_timeout) => how,
        };
    }
}

/// Waits until nothing passes for so long, or for [`HALF_ENDED`] once one side has ended. Gives how it ended.
async fn silence(passed: &Passed, idle: Duration) -> &'static str {
    let look = (idle.min(HALF_ENDED) / 4).max(Duration::from_millis(1));
    let (mut seen, mut since) = (passed.all(), Instant::now());
    loop {
        sleep(look).await;
        let now = passed.all();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if passed.ended.load(Ordering::Relaxed) && since.elapsed() >= idle.min(HALF_ENDED) {
            return "one side has ended it";
        }
        if since.elapsed() >= idle {
            return "nothing passed for idle_timeout";
        }
    }
}

/// Bytes that have passed.
#[derive(Default)]
struct Passed {
    into_upstream: AtomicU64,
    out_of_upstream: AtomicU64,
    /// One side has said that it sends no more.
    ended: AtomicBool,
}

impl Passed {
    fn count_in(&self, bytes: u64) {
        self.into_upstream.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count_out(&self, bytes: u64) {
        self.out_of_upstream.fetch_add(bytes, Ordering::Relaxed);
    }

    fn all(&self) -> u64 {
        self.into_upstream.load(Ordering::Relaxed).wrapping_add(self.out_of_upstream.load(Ordering::Relaxed))
    }
}

/// Writes how it ended, whoever drops it.
struct Ending {
    event: Option<Seq>,
    lane: Arc<Lane>,
    at: Timestamp,
    started: Duration,
    sent: Option<Sent>,
    how: &'static str,
    passed: Arc<Passed>,
    metrics: Arc<UpgradeMetrics>,
    _held: (Box<dyn std::any::Any + Send>, Option<Chosen>),
}

impl Drop for Ending {
    fn drop(&mut self) {
        let bytes_in = self.passed.into_upstream.load(Ordering::Relaxed);
        let bytes_out = self.passed.out_of_upstream.load(Ordering::Relaxed);
        self.metrics.bytes_in.add(bytes_in);
        self.metrics.bytes_out.add(bytes_out);
        let (Some(event), Some(sent)) = (self.event, self.sent.take()) else { return };
        let lasted = self.lane.env.clock.elapsed().saturating_sub(self.started);
        let (how, ms) = (self.how, lasted.as_millis());
        let words = format!("a WebSocket connection of {ms} ms, {bytes_in} bytes in, {bytes_out} bytes out: {how}");
        let attempt = Attempt {
            number: 1,
            at: self.at,
            outcome: Outcome::Delivered,
            status: Some(101),
            error: Some(words.into()),
            latency_ms: u32::try_from(ms).unwrap_or(u32::MAX),
            excerpt: Bytes::new(),
            sent,
        };
        let upstream = &*self.lane.name;
        let named = settle::Named { event, upstream, previous: None, replays: None, turn: None };
        self.lane.write(settle::attempted(&named, Some(attempt), Change::Delivered), Done::nobody());
    }
}

/// A stream whose bytes are counted as they are read, and that first gives what was read from it before.
struct Counted<S> {
    stream: S,
    ahead: Bytes,
    read: Arc<Passed>,
    which: fn(&Passed, u64),
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = if this.ahead.is_empty() {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(this.ahead.get(..count).unwrap_or_default());
            this.ahead.advance(count);
            Poll::Ready(Ok(()))
        };
        let count = (buf.filled().len() - before) as u64;
        (this.which)(&this.read, count);
        if count == 0 && matches!(polled, Poll::Ready(Ok(()))) && buf.remaining() > 0 {
            this.read.ended.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_what_passes_puts_it_off() {
        let passed = Passed::default();
        let idle = Duration::from_secs(4);
        let begun = Instant::now();
        let talking = async {
            for _ in 0..10 {
                sleep(Duration::from_secs(3)).await;
                passed.count_in(1);
            }
        };
        tokio::join!(silence(&passed, idle), talking);
        let lasted = begun.elapsed();
        assert!((34..=36).contains(&lasted.as_secs()), "{lasted:?}");
        passed.ended.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        assert_eq!(silence(&passed, Duration::from_secs(3600)).await, "one side has ended it");
        assert!((10..=13).contains(&begun.elapsed().as_secs()));
    }
}
