//! Owns the keys of an upstream that say what its failures and answers lead to: `failure`, `accept`, `fallback`.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Read as _,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::{
    context::Context,
    problem::Place,
    reader::{Section, suggestion},
    source::expression,
    tree::Value,
};
use crate::{
    expr::Expr,
    routing::{
        Accept, AnswerPolicy, FAILURE_ROWS_MAX, FailureAction, FailureRow, FailureSet, NoAnswer, Route, Upstream,
    },
    schema::{SCHEMA_BYTES_MAX, Schema},
};

/// What only requests have.
const NO_ANSWER_HAS: [&str; 7] = ["$query", "$path", "$captures", "$method", "$source", "$id", "$received_at"];

/// Reads all of them; None if none is written, so that answers are judged by the contract's table alone.
pub(super) fn read(section: &Section<'_>) -> Option<AnswerPolicy> {
    let mut failures: Vec<FailureRow> = Vec::new();
    for row in section.sections("failure") {
        if failures.len() == FAILURE_ROWS_MAX {
            row.problem("", format!("is one row too many; an upstream has at most {FAILURE_ROWS_MAX}"));
        }
        failures.extend(one(row, &failures));
    }
    let accept = accept(section);
    let fallback = section.text("fallback").map(Box::from);
    if fallback.is_some() && !section.has("accept") {
        section.problem("fallback", "has no effect without accept, which says what a good answer is");
    }
    let written = ["failure", "accept", "fallback"].map(|key| section.has(key)).contains(&true);
    written.then_some(AnswerPolicy { failures, accept, fallback })
}

fn one(row: Section<'_>, before: &[FailureRow]) -> Option<FailureRow> {
    let (statuses, errors) = (row.words("status"), row.words("error"));
    let when = answer_expression(&row, "when");
    let mut class = FailureSet::default();
    for (text, _) in statuses.iter().flatten() {
        row.accept("status", class.add_status(text));
    }
    for (text, _) in errors.iter().flatten() {
        match NoAnswer::ALL.iter().find(|(word, _)| word == text) {
            Some((_, silence)) => class.add_silence(*silence),
            None => {
                row.problem("error", format!("error \"{text}\" is not known; known: connect, timeout, tls, broken"))
            }
        }
    }
    for (key, words) in [("status", &statuses), ("error", &errors)] {
        match words {
            Some(words) if words.is_empty() => row.problem(key, "is empty; leave it out"),
            Some(words) => row.print_words(key, words.iter().map(|(word, _)| word)),
            None => {}
        }
    }
    if row.has("when") && row.has("error") {
        row.problem("when", "looks at an answer, and error means that there is none; write two rows");
    }
    if statuses.is_none() && errors.is_none() {
        class = if row.has("when") { FailureSet::any_answer() } else { FailureSet::all() };
    }
    let certain: Vec<&FailureSet> = before.iter().filter(|row| row.when.is_none()).map(|row| &row.class).collect();
    if class != FailureSet::default() && class.is_within(&certain) {
        row.problem("", "never matches: the rows before it take everything it would; move it up or remove it");
    }
    let action = action(&row);
    row.finish();
    Some(FailureRow { class, when, action: action? })
}

fn action(row: &Section<'_>) -> Option<FailureAction> {
    let delay = row.optional_duration("delay");
    let to = row.text("to");
    if !row.has("action") {
        row.problem("action", "is missing; write \"retry\", \"dead\", \"hold\" or \"divert\"");
        return None;
    }
    let words = ["retry", "dead", "hold", "divert"].map(|word| (word, word));
    let word = row.choice("action", "retry", &words)?;
    if word != "retry" && row.has("delay") {
        row.problem("delay", "has no effect without action = \"retry\"; remove it");
    }
    if word != "divert" && row.has("to") {
        row.problem("to", "has no effect without action = \"divert\"; remove it");
    }
    if delay.is_some_and(|delay| delay.is_zero()) {
        row.problem("delay", "must be longer than 0s");
    }
    Some(match word {
        "retry" => FailureAction::Retry(delay),
        "dead" => FailureAction::Dead,
        "hold" => FailureAction::Hold,
        _ if to.is_none() => {
            row.problem("to", "is missing; name the upstream that gets the event");
            return None;
        }
        _ => FailureAction::Divert(to?.into()),
    })
}

