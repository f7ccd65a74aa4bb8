//! Owns the list of events: filters, older pages, and what comes while one looks.
//!
//! Promises at most [`ROWS`] events on a page; that no body is read unless a filter asks for it; that one look at what came
//! reads at most [`LAG_MAX`] entries of the log, however many there are, and one look at what became of those that are listed
//! asks for at most [`AGAIN_MAX`].

use std::{collections::VecDeque, ops::ControlFlow};

use maud::{Markup, html};
use serde_json::{Value, json};

use super::{
    Page,
    ask::{Ask, FILTERS},
    body::pre,
    frame::Reply,
    parts::{choice, event_link, field, hidden, marks, moment, older, scroll, size, state},
    visible::{is_hidden, visible},
};
use crate::{
    admin::{
        api::Refusal,
        filter::Compiled,
        find::Found,
        list::{Item, follow_once, page, these},
        wire::Filters,
    },
    clock::Timestamp,
    event::{EventId, Seq},
};

pub(super) const PAGES: &[Page] =
    &[Page::get("/events", list), Page::get("/tail/events", tail), Page::get("/tail/rows", again)];

/// Events on a page.
const ROWS: usize = 50;

/// Notes on a page.
const NOTES: usize = 20;

/// Entries that are read to see what came. What came before them is left out and said so.
const LAG_MAX: u64 = 2_000;

/// Events whose rows are drawn again at once.
const AGAIN_MAX: usize = 25;

/// Columns of the table.
const COLUMNS: [(&str, &str); 7] = [
    ("State", ""),
    ("Id", ""),
    ("Received", ""),
    ("Source", ""),
    ("Type", ""),
    ("Request", "wide"),
    ("Deliveries", ""),
];

/// States of events, in the order of the choice.
pub(super) const STATES: [&str; 8] =
    ["pending", "held", "review", "dead", "delivered", "superseded", "ignored", "unrouted"];

/// What was found for a page.
#[derive(Default)]
struct Listed {
    found: Vec<Found>,
    notes: Vec<String>,
    has_more: bool,
}

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let filters = ask.query.filters(now)?;
    let is_filtered = !filters.is_empty();
    // What comes from here on is what a follower has not seen.
    let end = ask.ports.log().end();
    let wanted = Compiled::new(filters, &*ask.ports)?;
    let before = ask.cursor()?;
    let mut listed = Listed::default();
    let stopped = page(&*ask.ports, &wanted, before.unwrap_or(Seq::MAX), &mut |item| listed.take(item))?;
    let last = listed.found.last().filter(|_| listed.has_more).map(|found| found.event.id.pos.seq);
    let next = stopped.or(last);
    let tail = before.is_none().then(|| ask.query.with("from", Some(&format!("{end:x}"))).address("/tail/events"));
    let main = html! {
        h1 { "Events" }
        (filter_form(ask, is_filtered))
        @for note in &listed.notes { p.note.bad { (note) } }
        @if tail.is_some() { p.live role="status" aria-live="polite" data-told="" {} }
        (scroll("Events", &table(ask, &listed.found, now, tail.as_deref())))
        @if listed.found.is_empty() {
            p.empty {
                @if stopped.is_some() { "No event among those looked at so far is meant by these filters." }
                @else if is_filtered { "No event is meant by these filters." }
                @else { "No event is stored." }
            }
        }
        (older(ask, "/events", next, if stopped.is_some() { "Look further back" } else { "Older events" }))
        @if ask.operates() && is_filtered && !listed.found.is_empty() { (bulk(ask)) }
        @if ask.operates() && ask.caller.scope.is_whole() && !listed.found.is_empty() { (export(wanted.filters())) }
    };
    Ok(Reply::page("Events", "/events", main))
}

impl Listed {
    fn take(&mut self, item: Item) -> ControlFlow<()> {
        match item {
            Item::Event(_) if self.found.len() >= ROWS => {
                self.has_more = true;
                return ControlFlow::Break(());
            }
            Item::Event(found) => self.found.push(*found),
            Item::Note(note) if self.notes.len() < NOTES => self.notes.push(note),
            Item::Note(_) => {}
        }
        ControlFlow::Continue(())
    }
}

