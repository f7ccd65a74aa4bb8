//! Owns the addresses that the names of one upstream lead to: looking them up anew, whose turn it is, whom to avoid.
//!
//! Promises that a name is looked up by one at a time and no more often than `dns_refresh` says; that a look-up which fails
//! changes nothing that is known; that new connections go to the address with the fewest of ours, those of the kind
//! (IPv4 or IPv6) that the resolver puts first before the others; that an address that could not be connected to, or where
//! no answer came, is tried last for [`AVOIDED`] and longer each time; and that a connection to an address that the
//! name has lost is not used again. Literal addresses and sockets cost nothing here. Whether an address may be dialled at
//! all is judged where it is dialled.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;

use super::resolve::Resolve;
use crate::{
    clock::{Clock, Timestamp},
    routing::{Target, Upstream},
    telemetry::UpstreamMetrics,
};

/// Addresses of a name that are kept.
const ADDRESSES_MAX: usize = 64;
/// Names of one upstream that are kept; those that nobody uses go first.
const NAMES_MAX: usize = 128;
/// How long an address is tried last after a failure; each failure in a row doubles it, up to [`AVOIDED_MAX`].
const AVOIDED: Duration = Duration::from_secs(10);
const AVOIDED_MAX: Duration = Duration::from_secs(300);

/// The names of one upstream.
pub(crate) struct Names {
    resolver: Arc<dyn Resolve>,
    clock: Clock,
    metrics: Arc<UpstreamMetrics>,
    known: Mutex<HashMap<(Box<str>, u16), Arc<Name>>>,
}

/// One name.
struct Name {
    host: Box<str>,
    port: u16,
    /// Held by whoever looks it up.
    looking: tokio::sync::Mutex<()>,
    /// Somebody was sent to look it up in the background.
    sent: AtomicBool,
    book: Mutex<Book>,
}

/// Where a connection may be made to, the best first. Empty for what is no TCP.
#[derive(Default)]
pub(crate) struct Route {
    name: Option<Arc<Name>>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Route {
    /// Takes note of a connection to one of the addresses. None if that is not counted.
    pub(crate) fn seat(&self, address: SocketAddr, now: Timestamp) -> Option<Seat> {
        let name = self.name.clone()?;
        let token = name.book().find(address)?.seats.clone();
        Some(Seat { name, address, token, since: now })
    }

    /// Whether the name still has the address of a connection.
    pub(crate) fn has(&self, seat: Option<&Seat>) -> bool {
        match (&self.name, seat) {
            (Some(name), Some(seat)) => {
                name.book().addresses.iter().any(|address| Arc::ptr_eq(&address.seats, &seat.token))
            }
            (name, seat) => name.is_some() == seat.is_some(),
        }
    }

    /// An address could not be connected to.
    pub(crate) fn failed(&self, address: SocketAddr, now: Timestamp) {
        if let Some(name) = &self.name {
            name.book().failed(address, now);
        }
    }
}

/// A connection to an address of a name, as long as it lives.
pub(crate) struct Seat {
    name: Arc<Name>,
    pub(crate) address: SocketAddr,
    /// Of this address as it was found; another one if the name lost it and got it back.
    token: Arc<()>,
    since: Timestamp,
}

impl Names {
    pub(crate) fn new(resolver: Arc<dyn Resolve>, clock: Clock, metrics: Arc<UpstreamMetrics>) -> Arc<Self> {
        Arc::new(Self { resolver, clock, metrics, known: Mutex::default() })
    }

    /// Now, as the addresses see it.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.steady()
    }

