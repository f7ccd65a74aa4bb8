//! Owns the keys of an upstream that gets several events at once, or that is files: `kind`, `batch`, and those of
//! `kind = "file"`.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    problem::Place,
    reader::{Section, quoted},
    tree::Value,
};
use crate::routing::{BATCH_EVENTS_MAX, BatchFormat, BatchPolicy, Compression, Content, FilePolicy, SinkError, Target};

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Requests.
    Http,
    /// Lines of files.
    File,
}

/// Keys of a file.
const FILE_KEYS: [&str; 3] = ["content", "rotate", "compression"];

/// Keys of requests that mean nothing for a file.
const HTTP_KEYS: [&str; 16] = [
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
];

/// `kind`, and whether the keys are those of the kind.
pub(super) fn shape(section: &Section<'_>) -> Shape {
    let shape = section.choice("kind", "http", &[("http", Shape::Http), ("file", Shape::File)]).unwrap_or(Shape::Http);
    let (foreign, message): (&[&'static str], _) = match shape {
        Shape::Http => (&FILE_KEYS, "has no effect without kind = \"file\"; remove it or say so"),
        Shape::File => (&HTTP_KEYS, "has no effect with kind = \"file\"; remove it"),
    };
    for key in foreign.iter().filter(|key| section.has(key)) {
        section.problem(key, message);
    }
    shape
}

/// `batch` of requests; None if each event goes alone.
pub(super) fn batch(upstream: &Section<'_>) -> Option<BatchPolicy> {
    let section = upstream.optional_section("batch")?;
    let formats = [("ndjson", BatchFormat::Ndjson), ("array", BatchFormat::Array)];
    let format = section.choice("format", "ndjson", &formats).unwrap_or(BatchFormat::Ndjson);
    let policy = counted(&section, (100, "1s"), format);
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
}

/// `batch` of lines: what one write and one barrier hold.
pub(super) fn lines(upstream: &Section<'_>) -> Option<BatchPolicy> {
    let section = upstream.section("batch");
    if section.has("format") {
        section.problem("format", "has no effect with kind = \"file\": there is a line for each event; remove it");
    }
    let policy = counted(&section, (1_000, "100ms"), BatchFormat::Ndjson);
    section.finish();
    policy
}

fn counted(section: &Section<'_>, (items, wait): (u64, &str), format: BatchFormat) -> Option<BatchPolicy> {
    let items = section.count("max_items", items, 1..=BATCH_EVENTS_MAX as u64);
    let bytes = section.size("max_size", "1MiB");
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
