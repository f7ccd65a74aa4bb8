//! Owns topics: names that routes publish events under, and how each subscriber of a topic becomes an upstream and
//! routes that lead to it.
//!
//! Promises that a subscriber is an upstream like any other (its own queue, retries, breaker), so that a slow one
//! delays nobody, and that subscribers that want everything cost no evaluation. Deliberately absent: where
//! subscribers come from.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{Route, Table, Upstream};
use crate::{
    event::topic_source,
    expr::{CompileError, Expr},
};

/// What stands between the name of a topic and that of its subscriber in the name of the upstream.
const SEPARATOR: char = '/';

/// The longest pattern of a type, in bytes.
pub const TYPE_BYTES_MAX: usize = 256;

/// A topic: what routes publish under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Box<str>,
    /// Subscribers at once; more are refused.
    pub max_subscribers: usize,
    /// An event that the relay publishes after so many relays and answers is a loop.
    pub max_hops: u32,
}

/// Which types of events are wanted: names, or beginnings followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Types(Box<[Box<str>]>);

/// Why patterns of types are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypesError {
    /// There is none.
    #[error("is empty, so that nothing is wanted; leave it out to get every type")]
    Empty,
    /// One is no pattern.
    #[error("takes names of types of at most {TYPE_BYTES_MAX} bytes, with * at the end at most, such as \"invoice.*\"")]
    Pattern,
}

impl Types {
    /// From patterns such as `invoice.paid` and `invoice.*`.
    ///
    /// # Errors
    /// [`TypesError`].
    pub fn new(patterns: impl IntoIterator<Item = Box<str>>) -> Result<Self, TypesError> {
        let patterns: Box<[Box<str>]> = patterns.into_iter().collect();
        let fits = |pattern: &str| {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            !pattern.is_empty() && pattern.len() <= TYPE_BYTES_MAX && !name.contains('*')
        };
        match patterns.iter().all(|pattern| fits(pattern)) {
            _ if patterns.is_empty() => Err(TypesError::Empty),
            false => Err(TypesError::Pattern),
            true => Ok(Self(patterns)),
        }
    }

    /// Whether an event of this type is wanted. One without a type is what only `*` takes.
    #[must_use]
    pub fn want(&self, kind: Option<&str>) -> bool {
        let kind = kind.unwrap_or("");
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => **pattern == *kind,
        })
    }
}

/// A subscriber of a topic.
#[derive(Clone)]
pub struct Subscriber {
    /// The topic's name.
    pub topic: Box<str>,
    /// None: every type.
    pub types: Option<Types>,
    /// None: always.
    pub when: Option<Expr>,
    /// Where its events go; named by [`subscriber_name`].
    pub upstream: Arc<Upstream>,
}

/// The name of the upstream that a subscriber is.
#[must_use]
pub fn subscriber_name(topic: &str, name: &str) -> String {
    format!("{topic}{SEPARATOR}{name}")
}

/// The topic, if an upstream of this name is a subscriber.
#[must_use]
pub fn topic_of(upstream: &str) -> Option<&str> {
    upstream.split_once(SEPARATOR).map(|(topic, _)| topic)
}

impl Table {
    /// Adds topics. What the relay itself publishes under one has a source of its own (see [`topic_source`]), with a
    /// route that leads to the topic's subscribers.
    pub fn declare(&mut self, topics: Vec<Topic>) {
        self.routes.extend(topics.iter().map(|topic| {
            let source = topic_source(&topic.name);
            let sources = Some(vec![source.as_str().into()]);
            Route { sources, topic: Some(topic.name.clone()), ..Route::new(&source, Vec::new()) }
        }));
        self.topics.extend(topics);
    }

    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.iter().find(|topic| *topic.name == *name)
    }

    /// The names of all sources there are, topics included.
    pub fn source_names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let topics = self.topics.iter().map(|topic| Cow::Owned(topic_source(&topic.name)));
        self.sources.iter().map(|source| Cow::Borrowed(&*source.name)).chain(topics)
    }

    /// Adds subscribers: each is an upstream, and every route that publishes under its topic leads to it as well. Those
    /// that want everything are added to the route itself; of the others, those with the same wishes share one route.
    ///
    /// # Errors
    /// The condition of a route and that of a subscriber make no expression together; the table is not to be used.
    pub fn subscribe(&mut self, subscribers: &[Subscriber]) -> Result<(), CompileError> {
        let mut by_topic: HashMap<&str, Vec<&Subscriber>> = HashMap::new();
        for subscriber in subscribers {
            by_topic.entry(&subscriber.topic).or_default().push(subscriber);
            self.upstreams.insert((&*subscriber.upstream.name).into(), subscriber.upstream.clone());
        }
        let mut derived = Vec::new();
        for route in &mut self.routes {
            let Some(wanted) = route.topic.as_deref().and_then(|topic| by_topic.get(topic)) else { continue };
            lead(route, wanted, &mut derived)?;
        }
        self.routes.append(&mut derived);
        self.note_marks();
        Ok(())
    }

    /// No route leads to a subscriber any more, since it is disabled. It is still there: what is under way is finished.
    pub fn silence(&mut self, upstream: &str) {
        for route in &mut self.routes {
            route.to.retain(|name| **name != *upstream);
        }
    }
}

