//! Owns the pages about the front door and the order of deliveries: sources, refused requests, blocked keys.

use maud::{Markup, html};

use super::{
    Page, Pairs,
    ask::Ask,
    chart::latency_of,
    frame::Reply,
    parts::{age, choice, count, moment, scroll, size, state},
    samples::quantile,
};
use crate::{
    admin::{
        api::Refusal,
        wire::{Gaps, Route, Source},
    },
    telemetry::SourceMetrics,
};

pub(super) const PAGES: &[Page] =
    &[Page::get("/sources", sources), Page::get("/refused", refused), Page::get("/keys", keys)];

/// Ranges of missing numbers that are named.
const RANGES: usize = 20;

fn sources(ask: &Ask) -> Result<Reply, Refusal> {
    let (all, routes, gaps) = (ask.ports.sources(), ask.ports.routes(), ask.ports.status().gaps);
    let metrics = ask.ports.metered().all_sources();
    let of = |name: &str| metrics.iter().find(|(known, _)| **known == *name).map(|(_, metrics)| &**metrics);
    let table = html! {
        table {
            caption { "In the order in which a path is looked up; figures since the start" }
            thead { tr {
                th scope="col" { "Name" }
                th scope="col" { "Where" }
                th scope="col" { "Checked by" }
                th.number scope="col" { "Accepted" }
                th.number scope="col" { "Duplicates" }
                th scope="col" { "Not accepted" }
                th scope="col" { "Receipt to answer, p50 · p99" }
                th scope="col" { "Noticed" }
            } }
            tbody { @for one in &all { (source(one, of(&one.name))) } }
        }
    };
    let main = html! {
        h1 { "Sources" }
        @for gaps in &gaps { (missing(gaps)) }
        div data-live="sources" {
            @if all.is_empty() { p.empty { "There is none." } } @else { (scroll("Sources", &table)) }
        }
        section aria-labelledby="routes" {
            h2 id="routes" { "Routes" }
            @if routes.is_empty() { p.empty { "There is none." } } @else { (scroll("Routes", &ways(&routes))) }
        }
    };
    Ok(Reply::page("Sources", "/sources", main))
}

/// Results that are no trouble.
const TAKEN: [&str; 4] = ["accepted", "duplicate", "proxied", "challenge"];

fn source(source: &Source, metrics: Option<&SourceMetrics>) -> Markup {
    let others = || source.requests.iter().filter(|(result, count)| **count > 0 && !TAKEN.contains(&result.as_str()));
    let noticed = metrics.map(|metrics| {
        [
            ("schema violations", metrics.violations.get()),
            ("without a dedupe key", metrics.without_key.get()),
            ("not split", metrics.unsplit.get()),
            ("loops", metrics.loops.get()),
        ]
    });
    html! {
        tr {
            th scope="row" { a href=(Pairs::default().with("source", Some(&source.name)).address("/events")) { (source.name) } }
            td.path {
                @if let Some(methods) = &source.methods { (methods.join(", ")) " " }
                (source.host.as_deref().unwrap_or_default()) (source.path)
            }
            td {
                (source.scheme)
                @if source.mode != "store" { ", " (source.mode) }
                @if source.quarantine { div.calm { "keeps what it refuses" } }
            }
            td.number { (count(source.requests.get("accepted").copied().unwrap_or_default())) }
            td.number { (count(source.duplicates)) }
            td {
                @if others().next().is_none() { "–" }
                @else { ul.plain { @for (result, number) in others() { li { (result) " " (count(*number)) } } } }
            }
            td {
                @if let Some(metrics) = metrics {
                    @let ack = metrics.ack.read().0;
                    (latency_of(quantile(&ack, 0.5))) " · " (latency_of(quantile(&ack, 0.99)))
                }
            }
            td {
                ul.plain {
                    @for (what, number) in noticed.into_iter().flatten() {
                        @if number > 0 { li { (what) " " (count(number)) } }
                    }
                }
            }
        }
    }
}

