//! Owns the form of an event in a batch: one JSON value without line breaks, for a file with a line break behind it.
//!
//! Promises that JSON bodies keep their digits and the order of their keys, and that other bodies can be had back
//! byte by byte.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    delivery::request::Draft,
    event::{Event, EventId},
    routing::{Content, Target},
};

/// Bodies above so many bytes, all together, are put into form on another thread.
const INLINE_BYTES: usize = 64 * 1024;

/// All events of a batch, in order.
pub(super) async fn all(drafts: &[Draft<'_>], target: &Target) -> Vec<Bytes> {
    let content = match target {
        Target::File(policy) => Some(policy.content),
        _ => None,
    };
    let parts: Vec<(std::sync::Arc<Event>, Bytes)> =
        drafts.iter().map(|draft| (draft.job().event.clone(), draft.body().clone())).collect();
    let encode = move || parts.iter().map(|(event, body)| one(event, body, content)).collect::<Vec<Bytes>>();
    if drafts.iter().map(|draft| draft.body().len()).sum::<usize>() <= INLINE_BYTES {
        return encode();
    }
    tokio::task::spawn_blocking(encode).await.unwrap_or_default()
}

/// A line of a file, or an item of a request.
fn one(event: &Event, body: &[u8], content: Option<Content>) -> Bytes {
    let mut text = match content {
        Some(Content::Event) => line(event, body),
        Some(Content::Body) | None => bare(body),
    };
    // Inside of strings they are escaped: these stand between tokens.
    for byte in &mut text {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    if content.is_some() {
        text.push(b'\n');
    }
    text.into()
}

/// The body alone: JSON as it is, text as a string, else `{"base64": …}`.
fn bare(body: &[u8]) -> Vec<u8> {
    match Parsed::of(body) {
        Parsed::Empty => b"null".to_vec(),
        Parsed::Json(json) => json.get().as_bytes().to_vec(),
        Parsed::Text(text) => serde_json::to_vec(text).unwrap_or_default(),
        Parsed::Bytes(bytes) => format!("{{\"base64\":\"{}\"}}", STANDARD.encode(bytes)).into_bytes(),
    }
}

enum Parsed<'a> {
    Empty,
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Parsed<'a> {
    fn of(body: &'a [u8]) -> Self {
        if body.is_empty() {
            return Self::Empty;
        }
        match (serde_json::from_slice(body), std::str::from_utf8(body)) {
            (Ok(json), _) => Self::Json(json),
            (Err(_), Ok(text)) => Self::Text(text),
            (Err(_), Err(_)) => Self::Bytes(body),
        }
    }
}

/// An event as an object.
#[derive(Serialize)]
struct Line<'a> {
    id: EventId,
    received_at: Timestamp,
    source: &'a str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

fn line(event: &Event, body: &[u8]) -> Vec<u8> {
    let parsed = Parsed::of(body);
    let line = Line {
        id: event.id,
        received_at: event.received_at,
        source: &event.source,
        event_type: event.event_type.as_deref(),
        method: event.method.as_str(),
        path: &event.path,
        query: event.query.as_deref(),
        body: match parsed {
            Parsed::Json(json) => Some(json),
            _ => None,
        },
        body_text: match parsed {
            Parsed::Text(text) => Some(text),
            Parsed::Empty => Some(""),
            _ => None,
        },
        body_base64: match parsed {
            Parsed::Bytes(bytes) => Some(STANDARD.encode(bytes)),
            _ => None,
        },
    };
    serde_json::to_vec(&line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::rig;

    fn text(body: &[u8], content: Option<Content>) -> String {
        String::from_utf8(one(&rig::event(7), body, content).to_vec()).unwrap()
    }

    #[test]
    fn a_body_alone_keeps_its_digits_and_stands_on_one_line() {
        for (body, expected) in [
            (
                &b"{\"b\": 1.50,\r\n \"a\": 12345678901234567890123}"[..],
                "{\"b\": 1.50,   \"a\": 12345678901234567890123}",
            ),
            (b" [1] \n", "[1]"),
            (b"a=1&b=\n2", "\"a=1&b=\\n2\""),
            (b"\xff\x00", "{\"base64\":\"/wA=\"}"),
            (b"", "null"),
        ] {
            assert_eq!(text(body, None), expected);
            assert_eq!(text(body, Some(Content::Body)), format!("{expected}\n"));
        }
    }

    #[test]
    fn a_line_says_what_came_when_and_from_where_and_can_be_read_back() {
        let id = rig::event(7).id;
        let head = format!(
            "{{\"id\":\"{id}\",\"received_at\":\"2026-01-02T03:04:05.678Z\",\"source\":\"app\",\"method\":\"POST\",\
             \"path\":\"/hooks/app\",\"query\":\"x=1%202\","
        );
        for (body, end) in [
            (&b"{\"a\":\n1}"[..], "\"body\":{\"a\": 1}}\n"),
            (b"\"a\"", "\"body\":\"a\"}\n"),
            (b"a", "\"body_text\":\"a\"}\n"),
            (b"", "\"body_text\":\"\"}\n"),
            (b"\xff", "\"body_base64\":\"/w==\"}\n"),
        ] {
            assert_eq!(text(body, Some(Content::Event)), format!("{head}{end}"));
        }
    }
}
