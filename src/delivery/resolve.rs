//! Owns looking names up: the seam between names of upstreams and whoever knows their addresses.
//!
//! Promises nothing about what comes back: every address is judged by `guard` where it is dialled. Time limits are the
//! caller's. Deliberately absent: keeping what was found.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

/// A look-up under way; may be dropped at any time.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Whoever knows the addresses of names.
pub trait Resolve: Send + Sync {
    /// The addresses of a host, each with this port, the preferred one first. A literal address leads to itself; so does
    /// any other form that the system takes for one.
    fn resolve(&self, host: &str, port: u16) -> Lookup;
}

/// The system's resolver: `/etc/hosts`, DNS, whatever the machine is set up for.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Resolve for System {
    fn resolve(&self, host: &str, port: u16) -> Lookup {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::{
        collections::HashMap,
        net::IpAddr,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Knows what it was told; may be told something else at any time.
    #[derive(Clone, Default)]
    pub(crate) struct Told(Arc<Mutex<HashMap<String, Said>>>);

    #[derive(Default)]
    struct Said {
        addresses: Vec<IpAddr>,
        asked: usize,
    }

    impl Told {
        /// From now on a name has these addresses; with none, a look-up of it fails.
        pub(crate) fn tell(&self, host: &str, addresses: &[&str]) {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            self.0.lock().unwrap().entry(host.to_owned()).or_default().addresses = addresses;
        }

        /// How often a name was looked up.
        pub(crate) fn asked(&self, host: &str) -> usize {
            self.0.lock().unwrap().get(host).map_or(0, |said| said.asked)
        }
    }

    impl Resolve for Told {
        fn resolve(&self, host: &str, port: u16) -> Lookup {
            let mut all = self.0.lock().unwrap();
            let said = all.entry(host.to_owned()).or_default();
            said.asked += 1;
            let found: Vec<SocketAddr> = said.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name is not known");
            let found = if found.is_empty() { Err(unknown()) } else { Ok(found) };
            Box::pin(std::future::ready(found))
        }
    }
}
