//! Owns the bytes between the pool and a worker process, both of the same binary.
//!
//! A frame is a tag, a length (`u32`, little endian) and so many bytes. A request is one frame: a head of
//! length-prefixed fields, then the body, which is written from where it lies. An answer is [`READY`] once after the
//! start, then for each request [`BEGUN`] when the evaluation starts and one frame with its end.

use std::io::{self, Read};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{EvalError, Input};
use crate::{clock::Timestamp, event::EventId};

/// The first frame of a worker: it is one, and it is ours. The payload is [`MAGIC`].
pub(super) const READY: u8 = b'R';
/// The evaluation starts now: the request was read and the program compiled.
pub(super) const BEGUN: u8 = b'B';
/// The outputs, each a length and its bytes.
pub(super) const OUTPUTS: u8 = b'O';
/// [`EvalError::Failed`] with its text.
pub(super) const FAILED: u8 = b'F';
/// [`EvalError::TooLarge`] with its number.
pub(super) const TOO_LARGE: u8 = b'L';
/// [`EvalError::Undecodable`] with its text.
pub(super) const UNDECODABLE: u8 = b'U';

/// Tells a worker from any other program that may answer to the path we run.
pub(super) const MAGIC: &[u8] = concat!("stagepost expr-worker ", env!("CARGO_PKG_VERSION")).as_bytes();

/// A frame's tag and length.
pub(super) const FRAME_HEAD_BYTES: usize = 5;

/// What the bounds of one evaluation are.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) output: u64,
    pub(super) decoded: u64,
}

/// A request as a worker reads it.
pub(super) struct Request {
    pub(super) text: String,
    pub(super) bounds: Bounds,
    headers: HeaderMap,
    query: Option<String>,
    path: String,
    captures: Vec<(Box<str>, Box<str>)>,
    method: String,
    source: String,
    id: Option<EventId>,
    received_at: Timestamp,
    body: Vec<u8>,
}

/// The bytes of a frame's head.
pub(super) fn frame_head(tag: u8, length: usize) -> io::Result<[u8; FRAME_HEAD_BYTES]> {
    let length = u32::try_from(length).map_err(|_| malformed("a frame is larger than 4 GiB"))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([tag, a, b, c, d])
}

/// Tag and length of a frame's head.
pub(super) fn read_frame_head([tag, a, b, c, d]: [u8; FRAME_HEAD_BYTES]) -> (u8, usize) {
    (tag, u32::from_le_bytes([a, b, c, d]) as usize)
}

/// Everything of a request but the body, which follows it.
pub(super) fn request_head(text: &str, input: &Input<'_>, bounds: Bounds) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    put(&mut head, text.as_bytes());
    head.extend(bounds.output.to_le_bytes());
    head.extend(bounds.decoded.to_le_bytes());
    head.extend(count(input.headers.len()));
    for (name, value) in input.headers {
        put(&mut head, name.as_str().as_bytes());
        put(&mut head, value.as_bytes());
    }
    put_option(&mut head, input.query);
    put(&mut head, input.path.as_bytes());
    head.extend(count(input.captures.len()));
    for (name, value) in input.captures {
        put(&mut head, name.as_bytes());
        put(&mut head, value.as_bytes());
    }
    put(&mut head, input.method.as_bytes());
    put(&mut head, input.source.as_bytes());
    put_option(&mut head, input.id.map(|id| id.to_string()).as_deref());
    head.extend(input.received_at.as_millis().to_le_bytes());
    head
}

