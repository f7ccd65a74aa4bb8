//! Owns documents with public keys: certificates (RFC 5280, in PEM) and JSON Web Key Sets (RFC 7517).
//!
//! Promises that a fetched certificate has a chain to a trusted authority, is valid now and is made out to its
//! publisher; that keys are RSA of 2048 to 8192 bits, used with PKCS#1 v1.5 as all publishers here do; and that
//! sizes and counts are bounded. A pinned certificate is trusted because the operator put it there: no chain is asked
//! for and its expiry is not judged.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_PKCS1_RSAENCRYPTION, OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS},
    prelude::{FromDer as _, X509Certificate},
};

use super::place::{Place, Publisher};
use crate::clock::Timestamp;

/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// The most keys of one document.
const KEYS_MAX: usize = 32;

/// The longest key id, in bytes.
pub(super) const KID_BYTES_MAX: usize = 256;

/// What signatures are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    Sha256,
    /// For SNS topics that were never changed; only when the configuration says so.
    Sha1,
}

/// The public keys of one document.
pub struct KeyDocument {
    /// What the verification is recorded with: where the keys came from.
    reference: Arc<str>,
    keys: Vec<PublicKey>,
    /// When its certificate ends.
    pub not_after: Option<Timestamp>,
}

struct PublicKey {
    kid: Option<Box<str>>,
    material: Material,
}

enum Material {
    /// A PKCS#1 `RSAPublicKey`.
    Der(Box<[u8]>),
    Components(RsaPublicKeyComponents<Box<[u8]>>),
}

/// Why a document is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It has too many bytes.
    #[error("it has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// No certificate in PEM form.
    #[error("it holds no certificate in PEM form")]
    NoCertificate,
    /// Something in it can't be read.
    #[error("its {0} can't be read")]
    Malformed(&'static str),
    /// Other than RSA, or too short.
    #[error("it holds no RSA key of 2048 to 8192 bits")]
    NoKey,
    /// More keys than any publisher has.
    #[error("it holds more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// Made out to somebody else.
    #[error("its certificate is not made out to {0}")]
    OtherName(&'static str),
    /// No chain.
    #[error("no chain leads from its certificate to a trusted authority: {0}")]
    Untrusted(String),
}

impl KeyDocument {
    /// Every certificate of a PEM file that the operator pinned. `reference` says which file.
    ///
    /// # Errors
    /// Any [`DocumentError`] but those about names and chains.
    pub fn pinned_certificates(reference: &str, pem: &[u8]) -> Result<Self, DocumentError> {
        let certificates = certificates(pem)?;
        let keys: Result<Vec<PublicKey>, _> = certificates.iter().map(|certificate| key_of(certificate)).collect();
        Ok(Self { reference: reference.into(), keys: keys?, not_after: None })
    }

    /// A JSON Web Key Set. Keys that are not RSA signing keys are left out. `reference` says where it comes from.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn key_set(reference: &str, json: &[u8]) -> Result<Self, DocumentError> {
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge);
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| DocumentError::Malformed("JSON Web Key Set"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(DocumentError::TooManyKeys);
        }
        let keys: Vec<PublicKey> = set.keys.into_iter().filter_map(Jwk::into_key).collect();
        if keys.is_empty() {
            return Err(DocumentError::NoKey);
        }
        Ok(Self { reference: reference.into(), keys, not_after: None })
    }

    /// Where the keys came from. Fit for diagnostics.
    #[must_use]
    pub const fn reference(&self) -> &Arc<str> {
        &self.reference
    }

    /// Whether it has the key of that name.
    #[must_use]
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Whether one of its keys made the signature; with `kid` only the key of that name may have.
    pub(super) fn verify(&self, digest: Digest, kid: Option<&str>, message: &[u8], signature: &[u8]) -> bool {
        let parameters: &'static RsaParameters = match digest {
            Digest::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Digest::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        };
        let mut asked = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        asked.any(|key| {
            let verdict = match &key.material {
                Material::Der(der) => UnparsedPublicKey::new(parameters, der).verify(message, signature),
                Material::Components(components) => components.verify(parameters, message, signature),
            };
            verdict.is_ok()
        })
    }
}

/// A certificate as a publisher serves it, not yet trusted.
pub struct Unproven {
    publisher: Publisher,
    place: Place,
    leaf: CertificateDer<'static>,
    /// Of which the issuer is missing.
    tip: Option<CertificateDer<'static>>,
    others: Vec<CertificateDer<'static>>,
}

