//! Owns the pages of refused requests that are kept: looking at them, judging them again, taking or deleting them.
//!
//! Promises that nothing is taken or deleted without a look at how many there are.

use std::ops::ControlFlow;

use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    body::body,
    event::value_of,
    frame::Reply,
    parts::{choosing, counted, field, hidden_all, marks, moment, scroll, size, state, time},
};
use crate::admin::{
    api::Refusal,
    quarantine::{Selected, Wanted, delete, kept_listed, quarantined_body, quarantined_show, recheck, recorded},
    wire::{Discard, Filters, Pick, QuarantineReply, Quarantined, Recheck, Rechecked},
};

pub(super) const PAGES: &[Page] = &[
    Page::get("/quarantine", list),
    Page::get("/quarantine/{id}", one),
    Page::get("/quarantine/{id}/body", file),
    Page::post("/quarantine/confirm", confirm),
    Page::post("/quarantine", done),
];

/// Requests on a page.
const ROWS: usize = 100;

/// Judgements on a page; all are made.
const JUDGED: usize = 200;

/// Filters that are asked here.
const ASKED: [&str; 7] = ["source", "tenant", "status", "reason", "since", "until", "grep"];

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let filters = ask.query.filters(now)?;
    let is_filtered = !filters.is_empty();
    let wanted = Wanted::new(filters, &*ask.ports)?;
    let (mut kept, mut notes): (Vec<Quarantined>, Vec<String>) = (Vec::new(), Vec::new());
    kept_listed(&*ask.ports, &wanted, ROWS, &mut |reply| {
        match reply {
            QuarantineReply::Kept(one) => kept.push(one),
            QuarantineReply::Note(note) | QuarantineReply::Failed(note) if notes.len() < ROWS => notes.push(note),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let table = html! {
        table {
            caption { "Newest first" @if kept.len() == ROWS { ", the first " (ROWS) "; filters show others" } }
            thead { tr {
                @if ask.operates() { th scope="col" { span.unseen { "Chosen" } } }
                th scope="col" { "Received" }
                th scope="col" { "Reason" }
                th scope="col" { "Answered" }
                th scope="col" { "Source" }
                th scope="col" { "Client" }
                th scope="col" { "Request" }
                th scope="col" { "Id" }
            } }
            tbody {
                @for one in &kept {
                    tr {
                        @if ask.operates() { td { input type="checkbox" name="id" value=(one.id) aria-label={ "Request " (one.id) }; } }
                        td.when { (moment(one.received_at, now)) }
                        td { (one.reason) }
                        td { (one.status) }
                        td { (one.source.as_deref().unwrap_or("–")) }
                        td { (one.client) }
                        td.path { (one.method) " " (one.path) " " span.calm { (size(one.size)) } }
                        td { a.id href={ "/quarantine/" (one.id) } { (one.id) } }
                    }
                }
            }
        }
    };
    let main = html! {
        h1 { "Quarantine" }
        p { "Requests that were refused and are kept apart. Nobody vouches for them." }
        form.filters method="get" action="/quarantine" role="search" aria-label="Quarantine" {
            (field(&ask.query, "source", "Source", ""))
            (field(&ask.query, "reason", "Reason", "signature"))
            (field(&ask.query, "grep", "Text", ""))
            (field(&ask.query, "since", "Since", "2h"))
            (field(&ask.query, "until", "Until", ""))
            div.buttons {
                button.main type="submit" { "Find" }
                @if is_filtered { a href="/quarantine" { "All of them" } }
            }
        }
        @for note in &notes { p.note.bad { (note) } }
        @if kept.is_empty() { p.empty { "There is none." } }
        @else {
            (choosing(ask, "/quarantine/confirm", &ask.query.address("/quarantine"), &buttons(""), &scroll("Quarantine", &table)))
            @if ask.operates() {
                form.bulk method="post" action="/quarantine/confirm" aria-label="All that these filters mean" {
                    (marks(ask, &ask.query.address("/quarantine")))
                    (hidden_all(&ask.query, &ASKED))
                    @if !is_filtered { (super::parts::hidden("all", "yes")) }
                    span { "All of them:" }
                    (buttons(" all"))
                }
            }
        }
    };
    Ok(Reply::page("Quarantine", "/quarantine", main))
}

fn buttons(more: &str) -> Markup {
    html! {
        button type="submit" name="do" value="recheck" { "check" (more) " again" }
        button type="submit" name="do" value="admit" { "admit" (more) "…" }
        button.danger type="submit" name="do" value="delete" { "delete" (more) "…" }
    }
}

fn one(ask: &Ask) -> Result<Reply, Refusal> {
    let id = ask.id()?;
    let show = quarantined_show(&*ask.ports, id, false)?;
    let received = quarantined_body(&*ask.ports, id, false)?;
    let kind =
        show.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.bytes().into_owned());
    let kind = String::from_utf8(kind.unwrap_or_default()).unwrap_or_default();
    let event = &show.event;
    let headers = html! {
        table {
            caption { "As received" }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
            tbody { @for (name, value) in &show.headers { tr { th scope="row" { (name) } td.value { (value_of(value)) } } } }
        }
    };
    let main = html! {
        h1 { "Refused request " span.id { (id) } }
        dl.facts {
            div { dt { "Received" } dd { (time(event.received_at)) } }
            div { dt { "Reason" } dd { (show.verification.result) } }
            @if let Some(answered) = &show.answered { div { dt { "Answered" } dd { (answered) } } }
            div { dt { "Source" } dd { @if event.source.is_empty() { "–" } @else { (event.source) } } }
            div { dt { "Request" } dd.path { (event.method) " " (event.path) @if let Some(query) = &show.query { "?" (query) } } }
            div { dt { "From" } dd { (show.client) } }
            div { dt { "Body" } dd { (size(event.size)) } }
        }
        @if ask.operates() {
            form.bulk method="post" action="/quarantine/confirm" aria-label="The request" {
                (marks(ask, "/quarantine"))
                (super::parts::hidden("id", &id.to_string()))
                (buttons(""))
            }
        }
        section aria-labelledby="headers" { h2 id="headers" { "Headers" } (scroll("Headers", &headers)) }
        section aria-labelledby="body" {
            h2 id="body" { "Body" }
            (body(&kind, &received, &format!("/quarantine/{id}/body")))
        }
    };
    Ok(Reply::page("Refused request", "/quarantine", main))
}

fn file(ask: &Ask) -> Result<Reply, Refusal> {
    let id = ask.id()?;
    Ok(Reply::File { name: format!("{id}.body"), bytes: quarantined_body(&*ask.ports, id, false)? })
}

/// What was chosen.
fn pick(ask: &Ask) -> Result<Pick, Refusal> {
    let ids: Vec<String> = ask.form.all("id").map(str::to_owned).collect();
    let filters = if ids.is_empty() { ask.form.filters(ask.ports.now())? } else { Filters::default() };
    let pick = Pick { ids, filters, all: ask.form.has("all") };
    if pick.is_empty() { Err(Refusal::bad("nothing was chosen")) } else { Ok(pick) }
}

fn confirm(ask: &Ask) -> Result<Reply, Refusal> {
    let what = ask.form.get("do").unwrap_or_default();
    let (verb, about) = match what {
        // Changes nothing.
        "recheck" => return judged(ask, false),
        "admit" => ("Admit", "Those that pass the checks of today become events and leave the quarantine."),
        "delete" => ("Delete", "They are gone then; that can't be undone."),
        _ => return Err(Refusal::bad("nothing was chosen that could be done")),
    };
    let pick = pick(ask)?;
    let would = delete(&*ask.ports, &Discard { pick, dry_run: true }, &ask.caller)?;
    let title = format!("{verb} {}?", counted(would.count, "request", "requests"));
    let main = html! {
        h1 { (title) }
        p { (about) }
        @if would.missing_count > 0 { p.note { (counted(would.missing_count, "is", "are")) " not there any more." } }
        form.confirm method="post" action="/quarantine" {
            (marks(ask, &ask.back()))
            (hidden_all(&ask.form, &["id", "do", "all"]))
            (hidden_all(&ask.form, &ASKED))
            div.buttons {
                @if would.count > 0 { button.main.danger[what == "delete"] type="submit" { (verb) " " (counted(would.count, "request", "requests")) } }
                a href=(ask.back()) { "Cancel" }
            }
        }
    };
    Ok(Reply::page(title, "/quarantine", main))
}

fn done(ask: &Ask) -> Result<Reply, Refusal> {
    match ask.form.get("do") {
        Some("admit") => judged(ask, true),
        Some("delete") => {
            let did = delete(&*ask.ports, &Discard { pick: pick(ask)?, dry_run: false }, &ask.caller)?;
            ask.tell(vec![format!("Deleted {}.", counted(did.count, "request", "requests"))]);
            Ok(Reply::See(ask.back()))
        }
        _ => Err(Refusal::bad("nothing was chosen that could be done")),
    }
}

/// Judges what was chosen, and shows what came of it.
fn judged(ask: &Ask, admit: bool) -> Result<Reply, Refusal> {
    let asked = Recheck { pick: pick(ask)?, admit };
    let selected = Selected::to_recheck(&*ask.ports, &asked)?;
    let what = if admit { "quarantine_admit" } else { "quarantine_recheck" };
    ask.ports.command(recorded(&ask.caller, what, &asked.pick)).map_err(Refusal::unavailable)?;
    let (mut judged, mut notes, mut all, mut good) = (Vec::<Rechecked>::new(), Vec::<String>::new(), 0_u64, 0_u64);
    recheck(&*ask.ports, selected, admit, &ask.caller, &mut |reply| {
        match reply {
            QuarantineReply::Judged(one) => {
                all += 1;
                good += u64::from(matches!(one.result.as_str(), "verified" | "admitted" | "duplicate"));
                if judged.len() < JUDGED {
                    judged.push(one);
                }
            }
            QuarantineReply::Missing(id) if notes.len() < JUDGED => notes.push(format!("{id} is not there any more.")),
            QuarantineReply::Note(note) | QuarantineReply::Failed(note) if notes.len() < JUDGED => notes.push(note),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let now = ask.ports.now();
    let table = html! {
        table {
            caption { "Judged by the configuration of today" @if all > JUDGED as u64 { ", the first " (JUDGED) } }
            thead { tr { th scope="col" { "Received" } th scope="col" { "Was refused" } th scope="col" { "Now" } th scope="col" { "Event" } } }
            tbody {
                @for one in &judged {
                    tr {
                        td.when { (moment(one.received_at, now)) }
                        td { (one.reason) }
                        td { (state(&one.result)) @if let Some(why) = &one.why { " " (why) } }
                        td { @if let Some(event) = &one.event { a.id href={ "/events/" (event) } { (event) } } @else { span.id { (one.id) } } }
                    }
                }
            }
        }
    };
    let outcome = if admit { "are events now" } else { "would be taken" };
    let main = html! {
        h1 { (good) " of " (all) " " (outcome) }
        @for note in &notes { p.note.bad { (note) } }
        @if !judged.is_empty() { (scroll("Judgements", &table)) }
        p { a href=(ask.back()) { "Back to the quarantine" } }
    };
    Ok(Reply::page("Judged again", "/quarantine", main))
}
