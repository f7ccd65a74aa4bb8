//! Owns the keys of an upstream that gets several events at once, or that is files or objects: `kind`, `batch`, and
//! the keys of such kinds.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    problem::Place,
    reader::{Section, quoted},
    tree::Value,
    verify::secrets,
};
use crate::{
    routing::{
        BATCH_EVENTS_MAX, BatchFormat, BatchPolicy, Bucket, Compression, Content, FilePolicy, ObjectPlace,
        ObjectPolicy, SinkError, Target,
    },
    verify::Secret,
};

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Requests.
    Http,
    /// Lines of files.
    File,
    /// Objects of a store.
    Objects,
}

/// Keys of a bucket, which mean nothing for all else.
const BUCKET_KEYS: &[&str] = &["region", "endpoint", "allow_http", "access_key", "secret_key", "session_token"];

/// Keys of files and stores that mean nothing for requests.
const FOREIGN_TO_HTTP: &[&str] = &["content", "rotate", "compression"];

/// Keys of requests and stores that mean nothing for a file.
const FOREIGN_TO_FILES: &[&str] = &[
    "url",
    "tls",
    "headers",
    "timeout",
    "connect_timeout",
    "idle_timeout",
    "concurrency",
    "rate",
    "burst",
    "rate_headers",
    "host",
    "strip_prefix",
    "max_reply",
    "soft_bounce",
    "sign",
    "cloudevents",
    "failure",
    "accept",
    "fallback",
    "guard",
    "guard_allow",
];

/// Keys of requests and files that mean nothing for a store.
const FOREIGN_TO_OBJECTS: &[&str] = &[
    "headers",
    "host",
    "strip_prefix",
    "path",
    "max_reply",
    "soft_bounce",
    "sign",
    "cloudevents",
    "rotate",
    "failure",
    "accept",
    "fallback",
    "rate",
    "guard",
    "guard_allow",
];

/// `kind`, and whether the keys are those of the kind.
pub(super) fn shape(section: &Section<'_>) -> Shape {
    let kinds = [("http", Shape::Http), ("file", Shape::File), ("object_store", Shape::Objects)];
    let shape = section.choice("kind", "http", &kinds).unwrap_or(Shape::Http);
    let (foreign, bucket, kind): (_, &[&str], _) = match shape {
        Shape::Http => (FOREIGN_TO_HTTP, BUCKET_KEYS, "http"),
        Shape::File => (FOREIGN_TO_FILES, BUCKET_KEYS, "file"),
        Shape::Objects => (FOREIGN_TO_OBJECTS, &[], "object_store"),
    };
    for key in foreign.iter().chain(bucket).filter(|key| section.has(key)) {
        section.problem(key, format!("has no effect with kind = \"{kind}\"; remove it or say another kind"));
    }
    shape
}

/// `batch` of requests; None if each event goes alone.
pub(super) fn batch(upstream: &Section<'_>) -> Option<BatchPolicy> {
    let section = upstream.optional_section("batch")?;
    let formats = [("ndjson", BatchFormat::Ndjson), ("array", BatchFormat::Array)];
    let format = section.choice("format", "ndjson", &formats).unwrap_or(BatchFormat::Ndjson);
    let policy = counted(&section, (100, "1MiB", "1s"), format);
    section.finish();
    policy
}

/// What can only be done to a single event is refused where several go together.
pub(super) fn check_alone(upstream: &Section<'_>) {
    let signs = match upstream.value("sign") {
        Some(Value::Text(text)) => text == "source",
        Some(_) => true,
        None => false,
    };
    if signs {
        upstream.problem("sign", "signs single events; several in one request are not signed: remove sign or batch");
    }
    if upstream.has("cloudevents") {
        upstream.problem("cloudevents", "is a form of single events; remove cloudevents or batch");
    }
    for key in ["publish", "publish_type"].into_iter().filter(|key| upstream.has(key)) {
        upstream.problem(key, "makes an event of the answer to a single one; remove it or batch");
    }
    for key in ["failure", "accept", "fallback"].into_iter().filter(|key| upstream.has(key)) {
        upstream.problem(key, "judges answers to single events; remove it or batch");
    }
}

/// `batch` of lines: what one write and one barrier hold.
pub(super) fn lines(upstream: &Section<'_>, shape: Shape) -> Option<BatchPolicy> {
    let section = upstream.section("batch");
    if section.has("format") {
        section.problem("format", "has no effect here: there is a line for each event; remove it");
    }
    let (items, bytes, wait) = match shape {
        // A store takes few large objects rather than many small ones.
        Shape::Objects => (10_000, "8MiB", "10s"),
        Shape::Http | Shape::File => (1_000, "1MiB", "100ms"),
    };
    let policy = counted(&section, (items, bytes, wait), BatchFormat::Ndjson);
    section.finish();
    policy
}

fn counted(section: &Section<'_>, (items, bytes, wait): (u64, &str, &str), format: BatchFormat) -> Option<BatchPolicy> {
    let items = section.count("max_items", items, 1..=BATCH_EVENTS_MAX as u64);
    let bytes = section.size("max_size", bytes);
    let wait = section.duration("max_wait", wait);
    let items = usize::try_from(items).unwrap_or(usize::MAX);
    section.accept("", BatchPolicy::new(items, bytes, wait, format))
}

