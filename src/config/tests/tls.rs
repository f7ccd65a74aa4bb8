//! Certificates: loading, choosing by SNI, renewing, and the ways they can be wrong.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::*;

pub(super) fn write_certificate(directory: &Directory, file: &str, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    directory.write(&format!("{file}.pem"), cert.pem());
    directory.write(&format!("{file}.key"), signing_key.serialize_pem());
    CertificateDer::from_pem_slice(cert.pem().as_bytes()).unwrap().to_vec()
}

fn chosen(config: &Config, name: Option<&str>) -> Vec<u8> {
    let certificates = config.listen[0].certificates.as_ref().unwrap();
    certificates.choose(name).unwrap().end_entity_cert().unwrap().to_vec()
}

const TWO: &str = "
    [[listen]]
    address = '127.0.0.1:8443'
    tls = [{ certificate = 'a.pem', key = 'a.key' }, { certificate = 'b.pem', key = 'b.key' }]
";

#[test]
fn the_certificate_is_chosen_by_the_name_the_client_asks_for() {
    let directory = Directory::with(TWO);
    let a = write_certificate(&directory, "a", &["a.example"]);
    let b = write_certificate(&directory, "b", &["b.example", "*.wild.example"]);
    let config = directory.load().unwrap_or_else(|problems| panic!("{problems}")).config;
    for (name, expected) in [
        (Some("a.example"), &a),
        (Some("b.example"), &b),
        (Some("B.Example"), &b),
        (Some("x.wild.example"), &b),
        (Some("y.x.wild.example"), &a),
        (Some("other.example"), &a),
        (None, &a),
    ] {
        assert!(chosen(&config, name) == *expected, "{name:?}");
    }
    let Listener::Tcp { tls: Some(tls), .. } = &config.listen[0].listener else { panic!("no TLS") };
    assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
}

#[test]
fn a_reload_renews_the_certificates_of_the_running_listener() {
    let directory = Directory::with(TWO);
    write_certificate(&directory, "a", &["a.example"]);
    write_certificate(&directory, "b", &["b.example"]);
    let running = directory.load().unwrap().config;
    let renewed = write_certificate(&directory, "b", &["b.example"]);
    let mut new = directory.load().unwrap().config;
    assert!(chosen(&running, Some("b.example")) != renewed);
    assert!(diff(&running, &new).is_empty());
    new.take_over(&running);
    assert!(chosen(&running, Some("b.example")) == renewed);
    let (Listener::Tcp { tls: Some(old), .. }, Listener::Tcp { tls: Some(kept), .. }) =
        (&running.listen[0].listener, &new.listen[0].listener)
    else {
        panic!("no TLS")
    };
    assert!(Arc::ptr_eq(old, kept));
}

#[test]
fn client_certificates_are_asked_for_and_a_change_of_their_authority_needs_a_restart() {
    let directory = Directory::with(TWO);
    write_certificate(&directory, "a", &["a.example"]);
    write_certificate(&directory, "b", &["b.example"]);
    let before = directory.load().unwrap().config;
    directory.write("stagepost.toml", TWO.replace("'a.key'", "'a.key', client_ca = 'b.pem'"));
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(diff(&before, &loaded.config).needs_restart, ["listen 127.0.0.1:8443 has other TLS settings"]);
    let names = ["a.key", "a.pem", "b.key", "b.pem", "stagepost.toml"];
    assert_eq!(loaded.files, names.map(|name| directory.path(name)));
    let open = fs::metadata(directory.path("a.key")).unwrap().permissions().mode() & 0o004 != 0;
    assert_eq!(
        directory.messages(&loaded.warnings).iter().any(|said| said.contains("every user may read a.key")),
        open
    );

    let printed = effective(&loaded.config).to_owned();
    directory.write("stagepost.toml", format!("{printed}\n[[listen]]\naddress = '127.0.0.1:1'"));
    let again = directory.load().unwrap_or_else(|problems| panic!("{problems}\n{printed}")).config;
    assert_eq!(diff(&loaded.config, &again).needs_restart, ["listen 127.0.0.1:1 is new"]);
    assert!(again.listen[0].certificates.is_some() && again.listen[1].certificates.is_none());
    directory.write("stagepost.toml", effective(&again));
    assert_eq!(directory.load().unwrap().config.hash, again.hash);
}

