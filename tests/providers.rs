//! Holds the pages of docs/providers and the configurations of config/providers to the table of presets: each preset has
//! both, the page shows the very file, its facts are those of the table, and the program takes the file.
//!
//! With `BLESS=1` in the environment the pages are brought up to date instead of being refused.

#![expect(clippy::unwrap_used, reason = "a test may end by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use stagepost::{
    preset::{self, Answer, Preset},
    verify::{Proof, TOLERANCE},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page_of(preset: &Preset) -> PathBuf {
    root().join(format!("docs/providers/{}.md", preset.name))
}

fn file_of(preset: &Preset) -> PathBuf {
    root().join(format!("config/providers/{}.toml", preset.name))
}

/// A secret of the form in which the provider hands it out.
fn secret_of(name: &str) -> String {
    match name {
        "standard-webhooks" | "svix" | "openai" | "gitlab" => {
            "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned()
        }
        "discord" => "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29".to_owned(),
        "sendgrid" => {
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVp\
             iglSI8eNEc6wEA3F+g=="
                .to_owned()
        }
        "postmark" => "stagepost:of-the-tests".to_owned(),
        _ => "0123456789-of-the-tests".to_owned(),
    }
}

/// `stagepost check` of a file, every secret of the environment that it names being there, as `secret` makes it of its name.
fn check(path: &Path, secret: impl Fn(&str) -> String) -> Output {
    let text = fs::read_to_string(path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagepost"));
    for name in text.split("env:").skip(1) {
        let name = name.split('"').next().unwrap();
        command.env(name, secret(name));
    }
    command.arg("check").arg("--config").arg(path).output().unwrap()
}

fn checked(preset: &Preset, path: &Path) -> Output {
    check(path, |_| secret_of(preset.name))
}

#[test]
fn every_example_is_a_configuration_that_only_lacks_the_files_it_names() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    for file in fs::read_dir(examples).unwrap() {
        let path = file.unwrap().path();
        let output = check(&path, |name| format!("0123456789-of-the-tests-{name}"));
        let said = String::from_utf8_lossy(&output.stderr);
        let problems = said.lines().filter(|line| line.starts_with("stagepost: ") || line.starts_with("  "));
        let more: Vec<&str> = problems.filter(|line| !line.contains("No such file or directory")).collect();
        assert!(more.is_empty(), "{}: {more:#?}", path.display());
        assert!(output.status.success() || said.contains("No such file"), "{}: {said}", path.display());
    }
}

#[test]
fn every_preset_has_a_configuration_that_is_taken_and_no_file_is_left_over() {
    for preset in preset::all() {
        let output = checked(preset, &file_of(preset));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", preset.name);
        // Salesforce signs nothing, but the example says who may send.
        assert!(!said.contains("nothing is checked"), "{}: {said}", preset.name);
    }
    for (folder, ending) in [("config/providers", "toml"), ("docs/providers", "md")] {
        let found: BTreeSet<String> = fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == ending))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| name != "README")
            .collect();
        let names: BTreeSet<String> = preset::all().map(|preset| preset.name.to_owned()).collect();
        assert_eq!(found, names, "{folder}");
    }
}

#[test]
fn the_secret_of_another_form_is_refused_so_that_the_check_means_something() {
    let gitlab = preset::find("gitlab").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_stagepost"))
        .env("GITLAB_SIGNING_TOKEN", "no signing token")
        .args(["check", "--config"])
        .arg(file_of(gitlab))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_page_shows_the_file_and_the_facts_of_the_table() {
    let blessed = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for preset in preset::all() {
        let path = page_of(preset);
        let page = fs::read_to_string(&path).unwrap();
        let file = fs::read_to_string(file_of(preset)).unwrap();
        let after = |text: &str, what: &str| text.find(what).map(|at| at + what.len());
        let from = after(&page, "```toml\n").unwrap();
        let to = from + page.get(from..).unwrap().find("```\n").unwrap();
        let mut fresh = format!("{}{file}{}", page.get(..from).unwrap(), page.get(to..).unwrap());
        let from = fresh.find("| | |\n").unwrap();
        let to = from + fresh.get(from..).unwrap().find("\n\n").unwrap();
        fresh.replace_range(from..to, &facts(preset));
        if fresh != page && blessed {
            fs::write(&path, &fresh).unwrap();
        } else if fresh != page {
            wrong.push(preset.name);
        }
        let lines = page.lines().count();
        assert!((20..=75).contains(&lines), "{}: {lines} lines", preset.name);
        for part in ["# ", "## What to do there\n\n1. ", "## Configuration\n", "## What is checked\n"] {
            assert!(page.contains(part), "{}: {part}", preset.name);
        }
    }
    assert!(wrong.is_empty(), "run this test with BLESS=1 in the environment, then look at the changes: {wrong:?}");
}

#[test]
fn the_list_of_pages_is_whole_and_every_link_leads_somewhere() {
    let folder = root().join("docs/providers");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    for preset in preset::all() {
        let link = format!("({}.md)", preset.name);
        assert!(list.contains(&link), "{link}");
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            assert!(link.contains("://") || folder.join(link).exists(), "{}: {link}", path.display());
        }
    }
}

/// What the table says of a preset, as a table of Markdown without its last line end.
fn facts(preset: &Preset) -> String {
    let mut rows = vec!["| | |".to_owned(), "|---|---|".to_owned()];
    let mut row = |name: &str, value: String| rows.push(format!("| {name} | {value} |"));
    match preset.dedupe {
        Some(key) => row("Dedupe key", format!("{key}; for {}", shown(preset.window))),
        None => row("Dedupe key", "none: nothing is a duplicate".to_owned()),
    }
    if let Some(kind) = preset.event_type {
        row("Event type", kind.to_string());
    }
    row(
        "Answer",
        match preset.answer {
            Answer::Id => "202 with the event's id, 200 for a duplicate".to_owned(),
            Answer::Fixed { status, content_type: "", .. } => format!("{status}, empty"),
            Answer::Fixed { status, content_type, body } if body.len() < 20 => {
                format!("{status}, {content_type} `{body}`")
            }
            Answer::Fixed { status, content_type, .. } => format!("{status}, {content_type}, the acknowledgement"),
        },
    );
    let tolerance = match &preset.proof {
        Proof::Plan(plan) => plan.timestamp.as_ref().map(|timestamp| timestamp.tolerance),
        proof => proof.has_timestamp().then_some(TOLERANCE),
    };
    if let Some(tolerance) = tolerance {
        row("Timestamp", format!("at most {} away, past or future", shown(tolerance)));
    }
    if let Some(window) = preset.retries_for {
        row("Sends again", format!("for {}", shown(window)));
    }
    if let Some(items) = preset.items {
        row("Items of a batch", items.to_string());
    }
    if preset.challenge.is_some() {
        row("Asks first", "answered by Stagepost, never an event".to_owned());
    }
    if let Some(bytes) = preset.max_body {
        row("Largest body", format!("{} MiB", bytes >> 20));
    }
    rows.join("\n")
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        _ if seconds.is_multiple_of(86_400) => (seconds / 86_400, "day"),
        _ if seconds.is_multiple_of(3_600) => (seconds / 3_600, "hour"),
        _ if seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
