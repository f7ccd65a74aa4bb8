//! Owns the instance as a caller with limits sees it: the ports, without what lies outside its scope.
//!
//! Promises that whatever is asked through it (listing, showing, commands) neither shows nor touches a source or an
//! upstream that the scope leaves out, so that no question has to remember that. What concerns the whole instance is
//! refused before it comes here (`api::Reach`).

use std::{
    path::Path,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use bytes::Bytes;

use super::{
    access::{Caller, Role, Scope, Tokens},
    find::find,
    ports::{EventView, PlannedFor, Ports, Predicate, QueueCount, Reads, RouteFilter, Trial},
    privacy::HiddenNames,
    quiet::Questions,
    wire,
};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Event, Seq},
    log::{
        Log,
        entry::{Command, Fault, Registration, Target},
    },
    quarantine::{Judgement, Purpose, Quarantine},
    state::Subscribed,
    telemetry::Metrics,
};

/// The ports, for one caller.
pub(super) struct Scoped {
    ports: Arc<dyn Ports>,
    scope: Arc<Scope>,
    sees_hidden: bool,
}

impl Scoped {
    /// The instance as this caller sees it.
    pub(super) fn for_caller(ports: Arc<dyn Ports>, caller: &Caller) -> Arc<dyn Ports> {
        let sees_hidden = caller.role >= Role::Operate;
        if caller.scope.is_whole() && sees_hidden {
            return ports;
        }
        Arc::new(Self { ports, scope: caller.scope.clone(), sees_hidden })
    }
}

impl Reads for Scoped {
    fn log(&self) -> Arc<dyn Log> {
        self.ports.log()
    }

    fn now(&self) -> Timestamp {
        self.ports.now()
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn sees_hidden(&self) -> bool {
        self.sees_hidden
    }

    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String> {
        let mut views = self.ports.views(events)?;
        for view in &mut views {
            view.deliveries.retain(|delivery| self.scope.takes_upstream(&delivery.upstream));
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
        let mut after = after;
        loop {
            let mut page = self.ports.records(state, upstream, after, limit)?;
            let Some(last) = page.last() else { return Ok(page) };
            after = Some(last.event);
            page.retain(|target| self.scope.takes_upstream(&target.upstream));
            // An empty page would be the end.
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }

    fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Result<QueueCount, String> {
        let mut counted = self.ports.queue(states, since)?;
        counted.upstreams.retain(|(name, _)| self.scope.takes_upstream(name));
        if self.scope.limits_sources() {
            return Err("the queue is counted for all sources: this token is limited to some".to_owned());
        }
        Ok(counted)
    }

    fn stored_at(&self, event: Seq) -> Result<Option<Seq>, String> {
        self.ports.stored_at(event)
    }

    fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        self.ports.carried(before, limit)
    }

    fn filter(&self, expression: &str) -> Result<Predicate, String> {
        self.ports.filter(expression)
    }

    fn route(&self, name: &str) -> Option<RouteFilter> {
        self.ports.route(name)
    }

    fn decoded(&self, event: &Event, body: Bytes) -> Bytes {
        self.ports.decoded(event, body)
    }

    fn hidden_names(&self) -> HiddenNames {
        self.ports.hidden_names()
    }

    fn masked(&self, event: &Event, body: Bytes) -> Result<Bytes, String> {
        self.ports.masked(event, body)
    }

    fn masked_beginning(&self, body: Bytes) -> Option<Bytes> {
        self.ports.masked_beginning(body)
    }

    fn quarantine(&self) -> Arc<Quarantine> {
        self.ports.quarantine()
    }

    fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        self.ports.audited(before, limit)
    }

    fn config_hash(&self, generation: u64) -> Option<String> {
        self.ports.config_hash(generation)
    }
}

impl Ports for Scoped {
    fn tokens(&self) -> Arc<Tokens> {
        self.ports.tokens()
    }

    fn metered(&self) -> Arc<Metrics> {
        self.ports.metered()
    }

    fn questions(&self) -> &Questions {
        self.ports.questions()
    }

    fn steady(&self) -> Timestamp {
        self.ports.steady()
    }

    fn status(&self) -> wire::Status {
        let mut status = self.ports.status();
        status.upstreams.retain(|upstream| self.scope.takes_upstream(&upstream.name));
        status.gaps.retain(|gaps| self.scope.takes_source(&gaps.source) && !self.scope.limits_upstreams());
        status
    }

    fn reload(&self, probation: Option<Duration>) -> Result<wire::Reloaded, wire::ReloadRefused> {
        self.ports.reload(probation)
    }

