//! Real processes killed under load, by the program's own drill (`stagepost torture`), and the drill itself checked: a
//! relay that forgets is found out.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use stagepost::drill::{
    Scratch,
    torture::{self, Plan},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_stagepost");

fn run_torture(program: &Path, directory: &Path, kills: usize, seed: usize) -> Output {
    let (kills, seed) = (kills.to_string(), seed.to_string());
    let mut command = Command::new(program);
    command.args(["torture", "--kills", &kills, "--seed", &seed, "--json", "--dir"]).arg(directory);
    command.output().unwrap()
}

fn verdict(output: &Output) -> serde_json::Value {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("no verdict: {out}{err}"))
}

#[test]
fn everything_acknowledged_survives_kills_under_load_and_is_delivered_unaltered() {
    let kills = crate::count("STAGEPOST_CRASH_KILLS", 4);
    let directory = tempfile::tempdir().unwrap();
    let output = run_torture(Path::new(PROGRAM), directory.path(), kills, crate::count("STAGEPOST_CRASH_SEED", 1));
    let verdict = verdict(&output);
    eprintln!("{verdict}");
    assert_eq!(output.status.code(), Some(0), "{verdict}");
    assert_eq!(verdict["kills"], kills);
    assert!(verdict["acknowledged"].as_u64().unwrap() >= kills as u64, "nothing is proved: {verdict}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

/// The same program, but each time it is started to serve, something happens to its log before.
fn unfaithful(directory: &Path, what_happens: &str) -> PathBuf {
    let path = directory.join("stagepost");
    let script = format!("#!/bin/sh\n[ \"$1\" = run ] && {what_happens}\nexec '{PROGRAM}' \"$@\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_relay_that_forgets_is_found_out_and_its_directory_is_kept() {
    let (tools, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let forgetful = unfaithful(tools.path(), "rm -rf data");
    let scratch = Scratch::new(directory.path(), "torture").unwrap();
    let plan = Plan { patience: Duration::from_secs(5), ..Plan::new(3, 1) };
    let verdict = torture::torture(&forgetful, &scratch, plan, |_, _| {}).unwrap();
    assert!(verdict.faults.iter().any(|fault| fault.contains("is not in the log")), "{:?}", verdict.faults);
    assert!(verdict.faults.len() <= 21, "told in bounds");
}

#[test]
fn a_drill_never_works_in_the_directory_of_a_log() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("IDENTITY"), "").unwrap();
    for drill in ["torture", "bench"] {
        let output = Command::new(PROGRAM).args([drill, "--dir"]).arg(directory.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&output.stderr).contains("holds a log"));
    }
}

#[test]
fn the_bench_measures_disk_acknowledgements_and_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--for", "200ms", "--senders", "4", "--json", "--dir"]).arg(directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for spread in ["sync", "alone", "together"] {
        assert!(figures[spread]["count"].as_u64().unwrap() > 0, "{figures}");
        assert!(figures[spread]["p50_us"].as_u64().unwrap() <= figures[spread]["longest_us"].as_u64().unwrap());
    }
    assert!(figures["acks_per_second"].as_f64().unwrap() > 0.0 && figures["recovery_ms"].as_u64().is_some());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}
