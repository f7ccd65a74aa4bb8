//! Owns the headers of a request to an upstream: what is passed on, what is left out, what is added.
//!
//! Promises the list of the contract, section 3. `Host` and `Content-Length` are not here: the one depends on the
//! connection's protocol, the other is written by it.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    event::{Job, RELAY, Step, TraceParent, own_trace, received_with, span_of},
    routing::HeaderEdit,
};

const EVENT_ID: HeaderName = HeaderName::from_static("stagepost-event-id");
const ATTEMPT: HeaderName = HeaderName::from_static("stagepost-attempt");
const RECEIVED_AT: HeaderName = HeaderName::from_static("stagepost-received-at");
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("stagepost-origin");
pub(crate) const SHADOW: HeaderName = HeaderName::from_static("stagepost-shadow");
const HOPS: HeaderName = HeaderName::from_static("stagepost-hops");
const REPLAY: HeaderName = HeaderName::from_static("stagepost-replay");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const VIA: HeaderValue = HeaderValue::from_static("1.1 stagepost");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What became of the body on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// As received.
    Original,
    /// As received but for what a signature writes into it.
    Resigned,
    /// A transform's JSON.
    Json,
    /// A transform's text, sent as it is.
    Text,
}

/// Builds the headers of one attempt.
pub(crate) fn build(
    job: &Job,
    form: BodyForm,
    edit: Option<&HeaderEdit>,
    configured: &[(HeaderName, HeaderValue)],
) -> HeaderMap {
    let event = &*job.event;
    let mut headers = HeaderMap::with_capacity(event.headers.len() + configured.len() + 12);
    pass_on(&event.headers, &mut headers);
    if !matches!(form, BodyForm::Original | BodyForm::Resigned) {
        headers.remove(header::CONTENT_ENCODING);
        if form == BodyForm::Json {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
    }
    if let Some(edit) = edit {
        edit.remove.iter().for_each(|name| drop(headers.remove(name)));
        for (name, value) in &edit.set {
            headers.insert(name, value.clone());
        }
    }
    add_own(job, &mut headers);
    for (name, value) in configured {
        headers.insert(name, value.clone());
    }
    headers
}

/// Copies what is end to end (RFC 9110 section 7.6.1), in order.
pub(crate) fn pass_on(from: &HeaderMap, to: &mut HeaderMap) {
    let named: Vec<&str> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .collect();
    for (name, value) in from {
        if !stays_behind(name) && !named.iter().any(|other| name.as_str().eq_ignore_ascii_case(other)) {
            to.append(name, value.clone());
        }
    }
}

fn stays_behind(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "content-length"
            | "expect"
    ) || name.starts_with("proxy-")
        || name.starts_with("stagepost-")
        || name == "http2-settings"
}

fn add_own(job: &Job, headers: &mut HeaderMap) {
    let event = &*job.event;
    let id = event.id.to_ascii();
    let id_text = std::str::from_utf8(&id).unwrap_or_default();
    insert(headers, EVENT_ID, HeaderValue::from_bytes(&id).ok());
    headers.insert(ATTEMPT, HeaderValue::from(job.number));
    let hops = event.extras.as_ref().and_then(|extras| extras.hops).unwrap_or(0);
    headers.insert(HOPS, HeaderValue::from(hops.saturating_add(1)));
    insert(headers, RECEIVED_AT, text(|out| write!(out, "{}", event.received_at)));
    if job.replays > 0 {
        headers.insert(REPLAY, HeaderValue::from(job.replays));
    }
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        insert(headers, IDEMPOTENCY_KEY, text(|out| write!(out, "{id_text}-{}", job.upstream)));
    }
    if job.new_keys > 0
        && let Some(key) = headers.get(IDEMPOTENCY_KEY)
    {
        let fresh = [key.as_bytes(), format!("-{}", job.new_keys).as_bytes()].concat();
        insert(headers, IDEMPOTENCY_KEY, HeaderValue::from_bytes(&fresh).ok());
    }
    match &event.proxy {
        // Nobody asked from outside.
        None if *event.client == *RELAY => {}
        None => {
            insert(headers, FORWARDED_FOR, HeaderValue::from_str(&event.client).ok());
            insert(headers, FORWARDED_HOST, event.headers.get(header::HOST).cloned());
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(event.scheme.as_str()));
        }
        Some(proxy) => {
            extend(headers, FORWARDED_FOR, HeaderValue::from_str(&proxy.address).ok());
            extend(headers, FORWARDED_HOST, event.headers.get(header::HOST).cloned());
            extend(headers, FORWARDED_PROTO, Some(HeaderValue::from_static(proxy.scheme.as_str())));
        }
    }
    headers.append(header::VIA, VIA);
    let traceparent = trace(job, headers.get(TRACEPARENT));
    insert(headers, TRACEPARENT, traceparent);
}

/// Lets what follows from an attempt go on with the attempt's trace.
pub(crate) fn continue_trace(job: &Job, headers: &mut HeaderMap) {
    insert(headers, TRACEPARENT, trace(job, job.event.headers.get(TRACEPARENT)));
}

/// Appends a value to the list that a header is, on one line.
fn extend(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    let values: Vec<&[u8]> = headers.get_all(&name).iter().chain(&value).map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&values.join(&b", "[..])).ok().filter(|joined| !joined.is_empty());
    insert(headers, name, joined);
}

/// Replaces a header, or removes it if there is no value.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

