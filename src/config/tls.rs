//! Owns TLS material: reading PEM files, choosing certificates by SNI, renewing them without a new listener.
//!
//! Promises that a certificate is checked against its key when it is loaded, and that a handshake under way keeps the
//! set it began with. Offers `h2` and `http/1.1`, TLS 1.2 and 1.3, with rustls' ring provider. Expiry is not judged
//! here: a clock would be needed, and an expired certificate is still better served than none.

use std::{fmt, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};

/// The largest PEM file, in bytes: the largest bundles of public roots have a quarter of a megabyte.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// A certificate chain with its key.
pub(super) type Certificate = Arc<CertifiedKey>;

/// The certificates of one listener, replaced as a whole.
pub struct Certificates(ArcSwap<Vec<Certificate>>);

impl Certificates {
    pub(super) fn new(list: Vec<Certificate>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(list)))
    }

    /// Takes over the certificates of another set, for the handshakes to come.
    pub(super) fn renew_from(&self, newer: &Self) {
        self.0.store(newer.0.load_full());
    }

    /// What servers show: the first certificate of each chain.
    pub(super) fn end_entities(&self) -> Vec<CertificateDer<'static>> {
        self.0.load().iter().filter_map(|certificate| certificate.cert.first().cloned()).collect()
    }

    /// The first certificate that is valid for the name; without a name or a match the first of all.
    pub(super) fn choose(&self, name: Option<&str>) -> Option<Certificate> {
        let list = self.0.load();
        let named = match (list.as_slice(), name) {
            ([_, _, ..], Some(name)) => ServerName::try_from(name)
                .ok()
                .and_then(|name| list.iter().find(|certificate| is_valid_for(certificate, &name))),
            _ => None,
        };
        named.or_else(|| list.first()).cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.0.load().len())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Certificate> {
        self.choose(hello.server_name())
    }
}

fn is_valid_for(certificate: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Ok(end_entity) = certificate.end_entity_cert() else { return false };
    ParsedCertificate::try_from(end_entity).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

/// Which clients a listener takes.
pub(super) struct ClientAuth {
    pub(super) roots: RootCertStore,
    pub(super) optional: bool,
}

/// The TLS side of a listener.
pub(super) fn server(certificates: Arc<Certificates>, clients: Option<ClientAuth>) -> Result<ServerConfig, String> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ClientAuth { roots, optional }) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = alpn();
    Ok(config)
}

/// The TLS side of a connection to an upstream.
pub(super) fn client(
    roots: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?,
    };
    config.alpn_protocols = alpn();
    Ok(config)
}

/// A chain and its key from two PEM files (or twice the same), checked against each other.
pub(super) fn certified_key(certificate: &Path, key: &Path) -> Result<Certificate, String> {
    let (chain, private) = (chain(certificate)?, private_key(key)?);
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("{} is not the key of the certificate {}", key.display(), certificate.display())
        }
        other => format!("{} and {} can't be used: {other}", certificate.display(), key.display()),
    })?;
    Ok(Arc::new(certified))
}

/// Every certificate of a PEM file, the end entity first.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!("{} holds no certificate in PEM form", path.display())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("{} is not valid PEM: {error}", path.display())),
    }
}

/// The first private key of a PEM file (PKCS#8, PKCS#1 or SEC1).
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read(path)?))
        .map_err(|_| format!("{} holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1)", path.display()))
}

/// Certificate authorities of a PEM file.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| format!("{} holds an unusable authority: {error}", path.display()))?;
    }
    Ok(roots)
}

/// The certificate authorities of the machine.
pub(super) fn native_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err("the machine has no certificate authorities; install ca-certificates or set tls.ca".to_owned());
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("reading {}: {error}", path.display()))?.len();
    if size > PEM_BYTES_MAX {
        return Err(format!("{} has {size} bytes, more than any certificate file", path.display()));
    }
    std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()))
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}
