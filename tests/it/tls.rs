//! TLS on both sides, certificates by name and renewed, client certificates, Unix sockets, HTTP/2.

use std::{fs, os::unix::net::UnixStream};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Authority, Identity, Relay, Request, Upstream, all_to, exchange, wait_until};

/// Writes `{name}.pem` and `{name}.key`.
fn write(relay: &Relay, name: &str, identity: &Identity) {
    // A new file in place of the old one, as tools that renew certificates do it.
    for (ending, text) in [("key", &identity.key_pem), ("pem", &identity.pem)] {
        relay.write(&format!("{name}.{ending}.new"), text);
        let file = relay.directory().join(format!("{name}.{ending}"));
        fs::rename(relay.directory().join(format!("{name}.{ending}.new")), file).unwrap();
    }
}

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = [\n\
    { certificate = \"a.pem\", key = \"a.key\" },\n{ certificate = \"b.pem\", key = \"b.key\" },\n]\n\
    [source.s]\npath = \"/in\"\nto = []\n";

fn serving(authority: &Authority, config: &str) -> Relay {
    let mut relay = Relay::stopped(config);
    write(&relay, "a", &authority.identity("a.example"));
    write(&relay, "b", &authority.identity("b.example"));
    relay.write("ca.pem", &authority.pem);
    relay.run();
    relay
}

fn presented(authority: &Authority, relay: &Relay, name: &str) -> Vec<u8> {
    let mut connection = authority.connect(relay.address(), name, &["http/1.1"], None);
    let answer = exchange(&mut connection, &Request::post("/in", "x")).unwrap();
    assert_eq!(answer.status, 202);
    connection.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn the_certificate_is_chosen_by_name_and_the_protocol_by_alpn() {
    let authority = Authority::new();
    let relay = serving(&authority, LISTEN);
    assert_ne!(presented(&authority, &relay, "a.example"), presented(&authority, &relay, "b.example"));
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let mut connection = authority.connect(relay.address(), "a.example", offered, None);
        while connection.conn.is_handshaking() {
            connection.conn.complete_io(&mut connection.sock).unwrap();
        }
        assert_eq!(connection.conn.alpn_protocol(), Some(chosen.as_bytes()));
    }
    let id = relay.events()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(relay.show(&id)["scheme"], "https");
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart_and_a_broken_one_is_not_taken() {
    let authority = Authority::new();
    let relay = serving(&authority, LISTEN);
    let before = presented(&authority, &relay, "b.example");
    let renewed = authority.identity("b.example");
    write(&relay, "b", &renewed);
    wait_until("the new certificate is served", || presented(&authority, &relay, "b.example") != before);
    assert_eq!(presented(&authority, &relay, "b.example"), renewed.certificate.to_vec());

    relay.write("b.pem", "no certificate");
    let told = relay.cli(&["reload"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("b.pem"), "{}", told.err);
    assert_eq!(presented(&authority, &relay, "b.example"), renewed.certificate.to_vec());
}

#[test]
fn a_client_authority_turns_away_who_shows_no_certificate_of_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let relay = serving(&authority, &LISTEN.replace("\"a.key\" }", "\"a.key\", client_ca = \"ca.pem\" }"));
    let send = |client: Option<&Identity>| {
        let stream = authority.connect(relay.address(), "a.example", &["http/1.1"], client);
        exchange(stream, &Request::post("/in", "x")).map(|answer| answer.status)
    };
    assert!(send(None).is_err());
    assert!(send(Some(&stranger.identity("client"))).is_err());
    assert_eq!(send(Some(&authority.identity("client"))).unwrap(), 202);
    assert_eq!(relay.events().len(), 1);
}

#[test]
fn a_plain_request_on_a_tls_port_stores_nothing_and_hurts_nobody() {
    let authority = Authority::new();
    let relay = serving(&authority, LISTEN);
    let stream = std::net::TcpStream::connect(relay.address()).unwrap();
    let answer = exchange(stream, &Request::post("/in", "x"));
    assert!(answer.is_err() || answer.unwrap().status == 400);
    assert_eq!(authority.open(relay.address(), "a.example").send(&Request::post("/in", "y")).status, 202);
    assert_eq!(relay.events().len(), 1);
}

#[test]
fn an_upstream_with_tls_is_checked_against_its_authority_and_gets_its_own_host() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server(&authority.identity("localhost"), Some(&authority));
    let upstream = Upstream::with_tls(server);
    let client = authority.identity("relay");
    let config = |ca: &str| {
        format!(
            "[source.s]\npath = \"/in\"\nto = [\"app\"]\n[upstream.app]\nurl = \"https://localhost:{}\"\n\
             retry = {{ schedule = [\"100ms\"], give_up_after = \"1h\" }}\n\
             [upstream.app.tls]\nca = \"{ca}\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n",
            upstream.port()
        )
    };
    let mut relay = Relay::stopped(&config("stranger.pem"));
    write(&relay, "client", &client);
    relay.write("ca.pem", &authority.pem);
    relay.write("stranger.pem", &stranger.pem);
    relay.run();
    let id = relay.accept("/in", "x");
    wait_until("an attempt fails", || {
        let attempts = relay.show(&id)["deliveries"][0]["attempts"].clone();
        attempts[0]["outcome"] == "deferred" && attempts[0]["error"].as_str().unwrap().contains("certificate")
    });
    assert!(upstream.received().is_empty());
    relay.configure(&config("ca.pem"));
    relay.cli(&["reload"]).done();
    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!(got.header("host"), Some(&*format!("localhost:{}", upstream.port())));
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn unix_sockets_work_on_both_sides() {
    let relay = Relay::stopped("");
    let (inside, outside) = (relay.directory().join("in.sock"), relay.directory().join("app.sock"));
    let upstream = Upstream::on_unix(&outside);
    relay.configure(
        "[[listen]]\naddress = \"unix:in.sock\"\n[source.s]\npath = \"/in\"\nto = [\"app\"]\n\
         [upstream.app]\nurl = \"unix:app.sock\"\n",
    );
    let mut relay = relay;
    relay.run();
    let send = || exchange(UnixStream::connect(&inside).unwrap(), &Request::post("/in?q", "x")).unwrap();
    let answer = send();
    assert_eq!(answer.status, 202);
    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!((got.target.as_str(), got.header("host")), ("/in?q", Some("relay.test")));
    assert_eq!(got.header("x-forwarded-for"), None, "its sender has no address");
    relay.kill();
    relay.run();
    assert_eq!(send().status, 202, "a socket left over from a kill is replaced");
}

#[test]
fn http_2_is_spoken_with_and_without_tls() {
    let authority = Authority::new();
    let upstream = Upstream::start();
    let tls = "{ certificate = \"a.pem\", key = \"a.key\" }";
    let relay = serving(
        &authority,
        &format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.2:0\"\ntls = {tls}\n{}",
            all_to(&upstream)
        ),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let plain = tokio::net::TcpStream::connect(relay.addresses()[0]).await.unwrap();
        many(TokioIo::new(plain), "http").await;
        let tcp = tokio::net::TcpStream::connect(relay.addresses()[1]).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(authority.client(&["h2"]));
        let name = rustls_pki_types::ServerName::try_from("a.example").unwrap();
        many(TokioIo::new(connector.connect(name, tcp).await.unwrap()), "https").await;
    });
    let got = upstream.wait_for_requests(40);
    assert!(got.iter().all(|request| request.header("host") == Some("hooks.example")), "{got:?}");
}

/// Twenty requests at once on one connection.
async fn many<I>(io: I, scheme: &str)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let requests: Vec<_> = (0..20)
        .map(|n| {
            let mut sender = sender.clone();
            let request = http::Request::post(format!("{scheme}://hooks.example/x/{n}"))
                .body(Full::new(Bytes::from(format!("body {n}"))))
                .unwrap();
            tokio::spawn(async move {
                let answer = sender.send_request(request).await.unwrap();
                let status = answer.status().as_u16();
                (status, answer.into_body().collect().await.unwrap().to_bytes())
            })
        })
        .collect();
    for request in requests {
        let (status, body) = request.await.unwrap();
        assert_eq!(status, 202, "{body:?}");
    }
    drop(sender);
    driver.abort();
}

#[test]
fn a_key_that_does_not_fit_its_certificate_is_refused() {
    let authority = Authority::new();
    let relay = Relay::stopped(LISTEN);
    write(&relay, "a", &authority.identity("a.example"));
    write(&relay, "b", &authority.identity("b.example"));
    relay.write("a.key", authority.identity("other.example").key_pem);
    let told = relay.cli_by_config(&["check"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("stagepost.toml:") && told.err.contains("a.key"), "{}", told.err);
}
