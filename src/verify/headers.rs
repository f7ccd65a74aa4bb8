//! Owns looking a header up that must stand there once.

use http::{HeaderMap, HeaderName};

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
