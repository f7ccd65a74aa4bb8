//! Owns the tests of the `accepted` entry.

use super::*;
use crate::event::Pos;

#[test]
fn an_event_keeps_the_proxy_that_handed_it_over_and_its_dedupe_key_is_found_behind_it() {
    let through = Proxy { address: "10.0.0.1".into(), scheme: Scheme::Https };
    for (scheme, proxy) in [
        (Scheme::Http, None),
        (Scheme::Https, None),
        (Scheme::Http, Some(&through)),
        (Scheme::Https, Some(&Proxy { scheme: Scheme::Http, ..through.clone() })),
    ] {
        let extras = proxy.map(|_| Extras { tenant: Some("acme".into()), item: Some(3), ..Extras::default() });
        let accepting = Accepting {
            received_at: Timestamp::from_millis(7),
            source: "app",
            event_type: Some("a"),
            method: &Method::POST,
            scheme,
            path: "/t/x",
            query: None,
            headers: &HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("h"))]),
            client: "203.0.113.9",
            proxy,
            captures: &[("tenant".into(), "x".into())],
            verification_scheme: "none",
            verification_secret: Some("env:S"),
            config_generation: 1,
            dedupe: Some((5, Timestamp::from_millis(9), 6)),
            extras: extras.as_ref(),
            body: Some(&[Bytes::from_static(b"body")]),
            body_length: 4,
        };
        let payload = accepting.encode();
        let id = EventId { time: Timestamp::ZERO, pos: Pos { partition: 0, seq: 1 } };
        let event = decode_accepted(id, &payload, &[]).unwrap();
        assert_eq!((event.scheme, event.proxy.as_ref()), (scheme, proxy));
        assert_eq!(event.extras.as_deref(), extras.as_ref());
        assert_eq!((&*event.client, event.captures.len()), ("203.0.113.9", 1));
        assert_eq!(dedupe_of(&payload).map(|key| (key.fingerprint, key.body)), Some((5, 6)));
    }
}
