//! Owns planning: which upstreams an event goes to, decided once, with one routing snapshot.
//!
//! Promises to be pure: expressions that can't run away are evaluated here, the answers of the others are arguments.
//! Deliberately absent: transforms. They run for each attempt, in `delivery`.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::{
    event::{Body, Event, Reason, topic_of_source},
    expr::{EvalError, Evaluator, Input},
    routing::{OnFailure, OrderPolicy, Priority, Route, Table},
};

/// One routing snapshot, with its routes sorted by source.
pub struct Routes {
    /// The snapshot.
    pub table: Arc<Table>,
    by_source: HashMap<Box<str>, Vec<usize>>,
    /// Sources whose senders wait, and for whom.
    awaited: HashMap<Box<str>, Box<str>>,
    for_all: Vec<usize>,
    /// By upstream; those without an order are not here.
    orders: HashMap<Box<str>, Arc<Orders>>,
    /// Some route has another priority than the normal one.
    has_priorities: bool,
}

/// What routes say about the order of one upstream's deliveries. All routes from a source to an upstream say the same:
/// the configuration refuses others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The policies.
    pub policies: Vec<Arc<OrderPolicy>>,
    by_source: HashMap<Box<str>, u16>,
    /// For sources that are not configured any more.
    for_all: Option<u16>,
}

impl Orders {
    /// What the routes to this upstream say. None if none of them asks for an order.
    fn new(table: &Table, upstream: &str) -> Option<Self> {
        let leading = || table.routes.iter().filter(|route| route.leads_to(upstream));
        if leading().all(|route| route.order.is_none()) {
            return None;
        }
        let mut orders = Self::default();
        for source in table.source_names() {
            let policy = leading().find(|route| route.takes(&source)).and_then(|route| route.order.as_ref());
            if let Some(number) = policy.map(|policy| orders.number(policy)) {
                orders.by_source.insert(source.into(), number);
            }
        }
        let policy = leading().find(|route| route.sources.is_none()).and_then(|route| route.order.as_ref());
        orders.for_all = policy.map(|policy| orders.number(policy));
        Some(orders)
    }

    fn number(&mut self, policy: &Arc<OrderPolicy>) -> u16 {
        let known = self.policies.iter().position(|known| known == policy);
        let number = known.unwrap_or_else(|| {
            self.policies.push(policy.clone());
            self.policies.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// The policy for events of a source, and its number.
    #[must_use]
    pub fn of(&self, source: &str) -> Option<(u16, &OrderPolicy)> {
        let for_all = || self.for_all.filter(|_| topic_of_source(source).is_none());
        let number = self.by_source.get(source).copied().or_else(for_all)?;
        Some((number, self.policies.get(usize::from(number))?))
    }

    /// Whether dead deliveries keep those behind them waiting.
    #[must_use]
    pub fn parks(&self) -> bool {
        self.policies.iter().any(|policy| policy.on_failure == OnFailure::Park)
    }
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
    /// Of these, one that is settled before it begins: its sender had its answer from another.
    pub answered: Option<Box<str>>,
    /// All others are held before they begin.
    pub held: Option<Reason>,
    /// A route took it and discarded it on purpose.
    pub ignored: bool,
    /// Of the targets, those that are not of normal priority.
    pub priorities: Vec<(Box<str>, Priority)>,
}

impl Decision {
    /// Whether a delivery is dead before it begins.
    fn is_dead(&self, upstream: &str) -> bool {
        self.dead.iter().any(|(name, _)| **name == *upstream)
    }

    /// Whether a delivery is over before it begins.
    #[must_use]
    pub fn is_settled(&self, upstream: &str) -> bool {
        self.is_dead(upstream) || self.answered.as_deref() == Some(upstream)
    }

    /// The priority of a target.
    #[must_use]
    pub fn priority(&self, upstream: &str) -> Priority {
        let found = self.priorities.iter().find(|(name, _)| **name == *upstream);
        found.map_or(Priority::Normal, |(_, priority)| *priority)
    }
}

impl Routes {
    /// Sorts a snapshot's routes by source.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Self {
        let for_all = (0..).zip(&table.routes).filter(|(_, route)| route.sources.is_none()).map(|(index, _)| index);
        let for_all: Vec<usize> = for_all.collect();
        let mut by_source: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for source in table.source_names() {
            let routes = (0..).zip(&table.routes).filter(|(_, route)| route.takes(&source)).map(|(index, _)| index);
            let routes = routes.collect();
            by_source.insert(source.into(), routes);
        }
        let has_priorities = table.routes.iter().any(|route| route.priority != Priority::Normal);
        let orders =
            table.upstreams.keys().filter_map(|name| Some((name.clone(), Arc::new(Orders::new(&table, name)?))));
        let orders = orders.collect();
        let waits = table.sources.iter().filter_map(|source| Some((source, source.wait.as_ref()?)));
        let awaited = waits.map(|(source, wait)| ((&*source.name).into(), wait.reply_from.clone())).collect();
        Self { table, by_source, awaited, for_all, orders, has_priorities }
    }

    /// What is said about the order of an upstream's deliveries.
    #[must_use]
    pub fn orders(&self, upstream: &str) -> Option<&Arc<Orders>> {
        self.orders.get(upstream)
    }

    /// The upstream whose answer the sender of a source's event waits for.
    pub(super) fn awaited(&self, source: &str) -> Option<&str> {
        if self.awaited.is_empty() { None } else { self.awaited.get(source).map(|name| &**name) }
    }

    /// Decides about an event. `answers` are those to an earlier [`Verdict::Ask`].
    #[must_use]
    pub fn plan(&self, event: &Event, evaluator: &Evaluator, answers: &[(usize, Answer)]) -> Verdict {
        if event.extras.as_ref().is_some_and(|extras| extras.stored_only) {
            return Verdict::Decided(Decision { ignored: true, ..Decision::default() });
        }
        let routes = match self.by_source.get(&event.source) {
            Some(routes) => &routes[..],
            None if topic_of_source(&event.source).is_some() => &[],
            None => &self.for_all[..],
        };
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
            None => {
                let mut decision = decide(&matched, &failed);
                if self.has_priorities {
                    decision.priorities = priorities(&decision.targets, &matched);
                }
                Verdict::Decided(as_the_door_said(event, decision))
            }
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

/// The most urgent of the routes that match decides.
fn priorities(targets: &[Box<str>], matched: &[&Route]) -> Vec<(Box<str>, Priority)> {
    let of = |name: &str| matched.iter().filter(|route| route.leads_to(name)).map(|route| route.priority).min();
    let targets = targets.iter().filter_map(|name| Some((name.clone(), of(name)?)));
    targets.filter(|(_, priority)| *priority != Priority::Normal).collect()
}

/// What was decided about the event when it came in: part of a loop, or beyond what its tenant may send.
fn as_the_door_said(event: &Event, mut decision: Decision) -> Decision {
    let Some(extras) = &event.extras else { return decision };
    if let Some(why) = &extras.cut {
        for upstream in decision.targets.clone() {
            add_dead(&mut decision, &upstream, Reason::with("loop", why));
        }
    }
    let answered = extras.cached.as_ref().and_then(|cached| cached.upstream.clone());
    decision.answered = answered.filter(|name| decision.targets.contains(name) && !decision.is_dead(name));
    decision.held = extras.hold.as_deref().map(Reason::new);
    decision
}

fn add_dead(decision: &mut Decision, upstream: &str, reason: Reason) {
    if decision.dead.iter().all(|(name, _)| **name != *upstream) {
        decision.dead.push((upstream.into(), reason));
    }
}
