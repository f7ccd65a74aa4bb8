//! Owns the answer to "why is it where it is", in sentences.
//!
//! Promises that every sentence is read from what is stored or configured now; nothing is guessed. Pure.

use std::collections::BTreeMap;

use super::wire::{Attempt, Route, Show, ShownDelivery, Status, Upstream};
use crate::{clock::Timestamp, event::topic_of_source};

/// Explains an event, given the figures of the running instance and the routes that lead it to its upstreams today.
#[must_use]
pub fn explain(show: &Show, status: &Status, led: &BTreeMap<Box<str>, Vec<Route>>, now: Timestamp) -> Vec<String> {
    let mut told = vec![received(show)];
    told.extend(verified(show));
    told.extend(resent(show));
    told.extend(cached(show));
    told.extend(show.event.imported.as_ref().map(|id| format!("It was imported; it had been exported as {id}.")));
    if show.event.deliveries.is_empty() {
        told.push(without_delivery(show));
    }
    told.extend(topics(show));
    for found in &show.event.deliveries {
        let upstream = status.upstreams.iter().find(|upstream| upstream.name == found.upstream);
        told.push(delivery(show, found, upstream, now));
        let routes = led.get(&*found.upstream).into_iter().flatten();
        told.extend(routes.map(|route| routed(show, status, route, &found.upstream)));
        // An upgraded connection's one attempt says how it ended.
        let is_telling = |last: &&Attempt| found.state != "delivered" || last.status == Some(101);
        told.extend(found.reason.as_deref().and_then(rule).map(str::to_owned));
        if let Some(last) = found.attempts.last().filter(is_telling) {
            told.push(tried(last));
        }
        told.extend(found.attempts.last().and_then(signed));
        told.extend(found.published.as_ref().map(|id| format!("The answer of {} became event {id}.", found.upstream)));
        told.extend(upstream.and_then(|upstream| shadows(upstream, found)));
        if matches!(found.state.as_str(), "pending" | "held") {
            told.extend(
                found.waits_for.as_ref().map(|before| {
                    format!("It waits behind event {before}, which has the same key and goes before it.")
                }),
            );
            told.extend(gates(found, upstream));
        }
    }
    told
}

fn resent(show: &Show) -> Option<String> {
    let other = match show.body_differs {
        0 => String::new(),
        differ if differ == show.duplicates => ", with another body, which is not stored".to_owned(),
        differ => format!(", {differ} of them with another body, which is not stored"),
    };
    match show.duplicates {
        0 => None,
        1 => Some(format!("It was sent once more and recognised as a duplicate{other}.")),
        more => Some(format!("It was sent {more} more times and recognised as a duplicate{other}.")),
    }
}

fn received(show: &Show) -> String {
    let event = &show.event;
    let kind = event.event_type.as_deref().map_or(String::new(), |kind| format!(" of type {kind}"));
    if let Some(topic) = topic_of_source(&event.source) {
        let parent = event.parent.as_deref();
        let parent = parent.map_or(String::new(), |parent| format!(", because of event {parent}"));
        let (id, at, size) = (&event.id, event.received_at, event.size);
        return format!(
            "Event {id}{kind} was published by this relay under topic {topic} at {at}{parent}: {size} bytes."
        );
    }
    format!(
        "Event {}{kind} came to source {} at {} from {}: {} {}, {} bytes.",
        event.id, event.source, event.received_at, show.client, event.method, event.path, event.size
    )
}

fn verified(show: &Show) -> Option<String> {
    if topic_of_source(&show.event.source).is_some() {
        return show.config.as_deref().map(|hash| format!("It follows from configuration {hash:.12}."));
    }
    let config = show.config.as_deref().map_or(String::new(), |hash| format!(" (configuration {hash:.12})"));
    Some(match (&show.verification.secret, show.verification.scheme.as_str()) {
        (_, "none") => format!("Its source checks no signature{config}."),
        (Some(secret), scheme) => format!("Its {scheme} signature was made with the secret {secret}{config}."),
        (None, scheme) => format!("It passed the check of {scheme}{config}."),
    })
}

