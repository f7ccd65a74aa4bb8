//! What the relay makes of an upstream's answers and silences, and that one upstream's trouble is nobody else's.

use crate::harness::{Answer, Relay, Request, Upstream, all_to, free_port, wait_until};

/// A source for all, and two upstreams: one with the given keys, one that works.
fn two(first: &str, settings: &str, second: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["first", "second"]

        [upstream.first]
        url = "{first}"
        {settings}

        [upstream.second]
        url = "{second}"
        "#
    )
}

const SOON: &str = "retry = { schedule = [\"100ms\"], jitter = 0.0, give_up_after = \"1h\" }";

#[test]
fn an_upstream_that_answers_500_gets_the_event_again_until_it_recovers() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(500));
    let relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "body");
    upstream.wait_for_requests(2);
    upstream.answer(Answer::Status(204));
    let shown = relay.wait_for_state(&id, "delivered");
    let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
    let (last, earlier) = attempts.split_last().unwrap();
    assert!(earlier.len() >= 2);
    for (number, attempt) in earlier.iter().enumerate() {
        assert_eq!(attempt["number"].as_u64(), Some(number as u64 + 1));
        assert_eq!((attempt["outcome"].as_str(), attempt["status"].as_u64()), (Some("deferred"), Some(500)));
        assert_eq!(attempt["excerpt"], "ok");
    }
    assert_eq!((last["outcome"].as_str(), last["status"].as_u64()), (Some("delivered"), Some(204)));
    let got = upstream.received();
    let keys: Vec<_> = got.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    let numbers: Vec<_> = got.iter().map(|request| request.header("stagepost-attempt").unwrap().to_owned()).collect();
    assert_eq!(numbers, (1..=got.len()).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_upstream_that_is_not_there_yet_gets_its_events_when_it_is() {
    let port = free_port();
    let relay = Relay::start(&two(&format!("http://127.0.0.1:{port}"), SOON, "http://127.0.0.1:1"));
    let id = relay.accept("/x", "patient");
    wait_until("a connection was refused", || {
        relay.show(&id)["deliveries"].to_string().contains("\"outcome\":\"deferred\"")
    });
    let upstream = Upstream::at(port);
    assert_eq!(upstream.wait_for_requests(1)[0].text(), "patient");
}

#[test]
fn a_guarded_name_that_leads_to_a_private_address_is_never_connected_to() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(204));
    let port = upstream.url().rsplit(':').next().unwrap().to_owned();
    let config = |guard: &str| {
        format!(
            "[source.app]\npath = \"/*\"\nto = [\"next\"]\n[upstream.next]\nurl = \"http://localhost:{port}\"\n\
             retry = {{ schedule = [\"50ms\"], jitter = 0.0 }}\n{guard}\n"
        )
    };
    let relay = Relay::start(&config("guard = true"));
    let id = relay.accept("/x", "x");
    let shown = relay.wait_for_state(&id, "dead");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("address_refused") && reason.contains("loopback"), "{reason}");
    assert!(upstream.received().is_empty());
    wait_until("the metric tells it", || relay.metric("stagepost_addresses_refused_total{upstream=\"next\"}") > 1.5);

    let allowed = Relay::start(&config("guard = true\nguard_allow = [\"127.0.0.0/8\", \"::1\"]"));
    let id = allowed.accept("/x", "x");
    allowed.wait_for_state(&id, "delivered");
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn a_schedule_that_ends_leaves_the_delivery_dead() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let relay = Relay::start(&all_to(&upstream).replace(", give_up_after = \"1h\"", ""));
    let id = relay.accept("/x", "x");
    let shown = relay.wait_for_state(&id, "dead");
    let delivery = &shown["deliveries"][0];
    assert!(delivery["reason"].as_str().unwrap().contains("given_up"), "{delivery}");
    assert_eq!(delivery["attempts_total"], 2);
    wait_until("the metric tells it", || relay.metric("stagepost_dead{upstream=\"app\",reason=\"given_up\"}") > 0.5);
}

#[test]
fn an_answer_about_the_payload_is_final_and_never_opens_the_breaker() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(422, Vec::new(), "no such customer"));
    let relay = Relay::start(&all_to(&upstream));
    let ids: Vec<String> = (0..7).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        let shown = relay.wait_for_state(id, "dead");
        let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("422"), "{reason}");
    }
    assert_eq!(relay.upstream("app")["breaker"], "closed");
    assert_eq!(upstream.received().len(), 7);
}

