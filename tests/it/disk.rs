//! A full disk: senders are told to come back, nothing is lost, and room is all it takes to go on.
//!
//! The tests need a file system of their own. Without the right to mount one they check the budget (`max_size`)
//! instead and say so; the answers to senders are the same.

use std::{fs, net::TcpStream, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{
    harness::{Relay, Request, distinct_bytes, exchange, wait_until},
    sinks::files_in,
};

const CONFIG: &str = "[store]\nreserve = \"64MiB\"\n[source.a]\npath = \"/a\"\nto = []\n";

/// A small file system in memory.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// None if this user may not mount; says so.
    fn mount(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { directory }),
            other => {
                eprintln!("no file system could be mounted ({other:?}): only the budget is tested");
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Takes room, and with it all that is left if `bytes` is more than there is.
    fn fill(&self, bytes: usize) -> PathBuf {
        let path = self.directory.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..bytes.div_ceil(block.len()) {
            if std::io::Write::write_all(&mut file, &block).is_err() {
                break;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.directory.path()).output();
    }
}

fn is_full(relay: &Relay) -> bool {
    let answer = relay.send(&Request::post("/a", "x"));
    if answer.status == 202 {
        return false;
    }
    assert_eq!(answer.status, 503, "{answer:?}");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=30).contains(&seconds), "{seconds}");
    true
}

/// Fills the disk until senders are told so.
fn fill_until_refused(disk: &SmallDisk, relay: &Relay) -> PathBuf {
    let filler = disk.fill(1 << 30);
    wait_until("the disk is noticed to be full", || is_full(relay));
    assert_eq!(relay.ask_admin("/readyz").status, 503);
    assert_eq!(relay.ask_admin("/livez").status, 200);
    filler
}

#[test]
fn a_disk_that_fills_up_is_503_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(256) else { return budget() };
    let mut relay = Relay::with_data(&disk.data(), CONFIG);
    relay.run();
    relay.accept("/a", "before");
    let kept = relay.accept("/a", "kept");
    let filler = fill_until_refused(&disk, &relay);
    assert_eq!(relay.cli(&["show", &kept, "--body"]).done().out, "kept");
    fs::remove_file(&filler).unwrap();
    recovers_after(&relay, &kept);
    relay.restart();
    assert_eq!(relay.cli(&["verify"]).code, 75);
    assert_eq!(relay.stop(), 0);
    relay.cli(&["verify"]).done();
}

fn recovers_after(relay: &Relay, kept: &str) {
    wait_until("there is room again", || !is_full(relay));
    wait_until("it is ready again", || relay.ask_admin("/readyz").status == 200);
    assert_eq!(relay.cli(&["show", kept, "--body"]).done().out, "kept");
}

#[test]
fn a_backup_of_an_instance_whose_disk_is_full_says_so_and_takes_no_more_room() {
    let Some(disk) = SmallDisk::mount(256) else { return budget() };
    let relay = {
        let mut relay = Relay::with_data(&disk.data(), CONFIG);
        relay.run();
        relay
    };
    relay.accept("/a", "kept");
    let filler = fill_until_refused(&disk, &relay);
    let segments = || fs::read_dir(disk.data().join("log")).unwrap().count();
    let before = segments();
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().join("backup").display().to_string();
    let told = relay.cli(&["backup", &place]);
    assert_eq!(told.code, 74, "{told:?}");
    assert!(told.err.contains("store.reserve") && told.err.contains("make room"), "{}", told.err);
    assert_eq!(segments(), before);
    let status = relay.cli(&["status"]).done().out;
    assert!(status.contains("there is no room: new events are refused"), "{status}");
    fs::remove_file(filler).unwrap();
    wait_until("there is room again", || !is_full(&relay));
    relay.cli(&["backup", &place]).done();
}

#[test]
fn a_relay_that_is_restarted_on_a_full_disk_serves_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(256) else { return budget() };
    let mut relay = Relay::with_data(&disk.data(), CONFIG);
    relay.run();
    let kept = relay.accept("/a", "kept");
    let filler = fill_until_refused(&disk, &relay);
    for how in ["in order", "by a kill"] {
        match how {
            "in order" => assert_eq!(relay.stop(), 0),
            _ => relay.kill(),
        }
        relay.run();
        wait_until(&format!("it is full after a restart {how}"), || is_full(&relay));
        assert_eq!(relay.cli(&["show", &kept, "--body"]).done().out, "kept");
    }
    fs::remove_file(filler).unwrap();
    recovers_after(&relay, &kept);
}

