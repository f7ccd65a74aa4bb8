//! Replays of many deliveries as jobs, and what else moves deliveries along: requeue, expire, a hold that waits.

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream, all_to, wait_for, wait_until};

fn dead_events(relay: &Relay, upstream: &Upstream, count: usize) -> Vec<String> {
    upstream.answer(Answer::Status(422));
    let ids: Vec<String> = (0..count).map(|n| relay.accept("/x", format!(r#"{{"n":{n}}}"#))).collect();
    for id in &ids {
        relay.wait_for_state(id, "dead");
    }
    upstream.answer(Answer::Status(200));
    ids
}

fn begun(relay: &Relay, args: &[&str]) -> String {
    let all = [&["replay", "--job", "--yes", "--json"], args].concat();
    relay.cli(&all).done().json()["job"].as_str().unwrap().to_owned()
}

fn job(relay: &Relay, id: &str) -> Value {
    relay.cli(&["job", id, "--json"]).done().json()
}

fn wait_for_job(relay: &Relay, id: &str, state: &str) -> Value {
    wait_for(&format!("the job is {state}"), || Some(job(relay, id)).filter(|job| job["state"] == state))
}

#[test]
fn a_job_replays_everything_that_its_filters_take_once_and_is_told_of() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 12);
    let before = upstream.received().len();
    let id = begun(&relay, &["--upstream", "app", "--where", ".n < 10"]);
    let done = wait_for_job(&relay, &id, "done");
    assert_eq!(
        (done["deliveries"].as_u64(), done["events"].as_u64(), done["progress"].as_f64()),
        (Some(10), Some(10), Some(1.0))
    );
    assert_eq!(done["filters"]["where"], ".n < 10");
    for (n, id) in ids.iter().enumerate() {
        relay.wait_for_state(id, if n < 10 { "delivered" } else { "dead" });
    }
    assert_eq!(upstream.received().len(), before + 10);
    assert_eq!(relay.cli(&["jobs"]).done().out, "no job is under way\n");
    assert!(relay.cli(&["jobs", "--all"]).done().out.contains(&id));
    assert!(relay.cli(&["job", &id]).done().out.contains(" is done"));
    assert_eq!((relay.cli(&["job", "j1"]).code, relay.cli(&["job", "1"]).code), (66, 64));
    assert_eq!(relay.metric("stagepost_job_deliveries_total") as u64, 10);
}

#[test]
fn a_job_keeps_its_rate_and_goes_on_after_a_kill_without_repeating_a_step() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 30);
    // A step of a job with a rate takes about five seconds: twenty, then ten.
    let id = begun(&relay, &["--upstream", "app", "--rate", "4/s"]);
    wait_until("the first step is made", || job(&relay, &id)["deliveries"] == 20);
    relay.kill();
    relay.run();
    let done = wait_for_job(&relay, &id, "done");
    assert_eq!(done["deliveries"], 30);
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    for id in &ids {
        let replays = upstream.received();
        let replays = replays.iter().filter(|got| got.header("stagepost-event-id") == Some(id)).count();
        // One more only if its attempt was under way when the process was killed.
        assert!((2..=3).contains(&replays), "{id}: {replays}");
    }
}

#[test]
fn a_job_waits_for_a_held_upstream_and_can_be_cancelled_and_a_dry_run_estimates() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 5);
    let dry = relay.cli(&["replay", "--upstream", "app", "--rate", "1/s", "--dry-run", "--json"]).done().json();
    assert_eq!(
        (dry["count"].as_u64(), dry["bytes"].as_u64(), dry["estimate_s"].as_u64()),
        (Some(5), Some(35), Some(5))
    );
    assert!(relay.cli(&["replay", "--upstream", "app", "--rate", "1/s", "--dry-run"]).done().out.contains("about 5s"));
    relay.cli(&["hold", "--upstream", "app"]).done();
    let id = begun(&relay, &["--upstream", "app"]);
    let waits = wait_for_job(&relay, &id, "waiting");
    assert_eq!(waits["why"], "app is held");
    assert!(relay.cli(&["jobs"]).done().out.contains("app is held"));
    wait_until("the metric says so", || relay.metric("stagepost_jobs{state=\"waiting\"}") as u64 == 1);
    let ended = relay.cli(&["cancel", &id, "--json"]).done().json();
    assert_eq!(ended["state"], "cancelled");
    assert!(relay.cli(&["cancel", &id]).done().out.contains("cancelled"));
    relay.cli(&["release", "--upstream", "app"]).done();
    let fine = relay.accept("/x", "fine");
    relay.wait_for_state(&fine, "delivered");
    assert!(ids.iter().all(|id| relay.show(id)["state"] == "dead"));
    assert_eq!(relay.cli(&["cancel", "j7"]).code, 66);
}

