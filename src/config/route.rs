//! Owns the keys of `[[route]]`, and the short form of a route: a source's own `to`.

use std::sync::Arc;

use http::HeaderValue;

use super::{
    order,
    problem::Place,
    reader::{Section, quoted},
    source::{check_name, expression, method},
    upstream::{path_edit, settable_header},
};
use crate::{
    expr::Expr,
    routing::{HeaderEdit, Route},
};

/// Reads every `[[route]]`, in the order they stand. A route without a name is called after its number.
pub(super) fn read(root: &Section<'_>) -> Vec<(Route, Place)> {
    let sections = root.sections("route");
    sections.into_iter().enumerate().map(|(index, section)| one(index, section)).collect()
}

/// The route that a source's `to` stands for.
pub(super) fn unconditional(source: &Arc<str>, to: Vec<Box<str>>) -> Route {
    Route { sources: Some(vec![Box::from(&**source)]), ..Route::new(source, to) }
}

/// The names in a `to`, each once.
pub(super) fn upstream_names(section: &Section<'_>, words: &[(&str, &Place)]) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = Vec::with_capacity(words.len());
    for (word, _) in words {
        if names.iter().any(|name| **name == **word) {
            section.problem("to", format!("names \"{word}\" twice; an event is delivered to an upstream once"));
        } else {
            names.push(Box::from(*word));
        }
    }
    section.print_words("to", &names);
    names
}

fn one(index: usize, section: Section<'_>) -> (Route, Place) {
    let name = section.text("name").map_or_else(|| format!("route-{}", index + 1), str::to_owned);
    if section.has("name") {
        check_name(&section, "name", &name);
    } else {
        section.print("name", &quoted(&name));
    }
    let sources = section.words("source").map(|words| {
        if words.is_empty() {
            section.problem("source", "is empty, so that the route takes nothing; leave it out to take every source");
        }
        section.print_words("source", words.iter().map(|(word, _)| word));
        words.iter().map(|(word, _)| Box::from(*word)).collect()
    });
    let when = expression(&section, "when");
    if when.as_ref().is_some_and(never_matches) {
        section.warn("when", "never matches: the route is dead");
    }
    let topic: Option<Box<str>> = section.text("topic").map(Box::from);
    if !section.has("to") && !section.has("topic") {
        section.problem("to", "is missing; name the upstreams, or write [] to discard on purpose");
    }
    let to = upstream_names(&section, &section.words("to").unwrap_or_default());
    let transform = expression(&section, "transform");
    let headers = section.optional_section("headers").map(header_edit).unwrap_or_default();
    let path = path_edit(&section);
    let method = section.text("method").and_then(|word| method(&section, "method", word));
    let (order, priority) = (order::order(&section), order::priority(&section));
    for key in ["transform", "headers", "path", "strip_prefix", "method", "order_by", "priority"] {
        if to.is_empty() && topic.is_none() && section.has(key) {
            section.warn(key, "has no effect: the route discards its events");
        }
    }
    let place = section.place.clone();
    section.finish();
    (Route { sources, when, topic, transform, headers, path, method, order, priority, ..Route::new(&name, to) }, place)
}

fn never_matches(when: &Expr) -> bool {
    matches!(when.text().trim(), "false" | "null" | "empty")
}

fn header_edit(section: Section<'_>) -> HeaderEdit {
    let texts = section.texts("set");
    let mut edit = HeaderEdit::default();
    for (name, text, _) in &texts {
        let value = HeaderValue::from_str(text).map_err(|_| format!("{name} holds characters no header may hold"));
        edit.set.extend(settable_header(&section, "set", name).zip(section.accept("set", value)));
    }
    if !texts.is_empty() {
        section.print_texts("set", texts.iter().map(|(name, text, _)| (*name, (*text).to_owned())));
    }
    let words = section.words("remove").unwrap_or_default();
    edit.remove.extend(words.iter().filter_map(|(word, _)| settable_header(&section, "remove", word)));
    if !words.is_empty() {
        section.print_words("remove", edit.remove.iter().map(http::HeaderName::as_str));
    }
    section.finish();
    edit
}
