//! Owns what is hidden when stored requests are shown: headers that carry credentials, the session ids in messages of
//! Salesforce, and what the configuration hides in bodies.
//!
//! Promises that a value is hidden wherever it is shown, unless the operator says `--reveal`. Deliberately absent:
//! searching other bodies for secrets.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ports::Reads, wire::Text};
use crate::{
    event::Event,
    log::{ReadError, read_body},
    verify::hide_session_ids,
};

/// In place of a value.
const HIDDEN: &str = "[hidden]";

/// Headers that carry credentials or signatures, whatever the configuration says.
const BUILT_IN: [&str; 20] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-gitlab-token",
    "x-hub-signature",
    "x-hub-signature-256",
    "stripe-signature",
    "webhook-signature",
    "svix-signature",
    "x-signature",
    "x-slack-signature",
    "x-shopify-hmac-sha256",
    "x-amz-security-token",
];

/// Endings of names that are hidden as well.
const ENDINGS: [&str; 6] = ["-signature", "-signature-256", "-hmac-sha256", "-token", "-secret", "-password"];

/// Decides which headers are hidden.
pub struct Hidden {
    more: Vec<HeaderName>,
    reveal: bool,
}

impl Hidden {
    /// The built-in list and these; nothing at all with `reveal`.
    #[must_use]
    pub const fn new(more: Vec<HeaderName>, reveal: bool) -> Self {
        Self { more, reveal }
    }

    /// Whether the values of this header are hidden.
    #[must_use]
    pub fn hides(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        !self.reveal
            && (BUILT_IN.contains(&text) || ENDINGS.iter().any(|end| text.ends_with(end)) || self.more.contains(name))
    }

    /// The headers as they may be shown, and the names that were hidden.
    #[must_use]
    pub fn headers(&self, headers: &HeaderMap) -> (Vec<(String, Text)>, Vec<String>) {
        let mut hidden: Vec<String> = Vec::new();
        let shown = headers
            .iter()
            .map(|(name, value)| {
                if !self.hides(name) {
                    return (name.as_str().to_owned(), Text::new(value.as_bytes()));
                }
                if hidden.last().is_none_or(|last| last != name.as_str()) {
                    hidden.push(name.as_str().to_owned());
                }
                (name.as_str().to_owned(), Text::Plain(HIDDEN.to_owned()))
            })
            .collect();
        (shown, hidden)
    }
}

/// An event with the values of hidden headers replaced.
pub(super) fn without_hidden(reads: &dyn Reads, event: &Event) -> Event {
    let hidden = Hidden::new(reads.hidden_headers(), false);
    let mut shown = event.clone();
    for (name, value) in &mut shown.headers {
        if hidden.hides(name) {
            *value = HeaderValue::from_static(HIDDEN);
        }
    }
    shown
}

/// Why a body is not shown.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It can't be told what to hide in it.
    #[error("{0}: reveal it")]
    Unknown(String),
}

/// The body of an event as it may be shown: as stored, or with `reveal` off without the credentials of its scheme and
/// without what the configuration hides.
///
/// # Errors
/// See [`BodyError`].
pub fn body(reads: &dyn Reads, event: &Event, reveal: bool) -> Result<Bytes, BodyError> {
    shown_body(reads, event, read_body(&*reads.log(), event)?, reveal).map_err(BodyError::Unknown)
}

/// A body of this event as it may be shown.
pub(super) fn shown_body(reads: &dyn Reads, event: &Event, body: Bytes, reveal: bool) -> Result<Bytes, String> {
    if reveal {
        return Ok(body);
    }
    reads.masked(event, without_credentials(&event.verification.scheme, body, false))
}

/// A body without the credentials that its scheme puts into it, unless they are to be revealed.
fn without_credentials(scheme: &str, body: Bytes, reveal: bool) -> Bytes {
    if reveal || scheme != "salesforce" {
        return body;
    }
    match hide_session_ids(&body) {
        Cow::Borrowed(_) => body,
        Cow::Owned(hidden) => hidden.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_unless_revealed() {
        let more = vec![HeaderName::from_static("x-customer")];
        let hidden = Hidden::new(more.clone(), false);
        for name in ["authorization", "x-gitlab-token", "x-acme-signature", "x-customer", "cookie"] {
            let name = HeaderName::from_static(name);
            assert!(hidden.hides(&name), "{name}");
            assert!(!Hidden::new(more.clone(), true).hides(&name), "{name}");
        }
        assert!(!hidden.hides(&HeaderName::from_static("content-type")));
    }
}
