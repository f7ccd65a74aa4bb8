//! Owns the one answer to whether a body is an HTML form, so that whoever verifies it, whoever looks for a key in it and
//! whoever shows it read the same.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde::de::IgnoredAny;

/// The media type of HTML forms.
const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// Whether the body is an HTML form: it is called one, and it is no JSON object or array. Many clients call whatever they
/// send a form.
#[must_use]
pub fn is_form(headers: &HeaderMap, decoded: &[u8]) -> bool {
    is_called_form(headers) && !is_object_or_array(decoded)
}

/// Whether the body is called an HTML form.
#[must_use]
pub fn is_called_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(FORM)
}

/// Whether the body is a JSON object or array, whatever it is called.
#[must_use]
pub fn is_object_or_array(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
        && std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}
