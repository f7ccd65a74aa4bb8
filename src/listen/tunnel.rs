//! Owns what becomes of a connection that leaves HTTP after an answer 101: its stream is handed to whoever made the answer.
//!
//! Promises that the stream is handed over only when the answer is written, with whatever the peer has sent ahead, and
//! that a tunnel which lasts beyond the drain is dropped. Knows nothing of what passes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Takes the stream and what was read from it already; the connection lasts as long as the future.
pub type Taker = Box<dyn FnOnce(Box<dyn Duplex>, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Put it among the extensions of an answer 101 to take the connection over.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<Taker>>>);

impl Tunnel {
    /// A tunnel that is taken once.
    #[must_use]
    pub fn new(taker: Taker) -> Self {
        Self(Arc::new(Mutex::new(Some(taker))))
    }

    pub(super) fn take(&self) -> Option<Taker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
