//! Owns the first page: what needs somebody, and how the instance fares.
//!
//! Promises that figures of the whole instance are shown to visitors without limits only.

use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    chart::{Line, chart, latency, latency_of, picked},
    frame::Reply,
    parts::{age, count, counted, rate, size, span},
    samples::Sample,
    upstreams,
};
use crate::{
    admin::{
        api::Refusal,
        explain::for_ever,
        wire::{Alert, Status, Upstream},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] = &[Page::get("/", overview)];

/// Samples in a minute, which "now" is taken from.
const A_MINUTE: usize = 12;

/// A store that is as full as this needs somebody.
const FULL: f64 = 0.8;

fn overview(ask: &Ask) -> Result<Reply, Refusal> {
    let (status, now) = (ask.ports.status(), ask.ports.now());
    let ready = ask.instance.ready();
    let main = html! {
        h1 { "Overview" }
        div data-live="overview" {
            (needs(&status, ready.as_ref().err(), &ask.ports.alerts(), now))
            @if ask.caller.scope.is_whole() { (whole(ask, &status, now)) }
            section aria-labelledby="upstreams" {
                h2 id="upstreams" { "Upstreams" }
                (upstreams::table(&status.upstreams, now))
            }
            p.calm {
                "Node " (status.node) ", up " (span(status.uptime_s)) ", configuration "
                span.id { (status.config.hash.get(..12).unwrap_or(&status.config.hash)) } " since "
                (age(status.config.loaded_at, now)) "."
            }
        }
    };
    Ok(Reply::page("Overview", "/", main))
}

/// What somebody should look at, worst first.
fn needs(status: &Status, not_ready: Option<&String>, alerts: &[Alert], now: Timestamp) -> Markup {
    let upstreams = || status.upstreams.iter();
    let named = |is: fn(&Upstream) -> bool| -> Vec<&str> {
        upstreams().filter(|upstream| is(upstream)).map(|upstream| upstream.name.as_str()).collect()
    };
    let (open, held) =
        (named(|upstream| upstream.breaker != "closed"), named(|upstream| upstream.held_since.is_some()));
    let rehearsed = named(|upstream| upstream.rehearsal.is_some());
    let dead: u64 = upstreams().map(|upstream| upstream.dead).sum();
    let review: u64 = upstreams().map(|upstream| upstream.review).sum();
    let share = status.store.bytes as f64 / (status.store.limit.max(1)) as f64;
    let is_full = status.store.limit > 0 && share >= FULL;
    let nothing = not_ready.is_none() && open.is_empty() && held.is_empty() && rehearsed.is_empty();
    html! {
        section aria-labelledby="needs" {
            h2 id="needs" { "Needs you" }
            @if nothing && dead + review == 0 && !is_full && alerts.is_empty() { p.note.good { "Nothing." } }
            @else {
                ul.needs {
                    @if let Some(why) = not_ready { li.bad { "New events can't be stored: " (why) "." } }
                    @for alert in alerts {
                        li class=(if alert.severity == "info" { "warn" } else { "bad" }) {
                            (alert.severity) ": " (alert.text) " (raised " (age(alert.since, now)) ")."
                        }
                    }
                    @if is_full { li.bad { "The store is " (format!("{:.0}", share * 100.0)) " % full." } }
                    @if !open.is_empty() { li.bad { a href="/upstreams" { "Breaker not closed: " (open.join(", ")) "." } } }
                    @if dead > 0 { li.bad { a href="/letters" { (counted(dead, "dead delivery", "dead deliveries")) "." } } }
                    @if review > 0 { li.warn { a href="/letters?state=review" { (counted(review, "delivery", "deliveries")) " in review." } } }
                    @if !held.is_empty() { li.warn { a href="/upstreams" { "Held: " (held.join(", ")) "." } } }
                    @if !rehearsed.is_empty() { li.warn { a href="/upstreams" { "A rehearsal is on: " (rehearsed.join(", ")) "." } } }
                }
            }
        }
    }
}

/// Figures and charts of the whole instance.
fn whole(ask: &Ask, status: &Status, now: Timestamp) -> Markup {
    let mut samples = ask.guest.site.samples.all();
    samples.push(Sample::of(&ask.instance.metered(), ask.instance.steady()));
    let last = samples.last().cloned().unwrap_or_default();
    let minute = samples.get(samples.len().saturating_sub(A_MINUTE + 1)).cloned().unwrap_or_default();
    let per_second = |counter: fn(&Sample) -> u64| format!("{}/s", rate(last.rate(&minute, counter)));
    let both = |share: fn(&Sample, &Sample, f64) -> Option<std::time::Duration>| {
        let of = |quantile| latency_of(share(&last, &minute, quantile));
        format!("{} · {}", of(0.5), of(0.99))
    };
    let pending: u64 = status.upstreams.iter().map(|upstream| upstream.pending).sum();
    let oldest = status.upstreams.iter().filter_map(|upstream| upstream.oldest_at).min();
    let store = &status.store;
    html! {
        section aria-labelledby="now" {
            h2 id="now" { "The last minute" }
            dl.tiles {
                div { dt { "Accepted" } dd { (per_second(|sample| sample.accepted)) } }
                div { dt { "Delivered" } dd { (per_second(|sample| sample.delivered)) } }
                div { dt { "Failed attempts" } dd { (per_second(|sample| sample.failed)) } }
                div { dt { "Refused requests" } dd { (per_second(|sample| sample.refused + sample.unavailable)) } }
                div { dt { "Duplicates" } dd { (per_second(|sample| sample.duplicates)) } }
                div { dt { "Receipt to answer, p50 · p99" } dd { (both(Sample::ack)) } }
                div { dt { "Receipt to delivery, p50 · p99" } dd { (both(Sample::delivery)) } }
                div { dt { "Pending" } dd { (count(pending)) @if let Some(oldest) = oldest { span.more { "oldest " (age(oldest, now)) } } } }
                div { dt { "Store" } dd {
                    (size(store.bytes))
                    @if store.limit > 0 {
                        span.more { "of " (size(store.limit)) }
                        meter min="0" max=(store.limit) low=(store.limit / 2) high=(store.limit / 5 * 4) optimum="0" value=(store.bytes)
                            aria-label="Share of the store that is used" {}
                    }
                } }
                div { dt { "An outage may last" } dd {
                    @match store.full_at { Some(full) => { (span(full.since(now).as_secs())) } None => { "–" } }
                } }
                div { dt { "Quarantine" } dd { a href="/quarantine" { (count(status.quarantine.count)) } span.more { (size(status.quarantine.bytes)) } } }
            }
        }
        section aria-labelledby="hour" {
            h2 id="hour" { "Lately" }
            div.charts { (charts(&samples)) }
        }
    }
}

fn charts(samples: &[Sample]) -> Markup {
    let (steps, since) = picked(samples);
    let pairs = || steps.iter().filter_map(|step| Some((step.first()?, step.last()?)));
    let rates = |name, counter: fn(&Sample) -> u64| Line {
        name,
        values: pairs().map(|(before, now)| Some(now.rate(before, counter))).collect(),
    };
    let quantiles = |name, of: fn(&Sample, &Sample, f64) -> Option<std::time::Duration>| Line {
        name,
        values: pairs().map(|(before, now)| of(now, before, 0.99).map(|found| found.as_secs_f64())).collect(),
    };
    let per_second = |value: f64| format!("{}/s", rate(value));
    let whole = |value: f64| count(value.clamp(0.0, 1e15) as u64);
    let stored =
        Line { name: "on disk", values: pairs().map(|(_, now)| Some(now.store_bytes.max(0) as f64)).collect() };
    let bytes = |value: f64| size(value.clamp(0.0, 1e18) as u64);
    let pending = Line { name: "pending", values: pairs().map(|(_, now)| Some(now.pending.max(0) as f64)).collect() };
    html! {
        (chart("Events", since, &[rates("accepted", |sample| sample.accepted), rates("delivered", |sample| sample.delivered)], per_second))
        (chart("Trouble", since, &[rates("failed attempts", |sample| sample.failed), rates("refused", |sample| sample.refused + sample.unavailable)], per_second))
        (chart("Latency, p99", since, &[quantiles("answer", Sample::ack), quantiles("delivery", Sample::delivery)], latency))
        (chart("Backlog", since, &[pending], whole))
        (chart("Store", since, &[stored], bytes))
    }
}

/// Until when something is held, in words.
pub(super) fn until(until: Timestamp, now: Timestamp) -> Markup {
    html! { @if for_ever(until) { "until it is released" } @else { "until " (age(until, now)) } }
}
