//! Owns what the live view shows and how: a pure function of the figures.

use std::{cmp::Ordering, time::Duration};

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::figures::{Counters, quantile, rate};
use crate::{
    admin::{
        Timestamp,
        wire::{Status, Upstream},
    },
    cli::{print::escaped, units},
};

/// One look at the instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Of the program's own clock.
    pub(super) at: Duration,
    pub(super) status: Status,
    pub(super) counters: Counters,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    Rate,
    Pending,
    Dead,
    Oldest,
    Latency,
}

impl Sort {
    /// The order that a key asks for.
    pub(super) const fn of(key: char) -> Option<Self> {
        Some(match key {
            'n' => Self::Name,
            'r' => Self::Rate,
            'p' => Self::Pending,
            'd' => Self::Dead,
            'o' => Self::Oldest,
            'l' => Self::Latency,
            _ => return None,
        })
    }
}

/// Everything that is shown.
pub(super) struct View<'a> {
    /// The older end of the stretch that rates are of.
    pub(super) before: &'a Look,
    pub(super) now: &'a Look,
    /// Wall time.
    pub(super) time: Timestamp,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    /// Why there is nothing newer.
    pub(super) trouble: Option<&'a str>,
}

/// One upstream's row.
struct Figures<'a> {
    upstream: &'a Upstream,
    rate: f64,
    failing: f64,
    half: Option<f64>,
    late: Option<f64>,
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let [head, rows, foot] =
        Layout::vertical([Constraint::Length(5), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(heading(view)), head);
    frame.render_widget(table(view), rows);
    let mut help = "q quit   sort: n name  r rate  p pending  d dead  o oldest  l latency   s turn round".to_owned();
    let below = view.now.status.upstreams.len().saturating_sub(usize::from(rows.height.saturating_sub(1)));
    if below > 0 {
        help = format!("{below} more below   {help}");
    }
    let foot_line = match view.trouble {
        Some(why) => Line::styled(escaped(why), Style::new().fg(Color::Red)),
        None => Line::styled(help, Style::new().add_modifier(Modifier::DIM)),
    };
    frame.render_widget(Paragraph::new(foot_line), foot);
}

fn heading<'a>(view: &View<'a>) -> Vec<Line<'a>> {
    let (status, seconds) = (&view.now.status, seconds(view));
    let (before, now) = (&view.before.counters, &view.now.counters);
    let up = units::span(Duration::from_secs(status.uptime_s));
    let store = &status.store;
    let share = (store.bytes as f64) * 100.0 / (store.limit.max(1) as f64);
    let full = match store.full_at {
        Some(full) => format!("full in {}", units::span(full.since(view.time))),
        None => "not growing".to_owned(),
    };
    let refused = rate(before.refused, now.refused, seconds);
    let pending: u64 = status.upstreams.iter().map(|upstream| upstream.pending).sum();
    let held: u64 = status.upstreams.iter().map(|upstream| upstream.held).sum();
    let dead: u64 = status.upstreams.iter().map(|upstream| upstream.dead).sum();
    let delivered: f64 = figures(view).iter().map(|figures| figures.rate).sum();
    let ack = |share| latency(quantile(&before.ack, &now.ack, share));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    vec![
        Line::from(vec![
            Span::styled(format!("stagepost {} on {}", escaped(&status.version), escaped(&status.node)), bold),
            Span::raw(format!(", up {up}")),
        ]),
        Line::raw(format!(
            "in  {:.1}/s   refused {refused:.1}/s   ack p50 {} p99 {}",
            rate(before.accepted, now.accepted, seconds),
            ack(0.5),
            ack(0.99)
        )),
        Line::raw(format!("out {delivered:.1}/s   pending {pending}   held {held}   dead {dead}")),
        Line::raw(format!("log {} of {} ({share:.0} %), {full}", units::size(store.bytes), units::size(store.limit))),
        Line::raw(""),
    ]
}