impl Unproven {
    /// Reads a PEM document: the end entity first, then what may lie on its chain.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn read(publisher: Publisher, place: &Place, pem: &[u8]) -> Result<Self, DocumentError> {
        let mut certificates = certificates(pem)?.into_iter();
        let leaf = certificates.next().ok_or(DocumentError::NoCertificate)?;
        Ok(Self { publisher, place: place.clone(), leaf, tip: None, others: certificates.collect() })
    }

    /// Adds a certificate that may lie on the chain, in DER form. It is not trusted for that.
    pub fn add(&mut self, der: Vec<u8>) {
        self.others.push(CertificateDer::from(der));
    }

    /// Adds what stands at [`Unproven::issuer_address`], which is then the issuer's own issuer's.
    pub fn add_issuer(&mut self, der: Vec<u8>) {
        self.tip = Some(CertificateDer::from(der.clone()));
        self.add(der);
    }

    /// Where the certificate of the end entity's issuer stands (authority information access, RFC 5280 section
    /// 4.2.2.1), if it says so: publishers serve the end entity alone. Host and path of an `http` address; any other
    /// form is not looked at.
    #[must_use]
    pub fn issuer_address(&self) -> Option<(String, String)> {
        let last = self.tip.as_ref().unwrap_or(&self.leaf);
        let (_, certificate) = X509Certificate::from_der(last).ok()?;
        let addresses = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityInfoAccess(access) => Some(&access.accessdescs),
            _ => None,
        });
        let mut issuers = addresses.flatten().filter_map(|described| match &described.access_location {
            GeneralName::URI(uri) if described.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS => {
                uri.strip_prefix("http://")
            }
            _ => None,
        });
        let (host, path) = issuers.next()?.split_once('/')?;
        Some((host.to_ascii_lowercase(), format!("/{path}")))
    }

    /// The keys, if the certificate can be trusted.
    ///
    /// # Errors
    /// [`DocumentError::Untrusted`], [`DocumentError::OtherName`], [`DocumentError::NoKey`]
    pub fn prove(&self, anchors: &[TrustAnchor<'_>], now: Timestamp) -> Result<KeyDocument, DocumentError> {
        let malformed = |_| DocumentError::Malformed("certificate");
        let certificate = EndEntityCert::try_from(&self.leaf).map_err(malformed)?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.as_millis()));
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                anchors,
                &self.others,
                time,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(|error| DocumentError::Untrusted(error.to_string()))?;
        self.is_named(&certificate)?;
        let key = key_of(&self.leaf)?;
        let (_, parsed) = X509Certificate::from_der(&self.leaf).map_err(|_| DocumentError::Malformed("certificate"))?;
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(KeyDocument {
            reference: self.place.shown().into(),
            keys: vec![key],
            not_after: Some(Timestamp::from_millis(ends.saturating_mul(1000))),
        })
    }

    /// SNS signs with a certificate for `sns.amazonaws.com` (or the name of the very host that serves it), PayPal with
    /// one for a name below `paypal.com`.
    fn is_named(&self, certificate: &EndEntityCert<'_>) -> Result<(), DocumentError> {
        let (wanted, fits): (_, fn(&str, &str) -> bool) = match self.publisher {
            Publisher::AwsSns => ("sns.amazonaws.com", |name, host| {
                name == "sns.amazonaws.com" || name == "sns.amazonaws.com.cn" || name == host
            }),
            Publisher::PayPal => ("a name below paypal.com", |name, _| name.ends_with(".paypal.com")),
            Publisher::Google => ("Google, who publishes no certificates", |_, _| false),
        };
        let named = certificate.valid_dns_names().any(|name| fits(&name.to_ascii_lowercase(), self.place.host()));
        named.then_some(()).ok_or(DocumentError::OtherName(wanted))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, DocumentError> {
    if pem.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLarge);
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(KEYS_MAX + 1).collect();
    match read {
        Ok(read) if read.is_empty() => Err(DocumentError::NoCertificate),
        Ok(read) if read.len() > KEYS_MAX => Err(DocumentError::TooManyKeys),
        Ok(read) => Ok(read),
        Err(_) => Err(DocumentError::Malformed("PEM")),
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, DocumentError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| DocumentError::Malformed("certificate"))?;
    let info = parsed.public_key();
    if info.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(DocumentError::NoKey);
    }
    Ok(PublicKey { kid: None, material: Material::Der(info.subject_public_key.data.as_ref().into()) })
}

#[derive(serde::Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// Other fields of a key do not matter here.
#[derive(serde::Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    fn into_key(self) -> Option<PublicKey> {
        let is_signing = self.kty == "RSA"
            && self.alg.is_none_or(|alg| alg == "RS256")
            && self.purpose.is_none_or(|purpose| purpose == "sig");
        let kid = self.kid.filter(|kid| is_signing && !kid.is_empty() && kid.len() <= KID_BYTES_MAX)?;
        let number = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok().map(Vec::into_boxed_slice);
        let components = RsaPublicKeyComponents { n: number(self.n)?, e: number(self.e)? };
        Some(PublicKey { kid: Some(kid.into()), material: Material::Components(components) })
    }
}
