//! Owns the reading of client certificates. They were verified in the handshake; here it is only read whose they are.

use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, objects::oid_registry, prelude::parse_x509_certificate};

use crate::routing::Certificate;

/// Reads a certificate in DER. Of one that can't be read only the fingerprint is known.
pub(super) fn read(der: &[u8]) -> Certificate {
    let mut certificate = Certificate { subject: Vec::new(), names: Vec::new(), sha256: Sha256::digest(der).into() };
    let Ok((_, parsed)) = parse_x509_certificate(der) else { return certificate };
    for attribute in parsed.subject().iter_attributes() {
        let Ok(value) = attribute.as_str() else { continue };
        let name = match x509_parser::objects::oid2abbrev(attribute.attr_type(), oid_registry()) {
            Ok(short) => short.into(),
            Err(_unknown) => attribute.attr_type().to_id_string().into(),
        };
        certificate.subject.push((name, value.into()));
    }
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return certificate };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => certificate.names.push(name.to_ascii_lowercase().into()),
            GeneralName::RFC822Name(name) | GeneralName::URI(name) => certificate.names.push((*name).into()),
            GeneralName::IPAddress(bytes) => certificate.names.extend(address(bytes)),
            _ => {}
        }
    }
    certificate
}

fn address(bytes: &[u8]) -> Option<Box<str>> {
    let address: std::net::IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    Some(address.to_string().into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn subject_names_and_fingerprint_are_read_from_a_certificate() {
        let mut params = CertificateParams::new(vec!["Client.Example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "Acme, CN=admin");
        params.distinguished_name.push(DnType::CommonName, "client");
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.1".parse().unwrap()));
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let certificate = read(&der);
        let has = |name: &str, value: &str| certificate.subject.contains(&(name.into(), value.into()));
        assert!(has("CN", "client") && has("O", "Acme, CN=admin") && !has("CN", "admin"), "{certificate:?}");
        assert_eq!(certificate.names, ["client.example".into(), "192.0.2.1".into()]);
        assert_eq!(certificate.sha256, <[u8; 32]>::from(Sha256::digest(&der)));
    }

    #[test]
    fn what_is_no_certificate_has_a_fingerprint_and_nothing_else() {
        let certificate = read(b"nonsense");
        assert!(certificate.subject.is_empty() && certificate.names.is_empty());
    }
}
