//! Holds the layout: which stage may know which, and what every file must have or must not have.
//!
//! The table is the one of ARCHITECTURE.md. A new import between stages is a decision: change both, and say why in
//! the commit.

#![expect(clippy::unwrap_used, reason = "a test may end by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The longest source file, in lines.
const LINES_MAX: usize = 700;

/// Each stage and the stages it may import, outside tests.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("jitter", &[]),
    ("event", &["clock"]),
    ("telemetry", &["event"]),
    ("verify", &["clock", "event"]),
    ("expr", &["clock", "event"]),
    ("schema", &[]),
    ("alert", &["clock", "telemetry"]),
    ("routing", &["clock", "jitter", "event", "verify", "expr", "schema"]),
    ("preset", &["clock", "expr", "routing", "verify"]),
    ("tenant", &["clock", "routing"]),
    ("log", &["clock", "event", "telemetry"]),
    ("state", &["clock", "event", "log", "telemetry"]),
    ("quarantine", &["clock", "event", "log", "telemetry"]),
    ("listen", &["telemetry"]),
    ("keys", &["clock", "verify", "telemetry"]),
    (
        "ingress",
        &[
            "clock",
            "jitter",
            "event",
            "verify",
            "expr",
            "schema",
            "routing",
            "log",
            "quarantine",
            "telemetry",
            "keys",
            "tenant",
        ],
    ),
    ("agenda", &["clock", "event", "expr", "routing", "log", "state", "telemetry"]),
    ("delivery", &["clock", "jitter", "event", "expr", "verify", "routing", "log", "telemetry"]),
    ("admin", &["clock", "event", "verify", "log", "state", "quarantine", "telemetry"]),
    ("config", &["alert", "clock", "jitter", "event", "verify", "expr", "schema", "routing", "preset", "keys"]),
    (
        "app",
        &[
            "alert",
            "clock",
            "jitter",
            "event",
            "telemetry",
            "tenant",
            "verify",
            "expr",
            "routing",
            "log",
            "state",
            "quarantine",
            "listen",
            "keys",
            "ingress",
            "agenda",
            "delivery",
            "admin",
            "config",
        ],
    ),
    ("drill", &["clock", "jitter"]),
    ("cli", &["admin", "drill", "log"]),
];

/// What single files may import beyond their stage: the command line's way to the engine.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    ("cli/host.rs", &["app", "clock", "config", "expr", "telemetry"]),
    ("cli/sources.rs", &["clock", "config", "preset", "routing", "verify"]),
];

/// A source file.
struct File {
    /// Relative to `src`.
    path: PathBuf,
    text: String,
    is_test: bool,
}

impl File {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// `a` of `a/b.rs` and of `a.rs`; none for `main.rs` and `lib.rs`.
    fn stage(&self) -> Option<String> {
        let first = self.path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let stage = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
        (!matches!(stage.as_str(), "main" | "lib")).then_some(stage)
    }

    /// How deep the module is below the crate's root: 1 for `a.rs` and `a/mod.rs`, 2 for `a/b.rs`.
    fn depth(&self) -> usize {
        self.path.components().count() - usize::from(self.path.ends_with("mod.rs"))
    }