fn table<'a>(view: &View<'a>) -> Table<'a> {
    let mut all = figures(view);
    all.sort_by(|one, two| if view.reversed { order(view.sort, two, one) } else { order(view.sort, one, two) });
    let head =
        ["UPSTREAM", "BREAKER", "OUT/S", "FAIL/S", "PENDING", "HELD", "DEAD", "BUSY", "P50", "P99", "OLDEST", "HOLD"];
    // Names get all the room that is left.
    let widths = [9, 8, 7, 9, 7, 7, 7, 7, 7, 8, 16].map(Constraint::Length);
    let widths = std::iter::once(Constraint::Min(12)).chain(widths);
    Table::new(all.iter().map(|figures| row(figures, view.time)), widths)
        .header(Row::new(head).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
}

fn row<'a>(figures: &Figures<'_>, now: Timestamp) -> Row<'a> {
    let upstream = figures.upstream;
    let hold = match (upstream.held_since, upstream.held_until) {
        (None, _) if upstream.held > 0 => "some".to_owned(),
        (None, _) => String::new(),
        (Some(_), None) => "held".to_owned(),
        (Some(_), Some(until)) => format!("held for {}", units::span(until.since(now))),
    };
    let breaker = match upstream.breaker.as_str() {
        "closed" => Style::new().fg(Color::Green),
        "open" => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    };
    let alarming = |count: u64, color: Color| {
        let style = if count > 0 { Style::new().fg(color) } else { Style::new() };
        Cell::from(count.to_string()).style(style)
    };
    Row::new([
        Cell::from(escaped(&upstream.name)),
        Cell::from(escaped(&upstream.breaker)).style(breaker),
        Cell::from(format!("{:.1}", figures.rate)),
        Cell::from(format!("{:.1}", figures.failing)),
        Cell::from(upstream.pending.to_string()),
        alarming(upstream.held, Color::Yellow),
        alarming(upstream.dead, Color::Red),
        Cell::from(format!("{}/{}", upstream.in_flight, upstream.concurrency_limit)),
        Cell::from(latency(figures.half)),
        Cell::from(latency(figures.late)),
        Cell::from(upstream.oldest_at.map_or("-".to_owned(), |oldest| units::span(now.since(oldest)))),
        Cell::from(hold),
    ])
}

fn figures<'a>(view: &View<'a>) -> Vec<Figures<'a>> {
    let (before, now, seconds) = (&view.before.counters, &view.now.counters, seconds(view));
    let count = |counts: &std::collections::BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let one = |upstream: &'a Upstream| {
        let name = upstream.name.as_str();
        let (early, late) = (before.latency.get(name), now.latency.get(name));
        let at = |share| quantile(early.map_or(&[], Vec::as_slice), late?, share);
        Figures {
            upstream,
            rate: rate(count(&before.delivered, name), count(&now.delivered, name), seconds),
            failing: rate(count(&before.failed, name), count(&now.failed, name), seconds),
            half: at(0.5),
            late: at(0.99),
        }
    };
    view.now.status.upstreams.iter().map(one).collect()
}

/// Most comes first; by name, the alphabet.
fn order(sort: Sort, one: &Figures<'_>, two: &Figures<'_>) -> Ordering {
    let (mine, theirs) = (one.upstream, two.upstream);
    let by = match sort {
        Sort::Name => Ordering::Equal,
        Sort::Rate => two.rate.total_cmp(&one.rate),
        Sort::Pending => theirs.pending.cmp(&mine.pending),
        Sort::Dead => theirs.dead.cmp(&mine.dead),
        Sort::Oldest => age(mine).cmp(&age(theirs)),
        Sort::Latency => two.late.unwrap_or(0.0).total_cmp(&one.late.unwrap_or(0.0)),
    };
    by.then_with(|| mine.name.cmp(&theirs.name))
}

fn age(upstream: &Upstream) -> u64 {
    upstream.oldest_at.map_or(u64::MAX, Timestamp::as_millis)
}

fn seconds(view: &View<'_>) -> f64 {
    view.now.at.saturating_sub(view.before.at).as_secs_f64()
}

fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.0}ms", seconds * 1000.0),
        Some(seconds) if seconds < 100.0 => format!("{seconds:.1}s"),
        Some(seconds) => units::span(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::admin::wire::Store;

    fn look(at: u64, delivered: u64) -> Look {
        let upstream = |name: &str, pending, dead, breaker: &str| Upstream {
            name: name.into(),
            breaker: breaker.into(),
            pending,
            dead,
            concurrency_limit: 64,
            ..Upstream::default()
        };
        let status = Status {
            version: "1.2.3".into(),
            node: "node\x1b[2J".into(),
            uptime_s: 61,
            upstreams: vec![upstream("billing", 12, 3, "open"), upstream("crm", 900, 0, "closed")],
            store: Store { bytes: 1 << 30, limit: 4 << 30, ..Store::default() },
            ..Status::default()
        };
        let latency = vec![(0.1, delivered), (f64::INFINITY, delivered)];
        let counters = Counters {
            accepted: delivered * 2,
            delivered: BTreeMap::from([("crm".to_owned(), delivered)]),
            latency: BTreeMap::from([("crm".to_owned(), latency)]),
            ..Counters::default()
        };
        Look { at: Duration::from_secs(at), status, counters }
    }

    fn drawn(sort: Sort, reversed: bool, trouble: Option<&str>) -> String {
        let (before, now) = (look(10, 100), look(20, 600));
        let time = Timestamp::from_millis(1_767_323_045_678);
        let view = View { before: &before, now: &now, time, sort, reversed, trouble };
        let mut terminal = Terminal::new(TestBackend::new(130, 10)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_latencies_backlogs_and_breakers_are_on_one_screen() {
        let text = drawn(Sort::Pending, false, None);
        for part in [
            "stagepost 1.2.3 on node\\x1b[2J, up 1m 1s",
            "in  100.0/s   refused 0.0/s   ack p50 - p99 -",
            "out 50.0/s   pending 912   held 0   dead 3",
            "log 1.0 GiB of 4.0 GiB (25 %), not growing",
            "UPSTREAM",
            "q quit",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let crm = text.lines().find(|line| line.contains("crm")).unwrap();
        let words: Vec<&str> = crm.trim_matches('"').split_whitespace().collect();
        assert_eq!(words, ["crm", "closed", "50.0", "0.0", "900", "0", "0", "0/64", "50ms", "99ms", "-"]);
    }

    #[test]
    fn a_long_name_takes_the_room_there_is_and_what_does_not_fit_is_counted() {
        let (before, mut now) = (look(10, 100), look(20, 600));
        let long = format!("orders/{}", "x".repeat(30));
        now.status.upstreams[0].name.clone_from(&long);
        let more = now.status.upstreams[0].clone();
        now.status.upstreams.extend((0..7).map(|number| Upstream { name: format!("more{number}"), ..more.clone() }));
        let time = Timestamp::from_millis(1_767_323_045_678);
        let view = View { before: &before, now: &now, time, sort: Sort::Name, reversed: true, trouble: None };
        let mut terminal = Terminal::new(TestBackend::new(160, 10)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let text = terminal.backend().to_string();
        assert!(text.contains(&long), "{text}");
        assert!(text.contains("6 more below   q quit"), "{text}");
    }

    #[test]
    fn rows_are_sorted_as_the_keys_say() {
        let first = |sort, reversed| {
            let text = drawn(sort, reversed, None);
            let row = text.lines().find(|line| line.contains("crm") || line.contains("billing")).unwrap().to_owned();
            if row.contains("crm") { "crm" } else { "billing" }
        };
        for (key, expected) in [('n', "billing"), ('r', "crm"), ('p', "crm"), ('d', "billing"), ('l', "crm")] {
            let sort = Sort::of(key).unwrap();
            assert_eq!(first(sort, false), expected, "{key}");
            assert_ne!(first(sort, true), expected, "{key} turned round");
        }
        assert_eq!(Sort::of('x'), None);
    }

    #[test]
    fn trouble_takes_the_place_of_the_help() {
        let text = drawn(Sort::Name, false, Some("no instance answers"));
        assert!(text.contains("no instance answers") && !text.contains("q quit"));
    }
}
