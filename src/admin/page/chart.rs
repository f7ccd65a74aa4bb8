//! Owns the charts: lines over some time until now, as SVG that needs no script.
//!
//! Promises that what a chart shows is also said in words, and that it has a style of its own in no attribute.

use std::time::Duration;

use maud::{Markup, html};

/// Points of a line.
pub(super) const POINTS: usize = 120;

/// The drawing's own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A line of a chart: its name, and values in even steps until now; None where nothing is known.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// Draws lines. `since` says where they begin, `told` a value in words.
pub(super) fn chart(title: &str, since: &str, lines: &[Line], told: fn(f64) -> String) -> Markup {
    let known = || lines.iter().flat_map(|line| line.values.iter().copied().flatten());
    let highest = known().fold(0.0_f64, f64::max);
    let now = |line: &Line| line.values.last().copied().flatten().map_or_else(|| "–".to_owned(), told);
    let words: Vec<String> = lines.iter().map(|line| format!("{} now {}", line.name, now(line))).collect();
    html! {
        figure.chart {
            figcaption {
                strong { (title) }
                @for (number, line) in (1..).zip(lines) {
                    " " span.key { span class={ "swatch line-" (number) } {} (line.name) " " b { (now(line)) } }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ (title) ", from " (since) " on: " (words.join(", ")) "; at most " (told(highest)) } {
                line.grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
                @for (number, line) in (1..).zip(lines) {
                    @for points in pieces(&line.values, highest) {
                        polyline class={ "line line-" (number) } points=(points) {}
                    }
                }
            }
            div.scale aria-hidden="true" { span { (since) } span { "at most " (told(highest)) } span { "now" } }
        }
    }
}

/// The pieces of a line between gaps, as SVG has them.
fn pieces(values: &[Option<f64>], highest: f64) -> Vec<String> {
    let step = WIDTH / (POINTS - 1) as f64;
    let first = POINTS.saturating_sub(values.len());
    let mut pieces: Vec<String> = Vec::new();
    let mut is_open = false;
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_open = false;
            continue;
        };
        let x = (first + index) as f64 * step;
        let share = if highest > 0.0 { value / highest } else { 0.0 };
        let point = format!("{x:.1},{:.1}", HEIGHT - 2.0 - share * (HEIGHT - 6.0));
        match pieces.last_mut().filter(|_| is_open) {
            Some(piece) => {
                piece.push(' ');
                piece.push_str(&point);
            }
            None => pieces.push(point),
        }
        is_open = true;
    }
    // One point alone is no line.
    for piece in &mut pieces {
        if !piece.contains(' ') {
            let point = piece.clone();
            piece.push(' ');
            piece.push_str(&point);
        }
    }
    pieces
}

/// Which of so many samples a line is drawn through, so that it has the points it may have, and where it begins: ten minutes
/// at first, then an hour.
pub(super) fn picked<T>(samples: &[T]) -> (Vec<&[T]>, &'static str) {
    let (step, since) = if samples.len() <= POINTS + 1 { (1, "10 min ago") } else { (6, "1 h ago") };
    // Each step from its first sample to its last, which is the first of the next; the newest is the last of all.
    let skipped = samples.len().saturating_sub(1) % step;
    let steps = samples.get(skipped..).unwrap_or_default().windows(step + 1).step_by(step).collect::<Vec<_>>();
    let left_out = steps.len().saturating_sub(POINTS);
    (steps.into_iter().skip(left_out).collect(), since)
}

/// A latency in words.
pub(super) fn latency(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        s if s < 0.000_995 => format!("{:.0} µs", s * 1e6),
        s if s < 0.009_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s => super::parts::span(s.round().max(0.0) as u64),
    }
}

/// A latency that may not be known.
pub(super) fn latency_of(found: Option<Duration>) -> String {
    found.map_or_else(|| "–".to_owned(), |found| latency(found.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_says_in_words_what_it_draws_and_styles_nothing_itself() {
        let mut values = vec![Some(0.0), Some(5.0), None, Some(10.0)];
        values.extend([Some(2.5)]);
        let drawn = chart("Events", "1 h ago", &[Line { name: "accepted", values }], |value| format!("{value}/s")).0;
        assert!(drawn.contains("aria-label=\"Events, from 1 h ago on: accepted now 2.5/s; at most 10/s\""), "{drawn}");
        assert_eq!(drawn.matches("<polyline").count(), 2, "a gap is a gap: {drawn}");
        assert!(!drawn.contains("style="), "{drawn}");
        assert!(chart("Nothing", "1 h ago", &[Line { name: "x", values: Vec::new() }], latency).0.contains("x now –"));
    }

    #[test]
    fn a_line_is_drawn_through_steps_that_end_with_the_newest_sample() {
        let drawn = |count: u32| {
            let samples: Vec<u32> = (0..count).collect();
            let (steps, since) = picked(&samples);
            let ends: Vec<(u32, u32)> = steps.iter().map(|step| (step[0], *step.last().unwrap())).collect();
            (ends.len(), ends.first().copied(), ends.last().copied(), since)
        };
        assert_eq!(drawn(0), (0, None, None, "10 min ago"));
        assert_eq!(drawn(1), (0, None, None, "10 min ago"));
        assert_eq!(drawn(3), (2, Some((0, 1)), Some((1, 2)), "10 min ago"));
        assert_eq!(drawn(121), (120, Some((0, 1)), Some((119, 120)), "10 min ago"));
        assert_eq!(drawn(123), (20, Some((2, 8)), Some((116, 122)), "1 h ago"));
        assert_eq!(drawn(722), (120, Some((1, 7)), Some((715, 721)), "1 h ago"));
    }

    #[test]
    fn latencies_are_told_in_their_own_unit() {
        for (seconds, expected) in
            [(0.0, "0"), (0.000_25, "250 µs"), (0.0015, "1.5 ms"), (0.25, "250 ms"), (2.0, "2.0 s"), (600.0, "10 min")]
        {
            assert_eq!(latency(seconds), expected);
        }
    }
}
