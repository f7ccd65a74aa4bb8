//! What outlives a process: every event, every duty, whatever way the process ended.

use std::{fs, path::Path};

use rustix::process::Signal;

use crate::harness::{Answer, Connection, Relay, Request, Upstream, all_to, wait_until};

#[test]
fn what_is_pending_held_and_dead_is_so_after_a_restart_and_after_a_kill() {
    let upstream = Upstream::start();
    upstream.script(|request| match request.text().as_str() {
        "dead" => Answer::Status(422),
        _ => Answer::Status(503),
    });
    let mut relay = Relay::start(&all_to(&upstream).replace("100ms", "1h"));
    let (pending, held, dead) = (relay.accept("/x", "pending"), relay.accept("/x", "held"), relay.accept("/x", "dead"));
    upstream.wait_for_requests(3);
    relay.wait_for_state(&dead, "dead");
    for id in [&pending, &held] {
        wait_until("the first attempt is settled", || relay.show(id)["deliveries"][0]["attempts_total"] == 1);
    }
    relay.cli(&["hold", &held, "--reason", "to be looked at"]).done();
    let told = |relay: &Relay| {
        let state = |id: &str| relay.show(id)["deliveries"].clone();
        [state(&pending), state(&held), state(&dead)]
    };
    let before = told(&relay);
    assert_eq!(
        before.each_ref().map(|deliveries| deliveries[0]["state"].as_str().unwrap()),
        ["pending", "held", "dead"]
    );
    relay.restart();
    assert_eq!(told(&relay), before);
    relay.kill();
    relay.run();
    assert_eq!(told(&relay), before);
    assert_eq!(upstream.received().len(), 3, "a restart is no reason to try early");
}

#[test]
fn everything_acknowledged_before_a_kill_is_delivered_after_it() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(503));
    let mut relay = Relay::start(&all_to(&upstream));
    let ids: Vec<String> = (0..50).map(|n| relay.accept("/x", format!("body {n}"))).collect();
    relay.kill();
    upstream.answer(Answer::Status(200));
    relay.run();
    for id in &ids {
        relay.wait_for_state(id, "delivered");
    }
    let bodies: std::collections::BTreeSet<String> = upstream.received().iter().map(|got| got.text()).collect();
    assert_eq!(bodies.len(), ids.len());
}

#[test]
fn sigterm_finishes_requests_that_have_begun_and_takes_no_new_ones() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let address = relay.address();
    let mut begun = Connection::open(address);
    begun.write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst").unwrap();
    // The relay has taken the connection once it has answered a later one.
    relay.accept("/x", "other");
    relay.signal(Signal::TERM);
    relay.wait_for_diagnostics("stopping");
    wait_until("listeners are closed", || std::net::TcpStream::connect(address).is_err());
    begun.write("-half").unwrap();
    let answer = begun.read().unwrap();
    assert_eq!(answer.status, 202);
    let id = answer.header("stagepost-event-id").unwrap().to_owned();
    drop(begun);
    let (code, said) = relay.wait();
    assert_eq!(code, 0, "{said}");
    relay.run();
    relay.wait_for_state(&id, "delivered");
    assert_eq!(relay.cli(&["show", &id, "--body"]).out, "first-half");
}

#[test]
fn readiness_fails_while_shutdown_delay_passes_and_requests_are_still_taken() {
    let mut relay = Relay::start("[server]\nshutdown_delay = \"3s\"\n[source.a]\npath = \"/a\"\nto = []\n");
    assert_eq!(relay.ask_admin("/readyz").status, 200);
    relay.signal(Signal::TERM);
    relay.wait_for_diagnostics("stopping");
    assert_eq!(relay.ask_admin("/readyz").status, 503);
    assert_eq!(relay.ask_admin("/livez").status, 200);
    relay.accept("/a", "last call");
    assert_eq!(relay.wait().0, 0);
}

#[test]
fn a_second_server_on_a_directory_is_75_and_names_the_first() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let mut second = Relay::with_data(relay.data(), "[source.a]\npath = \"/a\"\nto = []\n");
    second.spawn();
    let (code, said) = second.wait();
    assert_eq!(code, 75, "{said}");
    assert!(said.contains(&relay.pid().to_string()), "{said}");
    relay.accept("/a", "unharmed");
}

#[test]
fn an_address_in_use_is_74_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut relay =
        Relay::stopped(&format!("[[listen]]\naddress = \"{address}\"\n[source.a]\npath = \"/a\"\nto = []\n"));
    relay.spawn();
    let (code, said) = relay.wait();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn flipped_bits_in_the_state_are_noticed_and_it_is_built_anew_from_the_log() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(422));
    let mut relay = Relay::start(&all_to(&upstream));
    let ids: Vec<String> = (0..20).map(|n| relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        relay.wait_for_state(id, "dead");
    }
    relay.stop();
    for damage in [flip as fn(&Path), |file| fs::write(file, b"").unwrap(), |file| fs::remove_file(file).unwrap()] {
        let files = files_below(&relay.data().join("state"));
        assert!(!files.is_empty());
        files.iter().for_each(|file| damage(file));
        relay.run();
        for id in &ids {
            relay.wait_for_state(id, "dead");
        }
        wait_until("the metric is back", || relay.metric("stagepost_dead{upstream=\"app\",reason=\"refused\"}") > 19.5);
        assert_eq!(relay.stop(), 0);
    }
    assert_eq!(upstream.received().len(), ids.len(), "a rebuild sends nothing again");
}

/// Flips one bit in every 64 bytes of a file.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 4);
    fs::write(file, bytes).unwrap();
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn http_keep_alive_connections_end_with_the_answer_that_was_under_way() {
    let mut relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let mut idle = Connection::open(relay.address());
    assert_eq!(idle.send(&Request::post("/a", "x")).status, 202);
    relay.signal(Signal::TERM);
    assert!(idle.is_closed());
    assert_eq!(relay.wait().0, 0);
}
