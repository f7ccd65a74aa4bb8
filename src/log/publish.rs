//! Owns the making of events that come from the relay itself and not from a sender: answers of upstreams, notices.
//!
//! Promises that such an event is an `accepted` entry like any other (source `topic:NAME`, see [`topic_source`], POST to
//! `/`), so that everything that follows knows how to treat it, and that publishing the same again within
//! [`WINDOW`], in a crash's aftermath for example, is a duplicate and no second event. Deliberately absent: who
//! publishes what, and who gets it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};

use super::{Append, Appended, Class, DedupeKey, Done, Kind, Log, NewEntry, PART_BYTES, ReadError, entry::Accepting};
use crate::{
    clock::Timestamp,
    event::{Event, EventId, Extras, RELAY, Scheme, topic_source},
    telemetry::Metrics,
};

/// How long the same publication is a duplicate.
pub const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Of a header that is kept of an answer, so many values of so many bytes each.
const VALUES_MAX: usize = 8;
const VALUE_BYTES_MAX: usize = 4096;

/// An event that is to be published.
#[derive(Clone)]
pub struct Publication {
    /// Under which topic.
    pub topic: Box<str>,
    /// The type of the event.
    pub event_type: Option<Box<str>>,
    /// What the body is (`content-type`, `content-encoding`), and the trace that it continues (`traceparent`).
    pub headers: HeaderMap,
    /// Any length.
    pub body: Bytes,
    /// Where it comes from; see [`descent`].
    pub extras: Extras,
    /// What makes it the same when it is published again; None: every time is another event.
    pub key: Option<Vec<u8>>,
    /// The generation of the configuration that says that it is published.
    pub generation: u64,
}

/// What an answer says its body is, as far as an event keeps it. Longer values are left out: an entry is bounded.
#[must_use]
pub fn representation(answer: &HeaderMap) -> HeaderMap {
    let kept = [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];
    let mut headers = HeaderMap::new();
    for name in kept {
        let values = answer.get_all(&name).iter().take(VALUES_MAX).filter(|value| value.len() <= VALUE_BYTES_MAX);
        for value in values {
            headers.append(&name, value.clone());
        }
    }
    headers
}

/// The extras of an event that follows from another: its parent, one hop more, and the same tenant. After `max_hops`
/// relays and answers it is cut: stored, but its deliveries are dead from the beginning.
#[must_use]
pub fn descent(parent: &Event, max_hops: u32) -> Extras {
    let before = parent.extras.as_deref();
    let hops = before.and_then(|extras| extras.hops).unwrap_or(0).saturating_add(1);
    Extras {
        parent: Some(parent.id.to_string().into()),
        tenant: before.and_then(|extras| extras.tenant.clone()),
        hops: Some(hops),
        cut: (hops >= max_hops).then(|| format!("it came through {hops} relays and answers").into()),
        ..Extras::default()
    }
}

/// What is to be done to publish something.
pub enum Publishing {
    /// Append this.
    New(Box<Append>),
    /// Nothing: it was published before, as this event. Who waits is not answered yet.
    Known(EventId, Done),
}

/// Makes the entry of a publication. What becomes of it is told through `done`, if it is appended; may read the disk
/// briefly, as [`Log::seen`] does. The append is one of a new event: it is refused while the log is full.
///
/// # Errors
/// See [`Log::seen`].
pub fn prepare(
    log: &dyn Log,
    metrics: &Metrics,
    publication: &Publication,
    now: Timestamp,
    done: Done,
) -> Result<Publishing, ReadError> {
    let Publication { topic, event_type, headers, body, extras, key, generation } = publication;
    let source = topic_source(topic);
    let mut dedupe = key.as_deref().map(|key| DedupeKey {
        fingerprint: log.fingerprint(&source, key),
        expires_at: now.after(WINDOW),
        body: log.fingerprint("", body) as u64,
        runs_version: 0,
    });
    if let Some(key) = &mut dedupe
        && let Some((first, _)) = log.seen(key, now)?
    {
        return Ok(Publishing::Known(first, done));
    }
    let length = body.len() as u64;
    let is_inline = body.len() <= PART_BYTES;
    let payload = Accepting {
        received_at: now,
        source: &source,
        event_type: event_type.as_deref(),
        method: &Method::POST,
        scheme: Scheme::Http,
        path: "/",
        query: None,
        headers,
        client: RELAY,
        proxy: None,
        captures: &[],
        verification_scheme: RELAY,
        verification_secret: None,
        config_generation: *generation,
        dedupe: dedupe.map(|key| (key.fingerprint, key.expires_at, key.body)),
        extras: Some(extras),
        body: is_inline.then_some(std::slice::from_ref(body)),
        body_length: length,
    }
    .encode();
    let metrics = metrics.topic(topic);
    Ok(Publishing::New(Box::new(Append {
        parts: if is_inline { Vec::new() } else { pieces(body.clone()) },
        entry: NewEntry { kind: Kind::Accepted, payload },
        dedupe,
        class: Class::Event,
        time: now,
        done: done.first_telling(Box::new(move |_| metrics.published.inc())),
    })))
}

