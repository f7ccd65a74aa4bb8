//! Owns policies: settings that were checked once, by constructors that refuse, and are never checked again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// What is kept of refused requests: `[quarantine]` and `server.unmatched`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantinePolicy {
    /// Bytes of the ring on disk.
    pub max_size: u64,
    /// Bytes of the largest body that is kept.
    pub max_body: u64,
    /// Requests a second of one client.
    pub rate: u64,
    /// Bytes a second of all clients together.
    pub total_rate: u64,
    /// What happens to requests that no source takes, besides the 404.
    pub unmatched: Unmatched,
}

/// What happens to requests that no source takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// Nothing: not even their bodies are read.
    Refuse,
    /// They are kept in quarantine.
    Store,
}

/// Why a setting makes no policy. The messages name the key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// Not a share.
    #[error("jitter is {0}: it is the share of a delay that is added at most, from 0 to 1")]
    Jitter(f64),
    /// Nothing to wait for.
    #[error("give_up_after is zero: leave it out to give up after the last step of the schedule")]
    GiveUpAfter,
    /// No delays.
    #[error("schedule is empty: name at least one delay, for example [\"10s\"]")]
    NoSteps,
    /// Too many delays.
    #[error("schedule has {0} steps: at most {max}; the last one repeats until give_up_after", max = super::STEPS_MAX)]
    TooManySteps(usize),
    /// A busy loop.
    #[error("schedule has a delay of zero: only the first step may be zero, and not if it repeats")]
    ZeroStep,
    /// Zero never grows.
    #[error("first is zero and would never grow: use \"1s\"")]
    ZeroFirst,
    /// Delays would shrink.
    #[error("factor is {0}: it must be at least 1")]
    Factor(f64),
    /// The limit is below the beginning.
    #[error("max is shorter than first: raise max or lower first")]
    MaxBelowFirst,
    /// Not even the first.
    #[error("attempts is 0: it counts every try, the first included")]
    NoAttempts,
    /// No end.
    #[error("the retries never end: set attempts or give_up_after")]
    Endless,
    /// A breaker that is always open.
    #[error("failures is 0: the breaker would never close")]
    Failures,
    /// No pause.
    #[error("cool_down is zero: the breaker would not pause at all")]
    CoolDown,
    /// Not a share.
    #[error("error_rate is {0}: it is the share of failures that opens the breaker, above 0 and at most 1")]
    ErrorRate(f64),
    /// No window.
    #[error("window is zero: error_rate needs a time over which it is measured")]
    Window,
    /// No minimum.
    #[error("min_requests is 0: a share of nothing says nothing")]
    MinRequests,
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

impl BreakerPolicy {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`PolicyError`] if it would never close or never pause.
    pub fn new(failures: u32, error_rate: Option<ErrorRate>, cool_down: Duration) -> Result<Self, PolicyError> {
        match (failures, cool_down) {
            (0, _) => Err(PolicyError::Failures),
            (_, Duration::ZERO) => Err(PolicyError::CoolDown),
            _ => Ok(Self { failures, error_rate, cool_down }),
        }
    }

    /// Opens after 5 failures in a row, for 60 s.
    #[must_use]
    pub fn standard() -> Self {
        Self { failures: 5, error_rate: None, cool_down: Duration::from_secs(60) }
    }
}

