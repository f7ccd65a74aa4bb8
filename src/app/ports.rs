//! Owns the answers of a running instance to its operators: each is a question to the stage that knows.

use std::{
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    alerts::{self, Alerts},
    backup,
    decide::decide,
    jobs::Waits,
    listing, parts,
    probe::Probe,
    reads,
    reload::{OnProbation, Running},
    status::{Samples, room},
    trial::Pair,
};
use crate::{
    admin::{
        EventView, HiddenNames, PlannedFor, Ports, Predicate, Questions, QueueCount, Reads, RouteFilter, Tokens, Trial,
        jobs::shown, wire,
    },
    agenda::{Blocked, core::key_text, plan::Routes},
    clock::Timestamp,
    config,
    delivery::TargetView,
    event::{DeliveryState, Event, Seq},
    expr::{Evaluator, Mask},
    ingress::{Gaps, Gate, Ingress},
    jitter::secret_bytes,
    log::{
        Log,
        disk::free_bytes,
        entry::{Command, Fault, Registration, Target},
        read_event,
        sled::SledLog,
    },
    quarantine::{Judgement, Purpose, Quarantine},
    routing::{Privacy, topic_of},
    state::{Drained, Subscribed, UpstreamStats},
    telemetry::Metrics,
};

/// Events in one question to the agenda.
const VIEW_AT_ONCE: usize = 1_000;

/// A running instance, as its operators see it.
pub(super) struct Instance {
    pub(super) running: Arc<Running>,
    pub(super) evaluator: Evaluator,
    pub(super) ingress: Arc<Ingress>,
    /// Where requests from quarantine are admitted.
    pub(super) operators_gate: Arc<Gate>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) probe: Arc<Probe>,
    pub(super) samples: Arc<Samples>,
    /// The log, as its engine knows it.
    pub(super) sled: Arc<SledLog>,
    pub(super) node: Arc<str>,
    /// What jobs wait for.
    pub(super) waits: Waits,
    pub(super) alerts: Alerts,
    pub(super) questions: Questions,
}

impl Instance {
    fn privacy(&self) -> Privacy {
        self.running.current.lock().unwrap_or_else(PoisonError::into_inner).config.privacy.clone()
    }
}

impl Reads for Instance {
    fn log(&self) -> Arc<dyn Log> {
        self.running.log.clone()
    }

    fn now(&self) -> Timestamp {
        self.running.clock.now()
    }

    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String> {
        let mut views = Vec::with_capacity(events.len());
        for some in events.chunks(VIEW_AT_ONCE) {
            let seqs: Vec<Seq> = some.iter().map(|planned| planned.event).collect();
            let found = self.running.agenda.view(&seqs).map_err(|error| error.to_string())?;
            let both = some.iter().zip(&found);
            views.extend(both.map(|(planned, view)| reads::view(&*self.running.log, &planned.upstreams, view)));
        }
        Ok(views)
    }

    fn records(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Target>, String> {
        let listed = self.running.agenda.list(state, upstream, after, limit).map_err(|error| error.to_string())?;
        let listed = listed.into_iter();
        Ok(listed.map(|one| Target { event: one.event, upstream: (&*one.upstream).into() }).collect())
    }

    fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Result<QueueCount, String> {
        let (states, since) = (states.to_vec(), since.to_vec());
        let asked = self.running.agenda.ask(move |core, _| reads::queue(core.state(), &states, &since));
        asked.map_err(|error| error.to_string())
    }

    fn stored_at(&self, event: Seq) -> Result<Option<Seq>, String> {
        let view = self.running.agenda.view(&[event]).map_err(|error| error.to_string())?.pop();
        Ok(view.map(|view| view.stored_at).filter(|at| *at != event))
    }

    fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        self.running.agenda.carried(before, limit).map_err(|error| error.to_string())
    }

    fn filter(&self, expression: &str) -> Result<Predicate, String> {
        reads::filter(expression, self.evaluator.clone())
    }

    fn route(&self, name: &str) -> Option<RouteFilter> {
        let table = self.running.live.snapshot();
        let route = table.routes.iter().find(|route| &*route.name == name)?;
        Some(reads::route_filter(route, self.evaluator.clone()))
    }

    fn decoded(&self, event: &Event, body: Bytes) -> Bytes {
        reads::decoded(event, body)
    }

    fn hidden_names(&self) -> HiddenNames {
        reads::hidden_names(&self.privacy())
    }

    fn masked(&self, event: &Event, body: Bytes) -> Result<Bytes, String> {
        reads::masked(&self.privacy().hide, event, body)
    }

    fn masked_beginning(&self, body: Bytes) -> Option<Bytes> {
        Mask::apply_to_json(&self.privacy().hide, body)
    }

