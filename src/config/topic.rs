//! Owns the keys of `[topic.NAME]` and `[subscriber.NAME]`: what routes publish under, and who gets it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    context::Context,
    problem::Place,
    reader::{Section, suggestion},
    server::Server,
    settings::StoreSettings,
    source::{check_name, expression},
    subscribers::patience_of,
    tree::Value,
    upstream::{self, MachineRoots},
    verify::secrets,
};
use crate::{
    alert::TOPIC,
    event::OWN_TOPICS,
    routing::{LoopRule, Route, SignPolicy, Subscriber, Topic, Types, Upstream, subscriber_name},
    verify::Signer,
};

/// The most subscribers of one topic: each is an upstream.
const SUBSCRIBERS_MAX: u64 = 10_000;

/// Topics and their subscribers.
pub(super) struct Topics {
    topics: Vec<(Topic, Place)>,
    subscribers: Vec<(Box<str>, Subscriber, Place)>,
    /// What `[server]` says for all upstreams.
    notify_dead: Option<Box<str>>,
}

impl Topics {
    /// Reads every topic and subscriber; those with problems are left out.
    /// `alerts_go_out`: the topic of alerts is needed in any case.
    pub(super) fn read(
        root: &Section<'_>,
        server: &Server,
        store: &StoreSettings,
        machine: &MachineRoots,
        alerts_go_out: bool,
    ) -> Self {
        let topics = root.named_sections("topic").into_iter().map(|(name, section)| topic(name, section));
        let mut topics: Vec<_> = topics.collect();
        topics.push((alerts(), root.place.clone()));
        let sections = root.named_sections("subscriber").into_iter();
        let subscribers =
            sections.filter_map(|(name, section)| subscriber(name, section, &topics, server, store, machine));
        let subscribers: Vec<_> = subscribers.collect();
        let wanted = alerts_go_out || subscribers.iter().any(|(_, subscriber, _)| *subscriber.topic == *TOPIC);
        if !wanted {
            topics.pop();
        }
        Self { subscribers, topics, notify_dead: server.notify_dead.clone() }
    }

    /// The names of all topics.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|(topic, _)| &*topic.name)
    }

    /// The names of the upstreams of all subscribers.
    pub(super) fn subscribers(&self) -> impl Iterator<Item = &str> {
        self.subscribers.iter().map(|(_, subscriber, _)| &*subscriber.upstream.name)
    }

    /// What is wrong with the name of a topic that nobody declares.
    pub(super) fn unknown(&self, name: &str) -> Option<String> {
        unknown(name, &self.topics)
    }

    /// Records topics that routes name and nobody declares.
    pub(super) fn check_names(
        &self,
        cx: &Context<'_>,
        routes: &[(Route, Place)],
        upstreams: &[(Upstream, Place)],
        whole: &Place,
    ) {
        if let Some(problem) = self.notify_dead.as_deref().and_then(|topic| self.unknown(topic)) {
            cx.problem(whole, "server.notify_dead", problem);
        }
        for (key, upstream, place) in self.all_upstreams(upstreams) {
            let own = published_by(upstream).filter(|(word, topic)| {
                *word != "notify_dead" || self.notify_dead.as_deref().is_none_or(|usual| usual != *topic)
            });
            for (word, topic) in own {
                if let Some(problem) = self.unknown(topic) {
                    cx.problem(place, &format!("{key}.{word}"), problem);
                }
            }
        }
        for (route, place) in routes {
            let Some(topic) = &route.topic else { continue };
            if **topic == *TOPIC {
                let message = format!("publishes under {TOPIC}, where only the relay's own alerts belong");
                cx.problem(place, &format!("route.{}", route.name), message);
            }
            if let Some(problem) = self.unknown(topic) {
                cx.problem(place, &format!("route.{}", route.name), problem);
            }
        }
    }

    /// All upstreams, subscribers too, with the keys of their sections.
    fn all_upstreams<'a>(
        &'a self,
        upstreams: &'a [(Upstream, Place)],
    ) -> impl Iterator<Item = (String, &'a Upstream, &'a Place)> {
        let own = upstreams.iter().map(|(upstream, place)| (format!("upstream.{}", upstream.name), upstream, place));
        let subscribers = self.subscribers.iter();
        own.chain(subscribers.map(|(name, one, place)| (format!("subscriber.{name}"), &*one.upstream, place)))
    }

    /// Records topics with too many subscribers, and warns of those that nothing is published under.
    pub(super) fn check(&self, cx: &Context<'_>, routes: &[(Route, Place)], upstreams: &[(Upstream, Place)]) {
        let by_relay = self.all_upstreams(upstreams).flat_map(|(_, upstream, _)| published_by(upstream));
        let published = routes.iter().filter_map(|(route, _)| route.topic.as_deref());
        let published: HashSet<&str> = published.chain(by_relay.map(|(_, topic)| topic)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, subscriber, place) in &self.subscribers {
            *counts.entry(&subscriber.topic).or_default() += 1;
            // The relay itself publishes there.
            let is_own = subscriber.topic.starts_with(OWN_TOPICS);
            if !published.contains(&*subscriber.topic) && !is_own {
                let message = format!("nothing is published under topic {}: it gets nothing", subscriber.topic);
                cx.warn(place, &format!("subscriber.{name}"), message);
            }
        }
        for (topic, place) in &self.topics {
            let count = counts.get(&*topic.name).copied().unwrap_or_default();
            if count > topic.max_subscribers {
                let message = format!("is {}, but {count} subscribers are configured; raise it", topic.max_subscribers);
                cx.problem(place, &format!("topic.{}.max_subscribers", topic.name), message);
            }
        }
    }

    /// What is left of the sections when all is checked.
    pub(super) fn into_parts(self) -> (Vec<Topic>, Vec<Subscriber>) {
        let topics = self.topics.into_iter().map(|(topic, _)| topic).collect();
        (topics, self.subscribers.into_iter().map(|(_, subscriber, _)| subscriber).collect())
    }
}

