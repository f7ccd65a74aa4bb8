//! Owns the watch over the relay's own figures: looks every few seconds, lets the rules of `alert` judge, and publishes
//! what they say.
//!
//! Promises that a notice is published in order and again until the log takes it; once, also if the process dies, since
//! what is to be told is in the file before it is published, and what was published already is a duplicate; and that what
//! stands and what was learned is in that file, which is replaced whole. Deliberately absent: delivery, which is that of
//! any event, judging and the limit of notices.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{ports::Instance, reload::Running};
use crate::{
    admin::wire,
    alert::{
        Engine, Figures, News, Notice, Saved, Severity, SourceFigures, Space, Subjects, TOPIC, Taken, UpstreamFigures,
    },
    clock::Timestamp,
    config::{AlertSettings, StoreSettings, WhenFull},
    event::{Extras, Outcome},
    log::{
        Appended, Done, LogStats,
        publish::{Publication, publish},
    },
    routing::{Table, subscriber_name},
    state::UpstreamStats,
    telemetry::{Counter, Metrics, RequestResult},
};

/// What was learned is written so often, besides whenever something was told.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Answers that refuse a request for what it is.
const REFUSED: [RequestResult; 6] = [
    RequestResult::Unauthorized,
    RequestResult::Forbidden,
    RequestResult::Malformed,
    RequestResult::TooLarge,
    RequestResult::Unsupported,
    RequestResult::Unprocessable,
];

/// Answers to what a source was meant to send.
const HEARD: [RequestResult; 3] = [RequestResult::Accepted, RequestResult::Duplicate, RequestResult::Proxied];

/// The alerts of a running instance.
pub(super) struct Alerts {
    file: PathBuf,
    watch: Mutex<Watch>,
}

struct Watch {
    engine: Engine,
    /// What the rules were last, to see that they are others.
    settings: AlertSettings,
    saved: Timestamp,
}

impl Alerts {
    /// Begins with what an earlier process left in the file; one that can't be read is nothing.
    pub(super) fn open(file: PathBuf, settings: AlertSettings, now: Timestamp) -> Self {
        let saved = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "what alerts had learned can't be read: they begin anew");
                Saved::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
            Err(error) => {
                tracing::warn!(%error, "what alerts had learned can't be read: they begin anew");
                Saved::default()
            }
        };
        let engine = Engine::new(settings.engine.clone(), saved, now);
        Self { file, watch: Mutex::new(Watch { engine, settings, saved: now }) }
    }

    /// Looks once, and tells. Blocks on the agenda and on the log. Gives when to look again.
    pub(super) fn look(&self, instance: &Instance) -> Duration {
        let running = &*instance.running;
        let (settings, store) = {
            let current = running.current.lock().unwrap_or_else(PoisonError::into_inner);
            (current.config.alerts.clone(), current.config.store.clone())
        };
        let every = settings.every;
        let (table, now) = (running.live.snapshot(), running.clock.steady());
        let Some(figures) = figures(running, &table, &store, now) else { return every };
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.settings != settings {
            watch.engine.configure(settings.engine.clone());
            watch.settings = settings;
        }
        let told = watch.engine.step(now, &figures);
        let gauges = running.metrics.alerts.iter().zip(watch.engine.counts());
        gauges.for_each(|(gauge, count)| gauge.set(i64::try_from(count).unwrap_or(i64::MAX)));
        told.iter().for_each(log);
        let has_news = !told.is_empty();
        let taken = match table.topic(TOPIC) {
            Some(_) => watch.engine.tell(now, told),
            None => {
                watch.engine.tell_nobody();
                Taken::default()
            }
        };
        running.metrics.alerts_dropped.add(taken.dropped);
        running.metrics.alerts_withheld.add(taken.withheld);
        if has_news || taken.told > 0 || now.since(watch.saved) >= SAVE_EVERY {
            self.save(&mut watch, now);
        }
        let waiting = watch.engine.untold();
        // The log is waited for without the lock: what stands can be asked for meanwhile.
        drop(watch);
        let published = waiting.iter().take_while(|told| {
            let sent = send(running, &table, told.event_type(), told.payload(&instance.node), Some(told.key()));
            sent.inspect_err(|error| tracing::warn!(error, "an alert can't be published yet")).is_ok()
        });
        let published = published.count();
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).engine.published(published);
        every
    }

    /// Writes what survives.
    pub(super) fn close(&self, now: Timestamp) {
        self.save(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner), now);
    }

    fn save(&self, watch: &mut Watch, now: Timestamp) {
        watch.saved = now;
        let Some(bytes) = watch.engine.save(now) else { return };
        let new = self.file.with_extension("new");
        let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.file));
        if let Err(error) = written {
            tracing::warn!(%error, "what alerts have learned can't be written: a restart would forget it");
        }
    }

    /// What stands, the worst first.
    pub(super) fn standing(&self, running: &Running) -> Vec<wire::Alert> {
        let (wall, steady) = (running.clock.now(), running.clock.steady());
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |alert: crate::alert::Alert| wire::Alert {
            rule: alert.rule.as_str().into(),
            severity: alert.severity.as_str().into(),
            upstream: (alert.rule.subjects() == Subjects::Upstreams).then(|| alert.subject.to_string()),
            source: (alert.rule.subjects() == Subjects::Sources).then(|| alert.subject.to_string()),
            subject: alert.subject.into(),
            since: wall.before(steady.since(alert.since)),
            text: alert.text,
        };
        watch.engine.standing().into_iter().map(shown).collect()
    }
}

