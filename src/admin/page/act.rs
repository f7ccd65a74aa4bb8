//! Owns what operators do on the web page to events, deliveries and upstreams: first what it would mean, then doing it.
//!
//! Promises that nothing is done without a look at how much it is: what a filter means is counted first, and only what was
//! there then is changed. Whether something may be done at all is decided where the API and the command line ask as well.

use maud::{Markup, html};

use super::{
    Page, Pairs,
    ask::{Ask, FILTERS, duration},
    frame::Reply,
    parts::{choice, counted, field, hidden, hidden_all, marks, size, span},
};
use crate::admin::{
    act::act,
    api::Refusal,
    wire::{Act, Acted, Filters, Verb},
};

pub(super) const PAGES: &[Page] = &[Page::post("/act/confirm", confirm), Page::post("/act", done)];

/// What is asked for, besides the filters.
const FIELDS: [&str; 3] = ["verb", "id", "all"];

fn verb(form: &Pairs) -> Result<Verb, Refusal> {
    Ok(match form.get("verb") {
        Some("replay") => Verb::Replay,
        Some("hold") => Verb::Hold,
        Some("release") => Verb::Release,
        Some("resolve") => Verb::Resolve,
        Some("delete") => Verb::Delete,
        Some("expire") => Verb::Expire,
        Some("requeue") => Verb::Requeue,
        _ => return Err(Refusal::bad("nothing was chosen that could be done")),
    })
}

/// What the form asks for.
fn asked(ask: &Ask, dry_run: bool) -> Result<Act, Refusal> {
    let form = &ask.form;
    let verb = verb(form)?;
    let ids: Vec<String> = form.all("id").map(str::to_owned).collect();
    let all = form.has("all");
    let mut filters = form.filters(ask.ports.now())?;
    if !ids.is_empty() {
        // Of what was chosen by hand only the delivery may be narrowed down.
        filters = Filters { upstream: filters.upstream, state: filters.state, ..Filters::default() };
    } else if !all && filters.is_empty() {
        return Err(Refusal::bad("nothing was chosen"));
    }
    let for_ms = form.get("for").map(|text| {
        let found =
            duration(text).ok_or_else(|| Refusal::bad(format!("{text:?} is no duration: use one such as 10m")))?;
        Ok::<u64, Refusal>(u64::try_from(found.as_millis()).unwrap_or(u64::MAX))
    });
    let interval = form.get("rate").map(|text| {
        let number: Option<u64> = text.trim_end_matches("/s").trim().parse().ok();
        let fits = number.filter(|number| (1..=100_000).contains(number));
        fits.map(|number| 1_000_000 / number)
            .ok_or_else(|| Refusal::bad(format!("{text:?} is no rate: use one such as 100/s")))
    });
    let before = form
        .get("before")
        .map(|text| u64::from_str_radix(text, 16).map_err(|_| Refusal::bad("before: nothing was counted there")));
    Ok(Act {
        verb,
        ids,
        filters,
        all,
        to: form.get("to").map(str::to_owned).filter(|_| verb == Verb::Replay),
        interval_us: interval.transpose()?.filter(|_| verb == Verb::Replay),
        new_key: form.has("new_key") && verb == Verb::Replay,
        original: form.has("original") && verb == Verb::Replay,
        job: form.has("job") && verb == Verb::Replay,
        for_ms: for_ms.transpose()?.filter(|_| verb == Verb::Hold),
        reason: form.get("reason_text").map(str::to_owned),
        dry_run,
        before: before.transpose()?,
    })
}

fn confirm(ask: &Ask) -> Result<Reply, Refusal> {
    let asked = asked(ask, true)?;
    let would = act(&*ask.ports, &asked, &ask.caller)?;
    let (verb, what) = (asked.verb.as_str(), meant(asked.verb, &would));
    let back = ask.back();
    let nothing = would.upstream.is_none() && would.count == 0;
    let title = format!("{} {what}?", capital(verb));
    let main = html! {
        h1 { (title) }
        (about(&asked.filters, asked.ids.len()))
        @if would.truncated { p.note.bad { "There is more than one command takes: run it again afterwards." } }
        @if would.bytes > 0 {
            p { (size(would.bytes)) " are sent" @if let Some(seconds) = would.estimate_s { ", in about " (span(seconds)) } "." }
        }
        (left_alone(&would))
        @if !would.sample.is_empty() {
            details open[would.sample.len() < 6] {
                summary { "Which" @if would.count > would.sample.len() as u64 { ": the first " (would.sample.len()) } }
                ul.plain {
                    @for (id, upstream) in &would.sample {
                        li { a.id href={ "/events/" (id) } { (id) } @if let Some(upstream) = upstream { " to " (upstream) } }
                    }
                }
            }
        }
        @if nothing { p.note { "There is nothing that this could change." } }
        form.confirm method="post" action="/act" {
            (marks(ask, &back))
            (hidden_all(&ask.form, &FIELDS))
            (hidden_all(&ask.form, &FILTERS))
            @if asked.ids.is_empty() { (hidden("before", &format!("{:x}", would.before))) }
            @if !nothing { (more(ask, asked.verb)) }
            div.buttons {
                @if !nothing {
                    button.main.danger[asked.verb == Verb::Delete] type="submit" { (capital(verb)) " " (what) }
                }
                a href=(back) { "Cancel" }
            }
        }
    };
    Ok(Reply::page(title, "", main))
}

