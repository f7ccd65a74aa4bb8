//! Owns planning: which upstreams an event goes to, decided once, with one routing snapshot.
//!
//! Promises to be pure: expressions that can't run away are evaluated here, the answers of the others are arguments.
//! Deliberately absent: transforms. They run for each attempt, in `delivery`.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::{
    event::{Body, Event, Reason},
    expr::{EvalError, Evaluator, Input},
    routing::{Route, Table},
};

/// One routing snapshot, with its routes sorted by source.
pub struct Routes {
    /// The snapshot.
    pub table: Arc<Table>,
    by_source: HashMap<Box<str>, Vec<usize>>,
    for_all: Vec<usize>,
}

/// A filter's answer: it matched or not, or why there is no answer.
pub type Answer = Result<bool, NoAnswer>;

/// Why a filter did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The expression failed, and would fail again.
    Failed(EvalError),
    /// The event's body is damaged or gone: why.
    Unreadable(String),
    /// For a reason that passes: no evaluator is free, or the system failed to read. It is to be asked again.
    Later(String),
}

impl From<EvalError> for NoAnswer {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Unavailable(why) => Self::Later(why),
            lasting => Self::Failed(lasting),
        }
    }
}

impl NoAnswer {
    /// Why the deliveries of a route are dead whose filter did not answer.
    fn reason(&self, route: &Route) -> Reason {
        match self {
            Self::Failed(error) => Reason::with("filter_failed", format!("route {}: {error}", route.name)),
            Self::Unreadable(why) | Self::Later(why) => Reason::with("body_unreadable", why),
        }
    }
}

/// What routing decided about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These upstreams get it.
    Decided(Decision),
    /// These routes' filters have to be asked first (indexes into the table's routes).
    Ask(Vec<usize>),
    /// A filter could not answer for a reason that passes: plan it again later.
    Later(String),
}

/// Where an event goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Upstreams, each once.
    pub targets: Vec<Box<str>>,
    /// Of these, deliveries that are dead before they begin.
    pub dead: Vec<(Box<str>, Reason)>,
    /// All others are held before they begin.
    pub held: Option<Reason>,
    /// A route took it and discarded it on purpose.
    pub ignored: bool,
}

impl Routes {
    /// Sorts a snapshot's routes by source.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Self {
        let for_all = (0..).zip(&table.routes).filter(|(_, route)| route.sources.is_none()).map(|(index, _)| index);
        let for_all: Vec<usize> = for_all.collect();
        let mut by_source: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for source in &table.sources {
            let routes =
                (0..).zip(&table.routes).filter(|(_, route)| route.takes(&source.name)).map(|(index, _)| index);
            by_source.insert((&*source.name).into(), routes.collect());
        }
        Self { table, by_source, for_all }
    }

    /// Decides about an event. `answers` are those to an earlier [`Verdict::Ask`].
    #[must_use]
    pub fn plan(&self, event: &Event, evaluator: &Evaluator, answers: &[(usize, Answer)]) -> Verdict {
        let routes = self.by_source.get(&event.source).unwrap_or(&self.for_all);
        let mut ask = Vec::new();
        let mut matched: Vec<&Route> = Vec::new();
        let mut failed: Vec<(&Route, &NoAnswer)> = Vec::new();
        let mut own_answers: Vec<(&Route, Answer)> = Vec::new();
        for index in routes {
            let Some(route) = self.table.routes.get(*index) else { continue };
            if !route.wants(event.event_type.as_deref()) {
                continue;
            }
            match (&route.when, answers.iter().find(|(asked, _)| asked == index)) {
                (None, _) | (_, Some((_, Ok(true)))) => matched.push(route),
                (_, Some((_, Ok(false)))) => {}
                (_, Some((_, Err(error)))) => failed.push((route, error)),
                (Some(when), None) => match inline_input(event).and_then(|input| evaluator.now(when, &input)) {
                    None => ask.push(*index),
                    Some(answer) => {
                        own_answers.push((route, answer.map(|output| output.truthy()).map_err(NoAnswer::from)));
                    }
                },
            }
        }
        if !ask.is_empty() {
            return Verdict::Ask(ask);
        }
        for (route, answer) in &own_answers {
            match answer {
                Ok(true) => matched.push(route),
                Ok(false) => {}
                Err(error) => failed.push((route, error)),
            }
        }
        let later = failed.iter().find_map(|(_, why)| if let NoAnswer::Later(why) = why { Some(why) } else { None });
        match later {
            Some(why) => Verdict::Later(why.clone()),
            None => Verdict::Decided(as_the_door_said(event, decide(&matched, &failed))),
        }
    }
}

/// What an expression sees of an event whose body is at hand.
fn inline_input(event: &Event) -> Option<Input<'_>> {
    match &event.body {
        Body::Inline(body) => Some(input(event, body)),
        Body::Parts { .. } => None,
    }
}

/// What an expression sees of an event.
#[must_use]
pub fn input<'a>(event: &'a Event, body: &'a [u8]) -> Input<'a> {
    Input {
        body,
        headers: &event.headers,
        query: event.query.as_deref(),
        path: &event.path,
        captures: &event.captures,
        method: event.method.as_str(),
        source: &event.source,
        id: Some(event.id),
        received_at: event.received_at,
    }
}

fn decide(matched: &[&Route], failed: &[(&Route, &NoAnswer)]) -> Decision {
    let mut decision = Decision::default();
    let mut first: HashMap<&str, &Route> = HashMap::new();
    for route in matched {
        for upstream in &route.to {
            match first.entry(upstream) {
                Entry::Vacant(vacant) => {
                    vacant.insert(route);
                    decision.targets.push(upstream.clone());
                }
                Entry::Occupied(other) if other.get().changes_like(route) => {}
                Entry::Occupied(other) => {
                    let other = other.get();
                    let names = format!("{}, {}", other.name, route.name);
                    add_dead(&mut decision, upstream, Reason::with("conflicting_routes", names));
                }
            }
        }
    }
    for (route, why) in failed {
        for upstream in &route.to {
            // A route that matches without trouble makes the delivery; the failed one can't say that it would not.
            if !first.contains_key(&**upstream) && !decision.targets.contains(upstream) {
                decision.targets.push(upstream.clone());
                add_dead(&mut decision, upstream, why.reason(route));
            }
        }
    }
    decision.ignored =
        decision.targets.is_empty() && matched.iter().any(|route| route.to.is_empty() || route.topic.is_some());
    decision
}

/// What was decided about the event when it came in: part of a loop, or beyond what its tenant may send.
fn as_the_door_said(event: &Event, mut decision: Decision) -> Decision {
    let Some(extras) = &event.extras else { return decision };
    if let Some(why) = &extras.cut {
        for upstream in decision.targets.clone() {
            add_dead(&mut decision, &upstream, Reason::with("loop", why));
        }
    }
    decision.held = extras.hold.as_deref().map(Reason::new);
    decision
}

fn add_dead(decision: &mut Decision, upstream: &str, reason: Reason) {
    if decision.dead.iter().all(|(name, _)| **name != *upstream) {
        decision.dead.push((upstream.into(), reason));
    }
}
