//! Owns the keys of an upstream that say what follows from its deliveries (`publish`, `publish_type`, `notify_dead`), or that it is the
//! shadow of another (`shadow`, `shadow_of`, `shadow_memory`).

use std::{collections::HashMap, sync::Arc};

use super::{
    context::Context,
    failure::answer_expression,
    problem::Place,
    reader::{Section, suggestion},
    server::Server,
    tree::Value,
};
use crate::routing::{AnswerPolicy, NotifyPolicy, PublishPolicy, Route, ShadowPolicy, Upstream};

/// What has no meaning for copies that are sent once and never judged.
const NO_SHADOW_HAS: [&str; 15] = [
    "retry",
    "replay_share",
    "breaker",
    "rate",
    "burst",
    "rate_headers",
    "soft_bounce",
    "batch",
    "failure",
    "accept",
    "fallback",
    "publish",
    "publish_type",
    "notify_dead",
    "notify_dead_max",
];

/// The most notices of an upstream in a minute.
pub(super) const NOTICES_MAX: u64 = 10_000;

/// What good answers become.
pub(super) fn publish(section: &Section<'_>) -> Option<PublishPolicy> {
    let topic = section.text("publish").map(Box::from);
    let event_type = answer_expression(section, "publish_type");
    if section.has("publish_type") && !section.has("publish") {
        section.problem("publish_type", "has no effect without publish; add publish = \"TOPIC\" or remove it");
    }
    Some(PublishPolicy { topic: topic?, event_type })
}

/// Whether its dead deliveries are told of; what is not written is as `[server]` says.
pub(super) fn notify(section: &Section<'_>, server: &Server) -> Option<NotifyPolicy> {
    let most = section.optional_count("notify_dead_max", 1..=NOTICES_MAX).unwrap_or(server.notify_dead_max);
    let topic = match section.value("notify_dead") {
        None => server.notify_dead.clone(),
        Some(Value::Flag(false)) => {
            section.print("notify_dead", "false");
            None
        }
        Some(_) => section.text("notify_dead").map(Box::from),
    };
    if topic.is_none() && section.has("notify_dead_max") {
        section
            .problem("notify_dead_max", "has no effect without notify_dead; add notify_dead = \"TOPIC\" or remove it");
    }
    Some(NotifyPolicy { topic: topic?, per_minute: u32::try_from(most).unwrap_or(u32::MAX) })
}

/// Whether it is a shadow, and whose.
pub(super) fn shadow(section: &Section<'_>) -> Option<ShadowPolicy> {
    let of = section.text("shadow_of").map(Box::from);
    if !section.flag("shadow", false) {
        for key in ["shadow_of", "shadow_memory"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, "has no effect without shadow = true; add that or remove it");
        }
        return None;
    }
    let memory = section.size("shadow_memory", "16MiB");
    if !(1 << 20..=1 << 30).contains(&memory) {
        section.problem("shadow_memory", "must lie between 1MiB and 1GiB");
    }
    for key in NO_SHADOW_HAS.into_iter().filter(|key| section.has(key)) {
        section.problem(key, "has no effect on a shadow: a copy is sent once at most and never judged; remove it");
    }
    if section.is_list("url") {
        section.problem("url", "is a list; a shadow has one url");
    }
    Some(ShadowPolicy { of, memory })
}

/// Takes shadows out of the upstreams and out of what routes lead to. Gives them by the names of those they belong to.
pub(super) fn part_shadows<'r>(
    cx: &Context<'_>,
    upstreams: &mut Vec<(Upstream, Place)>,
    routes: impl Iterator<Item = &'r mut Route>,
) -> HashMap<Box<str>, Vec<Arc<Upstream>>> {
    let mut shadows = HashMap::new();
    if upstreams.iter().all(|(upstream, _)| upstream.shadow.is_none()) {
        return shadows;
    }
    let (parted, real) = std::mem::take(upstreams).into_iter().partition(|(upstream, _)| upstream.shadow.is_some());
    *upstreams = real;
    let parted: Vec<(Upstream, Place)> = parted;
    let mut routes: Vec<&mut Route> = routes.collect();
    let is_shadow = |name: &str| parted.iter().any(|(shadow, _)| *shadow.name == *name);
    for (upstream, place) in &*upstreams {
        for other in upstream.answers.iter().flat_map(AnswerPolicy::others).filter(|other| is_shadow(other)) {
            let message = format!("leads to {other}, which is a shadow and gets copies only; name another upstream");
            cx.problem(place, &format!("upstream.{}", upstream.name), message);
        }
    }
    for (shadow, place) in &parted {
        let beside = routes.iter().filter(|route| route.leads_to(&shadow.name));
        let beside: Vec<Vec<&str>> =
            beside.map(|route| route.to.iter().map(|name| &**name).filter(|name| !is_shadow(name)).collect()).collect();
        match real_one(shadow, &beside, upstreams) {
            Ok(real) => shadows.entry(real.into()).or_insert_with(Vec::new).push(Arc::new(shadow.clone())),
            Err((key, message)) => cx.problem(place, &format!("upstream.{}.{key}", shadow.name), message),
        }
    }
    for route in &mut routes {
        route.to.retain(|name| !is_shadow(name));
    }
    shadows
}

/// Whose shadow it is; `beside` is what else the routes lead to that name it.
fn real_one<'u>(
    shadow: &'u Upstream,
    beside: &[Vec<&'u str>],
    upstreams: &'u [(Upstream, Place)],
) -> Result<&'u str, (&'static str, String)> {
    let said = shadow.shadow.as_ref().and_then(|policy| policy.of.as_deref());
    let real = match (said, beside.iter().flatten().next()) {
        (Some(name), _) => name,
        (None, Some(first)) if beside.iter().flatten().all(|name| name == first) => first,
        _ => {
            return Err((
                "shadow_of",
                "is missing; name the upstream whose answers are compared, unless all routes that name the shadow \
                 lead to one other upstream"
                    .to_owned(),
            ));
        }
    };
    if beside.iter().any(|names| !names.contains(&real)) {
        let message = format!("a route leads to the shadow and not to {real}: it would get nothing; add {real} there");
        return Err(("shadow", message));
    }
    let Some((upstream, _)) = upstreams.iter().find(|(upstream, _)| *upstream.name == *real) else {
        let hint = suggestion(real, upstreams.iter().map(|(upstream, _)| &*upstream.name));
        return Err(("shadow_of", format!("names no upstream that gets deliveries: \"{real}\"; {hint}")));
    };
    if upstream.batch.is_some() {
        return Err((
            "shadow_of",
            format!("names {real}, which takes batches or is files: there is nothing to compare"),
        ));
    }
    Ok(real)
}
