//! Owns how bytes get to an upstream: TCP, TLS over TCP, or a Unix socket, behind one type.
//!
//! Promises that every step of connecting ends with the deadline its caller sets; nothing here retries.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::names::{Names, Route, Seat, host};
use crate::routing::{PublicOnly, Target, Upstream};

/// Addresses that are tried for one connection.
const ADDRESSES_MAX: usize = 8;

/// A connected stream. Tells whether anything was read since it was last asked.
pub(crate) struct Stream {
    io: Io,
    answered: Arc<AtomicBool>,
    /// Its address, if that is one of a name.
    pub(crate) seat: Option<Seat>,
}

enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Connects to where an upstream's URL points, by way of one of the route's addresses.
    pub(crate) async fn connect(
        upstream: &Upstream,
        answered: Arc<AtomicBool>,
        (names, route): (&Names, &Route),
    ) -> io::Result<Self> {
        let mut seat = None;
        let io = match &upstream.target {
            Target::Unix(path) => Io::Unix(UnixStream::connect(path).await?),
            Target::Http(_) => {
                let (tcp, address) = tcp(upstream, names, route).await?;
                seat = route.seat(address, names.now());
                Io::Tcp(tcp)
            }
            Target::File(_) | Target::Objects(_) | Target::Command(_) => {
                return Err(io::Error::other("a file, a store or a program takes events, not requests"));
            }
            Target::Https(uri) => {
                let settings = upstream.tls.as_ref().ok_or_else(|| io::Error::other("no TLS settings are loaded"))?;
                let name = match &settings.server_name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host(uri)?.to_owned()).map_err(io::Error::other)?,
                };
                let (tcp, address) = tcp(upstream, names, route).await?;
                seat = route.seat(address, names.now());
                let tls = TlsConnector::from(settings.config.clone()).connect(name, tcp).await;
                Io::Tls(Box::new(tls.inspect_err(|_| route.failed(address, names.now()))?))
            }
        };
        Ok(Self { io, answered, seat })
    }

    /// Whether ALPN chose HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        match &self.io {
            Io::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
            Io::Tcp(_) | Io::Unix(_) => false,
        }
    }
}

/// Where an upstream may be dialled now: its addresses, as far as the guard takes them.
pub(crate) async fn route(upstream: &Upstream, names: &Names) -> io::Result<Route> {
    let mut route = names.route(upstream).await?;
    route.addresses = dialled(route.addresses, upstream.guard.as_ref())?;
    Ok(route)
}

/// Connects to the first of the route's addresses that answers; each gets an equal share of the time.
async fn tcp(upstream: &Upstream, names: &Names, route: &Route) -> io::Result<(TcpStream, SocketAddr)> {
    let tries = route.addresses.len().clamp(1, ADDRESSES_MAX);
    let share = upstream.connect_timeout / u32::try_from(tries).unwrap_or(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in route.addresses.iter().copied().take(tries) {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = error,
            Err(_late) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
        route.failed(address, names.now());
    }
    Err(last)
}

/// A guarded upstream's name leads to addresses of which none may be dialled.
#[derive(Debug, thiserror::Error)]
#[error("{address} is {why}, and the upstream's guard takes public addresses only")]
pub(crate) struct AddressRefused {
    address: std::net::IpAddr,
    why: &'static str,
}

/// What is dialled of the addresses that were found. There is no second look-up, so nothing can change in between.
fn dialled(found: Vec<SocketAddr>, guard: Option<&PublicOnly>) -> io::Result<Vec<SocketAddr>> {
    let Some(guard) = guard else { return Ok(found) };
    let mut refused = None;
    let mut taken = Vec::with_capacity(found.len());
    for address in found {
        match guard.refusal(address.ip()) {
            None => taken.push(address),
            Some(why) => refused = Some(AddressRefused { address: address.ip(), why }),
        }
    }
    match refused {
        Some(refused) if taken.is_empty() => Err(io::Error::new(io::ErrorKind::PermissionDenied, refused)),
        _ => Ok(taken),
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.answered.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_leaves_only_what_may_be_dialled_and_says_why_if_nothing_is_left() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = addresses(&["10.0.0.1:80", "1.1.1.1:80", "[::1]:80"]);
        let guard = PublicOnly::default();
        assert_eq!(dialled(mixed.clone(), None).unwrap(), mixed);
        assert_eq!(dialled(mixed, Some(&guard)).unwrap(), addresses(&["1.1.1.1:80"]));
        let error = dialled(addresses(&["127.0.0.1:80"]), Some(&guard)).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<AddressRefused>()), "{error}");
        assert!(error.to_string().contains("127.0.0.1 is loopback"), "{error}");
        assert!(dialled(Vec::new(), Some(&guard)).unwrap().is_empty());
    }
}
