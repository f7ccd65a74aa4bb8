//! Owns listening sockets: binding them, taking them over from systemd, and accepting without blocking.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::Arc,
};

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::Address;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;

/// Where to listen, and what is spoken there.
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// None: plain.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether each connection begins with a header of the PROXY protocol, before any TLS. Whoever connects is believed.
    pub proxy_protocol: bool,
}

/// A socket that listens, with what is spoken there.
pub struct Socket {
    pub(super) listener: Listener,
    pub(super) speaks: Speaks,
}

/// What is spoken on a connection before HTTP.
#[derive(Clone)]
pub(super) struct Speaks {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) proxy_protocol: bool,
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket in a runtime.
pub(super) enum Registered {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection as the kernel hands it over, not yet registered with a runtime.
pub(super) enum Fresh {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("can't listen on {address}: {source}")]
    Io {
        /// Which address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the Unix socket, or the file is none.
    #[error("{0} is taken: another process listens on it or it is no socket; stop that process or choose another path")]
    InUse(String),
    /// systemd passed no socket of that name.
    #[error("systemd passed no socket named {0:?}: set FileDescriptorName={0} in the .socket unit")]
    NotPassed(String),
}

impl Socket {
    /// Binds all addresses, in order. Sockets passed by systemd are taken out of the environment once: call this once.
    ///
    /// # Errors
    /// The first [`BindError`]; what was bound before is closed again.
    pub fn bind_all(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Vec<Self>, BindError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut bound = Vec::new();
        for Endpoint { address, tls, proxy_protocol } in endpoints {
            let speaks = Speaks { tls, proxy_protocol };
            let listeners = match &address {
                Address::Tcp(tcp) => vec![bind_tcp(*tcp).map_err(|source| io_error(tcp, source))?],
                Address::Unix(path) => vec![bind_unix(path)?],
                Address::Systemd(name) => take_passed(&mut passed, &names, name)?,
            };
            for listener in listeners {
                listener.set_nonblocking().map_err(|source| io_error(format!("{address:?}"), source))?;
                bound.push(Self { listener, speaks: speaks.clone() });
            }
        }
        Ok(bound)
    }

    /// The TCP address it got, for port 0.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(tcp) => tcp.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }
}

impl Listener {
    /// Registers the socket with the runtime of this thread.
    pub(super) fn register(self) -> io::Result<Registered> {
        match self {
            Self::Tcp(tcp) => tokio::net::TcpListener::from_std(tcp).map(Registered::Tcp),
            Self::Unix(unix) => tokio::net::UnixListener::from_std(unix).map(Registered::Unix),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nonblocking(true),
            Self::Unix(unix) => unix.set_nonblocking(true),
        }
    }
}

impl Registered {
    /// The next connection, without any tie to this thread. Cancel-safe: nothing is accepted and then lost.
    pub(super) async fn accept(&self) -> io::Result<Fresh> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Fresh::Tcp(stream.into_std()?, peer))
            }
            Self::Unix(unix) => Ok(Fresh::Unix(unix.accept().await?.0.into_std()?)),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket: OwnedFd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Listener::Tcp(socket.into()))
}

/// Binds a Unix socket. A file that nobody listens on is left over from a crash and replaced.
fn bind_unix(path: &Path) -> Result<Listener, BindError> {
    let bound = UnixListener::bind(path).or_else(|error| {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(io_error(path.display(), error));
        }
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let is_stale =
            is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(BindError::InUse(path.display().to_string()));
        }
        let replaced = std::fs::remove_file(path).and_then(|()| UnixListener::bind(path));
        replaced.map_err(|source| io_error(path.display(), source))
    })?;
    Ok(Listener::Unix(bound))
}

/// Takes every socket of that name: one `.socket` unit may pass several.
fn take_passed(passed: &mut ListenFd, names: &str, name: &str) -> Result<Vec<Listener>, BindError> {
    let mut taken = Vec::new();
    for index in positions(names, name) {
        let tcp = passed.take_tcp_listener(index).map(|found| found.map(Listener::Tcp));
        let any = tcp.or_else(|_not_tcp| passed.take_unix_listener(index).map(|found| found.map(Listener::Unix)));
        taken.extend(any.map_err(|source| io_error(format!("systemd:{name}"), source))?);
    }
    if taken.is_empty() { Err(BindError::NotPassed(name.to_owned())) } else { Ok(taken) }
}

fn positions(names: &str, name: &str) -> impl Iterator<Item = usize> {
    names.split(':').enumerate().filter(move |(_, known)| *known == name).map(|(index, _)| index)
}

fn io_error(address: impl ToString, source: io::Error) -> BindError {
    BindError::Io { address: address.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_passed_by_systemd_are_found_by_name_also_when_a_name_stands_twice() {
        assert_eq!(positions("web:admin:web", "web").collect::<Vec<_>>(), [0, 2]);
        assert_eq!(positions("", "web").count(), 0);
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        drop(bind_unix(&path).unwrap());
        let living = bind_unix(&path).unwrap();
        assert!(matches!(bind_unix(&path), Err(BindError::InUse(_))));
        drop(living);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_unix(&path), Err(BindError::InUse(_) | BindError::Io { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
