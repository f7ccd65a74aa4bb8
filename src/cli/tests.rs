//! The command line as a whole: grammar, exit codes, and conversations with a fake instance.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::*;
use crate::{
    admin::{EventId, Reads, fake::*, server::serve_socket},
    log::entry::Action,
};

/// A host whose only knowledge is a directory.
struct TestHost(PathBuf);

impl Host for TestHost {
    fn run(&self, args: &RunArgs) -> Result<(), Failure> {
        Err(Failure::new(Exit::Busy, format!("{args:?}")))
    }
    fn check(&self, config: Option<&Path>) -> Result<Checked, Failure> {
        match config {
            Some(_) => Err(Failure::new(Exit::Config, "a.toml:1: what\na.toml:2: that")),
            None => Ok(Checked {
                path: "a.toml".into(),
                warnings: vec!["no check".into()],
                effective: "[server]\n# retries\n".into(),
            }),
        }
    }
    fn locate(&self, _: Option<&Path>) -> Result<Option<Located>, Failure> {
        Ok(Some(Located { socket: self.0.join("admin.sock"), data: Some(self.0.clone()) }))
    }
    fn offline(&self, _: &Path, _: Option<&Path>) -> Result<Box<dyn Reads>, Failure> {
        let fake = Fake::default();
        fake.accept("stopped", b"stored");
        Ok(Box::new(fake))
    }
    fn verify(&self, _: &Path, repair: bool) -> Result<VerifyReport, Failure> {
        let damage = Damage { file: "0001.seg".into(), what: "a block is unreadable".into(), ids: vec!["ID".into()] };
        Ok(VerifyReport { damage: if repair { Vec::new() } else { vec![damage] }, ..VerifyReport::default() })
    }
}

struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

fn run_with(dir: &Path, input: &str, in_is_terminal: bool, args: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let terminal = Terminal {
        out: &mut out,
        err: &mut err,
        input: &mut input.as_bytes(),
        out_is_terminal: false,
        in_is_terminal,
        now: Timestamp::from_millis(1_767_323_100_000),
    };
    let args = std::iter::once("stagepost").chain(args.iter().copied()).map(OsString::from);
    let exit = run(args, &TestHost(dir.to_owned()), terminal);
    Ran { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// A fake instance that answers on a socket of its own, from a thread of its own.
struct Running {
    dir: tempfile::TempDir,
    ports: Arc<Fake>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn new(fake: Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ports = Arc::new(fake);
        let entered = runtime.enter();
        let listener = crate::admin::bind(&dir.path().join("admin.sock"), None).unwrap();
        drop(entered);
        runtime.spawn(serve_socket(listener, ports.clone()));
        Self { dir, ports, _runtime: runtime }
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with("", true, args)
    }

    fn run_with(&self, input: &str, in_is_terminal: bool, args: &[&str]) -> Ran {
        run_with(self.dir.path(), input, in_is_terminal, args)
    }
}

fn dead(count: usize) -> (Fake, Vec<EventId>) {
    let fake = Fake::default();
    let ids: Vec<EventId> = (0..count).map(|_| fake.accept("stripe", b"{}")).collect();
    for id in &ids {
        fake.plan(&[(*id, &["billing"])]);
        fake.set(*id, delivery("billing", Status::Dead(Reason::new("given_up"))));
    }
    (fake, ids)
}

#[test]
fn the_grammar_is_consistent_and_every_command_has_help_with_an_example() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
    let whole = Cli::command();
    let inner = whole.get_subcommands().flat_map(clap::Command::get_subcommands);
    for command in whole.get_subcommands().chain(inner) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.lines().skip(1).take_while(|line| line.starts_with("  stagepost "));
        assert!(help.starts_with("Examples:\n") && examples.count() > 0, "{}", command.get_name());
    }
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], Exit); 20] = [
        (&[], Exit::Usage),
        (&["nonsense"], Exit::Usage),
        (&["--help"], Exit::Done),
        (&["--version"], Exit::Done),
        (&["log", "--help"], Exit::Done),
        (&["log", "--since", "yesterday"], Exit::Usage),
        (&["log", "-n", "x"], Exit::Usage),
        (&["show"], Exit::Usage),
        (&["show", "not-an-id"], Exit::Usage),
        (&["show", "01KDYAK3SF0000000000000001", "--json", "--body"], Exit::Usage),
        (&["run", "--listen", "127.0.0.1:1"], Exit::Usage),
        (&["run", "--config", "x", "--listen", "127.0.0.1:1", "--to", "http://x"], Exit::Usage),
        (&["replay"], Exit::Usage),
        (&["hold"], Exit::Usage),
        (&["release"], Exit::Usage),
        (&["delete"], Exit::Usage),
        (&["hold", "--reason", "no filter"], Exit::Usage),
        (&["replay", "--rate", "fast", "--all"], Exit::Usage),
        (&["hold", "--for", "soon", "--all"], Exit::Usage),
        (&["delete", "--all", "01KDYAK3SF0000000000000001"], Exit::Usage),
    ];
    for (args, exit) in cases {
        let ran = run_with(dir.path(), "", true, args);
        assert_eq!(ran.exit, exit, "{args:?} {}", ran.err);
    }
}

