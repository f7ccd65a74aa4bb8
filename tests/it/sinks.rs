//! Upstreams that take several events at once, and upstreams that are files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream, wait_until};

/// A source and an upstream of files in a directory, with more keys.
pub fn files_in(out: &str, more: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["archive"]

        [upstream.archive]
        kind = "file"
        path = "{out}/events-{{time}}.ndjson"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        breaker = {{ failures = 100000 }}
        {more}
        "#
    )
}

fn files(more: &str) -> String {
    files_in("out", more)
}

/// Lines of all files whose name ends so, each as JSON; every file ends with a whole line.
fn lines(directory: &Path, ending: &str) -> Vec<Value> {
    let mut paths: Vec<_> = fs::read_dir(directory.join("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(ending));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n'), "{} ends with half a line", path.display());
        all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    all
}

#[test]
fn events_are_lines_of_a_file_that_has_its_name_when_it_is_whole() {
    let mut relay = Relay::stopped(&files(""));
    fs::create_dir(relay.directory().join("out")).unwrap();
    relay.run();
    let id = relay.accept("/x?a=1", "{\"n\": 1.50}");
    let shown = relay.wait_for_state(&id, "delivered");
    let url = shown["deliveries"][0]["attempts"][0]["sent"]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("file://") && url.ends_with(".ndjson"), "{url}");
    assert_eq!(lines(relay.directory(), ".part").len(), 1, "it is still being written");
    wait_until("its size is told", || relay.metric("stagepost_sink_open_bytes{upstream=\"archive\"}") > 1.0);
    assert_eq!(relay.stop(), 0);
    relay.run();
    wait_until("the file has its name", || lines(relay.directory(), ".ndjson").len() == 1);
    let line = lines(relay.directory(), ".ndjson").remove(0);
    assert_eq!((line["id"].as_str(), line["query"].as_str()), (Some(&*id), Some("a=1")));
    assert_eq!(line["body"].to_string(), "{\"n\":1.5}");
    assert_eq!(lines(relay.directory(), ".part").len(), 0);
}

#[test]
fn after_a_kill_under_load_every_acknowledged_event_is_a_whole_line() {
    let mut relay =
        Relay::stopped(&files("batch = { max_items = 7, max_wait = \"5ms\" }\nrotate = { size = \"4KiB\" }"));
    fs::create_dir(relay.directory().join("out")).unwrap();
    relay.run();
    let mut ids = BTreeSet::new();
    for round in 0..3 {
        ids.extend((0..60).map(|number| relay.accept("/x", format!("{{\"round\":{round},\"number\":{number}}}"))));
        relay.kill();
        relay.run();
    }
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    assert_eq!(relay.stop(), 0);
    relay.run();
    wait_until("every file has its name", || {
        let found: BTreeSet<String> =
            lines(relay.directory(), ".ndjson").iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
        found == ids
    });
}

#[test]
fn what_can_not_be_written_waits_until_it_can() {
    let relay = Relay::start(&files(""));
    let id = relay.accept("/x", "{}");
    wait_until("an attempt is deferred", || relay.show(&id).to_string().contains("the file can't be written"));
    fs::create_dir(relay.directory().join("out")).unwrap();
    relay.wait_for_state(&id, "delivered");
}

#[test]
fn several_events_go_in_one_request_and_a_bad_one_dies_alone() {
    let upstream = Upstream::start();
    upstream.script(|request| if request.text().contains("bad") { Answer::Status(422) } else { Answer::Status(200) });
    let relay = Relay::start(&format!(
        r#"
        [source.app]
        path = "/*"
        to = ["app"]

        [upstream.app]
        url = "{}"
        concurrency = 1
        batch = {{ max_items = 8, max_wait = "200ms", format = "array" }}
        "#,
        upstream.url()
    ));
    let sent: BTreeMap<String, String> = (0..20)
        .map(|number| if number == 11 { "\"bad\"".to_owned() } else { format!("{{\"n\":{number}}}") })
        .map(|body| (relay.accept("/x", &body), body))
        .collect();
    for (id, body) in &sent {
        let state = if body.contains("bad") { "dead" } else { "delivered" };
        relay.wait_for_state(id, state);
    }
    let taken: Vec<Value> = upstream
        .received()
        .iter()
        .filter(|request| !request.text().contains("bad"))
        .flat_map(|request| {
            let items: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(request.header("stagepost-batch-size").unwrap(), items.len().to_string());
            items
        })
        .collect();
    let numbers: Vec<u64> = taken.iter().map(|item| item["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..20).filter(|number| *number != 11).collect::<Vec<_>>(), "in order, each once");
    assert!(upstream.received().iter().any(|request| request.header("stagepost-batch-size") != Some("1")));
}

/// A source and a store of objects, with more keys.
fn objects(url: &str, more: &str) -> String {
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["lake"]

        [upstream.lake]
        kind = "object_store"
        url = "{url}"
        batch = {{ max_items = 3, max_wait = "100ms" }}
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        {more}
        "#
    )
}

#[test]
fn batches_become_objects_in_a_directory_and_wait_until_there_is_one() {
    let outside = tempfile::tempdir().unwrap();
    let lake = outside.path().join("lake");
    let relay = Relay::start(&objects(&format!("file://{}", lake.display()), ""));
    let ids: BTreeSet<String> = (0..3).map(|number| relay.accept("/x", format!("{number}"))).collect();
    let first = ids.first().unwrap();
    wait_until("an attempt is deferred", || relay.show(first).to_string().contains("\"outcome\":\"deferred\""));
    fs::create_dir(&lake).unwrap();
    let mut found = BTreeSet::new();
    for id in &ids {
        let shown = relay.wait_for_state(id, "delivered");
        let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
        let url = attempts.last().unwrap()["sent"]["url"].as_str().unwrap().to_owned();
        let text = fs::read_to_string(url.strip_prefix("file://").unwrap()).unwrap();
        found.extend(
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(found, ids);
}

#[test]
fn batches_become_signed_puts_to_a_bucket_and_a_failure_is_tried_again() {
    let bucket = Upstream::start();
    bucket.answer(Answer::Status(503));
    let keys = format!(
        "endpoint = \"{}\"\nallow_http = true\nregion = \"eu-1\"\naccess_key = \"env:KEY\"\nsecret_key = \"env:SECRET\"",
        bucket.url()
    );
    let mut relay = Relay::stopped(&objects("s3://events/raw", &keys));
    relay.environment("KEY", "AKID");
    relay.environment("SECRET", "not-to-be-shown");
    relay.run();
    let ids: Vec<String> = (0..3).map(|number| relay.accept("/x", format!("{{\"n\":{number}}}"))).collect();
    bucket.wait_for_requests(1);
    bucket.answer(Answer::With(200, vec![("etag", "\"1\"".to_owned())], ""));
    for id in &ids {
        let shown = relay.wait_for_state(id, "delivered");
        let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
        let url = attempts.last().unwrap()["sent"]["url"].as_str().unwrap();
        assert!(url.starts_with("s3://events/raw/20"), "{url}");
    }
    let puts = bucket.received();
    for put in &puts {
        assert_eq!(put.method, "PUT");
        assert!(put.target.starts_with("/events/raw/20"), "{}", put.target);
        let authorization = put.header("authorization").unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{authorization}");
        assert!(authorization.contains("/eu-1/s3/aws4_request") && authorization.contains("Signature="));
        assert!(put.text().ends_with('\n') && !put.text().contains("not-to-be-shown"));
    }
    assert!(!relay.diagnostics().contains("not-to-be-shown"));
}