/// The topic that is there without a section.
fn alerts() -> Topic {
    let max_subscribers = usize::try_from(SUBSCRIBERS_MAX).unwrap_or(usize::MAX);
    Topic { name: TOPIC.into(), max_subscribers, max_hops: LoopRule::standard().max_hops }
}

/// The topics that the relay publishes under because of an upstream, and the keys that say so.
fn published_by(upstream: &Upstream) -> impl Iterator<Item = (&'static str, &str)> {
    let answers = upstream.publish.iter().map(|policy| ("publish", &*policy.topic));
    answers.chain(upstream.notify.iter().map(|policy| ("notify_dead", &*policy.topic)))
}

fn topic(name: &str, section: Section<'_>) -> (Topic, Place) {
    check_name(&section, "", name);
    if name == TOPIC {
        section.problem("", "is the relay's own topic and there without a section; remove it");
    }
    let most = section.count("max_subscribers", 1_000, 1..=SUBSCRIBERS_MAX);
    let usual = LoopRule::standard().max_hops;
    let hops = section.count("max_hops", u64::from(usual), 1..=1000);
    let place = section.place.clone();
    section.finish();
    let max_subscribers = usize::try_from(most).unwrap_or(usize::MAX);
    let max_hops = u32::try_from(hops).unwrap_or(usual);
    (Topic { name: name.into(), max_subscribers, max_hops }, place)
}

fn unknown(name: &str, topics: &[(Topic, Place)]) -> Option<String> {
    let names = topics.iter().map(|(topic, _)| &*topic.name);
    if names.clone().any(|known| *known == *name) {
        return None;
    }
    Some(format!("names the unknown topic \"{name}\"; {}", suggestion(name, names)))
}

fn subscriber(
    name: &str,
    section: Section<'_>,
    topics: &[(Topic, Place)],
    server: &Server,
    store: &StoreSettings,
    machine: &MachineRoots,
) -> Option<(Box<str>, Subscriber, Place)> {
    let topic = section.text("topic");
    match topic {
        None if section.has("topic") => {}
        None => section.problem("topic", "is missing; name the topic whose events it gets"),
        Some(topic) => {
            if let Some(problem) = unknown(topic, topics) {
                section.problem("topic", problem);
            }
        }
    }
    let types = section.words("types").and_then(|words| {
        section.print_words("types", words.iter().map(|(word, _)| word));
        section.accept("types", Types::new(words.iter().map(|(word, _)| Box::from(*word))))
    });
    let when = expression(&section, "when");
    let secrets = section.has("secrets").then(|| signed(&section));
    let disable_after = patience_of(&section, None);
    let read = upstream::one(name, &section, server, store, machine);
    let (place, cx) = (section.place.clone(), section.cx);
    section.finish();
    let upstream = read?;
    let sign = match secrets {
        Some(policy) => Some(policy?),
        None => upstream.sign.clone(),
    };
    if upstream.shadow.is_some() {
        cx.problem(&place, &format!("subscriber.{name}.shadow"), "is for an upstream; a subscriber gets deliveries");
    }
    let topic: Box<str> = topic?.into();
    let upstream = Arc::new(Upstream { name: subscriber_name(&topic, name).into(), sign, disable_after, ..upstream });
    Some((name.into(), Subscriber { topic, types, when, upstream }, place))
}

/// `secrets`: deliveries are signed as Standard Webhooks says.
pub(super) fn signed(section: &Section<'_>) -> Option<SignPolicy> {
    let is_auto = |value: &Value| matches!(value, Value::Text(text) if text == "auto");
    if section.value("sign").is_some_and(|value| !is_auto(value)) {
        section.problem("secrets", "can't stand beside sign, which has secrets of its own; remove one of the two");
    }
    let found = secrets(section, "secrets")?;
    for advice in Signer::advice(&found) {
        section.warn("secrets", advice);
    }
    section.accept("secrets", SignPolicy::standard_webhooks(&found))
}
