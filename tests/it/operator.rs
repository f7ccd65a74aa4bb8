//! What operators do to deliveries: hold, release, replay, delete, and the explanations they get.

use crate::harness::{Answer, Relay, Upstream, all_to, cli_with_input, wait_until};

fn dead_events(relay: &Relay, upstream: &Upstream, count: usize) -> Vec<String> {
    upstream.answer(Answer::Status(422));
    let ids: Vec<String> = (0..count).map(|n| relay.accept("/x", format!(r#"{{"n":{n}}}"#))).collect();
    for id in &ids {
        relay.wait_for_state(id, "dead");
    }
    upstream.answer(Answer::Status(200));
    ids
}

#[test]
fn a_held_upstream_gets_nothing_until_it_is_released_also_across_a_restart() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let told = relay.cli(&["hold", "--upstream", "app", "--reason", "database migration"]).done();
    assert!(told.out.contains("upstream app held"), "{}", told.out);
    let id = relay.accept("/x", "waits");
    relay.wait_for_state(&id, "held");
    relay.restart();
    relay.wait_for_state(&id, "held");
    let status = relay.upstream("app");
    assert_eq!((status["held_reason"].as_str(), status["held"].as_u64()), (Some("database migration"), Some(1)));
    assert!(status["held_until"].is_null() && status["held_since"].is_string(), "it has no end: {status}");
    assert!(relay.cli(&["status"]).done().out.contains("database migration"));
    assert_eq!(relay.metric("stagepost_held{upstream=\"app\"}") as u64, 1);
    let why = relay.cli(&["explain", &id]).done().out;
    assert!(why.contains("held") && why.contains("database migration"), "{why}");
    assert!(upstream.received().is_empty());
    relay.cli(&["release", "--upstream", "app"]).done();
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn a_hold_for_a_time_ends_by_itself() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    relay.cli(&["hold", "--upstream", "app", "--for", "1s"]).done();
    let id = relay.accept("/x", "waits");
    relay.wait_for_state(&id, "delivered");
    assert!(relay.upstream("app")["held_since"].is_null());
}

#[test]
fn deliveries_are_held_and_released_by_id_and_by_filter_without_holding_what_comes() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let relay = Relay::start(&all_to(&upstream));
    let (one, two) = (relay.accept("/x", r#"{"n":1}"#), relay.accept("/x", r#"{"n":2}"#));
    let told = relay.cli(&["hold", &one]).done();
    assert!(told.out.contains(&one) && told.out.contains("1 delivery"), "{}", told.out);
    relay.wait_for_state(&one, "held");
    let told = relay.cli(&["hold", "--upstream", "app", "--where", ".n == 2", "--json"]).done().json();
    assert_eq!((told["count"].as_u64(), told["upstream"].is_null()), (Some(1), true));
    relay.wait_for_state(&two, "held");
    assert!(relay.cli(&["status"]).done().out.contains("2 deliveries"), "what is held one by one is told, too");
    assert!(relay.upstream("app")["held_since"].is_null(), "the upstream itself is not held");
    upstream.answer(Answer::Status(200));
    let three = relay.accept("/x", r#"{"n":3}"#);
    relay.wait_for_state(&three, "delivered");
    relay.cli(&["release", &one]).done();
    relay.wait_for_state(&one, "delivered");
    relay.wait_for_state(&two, "held");
    relay.cli(&["release", "--source", "app"]).done();
    relay.wait_for_state(&two, "delivered");
}

#[test]
fn a_replay_by_id_sends_the_same_event_with_the_same_keys() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "again");
    relay.wait_for_state(&id, "delivered");
    let told = relay.cli(&["replay", &id]).done();
    assert!(told.out.contains("due again"), "{}", told.out);
    let got = upstream.wait_for_requests(2);
    assert_eq!(got[0].header("stagepost-replay"), None);
    assert!(got[1].header("stagepost-replay").is_some());
    wait_until("both attempts are shown", || {
        let delivery = &relay.show(&id)["deliveries"][0];
        let numbers = delivery["attempts"].as_array().unwrap().iter().map(|attempt| attempt["number"].as_u64());
        numbers.collect::<Vec<_>>() == [Some(1), Some(2)]
    });
    for name in ["stagepost-event-id", "idempotency-key", "stagepost-received-at"] {
        assert_eq!(got[0].header(name), got[1].header(name), "{name}");
    }
    assert_eq!(got[1].text(), "again");
    wait_until("the replay is settled", || relay.show(&id)["deliveries"][0]["attempts_total"] == 2);
    relay.cli(&["replay", &id, "--new-key"]).done();
    let got = upstream.wait_for_requests(3);
    assert_ne!(got[0].header("idempotency-key"), got[2].header("idempotency-key"));
}

#[test]
fn a_replay_with_filters_takes_dead_deliveries_only_and_a_dry_run_changes_nothing() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 5);
    let fine = relay.accept("/x", "fine");
    relay.wait_for_state(&fine, "delivered");
    let before = upstream.received().len();
    let told = relay.cli(&["replay", "--upstream", "app", "--dry-run", "--json"]).done().json();
    assert_eq!((told["count"].as_u64(), told["dry_run"].as_bool()), (Some(5), Some(true)));
    assert_eq!(relay.show(&ids[0])["state"], "dead");
    let told = relay.cli(&["replay", "--upstream", "app", "--where", ".n < 3"]).done();
    assert!(told.out.contains("3 deliveries"), "{}", told.out);
    for (n, id) in ids.iter().enumerate() {
        relay.wait_for_state(id, if n < 3 { "delivered" } else { "dead" });
    }
    assert_eq!(upstream.received().len(), before + 3);
}

