//! Owns the thread that makes the steps of jobs, one after the other, below live traffic.
//!
//! Promises that a step is made only when most of the one before was attempted, when its time has come by the job's rate,
//! and when no upstream of it is held or lags behind with first attempts. What a job waits for is told. A restart goes on
//! with the next step. Deliberately absent: what a step takes; that is `admin::jobs`. What is asked of the instance is a
//! [`Ground`], so that the simulation runs jobs as the process does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{ports::Instance, rounds::Rounds};
use crate::{
    admin::{
        ActError, PlannedFor, Ports, Reads, VIEWS_MAX,
        jobs::{Step, all_of, next_step, upstreams_of},
    },
    clock::Timestamp,
    event::{DeliveryState, Seq},
    log::entry::{Action, Command, JobEnd, ReplayStep},
    state::Job,
    telemetry::Metrics,
};

/// How often it is looked whether a job can go on.
const EVERY: Duration = Duration::from_millis(200);

/// Deliveries of one step.
const STEP_MAX: usize = 500;

/// A step of a job with a rate takes about as long, so that it can be ended.
const STEP_TIME: Duration = Duration::from_secs(5);

/// What waits for what; shared with who asks.
#[derive(Default)]
pub(super) struct Waits(Mutex<BTreeMap<Seq, String>>);

impl Waits {
    /// What a job waits for.
    pub(super) fn of(&self, job: Seq) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    fn set(&self, job: Seq, why: Option<String>) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(waits.insert(job, why)),
            None => drop(waits.remove(&job)),
        }
    }
}

/// What jobs need of the instance that they run in. All of it may block.
pub trait Ground {
    /// What operators read.
    fn reads(&self) -> &dyn Reads;

    /// All jobs, as the log has them.
    ///
    /// # Errors
    /// Why that is not known now, in words.
    fn known_jobs(&self) -> Result<Vec<Job>, String>;

    /// Time that passes evenly.
    fn elapsed(&self) -> Duration;

    /// Which of these upstreams gets nothing now, in words: it is held, or its breaker is open.
    fn standing_still(&self, upstreams: &[Box<str>]) -> Option<String>;

    /// Since when first attempts to an upstream wait.
    ///
    /// # Errors
    /// Why that is not known now, in words.
    fn live_since(&self, upstream: &str) -> Result<Option<Timestamp>, String>;

    /// Gives a command. Durable and applied when it returns.
    ///
    /// # Errors
    /// Why not, in words. It may be durable all the same.
    fn give(&self, command: Command) -> Result<(), String>;

    /// Says what a job waits for.
    fn waits(&self, job: Seq, why: Option<String>);

    /// Where deliveries are counted.
    fn counters(&self) -> &Metrics;
}

impl Ground for Instance {
    fn reads(&self) -> &dyn Reads {
        self
    }

    fn known_jobs(&self) -> Result<Vec<Job>, String> {
        if !self.running.agenda.is_ready() {
            return Err("the state of deliveries is not known yet".to_owned());
        }
        self.running.agenda.jobs().map_err(|error| error.to_string())
    }

    fn elapsed(&self) -> Duration {
        self.running.clock.elapsed()
    }

    fn standing_still(&self, upstreams: &[Box<str>]) -> Option<String> {
        let status = self.status();
        upstreams.iter().find_map(|name| {
            let upstream = status.upstreams.iter().find(|upstream| upstream.name == **name)?;
            if upstream.held_since.is_some() {
                return Some(format!("{name} is held"));
            }
            (upstream.breaker == "open").then(|| format!("the breaker of {name} is open"))
        })
    }

    fn live_since(&self, upstream: &str) -> Result<Option<Timestamp>, String> {
        self.running.agenda.live_since(upstream).map_err(|error| error.to_string())
    }

    fn give(&self, command: Command) -> Result<(), String> {
        self.command(command)
    }

    fn waits(&self, job: Seq, why: Option<String>) {
        self.waits.set(job, why);
    }

