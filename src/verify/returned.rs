//! Owns recognising a signature that was made here, when it comes back.
//!
//! Promises constant time. A signature without an id beside it tells nobody whose event it was: it is not recognised.
//! One that signs what changes on the way (path, query, other headers) is recognised only where that has not changed.

use http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq as _;

use super::{
    Head, TimestampUnit,
    signer::{Outgoing, Signer},
    timestamp::{Place, TimestampRule},
};
use crate::clock::Timestamp;

impl Signer {
    /// The headers of the id and of the signature; None if no id stands beside it.
    #[must_use]
    pub fn marks(&self) -> Option<(&HeaderName, &HeaderName)> {
        Some((self.id_header()?, &self.recipe().signature.name))
    }

    /// Whether a request carries a signature of this signer for this id, whatever its age.
    #[must_use]
    pub fn made(&self, head: &Head<'_>, body: &[u8], id: &str) -> bool {
        self.is_made(head, body, id).unwrap_or(false)
    }

    fn is_made(&self, head: &Head<'_>, body: &[u8], id: &str) -> Option<bool> {
        let (id_header, signature) = self.marks()?;
        if single(head.headers, id_header)? != id {
            return Some(false);
        }
        let now = match &self.recipe().timestamp {
            Some(TimestampRule { place: Place::Header(name), unit, .. }) => stamp(single(head.headers, name)?, *unit)?,
            Some(_) => return None,
            None => Timestamp::ZERO,
        };
        let headers = if self.signs_headers() { head.headers.clone() } else { HeaderMap::new() };
        let again = Outgoing { method: head.method, path: head.path, query: head.query, headers, body, id, now };
        let made = self.sign(again).ok()?;
        let (_, made) = made.iter().find(|(name, _)| name == signature)?;
        let (made, presented) = (made.to_str().ok()?, single(head.headers, signature)?);
        // Secrets may have been added or removed since: one that is still there is enough.
        let same = presented.split(' ').any(|one| {
            made.split(' ').fold(false, |found, own| found | bool::from(own.as_bytes().ct_eq(one.as_bytes())))
        });
        Some(same)
    }
}

/// The time that a signer wrote so.
fn stamp(text: &str, unit: TimestampUnit) -> Option<Timestamp> {
    let at = match unit {
        TimestampUnit::Seconds => Timestamp::from_millis(text.parse::<u64>().ok()?.checked_mul(1000)?),
        TimestampUnit::Milliseconds => Timestamp::from_millis(text.parse().ok()?),
        TimestampUnit::Rfc3339 => Timestamp::parse_rfc3339(text)?,
    };
    (unit.write(at) == text).then_some(at)
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::verify::{Algorithm, Encoding, IdHeader, Secret, SignerSettings, StampHeader};

    fn secret(text: &str) -> Secret {
        Secret::new("env:K", text.as_bytes().to_vec())
    }

    fn custom(id: bool) -> Signer {
        Signer::custom(SignerSettings {
            algorithm: Algorithm::Sha256,
            header: "x-signature".into(),
            encoding: Encoding::Hex,
            prefix: "v1=".into(),
            template: Some("{timestamp}.{body}".into()),
            timestamp: Some(StampHeader { header: "x-time".into(), unit: TimestampUnit::Milliseconds }),
            id: id.then(|| IdHeader { header: "x-id".into() }),
            secrets: vec![secret("one")],
        })
        .ok()
        .unwrap()
    }

    fn standard(secrets: &[&str]) -> Signer {
        let secrets: Vec<Secret> = secrets.iter().map(|text| secret(text)).collect();
        Signer::standard_webhooks(&secrets).ok().unwrap()
    }

    fn sent(signer: &Signer, body: &[u8], id: &str) -> HeaderMap {
        let now = Timestamp::from_millis(1_700_000_000_123);
        let request =
            Outgoing { method: &Method::POST, path: "/a", query: None, headers: HeaderMap::new(), body, id, now };
        signer.sign(request).unwrap().into_iter().collect()
    }

    fn made(signer: &Signer, headers: &HeaderMap, body: &[u8], id: &str) -> bool {
        signer.made(&Head { method: &Method::PUT, path: "/b", query: None, headers }, body, id)
    }

    #[test]
    fn what_was_signed_here_is_recognised_with_its_id_and_body_and_nothing_else() {
        for signer in [custom(true), standard(&["one", "two"])] {
            let headers = sent(&signer, b"body", "ID");
            assert!(made(&signer, &headers, b"body", "ID"));
            assert!(!made(&signer, &headers, b"bod", "ID") && !made(&signer, &headers, b"body", "IE"));
            assert!(!made(&signer, &HeaderMap::new(), b"body", "ID"));
            let (_, signature) = signer.marks().unwrap();
            let mut twice = headers.clone();
            twice.append(signature, "v1,x".parse().unwrap());
            assert!(!made(&signer, &twice, b"body", "ID"));
        }
        assert!(custom(false).marks().is_none());
    }

    #[test]
    fn a_secret_that_is_still_there_is_enough() {
        let (before, after) = (standard(&["one", "two"]), standard(&["two", "three"]));
        assert!(made(&after, &sent(&before, b"body", "ID"), b"body", "ID"));
        assert!(!made(&standard(&["three"]), &sent(&before, b"body", "ID"), b"body", "ID"));
    }
}
