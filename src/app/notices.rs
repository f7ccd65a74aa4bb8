//! Owns what is published about subscribers, so that whoever is responsible for one hears of it: events of the topic
//! [`TOPIC`], if the configuration has it.
//!
//! Promises that each is published once within a restart or not, and again if the log had no room. Deliberately absent:
//! secrets and addresses.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::oneshot;

use crate::{
    clock::Timestamp,
    event::{Extras, Seq},
    log::{
        Acked, AppendError, Done, Log,
        publish::{Publication, publish},
    },
    routing::Table,
    state::Subscribed,
    telemetry::Metrics,
};

/// The topic of these notices.
pub(super) const TOPIC: &str = "stagepost.subscribers";

/// What is older is not told any more: what was told before a restart is known for longer than this.
const NEWS: Duration = Duration::from_secs(24 * 3600);

/// Notices on their way into the log.
pub(super) struct Notices {
    log: Arc<dyn Log>,
    metrics: Arc<Metrics>,
    /// Type and entry of those that were published.
    told: BTreeSet<(&'static str, Seq)>,
    /// Not known to be stored. As many as there are news at most.
    waiting: Vec<(Publication, oneshot::Receiver<Acked>)>,
}

impl Notices {
    pub(super) fn new(log: Arc<dyn Log>, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics, told: BTreeSet::new(), waiting: Vec::new() }
    }

    /// Publishes what is new.
    pub(super) fn tell(&mut self, known: &Subscribed, table: &Table, now: Timestamp) {
        if table.topic(TOPIC).is_none() {
            return;
        }
        let added = known.registered.iter().map(|(name, one)| {
            let since = Timestamp::from_millis(one.registration.since_ms);
            ("subscriber.added", name, one.seq, since, Some(one.registration.by.as_str()), None)
        });
        let closed = known.closed.iter().map(|(name, closed)| {
            let kind = if closed.disabled.is_some() { "subscriber.disabled" } else { "subscriber.removed" };
            (kind, name, closed.seq, closed.since, Some(closed.actor.as_str()), closed.disabled.as_deref())
        });
        let news: Vec<_> = added.chain(closed).filter(|(_, _, _, since, ..)| now.since(*since) < NEWS).collect();
        let current: BTreeSet<(&'static str, Seq)> = news.iter().map(|(kind, _, seq, ..)| (*kind, *seq)).collect();
        for (kind, upstream, seq, since, by, why) in news {
            if self.told.contains(&(kind, seq)) {
                continue;
            }
            let (topic, name) = upstream.split_once('/').unwrap_or(("", upstream));
            let body = serde_json::json!({
                "type": kind, "topic": topic, "name": name, "upstream": upstream, "at": since, "by": by, "why": why,
            });
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            self.publish(
                Publication {
                    topic: TOPIC.into(),
                    event_type: Some(kind.into()),
                    headers,
                    body: Bytes::from(body.to_string()),
                    extras: Extras::default(),
                    // The time, not the entry: that is another one when it was carried.
                    key: Some(format!("{kind} {upstream} {}", since.as_millis()).into_bytes()),
                    generation: table.generation,
                },
                now,
            );
        }
        self.told = current;
    }

    /// Publishes again what the log had no room for.
    pub(super) fn again(&mut self, now: Timestamp) {
        for (publication, mut answer) in std::mem::take(&mut self.waiting) {
            match answer.try_recv() {
                Ok(Err(AppendError::Busy | AppendError::Full)) => self.publish(publication, now),
                Err(oneshot::error::TryRecvError::Empty) => self.waiting.push((publication, answer)),
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
    }

    fn publish(&mut self, publication: Publication, now: Timestamp) {
        let (done, answer) = Done::channel();
        match publish(&*self.log, &self.metrics, &publication, now, done) {
            Ok(()) => self.waiting.push((publication, answer)),
            Err(error) => tracing::warn!(%error, "a notice about a subscriber can't be published"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{Kind, entry::decode_event, memory::MemoryLog},
        routing::Topic,
        state::{Closed, Subscriber, testing::registration},
    };

    const NOW: Timestamp = Timestamp::from_millis(5_000);

    fn table(topic: &str) -> Table {
        let mut table = crate::delivery::tests::rig::table(Vec::new(), Vec::new());
        table.declare(vec![Topic { name: topic.into(), max_subscribers: 1, max_hops: 1 }]);
        table
    }

    fn published(log: &MemoryLog) -> Vec<(String, String)> {
        let all = log.scan(0, 1 << 20).unwrap().into_iter().filter(|entry| entry.kind == Kind::Accepted);
        all.map(|entry| {
            let event = decode_event(&entry).unwrap();
            let crate::event::Body::Inline(body) = event.body else { panic!() };
            (event.event_type.unwrap().to_string(), String::from_utf8(body.to_vec()).unwrap())
        })
        .collect()
    }

    #[test]
    fn a_disabled_subscriber_is_told_of_once_also_after_a_restart_and_when_the_log_was_full() {
        let log = MemoryLog::automatic();
        let mut known = Subscribed::default();
        let subscriber = Subscriber { registration: registration("crm"), seq: 3 };
        Arc::make_mut(&mut known.registered).insert("orders/crm".into(), subscriber);
        let why = Some("9 attempts failed".to_owned());
        let closed = Closed { seq: 9, since: Timestamp::from_millis(4_000), disabled: why, actor: "relay".into() };
        known.closed.insert("orders/crm".into(), closed);
        let mut notices = Notices::new(log.clone(), Arc::default());
        notices.tell(&known, &table("other"), NOW);
        assert!(published(&log).is_empty(), "nobody asked for it");
        log.refuse(Some(AppendError::Full));
        notices.tell(&known, &table(TOPIC), NOW);
        log.refuse(None);
        assert!(published(&log).is_empty());
        for _ in 0..2 {
            notices.again(NOW);
            notices.tell(&known, &table(TOPIC), NOW);
        }
        Notices::new(log.clone(), Arc::default()).tell(&known, &table(TOPIC), NOW);
        let told = published(&log);
        let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["subscriber.added", "subscriber.disabled"]);
        let body = &told[1].1;
        assert!(body.contains("\"upstream\":\"orders/crm\"") && body.contains("9 attempts failed"), "{body}");
        assert!(!told.iter().any(|(_, body)| body.contains("whsec_") || body.contains("app.example")));
        let late = NOW.after(NEWS);
        Notices::new(MemoryLog::automatic(), Arc::default()).tell(&known, &table(TOPIC), late);
    }
}
