//! The stored log from outside: offline commands, and damage that is told by id while the rest is served.

use std::fs;

use crate::harness::{Answer, Relay, Request, Upstream, all_to, cli, distinct_bytes, wait_until};

#[test]
fn log_show_and_verify_work_on_the_directory_of_a_stopped_instance() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "kept");
    let online = relay.wait_for_state(&id, "delivered");
    relay.stop();
    let offline = relay.show(&id);
    assert_eq!(offline["deliveries"], online["deliveries"]);
    assert_eq!(relay.cli(&["show", &id, "--body"]).done().out, "kept");
    let log = relay.events();
    assert_eq!((log.len(), log[0]["id"].as_str(), log[0]["state"].as_str()), (1, Some(&*id), Some("delivered")));
    let told = relay.cli(&["verify"]).done();
    assert!(told.out.contains("1 events") && told.out.contains("no damage"), "{}", told.out);
    // By the configuration that names the directory, too.
    assert!(relay.cli_by_config(&["show", &id]).done().out.contains("delivered"));
    for verb in ["status", "reload", "refused"] {
        assert_eq!(relay.cli(&[verb]).code, 69, "{verb}");
    }
    assert_eq!(relay.cli(&["explain", &id]).code, 69);
    assert_eq!(relay.cli(&["hold", "--all"]).code, 69);
    relay.run();
    relay.accept("/x", "an offline reader leaves no lock behind");
}

#[test]
fn verify_beside_a_running_server_is_75_and_log_answers() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let id = relay.accept("/a", "x");
    assert_eq!(relay.events()[0]["id"], id.as_str());
    let told = relay.cli(&["verify"]);
    assert_eq!(told.code, 75, "{told:?}");
    assert!(told.err.contains(&relay.pid().to_string()), "{}", told.err);
}

#[test]
fn an_id_that_is_none_is_64_and_one_that_is_not_stored_is_66() {
    let mut relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    relay.accept("/a", "x");
    for _online_then_offline in 0..2 {
        assert_eq!(relay.cli(&["show", "nonsense"]).code, 64);
        assert_eq!(relay.cli(&["show", "01KDYAK3SF0000000000000001"]).code, 66);
        if relay.is_running() {
            relay.stop();
        }
    }
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(cli(nowhere.path(), &["log", "--data", "nothing-here"]).code, 69);
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_told_by_id_and_the_rest_is_served() {
    let mut relay = Relay::start("[store]\nsegment_size = \"1MiB\"\n[source.a]\npath = \"/a\"\nto = []\n");
    let bodies = distinct_bytes(60 * 60_000);
    let sent: Vec<(String, &[u8])> = bodies.chunks(60_000).map(|body| (relay.accept("/a", body), body)).collect();
    let sealed = || {
        let files = fs::read_dir(relay.data().join("log")).unwrap().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect::<Vec<_>>()
    };
    wait_until("two segments are sealed", || sealed().len() >= 2);
    let mut files = sealed();
    files.sort();
    relay.stop();

    let mut bytes = fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&files[0], bytes).unwrap();

    let told = relay.cli(&["verify", "--json"]);
    assert_eq!(told.code, 65, "{told:?}");
    let damage = &told.json()["damage"][0];
    let lost: Vec<String> = serde_json::from_value(damage["ids"].clone()).unwrap();
    assert!(!lost.is_empty() && lost.len() < 10, "{damage}");
    assert!(lost.iter().all(|id| sent.iter().any(|(known, _)| known == id)), "{lost:?}");
    let text = relay.cli(&["verify"]);
    assert_eq!(text.code, 65);
    assert!(lost.iter().all(|id| text.out.contains(id.as_str())), "{}", text.out);

    for _offline_then_online in 0..2 {
        for (id, body) in &sent {
            let shown = relay.cli(&["show", id, "--body"]);
            match lost.contains(id) {
                true => assert_eq!(shown.code, 65, "{id}: {shown:?}"),
                false => assert!(shown.code == 0 && shown.bytes == *body, "{id}: {}", shown.err),
            }
        }
        for command in [&["log", "-n", "1000"][..], &["export"]] {
            let told = relay.cli(command);
            assert!(told.code == 65 && told.err.contains("damaged"), "{command:?}: {} {}", told.code, told.err);
        }
        if !relay.is_running() {
            relay.run();
        }
    }
    relay.accept("/a", "still taking");
}