    /// Where a connection to an upstream may be made to now. Cancel-safe. What is known and too old is used all the same
    /// if no answer comes within a third of `connect_timeout`.
    ///
    /// # Errors
    /// The name can't be looked up, and nothing is known of it.
    pub(crate) async fn route(&self, upstream: &Upstream) -> io::Result<Route> {
        let (Target::Http(uri) | Target::Https(uri)) = &upstream.target else { return Ok(Route::default()) };
        let default_port = if matches!(upstream.target, Target::Https(_)) { 443 } else { 80 };
        let (host, port) = (host(uri)?, uri.port_u16().unwrap_or(default_port));
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok(Route { name: None, addresses: vec![SocketAddr::new(literal, port)] });
        }
        let name = self.name(host, port);
        let refresh = upstream.dns_refresh;
        let is_known = !name.book().addresses.is_empty();
        if !name.book().is_fresh(refresh, self.now()) {
            let looked_up = self.look_up(&name, refresh);
            if is_known {
                let _late = timeout(upstream.connect_timeout / 3, looked_up).await;
            } else {
                looked_up.await?;
            }
        }
        let addresses = name.book().order(self.now());
        Ok(Route { name: Some(name), addresses })
    }

    /// Whether a connection may be used again. Sends somebody to look the name up if that is due.
    pub(crate) fn keeps(self: &Arc<Self>, seat: &Seat, upstream: &Upstream) -> bool {
        let now = self.now();
        let refresh = upstream.dns_refresh;
        let name = &seat.name;
        let (is_fresh, keeps) = {
            let book = name.book();
            (refresh.is_zero() || book.is_fresh(refresh, now), book.keeps(seat, now))
        };
        if !is_fresh && !name.sent.swap(true, Ordering::AcqRel) {
            let (names, name, limit) = (self.clone(), name.clone(), upstream.connect_timeout);
            tokio::spawn(async move {
                let _told = timeout(limit, names.look_up(&name, refresh)).await;
                name.sent.store(false, Ordering::Release);
            });
        }
        keeps
    }

    fn name(&self, host: &str, port: u16) -> Arc<Name> {
        let mut known = lock(&self.known);
        if let Some(name) = known.get(&(Box::from(host), port)) {
            return name.clone();
        }
        if known.len() >= NAMES_MAX {
            known.retain(|_, name| Arc::strong_count(name) > 1);
        }
        let name = Arc::new(Name {
            host: host.into(),
            port,
            looking: tokio::sync::Mutex::default(),
            sent: AtomicBool::new(false),
            book: Mutex::default(),
        });
        known.insert((host.into(), port), name.clone());
        name
    }

    /// Looks a name up, unless somebody else just did.
    async fn look_up(&self, name: &Name, refresh: Duration) -> io::Result<()> {
        let _alone = name.looking.lock().await;
        if name.book().is_fresh(refresh, self.now()) {
            return Ok(());
        }
        let found = self.resolver.resolve(&name.host, name.port).await;
        self.metrics.lookups.inc();
        let found = found.and_then(|found| {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
            if found.is_empty() { Err(none()) } else { Ok(found) }
        });
        let now = self.now();
        match found {
            Ok(found) => {
                name.book().replace(found, now);
                let all = lock(&self.known).values().map(|name| name.book().addresses.len()).sum::<usize>();
                self.metrics.addresses.set(i64::try_from(all).unwrap_or(i64::MAX));
                Ok(())
            }
            Err(error) => {
                self.metrics.lookups_failed.inc();
                let mut book = name.book();
                if !book.addresses.is_empty() {
                    // Not again before the next time.
                    book.looked_up = Some(now);
                }
                Err(error)
            }
        }
    }
}

impl Name {
    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

impl Seat {
    /// An answer came over it.
    pub(crate) fn answered(&self) {
        let mut book = self.name.book();
        if let Some(address) = book.find(self.address) {
            address.failures = 0;
            address.avoided = None;
        }
    }

    /// No answer came over it.
    pub(crate) fn failed(&self, now: Timestamp) {
        self.name.book().failed(self.address, now);
    }

    /// The same address for one more user.
    pub(crate) fn share(&self, now: Timestamp) -> Self {
        Self { name: self.name.clone(), address: self.address, token: self.token.clone(), since: now }
    }
}

/// What is known of one name. Pure.
#[derive(Default)]
struct Book {
    /// The preferred one first.
    addresses: Vec<Address>,
    looked_up: Option<Timestamp>,
    /// Where the last connection was sent.
    last: Option<SocketAddr>,
}

struct Address {
    at: SocketAddr,
    /// One reference here, one for each connection.
    seats: Arc<()>,
    /// In a row.
    failures: u32,
    /// From when until when it is tried last.
    avoided: Option<(Timestamp, Timestamp)>,
}

impl Address {
    fn is_avoided(&self, now: Timestamp) -> bool {
        self.avoided.is_some_and(|(_, until)| now < until)
    }