/// Reads a request from its frame.
pub(super) fn read_request(frame: Vec<u8>) -> io::Result<Request> {
    let mut rest = &frame[..];
    let text = take_text(&mut rest)?;
    let bounds = Bounds { output: take_u64(&mut rest)?, decoded: take_u64(&mut rest)? };
    let mut headers = HeaderMap::new();
    for _ in 0..take_u32(&mut rest)? {
        let name = HeaderName::from_bytes(take(&mut rest)?).map_err(|_| malformed("a header name"))?;
        let value = HeaderValue::from_bytes(take(&mut rest)?).map_err(|_| malformed("a header value"))?;
        headers.append(name, value);
    }
    let query = take_option(&mut rest)?;
    let path = take_text(&mut rest)?;
    let mut captures = Vec::new();
    for _ in 0..take_u32(&mut rest)? {
        captures.push((take_text(&mut rest)?.into(), take_text(&mut rest)?.into()));
    }
    let method = take_text(&mut rest)?;
    let source = take_text(&mut rest)?;
    let id = take_option(&mut rest)?.map(|id| id.parse().map_err(|_| malformed("an event id"))).transpose()?;
    let received_at = Timestamp::from_millis(take_u64(&mut rest)?);
    let body_from = frame.len().saturating_sub(rest.len());
    let mut body = frame;
    body.drain(..body_from);
    Ok(Request { text, bounds, headers, query, path, captures, method, source, id, received_at, body })
}

impl Request {
    pub(super) fn input(&self) -> Input<'_> {
        Input {
            body: &self.body,
            headers: &self.headers,
            query: self.query.as_deref(),
            path: &self.path,
            captures: &self.captures,
            method: &self.method,
            source: &self.source,
            id: self.id,
            received_at: self.received_at,
        }
    }
}

/// The end of an evaluation as tag and payload.
pub(super) fn answer(result: &Result<Vec<Bytes>, EvalError>) -> (u8, Vec<u8>) {
    match result {
        Ok(values) => {
            let mut payload = Vec::with_capacity(values.iter().map(|value| value.len() + 4).sum());
            for value in values {
                put(&mut payload, value);
            }
            (OUTPUTS, payload)
        }
        Err(EvalError::TooLarge(bytes)) => (TOO_LARGE, bytes.to_le_bytes().to_vec()),
        Err(EvalError::Undecodable(what)) => (UNDECODABLE, what.as_bytes().to_vec()),
        Err(EvalError::Failed(what)) => (FAILED, what.as_bytes().to_vec()),
        Err(other) => (FAILED, other.to_string().into_bytes()),
    }
}

/// The end of an evaluation from tag and payload.
pub(super) fn read_answer(tag: u8, payload: Vec<u8>) -> io::Result<Result<Vec<Bytes>, EvalError>> {
    let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
    Ok(match tag {
        OUTPUTS => {
            let mut rest = Bytes::from(payload);
            let mut values = Vec::new();
            while !rest.is_empty() {
                let length = take_u32(&mut &rest.split_to(4.min(rest.len()))[..])? as usize;
                if length > rest.len() {
                    return Err(malformed("an output"));
                }
                values.push(rest.split_to(length));
            }
            Ok(values)
        }
        TOO_LARGE => Err(EvalError::TooLarge(take_u64(&mut &payload[..])?)),
        UNDECODABLE => Err(EvalError::Undecodable(text(payload))),
        FAILED => Err(EvalError::Failed(text(payload))),
        _ => return Err(malformed("an answer")),
    })
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed frame: {what}"))
}

fn count(length: usize) -> [u8; 4] {
    // Heads, captures and outputs are bounded far below 4 GiB; a cut count would be found by the reader.
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(count(bytes.len()));
    out.extend_from_slice(bytes);
}

fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    put(out, text.unwrap_or_default().as_bytes());
}

fn take<'a>(rest: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let length = take_u32(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or_else(|| malformed("a field"))?;
    *rest = after;
    Ok(bytes)
}

fn take_text(rest: &mut &[u8]) -> io::Result<String> {
    String::from_utf8(take(rest)?.to_vec()).map_err(|_| malformed("a text"))
}

fn take_option(rest: &mut &[u8]) -> io::Result<Option<String>> {
    let mut present = [0];
    rest.read_exact(&mut present)?;
    let text = take_text(rest)?;
    Ok((present == [1]).then_some(text))
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    let mut bytes = [0; 4];
    rest.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn take_u64(rest: &mut &[u8]) -> io::Result<u64> {
    let mut bytes = [0; 8];
    rest.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