#[test]
fn what_is_left_of_an_event_whose_body_is_lost_is_shown_before_and_after_a_repair() {
    let mut relay = Relay::start("[store]\nsegment_size = \"1MiB\"\n[source.a]\npath = \"/a\"\nto = []\n");
    let bodies = distinct_bytes(3 * 700_000);
    let sent: Vec<String> = bodies.chunks(700_000).map(|body| relay.accept("/a", body)).collect();
    let sealed = || {
        let files = fs::read_dir(relay.data().join("log")).unwrap().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).min()
    };
    wait_until("a segment is sealed", || sealed().is_some());
    let file = sealed().unwrap();
    relay.stop();
    let mut bytes = fs::read(&file).unwrap();
    let piece = &bodies[100_000..100_032];
    let at = bytes.windows(piece.len()).position(|window| window == piece).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();

    let named = |told: crate::harness::Output| {
        assert_eq!(told.code, 65, "{told:?}");
        assert!(told.json()["damage"][0]["ids"].as_array().unwrap().contains(&sent[0].as_str().into()), "{told:?}");
    };
    named(relay.cli(&["verify", "--json"]));
    for repaired in [false, true] {
        let shown = relay.cli(&["show", &sent[0], "--json"]);
        assert_eq!(shown.code, 1, "{shown:?}");
        let show = shown.json();
        assert!(show["body_lost"].is_string() && show["path"] == "/a", "{repaired}: {show}");
        assert_eq!(relay.cli(&["show", &sent[0], "--body"]).code, 65);
        relay.cli(&["show", &sent[1]]).done();
        named(relay.cli(&["verify", "--repair", "--json"]));
    }
}

#[test]
fn a_flipped_bit_in_the_only_copy_of_an_undelivered_event_hurts_no_other_delivery() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let config = all_to(&upstream);
    let mut relay = Relay::start(&format!("[store]\nsegment_size = \"1MiB\"\n{config}"));
    let bodies = distinct_bytes(40 * 60_000);
    let sent: Vec<String> = bodies.chunks(60_000).map(|body| relay.accept("/a", body)).collect();
    let first = relay.data().join("log");
    let sealed = || {
        let files = fs::read_dir(&first).unwrap().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).min()
    };
    wait_until("a segment is sealed", || sealed().is_some());
    let file = sealed().unwrap();
    relay.kill();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let lost: Vec<String> =
        serde_json::from_value(relay.cli(&["verify", "--json"]).json()["damage"][0]["ids"].clone()).unwrap();
    let before = upstream.received().len();
    upstream.answer(Answer::Status(200));
    relay.run();
    for id in sent.iter().filter(|id| !lost.contains(id)) {
        wait_until(&format!("{id} is delivered"), || {
            let since = upstream.received().into_iter().skip(before);
            since.into_iter().any(|request| request.header("stagepost-event-id") == Some(id))
        });
    }
}

