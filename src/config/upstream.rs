//! Owns the keys of `[upstream.NAME]`: where events are forwarded to, how patiently, with which credentials.

use std::{cell::OnceCell, path::PathBuf, sync::Arc};

use http::{HeaderName, HeaderValue, Uri};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use super::{
    chain, cloudevents,
    door::networks,
    failure,
    listen::pem_path,
    pace,
    patience::{breaker, retry},
    problem::Place,
    reader::{Section, quoted},
    server::{Server, header_name, positive},
    settings::StoreSettings,
    sign,
    sink::{self, Shape},
    source::{chain as causes, check_name},
    targets, tls,
};
use crate::{
    routing::{
        HostPolicy, ObjectPlace, PathEdit, PublicOnly, Share, SignPolicy, Target, TlsClient, TurnPolicy, Upstream,
    },
    verify::{SecretRef, references_files, resolve_embedded},
};

/// Headers that the connection or stagepost itself decides.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The most of an answer that is handed back, in bytes: it is held in memory, once for each such request.
const REPLY_BYTES_MAX: u64 = 256 << 20;

/// Reads every upstream; those with problems are left out.
pub(super) fn read(
    root: &Section<'_>,
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Vec<(Upstream, Place)> {
    let sections = root.named_sections("upstream");
    let one = |(name, section): (&str, Section<'_>)| {
        let upstream = one(name, &section, server, store, machine);
        let place = section.place.clone();
        section.finish();
        Some((upstream?, place))
    };
    sections.into_iter().filter_map(one).collect()
}

/// The certificate authorities of the machine, read once for all upstreams.
#[derive(Default)]
pub(super) struct MachineRoots(OnceCell<Result<RootCertStore, String>>);

/// Reads the keys of one, which a subscriber has as well.
pub(super) fn one(
    name: &str,
    section: &Section<'_>,
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Option<Upstream> {
    check_name(section, "", name);
    match sink::shape(section) {
        Shape::Http => http(name, section, server, store, machine),
        Shape::File => files(name, section, server, store),
        Shape::Objects => objects(name, section, (server, store), machine),
    }
}

/// One that gets requests.
pub(super) fn http(
    name: &str,
    section: &Section<'_>,
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Option<Upstream> {
    if !section.has("url") {
        section.problem("url", "is missing; write \"http://127.0.0.1:3000\", \"https://…\" or \"unix:/run/app.sock\"");
    }
    let read = targets::read(section);
    let target = read.as_ref().and_then(targets::Read::first).cloned();
    let is_https = matches!(target, Some(Target::Https(_)));
    if section.has("tls") && target.is_some() && !is_https {
        section.warn("tls", "has no effect without an https:// url; change the url or remove it");
        // Its keys are known all the same.
        let unused = section.section("tls");
        let _known = ["ca", "certificate", "key", "server_name"].map(|key| unused.has(key));
        unused.finish();
    }
    let tls = is_https.then(|| client_tls(section.section("tls"), machine));
    let headers = headers(section);
    let timeout = positive(section, "timeout", "10s");
    let connect_timeout = positive(section, "connect_timeout", "3s");
    let idle_timeout = positive(section, "idle_timeout", "30s");
    let (retry, retries) = retry(section.section("retry"), store.retention);
    let replays = section.number("replay_share", 0.03125, 0.001..=1.0);
    let replays = section.accept("replay_share", Share::new(replays));
    let breaker = breaker(section.section("breaker"));
    let (concurrency, pace) = pace::read(section);
    let host = host(section, is_https);
    let path = path_edit(section);
    let soft_bounce = section.flag("soft_bounce", server.soft_bounce);
    let max_reply = section.size("max_reply", "1MiB");
    if !(1..=REPLY_BYTES_MAX).contains(&max_reply) {
        section.problem("max_reply", "must lie between 1B and 256MiB");
    }
    let batch = sink::batch(section);
    let answers = failure::read(section);
    let sign = sign::read(section);
    let cloudevents = cloudevents::read(section);
    let dns_refresh = section.duration("dns_refresh", "30s");
    let guard = guard(section, target.as_ref());
    let publish = chain::publish(section);
    let shadow = chain::shadow(section);
    let notify = chain::notify(section, server).filter(|_| shadow.is_none());
    if batch.is_some() {
        sink::check_alone(section);
    }
    let is_asked = cloudevents.as_ref().is_some_and(|policy| policy.handshake.is_some());
    if is_asked && headers.iter().any(|(name, _)| name == http::header::ORIGIN) {
        section.problem("headers", "Origin is set by the handshake; write cloudevents.origin in its place");
    }
    let tls = match tls {
        Some(loaded) => Some(Arc::new(loaded?)),
        None => None,
    };
    let mut upstream = Upstream {
        name: name.into(),
        target: target?,
        targets: None,
        headers,
        tls,
        timeout,
        connect_timeout,
        idle_timeout,
        retry: retry?,
        breaker: breaker?,
        concurrency,
        pace,
        host,
        path,
        soft_bounce,
        max_reply: usize::try_from(max_reply).unwrap_or(usize::MAX),
        turns: TurnPolicy { retries: retries?, replays: replays? },
        hides_url: false,
        guard,
        disable_after: None,
        sign: if batch.is_some() { sign?.or(Some(SignPolicy::Never)) } else { sign? },
        batch,
        answers,
        cloudevents,
        dns_refresh,
        publish,
        notify,
        shadow,
    };
    upstream.targets = read.and_then(|read| read.finish(&upstream));
    Some(upstream)
}

/// An upstream that is files: one writer, no requests.
fn files(name: &str, section: &Section<'_>, server: &Server, store: &StoreSettings) -> Option<Upstream> {
    let target = sink::file(section);
    let batch = sink::lines(section, Shape::File);
    let notify = chain::notify(section, server);
    let (retry, retries) = retry(section.section("retry"), store.retention);
    let breaker = breaker(section.section("breaker"));
    Some(Upstream {
        retry: retry?,
        breaker: breaker?,
        concurrency: 1,
        turns: TurnPolicy { retries: retries?, ..TurnPolicy::standard() },
        batch: Some(batch?),
        sign: Some(SignPolicy::Never),
        notify,
        ..Upstream::new(name, target?)
    })
}

/// An upstream that is a store of objects: one for each batch.
fn objects(
    name: &str,
    section: &Section<'_>,
    (server, store): (&Server, &StoreSettings),
    machine: &MachineRoots,
) -> Option<Upstream> {
    let policy = sink::objects(section);
    let is_https = policy.as_ref().is_some_and(|policy| match &policy.place {
        ObjectPlace::Bucket(bucket) => bucket.endpoint.scheme_str() == Some("https"),
        ObjectPlace::Directory(_) => false,
    });
    if section.has("tls") && policy.is_some() && !is_https {
        section.problem("tls", "has no effect without an https:// endpoint; remove it");
    }
    let tls = is_https.then(|| client_tls(section.section("tls"), machine));
    let batch = sink::lines(section, Shape::Objects);
    let notify = chain::notify(section, server);
    let timeout = positive(section, "timeout", "60s");
    let connect_timeout = positive(section, "connect_timeout", "3s");
    let idle_timeout = positive(section, "idle_timeout", "30s");
    let concurrency = section.count("concurrency", 4, 1..=64);
    let (retry, retries) = retry(section.section("retry"), store.retention);
    let breaker = breaker(section.section("breaker"));
    Some(Upstream {
        tls: match tls {
            Some(loaded) => Some(Arc::new(loaded?)),
            None => None,
        },
        timeout,
        connect_timeout,
        idle_timeout,
        concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        retry: retry?,
        breaker: breaker?,
        turns: TurnPolicy { retries: retries?, ..TurnPolicy::standard() },
        batch: Some(batch?),
        sign: Some(SignPolicy::Never),
        notify,
        ..Upstream::new(name, Target::Objects(Arc::new(policy?)))
    })
}

/// An address, and how it is shown.
pub(super) fn target(section: &Section<'_>, url: &str) -> Result<(String, Target), String> {
    if let Some(path) = url.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("unix: needs the path of a socket".to_owned());
        }
        let path = section.resolve("url", path);
        return Ok((format!("unix:{}", path.display()), Target::Unix(path)));
    }
    Ok((url.to_owned(), http_target(url)?))
}

/// An address of HTTP. The text itself is not repeated in what is wrong with it: it may hold a password.
pub(super) fn http_target(url: &str) -> Result<Target, String> {
    let example = "write \"http://127.0.0.1:3000/base\", \"https://…\" or \"unix:/run/app.sock\"";
    let uri: Uri = url.parse().map_err(|_| format!("is no url; {example}"))?;
    let authority = uri.authority().ok_or_else(|| format!("names no host; {example}"))?;
    if authority.as_str().contains('@') {
        return Err("holds a user or a password; use headers = { Authorization = \"Basic env:NAME\" }".to_owned());
    }
    if authority.host().is_empty() {
        return Err(format!("names no host; {example}"));
    }
    if uri.query().is_some() || url.contains('#') {
        return Err("has a query or a fragment; the request's own query is sent, remove it".to_owned());
    }
    match uri.scheme_str() {
        Some("http") => Ok(Target::Http(uri)),
        Some("https") => Ok(Target::Https(uri)),
        _ => Err(format!("has an unknown scheme; {example}")),
    }
}

/// `guard` and `guard_allow`.
fn guard(section: &Section<'_>, target: Option<&Target>) -> Option<PublicOnly> {
    let is_guarded = section.flag("guard", false);
    let allow = networks(section, "guard_allow");
    if !is_guarded {
        if allow.is_some() {
            section.problem("guard_allow", "has no effect without guard = true; add that or remove it");
        }
        return None;
    }
    let guard = PublicOnly { allow: allow.unwrap_or_default() };
    match target {
        Some(Target::Unix(_)) => section.problem("guard", "has no meaning for a unix: url; remove it"),
        Some(Target::Http(uri) | Target::Https(uri)) => {
            let literal = uri.host().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
            if let Some((address, why)) = literal.and_then(|address| Some((address, guard.refusal(address)?))) {
                section.problem("url", refused_literal(address, why));
            }
        }
        Some(Target::File(_) | Target::Objects(_) | Target::Command(_)) | None => {}
    }
    Some(guard)
}

fn refused_literal(address: std::net::IpAddr, why: &str) -> String {
    format!("leads to {address}, which is {why} and refused by guard; add it to guard_allow or remove guard")
}

pub(super) fn client_tls(section: Section<'_>, machine: &MachineRoots) -> Option<TlsClient> {
    let roots = match section.path("ca") {
        Some(ca) => {
            section.cx.watch(&ca);
            section.accept("ca", tls::roots(&ca))
        }
        None => section.accept("ca", machine.0.get_or_init(tls::native_roots).clone()),
    };
    let is_identified = section.has("certificate") || section.has("key");
    let files: Option<(PathBuf, PathBuf)> =
        if is_identified { pem_path(&section, "certificate").zip(pem_path(&section, "key")) } else { None };
    let identity = files.as_ref().and_then(|(certificate, key)| {
        section.accept("certificate", tls::certified_key(certificate, key))?;
        section.accept("certificate", tls::chain(certificate)).zip(section.accept("key", tls::private_key(key)))
    });
    let server_name = section.expanded("server_name").and_then(|name| {
        section.print("server_name", &quoted(&name));
        let parsed = ServerName::try_from(name.clone());
        section.accept("server_name", parsed.map_err(|_| format!("\"{name}\" is no name of a server")))
    });
    let config = match (roots, is_identified == identity.is_some()) {
        (Some(roots), true) => section.accept("certificate", tls::client(roots, identity)),
        _ => None,
    };
    section.finish();
    Some(TlsClient { config: Arc::new(config?), server_name })
}

pub(super) fn headers(section: &Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let texts = section.texts("headers");
    let mut headers = Vec::with_capacity(texts.len());
    let mut shown = Vec::with_capacity(texts.len());
    for (name, text, place) in texts {
        let base = place.file.parent().unwrap_or(std::path::Path::new(""));
        if let Some(file) = references_files(text) {
            section.cx.watch(&base.join(file));
        }
        let (safe, reference) = shown_header(name, text);
        shown.push((name, safe));
        for warning in reference.iter().flat_map(|reference| reference.warnings(base)) {
            section.warn("headers", format!("{name}: {warning}"));
        }
        if reference.is_none() && is_credential(name) {
            section.warn("headers", format!("{name}: a credential stands in the configuration; use env: or file:"));
        }
        let resolved = resolve_embedded(text, base).map_err(|error| format!("{name}: {}", causes(&error)));
        let Some(resolved) = section.accept("headers", resolved) else { continue };
        let value = HeaderValue::from_str(&resolved).map_err(|_| format!("{name} holds characters no header may hold"));
        let (Some(name), Some(mut value)) =
            (settable_header(section, "headers", name), section.accept("headers", value))
        else {
            continue;
        };
        value.set_sensitive(true);
        headers.push((name, value));
    }
    if !shown.is_empty() {
        section.print_texts("headers", shown);
    }
    headers
}

/// The name of a header that may be set; the connection's own and ours may not.
pub(super) fn settable_header(section: &Section<'_>, key: &str, name: &str) -> Option<HeaderName> {
    let name = header_name(section, key, name)?;
    if name == http::header::HOST {
        section.problem(key, "Host is set by the key host of the upstream; use that");
        return None;
    }
    if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("stagepost-") {
        section.problem(key, format!("{name} is set by stagepost itself; remove it"));
        return None;
    }
    Some(name)
}

/// A header's value as it may be shown, and the secret it refers to.
fn shown_header(name: &str, text: &str) -> (String, Option<SecretRef>) {
    let (before, word) = match SecretRef::parse(text) {
        Ok(_) => ("", text),
        Err(_) => text.rfind(' ').and_then(|space| text.split_at_checked(space + 1)).unwrap_or(("", text)),
    };
    match SecretRef::parse(word) {
        Ok(reference) => (format!("{before}{}", reference.shown()), Some(reference)),
        Err(_) if is_credential(name) => ("literal:…".to_owned(), None),
        Err(_) => (text.to_owned(), None),
    }
}

fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "api-key", "apikey", "password"]
        .iter()
        .any(|word| name.contains(word))
}

