//! The routing tables of the simulation: every source goes to at least one upstream in each of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use stagepost::{
    expr::Expr,
    routing::{
        DedupeRule, KeySelector, Limits, OnDuplicate, OnFailure, OrderKey, OrderPolicy, PathPattern, Priority, Route,
        Source, Subscriber, Table, TableParts, Target, Upstream,
    },
    state::Subscribed,
};

/// Where events come from. From the fifth on their routes may ask for an order.
pub const SOURCES: [&str; 9] = ["one", "both", "asked", "news", "block", "park", "skip", "newest", "slow"];

/// The sources that never ask for an order or a priority.
pub const PLAIN: usize = 4;

/// All upstreams of configurations; a table may lack some.
pub const UPSTREAMS: [&str; 3] = ["a", "b", "asked"];

/// The topic that the source `news` publishes under.
pub const TOPIC: &str = "news";

/// Whoever may subscribe to it at run time, by the upstream that each is then.
pub const SUBSCRIBERS: [&str; 2] = ["news/s", "news/t"];

/// A subscriber that fails for so long is disabled.
pub const DISABLE_AFTER: Duration = Duration::from_secs(45);

/// All upstreams that there ever are.
pub fn everybody() -> impl Iterator<Item = &'static str> {
    UPSTREAMS.into_iter().chain(SUBSCRIBERS)
}

/// A configuration's table with those who subscribe at run time; nothing leads to the disabled ones.
pub fn with_subscribers(base: &Table, known: &Subscribed) -> Arc<Table> {
    let mut table = base.clone();
    let on = known.registered.keys().map(|name| Subscriber {
        topic: TOPIC.into(),
        types: None,
        when: None,
        upstream: Arc::new(Upstream { disable_after: Some(DISABLE_AFTER), ..upstream(name) }),
    });
    table.subscribe(&on.collect::<Vec<_>>()).unwrap();
    for (name, _) in known.closed.iter().filter(|(_, closed)| closed.disabled.is_some()) {
        table.silence(name);
    }
    Arc::new(table)
}

/// What the routes of a table ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No order and no priorities.
    Plain,
    /// By `.k`.
    Ordered,
    /// By `.n`.
    Otherwise,
    /// Priorities only.
    Priorities,
}

/// A table whose upstreams are those of `live`.
pub fn table(live: &[&str], generation: u64, mode: Mode) -> Arc<Table> {
    let slow = Expr::compile("[range(.n // 1)] | length > 0").unwrap();
    let mut routes = vec![route("one", &["a"]), route("both", &["a", "b"]), route("asked", &["asked"])];
    routes.push(Route { topic: Some(TOPIC.into()), ..route("news", &["a"]) });
    // Only the pool can answer this one.
    routes.push(Route { name: "sometimes".into(), when: Some(slow.clone()), ..route("asked", &["b"]) });
    let order = |on_failure, newest| {
        let key = match mode {
            Mode::Plain | Mode::Priorities => return None,
            Mode::Ordered => ".k",
            Mode::Otherwise => ".n",
        };
        let key = OrderKey::Expr(Expr::compile(key).unwrap());
        let version = Expr::compile(".v").unwrap();
        Some(Arc::new(OrderPolicy::new(key, on_failure, Some(version).filter(|_| newest), newest).unwrap()))
    };
    let priority = |priority| if mode == Mode::Plain { Priority::Normal } else { priority };
    routes.extend([
        Route {
            order: order(OnFailure::Block, false),
            priority: priority(Priority::High),
            ..route("block", &["a", "b"])
        },
        Route { order: order(OnFailure::Park, false), ..route("park", &["b"]) },
        Route { order: order(OnFailure::Skip(2), false), priority: priority(Priority::Low), ..route("skip", &["a"]) },
        Route { order: order(OnFailure::Block, true), ..route("newest", &["b"]) },
        Route { order: order(OnFailure::Block, false), when: Some(slow), ..route("slow", &["a"]) },
        Route { name: "surely".into(), ..route("slow", &["asked"]) },
    ]);
    Arc::new(Table::new(TableParts {
        generation,
        hash: String::new(),
        sources: SOURCES.iter().map(|name| source(name)).collect(),
        routes,
        upstreams: live.iter().map(|name| ((*name).into(), Arc::new(upstream(name)))).collect::<HashMap<_, _>>(),
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

fn upstream(name: &str) -> Upstream {
    Upstream { concurrency: 4, ..Upstream::new(name, Target::Http("http://127.0.0.1:1".parse().unwrap())) }
}
