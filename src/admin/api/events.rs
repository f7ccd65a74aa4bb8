//! Owns the routes about stored events: listing and following, one event, its body, why it is where it is.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Answer, Call, Content, DEAD, DELIVERIES, FILTERS, PAGES, REVEAL, Refusal, Route, bytes, channel, json, lines, of,
    send,
};
use crate::{
    admin::{
        access::Role,
        deliveries::deliveries,
        explain::explain,
        filter::{Compiled, recorded},
        find::{Found, find},
        led::led,
        line::{listed, reply},
        list::{Item, follow_once, page},
        ports::Ports,
        privacy,
        quiet::quietly,
        show::show,
        wire::{DeliveriesPage, EventsPage, Query, Reply, Show},
    },
    event::{DeliveryState, Seq},
};

/// How often a follower looks whether the log has grown.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Events that a follower sees before it waits, at most: they are collected.
const COLLECTED_MAX: usize = 10_000;

/// Notes on one page.
const NOTES_MAX: usize = 100;

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/events", "events", "Events, newest first, in pages.", events)
        .query(&[FILTERS, PAGES])
        .gives(Content::Json(of::<EventsPage>)),
    Route::get(
        "/v1/deliveries",
        "deliveries",
        "Deliveries that are dead, held or in review, oldest first.",
        listed_by_state,
    )
    .query(&[DELIVERIES, PAGES])
    .gives(Content::Json(of::<DeliveriesPage>)),
    Route::get("/v1/dead", "dead", "Dead letters: deliveries that were given up, oldest first.", dead)
        .query(&[DEAD, PAGES])
        .gives(Content::Json(of::<DeliveriesPage>)),
    Route::post("/v1/log", "log", "Streams events, newest first; or follows what comes, oldest first.", log)
        .role(Role::View)
        .takes(of::<Query>)
        .gives(Content::Lines(of::<Reply>)),
    Route::get("/v1/events/{id}", "event", "One event with every attempt.", event)
        .query(&[REVEAL])
        .gives(Content::Json(of::<Show>)),
    Route::get("/v1/events/{id}/body", "event_body", "The body of one event as it was received.", body)
        .query(&[REVEAL])
        .gives(Content::Bytes),
    Route::get("/v1/events/{id}/explain", "event_explain", "Why one event is where it is, in sentences.", explained)
        .gives(Content::Json(of::<Vec<String>>)),
];

fn events(call: &Call) -> Result<Answer, Refusal> {
    let wanted = Compiled::new(call.filters()?, &*call.ports)?;
    let (log, limit, mut last) = (call.ports.log(), call.limit(), None);
    let mut answer = EventsPage::default();
    let stopped = page(&*call.ports, &wanted, call.cursor().unwrap_or(Seq::MAX), &mut |item| {
        if let Item::Event(found) = &item {
            last = Some(found.event.id.pos.seq);
        }
        match reply(&*log, item) {
            Reply::Event(line) => answer.events.push(line),
            Reply::Note(note) | Reply::Failed(note) if answer.notes.len() < NOTES_MAX => answer.notes.push(note),
            Reply::Note(_) | Reply::Failed(_) => {}
        }
        if answer.events.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let next = stopped.or(last.filter(|_| answer.events.len() >= limit));
    answer.next = next.map(|next| format!("{next:x}"));
    Ok(json(&answer))
}

fn dead(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&deliveries(&*call.ports, DeliveryState::Dead, call.text("upstream"), call.cursor(), call.limit())?))
}

fn listed_by_state(call: &Call) -> Result<Answer, Refusal> {
    let state = call.text("state").and_then(recorded).unwrap_or(DeliveryState::Dead);
    Ok(json(&deliveries(&*call.ports, state, call.text("upstream"), call.cursor(), call.limit())?))
}

fn found(call: &Call) -> Result<Found, Refusal> {
    Ok(find(&*call.ports, call.id()?)?)
}

