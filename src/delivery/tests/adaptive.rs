//! Owns the trial of adaptive concurrency: the real gates against a model of an upstream whose capacity changes, in
//! virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use http::{HeaderMap, StatusCode};

use super::rig;
use crate::{
    clock::Timestamp,
    delivery::{
        adapt::Load,
        classify::{self, Judgement, Rules},
        gates::{Gates, Now, Ticket},
        pace::News,
    },
    event::Seq,
    jitter::Jitter,
    routing::{BreakerPolicy, Pace, Target, Upstream},
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// How long the upstream works on a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Even,
    /// Half to one and a half times as long.
    Uniform,
    /// As long-tailed as can be.
    Exponential,
}

/// What the upstream does with more than it can work on at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Excess {
    Queues,
    /// With 503, after so long.
    Refuses(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Model {
    service: Duration,
    spread: Spread,
    excess: Excess,
}

/// What became of the attempts of a span of time.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    carried: u64,
    refused: u64,
}

struct Attempt {
    ticket: Ticket,
    seq: Seq,
    began: Duration,
    carried: bool,
}

struct World {
    gates: Gates,
    upstream: Upstream,
    model: Model,
    capacity: usize,
    jitter: Jitter,
    now: Duration,
    next: Seq,
    /// Being worked on.
    busy: usize,
    /// Waiting at the upstream.
    waiting: VecDeque<Seq>,
    attempts: std::collections::HashMap<Seq, Attempt>,
    ends: BinaryHeap<Reverse<(Duration, Seq)>>,
    tally: Tally,
}

fn upstream(least: Option<usize>, most: usize) -> Upstream {
    Upstream {
        concurrency: most,
        pace: Pace { least, ..Pace::standard() },
        breaker: BreakerPolicy::standard(),
        ..Upstream::new("u", Target::Unix("/run/app.sock".into()))
    }
}

