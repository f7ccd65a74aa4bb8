//! What senders are answered when something is wrong with the request, and that nothing of it is stored.

use crate::harness::{Answer, Connection, Relay, Request, Upstream, wait_until};

const LIMITED: &str = r#"
    [server]
    header_timeout = "300ms"
    body_idle_timeout = "300ms"
    max_header = "8KiB"

    [source.app]
    path = "/hooks/app"
    methods = ["POST"]
    max_body = "1000B"
    to = []

    [source.tree]
    path = "/tree/*"
    to = []
"#;

fn answered(relay: &Relay, wire: impl AsRef<[u8]>) -> u16 {
    let mut connection = Connection::open(relay.address());
    connection.write(wire).unwrap();
    connection.read().unwrap().status
}

fn assert_nothing_is_stored(relay: &Relay) {
    assert_eq!(relay.events(), Vec::<serde_json::Value>::new());
}

#[test]
fn an_unknown_path_is_404_before_the_body_is_read() {
    let relay = Relay::start(LIMITED);
    let mut connection = Connection::open(relay.address());
    connection.write("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").unwrap();
    let answer = connection.read().unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], 404);
    assert_nothing_is_stored(&relay);
}

#[test]
fn a_method_that_is_not_listed_is_405_with_allow() {
    let relay = Relay::start(LIMITED);
    let answer = relay.send(&Request::new("PUT", "/hooks/app"));
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    for method in ["TRACE", "CONNECT"] {
        let target = if method == "CONNECT" { "a:443" } else { "/tree/x" };
        let status = relay.send(&Request::new(method, target)).status;
        assert_eq!(status, 405, "{method}");
    }
    assert_nothing_is_stored(&relay);
}

#[test]
fn one_byte_over_the_limit_is_413_whether_declared_or_not_and_one_less_is_taken() {
    let relay = Relay::start(LIMITED);
    assert_eq!(relay.send(&Request::post("/hooks/app", [b'x'; 1000])).status, 202);

    let mut declared = Connection::open(relay.address());
    declared.write("POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").unwrap();
    assert_eq!(declared.read().unwrap().status, 413, "refused before a byte of the body came");

    let chunked = |length: usize| {
        let head = "POST /hooks/app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length))
    };
    assert_eq!(answered(&relay, chunked(1001)), 413);
    assert_eq!(answered(&relay, chunked(1000)), 202);
    assert_eq!(relay.events().len(), 2);
}

#[test]
fn a_header_block_that_is_too_large_is_431() {
    let relay = Relay::start(LIMITED);
    let answer = relay.send(&Request::post("/hooks/app", "x").header("X-Large", "v".repeat(9_000)));
    assert_eq!(answer.status, 431);
    assert_nothing_is_stored(&relay);
}

#[test]
fn malformed_requests_are_400_and_never_stored() {
    let relay = Relay::start(LIMITED);
    for wire in [
        "nonsense\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a b\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a/b\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: user@a\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a:b\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /hooks/app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /tree/a/../b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST /tree/a/%2e%2E/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(answered(&relay, wire), 400, "{wire:?}");
    }
    assert_nothing_is_stored(&relay);
}

#[test]
fn nothing_is_smuggled_behind_a_request_with_two_framings() {
    let relay = Relay::start(LIMITED);
    let hidden = "POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nSMUGGLED";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ] {
        let mut connection = Connection::open(relay.address());
        connection.write(format!("POST /tree/x HTTP/1.1\r\nHost: a\r\n{framing}{hidden}")).unwrap();
        let status = connection.read().unwrap().status;
        assert!(status == 400 || status == 202, "{framing:?} gave {status}");
        connection.finish_sending();
        assert!(connection.is_closed(), "the connection stayed open after {framing:?}");
    }
    for event in relay.events() {
        assert_eq!((event["path"].as_str(), event["size"].as_u64()), (Some("/tree/x"), Some(0)), "{event}");
    }
}

#[test]
fn a_second_request_on_the_same_connection_is_taken_too() {
    let relay = Relay::start(LIMITED);
    let mut connection = Connection::open(relay.address());
    let request = Request::post("/hooks/app", "x");
    let first = connection.send(&request);
    let second = connection.send(&request);
    assert_eq!((first.status, second.status), (202, 202));
    assert_ne!(first.text(), second.text());
}

#[test]
fn senders_that_are_too_slow_are_told_so_with_408() {
    let relay = Relay::start(LIMITED);
    assert_eq!(answered(&relay, "POST /hooks/app HTTP/1.1\r\nHost: a\r\nX-Slow: "), 408);
    assert_eq!(answered(&relay, "POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfour"), 408);
    assert_nothing_is_stored(&relay);
}

