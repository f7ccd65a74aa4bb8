//! Owns certificates: an authority made for one test, identities signed by it, and TLS clients that trust it.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, crypto::ring,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::{Connection, PATIENCE};

/// An authority.
pub struct Authority {
    pub pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    pub pem: String,
    pub key_pem: String,
    pub certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { pem, certificate: der, issuer: Issuer::new(params, key) }
    }

    /// An identity for a name.
    pub fn identity(&self, name: &str) -> Identity {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    /// Connects over TLS, with a certificate of the client's own if one is given.
    ///
    /// The handshake may fail only when the first byte is read: with TLS 1.3 the server judges last.
    pub fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        protocols: &[&str],
        client: Option<&Identity>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let config = self.client_config(protocols, client);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream)
    }

    /// What a client that trusts this authority speaks.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_config(protocols, None)
    }

    fn client_config(&self, protocols: &[&str], client: Option<&Identity>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match client {
            Some(client) => builder.with_client_auth_cert(vec![client.certificate.clone()], client.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A connection for HTTP/1.1.
    pub fn open(&self, address: SocketAddr, name: &str) -> Connection<StreamOwned<ClientConnection, TcpStream>> {
        Connection::over(self.connect(address, name, &["http/1.1"], None))
    }

    /// What a server with this identity speaks; it wants a client certificate of this authority if `asks` says so.
    pub fn server(&self, identity: &Identity, clients: Option<&Self>) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        Arc::new(builder.with_single_cert(vec![identity.certificate.clone()], identity.key()).unwrap())
    }
}