#[test]
fn filters_narrow_what_log_shows() {
    let upstream = Upstream::start();
    upstream.script(|request| Answer::Status(if request.text().contains("bad") { 422 } else { 200 }));
    let relay = Relay::start(&format!(
        r#"
        [source.a]
        path = "/a/{{tenant}}"
        type = ".type"
        to = ["app"]

        [source.b]
        path = "/b"
        to = []

        [upstream.app]
        url = "{}"
        "#,
        upstream.url()
    ));
    let one = relay.accept("/a/acme", r#"{"type":"t.one","n":1}"#);
    let two = relay.accept("/a/other", r#"{"type":"t.two","n":2,"x":"bad"}"#);
    let three = relay.accept("/b", r#"{"n":3}"#);
    relay.wait_for_state(&one, "delivered");
    relay.wait_for_state(&two, "dead");
    relay.wait_for_state(&three, "ignored");
    for (filters, expected) in [
        (&["--source", "a"][..], vec![&two, &one]),
        (&["--source", "b"], vec![&three]),
        (&["--upstream", "app"], vec![&two, &one]),
        (&["--type", "t.one"], vec![&one]),
        (&["--tenant", "other"], vec![&two]),
        (&["--state", "dead"], vec![&two]),
        (&["--status", "4xx"], vec![&two]),
        (&["--reason", "refused"], vec![&two]),
        (&["--since", "10m"], vec![&three, &two, &one]),
        (&["--until", "10m"], vec![]),
        (&["--since", "2020-01-01T00:00:00Z", "--source", "b"], vec![&three]),
        (&["--grep", "bad"], vec![&two]),
        (&["--where", ".n >= 2"], vec![&three, &two]),
        (&["-n", "1"], vec![&three]),
    ] {
        let mut args = vec!["log", "--json"];
        args.extend(filters);
        let lines = relay.cli(&args).done().lines();
        let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{filters:?}");
    }
    assert_eq!(relay.cli(&["log", "--since", "yesterday"]).code, 64);
    assert_eq!(relay.cli(&["log", "--where", ".a |"]).code, 64);
}

#[test]
fn log_follows_what_comes_oldest_first() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let first = relay.accept("/a", "1");
    let mut follower = relay.follow(&["log", "-f", "--json"]);
    let id = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["id"].clone();
    assert_eq!(id(follower.line()), first.as_str());
    let second = relay.accept("/a", "2");
    assert_eq!(id(follower.line()), second.as_str());
    let mut refused = relay.follow(&["refused", "-f", "--json"]);
    relay.send(&Request::post("/nowhere", "x"));
    assert!(refused.line().contains("not_found"));
}

#[test]
fn the_lines_of_log_json_have_the_names_of_the_contract_and_bytes_that_are_no_text_are_base64() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x?q=1", "body");
    let shown = relay.wait_for_state(&id, "delivered");
    let line = relay.events()[0].clone();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&line),
        ["id", "received_at", "source", "type", "method", "path", "size", "sha256", "state", "deliveries"]
    );
    assert_eq!(names(&line["deliveries"][0]), ["upstream", "state", "attempts", "reason", "due_at"]);
    for name in ["query", "headers", "client", "verification", "schema_version", "answered", "duplicates", "config"] {
        assert!(shown.get(name).is_some(), "{name} is not in {shown}");
    }
    assert_eq!(
        names(&shown["deliveries"][0]["attempts"][0]),
        ["number", "at", "outcome", "status", "error", "latency_ms", "excerpt", "sent"]
    );
    assert_eq!(shown["deliveries"][0]["attempts"][0]["sent"]["sha256"], shown["sha256"]);
    let at = shown["received_at"].as_str().unwrap();
    assert!(at.len() == "2026-01-02T03:04:05.678Z".len() && at.ends_with('Z'), "{at}");

    let mut connection = crate::harness::Connection::open(relay.address());
    connection.write(b"POST /x HTTP/1.1\r\nHost: a\r\nX-Raw: \xff\xfe\r\nContent-Length: 0\r\n\r\n").unwrap();
    let answer = connection.read().unwrap();
    let shown = relay.show(answer.header("stagepost-event-id").unwrap());
    let raw = shown["headers"].as_array().unwrap().iter().find(|header| header[0] == "x-raw").unwrap();
    assert_eq!(raw[1], serde_json::json!({ "base64": "//4=" }));
}

#[test]
fn show_hides_credentials_unless_asked_and_gives_http_and_curl() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let request = Request::post("/x?q=1", "it's")
        .header("Authorization", "Bearer very-secret")
        .header("Cookie", "very-secret")
        .header("X-Plain", "shown");
    let id = relay.send(&request).header("stagepost-event-id").unwrap().to_owned();
    for form in [&[][..], &["--json"], &["--http"], &["--curl"]] {
        let mut args = vec!["show", &id];
        args.extend(form);
        let told = relay.cli(&args).done().out;
        assert!(!told.contains("very-secret") && told.contains("shown"), "{form:?}: {told}");
        args.push("--reveal");
        assert!(relay.cli(&args).done().out.contains("very-secret"), "{form:?}");
    }
    let http = relay.cli(&["show", &id, "--http"]).out;
    assert!(http.starts_with("POST /x?q=1 HTTP/1.1\r\n") && http.ends_with("\r\n\r\nit's"), "{http}");

    let curl = relay.cli(&["show", &id, "--curl", "--reveal"]).out;
    assert!(curl.starts_with("curl "), "{curl}");
    if has_curl() {
        let ran = std::process::Command::new("sh").arg("-c").arg(&curl).env("http_proxy", "").output().unwrap();
        let resent = curl.contains(&relay.address().port().to_string());
        assert!(!resent || ran.status.success(), "{ran:?}");
    }
}

fn has_curl() -> bool {
    std::process::Command::new("curl").arg("--version").output().is_ok()
}
