//! Owns the keys of `[source.NAME.verify]`: the scheme, its secrets, and what else the scheme takes.

use std::path::Path;

use super::{
    door, outside,
    reader::{Section, quoted, suggestion},
    source::chain,
    tree::Value,
    units,
};
use crate::{
    preset::{self, Preset},
    routing::{ChallengeRule, PathPattern, SECRET_CAPTURE},
    verify::{
        self, Algorithm, Encoding, HmacSettings, PresetSettings, Proof, Secret, SecretRef, SettingsError, TOLERANCE,
        TimestampSettings, TimestampUnit, Verifier,
    },
};

pub(super) const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("sha256", Algorithm::Sha256),
    ("sha384", Algorithm::Sha384),
    ("sha512", Algorithm::Sha512),
    ("sha1", Algorithm::Sha1),
];

pub(super) const ENCODINGS: [(&str, Encoding); 3] =
    [("hex", Encoding::Hex), ("base64", Encoding::Base64), ("base64url", Encoding::Base64Url)];

pub(super) const UNITS: [(&str, TimestampUnit); 3] =
    [("s", TimestampUnit::Seconds), ("ms", TimestampUnit::Milliseconds), ("rfc3339", TimestampUnit::Rfc3339)];

/// The schemes that are no presets.
const OWN: [&str; 6] = ["none", "hmac", "basic", "bearer", "token", "path"];

/// What a source's check needs of the source itself.
pub(super) struct About<'a> {
    /// If it is valid.
    pub(super) pattern: Option<&'a PathPattern>,
    /// As configured.
    pub(super) public_url: Option<&'a str>,
}

/// A source's check, and the preset that the scheme names.
pub(super) struct ReadVerify {
    /// None if there was a problem.
    pub(super) verifier: Option<Verifier>,
    pub(super) preset: Option<&'static Preset>,
    /// What the provider asks before it sends events.
    pub(super) challenge: Option<ChallengeRule>,
}

/// Reads the table. `source` is the one around it, where problems with the source's own keys are reported.
pub(super) fn read(section: Section<'_>, source: &Section<'_>, about: &About<'_>) -> ReadVerify {
    let nothing = ReadVerify { verifier: None, preset: None, challenge: None };
    let scheme = match section.value("scheme") {
        None => {
            section.print("scheme", &quoted("none"));
            "none"
        }
        Some(_) => match section.text("scheme") {
            Some(scheme) => scheme,
            // What the other keys mean is unknown as long as the scheme is.
            None => return nothing,
        },
    };
    let preset = preset::find(scheme);
    let verifier = match (scheme, preset) {
        ("none", _) => Some(Verifier::none()),
        ("hmac", _) => hmac(&section),
        ("basic", _) => {
            secrets(&section, "secrets").and_then(|secrets| made(&section, source, Verifier::basic(secrets)))
        }
        ("bearer", _) => {
            secrets(&section, "secrets").and_then(|secrets| made(&section, source, Verifier::bearer(secrets)))
        }
        ("token", _) => token(&section, source),
        ("path", _) => path(&section, source, about),
        (_, Some(Preset { proof: Proof::Outside(scheme), .. })) => outside::read(*scheme, &section, source),
        (_, Some(preset)) => of_preset(&section, source, about, preset),
        (unknown, None) => {
            let names = OWN.into_iter().chain(preset::all().map(|preset| preset.name));
            let hint = suggestion(unknown, names);
            section.problem("scheme", format!("scheme \"{unknown}\" is not known; {hint}"));
            return nothing;
        }
    };
    if about.public_url.is_some() && !preset.is_some_and(|preset| preset.proof.needs_public_url()) {
        source.warn("public_url", format!("is not used: scheme \"{scheme}\" does not sign the URL"));
    }
    let captured = about.pattern.and_then(|pattern| pattern.segment_of(SECRET_CAPTURE));
    if scheme != "path" && captured.is_some() {
        source.warn("path", "captures {secret}, which is stored and shown; write verify = { scheme = \"path\", … }");
    }
    let challenge = preset.and_then(|preset| preset.challenge).and_then(|kind| door::challenge(&section, kind));
    if !matches!(source.value("mode"), Some(super::tree::Value::Text(mode)) if mode == "proxy") {
        door::warn_of_mode(&section, scheme);
    }
    section.finish();
    ReadVerify { verifier, preset, challenge }
}

/// A verifier, or the problem with the key that it is about.
fn made(section: &Section<'_>, source: &Section<'_>, result: Result<Verifier, SettingsError>) -> Option<Verifier> {
    let report = |error: SettingsError| match error.field() {
        field @ "public_url" => source.problem(field, error.to_string()),
        field => section.problem(field, error.to_string()),
    };
    result.map_err(report).ok()
}

