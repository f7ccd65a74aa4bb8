//! Owns the list of deliveries that wait for a person: dead, held, in review; and what is done to many of them at once.
//!
//! Promises that they are found by their records, so that a long log costs nothing; that one page looks at no more than
//! [`LOOKED_MAX`] of them; and that what is chosen is counted before anything is done.

use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    frame::Reply,
    parts::{choice, choosing, count, event_link, field, hidden, marks, moment, older, scroll, state},
};
use crate::{
    admin::{
        api::Refusal,
        filter::Compiled,
        line::reason,
        list::last_status,
        ports::{DeliveryView, EventView, PlannedFor},
    },
    clock::Timestamp,
    event::{DeliveryState, Event, Seq},
    log::{read_body, read_event},
};

pub(super) const PAGES: &[Page] = &[Page::get("/letters", list)];

/// Events on a page.
const ROWS: usize = 100;

/// Records that are looked at for one page.
const LOOKED_MAX: usize = 20_000;

/// Records asked for at once.
const AT_ONCE: usize = 250;

/// Notes on a page.
const NOTES: usize = 20;

/// What can be looked at.
const KINDS: [(DeliveryState, &str); 3] =
    [(DeliveryState::Dead, "Dead"), (DeliveryState::Held, "Held"), (DeliveryState::Review, "In review")];

/// Filters that are asked here.
const ASKED: [&str; 8] = ["source", "upstream", "type", "reason", "status", "since", "until", "grep"];

/// One event with its deliveries in the state.
struct Letter {
    event: Event,
    deliveries: Vec<DeliveryView>,
}

#[derive(Default)]
struct Listed {
    letters: Vec<Letter>,
    notes: Vec<String>,
    next: Option<Seq>,
}

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let kind = ask.query.get("state").unwrap_or("dead");
    let found = KINDS.iter().find(|(state, _)| state.as_str() == kind);
    let (wanted_state, title) =
        *found.ok_or_else(|| Refusal::bad(format!("{kind:?} is none of dead, held and review")))?;
    let now = ask.ports.now();
    let listed = listed(ask, wanted_state, now)?;
    let status = ask.ports.status();
    let total = |state: DeliveryState| -> u64 {
        let of = |upstream: &crate::admin::wire::Upstream| match state {
            DeliveryState::Dead => upstream.dead,
            DeliveryState::Held => upstream.held,
            _ => upstream.review,
        };
        status.upstreams.iter().map(of).sum()
    };
    let is_filtered = ASKED.iter().any(|name| ask.query.has(name));
    let main = html! {
        h1 { "Deliveries that wait for you" }
        nav.tabs aria-label="States" {
            ul {
                @for (state, name) in KINDS {
                    li {
                        a href=(ask.query.with("state", Some(state.as_str())).with("after", None).address("/letters"))
                            aria-current=[(state == wanted_state).then_some("true")] { (name) " " span.count { (count(total(state))) } }
                    }
                }
            }
        }
        (filter_form(ask, wanted_state, is_filtered))
        @for note in &listed.notes { p.note.bad { (note) } }
        @if listed.letters.is_empty() {
            p.empty {
                @if listed.next.is_some() { "None of those looked at so far is meant." }
                @else if is_filtered { "None is meant by these filters." }
                @else { "There is none." }
            }
            (older(ask, "/letters", listed.next, "Look on"))
        } @else {
            (letters(ask, wanted_state, title, &listed, now))
        }
    };
    Ok(Reply::page(format!("{title} deliveries"), "/letters", main))
}

fn letters(ask: &Ask, wanted: DeliveryState, title: &str, listed: &Listed, now: Timestamp) -> Markup {
    let operates = ask.operates();
    let table = html! {
        table {
            caption { (title) ", oldest first" }
            thead { tr {
                @if operates { th scope="col" { span.unseen { "Chosen" } } }
                th scope="col" { "Received" }
                th scope="col" { "Source" }
                th scope="col" { "Type" }
                th scope="col" { "Delivery" }
                th scope="col" { "Id" }
            } }
            tbody { @for letter in &listed.letters { (row(ask, letter, now)) } }
        }
    };
    let verbs: &[&str] = match wanted {
        DeliveryState::Dead => &["replay", "delete"],
        DeliveryState::Held => &["release", "replay", "delete"],
        _ => &["resolve", "replay", "delete"],
    };
    let buttons = html! {
        (hidden("state", wanted.as_str()))
        @if let Some(upstream) = ask.query.get("upstream") { (hidden("upstream", upstream)) }
        @for verb in verbs { button type="submit" name="verb" value=(verb) { (verb) "…" } }
    };
    html! {
        (choosing(ask, "/act/confirm", &ask.query.address("/letters"), &buttons, &scroll(title, &table)))
        (older(ask, "/letters", listed.next, "Newer ones"))
        @if operates {
            form.bulk method="post" action="/act/confirm" aria-label="All that these filters mean" {
                (marks(ask, &ask.query.with("after", None).address("/letters")))
                (hidden("state", wanted.as_str()))
                @for name in ASKED { @if let Some(value) = ask.query.get(name) { (hidden(name, value)) } }
                span { "All of them, on all pages:" }
                @for verb in verbs { button type="submit" name="verb" value=(verb) { (verb) " all…" } }
            }
        }
    }
}