fn accept(section: &Section<'_>) -> Option<Accept> {
    if !matches!(section.value("accept")?, Value::Table(_)) {
        return answer_expression(section, "accept").map(Accept::Expr);
    }
    let table = section.section("accept");
    let schema = match table.has("schema") {
        true => schema(&table),
        false => {
            table.problem("schema", "is missing; name a file with a JSON Schema, such as \"answer.schema.json\"");
            None
        }
    };
    table.finish();
    schema.map(Accept::Schema)
}

fn schema(section: &Section<'_>) -> Option<Arc<Schema>> {
    let path = section.path("schema")?;
    section.cx.watch(&path);
    let mut text = Vec::new();
    let read = fs::File::open(&path).and_then(|file| file.take(SCHEMA_BYTES_MAX + 1).read_to_end(&mut text));
    section.accept("schema", read.map_err(|error| format!("{} can't be read: {error}", path.display())))?;
    if text.len() as u64 > SCHEMA_BYTES_MAX {
        section.problem("schema", format!("{} has more than 1 MiB, which is no schema's size", path.display()));
        return None;
    }
    // A changed schema is a changed configuration.
    section.note(&format!("sha256 {}", hex::encode(Sha256::digest(&text))));
    let compiled = Schema::compile(&text).map_err(|error| format!("{} {error}", path.display()));
    section.accept("schema", compiled).map(Arc::new)
}

/// jq over an answer.
pub(super) fn answer_expression(section: &Section<'_>, key: &'static str) -> Option<Expr> {
    let expr = expression(section, key)?;
    if let Some(name) = NO_ANSWER_HAS.iter().find(|name| expr.text().contains(*name)) {
        section.problem(
            key,
            format!("speaks of {name}, which an answer does not have; it has ., $status, $headers, $body"),
        );
    }
    Some(expr)
}

/// Records upstreams that are not there, and ways that lead back to where they began. `known` are all that are declared.
pub(super) fn check_others(cx: &Context<'_>, upstreams: &[(Upstream, Place)], known: &HashSet<&str>) {
    let ways: HashMap<&str, Vec<&str>> = upstreams
        .iter()
        .map(|(upstream, _)| (&*upstream.name, upstream.answers.iter().flat_map(AnswerPolicy::others).collect()))
        .collect();
    for (upstream, place) in upstreams {
        let Some(answers) = &upstream.answers else { continue };
        let key_of = |other: &str| {
            let word = if answers.fallback.as_deref() == Some(other) { "fallback" } else { "failure" };
            format!("upstream.{}.{word}", upstream.name)
        };
        for other in answers.others() {
            if !known.contains(other) {
                let hint = suggestion(other, known.iter().copied());
                cx.problem(place, &key_of(other), format!("names the unknown upstream \"{other}\"; {hint}"));
            } else if leads_to(&ways, other, &upstream.name) {
                let message = format!(
                    "leads back: what goes to {other} may come to {} again; let events go one way only",
                    upstream.name
                );
                cx.problem(place, &key_of(other), message);
            }
        }
    }
}

fn leads_to(ways: &HashMap<&str, Vec<&str>>, from: &str, to: &str) -> bool {
    let (mut open, mut seen) = (vec![from], HashSet::new());
    while let Some(name) = open.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            open.extend(ways.get(name).into_iter().flatten());
        }
    }
    false
}

/// Warns where a route leads to an upstream and to the one that takes its place.
pub(super) fn warn_of_both<'r>(
    cx: &Context<'_>,
    upstreams: &[(Upstream, Place)],
    routes: impl Iterator<Item = &'r Route> + Clone,
) {
    for (upstream, place) in upstreams {
        for other in upstream.answers.iter().flat_map(AnswerPolicy::others) {
            if let Some(route) = routes.clone().find(|route| route.leads_to(&upstream.name) && route.leads_to(other)) {
                let message = format!(
                    "route {} leads to {} and to {other}, which takes its place: {other} may get such an event twice",
                    route.name, upstream.name,
                );
                cx.warn(place, &format!("upstream.{}", upstream.name), message);
            }
        }
    }
}
