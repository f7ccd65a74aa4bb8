//! Owns the keys of `[[listen]]`: addresses, certificates, client certificates.

use std::{collections::HashMap, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use super::{
    problem::Place,
    reader::{Section, quoted},
    server::{SOCKET_PATH_BYTES_MAX, socket_address},
    settings::ListenSettings,
    tls::{self, Certificate, Certificates, ClientAuth},
};
use crate::routing::{Listener, TlsServer};

/// Reads every `[[listen]]`.
pub(super) fn read(root: &Section<'_>) -> Vec<ListenSettings> {
    if !root.has("listen") {
        root.problem("listen", "is missing: nothing could come in; add [[listen]] with address = \"127.0.0.1:8080\"");
    }
    let mut places: HashMap<String, Place> = HashMap::new();
    let mut all = Vec::new();
    for section in root.sections("listen") {
        let Some(settings) = one(section, &mut places) else { continue };
        all.push(settings);
    }
    all
}

/// Whether strangers on the network can reach it (a socket from systemd counts: nothing says otherwise).
pub(super) fn is_public(listener: &Listener) -> bool {
    match listener {
        Listener::Tcp { address, .. } => !address.ip().is_loopback(),
        Listener::Unix(_) => false,
        Listener::Systemd { .. } => true,
    }
}

fn one(section: Section<'_>, places: &mut HashMap<String, Place>) -> Option<ListenSettings> {
    let address = section.expanded("address").and_then(|text| {
        let address = section.accept("address", Address::parse(&section, &text))?;
        section.print("address", &quoted(&address.to_string()));
        Some(address)
    });
    if !section.has("address") {
        section.problem("address", "is missing; write \"0.0.0.0:8080\", \"unix:/path\" or \"systemd:NAME\"");
    }
    let proxy_protocol = section.has("proxy_protocol") && section.flag("proxy_protocol", false);
    let tls = read_tls(&section);
    let settings = address.map(|address| {
        let name = address.to_string();
        if let Some(first) = places.insert(name.clone(), section.place.clone()) {
            section.problem("address", format!("\"{name}\" is listened on at {first} too; keep one of them"));
        }
        let client_ca = tls.as_ref().is_some_and(|tls| tls.client_ca);
        let (server, certificates, fixed) = match tls {
            Some(tls) => (Some(Arc::new(TlsServer { config: tls.config })), Some(tls.certificates), tls.fixed),
            None => (None, None, String::new()),
        };
        let listener = match address {
            Address::Tcp(address) => Listener::Tcp { address, tls: server },
            Address::Systemd(name) => Listener::Systemd { name, tls: server },
            Address::Unix(path) => {
                if server.is_some() {
                    section.problem("tls", "has no use on a Unix socket; remove it");
                }
                Listener::Unix(path)
            }
        };
        ListenSettings { address: name, listener, certificates, client_ca, proxy_protocol, fixed }
    });
    section.finish();
    settings
}

enum Address {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
    Systemd(String),
}

impl Address {
    fn parse(section: &Section<'_>, text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = section.resolve("address", path);
            return match path.as_os_str().len() {
                0 => Err("unix: needs the path of a socket".to_owned()),
                1..=SOCKET_PATH_BYTES_MAX => Ok(Self::Unix(path)),
                _ => Err(format!("is longer than {SOCKET_PATH_BYTES_MAX} bytes, the limit for a Unix socket")),
            };
        }
        match text.strip_prefix("systemd:") {
            Some("") => Err("systemd: needs the FileDescriptorName= of a socket unit".to_owned()),
            Some(name) => Ok(Self::Systemd(name.to_owned())),
            None => socket_address(text).map(Self::Tcp),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

pub(super) struct Tls {
    pub(super) config: Arc<rustls::ServerConfig>,
    pub(super) certificates: Arc<Certificates>,
    client_ca: bool,
    fixed: String,
}

/// One table, or a list of them for SNI. `client_ca` and `client_auth` hold for the whole listener, wherever they stand.
pub(super) fn read_tls(section: &Section<'_>) -> Option<Tls> {
    let mut list: Vec<Certificate> = Vec::new();
    let mut clients: Option<(PathBuf, bool)> = None;
    let mut complete = true;
    for entry in section.sections("tls") {
        let certificate = pem_path(&entry, "certificate");
        let key = pem_path(&entry, "key");
        match certificate
            .zip(key)
            .and_then(|(chain, key)| entry.accept("certificate", tls::certified_key(&chain, &key)))
        {
            Some(certificate) => list.push(certificate),
            None => complete = false,
        }
        let optional = entry.has("client_auth")
            && entry.choice("client_auth", "required", &[("required", false), ("optional", true)]).unwrap_or(false);
        if let Some(ca) = entry.path("client_ca") {
            entry.cx.watch(&ca);
            match &clients {
                Some(first) if *first != (ca.clone(), optional) => entry.problem(
                    "client_ca",
                    "differs from the listener's first one; a listener has one, for all its names",
                ),
                _ => clients = Some((ca, optional)),
            }
        } else if entry.has("client_auth") {
            entry.problem("client_auth", "has no effect without client_ca; add client_ca or remove it");
        }
        entry.finish();
    }
    if section.has("tls") && list.is_empty() && complete {
        section.problem("tls", "is empty; name a certificate and a key, or remove it");
    }
    if list.is_empty() || !complete {
        return None;
    }
    let fixed = clients.as_ref().map_or("tls".to_owned(), |(ca, optional)| format!("tls {} {optional}", ca.display()));
    let client_ca = clients.is_some();
    let clients = match clients {
        Some((ca, optional)) => Some(ClientAuth { roots: section.accept("tls", tls::roots(&ca))?, optional }),
        None => None,
    };
    let certificates = Certificates::new(list);
    let config = section.accept("tls", tls::server(certificates.clone(), clients))?;
    Some(Tls { config: Arc::new(config), certificates, client_ca, fixed })
}

/// The path of a PEM file that must be there; the file is watched.
pub(super) fn pem_path(section: &Section<'_>, key: &'static str) -> Option<PathBuf> {
    if !section.has(key) {
        section.problem(key, "is missing; a certificate and its key are needed");
    }
    let path = section.path(key)?;
    section.cx.watch(&path);
    let is_open = || path.metadata().is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
    if key == "key" && is_open() {
        section.warn(key, format!("every user may read {0}; chmod o-r {0}", path.display()));
    }
    Some(path)
}
