//! Shadows: copies that are compared and change nothing.

use crate::harness::{Answer, Relay, Upstream, wait_until};

fn shadowed(real: &Upstream, shadow: &str, more: &str) -> Relay {
    Relay::start(&format!(
        "[source.in]\npath = \"/*\"\nto = [\"billing\"]\n\
         [upstream.billing]\nurl = \"{}\"\nretry = {{ schedule = [\"100ms\"], jitter = 0.0, give_up_after = \"1h\" }}\n\
         headers = {{ X-Key = \"real\" }}\n\
         [upstream.next]\nurl = \"{shadow}/v2\"\nshadow = true\nshadow_of = \"billing\"\n{more}\n",
        real.url()
    ))
}

fn count(relay: &Relay, result: &str) -> f64 {
    relay.metric(&format!("stagepost_shadow_total{{upstream=\"next\",result=\"{result}\"}}"))
}

#[test]
fn a_shadow_gets_a_copy_of_what_was_answered_and_the_answers_are_compared() {
    let (real, shadow) = (Upstream::start(), Upstream::start());
    let relay = shadowed(&real, &shadow.url(), "");
    let id = relay.accept("/x?a=1", "one");
    let got = shadow.wait_for_requests(1).remove(0);
    assert_eq!((got.target.as_str(), got.text().as_str()), ("/v2/x?a=1", "one"));
    assert_eq!((got.header("stagepost-shadow"), got.header("stagepost-event-id")), (Some("1"), Some(id.as_str())));
    assert_eq!(got.header("x-key"), None, "the credentials of the real one stay with it");
    wait_until("the answers are compared", || count(&relay, "same") == 1.0);
    shadow.answer(Answer::With(200, Vec::new(), "other"));
    relay.accept("/x", "two");
    wait_until("another body is noticed", || count(&relay, "differs") == 1.0);
    shadow.answer(Answer::Status(500));
    relay.accept("/x", "three");
    wait_until("another status is noticed", || count(&relay, "differs") == 2.0);
    let explained = relay.cli(&["explain", &id]).done().out;
    assert!(explained.contains("A copy of what billing answered is sent to next once at most"), "{explained}");
    assert_eq!(relay.show(&id)["deliveries"].as_array().unwrap().len(), 1, "a shadow has no delivery");
    assert!(relay.upstream("next").is_null());
}

#[test]
fn a_shadow_that_is_down_is_never_tried_again_and_holds_nothing_back() {
    let (real, shadow) = (Upstream::start(), Upstream::start());
    let url = shadow.url();
    shadow.stop();
    let relay = shadowed(&real, &url, "");
    let id = relay.accept("/x", "one");
    relay.wait_for_state(&id, "delivered");
    wait_until("the copy fails", || count(&relay, "failed") == 1.0);
    assert_eq!(real.received().len(), 1);
}

#[test]
fn what_is_tried_again_or_replayed_is_copied_once() {
    let (real, shadow) = (Upstream::start(), Upstream::start());
    let mut left = 2;
    real.script(move |_| {
        left -= i32::from(left > 0);
        if left > 0 { Answer::Status(503) } else { Answer::Status(200) }
    });
    let relay = shadowed(&real, &shadow.url(), "");
    let id = relay.accept("/x", "one");
    relay.wait_for_state(&id, "delivered");
    shadow.wait_for_requests(1);
    relay.cli(&["replay", &id]).done();
    real.wait_for_requests(3);
    let last = relay.accept("/x", "last");
    let got = shadow.wait_for_requests(2);
    let ids: Vec<_> = got.iter().map(|request| request.header("stagepost-event-id").unwrap()).collect();
    assert_eq!(ids, [id.as_str(), last.as_str()]);
}

#[test]
fn copies_beyond_shadow_memory_are_dropped_and_counted() {
    let (real, shadow) = (Upstream::start(), Upstream::start());
    shadow.answer(Answer::HangBeforeHead);
    let relay = shadowed(&real, &shadow.url(), "shadow_memory = \"1MiB\"\nconcurrency = 1\n");
    let body = "x".repeat(700 * 1024);
    for _ in 0..2 {
        let id = relay.accept("/x", &body);
        relay.wait_for_state(&id, "delivered");
    }
    wait_until("one is dropped", || count(&relay, "dropped") == 1.0);
}