/// Publishes an event that tries one destination; its id.
///
/// # Errors
/// Why not, in words.
pub(super) fn test(instance: &Instance, to: &str) -> Result<String, String> {
    let running = &*instance.running;
    let table = running.live.snapshot();
    if !table.upstreams.contains_key(&*subscriber_name(TOPIC, to)) {
        let beginning = subscriber_name(TOPIC, "");
        let known = table.upstreams.keys().filter_map(|name| name.strip_prefix(&*beginning));
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none; add an [alerts.to.NAME]".to_owned() } else { known.join(", ") };
        return Err(format!("alerts have no destination {to:?}; there are: {known}"));
    }
    let body = Notice::test_payload(to, running.clock.now(), &instance.node);
    send(running, &table, Notice::TEST_TYPE, body, None)
}

/// Publishes an event and waits until it is durable; its id.
fn send(
    running: &Running,
    table: &Table,
    event_type: &str,
    body: serde_json::Value,
    key: Option<String>,
) -> Result<String, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let publication = Publication {
        topic: TOPIC.into(),
        event_type: Some(event_type.into()),
        headers,
        body: Bytes::from(body.to_string()),
        extras: Extras::default(),
        key: key.map(String::into_bytes),
        generation: table.generation,
    };
    let (done, answer) = Done::channel();
    publish(&*running.log, &running.metrics, &publication, running.clock.now(), done)
        .map_err(|error| error.to_string())?;
    match answer.blocking_recv() {
        Ok(Ok(Appended::Appended(id) | Appended::Duplicate { first: id, .. })) => Ok(id.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the log is closed".to_owned()),
    }
}

/// The line of diagnostics of a notice.
fn log(notice: &Notice) {
    let (rule, text) = (notice.alert.rule.as_str(), &*notice.alert.text);
    match notice.news {
        News::Raised | News::Worsened if notice.alert.severity == Severity::Info => {
            tracing::info!(rule, severity = "info", text, "an alert was raised");
        }
        News::Raised | News::Worsened => {
            tracing::warn!(rule, severity = notice.alert.severity.as_str(), text, "an alert was raised");
        }
        News::Repeated => tracing::info!(rule, text, "an alert still stands"),
        News::Resolved => tracing::info!(rule, text, "an alert is over"),
    }
}

