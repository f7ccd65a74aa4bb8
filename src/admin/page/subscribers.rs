//! Owns the page of subscribers: who gets what is published, how each fares, and letting one go on, pausing or removing it.
//!
//! Deliberately absent: registering one, whose generated secret would be shown on a page; the command line does that.

use maud::{Markup, html};

use super::{
    Page, Pairs,
    ask::{Ask, duration},
    frame::Reply,
    overview::until,
    parts::{age, count, field, hidden, marks, scroll, state},
};
use crate::{
    admin::{
        api::Refusal,
        subscribers::{pause, resume, rotate, subscribers, unsubscribe},
        wire::{PauseSubscriber, RotateSecret, Subscriber, SubscriberDone},
    },
    clock::Timestamp,
};

/// What can be done: the verb, and the words of its button.
const PAUSE: (&str, &str) = ("pause", "pause");
const RESUME: (&str, &str) = ("resume", "resume");
const ROTATE: (&str, &str) = ("rotate", "rotate secret");
const REMOVE: (&str, &str) = ("remove", "remove");

/// How long the old secret signs as well if nothing else is said, as on the command line.
const OVERLAP_MS: u64 = 24 * 3_600 * 1_000;

pub(super) const PAGES: &[Page] = &[
    Page::get("/subscribers", list).whole(),
    Page::post("/subscribers/confirm", confirm).whole(),
    Page::post("/subscribers", done).whole(),
];

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let (now, all) = (ask.ports.now(), subscribers(&*ask.ports)?);
    let table = html! {
        table {
            caption { "By topic and name" }
            thead { tr {
                th scope="col" { "Subscriber" }
                th scope="col" { "State" }
                th scope="col" { "Where" }
                th scope="col" { "What" }
                th.number scope="col" { "Pending" }
                th.number scope="col" { "Dead" }
                th scope="col" { "Failing" }
                th scope="col" { "From" }
                @if ask.operates() { th scope="col" { span.unseen { "Actions" } } }
            } }
            tbody { @for one in &all { (row(ask, one, now)) } }
        }
    };
    let main = html! {
        h1 { "Subscribers" }
        p { "They get what routes publish under topics." }
        @if all.is_empty() { p.empty { "There is none." } } @else { (scroll("Subscribers", &table)) }
    };
    Ok(Reply::page("Subscribers", "/subscribers", main))
}

fn row(ask: &Ask, one: &Subscriber, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (one.upstream) }
            td {
                (state(&one.state))
                @if let Some(end) = one.paused_until { " " (until(end, now)) }
                @if let Some(why) = &one.why { div.calm { (why) } }
            }
            td.path { (one.url) }
            td {
                @if one.types.is_empty() { "every type" } @else { (one.types.join(", ")) }
                @if let Some(when) = &one.when { div.path { (when) } }
                @if let Some(rate) = &one.rate { div.calm { "at most " (rate) } }
            }
            td.number { (count(one.pending)) }
            td.number { (count(one.dead)) }
            td { @if let Some(since) = one.failing_since { (count(one.failures)) " since " (age(since, now)) } @else { "–" } }
            td {
                (one.origin)
                @if let Some(by) = &one.registered_by { div.calm { (by) @if let Some(at) = one.registered_at { ", " (age(at, now)) } } }
            }
            @if ask.operates() { td { (actions(ask, one)) } }
        }
    }
}

fn actions(ask: &Ask, one: &Subscriber) -> Markup {
    let verbs: &[(&str, &str)] = match (one.state.as_str(), one.origin.as_str()) {
        ("active", "config") => &[PAUSE],
        ("active", _) => &[PAUSE, ROTATE, REMOVE],
        (_, "config") => &[RESUME],
        _ => &[RESUME, ROTATE, REMOVE],
    };
    html! {
        form.bulk method="post" action="/subscribers/confirm" {
            (marks(ask, "/subscribers"))
            (hidden("subscriber", &one.upstream))
            @for (verb, words) in verbs {
                button type="submit" name="do" value=(verb) aria-label={ (words) " " (one.upstream) } { (words) "…" }
            }
        }
    }
}

