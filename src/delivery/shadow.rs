//! Owns copies for shadows: upstreams that are shown what a real one answered, so that their answers can be compared.
//!
//! Promises that a copy is sent at most once, after the delivery of the real upstream is settled durably: a shadow never
//! holds state, answer, order or the delivery back, and a crash costs the copy. Answers are compared by the class of
//! their status and by their first `max_reply` bytes, and counted. Limits: `shadow_memory` bytes of copies wait or are
//! under way for a shadow, each counted as [`COPY_KIB_MIN`] KiB at least (more are dropped); `concurrency` are under
//! way at once. Deliberately absent: anything about a copy in the log.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{
    Env,
    client::{Answer, Client, Cut, EXCERPT_BYTES, Shared},
    lane::{Lane, lock},
    names::Names,
    request::{Copied, Draft},
};
use crate::{
    event::Change,
    routing::Upstream,
    telemetry::{SHADOWED, ShadowMetrics},
};

/// What a copy counts at least, in KiB: it is more than its body.
const COPY_KIB_MIN: usize = 16;

/// The indexes of [`SHADOWED`].
const SAME: usize = 0;
const DIFFERS: usize = 1;
const FAILED: usize = 2;
const DROPPED: usize = 3;
const _: () = assert!(DROPPED + 1 == SHADOWED.len());

/// All shadows that have got a copy so far, by name.
#[derive(Default)]
pub(crate) struct Shadows(Mutex<HashMap<Box<str>, Arc<Shadow>>>);

/// One shadow.
struct Shadow {
    /// With these settings; with others it is made anew.
    upstream: Arc<Upstream>,
    /// Of copies that wait or are under way, in KiB.
    room: Arc<Semaphore>,
    /// Of copies under way.
    turns: Semaphore,
    /// Connections that nobody uses now; at most as many as there are turns.
    idle: Mutex<Vec<Client>>,
    protocol: Shared,
    metrics: Arc<ShadowMetrics>,
}

/// A copy that may be sent once the delivery is settled.
pub(super) struct Copy {
    request: Option<Copied>,
    upstream: Arc<Upstream>,
    real: Seen,
}

/// What is compared of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    class: u16,
    sha256: [u8; 32],
}

impl Seen {
    /// None if its body is not whole, so that nothing is known of the rest.
    fn of(answer: &Answer, bytes_max: usize) -> Option<Self> {
        let seen = answer.body.get(..bytes_max).unwrap_or(&answer.body);
        let class = answer.status.as_u16() / 100;
        match answer.cut {
            None | Some(Cut::Longer) => Some(Self { class, sha256: Sha256::digest(seen).into() }),
            Some(Cut::Silent | Cut::Broken(_)) => None,
        }
    }
}

/// Whether nothing more happens to the delivery by itself.
pub(super) const fn is_final(change: &Change) -> bool {
    matches!(change, Change::Delivered | Change::Die(_) | Change::Review(_) | Change::Divert(_))
}

impl Lane {
    /// Whether there are shadows of this upstream.
    pub(super) fn is_shadowed(&self) -> bool {
        self.env.live.snapshot().shadows.contains_key(&*self.name)
    }

    /// What the shadows of this upstream may get of an attempt that was answered. Replays are no copies.
    pub(super) fn copies(&self, draft: &Draft<'_>, answer: &Answer, upstream: &Upstream) -> Vec<Copy> {
        let table = self.env.live.snapshot();
        let Some(shadows) = table.shadows.get(&*self.name).filter(|_| draft.job().replays == 0) else {
            return Vec::new();
        };
        let Some(real) = Seen::of(answer, bytes_max(upstream)) else { return Vec::new() };
        let now = self.env.clock.now();
        let copy = |shadow: &Arc<Upstream>| Copy {
            request: draft.copy_for(shadow, &table, now),
            upstream: shadow.clone(),
            real,
        };
        shadows.iter().map(copy).collect()
    }

    /// Sends copies. May be called on the committer's thread: only looks for room and leaves the rest to tasks.
    pub(super) fn show_shadows(self: &Arc<Self>, copies: Vec<Copy>) {
        for Copy { request, upstream, real } in copies {
            let shadow = self.env.shadows.of(&upstream, &self.env);
            let Some(request) = request else {
                shadow.count(FAILED);
                continue;
            };
            let kib = u32::try_from(request.body_bytes().div_ceil(1024).max(COPY_KIB_MIN)).unwrap_or(u32::MAX);
            let is_draining = self.env.draining.load(Ordering::Acquire);
            match shadow.room.clone().try_acquire_many_owned(kib) {
                Ok(room) if !is_draining => drop(self.shard.spawn(async move {
                    let compared = shadow.compare(&request, real).await;
                    shadow.count(compared);
                    drop(room);
                })),
                Ok(_) | Err(_) => shadow.count(DROPPED),
            }
        }
    }
}

impl Shadows {
    fn of(&self, upstream: &Arc<Upstream>, env: &Env) -> Arc<Shadow> {
        let mut shadows = lock(&self.0);
        if let Some(known) = shadows.get(&*upstream.name).filter(|known| Arc::ptr_eq(&known.upstream, upstream)) {
            return known.clone();
        }
        // A shadow has no figures of an upstream but its own.
        let names = Names::new(env.resolver.clone(), env.clock.clone(), Arc::default());
        let memory = upstream.shadow.as_ref().map_or(0, |policy| policy.memory / 1024);
        let shadow = Arc::new(Shadow {
            upstream: upstream.clone(),
            room: Arc::new(Semaphore::new(usize::try_from(memory).unwrap_or(0))),
            turns: Semaphore::new(upstream.concurrency.max(1)),
            idle: Mutex::default(),
            protocol: Shared::new(names),
            metrics: env.metrics.shadow(&upstream.name),
        });
        shadows.insert((&*upstream.name).into(), shadow.clone());
        shadow
    }
}

impl Shadow {
    /// Sends a copy and compares the answer with that of the real upstream.
    async fn compare(&self, request: &Copied, real: Seen) -> usize {
        let Ok(_turn) = self.turns.acquire().await else { return DROPPED };
        let mut client = lock(&self.idle).pop().unwrap_or_default();
        let answer = client.exchange(request, &self.upstream, &self.protocol, bytes_max(&self.upstream)).await;
        lock(&self.idle).push(client);
        match answer.ok().and_then(|answer| Seen::of(&answer, bytes_max(&self.upstream))) {
            None => FAILED,
            Some(seen) if seen == real => SAME,
            Some(_) => DIFFERS,
        }
    }

    fn count(&self, result: usize) {
        if let Some(counter) = self.metrics.copies.get(result) {
            counter.inc();
        }
    }
}

/// So much of an answer is compared.
fn bytes_max(upstream: &Upstream) -> usize {
    upstream.max_reply.max(EXCERPT_BYTES)
}