#[test]
fn a_client_that_hangs_up_in_the_middle_of_its_body_leaves_nothing() {
    let relay = Relay::start(&LIMITED.replace("body_idle_timeout = \"300ms\"", ""));
    let mut connection = Connection::open(relay.address());
    connection.write("POST /hooks/app HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfour").unwrap();
    drop(connection);
    wait_until("the hang-up is noticed", || relay.cli(&["refused", "--json"]).out.contains("disconnected"));
    assert_nothing_is_stored(&relay);
}

#[test]
fn grpc_is_415() {
    let relay = Relay::start(LIMITED);
    for kind in ["application/grpc", "application/grpc+proto"] {
        assert_eq!(relay.send(&Request::post("/hooks/app", "x").header("Content-Type", kind)).status, 415);
    }
    assert_nothing_is_stored(&relay);
}

#[test]
fn a_client_that_waits_for_100_gets_it_only_when_its_request_will_be_read() {
    let relay = Relay::start(LIMITED);
    let head = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    for (path, length, status) in [("/nowhere", 4, 404), ("/hooks/app", 1001, 413)] {
        assert_eq!(answered(&relay, head(path, length)), status);
    }
    let mut connection = Connection::open(relay.address());
    connection.write(head("/hooks/app", 4)).unwrap();
    assert_eq!(connection.read().unwrap().status, 100);
    connection.write("body").unwrap();
    assert_eq!(connection.read().unwrap().status, 202);
}

#[test]
fn a_source_may_answer_in_its_own_words() {
    let relay = Relay::start(
        r#"
        [source.app]
        path = "/in"
        to = []
        dedupe = { header = "X-Id" }
        reply = { status = 201, headers = { X-Answer = "mine" }, body = "thanks" }
        "#,
    );
    let request = Request::post("/in", "x").header("X-Id", "1");
    for duplicate in [None, Some("true")] {
        let answer = relay.send(&request);
        assert_eq!((answer.status, answer.text().as_str()), (201, "thanks"));
        assert_eq!(answer.header("x-answer"), Some("mine"));
        assert!(answer.header("stagepost-event-id").is_some());
        assert_eq!(answer.header("stagepost-duplicate"), duplicate);
    }
}

#[test]
fn a_get_is_handed_through_once_and_the_senders_answer_is_the_upstreams() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(404, vec![("X-From", "upstream".into())], "not there"));
    let relay = Relay::zero_config(&upstream.url());
    let answer = relay.send(&Request::get("/thing?x=1"));
    assert_eq!((answer.status, answer.text().as_str()), (404, "not there"));
    assert_eq!(answer.header("x-from"), Some("upstream"));
    let id = answer.header("stagepost-event-id").unwrap();
    relay.wait_for_state(id, "ignored");
    assert_eq!(upstream.received().len(), 1);
    upstream.stop();
    assert_eq!(relay.send(&Request::get("/thing")).status, 502);
}

#[test]
fn an_answer_that_cannot_be_handed_through_is_502_and_the_reason_is_told() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.a]\npath = \"/a\"\nto = [\"u\"]\n[upstream.u]\nurl = \"{}\"\nmax_reply = \"10B\"\n",
        upstream.url()
    ));
    let upgrade = vec![("Connection", "upgrade".into()), ("Upgrade", "websocket".into())];
    for (answer, status, reason) in [
        (Answer::With(101, upgrade, ""), 502, "101 Switching Protocols"),
        (Answer::With(200, Vec::new(), "longer than max_reply"), 200, ""),
    ] {
        upstream.answer(answer.clone());
        let got = relay.send(&Request::get("/a"));
        assert_eq!(got.status, status, "{answer:?}");
        assert!(got.header("upgrade").is_none());
        relay.wait_for_diagnostics(reason);
    }
}

#[test]
fn trailers_are_dropped_and_counted() {
    let relay = Relay::start(LIMITED);
    let wire = "POST /hooks/app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n";
    assert_eq!(answered(&relay, wire), 202);
    assert_eq!(relay.metric("stagepost_trailers_dropped_total") as u64, 1);
}

#[test]
fn refused_requests_are_listed_with_reason_source_and_size() {
    let relay = Relay::start(LIMITED);
    relay.send(&Request::post("/nowhere", "x"));
    relay.send(&Request::new("PUT", "/hooks/app"));
    let lines = relay.cli(&["refused", "--json"]).done().lines();
    let told: Vec<_> = lines.iter().map(|line| (line["reason"].clone(), line["status"].clone())).collect();
    assert_eq!(told, [("not_found".into(), 404.into()), ("method_not_allowed".into(), 405.into())]);
    assert_eq!(lines[1]["source"], "app");
    assert_eq!(lines[0]["client"], "127.0.0.1");
    let table = relay.cli(&["refused"]).done().out;
    assert!(table.contains("REASON") && table.contains("POST /nowhere"), "{table}");
}

