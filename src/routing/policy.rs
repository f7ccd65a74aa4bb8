//! Owns policies: settings that were checked once, by constructors that refuse, and are never checked again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// When to try again and when to give up.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The delays.
    pub schedule: Schedule,
    /// Up to this share of each delay is added at random, 0 to 1.
    pub jitter: f64,
    /// Dead so long after planning (held and breaker-open time not counted). None: after the schedule's last step.
    pub give_up_after: Option<Duration>,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
}

/// The delays between attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Given one by one; with `give_up_after` the last repeats.
    Steps(Vec<Duration>),
    /// `first`, then times `factor` each, at most `max`; `attempts` tries in all, the first included.
    Exponential {
        /// Before the second attempt.
        first: Duration,
        /// At least 1.
        factor: f64,
        /// The longest delay.
        max: Duration,
        /// None: until `give_up_after`.
        attempts: Option<u32>,
    },
}

/// When to stop sending to an upstream for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// Or a share of failures in a window.
    pub error_rate: Option<ErrorRate>,
    /// Open for so long, then one probe.
    pub cool_down: Duration,
}

/// A share of failures in a window that opens the breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorRate {
    /// 0 to 1.
    pub share: f64,
    /// The window.
    pub window: Duration,
    /// Below so many attempts in the window the share says nothing.
    pub min_requests: u32,
}

/// Which `Host` an upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// The sender's.
    Preserve,
    /// The upstream's own.
    Upstream,
    /// A fixed one.
    Name(HeaderValue),
}

/// How the path changes on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathEdit {
    /// Whole leading segments that are removed.
    pub strip_prefix: Option<Box<str>>,
    /// Replaces the path.
    pub path: Option<Box<str>>,
}

/// How headers change on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Replaced or added.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed first.
    pub remove: Vec<HeaderName>,
}

/// An answer given to the sender in place of the default.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A source's path: exact (`/hooks/stripe`), subtree (`/hooks/*`), or with captures (`/t/{tenant}/in`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// As written.
    pub text: Box<str>,
}

/// The result of looking a request's host and path up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// This one.
    Found(T),
    /// Nobody's.
    NotFound,
    /// The path has dot segments (plain or encoded) under a subtree source: 400.
    DotSegments,
}
