//! Owns the conditions that must hold besides the signature: client addresses and client certificates.

use std::net::IpAddr;

use ipnet::IpNet;

/// Who may speak to a source at all. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Client addresses, as seen behind trusted proxies; None takes any.
    pub allow: Option<Vec<IpNet>>,
    /// Client certificates; None takes connections without one.
    pub certificate: Option<CertificateRule>,
}

/// Which client certificates are taken. All were verified by the listener's `client_ca`; of each list that is not empty
/// one entry must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateRule {
    /// Attributes of the subject, such as `CN` and `O`; all of an entry must be there.
    pub subjects: Vec<Vec<(Box<str>, Box<str>)>>,
    /// Subject alternative names (DNS names in lower case, IP addresses, addresses of mail, URIs).
    pub names: Vec<Box<str>>,
    /// SHA-256 of the certificate in DER.
    pub sha256: Vec<[u8; 32]>,
}

/// A client certificate, as far as rules ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Attributes of the subject, by their short names or as dotted numbers.
    pub subject: Vec<(Box<str>, Box<str>)>,
    /// Subject alternative names, DNS names in lower case.
    pub names: Vec<Box<str>>,
    /// SHA-256 of the certificate in DER.
    pub sha256: [u8; 32],
}

impl Guard {
    /// Whether a client of this address may speak. Without an address (a Unix socket whose proxy names no client) it
    /// may not, if addresses are asked for.
    #[must_use]
    pub fn takes_address(&self, address: Option<IpAddr>) -> bool {
        match (&self.allow, address) {
            (None, _) => true,
            (Some(allow), Some(address)) => allow.iter().any(|net| net.contains(&address)),
            (Some(_), None) => false,
        }
    }

    /// Whether a client with this certificate may speak.
    #[must_use]
    pub fn takes_certificate(&self, certificate: Option<&Certificate>) -> bool {
        match (&self.certificate, certificate) {
            (None, _) => true,
            (Some(rule), Some(certificate)) => rule.takes(certificate),
            (Some(_), None) => false,
        }
    }
}

impl CertificateRule {
    fn takes(&self, certificate: &Certificate) -> bool {
        let subject = |wanted: &Vec<(Box<str>, Box<str>)>| wanted.iter().all(|pair| certificate.subject.contains(pair));
        (self.subjects.is_empty() || self.subjects.iter().any(subject))
            && (self.names.is_empty() || self.names.iter().any(|name| certificate.names.contains(name)))
            && (self.sha256.is_empty() || self.sha256.contains(&certificate.sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_must_lie_in_a_network_and_no_address_lies_in_none() {
        let nets = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let guard = Guard { allow: Some(nets), certificate: None };
        for (address, expected) in
            [("192.0.2.7", true), ("198.51.100.1", false), ("2001:db8::1", true), ("2001:db9::1", false)]
        {
            assert_eq!(guard.takes_address(Some(address.parse().unwrap())), expected, "{address}");
        }
        assert!(!guard.takes_address(None));
        assert!(Guard::default().takes_address(None));
    }

    #[test]
    fn each_list_of_a_certificate_rule_must_have_an_entry_that_fits() {
        let pair = |name: &str, value: &str| (name.into(), value.into());
        let certificate = Certificate {
            subject: vec![pair("O", "Acme"), pair("CN", "client")],
            names: vec!["client.example".into()],
            sha256: [7; 32],
        };
        let rule = |subjects, names, sha256| Guard {
            allow: None,
            certificate: Some(CertificateRule { subjects, names, sha256 }),
        };
        assert!(rule(vec![], vec![], vec![]).takes_certificate(Some(&certificate)));
        assert!(!rule(vec![], vec![], vec![]).takes_certificate(None));
        let both = vec![vec![pair("CN", "client"), pair("O", "Acme")]];
        assert!(rule(both.clone(), vec!["client.example".into()], vec![[7; 32]]).takes_certificate(Some(&certificate)));
        assert!(!rule(both.clone(), vec!["other.example".into()], vec![]).takes_certificate(Some(&certificate)));
        assert!(!rule(both, vec![], vec![[8; 32]]).takes_certificate(Some(&certificate)));
        let half = vec![vec![pair("CN", "client"), pair("O", "Other")]];
        assert!(!rule(half, vec![], vec![]).takes_certificate(Some(&certificate)));
        assert!(Guard::default().takes_certificate(None));
    }
}
