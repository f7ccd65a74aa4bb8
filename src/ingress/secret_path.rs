//! Owns secret path segments: they are compared before anything else is told or kept, and replaced by `{secret}`.
//!
//! Promises that a wrong segment is answered like a path that nobody has, and that no secret segment gets further than
//! this file: what is stored, shown, evaluated and forwarded is made from the replaced path.

use std::sync::Arc;

use http::{Uri, request::Parts, uri::PathAndQuery};

use super::{refused::PATH_BYTES_MAX, reply::Refusal};
use crate::{
    routing::{SECRET_SEGMENT, Source, Table, has_dot_segments},
    verify::matching,
};

/// Compares the secret segment of the request's path and takes it out of the request: the reference of the secret, or
/// None if the source has none.
pub(super) fn unlock(
    source: &Source,
    head: &mut Parts,
    captures: &mut Vec<(Box<str>, Box<str>)>,
) -> Result<Option<Arc<str>>, Refusal> {
    if source.path_secrets.is_empty() {
        return Ok(None);
    }
    captures.retain(|(name, _)| &**name != "secret");
    let path = head.uri.path();
    let given = source.pattern.secret_of(path).unwrap_or_default();
    let matched = matching(&source.path_secrets, given.as_bytes()).cloned();
    let masked = source.pattern.masked(path);
    let dots = source.pattern.is_subtree() && has_dot_segments(&masked);
    // A path that can't be written is dropped whole rather than shown.
    head.uri = with_path(&head.uri, &masked).unwrap_or_default();
    let matched = matched.ok_or(Refusal::PathSecret)?;
    if dots { Err(Refusal::DotSegments) } else { Ok(Some(matched)) }
}

/// The beginning of a path as the record of refusals may show it: segments that are secrets of some source are
/// replaced, whoever asked for whatever.
pub(super) fn shown(table: &Table, path: &str) -> String {
    let mut shown = String::new();
    for (index, segment) in path.split('/').enumerate() {
        if shown.len() > PATH_BYTES_MAX {
            break;
        }
        if index > 0 {
            shown.push('/');
        }
        let secret = table.sources.iter().any(|source| matching(&source.path_secrets, segment.as_bytes()).is_some());
        shown.push_str(if secret && !segment.is_empty() { SECRET_SEGMENT } else { segment });
    }
    shown
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}
