//! Owns the routes about refused requests that are kept.

use std::ops::ControlFlow;

use super::{Answer, Call, Content, KEPT, LINES_MAX, PAGES, REVEAL, Refusal, Route, bytes, json, of, send, streamed};

use crate::{
    admin::{
        access::Role,
        quarantine::{
            Selected, Wanted, delete, kept_listed, kept_listed_before, quarantined_body, quarantined_show, recheck,
            recorded,
        },
        wire::{Acted, Discard, QuarantinePage, QuarantineReply, Query, Recheck, Show},
    },
    event::EventId,
};

/// Notes on one page.
const NOTES_MAX: usize = 100;

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/quarantine", "quarantine", "Refused requests that are kept, newest first, in pages.", in_pages)
        .query(&[KEPT, PAGES])
        .gives(Content::Json(of::<QuarantinePage>)),
    Route::post("/v1/quarantine/list", "quarantine_list", "Streams what is in quarantine, newest first.", listed)
        .role(Role::View)
        .takes(of::<Query>)
        .gives(Content::Lines(of::<QuarantineReply>)),
    Route::post("/v1/quarantine/recheck", "quarantine_recheck", "Judges requests again; takes those that pass.", again)
        .takes(of::<Recheck>)
        .gives(Content::Lines(of::<QuarantineReply>)),
    Route::post("/v1/quarantine/delete", "quarantine_delete", "Deletes requests from quarantine.", deleted)
        .takes(of::<Discard>)
        .gives(Content::Json(of::<Acted>)),
    Route::get("/v1/quarantine/{id}", "quarantined", "One request in quarantine.", one)
        .query(&[REVEAL])
        .gives(Content::Json(of::<Show>)),
    Route::get("/v1/quarantine/{id}/body", "quarantined_body", "The body of a request in quarantine.", body)
        .query(&[REVEAL])
        .gives(Content::Bytes),
];

fn in_pages(call: &Call) -> Result<Answer, Refusal> {
    let wanted = Wanted::new(call.filters()?, &*call.ports)?;
    let (limit, before) = (call.limit(), call.cursor().unwrap_or(u64::MAX));
    let mut page = QuarantinePage::default();
    kept_listed_before(&*call.ports, &wanted, before, limit, &mut |reply| {
        match reply {
            QuarantineReply::Kept(kept) => page.requests.push(kept),
            QuarantineReply::Note(note) if page.notes.len() < NOTES_MAX => page.notes.push(note),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let last = page.requests.last().filter(|_| page.requests.len() >= limit);
    let last = last.and_then(|last| last.id.parse::<EventId>().ok());
    page.next = last.map(|last| format!("{:x}", last.pos.seq));
    Ok(json(&page))
}

fn listed(call: &Call) -> Result<Answer, Refusal> {
    let query: Query = call.json()?;
    let wanted = Wanted::new(query.filters, &*call.ports)?;
    let (ports, limit) = (call.ports.clone(), usize::try_from(query.limit).unwrap_or(usize::MAX));
    streamed(call, LINES_MAX, move |lines| kept_listed(&*ports, &wanted, limit, &mut |reply| send(lines, &reply)))
}

fn again(call: &Call) -> Result<Answer, Refusal> {
    let asked: Recheck = call.json()?;
    let selected = Selected::to_recheck(&*call.ports, &asked)?;
    let what = if asked.admit { "quarantine_admit" } else { "quarantine_recheck" };
    call.ports.command(recorded(&call.caller, what, &asked.pick)).map_err(Refusal::unavailable)?;
    let (ports, caller) = (call.ports.clone(), call.caller.clone());
    streamed(call, LINES_MAX, move |lines| {
        recheck(&*ports, selected, asked.admit, &caller, &mut |reply| send(lines, &reply));
    })
}

fn deleted(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&delete(&*call.ports, &call.json::<Discard>()?, &call.caller)?))
}

fn one(call: &Call) -> Result<Answer, Refusal> {
    let (id, reveals) = (call.id()?, call.reveals()?);
    let show = quarantined_show(&*call.ports, id, reveals)?;
    if reveals {
        call.note("reveal", &id.to_string())?;
    }
    Ok(json(&show))
}

fn body(call: &Call) -> Result<Answer, Refusal> {
    let (id, reveals) = (call.id()?, call.reveals()?);
    let body = quarantined_body(&*call.ports, id, reveals)?;
    if reveals {
        call.note("reveal", &id.to_string())?;
    }
    Ok(bytes(body))
}