#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    let directory = Directory::with("");
    write_certificate(&directory, "a", &["a.example"]);
    write_certificate(&directory, "b", &["b.example"]);
    directory.write("empty.pem", "");
    for (tls, expected) in [
        (
            "{ certificate = 'a.pem', key = 'b.key' }",
            "tls[1].certificate: b.key is not the key of the certificate a.pem",
        ),
        (
            "{ certificate = 'empty.pem', key = 'a.key' }",
            "tls[1].certificate: empty.pem holds no certificate in PEM form",
        ),
        (
            "{ certificate = 'a.pem', key = 'a.pem' }",
            "tls[1].certificate: a.pem holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1)",
        ),
        ("{ certificate = 'a.pem' }", "tls[1].key: is missing; a certificate and its key are needed"),
        ("[]", "tls: is empty; name a certificate and a key, or remove it"),
        (
            "{ certificate = 'a.pem', key = 'a.key', client_auth = 'optional' }",
            "tls[1].client_auth: has no effect without client_ca; add client_ca or remove it",
        ),
        (
            "{ certificate = 'none.pem', key = 'a.key' }",
            "tls[1].certificate: reading none.pem: No such file or directory (os error 2)",
        ),
    ] {
        directory.write("stagepost.toml", format!("[[listen]]\naddress = '127.0.0.1:1'\ntls = {tls}"));
        let problems = directory.load().err().unwrap_or_else(|| panic!("{tls}"));
        assert_eq!(directory.messages(&problems.0), [format!("stagepost.toml:3: listen[1].{expected}")]);
    }
    directory.write("stagepost.toml", "[[listen]]\naddress = 'unix:s'\ntls = { certificate = 'a.pem', key = 'a.key' }");
    let problems = directory.load().err().unwrap();
    assert_eq!(
        directory.messages(&problems.0),
        ["stagepost.toml:3: listen[1].tls: has no use on a Unix socket; remove it"]
    );
}

#[test]
fn an_upstream_has_its_own_authority_certificate_and_name() {
    let directory = Directory::with(
        "[[listen]]\naddress = '127.0.0.1:1'\n[upstream.u]\nurl = 'https://10.0.0.1/base'\n\
         tls = { ca = 'a.pem', certificate = 'b.pem', key = 'b.key', server_name = 'u.internal' }",
    );
    write_certificate(&directory, "a", &["a.example"]);
    write_certificate(&directory, "b", &["b.example"]);
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let upstream = &loaded.table.upstreams["u"];
    let tls = upstream.tls.as_ref().unwrap();
    assert_eq!(upstream.host, HostPolicy::Upstream);
    assert_eq!(tls.server_name.as_ref().unwrap().to_str(), "u.internal");
    assert!(tls.config.client_auth_cert_resolver.has_certs());
    assert_eq!(tls.config.alpn_protocols.len(), 2);
    assert!(loaded.files.contains(&directory.path("b.key")));
}

/// A handshake in memory between a listener and an upstream's client side.
fn handshake(server: &Config, client: &routing::Upstream) -> Result<Vec<u8>, rustls::Error> {
    let Listener::Tcp { tls: Some(listener), .. } = &server.listen[0].listener else { panic!("no TLS") };
    let tls = client.tls.as_ref().unwrap();
    let mut server = rustls::ServerConnection::new(listener.config.clone()).unwrap();
    let mut client = rustls::ClientConnection::new(tls.config.clone(), tls.server_name.clone().unwrap()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    Ok(client.peer_certificates().unwrap()[0].to_vec())
}

#[test]
fn a_handshake_asks_both_sides_for_what_is_configured() {
    let directory = Directory::with("");
    write_certificate(&directory, "a", &["a.example"]);
    let b = write_certificate(&directory, "b", &["b.example"]);
    write_certificate(&directory, "me", &["client.example"]);
    for (listen, upstream, expected) in [
        ("", "", Some(&b)),
        (", client_ca = 'me.pem'", ", certificate = 'me.pem', key = 'me.key'", Some(&b)),
        (", client_ca = 'me.pem'", "", None),
        (", client_ca = 'me.pem'", ", certificate = 'a.pem', key = 'a.key'", None),
        (", client_ca = 'me.pem', client_auth = 'optional'", "", Some(&b)),
    ] {
        let listen = TWO.replace("'a.key'", &format!("'a.key'{listen}"));
        let tls = format!("tls = {{ ca = 'b.pem', server_name = 'b.example'{upstream} }}");
        directory.write("stagepost.toml", format!("{listen}\n[upstream.u]\nurl = 'https://10.0.0.1'\n{tls}"));
        let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
        let seen = handshake(&loaded.config, &loaded.table.upstreams["u"]);
        assert_eq!(seen.as_ref().ok(), expected, "{listen} {upstream} {seen:?}");
    }
}
