//! Owns the number of attempts at once that an upstream carries: found by trying, between the bounds of the
//! configuration.
//!
//! Two signals. An upstream that **queues** what is too much for it answers later: its round trips are compared with
//! those at little load (`trip`); the number grows up to one and a half times that, and shrinks above twice. One that
//! **refuses** what is too much for it (429, 503, 504, silence) takes a cut: by those that were too many of the ones that
//! began together, and by three tenths if it goes on.
//!
//! Growth begins with 1 and doubles with each round (as many answers as attempts at once), only while the number is
//! used up. Above what was refused the last time one more is tried, after [`CALM`] answers without a refusal: trying
//! costs less than one answer in a hundred.
//!
//! Promises to stay within the bounds, constant memory, and that an attempt which began before a cut makes no other.
//! Pure: time is an argument.

use std::time::Duration;

use super::trip::{Judged, Trip};

/// Answers without a refusal before one more than what was refused is tried.
const CALM: u32 = 200;
/// Rounds of it without a refusal after which more is tried.
const TRIED: u32 = 2;
/// The least answers in a round.
const ROUND_MIN: usize = 6;

/// When an attempt began, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// Cuts before it.
    cuts: u64,
    /// Attempts under way, itself included.
    at_once: usize,
}

/// What an attempt says about the load it was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// It was carried.
    Carried,
    /// Refused because there is too much.
    Refused,
    /// No answer in time, or none at all.
    Silence,
    /// Nothing.
    Unsaid,
}

/// The number of attempts at once.
#[derive(Debug)]
pub(crate) struct Adapt {
    least: usize,
    limit: usize,
    cuts: u64,
    /// Refused at so many at once.
    refused_at: Option<usize>,
    /// Rounds at that many, tried again.
    tried: u32,
    /// Answers since the last refusal, and since the last cut.
    calm: u32,
    since_cut: u32,
    /// The last cut was because of a refusal.
    cut_by_refusal: bool,
    /// Refusals without an answer between them, and the limit when they began.
    refusals: (usize, usize),
    /// By how much the limit may grow in this round, and has grown.
    stride: usize,
    grown: usize,
    round: Round,
    /// The round before used the limit up.
    was_full: bool,
    trip: Trip,
    /// Half the attempts, to measure the round trip at little load.
    measuring: bool,
}

/// The answers of a round, for growth.
#[derive(Debug, Default)]
struct Round {
    count: usize,
    /// The limit was used up.
    full: bool,
}

impl Adapt {
    /// At the least.
    pub(crate) fn new(least: usize, now: Duration) -> Self {
        Self {
            least,
            limit: least,
            cuts: 0,
            refused_at: None,
            tried: 0,
            calm: 0,
            since_cut: 0,
            cut_by_refusal: false,
            refusals: (0, 0),
            stride: 1,
            grown: 0,
            round: Round::default(),
            was_full: false,
            trip: Trip::new(now),
            measuring: false,
        }
    }

    /// Goes on with another least number.
    pub(crate) fn set_least(&mut self, least: usize) {
        self.least = least;
    }

    /// Attempts at once, at most `max`.
    pub(crate) fn limit(&self, max: usize) -> usize {
        let limit = if self.measuring { self.limit / 2 } else { self.limit };
        limit.max(self.least).min(max)
    }

    /// What an attempt that begins now shows when it ends; `at_once` are under way with it.
    pub(crate) fn start(&self, at_once: usize) -> Start {
        Start { cuts: self.cuts, at_once }
    }

    /// Whether the refusals so far may all be because of too many attempts at once, and say nothing about the
    /// upstream's health.
    pub(crate) fn excuses(&self, start: Start) -> bool {
        let (refusals, at_most) = self.refusals;
        start.at_once > self.least && refusals <= at_most
    }

    /// Takes note of how an attempt ended.
    pub(crate) fn observe(&mut self, start: Start, load: Load, latency: Duration, max: usize, now: Duration) {
        self.limit = self.limit.clamp(self.least.min(max), max);
        match load {
            Load::Unsaid => {}
            Load::Refused | Load::Silence => self.refused(start, load),
            Load::Carried => self.carried(start, latency, max, now),
        }
    }

