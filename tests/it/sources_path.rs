//! Sources whose path holds the secret: it opens the door and is seen nowhere behind it.

use crate::harness::{Relay, Request, Upstream};

const SECRET: &str = "5e9c0f3a77d1b2c4";

fn relay(upstream: &Upstream, mode: &str) -> Relay {
    let url = upstream.url();
    let mut relay = Relay::stopped(&format!(
        r#"
        [diagnostics]
        level = "debug"
        access = "all"

        [source.hidden]
        path = "/hooks/{{tenant}}/{{secret}}/*"
        methods = {mode}
        verify = {{ scheme = "path", secrets = ["env:NEW", "env:OLD"] }}
        to = ["app"]

        [upstream.app]
        url = "{url}"
        "#
    ));
    relay.environment("NEW", SECRET);
    relay.environment("OLD", "0123456789abcdef");
    relay.run();
    relay
}

#[test]
fn a_secret_segment_is_seen_by_nobody_behind_the_door() {
    let upstream = Upstream::start();
    let relay = relay(&upstream, r#"["POST", "GET"]"#);
    let first = relay.accept(&format!("/hooks/acme/{SECRET}/in/a?b=1"), "{}");
    let second = relay.accept("/hooks/acme/0123456789abcdef/in", "{}");
    let shown = relay.wait_for_state(&first, "delivered");
    assert_eq!(shown["path"], "/hooks/acme/{secret}/in/a");
    assert_eq!(shown["verification"]["secret"], "env:NEW");
    assert_eq!(relay.wait_for_state(&second, "delivered")["verification"]["secret"], "env:OLD");
    let read = relay.send(&Request::get(&format!("/hooks/acme/{SECRET}/read")));
    assert_eq!(read.status, 200);

    let mut targets: Vec<String> = upstream.wait_for_requests(3).iter().map(|request| request.target.clone()).collect();
    targets.sort();
    assert_eq!(targets, ["/hooks/acme/in", "/hooks/acme/in/a?b=1", "/hooks/acme/read"]);

    for request in [
        Request::post(&format!("/hooks/acme/{SECRET}"), "x"),
        Request::post(&format!("/hooks/acme/{SECRET}/a/../b"), "x"),
        Request::new("PUT", &format!("/hooks/acme/{SECRET}/in")),
        Request::post(&format!("/other/{SECRET}"), "x"),
    ] {
        assert!((400..500).contains(&relay.send(&request).status), "{request:?}");
    }
    let said = [
        relay.cli(&["log", "--json"]).done().out,
        relay.cli(&["log"]).done().out,
        relay.cli(&["show", &first]).done().out,
        relay.cli(&["show", &first, "--json"]).done().out,
        relay.cli(&["show", &first, "--http"]).done().out,
        relay.cli(&["show", &first, "--curl"]).done().out,
        relay.cli(&["show", &first, "--json", "--reveal"]).done().out,
        relay.cli(&["explain", &first]).done().out,
        relay.cli(&["refused", "--json"]).done().out,
        relay.ask_admin("/metrics").text(),
        relay.diagnostics(),
    ];
    for text in &said {
        assert!(!text.contains(SECRET) && !text.contains("0123456789abcdef"), "{text}");
    }
    assert!(said[0].contains("/hooks/acme/{secret}/in") && said[8].contains("/hooks/acme/{secret}/in"));
    for request in upstream.wait_for_requests(3) {
        assert!(request.headers.iter().all(|(_, value)| !value.contains(SECRET)), "{request:?}");
    }
}

#[test]
fn a_wrong_segment_is_answered_like_a_path_that_nobody_has() {
    let upstream = Upstream::start();
    let relay = relay(&upstream, r#"["POST"]"#);
    let unknown = relay.send(&Request::post("/nobody/has/this", "x"));
    for wrong in ["wr0ng", &SECRET[1..], &format!("{SECRET}x"), &SECRET.to_uppercase()] {
        for method in ["POST", "GET"] {
            let answer = relay
                .send(&Request { body: b"x".to_vec(), ..Request::new(method, &format!("/hooks/acme/{wrong}/in")) });
            let same = |headers: &[(String, String)]| -> Vec<(String, String)> {
                headers.iter().filter(|(name, _)| name != "date").cloned().collect()
            };
            assert_eq!((answer.status, &answer.body), (404, &unknown.body), "{wrong}");
            assert_eq!(same(&answer.headers), same(&unknown.headers), "{wrong}");
        }
        assert!(!relay.cli(&["refused", "--json"]).done().out.contains(wrong), "{wrong}");
    }
    assert!(relay.events().is_empty());
}