/// The budget behaves like a disk of that size.
fn budget() {
    let mut relay = Relay::start(
        "[store]\nmax_size = \"2MiB\"\nwhen_full = \"refuse\"\n[source.a]\npath = \"/a\"\nto = [\"u\"]\n\
         [upstream.u]\nurl = \"http://127.0.0.1:1\"\n",
    );
    let bytes = distinct_bytes(100 * 100_000);
    let mut bodies = bytes.chunks(100_000);
    wait_until("the budget is used up", || {
        relay.send(&Request::post("/a", bodies.next().unwrap_or(b"x"))).status == 503
    });
    assert!(is_full(&relay));
    relay.restart();
    wait_until("it is still full", || is_full(&relay));
    relay.stop();
    relay.configure("[store]\nmax_size = \"64MiB\"\n[source.a]\npath = \"/a\"\nto = []\n");
    relay.run();
    wait_until("there is room", || !is_full(&relay));
}

#[test]
fn a_budget_that_is_used_up_by_undelivered_events_is_503_and_more_budget_is_enough() {
    budget();
}

#[test]
fn files_of_events_on_a_full_disk_have_no_half_lines_and_go_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let out = disk.directory.path().join("out");
    fs::create_dir(&out).unwrap();
    let relay = files_in(&out.display().to_string(), "batch = { max_wait = \"10ms\" }");
    let mut relay = Relay::start(&relay);
    let before = relay.accept("/x", "\"before\"");
    relay.wait_for_state(&before, "delivered");
    let filler = disk.fill(1_900 * 1024);
    // More than there is room for, and more than fits into one write.
    let large = relay.accept("/x", format!("\"{}\"", hex::encode(distinct_bytes(150_000))));
    wait_until("it is deferred", || {
        let shown = relay.show(&large).to_string();
        shown.contains("the file can't be written") && shown.contains("\"outcome\":\"deferred\"")
    });
    let beside = relay.accept("/x", "\"beside\"");
    relay.wait_for_state(&beside, "delivered");
    finished_lines(&out);
    assert_eq!(relay.show(&large)["deliveries"][0]["state"], "pending");
    relay.kill();
    relay.run();
    wait_until("it is deferred again", || relay.show(&large)["deliveries"][0]["attempts_total"].as_u64() > Some(1));
    finished_lines(&out);
    fs::remove_file(filler).unwrap();
    relay.wait_for_state(&large, "delivered");
    assert_eq!(relay.stop(), 0);
    let mut ids = finished_lines(&out);
    let left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|end| end == "ndjson")), "{left:?}");
    ids.sort();
    let mut expected = [before, large, beside];
    expected.sort();
    assert_eq!(ids, expected, "each once");
}

/// The ids in files that have their names; every line of these is whole.
fn finished_lines(out: &std::path::Path) -> Vec<String> {
    let paths = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let finished = paths.filter(|path| path.extension().is_some_and(|end| end == "ndjson"));
    let lines = finished.flat_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n'), "{} ends with half a line", path.display());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let id = |line: String| {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["id"].as_str().unwrap().to_owned()
    };
    lines.map(id).collect()
}

#[test]
fn a_write_that_fails_poisons_the_relay_and_a_restart_serves_what_was_acknowledged() {
    let mut relay =
        Relay::stopped("[store]\nreserve = \"1MiB\"\nmax_size = \"1GiB\"\n[source.a]\npath = \"/a\"\nto = []\n");
    relay.limit_files(Some(6 * 1024));
    relay.run();
    let bytes = distinct_bytes(200 * 60_000);
    let mut acknowledged = Vec::new();
    for body in bytes.chunks(60_000) {
        let sent = TcpStream::connect(relay.address()).and_then(|open| exchange(open, &Request::post("/a", body)));
        match sent {
            Ok(answer) if answer.status == 202 => {
                let id = answer.header("stagepost-event-id").unwrap().to_owned();
                acknowledged.push((id, body));
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                assert!(answer.header("retry-after").is_some());
                break;
            }
            Err(_) => break,
        }
    }
    assert!(!acknowledged.is_empty() && acknowledged.len() < 200, "{} were taken", acknowledged.len());
    let (code, said) = relay.wait();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("the log is poisoned"), "{said}");
    relay.limit_files(None);
    relay.run();
    for (id, body) in &acknowledged {
        assert!(relay.cli(&["show", id, "--body"]).done().bytes == **body, "{id}");
    }
    relay.accept("/a", "serving again");
}
