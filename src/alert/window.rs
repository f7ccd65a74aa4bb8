//! Owns counting in a sliding window: how much a counter has grown in the last minutes.
//!
//! Promises at most [`SAMPLES_MAX`] samples, and none for a counter that stands still; the window may be a twentieth
//! longer than asked.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Timestamp;

/// A window is remembered in so many steps.
const STEPS: u32 = 20;

/// The most samples that are kept.
const SAMPLES_MAX: usize = STEPS as usize + 3;

/// A counter's past.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// When it was looked at first.
    began: Option<Timestamp>,
    /// The counter at these times, ascending.
    samples: VecDeque<(Timestamp, u64)>,
}

impl Window {
    /// Takes the counter's reading; gives by how much it has grown in the time `span`. What was counted before it was
    /// looked at first counts as grown then: counters begin with the process.
    pub(super) fn grown(&mut self, now: Timestamp, total: u64, span: Duration) -> u64 {
        self.began.get_or_insert(now);
        let begin = now.before(span);
        let base = self.samples.iter().rev().find(|(at, _)| *at <= begin).map_or(0, |(_, total)| *total);
        let is_new = self.samples.back().is_none_or(|(at, last)| *last != total && now.since(*at) >= span / STEPS);
        if is_new {
            self.samples.push_back((now, total));
        }
        // Of those before the window only the last is needed.
        while self.samples.get(1).is_some_and(|(at, _)| *at <= begin) || self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
        total.saturating_sub(base)
    }

    /// Whether it has been looked at for as long as the window: before, few may only mean that the process is young.
    pub(super) fn is_full(&self, now: Timestamp, span: Duration) -> bool {
        self.began.is_some_and(|began| now.since(began) >= span)
    }

    /// The oldest reading that is kept, and when it was taken.
    pub(super) fn oldest(&self) -> Option<(Timestamp, u64)> {
        self.samples.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_767_323_045_000 + seconds * 1000)
    }

    #[test]
    fn only_what_happened_in_the_window_counts() {
        let (mut window, span) = (Window::default(), Duration::from_secs(600));
        assert_eq!(window.grown(at(0), 3, span), 3);
        assert_eq!(window.grown(at(5), 4, span), 4);
        for now in (10..595).step_by(5) {
            assert_eq!(window.grown(at(now), 4, span), 4);
        }
        assert!(!window.is_full(at(595), span) && window.is_full(at(600), span));
        assert_eq!(window.grown(at(600), 6, span), 3);
        assert_eq!(window.grown(at(1230), 6, span), 0);
    }

    #[test]
    fn a_busy_counter_takes_no_more_room_than_a_quiet_one() {
        let (mut window, span) = (Window::default(), Duration::from_secs(600));
        for now in 0..10_000 {
            let grown = window.grown(at(now), now * 10, span);
            if now > 700 {
                assert!((6_000..=6_310).contains(&grown), "{grown}");
            }
        }
        assert!(window.samples.len() <= SAMPLES_MAX);
    }
}
