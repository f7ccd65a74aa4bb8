//! Owns the pages of upstreams: how each fares, and holding or releasing it.

use http::StatusCode;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Page,
    ask::Ask,
    chart::{Line, chart, latency, latency_of, picked},
    frame::Reply,
    overview::until,
    parts::{age, count, hidden, marks, rate, scroll, state},
    samples::{UPSTREAMS_MAX, UpstreamSample, quantile},
    targets::targets,
};
use crate::{
    admin::{api::Refusal, wire::Upstream},
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
pub(super) fn address(name: &str) -> String {
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
            div {
                (state("held")) " "
                @match upstream.held_until { Some(end) => (until(end, now)), None => "until it is released" }
                @if let Some(reason) = &upstream.held_reason { ": " (reason) }
            }
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
            (charts(ask.guest.site.samples.of_upstream(name)))
            @if !upstream.targets.is_empty() { (targets(ask, upstream, now)) }
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

/// What it did lately, if that is known.
fn charts(samples: Option<Vec<UpstreamSample>>) -> Markup {
    let Some(samples) = samples else {
        return html! {
            p.calm { "There are no charts of it: figures are kept of " (UPSTREAMS_MAX) " upstreams of the configuration." }
        };
    };
    let (steps, since) = picked(&samples);
    let line = |name, value: &dyn Fn(&[UpstreamSample]) -> Option<f64>| Line {
        name,
        values: steps.iter().map(|step| value(step)).collect(),
    };
    let per_second = |step: &[UpstreamSample], counter: fn(&UpstreamSample) -> u64| {
        let (before, now) = (step.first()?, step.last()?);
        let seconds = now.at.since(before.at).as_secs_f64();
        (seconds > 0.0).then(|| counter(now).saturating_sub(counter(before)) as f64 / seconds)
    };
    let delivered = line("delivered", &|step| per_second(step, |sample| sample.delivered));
    let failed = line("failed attempts", &|step| per_second(step, |sample| sample.failed));
    let pending = line("pending", &|step| Some(step.last()?.pending.max(0) as f64));
    // The worst of a step; its first sample tells of the step before.
    let slowest =
        |step: &[UpstreamSample]| step.iter().skip(1).filter_map(|sample| sample.attempt_p99).reduce(f32::max);
    let took = line("attempts", &|step| slowest(step).map(f64::from));
    html! {
        section aria-labelledby="lately" {
            h2 id="lately" { "Lately" }
            div.charts {
                (chart("Deliveries", since, &[delivered, failed], |value| format!("{}/s", rate(value))))
                (chart("Backlog", since, &[pending], |value| count(value.clamp(0.0, 1e15) as u64)))
                (chart("Latency, p99", since, &[took], latency))
            }
        }
    }
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
