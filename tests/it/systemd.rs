//! The service manager: notifications, passed sockets, and the unit files.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::harness::{BINARY, PATIENCE, Relay, Request};

const CONFIG: &str = "[source.a]\npath = \"/a\"\nto = []\n";

#[test]
fn the_service_manager_is_told_of_readiness_reloads_life_and_the_end() {
    let mut relay = Relay::stopped(CONFIG);
    let path = relay.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let wait_for_message = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let read = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if message.lines().any(|line| line.starts_with(wanted)) {
                return message;
            }
        }
    };
    relay.environment("NOTIFY_SOCKET", path.to_str().unwrap());
    relay.environment("WATCHDOG_USEC", "30000000");
    relay.run();
    wait_for_message("READY=1");
    wait_for_message("WATCHDOG=1");
    relay.signal(Signal::HUP);
    assert!(wait_for_message("RELOADING=1").contains("MONOTONIC_USEC="));
    wait_for_message("READY=1");
    relay.signal(Signal::TERM);
    wait_for_message("STOPPING=1");
    assert_eq!(relay.wait().0, 0);
}

#[test]
fn a_socket_passed_by_systemd_is_served_by_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut relay = Relay::stopped(&format!("[[listen]]\naddress = \"systemd:web\"\n{CONFIG}"));
    relay.pass_socket("web", listener);
    relay.run();
    assert_eq!(relay.address(), address);
    assert_eq!(relay.send(&Request::post("/a", "x")).status, 202);
    relay.restart();
    assert_eq!(relay.send(&Request::post("/a", "x")).status, 202, "the socket outlives the process");
}

#[test]
fn a_socket_that_was_not_passed_is_an_error_with_advice() {
    let mut relay = Relay::stopped(&format!("[[listen]]\naddress = \"systemd:web\"\n{CONFIG}"));
    relay.spawn();
    let (code, said) = relay.wait();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("FileDescriptorName=web"), "{said}");
}

#[test]
fn the_unit_files_are_valid_and_hardened() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not installed: the unit files are only read");
        assert!(unit("stagepost.service").contains("Type=notify"));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["stagepost.service", "stagepost.socket"] {
        let text = unit(name).replace("/usr/bin/stagepost", BINARY);
        fs::write(directory.path().join(name), text).unwrap();
    }
    let service = directory.path().join("stagepost.service");
    let socket = directory.path().join("stagepost.socket");
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args([&service, &socket]).output();
    let verified = verified.unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("stagepost."), "{said}");

    let rated = analyze(&service);
    let level: f64 = rated
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no rating in\n{rated}"));
    assert!(level < 2.0, "{rated}");
}

fn analyze(service: &Path) -> String {
    let rated =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(service).output();
    let rated = rated.unwrap();
    format!("{}{}", String::from_utf8_lossy(&rated.stdout), String::from_utf8_lossy(&rated.stderr))
}

#[test]
fn the_unit_says_what_the_contract_says() {
    let text = unit("stagepost.service");
    for line in [
        "Type=notify",
        "ExecStartPre=/usr/bin/stagepost check",
        "ExecReload=/usr/bin/stagepost reload",
        "WatchdogSec=30",
        "RestartPreventExitStatus=64 78",
        "LimitNOFILE=65536",
        "StateDirectory=stagepost",
        "RuntimeDirectory=stagepost",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}");
    }
}

fn unit(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name);
    fs::read_to_string(path).unwrap()
}
