//! Owns scripted upstreams: they record what they get and answer, or fail to, as the test says at the moment.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{PATIENCE, wait_for};

/// A request as an upstream got it.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    /// The first value of a header; names are compared as they are on the wire.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    With(u16, Vec<(&'static str, String)>, &'static str),
    HangBeforeHead,
    HangAfterHead,
    Reset,
    EndlessBody,
}

type Script = Box<dyn FnMut(&Received) -> Answer + Send>;

struct Shared {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    stopped: AtomicBool,
}

/// A scripted server. It ends with the test.
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Upstream {
    /// An upstream that answers 200.
    pub fn start() -> Self {
        Self::at(0)
    }

    /// The same on a certain port.
    pub fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        Self::accepting(address, move |shared| {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || serve(&shared, stream, reset));
            }
        })
    }

    /// One that speaks TLS.
    pub fn with_tls(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self::accepting(address, move |shared| {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, tls) = (shared.clone(), ServerConnection::new(config.clone()).unwrap());
                thread::spawn(move || serve(&shared, StreamOwned::new(tls, stream), drop));
            }
        })
    }

    /// One on a Unix socket. It is never stopped before the process of the tests ends.
    pub fn on_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let mut upstream = Self::accepting(([127, 0, 0, 1], 0).into(), move |shared| {
            while let Ok((stream, _)) = listener.accept() {
                let shared = shared.clone();
                thread::spawn(move || serve(&shared, stream, drop));
            }
        });
        upstream.accepting = None;
        upstream
    }

    fn accepting(address: SocketAddr, accept: impl FnOnce(Arc<Shared>) + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(|_| Answer::Status(200))),
            received: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        Self { shared, address, accepting: Some(thread::spawn(move || accept(theirs))) }
    }

    /// Answers like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.script(move |_| answer.clone());
    }

    /// Decides for each request from now on.
    pub fn script(&self, script: impl FnMut(&Received) -> Answer + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// What it got, in order.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until it got so many requests; all of them.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Received> {
        wait_for(&format!("{count} requests at the upstream"), || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nobody listens any more: connections are refused.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        let _ended = accepting.join();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends a connection with a reset instead of a close.
fn reset(stream: TcpStream) {
    let at_once = Some(std::time::Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&stream, at_once).unwrap();
}

fn serve<S: Read + Write>(shared: &Shared, mut stream: S, reset: impl FnOnce(S)) {
    let mut ahead = Vec::new();
    while let Ok(request) = read_request(&mut stream, &mut ahead) {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let answer = (shared.script.lock().unwrap())(&request);
        shared.received.lock().unwrap().push(request);
        let written = match answer {
            Answer::Status(204) => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Answer::Status(status) => write!(stream, "HTTP/1.1 {status} Word\r\nContent-Length: 2\r\n\r\nok"),
            Answer::With(status, headers, body) => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} Word\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
            }
            Answer::HangBeforeHead => hang(&mut stream),
            Answer::HangAfterHead => {
                let head = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                head.and_then(|()| stream.flush()).and_then(|()| hang(&mut stream))
            }
            Answer::Reset => return reset(stream),
            Answer::EndlessBody => endless(&mut stream),
        };
        if written.and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// Waits until the other side gives up.
fn hang<S: Read>(stream: &mut S) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer)? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Writes until the other side gives up.
fn endless<S: Write>(stream: &mut S) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let clock = stagepost::clock::Clock::system();
    let start = clock.elapsed();
    while clock.elapsed() - start < 2 * PATIENCE {
        stream.write_all(b"400\r\n")?;
        stream.write_all(&[b'x'; 1024])?;
        stream.write_all(b"\r\n")?;
    }
    Ok(())
}

fn read_request<S: Read>(stream: &mut S, ahead: &mut Vec<u8>) -> io::Result<Received> {
    let end = loop {
        if let Some(end) = ahead.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, ahead)?;
    };
    let head: Vec<u8> = ahead.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or("").split(' ');
    let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let value = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let mut body = Vec::new();
    if let Some(length) = value("content-length") {
        body = take(stream, ahead, length.parse().unwrap_or(0))?;
    } else if value("transfer-encoding").is_some() {
        loop {
            let end = loop {
                if let Some(end) = ahead.windows(2).position(|window| window == b"\r\n") {
                    break end + 2;
                }
                more(stream, ahead)?;
            };
            let line: Vec<u8> = ahead.drain(..end).collect();
            let length = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap_or(0);
            body.extend(take(stream, ahead, length)?);
            take(stream, ahead, 2)?;
            if length == 0 {
                break;
            }
        }
    }
    Ok(Received { method, target, headers, body })
}

fn take<S: Read>(stream: &mut S, ahead: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while ahead.len() < length {
        more(stream, ahead)?;
    }
    Ok(ahead.drain(..length).collect())
}

fn more<S: Read>(stream: &mut S, ahead: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    match stream.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            ahead.extend_from_slice(buffer.get(..read).unwrap_or_default());
            Ok(())
        }
    }
}
