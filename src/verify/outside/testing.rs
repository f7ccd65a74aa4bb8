//! What tests need to play a publisher: an authority, certificates it issued, and the signatures of their keys.

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};

/// Two private RSA keys, in PEM form.
pub(crate) const ONE: &str = include_str!("../../../tests/fixtures/keys/rsa-one.pem");
pub(crate) const TWO: &str = include_str!("../../../tests/fixtures/keys/rsa-two.pem");

/// 2026-01-02T03:04:05Z.
pub(crate) const NOW_MS: u64 = 1_767_323_045_000;

/// Signs as the publishers here do, RSA PKCS#1 v1.5 with SHA-256.
pub(crate) fn sign(key: &str, message: &[u8]) -> Vec<u8> {
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap() else { panic!("PKCS#8") };
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// The same, in base64.
pub(crate) fn sign_base64(key: &str, message: &[u8]) -> String {
    STANDARD.encode(sign(key, message))
}

/// The JSON Web Key Set of some keys, by their ids.
pub(crate) fn key_set(keys: &[(&str, &str)]) -> String {
    let keys: Vec<serde_json::Value> = keys
        .iter()
        .map(|(kid, key)| {
            let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap() else { panic!() };
            let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
            let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
            let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
            serde_json::json!({
                "kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": text(&public.n), "e": text(&public.e),
            })
        })
        .collect();
    serde_json::json!({ "keys": keys }).to_string()
}

/// A token as Google makes it.
pub(crate) fn token(key: &str, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(key, message.as_bytes()));
    format!("{message}.{signature}")
}

/// A certificate authority.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) certificate: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { params, key, certificate }
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self, name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Self { params, key, certificate }
    }

    /// A certificate for an RSA key, in PEM form.
    pub(crate) fn certify(&self, name: &str, key: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = end_entity(name);
        change(&mut params);
        params.signed_by(&KeyPair::from_pem(key).unwrap(), &self.issuer()).unwrap().pem()
    }

    /// A certificate with a key of its own, for a server.
    pub(crate) fn server(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer()).unwrap(), key)
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn end_entity(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}
