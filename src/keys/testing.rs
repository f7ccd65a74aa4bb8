//! A web of its own for tests: real TLS servers behind every name, which answer as they are told, and no way out.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
use rustls_pki_types::{PrivateKeyDer, TrustAnchor};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{Dial, Dialled, Settings};
use crate::verify::testing::Authority;

/// What a place answers.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Page {
    pub(crate) fn new(body: impl Into<Bytes>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// The web.
pub(crate) struct Web {
    /// Whom its servers are certified by.
    pub(crate) authority: Authority,
    pages: Mutex<HashMap<String, Page>>,
    asked: watch::Sender<Vec<String>>,
    dialled: Mutex<Vec<(String, u16)>>,
    /// Each answer takes one permit; tests take them away to make servers slow.
    pub(crate) answers: Semaphore,
    ports: Mutex<Option<(SocketAddr, SocketAddr)>>,
}

impl Web {
    /// Begins to serve, on the runtime it is called in, under these names.
    pub(crate) async fn start(names: &[&str]) -> Arc<Self> {
        let authority = Authority::new("the web's");
        let (certificate, key) = authority.server(names);
        let web = Arc::new(Self {
            authority,
            pages: Mutex::default(),
            asked: watch::Sender::new(Vec::new()),
            dialled: Mutex::default(),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            ports: Mutex::default(),
        });
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let secure = listen(web.clone(), Some(TlsAcceptor::from(Arc::new(config)))).await;
        let plain = listen(web.clone(), None).await;
        *web.ports.lock().unwrap() = Some((secure, plain));
        web
    }

    /// What stands at an address (with its scheme); None: 404.
    pub(crate) fn put(&self, address: &str, page: Option<Page>) {
        let mut pages = self.pages.lock().unwrap();
        match page {
            Some(page) => pages.insert(address.to_owned(), page),
            None => pages.remove(address),
        };
    }

    /// The addresses that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits until so many addresses were asked for.
    pub(crate) async fn asked_times(&self, times: usize) {
        self.asked.subscribe().wait_for(|asked| asked.len() >= times).await.unwrap();
    }

    /// The hosts and ports that were dialled, in order.
    pub(crate) fn dialled(&self) -> Vec<(String, u16)> {
        self.dialled.lock().unwrap().clone()
    }

    /// Settings that trust the web's servers, and its authority for signing certificates.
    pub(crate) fn settings(&self) -> Settings {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.der().clone()).unwrap();
        let anchors: Vec<TrustAnchor<'static>> = roots.roots.clone();
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Settings {
            tls: Arc::new(tls),
            anchors: anchors.into(),
            issuers: Arc::from([]),
            timeout: Duration::from_secs(60),
            refresh: Duration::from_secs(24 * 3600),
            max_documents: 4,
            max_fetches: 4,
            confirm_waits: Arc::from([Duration::ZERO; 3]),
        }
    }

    async fn answer(&self, scheme: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let address = format!("{scheme}://{host}{}", request.uri());
        self.asked.send_modify(|asked| asked.push(address.clone()));
        self.answers.acquire().await.unwrap().forget();
        let page = self.pages.lock().unwrap().get(&address).cloned();
        let page = page.unwrap_or(Page { status: 404, headers: Vec::new(), body: Bytes::new() });
        let mut response = Response::builder().status(page.status);
        for (name, value) in page.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(page.body)).unwrap()
    }
}

async fn listen(web: Arc<Web>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (web, tls) = (web.clone(), tls.clone());
            tokio::spawn(async move {
                let scheme = if tls.is_some() { "https" } else { "http" };
                let service = service_fn(move |request| {
                    let web = web.clone();
                    async move { Ok::<_, io::Error>(web.answer(scheme, request).await) }
                });
                let server = http1::Builder::new();
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                    None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                }
            });
        }
    });
    address
}

impl Dial for Web {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> Dialled<'a> {
        self.dialled.lock().unwrap().push((host.to_owned(), port));
        let (secure, plain) = self.ports.lock().unwrap().unwrap();
        let address = match port {
            443 => secure,
            80 => plain,
            other => panic!("port {other} is dialled"),
        };
        Box::pin(TcpStream::connect(address))
    }
}
