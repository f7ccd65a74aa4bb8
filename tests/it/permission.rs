//! Who may not: another user's socket and data are answered with exit code 77.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::harness::{BINARY, Relay};

/// A user and a group that own nothing (`nobody` on most systems).
const NOBODY: u32 = 65_534;

/// Somebody who may run the program and go through every directory, but owns nothing of the relay.
///
/// Root may do everything, so that as root it is another user; anybody else takes the permission away from himself.
struct Stranger {
    /// Where the program stands for a user who can't see the directory it was built in.
    program: Option<(TempDir, PathBuf)>,
}

impl Stranger {
    fn new() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self { program: None };
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = directory.path().join("stagepost");
        if fs::hard_link(BINARY, &program).is_err() {
            fs::copy(BINARY, &program).unwrap();
        }
        Self { program: Some((directory, program)) }
    }

    /// Shuts him out of a file or directory.
    fn shut_out(&self, path: &Path) {
        let mode = if self.program.is_some() { 0o700 } else { 0 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a command for a data directory; its exit code and what it said.
    fn runs(&self, data: &Path, args: &[&str]) -> (i32, String) {
        self.runs_just(&[args, &["--data", data.to_str().unwrap()]].concat())
    }

    /// Runs a command that is told all by its arguments.
    fn runs_just(&self, args: &[&str]) -> (i32, String) {
        let mut command = match &self.program {
            Some((_, program)) => {
                let mut command = Command::new(program);
                command.uid(NOBODY).gid(NOBODY);
                command
            }
            None => Command::new(BINARY),
        };
        command.env_remove("STAGEPOST_CONFIG").current_dir("/").args(args);
        let output = command.output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_socket_that_one_may_not_use_is_77_and_the_message_says_who_may() {
    let relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let id = relay.accept("/a", "x");
    let stranger = Stranger::new();
    open_to_all(relay.directory());
    open_to_all(relay.data());
    stranger.shut_out(&relay.data().join("admin.sock"));
    let id = id.as_str();
    for args in [&["status"][..], &["log"], &["show", id], &["explain", id], &["replay", id], &["refused"], &["reload"]]
    {
        let (code, said) = stranger.runs(relay.data(), args);
        assert_eq!(code, 77, "{args:?}: {said}");
        assert!(said.contains("admin.sock") && said.contains("socket_group"), "{args:?}: {said}");
    }
}

#[test]
fn data_that_one_may_not_read_are_77_too() {
    let mut relay = Relay::start("[source.a]\npath = \"/a\"\nto = []\n");
    let id = relay.accept("/a", "x");
    assert_eq!(relay.stop(), 0);
    let stranger = Stranger::new();
    open_to_all(relay.directory());
    stranger.shut_out(relay.data());
    for args in [&["log"][..], &["show", &id], &["verify"]] {
        let (code, said) = stranger.runs(relay.data(), args);
        assert_eq!(code, 77, "{args:?}: {said}");
    }
    open_to_all(relay.data());
    relay.cli(&["show", &id]).done();
}

#[test]
fn a_configuration_that_one_may_not_read_is_77_and_a_wrong_one_78() {
    let relay = Relay::stopped("nonsense = 1\n");
    let stranger = Stranger::new();
    open_to_all(relay.directory());
    let config = relay.directory().join("stagepost.toml");
    let path = config.to_str().unwrap();
    open_to_all(&config);
    assert_eq!(stranger.runs_just(&["check", "--config", path]).0, 78);
    stranger.shut_out(&config);
    for verb in ["check", "run", "status", "reload", "log"] {
        let (code, said) = stranger.runs_just(&[verb, "--config", path]);
        assert_eq!(code, 77, "{verb}: {said}");
        assert!(said.contains("stagepost.toml"), "{verb}: {said}");
    }
}
