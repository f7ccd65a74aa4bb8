//! Owns the targets on the page of an upstream, and taking one of them out or in again.
//!
//! Promises that the last target which works is taken out only if that is said on purpose.

use maud::{Markup, html};

use super::{
    Page, Pairs,
    ask::Ask,
    frame::Reply,
    parts::{age, counted, field, hidden, marks, scroll, state},
    upstreams::address,
};
use crate::{
    admin::{
        api::Refusal,
        drain::{drain, would_drain},
        wire::{Drain, Upstream, UpstreamTarget},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] = &[Page::post("/targets/confirm", confirm), Page::post("/targets", done)];

/// How the targets of an upstream fare.
pub(super) fn targets(ask: &Ask, upstream: &Upstream, now: Timestamp) -> Markup {
    // A target is for all sources.
    let operates = ask.operates() && !ask.caller.scope.limits_sources();
    let table = html! {
        table {
            caption { "Targets" }
            thead { tr {
                th scope="col" { "Url" }
                th scope="col" { "State" }
                th.number scope="col" { "In flight" }
                th scope="col" { "Back" }
                @if operates { th scope="col" { span.unseen { "Actions" } } }
            } }
            tbody {
                @for target in &upstream.targets {
                    tr {
                        th.path scope="row" { (target.url) }
                        td { (state(&target.state)) (drained(target, now)) }
                        td.number { (target.in_flight) }
                        td { @if let Some(end) = target.ejected_until { (age(end, now)) } @else { "–" } }
                        @if operates { td { (button(ask, upstream, target)) } }
                    }
                }
            }
        }
    };
    scroll("Targets", &table)
}

/// Who took it out, and why.
fn drained(target: &UpstreamTarget, now: Timestamp) -> Markup {
    html! {
        @if let Some(at) = target.drained_at {
            div.calm {
                (age(at, now))
                @if let Some(by) = &target.drained_by { " by " (by) }
                @if let Some(reason) = &target.drained_reason { ": " (reason) }
            }
        }
    }
}

fn button(ask: &Ask, upstream: &Upstream, target: &UpstreamTarget) -> Markup {
    let verb = if target.state == "drained" { "undrain" } else { "drain" };
    html! {
        form method="post" action="/targets/confirm" {
            (marks(ask, &address(&upstream.name)))
            (hidden("upstream", &upstream.name))
            (hidden("target", &target.url))
            button type="submit" name="do" value=(verb) aria-label={ (verb) " " (target.url) } { (verb) "…" }
        }
    }
}

/// What the form asks for.
fn asked(ask: &Ask) -> Result<Drain, Refusal> {
    let text = |name: &str| ask.form.get(name).unwrap_or_default().to_owned();
    let undo = match ask.form.get("do") {
        Some("drain") => false,
        Some("undrain") => true,
        _ => return Err(Refusal::bad("nothing was chosen that could be done")),
    };
    let reason = ask.form.get("reason_text").map(str::to_owned);
    Ok(Drain { upstream: text("upstream"), target: text("target"), undo, force: ask.form.has("force"), reason })
}

fn confirm(ask: &Ask) -> Result<Reply, Refusal> {
    let asked = asked(ask)?;
    let would = would_drain(&*ask.ports, &Drain { force: true, ..asked.clone() }, &ask.caller)?;
    let word = if asked.undo { "Undrain" } else { "Drain" };
    let title = format!("{word} {} of {}?", would.target, would.upstream);
    let is_last = !asked.undo && would.left == 0;
    let main = html! {
        h1 { (title) }
        @if asked.undo { p { "It gets attempts again." } }
        @else {
            p {
                "It gets no new attempts; those under way may finish (now: " (would.in_flight) "). It stays out through restarts "
                "and reloads until it is undrained."
            }
            p { (counted(would.left, "other target works", "other targets work")) "." }
        }
        @if !would.changed { p.note { "There is nothing that this could change." } }
        form.confirm method="post" action="/targets" {
            (marks(ask, &ask.back()))
            (hidden("do", if asked.undo { "undrain" } else { "drain" }))
            (hidden("upstream", &would.upstream))
            (hidden("target", &would.target))
            @if would.changed && !asked.undo {
                (field(&Pairs::default(), "reason_text", "Reason", "why, for those who come after you"))
            }
            @if would.changed && is_last {
                p.note.bad { "No other target works: what is for " (would.upstream) " waits for as long as this one is out." }
                div.field { label { input type="checkbox" name="force" value="yes" required; " Take it out all the same" } }
            }
            div.buttons {
                @if would.changed { button.main.danger[is_last] type="submit" { (word) " the target" } }
                a href=(ask.back()) { "Cancel" }
            }
        }
    };
    Ok(Reply::page(title, "/upstreams", main))
}

fn done(ask: &Ask) -> Result<Reply, Refusal> {
    let asked = asked(ask)?;
    let did = drain(&*ask.ports, &asked, &ask.caller)?;
    let word = if asked.undo { "Undrained" } else { "Drained" };
    ask.tell(vec![match did.changed {
        true => format!("{word} {}.", did.target),
        false => format!("{} was so before.", did.target),
    }]);
    Ok(Reply::See(ask.back()))
}