#[test]
fn a_replay_to_another_upstream_adds_a_delivery() {
    let (upstream, other) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&format!("{}\n[upstream.other]\nurl = \"{}\"\n", all_to(&upstream), other.url()));
    let id = relay.accept("/x", "to both");
    relay.wait_for_state(&id, "delivered");
    relay.cli(&["replay", &id, "--to", "other"]).done();
    assert_eq!(other.wait_for_requests(1)[0].text(), "to both");
    assert_eq!(relay.wait_for_state(&id, "delivered")["deliveries"].as_array().unwrap().len(), 2);
    assert_eq!(upstream.received().len(), 1);
    assert_eq!(relay.cli(&["replay", &id, "--to", "nobody"]).code, 64);
}

#[test]
fn ids_come_from_standard_input_as_lines_of_log() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 3);
    let lines = relay.cli(&["log", "--json", "--state", "dead"]).done().out;
    let data = relay.data().display().to_string();
    let told = cli_with_input(relay.directory(), &["replay", "-", "--data", &data], &lines).done();
    assert!(told.out.contains("3 deliveries"), "{}", told.out);
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
}

#[test]
fn a_replay_of_more_than_a_hundred_needs_yes() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    upstream.answer(Answer::Status(422));
    for n in 0..101 {
        relay.accept("/x", format!("{n}"));
    }
    wait_until("all are dead", || relay.upstream("app")["dead"] == 101);
    upstream.answer(Answer::Status(200));
    let told = relay.cli(&["replay", "--upstream", "app"]);
    assert_eq!(told.code, 64);
    assert!(told.err.contains("101") && told.err.contains("--yes"), "{}", told.err);
    assert_eq!(relay.upstream("app")["dead"], 101);
    relay.cli(&["replay", "--upstream", "app", "--yes"]).done();
    wait_until("none is dead", || relay.upstream("app")["dead"] == 0 && relay.upstream("app")["pending"] == 0);
}

#[test]
fn commands_that_change_something_want_an_id_or_a_filter() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    for verb in ["replay", "hold", "release", "delete"] {
        let told = relay.cli(&[verb]);
        assert_eq!(told.code, 64, "{told:?}");
        assert!(told.err.contains("--all"), "{}", told.err);
    }
    assert_eq!(relay.cli(&["hold", "--upstream", "nobody"]).code, 64);
    assert_eq!(relay.cli(&["replay", "01KDYAK3SF0000000000000001"]).code, 66);
    assert_eq!(relay.cli(&["nonsense"]).code, 64);
    assert_eq!(relay.cli(&["log", "--nonsense"]).code, 64);
    relay.cli(&["release", "--all"]).done();
}

