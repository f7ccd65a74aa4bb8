//! Owns the tests of the ways to an upstream: Unix sockets, TLS with HTTP/1.1, TLS with HTTP/2.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::rig::{ok, rig, serve, upstream};
use crate::{
    event::{Change, Outcome},
    routing::{HostPolicy, Target, TlsClient},
};

#[tokio::test]
async fn an_upstream_may_listen_on_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, vec![ok()], watch::Sender::new(Vec::new())).await;
    });
    let rig = rig(vec![upstream("u", Target::Unix(path.clone()))], Vec::new());
    rig.dispatch(1..=2, "u");
    let entry = rig.log.wait(1).await.remove(0);
    assert_eq!(entry.change, Change::Delivered);
    let expected = format!("unix:{}:/hooks/app?x=1%202", path.display());
    assert_eq!(&*entry.attempt.unwrap().sent.url, expected);
}

/// A certificate for `localhost`, the server's and the client's settings.
fn tls(alpn: &[&[u8]]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (server.into(), client.into())
}

/// Delivers 20 events to a TLS server; gives the requests it saw and the connections it took.
async fn deliver_over_tls(alpn: &[&[u8]], host: HostPolicy) -> (Vec<(http::Version, String)>, u64) {
    let (server, client) = tls(alpn);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let connections = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (requests, taken) = (seen.clone(), connections.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            taken.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let stream = TlsAcceptor::from(server.clone()).accept(stream).await.unwrap();
            let requests = requests.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let requests = requests.clone();
                async move {
                    let host = request.headers().get("host").map(|value| value.to_str().unwrap().to_owned());
                    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap();
                    let version = request.version();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(&body[..], b"{\"a\":1}");
                    requests.lock().unwrap().push((version, host));
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(body)))
                }
            });
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await.is_ok() });
        }
    });
    let mut one = upstream("u", Target::Https(format!("https://localhost:{port}").parse().unwrap()));
    one.tls = Some(Arc::new(TlsClient { config: client, server_name: None }));
    one.host = host;
    let rig = rig(vec![one], Vec::new());
    rig.dispatch(1..=20, "u");
    let entries = rig.log.wait(20).await;
    assert!(entries.iter().all(|entry| entry.change == Change::Delivered), "{entries:?}");
    assert_eq!(&entries[0].attempt.as_ref().unwrap().excerpt[..], b"{\"a\":1}");
    let requests = seen.lock().unwrap().clone();
    (requests, connections.load(std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test]
async fn http_1_is_spoken_over_tls_with_a_connection_for_each_worker() {
    let (requests, connections) = deliver_over_tls(&[b"http/1.1"], HostPolicy::Preserve).await;
    assert!(requests.iter().all(|(version, host)| *version == http::Version::HTTP_11 && host == "public.example"));
    assert!((1..=8).contains(&connections));
}

#[tokio::test]
async fn http_2_is_spoken_over_one_shared_connection_when_alpn_chose_it() {
    let (requests, connections) = deliver_over_tls(&[b"h2"], HostPolicy::Upstream).await;
    assert_eq!((requests.len(), connections), (20, 1));
    assert!(requests.iter().all(|(version, host)| *version == http::Version::HTTP_2 && host.starts_with("localhost:")));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_a_deferral() {
    let ((server, _), (_, stranger)) = (tls(&[b"http/1.1"]), tls(&[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(server).accept(stream).await.is_ok()
    });
    let mut one = upstream("u", Target::Https(format!("https://localhost:{port}").parse().unwrap()));
    one.tls = Some(Arc::new(TlsClient { config: stranger, server_name: None }));
    let rig = rig(vec![one], Vec::new());
    rig.dispatch([1], "u");
    let attempt = rig.log.wait(1).await.remove(0).attempt.unwrap();
    assert_eq!(attempt.outcome, Outcome::Deferred);
    assert!(attempt.error.unwrap().contains("certificate"));
}
