//! Owns time: wall-clock timestamps and a steady clock, injected everywhere as an argument.
//!
//! Promises that a step of the wall clock never moves a due time inside one process: [`Clock::steady`] starts at
//! the wall time of the process start and then advances with the monotonic clock only. Nothing here sleeps.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);

    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time plus a duration, saturating.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time minus a duration, saturating at the epoch.
    #[must_use]
    pub fn before(self, delay: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses RFC 3339 with a zone (`2026-01-02T03:04:05.678Z`). None if it is not that.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(parsed.as_millisecond()).ok().map(Self)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds. A time after the last that can be read again is shown as that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{:.3}", jiff::Timestamp::MAX),
        }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    /// From RFC 3339.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("a time must be RFC 3339 with a zone"))
    }
}

/// The source of time. Cheap to clone; all clones agree.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System { started_wall: u64, started: Instant },
    Manual(Arc<ManualClock>),
}

/// The test form of the clock: stands still until it is moved.
pub struct ManualClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl ManualClock {
    /// Lets time pass: both clocks advance.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wall.fetch_add(ms, Ordering::SeqCst);
        self.steady.fetch_add(ms, Ordering::SeqCst);
    }

    /// Steps the wall clock alone, as an administrator or NTP would.
    pub fn step_wall(&self, to: Timestamp) {
        self.wall.store(to.0, Ordering::SeqCst);
    }
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Kind::System { started_wall: wall_ms(), started: read_instant() })
    }

    /// A clock that stands at `start` until its handle moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Arc<ManualClock>) {
        let manual = Arc::new(ManualClock { wall: AtomicU64::new(start.0), steady: AtomicU64::new(start.0) });
        (Self(Kind::Manual(manual.clone())), manual)
    }

    /// Wall time: what users see and what signatures are compared with. May step.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => Timestamp(wall_ms()),
            Kind::Manual(manual) => Timestamp(manual.wall.load(Ordering::SeqCst)),
        }
    }

    /// Steady time on the wall's scale: what due times, deadlines and latencies are measured with. Never steps.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        match &self.0 {
            Kind::System { started_wall, started } => {
                Timestamp(started_wall + u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX / 2))
            }
            Kind::Manual(manual) => Timestamp(manual.steady.load(Ordering::SeqCst)),
        }
    }

    /// Monotonic time since this clock was made, for latencies below a millisecond.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Kind::System { started, .. } => started.elapsed(),
            Kind::Manual(manual) => Duration::from_millis(manual.steady.load(Ordering::SeqCst)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn read_instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_and_parses_as_rfc3339_with_milliseconds() {
        let time = Timestamp::from_millis(1_767_323_045_678);
        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::parse_rfc3339("2026-01-02T03:04:05.678Z"), Some(time));
        assert_eq!(Timestamp::parse_rfc3339("2026-01-02T04:04:05.678+01:00"), Some(time));
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        for ms in [253_402_207_200_999, 300_000_000_000_000, u64::MAX] {
            let shown = Timestamp::from_millis(ms).to_string();
            assert_eq!(shown, "9999-12-30T22:00:00.999Z");
            assert!(Timestamp::parse_rfc3339(&shown).is_some(), "what is shown can be read");
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_move_the_steady_clock() {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(1_000));
        hand.step_wall(Timestamp::from_millis(5));
        hand.advance(Duration::from_millis(10));
        assert_eq!(clock.now().as_millis(), 15);
        assert_eq!(clock.steady().as_millis(), 1_010);
    }
}
