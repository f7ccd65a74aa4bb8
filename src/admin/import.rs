//! Owns the import: exported lines become events of this log.
//!
//! Promises that what is counted as imported is durable; that an event which is stored already, under its own id or by an
//! earlier import, is not stored again; and that nothing is delivered unless that is asked for. Time of receipt, source,
//! headers and body stay; the id is new, since it leads to a place in the log, and the old one is kept with the event.
//! Deliberately absent: deliveries and attempts, which are history of another log.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::sync::oneshot;

use super::{
    ports::Reads,
    wire::{EXPORT_FORMAT, Imported, Importing},
};
use crate::{
    clock::Timestamp,
    event::{EventId, Extras, OWN_TOPICS, Proxy, Scheme, Seq, topic_of_source},
    log::{
        Acked, Append, AppendError, Appended, Class, DedupeKey, Done, Kind, Log, NewEntry, PART_BYTES, ReadError,
        entry::{Accepting, decode_event},
    },
};

/// How long an event that was imported is known by its old id.
pub const IMPORT_KNOWN_FOR: Duration = Duration::from_secs(365 * 86_400);

/// The longest line that is taken: a body of 64 MiB in base64, with room for its headers.
pub const LINE_BYTES_MAX: usize = 96 << 20;

/// Bytes on their way into the log at once.
const UNDER_WAY_BYTES: usize = 8 << 20;

/// Reasons that are named in one answer.
const NAMED_MAX: usize = 20;

/// A log that is busy is offered an event again so often, …
const BUSY_TRIES: u32 = 200;
/// … each time after so long.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How to import.
pub struct Import<'a> {
    /// Wall time.
    pub now: Timestamp,
    /// The generation of the active configuration; 0 if there is none.
    pub generation: u64,
    /// Route and deliver the events as if they came now.
    pub deliver: bool,
    /// Whether an event is stored under this id.
    pub knows: &'a dyn Fn(EventId) -> Result<bool, String>,
}

/// Why an import ended early. What was counted before is durable.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The log does not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// What is stored already can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state of deliveries can't be read.
    #[error("the state of deliveries can't be read: {0}")]
    State(String),
}

