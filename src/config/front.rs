//! Owns the TLS side of whoever sends to our own listeners: `stagepost send`.
//!
//! Promises that a certificate is taken if it is one of those that are configured, whatever its name and age, or else if
//! an authority of the machine vouches for it.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{settings::ListenSettings, tls};

/// What a sender to these listeners trusts. Speaks HTTP/1.1.
///
/// # Errors
/// In words; rustls refuses its own defaults.
pub fn front_client(listen: &[ListenSettings]) -> Result<ClientConfig, String> {
    let provider = tls::provider();
    let own = listen.iter().filter_map(|listen| listen.certificates.as_ref()).flat_map(|set| set.end_entities());
    let known = tls::native_roots()
        .ok()
        .and_then(|roots| WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build().ok());
    let verifier = Arc::new(OwnOrKnown { own: own.collect(), known, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct OwnOrKnown {
    own: Vec<CertificateDer<'static>>,
    known: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnOrKnown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.known {
            _ if self.own.contains(end_entity) => Ok(ServerCertVerified::assertion()),
            Some(known) => known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(rustls::Error::General("the certificate is none of the configured ones".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
