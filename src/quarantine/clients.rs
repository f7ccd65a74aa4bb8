//! Owns how fast clients may fill the quarantine: a bucket for each of them and one of bytes for all together.
//!
//! Promises bounded memory: [`CLIENTS_MAX`] clients are told apart. When there are more, those that have been quiet
//! long enough to be like new are forgotten; if there are none, newcomers share one bucket, so that a flood of
//! addresses gets no more than one client would.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::clock::Timestamp;

/// Clients that are told apart; an IPv6 network of 64 bits is one client.
pub const CLIENTS_MAX: usize = 4_096;

/// So many seconds' worth of a rate may come at once.
pub const BURST_S: u64 = 10;

/// Between two searches for clients to forget, in milliseconds.
const SWEEP_EVERY_MS: u64 = 1_000;

/// The buckets of all clients.
#[derive(Default)]
pub(super) struct Clients {
    known: HashMap<u128, Bucket>,
    /// Whoever finds no room among the known.
    others: Bucket,
    bytes: Bucket,
    swept_at: Timestamp,
}

/// A bucket, by what was taken out of it and has not come back yet, in thousandths; a new one is full.
#[derive(Clone, Copy, Default)]
struct Bucket {
    taken: u64,
    at: Timestamp,
}

impl Clients {
    /// Whether one more request of a client fits its rate; it is counted then.
    pub(super) fn takes(&mut self, client: &str, rate: u64, now: Timestamp) -> bool {
        let key = key(client);
        if !self.known.contains_key(&key) && self.known.len() >= CLIENTS_MAX {
            self.sweep(rate, now);
        }
        let is_full = self.known.len() >= CLIENTS_MAX;
        let bucket = match self.known.get_mut(&key) {
            Some(bucket) => bucket,
            None if is_full => &mut self.others,
            None => self.known.entry(key).or_default(),
        };
        bucket.takes(1, rate, now)
    }

    /// Whether so many more bytes fit the rate of all together; they are counted then.
    pub(super) fn takes_bytes(&mut self, bytes: u64, rate: u64, now: Timestamp) -> bool {
        self.bytes.takes(bytes, rate, now)
    }

    fn sweep(&mut self, rate: u64, now: Timestamp) {
        if now.since(self.swept_at).as_millis() < u128::from(SWEEP_EVERY_MS) {
            return;
        }
        self.swept_at = now;
        self.known.retain(|_, bucket| bucket.left_taken(rate, now) > 0);
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }
}

impl Bucket {
    fn takes(&mut self, cost: u64, rate: u64, now: Timestamp) -> bool {
        let taken = self.left_taken(rate, now).saturating_add(cost.saturating_mul(1_000));
        if taken > rate.saturating_mul(1_000 * BURST_S) {
            return false;
        }
        *self = Self { taken, at: now };
        true
    }

    /// A rate in a second is a thousandth of it in a millisecond.
    fn left_taken(&self, rate: u64, now: Timestamp) -> u64 {
        let quiet_ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.taken.saturating_sub(quiet_ms.saturating_mul(rate))
    }
}

/// A client as a number: an IPv4 address, the network of an IPv6 address, or 0 for a Unix socket.
fn key(client: &str) -> u128 {
    match client.parse() {
        Ok(IpAddr::V4(address)) => address.to_ipv6_mapped().to_bits(),
        Ok(IpAddr::V6(address)) => Ipv6Addr::to_bits(address) >> 64 << 64,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    fn taken_of(clients: &mut Clients, client: &str, tries: u64, now: Timestamp) -> u64 {
        (0..tries).map(|_| u64::from(clients.takes(client, 20, now))).sum()
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate_and_takes_nothing_from_others() {
        let mut clients = Clients::default();
        assert_eq!(taken_of(&mut clients, "192.0.2.1", 1_000, at(0)), 20 * BURST_S);
        assert_eq!(taken_of(&mut clients, "192.0.2.1", 1_000, at(500)), 10);
        assert_eq!(taken_of(&mut clients, "192.0.2.2", 1_000, at(500)), 20 * BURST_S);
        assert_eq!(taken_of(&mut clients, "192.0.2.1", 1_000, at(3_600_000)), 20 * BURST_S);
        assert!(!clients.takes("192.0.2.9", 0, at(0)), "a rate of nothing takes nothing");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let mut clients = Clients::default();
        assert_eq!(taken_of(&mut clients, "2001:db8::1", 1_000, at(0)), 20 * BURST_S);
        assert_eq!(taken_of(&mut clients, "2001:db8::ffff:1", 1_000, at(0)), 0);
        assert_eq!(taken_of(&mut clients, "2001:db8:0:1::1", 1_000, at(0)), 20 * BURST_S);
        assert_eq!(taken_of(&mut clients, "unix", 1_000, at(0)), 20 * BURST_S);
    }

    #[test]
    fn any_number_of_clients_costs_bounded_memory_and_newcomers_share_one_bucket() {
        let mut clients = Clients::default();
        let flood = |clients: &mut Clients, now| -> u64 {
            let addresses = (0..20_000_u32).map(|n| std::net::Ipv4Addr::from_bits(0x0A00_0000 + n).to_string());
            addresses.map(|client| u64::from(clients.takes(&client, 20, now))).sum()
        };
        assert_eq!(flood(&mut clients, at(0)), CLIENTS_MAX as u64 + 20 * BURST_S);
        assert_eq!(clients.known(), CLIENTS_MAX);
        assert_eq!(taken_of(&mut clients, "192.0.2.1", 10, at(0)), 0);
        assert_eq!(taken_of(&mut clients, "192.0.2.1", 1_000, at(2_000)), 20 * BURST_S, "the quiet are forgotten");
        assert!(clients.known() < CLIENTS_MAX);
    }

    #[test]
    fn all_together_have_a_rate_of_bytes() {
        let mut clients = Clients::default();
        assert!(clients.takes_bytes(1_000 * BURST_S, 1_000, at(0)));
        assert!(!clients.takes_bytes(1, 1_000, at(0)));
        assert!(clients.takes_bytes(500, 1_000, at(500)));
        assert!(!clients.takes_bytes(1_000 * BURST_S + 1, 1_000, at(3_600_000)));
    }
}