fn row(ask: &Ask, letter: &Letter, now: Timestamp) -> Markup {
    let log = ask.ports.log();
    let event = &letter.event;
    html! {
        tr {
            @if ask.operates() {
                td { input type="checkbox" name="id" value=(event.id) aria-label={ "Event " (event.id) }; }
            }
            td.when { (moment(event.received_at, now)) }
            td { (event.source) }
            td { (event.event_type.as_deref().unwrap_or("–")) }
            td {
                ul.plain {
                    @for delivery in &letter.deliveries {
                        li {
                            (delivery.upstream) " " (state(delivery.status.state().as_str()))
                            " " span.calm { (delivery.attempts) @if delivery.attempts == 1 { " attempt" } @else { " attempts" } }
                            @if let Some(reason) = reason(&*log, delivery) { div.calm { (reason) } }
                        }
                    }
                }
            }
            td { (event_link(&event.id)) }
        }
    }
}

fn filter_form(ask: &Ask, wanted: DeliveryState, is_filtered: bool) -> Markup {
    let (query, upstreams) = (&ask.query, ask.ports.upstreams());
    html! {
        form.filters method="get" action="/letters" role="search" aria-label="Deliveries" {
            (hidden("state", wanted.as_str()))
            (choice(query, "upstream", "Upstream", "any", upstreams.iter().map(|name| &**name)))
            (field(query, "reason", "Reason", "given_up"))
            (field(query, "source", "Source", ""))
            (field(query, "type", "Type", ""))
            (field(query, "grep", "Text", ""))
            (field(query, "since", "Received since", "2h"))
            div.buttons {
                button.main type="submit" { "Find" }
                @if is_filtered { a href=(format!("/letters?state={}", wanted.as_str())) { "All of them" } }
            }
        }
    }
}

/// Walks the records of a state until the page is full.
fn listed(ask: &Ask, wanted_state: DeliveryState, now: Timestamp) -> Result<Listed, Refusal> {
    let filters = ask.query.filters(now)?;
    let upstream = filters.upstream.clone();
    let mut filters = filters;
    filters.state = Some(wanted_state.as_str().to_owned());
    let wanted = Compiled::new(filters, &*ask.ports)?;
    let (mut listed, mut after, mut looked) = (Listed::default(), ask.cursor()?, 0);
    loop {
        let unread = |error: String| Refusal::unavailable(format!("the state of deliveries can't be read: {error}"));
        let page = ask.ports.records(wanted_state, upstream.as_deref(), after, AT_ONCE).map_err(unread)?;
        if page.is_empty() {
            return Ok(listed);
        }
        let mut planned: Vec<PlannedFor> = Vec::new();
        for target in page {
            looked += 1;
            match planned.last_mut() {
                Some(same) if same.event == target.event => same.upstreams.push(target.upstream),
                _ => planned.push(PlannedFor { event: target.event, upstreams: vec![target.upstream] }),
            }
        }
        let views = ask.ports.views(&planned).map_err(unread)?;
        for (planned, view) in planned.iter().zip(views) {
            if listed.letters.len() >= ROWS {
                listed.next = after;
                return Ok(listed);
            }
            after = Some(planned.event);
            listed.take(ask, &wanted, planned, view);
        }
        if looked >= LOOKED_MAX {
            listed.next = after;
            return Ok(listed);
        }
    }
}

impl Listed {
    fn take(&mut self, ask: &Ask, wanted: &Compiled, planned: &PlannedFor, view: EventView) {
        let log = ask.ports.log();
        let meant = |view: EventView| -> Result<Option<Letter>, String> {
            let stored_at = ask.ports.stored_at(planned.event)?.unwrap_or(planned.event);
            let event = read_event(&*log, stored_at).map_err(|error| error.to_string())?;
            let body = || read_body(&*log, &event).map_err(|error| error.to_string());
            if view.deleted || !wanted.takes_event(&event) || !wanted.takes_content(&event, &body, &*ask.ports)? {
                return Ok(None);
            }
            let mut deliveries = view.deliveries;
            deliveries.retain(|delivery| {
                planned.upstreams.contains(&delivery.upstream)
                    && wanted.takes_delivery(delivery, &mut |delivery| last_status(&*log, delivery))
            });
            Ok((!deliveries.is_empty()).then_some(Letter { event, deliveries }))
        };
        match meant(view) {
            Ok(letter) => self.letters.extend(letter),
            Err(note) if self.notes.len() < NOTES => self.notes.push(note),
            Err(_) => {}
        }
    }
}
