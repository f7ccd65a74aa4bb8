//! Owns the keys of `[source.NAME.cache]`: which answers of upstreams are kept, and for how long.

use std::sync::Arc;

use http::Method;

use super::{reader::Section, server::positive, source::expression};
use crate::routing::CachePolicy;

/// The most that a source may keep, in bytes.
const CACHE_BYTES_MAX: u64 = 64 << 30;

/// Reads them. None: every request is sent on.
pub(super) fn read(source: &Section<'_>, waits: bool, methods: Option<&[Method]>) -> Option<Arc<CachePolicy>> {
    let section = source.optional_section("cache")?;
    if !section.has("key") {
        section.problem(
            "key",
            "is missing; write jq that gives what makes two requests equal, such as \"[.model, .prompt]\"",
        );
    }
    let key = expression(&section, "key");
    let ttl = positive(&section, "ttl", "10m");
    let max_bytes = section.size("max_size", "64MiB");
    let max_entry_bytes = section.size("max_entry", "1MiB");
    if !(1 << 16..=CACHE_BYTES_MAX).contains(&max_bytes) {
        section.problem("max_size", "must lie between 64KiB and 64GiB: it is held in memory");
    }
    if max_entry_bytes == 0 || max_entry_bytes > max_bytes {
        section.problem("max_entry", "must lie between 1B and max_size, or nothing of that length is ever kept");
    }
    section.finish();
    if !waits && methods.is_some_and(|methods| !methods.iter().any(Method::is_safe)) {
        source.problem(
            "cache",
            "has no effect: nobody waits for an answer here; write mode = \"proxy\", list GET in methods, or remove it",
        );
    }
    Some(Arc::new(CachePolicy { key: key?, ttl, max_bytes, max_entry_bytes }))
}
