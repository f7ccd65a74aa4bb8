//! Owns what operators read, of a running instance and of a stopped one: the parts that both have in common.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::hashes::Hashes;
use crate::{
    admin::{DeliveryView, EventView, HiddenNames, PlannedFor, Predicate, QueueCount, Reads, RouteFilter, TOO_SLOW},
    agenda::plan,
    clock::{Clock, Timestamp},
    config::Outline,
    event::{DeliveryState, Event, Seq},
    expr::{EvalError, Evaluator, Expr, Mask, decode_body},
    log::{Log, entry::Target, read_event, sled::offline::OfflineLog},
    quarantine::Quarantine,
    routing::{Privacy, Route},
    state::{self, Offline, State},
};

/// The most bytes a body is decoded to for searching.
const DECODED_BYTES_MAX: u64 = 25 << 20;

/// Compiles an expression to a filter over stored events.
pub(super) fn filter(expression: &str, evaluator: Evaluator) -> Result<Predicate, String> {
    let expr = Expr::compile(expression).map_err(|error| error.to_string())?;
    Ok(Box::new(move |event, body| matches(&expr, &evaluator, event, body)))
}

/// A route as a filter.
pub(super) fn route_filter(route: &Route, evaluator: Evaluator) -> RouteFilter {
    let copy = route.clone();
    let takes: Predicate = Box::new(move |event, body| match &copy.when {
        _ if !copy.takes(&event.source) || !copy.wants(event.event_type.as_deref()) => Ok(false),
        None => Ok(true),
        Some(when) => matches(when, &evaluator, event, body),
    });
    RouteFilter { takes, to: route.to.clone() }
}

fn matches(expr: &Expr, evaluator: &Evaluator, event: &Event, body: &[u8]) -> Result<bool, String> {
    let input = plan::input(event, body);
    let output = match evaluator.now(expr, &input) {
        Some(output) => output,
        None => match tokio::runtime::Handle::try_current() {
            Ok(handle) => handle.block_on(evaluator.eval(expr, &input)),
            Err(_) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?
                .block_on(evaluator.eval(expr, &input)),
        },
    };
    output.map(|output| output.truthy()).map_err(|error| match error {
        EvalError::TooSlow(_) => format!("{TOO_SLOW}{error}"),
        error => error.to_string(),
    })
}

/// The body without its `Content-Encoding`, where that is possible.
pub(super) fn decoded(event: &Event, body: Bytes) -> Bytes {
    match decode_body(&event.headers, &body, DECODED_BYTES_MAX) {
        Ok(std::borrow::Cow::Owned(decoded)) => decoded.into(),
        _ => body,
    }
}

/// What is hidden besides the built-in lists.
pub(super) fn hidden_names(privacy: &Privacy) -> HiddenNames {
    HiddenNames { headers: privacy.hide_headers.clone(), parameters: privacy.hide_query.clone() }
}

/// A body without what is to be hidden in it.
pub(super) fn masked(hide: &[Mask], event: &Event, body: Bytes) -> Result<Bytes, String> {
    let masked = Mask::apply(hide, &event.headers, body, DECODED_BYTES_MAX);
    masked.map_err(|error| format!("what is to be hidden in the body is not known, since it can't be decoded: {error}"))
}

/// The view of one event in the words of the admin side. `planned` as in its entry of the log.
pub(super) fn view(log: &dyn Log, planned: &[Box<str>], view: &state::EventView) -> EventView {
    let deliveries = state::deliveries(planned, view).into_iter().map(|delivery| {
        let delivery = delivery.with_reason(log);
        DeliveryView {
            upstream: (&*delivery.upstream).into(),
            attempts: delivery.attempts,
            last: delivery.last,
            due: delivery.due,
            in_flight: delivery.in_flight,
            waits_for: delivery.waits_for.and_then(|before| read_event(log, before).ok()).map(|event| event.id),
            status: delivery.status,
        }
    });
    EventView {
        deliveries: deliveries.collect(),
        deleted: view.deleted,
        planned: view.planned,
        duplicates: view.duplicates,
        body_differs: view.body_differs,
    }
}

