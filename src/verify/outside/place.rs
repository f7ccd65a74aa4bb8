//! Owns where keys may come from: a place is made from what a request says only if the publisher's rule allows it.
//!
//! Promises that every place is `https`, on the default port, on a host of the publisher's, and made of characters
//! that mean the same to every parser. Nothing can be fetched that is not a place. Deliberately absent: fetching.

use std::fmt;

/// The longest address that is looked at, in bytes.
const ADDRESS_BYTES_MAX: usize = 2048;

/// Whose keys they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Publisher {
    /// Amazon SNS: certificates at `SigningCertURL`.
    AwsSns,
    /// PayPal: certificates at `PAYPAL-CERT-URL`.
    PayPal,
    /// Google: a key set at one well-known place.
    Google,
}

/// An address that may be asked. Made by the constructors here only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    host: Box<str>,
    /// Begins with a slash; with the query, if there is one.
    target: Box<str>,
}

impl Place {
    /// Where a certificate stands, if the publisher's rule allows it there.
    ///
    /// SNS: host `^sns\.[a-zA-Z0-9-]{3,}\.amazonaws\.com(\.cn)?$` and a path that ends in `.pem`, as AWS's own
    /// validators ask. PayPal: a host below `paypal.com`. Google publishes no certificates: never.
    #[must_use]
    pub fn certificate(publisher: Publisher, address: &str) -> Option<Self> {
        let place = Self::parse(address, is_plain_path)?;
        let allowed = match publisher {
            Publisher::AwsSns => is_sns(&place.host) && place.target.ends_with(".pem"),
            Publisher::PayPal => is_below(&place.host, ".paypal.com"),
            Publisher::Google => false,
        };
        allowed.then_some(place)
    }

    /// Where Google publishes the keys that sign its identity tokens, as a JSON Web Key Set (RFC 7517).
    #[must_use]
    pub fn google_keys() -> Self {
        Self { host: "www.googleapis.com".into(), target: "/oauth2/v3/certs".into() }
    }

    /// Where a subscription is confirmed: an SNS host, by the rule for its certificates.
    #[must_use]
    pub fn confirmation(address: &str) -> Option<Self> {
        let place = Self::parse(address, is_plain_target)?;
        is_sns(&place.host).then_some(place)
    }

    /// The host, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The place without its query, which may hold a token. Fit for diagnostics.
    #[must_use]
    pub fn shown(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("https://{}{path}", self.host)
    }

    fn parse(address: &str, is_plain: fn(&str) -> bool) -> Option<Self> {
        if address.len() > ADDRESS_BYTES_MAX {
            return None;
        }
        let rest = address.strip_prefix("https://")?;
        let (host, target) = rest.split_at(rest.find('/')?);
        let is_host = !host.is_empty() && host.bytes().all(|byte| is_host_byte(byte) || byte == b'.');
        let has_labels = host.split('.').all(|label| !label.is_empty() && label.len() <= 63);
        let climbs = target.split(['/', '?']).any(|segment| segment == "." || segment == "..");
        (is_host && has_labels && is_plain(target) && !climbs)
            .then(|| Self { host: host.to_ascii_lowercase().into(), target: target.into() })
    }
}

impl fmt::Display for Place {
    /// The whole address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.host, self.target)
    }
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// No query, no escapes: nothing that two parsers could read differently.
fn is_plain_path(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._".contains(&byte))
}

fn is_plain_target(target: &str) -> bool {
    target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~?&=%:+".contains(&byte))
        && target.bytes().filter(|byte| *byte == b'?').count() <= 1
}

fn is_sns(host: &str) -> bool {
    let region = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))
        .and_then(|rest| rest.strip_prefix("sns."));
    region.is_some_and(|region| region.len() >= 3 && region.bytes().all(is_host_byte))
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|below| !below.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_sns_stands_on_an_sns_host_only() {
        let allowed = [
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-01d088a6f77103d0fe307c0069e40ed6.pem",
            "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-a.pem",
            "https://SNS.us-gov-west-1.amazonaws.com/x.pem",
        ];
        for address in allowed {
            assert!(Place::certificate(Publisher::AwsSns, address).is_some(), "{address}");
        }
        let refused = [
            "http://sns.us-east-1.amazonaws.com/x.pem",
            "HTTPS://sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com/x.txt",
            "https://sns.us-east-1.amazonaws.com/x.txt?a=.pem",
            "https://sns.us-east-1.amazonaws.com/x.pem#",
            "https://sns.us-east-1.amazonaws.com/../x.pem",
            "https://sns.us-east-1.amazonaws.com/%2e%2e/x.pem",
            "https://sns.us-east-1.amazonaws.com:443/x.pem",
            "https://sns.us-east-1.amazonaws.com:8443/x.pem",
            "https://sns.us-east-1.amazonaws.com.evil.example/x.pem",
            "https://evil.example/sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com@evil.example/x.pem",
            "https://evil.example\\@sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.a.b.amazonaws.com/x.pem",
            "https://sns.ab.amazonaws.com/x.pem",
            "https://sns..amazonaws.com/x.pem",
            "https://xsns.us-east-1.amazonaws.com/x.pem",
            "https://s3.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com.cn.evil/x.pem",
            "https://sns.us-east-1.amazonaws.com.",
            "https://sns.us\u{2010}east.amazonaws.com/x.pem",
            "https:///x.pem",
            "",
        ];
        for address in refused {
            assert_eq!(Place::certificate(Publisher::AwsSns, address), None, "{address}");
        }
        let long = format!("https://sns.us-east-1.amazonaws.com/{}.pem", "a".repeat(ADDRESS_BYTES_MAX));
        assert_eq!(Place::certificate(Publisher::AwsSns, &long), None);
    }

    #[test]
    fn a_certificate_of_paypal_stands_below_paypal_com_only() {
        let allowed = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77";
        assert_eq!(Place::certificate(Publisher::PayPal, allowed).unwrap().to_string(), allowed);
        for refused in [
            "https://paypal.com/x",
            "https://.paypal.com/x",
            "https://evilpaypal.com/x",
            "https://paypal.com.evil.example/x",
            "https://api.paypal.com/x?redirect=evil.example",
            "http://api.paypal.com/x",
        ] {
            assert_eq!(Place::certificate(Publisher::PayPal, refused), None, "{refused}");
        }
        assert_eq!(Place::certificate(Publisher::Google, "https://www.googleapis.com/oauth2/v3/certs"), None);
    }

    #[test]
    fn a_confirmation_keeps_its_query_and_shows_it_to_nobody() {
        let address = "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:us-west-2:\
                       123456789012:MyTopic&Token=2336412f37";
        let place = Place::confirmation(address).unwrap();
        assert_eq!(place.to_string(), address);
        assert_eq!(place.shown(), "https://sns.us-west-2.amazonaws.com/");
        for refused in
            ["http://sns.us-west-2.amazonaws.com/?a", "https://10.0.0.1/?a", "https://sns.us-west-2.amazonaws.com/?a b"]
        {
            assert_eq!(Place::confirmation(refused), None, "{refused}");
        }
    }
}
