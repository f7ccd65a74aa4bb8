//! Events that leave an instance and come into another: export, import, backup, and the restore of one.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream, all_to, cli, distinct_bytes};

fn bodies(upstream: &Upstream) -> Vec<Vec<u8>> {
    upstream.received().into_iter().map(|request| request.body).collect()
}

#[test]
fn an_export_has_events_with_deliveries_attempts_and_bodies_online_and_offline() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let large = distinct_bytes(700_000);
    let ids = [relay.accept("/x", r#"{"n":1}"#), relay.accept("/x?a=b", &large)];
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    upstream.answer(Answer::Status(422));
    let dead = relay.accept("/x", "refused");
    relay.wait_for_state(&dead, "dead");
    for _online_then_offline in 0..2 {
        let lines = relay.cli(&["export"]).done().lines();
        let exported: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(exported, [&*ids[0], &*ids[1], &*dead], "oldest first");
        assert_eq!(lines[0]["body"], r#"{"n":1}"#);
        assert_eq!(lines[0]["deliveries"][0]["attempts"][0]["status"], 200);
        assert_eq!(lines[1]["query"], "a=b");
        assert!(lines[1]["body"]["base64"].as_str().unwrap().len() > 900_000);
        assert_eq!(lines[2]["deliveries"][0]["attempts"][0]["status"], 422);
        let only = relay.cli(&["export", "--state", "dead"]).done().lines();
        assert_eq!((only.len(), only[0]["id"].as_str()), (1, Some(&*dead)));
        assert_eq!(relay.cli(&["export", "--state", "nonsense"]).code, 64);
        if relay.is_running() {
            assert_eq!(relay.stop(), 0);
        }
    }
}

#[test]
fn an_import_keeps_what_was_received_and_delivers_only_if_it_is_told_to() {
    let (upstream, second) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&all_to(&upstream));
    let large = distinct_bytes(700_000);
    let ids = [relay.accept("/x", r#"{"n":1}"#), relay.accept("/x", &large)];
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    let before = relay.events();
    let lines = relay.cli(&["export"]).done();
    let other = Relay::start(&all_to(&second));
    other.write("events.ndjson", &lines.bytes);
    let told = other.cli(&["import", "events.ndjson", "--json"]).done().json();
    assert_eq!((told["imported"].as_u64(), told["known"].as_u64()), (Some(2), Some(0)));
    let events = other.events();
    for (event, was) in events.iter().zip(&before) {
        for name in ["received_at", "source", "type", "method", "path", "size", "sha256"] {
            assert_eq!(event[name], was[name], "{name}");
        }
        assert_eq!((&event["imported"], &event["state"]), (&was["id"], &Value::from("ignored")));
        assert_ne!(event["id"], was["id"]);
    }
    let newest = events[0]["id"].as_str().unwrap();
    assert_eq!(other.cli(&["show", newest, "--body"]).done().bytes, large);
    let why = other.cli(&["explain", newest]).done().out;
    assert!(why.contains("imported") && why.contains(&ids[1]), "{why}");
    // Again, and where they came from: nothing.
    for relay in [&other, &relay] {
        relay.write("events.ndjson", &lines.bytes);
        let again = relay.cli(&["import", "events.ndjson", "--json", "--deliver"]).done().json();
        assert_eq!((again["imported"].as_u64(), again["known"].as_u64()), (Some(0), Some(2)));
    }
    assert!(second.received().is_empty());
    other.cli(&["replay", newest]).done();
    assert_eq!(second.wait_for_requests(1)[0].body, large);
    // A third one delivers.
    let third = Upstream::start();
    let fresh = Relay::start(&all_to(&third));
    fresh.write("events.ndjson", &lines.bytes);
    fresh.cli(&["import", "events.ndjson", "--deliver"]).done();
    third.wait_for_requests(2);
    assert!(bodies(&third).contains(&large));
}

#[test]
fn a_stopped_instance_takes_an_import_and_lines_that_are_none_are_named() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "one");
    relay.wait_for_state(&id, "delivered");
    let lines = relay.cli(&["export"]).done().out;
    let hidden = relay.cli(&["export", "--hide-credentials"]).done().out;
    assert!(!hidden.is_empty());
    let second = Upstream::start();
    let mut other = Relay::start(&all_to(&second));
    assert_eq!(other.stop(), 0);
    other.write("events.ndjson", format!("nonsense\n{lines}"));
    let told = other.cli(&["import", "events.ndjson", "--deliver"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.starts_with("1 events imported, 0 known already, 1 lines refused"), "{}", told.out);
    assert!(told.err.starts_with("line 1: ") && told.err.contains("at column 2"), "{}", told.err);
    other.run();
    assert_eq!(second.wait_for_requests(1)[0].text(), "one");
    assert_eq!(relay.stop(), 0);
    assert_eq!(relay.cli(&["import", "nowhere.ndjson"]).code, 74);
}

fn copy_of(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// The drill of docs/operations.md.
#[test]
fn a_backup_of_a_running_instance_is_verified_and_restored_by_a_copy() {
    let upstream = Upstream::start();
    let config = "[store]\nsegment_size = \"1MiB\"\n".to_owned()
        + &all_to(&upstream)
        + "\n[source.app.dedupe]\nkey = \".n\"\nwindow = \"1d\"\n";
    let relay = Relay::start(&config);
    let noise = distinct_bytes(40 * 60_000);
    for (n, body) in noise.chunks(60_000).enumerate() {
        relay.accept("/x", [body, n.to_string().as_bytes()].concat());
    }
    let delivered = relay.accept("/x", r#"{"n":"delivered"}"#);
    relay.wait_for_state(&delivered, "delivered");
    upstream.answer(Answer::Status(422));
    let dead = relay.accept("/x", r#"{"n":"dead"}"#);
    relay.wait_for_state(&dead, "dead");
    relay.cli(&["hold", "--upstream", "app"]).done();
    upstream.answer(Answer::Status(200));
    let waiting = relay.accept("/x", r#"{"n":"waiting"}"#);
    relay.wait_for_state(&waiting, "held");

    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().join("backup");
    let backup = place.display().to_string();
    relay.accept("/x", r#"{"n":"beside"}"#);
    let first = relay.cli(&["backup", &backup, "--json"]).done().json();
    assert!(first["segments"].as_u64().unwrap() >= 3, "{first}");
    let later = relay.accept("/x", r#"{"n":"after the first"}"#);
    // A second one takes what is new.
    let second = relay.cli(&["backup", &backup, "--json"]).done().json();
    assert_eq!(second["kept"], first["segments"], "{second}");
    let copied = elsewhere.path().join("copied").display().to_string();
    let copies = relay.cli(&["backup", &copied, "--copy", "--json"]).done().json();
    assert_eq!((copies["linked"].as_u64(), &copies["copied"]), (Some(0), &copies["segments"]));
    let lost = relay.accept("/x", r#"{"n":"lost"}"#);

    let config_of_dead = relay.show(&dead)["config"].clone();
    for place in [&backup, &copied] {
        let shown = crate::harness::cli(relay.directory(), &["show", &dead, "--json", "--data", place]).done().json();
        assert_eq!(shown["config"], config_of_dead);
        let checked = cli(relay.directory(), &["verify", "--data", place]).done().out;
        assert!(checked.contains("no damage"), "{checked}");
    }
    let foreign = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    assert_eq!(foreign.cli(&["backup", &backup]).code, 64, "another instance's");
    let before = relay.events();

    let restored_data = elsewhere.path().join("restored");
    copy_of(&place, &restored_data);
    drop(relay);
    let mut restored = Relay::with_data(&restored_data, &config);
    restored.run();
    assert_eq!(restored.events().len(), before.len() - 1);
    assert_eq!(restored.cli(&["show", &lost]).code, 66);
    assert_eq!(restored.show(&delivered)["state"], "delivered");
    assert_eq!(restored.show(&dead)["state"], "dead");
    assert_eq!(restored.show(&waiting)["state"], "held");
    let status = restored.upstream("app");
    assert!(status["held_since"].is_string(), "{status}");
    let sent = upstream.received().len();
    // What was known is known: a resend is no second event.
    let again = restored.send(&crate::harness::Request::post("/x", r#"{"n":"delivered"}"#));
    assert_eq!(again.header("stagepost-event-id"), Some(&*delivered));
    restored.cli(&["release", "--upstream", "app"]).done();
    restored.wait_for_state(&waiting, "delivered");
    restored.wait_for_state(&later, "delivered");
    assert!(upstream.received().len() >= sent + 2);
    assert!(fs::metadata(place.join("log")).is_ok());
}

#[test]
fn a_backup_is_refused_where_something_else_is_or_runs_and_harms_nothing() {
    let config = "[source.a]\npath = \"/a\"\nto = []\n";
    let mut relay = Relay::start(config);
    let kept = relay.accept("/a", "kept");
    let code = |relay: &Relay, place: &Path| relay.cli(&["backup", &place.display().to_string()]).code;
    // The data directory, in any way it can be named.
    let data = relay.data().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&data, &link).unwrap();
    for place in [data.clone(), data.join("x/y"), data.join("log"), data.parent().unwrap().into(), link] {
        assert_eq!(code(&relay, &place), 64, "{}", place.display());
    }
    assert!(!data.join("x").exists());
    // Somebody's own things.
    let foreign = elsewhere.path().join("config");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("stagepost.toml"), "").unwrap();
    assert_eq!(code(&relay, &foreign), 64);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was written");
    // A restored copy, as long as it runs and after that.
    let (backup, copy) = (elsewhere.path().join("backup"), elsewhere.path().join("copy"));
    assert_eq!(code(&relay, &backup), 0);
    copy_of(&backup, &copy);
    let mut restored = Relay::with_data(&copy, config);
    restored.run();
    let own = restored.accept("/a", "of the copy alone");
    assert_eq!(code(&relay, &copy), 75);
    restored.kill();
    assert_eq!(code(&relay, &copy), 64);
    restored.run();
    assert_eq!(restored.cli(&["show", &own, "--body"]).done().out, "of the copy alone");
    // An earlier backup is what it was, and the instance has lost nothing.
    assert_eq!(code(&relay, &backup), 0);
    let audit = relay.cli(&["audit", "--action", "backup", "--json"]).done().lines();
    assert_eq!(audit[0]["targets"][0], backup.display().to_string());
    relay.kill();
    relay.run();
    assert_eq!(relay.cli(&["show", &kept, "--body"]).done().out, "kept");
}

#[test]
fn an_import_wakes_nobody_with_the_alerts_of_another_time() {
    let pager = Upstream::start();
    let alerts = format!("[alerts.rule.disk]\nenabled = false\n[alerts.to.ops]\nurl = \"{}\"\n", pager.url());
    let config = format!("[source.a]\npath = \"/a\"\nto = []\n{alerts}");
    let relay = Relay::start(&config);
    relay.cli(&["alerts", "test", "ops"]).done();
    relay.accept("/a", "an event");
    pager.wait_for_requests(1);
    let lines = relay.cli(&["export"]).done().out;
    assert_eq!(lines.lines().count(), 2);
    let other = Relay::start(&config);
    other.write("events.ndjson", lines);
    let told = other.cli(&["import", "events.ndjson", "--deliver", "--json"]).done().json();
    assert_eq!(told["imported"], 2);
    // What is published after it arrives alone.
    other.cli(&["alerts", "test", "ops"]).done();
    let got = pager.wait_for_requests(2);
    assert_eq!(got.len(), 2);
    let ignored = other.events().iter().filter(|event| event["state"] == "ignored").count();
    assert_eq!(ignored, 2, "stored and not delivered");
}
