//! Owns the sessions of the web page: who has logged in with which token.
//!
//! Promises that a session is as hard to guess as the bytes that it is begun with (of which only the SHA-256 is kept), that it ends some time
//! after its last use and [`LONGEST`] after its begin at the latest, with its token, and by logging out; and that each token
//! has at most [`SESSIONS_MAX`] of them: of more, the one that was unused longest ends. After a restart everybody logs in
//! again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::Timestamp;

/// Sessions of one token.
const SESSIONS_MAX: usize = 32;

/// However often it is used.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// Lines that wait to be told on the next page.
const TOLD_MAX: usize = 30;

/// The cookie's name. With TLS browsers are told that no other host and no plain connection may set it.
pub(super) const fn cookie_name(is_secure: bool) -> &'static str {
    if is_secure { "__Host-stagepost" } else { "stagepost" }
}

/// The sessions, by the SHA-256 of their cookies.
#[derive(Default)]
pub(super) struct Sessions(Mutex<BTreeMap<[u8; 32], Session>>);

struct Session {
    /// SHA-256 of the token's secret.
    token: [u8; 32],
    mark: Arc<str>,
    began: Timestamp,
    used: Timestamp,
    told: Vec<String>,
}

/// A session in the hands of a request.
#[derive(Clone)]
pub(super) struct Held {
    key: [u8; 32],
    /// SHA-256 of the secret that it was begun with.
    pub(super) token: [u8; 32],
    /// What each of its forms carries.
    pub(super) mark: Arc<str>,
}

impl Held {
    /// Whether a form carries the mark of this session. Takes the same time whatever it carries.
    pub(super) fn marks(&self, shown: &str) -> bool {
        shown.as_bytes().ct_eq(self.mark.as_bytes()).into()
    }
}

impl Sessions {
    /// Begins a session for a token; the value of its cookie. `secret` is 32 bytes that nobody can guess, for this alone.
    pub(super) fn begin(&self, secret: &[u8; 32], token: [u8; 32], timeout: Duration, now: Timestamp) -> String {
        let derived = |what: &[u8]| hex::encode(Sha256::new().chain_update(what).chain_update(secret).finalize());
        let (cookie, mark) = (derived(b"cookie"), derived(b"mark"));
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.lasts(timeout, now));
        let own = || sessions.iter().filter(|(_, session)| session.token == token);
        if own().count() >= SESSIONS_MAX
            && let Some(unused) = own().min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
        {
            sessions.remove(&unused);
        }
        let session = Session { token, mark: mark.into(), began: now, used: now, told: Vec::new() };
        sessions.insert(key_of(&cookie), session);
        cookie
    }

    /// The session of a cookie; `keeps` says whether this counts as a use.
    pub(super) fn find(&self, cookie: &str, timeout: Duration, now: Timestamp, keeps: bool) -> Option<Held> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key_of(cookie);
        let session = sessions.get_mut(&key)?;
        if !session.lasts(timeout, now) {
            sessions.remove(&key);
            return None;
        }
        if keeps {
            session.used = now;
        }
        Some(Held { key, token: session.token, mark: session.mark.clone() })
    }

    /// Ends a session.
    pub(super) fn end(&self, held: &Held) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&held.key);
    }

    /// Leaves something to be told on the next page of a session.
    pub(super) fn tell(&self, held: &Held, lines: Vec<String>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get_mut(&held.key) {
            session.told.extend(lines);
            session.told.truncate(TOLD_MAX);
        }
    }

    /// Takes what is to be told.
    pub(super) fn told(&self, held: &Held) -> Vec<String> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get_mut(&held.key).map(|session| std::mem::take(&mut session.told)).unwrap_or_default()
    }

    /// How many there are, without those that have ended.
    pub(super) fn count(&self, timeout: Duration, now: Timestamp) -> usize {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.lasts(timeout, now));
        sessions.len()
    }
}

impl Session {
    fn lasts(&self, timeout: Duration, now: Timestamp) -> bool {
        now.since(self.used) < timeout && now.since(self.began) < LONGEST
    }
}

fn key_of(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3600);

    fn begin(sessions: &Sessions, secret: u8, token: u8, now: Timestamp) -> String {
        sessions.begin(&[secret; 32], [token; 32], TIMEOUT, now)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_session_ends_after_its_last_use_and_after_its_longest_life() {
        let sessions = Sessions::default();
        let cookie = begin(&sessions, 1, 1, at(0));
        assert!(sessions.find(&cookie, TIMEOUT, at(3_599), false).is_some());
        assert!(sessions.find(&cookie, TIMEOUT, at(3_600), true).is_none());
        let cookie = begin(&sessions, 2, 1, at(0));
        for hour in 0..24 {
            let lasts = sessions.find(&cookie, TIMEOUT, at(hour * 1_800), true).is_some();
            assert!(lasts, "after {hour} half hours");
        }
        assert!(sessions.find(&cookie, TIMEOUT, at(12 * 3_600), true).is_none());
        assert_eq!(sessions.count(TIMEOUT, at(0)), 0);
    }

    #[test]
    fn a_token_has_a_bounded_number_of_sessions_and_takes_none_of_another() {
        let sessions = Sessions::default();
        let other = begin(&sessions, 101, 2, at(0));
        let first = begin(&sessions, 102, 1, at(0));
        let used = begin(&sessions, 103, 1, at(0));
        assert!(sessions.find(&used, TIMEOUT, at(1), true).is_some());
        for secret in (0_u8..).take(SESSIONS_MAX - 1) {
            begin(&sessions, secret, 1, at(2));
        }
        assert_eq!(sessions.count(TIMEOUT, at(2)), SESSIONS_MAX + 1);
        let lives = |cookie: &str| sessions.find(cookie, TIMEOUT, at(2), false).is_some();
        assert!(lives(&other) && lives(&used) && !lives(&first));
    }

    #[test]
    fn a_form_is_marked_by_its_own_session_only() {
        let sessions = Sessions::default();
        let held = |cookie: &str| sessions.find(cookie, TIMEOUT, at(0), true).unwrap();
        let one = held(&begin(&sessions, 1, 1, at(0)));
        let two = held(&begin(&sessions, 2, 1, at(0)));
        assert!(one.marks(&one.mark) && !one.marks(&two.mark) && !one.marks(""));
        sessions.end(&one);
        assert_eq!(sessions.count(TIMEOUT, at(0)), 1);
    }
}