/// What is to be done, in words: the question, and what it means.
fn meant(verb: &str) -> Result<(&'static str, &'static str), Refusal> {
    Ok(match verb {
        "pause" => ("Pause", "What waits and what will come for it is kept."),
        "resume" => ("Resume", "What waits for it goes on."),
        "rotate" => ("Rotate the secret of", "What is sent from now on is signed with another secret."),
        "remove" => ("Remove", "It gets nothing any more. What waits for it dies."),
        _ => return Err(Refusal::bad("nothing was chosen that could be done")),
    })
}

fn confirm(ask: &Ask) -> Result<Reply, Refusal> {
    let (verb, name) = (ask.form.get("do").unwrap_or_default(), ask.form.get("subscriber").unwrap_or_default());
    let (word, about) = meant(verb)?;
    let (title, nothing) = (format!("{word} {name}?"), Pairs::default());
    let main = html! {
        h1 { (title) }
        p { (about) }
        form.confirm method="post" action="/subscribers" {
            (marks(ask, "/subscribers"))
            (hidden("do", verb))
            (hidden("subscriber", name))
            @if verb == "pause" {
                (field(&nothing, "for", "For", "10m, 2h; empty until it is resumed"))
                (field(&nothing, "reason_text", "Reason", "why, for those who come after you"))
            }
            @if verb == "rotate" {
                (field(&nothing, "secret", "New secret", "env:NAME; empty: one is generated"))
                (field(&nothing, "overlap", "The old one signs too, for", "24h; 0s ends it at once"))
            }
            div.buttons {
                button.main.danger[verb == "remove"] type="submit" { (word) " " (name) }
                a href="/subscribers" { "Cancel" }
            }
        }
    };
    Ok(Reply::page(title, "/subscribers", main))
}

fn done(ask: &Ask) -> Result<Reply, Refusal> {
    let (verb, name) = (ask.form.get("do").unwrap_or_default(), ask.form.get("subscriber").unwrap_or_default());
    let (ports, caller) = (&*ask.ports, &ask.caller);
    meant(verb)?;
    let told = match verb {
        "pause" => {
            let for_ms = ask.form.get("for").map(millis).transpose()?;
            let reason = ask.form.get("reason_text").map(str::to_owned);
            pause(ports, name, &PauseSubscriber { for_ms, reason }, caller)?;
            format!("Paused {name}.")
        }
        "resume" => {
            resume(ports, name, caller)?;
            format!("Resumed {name}.")
        }
        "rotate" => {
            let overlap_ms = match ask.form.get("overlap") {
                None => OVERLAP_MS,
                Some("0" | "0s") => 0,
                Some(text) => millis(text)?,
            };
            let secret = ask.form.get("secret").map(str::to_owned);
            let done = rotate(ports, name, &RotateSecret { secret, overlap_ms }, caller)?;
            return Ok(answered(ask, format!("{name} is signed with the new secret."), &done));
        }
        _ => {
            unsubscribe(ports, name, caller)?;
            format!("Removed {name}.")
        }
    };
    ask.tell(vec![told]);
    Ok(Reply::See("/subscribers".to_owned()))
}

/// A duration in milliseconds.
fn millis(text: &str) -> Result<u64, Refusal> {
    let length = duration(text).ok_or_else(|| Refusal::bad(format!("{text:?} is no duration: use one such as 10m")))?;
    Ok(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// Where it goes on. A generated secret is shown in the answer itself and kept nowhere for another page.
fn answered(ask: &Ask, what: String, done: &SubscriberDone) -> Reply {
    let Some(secret) = &done.secret else {
        ask.tell(vec![what]);
        return Reply::See("/subscribers".to_owned());
    };
    let main = html! {
        h1 { "The secret" }
        p.note.good role="status" { (what) }
        p { "This is its signing secret (Standard Webhooks). It is shown this once: give it to the subscriber now." }
        pre.body tabindex="0" role="region" aria-label="The secret" { (secret) }
        p { a href="/subscribers" { "Back to the subscribers" } }
    };
    Reply::page("The secret", "/subscribers", main)
}