fn table(ask: &Ask, found: &[Found], now: Timestamp, tail: Option<&str>) -> Markup {
    html! {
        table.events {
            caption { "Newest first" @if !ask.query.has("after") { "" } @else { ", continued" } }
            thead { tr { @for (name, class) in COLUMNS { th scope="col" class=[(!class.is_empty()).then_some(class)] { (name) } } } }
            tbody data-tail=[tail] data-again=[tail.map(|_| AGAIN_MAX)] { @for found in found { (row(found, now)) } }
        }
    }
}

fn row(found: &Found, now: Timestamp) -> Markup {
    let event = &found.event;
    html! {
        tr data-id=(event.id) {
            td { (state(found.state().as_str())) }
            td { (event_link(&event.id)) }
            td.when { (moment(event.received_at, now)) }
            td { (event.source) }
            td { (event.event_type.as_deref().unwrap_or("–")) }
            td.wide { span.path { (event.method) " " (event.path) } " " span.calm { (size(event.body.length())) } }
            td { (deliveries(found)) }
        }
    }
}

/// Where an event goes and how that stands.
pub(super) fn deliveries(found: &Found) -> Markup {
    html! {
        @if found.view.deliveries.is_empty() { "–" }
        @else {
            ul.plain {
                @for delivery in &found.view.deliveries {
                    li {
                        (delivery.upstream) " " (state(delivery.status.state().as_str()))
                        @if delivery.attempts > 1 { " " span.calm { (delivery.attempts) " attempts" } }
                        @if let Some(reason) = delivery.status.reason() { " " span.calm { (reason) } }
                    }
                }
            }
        }
    }
}

/// The filters of the command line as a form.
fn filter_form(ask: &Ask, is_filtered: bool) -> Markup {
    let query = &ask.query;
    let upstreams = ask.ports.upstreams();
    let has_more = ["route", "tenant", "status", "reason", "until", "where"].iter().any(|name| query.has(name));
    html! {
        form.filters method="get" action="/events" role="search" aria-label="Events" {
            (field(query, "grep", "Text", "in headers, path, query, body"))
            (choice(query, "state", "State", "any", STATES.into_iter()))
            (field(query, "source", "Source", ""))
            (choice(query, "upstream", "Upstream", "any", upstreams.iter().map(|name| &**name)))
            (field(query, "type", "Type", "invoice.paid"))
            (field(query, "since", "Since", "10m, or a time"))
            div.buttons {
                button.main type="submit" { "Find" }
                @if is_filtered { a href="/events" { "All events" } }
            }
            details open[has_more] {
                summary { "More filters" }
                div.filters {
                    (field(query, "until", "Until", "5m, or a time"))
                    (field(query, "status", "Last answer", "503, 5xx"))
                    (field(query, "reason", "Reason", "given_up"))
                    (field(query, "route", "Route", ""))
                    (field(query, "tenant", "Tenant", ""))
                    (field(query, "where", "jq expression", ".amount > 100"))
                }
            }
        }
    }
}

/// What can be done to all that the filters mean.
fn bulk(ask: &Ask) -> Markup {
    let back = ask.query.with("after", None).address("/events");
    html! {
        form.bulk method="post" action="/act/confirm" aria-label="All that these filters mean" {
            (marks(ask, &back))
            @for name in FILTERS { @if let Some(value) = ask.query.get(name) { (hidden(name, value)) } }
            span { "All that these filters mean:" }
            @for verb in ["replay", "hold", "release", "delete"] { button type="submit" name="verb" value=(verb) { (verb) } }
        }
    }
}

/// The command that writes all that the filters mean into a file.
fn export(filters: &Filters) -> Markup {
    html! {
        details {
            summary { "Export these" }
            @match export_command(filters) {
                Some(command) => {
                    p { "On the host of the relay, as its user, this writes them as NDJSON; it is recorded in the audit trail." }
                    (pre("The command that exports these", &command))
                    p.calm {
                        "The file is as secret as the data directory. " code { "--hide-credentials" } " leaves credentials out; what is "
                        "exported so can't be imported."
                    }
                }
                None => { p.note { "The filters have characters that can't be seen: write the command by hand." } }
            }
        }
    }
}