    fn quarantine(&self) -> Arc<Quarantine> {
        self.quarantine.clone()
    }

    fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        self.running.agenda.audited(before, limit).map_err(|error| error.to_string())
    }

    fn config_hash(&self, generation: u64) -> Option<String> {
        let current = self.running.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.hashes.of(generation).map(str::to_owned)
    }

    fn routed(&self, event: &Event, body: &[u8]) -> Result<Vec<Box<str>>, String> {
        let routes = Routes::new(self.running.live.snapshot());
        // Who asks means it, also about what is only stored.
        let mut event = event.clone();
        event.extras.iter_mut().for_each(|extras| extras.stored_only = false);
        decide(&routes, &self.evaluator, &event, body).map(|decision| decision.targets)
    }
}

impl Ports for Instance {
    fn tokens(&self) -> Arc<Tokens> {
        self.running.tokens.load_full()
    }

    fn metered(&self) -> Arc<Metrics> {
        self.running.metrics.clone()
    }

    fn questions(&self) -> &Questions {
        &self.questions
    }

    fn steady(&self) -> Timestamp {
        self.running.clock.steady()
    }

    fn status(&self) -> wire::Status {
        let (now, steady) = (self.running.clock.now(), self.running.clock.steady());
        let stats = self.running.log.stats();
        let (hash, loaded_at, probation, store) = {
            let current = self.running.current.lock().unwrap_or_else(PoisonError::into_inner);
            let probation = current.probation.as_ref().map(OnProbation::until);
            (current.config.hash.clone(), current.loaded_at, probation, current.config.store.clone())
        };
        let probation_until = probation.map(|until| now.after(until.since(steady)));
        let (names, quarantine) = (self.upstreams(), self.quarantine.figures());
        self.samples.take(steady, stats.written, &names, &self.running.metrics);
        let upstreams = self.running.agenda.upstreams().unwrap_or_default();
        let used = alerts::used(&stats, &store, &upstreams, steady);
        let room = match self.running.log.writable() {
            Ok(()) => room(&stats, used, free_bytes(&store.path).ok(), store.reserve),
            Err(_) => 0,
        };
        let full_at = self.samples.full_at(steady, stats.written, room);
        wire::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.node.to_string(),
            uptime_s: self.running.clock.elapsed().as_secs(),
            config: wire::ConfigInfo { hash, loaded_at, probation_until },
            upstreams: self.upstream_figures(&names, &upstreams, steady),
            store: wire::Store {
                bytes: stats.bytes,
                limit: stats.limit,
                full_at: full_at.map(|at| now.after(at.since(steady))),
                segments: stats.segments,
                oldest_at: stats.oldest_at,
            },
            quarantine: wire::Quarantine { count: quarantine.count, bytes: quarantine.bytes },
            gaps: self.ingress.sequences().gaps().into_iter().map(gaps).collect(),
        }
    }

    fn reload(&self, probation: Option<Duration>) -> Result<wire::Reloaded, wire::ReloadRefused> {
        self.running.reload(probation)
    }

    fn command(&self, command: Command) -> Result<(), String> {
        self.command_at(command).map(|_| ())
    }

    fn command_at(&self, command: Command) -> Result<Seq, String> {
        let ticket = self.running.agenda.command(&command).map_err(|error| error.to_string())?;
        ticket.wait().map_err(|error| error.to_string())
    }

    fn jobs(&self) -> Result<Vec<wire::Job>, String> {
        let jobs = self.running.agenda.jobs().map_err(|error| error.to_string())?;
        let stored: Vec<(Seq, Seq)> = match jobs.is_empty() {
            true => Vec::new(),
            false => self.sled.segments().iter().map(|segment| (segment.first_seq, segment.end)).collect(),
        };
        Ok(jobs.iter().map(|job| shown(job, self.waits.of(job.id), &stored)).collect())
    }

    fn rehearse(&self, upstream: &str, how: Option<(Fault, Duration)>) -> bool {
        self.running.engine.rehearse(upstream, how)
    }

    fn judge(&self, event: &Event, purpose: Purpose) -> Result<Judgement, String> {
        let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        Ok(handle.block_on(self.operators_gate.judge_again(event, purpose)))
    }

    fn refused(&self, after: u64) -> Vec<wire::Refused> {
        let shown = |request: crate::ingress::RefusedRequest| wire::Refused {
            number: request.number,
            at: request.at,
            reason: request.reason.into(),
            source: request.source.map(|source| source.to_string()),
            client: request.client.to_string(),
            method: request.method.into(),
            path: request.path.into(),
            size: request.size,
            status: request.status,
        };
        self.ingress.refused().after(after).into_iter().map(shown).collect()
    }

    fn blocked_keys(&self, upstream: Option<&str>) -> Result<Vec<wire::BlockedKey>, String> {
        let blocked = self.running.agenda.blocked_keys(upstream).map_err(|error| error.to_string())?;
        let routes = Routes::new(self.running.live.snapshot());
        Ok(blocked.into_iter().filter_map(|blocked| self.blocked_key(blocked, &routes)).collect())
    }

    fn subscribers(&self) -> Result<Vec<wire::Subscriber>, String> {
        let stats = self.running.agenda.upstreams().map_err(|error| error.to_string())?;
        let ((known, off), configured) = (self.running.subscribers.known(), self.running.subscribers.configured());
        let now = (self.running.clock.now(), self.running.clock.steady());
        let registered = known.registered.values().map(|one| listing::registered(&one.registration, &known, &off));
        let configured = configured.iter().map(|(name, url)| listing::configured(name, url, &known));
        let all = registered.chain(configured);
        let mut all: Vec<_> = all.map(|one| listing::with_figures(one, &stats, now)).collect();
        all.sort_by(|one, other| (&one.topic, &one.name, &one.origin).cmp(&(&other.topic, &other.name, &other.origin)));
        Ok(all)
    }

    fn subscribed(&self) -> Subscribed {
        self.running.subscribers.known().0
    }

    fn check_subscriber(&self, registration: &Registration, is_new: bool) -> Result<(), String> {
        self.running.subscribers.check(registration, is_new)
    }

    fn subscribers_turn(&self) -> MutexGuard<'_, ()> {
        self.running.subscribers.turn()
    }

    fn subscriber_refused(&self) {
        self.running.metrics.subscribers_refused.inc();
    }

    fn secret_bytes(&self) -> Option<[u8; 32]> {
        secret_bytes()
    }

    fn sources(&self) -> Vec<wire::Source> {
        parts::sources(&self.running.live.snapshot(), &self.running.metrics)
    }

    fn routes(&self) -> Vec<wire::Route> {
        parts::routes(&self.running.live.snapshot())
    }

    fn segments(&self) -> Vec<wire::Segment> {
        self.sled.segments().into_iter().map(parts::segment).collect()
    }

    fn configuration(&self) -> wire::Configuration {
        let current = self.running.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (hash, text) = (current.config.hash.clone(), config::effective(&current.config).to_owned());
        wire::Configuration { hash, loaded_at: current.loaded_at, text }
    }

    fn upstreams(&self) -> Vec<Box<str>> {
        let mut names: Vec<Box<str>> = self.running.live.snapshot().upstreams.keys().cloned().collect();
        names.sort();
        names
    }

    fn trial(&self, file: Option<&Path>) -> Result<Box<dyn Trial>, Vec<String>> {
        let (before, after) = self.running.candidate(file)?;
        let warnings = after.warnings.iter().map(ToString::to_string).collect();
        Ok(Box::new(Pair {
            before: Routes::new(before),
            after: Routes::new(Arc::new(after.table)),
            warnings,
            evaluator: self.evaluator.clone(),
            log: self.running.log.clone(),
            now: self.running.clock.steady(),
        }))
    }

    fn generation(&self) -> u64 {
        self.running.live.snapshot().generation
    }

    fn backup_point(&self, now: bool) -> Result<wire::BackupPoint, String> {
        backup::point(&self.sled, &self.running.clock, now)
    }

    fn alerts(&self) -> Vec<wire::Alert> {
        self.alerts.standing(&self.running)
    }

    fn test_alert(&self, to: &str) -> Result<String, String> {
        alerts::test(self, to)
    }

    fn metrics(&self) -> String {
        self.running.agenda.measure();
        self.running.metrics.render()
    }

    fn ready(&self) -> Result<(), String> {
        self.probe.ready()
    }
}

