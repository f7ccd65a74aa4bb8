//! Configuration: what is wrong with it, all at once, and reloading it as a whole or not at all.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Answer, Relay, Request, Upstream, all_to, cli, signed, wait_until};

#[test]
fn all_problems_are_told_at_once_each_with_file_line_and_key() {
    let relay = Relay::stopped("");
    relay.write(
        "stagepost.toml",
        "include = [\"conf.d/*.toml\"]\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [server]\nmax_bodi = \"1MiB\"\nidle_timeout = \"5 minutes\"\n",
    );
    fs::create_dir(relay.directory().join("conf.d")).unwrap();
    relay.write("conf.d/a.toml", "[source.a]\npath = \"/a\"\nto = [\"nobody\"]\n\n[upstream.b]\nurl = \"ftp://x\"\n");
    for verb in ["check", "run"] {
        let told = relay.cli_by_config(&[verb]);
        assert_eq!(told.code, 78, "{told:?}");
        for part in ["stagepost.toml:5", "max_bodi", "max_body", "stagepost.toml:6", "a.toml:3", "nobody", "a.toml:6"] {
            assert!(told.err.contains(part), "{part:?} is not in\n{}", told.err);
        }
    }
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let relay = Relay::stopped("");
    relay.write("stagepost.toml", "[server]\nmax_body = \n");
    let told = relay.cli_by_config(&["check"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("stagepost.toml:2"), "{}", told.err);
}

#[test]
fn a_configuration_that_is_named_or_found_nowhere_is_78() {
    let directory = tempfile::tempdir().unwrap();
    for args in [&["check"][..], &["run"], &["check", "--config", "missing.toml"]] {
        let told = cli(directory.path(), args);
        // A machine may have an installed configuration: then only the named one is missing.
        if args.len() > 1 || !std::path::Path::new("/etc/stagepost/stagepost.toml").exists() {
            assert_eq!(told.code, 78, "{told:?}");
        }
    }
}

#[test]
fn a_variable_without_value_and_without_default_is_a_problem() {
    let relay = Relay::stopped("[source.a]\npath = \"/${IT_UNSET_SEGMENT}\"\nto = []\n");
    let told = relay.cli_by_config(&["check"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("IT_UNSET_SEGMENT"), "{}", told.err);
    relay.configure("[source.a]\npath = \"/${IT_UNSET_SEGMENT:-x}\"\nto = []\n");
    let printed = relay.cli_by_config(&["check", "--print"]).done().out;
    assert!(printed.contains("\"/x\""), "{printed}");
}

#[test]
fn check_print_shows_the_timetable_and_no_secret() {
    let upstream = Upstream::start();
    let relay =
        Relay::stopped(&format!("{}\nheaders = {{ Authorization = \"literal:very-secret\" }}\n", all_to(&upstream)));
    let told = relay.cli_by_config(&["check", "--print"]).done();
    assert!(told.out.contains("[upstream.app]") && told.out.contains("100ms"), "{}", told.out);
    assert!(!told.out.contains("very-secret") && !told.err.contains("very-secret"));
    assert!(told.err.contains("warning"), "{}", told.err);
}

#[test]
fn a_good_reload_takes_effect_at_once_and_says_so() {
    let (old, new) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&all_to(&old));
    relay.accept("/x", "1");
    old.wait_for_requests(1);
    relay.configure(&all_to(&new));
    let told = relay.cli(&["reload"]).done();
    assert!(told.out.contains("is active now"), "{}", told.out);
    relay.accept("/x", "2");
    assert_eq!(new.wait_for_requests(1)[0].text(), "2");
    assert_eq!(old.received().len(), 1);
    assert!(relay.cli(&["reload"]).done().out.contains("is unchanged; the secrets"));
    assert_eq!(relay.metric("stagepost_last_reload_success") as u64, 1);
}

#[test]
fn a_bad_reload_is_78_names_the_place_and_changes_nothing() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let before = relay.cli(&["status", "--json"]).json()["config"]["hash"].clone();
    relay.configure("[source.app]\npath = \"/other\"\nto = [\"gone\"]\n");
    let told = relay.cli(&["reload"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("stagepost.toml:") && told.err.contains("to"), "{}", told.err);
    assert_eq!(relay.metric("stagepost_last_reload_success") as u64, 0);
    assert_eq!(relay.cli(&["status", "--json"]).json()["config"]["hash"], before);
    relay.accept("/x", "still");
    upstream.wait_for_requests(1);
}

#[test]
fn commands_find_the_instance_of_a_configuration_whose_secrets_they_may_not_read() {
    let mut relay = Relay::stopped(
        "[source.app]\npath = \"/a\"\nto = []\n\
         verify = { scheme = \"bearer\", secrets = [\"env:IT_ONLY_THE_RELAY_HAS_IT\"] }\n",
    );
    relay.environment("IT_ONLY_THE_RELAY_HAS_IT", "a-secret");
    relay.run();
    let request = Request::post("/a", "x").header("Authorization", "Bearer a-secret");
    let id = relay.send(&request).event_id();
    for args in [&["status"][..], &["log"], &["show", &id], &["explain", &id], &["reload"]] {
        relay.cli_by_config(args).done();
    }
    assert_eq!(relay.cli_by_config(&["check"]).code, 78);
    assert_eq!(relay.stop(), 0);
    relay.cli_by_config(&["show", &id]).done();
}

#[test]
fn a_reload_by_a_configuration_that_is_wrong_reaches_the_instance_which_says_so() {
    let relay = Relay::start("[source.app]\npath = \"/a\"\nto = []\n");
    for wrong in ["[server]\nmax_bodi = \"1MiB\"\n", "[server]\nmax_body = \n"] {
        relay.configure("[source.app]\npath = \"/a\"\nto = []\n");
        relay.cli_by_config(&["reload"]).done();
        assert_eq!(relay.metric("stagepost_last_reload_success") as u64, 1);
        relay.configure(wrong);
        let told = relay.cli_by_config(&["reload"]);
        assert_eq!(told.code, 78, "{told:?}");
        assert!(told.err.contains("stagepost.toml:"), "{}", told.err);
        assert_eq!(relay.metric("stagepost_last_reload_success") as u64, 0);
    }
    let audited = relay.cli(&["audit", "--json"]).done().lines();
    let reloads = audited.iter().filter(|line| line.to_string().contains("reload"));
    assert_eq!(reloads.count(), 4, "{audited:?}");
}

#[test]
fn each_warning_of_a_reload_has_a_line_of_its_own() {
    let relay = Relay::start("[source.app]\npath = \"/a\"\nto = []\n");
    relay.configure(
        "[source.app]\npath = \"/a\"\nto = []\n[upstream.one]\nurl = \"http://127.0.0.1:9\"\n\
         [upstream.two]\nurl = \"http://127.0.0.1:9\"\n",
    );
    let told = relay.cli(&["reload"]).done();
    assert!(told.err.contains("warning: ") && told.err.contains("upstream.one: no route leads to it"), "{}", told.err);
    relay.wait_for_diagnostics("upstream.two: no route leads to it");
    let diagnostics = relay.diagnostics();
    let with_both = |line: &&str| line.contains("upstream.one: ") && line.contains("upstream.two: ");
    assert_eq!(diagnostics.lines().find(with_both), None);
    assert!(diagnostics.contains("upstream.one: no route leads to it"), "{diagnostics}");
}

#[test]
fn an_event_still_has_its_configuration_after_a_restart_and_offline() {
    let mut relay = Relay::start("[source.app]\npath = \"/a\"\nto = []\n");
    let id = relay.accept("/a", "1");
    let config = relay.show(&id)["config"].clone();
    assert!(config.is_string(), "{config}");
    relay.configure("[source.app]\npath = \"/*\"\nto = []\n");
    relay.cli(&["reload"]).done();
    let later = relay.accept("/b", "2");
    let other = relay.show(&later)["config"].clone();
    assert!(other.is_string() && other != config, "{other}");
    relay.restart();
    assert_eq!((&relay.show(&id)["config"], &relay.show(&later)["config"]), (&config, &other));
    assert!(relay.cli(&["explain", &id]).done().out.contains(&config.as_str().unwrap()[..8]));
    assert_eq!(relay.stop(), 0);
    assert_eq!(relay.show(&id)["config"], config);
}

#[test]
fn the_log_of_a_stopped_instance_is_filtered_by_the_routes_of_its_configuration() {
    let mut relay =
        Relay::start("[source.app]\npath = \"/a\"\n[[route]]\nname = \"some\"\nwhen = \".n == 1\"\nto = []\n");
    let one = relay.accept("/a", "{\"n\":1}");
    relay.accept("/a", "{\"n\":2}");
    assert_eq!(relay.stop(), 0);
    let elsewhere = tempfile::tempdir().unwrap();
    let config = relay.directory().join("stagepost.toml");
    let args = ["log", "--json", "--route", "some", "--config", config.to_str().unwrap()];
    let ids = |output: crate::harness::Output| -> Vec<String> {
        output.done().lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(cli(elsewhere.path(), &args)), std::slice::from_ref(&one));
    assert_eq!(ids(relay.cli(&args[..4])), [one]);
    let told = cli(elsewhere.path(), &["log", "--route", "some", "--data", relay.data().to_str().unwrap()]);
    assert_eq!(told.code, 64);
    assert!(told.err.contains("--config"), "{}", told.err);
}

#[test]
fn run_without_a_configuration_refuses_addresses_that_are_none_as_usage() {
    let directory = tempfile::tempdir().unwrap();
    for (listen, to, said) in [("foo", "http://127.0.0.1:9", "\"foo\" is no address"), ("127.0.0.1:0", "foo", "url: ")]
    {
        let told = cli(directory.path(), &["run", "--listen", listen, "--to", to]);
        assert_eq!(told.code, 64, "{told:?}");
        assert!(told.err.contains(said), "{}", told.err);
    }
}

#[test]
fn sighup_reloads() {
    let (old, new) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&all_to(&old));
    relay.configure(&all_to(&new));
    relay.signal(Signal::HUP);
    relay.wait_for_diagnostics("the configuration was reloaded");
    relay.accept("/x", "2");
    new.wait_for_requests(1);
    relay.configure("nonsense");
    relay.signal(Signal::HUP);
    relay.wait_for_diagnostics("the reload is refused");
    relay.accept("/x", "3");
    new.wait_for_requests(2);
}

