//! Owns what routes change on the way to an upstream, and whether several of them agree.
//!
//! Deliberately absent: evaluating `when`. Where routes disagree, the caller finds out which of them match.

use std::sync::Arc;

use super::{Route, Table};
use crate::{event::topic_of_source, expr::Expr};

/// What the routes between a source and an upstream change.
#[derive(Clone, Debug)]
pub enum Changes<'a> {
    /// No route leads there (any more).
    None,
    /// One route, or several that change the same: it does not matter which matched.
    Same(&'a Route),
    /// Several that differ, in the order of the configuration: those that match decide, and must agree.
    Choose(Vec<&'a Route>),
}

/// Two routes that will surely conflict: both match whenever one does, and they send the same upstream different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The one that comes first in the configuration.
    pub first: Arc<str>,
    /// The other.
    pub second: Arc<str>,
    /// Where both lead.
    pub upstream: Box<str>,
}

impl Route {
    /// Whether it takes events of this source. What is published under a topic is taken only by routes that name it: a
    /// route for all sources is one for what comes from outside.
    #[must_use]
    pub fn takes(&self, source: &str) -> bool {
        match &self.sources {
            Some(names) => names.iter().any(|name| **name == *source),
            None => topic_of_source(source).is_none(),
        }
    }

    /// Whether it wants events of this type.
    #[must_use]
    pub fn wants(&self, kind: Option<&str>) -> bool {
        self.types.as_ref().is_none_or(|types| types.want(kind))
    }

    /// Whether it leads to this upstream.
    #[must_use]
    pub fn leads_to(&self, upstream: &str) -> bool {
        self.to.iter().any(|name| **name == *upstream)
    }

    /// Whether both send the same: transform, headers, path and method as written.
    #[must_use]
    pub fn changes_like(&self, other: &Self) -> bool {
        self.path == other.path
            && self.method == other.method
            && self.headers == other.headers
            && self.transform.as_ref().map(Expr::text) == other.transform.as_ref().map(Expr::text)
    }

    /// Whether one of them takes nothing that the other leaves: one has no condition, or both have the same, as written.
    fn matches_like(&self, other: &Self) -> bool {
        self.when.is_none()
            || other.when.is_none()
            || self.when.as_ref().map(|when| when.text().trim()) == other.when.as_ref().map(|when| when.text().trim())
    }

    fn overlaps(&self, other: &Self, table: &Table) -> bool {
        table.source_names().any(|source| self.takes(&source) && other.takes(&source))
    }
}

impl Table {
    /// What is changed on the way from this source to this upstream. Conditions are not evaluated.
    #[must_use]
    pub fn changes(&self, source: &str, upstream: &str) -> Changes<'_> {
        let mut leading = self.routes.iter().filter(|route| route.takes(source) && route.leads_to(upstream));
        let Some(first) = leading.next() else { return Changes::None };
        if leading.clone().all(|other| first.changes_like(other)) {
            return Changes::Same(first);
        }
        Changes::Choose(std::iter::once(first).chain(leading).collect())
    }

    /// The pairs of routes that surely conflict: one without `when` or both with the same, with a source in common, leading to
    /// one upstream with different changes. For warnings of `check`.
    #[must_use]
    pub fn statically_conflicting(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        for (index, first) in self.routes.iter().enumerate() {
            for second in self.routes.iter().skip(index.saturating_add(1)) {
                if !first.matches_like(second) || first.changes_like(second) || !first.overlaps(second, self) {
                    continue;
                }
                let shared = first.to.iter().filter(|upstream| second.leads_to(upstream));
                found.extend(shared.map(|upstream| Conflict {
                    first: first.name.clone(),
                    second: second.name.clone(),
                    upstream: upstream.clone(),
                }));
            }
        }
        found
    }
}