/// Which events go where.
fn ways(routes: &[Route]) -> Markup {
    html! {
        table {
            caption { "All that match apply" }
            thead { tr {
                th scope="col" { "Name" }
                th scope="col" { "Sources" }
                th scope="col" { "When" }
                th scope="col" { "To" }
                th scope="col" { "Changed by" }
            } }
            tbody {
                @for route in routes {
                    tr {
                        th scope="row" { (route.name) }
                        td { (route.sources.as_ref().map_or_else(|| "all".to_owned(), |names| names.join(", "))) }
                        td.path { (route.when.as_deref().unwrap_or("always")) }
                        td {
                            @if let Some(topic) = &route.topic { "topic " (topic) " " }
                            @if route.to.is_empty() && route.topic.is_none() { "nowhere, on purpose" } @else { (route.to.join(", ")) }
                            @if route.is_ordered { div.calm { "in order" } }
                        }
                        td.path { (route.transform.as_deref().unwrap_or("–")) }
                    }
                }
            }
        }
    }
}

/// Numbers that a sender left out.
fn missing(gaps: &Gaps) -> Markup {
    html! {
        @if gaps.missing > 0 {
            p.note.bad {
                (gaps.source) ": " (count(gaps.missing)) " of the sender's events did not come: "
                @for (first, last) in gaps.ranges.iter().rev().take(RANGES) { (first) @if last > first { " to " (last) } " " }
            }
        }
    }
}

fn refused(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let mut all = ask.ports.refused(0);
    all.reverse();
    let reasons: std::collections::BTreeSet<String> = all.iter().map(|one| one.reason.clone()).collect();
    if let Some(reason) = ask.query.get("reason") {
        all.retain(|one| one.reason == reason);
    }
    let table = html! {
        table {
            caption { "The last 1,000 since the start, newest first" }
            thead { tr {
                th scope="col" { "At" }
                th scope="col" { "Reason" }
                th scope="col" { "Answered" }
                th scope="col" { "Source" }
                th scope="col" { "Client" }
                th scope="col" { "Request" }
                th.number scope="col" { "Size" }
            } }
            tbody {
                @for one in &all {
                    tr {
                        td.when { (moment(one.at, now)) }
                        td { (one.reason) }
                        td { (one.status) }
                        td { (one.source.as_deref().unwrap_or("–")) }
                        td { (one.client) }
                        td.path { (one.method) " " (one.path) }
                        td.number { (size(one.size)) }
                    }
                }
            }
        }
    };
    let main = html! {
        h1 { "Refused requests" }
        form.filters method="get" action="/refused" role="search" aria-label="Refused requests" {
            (choice(&ask.query, "reason", "Reason", "any", reasons.iter().map(String::as_str)))
            div.buttons { button.main type="submit" { "Find" } }
        }
        @if all.is_empty() { p.empty { "There is none." } } @else { (scroll("Refused requests", &table)) }
    };
    Ok(Reply::page("Refused requests", "/refused", main))
}

fn keys(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let keys = ask.ports.blocked_keys(None).map_err(Refusal::unavailable)?;
    let table = html! {
        table {
            caption { "Keys whose first delivery keeps others waiting" }
            thead { tr {
                th scope="col" { "Upstream" }
                th scope="col" { "Key" }
                th scope="col" { "First delivery" }
                th.number scope="col" { "Attempts" }
                th.number scope="col" { "Wait behind it" }
                th scope="col" { "Since" }
                th scope="col" { "Event" }
            } }
            tbody {
                @for key in &keys {
                    tr {
                        td { (key.upstream) }
                        td { (key.key.as_deref().unwrap_or("–")) }
                        td { (state(&key.state)) @if let Some(reason) = &key.reason { " " (reason) } }
                        td.number { (key.attempts) }
                        td.number { (count(key.waiting)) }
                        td { (age(key.since, now)) }
                        td { a.id href={ "/events/" (key.event) } { (key.event) } }
                    }
                }
            }
        }
    };
    let main = html! {
        h1 { "Blocked keys" }
        p { "Deliveries of routes with " code { "order_by" } " go one after the other for each key." }
        @if keys.is_empty() { p.empty { "No key is blocked." } } @else { (scroll("Blocked keys", &table)) }
    };
    Ok(Reply::page("Blocked keys", "/keys", main))
}
