//! Owns `stagepost show`: one event for people, as JSON, as its body, as HTTP/1.1, or as a command for curl.
//!
//! Promises that the command for curl is safe to paste into a POSIX shell whatever the request held: everything is
//! in single quotes, and bytes that can't stand there travel as base64 or octal.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{
    Exit, Failure, Host, Terminal,
    args::ShowArgs,
    client::Client,
    command::{each, event_ids},
    instance::Instance,
    print::{escaped, escaped_bytes, raw, state},
    units,
};
use crate::{
    admin::{
        BodyError, EventId, FindError, KeptBodyError, KeptError, QUARANTINED, Reads, find, quarantined_body,
        quarantined_show,
        wire::{Attempt, Show, ShownDelivery},
    },
    log::ReadError,
};

/// Headers of the connection, or made by curl from the URL and the body.
const NOT_REPEATED: [&str; 9] =
    ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"];

pub(super) fn show(args: &ShowArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    all(args, host, terminal, &|id| {
        let told = format!("{id} is in quarantine and not in the log: use `stagepost quarantine show {id}`");
        id.is_quarantined().then_some(told)
    })
}

/// `stagepost quarantine show`: the same about a request in quarantine.
pub(super) fn quarantined(args: &ShowArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    all(args, host, terminal, &|id| {
        let told = format!("{id} is no id of the quarantine: use `stagepost show {id}`");
        (!id.is_quarantined()).then_some(told)
    })
}

fn all(
    args: &ShowArgs,
    host: &dyn Host,
    terminal: &mut Terminal<'_>,
    elsewhere: &dyn Fn(EventId) -> Option<String>,
) -> Result<Exit, Failure> {
    let ids = event_ids(&args.id, terminal)?;
    let instance = Instance::find(&args.place, host)?;
    let stored = Stored::open(&instance, host)?;
    let mut is_first = true;
    each(&ids, terminal, &mut |id, terminal| match elsewhere(id) {
        Some(told) => Err(Failure::new(Exit::NoSuchId, told)),
        None => print(args, &stored, id, std::mem::take(&mut is_first), terminal),
    })
}

fn print(
    args: &ShowArgs,
    stored: &Stored<'_>,
    id: EventId,
    is_first: bool,
    terminal: &mut Terminal<'_>,
) -> Result<Exit, Failure> {
    if args.body {
        raw(terminal.out, &stored.body(id, args.reveal)?, terminal.out_is_terminal)?;
        return Ok(Exit::Done);
    }
    let shown = stored.show(id, args.reveal)?;
    if args.json {
        let json = serde_json::to_string(&shown).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else if args.http {
        raw(terminal.out, &http(&shown, &stored.body(id, args.reveal)?), terminal.out_is_terminal)?;
        return Ok(Exit::Done);
    } else if args.curl {
        writeln!(terminal.out, "{}", curl(&shown, &stored.body(id, args.reveal)?))?;
        return Ok(Exit::Done);
    } else {
        let page = page(&shown, terminal.out_is_terminal);
        write!(terminal.out, "{}{page}", if is_first { "" } else { "\n" })?;
    }
    Ok(whole_or_partly(&shown))
}

/// An event as it was received, as HTTP/1.1 and with credentials: its source, when it came, and the bytes.
pub(super) fn received(
    id: EventId,
    place: &super::args::Where,
    host: &dyn Host,
) -> Result<(String, crate::admin::Timestamp, Vec<u8>), Failure> {
    let instance = Instance::find(place, host)?;
    let stored = Stored::open(&instance, host)?;
    let shown = stored.show(id, true)?;
    let bytes = http(&shown, &stored.body(id, true)?);
    Ok((shown.event.source.clone(), shown.event.received_at, bytes))
}

/// Of an event whose attempts or whose body can't all be read, the rest was shown.
fn whole_or_partly(show: &Show) -> Exit {
    let is_whole = show.body_lost.is_none() && show.event.deliveries.iter().all(|delivery| delivery.damaged.is_none());
    if is_whole { Exit::Done } else { Exit::Partly }
}

/// The events of a running instance, or of the directory of a stopped one.
enum Stored<'a> {
    Online(Client<'a>),
    Offline(Box<dyn Reads>),
}

impl<'a> Stored<'a> {
    fn open(instance: &'a Instance, host: &dyn Host) -> Result<Self, Failure> {
        let client = Client::new(&instance.socket)?;
        match client.get_bytes("/livez") {
            Err(why) if why.exit == Exit::NotRunning => Ok(Self::Offline(instance.offline(host, why)?)),
            answered => answered.map(|_| Self::Online(client)),
        }
    }

    fn show(&self, id: EventId, reveal: bool) -> Result<Show, Failure> {
        match self {
            Self::Online(client) => client.get(&format!("{}{id}?reveal={reveal}", place(id))),
            Self::Offline(reads) if id.is_quarantined() => quarantined_show(&**reads, id, reveal).map_err(not_kept),
            Self::Offline(reads) => {
                let found = find(&**reads, id).map_err(not_found)?;
                crate::admin::show(&**reads, &found, reveal).map_err(unreadable)
            }
        }
    }

    fn body(&self, id: EventId, reveal: bool) -> Result<Bytes, Failure> {
        match self {
            Self::Online(client) => client.get_bytes(&format!("{}{id}/body?reveal={reveal}", place(id))),
            Self::Offline(reads) if id.is_quarantined() => {
                quarantined_body(&**reads, id, reveal).map_err(not_shown_kept)
            }
            Self::Offline(reads) => {
                let found = find(&**reads, id).map_err(not_found)?;
                crate::admin::body(&**reads, &found.event, reveal).map_err(not_shown)
            }
        }
    }
}

/// Where the instance shows what an id leads to.
const fn place(id: EventId) -> &'static str {
    if id.is_quarantined() { "/v1/quarantine/" } else { "/v1/events/" }
}

