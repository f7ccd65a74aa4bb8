//! Challenges of providers, conditions and secret paths, against a log that must stay empty.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::Full;

use super::{
    Seen,
    fake::{Door, signed, source, table, verifier},
    post,
};
use crate::{
    ingress::{Caller, EVENT_ID},
    routing::{CertificateRule, Challenge, ChallengeRule, Guard, Source},
    telemetry::RequestResult,
    verify::{Secret, Verifier},
};

fn secret(name: &str, value: &str) -> Secret {
    Secret::new(name, value.as_bytes().to_vec())
}

/// A door with one source, named `s`, at `/in`.
fn door(change: impl FnOnce(&mut Source)) -> Door {
    door_at("/in", change)
}

fn door_at(path: &str, change: impl FnOnce(&mut Source)) -> Door {
    let door = Door::open();
    let mut one = Source { methods: Some(vec![Method::POST]), ..source("s", path) };
    change(&mut one);
    door.live.swap(table(vec![Arc::new(one)], |limits| limits.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]));
    door
}

fn challenged(kind: Challenge) -> Door {
    door(|source| {
        let secrets = match kind {
            Challenge::Meta => vec![secret("env:NEW", "new-token"), secret("env:OLD", "old-token")],
            Challenge::X | Challenge::Zoom => vec![secret("env:S", "consumer")],
            _ => Vec::new(),
        };
        if matches!(kind, Challenge::Slack | Challenge::Zoom | Challenge::Twitch | Challenge::Discord) {
            source.verifier = verifier();
        }
        source.challenge = Some(ChallengeRule { secrets, ..ChallengeRule::new(kind) });
    })
}

fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).header("host", "relay.example").body(Full::default()).unwrap()
}

