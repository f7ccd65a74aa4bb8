//! Owns the comparison of two configurations over one stored request: which source takes it, whether its signature is
//! good, where it goes, and what is sent.
//!
//! Promises that nothing is written or sent: requests are made and thrown away. Freshness is judged by when the request
//! was received. Deliberately absent: schemas, limits and budgets at the door.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::header;

use super::decide::decide;
use crate::{
    admin::{
        Compared, Trial,
        wire::{Difference, Text},
    },
    agenda::plan::Routes,
    clock::Timestamp,
    delivery::preview::{Preview, preview},
    event::{Body, Event, Job, RELAY},
    expr::Evaluator,
    log::Log,
    routing::{Lookup, Source, Table},
    verify::{Captured, Head, PATH_SCHEME},
};

/// The beginnings of bodies that are told, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Two configurations.
pub(super) struct Pair {
    pub(super) before: Routes,
    pub(super) after: Routes,
    pub(super) warnings: Vec<String>,
    pub(super) evaluator: Evaluator,
    pub(super) log: Arc<dyn Log>,
    pub(super) now: Timestamp,
}

/// What the door says.
struct AtDoor {
    source: Option<Arc<Source>>,
    captures: Vec<(Box<str>, Box<str>)>,
    refused: Option<&'static str>,
    unverified: bool,
}

impl Trial for Pair {
    fn hash(&self) -> &str {
        &self.after.table.hash
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn compare(&self, event: &Event, body: &Bytes) -> Result<Compared, String> {
        let (before, after) = (door(&self.before.table, event, body), door(&self.after.table, event, body));
        let mut compared = Compared { differences: Vec::new(), unverified: after.unverified };
        let name = |door: &AtDoor| door.source.as_ref().map(|source| source.name.to_string());
        if name(&before) != name(&after) {
            compared.differences.push(Difference::Source { before: name(&before), after: name(&after) });
        }
        if before.refused != after.refused {
            let (before, after) = (before.refused.map(str::to_owned), after.refused.map(str::to_owned));
            compared.differences.push(Difference::Door { before, after });
        }
        // What is stored was taken: where it goes is compared even if today's door would refuse it.
        let (one, other) = (self.fate(&self.before, event, body, before)?, self.fate(&self.after, event, body, after)?);
        let names: BTreeSet<&str> = one.iter().chain(&other).map(|(upstream, _)| upstream.as_str()).collect();
        for upstream in names {
            let of = |fate: &[(String, Result<Preview, String>)]| {
                fate.iter().find(|(name, _)| name == upstream).map(|(_, request)| request.clone())
            };
            let upstream = upstream.to_owned();
            match (of(&one), of(&other)) {
                (None, _) => compared.differences.push(Difference::Added { upstream }),
                (_, None) => compared.differences.push(Difference::Removed { upstream }),
                (Some(before), Some(after)) => requests(&upstream, before, after, &mut compared.differences),
            }
        }
        Ok(compared)
    }
}

impl Pair {
    /// What is sent to whom.
    #[expect(clippy::type_complexity, reason = "a list of upstreams with what they get")]
    fn fate(
        &self,
        routes: &Routes,
        event: &Event,
        body: &Bytes,
        door: AtDoor,
    ) -> Result<Vec<(String, Result<Preview, String>)>, String> {
        let Some(source) = door.source.filter(|_| door.refused.is_none()) else { return Ok(Vec::new()) };
        let mut event = event.clone();
        event.body = Body::Inline(body.clone());
        if event.source != (&*source.name).into() {
            event.source = (&*source.name).into();
            event.captures = door.captures;
        }
        let decision = decide(routes, &self.evaluator, &event, body)?;
        let event = Arc::new(event);
        let mut fate = Vec::with_capacity(decision.targets.len());
        for name in &decision.targets {
            let dead = decision.dead.iter().find(|(upstream, _)| upstream == name);
            let request = match (dead, routes.table.upstreams.get(name)) {
                (Some((_, reason)), _) => Err(reason.to_string()),
                (None, None) => Err("there is no such upstream".into()),
                (None, Some(upstream)) => {
                    let job = Job {
                        event: event.clone(),
                        upstream: (&**name).into(),
                        number: 1,
                        replays: 0,
                        new_keys: 0,
                        original: false,
                        planned_at: self.now,
                        paused: std::time::Duration::ZERO,
                        previous: None,
                        turn: None,
                    };
                    let made = preview(&job, upstream, &routes.table, &self.log, &self.evaluator, event.received_at);
                    let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
                    handle.block_on(made)
                }
            };
            fate.push((name.to_string(), request));
        }
        Ok(fate)
    }
}

/// Which source takes a stored request, and whether it is good for it.
fn door(table: &Table, event: &Event, body: &[u8]) -> AtDoor {
    let by_name = || AtDoor {
        source: table.source(&event.source).cloned(),
        captures: event.captures.clone(),
        refused: None,
        unverified: true,
    };
    // The secret of a path is not stored, an item of a batch is not what was signed, and what the relay published itself
    // came through no door.
    let is_item = event.extras.as_ref().is_some_and(|extras| extras.parent.is_some());
    if is_item || matches!(&*event.verification.scheme, PATH_SCHEME | RELAY) {
        return by_name();
    }
    let nobody = |refused| AtDoor { source: None, captures: Vec::new(), refused: Some(refused), unverified: false };
    let matched = match table.find(host(event), &event.path) {
        Lookup::Found(matched) => matched,
        Lookup::NotFound => return nobody("not_found"),
        Lookup::DotSegments => return nobody("malformed"),
    };
    let source = matched.source;
    let takes = source.methods.as_ref().is_none_or(|methods| methods.contains(&event.method));
    let head =
        Head { method: &event.method, path: &event.path, query: event.query.as_deref(), headers: &event.headers };
    let (refused, unverified) = match source.verifier.verdict(&Captured { head, body, at: event.received_at }) {
        _ if !takes => (Some("method_not_allowed"), false),
        Some(Ok(_)) => (None, false),
        Some(Err(refusal)) => (Some(refusal.as_str()), false),
        None => (None, true),
    };
    AtDoor { source: Some(source), captures: matched.captures, refused, unverified }
}

/// The host that was asked for, without port.
fn host(event: &Event) -> &str {
    let named = event.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match named.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => named,
    }
}

