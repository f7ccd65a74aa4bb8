//! Runs the examples of the documentation, so that it can't drift away from the program.
//!
//! - A block ` ```toml ` is a whole configuration: `stagepost check` takes it. ` ```toml fragment ` is a piece of one:
//!   valid TOML without a key that is unknown.
//! - In a block ` ```console ` every command after `$ ` that is ours is one that the command line understands.
//! - The tables of docs/configuration.md name the keys that are read, with their defaults, and no others; docs/metrics.md
//!   names the metrics that are rendered, and no others.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may end by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use stagepost::{cli, config, telemetry::Metrics};

/// A fenced block of a document.
struct Block {
    /// File and line.
    place: String,
    /// What stands behind the fence.
    kind: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)).into();
    let more = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    found.extend(more.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    found.sort();
    found
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn blocks(kind: &str) -> Vec<Block> {
    let mut found = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(kind)) => {
                    let place = format!("{}:{}", path.display(), number + 1);
                    open = Some(Block { place, kind: kind.to_owned(), text: String::new() });
                }
                (Some(_), Some("")) => found.extend(open.take()),
                (Some(block), _) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", path.display());
    }
    found.retain(|block| block.kind.split(' ').next() == Some(kind));
    assert!(!found.is_empty(), "there are blocks of {kind}");
    found
}

/// Writes a configuration to a directory of its own and has it checked. Every secret it names is there.
fn checked(text: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stagepost.toml");
    fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagepost"));
    for name in text.split("env:").skip(1) {
        let name: String = name.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        command.env(&name, format!("a secret of the tests called {name}"));
    }
    let output = command.arg("check").arg("--config").arg(&path).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_configuration_is_valid_and_no_fragment_has_an_unknown_key() {
    for Block { place, kind, text } in blocks("toml") {
        text.parse::<toml::Table>().unwrap_or_else(|error| panic!("{place}: {error}"));
        let (valid, said) = checked(&text);
        match kind.as_str() {
            "toml" => assert!(valid, "{place}: {said}"),
            "toml fragment" => assert!(!said.contains("unknown key"), "{place}: {said}"),
            other => panic!("{place}: a block is toml or toml fragment, not {other}"),
        }
    }
}

#[test]
fn every_command_line_is_understood() {
    let mut commands = 0;
    for Block { place, text, .. } in blocks("console") {
        let text = text.replace("\\\n", " ");
        for line in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            for command in pipeline(line) {
                let Some(ours) = ours(&command) else { continue };
                cli::parses(ours.iter().map(OsString::from)).unwrap_or_else(|why| panic!("{place}: {line}\n{why}"));
                commands += 1;
            }
        }
    }
    assert!(commands > 20, "only {commands} commands were found");
}

/// The words of a command of ours, the program's name first: `stagepost …`, or `cargo run … -- …`.
fn ours(words: &[String]) -> Option<Vec<String>> {
    let own = words.iter().position(|word| word == "stagepost" || word.ends_with("/stagepost"));
    match (words.first().map(String::as_str), own) {
        (Some("cargo"), _) => {
            let split =
                words.iter().position(|word| word == "--").filter(|_| words.get(1).is_some_and(|w| w == "run"))?;
            Some(std::iter::once("stagepost".to_owned()).chain(words[split + 1..].iter().cloned()).collect())
        }
        (Some(_), Some(0)) => Some(words.to_vec()),
        (Some("sudo"), Some(at)) => Some(words[at..].to_vec()),
        _ => None,
    }
}

/// The commands of a line of shell, each as its words; quotes are undone, redirections and comments left out.
fn pipeline(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut letters = line.chars().peekable();
    while let Some(first) = letters.next() {
        match first {
            ' ' => {}
            '|' => commands.push(Vec::new()),
            '#' | '>' | '<' | '&' | ';' => break,
            _ => {
                let mut word = String::new();
                let mut next = Some(first);
                while let Some(letter) = next {
                    match letter {
                        ' ' => break,
                        quote @ ('\'' | '"') => word.extend(letters.by_ref().take_while(|letter| *letter != quote)),
                        other => word.push(other),
                    }
                    next = letters.next();
                }
                commands.last_mut().unwrap().push(word);
            }
        }
    }
    commands
}

#[test]
fn a_line_of_shell_is_taken_apart() {
    let words = pipeline("stagepost log --where '.a | .b' --json | jq . > file # why");
    assert_eq!(words, [vec!["stagepost", "log", "--where", ".a | .b", "--json"], vec!["jq", "."]]);
}