fn with(mut request: Request<Full<Bytes>>, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn signed_post(body: &str) -> Request<Full<Bytes>> {
    with(post("/in", body.to_owned()), &[("x-signature", &signed(body.as_bytes()))])
}

/// The answer to what must be a challenge: nothing is stored, and it is counted as one.
async fn asked(door: &Door, request: Request<Full<Bytes>>) -> Seen {
    let before = door.count("s", RequestResult::Challenge);
    let answer = door.ask(request).await;
    assert_eq!(door.log.appended(), 0, "a challenge is no event");
    assert_eq!(door.count("s", RequestResult::Challenge), before + 1, "{} {}", answer.status, answer.body);
    assert!(answer.headers.get(EVENT_ID).is_none());
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    answer
}

#[tokio::test]
async fn values_are_echoed_as_plain_text_to_those_who_ask_in_their_provider_s_way() {
    let cases = [
        (Challenge::Dropbox, get("/in?challenge=abc%2Fd%20e"), "abc/d e"),
        (
            Challenge::Meta,
            get("/in?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=old-token"),
            "1158201444",
        ),
        (
            Challenge::MsGraph,
            post("/in?validationToken=Validation%3A+Testing+%22x%22", ""),
            "Validation: Testing \"x\"",
        ),
        (
            Challenge::Slack,
            signed_post(r#"{"token":"t","challenge":"3eZbrw1a","type":"url_verification"}"#),
            "3eZbrw1a",
        ),
        (
            Challenge::Twitch,
            with(
                signed_post(r#"{"challenge":"pogchamp-kappa-360noscope","subscription":{}}"#),
                &[("twitch-eventsub-message-type", "webhook_callback_verification")],
            ),
            "pogchamp-kappa-360noscope",
        ),
    ];
    for (kind, request, expected) in cases {
        let answer = asked(&challenged(kind), request).await;
        assert_eq!((answer.status, &*answer.body), (200, expected), "{kind:?}");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain", "{kind:?}");
    }
}

#[tokio::test]
async fn proofs_are_made_with_the_secret() {
    let answer = asked(&challenged(Challenge::X), get("/in?crc_token=abc123xyz")).await;
    // printf abc123xyz | openssl dgst -sha256 -hmac consumer -binary | base64
    assert_eq!(answer.body, r#"{"response_token":"sha256=N4X7CrBHSdUZ8mAfolVpHg3hTGSGkyX5kbM2TAyRayc="}"#);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");

    let request =
        signed_post(r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event":"endpoint.url_validation"}"#);
    let answer = asked(&challenged(Challenge::Zoom), request).await;
    // printf qgg8vlvZRS6UYooatFL8Aw | openssl dgst -sha256 -hmac consumer
    assert_eq!(
        answer.body,
        r#"{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"1fe9192df4f78dfe4db63dd18a530427e071a5807f8fbce7ce2d5c8ab19a5ec0"}"#
    );
}

#[tokio::test]
async fn nobody_is_given_a_proof_that_could_pass_for_an_event() {
    for token in ["{}", "%7B%22a%22%3A1%7D", "[1]", "123", "true", "v0:1:x", "", &"a".repeat(1025)] {
        let door = challenged(Challenge::X);
        let answer = door.ask(get(&format!("/in?crc_token={token}"))).await;
        assert_eq!((answer.status, door.last_reason()), (400, "malformed_challenge"), "{token}");
    }
    let door = challenged(Challenge::Zoom);
    for token in ["v0:1700000000:{}", "{}", "17"] {
        let body =
            serde_json::json!({"event": "endpoint.url_validation", "payload": {"plainToken": token}}).to_string();
        assert_eq!(door.ask(signed_post(&body)).await.status, 400, "{token}");
    }
    let unsigned = r#"{"event":"endpoint.url_validation","payload":{"plainToken":"abc"}}"#;
    assert_eq!(door.ask(post("/in", unsigned)).await.status, 401);
    assert_eq!(door.log.appended(), 0);
}

#[tokio::test]
async fn what_is_echoed_is_short_printable_and_no_markup() {
    let door = challenged(Challenge::Dropbox);
    let longest = "x".repeat(1024);
    assert_eq!(asked(&door, get(&format!("/in?challenge={longest}"))).await.body, longest);
    for value in
        ["", "%3Cscript%3E", "a%0d%0aX-Evil:1", "%C3%A9", "%ff", "%00", &format!("{longest}x"), "a&challenge=b"]
    {
        let answer = door.ask(get(&format!("/in?challenge={value}"))).await;
        assert_eq!((answer.status, door.last_reason()), (400, "malformed_challenge"), "{value}");
        assert!(!answer.body.contains("script"));
    }
}

#[tokio::test]
async fn meta_s_verify_token_is_compared_and_a_wrong_one_is_403() {
    let door = challenged(Challenge::Meta);
    for token in ["", "&hub.verify_token=", "&hub.verify_token=new-toke", "&hub.verify_token=wrong"] {
        let answer = door.ask(get(&format!("/in?hub.mode=subscribe&hub.challenge=1{token}"))).await;
        assert_eq!((answer.status, door.last_reason()), (403, "wrong_verify_token"), "{token}");
    }
    assert_eq!(door.count("s", RequestResult::Forbidden), 4);
    // What is no challenge meets the methods of the source.
    for target in ["/in", "/in?hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=new-token"] {
        assert_eq!(door.ask(get(target)).await.status, 405);
    }
    assert_eq!(door.log.appended(), 0);
}

#[tokio::test]
async fn okta_s_question_is_answered_and_wrong_credentials_with_it_are_refused() {
    let door = door(|source| {
        source.verifier = verifier();
        source.challenge = Some(ChallengeRule::new(Challenge::Okta));
    });
    let request = || with(get("/in"), &[("x-okta-verification-challenge", "my \"verification\" value")]);
    let answer = asked(&door, request()).await;
    assert_eq!(answer.body, r#"{"verification":"my \"verification\" value"}"#);
    let answer = door.ask(with(request(), &[("authorization", "wrong")])).await;
    assert_eq!(answer.status, 401);
    let answer = asked(&door, with(request(), &[("authorization", "right"), ("x-signature", &signed(b""))])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(door.ask(get("/in")).await.status, 405);
}

#[tokio::test]
async fn discord_s_pings_are_answered_by_their_kind_and_its_events_are_stored() {
    let door = challenged(Challenge::Discord);
    let answer = asked(&door, signed_post(r#"{"version":1,"application_id":"1","type":0}"#)).await;
    assert_eq!((answer.status, &*answer.body), (204, ""));
    assert!(answer.headers.contains_key(header::CONTENT_TYPE));
    let answer = asked(&door, signed_post(r#"{"type":1,"token":"t","id":"1"}"#)).await;
    assert_eq!((answer.status, &*answer.body), (200, r#"{"type":1}"#));
    let forged = with(post("/in", r#"{"type":1}"#), &[("x-signature", &signed(b"else"))]);
    assert_eq!(door.ask(forged).await.status, 401);
    assert_eq!(door.log.appended(), 0);
    for event in
        [r#"{"type":1,"event":{"type":"ENTITLEMENT_CREATE"}}"#, r#"{"type":2,"data":{}}"#, r#"{"type":"1"}"#, "x"]
    {
        assert_eq!(door.ask(signed_post(event)).await.status, 202, "{event}");
    }
    assert_eq!(door.log.appended(), 4);
}

#[tokio::test]
async fn events_beside_a_challenge_are_stored() {
    let cases = [
        (Challenge::Slack, signed_post(r#"{"type":"event_callback","challenge":"x"}"#)),
        (Challenge::Slack, signed_post("payload=%7B%22type%22%3A%22url_verification%22%7D")),
        (Challenge::Twitch, with(signed_post("{}"), &[("twitch-eventsub-message-type", "notification")])),
        (Challenge::Zoom, signed_post(r#"{"event":"meeting.started","payload":{"plainToken":"x"}}"#)),
        (Challenge::MsGraph, post("/in?validationToken=x", r#"{"value":[]}"#)),
        (Challenge::MsGraph, post("/in", "")),
        (Challenge::Dropbox, post("/in?challenge=x", "{}")),
        (Challenge::GoogleCalendar, with(post("/in", ""), &[("x-goog-resource-state", "exists")])),
    ];
    for (kind, request) in cases {
        let door = challenged(kind);
        assert_eq!(door.ask(request).await.status, 202, "{kind:?}");
        assert_eq!((door.log.appended(), door.count("s", RequestResult::Challenge)), (1, 0), "{kind:?}");
    }
}

#[tokio::test]
async fn the_first_message_of_a_calendar_s_channel_is_answered_200() {
    let sync = with(post("/in", ""), &[("x-goog-resource-state", "sync")]);
    assert_eq!(asked(&challenged(Challenge::GoogleCalendar), sync).await.status, 200);
}

#[tokio::test]
async fn a_cloudevents_sender_is_told_origin_and_rate_or_nothing() {
    let options = |headers: &[(&'static str, &str)]| {
        let request = Request::options("/in").header("host", "relay.example").body(Full::default()).unwrap();
        with(request, headers)
    };
    let any = challenged(Challenge::CloudEvents);
    let answer = asked(&any, options(&[("webhook-request-origin", "eventemitter.example.com")])).await;
    let told = |headers: &HeaderMap| {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (text("allow"), text("webhook-allowed-origin"), text("webhook-allowed-rate"))
    };
    let granted = |origin: &str, rate: &str| (Some("POST".to_owned()), Some(origin.to_owned()), Some(rate.to_owned()));
    assert_eq!((answer.status, told(&answer.headers)), (200, granted("*", "*")));

    let some = door(|source| {
        let rule = ChallengeRule::new(Challenge::CloudEvents);
        let origins = vec!["eventemitter.example.com".into()];
        source.challenge = Some(ChallengeRule { origins, rate: Some(120), ..rule });
    });
    let asks = [("webhook-request-origin", "EventEmitter.example.com"), ("webhook-request-rate", "1000")];
    let answer = asked(&some, options(&asks)).await;
    assert_eq!((answer.status, told(&answer.headers)), (200, granted("eventemitter.example.com", "120")));

    let answer = some.ask(options(&[("webhook-request-origin", "other.example.com")])).await;
    assert_eq!((answer.status, told(&answer.headers)), (405, (Some("POST".to_owned()), None, None)));
    assert_eq!(some.last_reason(), "origin_not_allowed");
    assert_eq!(some.ask(options(&[])).await.status, 405);
}

#[tokio::test]
async fn a_source_that_does_not_know_the_challenge_does_not_answer_it() {
    let door = door(|_| {});
    for target in ["/in?challenge=x", "/in?crc_token=x", "/in?hub.mode=subscribe&hub.challenge=1&hub.verify_token="] {
        assert_eq!(door.ask(get(target)).await.status, 405);
    }
    assert_eq!(door.ask(post("/in", r#"{"type":"url_verification","challenge":"x"}"#)).await.status, 202);
}

#[tokio::test]
async fn a_client_from_elsewhere_is_403_whatever_it_asks_and_trusted_proxies_are_believed() {
    let mut door = door(|source| {
        source.guard = Some(Guard { allow: Some(vec!["192.0.2.0/24".parse().unwrap()]), certificate: None });
        source.challenge = Some(ChallengeRule::new(Challenge::Dropbox));
    });
    assert_eq!(door.ask(post("/in", "x")).await.status, 202);
    let cases: [(Option<&str>, &[&str], u16); 6] = [
        (Some("198.51.100.7:1"), &[], 403),
        (Some("198.51.100.7:1"), &["192.0.2.1"], 403),
        (Some("10.0.0.1:1"), &["192.0.2.1"], 202),
        (Some("10.0.0.1:1"), &["198.51.100.7"], 403),
        (Some("10.0.0.1:1"), &[], 403),
        (None, &[], 403),
    ];
    for (peer, forwarded, expected) in cases {
        door.caller = Arc::new(Caller::new(peer.map(|peer| peer.parse().unwrap()), false));
        let mut request = post("/in", "x");
        for hop in forwarded {
            request.headers_mut().append("x-forwarded-for", hop.parse().unwrap());
        }
        assert_eq!(door.ask(request).await.status, expected, "{peer:?} {forwarded:?}");
    }
    assert_eq!(door.ask(get("/in?challenge=x")).await.status, 403, "a challenge is under the same conditions");
    assert_eq!(door.last_reason(), "address_not_allowed");
}

#[tokio::test]
async fn a_certificate_is_asked_for_beside_the_signature() {
    let mut door = door(|source| {
        source.verifier = verifier();
        let names = vec!["client.example".into()];
        source.guard =
            Some(Guard { allow: None, certificate: Some(CertificateRule { names, ..CertificateRule::default() }) });
    });
    let peer = Some("192.0.2.1:1".parse().unwrap());
    let certified = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Arc::new(Caller::new(peer, true).with_certificate(Some(certificate.der())))
    };
    assert_eq!(door.ask(signed_post("x")).await.status, 403);
    assert_eq!(door.last_reason(), "client_certificate_not_allowed");
    door.caller = certified("other.example");
    assert_eq!(door.ask(signed_post("x")).await.status, 403);
    door.caller = certified("client.example");
    assert_eq!(door.ask(signed_post("x")).await.status, 202);
    assert_eq!(door.ask(post("/in", "x")).await.status, 401);
}

#[tokio::test]
async fn a_secret_segment_is_compared_and_kept_nowhere() {
    const RIGHT: &str = "s3cr3t-s3gm3nt";
    let door = door_at("/t/{tenant}/{secret}/*", |source| {
        let secrets = vec![secret("env:NEW", RIGHT), secret("env:OLD", "0ld-s3gm3nt")];
        source.verifier = Verifier::path(2, secrets).unwrap();
    });
    let answer = door.ask(post(&format!("/t/acme/{RIGHT}/in?a=1"), "x")).await;
    assert_eq!(answer.status, 202);
    let event = door.log.event(0);
    assert_eq!((&*event.path, event.query.as_deref()), ("/t/acme/{secret}/in", Some("a=1")));
    assert_eq!(event.captures, [("tenant".into(), "acme".into())]);
    assert_eq!((&*event.verification.scheme, event.verification.secret.as_deref()), ("path", Some("env:NEW")));
    assert_eq!(door.ask(post("/t/acme/0ld-s3gm3nt/in", "x")).await.status, 202);
    assert_eq!(door.log.event(1).verification.secret.as_deref(), Some("env:OLD"));

    let unknown = door.ask(post("/nobody", "x")).await;
    for wrong in ["wrong", "s3cr3t-s3gm3n", "s3cr3t-s3gm3nt%20", "S3CR3T-S3GM3NT"] {
        let answer = door.ask(post(&format!("/t/acme/{wrong}/in"), "x")).await;
        assert_eq!((answer.status, &answer.body), (404, &unknown.body), "{wrong}");
        assert_eq!(answer.headers, unknown.headers, "{wrong}");
    }
    // Where no source is found, or the request is no good: the segment is not shown either.
    let odd = [
        (post(&format!("/t/acme/{RIGHT}"), "x"), 404),
        (post(&format!("/t/acme/{RIGHT}/a/../b"), "x"), 400),
        (post("/t/acme/wrong/a/../b", "x"), 404),
        (Request::put(format!("/t/acme/{RIGHT}/in")).body(Full::default()).unwrap(), 400),
        (Request::put(format!("/t/acme/{RIGHT}/in")).header("host", "h").body(Full::default()).unwrap(), 405),
    ];
    for (request, expected) in odd {
        assert_eq!(door.ask(request).await.status, expected);
    }
    assert_eq!(door.log.appended(), 2);
    let refused = door.ingress.refused().after(0);
    assert_eq!(refused.len(), 10);
    for request in &refused {
        for part in ["s3gm3n", "S3GM3N", "wrong"] {
            assert!(!request.path.contains(part), "{request:?}");
        }
    }
    assert!(refused.iter().any(|request| &*request.path == "/t/acme/{secret}/in"));
}

#[tokio::test]
async fn a_path_that_is_too_long_without_its_secret_is_not_taken_under_another_path() {
    let door = door_at("/{secret}/*", |source| {
        source.verifier = Verifier::path(0, vec![secret("env:S", "x")]).unwrap();
    });
    // A target has at most 65,534 bytes, and `{secret}` is longer than the secret.
    let path = |length: usize| format!("/x/{}", "a".repeat(length - 3));
    assert_eq!(door.ask(post(&path(65_527), "")).await.status, 202);
    assert_eq!(door.ask(post(&path(65_528), "")).await.status, 404);
    assert_eq!((door.log.appended(), door.last_reason()), (1, "wrong_path_secret"));
    assert_eq!(door.log.event(0).path.len(), 65_534);
}