/// Publishes something. `done` learns what became of it: a known one is answered as a duplicate.
///
/// # Errors
/// See [`Log::seen`]; nothing is published then, and `done` is not answered.
pub fn publish(
    log: &dyn Log,
    metrics: &Metrics,
    publication: &Publication,
    now: Timestamp,
    done: Done,
) -> Result<(), ReadError> {
    match prepare(log, metrics, publication, now, done)? {
        Publishing::New(append) => log.append(*append),
        Publishing::Known(first, done) => done.answer(Ok(Appended::Duplicate { first, body_differs: false })),
    }
    Ok(())
}

fn pieces(mut body: Bytes) -> Vec<NewEntry> {
    let mut parts = Vec::with_capacity(body.len().div_ceil(PART_BYTES));
    while !body.is_empty() {
        let payload = body.split_to(PART_BYTES.min(body.len()));
        parts.push(NewEntry { kind: Kind::Part, payload });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{AppendError, memory::MemoryLog, read_body, read_event};

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn publication(body: &[u8], key: Option<&[u8]>) -> Publication {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        let extras = Extras { hops: Some(1), ..Extras::default() };
        let body = Bytes::copy_from_slice(body);
        let (topic, event_type, key) = ("done".into(), Some("thing.done".into()), key.map(<[u8]>::to_vec));
        Publication { topic, event_type, headers, body, extras, key, generation: 7 }
    }

    fn publish_now(log: &dyn Log, metrics: &Metrics, publication: Publication) -> Result<Appended, AppendError> {
        let (done, mut answer) = Done::channel();
        publish(log, metrics, &publication, NOW, done).unwrap();
        answer.try_recv().unwrap()
    }

    #[test]
    fn what_is_published_is_an_event_of_the_topics_own_source() {
        let (log, metrics) = (MemoryLog::automatic(), Metrics::default());
        let Ok(Appended::Appended(id)) = publish_now(&*log, &metrics, publication(b"done", Some(b"k"))) else {
            panic!("it is new")
        };
        let event = read_event(&*log, id.pos.seq).unwrap();
        assert_eq!((&*event.source, event.event_type.as_deref()), ("topic:done", Some("thing.done")));
        assert_eq!((&event.method, &*event.path, &*event.client), (&Method::POST, "/", "relay"));
        assert_eq!((&*event.verification.scheme, event.config_generation), ("relay", 7));
        assert_eq!(event.headers[header::CONTENT_TYPE], "text/plain");
        assert_eq!(event.extras.as_ref().and_then(|extras| extras.hops), Some(1));
        assert_eq!(&read_body(&*log, &event).unwrap()[..], b"done");
        assert_eq!(event.dedupe.map(|(_, expires, _)| expires), Some(NOW.after(WINDOW)));
        assert_eq!(metrics.topic("done").published.get(), 1);
    }

    #[test]
    fn the_same_publication_is_a_duplicate_and_one_without_a_key_never_is() {
        let (log, metrics) = (MemoryLog::automatic(), Metrics::default());
        let first = publish_now(&*log, &metrics, publication(b"a", Some(b"k")));
        let again = publish_now(&*log, &metrics, publication(b"a", Some(b"k")));
        let (Ok(Appended::Appended(id)), Ok(Appended::Duplicate { first, .. })) = (first, again) else {
            panic!("{first:?} {again:?}")
        };
        assert_eq!(first, id);
        for _ in 0..2 {
            let other = publish_now(&*log, &metrics, publication(b"a", None));
            assert!(matches!(other, Ok(Appended::Appended(_))), "{other:?}");
        }
        assert_eq!(metrics.topic("done").published.get(), 3);
    }

    #[test]
    fn a_large_body_stands_in_parts_and_a_full_log_takes_none() {
        let (log, metrics) = (MemoryLog::automatic(), Metrics::default());
        let body = vec![b'x'; 2 * PART_BYTES + 1];
        let Ok(Appended::Appended(id)) = publish_now(&*log, &metrics, publication(&body, None)) else { panic!() };
        let event = read_event(&*log, id.pos.seq).unwrap();
        assert_eq!(read_body(&*log, &event).unwrap(), body);
        log.refuse(Some(AppendError::Full));
        assert_eq!(publish_now(&*log, &metrics, publication(b"a", None)), Err(AppendError::Full));
        assert_eq!(metrics.topic("done").published.get(), 1);
    }

    #[test]
    fn what_follows_from_an_event_names_it_and_is_cut_after_so_many_hops() {
        let (log, metrics) = (MemoryLog::automatic(), Metrics::default());
        let first = publication(b"a", None);
        let Ok(Appended::Appended(id)) = publish_now(&*log, &metrics, first) else { panic!() };
        let parent = read_event(&*log, id.pos.seq).unwrap();
        let extras = descent(&parent, 3);
        assert_eq!((extras.parent.as_deref(), extras.hops), (Some(id.to_string().as_str()), Some(2)));
        assert_eq!(extras.cut, None);
        assert_eq!(descent(&parent, 2).cut.as_deref(), Some("it came through 2 relays and answers"));
    }
}
