//! Owns the keys of `[source.NAME]`: where requests come in, who checks them, what is answered.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{
    batch, cache, door, limits,
    problem::Place,
    reader::{Section, quoted},
    route,
    server::{Server, header_name, positive},
    tree::Value,
    units, upgrade,
    verify::{self, About},
    wait,
};
use crate::{
    expr::Expr,
    preset::Preset,
    routing::{DedupeRule, KeySelector, OnDuplicate, OnViolation, PathPattern, Reply, Route, SchemaRule, Source},
    verify::Verifier,
};

/// The longest name of a source, route or upstream, in bytes: names are metric labels.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Event types of one source that are metric labels.
const TYPES_MAX: usize = 200;
/// The longest of them, in bytes.
const TYPE_BYTES_MAX: usize = 128;

/// A source with where it stands and the route its `to` makes.
pub(super) struct ReadSource {
    pub(super) source: Source,
    pub(super) place: Place,
    /// Where its `to` stands.
    pub(super) to_place: Place,
    pub(super) route: Option<Route>,
}

/// Reads every source. One with problems is kept as far as it goes, so that all that is wrong with the names in its `to`
/// is said at once.
pub(super) fn read(root: &Section<'_>, server: &Server) -> Vec<ReadSource> {
    let sections = root.named_sections("source");
    sections.into_iter().filter_map(|(name, section)| one(name, section, server)).collect()
}

fn one(name: &str, section: Section<'_>, server: &Server) -> Option<ReadSource> {
    check_name(&section, "", name);
    let host = section.expanded("host").and_then(|host| valid_host(&section, &host));
    if !section.has("path") {
        section.problem("path", "is missing; write an exact path such as \"/hooks/app\" or a subtree \"/hooks/*\"");
    }
    let pattern = section.expanded("path").and_then(|path| {
        section.print("path", &quoted(&path));
        section.accept("path", PathPattern::parse(&path))
    });
    let public_url = section.expanded("public_url");
    if let Some(url) = &public_url {
        section.print("public_url", &quoted(url));
    }
    let about = About { pattern: pattern.as_ref(), public_url: public_url.as_deref() };
    let read = verify::read(section.section("verify"), &section, &about);
    let preset = read.preset;
    let methods = methods(&section, preset);
    let waits = section.choice("mode", "store", &[("store", false), ("proxy", true)]).unwrap_or(false);
    let wait = wait::read(&section, waits);
    let cache = cache::read(&section, waits, methods.as_deref());
    let upgrade = upgrade::read(&section, methods.as_deref());
    let dedupe = dedupe(&section, preset);
    let event_type = event_type(&section, preset);
    let types = types(&section, event_type.is_some());
    let to_place = section.place_of("to").clone();
    let to = section.words("to").map(|words| route::upstream_names(&section, &words));
    let reply = reply(&section, preset);
    let max_body = max_body(&section, server, preset);
    let guard = door::guard(&section);
    let split = batch::split(&section, preset);
    let schema = batch::schema(&section);
    let record_safe = section.flag("record_safe", true);
    let reply_timeout = positive(&section, "reply_timeout", "30s");
    let is_verified = read.verifier.as_ref().is_some_and(|verifier| verifier.scheme() != "none");
    let quarantine = section.flag("quarantine", is_verified);
    let to_quarantine = |rule: &SchemaRule| rule.on_violation == OnViolation::Quarantine;
    if section.has("quarantine") && !quarantine && schema.as_ref().is_some_and(to_quarantine) {
        section.problem("quarantine", "is false, but schema.on_violation keeps violations there; use \"reject\"");
    }
    let place = section.place.clone();
    let numbering = door::numbering(&section, preset);
    if waits && split.is_some() {
        section.problem(
            "split",
            "stands beside mode = \"proxy\": there is one answer, but an event for each item; remove one",
        );
    }
    let rate = limits::rate(&section, None);
    let tenants = limits::tenants(&section, pattern.as_ref());
    let loops = limits::loops(&section);
    section.finish();
    // Without a path or a verifier there is a problem already, and nothing is made of this but what is wrong with it.
    let (pattern, verifier) = (pattern.or_else(|| PathPattern::parse("/").ok())?, read.verifier);
    let source = Source {
        host,
        methods,
        verifier: verifier.unwrap_or_else(Verifier::none),
        dedupe,
        event_type,
        types,
        split,
        schema,
        reply,
        max_body,
        record_safe,
        wait,
        cache,
        upgrade,
        reply_timeout,
        quarantine,
        guard,
        challenge: read.challenge,
        items: preset.and_then(|preset| preset.items).map(|items| items.rule()),
        numbering,
        rate,
        tenants,
        loops,
        ..Source::new(name, pattern)
    };
    let route = to.map(|to| route::unconditional(&source.name, to));
    Some(ReadSource { source, place, to_place, route })
}

