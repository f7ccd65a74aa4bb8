//! Owns the thread that makes the steps of jobs, one after the other, below live traffic.
//!
//! Promises that a step is made only when most of the one before was attempted, when its time has come by the job's rate,
//! and when no upstream of it is held or lags behind with first attempts. What a job waits for is told. A restart goes on
//! with the next step. Deliberately absent: what a step takes; that is `admin::jobs`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{ports::Instance, rounds::Rounds};
use crate::{
    admin::{
        ActError, PlannedFor, Ports, Reads, VIEWS_MAX,
        jobs::{Step, all_of, next_step, upstreams_of},
    },
    event::{DeliveryState, Seq},
    log::entry::{Action, Command, JobEnd, ReplayStep},
    state::Job,
};

/// How often it is looked whether a job can go on.
const EVERY: Duration = Duration::from_millis(200);

/// Deliveries of one step.
const STEP_MAX: usize = 500;

/// A step that was not stored is selected again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// A step of a job with a rate takes about as long, so that it can be ended.
const STEP_TIME: Duration = Duration::from_secs(5);

/// What waits for what, and whose turn it is; shared with who asks and who ends jobs.
#[derive(Default)]
pub(super) struct Waits {
    whys: Mutex<BTreeMap<Seq, String>>,
    turn: Mutex<()>,
}

impl Waits {
    /// What a job waits for.
    pub(super) fn of(&self, job: Seq) -> Option<String> {
        self.whys.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    /// A step is stored, or a job ended, by one at a time: once an end is answered, no step follows.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, job: Seq, why: Option<String>) {
        let mut waits = self.whys.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(waits.insert(job, why)),
            None => drop(waits.remove(&job)),
        }
    }
}

/// Starts the thread. `lag`: first attempts of an upstream may wait so long before jobs to it pause.
pub(super) fn start(
    instance: Arc<Instance>,
    lag: Duration,
    runtime: tokio::runtime::Handle,
) -> std::io::Result<Rounds> {
    let mut work = Work { instance, lag, known: BTreeMap::new() };
    Rounds::start("jobs", EVERY, move || {
        // Filters that need the pool are awaited there.
        let _entered = runtime.enter();
        work.round();
    })
}

struct Work {
    instance: Arc<Instance>,
    lag: Duration,
    known: BTreeMap<Seq, Known>,
}

/// The deliveries of a step, with their attempts before it.
type Made = Vec<(Seq, Box<str>, u32)>;

/// What is remembered of a job between two steps; a restart forgets it.
#[derive(Default)]
struct Known {
    /// The upstreams of the step that something stood in the way of: it is selected anew when nothing does.
    blocked: Vec<Box<str>>,
    /// The step before.
    made: Made,
    /// Not before this time (of the clock's own scale).
    not_before: Duration,
}

impl Work {
    fn round(&mut self) {
        let running = &self.instance.running;
        if !running.agenda.is_ready() {
            return;
        }
        let Ok(jobs) = running.agenda.jobs() else { return };
        let active: Vec<Job> = jobs.into_iter().filter(|job| job.ended.is_none()).collect();
        self.known.retain(|id, _| active.iter().any(|job| job.id == *id));
        let mut waiting = 0;
        for job in &active {
            let why = self.advance(job).unwrap_or_else(|why| {
                self.end(job, JobEnd::Failed, Some(why));
                None
            });
            waiting += i64::from(why.is_some());
            self.instance.waits.set(job.id, why);
        }
        let metrics = &self.instance.running.metrics;
        metrics.jobs_running.set(i64::try_from(active.len()).unwrap_or(i64::MAX) - waiting);
        metrics.jobs_waiting.set(waiting);
    }

    /// One step of a job, if nothing stands in its way. What does, if something does; or why it can't go on at all.
    fn advance(&mut self, job: &Job) -> Result<Option<String>, String> {
        let mut known = self.known.remove(&job.id).unwrap_or_default();
        let waits = self.step(job, &mut known);
        self.known.insert(job.id, known);
        waits
    }

