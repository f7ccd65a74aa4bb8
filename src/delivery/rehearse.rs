//! Owns rehearsals: for a time the attempts of an upstream fail as an operator says, on our side of the network.
//!
//! Promises that nothing is sent meanwhile; that each attempt says that it was rehearsed; that no delivery dies, is held
//! or goes elsewhere because of it, and that neither these attempts nor this time count towards giving up. The breaker
//! works as it would; it is closed when the rehearsal ends. A restart ends it. Proxied requests are no attempts: they
//! are not touched.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::{sync::Notify, time::timeout};

use super::{
    attempt::judge,
    classify::{Health, Judgement},
    client::{Answer, Failure},
    gates::Ticket,
    lane::{Lane, lock},
    pace::News,
    policy::Decided,
    request::Draft,
};
use crate::{
    clock::Timestamp,
    event::{Job, Outcome},
    log::entry::Fault,
    routing::Upstream,
};

/// What is rehearsed.
pub(crate) struct Rehearsal {
    pub(super) fault: Fault,
    /// Steady time.
    pub(super) until: Timestamp,
    over: Notify,
}

impl Rehearsal {
    /// How an attempt ends.
    pub(super) async fn exchange(&self, upstream: &Upstream, now: Timestamp) -> Result<Answer, Failure> {
        match self.fault {
            Fault::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Ok(Answer { status, headers: HeaderMap::new(), body: Bytes::new(), cut: None })
            }
            Fault::Hang => {
                let wait = upstream.timeout.min(self.until.since(now));
                let _over = timeout(wait, self.over.notified()).await;
                Err(Failure::Late(upstream.timeout))
            }
            Fault::Reset => Err(Failure::Broken("connection reset".into())),
        }
    }
}

/// The number of an attempt. One that was rehearsed is not counted: it has the number of the one before.
pub(super) fn number(job: &Job, judged: &Judgement) -> u32 {
    job.number.saturating_sub(u32::from(judged.decided == Some(Decided::Rehearsed)))
}

impl Lane {
    /// Begins a rehearsal, or ends it. False if there is none to end.
    pub(crate) fn rehearse(&self, how: Option<(Fault, Duration)>) -> bool {
        let now = self.env.clock.steady();
        let begun = how.map(|(fault, time)| Rehearsal { fault, until: now.after(time), over: Notify::new() });
        let begins = begun.is_some();
        let before = self.rehearsal.swap(begun.map(Arc::new));
        if let Some(before) = &before {
            before.over.notify_waiters();
        }
        if begins {
            self.signal(|signals| signals.paused(&self.name, true));
        } else if before.is_some() {
            self.recover_from_rehearsal(now);
        }
        self.ring();
        begins || before.is_some()
    }

    /// Until when a rehearsal goes on; ends one that is over.
    pub(super) fn rehearsed_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.rehearsal.load().as_ref().map(|rehearsal| rehearsal.until)?;
        if now < until {
            return Some(until);
        }
        if let Some(over) = self.rehearsal.swap(None) {
            over.over.notify_waiters();
            self.recover_from_rehearsal(now);
        }
        None
    }

    fn recover_from_rehearsal(&self, now: Timestamp) {
        let mut hall = lock(&self.hall);
        hall.gates.forget(now);
        let stopped = hall.gates.stopped;
        drop(hall);
        tracing::info!(upstream = &*self.name, "the rehearsal is over");
        self.signal(|signals| signals.paused(&self.name, stopped));
    }

    /// Marks what a rehearsed attempt says.
    pub(super) fn rehearsed(&self, rehearsal: &Arc<Rehearsal>, judged: &mut Judgement) {
        self.metrics.rehearsed.inc();
        let words = judged.words.take().unwrap_or_default();
        judged.words = Some(format!("rehearsal: {words}").into());
        judged.outcome = Outcome::Deferred;
        judged.endpoint = false;
        judged.decided = Some(Decided::Rehearsed);
        let is_current = self.rehearsal.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, rehearsal));
        if !is_current || self.env.clock.steady() >= rehearsal.until {
            // Its end has closed the breaker.
            judged.health = Health::Unknown;
        }
    }

    /// One attempt in a rehearsal. A sender that waits has the fallback at once.
    pub(super) async fn send_rehearsed(
        self: &Arc<Self>,
        rehearsal: &Arc<Rehearsal>,
        draft: &Draft<'_>,
        (job, ticket): (&Job, Ticket),
        upstream: &Arc<Upstream>,
    ) {
        let env = &self.env;
        drop(env.waiters.claim(job.event.id.pos.seq, &self.name));
        let (at, started) = (env.clock.now(), env.clock.elapsed());
        let result = rehearsal.exchange(upstream, env.clock.steady()).await;
        let latency = env.clock.elapsed().saturating_sub(started);
        let mut judged = judge(&result, upstream, env.clock.now());
        let news = News::of(&result, latency, &mut judged, upstream, env.clock.now());
        self.rehearsed(rehearsal, &mut judged);
        let attempt = self.made(job, draft, result, &judged, (at, latency));
        self.settle((job, ticket), attempt, (&judged, &news), upstream);
    }
}
