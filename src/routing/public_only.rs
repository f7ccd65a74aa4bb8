//! Owns which addresses an upstream's name may lead to: with `guard`, public ones and those that are allowed by name.
//!
//! Promises that an address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by that one, and that what the
//! registries of IANA (RFC 6890) do not call globally reachable is refused. Nothing is looked up here: the address that
//! is judged is the one that is dialled afterwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The addresses that a guarded upstream may be reached at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicOnly {
    /// Networks that are taken although they are not public.
    pub allow: Vec<IpNet>,
}

impl PublicOnly {
    /// Why an address is not dialled; None if it may be.
    #[must_use]
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let carried = carried(address).map(IpAddr::V4);
        let allowed = |address: &IpAddr| self.allow.iter().any(|network| network.contains(address));
        if allowed(&address) || carried.as_ref().is_some_and(allowed) {
            return None;
        }
        match carried.unwrap_or(address) {
            IpAddr::V4(address) => refusal_v4(address),
            IpAddr::V6(address) => refusal_v6(address),
        }
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(of(g, h)),
        (0x2002, ..) => Some(of(b, c)),
        _ => None,
    }
}

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, ..) => Some("loopback"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("private"),
        (169, 254, _) => Some("link-local"),
        (100, 64..=127, _) => Some("shared by a carrier's customers"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("for documentation"),
        (224..=239, ..) => Some("multicast"),
        (0, ..) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) | (240.., ..) => Some("reserved"),
        _ => None,
    }
}

/// Only 2000::/3 is given out as global unicast; of that, what is set aside.
fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("loopback");
    }
    let [a, b, ..] = address.segments();
    match (a, b) {
        (0xfe80..=0xfebf, _) => Some("link-local"),
        (0xfc00..=0xfdff, _) | (0xfec0..=0xfeff, _) => Some("private"),
        (0xff00.., _) => Some("multicast"),
        (0x2001, 0xdb8) | (0x3fff, 0..=0xfff) => Some("for documentation"),
        (0x2001, 0..=0x1ff) => Some("reserved"),
        (0x2000..=0x3fff, _) => None,
        _ => Some("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allow: &[&str], address: &str) -> Option<&'static str> {
        let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
        PublicOnly { allow }.refusal(address.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_refused_in_every_form_it_can_take() {
        let cases = [
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("169.254.169.254", "link-local"),
            ("100.64.0.1", "shared by a carrier's customers"),
            ("100.127.255.255", "shared by a carrier's customers"),
            ("192.0.2.1", "for documentation"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("224.0.0.1", "multicast"),
            ("0.0.0.0", "reserved"),
            ("192.0.0.8", "reserved"),
            ("192.88.99.1", "reserved"),
            ("198.19.0.1", "reserved"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "reserved"),
            ("::1", "loopback"),
            ("::7f00:1", "reserved"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "link-local"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b:1::1", "reserved"),
            ("2002:7f00:1::", "loopback"),
            ("2002:c0a8:101::1", "private"),
            ("2001::1", "reserved"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("fd00::1", "private"),
            ("fec0::1", "private"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
            ("100::1", "reserved"),
            ("4000::1", "reserved"),
        ];
        for (address, why) in cases {
            assert_eq!(refused(&[], address), Some(why), "{address}");
        }
    }

    #[test]
    fn public_addresses_and_allowed_networks_are_taken() {
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "8.8.8.8", "2606:4700::1111", "2002:808:808::1"] {
            assert_eq!(refused(&[], address), None, "{address}");
        }
        let allow = ["10.0.0.0/8", "fd00::/8"];
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(refused(&allow, address), None, "{address}");
        }
        assert_eq!(refused(&allow, "192.168.0.1"), Some("private"));
        assert_eq!(refused(&allow, "fe80::1"), Some("link-local"));
    }
}
