//! Tests of whole tables: look-up by host and path, and what routes change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};

use super::*;
use crate::expr::Expr;

fn source(name: &str, host: Option<&str>, pattern: &str) -> Arc<Source> {
    Arc::new(Source { host: host.map(Into::into), ..Source::new(name, PathPattern::parse(pattern).unwrap()) })
}

pub(super) fn limits() -> Limits {
    Limits {
        max_connections: 10,
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        max_header_bytes: 64 << 10,
        body_idle_timeout: Duration::from_secs(30),
        body_min_rate: 1024,
        idle_timeout: Duration::from_secs(75),
        body_memory: 1 << 20,
        spool_size: 1 << 20,
        trusted_proxies: vec![],
        quarantine: crate::routing::QuarantinePolicy {
            max_size: 1 << 20,
            max_body: 64 << 10,
            rate: 20,
            total_rate: 1 << 20,
            unmatched: crate::routing::Unmatched::Refuse,
        },
    }
}

fn table(sources: &[(&str, Option<&str>, &str)], routes: Vec<Route>) -> Table {
    Table::new(TableParts {
        generation: 1,
        hash: "h".to_owned(),
        sources: sources.iter().map(|(name, host, pattern)| source(name, *host, pattern)).collect(),
        routes,
        upstreams: HashMap::new(),
        limits: limits(),
    })
}

fn route(name: &str, sources: Option<&[&str]>, to: &[&str]) -> Route {
    let sources = sources.map(|names| names.iter().map(|name| (*name).into()).collect());
    Route { sources, ..Route::new(name, to.iter().map(|name| (*name).into()).collect()) }
}

fn transformed(name: &str, transform: &str) -> Route {
    Route { transform: Some(Expr::compile(transform).unwrap()), ..route(name, None, &["u"]) }
}

/// The name of the source that is found, with its captures as `name[key=value]`, or the refusal.
fn find(table: &Table, host: &str, path: &str) -> String {
    match table.find(host, path) {
        Lookup::Found(Matched { source, captures }) if captures.is_empty() => source.name.to_string(),
        Lookup::Found(Matched { source, captures }) => {
            let captures: Vec<_> = captures.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{}[{}]", source.name, captures.join(","))
        }
        Lookup::NotFound => "404".to_owned(),
        Lookup::DotSegments => "400".to_owned(),
    }
}

#[test]
fn the_most_specific_source_is_found_whatever_the_order_of_the_configuration() {
    let mut sources = vec![
        ("root", None, "/*"),
        ("hooks", None, "/hooks/*"),
        ("stripe", None, "/hooks/stripe"),
        ("named", None, "/hooks/{name}"),
        ("tenant", None, "/t/{tenant}/in"),
        ("tenants", None, "/t/{tenant}/*"),
        ("acme", None, "/t/acme/*"),
        ("api", Some("api.example.com"), "/hooks/*"),
        ("api-exact", Some("api.example.com"), "/only"),
    ];
    let cases = [
        ("x", "/hooks/stripe", "stripe"),
        ("x", "/hooks/other", "named[name=other]"),
        ("x", "/hooks/a/b", "hooks"),
        ("x", "/hooks/", "hooks"),
        ("x", "/hooks", "root"),
        ("x", "/t/acme/in", "tenant[tenant=acme]"),
        ("x", "/t/acme/x", "acme"),
        ("x", "/t/b%20c/x", "tenants[tenant=b%20c]"),
        ("api.example.com", "/hooks/stripe", "api"),
        ("API.Example.com.", "/hooks/stripe", "api"),
        ("api.example.com", "/only", "api-exact"),
        ("api.example.com", "/t/a/in", "tenant[tenant=a]"),
        ("xapi.example.com", "/only", "root"),
        ("", "/", "root"),
        ("x", "*", "404"),
    ];
    for _ in 0..sources.len() {
        sources.rotate_left(1);
        let table = table(&sources, vec![]);
        for (host, path, expected) in cases {
            assert_eq!(find(&table, host, path), expected, "{host}{path}");
        }
        let names: Vec<_> = table.sources.iter().map(|source| &*source.name).collect();
        assert_eq!(
            names,
            ["api-exact", "api", "stripe", "tenant", "named", "acme", "tenants", "hooks", "root"],
            "the order of precedence"
        );
    }
}

