//! Owns the key `sign` of `[upstream.NAME]`: whose signature a request carries.

use super::{
    reader::{Section, quoted},
    tree::Value,
    verify::{ALGORITHMS, ENCODINGS, UNITS, prefix, secrets},
};
use crate::{
    routing::SignPolicy,
    verify::{IdHeader, Signer, SignerSettings, StampHeader},
};

/// What only has a meaning for a signature of one's own form.
const CUSTOM: [&str; 6] = ["algorithm", "template", "prefix", "encoding", "timestamp", "id"];

/// Reads the key of an upstream. The outer None: there was a problem.
pub(super) fn read(upstream: &Section<'_>) -> Option<Option<SignPolicy>> {
    match upstream.value("sign") {
        Some(Value::Table(_)) => own(upstream.section("sign")).map(|signer| Some(SignPolicy::Own(signer))),
        None | Some(Value::Text(_)) => {
            let text = match upstream.value("sign") {
                Some(Value::Text(text)) => text.as_str(),
                _ => "auto",
            };
            let policy = match text {
                "auto" => None,
                "source" => Some(SignPolicy::Source),
                "none" => Some(SignPolicy::Never),
                other => {
                    // The text is not repeated: it may be a pasted secret.
                    let near = if other.contains(':') { "; secrets stand in a table" } else { "" };
                    let message = "takes \"auto\", \"source\", \"none\" or { secrets = [\"env:SECRET\"] }";
                    upstream.problem("sign", format!("{message}{near}"));
                    return None;
                }
            };
            upstream.print("sign", &quoted(text));
            Some(policy)
        }
        Some(other) => {
            upstream.problem("sign", format!("takes a string or a table, not {}", other.kind()));
            None
        }
    }
}

fn own(section: Section<'_>) -> Option<Signer> {
    if !section.has("secrets") {
        section.problem("secrets", "is missing; name at least one, such as [\"env:SECRET\"]");
    }
    let found = secrets(&section, "secrets");
    let made = if section.has("header") {
        let algorithm = section.choice("algorithm", "sha256", ALGORITHMS);
        let header = section.text("header");
        let encoding = section.choice("encoding", "hex", &ENCODINGS);
        let prefix = prefix(&section).to_owned();
        let template = section.text("template").map(str::to_owned);
        let timestamp = section.optional_section("timestamp").map(stamp);
        let id = section.optional_section("id").map(id);
        settings(algorithm.zip(header).zip(encoding).zip(found), timestamp, id).map(
            |((((algorithm, header), encoding), secrets), timestamp, id)| {
                let header = header.to_owned();
                Signer::custom(SignerSettings { algorithm, header, encoding, prefix, template, timestamp, id, secrets })
            },
        )
    } else {
        for key in CUSTOM.into_iter().filter(|key| section.has(key)) {
            let message = "has no effect without header; name the header that carries the signature, or remove it: \
                           Standard Webhooks has a form of its own";
            section.problem(key, message);
        }
        for advice in found.iter().flat_map(|secrets| Signer::advice(secrets)) {
            section.warn("secrets", advice);
        }
        found.map(|secrets| Signer::standard_webhooks(&secrets))
    };
    let signer = match made {
        Some(Err(error)) if section.has("secrets") => {
            section.problem(error.field(), error.to_string());
            None
        }
        Some(Ok(signer)) => Some(signer),
        Some(Err(_)) | None => None,
    };
    section.finish();
    signer
}

/// All of it, or nothing if a part was refused.
fn settings<T>(
    needed: Option<T>,
    timestamp: Option<Option<StampHeader>>,
    id: Option<Option<IdHeader>>,
) -> Option<(T, Option<StampHeader>, Option<IdHeader>)> {
    let whole = !matches!(timestamp, Some(None)) && !matches!(id, Some(None));
    needed.filter(|_| whole).map(|needed| (needed, timestamp.flatten(), id.flatten()))
}

fn stamp(section: Section<'_>) -> Option<StampHeader> {
    let header = named(&section, "is missing; name the header that carries the timestamp");
    let unit = section.choice("unit", "s", &UNITS);
    section.finish();
    Some(StampHeader { header: header?, unit: unit? })
}

fn id(section: Section<'_>) -> Option<IdHeader> {
    let header = named(&section, "is missing; name the header that carries the event's id");
    section.finish();
    header.map(|header| IdHeader { header })
}

fn named(section: &Section<'_>, missing: &str) -> Option<String> {
    if !section.has("header") {
        section.problem("header", missing);
    }
    section.text("header").map(str::to_owned)
}
