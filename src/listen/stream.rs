//! Owns the byte stream of a connection: TCP or Unix, plain or TLS, watched as it is read and written.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::{
    frames::Frames,
    problem,
    watch::{Activity, Phase},
};

/// A stream of bytes below TLS.
pub(super) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream of HTTP.
pub(super) enum Stream {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

/// A stream that notes what happens on it, and that first gives back what was read from it before.
pub(super) struct Metered {
    pub(super) stream: Stream,
    activity: Arc<Activity>,
    ahead: Ahead,
    end: WhoCloses,
    /// HTTP/2: where the frames that are read are.
    frames: Option<Frames>,
    /// What is written in place of a refusal of hyper's own, and how much of it was.
    refusal: (Vec<u8>, usize),
}

/// Who closes the stream when HTTP is over, which is to say: which HTTP it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhoCloses {
    /// hyper, of HTTP/2.
    Hyper,
    /// Whoever takes the stream back from hyper: HTTP/1.
    Owner,
}

/// Bytes that were read to find out which protocol is spoken.
#[derive(Default)]
pub(super) struct Ahead {
    bytes: [u8; 24],
    filled: usize,
    given: usize,
}

impl Ahead {
    /// What was read.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.given..self.filled).unwrap_or_default()
    }

    /// Where to read more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes were read into the room.
    pub(super) fn add(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }
}

impl Metered {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>, ahead: Ahead, end: WhoCloses) -> Self {
        let frames = (end == WhoCloses::Hyper).then(Frames::new);
        Self { stream, activity, ahead, end, frames, refusal: (Vec::new(), 0) }
    }

    /// Notes that bytes came.
    fn came(&mut self, bytes: &[u8]) {
        match &mut self.frames {
            None => self.activity.read(),
            Some(frames) => self.activity.in_block(frames.read(bytes)),
        }
    }

    /// Whether hyper answers by itself: nobody was asked, and what came is not yet a request. What it has to say about an
    /// answer that was given is first written before anything else is read.
    fn refuses(&self) -> bool {
        self.frames.is_none() && self.activity.phase() == Phase::Head
    }

    /// Writes what is left of the refusal that takes the place of hyper's.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (bytes, written) = &mut self.refusal;
        while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ahead = this.ahead.bytes();
        if !ahead.is_empty() {
            let (before, count) = (buf.filled().len(), ahead.len().min(buf.remaining()));
            buf.put_slice(ahead.get(..count).unwrap_or_default());
            this.ahead.given += count;
            this.came(buf.filled().get(before..).unwrap_or_default());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.came(buf.filled().get(before..).unwrap_or_default());
            }
            Poll::Ready(_) => this.activity.ended(),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refuses()
            && let Some(refusal) = problem::with_body(buf)
        {
            // Written when hyper flushes, which it does next.
            this.refusal = (refusal, 0);
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.activity.wrote(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.activity.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refuse(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.end {
            WhoCloses::Hyper => Pin::new(&mut self.get_mut().stream).poll_shutdown(cx),
            WhoCloses::Owner => self.poll_flush(cx),
        }
    }
}

/// Passes the reading and writing of an enum on to whichever stream it holds.
macro_rules! passed_on {
    ($name:ty { $($variant:path),+ }) => {
        impl AsyncRead for $name {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_read(cx, buf),)+ }
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_write(cx, buf),)+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),)+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $($variant(inner) => inner.is_write_vectored(),)+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_flush(cx),)+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_shutdown(cx),)+ }
            }
        }
    };
}

passed_on!(Raw { Raw::Tcp, Raw::Unix });
passed_on!(Stream { Stream::Plain, Stream::Tls });
