//! Owns the pages about the instance as a whole: what operators did, and the configuration that is active.
//!
//! Promises that both are shown to visitors without limits only, and secrets as the references that the configuration has.

use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    body::pre,
    frame::Reply,
    parts::{age, count, field, moment, older, scroll, size, time},
};
use crate::{
    admin::{
        api::Refusal,
        audit::{AuditFilter, audited},
        wire::{Audited, Segment},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] =
    &[Page::get("/audit", trail).whole(), Page::get("/configuration", configuration).whole()];

/// Entries on a page.
const ROWS: usize = 100;

/// Targets named in a row.
const TARGETS: usize = 5;

fn trail(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let times = ask.query.filters(now)?;
    let text = |name: &str| ask.query.get(name).map(str::to_owned);
    let wanted = AuditFilter { since: times.since, until: times.until, actor: text("actor"), action: text("action") };
    let is_filtered = wanted != AuditFilter::default();
    let page = audited(&*ask.ports, &wanted, ask.cursor()?, ROWS)?;
    let next = page.next.as_deref().and_then(|next| u64::from_str_radix(next, 16).ok());
    let table = html! {
        table {
            caption { "Newest first" }
            thead { tr {
                th scope="col" { "At" }
                th scope="col" { "Who" }
                th scope="col" { "From" }
                th scope="col" { "What" }
                th.number scope="col" { "How many" }
                th scope="col" { "To what" }
                th scope="col" { "Asked for" }
                th scope="col" { "Reason" }
            } }
            tbody { @for entry in &page.entries { (row(entry, now)) } }
        }
    };
    let main = html! {
        h1 { "Audit trail" }
        form.filters method="get" action="/audit" role="search" aria-label="Audit trail" {
            (field(&ask.query, "actor", "Who", "alice, token ops"))
            (field(&ask.query, "action", "What", "replay, login, reveal"))
            (field(&ask.query, "since", "Since", "1d, or a time"))
            (field(&ask.query, "until", "Until", ""))
            div.buttons {
                button.main type="submit" { "Find" }
                @if is_filtered { a href="/audit" { "All of it" } }
            }
        }
        @for note in &page.notes { p.note.bad { (note) } }
        @if page.entries.is_empty() { p.empty { "There is none." } } @else { (scroll("Audit trail", &table)) }
        (older(ask, "/audit", next, "Older entries"))
    };
    Ok(Reply::page("Audit trail", "/audit", main))
}

fn row(entry: &Audited, now: Timestamp) -> Markup {
    let more = entry.targets.len().saturating_sub(TARGETS);
    html! {
        tr {
            td.when { (moment(entry.at, now)) }
            td { (entry.actor) }
            td { (entry.origin.as_deref().unwrap_or("–")) }
            td { (entry.action) @if let Some(until) = entry.until { div.calm { "until " (time(until)) } } }
            td.number { (count(entry.count)) }
            td.path {
                @for target in entry.targets.iter().take(TARGETS) { div { (target) } }
                @if more > 0 { div.calm { "and " (more) " more" } }
            }
            td.path { (entry.asked.as_deref().unwrap_or("–")) }
            td { (entry.reason.as_deref().unwrap_or("–")) }
        }
    }
}

fn configuration(ask: &Ask) -> Result<Reply, Refusal> {
    let (now, active) = (ask.ports.now(), ask.ports.configuration());
    let segments = ask.ports.segments();
    let main = html! {
        h1 { "Configuration" }
        p { "Active since " (time(active.loaded_at)) ". Hash " span.id { (active.hash) } "." }
        (pre("The active configuration", &active.text))
        section aria-labelledby="segments" {
            h2 id="segments" { "The log" }
            (scroll("Segments", &stretches(&segments, now)))
        }
    };
    Ok(Reply::page("Configuration", "/configuration", main))
}

fn stretches(segments: &[Segment], now: Timestamp) -> Markup {
    html! {
        table {
            caption { "Segments, newest first" }
            thead { tr {
                th.number scope="col" { "Number" }
                th.number scope="col" { "First" }
                th.number scope="col" { "End" }
                th scope="col" { "Begun" }
                th.number scope="col" { "Size" }
                th scope="col" { "Form" }
            } }
            tbody {
                @for segment in segments.iter().rev() {
                    tr {
                        th.number scope="row" { (segment.number) }
                        td.number { (segment.first) }
                        td.number { (segment.end) }
                        td { @if let Some(at) = segment.first_at { (age(at, now)) } @else { "–" } }
                        td.number { (size(segment.bytes)) }
                        td { @if segment.sealed { "sealed" } @else { "written to" } }
                    }
                }
            }
        }
    }
}
