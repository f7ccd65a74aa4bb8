//! Owns the look-up of sources by host and path.
//!
//! Promises that an exact path costs one hash, and that a path with dot segments never reaches a subtree source.
//! Patterns with captures or a subtree are tried one after the other in their order of precedence.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap, sync::Arc};

use super::{Lookup, Matched, Source, has_dot_segments};

/// Sources by host, then by path.
#[derive(Clone)]
pub(super) struct Index {
    by_host: HashMap<Box<str>, Paths>,
    any_host: Paths,
}

/// The sources of one host.
#[derive(Clone, Default)]
struct Paths {
    /// Patterns that take a single path.
    single: HashMap<Box<str>, Arc<Source>>,
    /// The others, in order of precedence.
    others: Vec<Arc<Source>>,
}

/// The order of sources: with a host before without, hosts by name, then the order of their patterns.
pub(super) fn precedence(one: &Source, other: &Source) -> Ordering {
    (one.host.is_none(), &one.host)
        .cmp(&(other.host.is_none(), &other.host))
        .then_with(|| one.pattern.precedence(&other.pattern))
}

impl Index {
    /// Builds the index of sources that are already in order.
    pub(super) fn new(sources: &[Arc<Source>]) -> Self {
        let mut index = Self { by_host: HashMap::new(), any_host: Paths::default() };
        for source in sources {
            let paths = match &source.host {
                Some(host) => index.by_host.entry(normal(host).into()).or_default(),
                None => &mut index.any_host,
            };
            match source.pattern.single_path() {
                Some(path) => {
                    paths.single.entry(path.into()).or_insert_with(|| source.clone());
                }
                None => paths.others.push(source.clone()),
            }
        }
        index
    }

    pub(super) fn find(&self, host: &str, path: &str) -> Lookup<Matched> {
        let named = if self.by_host.is_empty() { None } else { self.by_host.get(&*normal(host)) };
        match named.map(|paths| paths.find(path)) {
            Some(Lookup::NotFound) | None => self.any_host.find(path),
            Some(found) => found,
        }
    }
}

impl Paths {
    fn find(&self, path: &str) -> Lookup<Matched> {
        if let Some(source) = self.single.get(path) {
            return Lookup::Found(Matched { source: source.clone(), captures: Vec::new() });
        }
        match self.others.iter().find(|source| source.pattern.takes(path)) {
            None => Lookup::NotFound,
            // A path with a secret is judged when the secret is taken out: till then nothing of it may be told.
            Some(source)
                if source.pattern.is_subtree()
                    && source.verifier.secret_segment().is_none()
                    && has_dot_segments(path) =>
            {
                Lookup::DotSegments
            }
            Some(source) => Lookup::Found(Matched { source: source.clone(), captures: source.pattern.captured(path) }),
        }
    }
}

/// A host in lower case and without the dot of a fully qualified name; allocates only if there is something to change.
fn normal(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}
