//! What operators look at and what comes with the program: the queue, completions, manual pages.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::harness::{Answer, BINARY, Relay, Upstream, all_to, cli, wait_until};

#[test]
fn the_queue_counts_what_waits_by_upstream_and_age_also_of_a_stopped_instance() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let mut relay = Relay::start(&all_to(&upstream));
    for n in 0..3 {
        relay.accept("/x", format!("{n}"));
    }
    let queue = || relay.cli(&["queue", "--json"]).done().json();
    wait_until("three wait", || queue()["rows"][0]["total"] == 3);
    let queue = queue();
    assert_eq!(queue["rows"][0]["upstream"], "app");
    assert_eq!(queue["rows"][0]["ages"], serde_json::json!([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let page = relay.cli(&["queue"]).done().out;
    assert!(page.starts_with("UPSTREAM  TOTAL  5  10  20  40  80  160  320  640  1280  1280+\n"), "{page}");
    assert!(page.contains("\napp       3      3  0"), "{page}");
    assert!(relay.cli(&["queue", "--state", "dead", "--json"]).done().json()["rows"].as_array().unwrap().is_empty());
    assert_eq!(relay.cli(&["queue", "--state", "delivered"]).code, 64);
    assert_eq!(relay.stop(), 0);
    assert_eq!(relay.cli(&["queue", "--json"]).done().json()["rows"][0]["total"], 3);
}

#[test]
fn completions_and_manual_pages_come_with_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let bash = cli(directory.path(), &["completions", "bash"]).done().out;
    assert!(bash.contains("complete -F _stagepost") && bash.contains("--upstream"), "{bash}");
    assert_eq!(cli(directory.path(), &["completions", "csh"]).code, 64);
    let told = cli(directory.path(), &["man", "pages"]).done().out;
    assert!(told.ends_with(" pages written\n"), "{told}");
    let page = std::fs::read_to_string(directory.path().join("pages/stagepost-replay.1")).unwrap();
    assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
}

#[test]
fn top_shows_upstreams_on_a_terminal_and_gives_it_back() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut child = Command::new(BINARY)
        .args(["top", "--every", "100ms", "--data"])
        .arg(relay.data())
        .env("TERM", "xterm")
        .stdin(Stdio::from(open()))
        .stdout(Stdio::from(open()))
        .stderr(Stdio::from(open()))
        .spawn()
        .unwrap();
    let screen = Arc::new(Mutex::new(Vec::new()));
    let (mut reader, written) = (File::from(master.try_clone().unwrap()), screen.clone());
    let reading = thread::spawn(move || {
        let mut piece = [0; 4096];
        // Ends with an error once nobody has the other side open.
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            written.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
    let shows = |part: &str| String::from_utf8_lossy(&screen.lock().unwrap()).contains(part);
    wait_until("the view is drawn", || shows("UPSTREAM") && shows("app") && shows("closed"));
    File::from(master).write_all(b"dsq").unwrap();
    assert!(child.wait().unwrap().success());
    reading.join().unwrap();
    // The screen from before is back.
    assert!(shows("\x1b[?1049h") && shows("\x1b[?1049l"));
    assert_eq!(relay.cli(&["top"]).code, 64, "without a terminal");
}