fn not_shown(error: BodyError) -> Failure {
    match error {
        BodyError::Read(error) => unreadable(error),
        BodyError::Unknown(_) => Failure::new(Exit::Permission, error.to_string()),
    }
}

fn not_shown_kept(error: KeptBodyError) -> Failure {
    match error {
        KeptBodyError::Kept(error) => not_kept(error),
        KeptBodyError::Unknown(_) => Failure::new(Exit::Permission, error.to_string()),
    }
}

fn not_kept(error: KeptError) -> Failure {
    let exit = match error {
        KeptError::NoSuch(_) => Exit::NoSuchId,
        KeptError::Damaged(_) => Exit::Damage,
        KeptError::Io(_) => Exit::Io,
    };
    Failure::new(exit, error.to_string())
}

fn not_found(error: FindError) -> Failure {
    match error {
        FindError::Id(_) => Failure::usage(error.to_string()),
        FindError::NoSuch(_) => Failure::new(Exit::NoSuchId, error.to_string()),
        FindError::Read(error) => unreadable(error),
        FindError::State(_) => Failure::new(Exit::Io, error.to_string()),
    }
}

fn unreadable(error: ReadError) -> Failure {
    let exit = match error {
        ReadError::Damaged { .. } | ReadError::Format(_) => Exit::Damage,
        ReadError::Missing(_) | ReadError::Io { .. } => Exit::Io,
    };
    Failure::new(exit, error.to_string())
}