/// The figures of a moment; None if the agenda does not answer.
fn figures(running: &Running, table: &Table, store: &StoreSettings, now: Timestamp) -> Option<Figures> {
    let stats = running.agenda.upstreams().ok()?;
    let metrics = &*running.metrics;
    let upstreams = table.upstreams.keys().map(|name| {
        let known = stats.iter().find(|stats| *stats.name == **name);
        upstream(name, known, metrics, now)
    });
    let count = |counters: &[Counter], results: &[RequestResult]| -> u64 {
        results.iter().filter_map(|result| counters.get(*result as usize)).map(Counter::get).sum()
    };
    let mut unavailable = count(&metrics.unmatched, &[RequestResult::Unavailable]);
    let mut sources = Vec::with_capacity(table.sources.len());
    for source in &table.sources {
        let handle = metrics.source(&source.name);
        unavailable += count(&handle.requests, &[RequestResult::Unavailable]);
        sources.push(SourceFigures {
            name: (&*source.name).into(),
            heard: count(&handle.requests, &HEARD),
            duplicates: handle.duplicates.get(),
            refused: count(&handle.requests, &REFUSED),
            stale: handle.stale.get(),
        });
    }
    Some(Figures {
        upstreams: upstreams.collect(),
        sources,
        spaces: spaces(&running.log.stats(), store, &stats, now),
        reload_failed: metrics.last_reload_success.get() == 0,
        unavailable,
    })
}

fn upstream(name: &str, stats: Option<&UpstreamStats>, metrics: &Metrics, now: Timestamp) -> UpstreamFigures {
    let handle = metrics.upstream(name);
    let attempts = |outcome: Outcome| handle.attempts.get(outcome as usize).map_or(0, Counter::get);
    let failed = [Outcome::Deferred, Outcome::Refused, Outcome::Degraded].map(attempts).iter().sum();
    let pending = stats.filter(|stats| stats.pending > 0);
    UpstreamFigures {
        name: name.into(),
        attempted: failed + attempts(Outcome::Delivered),
        failed,
        latency: handle.attempt.read().0,
        dead: stats.map_or(0, |stats| stats.dead.iter().map(|(_, count)| count).sum()),
        oldest: pending.and_then(|stats| stats.oldest_pending_at).map(|at| now.since(at)),
        is_held: stats.is_some_and(|stats| stats.hold.is_some() || stats.held > 0),
        is_cut_off: handle.breaker_state.get() != 0,
    }
}

/// The store, and the disk it stands on.
fn spaces(log: &LogStats, store: &StoreSettings, stats: &[UpstreamStats], now: Timestamp) -> Vec<Space> {
    let used = match store.when_full {
        WhenFull::Refuse => log.bytes,
        WhenFull::Reclaim => pinned(log, stats, now),
    };
    let mut spaces = vec![Space { name: "store", used, limit: log.limit }];
    if let Ok(disk) = rustix::fs::statvfs(&store.path) {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let (limit, free) = (bytes(disk.f_blocks), bytes(disk.f_bavail));
        spaces.push(Space { name: "disk", used: limit.saturating_sub(free), limit });
    }
    spaces
}

/// Settled events go when room is needed: of what is stored only that counts which came since the oldest undelivered
/// event, at an even pace.
fn pinned(log: &LogStats, stats: &[UpstreamStats], now: Timestamp) -> u64 {
    let undelivered = stats.iter().filter(|stats| stats.pending + stats.held > 0);
    let Some(oldest) = undelivered.filter_map(|stats| stats.oldest_pending_at).min() else { return 0 };
    let whole = log.oldest_at.map_or(0, |at| now.since(at).as_millis());
    let part = now.since(oldest).as_millis().min(whole);
    let share = if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    (log.bytes as f64 * share) as u64
}

/// Looks until it is aborted.
pub(super) async fn watch(instance: Arc<Instance>) {
    loop {
        let looking = instance.clone();
        let every = tokio::task::spawn_blocking(move || looking.alerts.look(&looking)).await;
        let Ok(every) = every else { return };
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reclaimed_does_not_count_as_used() {
        let minutes = |minutes: u64| Timestamp::from_millis(minutes * 60_000);
        let log = LogStats {
            bytes: 1_000,
            limit: 2_000,
            segments: 1,
            oldest_at: Some(minutes(0)),
            first_seq: 0,
            next_seq: 1,
        };
        assert_eq!(pinned(&log, &[], minutes(100)), 0);
        let stats = UpstreamStats {
            name: "u".into(),
            pending: 1,
            waiting: 1,
            retries: 0,
            held: 0,
            review: 0,
            dead: Vec::new(),
            oldest_pending_at: Some(minutes(75)),
            in_flight: 0,
            hold: None,
            drained: Vec::new(),
            removed: false,
        };
        assert_eq!(pinned(&log, &[stats], minutes(100)), 250);
    }
}
