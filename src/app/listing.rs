//! Owns how subscribers are told to operators: from what the log says, what the configuration leaves room for, and the
//! figures of the upstreams that they are.

use std::collections::BTreeMap;

use crate::{
    admin::{shown_secrets, wire::Subscriber},
    clock::Timestamp,
    log::entry::Registration,
    state::{Subscribed, UpstreamStats},
};

/// What stands for a pause without an end: the year 9999.
const NO_END: Timestamp = Timestamp::from_millis(253_370_764_800_000);

/// One that was registered at run time.
pub(super) fn registered(
    registration: &Registration,
    known: &Subscribed,
    off: &BTreeMap<Box<str>, String>,
) -> Subscriber {
    let upstream = registration.upstream();
    let (state, why) = match (off.get(&upstream), known.disabled(&upstream)) {
        (Some(why), _) => ("off", Some(why.clone())),
        (None, Some((why, _))) => ("disabled", Some(why.to_owned())),
        (None, None) => ("active", None),
    };
    let streak = known.streaks.get(&upstream);
    Subscriber {
        topic: registration.topic.to_string(),
        name: registration.name.to_string(),
        upstream: upstream.to_string(),
        url: registration.url.to_string(),
        origin: "run-time".to_owned(),
        state: state.to_owned(),
        why,
        types: registration.types.iter().map(ToString::to_string).collect(),
        when: registration.when.as_deref().map(str::to_owned),
        rate: registration.rate.as_deref().map(str::to_owned),
        secrets: shown_secrets(registration),
        registered_at: Some(Timestamp::from_millis(registration.since_ms)),
        registered_by: Some(registration.by.clone()),
        failing_since: streak.map(|streak| Timestamp::from_millis(streak.since_ms)),
        failures: streak.map_or(0, |streak| streak.attempts),
        ..Subscriber::default()
    }
}

/// One of the configuration, by the name of its upstream.
pub(super) fn configured(upstream: &str, url: &str, known: &Subscribed) -> Subscriber {
    let (topic, name) = upstream.split_once('/').unwrap_or(("", upstream));
    let disabled = known.disabled(upstream);
    let streak = known.streaks.get(upstream);
    Subscriber {
        topic: topic.to_owned(),
        name: name.to_owned(),
        upstream: upstream.to_owned(),
        url: url.to_owned(),
        origin: "config".to_owned(),
        state: if disabled.is_some() { "disabled" } else { "active" }.to_owned(),
        why: disabled.map(|(why, _)| why.to_owned()),
        failing_since: streak.map(|streak| Timestamp::from_millis(streak.since_ms)),
        failures: streak.map_or(0, |streak| streak.attempts),
        ..Subscriber::default()
    }
}

/// With what waits and what is dead, and whether it is paused; `now` in wall and in steady time.
pub(super) fn with_figures(
    one: Subscriber,
    stats: &[UpstreamStats],
    (now, steady): (Timestamp, Timestamp),
) -> Subscriber {
    let Some(stats) = stats.iter().find(|stats| *stats.name == *one.upstream) else { return one };
    let hold = stats.hold.as_ref();
    let paused = hold.filter(|_| one.state == "active");
    let until = |until: Option<Timestamp>| until.map_or(NO_END, |until| now.after(until.since(steady)));
    Subscriber {
        state: if paused.is_some() { "paused".to_owned() } else { one.state },
        why: paused.and_then(|hold| hold.reason.clone()).or(one.why),
        paused_until: hold.map(|hold| until(hold.until)),
        pending: stats.pending + stats.held,
        dead: stats.dead.iter().map(|(_, count)| count).sum(),
        ..one
    }
}