impl Instance {
    fn target(&self, target: &TargetView, now: Timestamp) -> wire::UpstreamTarget {
        wire::UpstreamTarget {
            url: target.url.to_string(),
            state: target.state.into(),
            ejected_until: target.ejected_until.map(|until| self.running.clock.now().after(until.since(now))),
            in_flight: target.in_flight as u64,
            ..wire::UpstreamTarget::default()
        }
    }

    /// In the words of the admin side. None if the event is damaged: the diagnostics name it.
    fn blocked_key(&self, blocked: Blocked, routes: &Routes) -> Option<wire::BlockedKey> {
        let event = read_event(&*self.running.log, blocked.stored_at).ok()?;
        let delivery = blocked.delivery.with_reason(&*self.running.log);
        let orders = routes.orders(&delivery.upstream);
        let (now, steady) = (self.running.clock.now(), self.running.clock.steady());
        Some(wire::BlockedKey {
            key: orders.and_then(|orders| key_text(&self.evaluator, orders, &event)),
            event: event.id.to_string(),
            state: delivery.status.state().as_str().to_owned(),
            attempts: delivery.attempts,
            reason: delivery.status.reason().map(ToString::to_string),
            due_at: delivery.due.map(|due| now.after(due.since(steady))),
            since: event.received_at,
            waiting: blocked.waiting as u64,
            upstream: delivery.upstream.to_string(),
        })
    }