#[test]
fn run_watch_reloads_when_the_text_changes() {
    let (old, new) = (Upstream::start(), Upstream::start());
    let mut relay = Relay::stopped(&all_to(&old));
    relay.argument("--watch");
    relay.run();
    relay.configure(&all_to(&new));
    relay.wait_for_diagnostics("the configuration was reloaded");
    relay.accept("/x", "2");
    new.wait_for_requests(1);
}

#[test]
fn a_secret_in_a_file_is_read_again_when_it_changes() {
    let relay = Relay::stopped("");
    relay.write("secret", "one\n");
    relay.configure(
        "[source.app]\npath = \"/in\"\nto = []\n[source.app.verify]\nscheme = \"hmac\"\nheader = \"X-Signature\"\n\
         prefix = \"sha256=\"\ntemplate = \"{timestamp}.{body}\"\n\
         timestamp = { header = \"X-Timestamp\" }\nsecrets = [\"file:secret\"]\n",
    );
    let mut relay = relay;
    relay.run();
    assert_eq!(relay.send(&signed("/in", "a", "one", 0)).status, 202);
    relay.write("secret.new", "two\n");
    fs::rename(relay.directory().join("secret.new"), relay.directory().join("secret")).unwrap();
    wait_until("the new secret counts", || relay.send(&signed("/in", "b", "two", 0)).status == 202);
    assert_eq!(relay.send(&signed("/in", "c", "one", 0)).status, 401);
}

