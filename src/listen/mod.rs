//! Owns the sockets that senders connect to: listening, TLS, the limits of connections, and draining.
//!
//! Promises that no connection lives without a limit: connections at once, time for the handshake, for a header
//! block, between requests and for an answer that is not taken, bytes of a header block; that a request begun before a
//! drain is answered; and that what can't be parsed is answered 400, 408 or 431 where HTTP still allows an answer.
//!
//! Generic over a hyper service: it knows nothing of sources, events or replies. Limits of bodies live with whoever
//! reads them.

mod conn;
mod frames;
mod problem;
mod proxied;
mod server;
mod shards;
mod socket;
mod stream;
mod tunnel;
mod watch;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use server::{Drained, Server};
pub use shards::Shards;
pub use socket::{BindError, Endpoint, Socket};
pub use tunnel::{Duplex, Taker, Tunnel};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket. A stale socket file is replaced, a living one never.
    Unix(std::path::PathBuf),
    /// A socket passed by systemd, by its `FileDescriptorName`.
    Systemd(String),
}

/// Limits of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, all listeners together. One more is answered 503 (plain) or closed (TLS), and counted.
    pub max_connections: usize,
    /// For the TLS handshake; then the connection is closed.
    pub handshake_timeout: Duration,
    /// From the first byte of a header block to its last; then 408, or in HTTP/2 the end of the connection.
    pub header_timeout: Duration,
    /// Bytes of a header block; beyond it 431. A block may hold 100 headers at most, more are 431 as well.
    pub max_header_bytes: usize,
    /// Without a request (or without progress of an answer); then the connection is closed. Kept to an eighth; for one
    /// HTTP/2 answer among others, which closes its whole connection, to twice the time.
    pub idle_timeout: Duration,
}

/// What is known of a connection when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The peer's address, or the one that a balancer told by the PROXY protocol; None on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The peer's certificate in DER, verified by the listener's `client_ca`; None if it showed none.
    pub certificate: Option<Arc<[u8]>>,
}

/// A request that never became one: told to the hook given to [`Server::start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// What was read is not HTTP: answered 400.
    Malformed,
    /// The header block is too large: answered 431.
    HeadTooLarge,
    /// The header block came too slowly: answered 408.
    HeadTooSlow,
    /// A listener that wants the PROXY protocol met something else: closed without an answer.
    NotProxied,
    /// One connection too many: answered 503 or closed.
    TooManyConnections,
}

/// Told about requests that never became one.
pub type OnBroken = Arc<dyn Fn(&ConnectionInfo, Broken) + Send + Sync>;
