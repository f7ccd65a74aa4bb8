//! Owns the property of the gates: whatever happens, no attempt begins beyond the rate, the concurrency, or an open
//! breaker, and none waits that may begin. Virtual time; a failure prints its seed.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

use super::rig;
use crate::{
    clock::Timestamp,
    delivery::{
        BreakerState,
        adapt::Load,
        classify::{self, Rules},
        gates::{Gates, Now, Ticket},
        pace::News,
        ratelimit::Quota,
    },
    event::{Job, Seq},
    jitter::Jitter,
    routing::{BreakerPolicy, Pace, PaceRate, RateHeaders, Target, Upstream},
};

const SEEDS: u64 = 4_000;
const STEPS: usize = 250;
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    dice: Jitter,
    gates: Gates,
    upstream: Upstream,
    now: Duration,
    /// What the agenda has.
    jobs: Vec<Job>,
    under_way: Vec<(Ticket, Seq)>,
    begun: Vec<Duration>,
    /// Since when which rate holds.
    rates: Vec<(Duration, Option<PaceRate>)>,
    next: Seq,
    window: usize,
}

fn upstream(dice: &Jitter) -> Upstream {
    let pick = |most: u64| dice.next_u64() % most;
    let per = [Duration::from_secs(1), Duration::from_secs(60)][pick(2) as usize];
    let rate = match pick(4) {
        0 => None,
        1 => Some(PaceRate::new(1 + pick(3), per, Some(1 + pick(3))).unwrap()),
        _ => Some(PaceRate::new(1 + pick(400), per, (pick(2) == 0).then(|| 1 + pick(20))).unwrap()),
    };
    let concurrency = 1 + pick(12) as usize;
    let least = (pick(2) == 0).then(|| 1 + pick(concurrency as u64) as usize);
    let headers = if pick(4) == 0 { RateHeaders::Ignore } else { RateHeaders::Follow };
    Upstream {
        concurrency,
        pace: Pace { rate, least, headers },
        breaker: BreakerPolicy { failures: 3, error_rate: None, cool_down: Duration::from_secs(5) },
        ..Upstream::new("u", Target::Unix("/run/app.sock".into()))
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = Jitter::seeded(seed);
        let upstream = upstream(&dice);
        let now = Duration::from_secs(1);
        let gates = Gates::new(Some(&upstream), Now { time: Timestamp::ZERO, elapsed: now });
        let (jobs, under_way, begun) = (Vec::new(), Vec::new(), Vec::new());
        let rates = vec![(now, upstream.pace.rate)];
        Self { dice, gates, upstream, now, jobs, under_way, begun, rates, next: 0, window: 0 }
    }

    fn pick(&self, most: u64) -> u64 {
        self.dice.next_u64() % most
    }

    fn clock(&self) -> Now {
        Now { time: Timestamp::from_millis(1_000_000).after(self.now), elapsed: self.now }
    }

    /// What the steward does in its turn.
    fn oversee(&mut self) {
        let (now, concurrency) = (self.clock(), self.upstream.concurrency);
        self.gates.pace.configure(&self.upstream.pace, self.now);
        self.gates.tick(now);
        let room = self.window.saturating_sub(self.gates.in_flight + self.gates.queue.len()).min(self.jobs.len());
        self.gates.queue.extend(self.jobs.drain(..room));
        loop {
            let limit = self.gates.limit(concurrency);
            let Some(admitted) = self.gates.take(concurrency, self.now) else { break };
            assert!(self.gates.in_flight <= limit && limit <= concurrency);
            match self.gates.breaker.state() {
                BreakerState::Closed => {}
                BreakerState::HalfOpen => assert_eq!(self.gates.in_flight, 1),
                BreakerState::Open => panic!("an attempt began while the breaker was open"),
            }
            self.begun.push(self.now);
            self.under_way.push((admitted.ticket, admitted.job.event.id.pos.seq));
        }
        let waits = !self.gates.queue.is_empty() && self.gates.in_flight < self.gates.limit(concurrency);
        let until = self.gates.pace.throttle(self.gates.in_flight, self.now).map(|(_, until)| until);
        assert!(!waits || until.is_some(), "a job waits for nothing");
        let spilled = self.gates.spill(concurrency, 1, self.now);
        self.jobs.splice(..0, spilled);
        if let Some(window) = self.gates.new_window(concurrency, 1, self.now) {
            self.window = window;
        }
        let rest = self.gates.rest(concurrency, now);
        if let Some(until) = until.filter(|until| waits && *until != Duration::MAX) {
            assert!(rest.is_some_and(|rest| self.now + rest <= until), "the steward sleeps over a token");
        }
        if let Some(rate) = self.upstream.pace.rate {
            let waiting = crate::routing::waiting(rate.per_second());
            let most = 2 * (waiting + self.gates.in_flight + 2 * (waiting / 4).max(2));
            assert!(self.gates.queue.len() <= most, "{} jobs wait behind {rate:?}", self.gates.queue.len());
        }
    }

    fn end(&mut self, index: usize, status: u16, quota: Option<Quota>, retry_after: Option<&'static str>) {
        let (ticket, seq) = self.under_way.swap_remove(index);
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert("retry-after", text.parse().unwrap());
        }
        let rules = Rules { soft_bounce: false, retry_after_max: HOUR };
        let judged = classify::answer(StatusCode::from_u16(status).unwrap(), &headers, rules, Timestamp::ZERO);
        let quota = quota.filter(|_| self.upstream.pace.headers == RateHeaders::Follow);
        let load = if status == 200 { Load::Carried } else { Load::Refused };
        let news = News { load, latency: Duration::from_millis(1 + self.pick(50)), quota };
        let observed = self.gates.observe((&judged, &news), (seq, ticket), &self.upstream, self.clock());
        self.gates.in_flight -= 1;
        self.jobs.extend(observed.returned);
    }

    fn step(&mut self) {
        match self.pick(20) {
            0..6 => self.now += Duration::from_micros(self.pick(60_000)),
            6 => self.now += Duration::from_millis(self.pick(20_000)),
            7..10 => {
                for _ in 0..self.pick(20) {
                    let event = Arc::new(rig::event(self.next));
                    self.jobs.push(rig::job(event, "u", Timestamp::ZERO));
                    self.next += 1;
                }
            }
            10..17 if !self.under_way.is_empty() => {
                let index = self.pick(self.under_way.len() as u64) as usize;
                let quota = (self.pick(6) == 0).then(|| Quota {
                    remaining: self.pick(30),
                    reset: Duration::from_secs(1 + self.pick(if self.pick(5) == 0 { u64::MAX >> 1 } else { 20 })),
                });
                match self.pick(12) {
                    0 => self.end(index, 503, quota, None),
                    1 => self.end(index, 429, quota, Some("2")),
                    2 => self.end(index, 503, quota, Some("1")),
                    _ => self.end(index, 200, quota, None),
                }
            }
            17 if !self.under_way.is_empty() => {
                // An attempt that sent nothing: its token is free, and it does not count.
                let index = self.pick(self.under_way.len() as u64) as usize;
                let _nothing_sent = self.under_way.swap_remove(index);
                self.gates.in_flight -= 1;
            }
            18 => {
                self.upstream = upstream(&self.dice);
                self.rates.push((self.now, self.upstream.pace.rate));
            }
            19 if self.pick(4) == 0 => {
                // A restart: what was under way is made again.
                self.gates = Gates::new(Some(&self.upstream), self.clock());
                self.under_way.clear();
                self.window = 0;
            }
            _ => {}
        }
        self.oversee();
    }

    /// Over any time, no more attempts begin than the rates of that time let.
    fn check(&self, seed: u64) {
        for (first, from) in self.begun.iter().enumerate() {
            let mut most = 0.0;
            let mut burst = 0.0_f64;
            let mut era = self.rates.partition_point(|(since, _)| since < from).saturating_sub(1);
            let mut since = *from;
            for (count, until) in (1_u32..).zip(&self.begun[first..]) {
                loop {
                    let end = self.rates.get(era + 1).map_or(Duration::MAX, |(end, _)| *end);
                    let Some(rate) = self.rates[era].1 else {
                        burst = f64::INFINITY;
                        break;
                    };
                    burst = burst.max(rate.burst as f64);
                    most += rate.per_second() * ((*until).min(end) - since).as_secs_f64();
                    since = (*until).min(end);
                    if *until < end {
                        break;
                    }
                    era += 1;
                }
                if burst.is_infinite() {
                    break;
                }
                assert!(f64::from(count) <= most + burst + 1e-6, "seed {seed}: {count} from {from:?} to {until:?}");
            }
        }
    }

    /// With an upstream that works, everything is sent in the end.
    fn finish(&mut self, seed: u64) {
        for _ in 0..3_000 {
            while !self.under_way.is_empty() {
                self.end(0, 200, None, None);
            }
            self.oversee();
            if self.jobs.is_empty() && self.gates.queue.is_empty() && self.under_way.is_empty() {
                return;
            }
            let rest = self.gates.rest(self.upstream.concurrency, self.clock()).unwrap_or(Duration::from_millis(1));
            assert!(rest <= HOUR, "seed {seed}: a pause of {rest:?}");
            self.now += rest.max(Duration::from_millis(1));
        }
        panic!("seed {seed}: {} jobs are left, {:?}", self.jobs.len(), self.gates.pace);
    }
}

#[test]
fn no_attempt_begins_beyond_rate_concurrency_or_breaker_and_none_waits_that_may_begin() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.check(seed);
        world.jobs.truncate(200);
        world.finish(seed);
    }
}
