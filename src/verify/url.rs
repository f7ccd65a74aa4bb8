//! Owns the URL that a sender signs: the configured public one with the query of the request.
//!
//! Promises that no header of the request has a say in it: behind a proxy `Host` says what the proxy likes, and in front
//! of one what the sender likes.

use http::Uri;

use super::Head;

/// What `HubSpot` decodes before it signs; everything else stays as it is.
const HUBSPOT_DECODES: &[u8] = b":/?@!$'()*,;";

/// A public URL, without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicUrl {
    /// `http` or `https`.
    https: bool,
    /// As configured, up to the query.
    text: Box<str>,
    /// Where host and port stand in the text.
    authority: std::ops::Range<usize>,
}

impl PublicUrl {
    /// Takes an absolute URL; the text of the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = "write the whole URL as the provider knows it, such as \"https://hooks.example.com/in\"";
        let uri: Uri = text.parse().map_err(|_| format!("is no URL; {form}"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("does not begin with https:// or http://; {form}")),
        };
        if text.contains('#') {
            return Err(format!("has a fragment, which no request carries; {form}"));
        }
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(format!("names a user; {form}"));
        }
        let text = text.split('?').next().unwrap_or(text);
        let start = text.find("://").map_or(0, |at| at + 3);
        let end = text.get(start..).and_then(|rest| rest.find('/')).map_or(text.len(), |at| start + at);
        Ok(Self { https, text: text.into(), authority: start..end })
    }

    /// As configured, up to the query.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The URL of a request: the query is the request's own.
    pub(super) fn of(&self, head: &Head<'_>) -> String {
        with_query(&self.text, head.query)
    }

    /// The same as `HubSpot` signs it.
    pub(super) fn hubspot(&self, head: &Head<'_>) -> String {
        let url = self.of(head);
        if !url.contains('%') {
            return url;
        }
        let mut decoded = String::with_capacity(url.len());
        let mut rest = url.as_str();
        while let Some(at) = rest.find('%') {
            let (before, tail) = rest.split_at(at);
            decoded.push_str(before);
            let byte = tail.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match byte.filter(|byte| HUBSPOT_DECODES.contains(byte)) {
                Some(byte) => {
                    decoded.push(char::from(byte));
                    rest = tail.get(3..).unwrap_or_default();
                }
                None => {
                    decoded.push('%');
                    rest = tail.get(1..).unwrap_or_default();
                }
            }
        }
        decoded.push_str(rest);
        decoded
    }

    /// The URL without and with its port, the default one if it names none: senders disagree about which they sign.
    pub(super) fn port_variants(&self, head: &Head<'_>) -> [String; 2] {
        let (before, rest) = self.text.split_at_checked(self.authority.start).unwrap_or((&self.text, ""));
        let length = self.authority.end.saturating_sub(self.authority.start);
        let (authority, path) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (authority, if self.https { "443" } else { "80" }),
        };
        [
            with_query(&format!("{before}{host}{path}"), head.query),
            with_query(&format!("{before}{host}:{port}{path}"), head.query),
        ]
    }
}

fn with_query(url: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => [url, "?", query].concat(),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn of<T>(url: &str, query: Option<&str>, then: impl Fn(&PublicUrl, &Head<'_>) -> T) -> T {
        let head = Head { method: &Method::POST, path: "/elsewhere", query, headers: &HeaderMap::new() };
        then(&PublicUrl::parse(url).unwrap(), &head)
    }

    #[test]
    fn the_query_is_always_the_request_s_own() {
        let plain = |url, query| of(url, query, PublicUrl::of);
        assert_eq!(plain("https://a.example/in", None), "https://a.example/in");
        assert_eq!(plain("https://a.example/in", Some("")), "https://a.example/in?");
        assert_eq!(plain("https://a.example:8443/in?x=1", Some("x=1&y=2")), "https://a.example:8443/in?x=1&y=2");
        assert_eq!(plain("https://a.example", Some("q")), "https://a.example?q");
    }

    #[test]
    fn both_forms_of_a_port_are_tried() {
        let variants = |url| of(url, Some("q=1"), PublicUrl::port_variants);
        assert_eq!(variants("https://a.example/in"), ["https://a.example/in?q=1", "https://a.example:443/in?q=1"]);
        assert_eq!(variants("http://a.example"), ["http://a.example?q=1", "http://a.example:80?q=1"]);
        assert_eq!(
            variants("https://a.example:8443/i:1"),
            ["https://a.example/i:1?q=1", "https://a.example:8443/i:1?q=1"]
        );
        assert_eq!(
            variants("https://[2001:db8::1]/in"),
            ["https://[2001:db8::1]/in?q=1", "https://[2001:db8::1]:443/in?q=1"]
        );
    }

    #[test]
    fn hubspot_s_twelve_characters_are_decoded_and_no_others() {
        let decoded = |query| of("https://a.example/in", Some(query), PublicUrl::hubspot);
        assert_eq!(
            decoded("a=%3A%2F%3F%40%21%24%27%28%29%2A%2C%3B&b=%3a%2f"),
            "https://a.example/in?a=:/?@!$'()*,;&b=:/"
        );
        assert_eq!(decoded("a=%20%25%26%3D%2B%C3%A4%"), "https://a.example/in?a=%20%25%26%3D%2B%C3%A4%");
        assert_eq!(decoded("a=%253A%+3"), "https://a.example/in?a=%253A%+3");
    }

    #[test]
    fn what_no_provider_could_call_is_refused() {
        for text in ["", "/in", "hooks.example.com/in", "ftp://a/in", "https://a/in#x", "https://u:p@a/in"] {
            assert!(PublicUrl::parse(text).is_err(), "{text:?}");
        }
    }
}