fn judged(carried: bool) -> Judgement {
    let rules = Rules { soft_bounce: false, retry_after_max: Duration::from_secs(60) };
    let status = if carried { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    classify::answer(status, &HeaderMap::new(), rules, Timestamp::ZERO)
}

impl World {
    fn new(upstream: Upstream, model: Model, seed: u64) -> Self {
        let now = Now { time: Timestamp::ZERO, elapsed: Duration::ZERO };
        Self {
            gates: Gates::new(Some(&upstream), now),
            upstream,
            model,
            capacity: 1,
            jitter: Jitter::seeded(seed),
            now: Duration::ZERO,
            next: 0,
            busy: 0,
            waiting: VecDeque::new(),
            attempts: Default::default(),
            ends: BinaryHeap::new(),
            tally: Tally::default(),
        }
    }

    fn clock(&self) -> Now {
        Now { time: Timestamp::ZERO.after(self.now), elapsed: self.now }
    }

    fn service(&self) -> Duration {
        let unit = (self.jitter.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        self.model.service.mul_f64(match self.model.spread {
            Spread::Even => 1.0,
            Spread::Uniform => 0.5 + unit,
            Spread::Exponential => -(1.0 - unit).ln(),
        })
    }

    /// There is always more to do: whatever the gates let begin begins.
    fn begin(&mut self) {
        loop {
            if self.gates.queue.is_empty() {
                let event = std::sync::Arc::new(rig::event(self.next));
                self.gates.queue.push_back(rig::job(event, "u", Timestamp::ZERO));
            }
            let Some(admitted) = self.gates.take(self.upstream.concurrency, self.now) else { return };
            let seq = self.next;
            self.next += 1;
            let carried = self.busy < self.capacity || self.model.excess == Excess::Queues;
            self.attempts.insert(seq, Attempt { ticket: admitted.ticket, seq, began: self.now, carried });
            match self.model.excess {
                _ if self.busy < self.capacity => self.work(seq),
                Excess::Queues => self.waiting.push_back(seq),
                Excess::Refuses(after) => self.ends.push(Reverse((self.now + after, seq))),
            }
        }
    }

    fn work(&mut self, seq: Seq) {
        self.busy += 1;
        let end = self.now + self.service() + MS / 10;
        self.ends.push(Reverse((end, seq)));
    }

    /// Runs with a capacity for a span; gives the tally of all of it and of what comes after `settling`.
    fn run(&mut self, capacity: usize, span: Duration, settling: Duration) -> (Tally, Tally) {
        self.capacity = capacity;
        let (end, settled) = (self.now + span, self.now + settling);
        self.tally = Tally::default();
        let mut before = None;
        loop {
            self.gates.tick(self.clock());
            while self.busy < self.capacity
                && let Some(seq) = self.waiting.pop_front()
            {
                self.work(seq);
            }
            self.begin();
            let rest = self.gates.rest(self.upstream.concurrency, self.clock()).map(|rest| self.now + rest.max(MS));
            let next = self.ends.peek().map(|Reverse((at, _))| *at).into_iter().chain(rest).min().unwrap_or(end);
            if before.is_none() && next >= settled {
                before = Some(self.tally);
            }
            if next >= end {
                self.now = end;
                break;
            }
            self.now = next;
            while let Some(Reverse((at, seq))) = self.ends.peek().copied()
                && at <= self.now
            {
                self.ends.pop();
                self.end(seq);
            }
        }
        let (all, before) = (self.tally, before.unwrap_or_default());
        (all, Tally { carried: all.carried - before.carried, refused: all.refused - before.refused })
    }

    fn end(&mut self, seq: Seq) {
        let attempt = self.attempts.remove(&seq).unwrap();
        if attempt.carried {
            self.busy -= 1;
            self.tally.carried += 1;
        } else {
            self.tally.refused += 1;
        }
        let load = if attempt.carried { Load::Carried } else { Load::Refused };
        let news = News { load, latency: self.now - attempt.began, quota: None };
        let now = self.clock();
        let (judged, ticket) = (judged(attempt.carried), attempt.ticket);
        let _observed = self.gates.observe((&judged, &news), (attempt.seq, ticket), &self.upstream, now);
        self.gates.in_flight -= 1;
    }
}

const STEPS: [usize; 3] = [10, 100, 20];

/// Of a step: what was carried after ten seconds of it as a share of what the capacity carries at best, and the tally of
/// all of it.
struct Found {
    share: f64,
    all: Tally,
    settled: Tally,
}

fn errors(tally: Tally) -> f64 {
    tally.refused as f64 / (tally.carried + tally.refused).max(1) as f64
}

fn trial(model: Model, upstream: Upstream, seed: u64) -> [Found; 3] {
    let mut world = World::new(upstream, model, seed);
    STEPS.map(|capacity| {
        let (all, settled) = world.run(capacity, 20 * SECOND, 10 * SECOND);
        let best = capacity as f64 / (model.service + MS / 10).as_secs_f64() * 10.0;
        Found { share: settled.carried as f64 / best, all, settled }
    })
}

fn check(model: Model, seed: u64, least: f64, errors_max: f64) {
    let found = trial(model, upstream(Some(1), 200), seed);
    let sum = found.iter().fold(Tally::default(), |sum, step| Tally {
        carried: sum.carried + step.all.carried,
        refused: sum.refused + step.all.refused,
    });
    for (step, capacity) in found.iter().zip(STEPS) {
        let settled = errors(step.settled);
        let words = format!("{model:?} seed {seed} at {capacity}: {:.3}, errors {:.4}", step.share, settled);
        assert!(step.share >= least && settled < 0.01, "{words}");
    }
    assert!(errors(sum) < errors_max, "{model:?} seed {seed}: {:.4}", errors(sum));
}

#[test]
fn concurrency_follows_a_capacity_that_steps_whether_the_upstream_queues_or_refuses() {
    for (service, seeds) in [(20, 3), (50, 3), (100, 3)] {
        for spread in [Spread::Even, Spread::Uniform] {
            for excess in [Excess::Queues, Excess::Refuses(MS)] {
                for seed in 0..seeds {
                    check(Model { service: service * MS, spread, excess }, seed, 0.9, 0.01);
                }
            }
        }
    }
}

#[test]
fn answers_that_take_any_time_and_refusals_that_take_as_long_as_work_cost_little() {
    for seed in 0..2 {
        for service in [20 * MS, 50 * MS, 100 * MS] {
            let model = |spread, excess| Model { service, spread, excess };
            for excess in [Excess::Queues, Excess::Refuses(MS), Excess::Refuses(service)] {
                check(model(Spread::Exponential, excess), seed, 0.9, 0.01);
            }
            for spread in [Spread::Even, Spread::Uniform] {
                check(model(spread, Excess::Refuses(service)), seed, 0.9, 0.01);
            }
        }
    }
}

#[test]
fn no_fixed_number_carries_a_tenth_more_at_any_step() {
    for excess in [Excess::Queues, Excess::Refuses(MS)] {
        let model = Model { service: 50 * MS, spread: Spread::Uniform, excess };
        let adaptive = trial(model, upstream(Some(1), 200), 7);
        let mut best = [0_u64; 3];
        for fixed in [5, 10, 20, 50, 100, 200] {
            let found = trial(model, upstream(None, fixed), 7);
            for (best, step) in best.iter_mut().zip(&found) {
                if errors(step.settled) < 0.01 {
                    *best = (*best).max(step.settled.carried);
                }
            }
        }
        for ((step, best), capacity) in adaptive.iter().zip(best).zip(STEPS) {
            let carried = step.settled.carried;
            assert!(carried * 10 >= best * 9, "{excess:?} at {capacity}: {carried} against {best}");
        }
    }
}

#[test]
fn concurrency_stays_within_its_bounds_and_one_that_refuses_everything_opens_the_breaker() {
    let model = Model { service: 20 * MS, spread: Spread::Uniform, excess: Excess::Refuses(MS) };
    let mut world = World::new(upstream(Some(3), 12), model, 1);
    world.run(100, 5 * SECOND, SECOND);
    assert_eq!(world.gates.limit(12), 12);
    let (all, _) = world.run(0, 5 * SECOND, SECOND);
    assert_eq!((world.gates.pace.limit(12), world.gates.limit(12)), (3, 0));
    assert!(all.refused < 60, "{all:?}");
}

#[test]
fn after_the_breaker_closes_attempts_at_once_begin_with_one_and_double_up_to_the_adapted_number() {
    let model = Model { service: 20 * MS, spread: Spread::Even, excess: Excess::Refuses(MS) };
    let mut world = World::new(upstream(Some(8), 64), model, 1);
    world.run(32, 5 * SECOND, SECOND);
    assert!((30..=33).contains(&world.gates.limit(64)));
    world.run(0, 10 * SECOND, SECOND);
    assert_eq!(world.gates.limit(64), 0);
    let mut limits = vec![0];
    for _ in 0..4_000 {
        world.run(32, 20 * MS, MS);
        let limit = world.gates.limit(64);
        if limits.last() != Some(&limit) {
            limits.push(limit);
        }
    }
    assert_eq!(limits[..5], [0, 1, 2, 4, 8], "{limits:?}");
    assert!(limits.last().is_some_and(|limit| (30..=33).contains(limit)), "{limits:?}");
}