/// How many deliveries are in one of these states, in the words of the admin side.
pub(super) fn queue(state: &State, states: &[DeliveryState], since: &[Timestamp]) -> QueueCount {
    let upstreams = state.queue(states, since).into_iter().map(|(name, ages)| ((&*name).into(), ages));
    QueueCount { upstreams: upstreams.collect(), unplanned: state.unplanned().len() }
}

/// The directory of a stopped instance.
pub struct OfflineReads {
    data: PathBuf,
    log: Arc<OfflineLog>,
    offline: Offline,
    clock: Clock,
    evaluator: Evaluator,
    config: Option<Outline>,
}

impl OfflineReads {
    /// Opens it. The configuration, if it is at hand, says which upstreams there are and what to hide.
    ///
    /// # Errors
    /// Why it can't be opened; the log's own error is passed on, so that a held lock can be told apart.
    pub fn open(data: &Path, config: Option<Outline>) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let log = Arc::new(OfflineLog::open(data, clock.clone())?);
        let offline = Offline::open(&data.join("state"), &*log)?;
        let evaluator = Evaluator::start(crate::expr::Settings::standard());
        Ok(Self { data: data.to_owned(), log, offline, clock, evaluator, config })
    }
}

impl Reads for OfflineReads {
    fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String> {
        let live = |name: &str| {
            let is_configured = |config: &Outline| config.upstreams.contains(name);
            self.config.as_ref().is_none_or(is_configured) || self.offline.state.is_registered(name)
        };
        let one = |planned: &PlannedFor| match self.offline.state.view(planned.event, &live) {
            Ok(found) => Ok(view(&*self.log, &planned.upstreams, &found)),
            Err(error) => Err(error.to_string()),
        };
        events.iter().map(one).collect()
    }

    fn records(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Target>, String> {
        let listed = self.offline.state.list(state, upstream, after, limit);
        Ok(listed.into_iter().map(|one| Target { event: one.event, upstream: (&*one.upstream).into() }).collect())
    }

    fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Result<QueueCount, String> {
        Ok(queue(&self.offline.state, states, since))
    }

    fn stored_at(&self, event: Seq) -> Result<Option<Seq>, String> {
        let at = self.offline.state.stored_at(event).map_err(|error| error.to_string())?;
        Ok(Some(at).filter(|at| *at != event))
    }

    fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        self.offline.state.carried_before(before, limit).map_err(|error| error.to_string())
    }

    fn filter(&self, expression: &str) -> Result<Predicate, String> {
        filter(expression, self.evaluator.clone())
    }

    fn route(&self, name: &str) -> Option<RouteFilter> {
        let route = self.config.as_ref()?.routes.iter().find(|route| &*route.name == name)?;
        Some(route_filter(route, self.evaluator.clone()))
    }

    fn decoded(&self, event: &Event, body: Bytes) -> Bytes {
        decoded(event, body)
    }

    fn hidden_names(&self) -> HiddenNames {
        self.config.as_ref().map(|config| hidden_names(&config.privacy)).unwrap_or_default()
    }

    fn masked(&self, event: &Event, body: Bytes) -> Result<Bytes, String> {
        let hide = self.config.as_ref().map_or(&[][..], |config| &config.privacy.hide);
        masked(hide, event, body)
    }

    fn masked_beginning(&self, body: Bytes) -> Option<Bytes> {
        let hide = self.config.as_ref().map_or(&[][..], |config| &config.privacy.hide);
        Mask::apply_to_json(hide, body)
    }

    fn quarantine(&self) -> Arc<Quarantine> {
        Arc::new(Quarantine::open_for_reading(&self.data.join("quarantine")))
    }

    fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        Ok(self.offline.state.audited(before, limit))
    }

    fn config_hash(&self, generation: u64) -> Option<String> {
        Hashes::open(&self.data).of(generation).map(str::to_owned)
    }

    fn routed(&self, _event: &Event, _body: &[u8]) -> Result<Vec<Box<str>>, String> {
        Err("the instance does not run".to_owned())
    }
}
