//! Owns the tests of single attempts: what is sent, and what each kind of answer or failure leads to.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;

use super::rig::{Act, PATIENCE, ok, peer, rig, say, upstream};
use crate::{
    clock::Timestamp,
    delivery::{Proxied, ProxyError},
    event::{Body, Change, Outcome},
    log::entry::Attempted,
    routing::{HeaderEdit, HostPolicy, PathEdit, Route, Target, Upstream},
};

/// The entry that one attempt against a scripted upstream leads to.
async fn attempt(act: Act, change: impl FnOnce(&mut Upstream)) -> Attempted {
    let peer = peer(vec![act]).await;
    let mut upstream = upstream("u", peer.target.clone());
    change(&mut upstream);
    let rig = rig(vec![upstream], Vec::new());
    rig.dispatch([7], "u");
    rig.log.wait(1).await.remove(0)
}

fn soon(change: &Change, from: u64, to: u64) -> bool {
    let now = crate::clock::Clock::system().steady().as_millis();
    matches!(change, Change::Retry(due) if (from * 1000..to * 1000).contains(&(due.as_millis().saturating_sub(now) + 999)))
}

#[tokio::test]
async fn a_request_is_passed_on_as_received_with_the_headers_of_the_contract() {
    let peer = peer(vec![ok()]).await;
    let mut upstream = upstream("u", peer.target.clone());
    let mut secret = HeaderValue::from_static("Bearer x");
    secret.set_sensitive(true);
    upstream.headers = vec![(http::header::AUTHORIZATION, secret)];
    let rig = rig(vec![upstream], Vec::new());
    rig.dispatch([7], "u");

    let request = peer.requests(1).await.remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{\"a\":1}");
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /hooks/app?x=1%202 HTTP/1.1"));
    let id = super::rig::event(7).id.to_string();
    for expected in [
        "host: public.example".to_owned(),
        "content-type: text/plain".into(),
        "content-length: 7".into(),
        "x-kind: one".into(),
        "authorization: Bearer x".into(),
        format!("stagepost-event-id: {id}"),
        "stagepost-attempt: 1".into(),
        "stagepost-received-at: 2026-01-02T03:04:05.678Z".into(),
        format!("idempotency-key: {id}-u"),
        "x-forwarded-for: 192.0.2.7".into(),
        "x-forwarded-host: public.example".into(),
        "x-forwarded-proto: https".into(),
        "via: 1.1 stagepost".into(),
    ] {
        assert!(head.lines().any(|line| line == expected), "{expected} is missing in {head}");
    }
    let entry = rig.log.wait(1).await.remove(0);
    let attempt = entry.attempt.unwrap();
    assert_eq!((entry.event, &*entry.upstream, entry.change), (7, "u", Change::Delivered));
    assert_eq!((attempt.outcome, attempt.status, &attempt.excerpt[..]), (Outcome::Delivered, Some(200), &b"fine"[..]));
    assert!(attempt.sent.url.ends_with("/hooks/app?x=1%202") && attempt.sent.sha256.is_none());
    assert_eq!(rig.metrics.upstream("u").attempts[0].get(), 1);
}

#[tokio::test]
async fn a_route_changes_path_method_and_headers() {
    let peer = peer(vec![ok()]).await;
    let Target::Http(uri) = &peer.target else { unreachable!() };
    let target = Target::Http(format!("{uri}base").parse().unwrap());
    let mut upstream = upstream("u", target);
    upstream.host = HostPolicy::Name(HeaderValue::from_static("inside"));
    let route = Route {
        headers: HeaderEdit {
            set: vec![("x-kind".parse().unwrap(), HeaderValue::from_static("two"))],
            remove: vec!["content-type".parse().unwrap()],
        },
        path: PathEdit { strip_prefix: Some("/hooks".into()), path: None },
        method: Some(Method::PUT),
        ..Route::new("r", vec!["u".into()])
    };
    let rig = rig(vec![upstream], vec![route]);
    rig.dispatch([7], "u");
    let request = peer.requests(1).await.remove(0);
    assert!(request.starts_with("PUT /base/app?x=1%202 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: inside\r\n") && request.contains("x-kind: two\r\n"));
    assert!(!request.contains("content-type") && !request.contains("x-kind: one"));
}

#[tokio::test]
async fn a_body_in_parts_is_read_from_the_log_and_an_unreadable_one_is_dead() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    rig.log.parts.lock().unwrap().extend([(50, Bytes::from_static(b"one ")), (51, Bytes::from_static(b"two"))]);
    for (seq, parts) in [(7, vec![50, 51]), (8, vec![50, 99])] {
        let mut event = super::rig::event(seq);
        event.body = Body::Parts { seqs: parts, length: 7 };
        rig.engine.dispatch(super::rig::job(event.into(), "u", rig.clock.steady()));
        rig.log.wait(seq as usize - 6).await;
    }
    assert!(peer.requests(1).await[0].ends_with("\r\n\r\none two"));
    let entries = rig.log.wait(2).await;
    assert_eq!(entries[0].change, Change::Delivered);
    assert!(entries[1].attempt.is_none());
    assert!(matches!(&entries[1].change, Change::Die(reason) if reason.code == "body_unreadable"));
}

