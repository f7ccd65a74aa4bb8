//! Owns the upstreams: one that answers at once and notes when each request came, one that never answers.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use stagepost::clock::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::load::{content_length, number};

/// When requests came, by their number.
pub struct Receipts {
    at_us: Vec<AtomicU64>,
    count: AtomicU64,
    clock: Clock,
}

impl Receipts {
    /// Room for requests numbered below `numbers`.
    pub fn new(numbers: u64, clock: &Clock) -> Arc<Self> {
        let at_us = (0..numbers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { at_us, count: AtomicU64::new(0), clock: clock.clone() })
    }

    /// Requests numbered from here on are counted, not noted.
    pub fn numbers(&self) -> u64 {
        self.at_us.len() as u64
    }

    /// Requests received.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When a request came first, in microseconds of the clock.
    pub fn at_us(&self, number: u64) -> Option<u64> {
        let at = self.at_us.get(number as usize)?.load(Ordering::Relaxed);
        (at > 0).then_some(at)
    }

    fn note(&self, number: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.at_us.get(number as usize) {
            let now = self.clock.elapsed().as_micros() as u64;
            let _later = slot.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Listens on a thread of its own until the process ends.
pub fn answering(listener: TcpListener, receipts: Arc<Receipts>) -> SocketAddr {
    listen(listener, Some(receipts))
}

/// Takes connections and requests and never answers.
pub fn hanging(listener: TcpListener) -> SocketAddr {
    listen(listener, None)
}

fn listen(listener: TcpListener, receipts: Option<Arc<Receipts>>) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, receipts.clone()));
            }
        });
    });
    address
}

async fn serve(mut stream: TcpStream, receipts: Option<Arc<Receipts>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(4096);
    loop {
        let head = loop {
            if let Some(end) = memchr::memmem::find(&input, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let whole = head + content_length(&input[..head]);
        while input.len() < whole {
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        if let Some(receipts) = &receipts {
            receipts.note(number(&input[..head], "x-number:").unwrap_or(u64::MAX));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        input.drain(..whole);
    }
}