#[test]
fn a_job_that_waited_leaves_alone_what_was_replayed_by_hand_meanwhile() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let ids = dead_events(&relay, &upstream, 3);
    relay.cli(&["hold", "--upstream", "app"]).done();
    let id = begun(&relay, &["--upstream", "app"]);
    wait_for_job(&relay, &id, "waiting");
    relay.cli(&["replay", &ids[0]]).done();
    relay.cli(&["release", "--upstream", "app"]).done();
    assert_eq!(wait_for_job(&relay, &id, "done")["deliveries"], 2);
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
}

#[test]
fn a_job_waits_while_live_traffic_lags() {
    let upstream = Upstream::start();
    let config = format!("[admin]\njob_lag = \"1s\"\n{}\nconcurrency = 1\n", all_to(&upstream));
    let relay = Relay::start(&config);
    let ids = dead_events(&relay, &upstream, 2);
    upstream.answer(Answer::HangBeforeHead);
    let live: Vec<String> = (0..3).map(|n| relay.accept("/x", format!("live {n}"))).collect();
    upstream.wait_for_requests(3);
    // The first attempts of the second and the third wait.
    wait_until("they wait for long", || relay.metric("stagepost_oldest_pending_seconds{upstream=\"app\"}") >= 2.0);
    let id = begun(&relay, &["--upstream", "app"]);
    let waits = wait_for_job(&relay, &id, "waiting");
    let why = waits["why"].as_str().unwrap();
    assert!(why.starts_with("live events wait for app since ") || why.contains("breaker"), "{why}");
    upstream.answer(Answer::Status(200));
    for id in live.iter().chain(&ids) {
        relay.wait_for_state(id, "delivered");
    }
    wait_for_job(&relay, &id, "done");
}

#[test]
fn a_replay_sends_todays_transform_or_the_body_as_it_was_received() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.app]\npath = \"/x\"\n[upstream.app]\nurl = \"{}\"\n\
         [[route]]\nsource = \"app\"\nto = [\"app\"]\ntransform = \"{{m: .n}}\"\n",
        upstream.url()
    ));
    let id = relay.accept("/x", r#"{"n":1}"#);
    relay.wait_for_state(&id, "delivered");
    relay.cli(&["replay", &id, "--transform", "original"]).done();
    upstream.wait_for_requests(2);
    relay.wait_for_state(&id, "delivered");
    relay.cli(&["replay", &id]).done();
    let bodies: Vec<String> = upstream.wait_for_requests(3).iter().map(|got| got.text()).collect();
    assert_eq!(bodies, [r#"{"m":1}"#, r#"{"n":1}"#, r#"{"m":1}"#]);
    assert_eq!(relay.cli(&["replay", &id, "--transform", "then"]).code, 64);
}

#[test]
fn what_waits_for_a_retry_is_requeued_or_given_up() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let relay = Relay::start(
        &all_to(&upstream).replace("100ms", "1h").replace("give_up_after = \"1h\"", "give_up_after = \"5d\""),
    );
    let ids = [relay.accept("/x", "one"), relay.accept("/x", "two")];
    for id in &ids {
        wait_until("it was tried", || relay.show(id)["deliveries"][0]["attempts_total"] == 1);
    }
    assert_eq!(relay.cli(&["requeue"]).code, 64);
    upstream.answer(Answer::Status(200));
    let told = relay.cli(&["requeue", &ids[0]]).done().out;
    assert!(told.contains("1 delivery of 1 event due now"), "{told}");
    let shown = relay.wait_for_state(&ids[0], "delivered");
    assert_eq!(shown["deliveries"][0]["attempts_total"], 2);
    assert!(upstream.received().iter().all(|got| got.header("stagepost-replay").is_none()));
    let told = relay.cli(&["expire", "--upstream", "app", "--reason", "too old"]).done().out;
    assert!(told.contains("1 delivery of 1 event given up"), "{told}");
    let shown = relay.wait_for_state(&ids[1], "dead");
    assert_eq!(shown["deliveries"][0]["reason"], "operator: too old");
    assert!(relay.cli(&["explain", &ids[1]]).done().out.contains("operator: too old"));
    relay.cli(&["replay", &ids[1]]).done();
    relay.wait_for_state(&ids[1], "delivered");
}

#[test]
fn a_drained_upstream_is_held_with_nothing_under_way() {
    let upstream = Upstream::start();
    upstream.answer(Answer::HangBeforeHead);
    let relay = Relay::start(&format!("{}\ntimeout = \"2s\"\n", all_to(&upstream)));
    relay.accept("/x", "hangs");
    upstream.wait_for_requests(1);
    let hold = |wait: &str| relay.cli(&["hold", "--upstream", "app", "--reason", "deploy", "--wait", wait]);
    let told = hold("0s");
    assert_eq!(told.code, 1, "{told:?}");
    let told = hold("60s").done();
    assert!(told.err.contains("nothing is under way to app"), "{told:?}");
    assert_eq!(relay.upstream("app")["in_flight"], 0);
    assert!(relay.upstream("app")["held_since"].is_string());
    assert_eq!(relay.cli(&["hold", "--upstream", "app", "--source", "app", "--wait", "1s"]).code, 64);
}