#[test]
fn a_404_during_a_deploy_opens_the_breaker_and_nothing_stays_dead() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(404));
    let relay = Relay::start(&format!("{}\nbreaker = {{ failures = 5, cool_down = \"1s\" }}", all_to(&upstream)));
    let ids: Vec<String> = (0..12).map(|n| relay.accept("/x", format!("{n}"))).collect();
    wait_until("the breaker opens", || relay.metric("stagepost_breaker_state{upstream=\"app\"}") > 1.5);
    upstream.answer(Answer::Status(200));
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    wait_until("the breaker closes", || relay.upstream("app")["breaker"] == "closed");
}

#[test]
fn a_single_404_is_final() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(404));
    let relay = Relay::start(&all_to(&upstream));
    let shown = relay.wait_for_state(&relay.accept("/x", "x"), "dead");
    assert!(shown["deliveries"][0]["reason"].as_str().unwrap().contains("404 Not Found"));
}

#[test]
fn a_soft_bounce_turns_refusals_into_deferrals() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(400));
    let relay = Relay::start(&format!("{}\nsoft_bounce = true", all_to(&upstream)));
    let id = relay.accept("/x", "x");
    upstream.wait_for_requests(1);
    upstream.answer(Answer::Status(200));
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn a_redirect_is_refused_and_the_location_is_shown() {
    let (upstream, elsewhere) = (Upstream::start(), Upstream::start());
    let location = format!("{}/moved", elsewhere.url());
    upstream.answer(Answer::With(307, vec![("Location", location.clone())], ""));
    let relay = Relay::start(&all_to(&upstream));
    let shown = relay.wait_for_state(&relay.accept("/x", "x"), "dead");
    let reason = shown["deliveries"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("redirect") && reason.contains(&location), "{reason}");
    assert!(elsewhere.received().is_empty());
}

#[test]
fn an_upstream_that_hangs_or_resets_is_tried_again_and_delays_no_other() {
    let (broken, healthy) = (Upstream::start(), Upstream::start());
    let settings = format!(
        "timeout = \"300ms\"\nidle_timeout = \"300ms\"\nconcurrency = 2\n{SOON}\nbreaker = {{ failures = 1000 }}"
    );
    let relay = Relay::start(&two(&broken.url(), &settings, &healthy.url()));
    for (answer, word) in [(Answer::HangBeforeHead, "within 300 ms"), (Answer::Reset, "")] {
        let what = format!("{answer:?}");
        let before = healthy.received().len();
        broken.answer(answer);
        let ids: Vec<String> = (0..4).map(|n| relay.accept("/x", format!("{what} {n}"))).collect();
        // Each of them passes the healthy upstream while the other one still has it.
        healthy.wait_for_requests(before + ids.len());
        for id in &ids {
            wait_until(&format!("{what} is an attempt that is tried again"), || {
                let shown = relay.show(id);
                let deliveries = shown["deliveries"].as_array().unwrap();
                let of = |name: &str| deliveries.iter().find(|delivery| delivery["upstream"] == name).unwrap().clone();
                let first = &of("first")["attempts"][0];
                assert_ne!(first["outcome"], "delivered", "{what}: {shown:#}");
                first["outcome"] == "deferred"
                    && first["error"].as_str().unwrap_or("").contains(word)
                    && of("second")["state"] == "delivered"
            });
        }
        broken.answer(Answer::Status(200));
        for id in &ids {
            relay.wait_for_state(id, "delivered");
        }
    }
}

#[test]
fn an_answer_that_hangs_after_a_good_head_is_delivered_and_its_silence_is_told() {
    let upstream = Upstream::start();
    upstream.answer(Answer::HangAfterHead);
    let relay = Relay::start(&format!("{}\nidle_timeout = \"300ms\"\nconcurrency = 1", all_to(&upstream)));
    let (first, second) = (relay.accept("/x", "1"), relay.accept("/x", "2"));
    for id in [&first, &second] {
        let shown = relay.wait_for_state(id, "delivered");
        let attempt = &shown["deliveries"][0]["attempts"][0];
        assert_eq!((attempt["status"].as_u64(), attempt["excerpt"].as_str()), (Some(200), Some("half")));
        assert!(attempt["error"].as_str().unwrap().contains("stopped coming"), "{attempt}");
    }
}

