//! Owns the making of CloudEvents 1.0 (HTTP protocol binding, structured and binary mode) of events.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>. Promises that JSON
//! data keep every byte, that the id is the event's own and the same for every attempt, and that an event that came as
//! a CloudEvent keeps its attributes. Deliberately absent: batches, and taking structured events apart.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, value::RawValue};

use super::{
    headers::BodyForm,
    request::{Draft, Unsent},
};
use crate::{
    event::{Change, Reason},
    expr::decode_body,
    routing::{CloudEvents, CloudEventsMode},
};

const STRUCTURED: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");

/// The largest body that is decoded to stand in an envelope, in bytes.
const DECODED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Headers that are set in place of others of the name, or removed.
pub(super) type Dress = Vec<(HeaderName, Option<HeaderValue>)>;

impl Draft<'_> {
    /// Makes a CloudEvent of what is sent. A request that only asks (GET, HEAD, OPTIONS) and an event that came in
    /// structured mode and was not transformed go as they are.
    pub(super) fn wrap(&mut self, policy: &CloudEvents, subject: Option<String>) -> Result<(), Unsent> {
        let headers = self.headers();
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_one = self.form == BodyForm::Original && essence.starts_with("application/cloudevents");
        if self.method.is_safe() {
            return Ok(());
        }
        // The specification of the handshake wants it in every request that the permission is for.
        let origin = policy.handshake.as_ref().map(|handshake| (header::ORIGIN, Some(handshake.origin.clone())));
        if is_one {
            self.dress.extend(origin);
            return Ok(());
        }
        let attributes = self.attributes(policy, subject, &headers);
        match policy.mode {
            CloudEventsMode::Binary => self.dress = in_headers(&attributes),
            CloudEventsMode::Structured => {
                let body = envelope(&attributes, kind, &essence, &headers, &self.body).map_err(unsendable)?;
                let old = headers.keys().filter(|name| name.as_str().starts_with("ce-"));
                self.dress = old.map(|name| (name.clone(), None)).collect();
                self.dress.push((header::CONTENT_TYPE, Some(STRUCTURED)));
                self.dress.push((header::CONTENT_ENCODING, None));
                self.body = body;
                self.form = BodyForm::Text;
            }
        }
        self.dress.extend(origin);
        Ok(())
    }

    /// Names and values, all but the content type; those of the sender in place of ours.
    fn attributes(&self, policy: &CloudEvents, subject: Option<String>, headers: &HeaderMap) -> Vec<(String, String)> {
        let event = &*self.job.event;
        let source = policy.source.as_deref().map_or_else(|| format!("/sources/{}", event.source), str::to_owned);
        let kind = event.event_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(&policy.default_type);
        let mut attributes: Vec<(String, String)> = [
            ("specversion", "1.0".to_owned()),
            ("id", event.id.to_string()),
            ("source", source),
            ("type", kind.to_owned()),
            ("time", event.received_at.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        attributes.extend(subject.filter(|subject| !subject.is_empty()).map(|subject| ("subject".to_owned(), subject)));
        if headers.contains_key(SPECVERSION) {
            for (name, value) in headers {
                let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
                let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
                if !is_name || matches!(name, "datacontenttype" | "data") {
                    continue;
                }
                let value = decoded(value.as_bytes());
                match attributes.iter_mut().find(|(known, _)| known == name) {
                    Some((_, known)) => *known = value,
                    None => attributes.push((name.to_owned(), value)),
                }
            }
        }
        attributes
    }
}

fn in_headers(attributes: &[(String, String)]) -> Dress {
    let header = |(name, value): &(String, String)| {
        let name = HeaderName::try_from(format!("ce-{name}")).ok()?;
        Some((name, Some(HeaderValue::try_from(encoded(value)).ok()?)))
    };
    attributes.iter().filter_map(header).collect()
}

/// The JSON format: data as JSON if they are called so and are, as text if they are called so and are, else as base64.
fn envelope(
    attributes: &[(String, String)],
    kind: &str,
    essence: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Bytes, String> {
    let data = decode_body(headers, body, DECODED_BYTES_MAX).map_err(|error| error.to_string())?;
    let mut json = String::with_capacity(data.len() + data.len() / 2 + 512);
    json.push('{');
    let kind = Some(("datacontenttype", kind)).filter(|(_, kind)| !kind.is_empty());
    let all = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(kind);
    for (name, value) in all {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&Value::from(name).to_string());
        json.push(':');
        json.push_str(&Value::from(value).to_string());
    }
    let is_json = essence.is_empty() || essence.ends_with("/json") || essence.ends_with("+json");
    let raw: Option<&RawValue> = if is_json { serde_json::from_slice(&data).ok() } else { None };
    let text = Some(&data).filter(|_| essence.starts_with("text/")).and_then(|data| std::str::from_utf8(data).ok());
    match (raw, text) {
        _ if data.is_empty() => {}
        (Some(raw), _) => json.extend([",\"data\":", raw.get()]),
        (None, Some(text)) => json.extend([",\"data\":", &Value::from(text).to_string()]),
        (None, None) => {
            json.push_str(",\"data_base64\":\"");
            base64::prelude::BASE64_STANDARD.encode_string(&data, &mut json);
            json.push('"');
        }
    }
    json.push('}');
    Ok(json.into())
}

/// As the HTTP binding writes values (section 3.1.3.2).
fn encoded(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => drop(write!(text, "%{byte:02X}")),
            b'!'..=b'~' => text.push(char::from(byte)),
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// As it reads them; what is not UTF-8 then is replaced.
fn decoded(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.first_chunk::<2>().filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        let escaped = escaped.and_then(|byte| byte.first().copied());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unsendable(why: String) -> Unsent {
    Unsent::Settled(Change::Die(Reason::with("unsendable", format!("no CloudEvent can be made of it: {why}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_binding_says() {
        // The example of the specification, section 3.1.3.2.
        assert_eq!(encoded("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encoded("\"50%\" a~!\n"), "%2250%25%22%20a~!%0A");
        for text in ["Euro € 😀", "\"50%\" a~!\n", "", "%41"] {
            assert_eq!(decoded(encoded(text).as_bytes()), text);
        }
        assert_eq!(decoded(b"%4 %zz%"), "%4 %zz%");
    }

    fn made(kind: &str, body: &'static [u8]) -> String {
        let attributes = [("id".to_owned(), "1\"".to_owned())];
        let essence = kind.split(';').next().unwrap_or_default();
        let json = envelope(&attributes, kind, essence, &HeaderMap::new(), &Bytes::from_static(body)).unwrap();
        String::from_utf8(json.to_vec()).unwrap()
    }

    #[test]
    fn data_are_json_text_or_base64_as_they_are_called_and_are() {
        let start = r#"{"id":"1\"","datacontenttype":"#;
        let kept = br#" {"n":12345678901234567890.10} "#;
        assert_eq!(
            made("application/vnd.x+json", kept),
            format!("{start}\"application/vnd.x+json\",\"data\":{{\"n\":12345678901234567890.10}}}}")
        );
        assert_eq!(made("application/json", b"{"), format!("{start}\"application/json\",\"data_base64\":\"ew==\"}}"));
        assert_eq!(
            made("text/plain; charset=utf-8", b"a\"b"),
            format!("{start}\"text/plain; charset=utf-8\",\"data\":\"a\\\"b\"}}")
        );
        assert_eq!(made("text/plain", b"\xff"), format!("{start}\"text/plain\",\"data_base64\":\"/w==\"}}"));
        assert_eq!(made("image/png", b""), format!("{start}\"image/png\"}}"));
        assert_eq!(made("", b"[1]"), r#"{"id":"1\"","data":[1]}"#);
    }
}