/// The page for people.
fn page(show: &Show, colours: bool) -> String {
    let event = &show.event;
    let query = show.query.as_deref().map_or(String::new(), |query| format!("?{query}"));
    let secret = show.verification.secret.as_deref().map_or(String::new(), |secret| format!(", secret {secret}"));
    let mut page = String::new();
    let mut line = |name: &str, value: &str| {
        let _infallible = writeln!(page, "{name:<11}{value}");
    };
    let is_kept = event.state == QUARANTINED;
    line(if is_kept { "Request" } else { "Event" }, &escaped(&event.id));
    line("Received", &format!("{} from {}", event.received_at, escaped(&show.client)));
    line("Source", &escaped(&event.source));
    if let Some(kind) = &event.event_type {
        line("Type", &escaped(kind));
    }
    line(
        if is_kept { "HTTP" } else { "Request" },
        &escaped(&format!("{} {}{query} ({})", event.method, event.path, show.scheme)),
    );
    let verification = &show.verification;
    match is_kept {
        false => line("Verified", &escaped(&format!("{} by {}{secret}", verification.result, verification.scheme))),
        true => {
            let status = show.answered.as_deref().unwrap_or_default();
            line(
                "Refused",
                &escaped(&format!("{} by {}, answered {status}", verification.result, verification.scheme)),
            );
        }
    }
    if let Some(cached) = &show.cached {
        let first = cached.event.as_deref().map_or_else(|| "an equal request".to_owned(), escaped);
        line("Answered", &format!("from the cache, with the answer to {first}"));
    }
    match &show.body_lost {
        Some(why) => line("Body", &format!("{} bytes, lost: {}", event.size, escaped(why))),
        None => line("Body", &format!("{} bytes, sha256 {}", event.size, event.sha256)),
    }
    line("State", &state(&event.state, 0, colours));
    if let Some(parent) = &event.parent {
        match event.item {
            Some(item) => line("Batch", &format!("item {item} of {}", escaped(parent))),
            None => line("Parent", &escaped(parent)),
        }
    }
    if let Some(tenant) = &event.tenant {
        line("Tenant", &escaped(tenant));
    }
    if let Some(version) = &show.schema_version {
        line("Schema", &format!("version {}", escaped(version)));
    }
    if let Some(violation) = &event.violation {
        line("Violation", &escaped(violation));
    }
    if !event.tags.is_empty() {
        line("Tags", &escaped(&event.tags.join(", ")));
    }
    if show.duplicates > 0 {
        let differ = match show.body_differs {
            0 => String::new(),
            differ => format!(", {differ} with another body"),
        };
        line("Duplicates", &format!("{}{differ}", show.duplicates));
    }
    page.push_str("\nHeaders\n");
    for (name, value) in &show.headers {
        let _infallible = writeln!(page, "  {}: {}", escaped(name), escaped_bytes(&value.bytes()));
    }
    if !show.hidden.is_empty() {
        page.push_str("  (--reveal shows what is hidden)\n");
    }
    if is_kept {
        let _infallible = writeln!(page, "\n`stagepost quarantine recheck {}` judges it again", escaped(&event.id));
        return page;
    }
    page.push_str("\nDeliveries\n");
    if event.deliveries.is_empty() {
        page.push_str("  none; `stagepost explain` says why\n");
    }
    for found in &event.deliveries {
        delivery(&mut page, found, colours);
    }
    page
}

fn delivery(page: &mut String, found: &ShownDelivery, colours: bool) {
    let _infallible = write!(page, "  {}  {}", escaped(&found.upstream), state(&found.state, 0, colours));
    if let Some(reason) = &found.reason {
        let _infallible = write!(page, ": {}", escaped(reason));
    }
    if found.in_flight {
        page.push_str(", being sent now");
    }
    if let Some(due) = found.due_at {
        let _infallible = write!(page, ", due at {due}");
    }
    if let Some(published) = &found.published {
        let _infallible = write!(page, ", its answer became event {}", escaped(published));
    }
    page.push('\n');
    for attempt in &found.attempts {
        attempted(page, attempt);
    }
    let told = u32::try_from(found.attempts.len()).unwrap_or(u32::MAX);
    let missing = found.attempts_total.saturating_sub(told);
    match &found.damaged {
        Some(why) => {
            let why = escaped(why);
            let _infallible = writeln!(page, "    (missing attempts: {missing}, of which some can't be read: {why})");
        }
        None if missing > 0 => {
            let _infallible = writeln!(page, "    ({missing} earlier attempts are no longer stored)");
        }
        None => {}
    }
}