#[test]
fn what_the_engine_says_becomes_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run_with(dir.path(), "", true, args);
    assert_eq!(run(&["run", "--listen", "127.0.0.1:0", "--to", "http://x"]).exit, Exit::Busy);
    assert_eq!(run(&["check"]).out, "a.toml is valid\n");
    assert_eq!(run(&["check"]).err, "warning: no check\n");
    assert_eq!(run(&["check", "--print"]).out, "[server]\n# retries\n");
    let bad = run(&["check", "--config", "x"]);
    assert_eq!((bad.exit, bad.err.as_str()), (Exit::Config, "stagepost: a.toml:1: what\nstagepost: a.toml:2: that\n"));
    let damaged = run(&["verify"]);
    assert_eq!(damaged.exit, Exit::Damage);
    assert!(damaged.out.contains("a block is unreadable\n  ID\n"), "{}", damaged.out);
    assert_eq!(run(&["verify", "--repair"]).exit, Exit::Done);
    assert_eq!(run(&["verify", "--socket", "x"]).exit, Exit::Usage);
}

#[test]
fn without_an_instance_commands_say_69_and_the_log_is_read_from_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run_with(dir.path(), "", true, args);
    for args in
        [&["status"][..], &["reload"], &["refused"], &["hold", "--all"], &["log", "-f"], &["log", "--socket", "/none"]]
    {
        assert_eq!(run(args).exit, Exit::NotRunning, "{args:?}");
    }
    let log = run(&["log", "--json"]);
    assert_eq!(log.exit, Exit::Done, "{}", log.err);
    assert!(log.out.contains(r#""source":"stopped""#), "{}", log.out);
    let body = run(&["show", "--body", "01KDYAK3SF0000000000000001"]);
    assert_eq!((body.exit, body.out.as_str()), (Exit::Done, "stored"), "{}", body.err);
    assert_eq!(run(&["show", "01KDYAK3SF0000000000000009"]).exit, Exit::NoSuchId);
}

#[test]
fn an_instance_lists_shows_and_explains() {
    let (fake, ids) = dead(3);
    let running = Running::new(fake);
    let log = running.run(&["log", "-n", "2"]);
    assert_eq!((log.exit, log.out.lines().count()), (Exit::Done, 2), "{}", log.err);
    assert!(log.out.contains("dead") && log.out.contains("billing dead (1x, given_up)"), "{}", log.out);
    let json = running.run(&["log", "--json", "--state", "dead"]);
    assert_eq!(json.out.lines().count(), 3);
    assert_eq!(running.run(&["log", "--state", "done"]).exit, Exit::Usage);
    let id = ids[0].to_string();
    assert_eq!(running.run(&["show", &id, "--body"]).out, "{}");
    assert!(running.run(&["show", &id]).out.contains("authorization: [hidden]"));
    assert!(running.run(&["show", &id, "--reveal", "--curl"]).out.contains("Bearer sesame"));
    assert!(running.run(&["explain", &id]).out.contains("given up for billing"));
    let missing = running.run(&["explain", "01KDYAK3SF00000000000000ZZ"]);
    assert_eq!(missing.exit, Exit::NoSuchId, "{}", missing.err);
}

#[test]
fn status_reload_and_refused_tell_what_the_instance_says() {
    let running = Running::new(Fake::default());
    let status = running.run(&["status"]);
    assert!(status.out.contains("UPSTREAM") && status.out.contains("billing"), "{}{}", status.out, status.err);
    assert!(running.run(&["status", "--json"]).out.contains(r#""quarantine":{"count":0"#));
    let reload = running.run(&["reload"]);
    assert_eq!(reload.exit, Exit::Config);
    assert!(reload.err.contains("stagepost.toml:3: source.stripe: no path"), "{}", reload.err);
    let refused = running.run(&["refused"]);
    assert!(refused.out.contains("bad_signature") && refused.out.contains("/hooks/\\x1b[2J"), "{}", refused.out);
    assert_eq!(running.run(&["refused", "--json"]).out.lines().count(), 1);
}

#[test]
fn delete_asks_and_a_replay_asks_above_100() {
    let (fake, ids) = dead(101);
    let running = Running::new(fake);
    let id = ids[0].to_string();
    let commands = || running.ports.commands().len();

    assert_eq!(running.run_with("n\n", true, &["delete", &id]).exit, Exit::Partly);
    assert_eq!(running.run_with("", false, &["delete", &id]).exit, Exit::Usage);
    assert_eq!(running.run_with("", false, &["replay", "--upstream", "billing"]).exit, Exit::Usage);
    assert_eq!(commands(), 0);

    assert_eq!(running.run_with("y\n", true, &["delete", &id]).exit, Exit::Done);
    assert_eq!(running.run_with("", false, &["delete", &id, "--yes"]).exit, Exit::Done);
    assert_eq!(running.run_with("", false, &["replay", &id]).exit, Exit::Done);
    assert_eq!(commands(), 3);

    let dry = running.run_with("", false, &["replay", "--upstream", "billing", "--dry-run"]);
    assert!(
        dry.out.contains("… and 81 more") && dry.out.contains("101 deliveries of 101 events would be due again"),
        "{}",
        dry.out
    );
    assert_eq!(commands(), 3);
    let all = running.run_with("", false, &["replay", "--upstream", "billing", "--yes", "--rate", "100/s"]);
    assert_eq!(all.exit, Exit::Done, "{}", all.err);
    assert!(matches!(running.ports.commands()[3].action, Action::Replay { interval_us: Some(10_000), .. }));
}

#[test]
fn ids_come_from_standard_input_and_unknown_ones_decide_the_exit_code() {
    let (fake, ids) = dead(2);
    let running = Running::new(fake);
    let good = ids[0].to_string();
    let missing = "01KDYAK3SF00000000000000ZZ";
    let input = format!("{good} stripe\n{{\"id\":\"{}\"}}\n", ids[1]);
    let both = running.run_with(&input, true, &["replay", "-"]);
    assert!(both.out.contains("2 deliveries of 2 events due again"), "{}{}", both.out, both.err);
    assert_eq!(running.run_with("\n", true, &["replay", "-"]).exit, Exit::Usage);
    assert_eq!(running.run(&["replay", missing]).exit, Exit::NoSuchId);
    assert_eq!(running.run(&["replay", missing, &good]).exit, Exit::Partly);
    assert_eq!(running.run(&["hold", &good]).exit, Exit::Partly);
}

#[test]
fn hold_says_what_it_held_and_its_reason_is_no_filter() {
    let running = Running::new(Fake::default());
    let held = running.run(&["hold", "--upstream", "billing", "--for", "10m", "--reason", "migration"]);
    assert_eq!(held.exit, Exit::Done, "{}", held.err);
    assert!(held.out.starts_with("upstream billing held: what waits and what will come"), "{}", held.out);
    match &running.ports.commands()[0].action {
        Action::HoldUpstream { until_ms, reason, .. } => {
            assert_eq!(reason.as_deref(), Some("migration"));
            assert_eq!(*until_ms, Some(running.ports.clock().as_millis() + 600_000));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(running.run(&["hold", "--upstream", "nowhere"]).exit, Exit::Usage);
}

#[test]
fn release_mirrors_hold_its_reason_is_recorded_and_an_unknown_upstream_is_64() {
    let running = Running::new(Fake::default());
    let released = running.run(&["release", "--upstream", "billing", "--reason", "done"]);
    assert_eq!(released.exit, Exit::Done, "{}", released.err);
    assert!(released.out.starts_with("upstream billing released: what waits goes on"), "{}", released.out);
    let command = running.ports.commands().remove(0);
    assert_eq!(command.action, Action::ReleaseUpstream { upstream: "billing".into() });
    assert_eq!(command.reason.as_deref(), Some("done"));
    assert_eq!(running.run(&["release", "--upstream", "nowhere"]).exit, Exit::Usage);
    assert_eq!(running.run(&["release", "--reason", "no filter"]).exit, Exit::Usage);
    assert_eq!(running.ports.commands().len(), 1);
}

#[test]
fn events_are_shown_and_explained_by_ids_from_standard_input() {
    let (fake, ids) = dead(2);
    let running = Running::new(fake);
    let input = format!("{} stripe\n{{\"id\":\"{}\"}}\n", ids[0], ids[1]);
    let shown = running.run_with(&input, false, &["show", "-", "--json"]);
    assert_eq!(shown.exit, Exit::Done, "{}", shown.err);
    let lines = shown.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(
        lines.map(|shown| shown["id"].clone()).collect::<Vec<_>>(),
        ids.iter().map(|id| id.to_string()).collect::<Vec<_>>()
    );
    let why = running.run_with(&input, false, &["explain", "-"]);
    assert_eq!(why.out.matches("given up for billing").count(), 2, "{}{}", why.out, why.err);
    let missing = "01KDYAK3SF00000000000000ZZ\n";
    let partly = running.run_with(&format!("{missing}{input}"), false, &["explain", "-"]);
    assert_eq!((partly.exit, &partly.out), (Exit::Partly, &why.out));
    assert!(partly.err.contains("01KDYAK3SF00000000000000ZZ"), "{}", partly.err);
    assert_eq!(running.run_with(missing, false, &["show", "-"]).exit, Exit::NoSuchId);
    assert_eq!(running.run_with("\n", false, &["show", "-"]).exit, Exit::Usage);
    let dir = tempfile::tempdir().unwrap();
    let offline = run_with(dir.path(), "01KDYAK3SF0000000000000001\n", false, &["show", "-", "--body"]);
    assert_eq!((offline.exit, &*offline.out), (Exit::Done, "stored"), "{}", offline.err);
}

#[test]
fn the_quarantine_is_listed_shown_judged_admitted_and_deleted() {
    let (fake, ids, _directory) = crate::admin::quarantine_tests::keeping(&["7", "forged", "8"]);
    let running = Running::new(fake);
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();

    let listed = running.run(&["quarantine"]);
    assert_eq!((listed.exit, listed.out.lines().count()), (Exit::Done, 3), "{}", listed.err);
    assert!(listed.out.contains("bad_signature") && listed.out.contains("192.0.2.7, POST /hooks/stripe"));
    let json = running.run(&["quarantine", "list", "--json", "-n", "1"]).out;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["id"], ids[2].as_str());
    assert_eq!(running.run(&["quarantine", "--state", "dead"]).exit, Exit::Usage);

    let page = running.run(&["quarantine", "show", &ids[0]]);
    assert!(page.out.contains("bad_signature by stripe, answered 401"), "{}", page.out);
    assert!(page.out.contains("[hidden]") && !page.out.contains("sesame"));
    assert_eq!(running.run(&["quarantine", "show", &ids[0], "--body"]).out, "7");
    assert!(running.run(&["quarantine", "show", &ids[0], "--http", "--reveal"]).out.contains("x-signature: sesame"));
    assert_eq!(running.run(&["show", &ids[0]]).exit, Exit::NoSuchId);
    assert_eq!(running.run(&["quarantine", "show", "01KDYAK3SF0000000000000001"]).exit, Exit::NoSuchId);
    assert_eq!(running.run(&["quarantine", "show", "not-an-id"]).exit, Exit::Usage);

    let rechecked = running.run(&["quarantine", "recheck"]);
    assert_eq!(rechecked.exit, Exit::Partly);
    assert!(rechecked.out.ends_with("2 requests would be taken now, 1 still refused\n"), "{}", rechecked.out);
    assert_eq!(running.run(&["quarantine", "recheck", "--admit"]).exit, Exit::Usage);
    assert_eq!(running.run(&["quarantine", "recheck", "--admit", "--all", "--dry-run"]).out, rechecked.out);
    let admitted = running.run_with(&format!("{}\n", ids[0]), false, &["quarantine", "recheck", "-", "--admit"]);
    assert_eq!(admitted.exit, Exit::Done, "{}", admitted.err);
    assert!(
        admitted.out.contains("admitted as ") && admitted.out.ends_with("1 request in the log now, 0 still refused\n")
    );
    assert_eq!(running.run(&["quarantine", "recheck", &ids[0]]).exit, Exit::NoSuchId);
    let admit = ["quarantine", "recheck", &*ids[1], "--admit"];
    assert_eq!(running.run(&admit).exit, Exit::Partly, "it is still refused");
    let counts: Vec<_> =
        running.ports.commands().iter().map(|command| (command.action.word().to_owned(), command.count())).collect();
    let did = |word: &str, count| (word.to_owned(), count);
    let expected = [did("quarantine_admit", 1), did("quarantine_admitted", 0)];
    assert_eq!(counts[counts.len() - 2..], expected, "asked for, and done");

    assert_eq!(running.run(&["quarantine", "delete"]).exit, Exit::Usage);
    assert_eq!(running.run_with("", false, &["quarantine", "delete", &ids[1]]).exit, Exit::Usage);
    assert_eq!(running.run_with("no\n", true, &["quarantine", "delete", &ids[1]]).exit, Exit::Partly);
    assert_eq!(running.run_with("yes\n", true, &["quarantine", "delete", &ids[1]]).out, "1 request deleted\n");
    assert_eq!(running.run(&["quarantine", "delete", &ids[1], "--yes"]).exit, Exit::NoSuchId);
    assert_eq!(running.run(&["quarantine", "--json"]).out.lines().count(), 1);
}

#[test]
fn more_than_a_hundred_admissions_are_asked_about() {
    let bodies: Vec<String> = (1..=102).map(|n| n.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let (fake, _ids, _directory) = crate::admin::quarantine_tests::keeping(&bodies);
    let running = Running::new(fake);
    let admit = ["quarantine", "recheck", "--admit", "--all"];
    let unasked = running.run_with("", false, &admit);
    assert_eq!(unasked.exit, Exit::Usage);
    assert!(unasked.err.contains("admit 102 requests"), "{}", unasked.err);
    assert_eq!(running.run_with("n\n", true, &admit).exit, Exit::Partly);
    let all = running.run_with("y\n", true, &admit);
    assert!(all.out.ends_with("102 requests in the log now, 0 still refused\n"), "{}", all.out);
    assert_eq!(running.run(&["quarantine"]).out, "");
}