fn cached(show: &Show) -> Option<String> {
    let first = match show.cached.as_ref()?.event.as_deref() {
        Some(event) => format!("event {event} got"),
        None => "an equal request got".to_owned(),
    };
    Some(format!("Its sender got the answer that {first} before, from the source's cache."))
}

fn without_delivery(show: &Show) -> String {
    let event = &show.event;
    match event.state.as_str() {
        "ignored" if show.cached.is_some() => "Nothing was sent for it.".to_owned(),
        "ignored" if event.imported.is_some() => format!(
            "It was imported without `--deliver`: it is stored and goes nowhere. `stagepost replay {}` sends it where today's \
             routes say.",
            event.id
        ),
        "ignored" if matches!(event.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE") => {
            format!("A {} request is handed through once and never delivered from the log.", event.method)
        }
        "ignored" => {
            "A route took it and discarded it on purpose (its `to` is empty, or no subscriber of its topic wanted it)."
                .to_owned()
        }
        "unrouted" => format!(
            "No route wanted it: it is stored and goes nowhere. After a change of the routes, \
             `stagepost replay {}` sends it where they say.",
            event.id
        ),
        _ => "Routing has not decided yet where it goes.".to_owned(),
    }
}

/// The route that decided; certain if the configuration is what it was.
fn routed(show: &Show, status: &Status, route: &Route, upstream: &str) -> String {
    let is_same = show.config.as_deref() == Some(&*status.config.hash);
    let (name, verb) = (&route.name, if is_same { "led it" } else { "would lead it today" });
    let transform = if route.transform.is_some() { "; its `transform` makes the body" } else { "" };
    format!("Route {name} {verb} to {upstream}{transform}.")
}

/// The topics it was published under, by the names of the subscribers that get it.
fn topics(show: &Show) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (topic, _) in show.event.deliveries.iter().filter_map(|found| found.upstream.split_once('/')) {
        *counts.entry(topic).or_default() += 1;
    }
    let told = counts.into_iter().map(|(topic, count)| match count {
        1 => format!("It went to topic {topic}: 1 subscriber wanted it."),
        more => format!("It went to topic {topic}: {more} subscribers wanted it."),
    });
    told.collect()
}