    fn command(&self, command: Command) -> Result<(), String> {
        self.ports.command(command)
    }

    fn command_at(&self, command: Command) -> Result<Seq, String> {
        self.ports.command_at(command)
    }

    fn jobs(&self) -> Result<Vec<wire::Job>, String> {
        self.ports.jobs()
    }

    fn generation(&self) -> u64 {
        self.ports.generation()
    }

    fn backup_point(&self, now: bool) -> Result<wire::BackupPoint, String> {
        self.ports.backup_point(now)
    }

    fn rehearse(&self, upstream: &str, how: Option<(Fault, Duration)>) -> bool {
        self.scope.takes_upstream(upstream) && self.ports.rehearse(upstream, how)
    }

    fn judge(&self, event: &Event, purpose: Purpose) -> Result<Judgement, String> {
        self.ports.judge(event, purpose)
    }

    fn refused(&self, after: u64) -> Vec<wire::Refused> {
        let mut refused = self.ports.refused(after);
        refused.retain(|one| self.scope.takes_kept(one.source.as_deref().unwrap_or_default()));
        refused
    }

    fn blocked_keys(&self, upstream: Option<&str>) -> Result<Vec<wire::BlockedKey>, String> {
        let mut keys = self.ports.blocked_keys(upstream)?;
        keys.retain(|key| self.scope.takes_upstream(&key.upstream));
        if self.scope.limits_sources() {
            keys.retain(|key| key.event.parse().is_ok_and(|id| find(self, id).is_ok()));
        }
        Ok(keys)
    }

    fn subscribers(&self) -> Result<Vec<wire::Subscriber>, String> {
        let mut all = self.ports.subscribers()?;
        all.retain(|one| self.scope.takes_upstream(&one.upstream));
        Ok(all)
    }

    fn subscribed(&self) -> Subscribed {
        self.ports.subscribed()
    }

    fn check_subscriber(&self, registration: &Registration, is_new: bool) -> Result<(), String> {
        self.ports.check_subscriber(registration, is_new)
    }

    fn subscribers_turn(&self) -> MutexGuard<'_, ()> {
        self.ports.subscribers_turn()
    }

    fn subscriber_refused(&self) {
        self.ports.subscriber_refused();
    }

    fn secret_bytes(&self) -> Option<[u8; 32]> {
        self.ports.secret_bytes()
    }

    fn sources(&self) -> Vec<wire::Source> {
        let mut sources = self.ports.sources();
        sources.retain(|source| self.scope.takes_source(&source.name));
        sources
    }

    fn routes(&self) -> Vec<wire::Route> {
        let mut routes = self.ports.routes();
        for route in &mut routes {
            if let Some(sources) = &mut route.sources {
                sources.retain(|name| self.scope.takes_source(name));
            }
            route.to.retain(|name| self.scope.takes_upstream(name));
        }
        let is_left = |names: Option<&Vec<String>>| names.is_none_or(|names| !names.is_empty());
        routes.retain(|route| {
            is_left(route.sources.as_ref()) && (!self.scope.limits_upstreams() || is_left(Some(&route.to)))
        });
        routes
    }

    fn segments(&self) -> Vec<wire::Segment> {
        self.ports.segments()
    }

    fn configuration(&self) -> wire::Configuration {
        self.ports.configuration()
    }

    fn upstreams(&self) -> Vec<Box<str>> {
        let mut names = self.ports.upstreams();
        names.retain(|name| self.scope.takes_upstream(name));
        names
    }

    fn routed(&self, event: &Event, body: &[u8]) -> Result<Vec<Box<str>>, String> {
        let mut names = self.ports.routed(event, body)?;
        names.retain(|name| self.scope.takes_upstream(name));
        Ok(names)
    }

    fn trial(&self, file: Option<&Path>) -> Result<Box<dyn Trial>, Vec<String>> {
        self.ports.trial(file)
    }

    fn alerts(&self) -> Vec<wire::Alert> {
        let mut alerts = self.ports.alerts();
        let sees = |alert: &wire::Alert| match (&alert.upstream, &alert.source) {
            (Some(upstream), _) => self.scope.takes_upstream(upstream) && !self.scope.limits_sources(),
            (None, Some(source)) => self.scope.takes_source(source) && !self.scope.limits_upstreams(),
            (None, None) => self.scope.is_whole(),
        };
        alerts.retain(sees);
        alerts
    }

    fn test_alert(&self, to: &str) -> Result<String, String> {
        self.ports.test_alert(to)
    }

    fn metrics(&self) -> String {
        self.ports.metrics()
    }

    fn ready(&self) -> Result<(), String> {
        self.ports.ready()
    }
}
