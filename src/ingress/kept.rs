//! Owns which refused requests go into quarantine, which are genuine but for their time, and reading what was refused
//! before its body came.
//!
//! Promises that a request that is taken never gets here; that a body is read for this only within the rate of its
//! client and up to `quarantine.max_body`; and that the answer is the same as without.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http::{header, request::Parts};
use http_body::Body as HttpBody;

use super::{
    Gate,
    admit::Progress,
    body::{self, Content, Room},
    client::Caller,
    door::Doors,
    head::{declared_length, host, is_safe},
    reply::Refusal,
    secret_path::holds_secret,
};
use crate::{
    clock::Timestamp,
    log::entry::Accepting,
    quarantine::{Bounds, Keep},
    routing::{Lookup, SECRET_CAPTURE, Source, Table, Unmatched},
    telemetry::QuarantineDrop,
    verify::{self, Captured, Head, Verifier},
};

impl Gate {
    /// Puts a refused request into quarantine if it is of a kind that is kept, and counts it if only its time is wrong.
    /// Never waits for the disk.
    pub(super) async fn set_aside<B>(
        &self,
        doors: &Doors,
        caller: &Caller,
        head: &Parts,
        body: &mut B,
        progress: &mut Progress,
        refusal: &Refusal,
    ) where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (ingress, table) = (&*self.ingress, &doors.table);
        let policy = &table.limits.quarantine;
        let is_kept = is_kept(refusal, head, progress.source.as_ref(), table);
        if !is_kept && !is_dated(refusal, progress.source.as_ref()) {
            return;
        }
        let (quarantine, now) = (&ingress.quarantine, ingress.clock.steady());
        let bounds = Bounds { max_size: policy.max_size, rate: policy.rate, total_rate: policy.total_rate };
        let (client, scheme) = caller.client(&head.headers, &table.limits.trusted_proxies);
        let drop = |why| {
            if is_kept {
                quarantine.dropped(why)
            }
        };
        if !quarantine.takes(&client, &bounds, now) {
            return drop(QuarantineDrop::Rate);
        }
        let fits = |bytes: &&Bytes| bytes.len() as u64 <= policy.max_body;
        let (received_at, body) = match refusal {
            Refusal::Unverified(_, Some(left)) | Refusal::Schema { keep: Some(left), .. } => {
                (left.received_at, left.body.as_ref().filter(fits).cloned())
            }
            // `100 Continue` is for those whose path, method and length are accepted.
            Refusal::NotFound | Refusal::PathSecret if head.headers.contains_key(header::EXPECT) => {
                return drop(QuarantineDrop::Unread);
            }
            _ => {
                let received_at = ingress.clock.now();
                (received_at, self.read_refused(table, head, body, progress, received_at).await)
            }
        };
        let Some(body) = body else { return drop(QuarantineDrop::Unread) };
        if let Some(source) = progress.source.as_ref().filter(|source| is_dated(refusal, Some(source))) {
            let (path, query) = (head.uri.path(), head.uri.query());
            let about = Head { method: &head.method, path, query, headers: &head.headers };
            let request = Captured { head: about, body: &body, at: received_at };
            if let Some(door) = doors.door(source).filter(|_| source.verifier.is_genuine_but_for_its_time(&request)) {
                door.metrics.stale.inc();
            }
        }
        if !is_kept {
            return;
        }
        let source = progress.source.as_deref();
        let mut captures = match host(head).map(|host| table.find(host, head.uri.path())) {
            Ok(Lookup::Found(matched)) => matched.captures,
            _ => Vec::new(),
        };
        captures.retain(|(name, _)| &**name != SECRET_CAPTURE);
        let proxy = caller.proxy(&table.limits.trusted_proxies);
        let accepted = Accepting {
            received_at,
            source: source.map_or("", |source| &*source.name),
            event_type: None,
            method: &head.method,
            scheme,
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
            client: &client,
            proxy: proxy.as_ref(),
            captures: &captures,
            verification_scheme: source.map_or("none", |source| source.verifier.scheme()),
            verification_secret: None,
            config_generation: table.generation,
            dedupe: None,
            extras: None,
            body: Some(std::slice::from_ref(&body)),
            body_length: body.len() as u64,
        };
        let keep = Keep {
            received_at,
            reason: refusal.word(),
            status: refusal.status().as_u16(),
            accepted: accepted.encode(),
        };
        quarantine.keep(keep, &bounds, now);
    }

    /// The body of a request that was refused by its head. None if it is larger than is kept, or can't be had.
    async fn read_refused<B>(
        &self,
        table: &Table,
        head: &Parts,
        body: &mut B,
        progress: &mut Progress,
        received_at: Timestamp,
    ) -> Option<Bytes>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (ingress, max_body) = (&*self.ingress, table.limits.quarantine.max_body);
        let room = Room {
            memory: &ingress.memory,
            spool_budget: &ingress.spool_budget,
            spool: &ingress.spool,
            limits: &table.limits,
            metrics: &ingress.metrics,
            max_body,
            declared: declared_length(&head.headers, max_body).ok()?,
        };
        let about =
            Head { method: &head.method, path: head.uri.path(), query: head.uri.query(), headers: &head.headers };
        let mut unchecked = Verifier::none().begin(&about, received_at).ok()?;
        let received = body::read(body, &room, &mut unchecked, &mut progress.read).await.ok()?;
        match received.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Spooled(_) | Content::Parts(_) => None,
        }
    }
}

/// Whether a request was refused for its time alone as far as is known, by a scheme that can tell whether it is genuine.
fn is_dated(refusal: &Refusal, source: Option<&Arc<Source>>) -> bool {
    matches!(refusal, Refusal::Unverified(verify::Refusal::Stale | verify::Refusal::Future, _))
        && source.is_some_and(|source| source.verifier.is_recipe())
}

/// Whether a refusal is of a kind that is kept: somebody may have meant it well. Safe methods never become events.
fn is_kept(refusal: &Refusal, head: &Parts, source: Option<&Arc<Source>>, table: &Table) -> bool {
    let is_wanted = match refusal {
        // A sender that signs nothing, or twice, is none that a secret or a tolerance would make welcome.
        Refusal::Unverified(
            verify::Refusal::MissingSignature
            | verify::Refusal::MissingCredentials
            | verify::Refusal::DuplicatedSignature,
            _,
        ) => false,
        Refusal::Unverified(..) => source.is_some_and(|source| source.quarantine),
        Refusal::Schema { keep, .. } => keep.is_some(),
        // A wrong secret path segment is treated like a path that nobody has, so that no sender can tell them apart.
        Refusal::NotFound | Refusal::PathSecret => {
            table.limits.quarantine.unmatched == Unmatched::Store && !holds_secret(table, head.uri.path())
        }
        _ => false,
    };
    is_wanted && !is_safe(&head.method)
}