fn delivery(show: &Show, found: &ShownDelivery, state: Option<&Upstream>, now: Timestamp) -> String {
    let (upstream, id) = (&found.upstream, &show.event.id);
    let tries = match found.attempts_total {
        0 => "no attempt was made yet".to_owned(),
        1 => "after 1 attempt".to_owned(),
        more => format!("after {more} attempts"),
    };
    let why = found.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    match found.state.as_str() {
        "delivered" => match found.attempts.last() {
            Some(last) => format!("{upstream} took it at {}, {tries}.", last.at),
            None => format!("{upstream} took it, {tries}."),
        },
        "pending" if found.in_flight => format!("It is being sent to {upstream} at this moment, {tries}."),
        "pending" => match found.due_at {
            Some(due) if due > now => format!("It waits for {upstream}, {tries}; the next attempt is due at {due}."),
            // What stands in the way has its own sentence.
            _ if state.is_some_and(|state| state.breaker == "open" || state.held_since.is_some()) => {
                format!("It waits for {upstream}, {tries}.")
            }
            _ => format!("It waits for {upstream}, {tries}; the next attempt is due now."),
        },
        // Nothing is sent to a subscriber that is not there: a replay would die of the same.
        "dead" if found.reason.as_deref().is_some_and(|reason| reason.starts_with("upstream_removed")) => {
            format!("It was given up for {upstream}, {tries}{why}. Once it is registered again, a replay sends it.")
        }
        "dead" if found.reason.as_deref().is_some_and(|reason| reason.starts_with("subscriber_disabled")) => {
            format!(
                "It was given up for {upstream}, {tries}{why}. After `stagepost subscriber resume`, a replay sends it."
            )
        }
        "dead" => format!(
            "It was given up for {upstream}, {tries}{why}. `stagepost replay {id} --upstream {upstream}` makes it due again."
        ),
        "held" if found.reason.as_deref().is_some_and(|reason| reason.starts_with("upstream_removed")) => {
            format!("It is held: {upstream} is not in the configuration. It goes on when the upstream returns.")
        }
        // What lets it go is said with the rule: a release of this one alone would not.
        "held" if found.reason.as_deref().is_some_and(|reason| reason.starts_with("upstream_held")) => {
            format!("It is held for {upstream}, {tries}{why}.")
        }
        "held" => format!(
            "It is held for {upstream}, {tries}{why}. `stagepost release {id} --upstream {upstream}` lets it go."
        ),
        "review" => format!(
            "{upstream} answered in a way that a person must judge, {tries}{why}. `stagepost resolve {id}` takes the \
             answer for good, `stagepost replay {id} --upstream {upstream}` sends it again."
        ),
        "superseded" if found.reason.as_deref().is_some_and(|reason| reason.starts_with("diverted")) => {
            format!("It went to another upstream in place of {upstream}, {tries}{why}.")
        }
        "superseded" => format!("Another took its place for {upstream}{why}."),
        "ignored"
            if show.cached.as_ref().is_some_and(|cached| cached.upstream.as_deref() == Some(upstream.as_str())) =>
        {
            format!(
                "{upstream} was not asked again. `stagepost replay {id} --upstream {upstream}` sends it all the same."
            )
        }
        "ignored" => format!("It was settled for {upstream} without sending: the transform said so."),
        other => format!("Its delivery to {upstream} is {other}, {tries}{why}."),
    }
}

/// The rule that decided, where the reason does not say it by itself.
fn rule(reason: &str) -> Option<&'static str> {
    let code = reason.split([':', ' ']).next().unwrap_or_default();
    Some(match code {
        "refused" => {
            "What the answer says of the request is final: it is not tried again (`soft_bounce` or a `failure` row of the \
             upstream would say otherwise)."
        }
        "given_up" => "The upstream's `retry` (`give_up_after`, `attempts` or the end of its `schedule`) decided that.",
        "redirect" => "Redirects are not followed: correct `url` or `path` of the upstream.",
        "transform_failed" => "The `transform` of its route decided that; a replay uses today's.",
        "filter_failed" => "The `when` of its route could not be evaluated; a replay does not ask it again.",
        "conflicting" => "Two routes that match want different changes for the same upstream.",
        "unsendable" => "What its route and upstream make of it is no HTTP request.",
        "body_unreadable" => "Its stored body is damaged: `stagepost verify` says where.",
        "upstream_held" => "An operator holds the whole upstream: `stagepost release --upstream` lets all of it go.",
        "operator" => "An operator's command decided that.",
        "loop" => "The `loop` rule of its source decided that: it had come back to this relay.",
        "over_rate" | "over_budget" => "The `tenant` limits of its source decided that, with `over = \"hold\"`.",
        "skipped" => "The `on_failure = { skip = N }` of its route decided that: those behind it of its key went on.",
        "key_parked" => "The `on_failure = \"park\"` of its route decided that.",
        "stale" => "The `version` of its route decided that: a newer one of its key was delivered.",
        "coalesced" => "The `coalesce` of its route decided that: a newer one of its key waited as well.",
        "not_accepted" => "The `accept` of the upstream decided that.",
        "diverted" => "A `failure` row or the `fallback` of the upstream decided that.",
        "policy" => "A `failure` row of the upstream decided that.",
        "answered_error" => {
            "The `on_error = \"pass\"` of its source decided that: the sender has the upstream's error."
        }
        "subscriber_disabled" => "Its subscriber failed for too long and was disabled.",
        "address_refused" => "The `guard` of the upstream decided that: only public addresses are dialled.",
        "unpublishable" => {
            "The `publish` of the upstream decided that: an answer becomes an event whole, at most `max_reply`."
        }
        "unwritable" => "The file or object of the upstream could not be written.",
        "rehearsal" => "A rehearsal decided that: nothing was sent.",
        _ => return None,
    })
}

