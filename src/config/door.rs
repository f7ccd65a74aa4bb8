//! Owns the keys of a source that decide at the door, besides who verifies: conditions, challenges, numbering.

use std::{net::IpAddr, path::Path};

use super::{
    reader::Section,
    source::{expression, header_selector},
    tree::Value,
    verify::secrets,
};
use crate::{
    preset::Preset,
    routing::{CertificateRule, Challenge, ChallengeRule, Guard, KeySelector, Numbering},
    verify::{Secret, SecretRef},
};

/// `allow` and `client_certificate`.
pub(super) fn guard(section: &Section<'_>) -> Option<Guard> {
    let guard = Guard { allow: networks(section, "allow"), certificate: certificate(section) };
    if guard.allow.as_ref().is_some_and(Vec::is_empty) {
        section.problem("allow", "is empty, so that nobody could send; leave it out to take every address");
    }
    (guard != Guard::default()).then_some(guard)
}

/// Addresses and CIDRs; None if the key is absent.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Option<Vec<ipnet::IpNet>> {
    let words = section.words(key)?;
    let networks = words.iter().filter_map(|(word, _)| {
        let parsed = word.parse().or_else(|_| word.parse::<IpAddr>().map(ipnet::IpNet::from));
        let message = format!("\"{word}\" is no network; write an address or a CIDR such as \"10.0.0.0/8\"");
        section.accept(key, parsed.map_err(|_| message))
    });
    let networks: Vec<ipnet::IpNet> = networks.collect();
    section.print_words(key, networks.iter().map(ToString::to_string));
    Some(networks)
}

fn certificate(section: &Section<'_>) -> Option<CertificateRule> {
    match section.value("client_certificate")? {
        Value::Table(_) => {
            let inner = section.section("client_certificate");
            let rule = CertificateRule {
                subjects: listed(&inner, "subject", subject),
                names: listed(&inner, "san", |word| Ok(word.to_ascii_lowercase().into())),
                sha256: listed(&inner, "sha256", fingerprint),
            };
            if rule == CertificateRule::default() {
                inner.problem(
                    "subject",
                    "is missing, as are san and sha256; write client_certificate = true to take any",
                );
            }
            inner.finish();
            Some(rule)
        }
        _ => section.flag("client_certificate", false).then(CertificateRule::default),
    }
}

fn listed<T>(section: &Section<'_>, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    let Some(words) = section.words(key) else { return Vec::new() };
    if words.is_empty() {
        section.problem(key, "is empty; remove it, or name what is to be taken");
    }
    section.print_words(key, words.iter().map(|(word, _)| *word));
    words.iter().filter_map(|(word, _)| section.accept(key, parse(word))).collect()
}

/// The attributes of a subject.
type Attributes = Vec<(Box<str>, Box<str>)>;

/// `CN=client, O=Acme`; a comma inside a value is written `\,`.
fn subject(text: &str) -> Result<Attributes, String> {
    let malformed = || format!("\"{text}\" is no subject; write attributes such as \"CN=client, O=Acme\"");
    let (mut attributes, mut current) = (Vec::new(), String::new());
    let mut characters = text.chars();
    loop {
        let next = characters.next();
        match next {
            Some('\\') => current.extend(characters.next()),
            Some(',') | None => {
                let (name, value) = current.split_once('=').ok_or_else(malformed)?;
                let (name, value) = (name.trim().to_ascii_uppercase(), value.trim());
                if name.is_empty() || value.is_empty() {
                    return Err(malformed());
                }
                attributes.push((name.into(), value.into()));
                current.clear();
                if next.is_none() {
                    return Ok(attributes);
                }
            }
            Some(other) => current.push(other),
        }
    }
}

/// 64 hexadecimal digits, with or without colons.
fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    match hex::decode_to_slice(text.replace(':', ""), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(format!(
            "\"{text}\" is no SHA-256; write the 64 hexadecimal digits of openssl x509 -fingerprint -sha256"
        )),
    }
}

/// Where the number stands that grows by one with each event.
fn sequence(section: &Section<'_>) -> Option<KeySelector> {
    if let Value::Table(_) = section.value("sequence")? {
        let inner = section.section("sequence");
        if !inner.has("header") {
            inner.problem(
                "header",
                "is missing; write sequence = { header = \"X-Number\" } or a path such as \".number\"",
            );
        }
        let selector = header_selector(&inner);
        inner.finish();
        return selector;
    }
    let expr = expression(section, "sequence")?;
    if !expr.is_inline() {
        section.problem("sequence", "takes more time than numbering may; write a plain path such as \".number\"");
        return None;
    }
    Some(KeySelector::Expr(expr))
}