/// The source's own limit, the provider's, or the server's, whichever is the first that is known. What a provider
/// sends must not be refused because the server's limit is lower; a server whose limit is higher keeps it.
fn max_body(section: &Section<'_>, server: &Server, preset: Option<&Preset>) -> u64 {
    let usual = preset.and_then(|preset| preset.max_body).map_or(server.max_body, |most| most.max(server.max_body));
    let usual = usual.min(server.limits.spool_size.max(server.max_body));
    let max_body = section.size("max_body", &format!("{usual}B"));
    if section.has("max_body") && max_body > server.limits.spool_size {
        section.problem("max_body", "is larger than server.spool_size, so that such a body could never be taken");
    }
    max_body
}

/// Names are metric labels and arguments on the command line.
pub(super) fn check_name(section: &Section<'_>, key: &str, name: &str) {
    if let Err(message) = valid_name(name) {
        if key.is_empty() {
            section.cx.problem(&section.place, &section.key, message);
        } else {
            section.problem(key, message);
        }
    }
}

/// Whether a text can be a name.
pub(super) fn valid_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return Err(format!("\"{name}\" is no name; use letters, digits, _, - and ., at most {NAME_BYTES_MAX}"));
    }
    Ok(())
}

/// Compiles jq.
pub(super) fn expression(section: &Section<'_>, key: &'static str) -> Option<Expr> {
    let text = section.text(key)?;
    section.accept(key, Expr::compile(text).map_err(|error| format!("is no valid jq: {error}")))
}

fn valid_host(section: &Section<'_>, host: &str) -> Option<Box<str>> {
    let host = host.to_ascii_lowercase();
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    let is_name = inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if !is_name && inner.parse::<std::net::Ipv6Addr>().is_err() {
        section.problem(
            "host",
            format!("\"{host}\" is no host; write a name without port, such as \"hooks.example.com\""),
        );
        return None;
    }
    section.print("host", &quoted(&host));
    Some(host.into())
}

fn methods(section: &Section<'_>, preset: Option<&Preset>) -> Option<Vec<Method>> {
    let Some(words) = section.words("methods") else {
        let methods = preset?.methods();
        section.print_words("methods", methods.iter().map(Method::as_str));
        return Some(methods);
    };
    if words.is_empty() {
        section.problem("methods", "is empty, so that nothing could come in; leave it out to take every method");
    }
    let methods: Vec<Method> = words.iter().filter_map(|(word, _)| method(section, "methods", word)).collect();
    section.print_words("methods", methods.iter().map(Method::as_str));
    Some(methods)
}

/// A method that may be taken and sent.
pub(super) fn method(section: &Section<'_>, key: &str, word: &str) -> Option<Method> {
    let parsed = match word {
        "TRACE" | "CONNECT" => Err(format!("{word} is never taken; remove it")),
        _ if word.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Err(format!("methods are written in upper case: \"{}\"", word.to_ascii_uppercase()))
        }
        _ => Method::from_bytes(word.as_bytes()).map_err(|_| format!("\"{word}\" is no method, such as \"POST\"")),
    };
    section.accept(key, parsed)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn dedupe(source: &Section<'_>, preset: Option<&Preset>) -> Option<DedupeRule> {
    let own = preset.and_then(|preset| preset.dedupe);
    if own.is_none() && !source.has("dedupe") {
        return None;
    }
    let section = source.section("dedupe");
    let key = match (section.has("key"), section.has("header"), &own) {
        (true, false, _) => expression(&section, "key").map(KeySelector::Expr),
        (false, true, _) => header_selector(&section),
        (true, true, _) => {
            section.problem("header", "stands beside key; keep one of them");
            None
        }
        (false, false, Some(plan)) => {
            section.note(&format!("the preset's key: {plan}"));
            section.accept("key", plan.selector())
        }
        (false, false, None) => {
            section.problem("key", "is missing; write key = \".id\" (jq) or header = \"X-Id\"");
            None
        }
    };
    // The preset's window fits the preset's key.
    let is_own = !section.has("key") && !section.has("header");
    let usual = preset.filter(|_| is_own).map_or_else(|| "7d".to_owned(), |preset| units::show_duration(preset.window));
    let window = positive(&section, "window", &usual);
    if let Some(retries) = preset.and_then(|preset| preset.retries_for)
        && section.has("window")
        && window < retries
    {
        let title = preset.map_or("the provider", |preset| preset.title);
        let shown = units::show_duration(retries);
        let message = format!("is shorter than {title} sends again ({shown}): a late resend would be a second event");
        section.warn("window", message);
    }
    let choices = [("revive", OnDuplicate::Revive), ("ignore", OnDuplicate::Ignore), ("accept", OnDuplicate::Accept)];
    let on_duplicate = section.choice("on_duplicate", "revive", &choices);
    section.finish();
    Some(DedupeRule { key: key?, window, on_duplicate: on_duplicate? })
}

