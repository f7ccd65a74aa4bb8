//! Owns the pages of upstreams: how each fares, and holding or releasing it.

use http::StatusCode;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Page,
    ask::Ask,
    chart::latency_of,
    frame::Reply,
    overview::until,
    parts::{age, count, hidden, marks, rate, scroll, state},
    samples::quantile,
};
use crate::{
    admin::{
        api::Refusal,
        wire::{Upstream, UpstreamTarget},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] = &[Page::get("/upstreams", list), Page::get("/upstreams/{name}", one)];

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let (status, now) = (ask.ports.status(), ask.ports.now());
    let main = html! {
        h1 { "Upstreams" }
        div data-live="upstreams" { (table(&status.upstreams, now)) }
    };
    Ok(Reply::page("Upstreams", "/upstreams", main))
}

/// Where the page of an upstream is.
fn address(name: &str) -> String {
    format!("/upstreams/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// Figures of upstreams, one a row.
pub(super) fn table(upstreams: &[Upstream], now: Timestamp) -> Markup {
    if upstreams.is_empty() {
        return html! { p.empty { "There is none." } };
    }
    let table = html! {
        table {
            caption.unseen { "Upstreams" }
            thead { tr {
                th scope="col" { "Name" }
                th scope="col" { "Breaker" }
                th.number scope="col" { "Delivered/s" }
                th.number scope="col" { "In flight" }
                th.number scope="col" { "Pending" }
                th.number scope="col" { "Dead" }
                th.number scope="col" { "Held" }
                th.number scope="col" { "Review" }
                th scope="col" { "Oldest" }
                th scope="col" { "Notes" }
            } }
            tbody { @for upstream in upstreams { (row(upstream, now)) } }
        }
    };
    scroll("Upstreams", &table)
}

fn row(upstream: &Upstream, now: Timestamp) -> Markup {
    let letters = |state: &str, number: u64| {
        let query = super::Pairs::default().with("state", Some(state)).with("upstream", Some(&upstream.name));
        html! {
            @if number == 0 { "0" } @else { a href=(query.address("/letters")) aria-label={ (number) " " (state) " for " (upstream.name) } { (count(number)) } }
        }
    };
    html! {
        tr {
            th scope="row" { a href=(address(&upstream.name)) { (upstream.name) } }
            td { (state(&upstream.breaker)) }
            td.number { (rate(upstream.rate)) }
            td.number { (upstream.in_flight) @if upstream.concurrency_limit > 0 { span.calm { " / " (upstream.concurrency_limit) } } }
            td.number { (count(upstream.pending)) }
            td.number { (letters("dead", upstream.dead)) }
            td.number { (letters("held", upstream.held)) }
            td.number { (letters("review", upstream.review)) }
            td { @if let Some(oldest) = upstream.oldest_at { (age(oldest, now)) } @else { "–" } }
            td { (notes(upstream, now)) }
        }
    }
}

/// What holds an upstream back.
fn notes(upstream: &Upstream, now: Timestamp) -> Markup {
    html! {
        @if upstream.held_since.is_some() {
            div { (state("held")) " " @match upstream.held_until { Some(end) => (until(end, now)), None => "until it is released" } @if let Some(reason) = &upstream.held_reason { ": " (reason) } }
        }
        @if let Some(end) = upstream.throttled_until.filter(|end| *end > now) {
            div { "throttled until " (age(end, now)) @if let Some(by) = &upstream.throttled_by { " (" (by) ")" } }
        }
        @if let Some(fault) = &upstream.rehearsal {
            div { "rehearses " (fault) @if let Some(end) = upstream.rehearsal_until { ", ends " (age(end, now)) } }
        }
    }
}

fn one(ask: &Ask) -> Result<Reply, Refusal> {
    let (status, now) = (ask.ports.status(), ask.ports.now());
    let name = ask.variable(0);
    let found = status.upstreams.iter().find(|upstream| upstream.name == name);
    let upstream =
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("no upstream is named {name:?}")))?;
    let main = html! {
        h1 { "Upstream " (upstream.name) }
        div data-live="upstream" {
            (table(std::slice::from_ref(upstream), now))
            (latencies(ask, upstream))
            @if !upstream.targets.is_empty() { (targets(&upstream.targets, now)) }
        }
        @if ask.operates() { (actions(ask, upstream)) }
        p { a href=(super::Pairs::default().with("upstream", Some(name)).address("/events")) { "Its events" } }
    };
    Ok(Reply::page(format!("Upstream {name}"), "/upstreams", main))
}

/// Since the start: only configured names have metrics.
fn latencies(ask: &Ask, upstream: &Upstream) -> Markup {
    let all = ask.ports.metered().all_upstreams();
    let found = all.iter().find(|(name, _)| **name == *upstream.name);
    html! {
        @if let Some((_, metrics)) = found {
            @let (attempt, delivery) = (metrics.attempt.read().0, metrics.delivery.read().0);
            dl.facts {
                div { dt { "Attempts, p50 · p99 since the start" } dd { (latency_of(quantile(&attempt, 0.5))) " · " (latency_of(quantile(&attempt, 0.99))) } }
                div { dt { "Receipt to delivery, p50 · p99" } dd { (latency_of(quantile(&delivery, 0.5))) " · " (latency_of(quantile(&delivery, 0.99))) } }
                @if let Some(limit) = upstream.rate_limit { div { dt { "Rate limit" } dd { (rate(limit)) "/s" } } }
                div { dt { "Concurrency limit" } dd { (upstream.concurrency_limit) } }
            }
        }
    }
}

fn targets(targets: &[UpstreamTarget], now: Timestamp) -> Markup {
    let table = html! {
        table {
            caption { "Targets" }
            thead { tr { th scope="col" { "Url" } th scope="col" { "State" } th.number scope="col" { "In flight" } th scope="col" { "Back" } } }
            tbody {
                @for target in targets {
                    tr {
                        th scope="row" { (target.url) }
                        td { (state(&target.state)) }
                        td.number { (target.in_flight) }
                        td { @if let Some(end) = target.ejected_until { (age(end, now)) } @else { "–" } }
                    }
                }
            }
        }
    };
    scroll("Targets", &table)
}

fn actions(ask: &Ask, upstream: &Upstream) -> Markup {
    let verb = if upstream.held_since.is_some() { "release" } else { "hold" };
    html! {
        section aria-labelledby="actions" {
            h2 id="actions" { "Actions" }
            form.bulk method="post" action="/act/confirm" aria-label="The upstream" {
                (marks(ask, &address(&upstream.name)))
                (hidden("upstream", &upstream.name))
                button type="submit" name="verb" value=(verb) { (verb) "…" }
                span.calm {
                    @if verb == "hold" { "What waits and what will come is kept until it is released." }
                    @else { "What waits goes on." }
                }
            }
            @if upstream.dead > 0 {
                form.bulk method="post" action="/act/confirm" aria-label="Its dead deliveries" {
                    (marks(ask, &address(&upstream.name)))
                    (hidden("upstream", &upstream.name))
                    (hidden("state", "dead"))
                    button type="submit" name="verb" value="replay" { "replay what is dead…" }
                }
            }
        }
    }
}