    /// The text without comments and without its own tests.
    fn code(&self) -> String {
        let without_tests = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = without_tests.lines().map(|line| {
            let comment = line.trim_start().starts_with("//");
            if comment { "" } else { line }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<File> {
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    let texts: BTreeMap<PathBuf, String> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| (path.strip_prefix(&src).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(texts.len() > 100, "the sources are read");
    let tests = tests_among(&texts);
    let is_test = |path: &Path| tests.iter().any(|test| path == test.with_extension("rs") || path.starts_with(test));
    texts.into_iter().map(|(path, text)| File { is_test: is_test(&path), path, text }).collect()
}

/// The modules that are compiled for tests only, as paths without ending: `a/tests` for `#[cfg(test)] mod tests;`.
fn tests_among(texts: &BTreeMap<PathBuf, String>) -> BTreeSet<PathBuf> {
    let mut tests = BTreeSet::new();
    for (path, text) in texts {
        let is_folder = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
        let folder = if is_folder { path.parent().unwrap().to_owned() } else { path.with_extension("") };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                continue;
            }
            let mut next = lines.next().unwrap_or_default().trim();
            let mut named = None;
            if let Some(file) = next.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
                named = Some(path.parent().unwrap().join(file).with_extension(""));
                next = lines.next().unwrap_or_default().trim();
            }
            let module = next.rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            if let Some(module) = module {
                tests.insert(named.unwrap_or_else(|| folder.join(module)));
            }
        }
    }
    tests
}

/// The stages that a text imports: `crate::a`, and each first word of `crate::{a, b::c}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => drop(found.insert(word(after))),
            Some(group) => {
                let mut depth = 0_usize;
                let mut at_start = true;
                for (at, letter) in group.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_start = true,
                        _ if letter.is_whitespace() => {}
                        _ => {
                            if at_start && depth == 0 {
                                found.insert(word(&group[at..]));
                            }
                            at_start = false;
                        }
                    }
                }
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn every_stage_imports_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let exceptions: BTreeMap<&str, &[&str]> = EXCEPTIONS.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        let Some(stage) = file.stage() else { continue };
        let Some(allowed) = table.get(stage.as_str()) else {
            wrong.push(format!("{}: the stage {stage} is not in the table", file.shown()));
            continue;
        };
        let more = exceptions.get(file.shown().as_str()).copied().unwrap_or_default();
        for import in imports(&file.code()) {
            let is_stage = table.contains_key(import.as_str());
            if is_stage && import != stage && !allowed.contains(&&*import) && !more.contains(&&*import) {
                wrong.push(format!("{}: {stage} may not import {import}", file.shown()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_module_climbs_out_of_its_stage_by_super() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test && file.stage().is_some()) {
        let out_of_stage = vec!["super"; file.depth()].join("::");
        if file.code().contains(&format!("{out_of_stage}::")) {
            wrong.push(format!("{}: {out_of_stage}:: leads out of its stage; write crate::", file.shown()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::{\n    a::{x, y},\n    b,\n    c::d::{self, e},\n};\nuse crate::f::g;\nlet z = crate::h();";
    let found: Vec<String> = imports(code).into_iter().collect();
    assert_eq!(found, ["a", "b", "c", "f", "h"]);
}

#[test]
fn every_module_says_what_it_owns() {
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: begins without //!", file.shown()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let undecided: Vec<String> = sources()
        .iter()
        .filter(|file| !file.is_test && file.stage().is_some() && !file.text.starts_with("//! Owns "))
        .map(|file| format!("{}: does not begin with what it owns", file.shown()))
        .collect();
    assert!(undecided.is_empty(), "{}", undecided.join("\n"));
}

#[test]
fn no_file_is_longer_than_seven_hundred_lines() {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        walk(&root().join(folder), &mut paths);
    }
    let wrong: Vec<String> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .filter_map(|path| {
            let lines = fs::read_to_string(path).unwrap().lines().count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_undone_or_names_the_machine_it_was_written_on() {
    // Each is put together here, so that this file does not hold it.
    let forbidden: Vec<String> = [
        ["unimple", "mented!("],
        ["to", "do!("],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["#[ign", "ore"],
        ["/wo", "rk/"],
        ["/tmp/", "wt"],
        ["/ro", "ot/"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect();
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches", "config", "packaging", "docs", "scripts"] {
        walk(&root().join(folder), &mut paths);
    }
    paths.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "Cargo.toml"].map(|f| root().join(f)),
    );
    let mut wrong = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_lints_that_hold_invariants_are_on() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in
        ["unsafe_code = \"forbid\"", "unwrap_used", "expect_used", "panic", "indexing_slicing", "await_holding_lock"]
    {
        assert!(cargo.contains(&format!("\n{lint}")), "{lint} is a lint in Cargo.toml");
    }
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    for method in [
        "std::time::SystemTime::now",
        "std::time::Instant::now",
        "std::thread::sleep",
        "tokio::sync::mpsc::unbounded_channel",
        "std::sync::mpsc::channel",
    ] {
        assert!(clippy.contains(&format!("path = \"{method}\"")), "{method} is banned in clippy.toml");
    }
    let test = fs::read_to_string(root().join("scripts/test.sh")).unwrap();
    assert!(test.contains("clippy --locked --all-targets -- -D warnings"), "lints are errors in the test command");
}

#[test]
fn secrets_can_not_be_printed() {
    let files = sources();
    for (name, begins) in [("Secret", "pub struct Secret {"), ("Mac", "enum Mac {")] {
        let file = files.iter().find(|file| file.text.contains(begins)).unwrap();
        let (before, _) = file.text.split_once(begins).unwrap();
        let derived = before.rsplit("\n\n").next().unwrap();
        for form in ["Debug", "Display", "Serialize"] {
            assert!(!derived.contains(form), "{}: {name} derives {form}", file.shown());
            for other in &files {
                let by_hand = other.text.lines().any(|line| {
                    line.starts_with("impl") && line.contains(&format!("{form} for {name} ")) && line.ends_with('{')
                });
                assert!(!by_hand, "{}: {form} for {name}", other.shown());
            }
        }
    }
    let secret = files.iter().find(|file| file.text.contains("struct Secret {")).unwrap();
    assert!(secret.text.contains("value: Zeroizing<"), "a secret is zeroized");
}

#[test]
fn time_and_randomness_come_from_their_modules_only() {
    // tokio's own clock is the one of timers; a test pauses it.
    let banned = ["SystemTime::now", "time::Instant", "rand::", "getrandom", "RandomState"];
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        let own = matches!(file.stage().as_deref(), Some("clock" | "jitter"));
        let code = file.code().replace("tokio::time::Instant", "");
        for word in banned.iter().filter(|word| !own && code.contains(**word)) {
            wrong.push(format!("{}: {word}", file.shown()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_that_the_architecture_names_exists_and_every_invariant_names_one() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut paths = Vec::new();
    walk(&root().join("src"), &mut paths);
    walk(&root().join("tests"), &mut paths);
    let code: String = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let is_test =
        |word: &&str| word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let named = |text: &str| text.split('`').filter(is_test).map(str::to_owned).collect::<Vec<_>>();
    for name in named(&text).iter().filter(|name| !name.starts_with("stagepost_") && !name.starts_with("STAGEPOST_")) {
        assert!(code.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    let (_, invariants) = text.split_once("## Invariants").unwrap();
    let invariants = invariants.split("\n## ").next().unwrap();
    let mut numbers = 0;
    for invariant in invariants.split(".**").skip(1) {
        assert!(!named(invariant).is_empty(), "an invariant without a test: {invariant}");
        numbers += 1;
    }
    assert_eq!(numbers, 14);
}