fn text(write: impl FnOnce(&mut String) -> std::fmt::Result) -> Option<HeaderValue> {
    let mut text = String::with_capacity(64);
    write(&mut text).ok()?;
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// `traceparent`: the sender's trace with a span of ours, or a trace made of the id of the event or its batch. Both are the same for the same
/// attempt, so that nothing needs to be stored.
fn trace(job: &Job, received: Option<&HeaderValue>) -> Option<HeaderValue> {
    let span = span_of(job.event.id, Step::Attempt { upstream: &job.upstream, number: job.number });
    let parent = received.and_then(|value| TraceParent::parse(value.as_bytes()));
    let (trace, flags) =
        parent.map_or_else(|| (own_trace(received_with(&job.event)), 1), |parent| (parent.trace, parent.flags));
    text(|out| write!(out, "00-{trace:032x}-{span:016x}-{flags:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        delivery::tests::rig,
        event::{Event, Job},
    };

    fn built(headers: &[(&'static str, &'static str)], change: impl FnOnce(&mut Job)) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut job = rig::job(Event { headers: map, ..rig::event(1) }.into(), "u", Timestamp::ZERO);
        change(&mut job);
        build(&job, BodyForm::Original, None, &[])
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn headers_of_the_hop_and_our_own_names_stay_behind() {
        let received = [
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("content-length", "1"),
            ("stagepost-event-id", "forged"),
            ("stagepost-anything", "forged"),
        ];
        let headers = built(&received, |_| {});
        for (name, _) in received {
            assert!(!headers.contains_key(name) || name == "stagepost-event-id", "{name}");
        }
        assert_eq!(all(&headers, "stagepost-event-id"), [rig::event(1).id.to_string()]);
    }

    #[test]
    fn the_relays_on_the_way_are_counted() {
        assert_eq!(all(&built(&[], |_| {}), "stagepost-hops"), ["1"]);
        let headers = built(&[("stagepost-hops", "77")], |job| {
            let extras = crate::event::Extras { hops: Some(2), ..Default::default() };
            job.event = Event { extras: Some(extras.into()), ..(*job.event).clone() }.into();
        });
        assert_eq!(all(&headers, "stagepost-hops"), ["3"]);
    }

    #[test]
    fn repeated_headers_keep_their_order_and_what_others_forwarded_is_replaced() {
        let received = [
            ("x-many", "2"),
            ("x-many", "1"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "http"),
            ("via", "1.0 edge"),
        ];
        let headers = built(&received, |_| {});
        assert_eq!(all(&headers, "x-many"), ["2", "1"]);
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
        assert!(!headers.contains_key("x-forwarded-host"), "the sender named no host");
        assert_eq!(all(&headers, "via"), ["1.0 edge", "1.1 stagepost"]);
    }

    #[test]
    fn what_a_trusted_proxy_forwarded_is_appended_to() {
        let received = [
            ("host", "inner.example"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-proto", "https"),
        ];
        let headers = built(&received, |job| {
            let proxy = Some(crate::event::Proxy { address: "10.0.0.1".into(), scheme: crate::event::Scheme::Http });
            job.event = Event { proxy, ..(*job.event).clone() }.into();
        });
        assert_eq!(all(&headers, "x-forwarded-for"), ["203.0.113.9, 198.51.100.7, 10.0.0.1"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["public.example, inner.example"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["https, http"]);
    }

    #[test]
    fn the_idempotency_key_is_the_senders_or_the_deliverys_and_changes_only_by_wish() {
        let id = rig::event(1).id;
        let key = |headers: &HeaderMap| all(headers, "idempotency-key")[0].to_owned();
        assert_eq!(key(&built(&[], |_| {})), format!("{id}-u"));
        assert_eq!(key(&built(&[], |job| (job.number, job.replays) = (7, 3))), format!("{id}-u"));
        assert_eq!(key(&built(&[], |job| job.new_keys = 2)), format!("{id}-u-2"));
        assert_eq!(key(&built(&[("idempotency-key", "mine")], |_| {})), "mine");
        assert_eq!(key(&built(&[("idempotency-key", "mine")], |job| job.new_keys = 1)), "mine-1");
    }

    #[test]
    fn a_replay_says_which_it_is() {
        assert!(!built(&[], |_| {}).contains_key("stagepost-replay"));
        assert_eq!(all(&built(&[], |job| job.replays = 2), "stagepost-replay"), ["2"]);
    }

    #[test]
    fn a_valid_trace_goes_on_and_anything_else_starts_one_from_the_events_id() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let headers = built(&[("traceparent", valid)], |_| {});
        let sent = all(&headers, "traceparent")[0];
        assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent.ends_with("-00"));
        assert!(!sent.contains("b7ad6b7169203331"));
        let again = built(&[("traceparent", valid)], |job| job.number = 2);
        assert_ne!(all(&again, "traceparent")[0], sent, "each attempt is a span");
        for broken in
            ["", "00-0af7651916cd43dd8448eb211c80319c", "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            let headers = built(&[("traceparent", broken)], |_| {});
            let sent = all(&headers, "traceparent")[0];
            assert_eq!((sent.len(), sent.ends_with("-01")), (55, true), "{sent}");
            assert!(!sent.contains("0af765191"));
        }
    }

    #[test]
    fn a_transformed_body_loses_its_encoding_and_says_what_it_is() {
        let mut map = HeaderMap::new();
        map.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv"));
        let job = rig::job(Event { headers: map, ..rig::event(1) }.into(), "u", Timestamp::ZERO);
        for (form, kind, encoded) in [
            (BodyForm::Original, "text/csv", true),
            (BodyForm::Text, "text/csv", false),
            (BodyForm::Json, "application/json", false),
        ] {
            let headers = build(&job, form, None, &[]);
            assert_eq!(all(&headers, "content-type"), [kind]);
            assert_eq!(headers.contains_key("content-encoding"), encoded);
        }
    }
}