#[test]
fn bodies_beyond_the_budget_are_503_with_retry_after_and_the_budget_comes_back() {
    let relay =
        Relay::start("[server]\nmax_body = \"1MiB\"\nspool_size = \"1MiB\"\n[source.a]\npath = \"/a\"\nto = []\n");
    let body = vec![b'x'; 1_000_000];
    let mut first = Connection::open(relay.address());
    first.write(format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).unwrap();
    first.write(&body[..900_000]).unwrap();
    wait_until("the first body is in the spool", || relay.metric("stagepost_spool_bytes") > 500_000.0);
    let answer = relay.send(&Request::post("/a", &body));
    assert_eq!(answer.status, 503);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=30).contains(&seconds));
    relay.accept("/a", "small bodies need no spool");
    first.write(&body[900_000..]).unwrap();
    assert_eq!(first.read().unwrap().status, 202);
    wait_until("the budget comes back", || relay.send(&Request::post("/a", &body)).status == 202);
}

#[test]
fn an_upstream_that_is_late_with_a_get_is_504() {
    let upstream = Upstream::start();
    upstream.answer(Answer::HangBeforeHead);
    let relay = Relay::start(&format!(
        "[source.a]\npath = \"/a\"\nto = [\"u\"]\nreply_timeout = \"300ms\"\n[upstream.u]\nurl = \"{}\"\n",
        upstream.url()
    ));
    assert_eq!(relay.send(&Request::get("/a")).status, 504);
}

#[test]
fn a_trusted_proxy_is_believed_and_nobody_else() {
    let upstream = Upstream::start();
    let config = |trusted: &str| {
        format!(
            "[server]\ntrusted_proxies = [{trusted}]\n[source.a]\npath = \"/a\"\nto = [\"u\"]\n[upstream.u]\nurl = \"{}\"\n",
            upstream.url()
        )
    };
    let request = Request::post("/a", "x").header("X-Forwarded-For", "203.0.113.9");
    for (number, trusted, client) in [(1, "", "127.0.0.1"), (2, "\"127.0.0.0/8\"", "203.0.113.9")] {
        let relay = Relay::start(&config(trusted));
        let answer = relay.send(&request);
        let got = upstream.wait_for_requests(number);
        let told = got.last().unwrap().header("x-forwarded-for").unwrap();
        assert!(told.starts_with(client), "{told}");
        assert_eq!(relay.show(answer.header("stagepost-event-id").unwrap())["client"], client);
    }
}

#[test]
fn a_balancer_says_by_the_proxy_protocol_who_connects() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n[source.s]\npath = \"/in\"\nto = [\"app\"]\n\
         allow = [\"203.0.113.0/24\", \"127.0.0.1\"]\n[upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    ));
    let second = |source: [u8; 4]| {
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &source, &[10, 0, 0, 1, 0x1f, 0x90, 0, 80]].concat()
    };
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let cases = [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80\r\n".to_vec(), 202, "203.0.113.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), 202, "127.0.0.1"),
        (second([203, 0, 113, 8]), 202, "203.0.113.8"),
        (local, 202, "127.0.0.1"),
        (second([198, 51, 100, 7]), 403, "198.51.100.7"),
    ];
    for (number, (header, status, client)) in cases.into_iter().enumerate() {
        let mut connection = Connection::open(relay.address());
        connection.write(&header).unwrap();
        let request = Request::post("/in", format!("body {number}")).header("X-Forwarded-For", "192.0.2.1");
        for _twice in 0..2 {
            assert_eq!(connection.send(&request).status, status, "{client}");
        }
        if status == 202 {
            let body = format!("body {number}");
            wait_until("both are delivered", || {
                let received = upstream.received();
                let mut own = received.iter().filter(|got| got.text() == body);
                own.clone().count() == 2 && own.all(|got| got.header("x-forwarded-for") == Some(client))
            });
        }
    }
    for header in [&b""[..], b"PROXY TCP4 203.0.113.9\r\n", b"PROXY UDP4 203.0.113.9 10.0.0.1 8080 80\r\n"] {
        let mut connection = Connection::open(relay.address());
        let _closed = connection.write([header, &Request::post("/in", "x").wire()].concat());
        assert!(connection.read().is_err(), "nothing is answered");
    }
    let refused = relay.cli(&["refused", "--json"]).done().lines();
    let reasons: Vec<&str> = refused.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "not_proxied").count(), 3, "{reasons:?}");
    assert!(refused.iter().any(|line| line["client"] == "198.51.100.7"), "{refused:?}");
}