/// The sections of docs/configuration.md, and a text that leads the reading of keys into each.
const SECTIONS: &[(&str, &str)] = &[
    ("[server]", "[server]\n"),
    ("[[listen]]", "[[listen]]\n"),
    ("[[listen.tls]]", "[[listen]]\n[[listen.tls]]\n"),
    ("[store]", "[store]\n"),
    ("[admin]", "[admin]\n"),
    ("[admin.token.NAME]", "[admin.token.ops]\n"),
    ("[diagnostics]", "[diagnostics]\n"),
    ("[privacy]", "[privacy]\n"),
    ("[keys]", "[keys]\n"),
    ("[quarantine]", "[quarantine]\n"),
    ("[source.NAME]", "[source.app]\n"),
    ("[source.NAME.verify]", "[source.app.verify]\nscheme = 'hmac'\n"),
    (
        "[source.NAME.verify.timestamp]",
        "[source.app.verify]\nscheme = 'hmac'\nheader = 'X'\n[source.app.verify.timestamp]\n",
    ),
    ("[source.NAME.client_certificate]", "[source.app.client_certificate]\n"),
    ("[source.NAME.tenant]", "[source.app.tenant]\n"),
    ("[source.NAME.tenant.limits.TENANT]", "[source.app.tenant.limits.acme]\n"),
    ("[source.NAME.loop]", "[source.app.loop]\n"),
    ("[source.NAME.sequence]", "[source.app.sequence]\n"),
    ("[source.NAME.schema]", "[source.app.schema]\n"),
    ("[source.NAME.dedupe]", "[source.app.dedupe]\n"),
    ("[source.NAME.upgrade]", "[source.app.upgrade]\n"),
    ("[source.NAME.cache]", "[source.app.cache]\n"),
    ("[source.NAME.reply]", "[source.app.reply]\n"),
    ("[upstream.NAME]", "[upstream.billing]\n"),
    ("[upstream.NAME.concurrency]", "[upstream.billing.concurrency]\n"),
    ("[upstream.NAME.batch]", "[upstream.billing.batch]\n"),
    ("[upstream.NAME.rotate]", "[upstream.billing]\nkind = 'file'\n[upstream.billing.rotate]\n"),
    ("[upstream.NAME.tls]", "[upstream.billing]\nurl = 'https://x'\n[upstream.billing.tls]\n"),
    ("[upstream.NAME.cloudevents]", "[upstream.billing.cloudevents]\n"),
    ("[upstream.NAME.sign]", "[upstream.billing.sign]\nheader = 'X'\n"),
    ("[upstream.NAME.sign.timestamp]", "[upstream.billing.sign]\nheader = 'X'\n[upstream.billing.sign.timestamp]\n"),
    ("[upstream.NAME.sign.id]", "[upstream.billing.sign]\nheader = 'X'\n[upstream.billing.sign.id]\n"),
    ("[upstream.NAME.retry]", "[upstream.billing.retry]\nattempts = 3\n"),
    ("[upstream.NAME.health]", "[upstream.billing]\nurl = ['http://a', 'http://b']\n[upstream.billing.health]\n"),
    ("[upstream.NAME.eject]", "[upstream.billing]\nurl = ['http://a', 'http://b']\n[upstream.billing.eject]\n"),
    ("[upstream.NAME.breaker]", "[upstream.billing.breaker]\nerror_rate = 0.5\n"),
    ("[topic.NAME]", "[topic.orders]\n"),
    ("[subscriber.NAME]", "[subscriber.crm]\n"),
    ("[subscribers]", "[subscribers]\n"),
    ("[traces]", "[traces]\n"),
    ("[alerts]", "[alerts]\n"),
    ("[alerts.rule.failures]", "[alerts.rule.failures]\n"),
    ("[alerts.rule.dead]", "[alerts.rule.dead]\n"),
    ("[alerts.rule.errors]", "[alerts.rule.errors]\n"),
    ("[alerts.rule.refusals]", "[alerts.rule.refusals]\n"),
    ("[alerts.rule.backlog]", "[alerts.rule.backlog]\n"),
    ("[alerts.rule.latency]", "[alerts.rule.latency]\n"),
    ("[alerts.rule.silence]", "[alerts.rule.silence]\n"),
    ("[alerts.rule.duplicates]", "[alerts.rule.duplicates]\n"),
    ("[alerts.rule.stale]", "[alerts.rule.stale]\n"),
    ("[alerts.rule.hold]", "[alerts.rule.hold]\n"),
    ("[alerts.rule.disk]", "[alerts.rule.disk]\n"),
    ("[alerts.rule.breaker]", "[alerts.rule.breaker]\n"),
    ("[alerts.rule.reload]", "[alerts.rule.reload]\n"),
    ("[alerts.rule.unavailable]", "[alerts.rule.unavailable]\n"),
    ("[[route]]", "[[route]]\n"),
    ("[[upstream.NAME.failure]]", "[[upstream.NAME.failure]]\n"),
    ("[route.headers]", "[[route]]\n[route.headers]\n"),
    ("the top level", ""),
];