fn host(section: &Section<'_>, is_https: bool) -> HostPolicy {
    let written = section.expanded("host");
    let text = written.as_deref().unwrap_or(if is_https { "upstream" } else { "preserve" });
    section.print("host", &quoted(text));
    match text {
        "preserve" => HostPolicy::Preserve,
        "upstream" => HostPolicy::Upstream,
        name => {
            let is_authority = name.parse::<http::uri::Authority>().is_ok_and(|parsed| !parsed.as_str().contains('@'));
            let value = HeaderValue::from_str(name).ok().filter(|_| is_authority);
            let message = format!("\"{name}\" is no host; write \"preserve\", \"upstream\" or a name");
            section.accept("host", value.ok_or(message)).map_or(HostPolicy::Preserve, HostPolicy::Name)
        }
    }
}

/// `strip_prefix` and `path`, of an upstream or a route.
pub(super) fn path_edit(section: &Section<'_>) -> PathEdit {
    let read = |key: &'static str| {
        let path = section.expanded(key)?;
        let fits =
            path.starts_with('/') && !path.contains(['?', '#']) && path.parse::<http::uri::PathAndQuery>().is_ok();
        if !fits {
            section.problem(key, format!("\"{path}\" is no path; it begins with / and has no query"));
            return None;
        }
        section.print(key, &quoted(&path));
        Some(Box::from(path))
    };
    PathEdit { strip_prefix: read("strip_prefix"), path: read("path") }
}
