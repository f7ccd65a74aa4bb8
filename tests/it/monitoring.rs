//! What is shipped for Prometheus and Grafana, against the tool of Prometheus itself and the metrics of a running relay.
//!
//! `scripts/promtool.sh` puts promtool where it is looked for.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{Relay, Request, Upstream, all_to};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs promtool in `packaging/prometheus` and asserts that it is content.
fn promtool(arguments: &[&str], input: &str) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let ours = root().join(target).join("promtool/usr/bin/promtool");
    let program = if ours.exists() { ours } else { "promtool".into() };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(root().join("packaging/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: run scripts/promtool.sh once");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
}

#[test]
fn the_metrics_of_a_relay_that_has_worked_are_as_prometheus_wants_them() {
    let upstream = Upstream::start();
    let relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "x");
    relay.wait_for_state(&id, "delivered");
    relay.send(&Request::get("/x"));
    promtool(&["check", "metrics"], &relay.ask_admin("/metrics").text());
}

#[test]
fn every_alert_rule_is_valid_and_is_raised_and_resolved() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts.test.yml"], "");
    let rules = fs::read_to_string(root().join("packaging/prometheus/alerts.yml")).unwrap();
    let tests = fs::read_to_string(root().join("packaging/prometheus/alerts.test.yml")).unwrap();
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let raised = tests.split(&format!("alertname: {name}\n")).nth(1);
        assert!(raised.is_some_and(|rest| rest.trim_start().starts_with("exp_alerts:\n")), "{name} is never raised");
        assert!(tests.contains(&format!("alertname: {name}, exp_alerts: []")), "{name} is never resolved");
    }
}

/// The names of our metrics in an expression, without the endings of histograms.
fn metrics_in(expression: &str) -> impl Iterator<Item = String> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("stagepost_"))
        .map(|word| {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|ending| word.strip_suffix(ending));
            base.unwrap_or(word).to_owned()
        })
}

fn rendered(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split(['`', '{']).next());
    names.filter(|name| name.starts_with("stagepost_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_ask_only_for_metrics_that_exist() {
    // That this list is the one of the program is a test of tests/docs.rs.
    let known = rendered(&root().join("docs/metrics.md"));
    let rules = fs::read_to_string(root().join("packaging/prometheus/alerts.yml")).unwrap();
    let expressions = rules.split("expr: ").skip(1).filter_map(|rest| rest.split("labels:").next());
    for name in expressions.flat_map(metrics_in) {
        assert!(known.contains(&name), "alerts.yml asks for {name}");
    }
    let dashboard: Value =
        serde_json::from_slice(&fs::read(root().join("packaging/grafana/stagepost.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asked: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(asked.len() > 40, "{} questions", asked.len());
    for name in asked.iter().copied().flat_map(metrics_in) {
        assert!(known.contains(&name), "the dashboard asks for {name}");
    }
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{}", panel["title"]);
    }
    // Each question must be valid: as a rule, without the variables that only Grafana knows.
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expression) in asked.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace('\'', "''");
        rules.push_str(&format!("  - {{ record: 'question_{number}', expr: '{expression}' }}\n"));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}
