//! Owns the page of subscribers: who gets what is published, how each fares, registering one, and what can be done to it.
//!
//! Promises that the rules are those of the API, and that a generated secret is shown once, in the answer itself: it is kept
//! for no other page, and what was typed as a secret is not shown again.

use maud::{Markup, html};

use super::{
    Page, Pairs,
    ask::{Ask, duration},
    frame::{Reply, framed, shown},
    overview::until,
    parts::{age, count, field, hidden, marks, scroll, state},
};
use crate::{
    admin::{
        api::Refusal,
        subscribers::{pause, resume, rotate, subscribe, subscribers, unsubscribe},
        wire::{PauseSubscriber, RotateSecret, Subscribe, Subscriber, SubscriberDone},
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
    Page::post("/subscribers/new", registered).whole(),
    Page::post("/subscribers/confirm", confirm).whole(),
    Page::post("/subscribers", done).whole(),
];

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    Ok(Reply::page("Subscribers", "/subscribers", all(ask, &Pairs::default(), None)?))
}

/// All of them, and the form for another one, with what was given there before and why that was not taken.
fn all(ask: &Ask, given: &Pairs, wrong: Option<&str>) -> Result<Markup, Refusal> {
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
    Ok(html! {
        h1 { "Subscribers" }
        p { "They get what routes publish under topics." }
        @if let Some(wrong) = wrong { p.note.bad role="alert" { "That did not work: " (wrong) "." } }
        @if all.is_empty() { p.empty { "There is none." } } @else { (scroll("Subscribers", &table)) }
        @if ask.operates() { (form(ask, given)) }
    })
}

/// What registers one.
fn form(ask: &Ask, given: &Pairs) -> Markup {
    html! {
        section aria-labelledby="register" {
            h2 id="register" { "Register one" }
            form.confirm method="post" action="/subscribers/new" aria-labelledby="register" {
                (marks(ask, "/subscribers"))
                (field(given, "topic", "Topic", "orders"))
                (field(given, "name", "Name", "crm"))
                (field(given, "url", "Where its events go", "https://crm.example/hook"))
                (field(given, "types", "Types", "invoice.*, order; empty: all"))
                (field(given, "when", "And only if (jq)", ".amount > 100"))
                (field(given, "rate", "At most", "10/s; empty: no limit"))
                (field(given, "secret", "Secret", "env:NAME; empty: generated"))
                div.buttons { button.main type="submit" { "Register" } }
            }
        }
    }
}

fn registered(ask: &Ask) -> Result<Reply, Refusal> {
    let text = |name: &str| ask.form.get(name).map(str::to_owned);
    let types = ask.form.get("types").unwrap_or_default().split(',').map(|one| one.trim().to_owned());
    let asked = Subscribe {
        topic: text("topic").unwrap_or_default(),
        name: text("name").unwrap_or_default(),
        url: text("url").unwrap_or_default(),
        types: types.filter(|one| !one.is_empty()).collect(),
        when: text("when"),
        secret: text("secret"),
        rate: text("rate"),
    };
    let done = match subscribe(&*ask.ports, &asked, &ask.caller) {
        Ok(done) => done,
        Err(error) => {
            let (refusal, given) = (Refusal::from(error), ask.form.with("secret", None));
            let (status, wrong, _) = refusal.parts();
            let main = all(ask, &given, Some(wrong))?;
            let page = shown(status, &framed(Some(ask), "Subscribers", "/subscribers", &main));
            return Ok(Reply::Other(Box::new(page)));
        }
    };
    let upstream = format!("{}/{}", asked.topic, asked.name);
    let what = match done.subscriber.as_ref().filter(|now| now.state == "off") {
        Some(off) => format!("{upstream} is registered, but off: {}.", off.why.as_deref().unwrap_or_default()),
        None => format!("{upstream} gets what is published from now on."),
    };
    Ok(answered(ask, what, &done))
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
