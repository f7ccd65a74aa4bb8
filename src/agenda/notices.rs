//! Owns telling of dead deliveries: a thread that makes an event of each notice, under the topic that the upstream names.
//!
//! Promises that a death is told of once, even if the process dies: while a notice is not durable the state is not written
//! down (see [`Notices::is_idle`]), so that the next start meets the death again, and what was told already is a duplicate.
//! Limits: [`WAITING_MAX`] notices wait; what the log refuses is offered again. Deliberately absent: which deaths are
//! told of (that is the core's), and payloads.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use super::{
    Shared,
    core::{Death, More, Notice},
    view::own_metrics,
};
use crate::{
    clock::Timestamp,
    event::{Change, DEAD_MORE_TYPE, DEAD_TYPE, Event, Extras, topic_of_source},
    log::{
        AppendError, Appended, Done, Kind, ReadError,
        entry::decode_attempted,
        publish::{Publication, publish},
        read_event,
    },
    routing::topic_of,
    telemetry::{Metrics, UpstreamMetrics},
};

/// Notices that wait to be told; beyond, they are lost and counted.
const WAITING_MAX: usize = 10_000;

/// Notices on their way to the thread.
const QUEUE: usize = 256;

/// What the log refused is offered again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// After so long the state is written down although notices are not told: a log that takes nothing must not make the next
/// start endless.
const PATIENCE: Duration = Duration::from_secs(60);

/// The indexes of [`NOTICES`](crate::telemetry::NOTICES).
const PUBLISHED: usize = 0;
const SUMMED: usize = 1;
const LOST: usize = 2;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What is to be told, and who tells it.
pub(super) struct Notices {
    shared: Arc<Shared>,
    waiting: VecDeque<Notice>,
    teller: Option<SyncSender<Notice>>,
    /// With the thread.
    under_way: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Since when there is something to be told.
    busy_since: Option<Timestamp>,
}

impl Notices {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (teller, notices) = sync_channel(QUEUE);
        let (under_way, stopping) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let theirs = (shared.clone(), under_way.clone(), stopping.clone());
        let thread = std::thread::Builder::new().name("agenda-notices".into());
        let thread = thread.spawn(move || run(&theirs.0, &notices, &theirs.1, &theirs.2));
        if let Err(why) = &thread {
            tracing::error!(%why, "a thread can't be made: dead deliveries are not told of");
        }
        let (teller, thread) = (Some(teller), thread.ok());
        Self { shared, waiting: VecDeque::new(), teller, under_way, stopping, thread, busy_since: None }
    }

    /// Takes notices, and hands on what the thread has room for.
    pub(super) fn take(&mut self, notices: Vec<Notice>, now: Timestamp) {
        for notice in notices {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(notice);
            } else {
                lost(&self.shared, &notice, "too many notices wait");
            }
        }
        while let (Some(teller), Some(notice)) = (&self.teller, self.waiting.pop_front()) {
            self.under_way.fetch_add(1, Ordering::AcqRel);
            if let Err(refused) = teller.try_send(notice) {
                self.under_way.fetch_sub(1, Ordering::AcqRel);
                let (std::sync::mpsc::TrySendError::Full(notice) | std::sync::mpsc::TrySendError::Disconnected(notice)) =
                    refused;
                self.waiting.push_front(notice);
                break;
            }
        }
        let is_busy = !self.waiting.is_empty() || self.under_way.load(Ordering::Acquire) > 0;
        self.busy_since = is_busy.then(|| self.busy_since.unwrap_or(now));
    }

    /// Whether the state may be written down: everything is told, or has waited for long.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.busy_since.is_none_or(|since| now.since(since) >= PATIENCE)
    }

    /// Ends the thread; what the log does not take now is told after the next start. Whether everything is told.
    pub(super) fn finish(mut self) -> bool {
        let now = self.shared.deps.clock.steady();
        self.take(Vec::new(), now);
        self.stopping.store(true, Ordering::Release);
        drop(self.teller.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        self.waiting.is_empty() && self.under_way.load(Ordering::Acquire) == 0
    }
}

