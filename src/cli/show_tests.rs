//! The forms of one event.

use super::*;
use crate::admin::wire::Text;

fn shown() -> Show {
    serde_json::from_str(include_str!("../admin/show.golden.json")).unwrap()
}

#[test]
fn the_page_tells_the_event_and_every_attempt() {
    let page = page(&shown(), false);
    for part in [
        "Event      01KDYAK3SF0000000000000001",
        "Request    POST /hooks/stripe?a=1 (https)",
        "Verified   verified by stripe, secret env:STRIPE_SECRET",
        "  authorization: [hidden]",
        "  x-bytes: \\xff",
        "  billing  delivered",
        "      1  2026-01-02T03:04:05.678Z  delivered  200       12 ms  http://127.0.0.1:3000/hooks/stripe",
        "answer: ok",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[test]
fn attempts_that_cannot_be_read_are_named_and_the_rest_is_shown_with_exit_code_1() {
    let mut show = shown();
    assert_eq!(whole_or_partly(&show), Exit::Done);
    let delivery = &mut show.event.deliveries[0];
    delivery.attempts_total = 3;
    delivery.damaged = Some("0001.seg is damaged".into());
    let page = page(&show, false);
    assert!(page.contains("delivered  200") && page.contains("missing attempts: 2"), "{page}");
    assert!(page.contains("can't be read: 0001.seg is damaged"), "{page}");
    assert_eq!(whole_or_partly(&show), Exit::Partly);
}

#[test]
fn a_hostile_request_does_not_reach_the_terminal() {
    let mut show = shown();
    show.event.path = "/\u{1b}]0;title\u{7}".into();
    show.event.event_type = Some("x\ny".into());
    show.event.deliveries[0].attempts[0].excerpt = Text::Plain("\u{1b}[2Jgone".into());
    let page = page(&show, false);
    assert!(!page.contains('\u{1b}') && !page.contains('\u{7}'), "{page:?}");
    assert!(page.contains("Type       x\\x0ay"));
}

#[test]
fn the_request_is_given_as_http() {
    let text = String::from_utf8_lossy(&http(&shown(), b"{}")).into_owned();
    assert!(text.starts_with("POST /hooks/stripe?a=1 HTTP/1.1\r\nhost: relay.example\r\nx-kind: test\r\n"), "{text}");
    assert!(text.ends_with("content-length: 2\r\n\r\n{}"), "{text}");
}

#[test]
fn the_command_for_curl_is_safe_in_a_shell() {
    let mut show = shown();
    show.headers = vec![
        ("host".into(), Text::Plain("relay.example".into())),
        ("content-type".into(), Text::Plain("text/plain".into())),
        ("x-quote".into(), Text::Plain("it's $(touch /tmp/x) `id`".into())),
        ("x-empty".into(), Text::Plain(String::new())),
        ("x-bytes".into(), Text::new(b"\xff'\\")),
    ];
    let command = curl(&show, b"@file it's");
    let expected = concat!(
        "curl --globoff --path-as-is -X 'POST' -H 'content-type: text/plain' ",
        r"-H 'x-quote: it'\''s $(touch /tmp/x) `id`' -H 'x-empty;' ",
        r#"-H "$(printf '%b' 'x-bytes: \0377\0047\0134')" -H 'accept:' -H 'user-agent:' "#,
        r"--data-raw '@file it'\''s' --url 'https://relay.example/hooks/stripe?a=1'",
    );
    assert_eq!(command, expected);
}

#[test]
fn a_body_that_cannot_be_typed_travels_as_base64() {
    for body in [&b"\x00\xff"[..], b"a\rb", b"\x1b[2J"] {
        let command = curl(&shown(), body);
        let expected = format!("printf %s '{}' | base64 -d | curl ", STANDARD.encode(body));
        assert!(command.starts_with(&expected) && command.contains(" --data-binary @- "), "{command}");
    }
}
