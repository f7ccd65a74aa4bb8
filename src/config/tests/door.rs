//! Conditions and numbering of sources.

use super::*;
use crate::routing::{CertificateRule, Challenge, Guard};

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

fn preset(verify: &str) -> Loaded {
    loaded(&source(&format!("verify = {{ {verify}, secrets = ['literal:first-secret', 'literal:second'] }}")))
}

fn warned(loaded: &Loaded) -> String {
    loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

fn only(loaded: &Loaded) -> &crate::routing::Source {
    loaded.table.sources.iter().find(|source| &*source.name == "s").unwrap()
}

#[test]
fn a_preset_brings_its_challenge_with_what_the_answer_needs() {
    let kind = |loaded: &Loaded| only(loaded).challenge.as_ref().map(|rule| rule.kind);
    let meta = preset("scheme = 'meta', verify_token = 'literal:token-of-meta'");
    let rule = only(&meta).challenge.as_ref().unwrap();
    assert_eq!((rule.kind, rule.secrets[0].expose()), (Challenge::Meta, &b"token-of-meta"[..]));
    assert!(!effective(&meta.config).contains("token-of-meta"));
    assert!(!warned(&meta).contains("verify_token: is missing"), "{}", warned(&meta));
    assert!(warned(&preset("scheme = 'meta'")).contains("add verify_token"));

    let x = preset("scheme = 'x'");
    let rule = only(&x).challenge.as_ref().unwrap();
    assert_eq!((rule.kind, rule.secrets.len(), rule.secrets[0].expose()), (Challenge::X, 1, &b"first-secret"[..]));

    let events = preset("scheme = 'cloudevents', allowed_origins = ['EventGrid.azure.net'], allowed_rate = 60");
    let rule = only(&events).challenge.as_ref().unwrap();
    assert_eq!((rule.origins.as_slice(), rule.rate), (&["eventgrid.azure.net".into()][..], Some(60)));
    let any = preset("scheme = 'cloudevents', allowed_origins = ['*']");
    assert!(only(&any).challenge.as_ref().unwrap().origins.is_empty());
    assert_eq!(kind(&preset("scheme = 'github'")), None);
    assert!(problems("verify = { scheme = 'cloudevents', allowed_origins = ['<x>'] }").contains("is no origin"));
}

#[test]
fn what_only_an_application_can_answer_is_warned_about() {
    for (scheme, more, what) in
        [("slack", "", "commands and dialogs"), ("twilio", "public_url = 'https://hooks.example.com/s'", "voice calls")]
    {
        let keys = format!("verify = {{ scheme = '{scheme}', secrets = ['literal:x'] }}\n{more}");
        let said = warned(&loaded(&source(&keys)));
        assert!(said.contains(what) && said.contains("mode = \"proxy\""), "{said}");
    }
    assert!(!warned(&preset("scheme = 'github'")).contains("proxy"));
}

#[test]
fn a_preset_s_numbers_are_looked_at_unless_they_only_grow() {
    let numbering = |loaded: &Loaded| only(loaded).numbering.as_ref().map(|numbering| numbering.consecutive);
    assert_eq!(numbering(&preset("scheme = 'telegram'")), Some(true));
    assert_eq!(numbering(&preset("scheme = 'google-calendar'")), Some(false));
    assert_eq!(numbering(&preset("scheme = 'github'")), None);
    assert_eq!(numbering(&loaded(&source("sequence = '.n'"))), Some(true));
}
