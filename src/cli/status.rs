//! Owns `stagepost status`: the state of an instance on one page.

use std::time::Duration;

use super::{
    Exit, Failure, Host, Terminal,
    args::JsonArgs,
    client::Client,
    instance::Instance,
    print::{escaped, table},
    units,
};
use crate::admin::{
    Timestamp,
    wire::{Status, Upstream, UpstreamTarget},
};

/// What is due within this time is so now.
const NOW: Duration = Duration::from_secs(1);

pub(super) fn status(args: &JsonArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let status: Status = Client::new(&instance.socket)?.get("/v1/status")?;
    if args.json {
        let json = serde_json::to_string(&status).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else {
        page(&status, terminal)?;
    }
    Ok(Exit::Done)
}

pub(super) fn page(status: &Status, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let (now, out) = (terminal.now, &mut *terminal.out);
    let up = units::span(Duration::from_secs(status.uptime_s));
    writeln!(out, "stagepost {} on {}, up {up}", escaped(&status.version), escaped(&status.node))?;
    let hash: String = status.config.hash.chars().take(12).collect();
    let probation =
        status.config.probation_until.map_or_else(String::new, |until| format!(", on probation until {until}"));
    writeln!(out, "configuration {}, loaded at {}{probation}", escaped(&hash), status.config.loaded_at)?;
    let store = &status.store;
    let share = (store.bytes as f64) * 100.0 / (store.limit.max(1) as f64);
    let (bytes, limit) = (units::size(store.bytes), units::size(store.limit));
    let oldest = age(store.oldest_at, now);
    writeln!(out, "log {bytes} of {limit} ({share:.0} %), {} segments, oldest entry {oldest}", store.segments)?;
    match store.full_at {
        // Both clocks are this machine's, but the instance read its own a moment later.
        Some(full) if full.since(now) < NOW => {
            writeln!(out, "there is no room: new events are refused with 503 until there is")?;
        }
        Some(full) => {
            let left = units::span(full.since(now));
            writeln!(out, "an outage of all upstreams may last {left}: there is no room at {full}")?;
        }
        None => writeln!(out, "an outage of all upstreams may last as long as nothing comes in")?,
    }
    let quarantine = &status.quarantine;
    writeln!(out, "quarantine {} requests, {}", quarantine.count, units::size(quarantine.bytes))?;
    for gaps in status.gaps.iter().filter(|gaps| gaps.missing > 0) {
        let first = gaps.ranges.first().map_or(0, |(first, _)| *first);
        let source = escaped(&gaps.source);
        writeln!(out, "source {source}: {} of the sender's numbers are missing, the first {first}", gaps.missing)?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = status.upstreams.iter().map(|upstream| row(upstream, now)).collect();
    let head = ["UPSTREAM", "BREAKER", "PENDING", "HELD", "REVIEW", "DEAD", "IN FLIGHT", "RATE", "OLDEST", "HOLD"];
    table(out, &head, &rows)?;
    for (upstream, why) in status.upstreams.iter().filter_map(|one| Some((one, one.disabled.as_ref()?))) {
        writeln!(out, "\nsubscriber {} is disabled: {}", escaped(&upstream.name), escaped(why))?;
    }
    let targets = status.upstreams.iter().flat_map(|upstream| upstream.targets.iter().map(move |one| (upstream, one)));
    let rows: Vec<Vec<String>> = targets.map(|(upstream, one)| target(upstream, one)).collect();
    if !rows.is_empty() {
        writeln!(out)?;
        table(out, &["UPSTREAM", "TARGET", "STATE", "IN FLIGHT"], &rows)?;
    }
    Ok(())
}

fn target(upstream: &Upstream, target: &UpstreamTarget) -> Vec<String> {
    let until = target.ejected_until.map(|until| format!(" until {until}")).unwrap_or_default();
    let drained = target.drained_at.map(|at| {
        let by = target.drained_by.as_deref().map_or(String::new(), |by| format!(" by {}", escaped(by)));
        let reason = target.drained_reason.as_deref().map_or(String::new(), |reason| format!(": {}", escaped(reason)));
        format!(" since {at}{by}{reason}")
    });
    let state = format!("{}{until}{}", escaped(&target.state), drained.unwrap_or_default());
    vec![escaped(&upstream.name), escaped(&target.url), state, target.in_flight.to_string()]
}

fn row(upstream: &Upstream, now: Timestamp) -> Vec<String> {
    let hold = match upstream.held_since {
        // One by one: by id, source or any other filter, or because the upstream is gone.
        None if upstream.held > 0 => counted(upstream.held),
        None => "-".to_owned(),
        Some(_) => {
            let end = upstream.held_until.map_or("until released".to_owned(), |until| format!("until {until}"));
            upstream.held_reason.as_deref().map_or(end.clone(), |reason| format!("{end}: {}", escaped(reason)))
        }
    };
    vec![
        escaped(&upstream.name),
        match (&upstream.rehearsal, upstream.rehearsal_until) {
            _ if upstream.disabled.is_some() => "disabled".to_owned(),
            (Some(fault), Some(until)) => {
                escaped(&format!("{} (rehearsal of {fault} until {until})", upstream.breaker))
            }
            _ => match upstream.handshake.as_deref().filter(|said| *said != "granted") {
                Some(said) => escaped(&format!("{} (handshake {said})", upstream.breaker)),
                None => escaped(&upstream.breaker),
            },
        },
        upstream.pending.to_string(),
        upstream.held.to_string(),
        upstream.review.to_string(),
        upstream.dead.to_string(),
        format!("{}/{}", upstream.in_flight, upstream.concurrency_limit),
        upstream.rate_limit.map_or_else(
            || format!("{:.1}/s", upstream.rate),
            |limit| format!("{:.1}/s of {}/s", upstream.rate, (limit * 100.0).round() / 100.0),
        ),
        age(upstream.oldest_at, now),
        hold,
    ]
}

/// So many deliveries, in words.
fn counted(deliveries: u64) -> String {
    if deliveries == 1 { "1 delivery".to_owned() } else { format!("{deliveries} deliveries") }
}

fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or("-".to_owned(), |time| units::span(now.since(time)))
}