fn attempted(page: &mut String, attempt: &Attempt) {
    let status = attempt.status.map_or("-".to_owned(), |status| status.to_string());
    let _infallible = writeln!(
        page,
        "    {:>3}  {}  {:<9}  {status:<3}  {:>7} ms  {}",
        attempt.number,
        attempt.at,
        escaped(&attempt.outcome),
        attempt.latency_ms,
        escaped(&attempt.sent.url),
    );
    if let Some(signed) = &attempt.sent.signed {
        let secret = signed.secret.as_deref().map_or(String::new(), |secret| format!(" with {}", escaped(secret)));
        let _infallible = writeln!(page, "         signed by us: {}{secret}", escaped(&signed.scheme));
    }
    if let Some(error) = &attempt.error {
        let _infallible = writeln!(page, "         {}", escaped(error));
    }
    let excerpt = attempt.excerpt.bytes();
    if !excerpt.is_empty() {
        let shown = excerpt.get(..EXCERPT_SHOWN).unwrap_or(&excerpt);
        let more = excerpt.len() - shown.len();
        let more = if more > 0 { format!(" … ({} more)", units::size(more as u64)) } else { String::new() };
        let _infallible = writeln!(page, "         answer: {}{more}", escaped_bytes(shown));
    }
}

/// Bytes of an answer on the page; all of them are in the JSON.
const EXCERPT_SHOWN: usize = 400;

/// The request as HTTP/1.1, byte for byte but for hidden values and the framing of the connection it came on.
fn http(show: &Show, body: &[u8]) -> Vec<u8> {
    let event = &show.event;
    let query = show.query.as_deref().map_or(String::new(), |query| format!("?{query}"));
    let mut out = format!("{} {}{query} HTTP/1.1\r\n", event.method, event.path).into_bytes();
    for (name, value) in
        show.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "transfer-encoding" | "content-length"))
    {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(&value.bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() || show.headers.iter().any(|(name, _)| name == "content-length") {
        out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

/// The request as a command for curl, to where the sender sent it.
fn curl(show: &Show, body: &[u8]) -> String {
    let event = &show.event;
    let named = |wanted: &str| show.headers.iter().find(|(name, _)| name == wanted);
    let host = named("host").map_or_else(|| b"localhost".to_vec(), |(_, value)| value.bytes().into_owned());
    let query = show.query.as_deref().map_or(String::new(), |query| format!("?{query}"));
    let url = [show.scheme.as_bytes(), b"://", &host, event.path.as_bytes(), query.as_bytes()].concat();
    let piped = !body.is_empty() && !typeable(body);
    let mut out = String::new();
    if piped {
        let _infallible = write!(out, "printf %s '{}' | base64 -d | ", STANDARD.encode(body));
    }
    let _infallible = write!(out, "curl --globoff --path-as-is -X {}", quoted(event.method.as_bytes()));
    if event.method == "HEAD" {
        out.push_str(" --head");
    }
    for (name, value) in show.headers.iter().filter(|(name, _)| !NOT_REPEATED.contains(&name.as_str())) {
        let value = value.bytes();
        // curl takes `name:` for "leave this header out" and `name;` for an empty one.
        let header =
            if value.is_empty() { format!("{name};").into_bytes() } else { [name.as_bytes(), b": ", &value].concat() };
        let _infallible = write!(out, " -H {}", quoted(&header));
    }
    for absent in ["accept", "user-agent", "content-type"].into_iter().filter(|name| named(name).is_none()) {
        let _infallible = write!(out, " -H '{absent}:'");
    }
    if piped {
        out.push_str(" --data-binary @-");
    } else if !body.is_empty() {
        let _infallible = write!(out, " --data-raw {}", quoted(body));
    }
    let _infallible = write!(out, " --url {}", quoted(&url));
    out
}

/// Text that can stand in single quotes and on a terminal, and is short enough for an argument.
fn typeable(bytes: &[u8]) -> bool {
    /// Linux takes arguments of at most 128 KiB.
    const ARGUMENT_MAX: usize = 100 * 1024;
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= ARGUMENT_MAX);
    text.is_some_and(|text| {
        text.chars().all(|character| {
            matches!(character, '\n' | '\t') || escaped(&character.to_string()).chars().eq([character])
        })
    })
}

/// A word for a POSIX shell: in single quotes, or by printf in octal if it holds what can't be typed.
fn quoted(bytes: &[u8]) -> String {
    if typeable(bytes) {
        return format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', r"'\''"));
    }
    let mut out = String::from("\"$(printf '%b' '");
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' | b':' | b'/' | b'.' | b'-' | b'_' | b'=' => {
                out.push(*byte as char)
            }
            other => {
                let _infallible = write!(out, "\\0{other:03o}");
            }
        }
    }
    out.push_str("')\"");
    out
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