fn tried(last: &Attempt) -> String {
    let answer = match (last.status, last.error.as_deref()) {
        (Some(status), Some(error)) => format!("answered {status} ({error})"),
        (Some(status), None) => format!("answered {status}"),
        (None, Some(error)) => format!("got no answer ({error})"),
        (None, None) => "got no answer".to_owned(),
    };
    format!("Attempt {} at {} to {} {answer}: {}.", last.number, last.at, last.sent.url, last.outcome)
}

fn signed(last: &Attempt) -> Option<String> {
    let signed = last.sent.signed.as_ref()?;
    let secret = signed.secret.as_deref().map_or(String::new(), |secret| format!(" with the secret {secret}"));
    Some(format!("We signed attempt {} ourselves, as {}{secret}.", last.number, signed.scheme))
}

/// Copies leave no trace: what is known is who was to get one.
fn shadows(upstream: &Upstream, found: &ShownDelivery) -> Option<String> {
    let is_copied = matches!(found.state.as_str(), "delivered" | "dead" | "review" | "superseded");
    (is_copied && !upstream.shadows.is_empty()).then(|| {
        let names = upstream.shadows.join(", ");
        format!(
            "A copy of what {} answered is sent to {names} once at most; nothing is stored about it.",
            upstream.name
        )
    })
}

fn gates(found: &ShownDelivery, upstream: Option<&Upstream>) -> Vec<String> {
    let Some(upstream) = upstream else {
        return vec![format!("No upstream {} is configured now.", found.upstream)];
    };
    let mut told = Vec::new();
    if upstream.held_since.is_some() {
        let reason = upstream.held_reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
        let end = upstream.held_until.map_or("it is released".to_owned(), |until| until.to_string());
        told.push(format!("The upstream {} is held until {end}{reason}.", upstream.name));
    }
    match upstream.breaker.as_str() {
        "open" => told.push(format!(
            "The breaker of {} is open: nothing is sent and no attempt is spent until its cool-down ends.",
            upstream.name
        )),
        "half-open" => told.push(format!("The breaker of {} is half-open: one probe decides.", upstream.name)),
        _ => {}
    }
    if !upstream.targets.is_empty() && upstream.targets.iter().all(|target| target.state == "drained") {
        told.push(format!("Every target of {} is drained: nothing is sent until `stagepost undrain`.", upstream.name));
    }
    told.extend(throttle(upstream));
    if let (Some(fault), Some(until)) = (&upstream.rehearsal, upstream.rehearsal_until) {
        told.push(format!(
            "A rehearsal of {}: attempts fail as if it said {fault}, until {until}. Nothing is sent, and nothing dies of it; \
             `stagepost rehearse {} --stop` ends it.",
            upstream.name, upstream.name
        ));
    }
    told
}

fn throttle(upstream: &Upstream) -> Option<String> {
    let (until, name) = (upstream.throttled_until?, &upstream.name);
    Some(match upstream.throttled_by.as_deref() {
        Some("retry_after") => format!("{name} asked for a pause until {until} (Retry-After)."),
        Some("rate_headers") => format!(
            "Deliveries are held back by what {name} says about its rate in its answers: the next attempt may begin at {until}."
        ),
        Some("handshake") => {
            let said = upstream.handshake.as_deref().unwrap_or("asked");
            format!(
                "{name} has not permitted deliveries (handshake {said}): nothing is sent and no attempt is spent; it is asked \
                 again at {until}, and at a reload."
            )
        }
        Some("allowed_rate") => {
            format!("Deliveries are held back by the rate that {name} permitted in its handshake until {until}.")
        }
        _ => format!("Deliveries are held back by the rate of {name} until {until}."),
    })
}

