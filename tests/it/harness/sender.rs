//! Owns the senders' side: a small HTTP/1.1 client over any stream, raw bytes when a test needs them, and signatures.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use stagepost::clock::Clock;

use super::PATIENCE;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..Self::new("POST", target) }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// On the wire; `Host` and `Content-Length` are added unless they are given.
    pub fn wire(&self) -> Vec<u8> {
        let has = |wanted: &str| self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut wire = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            wire.push_str("Host: relay.test\r\n");
        }
        for (name, value) in &self.headers {
            wire.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has("content-length") && !has("transfer-encoding") && (!self.body.is_empty() || self.method != "GET") {
            wire.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        wire.push_str("\r\n");
        let mut wire = wire.into_bytes();
        wire.extend_from_slice(&self.body);
        wire
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The id of the event that the request became.
    pub fn event_id(&self) -> String {
        self.header("stagepost-event-id").unwrap_or_else(|| panic!("no event: {self:?}")).to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One connection, kept open.
pub struct Connection<S> {
    stream: S,
    ahead: Vec<u8>,
}

impl Connection<TcpStream> {
    /// Connects to a relay.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }

    /// Says that nothing more comes.
    pub fn finish_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request) -> Response {
        // A relay may answer and close before it has read everything.
        let _answered_early = self.write(request.wire());
        self.read().unwrap()
    }

    /// Reads one answer, its body to the end; those of status 1xx count as answers.
    pub fn read(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.ahead.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status: status.unwrap_or(0), headers, body: Vec::new() };
        response.body = self.body(&response)?;
        Ok(response)
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response.status < 200 || response.status == 204 {
            return Ok(Vec::new());
        }
        if let Some(length) = response.header("content-length") {
            return self.take(length.parse().unwrap());
        }
        if response.header("transfer-encoding").is_none() {
            while self.more()? > 0 {}
            return Ok(std::mem::take(&mut self.ahead));
        }
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            body.extend(self.take(length)?);
            self.take(2)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer)?;
        self.ahead.extend_from_slice(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }

    /// Whether the other side closes without another word; a reset counts.
    pub fn is_closed(&mut self) -> bool {
        self.ahead.is_empty() && !matches!(self.more(), Ok(1..))
    }
}

/// One request on a connection of its own.
pub fn exchange<S: Read + Write>(stream: S, request: &Request) -> io::Result<Response> {
    let mut connection = Connection::over(stream);
    let _answered_early = connection.write(request.clone().wire());
    connection.read()
}

/// HMAC-SHA256 in hexadecimal.
pub fn sign(secret: &str, message: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(message);
    hex::encode(mac.finalize().into_bytes())
}

/// A signed post as the tests' sources want it: `{timestamp}.{body}`, so many seconds from now.
pub fn signed(path: &str, body: &str, secret: &str, offset_s: i64) -> Request {
    let now = i64::try_from(Clock::system().now().as_millis() / 1000).unwrap();
    let timestamp = now + offset_s;
    let signature = sign(secret, format!("{timestamp}.{body}").as_bytes());
    Request::post(path, body)
        .header("X-Timestamp", timestamp.to_string())
        .header("X-Signature", format!("sha256={signature}"))
}
