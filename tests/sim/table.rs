//! The routing tables of the simulation: every source goes to at least one upstream in each of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use stagepost::{
    expr::Expr,
    routing::{
        DedupeRule, KeySelector, Limits, OnDuplicate, PathPattern, Route, Source, Table, TableParts, Target, Upstream,
    },
};

/// Where events come from.
pub const SOURCES: [&str; 3] = ["one", "both", "asked"];

/// All upstreams; a table may lack some.
pub const UPSTREAMS: [&str; 3] = ["a", "b", "asked"];

/// A table whose upstreams are those of `live`.
pub fn table(live: &[&str], generation: u64) -> Arc<Table> {
    let slow = Expr::compile("[range(.n // 1)] | length > 0").unwrap();
    let mut routes = vec![route("one", &["a"]), route("both", &["a", "b"]), route("asked", &["asked"])];
    // Only the pool can answer this one.
    routes.push(Route { name: "sometimes".into(), when: Some(slow), ..route("asked", &["b"]) });
    Arc::new(Table::new(TableParts {
        generation,
        hash: String::new(),
        sources: SOURCES.iter().map(|name| source(name)).collect(),
        routes,
        upstreams: live.iter().map(|name| ((*name).into(), upstream(name))).collect::<HashMap<_, _>>(),
        limits: Limits {
            max_connections: 10,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 64 << 10,
            body_idle_timeout: Duration::from_secs(30),
            body_min_rate: 1024,
            idle_timeout: Duration::from_secs(75),
            body_memory: 1 << 20,
            spool_size: 1 << 20,
            trusted_proxies: Vec::new(),
            quarantine: stagepost::routing::QuarantinePolicy {
                max_size: 1 << 20,
                max_body: 64 << 10,
                rate: 20,
                total_rate: 1 << 20,
                unmatched: stagepost::routing::Unmatched::Refuse,
            },
        },
    }))
}

fn route(source: &str, to: &[&str]) -> Route {
    Route { sources: Some(vec![source.into()]), ..Route::new(source, to.iter().map(|name| (*name).into()).collect()) }
}

fn source(name: &str) -> Arc<Source> {
    Arc::new(Source {
        dedupe: Some(DedupeRule {
            key: KeySelector::Header(http::HeaderName::from_static("x-key")),
            window: Duration::from_secs(3600),
            on_duplicate: OnDuplicate::Revive,
        }),
        ..Source::new(name, PathPattern::parse(&format!("/{name}")).unwrap())
    })
}

fn upstream(name: &str) -> Arc<Upstream> {
    Arc::new(Upstream { concurrency: 4, ..Upstream::new(name, Target::Http("http://127.0.0.1:1".parse().unwrap())) })
}
