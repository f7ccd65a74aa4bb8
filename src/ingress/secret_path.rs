//! Owns secret path segments: they are compared before anything else is told or kept, and replaced by `{secret}`.
//!
//! Promises that a wrong segment is answered like a path that nobody has, and that no secret segment gets further than
//! this file: what is stored, shown, evaluated and forwarded is made from the replaced path.

use http::{Uri, request::Parts, uri::PathAndQuery};

use super::{refused::PATH_BYTES_MAX, reply::Refusal};
use crate::{
    clock::Timestamp,
    routing::{SECRET_CAPTURE, SECRET_SEGMENT, Source, Table, has_dot_segments},
    verify::{Head, Verified},
};

/// Compares the secret segment of the request's path and takes it out of the request: what was verified, or None if the
/// path of the source has no secret.
pub(super) fn unlock(
    source: &Source,
    head: &mut Parts,
    captures: &mut Vec<(Box<str>, Box<str>)>,
    now: Timestamp,
) -> Result<Option<Verified>, Refusal> {
    if source.verifier.secret_segment().is_none() {
        return Ok(None);
    }
    captures.retain(|(name, _)| &**name != SECRET_CAPTURE);
    let (path, query) = (head.uri.path(), head.uri.query());
    let about = Head { method: &head.method, path, query, headers: &head.headers };
    let verified = source.verifier.begin(&about, now).and_then(|check| check.finish(&[]));
    let masked = source.pattern.masked(path);
    let dots = source.pattern.is_subtree() && has_dot_segments(&masked);
    // A path that would become too long is dropped whole rather than shown, and the request with it.
    let replaced = with_path(&head.uri, &masked);
    let fits = replaced.is_some();
    head.uri = replaced.unwrap_or_default();
    let verified = verified.ok().filter(|_| fits).ok_or(Refusal::PathSecret)?;
    if dots { Err(Refusal::DotSegments) } else { Ok(Some(verified)) }
}

/// Whether a segment of a path is a secret of some source: then the request is shown and kept nowhere as it is.
pub(super) fn holds_secret(table: &Table, path: &str) -> bool {
    let is_secret = |segment: &str| table.sources.iter().any(|source| source.verifier.is_path_secret(segment));
    path.split('/').any(|segment| !segment.is_empty() && is_secret(segment))
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
        let secret = table.sources.iter().any(|source| source.verifier.is_path_secret(segment));
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