/// Compares what is sent to one upstream.
fn requests(
    upstream: &str,
    before: Result<Preview, String>,
    after: Result<Preview, String>,
    differences: &mut Vec<Difference>,
) {
    let upstream = upstream.to_owned();
    let (before, after) = match (before, after) {
        (Ok(before), Ok(after)) => (before, after),
        (before, after) => {
            let (before, after) = (before.err(), after.err());
            if before != after {
                differences.push(Difference::Unsent { upstream, before, after });
            }
            return;
        }
    };
    let target = |preview: &Preview| format!("{} {}", preview.method, preview.url);
    if target(&before) != target(&after) {
        let (before, after) = (target(&before), target(&after));
        differences.push(Difference::Target { upstream: upstream.clone(), before, after });
    }
    let names: BTreeSet<&str> =
        before.headers.keys().chain(after.headers.keys()).map(http::HeaderName::as_str).collect();
    let values = |preview: &Preview, name: &str| -> Vec<Vec<u8>> {
        preview.headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    };
    let others = names.into_iter().filter(|name| values(&before, name) != values(&after, name));
    let others: Vec<String> = others.map(str::to_owned).collect();
    if !others.is_empty() {
        differences.push(Difference::Headers { upstream: upstream.clone(), names: others });
    }
    if before.body != after.body {
        let cut = before.body.len().max(after.body.len()) > BODY_BYTES_MAX;
        let text = |body: &Bytes| Text::new(body.get(..BODY_BYTES_MAX).unwrap_or(body));
        let (before, after) = (text(&before.body), text(&after.body));
        differences.push(Difference::Body { upstream, before, after, cut });
    }
}