/// Whether a hold has no end.
#[must_use]
pub fn for_ever(until: Timestamp) -> bool {
    /// 9999-01-01T00:00:00Z.
    const YEAR_9999: u64 = 253_370_764_800_000;
    until.as_millis() >= YEAR_9999
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            fake::{Fake, delivery},
            find,
            led::led,
            show,
        },
        BTreeMap, Status, Timestamp, Upstream, explain,
    };
    use crate::admin::wire::Cached;
    use crate::{
        admin::ports::DeliveryView,
        event::{Reason, Status as Delivered},
    };

    #[test]
    fn one_event_of_an_upstream_that_is_held_is_not_said_to_go_when_it_is_released_alone() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        fake.set(id, delivery("billing", Delivered::Held(Reason::new("upstream_held"))));
        let shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
        let text = explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n");
        assert!(text.contains("`stagepost release --upstream` lets all of it go"), "{text}");
        assert!(!text.contains(&format!("release {id}")), "{text}");
    }

    #[test]
    fn what_died_of_a_subscriber_that_is_gone_is_not_said_to_be_due_after_a_replay() {
        for (code, expected) in [("upstream_removed", "registered again"), ("subscriber_disabled", "subscriber resume")]
        {
            let fake = Fake::default();
            let id = fake.accept("topic:orders", b"{}");
            fake.plan(&[(id, &["orders/crm"])]);
            let last = fake.die(id, "orders/crm", Reason::new(code));
            let status = Delivered::Dead(Reason::new(code));
            fake.set(id, DeliveryView { last: Some(last), ..delivery("orders/crm", status) });
            let shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
            let text = explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n");
            assert!(text.contains(expected) && !text.contains("makes it due again"), "{text}");
        }
    }

    #[test]
    fn the_route_that_led_an_event_to_its_upstream_is_named() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing", "crm"])]);
        let found = find(&fake, id).unwrap();
        let (shown, mut led) = (show(&fake, &found, false).unwrap(), led(&fake, &found));
        let mut status = Status::default();
        let told = explain(&shown, &status, &led, fake.clock()).join("\n");
        assert!(told.contains("Route paid would lead it today to billing.") && !told.contains("to crm."), "{told}");
        status.config.hash = "c0ffee".into();
        led.get_mut("billing").unwrap()[0].transform = Some(".".into());
        let told = explain(&shown, &status, &led, fake.clock()).join("\n");
        assert!(told.contains("Route paid led it to billing; its `transform` makes the body."), "{told}");
    }

    #[test]
    fn a_dead_delivery_is_explained_by_its_last_attempt() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let last = fake.attempt(id, "billing", 3, Some(503), None);
        let status = Delivered::Dead(Reason::with("given_up", "5 days are over"));
        fake.set(id, DeliveryView { last: Some(last), attempts: 3, ..delivery("billing", status) });
        let told = explain(
            &show(&fake, &find(&fake, id).unwrap(), false).unwrap(),
            &Status::default(),
            &BTreeMap::new(),
            fake.clock(),
        );
        let text = told.join("\n");
        for part in
            ["source stripe", "given up for billing, after 3 attempts: given_up: 5 days", "answered 503", "replay"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn duplicates_with_another_body_are_told() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        let mut shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
        let mut told = |duplicates, body_differs| {
            (shown.duplicates, shown.body_differs) = (duplicates, body_differs);
            explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n")
        };
        assert!(told(1, 1).contains("sent once more and recognised as a duplicate, with another body"));
        assert!(told(3, 2).contains("3 more times and recognised as a duplicate, 2 of them with another body"));
        assert!(!told(3, 0).contains("body"));
    }

    #[test]
    fn a_pending_delivery_is_explained_by_what_holds_it_back() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let due = fake.clock().after(std::time::Duration::from_secs(5));
        fake.set(id, delivery("billing", Delivered::Pending { due }));
        let shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
        let upstream = Upstream {
            name: "billing".into(),
            breaker: "open".into(),
            held_since: Some(Timestamp::ZERO),
            ..Upstream::default()
        };
        let status = Status { upstreams: vec![upstream], ..Status::default() };
        let text = explain(&shown, &status, &BTreeMap::new(), fake.clock()).join("\n");
        for part in ["the next attempt is due at", "held until it is released", "breaker of billing is open"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("rate"), "{text}");
        let later = due.after(std::time::Duration::from_secs(1));
        let text = explain(&shown, &status, &BTreeMap::new(), later).join("\n");
        assert!(text.contains("It waits for billing, ") && !text.contains("due now"), "{text}");
        for (by, part) in [
            ("rate", "held back by the rate of billing until"),
            ("rate_headers", "what billing says about its rate"),
            ("retry_after", "billing asked for a pause until"),
            ("handshake", "billing has not permitted deliveries (handshake refused: it answered 403)"),
            ("allowed_rate", "the rate that billing permitted"),
        ] {
            let upstream = Upstream {
                name: "billing".into(),
                throttled_until: Some(due),
                throttled_by: Some(by.into()),
                handshake: Some("refused: it answered 403".into()),
                ..Upstream::default()
            };
            let status = Status { upstreams: vec![upstream], ..Status::default() };
            let text = explain(&shown, &status, &BTreeMap::new(), fake.clock()).join("\n");
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn every_state_has_its_sentence_and_every_reason_the_rule_that_decided() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        let text = |status: Delivered| {
            fake.set(id, delivery("billing", status));
            let shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
            explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n")
        };
        let because = |code: &str| Reason::with(code, "the detail");
        for (status, part) in [
            (Delivered::Pending { due: fake.clock() }, "the next attempt is due now"),
            (Delivered::Delivered, "billing took it"),
            (Delivered::Ignored, "the transform said so"),
            (Delivered::Dead(because("given_up")), "The upstream's `retry`"),
            (Delivered::Held(because("over_budget")), "The `tenant` limits of its source"),
            (Delivered::Held(because("upstream_removed")), "not in the configuration"),
            (Delivered::Review(because("not_accepted")), "The `accept` of the upstream"),
            (Delivered::Superseded(because("stale")), "The `version` of its route"),
            (Delivered::Superseded(because("diverted")), "A `failure` row or the `fallback`"),
        ] {
            let text = text(status);
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let codes = (0..u8::MAX).map(|number| Reason::from_number(number).code).filter(|code| *code != "other");
        for code in codes.filter(|code| *code != "upstream_removed") {
            let shown = Reason::with(code, "a, b").to_string();
            assert!(super::rule(&shown).is_some(), "{code} names no rule");
        }
        assert_eq!(super::rule("other: what"), None);
    }

    #[test]
    fn an_event_without_deliveries_says_why() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        let text = |fake: &Fake| {
            let shown = show(fake, &find(fake, id).unwrap(), false).unwrap();
            explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n")
        };
        assert!(text(&fake).contains("has not decided yet"));
        fake.plan(&[(id, &[])]);
        assert!(text(&fake).contains("No route wanted it"));
    }

    #[test]
    fn an_event_whose_sender_got_a_kept_answer_says_whose_it_was() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"{}");
        fake.plan(&[(id, &["billing"])]);
        fake.set(id, delivery("billing", Delivered::Ignored));
        let mut shown = show(&fake, &find(&fake, id).unwrap(), false).unwrap();
        shown.cached = Some(Cached { event: Some("E1".into()), upstream: Some("billing".into()) });
        let text = explain(&shown, &Status::default(), &BTreeMap::new(), fake.clock()).join("\n");
        assert!(text.contains("event E1 got before") && text.contains("billing was not asked again"), "{text}");
    }
}