#[test]
fn a_deleted_event_is_hidden_at_once_and_never_delivered() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let mut relay = Relay::start(&all_to(&upstream));
    let (gone, kept) = (relay.accept("/x", "gone"), relay.accept("/x", "kept"));
    let told = relay.cli(&["delete", &gone]);
    assert_eq!(told.code, 64, "nobody could be asked: {told:?}");
    let both = relay.cli(&["delete", &gone, "01KDYAK3SF0000000000000001", "--yes"]);
    assert_eq!(both.code, 1, "one of two ids is not stored: {both:?}");
    assert_eq!(relay.cli(&["show", &gone]).code, 66);
    let ids = |relay: &Relay| relay.events().iter().map(|line| line["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&relay), [kept.as_str()]);
    relay.kill();
    let before = upstream.received().len();
    upstream.answer(Answer::Status(200));
    relay.run();
    relay.wait_for_state(&kept, "delivered");
    assert_eq!(ids(&relay), [kept.as_str()]);
    let after: Vec<String> = upstream.received().into_iter().skip(before).map(|request| request.text()).collect();
    assert_eq!(after, ["kept"]);
}

#[test]
fn a_duplicate_revives_a_dead_delivery() {
    let upstream = Upstream::start();
    let relay = Relay::start(
        &all_to(&upstream).replace("to = [\"app\"]", "to = [\"app\"]\ndedupe = { key = '.n', window = \"1h\" }"),
    );
    let id = dead_events(&relay, &upstream, 1).remove(0);
    let again = relay.send(&crate::harness::Request::post("/x", r#"{"n":0}"#));
    assert_eq!((again.status, again.header("stagepost-event-id")), (200, Some(id.as_str())));
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn a_duplicate_with_another_body_is_told_as_one() {
    let upstream = Upstream::start();
    let relay = Relay::start(
        &all_to(&upstream).replace("to = [\"app\"]", "to = [\"app\"]\ndedupe = { key = '.n', window = \"1h\" }"),
    );
    let id = relay.accept("/x", r#"{"n":0}"#);
    let again = relay.send(&crate::harness::Request::post("/x", r#"{"n":0,"other":1}"#));
    assert_eq!(again.header("stagepost-event-id"), Some(id.as_str()));
    wait_until("it is told", || relay.show(&id)["body_differs"] == 1);
    assert!(relay.cli(&["show", &id]).done().out.contains("1, 1 with another body"));
    assert!(relay.cli(&["explain", &id]).done().out.contains("with another body, which is not stored"));
}

#[test]
fn a_release_is_recorded_with_its_reason_and_of_an_unknown_upstream_refused() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    assert_eq!(relay.cli(&["release", "--upstream", "nowhere"]).code, 64);
    relay.cli(&["hold", "--upstream", "app"]).done();
    relay.cli(&["release", "--upstream", "app", "--reason", "migration done"]).done();
    let audit = relay.cli(&["audit"]).done().out;
    assert!(audit.contains("migration done") && !audit.contains("nowhere"), "{audit}");
    let id = relay.accept("/x", "goes on");
    relay.wait_for_state(&id, "delivered");
    let data = relay.data().display().to_string();
    let told = cli_with_input(relay.directory(), &["explain", "-", "--data", &data], &id).done();
    assert!(told.out.contains(&id), "{told:?}");
}

#[test]
fn explain_tells_in_sentences_why_an_event_is_where_it_is() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let id = dead_events(&relay, &upstream, 1).remove(0);
    let told = relay.cli(&["explain", &id]).done().out;
    for part in [id.as_str(), "source app", "given up for app", "after 1 attempt", "422", "stagepost replay"] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

#[test]
fn help_and_version_are_on_standard_output_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let told = crate::harness::cli(directory.path(), &["replay", "--help"]).done();
    assert!(told.out.contains("Examples:") && told.out.contains("--dry-run"));
    assert!(crate::harness::cli(directory.path(), &["--version"]).done().out.starts_with("stagepost "));
}