    fn counters(&self) -> &Metrics {
        &self.running.metrics
    }
}

/// Starts the thread. `lag`: first attempts of an upstream may wait so long before jobs to it pause.
pub(super) fn start(
    instance: Arc<Instance>,
    lag: Duration,
    runtime: tokio::runtime::Handle,
) -> std::io::Result<Rounds> {
    let mut runner = Runner::new(lag);
    Rounds::start("jobs", EVERY, move || {
        // Filters that need the pool are awaited there.
        let _entered = runtime.enter();
        runner.round(&*instance);
    })
}

/// Makes the steps of jobs.
pub struct Runner {
    lag: Duration,
    known: BTreeMap<Seq, Known>,
}

/// What is remembered of a job between two steps; a restart forgets it.
#[derive(Default)]
struct Known {
    /// The upstreams of a step that something stood in the way of. What it takes is looked up again when it can be made: by
    /// then other deliveries may be meant.
    awaited: Vec<Box<str>>,
    /// The deliveries of the step before, with their attempts then.
    made: Vec<(Seq, Box<str>, u32)>,
    /// Not before this time (of the clock's own scale).
    not_before: Duration,
}

impl Runner {
    /// Knows of nothing. `lag`: first attempts of an upstream may wait so long before jobs to it pause.
    #[must_use]
    pub const fn new(lag: Duration) -> Self {
        Self { lag, known: BTreeMap::new() }
    }

    /// Makes the next step of every job that can go on.
    pub fn round(&mut self, ground: &dyn Ground) {
        let Ok(jobs) = ground.known_jobs() else { return };
        let active: Vec<Job> = jobs.into_iter().filter(|job| job.ended.is_none()).collect();
        self.known.retain(|id, _| active.iter().any(|job| job.id == *id));
        let mut waiting = 0;
        for job in &active {
            let why = self.advance(ground, job).unwrap_or_else(|why| {
                end(ground, job, JobEnd::Failed, Some(why));
                None
            });
            waiting += i64::from(why.is_some());
            ground.waits(job.id, why);
        }
        let metrics = ground.counters();
        metrics.jobs_running.set(i64::try_from(active.len()).unwrap_or(i64::MAX) - waiting);
        metrics.jobs_waiting.set(waiting);
    }

    /// One step of a job, if nothing stands in its way. What does, if something does; or why it can't go on at all.
    fn advance(&mut self, ground: &dyn Ground, job: &Job) -> Result<Option<String>, String> {
        let mut known = self.known.remove(&job.id).unwrap_or_default();
        let waits = self.step(ground, job, &mut known);
        self.known.insert(job.id, known);
        waits
    }

