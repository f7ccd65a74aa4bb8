//! Owns the little HTTP/1.1 that a drill needs on both of its sides, over Unix sockets.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// No answer takes longer, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest body that either side may declare, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// One message: its first line, its headers in lower case, its body.
pub(super) struct Message {
    pub(super) first: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// Reads one message with a declared length.
///
/// # Errors
/// The stream ends, or what comes is no such message.
pub(super) fn read_message(from: &mut impl BufRead) -> io::Result<Message> {
    let mut line = || {
        let mut line = String::new();
        match from.read_line(&mut line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(line),
        }
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = line()?.trim_end().split_once(':') {
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Message { first, headers, body })
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) id: String,
    pub(super) duplicate: bool,
}

/// One sender's connection to the relay, opened anew when it has ended.
pub(super) struct Sender {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
}

impl Sender {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), connection: None }
    }

    /// Sends one event under a dedupe key. None if no whole answer came.
    pub(super) fn post(&mut self, key: &str, body: &[u8]) -> Option<Answer> {
        let answer = self.exchange(key, body);
        if answer.is_err() {
            self.connection = None;
        }
        answer.ok()
    }

    fn exchange(&mut self, key: &str, body: &[u8]) -> io::Result<Answer> {
        let stream = match &mut self.connection {
            Some(stream) => stream,
            empty @ None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                empty.insert(BufReader::new(stream))
            }
        };
        let head = format!(
            "POST /hooks/app HTTP/1.1\r\nHost: app\r\nX-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        stream.get_mut().write_all(&message)?;
        let answer = read_message(stream)?;
        let status = answer.first.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            id: answer.headers.get("stagepost-event-id").cloned().unwrap_or_default(),
            duplicate: answer.headers.contains_key("stagepost-duplicate"),
        })
    }
}
