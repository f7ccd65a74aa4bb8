//! The table of answers of the contract, row by row, against a log that does as it is told.

mod challenges;
mod fake;
mod kept;
mod limits;
mod outside;
mod wire;

use bytes::Bytes;
use fake::{Behaviour, Door, Trickle, signed};
use http::{HeaderMap, Method, Request, Version, header};
use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::{
    event::{Body as Stored, Scheme},
    log::{AppendError, PART_BYTES},
    routing::OnDuplicate,
    telemetry::RequestResult,
};

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = body.into();
    Request::post(path)
        .header("host", "relay.example:8443")
        .header(header::CONTENT_LENGTH, body.len())
        .body(Full::new(body))
        .unwrap()
}

/// The status, headers and body of an answer.
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Door {
    async fn ask<B>(&self, request: Request<B>) -> Seen
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = self.gate.handle(&self.caller, request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Seen { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    fn last_reason(&self) -> &'static str {
        self.ingress.refused().after(0).last().unwrap().reason
    }

    fn unmatched(&self, result: RequestResult) -> u64 {
        self.metrics.unmatched[result as usize].get()
    }

    fn count(&self, source: &str, result: RequestResult) -> u64 {
        self.metrics.source(source).requests[result as usize].get()
    }
}

#[tokio::test]
async fn an_accepted_request_is_stored_as_received_and_answered_with_its_id() {
    let door = Door::open();
    let mut request = post("/open?a=1&b=%2F", r#"{"kind":"paid"}"#);
    request.headers_mut().append("x-twice", "1".parse().unwrap());
    request.headers_mut().append("x-twice", "2".parse().unwrap());
    let answer = door.ask(request).await;

    let event = door.log.event(0);
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body, format!(r#"{{"id":"{}"}}"#, event.id));
    assert_eq!(answer.headers[EVENT_ID], event.id.to_string());
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!((&*event.source, &event.method, event.scheme), ("open", &Method::POST, Scheme::Http));
    assert_eq!((&*event.path, event.query.as_deref(), &*event.client), ("/open", Some("a=1&b=%2F"), "192.0.2.1"));
    assert_eq!(event.headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((&*event.verification.scheme, event.config_generation), ("none", 7));
    assert!(matches!(&event.body, Stored::Inline(body) if body == r#"{"kind":"paid"}"#));
    assert_eq!(door.count("open", RequestResult::Accepted), 1);
    assert_eq!(door.metrics.source("open").events.lock().unwrap()["other"].get(), 1);
}

#[tokio::test]
async fn nobodys_path_is_404_and_a_path_with_dot_segments_400() {
    let door = Door::open();
    assert_eq!(door.ask(post("/nobody", "x")).await.status, 404);
    assert_eq!(door.ask(post("/tree/a/../b", "x")).await.status, 400);
    assert_eq!(door.ask(post("/tree/a/%2e%2E/b", "x")).await.status, 400);
    assert_eq!(door.last_reason(), "dot_segments");
    assert_eq!((door.unmatched(RequestResult::NotFound), door.unmatched(RequestResult::Malformed)), (1, 2));
    assert_eq!(door.log.appended(), 0);
}

#[tokio::test]
async fn an_http_1_1_request_has_exactly_one_host() {
    let door = Door::open();
    let none = Request::post("/open").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(door.ask(none).await.status, 400);
    let mut two = post("/open", "");
    two.headers_mut().append("host", "other".parse().unwrap());
    assert_eq!(door.ask(two).await.status, 400);
    let mut http2 = Request::post("https://relay.example/open").body(Full::new(Bytes::new())).unwrap();
    *http2.version_mut() = Version::HTTP_2;
    assert_eq!(door.ask(http2).await.status, 202);
}

#[tokio::test]
async fn the_host_of_an_http_2_request_or_an_absolute_target_is_stored_as_host() {
    let door = Door::open();
    for (version, received) in [(Version::HTTP_2, None), (Version::HTTP_2, Some("x")), (Version::HTTP_11, Some("x"))] {
        let mut request = Request::post("https://user@relay.example:8443/open").body(Full::new(Bytes::new())).unwrap();
        *request.version_mut() = version;
        if let Some(host) = received {
            request.headers_mut().insert(header::HOST, host.parse().unwrap());
        }
        let stored = door.log.appended();
        assert_eq!(door.ask(request).await.status, 202);
        let hosts: Vec<_> = door.log.event(stored).headers.get_all(header::HOST).iter().cloned().collect();
        assert_eq!(hosts, ["relay.example:8443"], "{version:?} {received:?}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_listed_is_405_and_says_which_are() {
    let door = Door::open();
    let with = |method: Method, path: &str| {
        let mut request = post(path, "");
        *request.method_mut() = method;
        request
    };
    let answer = door.ask(with(Method::PUT, "/signed")).await;
    assert_eq!((answer.status, &answer.headers[header::ALLOW]), (405, &"POST".parse().unwrap()));
    for method in [Method::TRACE, Method::CONNECT] {
        let answer = door.ask(with(method, "/open")).await;
        assert_eq!(answer.status, 405);
        assert!(answer.headers[header::ALLOW].to_str().unwrap().contains("POST"));
    }
    assert_eq!(door.ask(with(Method::PATCH, "/open")).await.status, 202);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_413_declared_or_not() {
    let door = Door::open();
    let limit = fake::MAX_BODY;
    assert_eq!(door.ask(post("/open", vec![b'x'; limit])).await.status, 202);
    let declared = door.ask(post("/open", vec![b'x'; limit + 1])).await;
    assert_eq!(declared.status, 413);
    assert_eq!(door.ingress.refused().after(0).last().unwrap().size, 0, "refused before reading");
    for (size, status) in [(limit, 202), (limit + 1, 413)] {
        let mut request = post("/open", vec![b'x'; size]);
        request.headers_mut().remove(header::CONTENT_LENGTH);
        assert_eq!(door.ask(request).await.status, status);
    }
    assert_eq!(door.log.appended(), 2);
    assert_eq!(door.used(), (0, 0));
}

#[tokio::test]
async fn grpc_is_415() {
    let door = Door::open();
    let mut request = post("/open", "x");
    request.headers_mut().insert(header::CONTENT_TYPE, "application/grpc+proto".parse().unwrap());
    assert_eq!(door.ask(request).await.status, 415);
}

#[tokio::test]
async fn an_error_is_a_problem_document_that_does_not_say_which_check_failed() {
    let door = Door::open();
    let missing = door.ask(post("/signed", "x")).await;
    let mut forged = post("/signed", "x");
    forged.headers_mut().insert("x-signature", signed(b"y").parse().unwrap());
    let forged = door.ask(forged).await;
    assert_eq!(missing.body, r#"{"type":"about:blank","title":"Unauthorized","status":401}"#);
    assert_eq!((missing.status, &missing.body, &missing.headers), (401, &forged.body, &forged.headers));
    assert_eq!(missing.headers[header::CONTENT_TYPE], "application/problem+json");
    assert!(missing.headers.contains_key(header::WWW_AUTHENTICATE));
    let reasons: Vec<_> = door.ingress.refused().after(0).iter().map(|refused| refused.reason).collect();
    assert_eq!(reasons, ["missing_signature", "bad_signature"]);
    assert_eq!(door.log.appended(), 0);
}

#[tokio::test]
async fn a_signed_request_is_stored_with_the_reference_of_its_secret() {
    let door = Door::open();
    let mut request = post("/signed", "payload");
    request.headers_mut().insert("x-signature", signed(b"payload").parse().unwrap());
    assert_eq!(door.ask(request).await.status, 202);
    let verification = door.log.event(0).verification;
    assert_eq!((&*verification.scheme, verification.secret.as_deref()), ("hmac", Some("env:SECRET")));
}

#[tokio::test]
async fn whatever_the_log_says_no_to_is_503_with_retry_after() {
    for error in [AppendError::Full, AppendError::Busy, AppendError::Poisoned, AppendError::Closed] {
        let door = Door::open();
        door.log.behave(Behaviour::Refuse(error));
        let answer = door.ask(post("/open", "x")).await;
        assert_eq!(answer.status, 503);
        let seconds: u64 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((5..=30).contains(&seconds), "{seconds}");
        assert!(!answer.body.contains("log"), "{}", answer.body);
        assert_eq!(door.count("open", RequestResult::Unavailable), 1);
    }
}

#[tokio::test]
async fn nothing_is_answered_before_the_log_has_answered() {
    let door = Door::open();
    door.log.behave(Behaviour::Hold);
    let mut asking = std::pin::pin!(door.ask(post("/open", "x")));
    let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(asking.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    assert_eq!(door.log.appended(), 1);
    door.log.answer_held();
    assert_eq!(asking.await.status, 202);
}

#[tokio::test]
async fn a_duplicate_is_answered_200_with_the_first_id_and_reported() {
    let door = Door::open();
    let first = door.ask(post("/keyed", r#"{"id":"evt_1"}"#)).await;
    let key = door.log.key(0).unwrap();
    assert_eq!(key.expires_at, door.clock.now().after(std::time::Duration::from_secs(3_600)));

    door.log.behave(Behaviour::Duplicate { body_differs: true });
    let again = door.ask(post("/keyed", r#"{"id":"evt_1","more":1}"#)).await;
    assert_eq!((again.status, &again.headers[DUPLICATE]), (200, &"true".parse().unwrap()));
    assert_eq!((&again.headers[EVENT_ID], &again.body), (&first.headers[EVENT_ID], &first.body));
    assert_eq!(door.reported(), [(door.log.event(0).id, true, OnDuplicate::Revive)]);
    assert_eq!(door.metrics.source("keyed").duplicates.get(), 1);
    assert_eq!(door.log.key(1).unwrap().fingerprint, key.fingerprint);
    assert_ne!(door.log.key(1).unwrap().body, key.body);
}

#[tokio::test]
async fn headers_that_nobody_signed_do_not_hide_the_key_of_a_resent_body() {
    let door = Door::open();
    let body = r#"{"id":"evt_1"}"#;
    door.ask(post("/keyed", body)).await;
    let first = door.log.key(0).unwrap().fingerprint;
    let disguises = [
        ("content-encoding", "gzip"),
        ("content-encoding", "unheard-of"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    for (index, (name, value)) in disguises.into_iter().enumerate() {
        let mut request = post("/keyed", body);
        request.headers_mut().insert(name, value.parse().unwrap());
        door.ask(request).await;
        assert_eq!(door.log.key(index + 1).map(|key| key.fingerprint), Some(first), "{name}: {value}");
    }
    let mut form = post("/keyed", "id=evt_1");
    form.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    form.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    door.ask(form).await;
    assert_eq!(door.log.key(4).map(|key| key.fingerprint), Some(first), "a form");
}

#[tokio::test]
async fn an_older_duplicate_is_found_before_the_append_and_unreadable_keys_are_503() {
    let door = Door::open();
    door.ask(post("/open", "first")).await;
    let first = door.log.event(0).id;
    door.log.remember(Ok(Some((first, false))));
    let again = door.ask(post("/keyed", r#"{"id":"evt_1"}"#)).await;
    assert_eq!((again.status, again.headers[EVENT_ID].to_str().unwrap()), (200, &*first.to_string()));
    assert_eq!(door.log.appended(), 1);
    door.log.remember(Err(()));
    assert_eq!(door.ask(post("/keyed", r#"{"id":"evt_2"}"#)).await.status, 503);
    assert_eq!(door.ask(post("/keyed", r#"{"no":"key"}"#)).await.status, 202, "without a key nothing is asked");
}

#[tokio::test]
async fn a_request_without_a_usable_key_is_not_deduplicated_but_counted() {
    let door = Door::open();
    for body in [r#"{"id":null}"#, r#"{"id":""}"#, r#"{"id":[1]}"#, "{}", "no json"] {
        assert_eq!(door.ask(post("/keyed", body)).await.status, 202, "{body}");
    }
    assert!((0..5).all(|index| door.log.key(index).is_none()));
    assert_eq!(door.metrics.source("keyed").without_key.get(), 5);
}

#[tokio::test]
async fn the_event_type_is_stored_and_counted_under_its_name_only_if_it_is_configured() {
    let door = Door::open();
    door.ask(post("/keyed", r#"{"id":1,"type":"paid"}"#)).await;
    door.ask(post("/keyed", r#"{"id":2,"type":"made.up"}"#)).await;
    assert_eq!(door.log.event(0).event_type.as_deref(), Some("paid"));
    assert_eq!(door.log.event(1).event_type.as_deref(), Some("made.up"));
    let metrics = door.metrics.source("keyed");
    let events = metrics.events.lock().unwrap();
    assert_eq!((events["paid"].get(), events["other"].get(), events.len()), (1, 1, 2));
}

#[tokio::test]
async fn the_sources_own_reply_takes_the_place_of_the_default() {
    let door = Door::open();
    let answer = door.ask(post("/replies", "x")).await;
    assert_eq!((answer.status, &*answer.body), (299, "thanks"));
    assert_eq!(answer.headers["x-own"], "yes");
    assert!(answer.headers.contains_key(EVENT_ID));
}

#[tokio::test]
async fn a_large_body_is_spooled_and_appended_in_parts() {
    let door = Door::open();
    let body: Vec<u8> = (0..2 * PART_BYTES + 7).map(|n| (n % 251) as u8).collect();
    assert_eq!(door.ask(post("/open", body.clone())).await.status, 202);
    let parts = door.log.parts(0);
    assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [PART_BYTES, PART_BYTES, 7]);
    assert_eq!(parts.concat(), body);
    assert!(matches!(door.log.event(0).body, Stored::Parts { length, .. } if length == body.len() as u64));
    assert_eq!((door.used(), door.spooled_files()), ((0, 0), 0));
}

#[tokio::test]
async fn ten_thousand_forged_posts_leave_nothing_behind() {
    let door = Door::open();
    let large = Bytes::from(vec![b'x'; PART_BYTES + 1]);
    for n in 0..10_000 {
        let body = if n % 1_000 == 0 { large.clone() } else { Bytes::from_static(b"forged") };
        let mut request = post("/signed", body);
        request.headers_mut().insert("x-signature", signed(b"another body").parse().unwrap());
        assert_eq!(door.ask(request).await.status, 401);
    }
    assert_eq!((door.log.appended(), door.used(), door.spooled_files()), (0, (0, 0), 0));
    assert_eq!(door.ingress.refused().after(0).len(), REFUSED_MAX);
    assert_eq!(door.count("signed", RequestResult::Unauthorized), 10_000);
}

#[tokio::test]
async fn a_body_that_finds_no_room_in_memory_or_spool_is_503() {
    let door = Door::with_limits(|limits| limits.body_memory = 10);
    assert_eq!(door.ask(post("/open", "ten bytes!")).await.status, 202);
    assert_eq!(door.ask(post("/open", "eleven byte")).await.status, 503);
    assert_eq!(door.last_reason(), "body_memory_full");
    let door = Door::with_limits(|limits| limits.spool_size = PART_BYTES as u64);
    assert_eq!(door.ask(post("/open", vec![0; PART_BYTES + 1])).await.status, 503);
    assert_eq!((door.last_reason(), door.used()), ("spool_full", (0, 0)));
}

#[tokio::test]
async fn a_length_that_is_only_declared_takes_no_room_from_others() {
    let door = Door::with_limits(|limits| limits.body_memory = 10);
    let (sender, body) = Trickle::new();
    let request = Request::post("/open").header("host", "x").header(header::CONTENT_LENGTH, 9).body(body).unwrap();
    let mut waiting = std::pin::pin!(door.ask(request));
    let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    assert_eq!(door.used(), (0, 0));
    assert_eq!(door.ask(post("/open", "ten bytes!")).await.status, 202);
    sender.send(Bytes::from_static(b"at ")).await.unwrap();
    sender.send(Bytes::from_static(b"length")).await.unwrap();
    drop(sender);
    assert_eq!(waiting.await.status, 202);
    assert!(matches!(&door.log.event(1).body, Stored::Inline(body) if body == "at length"));
}

#[tokio::test]
async fn a_safe_method_is_stored_sent_once_and_answered_by_the_upstream() {
    let door = Door::open();
    let get = |path: &str| Request::get(path).header("host", "x").body(Full::new(Bytes::new())).unwrap();
    let answer = door.ask(get("/open?q=1")).await;
    assert_eq!((answer.status, &*answer.body), (203, "from upstream: GET /open"));
    let event = door.log.event(0);
    assert_eq!((&event.method, answer.headers[EVENT_ID].to_str().unwrap()), (&Method::GET, &*event.id.to_string()));
    assert_eq!(door.count("open", RequestResult::Proxied), 1);

    let unrecorded = door.ask(get("/unrecorded")).await;
    assert_eq!((unrecorded.status, door.log.appended()), (203, 1));
    assert!(!unrecorded.headers.contains_key(EVENT_ID));
    assert_eq!(door.ask(get("/signed")).await.status, 405, "not listed");
}

#[tokio::test]
async fn a_safe_method_without_an_answer_is_502_or_504() {
    let door = Door::open();
    let get = |path: &str| Request::get(path).header("host", "x").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(door.ask(get("/tree/unreachable")).await.status, 502);
    tokio::time::pause();
    assert_eq!(door.ask(get("/tree/late")).await.status, 504);
    assert_eq!(door.count("tree", RequestResult::UpstreamFailed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_falls_silent_is_408() {
    let door = Door::open();
    let (sender, body) = Trickle::new();
    sender.send(Bytes::from_static(b"begun")).await.unwrap();
    let request = Request::post("/open").header("host", "x").body(body).unwrap();
    let before = tokio::time::Instant::now();
    let answer = door.ask(request).await;
    assert_eq!((answer.status, &answer.headers[header::CONNECTION]), (408, &"close".parse().unwrap()));
    assert_eq!(before.elapsed().as_secs(), 30);
    assert_eq!((door.last_reason(), door.used()), ("body_too_slow", (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_body_below_the_least_rate_is_408_and_one_above_it_is_not() {
    for (piece, status) in [(512, 408), (3_000, 202)] {
        let door = Door::open();
        let (sender, body) = Trickle::new();
        let sending = tokio::spawn(async move {
            for _ in 0..60 {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                if sender.send(vec![b'x'; piece].into()).await.is_err() {
                    break;
                }
            }
        });
        let request = Request::post("/open").header("host", "x").body(body).unwrap();
        assert_eq!(door.ask(request).await.status, status, "{piece} bytes a second");
        sending.await.unwrap();
    }
}

/// A request to nobody whose body comes as the pieces come, and how it was answered: whether the connection goes on, and
/// after how long.
async fn refused(declared: Option<u64>, expects: bool, pieces: &[(u64, usize)], ends: bool) -> (bool, u64) {
    let door = Door::open();
    let (sender, body) = Trickle::new();
    let mut request = Request::post("/nobody").header("host", "x").body(body).unwrap();
    if let Some(declared) = declared {
        request.headers_mut().insert(header::CONTENT_LENGTH, declared.into());
    }
    if expects {
        request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
    }
    let pieces = pieces.to_vec();
    tokio::spawn(async move {
        for (wait_ms, bytes) in pieces {
            tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
            let _gone = sender.send(vec![b'x'; bytes].into()).await;
        }
        if !ends {
            sender.closed().await;
        }
    });
    let before = tokio::time::Instant::now();
    let answer = door.ask(request).await;
    assert_eq!(answer.status, 404);
    (!answer.headers.contains_key(header::CONNECTION), before.elapsed().as_millis().try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_small_body_of_a_refused_request_is_waited_for_and_thrown_away() {
    for declared in [Some(3), None] {
        assert_eq!(refused(declared, false, &[(0, 1), (300, 2)], true).await, (true, 300), "{declared:?}");
        assert_eq!(refused(declared, false, &[(0, 1), (5_000, 2)], true).await, (false, 1_000), "late: {declared:?}");
    }
    assert_eq!(refused(Some(16 << 10), false, &[(0, 16 << 10)], true).await, (true, 0));
    // What is large, or is only sent if it is wanted, holds nobody up.
    assert_eq!(refused(Some((16 << 10) + 1), false, &[(500, 1)], false).await, (false, 0));
    assert_eq!(refused(None, false, &[(0, 16 << 10), (100, 1)], false).await, (false, 100));
    assert_eq!(refused(Some(3), true, &[(500, 3)], true).await, (false, 0));
}

#[tokio::test]
async fn a_new_table_is_used_by_the_next_request() {
    let door = Door::open();
    assert_eq!(door.ask(post("/open", "x")).await.status, 202);
    door.live.swap(fake::table(Vec::new(), |_| {}));
    assert_eq!(door.ask(post("/open", "x")).await.status, 404);
}

#[tokio::test]
async fn a_refusal_is_remembered_with_what_an_operator_asks_for() {
    let door = Door::open();
    let mut request = post(&format!("/nobody/{}", "p".repeat(400)), "x");
    *request.method_mut() = Method::PUT;
    door.ask(request).await;
    door.ingress.record_broken(&door.caller, "malformed", 400);
    let kept = door.ingress.refused().after(0);
    assert_eq!((kept[0].number, kept[0].reason, kept[0].status), (1, "not_found", 404));
    assert_eq!((&*kept[0].client, &*kept[0].method, kept[0].path.len()), ("192.0.2.1", "PUT", 256));
    assert_eq!((kept[1].reason, &*kept[1].method), ("malformed", ""));
}

#[tokio::test]
async fn the_future_of_a_request_stays_small_enough_to_be_moved() {
    let door = Door::open();
    let size = std::mem::size_of_val(&door.gate.handle(&door.caller, post("/open", "x")));
    assert!(size <= 3_200, "{size} bytes");
}