impl ErrorRate {
    /// A rate from its settings.
    ///
    /// # Errors
    /// [`PolicyError`] if the share is not above 0 and at most 1, or the window or the minimum is zero.
    pub fn new(share: f64, window: Duration, min_requests: u32) -> Result<Self, PolicyError> {
        match (window, min_requests) {
            _ if !(share > 0.0 && share <= 1.0) => Err(PolicyError::ErrorRate(share)),
            (Duration::ZERO, _) => Err(PolicyError::Window),
            (_, 0) => Err(PolicyError::MinRequests),
            _ => Ok(Self { share, window, min_requests }),
        }
    }
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

impl PathEdit {
    /// The path that is sent: the upstream's base path, then the request's path as edited. First `strip_prefix` is
    /// taken off if it is made of the path's whole leading segments (else the path stays as it is), then `path`
    /// replaces what is left. Nothing is decoded or encoded. A slash at the end of the base path is not doubled, and
    /// a path stripped of everything adds nothing to the base; the result is never empty.
    #[must_use]
    pub fn apply(&self, base_path: &str, request_path: &str) -> String {
        let stripped = self.strip_prefix.as_deref().map_or(request_path, |prefix| strip(prefix, request_path));
        let rest = self.path.as_deref().unwrap_or(stripped);
        let base = if rest.is_empty() { base_path } else { base_path.strip_suffix('/').unwrap_or(base_path) };
        let slash = if rest.starts_with('/') || (rest.is_empty() && !base.is_empty()) { "" } else { "/" };
        [base, slash, rest].concat()
    }
}

/// The path without a prefix of whole segments; slashes at the ends of the prefix do not matter.
fn strip<'a>(prefix: &str, path: &'a str) -> &'a str {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return path;
    }
    match path.strip_prefix('/').and_then(|rest| rest.strip_prefix(prefix)) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_stripped_then_replaced_then_put_behind_the_base() {
        let cases = [
            (None, None, "", "/hooks/a", "/hooks/a"),
            (None, None, "/", "/hooks/a", "/hooks/a"),
            (None, None, "/api", "/hooks/a", "/api/hooks/a"),
            (None, None, "/api/", "/hooks/a", "/api/hooks/a"),
            (None, None, "/api", "/", "/api/"),
            (None, None, "", "/a%2Fb//c;d", "/a%2Fb//c;d"),
            (Some("/hooks"), None, "", "/hooks/a", "/a"),
            (Some("/hooks"), None, "/api", "/hooks/a/", "/api/a/"),
            (Some("/hooks/"), None, "", "/hooks/a", "/a"),
            (Some("/hooks"), None, "", "/hooksy/a", "/hooksy/a"),
            (Some("/hooks"), None, "", "/x/hooks/a", "/x/hooks/a"),
            (Some("/hooks"), None, "", "/hooks", "/"),
            (Some("/hooks"), None, "/api", "/hooks", "/api"),
            (Some("/hooks"), None, "/api", "/hooks/", "/api/"),
            (Some("/a/b"), None, "", "/a/b/c", "/c"),
            (Some("/"), None, "", "/a", "/a"),
            (None, Some("/webhook"), "", "/hooks/a", "/webhook"),
            (None, Some("webhook"), "/", "/hooks/a", "/webhook"),
            (Some("/hooks"), Some("/webhook"), "/api", "/hooks/a", "/api/webhook"),
        ];
        for (strip_prefix, path, base, request, expected) in cases {
            let edit = PathEdit { strip_prefix: strip_prefix.map(Into::into), path: path.map(Into::into) };
            assert_eq!(edit.apply(base, request), expected, "{edit:?} {base} {request}");
        }
    }

    #[test]
    fn breakers_that_make_no_sense_are_refused() {
        let minute = Duration::from_secs(60);
        assert_eq!(BreakerPolicy::new(5, None, minute), Ok(BreakerPolicy::standard()));
        assert_eq!(BreakerPolicy::new(0, None, minute), Err(PolicyError::Failures));
        assert_eq!(BreakerPolicy::new(5, None, Duration::ZERO), Err(PolicyError::CoolDown));
        assert!(ErrorRate::new(0.5, minute, 10).is_ok() && ErrorRate::new(1.0, minute, 1).is_ok());
        assert_eq!(ErrorRate::new(0.0, minute, 10), Err(PolicyError::ErrorRate(0.0)));
        assert!(ErrorRate::new(f64::NAN, minute, 10).is_err() && ErrorRate::new(1.1, minute, 10).is_err());
        assert_eq!(ErrorRate::new(0.5, Duration::ZERO, 10), Err(PolicyError::Window));
        assert_eq!(ErrorRate::new(0.5, minute, 0), Err(PolicyError::MinRequests));
    }
}