/// Leads a route on to the subscribers of its topic.
fn lead(route: &mut Route, subscribers: &[&Subscriber], derived: &mut Vec<Route>) -> Result<(), CompileError> {
    let base = Route { topic: None, to: Vec::new(), ..route.clone() };
    let mut groups: HashMap<(Option<&Types>, Option<&str>), Route> = HashMap::new();
    let mut order = Vec::new();
    for subscriber in subscribers {
        let to: Box<str> = (&*subscriber.upstream.name).into();
        let wishes = (subscriber.types.as_ref(), subscriber.when.as_ref().map(Expr::text));
        if wishes == (None, None) {
            route.to.push(to);
        } else if let Some(group) = groups.get_mut(&wishes) {
            group.to.push(to);
        } else {
            let name = format!("{}{SEPARATOR}{to}", route.name).into();
            let when = both(base.when.as_ref(), subscriber.when.as_ref())?;
            let types = subscriber.types.clone();
            groups.insert(wishes, Route { name, when, types, to: vec![to], ..base.clone() });
            order.push(wishes);
        }
    }
    derived.extend(order.iter().filter_map(|wishes| groups.remove(wishes)));
    Ok(())
}

/// Both conditions as one. Each stands in lines of its own: it may end with a comment.
fn both(one: Option<&Expr>, other: Option<&Expr>) -> Result<Option<Expr>, CompileError> {
    match (one, other) {
        (Some(one), Some(other)) => {
            Expr::compile(&format!("(\n{}\n) and (\n{}\n)", one.text(), other.text())).map(Some)
        }
        (one, other) => Ok(one.or(other).cloned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{TableParts, Target, tests::limits};

    fn types(patterns: &[&str]) -> Result<Types, TypesError> {
        Types::new(patterns.iter().map(|pattern| Box::from(*pattern)))
    }

    fn subscriber(name: &str, patterns: &[&str], when: &str) -> Subscriber {
        let target = Target::Http("http://127.0.0.1:1".parse().unwrap());
        Subscriber {
            topic: "orders".into(),
            types: types(patterns).ok(),
            when: Expr::compile(when).ok().filter(|_| !when.is_empty()),
            upstream: Arc::new(Upstream::new(&subscriber_name("orders", name), target)),
        }
    }

    fn table(routes: Vec<Route>) -> Table {
        Table::new(TableParts {
            generation: 0,
            hash: String::new(),
            sources: Vec::new(),
            routes,
            upstreams: HashMap::new(),
            limits: limits(),
        })
    }

    #[test]
    fn types_are_names_or_beginnings() {
        let wanted = types(&["invoice.*", "paid"]).unwrap();
        assert!(wanted.want(Some("invoice.paid")) && wanted.want(Some("invoice.")) && wanted.want(Some("paid")));
        assert!(!wanted.want(Some("invoice")) && !wanted.want(Some("paid.late")) && !wanted.want(None));
        assert!(types(&["*"]).unwrap().want(None));
        assert_eq!(types(&[]), Err(TypesError::Empty));
        for pattern in ["", "a*b", "*.paid", "**", &"x".repeat(257)] {
            assert_eq!(types(&[pattern]), Err(TypesError::Pattern), "{pattern}");
        }
    }

    #[test]
    fn subscribers_with_the_same_wishes_share_a_route_and_those_without_join_the_routes_of_their_topic() {
        let publish = |name: &str| Route { topic: Some("orders".into()), ..Route::new(name, vec!["u".into()]) };
        let mut conditional = publish("two");
        conditional.when = Expr::compile(".a # why").ok();
        let mut table = table(vec![publish("one"), conditional, Route::new("three", vec!["u".into()])]);
        let subscribers = [
            subscriber("all", &[], ""),
            subscriber("paid", &["paid"], ""),
            subscriber("also", &["paid"], ""),
            subscriber("some", &[], ".b"),
        ];
        table.subscribe(&subscribers).unwrap();
        let shown: Vec<String> = table
            .routes
            .iter()
            .map(|route| {
                let when = route.when.as_ref().map_or("", Expr::text).replace('\n', " ");
                format!("{}: {} [{when}]", route.name, route.to.join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            [
                "one: u orders/all []",
                "two: u orders/all [.a # why]",
                "three: u []",
                "one/orders/paid: orders/paid orders/also []",
                "one/orders/some: orders/some [.b]",
                "two/orders/paid: orders/paid orders/also [.a # why]",
                "two/orders/some: orders/some [( .a # why ) and ( .b )]",
            ]
        );
        assert_eq!(table.upstreams.len(), 4);
        table.silence("orders/paid");
        assert!(table.routes.iter().all(|route| !route.leads_to("orders/paid")));
        assert!(table.routes.iter().any(|route| route.leads_to("orders/also")) && table.upstreams.len() == 4);
        assert_eq!((topic_of("orders/all"), topic_of("u")), (Some("orders"), None));
    }
}
