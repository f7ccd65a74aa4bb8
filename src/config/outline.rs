//! Owns what commands need of a configuration that they do not serve by: where its instance is, and how the directory of
//! a stopped one is shown.
//!
//! Promises that nothing else is looked at: secrets, certificates and sections that are wrong are no reason to refuse, so
//! that an operator who may not read a secret can ask, and a reload that will be refused reaches the instance that
//! refuses it. What can't be told for sure is not guessed: a path is taken from a file with mistakes only if its own line
//! has none, and the usual data directory only if there are no mistakes.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    admin,
    context::Context,
    files,
    problem::{Place, Problems},
    reader::Section,
    route, server,
    settings::StoreSettings,
    token_names,
    tree::Table,
};
use crate::{
    alert::TOPIC,
    routing::{Privacy, Route, subscriber_name},
};

/// Where an instance has its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// The operators' socket.
    pub socket: PathBuf,
    /// The data directory; None if that can't be told.
    pub data: Option<PathBuf>,
}

/// What is shown of stored events, and by which names they are asked for.
pub struct Outline {
    /// What is hidden.
    pub privacy: Privacy,
    /// Also those that the `to` of a source stands for; without those that can't be read.
    pub routes: Vec<Route>,
    /// The names of whatever gets deliveries.
    pub upstreams: HashSet<String>,
}

/// Where the instance of a configuration file is, as far as the file tells. Blocks on the file system.
///
/// # Errors
/// The socket can't be told: why.
pub fn locate(path: &Path) -> Result<Whereabouts, Problems> {
    let env = |name: &str| std::env::var(name).ok();
    let cx = Context::new(&env);
    let table = files::read(&cx, path);
    let root = Section::root(&cx, &table, Place { file: Arc::from(path), line: 0 });
    let data = data(&root);
    let admin = root.section("admin");
    let socket = match (admin.has("socket"), &data) {
        (true, _) => sure(&admin, "socket"),
        (false, Some(data)) => Some(admin::usual_socket(data)),
        (false, None) => None,
    };
    match socket {
        Some(socket) => Ok(Whereabouts { socket, data }),
        None => Err(Problems(cx.collected().problems)),
    }
}

/// What a configuration file says about its stored events, as far as it can be read. Blocks on the file system.
#[must_use]
pub fn outline(path: &Path) -> Outline {
    let env = |name: &str| std::env::var(name).ok();
    let cx = Context::new(&env);
    let table = files::read(&cx, path);
    let root = Section::root(&cx, &table, Place { file: Arc::from(path), line: 0 });
    let short = root.named_sections("source").into_iter().filter_map(|(name, section)| {
        let words = section.words("to")?;
        Some(route::unconditional(&Arc::from(name), route::upstream_names(&section, &words)))
    });
    let routes = short.chain(route::read(&root).into_iter().map(|(route, _)| route)).collect();
    let alerts = root.section("alerts").named_sections("to").into_iter();
    let alerts = alerts.map(|(name, _)| subscriber_name(TOPIC, name));
    let upstreams = token_names(&root).upstreams.into_iter().chain(alerts).collect();
    Outline { privacy: server::privacy(root.section("privacy")), routes, upstreams }
}

/// `[store]` of a configuration file, as far as it can be read; as by default without one. Blocks on the file system.
#[must_use]
pub fn store_of(path: Option<&Path>) -> StoreSettings {
    let env = |name: &str| std::env::var(name).ok();
    let cx = Context::new(&env);
    let table = path.map_or_else(Table::default, |path| files::read(&cx, path));
    let root = Section::root(&cx, &table, Place { file: Arc::from(path.unwrap_or(Path::new(""))), line: 0 });
    server::store(root.section("store"))
}

fn data(root: &Section<'_>) -> Option<PathBuf> {
    let store = root.section("store");
    if store.has("path") {
        return sure(&store, "path");
    }
    (!root.cx.has_problems()).then(server::usual_data)
}

/// A path, unless something is wrong with the line it stands in.
fn sure(section: &Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.path(key)?;
    (!section.cx.has_problem_at(section.place_of(key))).then_some(path)
}