fn event_type(section: &Section<'_>, preset: Option<&Preset>) -> Option<KeySelector> {
    let Some(value) = section.value("type") else {
        let plan = preset?.event_type?;
        section.note(&format!("the preset's type: {plan}"));
        return section.accept("type", plan.selector());
    };
    match value {
        Value::Table(_) => {
            let inner = section.section("type");
            if !inner.has("header") {
                inner.problem("header", "is missing; write type = { header = \"X-Event\" } or jq such as \".event\"");
            }
            let selector = header_selector(&inner);
            inner.finish();
            selector
        }
        _ => expression(section, "type").map(KeySelector::Expr),
    }
}

/// The types that are metric labels.
fn types(section: &Section<'_>, is_known: bool) -> Vec<Box<str>> {
    let words = section.words("types").unwrap_or_default();
    if !words.is_empty() && !is_known && !section.has("type") {
        section.problem("types", "has no effect without type, which says where the type stands");
    }
    if words.len() > TYPES_MAX {
        section.problem("types", format!("names {} types, each a metric of its own; at most {TYPES_MAX}", words.len()));
    }
    for (index, (word, _)) in words.iter().enumerate() {
        if *word == "other" {
            section.problem("types", "names \"other\", which stands for every type that is not named; remove it");
        } else if word.len() > TYPE_BYTES_MAX || word.chars().any(char::is_control) {
            section.problem("types", format!("{word:?} is no type; at most {TYPE_BYTES_MAX} bytes, none of control"));
        } else if words.iter().take(index).any(|(earlier, _)| earlier == word) {
            section.problem("types", format!("names \"{word}\" twice"));
        }
    }
    section.print_words("types", words.iter().map(|(word, _)| word));
    words.into_iter().map(|(word, _)| word.into()).collect()
}

/// The header that a selector names.
pub(super) fn header_selector(section: &Section<'_>) -> Option<KeySelector> {
    header_name(section, "header", section.text("header")?).map(KeySelector::Header)
}

fn reply(source: &Section<'_>, preset: Option<&Preset>) -> Option<Reply> {
    let Some(section) = source.optional_section("reply") else {
        let reply = preset?.reply()?;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        source.note(format!("the preset's reply: {} {body}", reply.status.as_u16()).trim_end());
        return Some(reply);
    };
    let reply = own_reply(&section, 299);
    section.finish();
    reply
}

/// An answer of our own, with a status from 200 to `most`.
pub(super) fn own_reply(section: &Section<'_>, most: u64) -> Option<Reply> {
    let status = section.count("status", 200, 200..=most);
    let texts = section.texts("headers");
    let mut headers = HeaderMap::with_capacity(texts.len());
    for (name, text, _) in &texts {
        let value = HeaderValue::from_str(text).map_err(|_| format!("{name} holds characters no header may hold"));
        if let (Some(name), Some(value)) = (header_name(section, "headers", name), section.accept("headers", value)) {
            if name == http::header::CONTENT_LENGTH || name == http::header::TRANSFER_ENCODING {
                section.problem("headers", format!("{name} is set by stagepost itself; remove it"));
            }
            headers.append(name, value);
        }
    }
    if !texts.is_empty() {
        section.print_texts("headers", texts.iter().map(|(name, text, _)| (*name, (*text).to_owned())));
    }
    let body = match section.value("body") {
        Some(Value::Text(text)) if text.is_empty() => Bytes::new(),
        _ => section.text("body").map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body.as_bytes())),
    };
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) && !body.is_empty() {
        section.problem("body", format!("can't be sent with status {}; use 200 or remove it", status.as_u16()));
    }
    Some(Reply { status, headers, body })
}

/// Where a source's events come in, as messages name it.
pub(super) fn shown_path(source: &Source) -> String {
    format!("{}{}", source.host.as_deref().unwrap_or_default(), source.pattern.text)
}