/// `path`, `content`, `rotate` and `compression`.
pub(super) fn file(upstream: &Section<'_>) -> Option<Target> {
    let contents = [("event", Content::Event), ("body", Content::Body)];
    let content = upstream.choice("content", "event", &contents);
    let compressions = [("none", Compression::None), ("zstd", Compression::Zstd)];
    let compression = upstream.choice("compression", "none", &compressions);
    let section = upstream.section("rotate");
    let rotate: (u64, Duration) = (section.size("size", "64MiB"), section.duration("every", "1h"));
    section.finish();
    let path: PathBuf = match upstream.expanded("path") {
        Some(path) => upstream.resolve("path", &path),
        None => {
            upstream.problem(
                "path",
                "is missing; write where files begin, such as \"/var/log/stagepost/events-{time}.ndjson\"",
            );
            return None;
        }
    };
    upstream.print("path", &quoted(&path.to_string_lossy()));
    let key = |error: &SinkError| match error {
        SinkError::RotateSize | SinkError::RotateEvery => "rotate",
        _ => "path",
    };
    let policy = match FilePolicy::new(&path, content?, rotate, compression?) {
        Ok(policy) => policy,
        Err(error) => {
            upstream.problem(key(&error), error.to_string());
            return None;
        }
    };
    if !policy.directory.is_dir() {
        let message = format!("{} is no directory: events wait until there is one", policy.directory.display());
        upstream.warn("path", message);
    }
    if policy.compression == Compression::Zstd && !policy.behind.ends_with(".zst") {
        upstream.warn("path", "does not end in .zst although compression is \"zstd\": readers may not notice");
    }
    Some(Target::File(Arc::new(policy)))
}

/// `url`, `region`, `endpoint`, `allow_http`, the credentials, `content` and `compression` of an object store.
pub(super) fn objects(upstream: &Section<'_>) -> Option<ObjectPolicy> {
    let contents = [("event", Content::Event), ("body", Content::Body)];
    let content = upstream.choice("content", "event", &contents);
    let compressions = [("none", Compression::None), ("zstd", Compression::Zstd)];
    let compression = upstream.choice("compression", "none", &compressions);
    let example = "write \"s3://bucket/prefix\" or \"file:///var/lib/events\"";
    let Some(url) = upstream.expanded("url") else {
        upstream.problem("url", format!("is missing; {example}"));
        return None;
    };
    let place = if let Some(directory) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
        for key in BUCKET_KEYS.iter().filter(|key| upstream.has(key)) {
            upstream.problem(key, "has no effect with a directory; remove it");
        }
        let directory = PathBuf::from(directory);
        if !directory.is_dir() {
            let message = format!("{} is no directory: events wait until there is one", directory.display());
            upstream.warn("url", message);
        }
        Some(ObjectPlace::Directory(directory))
    } else if let Some((name, prefix)) =
        url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))
    {
        let fits = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
        if name.is_empty() || !fits(name, "-.") || !fits(prefix, "-._/=") {
            upstream.problem("url", format!("is no bucket with a prefix of letters, digits and -._/=; {example}"));
            None
        } else {
            bucket(upstream, name, prefix.trim_matches('/'))
        }
    } else {
        upstream.problem("url", format!("has an unknown scheme; {example}"));
        None
    };
    upstream.print("url", &quoted(&url));
    Some(ObjectPolicy { place: place?, content: content?, compression: compression? })
}

fn bucket(upstream: &Section<'_>, name: &str, prefix: &str) -> Option<ObjectPlace> {
    let region = upstream.text("region").unwrap_or("us-east-1");
    if !upstream.has("region") {
        upstream.print("region", &quoted(region));
    }
    let endpoint = upstream.expanded("endpoint").unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    upstream.print("endpoint", &quoted(&endpoint));
    let allow_http = upstream.flag("allow_http", false);
    let example = "write \"https://host\" or \"https://host:port\"";
    let parsed = endpoint.parse::<http::Uri>().map_err(|_| format!("is no url; {example}")).and_then(|uri| {
        let plain = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        match (uri.scheme_str(), uri.authority()) {
            (_, Some(authority)) if !plain || authority.as_str().contains('@') => {
                Err(format!("holds more than a host; {example}"))
            }
            (Some("https"), Some(_)) => Ok(uri),
            (Some("http"), Some(_)) if allow_http => Ok(uri),
            (Some("http"), Some(_)) => Err("is not encrypted: events would be read on the way; use https, or say \
                                            allow_http = true"
                .to_owned()),
            _ => Err(format!("names no host; {example}")),
        }
    });
    let endpoint = upstream.accept("endpoint", parsed);
    let one = |key: &'static str| {
        let found = secrets(upstream, key)?;
        match <[Secret; 1]>::try_from(found) {
            Ok([secret]) => Some(secret),
            Err(_) => {
                upstream.problem(key, "takes one reference, such as \"env:NAME\"");
                None
            }
        }
    };
    let needed = |key: &'static str| match upstream.has(key) {
        true => one(key),
        false => {
            upstream.problem(key, "is missing; name a secret, such as \"env:AWS_ACCESS_KEY_ID\"");
            None
        }
    };
    let (access_key, secret_key) = (needed("access_key"), needed("secret_key"));
    let session_token = if upstream.has("session_token") { Some(one("session_token")?) } else { None };
    Some(ObjectPlace::Bucket(Box::new(Bucket {
        name: name.into(),
        prefix: prefix.into(),
        region: region.into(),
        endpoint: endpoint?,
        access_key: access_key?,
        secret_key: secret_key?,
        session_token,
    })))
}

/// Two upstreams that would write the same files.
pub(super) fn check_paths<'a>(
    upstreams: impl Iterator<Item = (&'a str, &'a Target, &'a Place)>,
) -> Vec<(Place, String, String)> {
    let mut seen: HashMap<PathBuf, &str> = HashMap::new();
    let mut found = Vec::new();
    for (name, target, place) in upstreams {
        let Target::File(policy) = target else { continue };
        if let Some(other) = seen.insert(policy.pattern(), name) {
            let message = format!("is also that of upstream.{other}; each has files of its own");
            found.push((place.clone(), format!("upstream.{name}.path"), message));
        }
    }
    found
}