/// For a shell, exactly as it is shown; None if that can't be.
fn export_command(filters: &Filters) -> Option<String> {
    let given = serde_json::to_value(filters).ok()?;
    let mut command = "stagepost export".to_owned();
    for name in FILTERS {
        let Some(value) = given.get(name).and_then(|value| value.as_str()) else { continue };
        command.push_str(&format!(" --{name}={}", for_shell(value)));
    }
    command.push_str(" > events.ndjson");
    (!command.chars().any(|letter| letter.is_control() || is_hidden(letter))).then_some(command)
}

/// A word of a POSIX shell, whatever is in it (POSIX.1-2024, Shell Command Language, section 2.2.2).
fn for_shell(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.,:/@%+".contains(&byte);
    if text.bytes().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// What came since, for our script: rows, and where to go on.
fn tail(ask: &Ask) -> Result<Reply, Refusal> {
    let wanted = Compiled::new(ask.query.filters(ask.ports.now())?, &*ask.ports)?;
    let end = ask.ports.log().end();
    let parse = |text: &str| Seq::from_str_radix(text, 16).map_err(|_| Refusal::bad("from: no page begins there"));
    let from = ask.query.get("from").map(parse).transpose()?.unwrap_or(end);
    let first = end.saturating_sub(LAG_MAX);
    let mut rows: VecDeque<Found> = VecDeque::new();
    let mut left_out = from < first;
    let next = follow_once(&*ask.ports, &wanted, from.max(first), end, &mut |item| {
        if let Item::Event(found) = item {
            left_out |= rows.len() >= ROWS && rows.pop_front().is_some();
            rows.push_back(*found);
        }
        ControlFlow::Continue(())
    })?;
    let address = ask.query.with("from", Some(&format!("{next:x}"))).address("/tail/events");
    let rows = drawn(ask, rows);
    Ok(Reply::Json(json!({ "rows": rows, "max": ROWS, "left_out": left_out, "next": address })))
}

/// What became of some events that are listed, for our script: their rows, less those that are not stored any more. They stay
/// listed whatever the filters say of them now.
fn again(ask: &Ask) -> Result<Reply, Refusal> {
    let ids: Vec<EventId> = ask.query.all("id").map(str::parse).collect::<Result<_, _>>()?;
    if ids.len() > AGAIN_MAX {
        return Err(Refusal::bad(format!("id: at most {AGAIN_MAX} at once")));
    }
    let wanted = Compiled::new(Filters::default(), &*ask.ports)?;
    let mut rows = VecDeque::new();
    these(&*ask.ports, &wanted, &ids, &mut |item| {
        if let Item::Event(found) = item {
            rows.push_back(*found);
        }
        ControlFlow::Continue(())
    })?;
    Ok(Reply::Json(json!({ "rows": drawn(ask, rows) })))
}

/// Rows for our script.
fn drawn(ask: &Ask, found: VecDeque<Found>) -> Vec<Value> {
    let now = ask.ports.now();
    let one = |found: Found| json!({"id": found.event.id.to_string(), "html": visible(row(&found, now).0)});
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_a_command_that_a_shell_reads_as_it_is_meant() {
        let filters = Filters {
            source: Some("stripe".into()),
            since: Timestamp::parse_rfc3339("2026-01-02T03:04:05Z"),
            grep: Some("it's $(rm -rf ~) `x`; -a".into()),
            expression: Some(r#".a > 1 and .b == "\\""#.into()),
            ..Filters::default()
        };
        assert_eq!(
            export_command(&filters).unwrap(),
            r#"stagepost export --source=stripe --since=2026-01-02T03:04:05.000Z --grep='it'\''s $(rm -rf ~) `x`; -a' --where='.a > 1 and .b == "\\"' > events.ndjson"#
        );
        assert_eq!(export_command(&Filters::default()).unwrap(), "stagepost export > events.ndjson");
        for hidden in ["a\nb", "a\tb", "a\u{1b}[2Jb", "a\u{202e}b", "a\u{200b}b"] {
            assert_eq!(
                export_command(&Filters { grep: Some(hidden.into()), ..Filters::default() }),
                None,
                "{hidden:?}"
            );
        }
        assert_eq!((for_shell(""), for_shell("~"), for_shell("a=b")), ("".into(), "'~'".into(), "'a=b'".into()));
    }
}
