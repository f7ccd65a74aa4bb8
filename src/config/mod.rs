//! Owns the way from text to validated values: files, includes, environment, keys, defaults, and what a reload changes.
//!
//! Promises that all problems are reported at once, each with file, line and key; that an unknown key is a problem; that
//! each default stands once, where its key is read; and that no message and no printed configuration contains the value
//! of a secret. A configuration that has problems yields nothing, so that it can't replace a good one.
//!
//! Deliberately absent: settings of features that this version does not have. Their keys are unknown.

mod admin;
mod alerts;
mod batch;
mod build;
mod cache;
mod chain;
mod cloudevents;
mod context;
mod door;
mod failure;
mod files;
mod find;
mod front;
mod interpolate;
mod keys;
mod limits;
mod listen;
mod order;
mod outline;
mod outside;
mod pace;
mod patience;
mod problem;
mod reader;
mod reload;
mod route;
mod server;
mod settings;
mod sign;
mod sink;
mod source;
mod subscribers;
mod targets;
#[cfg(test)]
mod tests;
mod tls;
mod topic;
mod traces;
mod tree;
mod units;
mod upgrade;
mod upstream;
mod verify;
mod wait;

use std::{
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use files::Pattern;
pub use find::{NotFound, find};
pub use front::front_client;
pub use outline::{Outline, Whereabouts, locate, outline, store_of};
pub use problem::{Place, Problem, Problems};
pub use reload::{ReloadReport, diff};
pub use settings::{
    Access, AdminSettings, AlertSettings, Config, DiagnosticsSettings, Format, ListenSettings, Loaded,
    ShutdownSettings, StoreSettings, TokenRole, TokenSettings, TraceSettings, WhenFull,
};
use sha2::{Digest as _, Sha256};
pub use subscribers::{AskedSubscriber, SubscribersSettings, run_time_subscriber, run_time_tls};
pub use tls::Certificates;

use build::Parts;
use context::Context;
use interpolate::Env;
use reader::{Section, quoted};
use tree::Table;

use crate::routing;

/// Loads a configuration file with the process's environment. Blocks on the file system.
///
/// # Errors
/// Every [`Problem`] that was found.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Loads a configuration file; `${NAME}` is looked up in `env`. (`env:` secrets come from the process's environment.)
///
/// # Errors
/// Every [`Problem`] that was found.
pub fn load_with(path: &Path, env: Env<'_>) -> Result<Loaded, Problems> {
    let cx = Context::new(env);
    let table = files::read(&cx, path);
    finish(cx, &table, path)
}

/// The configuration of `run --listen ADDR --to URL`: a source and an upstream, both called `default`, any path and
/// method, no check, data and admin socket in `data`. Relative paths start at the working directory.
///
/// # Errors
/// Every [`Problem`] that was found; the file is called `command line`.
pub fn quick(listen: &str, to: &str, data: &Path) -> Result<Loaded, Problems> {
    let text = format!(
        "listen = [{{ address = {} }}]\nstore.path = {}\nsource.default = {{ path = \"/*\", to = [\"default\"] }}\n\
         upstream.default.url = {}\n",
        quoted(listen),
        quoted(&data.to_string_lossy()),
        quoted(to),
    );
    let env = |name: &str| std::env::var(name).ok();
    let cx = Context::new(&env);
    let file: Arc<Path> = Arc::from(Path::new("command line"));
    let mut table = Table::default();
    files::add(&cx, &text, &file, &mut table, &mut VecDeque::new());
    finish(cx, &table, &file)
}

/// The effective configuration as TOML: every key with its value, secrets as references, and each upstream's retry
/// timetable as a comment.
#[must_use]
pub fn effective(config: &Config) -> &str {
    &config.printed
}

fn finish(cx: Context<'_>, table: &Table, path: &Path) -> Result<Loaded, Problems> {
    // What could not be parsed is missing: all that would be said about the rest might be wrong.
    let read = if cx.has_problems() { None } else { read(&cx, table, path) };
    let collected = cx.collected();
    let Some((mut config, mut table)) = read.filter(|_| collected.problems.is_empty()) else {
        return Err(Problems(collected.problems));
    };
    config.hash = hex::encode(Sha256::digest(collected.printed.as_bytes()));
    config.printed = collected.printed;
    config.values = collected.values;
    table.hash.clone_from(&config.hash);
    let files: Vec<PathBuf> = collected.files;
    Ok(Loaded { config, table, warnings: collected.warnings, files, patterns: collected.patterns })
}

/// What a token may be limited to: what is written, whether it can be read or not.
fn token_names<'a>(root: &Section<'a>) -> admin::Names<'a> {
    let written = |key| root.named_sections(key).into_iter();
    let subscribers = written("subscriber")
        .filter_map(|(name, section)| Some(routing::subscriber_name(section.written("topic")?, name)));
    admin::Names {
        sources: written("source").map(|(name, _)| name).collect(),
        upstreams: written("upstream").map(|(name, _)| name.to_owned()).chain(subscribers).collect(),
    }
}

/// Reads every section. None if there are problems.
fn read(cx: &Context<'_>, table: &Table, path: &Path) -> Option<(Config, routing::Table)> {
    let whole = Place { file: Arc::from(path), line: 0 };
    let root = Section::root(cx, table, whole.clone());
    let server = server::Server::read(root.section("server"), root.section("quarantine"));
    let listen = listen::read(&root);
    let store = server::store(root.section("store"));
    let admin = admin::read(root.section("admin"), &store, &listen, &token_names(&root));
    let diagnostics = server::diagnostics(root.section("diagnostics"));
    let privacy = server::privacy(root.section("privacy"));
    let subscribers = subscribers::read(root.section("subscribers"));
    let sources = source::read(&root, &server);
    let keys = keys::read(root.section("keys"), sources.iter().any(|read| read.source.verifier.fetches_keys()));
    let machine = upstream::MachineRoots::default();
    let traces = traces::read(root.section("traces"), &machine);
    let alerts = alerts::Alerts::read(&root, &server, &store, &machine);
    let alert_settings = alerts.settings.clone();
    let mut parts = Parts {
        sources,
        upstreams: upstream::read(&root, &server, &store, &machine),
        routes: route::read(&root),
        topics: topic::Topics::read(&root, &server, &store, &machine, alerts.has_destinations()),
        alerts,
        limits: server.limits,
        shadows: std::collections::HashMap::new(),
    };
    let names = |key| root.named_sections(key).into_iter().map(|(name, _)| name).collect::<HashSet<_>>();
    parts.check_names(cx, &names("source"), &names("upstream"), &whole);
    root.finish();
    if !cx.has_problems() {
        parts.part_shadows(cx);
        parts.check(cx, &listen, &store);
    }
    if cx.has_problems() {
        return None;
    }
    let places = parts.route_places();
    let table = build::accept(cx, parts.into_table(), &whole)?;
    build::warn_of_conflicts(cx, &table, &places);
    let config = Config {
        listen,
        store,
        admin,
        diagnostics,
        shutdown: server.shutdown,
        privacy,
        subscribers,
        keys,
        alerts: alert_settings,
        traces,
        hash: String::new(),
        printed: String::new(),
        values: std::collections::BTreeMap::new(),
    };
    Some((config, table))
}