#[tokio::test]
async fn a_connection_is_used_again_and_replaced_unseen_when_the_upstream_closed_it() {
    let peer = peer(vec![ok(), ok(), Act::Close, ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    for seq in 1..=3 {
        rig.dispatch([seq], "u");
        let entries = rig.log.wait(seq as usize).await;
        assert_eq!(entries.last().unwrap().change, Change::Delivered);
        assert_eq!(entries.last().unwrap().attempt.as_ref().unwrap().number, 1);
    }
    assert_eq!((peer.requests(4).await.len(), peer.connections()), (4, 2));
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_a_deferral() {
    let entry = attempt(Act::Close, |_| {}).await;
    let attempt = entry.attempt.unwrap();
    assert_eq!((attempt.outcome, attempt.status), (Outcome::Deferred, None));
    assert!(attempt.error.unwrap().contains("broke"));
    assert!(soon(&entry.change, 6, 9), "{:?}", entry.change);
}

#[tokio::test]
async fn a_refused_connection_is_a_deferral() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Http(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    drop(listener);
    let rig = rig(vec![upstream("u", target)], Vec::new());
    rig.dispatch([7], "u");
    let entry = rig.log.wait(1).await.remove(0);
    let attempt = entry.attempt.unwrap();
    assert_eq!(attempt.outcome, Outcome::Deferred);
    assert!(attempt.error.unwrap().starts_with("can't connect"));
}

#[tokio::test]
async fn an_upstream_that_hangs_before_the_head_is_late() {
    let entry = attempt(Act::SayAndHang(String::new()), |upstream| upstream.timeout = Duration::from_millis(20)).await;
    assert_eq!(entry.attempt.unwrap().error.as_deref(), Some("no answer within 20 ms"));
    assert!(matches!(entry.change, Change::Retry(_)));
}

#[tokio::test]
async fn a_good_head_counts_although_the_body_never_comes() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_owned();
    let entry = attempt(Act::SayAndHang(head), |upstream| upstream.idle_timeout = Duration::from_millis(20)).await;
    let attempt = entry.attempt.unwrap();
    assert_eq!(
        (entry.change, attempt.outcome, &attempt.excerpt[..]),
        (Change::Delivered, Outcome::Delivered, &b"half"[..])
    );
    assert_eq!(attempt.error.as_deref(), Some("the answer's body stopped coming"));
}

#[tokio::test]
async fn a_body_without_end_is_cut_and_costs_the_connection() {
    let head = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
    let peer = peer(vec![Act::SayWithoutEnd(head), ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    rig.dispatch([1], "u");
    let attempt = rig.log.wait(1).await.remove(0).attempt.unwrap();
    assert_eq!((attempt.outcome, attempt.excerpt.len()), (Outcome::Delivered, 16 * 1024));
    rig.dispatch([2], "u");
    rig.log.wait(2).await;
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_long_answer_is_read_to_its_end_and_keeps_the_connection() {
    let peer = peer(vec![say("200 OK", "", &"y".repeat(100_000)), ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    for seq in 1..=2 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
    }
    let attempt = rig.log.wait(1).await.remove(0).attempt.unwrap();
    assert_eq!((attempt.excerpt.len(), attempt.error), (16 * 1024, None));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn answers_lead_to_the_changes_of_the_contract() {
    let dead = |change: &Change, text: &str| matches!(change, Change::Die(reason) if reason.to_string() == text);
    let entry = attempt(say("400 Bad Request", "", "no"), |_| {}).await;
    assert!(dead(&entry.change, "refused: 400 Bad Request"), "{:?}", entry.change);
    let entry = attempt(say("302 Found", "location: /x\r\n", ""), |_| {}).await;
    assert!(dead(&entry.change, "redirect: 302 Found, Location: /x"), "{:?}", entry.change);
    let entry = attempt(say("500 Internal Server Error", "", ""), |_| {}).await;
    assert!(soon(&entry.change, 6, 9), "{:?}", entry.change);
    let entry = attempt(say("503 Service Unavailable", "retry-after: 100\r\n", ""), |_| {}).await;
    assert!(soon(&entry.change, 99, 102), "{:?}", entry.change);
    let entry = attempt(say("404 Not Found", "", ""), |upstream| upstream.soft_bounce = true).await;
    assert!(soon(&entry.change, 6, 9), "{:?}", entry.change);
}

#[tokio::test]
async fn a_path_that_is_no_path_is_unsendable() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    let mut event = super::rig::event(7);
    event.path = "/with space".into();
    rig.engine.dispatch(super::rig::job(event.into(), "u", Timestamp::ZERO));
    let entry = rig.log.wait(1).await.remove(0);
    assert!(matches!(&entry.change, Change::Die(reason) if reason.code == "unsendable"), "{:?}", entry.change);
}

#[tokio::test]
async fn a_safe_request_is_proxied_once_and_its_answer_handed_back_whole() {
    let answer = "x-mine: 1\r\nconnection: x-gone\r\nx-gone: 1\r\n";
    let peer = peer(vec![say("404 Not Found", answer, "nothing here"), Act::SayAndHang(String::new())]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    let mut event = super::rig::event(7);
    event.method = Method::GET;
    event.body = Body::Inline(Bytes::new());
    let proxied = |timeout| Proxied { event: event.clone().into(), upstream: "u".into(), timeout, upgrade: None };
    let (head, body) = rig.engine.proxy(proxied(PATIENCE)).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!((head.status.as_u16(), &body[..]), (404, &b"nothing here"[..]));
    assert!(head.headers.contains_key("x-mine") && !head.headers.contains_key("x-gone"));
    let late = rig.engine.proxy(proxied(Duration::from_millis(20))).await;
    assert_eq!(late.err(), Some(ProxyError::Late("u".into())));
    assert!(rig.log.seqs().is_empty());
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_unasked_gives_no_answer_to_a_safe_request() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let peer = peer(vec![Act::SayAndHang(switch.into())]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    let mut event = super::rig::event(7);
    event.method = Method::GET;
    event.body = Body::Inline(Bytes::new());
    let proxied = Proxied { event: event.into(), upstream: "u".into(), timeout: PATIENCE, upgrade: None };
    let error = rig.engine.proxy(proxied).await.err().unwrap();
    assert!(matches!(&error, ProxyError::Unreachable { words, .. } if words.contains("101")), "{error:?}");
}

fn route(name: &str, when: Option<&str>, transform: Option<&str>) -> Route {
    let compile = |text: &str| crate::expr::Expr::compile(text).unwrap();
    Route { when: when.map(compile), transform: transform.map(compile), ..Route::new(name, vec!["u".into()]) }
}

/// The request and the entry that one attempt under these routes leads to.
async fn routed(routes: Vec<Route>) -> (Option<String>, Attempted) {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], routes);
    rig.dispatch([7], "u");
    let entry = rig.log.wait(1).await.remove(0);
    let request = if entry.attempt.is_some() { Some(peer.requests(1).await.remove(0)) } else { None };
    (request, entry)
}

#[tokio::test]
async fn a_transform_is_sent_as_json_and_its_hash_is_kept() {
    let (request, entry) = routed(vec![route("r", None, Some("{b: .a}"))]).await;
    let request = request.unwrap();
    assert!(
        request.ends_with("\r\n\r\n{\"b\":1}") && request.contains("content-type: application/json\r\n"),
        "{request}"
    );
    assert!(entry.attempt.unwrap().sent.sha256.is_some());
}

#[tokio::test]
async fn a_transform_to_a_string_is_sent_as_it_is_and_to_nothing_is_ignored() {
    let (request, _) = routed(vec![route("r", None, Some("\"a \\\"quoted\\\" text\""))]).await;
    assert!(request.unwrap().ends_with("\r\n\r\na \"quoted\" text"));
    let (request, entry) = routed(vec![route("r", None, Some("empty"))]).await;
    assert_eq!((request, entry.change), (None, Change::Ignore));
}

#[tokio::test]
async fn a_transform_that_fails_or_gives_too_much_is_dead() {
    let peer = peer(vec![ok()]).await;
    for (body, transform) in [("{\"a\":1}", ".a.b"), ("[1,2]", ".[]")] {
        let rig = rig(vec![upstream("u", peer.target.clone())], vec![route("r", None, Some(transform))]);
        let mut event = super::rig::event(7);
        event.body = Body::Inline(body.into());
        rig.engine.dispatch(super::rig::job(event.into(), "u", rig.clock.steady()));
        let entry = rig.log.wait(1).await.remove(0);
        assert!(entry.attempt.is_none());
        assert!(
            matches!(&entry.change, Change::Die(reason) if reason.code == "transform_failed"),
            "{:?}",
            entry.change
        );
    }
}

#[tokio::test]
async fn a_transform_that_no_evaluator_takes_is_put_off_without_an_attempt() {
    let (request, entry) = routed(vec![route("r", None, Some("[range(3)]"))]).await;
    assert_eq!((request, entry.attempt), (None, None));
    assert!(matches!(entry.change, Change::Postpone(_)), "{:?}", entry.change);
}

#[tokio::test]
async fn of_routes_that_change_differently_the_one_that_matches_applies_and_two_conflict() {
    let (one, two) = (Some("\"one\""), Some("\"two\""));
    let (request, _) = routed(vec![route("r", Some(".a == 2"), one), route("s", Some(".a == 1"), two)]).await;
    assert!(request.unwrap().ends_with("two"));
    let (request, entry) = routed(vec![route("r", Some(".a == 1"), one), route("s", None, two)]).await;
    assert_eq!(request, None);
    assert!(matches!(&entry.change, Change::Die(reason) if reason.to_string() == "conflicting routes r, s"));
}
