//! Owns what is hidden when stored requests are shown: headers and parameters of queries that carry credentials, the
//! session ids in messages of Salesforce, and what the configuration hides in bodies and in what was sent to upstreams and answered by them.
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

/// Parameters of a query that carry credentials or signatures, as [`bare`] names …
const PARAMETERS: [&str; 16] = [
    "auth",
    "authorization",
    "code",
    "credentials",
    "hmac",
    "jwt",
    "key",
    "pass",
    "passwd",
    "passphrase",
    "pwd",
    "session",
    "sessionid",
    "sid",
    "sig",
    "sign",
];

/// … and endings of such names.
const PARAMETER_ENDINGS: [&str; 13] = [
    "token",
    "secret",
    "signature",
    "password",
    "credential",
    "accesskey",
    "accesskeyid",
    "apikey",
    "authkey",
    "functionskey",
    "privatekey",
    "secretkey",
    "subscriptionkey",
];

/// What the configuration hides besides the built-in lists.
#[derive(Clone, Debug, Default)]
pub struct HiddenNames {
    /// Headers.
    pub headers: Vec<HeaderName>,
    /// Parameters of queries, in any case.
    pub parameters: Vec<Box<str>>,
}

/// Decides what is hidden.
pub struct Hidden<'r> {
    reads: &'r dyn Reads,
    more: HiddenNames,
    reveal: bool,
}

impl<'r> Hidden<'r> {
    /// The built-in lists and what the configuration names; nothing at all with `reveal`.
    #[must_use]
    pub fn new(reads: &'r dyn Reads, reveal: bool) -> Self {
        let mut more = if reveal { HiddenNames::default() } else { reads.hidden_names() };
        more.parameters.iter_mut().for_each(|name| *name = bare(name).into());
        Self { reads, more, reveal }
    }

    /// Whether nothing is hidden.
    pub(super) const fn reveals(&self) -> bool {
        self.reveal
    }

    /// Whether the values of this header are hidden.
    #[must_use]
    pub fn hides(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        !self.reveal
            && (BUILT_IN.contains(&text)
                || ENDINGS.iter().any(|end| text.ends_with(end))
                || self.more.headers.contains(name))
    }

    /// Whether the values of this parameter are hidden, however its name is written.
    fn hides_parameter(&self, name: &str) -> bool {
        let name = bare(name);
        PARAMETERS.contains(&name.as_str())
            || PARAMETER_ENDINGS.iter().any(|end| name.ends_with(end))
            || (!name.is_empty() && self.more.parameters.iter().any(|known| **known == *name))
    }

    /// The headers as they may be shown, and the names of what was hidden.
    #[must_use]
    pub fn headers(&self, headers: &HeaderMap) -> (Vec<(String, Text)>, Vec<String>) {
        let mut hidden: Vec<String> = Vec::new();
        let shown = headers
            .iter()
            .map(|(name, value)| {
                let shown = self.value(name, value, &mut hidden);
                (name.as_str().to_owned(), shown.map_or_else(|| Text::new(value.as_bytes()), Text::Plain))
            })
            .collect();
        (shown, hidden)
    }

    /// What is shown in place of a header's value; None if that is shown as it is.
    fn value(&self, name: &HeaderName, value: &HeaderValue, hidden: &mut Vec<String>) -> Option<String> {
        if self.hides(name) {
            if hidden.last().is_none_or(|last| last != name.as_str()) {
                hidden.push(name.as_str().to_owned());
            }
            return Some(HIDDEN.to_owned());
        }
        // A proxy in front or a browser may repeat the url.
        let text = std::str::from_utf8(value.as_bytes()).ok()?;
        match self.url(text, hidden) {
            Cow::Borrowed(_) => None,
            Cow::Owned(shown) => Some(shown),
        }
    }

    /// A query as it may be shown. What was hidden in it is added to `hidden`, with a question mark before its name.
    #[must_use]
    pub fn query<'q>(&self, query: &'q str, hidden: &mut Vec<String>) -> Cow<'q, str> {
        let before = hidden.len();
        if self.reveal {
            return Cow::Borrowed(query);
        }
        let mut shown = String::with_capacity(query.len());
        for pair in query.split_inclusive('&') {
            // For some a semicolon divides as well, or one more question mark; what may be a part of a hidden value is
            // hidden with it.
            for part in pair.split_inclusive([';', '?']) {
                match part.split_once('=') {
                    Some((name, value)) if !matches!(value, "" | "&" | ";" | "?") && self.hides_parameter(name) => {
                        shown.extend([name, "=", HIDDEN]);
                        shown.extend(pair.ends_with('&').then_some('&'));
                        hidden.push(format!("?{name}"));
                        break;
                    }
                    _ => shown.push_str(part),
                }
            }
        }
        if hidden.len() == before { Cow::Borrowed(query) } else { Cow::Owned(shown) }
    }

    /// A text that may hold a url: what follows its first question mark is a query.
    fn url<'t>(&self, text: &'t str, hidden: &mut Vec<String>) -> Cow<'t, str> {
        let Some((before, query)) = text.split_once('?') else { return Cow::Borrowed(text) };
        match self.query(query, hidden) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(shown) => Cow::Owned(format!("{before}?{shown}")),
        }
    }

    /// The url of a request to an upstream as it may be shown.
    pub(super) fn sent(&self, url: &str) -> String {
        self.url(url, &mut Vec::new()).into_owned()
    }

    /// What was sent to an upstream or answered by it, or the beginning of that, as it may be shown.
    pub(super) fn beginning(&self, body: Bytes) -> Text {
        if self.reveal {
            return Text::new(&body);
        }
        match self.reads.masked_beginning(body) {
            Some(shown) => Text::new(&shown),
            None => Text::Plain(HIDDEN.to_owned()),
        }
    }
}