    fn upstream_figures(&self, names: &[Box<str>], stats: &[UpstreamStats], now: Timestamp) -> Vec<wire::Upstream> {
        let breakers = self.running.engine.breakers();
        let known = self.running.subscribers.known().0;
        let gone = stats.iter().filter(|one| one.removed && has_any(one)).map(|one| Box::from(&*one.name));
        let mut all: Vec<Box<str>> = names.iter().cloned().chain(gone).collect();
        all.sort();
        all.dedup();
        let table = self.running.live.snapshot();
        let one = |name: Box<str>| {
            let breaker = breakers.iter().find(|breaker| *breaker.upstream == *name);
            let mut upstream = wire::Upstream {
                breaker: breaker.map_or("closed", |breaker| breaker.state.as_str()).into(),
                in_flight: breaker.map_or(0, |breaker| breaker.in_flight as u64),
                rate: self.samples.rate(now, &name, &self.running.metrics),
                concurrency_limit: breaker.and_then(|breaker| breaker.limit).unwrap_or(0) as u64,
                rate_limit: breaker.and_then(|breaker| breaker.rate),
                throttled_until: breaker
                    .and_then(|breaker| breaker.throttled)
                    .map(|(_, until)| self.running.clock.now().after(until.since(now))),
                throttled_by: breaker.and_then(|breaker| breaker.throttled).map(|(by, _)| by.as_str().into()),
                handshake: breaker.and_then(|breaker| breaker.handshake.as_deref()).map(str::to_owned),
                targets: breaker.map_or_else(Vec::new, |breaker| {
                    breaker.targets.iter().map(|target| self.target(target, now)).collect()
                }),
                ..wire::Upstream::default()
            };
            let shadows = table.shadows.get(&name).into_iter().flatten();
            upstream.shadows = shadows.map(|shadow| shadow.name.to_string()).collect();
            if let Some((fault, until)) = breaker.and_then(|breaker| breaker.rehearsal) {
                upstream.rehearsal = Some(fault.to_string());
                upstream.rehearsal_until = Some(self.running.clock.now().after(until.since(now)));
            }
            upstream.disabled = known.disabled(&name).map(|(why, _)| why.to_owned());
            if let Some(stats) = stats.iter().find(|stats| *stats.name == *name) {
                upstream.pending = stats.pending;
                upstream.held = stats.held;
                upstream.dead = stats.dead.iter().map(|(_, count)| count).sum();
                upstream.review = stats.review;
                drained(&mut upstream.targets, &stats.drained);
                upstream.oldest_at = stats.oldest_pending_at;
                let until = stats.hold.as_ref().and_then(|hold| hold.until);
                upstream.held_until = until.map(|until| self.running.clock.now().after(until.since(now)));
                upstream.held_since = stats.hold.as_ref().map(|hold| hold.since);
                upstream.held_reason = stats.hold.as_ref().and_then(|hold| hold.reason.clone());
            }
            upstream.name = name.into();
            upstream
        };
        all.into_iter().map(one).collect()
    }
}

/// Whether there is anything to tell about an upstream that is gone. Subscribers come and go.
fn has_any(stats: &UpstreamStats) -> bool {
    topic_of(&stats.name).is_none() || stats.held + stats.pending + stats.review > 0 || !stats.dead.is_empty()
}

fn gaps(gaps: Gaps) -> wire::Gaps {
    let missing = gaps.ranges.iter().map(|(first, last)| last - first + 1).sum();
    wire::Gaps { source: gaps.source.to_string(), highest: gaps.highest, missing, ranges: gaps.ranges }
}

/// Adds who took targets out; one that is not configured now is listed as long as it is out.
fn drained(targets: &mut Vec<wire::UpstreamTarget>, drained: &[Drained]) {
    for drained in drained {
        if !targets.iter().any(|target| *target.url == *drained.target) {
            let (url, state) = (drained.target.to_string(), "drained".to_owned());
            targets.push(wire::UpstreamTarget { url, state, ..wire::UpstreamTarget::default() });
        }
        for target in targets.iter_mut().filter(|target| *target.url == *drained.target) {
            target.drained_at = Some(drained.since);
            target.drained_by = Some(drained.actor.clone());
            target.drained_reason.clone_from(&drained.reason);
        }
    }
}
