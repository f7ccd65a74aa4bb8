//! Documents with keys.

use rcgen::date_time_ymd;
use rustls_pki_types::CertificateDer;

use super::*;
use crate::verify::{DOCUMENT_BYTES_MAX, DocumentError, Place, Publisher, Unproven};

fn place() -> Place {
    Place::certificate(Publisher::AwsSns, "https://sns.us-east-1.amazonaws.com/a.pem").unwrap()
}

fn prove(authority: &Authority, pem: &str, more: &[&Authority]) -> Result<KeyDocument, DocumentError> {
    let mut unproven = Unproven::read(Publisher::AwsSns, &place(), pem.as_bytes())?;
    for more in more {
        unproven.add(more.certificate.der().to_vec());
    }
    let der: CertificateDer<'_> = authority.certificate.der().clone();
    let anchor = webpki::anchor_from_trusted_cert(&der).unwrap();
    unproven.prove(&[anchor], Timestamp::from_millis(NOW_MS))
}

fn is_untrusted(result: &Result<KeyDocument, DocumentError>) -> bool {
    matches!(result, Err(DocumentError::Untrusted(_)))
}

#[test]
fn a_certificate_counts_if_a_chain_leads_to_an_authority() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let between = root.below("between");
    let direct = root.certify("sns.amazonaws.com", ONE, |_| {});
    let document = prove(&root, &direct, &[]).unwrap();
    assert_eq!(&**document.reference(), "https://sns.us-east-1.amazonaws.com/a.pem");
    assert!(is_untrusted(&prove(&other, &direct, &[])));
    let indirect = between.certify("sns.amazonaws.com", ONE, |_| {});
    assert!(is_untrusted(&prove(&root, &indirect, &[])), "what lies between is missing");
    assert!(prove(&root, &indirect, &[&between]).is_ok());
    let chain = format!("{indirect}{}", between.certificate.pem());
    assert!(prove(&root, &chain, &[]).is_ok(), "the document may bring it along");
}

#[test]
fn a_certificate_counts_only_while_it_is_valid_and_for_its_own_name() {
    let root = Authority::new("root");
    let expired = root.certify("sns.amazonaws.com", ONE, |params| params.not_after = date_time_ymd(2026, 1, 2));
    assert!(is_untrusted(&prove(&root, &expired, &[])));
    let early = root.certify("sns.amazonaws.com", ONE, |params| params.not_before = date_time_ymd(2026, 1, 3));
    assert!(is_untrusted(&prove(&root, &early, &[])));
    let short = root.certify("sns.amazonaws.com", ONE, |params| params.not_after = date_time_ymd(2026, 1, 3));
    let document = prove(&root, &short, &[]).unwrap();
    assert_eq!(document.not_after, Timestamp::parse_rfc3339("2026-01-03T00:00:00Z"));
    for name in ["evil.example", "sns.evil.example", "amazonaws.com", "sns.eu-west-1.amazonaws.com"] {
        let result = prove(&root, &root.certify(name, ONE, |_| {}), &[]);
        assert_eq!(result.err(), Some(DocumentError::OtherName("sns.amazonaws.com")), "{name}");
    }
    assert!(prove(&root, &root.certify("sns.us-east-1.amazonaws.com", ONE, |_| {}), &[]).is_ok(), "the very host");
    let ca = root.certify("sns.amazonaws.com", ONE, |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert!(is_untrusted(&prove(&root, &ca, &[])), "an authority is no end entity");
}

#[test]
fn a_document_without_a_usable_key_is_refused_with_words() {
    let root = Authority::new("root");
    let elliptic = root.certificate.pem();
    let pin = |pem: &[u8]| KeyDocument::pinned_certificates("file:a", pem).err();
    assert_eq!(pin(b""), Some(DocumentError::NoCertificate));
    assert_eq!(pin(b"<html>"), Some(DocumentError::NoCertificate));
    assert_eq!(pin(elliptic.as_bytes()), Some(DocumentError::NoKey));
    assert_eq!(pin(&vec![b' '; DOCUMENT_BYTES_MAX + 1]), Some(DocumentError::TooLarge));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(pin(broken.as_bytes()), Some(DocumentError::Malformed("certificate")));
    assert_eq!(pin(broken.repeat(33).as_bytes()), Some(DocumentError::TooManyKeys));
    let set = |json: &str| KeyDocument::key_set("file:a", json.as_bytes()).err();
    assert_eq!(set("{}"), Some(DocumentError::Malformed("JSON Web Key Set")));
    assert_eq!(set(r#"{"keys":[]}"#), Some(DocumentError::NoKey));
    for key in [
        r#"{"kty":"EC","kid":"a","crv":"P-256","x":"AA","y":"AA"}"#,
        r#"{"kty":"oct","kid":"a","k":"AA"}"#,
        r#"{"kty":"RSA","n":"AA","e":"AQAB"}"#,
        r#"{"kty":"RSA","kid":"a","use":"enc","n":"AA","e":"AQAB"}"#,
        r#"{"kty":"RSA","kid":"a","alg":"RS512","n":"AA","e":"AQAB"}"#,
        r#"{"kty":"RSA","kid":"a","n":"!","e":"AQAB"}"#,
    ] {
        assert_eq!(set(&format!(r#"{{"keys":[{key}]}}"#)), Some(DocumentError::NoKey), "{key}");
    }
    let many = vec![r#"{"kty":"oct"}"#; 33].join(",");
    assert_eq!(set(&format!(r#"{{"keys":[{many}]}}"#)), Some(DocumentError::TooManyKeys));
}

#[test]
fn the_address_of_the_issuer_is_read_from_the_certificate() {
    // Authority information access with one caIssuers entry, as DER.
    let access = |uri: &str| {
        let uri: Vec<u8> = [&[0x86, uri.len() as u8], uri.as_bytes()].concat();
        let method = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];
        let entry = [&[0x30, (method.len() + uri.len()) as u8], &method[..], &uri].concat();
        [&[0x30, entry.len() as u8], &entry[..]].concat()
    };
    let root = Authority::new("root");
    let address = |uri: &str| {
        let content = access(uri);
        let pem = root.certify("sns.amazonaws.com", ONE, |params| {
            let extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content);
            params.custom_extensions.push(extension);
        });
        Unproven::read(Publisher::AwsSns, &place(), pem.as_bytes()).unwrap().issuer_address()
    };
    let found = ("crt.r2m01.amazontrust.com".to_owned(), "/r2m01.cer".to_owned());
    assert_eq!(address("http://crt.r2m01.amazontrust.com/r2m01.cer"), Some(found));
    assert_eq!(address("ldap://x/y"), None);
    assert_eq!(address("http://x"), None);
    let plain = root.certify("sns.amazonaws.com", ONE, |_| {});
    assert_eq!(Unproven::read(Publisher::AwsSns, &place(), plain.as_bytes()).unwrap().issuer_address(), None);
}