/// A name as it is compared: decoded, lower case, without what joins its words (`Access-Token`, `access%5Ftoken`).
fn bare(name: &str) -> String {
    let decoded = form_urlencoded::parse(name.as_bytes()).next().map_or(Cow::Borrowed(name), |(name, _)| name);
    decoded.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// An event with the values of what is hidden replaced.
pub(super) fn without_hidden(reads: &dyn Reads, event: &Event) -> Event {
    let (hidden, mut names) = (Hidden::new(reads, false), Vec::new());
    let mut shown = event.clone();
    for (name, value) in &mut shown.headers {
        if let Some(new) = hidden.value(name, value, &mut names) {
            *value = HeaderValue::try_from(new).unwrap_or(HeaderValue::from_static(HIDDEN));
        }
    }
    shown.query = event.query.as_deref().map(|query| hidden.query(query, &mut names).into());
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
    use super::{super::fake::Fake, *};

    #[test]
    fn credentials_are_hidden_unless_revealed() {
        let fake = Fake::default();
        let (hidden, revealed) = (Hidden::new(&fake, false), Hidden::new(&fake, true));
        for name in ["authorization", "x-gitlab-token", "x-acme-signature", "x-customer", "cookie"] {
            let name = HeaderName::from_static(name);
            assert!(hidden.hides(&name), "{name}");
            assert!(!revealed.hides(&name), "{name}");
        }
        assert!(!hidden.hides(&HeaderName::from_static("content-type")));
    }

    #[test]
    fn credentials_in_a_query_are_hidden_however_their_names_are_written() {
        let fake = Fake::default();
        let (hidden, revealed) = (Hidden::new(&fake, false), Hidden::new(&fake, true));
        for (query, expected, names) in [
            ("token=s", "token=[hidden]", "?token"),
            ("a=1&Access_Token=s&b=2", "a=1&Access_Token=[hidden]&b=2", "?Access_Token"),
            ("api-key=s&X-Amz-Signature=s", "api-key=[hidden]&X-Amz-Signature=[hidden]", "?api-key ?X-Amz-Signature"),
            ("%74oken=s", "%74oken=[hidden]", "?%74oken"),
            ("auth[token]=s&key=s", "auth[token]=[hidden]&key=[hidden]", "?auth[token] ?key"),
            ("code=s&sig=s", "code=[hidden]&sig=[hidden]", "?code ?sig"),
            (
                "password=s;x&hub.verify_token=s",
                "password=[hidden]&hub.verify_token=[hidden]",
                "?password ?hub.verify_token",
            ),
            ("a=1;secret=s", "a=1;secret=[hidden]", "?secret"),
            ("a=1?token=s", "a=1?token=[hidden]", "?token"),
            ("token=s&token=s=t", "token=[hidden]&token=[hidden]", "?token ?token"),
            ("Customer=s", "Customer=[hidden]", "?Customer"),
            ("token=&token&a=token&=s&&", "token=&token&a=token&=s&&", ""),
            ("idempotency_key=1&keys=2&zipcode=3", "idempotency_key=1&keys=2&zipcode=3", ""),
        ] {
            let mut told = Vec::new();
            assert_eq!((&*hidden.query(query, &mut told), told.join(" ").as_str()), (expected, names));
            assert_eq!(revealed.query(query, &mut told), query);
        }
        assert_eq!(hidden.sent("http://a/b?x=1&token=s"), "http://a/b?x=1&token=[hidden]");
        assert_eq!(hidden.sent("http://a/token=s"), "http://a/token=s");
    }

    #[test]
    fn a_url_in_a_header_hides_its_credentials_too() {
        let (fake, mut headers) = (Fake::default(), HeaderMap::new());
        headers.insert("x-original-url", HeaderValue::from_static("/in?a=1&token=sesame"));
        headers.insert("user-agent", HeaderValue::from_static("what?"));
        let (shown, names) = Hidden::new(&fake, false).headers(&headers);
        let text = |value: &str| Text::Plain(value.to_owned());
        assert_eq!(shown[0].1, text("/in?a=1&token=[hidden]"));
        assert_eq!((&shown[1].1, names.as_slice()), (&text("what?"), &["?token".to_owned()][..]));
    }

    #[test]
    fn a_text_of_which_nobody_knows_what_to_hide_in_it_is_hidden_whole() {
        let fake = Fake::default();
        let (hidden, revealed) = (Hidden::new(&fake, false), Hidden::new(&fake, true));
        for (answer, expected) in [("ok", "ok"), ("sesame", HIDDEN), ("undecodable", HIDDEN)] {
            assert_eq!(hidden.beginning(Bytes::from(answer)), Text::Plain(expected.to_owned()));
            assert_eq!(revealed.beginning(Bytes::from(answer)), Text::Plain(answer.to_owned()));
        }
    }
}
