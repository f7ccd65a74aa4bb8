//! The keys of a source that look into bodies.

use super::*;
use crate::routing::{ItemForm, Items, OnViolation};

const HEAD: &str = "[[listen]]\naddress='127.0.0.1:1'\n[source.x]\npath='/x'\nto=[]\n";

fn problems(lines: &str) -> String {
    Directory::with(&format!("{HEAD}{lines}")).load().err().unwrap().to_string()
}

#[test]
fn split_takes_its_way_to_the_items_from_items_or_the_preset() {
    let rule = |lines: &str| {
        let config = Directory::with(&format!("{HEAD}{lines}")).load().unwrap();
        config.table.sources[0].split.clone()
    };
    let array = |lines: &str| match rule(lines).unwrap().items {
        Items::Json(rule) => rule.array.to_string(),
        Items::Notifications => "notifications".to_owned(),
    };
    assert!(rule("").is_none() && rule("split = false").is_none());
    assert_eq!(array("split = true"), "[]");
    assert_eq!(array("split = 'wrap'\nitems = '.data.events'"), "data.events[]");
    assert_eq!(rule("split = 'wrap'").unwrap().form, ItemForm::Wrapped);
    assert_eq!(rule("split = true\nmax_items = 7").unwrap().max_items, 7);
    let okta = "verify = { scheme = 'okta', secrets = ['literal:a-secret'] }\nsplit = true";
    assert_eq!(array(okta), "data.events[]");
    assert_eq!(array(&format!("{okta}\nitems = '.'")), "[]");
}

#[test]
fn what_is_wrong_with_split_is_said_with_its_remedy() {
    for (lines, what) in [
        ("items = '.a'", "source.x.items: has no effect without split = true"),
        ("max_items = 3", "source.x.max_items: has no effect without split = true"),
        ("split = 'each'", "source.x.split: takes true"),
        ("split = true\nitems = 'a b'", "source.x.items: \"a b\" is no way to an array"),
        ("split = true\nmax_items = 0", "source.x.max_items: takes a whole number from 1 to 10000"),
        (
            "split = true\nverify = { scheme = 'github', secrets = ['literal:a-secret'] }",
            "source.x.split: GitHub sends no batches that are known",
        ),
    ] {
        let said = problems(lines);
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn a_schema_is_compiled_when_it_is_loaded() {
    let directory = Directory::with(&format!("{HEAD}schema = {{ file = 'a.json', on_violation = 'reject' }}"));
    std::fs::write(directory.path("a.json"), r#"{"type": "object"}"#).unwrap();
    let config = directory.load().unwrap();
    let rule = config.table.sources[0].schema.as_ref().unwrap();
    assert_eq!(rule.on_violation, OnViolation::Reject);
    assert!(rule.schema.as_ref().unwrap().check(b"[]").is_err());
    let refused = format!("{HEAD}quarantine = false\nschema = {{ file = 'a.json', on_violation = 'quarantine' }}");
    let other = Directory::with(&refused);
    std::fs::write(other.path("a.json"), "{}").unwrap();
    assert!(other.load().err().unwrap().to_string().contains("source.x.quarantine: is false"));
    std::fs::write(directory.path("a.json"), r#"{"type": "strin"}"#).unwrap();
    let said = directory.load().err().unwrap().to_string();
    assert!(said.contains("source.x.schema.file") && said.contains("a.json is no usable schema at /type"), "{said}");
    for (lines, what) in [
        ("schema = { file = 'gone.json' }", "gone.json can't be read"),
        ("schema = { on_violation = 'tag' }", "source.x.schema.file: is missing"),
        ("schema = { file = 'a.json', on_violation = 'drop' }", "source.x.schema.on_violation"),
    ] {
        let said = problems(lines);
        assert!(said.contains(what), "{said}");
    }
}
