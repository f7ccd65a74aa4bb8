//! Owns the key `upgrade` of `[source.NAME]`.

use http::Method;

use super::{reader::Section, server::positive, tree::Value};
use crate::routing::UpgradePolicy;

/// WebSocket connections of one source at once, at most.
const UPGRADES_MAX: u64 = 1_000_000;

/// Reads it. None: nothing is upgraded.
pub(super) fn read(source: &Section<'_>, methods: Option<&[Method]>) -> Option<UpgradePolicy> {
    let is_table = matches!(source.value("upgrade"), Some(Value::Table(_)));
    if !is_table && !source.flag("upgrade", false) {
        return None;
    }
    if methods.is_some_and(|methods| !methods.contains(&Method::GET)) {
        source.problem(
            "upgrade",
            "has no effect: a WebSocket begins with a GET, which methods does not list; add it there",
        );
    }
    if !is_table {
        return Some(UpgradePolicy { idle_timeout: std::time::Duration::from_secs(300), most: 1000 });
    }
    let section = source.section("upgrade");
    let idle_timeout = positive(&section, "idle_timeout", "5m");
    let most = section.count("max", 1000, 1..=UPGRADES_MAX);
    section.finish();
    Some(UpgradePolicy { idle_timeout, most: usize::try_from(most).unwrap_or(usize::MAX) })
}