fn run(shared: &Shared, notices: &Receiver<Notice>, under_way: &AtomicUsize, stopping: &AtomicBool) {
    for notice in notices {
        while let Err(why) = tell(shared, &notice) {
            if stopping.load(Ordering::Acquire) {
                tracing::warn!(%why, "dead deliveries are told of after the next start");
                return;
            }
            std::thread::park_timeout(AGAIN);
        }
        under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells one. An error passes: it is to be tried again.
fn tell(shared: &Shared, notice: &Notice) -> Result<(), String> {
    let (log, table) = (&shared.deps.log, shared.deps.live.snapshot());
    let (topic, event) = match notice {
        Notice::Death(death) => match read_event(&**log, death.stored_at) {
            Ok(event) => (&death.topic, Some(event)),
            Err(error @ ReadError::Io { .. }) => return Err(error.to_string()),
            Err(error) => {
                lost(shared, notice, &error.to_string());
                return Ok(());
            }
        },
        Notice::More(more) => (&more.topic, None),
    };
    if event.as_ref().is_some_and(is_notice) {
        return Ok(());
    }
    if table.topic(topic).is_none() {
        lost(shared, notice, "its topic is not configured any more");
        return Ok(());
    }
    let publication = Publication {
        topic: topic.clone(),
        event_type: Some(if event.is_some() { DEAD_TYPE } else { DEAD_MORE_TYPE }.into()),
        headers: headers(event.as_ref()),
        body: body(shared, notice, event.as_ref()),
        extras: extras(event.as_ref()),
        key: Some(key(notice)),
        generation: table.generation,
    };
    let (done, answer) = Done::channel();
    let now = shared.deps.clock.now();
    publish(&**log, &shared.deps.metrics, &publication, now, done).map_err(|error| error.to_string())?;
    match answer.blocking_recv() {
        Ok(Ok(Appended::Appended(_))) => {
            let notices = &metrics_of(&shared.deps.metrics, upstream(notice)).notices;
            let (index, count) = match notice {
                Notice::Death(_) => (PUBLISHED, 1),
                Notice::More(more) => (SUMMED, more.reasons.values().sum()),
            };
            notices.get(index).into_iter().for_each(|counter| counter.add(count));
            Ok(())
        }
        Ok(Ok(Appended::Duplicate { .. })) => Ok(()),
        Ok(Err(why @ (AppendError::Busy | AppendError::Full))) => Err(why.to_string()),
        Ok(Err(why)) => {
            lost(shared, notice, &why.to_string());
            Ok(())
        }
        Err(_) => Err("the log did not answer".to_owned()),
    }
}

/// The metrics of an upstream; of a subscriber that is gone, those of all that are gone of its topic.
fn metrics_of(metrics: &Metrics, upstream: &str) -> Arc<UpstreamMetrics> {
    own_metrics(metrics, upstream).unwrap_or_else(|| metrics.upstreams_gone(topic_of(upstream).unwrap_or_default()))
}

/// Whether an event tells of dead deliveries itself: of its death nothing is told, or there would be no end.
fn is_notice(event: &Event) -> bool {
    topic_of_source(&event.source).is_some() && matches!(event.event_type.as_deref(), Some(DEAD_TYPE | DEAD_MORE_TYPE))
}

fn upstream(notice: &Notice) -> &str {
    match notice {
        Notice::Death(death) => &death.upstream,
        Notice::More(more) => &more.upstream,
    }
}

fn lost(shared: &Shared, notice: &Notice, why: &str) {
    let upstream = upstream(notice);
    tracing::error!(upstream, why, "a dead delivery is not told of");
    let count = match notice {
        Notice::Death(_) => 1,
        Notice::More(more) => more.reasons.values().sum(),
    };
    metrics_of(&shared.deps.metrics, upstream).notices.get(LOST).into_iter().for_each(|counter| counter.add(count));
}

/// JSON, and the trace of the event if its sender had one.
fn headers(event: Option<&Event>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(trace) = event.and_then(|event| event.headers.get(&TRACEPARENT)) {
        headers.insert(TRACEPARENT, trace.clone());
    }
    headers
}

/// The event is its parent. A notice is no step of a chain: that of a loop must get through.
fn extras(event: Option<&Event>) -> Extras {
    let before = event.and_then(|event| event.extras.as_deref());
    Extras {
        parent: event.map(|event| event.id.to_string().into()),
        tenant: before.and_then(|extras| extras.tenant.clone()),
        hops: before.and_then(|extras| extras.hops),
        ..Extras::default()
    }
}

/// Nothing of the event's payload.
fn body(shared: &Shared, notice: &Notice, event: Option<&Event>) -> Bytes {
    let json = match (notice, event) {
        (Notice::Death(death), Some(event)) => of_death(shared, death, event),
        (Notice::Death(death), None) => json!({ "upstream": death.upstream }),
        (Notice::More(more), _) => of_more(more),
    };
    json.to_string().into()
}

fn of_death(shared: &Shared, death: &Death, event: &Event) -> Value {
    let entry = shared.deps.log.read(death.entry).ok().filter(|entry| entry.kind == Kind::Attempted);
    let attempted = entry.and_then(|entry| decode_attempted(&entry.payload));
    let stored = attempted.as_ref().and_then(|attempted| match &attempted.change {
        Change::Die(reason) => Some(reason),
        _ => None,
    });
    let reason = stored.unwrap_or(&death.reason);
    let attempts = attempted.as_ref().and_then(|attempted| attempted.attempt.as_ref()).map(|attempt| attempt.number);
    json!({
        "id": event.id.to_string(),
        "source": event.source,
        "type": event.event_type,
        "upstream": death.upstream,
        "reason": reason.code,
        "detail": reason.detail,
        "attempts": attempts.unwrap_or(death.attempts),
        "received_at": event.received_at.to_string(),
        "at": death.at.to_string(),
    })
}

fn of_more(more: &More) -> Value {
    json!({
        "upstream": more.upstream,
        "count": more.reasons.values().sum::<u64>(),
        "reasons": more.reasons,
        "since": more.first.1.to_string(),
        "until": more.until.to_string(),
    })
}

/// A position is never used twice: the entry names the death.
fn key(notice: &Notice) -> Vec<u8> {
    match notice {
        Notice::Death(death) => [&b"dead\0"[..], &death.entry.to_be_bytes(), death.upstream.as_bytes()].concat(),
        Notice::More(more) => [&b"dead more\0"[..], &more.first.0.to_be_bytes(), more.upstream.as_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_that_is_gone_gets_no_series_for_what_is_told_of_it_late() {
        let metrics = Metrics::default();
        metrics.group_upstreams(&[("orders/a", "orders")]);
        metrics.upstream("orders/a").notices[LOST].inc();
        metrics.group_upstreams(&[]);
        let series = metrics.render().lines().count();
        metrics_of(&metrics, "orders/a").notices[PUBLISHED].inc();
        assert_eq!(metrics.render().lines().count(), series);
        assert!(metrics.render().contains("stagepost_notices_total{upstream=\"orders/*\",result=\"published\"} 1"));
    }
}