    fn step(&self, ground: &dyn Ground, job: &Job, known: &mut Known) -> Result<Option<String>, String> {
        if ground.elapsed() < known.not_before {
            return Ok(None);
        }
        match unattempted(ground, known) {
            Ok(0) => {}
            Ok(waiting) => return Ok(Some(format!("{waiting} deliveries of the last step wait for their attempt"))),
            Err(why) => return Ok(Some(why)),
        }
        if let Some(why) = self.in_the_way(ground, &known.awaited) {
            return Ok(Some(why));
        }
        let step = match next_step(ground.reads(), job, step_size(job)) {
            Ok(step) => step,
            Err(error @ (ActError::Query(_) | ActError::Refused(_))) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error.to_string()),
        };
        known.awaited = upstreams_of(&step.step).into_iter().map(Into::into).collect();
        if let Some(why) = self.in_the_way(ground, &known.awaited) {
            return Ok(Some(why));
        }
        known.awaited.clear();
        for text in &step.skipped {
            tracing::warn!(job = job.id, left_alone = &**text, "a job leaves an event alone");
        }
        let made = match made(ground, &step.step) {
            Ok(made) => made,
            Err(why) => return Ok(Some(why)),
        };
        let Step { step, last, .. } = step;
        let (count, progress) = (all_of(&step).count(), step.job.map(|(_, progress)| progress));
        // It may be stored all the same: then the next one is void, unless this one was applied by then.
        if let Err(why) = ground.give(Command::new("relay", Action::ReplayStep(step))) {
            return Ok(Some(why));
        }
        known.made = made;
        let interval = Duration::from_micros(job.spec.interval_us.unwrap_or(0));
        known.not_before = ground.elapsed() + interval * u32::try_from(count).unwrap_or(u32::MAX);
        let jobs = match ground.known_jobs() {
            Ok(jobs) => jobs,
            Err(why) => return Ok(Some(why)),
        };
        // A step that was void made nothing due and is the last of nothing.
        if jobs.iter().any(|known| known.id == job.id && Some(known.progress) == progress) {
            ground.counters().job_deliveries.add(count as u64);
            if last {
                end(ground, job, JobEnd::Done, None);
            }
        }
        Ok(None)
    }

    /// What keeps a step from being made now.
    fn in_the_way(&self, ground: &dyn Ground, upstreams: &[Box<str>]) -> Option<String> {
        if upstreams.is_empty() {
            return None;
        }
        ground.standing_still(upstreams).or_else(|| {
            upstreams.iter().find_map(|name| match ground.live_since(name) {
                Ok(since) => {
                    let lag = since.map_or(Duration::ZERO, |since| ground.reads().now().since(since));
                    (lag > self.lag).then(|| format!("live events wait for {name} since {} s", lag.as_secs()))
                }
                Err(why) => Some(why),
            })
        })
    }
}

fn end(ground: &dyn Ground, job: &Job, end: JobEnd, why: Option<String>) {
    let action = Action::EndJob { job: job.id, end, why };
    // If it is not stored, the job ends when it is looked at again.
    let _again = ground.give(Command::new("relay", action));
}

/// How many deliveries of the step before wait for their attempt, if these are most of it; else 0.
fn unattempted(ground: &dyn Ground, known: &Known) -> Result<usize, String> {
    let mut waiting = 0;
    for some in known.made.chunks(VIEWS_MAX) {
        let asked = |(event, upstream, _): &(Seq, Box<str>, u32)| PlannedFor {
            event: *event,
            upstreams: vec![upstream.clone()],
        };
        let views = ground.reads().views(&some.iter().map(asked).collect::<Vec<_>>())?;
        for ((_, upstream, attempts), view) in some.iter().zip(views) {
            let delivery = view.deliveries.iter().find(|delivery| delivery.upstream == *upstream);
            let waits = delivery.is_some_and(|delivery| {
                delivery.status.state() == DeliveryState::Pending && delivery.attempts <= *attempts
            });
            waiting += usize::from(waits && !view.deleted);
        }
    }
    Ok(if waiting * 2 > known.made.len() { waiting } else { 0 })
}

fn made(ground: &dyn Ground, step: &ReplayStep) -> Result<Vec<(Seq, Box<str>, u32)>, String> {
    let targets: Vec<_> = all_of(step).collect();
    let mut made = Vec::with_capacity(targets.len());
    for some in targets.chunks(VIEWS_MAX) {
        let asked =
            some.iter().map(|target| PlannedFor { event: target.event, upstreams: vec![target.upstream.clone()] });
        let views = ground.reads().views(&asked.collect::<Vec<_>>())?;
        for (target, view) in some.iter().zip(views) {
            let known = view.deliveries.iter().find(|delivery| delivery.upstream == target.upstream);
            let existing = !step.created.iter().any(|created| created == *target);
            let attempts = known.filter(|_| existing).map_or(0, |delivery| delivery.attempts);
            made.push((target.event, target.upstream.clone(), attempts));
        }
    }
    Ok(made)
}

fn step_size(job: &Job) -> usize {
    match job.spec.interval_us {
        None | Some(0) => STEP_MAX,
        Some(interval) => usize::try_from(STEP_TIME.as_micros() / u128::from(interval)).unwrap_or(1).clamp(1, STEP_MAX),
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