/// How the events are numbered: as `sequence` says, else as the provider does.
pub(super) fn numbering(section: &Section<'_>, preset: Option<&Preset>) -> Option<Numbering> {
    if section.has("sequence") {
        return sequence(section).map(|key| Numbering { key, consecutive: true });
    }
    // The key is known although it is not written.
    let _absent = section.value("sequence");
    let plan = preset?.numbering?;
    Some(Numbering { key: section.accept("verify", plan.key.selector())?, consecutive: plan.consecutive })
}

/// Warns where a provider wants an answer that only the application can give.
pub(super) fn warn_of_mode(section: &Section<'_>, scheme: &str) {
    let (what, instead) = match scheme {
        "discord" => ("interactions (type 2 and up)", "the sender gets 204 and shows an error"),
        "slack" => ("commands and dialogs that are answered", "the sender gets an empty 200 and shows nothing"),
        "twilio" => ("voice calls and messages that are answered", "the sender gets <Response/>: a call is hung up"),
        _ => return,
    };
    let message = format!(
        "{what} need mode = \"proxy\" on the source: without it {instead}; events that need no answer are fine"
    );
    section.warn("scheme", message);
}

/// The keys of `verify` that belong to the challenge of a preset.
pub(super) fn challenge(section: &Section<'_>, kind: Challenge) -> Option<ChallengeRule> {
    let mut rule = ChallengeRule::new(kind);
    match kind {
        Challenge::Meta => match section.has("verify_token") {
            true => rule.secrets = secrets(section, "verify_token")?,
            false => section.warn(
                "verify_token",
                "is missing: the question by which Meta registers a webhook is refused; add verify_token = \"env:…\"",
            ),
        },
        Challenge::X | Challenge::Zoom => rule.secrets = first_secret(section).into_iter().collect(),
        Challenge::CloudEvents => {
            rule.origins = listed(section, "allowed_origins", origin);
            if rule.origins.iter().any(|origin| &**origin == "*") {
                rule.origins.clear();
            }
            let rate = section.optional_count("allowed_rate", 1..=u64::from(u32::MAX));
            rule.rate = rate.and_then(|rate| u32::try_from(rate).ok());
        }
        _ => {}
    }
    Some(rule)
}

/// The secret that is in use; problems with it are reported where the others are read.
fn first_secret(section: &Section<'_>) -> Option<Secret> {
    let (word, place) = section.words("secrets")?.first().copied()?;
    SecretRef::parse(word).ok()?.resolve(place.file.parent().unwrap_or(Path::new(""))).ok()
}

/// A DNS name, as the senders of CloudEvents name themselves, or `*` for all.
fn origin(text: &str) -> Result<Box<str>, String> {
    if text == "*" {
        return Ok(text.into());
    }
    name(text)
        .map_err(|_| format!("\"{text}\" is no origin; write a name such as \"eventgrid.azure.net\", or \"*\" for any"))
}

/// A DNS name, in lower case, as senders of CloudEvents name themselves.
pub(super) fn name(text: &str) -> Result<Box<str>, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if text.is_empty() || !text.bytes().all(fits) {
        return Err(format!("\"{text}\" is no name; write one such as \"hooks.example.com\""));
    }
    Ok(text.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_attributes() {
        let pairs =
            |text| subject(text).map(|all| all.into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>());
        assert_eq!(pairs("CN=client").unwrap(), ["CN=client"]);
        assert_eq!(pairs("cn = client , O=Acme\\, Inc.").unwrap(), ["CN=client", "O=Acme, Inc."]);
        for text in ["", "client", "CN=", "=x", "CN=a,", "CN=a,,O=b"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fingerprints_are_read_as_openssl_prints_them() {
        let colons = ["AB"; 32].join(":");
        assert_eq!(fingerprint(&colons), Ok([0xab; 32]));
        assert_eq!(fingerprint(&"ab".repeat(32)), Ok([0xab; 32]));
        assert!(fingerprint("ab").is_err() && fingerprint(&"zz".repeat(32)).is_err());
    }
}