/// The rows of a document's tables by the heading they stand under: the first two cells.
fn rows(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim().replace('`', "");
        } else if let Some(row) = line.strip_prefix("| `") {
            let mut cells = row.split(" | ");
            let key = cells.next().unwrap().trim_end_matches('`').to_owned();
            let default = cells.next().unwrap_or_default().trim().to_owned();
            found.entry(heading.clone()).or_default().push((key, default));
        }
    }
    found
}

/// The keys that are known where `section` leads, from the message about one that is not.
fn known(section: &str) -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stagepost.toml");
    fs::write(&path, format!("{section}zzzzzzzzzzzzzzzzzzzzzzzz = 1\n")).unwrap();
    let problems = config::load(&path).err().unwrap();
    let unknown = problems.0.iter().find(|problem| problem.message.starts_with("unknown key")).unwrap();
    let (_, known) = unknown.message.split_once("known here: ").unwrap_or_else(|| panic!("{unknown}"));
    known.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let rows = rows(&document("docs/configuration.md"));
    for (title, section) in SECTIONS {
        let written: BTreeSet<String> = rows
            .get(*title)
            .unwrap_or_else(|| panic!("no table for {title}"))
            .iter()
            .map(|(key, _)| key.clone())
            .collect();
        let mut known = known(section);
        if section.is_empty() {
            known.insert("include".to_owned());
        }
        if section.starts_with("[subscriber.") {
            // The others are those of an upstream, which have a table.
            let shared = self::known("[upstream.billing]\n");
            assert!(shared.is_subset(&known));
            known.retain(|key| key == "url" || !shared.contains(key));
        }
        assert_eq!(written, known, "{title}");
    }
    let titles: BTreeSet<&str> = SECTIONS.iter().map(|(title, _)| *title).collect();
    let more: Vec<&String> =
        rows.keys().filter(|title| title.starts_with('[') && !titles.contains(title.as_str())).collect();
    assert!(more.is_empty(), "sections that nothing reads: {more:?}");
}

#[test]
fn the_reference_has_the_defaults_that_are_in_effect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stagepost.toml");
    fs::write(
        &path,
        "[[listen]]\naddress = '127.0.0.1:0'\n[source.NAME]\npath = '/'\nto = ['NAME']\n\
         [upstream.NAME]\nurl = 'http://127.0.0.1:1'\n",
    )
    .unwrap();
    let loaded = config::load(&path).unwrap();
    let effective: toml::Table = config::effective(&loaded.config).parse().unwrap();
    let mut compared = 0;
    for (title, rows) in rows(&document("docs/configuration.md")) {
        for (key, default) in rows {
            let Some(value) = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else { continue };
            let steps = title.trim_matches(['[', ']']).split('.').chain([key.as_str()]);
            let mut found = Some(toml::Value::Table(effective.clone()));
            for step in steps {
                found = match found {
                    Some(toml::Value::Table(table)) => table.get(step).cloned(),
                    Some(toml::Value::Array(list)) => list.first().and_then(|first| first.get(step)).cloned(),
                    _ => None,
                };
            }
            let Some(found) = found else { continue };
            let written: toml::Table = format!("x = {value}").parse().unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(normal(&written["x"]), normal(&found), "{title} {key}");
            compared += 1;
        }
    }
    assert!(compared > 35, "only {compared} defaults were compared");
}

/// The value, durations in milliseconds: `60s` is `1m`.
fn normal(value: &toml::Value) -> toml::Value {
    let text = value.as_str().unwrap_or_default();
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let factor = match text.split_at(digits).1 {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return value.clone(),
    };
    toml::Value::Integer(text[..digits].parse::<i64>().unwrap() * factor)
}

#[test]
fn every_key_of_the_commented_configuration_is_in_the_reference() {
    let reference = document("docs/configuration.md");
    for line in document("config/stagepost.toml").lines() {
        let Some((key, _)) = line.trim_start_matches(['#', ' ']).split_once(" = ") else { continue };
        if key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_') {
            assert!(reference.contains(&format!("| `{key}` |")), "{key}");
        }
    }
}

#[test]
fn the_list_of_metrics_is_what_is_rendered() {
    let metrics = Metrics::default();
    drop((metrics.source("s"), metrics.upstream("u")));
    let rendered = metrics.render();
    let rendered: BTreeSet<&str> = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()))
        .collect();
    let text = document("docs/metrics.md");
    let written: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split(['`', '{']).next())
        .filter(|name| name.starts_with("stagepost_"))
        .collect();
    assert_eq!(written, rendered);
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(path.parent().unwrap().join(target).exists(), "{}: {link}", path.display());
            }
        }
    }
}
