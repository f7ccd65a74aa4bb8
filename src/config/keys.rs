//! Owns the keys of `[keys]`: how certificates and key sets are got from outside.

use std::{sync::Arc, time::Duration};

use rustls::RootCertStore;

use super::{
    reader::Section,
    server::{as_usize, positive},
    tls,
};
use crate::keys::{CONFIRM_WAITS, Settings};

/// The longest that a request may have to wait for keys: senders give up after about ten seconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Reads the section. None if nothing is fetched: then not even the machine's authorities are read.
pub(super) fn read(section: Section<'_>, is_needed: bool) -> Option<Settings> {
    let own = section.path("ca").map(|ca| {
        section.cx.watch(&ca);
        section.accept("ca", tls::roots(&ca))
    });
    let issuers = section.path("issuers").map(|issuers| {
        section.cx.watch(&issuers);
        section.accept("issuers", tls::chain(&issuers))
    });
    let timeout = positive(&section, "timeout", "5s");
    if timeout > TIMEOUT_MAX {
        section.problem("timeout", "is longer than 30s; senders do not wait so long, and come again");
    }
    let refresh = positive(&section, "refresh", "1d");
    let max_documents = as_usize(section.count("max_documents", 64, 1..=10_000));
    let max_fetches = as_usize(section.count("max_fetches", 4, 1..=64));
    if !is_needed {
        section.finish();
        return None;
    }
    let native = section.accept("ca", tls::native_roots());
    section.finish();
    let native = native?;
    let anchors = native.roots.as_slice().into();
    // The file is added: that what leads through a proxy is trusted does not make the rest untrusted.
    let mut roots = RootCertStore { roots: native.roots };
    roots.extend(own.flatten().into_iter().flat_map(|own| own.roots));
    let issuers: Vec<Vec<u8>> =
        issuers.flatten().into_iter().flatten().map(|certificate| certificate.to_vec()).collect();
    let mut tls = tls::client(roots, None).ok()?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Settings {
        tls: Arc::new(tls),
        anchors,
        issuers: issuers.into(),
        timeout,
        refresh,
        max_documents,
        max_fetches,
        confirm_waits: CONFIRM_WAITS.into(),
    })
}