    fn refused(&mut self, start: Start, load: Load) {
        self.refusals = match self.refusals {
            (0, _) => (1, self.limit.max(start.at_once)),
            (refusals, at_most) => (refusals.saturating_add(1), at_most.max(start.at_once)),
        };
        self.calm = 0;
        if start.cuts != self.cuts {
            // One of several that began together: so many were too many.
            if load == Load::Refused && self.cut_by_refusal && start.cuts + 1 == self.cuts {
                self.limit = self.limit.saturating_sub(1).max(self.least);
            }
            return;
        }
        let tenths = match load {
            Load::Silence => 5,
            _ => 7,
        };
        let share = self.limit * tenths / 10;
        // Soon after a cut it was not enough.
        let again = self.since_cut < u32::try_from(self.limit).unwrap_or(u32::MAX);
        let next = if load == Load::Silence || (again && self.cuts > 0) {
            share
        } else {
            share.max(start.at_once.saturating_sub(1)).min(self.limit.saturating_sub(1))
        };
        self.refused_at = Some(start.at_once.max(next + 1));
        self.since_cut = 0;
        self.measuring = false;
        self.cut(next);
        self.cut_by_refusal = load == Load::Refused;
    }

    fn carried(&mut self, start: Start, latency: Duration, max: usize, now: Duration) {
        self.refusals = (0, 0);
        self.calm = self.calm.saturating_add(1);
        self.since_cut = self.since_cut.saturating_add(1);
        if start.cuts != self.cuts {
            return;
        }
        let latency = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let is_full = start.at_once >= self.limit(max);
        self.round.count += 1;
        self.round.full |= is_full;
        if (self.round.full || self.was_full) && !self.measuring {
            self.grow(latency, max);
        }
        if self.round.count >= self.limit(max).max(ROUND_MIN) {
            self.end_round();
        }
        let (limit, is_measuring) = (self.limit(max), self.measuring);
        if self.trip.add(latency, is_measuring.then_some(limit)) {
            let judged = self.trip.judge(limit, limit > self.least, is_measuring, now);
            self.heed(judged);
        }
    }

    /// One more, if nothing speaks against it.
    fn grow(&mut self, latency: u32, max: usize) {
        let is_above_refused = self.refused_at.is_some_and(|refused| self.limit + 1 >= refused);
        let is_tried = self.refused_at.is_some_and(|refused| self.limit >= refused);
        let is_late = self.trip.is_late(latency);
        if self.limit >= max || is_late || self.grown >= self.stride {
            return;
        }
        let calm = CALM.max(u32::try_from(self.limit * 2).unwrap_or(u32::MAX));
        if is_above_refused && (is_tried || self.calm < calm) {
            return;
        }
        self.limit += 1;
        self.grown += 1;
        if is_above_refused {
            (self.tried, self.round) = (0, Round { count: 0, full: true });
        }
    }

    /// As much again may be tried in the next round, if this one used its limit up.
    fn end_round(&mut self) {
        self.was_full = self.round.full;
        if self.refused_at.is_some_and(|refused| self.limit >= refused) {
            self.tried += 1;
            if self.tried >= TRIED {
                // What was refused is carried now: on from here, step by step.
                self.refused_at = None;
                self.stride = 1;
            }
        }
        self.stride = if self.was_full { self.stride.saturating_mul(2).min(self.limit) } else { 1 };
        (self.round, self.grown) = (Round::default(), 0);
        self.trip.guess();
    }

    fn heed(&mut self, judged: Judged) {
        match judged {
            Judged::Same => {}
            Judged::Fuller(percent) => self.cut(self.limit * percent / 100),
            Judged::Slower(limit) => self.limit = limit,
            Judged::Measure => {
                self.measuring = true;
                self.begin_anew();
            }
            Judged::Measured => {
                self.measuring = false;
                self.begin_anew();
            }
        }
    }

    fn cut(&mut self, next: usize) {
        self.limit = next.max(self.least);
        (self.stride, self.grown) = (1, 0);
        self.begin_anew();
    }

    /// What began before says nothing any more.
    fn begin_anew(&mut self) {
        self.cuts += 1;
        self.cut_by_refusal = false;
        self.round = Round::default();
        self.trip.begin_anew(self.limit);
    }
}