    fn connections(&self) -> usize {
        Arc::strong_count(&self.seats) - 1
    }

    fn avoid(&mut self, now: Timestamp) {
        let times = 1_u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.avoided = Some((now, now.after(AVOIDED.saturating_mul(times).min(AVOIDED_MAX))));
    }
}

impl Book {
    fn is_fresh(&self, refresh: Duration, now: Timestamp) -> bool {
        !self.addresses.is_empty() && self.looked_up.is_some_and(|at| now.since(at) < refresh)
    }

    fn find(&mut self, at: SocketAddr) -> Option<&mut Address> {
        self.addresses.iter_mut().find(|address| address.at == at)
    }

    /// Takes over what was found; what is known of addresses that stay is kept.
    fn replace(&mut self, found: Vec<SocketAddr>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.addresses);
        for at in found {
            if self.addresses.len() >= ADDRESSES_MAX || self.addresses.iter().any(|known| known.at == at) {
                continue;
            }
            let known = before.iter().position(|known| known.at == at).map(|index| before.swap_remove(index));
            let fresh = || Address { at, seats: Arc::default(), failures: 0, avoided: None };
            self.addresses.push(known.unwrap_or_else(fresh));
        }
        self.looked_up = Some(now);
    }

    fn failed(&mut self, at: SocketAddr, now: Timestamp) {
        if let Some(address) = self.find(at) {
            // Attempts that fail together are one failure.
            if !address.is_avoided(now) {
                address.failures = address.failures.saturating_add(1);
                address.avoid(now);
            } else if address.failures == 0 {
                address.failures = 1;
            }
        }
    }

    /// Whether addresses of the first kind are preferred that are not avoided.
    fn is_first_choice(&self, address: &Address, now: Timestamp) -> bool {
        let kind = self.addresses.first().map(|first| first.at.is_ipv4());
        kind == Some(address.at.is_ipv4()) && !address.is_avoided(now)
    }

    /// The addresses in the order in which they are tried now. One that was avoided and is first again is tried by one
    /// connection; the others go on to avoid it until an answer came.
    fn order(&mut self, now: Timestamp) -> Vec<SocketAddr> {
        let turn = self.last.and_then(|last| self.addresses.iter().position(|address| address.at == last));
        let count = self.addresses.len().max(1);
        let mut order: Vec<(bool, Timestamp, bool, usize, usize, SocketAddr)> = (0..)
            .zip(&self.addresses)
            .map(|(index, address)| {
                let avoided = address.avoided.filter(|_| address.is_avoided(now)).map(|(_, until)| until);
                let other_kind = !self.is_first_choice(address, now);
                let behind = turn.map_or(index, |turn| (index + count - turn - 1) % count);
                let until = avoided.unwrap_or(Timestamp::ZERO);
                (avoided.is_some(), until, other_kind, address.connections(), behind, address.at)
            })
            .collect();
        order.sort_unstable();
        let order: Vec<SocketAddr> = order.into_iter().map(|(.., at)| at).collect();
        self.last = order.first().copied();
        if let Some(first) = self.last.and_then(|at| self.find(at))
            && first.failures > 0
            && !first.is_avoided(now)
        {
            first.avoid(now);
        }
        order
    }

    /// Whether a connection may be used again: the name still has its address, which is not avoided since, nor has it
    /// more than its share of connections.
    fn keeps(&self, seat: &Seat, now: Timestamp) -> bool {
        let Some(address) = self.addresses.iter().find(|address| Arc::ptr_eq(&address.seats, &seat.token)) else {
            return false;
        };
        let choices = self.addresses.iter().filter(|address| self.is_first_choice(address, now));
        let (count, connections) = choices.fold((0, 0), |(count, sum), one| (count + 1, sum + one.connections()));
        if count == 0 {
            return true;
        }
        match address.avoided {
            Some((from, until)) if now < until => seat.since >= from,
            _ if !self.is_first_choice(address, now) => true,
            _ => address.connections() <= usize::div_ceil(connections, count),
        }
    }
}

