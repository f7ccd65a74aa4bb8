//! Owns the format of `answer` entries: what an upstream said to a sender who waited, for those who send again.
//!
//! ```text
//! version (1) · event · status · kept (0, 1)
//! kept:   header count · (name · value)… · body length · inline (0, 1) · the body, if inline
//! forgotten (option): 16 bytes, big-endian
//! ```

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    VERSION,
    codec::{Reader, Writer},
};
use crate::event::{Body, Seq};

/// The first answer to an event.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The event's own (first) sequence number.
    pub event: Seq,
    /// Its status.
    pub status: u16,
    /// Headers (those of the hop left out) and body; None if they are not kept: nobody can ask for them, or the body is
    /// longer than `max_reply`.
    pub kept: Option<(HeaderMap, Body)>,
    /// The dedupe key that ends with this answer: the sender is to send again, as a new event.
    pub forgotten: Option<u128>,
}

/// Encodes the payload of an `answer` entry. The parts of a body are appended with it; `seqs` are ignored.
#[must_use]
pub fn encode_answer(answer: &Answer) -> Bytes {
    let inline = match &answer.kept {
        Some((_, Body::Inline(bytes))) => bytes.len(),
        _ => 0,
    };
    let mut out = Writer(Vec::with_capacity(64 + inline));
    out.number(VERSION);
    out.number(answer.event);
    out.number(u64::from(answer.status));
    out.option(answer.kept.as_ref(), |out, (headers, body)| {
        out.number(headers.len() as u64);
        for (name, value) in headers {
            out.text(name.as_str());
            out.bytes(value.as_bytes());
        }
        out.number(body.length());
        out.option(Some(body).filter(|body| matches!(body, Body::Inline(_))), |out, body| {
            if let Body::Inline(bytes) = body {
                out.0.extend_from_slice(bytes);
            }
        });
    });
    out.option(answer.forgotten, |out, fingerprint| out.0.extend_from_slice(&fingerprint.to_be_bytes()));
    out.0.into()
}

/// Decodes the payload of an `answer` entry; `refs` are the positions of its parts.
#[must_use]
pub fn decode_answer(payload: &Bytes, refs: &[Seq]) -> Option<Answer> {
    let mut from = Reader(payload.clone());
    from.version()?;
    let event = from.number()?;
    let status = u16::try_from(from.number()?).ok()?;
    let kept = from.option(|from| {
        let mut headers = HeaderMap::new();
        for _ in 0..from.count()? {
            let name = HeaderName::from_bytes(&from.slice()?).ok()?;
            headers.append(name, HeaderValue::from_bytes(&from.slice()?).ok()?);
        }
        let length = from.number()?;
        let inline = from.option(|from| from.take(usize::try_from(length).ok()?))?;
        let body = inline.map_or_else(|| Body::Parts { seqs: refs.to_vec(), length }, Body::Inline);
        Some((headers, body))
    })?;
    let forgotten = from.option(|from| Some(u128::from_be_bytes(from.take(16)?.as_ref().try_into().ok()?)))?;
    Some(Answer { event, status, kept, forgotten })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_stored_byte_for_byte_as_described_and_read_back() {
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_static("1"));
        let body = Body::Inline(Bytes::from_static(b"ok"));
        let answer = Answer { event: 7, status: 200, kept: Some((headers, body)), forgotten: None };
        let stored = encode_answer(&answer);
        assert_eq!(&stored[..], [1, 7, 200, 1, 1, 1, 1, b'x', 1, b'1', 2, 1, b'o', b'k', 0]);
        let read = decode_answer(&stored, &[]).unwrap();
        assert_eq!((read.event, read.status, read.forgotten), (7, 200, None));
        let Some((headers, Body::Inline(body))) = read.kept else { panic!("an inline body") };
        assert_eq!((&headers["x"], &body[..]), (&HeaderValue::from_static("1"), &b"ok"[..]));
        assert!((0..stored.len()).all(|cut| decode_answer(&stored.slice(..cut), &[]).is_none()), "what is cut is none");
    }

    #[test]
    fn an_answer_that_is_not_kept_ends_a_dedupe_key_and_one_in_parts_names_them() {
        let none = Answer { event: 1, status: 503, kept: None, forgotten: Some(5) };
        let read = decode_answer(&encode_answer(&none), &[]).unwrap();
        assert_eq!((read.status, read.forgotten, read.kept.is_none()), (503, Some(5), true));
        let body = Body::Parts { seqs: Vec::new(), length: 9 };
        let parts = Answer { event: 1, status: 200, kept: Some((HeaderMap::new(), body)), forgotten: None };
        let read = decode_answer(&encode_answer(&parts), &[3, 4]).unwrap();
        let Some((_, Body::Parts { seqs, length })) = read.kept else { panic!("parts") };
        assert_eq!((seqs, length), (vec![3, 4], 9));
    }
}
