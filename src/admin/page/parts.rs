//! Owns the small pieces that pages are made of: states, times, sizes, fields, lists with a next page.

use maud::{Markup, html};

use super::{
    ask::{Ask, Pairs},
    session::Held,
};
use crate::{clock::Timestamp, event::EventId};

/// The session's mark, without which no form is taken.
pub(super) fn mark(held: &Held) -> Markup {
    hidden("mark", &held.mark)
}

/// The marks of a form of this visitor: the session's, and where it goes back to.
pub(super) fn marks(ask: &Ask, back: &str) -> Markup {
    html! {
        @if let Some(held) = &ask.held { (mark(held)) }
        (hidden("back", back))
    }
}

/// A field that is not shown.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// All that is filled in, as fields that are not shown.
pub(super) fn hidden_all(pairs: &Pairs, names: &[&str]) -> Markup {
    html! { @for name in names { @for value in pairs.all(name) { (hidden(name, value)) } } }
}

/// A state, an outcome or a condition as a word with a colour.
pub(super) fn state(word: &str) -> Markup {
    let kind = match word {
        "delivered" | "closed" | "up" | "verified" | "admitted" => "good",
        "dead" | "refused" | "open" | "unhealthy" => "bad",
        "held" | "review" | "deferred" | "degraded" | "half-open" | "ejected" | "duplicate" => "warn",
        "pending" => "busy",
        _ => "calm",
    };
    html! { span class={ "state " (kind) } { (word) } }
}

/// A moment in full.
pub(super) fn time(at: Timestamp) -> Markup {
    let text = at.to_string();
    html! { time datetime=(text) { (text) } }
}

/// A moment, short, with its age.
pub(super) fn age(at: Timestamp, now: Timestamp) -> Markup {
    let text = at.to_string();
    let told = if at > now {
        format!("in {}", span(at.since(now).as_secs()))
    } else {
        format!("{} ago", span(now.since(at).as_secs()))
    };
    html! { time datetime=(text) title=(text) { (told) } }
}

/// A moment to the second; the date too, unless it is today.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> Markup {
    let (text, today) = (at.to_string(), now.to_string());
    let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
    let clock = clock.trim_end_matches('Z');
    html! {
        time datetime=(text) title=(text) {
            @if !today.starts_with(date) { (date) " " }
            (clock)
        }
    }
}

/// A number of seconds in words.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes in words.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A count with thin spaces between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 event`, `2 events`.
pub(super) fn counted(number: u64, one: &str, more: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {more}", count(number)) }
}

/// A figure a second.
pub(super) fn rate(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => count(value.round().clamp(0.0, 1e15) as u64),
    }
}

/// A link to an event.
pub(super) fn event_link(id: &EventId) -> Markup {
    let id = id.to_string();
    html! { a.id href={ "/events/" (id) } { (id) } }
}

/// A table that may be wider than the screen.
pub(super) fn scroll(label: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label={ "Table: " (label) } { (table) } }
}

/// A table with boxes to choose rows by, and what can be done to them; for those who may only look the table alone.
pub(super) fn choosing(ask: &Ask, action: &str, back: &str, buttons: &Markup, table: &Markup) -> Markup {
    if !ask.operates() {
        return table.clone();
    }
    html! {
        form method="post" action=(action) data-choose="" {
            (marks(ask, back))
            div.bulk role="group" aria-label="What is chosen" { span { "Chosen:" } (buttons) }
            (table)
        }
    }
}

/// The way to older things, if there are any.
pub(super) fn older(ask: &Ask, path: &str, next: Option<u64>, words: &str) -> Markup {
    let is_first = !ask.query.has("after");
    html! {
        @if next.is_some() || !is_first {
            nav.pages aria-label="More" {
                @if !is_first { a href=(ask.query.with("after", None).address(path)) { "First page" } }
                @if let Some(next) = next {
                    a rel="next" href=(ask.query.with("after", Some(&format!("{next:x}"))).address(path)) { (words) }
                }
            }
        }
    }
}

/// A text field with its label.
pub(super) fn field(pairs: &Pairs, name: &str, label: &str, hint: &str) -> Markup {
    html! {
        div.field {
            label for={ "f-" (name) } { (label) }
            input id={ "f-" (name) } name=(name) type="text" autocomplete="off" spellcheck="false"
                value=[pairs.get(name)] placeholder=(hint);
        }
    }
}

/// A choice among words with its label; the first stands for none.
pub(super) fn choice<'a>(
    pairs: &Pairs,
    name: &str,
    label: &str,
    none: &str,
    words: impl Iterator<Item = &'a str>,
) -> Markup {
    let chosen = pairs.get(name).unwrap_or_default();
    html! {
        div.field {
            label for={ "f-" (name) } { (label) }
            select id={ "f-" (name) } name=(name) {
                option value="" { (none) }
                @for word in words { option value=(word) selected[word == chosen] { (word) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_never_lie_about_their_size() {
        for (bytes, expected) in
            [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (1_048_576, "1.0 MiB"), (u64::MAX, "16384 PiB")]
        {
            assert_eq!(size(bytes), expected);
        }
        for (seconds, expected) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")] {
            assert_eq!(span(seconds), expected);
        }
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(
            (count(999), rate(0.0), rate(1.5), rate(12_345.4)),
            ("999".into(), "0".into(), "1.50".into(), "12\u{202f}345".into())
        );
    }
}
