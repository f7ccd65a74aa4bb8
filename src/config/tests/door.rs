//! Conditions and numbering of sources.

use super::*;
use crate::routing::{CertificateRule, Guard};

fn source(keys: &str) -> String {
    format!("{MINIMAL}\n[source.s]\npath = '/s'\nto = []\n{keys}\n")
}

fn problems(keys: &str) -> String {
    let directory = Directory::with(&source(keys));
    let problems = directory.load().err().unwrap();
    directory.messages(&problems.0).join("\n")
}

fn guard(keys: &str) -> Option<Guard> {
    let loaded = loaded(&source(keys));
    loaded.table.sources.iter().find(|source| &*source.name == "s").unwrap().guard.clone()
}

#[test]
fn networks_are_read_as_addresses_and_cidrs() {
    let allow = guard("allow = ['192.0.2.0/24', '2001:db8::1']").unwrap().allow.unwrap();
    assert_eq!(allow, ["192.0.2.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()]);
    assert_eq!(guard(""), None);
    assert_eq!(guard("client_certificate = false"), None);
}

#[test]
fn what_nobody_could_meet_is_refused_with_the_remedy() {
    for (keys, remedy) in [
        ("allow = []", "leave it out to take every address"),
        ("allow = ['example.com']", "write an address or a CIDR"),
        ("client_certificate = true", "add client_ca to a listener"),
        ("client_certificate = {}", "write client_certificate = true to take any"),
        ("client_certificate = { san = [] }", "is empty"),
        ("client_certificate = { subject = ['client'] }", "CN=client, O=Acme"),
        ("client_certificate = { sha256 = ['ab'] }", "64 hexadecimal digits"),
        ("client_certificate = 'yes'", "takes true or false"),
        ("sequence = 'def f: f; f'", "write a plain path"),
        ("sequence = {}", "X-Number"),
    ] {
        let said = problems(keys);
        assert!(said.contains(remedy), "{keys}: {said}");
    }
}

#[test]
fn a_certificate_rule_is_read_whole() {
    let directory = Directory::with(&format!(
        "[[listen]]\naddress = '127.0.0.1:8443'\n\
         tls = {{ certificate = 'a.pem', key = 'a.key', client_ca = 'a.pem' }}\n\
         [source.s]\npath = '/s'\nto = []\n\
         client_certificate = {{ subject = ['CN=x'], san = ['X.Example'], sha256 = ['{}'] }}\n",
        "0A".repeat(32)
    ));
    super::tls::write_certificate(&directory, "a", &["a.example"]);
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let rule = CertificateRule {
        subjects: vec![vec![("CN".into(), "x".into())]],
        names: vec!["x.example".into()],
        sha256: vec![[10; 32]],
    };
    assert_eq!(loaded.table.sources[0].guard, Some(Guard { allow: None, certificate: Some(rule) }));
}