    fn step(&self, job: &Job, known: &mut Known) -> Result<Option<String>, String> {
        let clock = &self.instance.running.clock;
        if clock.elapsed() < known.not_before {
            return Ok(self.instance.waits.of(job.id));
        }
        match self.unattempted(known) {
            Ok(0) => {}
            Ok(waiting) => return Ok(Some(format!("{waiting} deliveries of the last step wait for their attempt"))),
            Err(why) => return Ok(Some(why)),
        }
        if let Some(why) = self.in_the_way(&known.blocked) {
            return Ok(Some(why));
        }
        let Step { step, last, skipped } = match next_step(&*self.instance, job, step_size(job)) {
            Ok(step) => step,
            Err(error @ (ActError::Query(_) | ActError::Refused(_))) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error.to_string()),
        };
        let upstreams: Vec<Box<str>> = upstreams_of(&step).into_iter().map(Box::from).collect();
        if let Some(why) = self.in_the_way(&upstreams) {
            known.blocked = upstreams;
            return Ok(Some(why));
        }
        known.blocked.clear();
        let count = all_of(&step).count();
        match self.make(job, step) {
            Ok(Some(made)) => known.made = made,
            Ok(None) => return Ok(None),
            Err(why) => {
                known.not_before = clock.elapsed() + AGAIN;
                return Ok(Some(why));
            }
        }
        for text in &skipped {
            tracing::warn!(job = job.id, left_alone = &**text, "a job leaves an event alone");
        }
        self.instance.running.metrics.job_deliveries.add(count as u64);
        let interval = Duration::from_micros(job.spec.interval_us.unwrap_or(0));
        known.not_before = clock.elapsed() + interval * u32::try_from(count).unwrap_or(u32::MAX);
        if last {
            self.end(job, JobEnd::Done, None);
        }
        Ok(None)
    }

    /// Stores a step, unless the job has ended meanwhile. Gives its deliveries, with their attempts so far.
    fn make(&self, job: &Job, step: ReplayStep) -> Result<Option<Made>, String> {
        let _turn = self.instance.waits.turn();
        let jobs = self.instance.running.agenda.jobs().map_err(|error| error.to_string())?;
        if !jobs.iter().any(|known| known.id == job.id && known.ended.is_none()) {
            return Ok(None);
        }
        let made = self.made(&step)?;
        self.instance.command(Command::new("relay", Action::ReplayStep(step)))?;
        Ok(Some(made))
    }

    fn end(&self, job: &Job, end: JobEnd, why: Option<String>) {
        let action = Action::EndJob { job: job.id, end, why };
        // If it is not stored, the job ends when it is looked at again.
        let _again = self.instance.command(Command::new("relay", action));
    }

    /// What keeps a step to these upstreams from being made now.
    fn in_the_way(&self, upstreams: &[Box<str>]) -> Option<String> {
        if upstreams.is_empty() {
            return None;
        }
        let (running, status) = (&self.instance.running, self.instance.status());
        for name in upstreams {
            let upstream = status.upstreams.iter().find(|upstream| *upstream.name == **name);
            if upstream.is_some_and(|upstream| upstream.held_until.is_some()) {
                return Some(format!("{name} is held"));
            }
            if upstream.is_some_and(|upstream| upstream.breaker == "open") {
                return Some(format!("the breaker of {name} is open"));
            }
            let since = match running.agenda.live_since(name) {
                Ok(since) => since,
                Err(error) => return Some(error.to_string()),
            };
            let lag = since.map_or(Duration::ZERO, |since| running.clock.now().since(since));
            if lag > self.lag {
                return Some(format!("live events wait for {name} since {} s", lag.as_secs()));
            }
        }
        None
    }

    /// How many deliveries of the step before wait for their attempt, if these are most of it; else 0.
    fn unattempted(&self, known: &Known) -> Result<usize, String> {
        let mut waiting = 0;
        for some in known.made.chunks(VIEWS_MAX) {
            let asked = |(event, upstream, _): &(Seq, Box<str>, u32)| PlannedFor {
                event: *event,
                upstreams: vec![upstream.clone()],
            };
            let views = self.instance.views(&some.iter().map(asked).collect::<Vec<_>>())?;
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

    fn made(&self, step: &ReplayStep) -> Result<Made, String> {
        let targets: Vec<_> = all_of(step).collect();
        let mut made = Vec::with_capacity(targets.len());
        for some in targets.chunks(VIEWS_MAX) {
            let asked =
                some.iter().map(|target| PlannedFor { event: target.event, upstreams: vec![target.upstream.clone()] });
            let views = self.instance.views(&asked.collect::<Vec<_>>())?;
            for (target, view) in some.iter().zip(views) {
                let known = view.deliveries.iter().find(|delivery| delivery.upstream == target.upstream);
                let existing = !step.created.iter().any(|created| created == *target);
                let attempts = known.filter(|_| existing).map_or(0, |delivery| delivery.attempts);
                made.push((target.event, target.upstream.clone(), attempts));
            }
        }
        Ok(made)
    }
}

fn step_size(job: &Job) -> usize {
    match job.spec.interval_us {
        None | Some(0) => STEP_MAX,
        Some(interval) => usize::try_from(STEP_TIME.as_micros() / u128::from(interval)).unwrap_or(1).clamp(1, STEP_MAX),
    }
}