fn of_preset(
    section: &Section<'_>,
    source: &Section<'_>,
    about: &About<'_>,
    preset: &'static Preset,
) -> Option<Verifier> {
    let proof = &preset.proof;
    let usual = match proof {
        Proof::Plan(plan) => plan.timestamp.as_ref().map(|timestamp| timestamp.tolerance),
        _ => proof.has_timestamp().then_some(TOLERANCE),
    };
    let tolerance = usual.map(|usual| section.duration("tolerance", &units::show_duration(usual)));
    let algorithm = match section.has("algorithm") {
        true => Some(section.choice("algorithm", "", ALGORITHMS)?),
        false => None,
    };
    let secrets = secrets(section, "secrets")?;
    for advice in verify::advice(proof, &secrets) {
        section.warn("secrets", advice);
    }
    let settings = PresetSettings { secrets, public_url: about.public_url.map(str::to_owned), tolerance, algorithm };
    made(section, source, Verifier::of(preset.name, proof, settings))
}

fn token(section: &Section<'_>, source: &Section<'_>) -> Option<Verifier> {
    if !section.has("header") {
        section.problem("header", "is missing; name the header that carries the secret, such as \"X-Token\"");
    }
    let (header, secrets) = (section.text("header"), secrets(section, "secrets"));
    made(section, source, Verifier::token(header?, secrets?))
}

fn path(section: &Section<'_>, source: &Section<'_>, about: &About<'_>) -> Option<Verifier> {
    let secrets = secrets(section, "secrets");
    let pattern = about.pattern?;
    let Some(segment) = pattern.segment_of(SECRET_CAPTURE) else {
        let message = "has no {secret}: write it for the segment that is secret, such as \"/hooks/app/{secret}\"";
        source.problem("path", message);
        return None;
    };
    made(section, source, Verifier::path(segment, secrets?))
}

fn hmac(section: &Section<'_>) -> Option<Verifier> {
    let algorithm = section.choice("algorithm", "sha256", ALGORITHMS);
    if !section.has("header") {
        section.problem("header", "is missing; name the header that carries the signature, such as \"X-Signature\"");
    }
    let header = section.text("header");
    let encoding = section.choice("encoding", "hex", &ENCODINGS);
    let prefix = prefix(section);
    let template = section.text("template").map(str::to_owned);
    let timestamp = section.optional_section("timestamp").map(timestamp);
    let secrets = secrets(section, "secrets")?;
    let timestamp = match timestamp {
        Some(settings) => Some(settings?),
        None => None,
    };
    let settings = HmacSettings {
        algorithm: algorithm?,
        header: header?.to_owned(),
        encoding: encoding?,
        prefix: prefix.to_owned(),
        template,
        timestamp,
        secrets,
    };
    Verifier::hmac(settings).map_err(|error| section.problem(error.field(), error.to_string())).ok()
}

/// What stands before a signature; may be empty.
pub(super) fn prefix<'a>(section: &Section<'a>) -> &'a str {
    match section.value("prefix") {
        Some(Value::Text(text)) if text.is_empty() => "",
        _ => section.text("prefix").unwrap_or_default(),
    }
}

fn timestamp(section: Section<'_>) -> Option<TimestampSettings> {
    if !section.has("header") {
        section.problem("header", "is missing; name the header that carries the timestamp");
    }
    let header = section.text("header");
    let unit = section.choice("unit", "s", &UNITS);
    let tolerance = section.duration("tolerance", "5m");
    section.finish();
    Some(TimestampSettings { header: header?.to_owned(), unit: unit?, tolerance })
}

/// References to secrets, read.
pub(super) fn secrets(section: &Section<'_>, key: &'static str) -> Option<Vec<Secret>> {
    let words = section.words(key).unwrap_or_default();
    let (mut secrets, mut shown) = (Vec::new(), Vec::new());
    for (word, place) in &words {
        let base = place.file.parent().unwrap_or(Path::new(""));
        let Some(reference) = section.accept(key, SecretRef::parse(word)) else { continue };
        if let Some(file) = reference.file() {
            section.cx.watch(&base.join(file));
        }
        for warning in reference.warnings(base) {
            section.warn(key, warning);
        }
        shown.push(reference.shown());
        secrets.extend(section.accept(key, reference.resolve(base).map_err(|error| chain(&error))));
    }
    match (section.is_list(key), shown.as_slice()) {
        // In the form in which it was written: where one secret is taken, a list is not.
        (false, [one]) => section.print(key, &quoted(one)),
        _ => section.print_words(key, shown),
    }
    (secrets.len() == words.len()).then_some(secrets)
}
