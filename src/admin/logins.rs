//! Owns failed logins: how many each client may have, and what is said of them.
//!
//! Promises that a client with too many of them is not heard at all for a while, whatever it presents, so that nobody
//! can try tokens faster than that; that at most [`CLIENTS_MAX`] clients are remembered (of more, the one that was quiet
//! longest is forgotten); and that any number of failures makes at most one entry of the log in [`TELL_EVERY`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::access::Caller;
use crate::{clock::Timestamp, log::entry::Command};

/// Clients with failures that are remembered.
const CLIENTS_MAX: usize = 4_096;

/// Between two entries of the log about failures.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(60);

/// Clients named in one entry.
const NAMED_MAX: usize = 20;

/// How many failures a client may have: so many at once, and one more each time so much of the time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginLimit {
    /// So many …
    pub count: u64,
    /// … in this time.
    pub per: Duration,
}

impl LoginLimit {
    fn each(self) -> Duration {
        self.per / u32::try_from(self.count.max(1)).unwrap_or(u32::MAX)
    }
}

/// The failures of the clients.
#[derive(Default)]
pub(super) struct Logins(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// When the last failure of each will be forgotten: in the future, as far as it has failures.
    clients: BTreeMap<IpAddr, Timestamp>,
    untold: BTreeMap<IpAddr, u64>,
    told_at: Option<Timestamp>,
}

impl Logins {
    /// How long a client must wait before it is heard. None: now. `now` is steady time.
    pub(super) fn wait(&self, client: IpAddr, limit: LoginLimit, now: Timestamp) -> Option<Duration> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten_at = *inner.clients.get(&whole(client))?;
        // One more must fit.
        let wait = (forgotten_at.since(now) + limit.each()).saturating_sub(limit.per);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, client: IpAddr, limit: LoginLimit, now: Timestamp) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = whole(client);
        if inner.clients.len() >= CLIENTS_MAX && !inner.clients.contains_key(&client) {
            inner.clients.retain(|_, forgotten_at| *forgotten_at > now);
            let quiet = inner.clients.iter().min_by_key(|(_, at)| **at).map(|(quiet, _)| *quiet);
            if let Some(quiet) = quiet.filter(|_| inner.clients.len() >= CLIENTS_MAX) {
                inner.clients.remove(&quiet);
            }
        }
        let at = inner.clients.entry(client).or_insert(now);
        *at = (*at).max(now).after(limit.each());
        if inner.untold.len() < CLIENTS_MAX || inner.untold.contains_key(&client) {
            *inner.untold.entry(client).or_default() += 1;
        }
    }

    /// What there is to say about failures, if it is time to say it.
    pub(super) fn tell(&self, now: Timestamp) -> Option<Command> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.untold.is_empty() || inner.told_at.is_some_and(|told| now.since(told) < TELL_EVERY) {
            return None;
        }
        inner.told_at = Some(now);
        let untold = std::mem::take(&mut inner.untold);
        let count = untold.values().sum();
        let targets = untold.keys().take(NAMED_MAX).map(|client| client.to_string().into()).collect();
        let origin = match untold.len() {
            1 => untold.keys().next().map(ToString::to_string).unwrap_or_default(),
            several => format!("{several} addresses"),
        };
        Some(Caller::nobody(origin).noted("login_failed", targets, count))
    }
}

/// Who counts as one client: an address; of IPv6 the network of 64 bits, which one host may have as a whole.
fn whole(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            if address.is_loopback() { client } else { Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into() }
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::Action;

    const LIMIT: LoginLimit = LoginLimit { count: 3, per: Duration::from_secs(60) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn after_so_many_failures_a_client_is_not_heard_until_time_has_passed() {
        let logins = Logins::default();
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(logins.wait(one, LIMIT, at(0)), None);
            logins.failed(one, LIMIT, at(0));
        }
        assert_eq!(logins.wait(one, LIMIT, at(0)), Some(Duration::from_secs(20)));
        assert_eq!(logins.wait(other, LIMIT, at(0)), None);
        assert_eq!(logins.wait(one, LIMIT, at(19)), Some(Duration::from_secs(1)));
        assert_eq!(logins.wait(one, LIMIT, at(20)), None);
        logins.failed(one, LIMIT, at(20));
        assert_eq!(logins.wait(one, LIMIT, at(20)), Some(Duration::from_secs(20)));
    }

    #[test]
    fn neighbours_in_a_network_of_ipv6_are_one_client() {
        let logins = Logins::default();
        for host in 1..=3 {
            logins.failed(format!("2001:db8::{host}").parse().unwrap(), LIMIT, at(0));
        }
        assert!(logins.wait("2001:db8::9".parse().unwrap(), LIMIT, at(0)).is_some());
        assert!(logins.wait("2001:db8:0:1::9".parse().unwrap(), LIMIT, at(0)).is_none());
    }

    #[test]
    fn a_flood_of_clients_takes_no_more_room_and_makes_one_entry_a_minute() {
        let logins = Logins::default();
        let client = |n: u32| IpAddr::from(n.to_be_bytes());
        logins.failed(client(1), LIMIT, at(0));
        assert!(logins.tell(at(0)).is_some());
        for n in 0..10_000 {
            logins.failed(client(n), LIMIT, at(1));
        }
        assert!(logins.0.lock().unwrap().clients.len() <= CLIENTS_MAX);
        assert!(logins.tell(at(59)).is_none());
        let Action::Noted { targets, count, .. } = logins.tell(at(60)).unwrap().action else { panic!() };
        assert_eq!((targets.len(), count), (NAMED_MAX, CLIENTS_MAX as u64));
        assert!(logins.tell(at(200)).is_none());
    }
}
