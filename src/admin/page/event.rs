//! Owns the page of one event: why it is where it is, every attempt, what was received, and what can be done about it.
//!
//! Promises that credentials are hidden until an operator asks for them, which is recorded before it is done.

use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    body::{body, pre},
    frame::Reply,
    parts::{age, counted, hidden, marks, scroll, size, state, time},
};
use crate::{
    admin::{
        api::Refusal,
        explain::explain,
        find::{Found, find},
        led::led,
        privacy::{self, BodyError},
        show::show,
        wire::{Attempt, Show, ShownDelivery, Text},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] = &[
    Page::get("/events/{id}", hidden_one),
    Page::post("/events/{id}", revealed_one),
    Page::get("/events/{id}/body", file),
    Page::post("/events/{id}/body", revealed_file),
];

fn hidden_one(ask: &Ask) -> Result<Reply, Refusal> {
    one(ask, false)
}

fn revealed_one(ask: &Ask) -> Result<Reply, Refusal> {
    one(ask, true)
}

/// Finds the event; if credentials are to be shown, that is written down first.
fn found(ask: &Ask, reveal: bool) -> Result<Found, Refusal> {
    let found = find(&*ask.ports, ask.id()?)?;
    if reveal {
        let command = ask.caller.noted("reveal", vec![found.event.id.to_string().into()], 1);
        ask.ports.command(command).map_err(|error| Refusal::unavailable(format!("it can't be recorded: {error}")))?;
    }
    Ok(found)
}

fn file(ask: &Ask) -> Result<Reply, Refusal> {
    saved(ask, false)
}

fn revealed_file(ask: &Ask) -> Result<Reply, Refusal> {
    saved(ask, true)
}

fn saved(ask: &Ask, reveal: bool) -> Result<Reply, Refusal> {
    let found = found(ask, reveal)?;
    let bytes = privacy::body(&*ask.ports, &found.event, reveal)?;
    Ok(Reply::File { name: format!("{}.body", found.event.id), bytes })
}

fn one(ask: &Ask, reveal: bool) -> Result<Reply, Refusal> {
    let found = found(ask, reveal)?;
    let show = show(&*ask.ports, &found, reveal)?;
    let now = ask.ports.now();
    let told = explain(&show, &ask.ports.status(), &led(&*ask.ports, &found), now);
    let kind = found.event.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let received = match privacy::body(&*ask.ports, &found.event, reveal) {
        Ok(received) => Ok(ask.ports.decoded(&found.event, received)),
        Err(error @ BodyError::Unknown(_)) => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let id = &show.event.id;
    let main = html! {
        div data-live="event" {
            h1 { "Event " span.id { (id) } " " (state(&show.event.state)) }
            (summary(&show))
            section aria-labelledby="why" {
                h2 id="why" { "Why it is where it is" }
                @for line in &told { p { (line) } }
            }
            (timeline(&show.event.deliveries, now))
        }
        @if ask.operates() { (actions(ask, &show)) }
        (headers(ask, &show, reveal))
        section aria-labelledby="body" {
            h2 id="body" { "Body" }
            @match &received {
                Ok(decoded) => { (body(kind.unwrap_or_default(), decoded, &format!("/events/{id}/body"))) }
                Err(why) => { p.note { "It is not shown: " (why) "." } }
            }
        }
    };
    Ok(Reply::page(format!("Event {id}"), "/events", main))
}

fn summary(show: &Show) -> Markup {
    let event = &show.event;
    html! {
        dl.facts {
            div { dt { "Received" } dd { (time(event.received_at)) } }
            div { dt { "Source" } dd { (event.source) } }
            @if let Some(kind) = &event.event_type { div { dt { "Type" } dd { (kind) } } }
            div { dt { "Request" } dd.path { (event.method) " " (event.path) @if let Some(query) = &show.query { "?" (query) } } }
            div { dt { "From" } dd { (show.client) " (" (show.scheme) ")" } }
            div { dt { "Verified" } dd {
                (show.verification.result) ", " (show.verification.scheme)
                @if let Some(secret) = &show.verification.secret { " with " (secret) }
            } }
            div { dt { "Body" } dd { (size(event.size)) ", SHA-256 " span.id { (event.sha256.get(..16).unwrap_or(&event.sha256)) "…" } } }
            @if let Some(answered) = &show.answered { div { dt { "Answered by" } dd { (answered) } } }
            div { dt { "Resends" } dd {
                (show.duplicates) @if show.body_differs > 0 { ", " (show.body_differs) " with another body" }
            } }
            @if let Some(tenant) = &event.tenant { div { dt { "Tenant" } dd { (tenant) } } }
            @if let Some(parent) = &event.parent { div { dt { "Made of" } dd { a.id href={ "/events/" (parent) } { (parent) } } } }
            @if let Some(violation) = &event.violation { div { dt { "Violates its schema" } dd { (violation) } } }
            @if !event.tags.is_empty() { div { dt { "Noticed" } dd { (event.tags.join(", ")) } } }
        }
    }
}

fn timeline(deliveries: &[ShownDelivery], now: Timestamp) -> Markup {
    html! {
        section aria-labelledby="deliveries" {
            h2 id="deliveries" { "Deliveries" }
            @if deliveries.is_empty() { p.empty { "There are none." } }
            @for delivery in deliveries {
                article.delivery {
                    h3 { (delivery.upstream) " " (state(&delivery.state)) }
                    p {
                        (counted(delivery.attempts_total.into(), "attempt", "attempts"))
                        @if let Some(reason) = &delivery.reason { ". " (reason) }
                        @if delivery.in_flight { ". It is being sent." }
                        @if let Some(due) = delivery.due_at { ". Due " (age(due, now)) }
                        @if let Some(before) = &delivery.waits_for { ". Behind " a.id href={ "/events/" (before) } { (before) } }
                    }
                    @if let Some(damaged) = &delivery.damaged { p.note.bad { "Some attempts can't be read: " (damaged) } }
                    @if !delivery.attempts.is_empty() {
                        (scroll(&format!("Attempts to {}", delivery.upstream), &attempts(delivery)))
                    }
                }
            }
        }
    }
}

fn attempts(delivery: &ShownDelivery) -> Markup {
    html! {
        table.attempts {
            caption { "Attempts to " (delivery.upstream) ", newest first" }
            thead { tr {
                th scope="col" { "No." }
                th scope="col" { "At" }
                th scope="col" { "Outcome" }
                th scope="col" { "Answer" }
                th scope="col" { "Took" }
                th scope="col" { "Sent to" }
            } }
            tbody { @for attempt in delivery.attempts.iter().rev() { (tried(attempt)) } }
        }
    }
}

fn tried(attempt: &Attempt) -> Markup {
    html! {
        tr {
            th scope="row" { (attempt.number) }
            td { (time(attempt.at)) }
            td { (state(&attempt.outcome)) }
            td {
                @if let Some(status) = attempt.status.filter(|status| !says(attempt.error.as_deref(), *status)) { (status) " " }
                @if let Some(error) = &attempt.error { (error) }
                @if !attempt.excerpt.bytes().is_empty() {
                    details {
                        summary { "What it said" }
                        (pre(&format!("Answer to attempt {}", attempt.number), &String::from_utf8_lossy(&attempt.excerpt.bytes())))
                    }
                }
            }
            td { (attempt.latency_ms) " ms" }
            td.path {
                (attempt.sent.url)
                @if let Some(signed) = &attempt.sent.signed {
                    div.calm { "signed as " (signed.scheme) @if let Some(secret) = &signed.secret { " with " (secret) } }
                }
            }
        }
    }
}

/// Whether an error names the status that came with it.
fn says(error: Option<&str>, status: u16) -> bool {
    error.is_some_and(|error| error.starts_with(&status.to_string()))
}

/// What can be done to the event, and to each of its deliveries.
fn actions(ask: &Ask, show: &Show) -> Markup {
    let id = &show.event.id;
    let back = format!("/events/{id}");
    let several = show.event.deliveries.len() > 1;
    html! {
        section aria-labelledby="actions" {
            h2 id="actions" { "Actions" }
            form.bulk method="post" action="/act/confirm" aria-label="The event" {
                (marks(ask, &back))
                (hidden("id", id))
                @for verb in verbs(show.event.deliveries.iter()) {
                    button type="submit" name="verb" value=(verb) { (verb) @if several { " all" } "…" }
                }
                button.danger type="submit" name="verb" value="delete" { "delete…" }
            }
            @if several {
                @for delivery in &show.event.deliveries {
                    form.bulk method="post" action="/act/confirm" aria-label={ "The delivery to " (delivery.upstream) } {
                        (marks(ask, &back))
                        (hidden("id", id))
                        (hidden("upstream", &delivery.upstream))
                        span { (delivery.upstream) ":" }
                        @for verb in verbs(std::iter::once(delivery)) {
                            button type="submit" name="verb" value=(verb) aria-label={ (verb) " for " (delivery.upstream) } { (verb) "…" }
                        }
                    }
                }
            }
        }
    }
}

/// What makes sense for deliveries in these states.
fn verbs<'a>(deliveries: impl Iterator<Item = &'a ShownDelivery> + Clone) -> Vec<&'static str> {
    let any = |state: &str| deliveries.clone().any(|delivery| delivery.state == state);
    let mut verbs = vec!["replay"];
    if any("pending") {
        verbs.extend(["requeue", "hold", "expire"]);
    }
    verbs.extend(any("held").then_some("release"));
    verbs.extend(any("review").then_some("resolve"));
    verbs
}

fn headers(ask: &Ask, show: &Show, revealed: bool) -> Markup {
    let table = html! {
        table {
            caption { "As received; those of the connection included" }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
            tbody {
                @for (name, value) in &show.headers {
                    tr { th scope="row" { (name) } td.value { (value_of(value)) } }
                }
            }
        }
    };
    html! {
        section aria-labelledby="headers" {
            h2 id="headers" { "Headers" }
            @if revealed { p.note { "Credentials are shown. This was recorded." } }
            @else if ask.operates() {
                form method="post" action={ "/events/" (show.event.id) } {
                    (marks(ask, &format!("/events/{}", show.event.id)))
                    button type="submit" { "Show what is hidden (is recorded)" }
                }
            }
            (scroll("Headers", &table))
        }
    }
}

/// The value of a header; what is no text is shown as it was encoded.
pub(super) fn value_of(value: &Text) -> Markup {
    html! {
        @match value {
            Text::Plain(text) => { (text) }
            Text::Encoded { base64 } => { span.calm { "base64: " } (base64) }
        }
    }
}