/// Whether an event is stored under this id, and not deleted.
///
/// # Errors
/// Why that can't be told, in words.
pub fn is_stored(reads: &dyn Reads, id: EventId) -> Result<bool, String> {
    match super::find::find_stored(reads, id) {
        Ok(_) => Ok(true),
        Err(super::find::FindError::NoSuch(_)) => Ok(false),
        // It is there, but damaged: an import brings it back.
        Err(super::find::FindError::Read(ReadError::Damaged { .. } | ReadError::Format(_))) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Imports lines of an export.
///
/// # Errors
/// See [`ImportError`].
pub fn import(log: &dyn Log, how: &Import<'_>, lines: &[u8]) -> Result<Imported, ImportError> {
    import_pausing(log, how, lines, &|| std::thread::park_timeout(BUSY_PAUSE))
}

fn import_pausing(log: &dyn Log, how: &Import<'_>, lines: &[u8], pause: &dyn Fn()) -> Result<Imported, ImportError> {
    let mut work = Work { log, how, pause, told: Imported::default(), under_way: VecDeque::new(), bytes: 0, pauses: 0 };
    for (number, line) in (1..).zip(lines.split(|byte| *byte == b'\n')) {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Importing>(line).map_err(|error| in_line(&error)).and_then(Ready::new) {
            Ok(ready) => work.take(number, &ready)?,
            Err(why) => work.refuse(number, why),
        }
    }
    work.settle(0)?;
    Ok(work.told)
}

struct Work<'a> {
    log: &'a dyn Log,
    how: &'a Import<'a>,
    pause: &'a dyn Fn(),
    told: Imported,
    under_way: VecDeque<(Offer, oneshot::Receiver<Acked>)>,
    bytes: usize,
    /// How often it was waited for a busy log.
    pauses: u64,
}

/// One event on its way, to be offered again if the log is busy.
struct Offer {
    number: u64,
    parts: Vec<NewEntry>,
    entry: NewEntry,
    dedupe: DedupeKey,
    bytes: usize,
    tries: u32,
    /// The pauses before it was offered.
    after: u64,
}

impl Work<'_> {
    fn refuse(&mut self, number: u64, why: String) {
        self.told.refused += 1;
        if self.told.reasons.len() < NAMED_MAX {
            self.told.reasons.push((number, why));
        }
    }

    fn take(&mut self, number: u64, ready: &Ready) -> Result<(), ImportError> {
        if (self.how.knows)(ready.id).map_err(ImportError::State)? {
            self.told.known += 1;
            return Ok(());
        }
        let mut dedupe = DedupeKey {
            fingerprint: self.log.fingerprint("\0import", ready.id.to_string().as_bytes()),
            expires_at: self.how.now.after(IMPORT_KNOWN_FOR),
            body: self.log.fingerprint("", &ready.body) as u64,
            runs_version: 0,
        };
        if self.log.seen(&mut dedupe, self.how.now)?.is_some() {
            self.told.known += 1;
            return Ok(());
        }
        let large = ready.body.len() > PART_BYTES;
        let part = |at: usize| {
            let payload = ready.body.slice(at..ready.body.len().min(at + PART_BYTES));
            NewEntry { kind: Kind::Part, payload }
        };
        let parts = if large { (0..ready.body.len()).step_by(PART_BYTES).map(part).collect() } else { Vec::new() };
        let payload = ready.encode(self.how, &dedupe, !large);
        let bytes = payload.len() + if large { ready.body.len() } else { 0 };
        let entry = NewEntry { kind: Kind::Accepted, payload };
        self.offer(Offer { number, parts, entry, dedupe, bytes, tries: 0, after: self.pauses });
        self.settle(UNDER_WAY_BYTES)
    }

    fn offer(&mut self, offer: Offer) {
        let (done, answer) = Done::channel();
        self.log.append(Append {
            parts: offer.parts.clone(),
            entry: offer.entry.clone(),
            dedupe: Some(offer.dedupe),
            class: Class::Event,
            time: self.how.now,
            done,
        });
        self.bytes += offer.bytes;
        self.under_way.push_back((offer, answer));
    }

    /// Waits for answers until no more than so many bytes are under way.
    fn settle(&mut self, most: usize) -> Result<(), ImportError> {
        while self.bytes > most || (most == 0 && !self.under_way.is_empty()) {
            let Some((mut offer, answer)) = self.under_way.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(offer.bytes);
            match answer.blocking_recv().unwrap_or(Err(AppendError::Closed)) {
                Ok(Appended::Appended(_)) => self.told.imported += 1,
                Ok(Appended::Duplicate { .. }) => self.told.known += 1,
                Err(AppendError::TooLarge) => self.refuse(offer.number, AppendError::TooLarge.to_string()),
                Err(AppendError::Busy) if offer.tries < BUSY_TRIES => {
                    // What was refused before the last pause is offered again together.
                    if offer.after == self.pauses {
                        (self.pause)();
                        self.pauses += 1;
                    }
                    offer.tries += 1;
                    offer.after = self.pauses;
                    self.offer(offer);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Without "at line 1 column 9": whoever reads it knows the line, and it is not the first.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

/// What a relay told its operators: the alerts of another time wake nobody again.
fn is_notice(source: &str) -> bool {
    topic_of_source(source).is_some_and(|topic| topic.starts_with(OWN_TOPICS))
}

/// A line that can be stored.
struct Ready {
    id: EventId,
    line: Importing,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl Ready {
    fn new(line: Importing) -> Result<Self, String> {
        if line.format != EXPORT_FORMAT {
            return Err(format!("format {} is not known: this version reads {EXPORT_FORMAT}", line.format));
        }
        if !line.hidden.is_empty() {
            return Err(format!(
                "{}: it was exported without its credentials ({}): export it without --hide-credentials",
                line.id,
                line.hidden.join(", ")
            ));
        }
        let id: EventId = line.id.parse().map_err(|error| format!("{:?}: {error}", line.id))?;
        let method = Method::from_bytes(line.method.as_bytes()).map_err(|_| format!("{id}: it has no method"))?;
        let mut headers = HeaderMap::with_capacity(line.headers.len());
        for (name, value) in &line.headers {
            let wrong = || format!("{id}: {name:?} is no header, or its value is none");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let value = HeaderValue::from_bytes(&value.bytes()).map_err(|_| wrong())?;
            headers.try_append(name, value).map_err(|_| format!("{id}: it has too many headers"))?;
        }
        let body = Bytes::from(line.body.bytes().into_owned());
        Ok(Self { id, method, headers, body, line })
    }

    fn encode(&self, how: &Import<'_>, dedupe: &DedupeKey, inline: bool) -> Bytes {
        let line = &self.line;
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let extras = Extras {
            parent: boxed(&line.parent),
            item: line.item,
            tenant: boxed(&line.tenant),
            schema_version: boxed(&line.schema_version),
            violation: boxed(&line.violation),
            tags: line.tags.iter().map(|tag| Box::from(&**tag)).collect(),
            hops: line.hops,
            imported: Some(Box::from(&*line.id)),
            stored_only: !how.deliver || is_notice(&line.source),
            ..Extras::default()
        };
        let captures: Vec<(Box<str>, Box<str>)> =
            line.captures.iter().map(|(name, value)| (Box::from(&**name), Box::from(&**value))).collect();
        let proxy = line
            .proxy
            .as_ref()
            .map(|proxy| Proxy { address: Box::from(&*proxy.address), scheme: scheme(&proxy.scheme) });
        Accepting {
            received_at: line.received_at,
            source: &line.source,
            event_type: line.event_type.as_deref(),
            method: &self.method,
            scheme: scheme(&line.scheme),
            path: &line.path,
            query: line.query.as_deref(),
            headers: &self.headers,
            client: &line.client,
            proxy: proxy.as_ref(),
            captures: &captures,
            verification_scheme: &line.verification.scheme,
            verification_secret: line.verification.secret.as_deref(),
            config_generation: how.generation,
            dedupe: Some((dedupe.fingerprint, dedupe.expires_at, dedupe.body)),
            extras: Some(&extras),
            body: inline.then_some(std::slice::from_ref(&self.body)),
            body_length: self.body.len() as u64,
        }
        .encode()
    }
}

fn scheme(word: &str) -> Scheme {
    if word == "https" { Scheme::Https } else { Scheme::Http }
}

/// Whether a log that nobody else uses has the event of this id there.
///
/// # Errors
/// Why that can't be told, in words.
pub fn is_in_log(log: &dyn Log, id: EventId, at: Seq) -> Result<bool, String> {
    match log.read(at) {
        Ok(entry) => Ok(decode_event(&entry).is_some_and(|event| event.id == id)),
        Err(ReadError::Missing(_) | ReadError::Damaged { .. } | ReadError::Format(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{
            Compiled,
            export::export,
            fake::Fake,
            wire::{ExportReply, Filters},
        },
        event::Body,
        log::{memory::MemoryLog, read_body, read_event},
    };

    fn exported(fake: &Fake, hide: bool) -> Vec<u8> {
        let wanted = Compiled::new(Filters::default(), fake).unwrap();
        let mut lines = Vec::new();
        export(fake, &wanted, hide, &mut |reply| {
            let ExportReply::Event(event) = reply else { panic!("{reply:?}") };
            serde_json::to_writer(&mut lines, &event).unwrap();
            lines.push(b'\n');
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        lines
    }

    fn how<'a>(deliver: bool, knows: &'a dyn Fn(EventId) -> Result<bool, String>) -> Import<'a> {
        Import { now: Timestamp::from_millis(1_767_400_000_000), generation: 7, deliver, knows }
    }

    fn imported(log: &dyn Log, deliver: bool, lines: &[u8]) -> Imported {
        import(log, &how(deliver, &|id: EventId| is_in_log(log, id, id.pos.seq)), lines).unwrap()
    }

    #[test]
    fn an_imported_event_is_what_was_exported_under_a_new_id() {
        let fake = Fake::default();
        let large: Vec<u8> = (0..PART_BYTES + 10).map(|n| n as u8).collect();
        let ids = [fake.accept("stripe", br#"{"id":1}"#), fake.accept("stripe", &large)];
        let log = MemoryLog::automatic();
        let told = imported(&*log, false, &exported(&fake, false));
        assert_eq!((told.imported, told.known, told.refused), (2, 0, 0), "{told:?}");
        let entries = log.scan(0, usize::MAX).unwrap();
        let events: Vec<_> = entries.iter().filter_map(decode_event).collect();
        for (id, event) in ids.iter().zip(&events) {
            let was = fake.event(*id);
            assert_eq!(
                (was.received_at, &was.source, &was.headers),
                (event.received_at, &event.source, &event.headers)
            );
            assert_eq!((&was.path, &was.query, &was.captures), (&event.path, &event.query, &event.captures));
            assert_eq!((&was.client, &was.verification), (&event.client, &event.verification));
            assert_eq!(read_body(&*fake_log(&fake), &was).unwrap(), read_body(&*log, event).unwrap());
            let extras = event.extras.as_ref().unwrap();
            assert_eq!((extras.imported.as_deref(), extras.stored_only), (Some(&*id.to_string()), true));
        }
        assert!(matches!(events[1].body, Body::Parts { .. }));
        assert!(read_event(&*log, events[0].id.pos.seq).is_ok());
    }

    fn fake_log(fake: &Fake) -> std::sync::Arc<dyn Log> {
        Reads::log(fake)
    }

    #[test]
    fn importing_twice_and_importing_what_is_here_does_nothing() {
        let fake = Fake::default();
        fake.accept("stripe", b"1");
        fake.accept("stripe", b"2");
        let (lines, log) = (exported(&fake, false), MemoryLog::automatic());
        assert_eq!(imported(&*log, true, &lines).imported, 2);
        let again = imported(&*log, true, &lines);
        assert_eq!((again.imported, again.known), (0, 2));
        let own = import(&*log, &how(false, &|id| is_stored(&fake, id)), &lines).unwrap();
        assert_eq!((own.imported, own.known), (0, 2));
    }

    #[test]
    fn a_busy_log_is_waited_for_also_while_other_events_are_under_way() {
        let fake = Fake::default();
        for body in [b"1", b"2", b"3"] {
            fake.accept("stripe", body);
        }
        let (lines, log, pauses) = (exported(&fake, false), MemoryLog::automatic(), std::cell::Cell::new(0));
        log.refuse(Some(AppendError::Busy));
        let pause = || {
            pauses.set(pauses.get() + 1);
            log.refuse((pauses.get() < 3).then_some(AppendError::Busy));
        };
        let told = import_pausing(&*log, &how(false, &|_| Ok(false)), &lines, &pause).unwrap();
        assert_eq!((told.imported, pauses.get()), (3, 3));
        let (again, tries) = (MemoryLog::automatic(), std::cell::Cell::new(0));
        again.refuse(Some(AppendError::Busy));
        let given_up = import_pausing(&*again, &how(false, &|_| Ok(false)), &lines, &|| tries.set(tries.get() + 1));
        assert!(matches!(given_up, Err(ImportError::Append(AppendError::Busy))));
        assert_eq!(tries.get(), BUSY_TRIES);
    }

    #[test]
    fn what_a_relay_told_its_operators_is_stored_and_not_told_again() {
        let fake = Fake::default();
        for source in ["stripe", "topic:orders", "topic:stagepost.alerts"] {
            fake.accept(source, b"{}");
        }
        let log = MemoryLog::automatic();
        imported(&*log, true, &exported(&fake, false));
        let events: Vec<_> = log.scan(0, usize::MAX).unwrap().iter().filter_map(decode_event).collect();
        let stored: Vec<bool> = events.iter().map(|event| event.extras.as_ref().unwrap().stored_only).collect();
        assert_eq!(stored, [false, false, true]);
    }

    #[test]
    fn lines_that_are_no_events_are_named_and_the_others_are_taken() {
        let fake = Fake::default();
        fake.accept("stripe", b"1");
        let mut lines = b"nonsense\n\n".to_vec();
        lines.extend(exported(&fake, true));
        lines.extend(exported(&fake, false));
        let newer = String::from_utf8(exported(&fake, false)).unwrap().replace("\"format\":1", "\"format\":9");
        lines.extend(newer.into_bytes());
        let told = imported(&*MemoryLog::automatic(), false, &lines);
        assert_eq!((told.imported, told.refused), (1, 3));
        let numbers: Vec<u64> = told.reasons.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 3, 5]);
        assert!(!told.reasons[0].1.contains("line 1"), "{:?}", told.reasons);
        assert!(told.reasons[1].1.contains("--hide-credentials"), "{:?}", told.reasons);
    }
}