/// What can be said besides.
fn more(ask: &Ask, verb: Verb) -> Markup {
    let upstreams = ask.ports.upstreams();
    let nothing = Pairs::default();
    html! {
        @match verb {
            Verb::Replay => {
                (choice(&nothing, "to", "Send it to", "where it went", upstreams.iter().map(|name| &**name)))
                (field(&nothing, "rate", "At most", "100/s; empty for no limit"))
                div.field {
                    label { input type="checkbox" name="new_key" value="yes"; " With a new idempotency key" }
                    label { input type="checkbox" name="original" value="yes"; " As received, without transforms" }
                }
            }
            Verb::Hold => {
                (field(&nothing, "for", "For", "10m, 2h; empty until it is released"))
                (field(&nothing, "reason_text", "Reason", "why, for those who come after you"))
            }
            Verb::Requeue => {}
            Verb::Release | Verb::Resolve | Verb::Expire => { (field(&nothing, "reason_text", "Reason", "")) }
            Verb::Delete => { p.note { "Deleted events are hidden at once; that can't be undone." } }
        }
    }
}

fn done(ask: &Ask) -> Result<Reply, Refusal> {
    let asked = asked(ask, false)?;
    let did = act(&*ask.ports, &asked, &ask.caller)?;
    let word = match asked.verb {
        Verb::Replay => "Replayed",
        Verb::Hold => "Held",
        Verb::Release => "Released",
        Verb::Resolve => "Resolved",
        Verb::Delete => "Deleted",
        Verb::Expire => "Given up:",
        Verb::Requeue => "Due now:",
    };
    if let Some(job) = &did.job {
        ask.tell(vec![format!("The job {job} replays them, as fast as live traffic allows.")]);
        return Ok(Reply::See(if ask.caller.scope.is_whole() { "/jobs".to_owned() } else { ask.back() }));
    }
    let mut told = vec![format!("{word} {}.", meant(asked.verb, &did))];
    if did.truncated {
        told.push("There is more than one command takes: run it again.".to_owned());
    }
    told.extend(did.skipped.iter().take(10).cloned());
    if did.missing_count > 0 {
        told.push(format!("Not stored any more: {}.", counted(did.missing_count, "event", "events")));
    }
    ask.tell(told);
    let gone = asked.verb == Verb::Delete && ask.back().starts_with("/events/");
    Ok(Reply::See(if gone { "/events".to_owned() } else { ask.back() }))
}

/// What was selected, in words.
fn meant(verb: Verb, acted: &Acted) -> String {
    match (&acted.upstream, verb) {
        (Some(upstream), _) => format!("the upstream {upstream}"),
        (None, Verb::Delete) => counted(acted.count, "event", "events"),
        (None, _) => counted(acted.count, "delivery", "deliveries"),
    }
}

/// What it is about, in words.
fn about(filters: &Filters, ids: usize) -> Markup {
    let given = serde_json::to_value(filters).unwrap_or_default();
    let given: Vec<(String, String)> = given
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    html! {
        @if ids > 0 { p { (counted(ids as u64, "event was", "events were")) " chosen." } }
        @if !given.is_empty() {
            dl.facts { @for (name, value) in &given { div { dt { (name) } dd { (value) } } } }
        }
    }
}

fn left_alone(would: &Acted) -> Markup {
    html! {
        @if would.missing_count > 0 { p.note { "Not stored any more: " (counted(would.missing_count, "event", "events")) "." } }
        @if !would.skipped.is_empty() {
            details { summary { "Left alone" } ul { @for line in &would.skipped { li { (line) } } } }
        }
    }
}

/// With a capital letter.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}
