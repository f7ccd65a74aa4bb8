//! Owns the messages to the service manager (`sd_notify(3)`).
//!
//! Promises that each call is a no-op when the process was not started by systemd, and never an error for the
//! caller: a service manager that can't be told is worth a line of diagnostics and nothing more.

use std::time::Duration;

use sd_notify::NotifyState;

/// The process serves: listeners are open and the log is recovered.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A reload has begun; [`ready`] ends it, whether it succeeded or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Shutdown has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing requests under way")]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Start-up or shutdown takes longer than the unit's timeout: asks for so much more time.
pub fn extend_timeout(by: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// Feeds the watchdog. Call from the committer after work was done (or nothing waited), never from a timer of its
/// own: a committer that hangs must stop feeding. Call at the interval of [`watchdog_interval`] or more often.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] must be called: half the unit's `WatchdogSec`. None if there is no watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|every| every / 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be notified");
    }
}