#[test]
fn a_reload_that_removes_a_path_with_traffic_says_so() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n[source.b]\npath = \"/b\"\nto = []\n");
    relay.accept("/a", "1");
    relay.accept("/a", "2");
    relay.configure("[source.b]\npath = \"/b\"\nto = []\n");
    let told = relay.cli(&["reload"]).done();
    assert!(told.err.contains("path /a is gone") && told.err.contains("2 requests"), "{}", told.err);
    assert_eq!(relay.send(&Request::post("/a", "3")).status, 404);
}

#[test]
fn what_needs_a_restart_is_said() {
    let relay = Relay::start("[source.b]\npath = \"/b\"\nto = []\n");
    relay.configure("[[listen]]\naddress = \"127.0.0.1:1\"\n[source.b]\npath = \"/b\"\nto = []\n");
    let told = relay.cli(&["reload"]).done();
    assert!(told.err.contains("restart") && told.err.contains("127.0.0.1:1"), "{}", told.err);
    relay.accept("/b", "still listening where it did");
}

#[test]
fn deliveries_of_a_removed_upstream_are_held_and_go_on_when_it_returns() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let mut relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "kept");
    upstream.wait_for_requests(1);
    relay.configure("[source.app]\npath = \"/*\"\nto = []\n");
    let told = relay.cli(&["reload"]).done();
    assert!(told.err.contains("upstream app is gone"), "{}", told.err);
    let shown = relay.wait_for_state(&id, "held");
    assert!(shown["deliveries"][0]["reason"].as_str().unwrap().contains("upstream_removed"));
    relay.restart();
    relay.wait_for_state(&id, "held");
    assert!(relay.cli(&["explain", &id]).done().out.contains("not in the configuration"));
    upstream.answer(Answer::Status(200));
    relay.configure(&all_to(&upstream));
    relay.cli(&["reload"]).done();
    relay.wait_for_state(&id, "delivered");
}
