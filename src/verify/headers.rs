//! Owns looking a header up that must stand there once, and whether a body calls itself a form.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

/// Why there is not one value.
pub(super) enum NotOne {
    Missing,
    Repeated,
}

/// The value of a header that must stand there once.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a [u8], NotOne> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        (Some(_), Some(_)) => Err(NotOne::Repeated),
        (None, _) => Err(NotOne::Missing),
    }
}

/// Whether the body says that it is an HTML form: by the rule by which expressions see one, so that a scheme that relies
/// on the dedupe rule and that rule read the same.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}