/// Host without the brackets of an IPv6 literal.
pub(crate) fn host(uri: &http::Uri) -> io::Result<&str> {
    let host = uri.host().ok_or_else(|| io::Error::other("the url names no host"))?;
    Ok(host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn book(addresses: &[&str]) -> Book {
        let mut book = Book::default();
        book.replace(addresses.iter().map(|text| at(text)).collect(), T);
        book
    }

    fn name(book: Book) -> Arc<Name> {
        Arc::new(Name {
            host: "n".into(),
            port: 1,
            looking: tokio::sync::Mutex::default(),
            sent: AtomicBool::new(false),
            book: Mutex::new(book),
        })
    }

    /// A connection to whichever address is first.
    fn connect(name: &Arc<Name>, now: Timestamp) -> Seat {
        let first = name.book().order(now)[0];
        Route { name: Some(name.clone()), addresses: Vec::new() }.seat(first, now).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn connections_are_spread_over_the_addresses_and_a_new_address_gets_its_share() {
        let name = name(book(&["10.0.0.1:1", "10.0.0.2:1"]));
        let seats: Vec<Seat> = (0..4).map(|_| connect(&name, T)).collect();
        let ports: Vec<SocketAddr> = seats.iter().map(|seat| seat.address).collect();
        assert_eq!(ports, ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1"].map(at));
        assert!(seats.iter().all(|seat| name.book().keeps(seat, T)));
        name.book().replace(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"].map(at).into(), T);
        let mut seats = seats;
        for _ in 0..2 {
            let gone = seats.iter().position(|seat| !name.book().keeps(seat, T)).unwrap();
            seats.remove(gone);
            seats.push(connect(&name, T));
        }
        assert!(seats.iter().all(|seat| name.book().keeps(seat, T)));
        let mut spread: Vec<SocketAddr> = seats.iter().map(|seat| seat.address).collect();
        spread.sort_unstable();
        assert_eq!(spread, ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"].map(at));
    }

    #[test]
    fn a_connection_to_an_address_that_is_gone_is_not_kept_even_if_it_comes_back() {
        let name = name(book(&["10.0.0.1:1"]));
        let seat = connect(&name, T);
        assert!(name.book().keeps(&seat, T));
        name.book().replace(vec![at("10.0.0.2:1")], T);
        assert!(!name.book().keeps(&seat, T));
        name.book().replace(vec![at("10.0.0.1:1")], T);
        assert!(!name.book().keeps(&seat, T));
    }

    #[test]
    fn an_address_that_fails_is_tried_last_longer_each_time_and_then_by_one() {
        let name = name(book(&["10.0.0.1:1", "10.0.0.2:1"]));
        let seat = connect(&name, T);
        name.book().failed(at("10.0.0.1:1"), T.after(s(1)));
        assert!(!name.book().keeps(&seat, T.after(s(1))));
        for second in 1..11 {
            assert_eq!(connect(&name, T.after(s(second))).address, at("10.0.0.2:1"));
        }
        let (busy, back) = (connect(&name, T.after(s(2))), T.after(s(11)));
        let probe = connect(&name, back);
        assert_eq!((probe.address, connect(&name, back).address), (at("10.0.0.1:1"), busy.address));
        assert!(name.book().keeps(&probe, back));
        probe.failed(back.after(s(1)));
        assert_eq!(connect(&name, back.after(s(5))).address, busy.address);
        drop(probe);
        let again = connect(&name, back.after(s(10)));
        assert_eq!(again.address, at("10.0.0.1:1"));
        again.answered();
        assert_eq!(name.book().addresses[0].failures, 0);
    }

    #[test]
    fn the_kind_of_address_that_comes_first_is_preferred_and_the_other_is_there_when_it_fails() {
        let mut book = book(&["[::1]:1", "10.0.0.1:1", "[::2]:1"]);
        assert_eq!(book.order(T), ["[::1]:1", "[::2]:1", "10.0.0.1:1"].map(at));
        assert_eq!(book.order(T)[0], at("[::2]:1"));
        book.failed(at("[::1]:1"), T);
        book.failed(at("[::2]:1"), T);
        assert_eq!(book.order(T)[0], at("10.0.0.1:1"));
        assert_eq!(book.order(T).len(), 3, "all of them may be tried");
    }
}