#[test]
fn an_endless_answer_ends_and_only_its_beginning_is_kept() {
    let (endless, healthy) = (Upstream::start(), Upstream::start());
    endless.answer(Answer::EndlessBody);
    let relay = Relay::start(&two(&endless.url(), "timeout = \"1s\"", &healthy.url()));
    let id = relay.accept("/x", "x");
    healthy.wait_for_requests(1);
    wait_until("the endless answer is cut", || {
        let shown = relay.show(&id);
        let deliveries = shown["deliveries"].as_array().cloned().unwrap_or_default();
        // Its plan may not be visible yet.
        let Some(first) = deliveries.iter().find(|delivery| delivery["upstream"] == "first") else { return false };
        let excerpt = first["attempts"][0]["excerpt"].as_str().map_or(0, str::len);
        assert!(excerpt <= 16 * 1024, "{excerpt}");
        !first["attempts"].as_array().unwrap().is_empty()
    });
}

#[test]
fn a_429_with_retry_after_holds_the_whole_upstream_back() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(429, vec![("Retry-After", "2".into())], ""));
    let relay = Relay::start(&all_to(&upstream));
    let first = relay.accept("/x", "1");
    wait_until("the pause is known", || {
        relay.show(&first)["deliveries"].to_string().contains("\"outcome\":\"deferred\"")
    });
    upstream.answer(Answer::Status(200));
    let second = relay.accept("/x", "2");
    let (first, second) = (relay.wait_for_state(&first, "delivered"), relay.wait_for_state(&second, "delivered"));
    let at = |shown: &serde_json::Value, number: usize| {
        let text = shown["deliveries"][0]["attempts"][number]["at"].as_str().unwrap().to_owned();
        stagepost::clock::Timestamp::parse_rfc3339(&text).unwrap().as_millis()
    };
    let refused = at(&first, 0);
    assert!(at(&first, 1) >= refused + 2_000, "{first:#}");
    assert!(at(&second, 0) >= refused + 2_000, "a fresh event did not wait for the upstream: {second:#}");
}

#[test]
fn a_retry_after_that_is_a_date_is_honoured() {
    let upstream = Upstream::start();
    let clock = stagepost::clock::Clock::system();
    // Dates have whole seconds.
    let until_s = clock.now().as_millis() / 1_000 + 4;
    let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(until_s);
    upstream.answer(Answer::With(503, vec![("Retry-After", httpdate::fmt_http_date(date))], ""));
    let relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "x");
    wait_until("the date is known", || relay.show(&id)["deliveries"].to_string().contains("\"outcome\":\"deferred\""));
    upstream.answer(Answer::Status(200));
    let shown = relay.wait_for_state(&id, "delivered");
    let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
    let at = |number: usize| {
        let text = attempts[number]["at"].as_str().unwrap();
        stagepost::clock::Timestamp::parse_rfc3339(text).unwrap().as_millis()
    };
    assert_eq!(attempts.len(), 2, "{shown:#}");
    // A machine so slow that the date was past at the first attempt has nothing to wait for.
    assert!(at(0) >= until_s * 1_000 || at(1) >= until_s * 1_000, "{shown:#}");
}

#[test]
fn concurrency_bounds_the_attempts_at_once() {
    let upstream = Upstream::start();
    upstream.answer(Answer::HangBeforeHead);
    let relay = Relay::start(&format!("{}\nconcurrency = 3\ntimeout = \"30s\"", all_to(&upstream)));
    for n in 0..10 {
        relay.accept("/x", format!("{n}"));
    }
    upstream.wait_for_requests(3);
    wait_until("all are known", || relay.upstream("app")["pending"] == 10);
    assert_eq!((upstream.received().len(), relay.upstream("app")["in_flight"].clone()), (3, 3.into()));
}

#[test]
fn a_body_with_content_encoding_is_forwarded_as_it_came() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let bytes = [0x1f, 0x8b, 8, 0, 255, 254, 1, 2];
    let answer = relay.send(&Request::post("/x", bytes).header("Content-Encoding", "gzip"));
    assert_eq!(answer.status, 202);
    let got = &upstream.wait_for_requests(1)[0];
    assert_eq!((got.body.as_slice(), got.header("content-encoding")), (&bytes[..], Some("gzip")));
}