fn event(call: &Call) -> Result<Answer, Refusal> {
    let (reveals, found) = (call.reveals()?, found(call)?);
    if reveals {
        call.note("reveal", &found.event.id.to_string())?;
    }
    Ok(json(&show(&*call.ports, &found, reveals)?))
}

fn body(call: &Call) -> Result<Answer, Refusal> {
    let (reveals, found) = (call.reveals()?, found(call)?);
    if reveals {
        call.note("reveal", &found.event.id.to_string())?;
    }
    Ok(bytes(privacy::body(&*call.ports, &found.event, reveals)?))
}

fn explained(call: &Call) -> Result<Answer, Refusal> {
    let found = found(call)?;
    let show = show(&*call.ports, &found, false)?;
    let led = led(&*call.ports, &found);
    Ok(json(&explain(&show, &call.ports.status(), &led, call.ports.now())))
}

/// Streams a listing, one JSON object a line.
fn log(call: &Call) -> Result<Answer, Refusal> {
    let query: Query = call.json()?;
    let wanted = Arc::new(Compiled::new(query.filters.clone(), &*call.ports)?);
    let (sender, receiver) = channel();
    tokio::spawn(produce(call.ports.clone(), wanted, query, sender));
    Ok(lines(receiver))
}

/// Ends when the listing does, or when its reader is gone.
async fn produce(ports: Arc<dyn Ports>, wanted: Arc<Compiled>, query: Query, sender: mpsc::Sender<Bytes>) {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut next = ports.log().end();
    let first = {
        let (ports, wanted, sender) = (ports.clone(), wanted.clone(), sender.clone());
        let before = next;
        let asked = ports.clone();
        quietly(&asked, move || match query.follow {
            true => send_all(&sender, oldest_first(&*ports, &wanted, before, limit)),
            false => send_newest(&*ports, &wanted, limit, &sender),
        })
        .await
    };
    if first.is_none() {
        let failed = serde_json::to_vec(&Reply::Failed("the listing came to no end".to_owned())).unwrap_or_default();
        // A reader who is gone needs no reason.
        let _gone = sender.send([failed, b"\n".to_vec()].concat().into()).await;
    }
    if first.is_none() || !query.follow {
        return;
    }
    while !sender.is_closed() {
        if ports.log().end() > next {
            let (ports, wanted, lines) = (ports.clone(), wanted.clone(), sender.clone());
            let from = next;
            let asked = ports.clone();
            match quietly(&asked, move || send_following(&*ports, &wanted, from, &lines)).await.flatten() {
                Some(reached) => next = reached,
                None => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            () = sender.closed() => return,
        }
    }
}

fn send_newest(reads: &dyn Ports, wanted: &Compiled, limit: usize, sender: &mpsc::Sender<Bytes>) {
    let result = listed(reads, wanted, Seq::MAX, limit, &mut |reply| send(sender, &reply));
    if let Err(error) = result {
        let _gone = send(sender, &Reply::Failed(error.to_string()));
    }
}

/// The newest events, oldest first: what a follower sees before it waits.
fn oldest_first(reads: &dyn Ports, wanted: &Compiled, before: Seq, limit: usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    let result = listed(reads, wanted, before, limit.min(COLLECTED_MAX), &mut |reply| {
        replies.push(reply);
        ControlFlow::Continue(())
    });
    replies.reverse();
    replies.extend(result.err().map(|error| Reply::Failed(error.to_string())));
    replies
}

fn send_all(sender: &mpsc::Sender<Bytes>, replies: Vec<Reply>) {
    for reply in &replies {
        if send(sender, reply).is_break() {
            return;
        }
    }
}

fn send_following(reads: &dyn Ports, wanted: &Compiled, from: Seq, sender: &mpsc::Sender<Bytes>) -> Option<Seq> {
    let log = reads.log();
    match follow_once(reads, wanted, from, log.end(), &mut |item| send(sender, &reply(&*log, item))) {
        Ok(next) => Some(next),
        Err(error) => {
            let _gone = send(sender, &Reply::Failed(error.to_string()));
            None
        }
    }
}