#[test]
fn dot_segments_are_refused_under_a_subtree_and_unknown_elsewhere() {
    let table = table(
        &[("hooks", None, "/hooks/*"), ("exact", None, "/a/b"), ("t", None, "/t/{x}/in"), ("s", None, "/s/{x}/*")],
        vec![],
    );
    let cases = [
        ("/hooks/../admin", "400"),
        ("/hooks/a/%2E%2e/b", "400"),
        ("/hooks/a%2f..", "400"),
        ("/hooks/a%5C.%5Cb", "400"),
        ("/hooks/a\\..", "400"),
        ("/s/../x", "400"),
        ("/hooks/..a/b...", "hooks"),
        ("/x/../hooks/a", "404"),
        ("/a/./b", "404"),
        ("/t/../in", "404"),
        ("/t/a%2f..%2fb/in", "404"),
        ("/t/a.b/in", "t[x=a.b]"),
    ];
    for (path, expected) in cases {
        assert_eq!(find(&table, "x", path), expected, "{path}");
    }
}

#[test]
fn no_source_means_not_found() {
    assert_eq!(find(&table(&[], vec![]), "x", "/"), "404");
    assert_eq!(find(&table(&[("a", Some("h"), "/*")], vec![]), "x", "/"), "404");
}

fn named(changes: &Changes<'_>) -> String {
    match changes {
        Changes::None => "none".to_owned(),
        Changes::Same(route) => format!("same {}", route.name),
        Changes::Choose(routes) => {
            format!("choose {}", routes.iter().map(|route| &*route.name).collect::<Vec<_>>().join(" "))
        }
    }
}

#[test]
fn routes_that_change_the_same_are_one_and_others_are_left_to_choose() {
    let header = (HeaderName::from_static("x-kind"), HeaderValue::from_static("a"));
    let cases = [
        (vec![], "none"),
        (vec![route("a", Some(&["other"]), &["u"])], "none"),
        (vec![route("a", None, &["v"])], "none"),
        (vec![route("a", None, &[])], "none"),
        (vec![transformed("a", ".x")], "same a"),
        (vec![route("a", None, &["u"]), route("b", Some(&["s"]), &["v", "u"])], "same a"),
        (vec![transformed("a", ".x"), transformed("b", ".x")], "same a"),
        (vec![transformed("a", ".x"), transformed("b", ".y")], "choose a b"),
        (vec![route("a", None, &["u"]), transformed("b", ".")], "choose a b"),
        (
            vec![
                route("a", None, &["u"]),
                Route { headers: HeaderEdit { set: vec![header], remove: vec![] }, ..route("b", None, &["u"]) },
            ],
            "choose a b",
        ),
        (vec![route("a", None, &["u"]), Route { method: Some(Method::PUT), ..route("b", None, &["u"]) }], "choose a b"),
        (
            vec![
                route("a", None, &["u"]),
                route("x", Some(&["other"]), &["u"]),
                Route { path: PathEdit { strip_prefix: None, path: Some("/p".into()) }, ..route("b", None, &["u"]) },
            ],
            "choose a b",
        ),
    ];
    for (routes, expected) in cases {
        let table = table(&[("s", None, "/*")], routes);
        assert_eq!(named(&table.changes("s", "u")), expected);
    }
}

#[test]
fn routes_with_the_same_condition_and_a_source_in_common_surely_conflict() {
    let conflicts = |routes| {
        let table = table(&[("s", None, "/s"), ("t", None, "/t")], routes);
        let found = table.statically_conflicting();
        found.iter().map(|c| format!("{} {} {}", c.first, c.second, c.upstream)).collect::<Vec<_>>()
    };
    let plain = |sources: Option<&[&str]>| route("plain", sources, &["v", "u"]);
    let when = Some(Expr::compile(".x").unwrap());
    assert_eq!(conflicts(vec![plain(None), transformed("b", ".x")]), ["plain b u"]);
    assert_eq!(conflicts(vec![plain(Some(&["s"])), transformed("b", ".x")]), ["plain b u"]);
    let b = Route { when: when.clone(), ..transformed("b", ".x") };
    assert_eq!(conflicts(vec![plain(None), b.clone()]), ["plain b u"], "whatever b takes dies");
    assert_eq!(conflicts(vec![Route { when, ..plain(None) }, b.clone()]), ["plain b u"]);
    let other = Some(Expr::compile(".y").unwrap());
    assert_eq!(conflicts(vec![Route { when: other, ..plain(None) }, b]), Vec::<String>::new());
    assert_eq!(conflicts(vec![plain(None), plain(None)]), Vec::<String>::new());
    let apart = Route { sources: Some(vec!["t".into()]), ..transformed("b", ".x") };
    assert_eq!(conflicts(vec![plain(Some(&["s"])), apart]), Vec::<String>::new());
}

#[test]
fn a_snapshot_stays_what_it_was_when_the_table_is_swapped() {
    let live = Live::new(table(&[("old", None, "/*")], vec![]));
    let before = live.snapshot();
    live.swap(table(&[("new", None, "/*")], vec![]));
    assert_eq!((find(&before, "x", "/"), find(&live.snapshot(), "x", "/")), ("old".to_owned(), "new".to_owned()));
}
