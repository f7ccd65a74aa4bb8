//! Owns who the client is: the peer, or whom a trusted proxy names in `X-Forwarded-For`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderMap;
use ipnet::IpNet;

use super::certificate;
use crate::{
    clock::Timestamp,
    event::{Event, Proxy, Scheme},
    quarantine::Purpose,
    routing::Certificate,
};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    address: Option<IpAddr>,
    shown: Arc<str>,
    scheme: Scheme,
    certificate: Option<Arc<Certificate>>,
    again: Option<Again>,
}

/// A request that does not come over a connection but out of quarantine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    /// When it was received.
    pub(super) received_at: Timestamp,
    /// What it is looked at for.
    pub(super) purpose: Purpose,
}

impl Caller {
    /// From the peer's address (None: a Unix socket, which is trusted like a proxy) and whether it uses TLS.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>, tls: bool) -> Self {
        let address = peer.map(|peer| peer.ip().to_canonical());
        let shown = address.map_or_else(|| "unix".into(), |address| address.to_string().into());
        Self { address, shown, scheme: if tls { Scheme::Https } else { Scheme::Http }, certificate: None, again: None }
    }

    /// The sender of a request out of quarantine: the trusted proxy that handed it to us then, or the client itself.
    pub(super) fn of(event: &Event, purpose: Purpose) -> Self {
        let (address, scheme) = match &event.proxy {
            Some(proxy) => (&proxy.address, proxy.scheme),
            None => (&event.client, event.scheme),
        };
        let peer = address.parse().ok().map(|address| SocketAddr::new(address, 0));
        let again = Some(Again { received_at: event.received_at, purpose });
        Self { again, ..Self::new(peer, scheme == Scheme::Https) }
    }

    /// If the request comes out of quarantine: since when, and what for.
    pub(super) const fn again(&self) -> Option<&Again> {
        self.again.as_ref()
    }

    /// With the certificate (DER) that the peer has shown and the listener has verified, if there is one.
    #[must_use]
    pub fn with_certificate(mut self, der: Option<&[u8]>) -> Self {
        self.certificate = der.map(|der| Arc::new(certificate::read(der)));
        self
    }

    /// The certificate of the peer.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// The client's address: the peer's, or the one that a trusted proxy names. None: it is not known.
    pub(super) fn client_address(&self, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
        if self.is_trusted(trusted) { forwarded_for(headers, trusted).or(self.address) } else { self.address }
    }

    /// The client's address as text, and how it reached us (or the proxies we trust).
    pub(super) fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> (Arc<str>, Scheme) {
        if !self.is_trusted(trusted) {
            return (self.shown.clone(), self.scheme);
        }
        let client = forwarded_for(headers, trusted);
        let https =
            headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
        let scheme = if https { Scheme::Https } else { self.scheme };
        (client.map_or_else(|| self.shown.clone(), |address| address.to_string().into()), scheme)
    }

    /// The peer, if it is a proxy that we trust.
    pub(super) fn proxy(&self, trusted: &[IpNet]) -> Option<Proxy> {
        self.is_trusted(trusted).then(|| Proxy { address: (&*self.shown).into(), scheme: self.scheme })
    }

    fn is_trusted(&self, trusted: &[IpNet]) -> bool {
        self.address.as_ref().is_none_or(|address| trusted.iter().any(|net| net.contains(address)))
    }

    /// The peer's address as text.
    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }
}

/// The right-most hop that is not a trusted proxy, or the left-most of them.
fn forwarded_for(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut client = None;
    for line in headers.get_all("x-forwarded-for").into_iter().rev() {
        for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
            // What can't be read was not written by a proxy that we trust: whoever passed it on is the client.
            let Some(address) = parse_hop(hop) else { return client };
            client = Some(address);
            if !trusted.iter().any(|net| net.contains(&address)) {
                return client;
            }
        }
    }
    client
}

/// An address, with or without a port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.split(']').next());
    let parsed = bare.unwrap_or(text).parse::<IpAddr>().ok();
    parsed.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_right_most_hop_that_is_not_trusted() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let cases: [(Option<&str>, &[&str], &str); 9] = [
            (Some("192.0.2.1:5"), &["198.51.100.7"], "192.0.2.1"),
            (Some("10.0.0.1:5"), &[], "10.0.0.1"),
            (Some("10.0.0.1:5"), &["198.51.100.7"], "198.51.100.7"),
            (Some("10.0.0.1:5"), &["203.0.113.9, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),
            (Some("10.0.0.1:5"), &["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
            (Some("10.0.0.1:5"), &["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
            (Some("10.0.0.1:5"), &["198.51.100.7, nonsense"], "10.0.0.1"),
            (None, &["[2001:db8::1]:443"], "2001:db8::1"),
            (None, &[], "unix"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let caller = Caller::new(peer.map(|peer| peer.parse().unwrap()), false);
            assert_eq!(&*caller.client(&headers, &trusted).0, expected, "{peer:?} {lines:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_that_the_sender_used_https() {
        let headers = HeaderMap::from_iter([("x-forwarded-proto".parse().unwrap(), "https".parse().unwrap())]);
        let stranger = Caller::new(Some("192.0.2.1:5".parse().unwrap()), false);
        assert_eq!(stranger.client(&headers, &[]).1, Scheme::Http);
        assert_eq!(Caller::new(None, false).client(&headers, &[]).1, Scheme::Https);
    }
}
