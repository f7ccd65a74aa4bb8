//! Owns jobs: beginning one, the next step of one, its form for operators, and ending it.
//!
//! Promises that a step takes at most what it is told, looks at a bounded number of events, and selects as the command does
//! that would replay all of them at once. Deliberately absent: when a step is made; that is whoever runs them.

use super::{
    access::Caller,
    act::{ActError, Selection, asked_for},
    filter::Compiled,
    ports::{Ports, Reads},
    wire::{self, Act, Acted, Filters, Verb, job_id},
};
use crate::{
    event::Seq,
    log::entry::{Action, Command, JobEnd, JobProgress, JobSpec, ReplayStep, Target},
    state::Job,
};

/// Jobs that may run at once.
pub const JOBS_MAX: usize = 8;

/// Events that one step looks at.
const LOOKS_MAX: u64 = 20_000;

/// Begins a job. Durable when it returns.
///
/// # Errors
/// See [`ActError`].
pub(super) fn start(ports: &dyn Ports, asked: &Act, caller: &Caller) -> Result<Acted, ActError> {
    if !caller.scope.is_whole() {
        return Err(ActError::NotAllowed(
            "a job works on the whole instance: this token is limited; replay at most 1,000 deliveries at once"
                .to_owned(),
        ));
    }
    let running = ports.jobs().map_err(ActError::Refused)?.iter().filter(|job| job.ended_at.is_none()).count();
    if running >= JOBS_MAX {
        return Err(ActError::Usage(format!(
            "{running} jobs run, which is as many as may: wait for one or end it (`stagepost jobs`, `stagepost cancel JOB`)"
        )));
    }
    let (before, first) = (asked.before.unwrap_or_else(|| ports.log().end()), ports.log().stats().first_seq);
    let filters = serde_json::to_string(&asked.filters).map_err(|error| ActError::Usage(error.to_string()))?;
    // What can't be meant is said now and not by a job that fails.
    Compiled::new(asked.filters.clone(), ports)?;
    let spec = JobSpec {
        filters,
        to: asked.to.as_deref().map(Into::into),
        new_key: asked.new_key,
        original: asked.original,
        interval_us: asked.interval_us,
        first,
        before,
    };
    let started_ms = ports.now().as_millis();
    let action = Action::StartJob { id: None, spec, progress: JobProgress::default(), started_ms };
    let seq = ports
        .command_at(Command { reason: asked.reason.clone(), asked: asked_for(asked), ..caller.command(action) })
        .map_err(ActError::Refused)?;
    Ok(Acted { job: Some(job_id(seq)), before, ..Acted::default() })
}

/// Ends a job. False if it has ended already; None if there is none of this name.
///
/// # Errors
/// See [`ActError`].
pub fn cancel(ports: &dyn Ports, id: &str, caller: &Caller) -> Result<Option<wire::Job>, ActError> {
    let find = || Ok(ports.jobs().map_err(ActError::Refused)?.into_iter().find(|job| job.id == id));
    let Some(job) = find()? else { return Ok(None) };
    let Some(seq) = wire::job_seq(id).filter(|_| job.ended_at.is_none()) else { return Ok(Some(job)) };
    let action = Action::EndJob { job: seq, end: JobEnd::Cancelled, why: None };
    ports.command(caller.command(action)).map_err(ActError::Refused)?;
    find()
}

/// A step that is to be made.
#[derive(Debug)]
pub struct Step {
    /// What is made due, and how far the job has come then.
    pub step: ReplayStep,
    /// Nothing is left after it.
    pub last: bool,
    /// What was left alone, in words.
    pub skipped: Vec<String>,
}

/// The next step of a job, of about `most` deliveries.
///
/// # Errors
/// [`ActError`]: the job can't go on, unless the cause passes.
pub fn next_step(reads: &dyn Reads, job: &Job, most: usize) -> Result<Step, ActError> {
    let asked = asked(job)?;
    let mut selection = Selection::new(reads, &asked);
    (selection.most, selection.from, selection.looks) = (most, job.progress.next, LOOKS_MAX);
    selection.onward(job.spec.first)?;
    let last = !selection.acted.truncated;
    let done = job.progress;
    let Selection { targets, created, acted, reached, .. } = selection;
    let progress = JobProgress {
        next: if last { job.spec.before } else { reached.max(done.next) },
        deliveries: done.deliveries + (targets.len() + created.len()) as u64,
        events: done.events + acted.events,
        bytes: done.bytes + acted.bytes,
        skipped: done.skipped + acted.skipped.len() as u64,
    };
    let JobSpec { new_key, original, interval_us, .. } = job.spec;
    let (job, from) = (Some((job.id, progress)), Some(done.next));
    let step = ReplayStep { job, from, targets, created, new_key, original, interval_us };
    Ok(Step { step, last, skipped: acted.skipped })
}

fn asked(job: &Job) -> Result<Act, ActError> {
    let filters: Filters = serde_json::from_str(&job.spec.filters)
        .map_err(|error| ActError::Usage(format!("its filters are not understood: {error}")))?;
    Ok(Act {
        verb: Verb::Replay,
        ids: Vec::new(),
        filters,
        all: true,
        to: job.spec.to.as_deref().map(str::to_owned),
        interval_us: job.spec.interval_us,
        new_key: job.spec.new_key,
        original: job.spec.original,
        job: true,
        for_ms: None,
        reason: None,
        dry_run: false,
        before: Some(job.spec.before),
    })
}

/// The upstreams that a step goes to.
#[must_use]
pub fn upstreams_of(step: &ReplayStep) -> Vec<&str> {
    let mut names: Vec<&str> = all_of(step).map(|target| &*target.upstream).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// All deliveries of a step.
pub fn all_of(step: &ReplayStep) -> impl Iterator<Item = &Target> {
    step.targets.iter().chain(&step.created)
}

/// A job in the words of the operators; `waits` is what it waits for, `stored` the stretches of numbers that the log has:
/// between two of them may lie many that were never given out.
#[must_use]
pub fn shown(job: &Job, waits: Option<String>, stored: &[(Seq, Seq)]) -> wire::Job {
    let (state, why, ended_at) = match (&job.ended, waits) {
        (Some((at, end, why)), _) => (end.as_str(), why.clone(), Some(*at)),
        (None, Some(waits)) => ("waiting", Some(waits), None),
        (None, None) => ("running", None, None),
    };
    let before = |seq: Seq| -> u64 {
        let (first, last) = (job.spec.first, seq.min(job.spec.before));
        stored.iter().map(|(begin, end)| last.min(*end).saturating_sub(first.max(*begin))).sum()
    };
    let whole = before(job.spec.before);
    let done = matches!(&job.ended, Some((_, JobEnd::Done, _))) || whole == 0;
    wire::Job {
        id: job_id(job.id),
        state: state.to_owned(),
        why,
        actor: job.actor.clone(),
        started_at: job.started_at,
        ended_at,
        filters: serde_json::from_str(&job.spec.filters).unwrap_or_default(),
        to: job.spec.to.as_deref().map(str::to_owned),
        new_key: job.spec.new_key,
        original: job.spec.original,
        interval_us: job.spec.interval_us,
        deliveries: job.progress.deliveries,
        events: job.progress.events,
        bytes: job.progress.bytes,
        skipped: job.progress.skipped,
        progress: if done { 1.0 } else { before(job.progress.next) as f64 / whole as f64 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{act, fake::*},
        event::EventId,
    };

    fn dead(count: usize) -> (Fake, Vec<EventId>) {
        let fake = Fake::default();
        let ids: Vec<EventId> = (0..count).map(|_| fake.accept("stripe", b"{}")).collect();
        for id in &ids {
            fake.plan(&[(*id, &["billing", "crm"])]);
            fake.set(*id, delivery("billing", Status::Dead(Reason::new("refused"))));
            fake.set(*id, delivery("crm", Status::Dead(Reason::new("refused"))));
        }
        (fake, ids)
    }

    fn job(fake: &Fake, filters: Filters) -> Job {
        let asked = Act { filters, job: true, ..asked(&sample()).unwrap() };
        let acted = act(fake, &Act { before: None, ..asked }, &Caller::local("me")).unwrap();
        assert!(acted.job.is_some());
        let Action::StartJob { spec, .. } = fake.commands().pop().unwrap().action else { panic!() };
        let mut job = sample();
        job.spec = spec;
        job
    }

    fn sample() -> Job {
        let mut state = crate::state::testing::empty_job();
        state.spec.filters = "{}".into();
        state
    }

    #[test]
    fn steps_take_whole_events_in_order_and_every_one_once() {
        let (fake, ids) = dead(7);
        let mut job = job(&fake, Filters { source: Some("stripe".into()), ..Filters::default() });
        let mut taken = Vec::new();
        for expected in [(4, false), (4, false), (4, false), (2, true)] {
            let step = next_step(&fake, &job, 3).unwrap();
            assert_eq!((step.step.targets.len(), step.last), expected);
            taken.extend(step.step.targets.iter().map(|target| target.event));
            job.progress = step.step.job.unwrap().1;
        }
        assert_eq!(taken, ids.iter().flat_map(|id| [id.pos.seq, id.pos.seq]).collect::<Vec<_>>());
        assert_eq!((job.progress.deliveries, job.progress.events, job.progress.bytes), (14, 7, 28));
        assert_eq!((job.progress.next, next_step(&fake, &job, 3).unwrap().step.targets.len()), (job.spec.before, 0));
    }

    #[test]
    fn what_is_delivered_is_replayed_in_the_order_of_the_log_by_steps_too() {
        let fake = Fake::default();
        let ids: Vec<EventId> = (0..5).map(|_| fake.accept("stripe", b"{}")).collect();
        for id in &ids {
            fake.plan(&[(*id, &["billing"])]);
        }
        let mut job = job(&fake, Filters { state: Some("delivered".into()), ..Filters::default() });
        fake.accept("stripe", b"later");
        let mut taken = Vec::new();
        loop {
            let step = next_step(&fake, &job, 2).unwrap();
            taken.extend(step.step.targets.iter().map(|target| target.event));
            job.progress = step.step.job.unwrap().1;
            if step.last {
                break;
            }
        }
        assert_eq!(taken, ids.iter().map(|id| id.pos.seq).collect::<Vec<_>>());
    }

    #[test]
    fn a_job_to_another_upstream_makes_one_delivery_of_each_event() {
        let (fake, _) = dead(3);
        let mut job = job(&fake, Filters::default());
        job.spec.to = Some("audit".into());
        let step = next_step(&fake, &job, 100).unwrap();
        assert_eq!((step.step.created.len(), step.step.targets.len()), (3, 0));
        assert_eq!(upstreams_of(&step.step), ["audit"]);
    }

    #[test]
    fn a_job_is_shown_with_what_it_waits_for_and_how_it_ended() {
        let mut job = sample();
        (job.spec.first, job.spec.before, job.progress.next) = (100, 200, 150);
        let stored = [(0, 120), (1 << 20, (1 << 20) + 80)];
        let shown = |job: &Job, waits: Option<String>| shown(job, waits, &stored);
        let waits = shown(&job, Some("billing lags".into()));
        assert_eq!((&*waits.state, waits.why.as_deref(), waits.progress), ("waiting", Some("billing lags"), 1.0));
        // Restarts lie in its range: 20 numbers of the first stretch and 20 of the second are its.
        job.spec.before = (1 << 20) + 20;
        assert_eq!(shown(&job, None).progress, 0.5);
        job.progress.next = (1 << 20) + 10;
        assert_eq!((&*shown(&job, None).state, shown(&job, None).progress), ("running", 0.75));
        job.ended = Some((job.started_at, JobEnd::Done, None));
        assert_eq!((&*shown(&job, None).state, shown(&job, None).progress), ("done", 1.0));
        assert_eq!(wire::job_seq(&shown(&job, None).id), Some(job.id));
    }

    #[test]
    fn no_more_jobs_run_than_may_and_a_filter_that_means_nothing_begins_none() {
        let (fake, _) = dead(1);
        let asked = Act { before: None, ..asked(&sample()).unwrap() };
        let wrong = Filters { state: Some("none".into()), ..Filters::default() };
        assert!(matches!(
            act(&fake, &Act { filters: wrong, ..asked.clone() }, &Caller::local("me")),
            Err(ActError::Usage(_) | ActError::Filter(_))
        ));
        *fake.jobs.lock().unwrap() = vec![wire::Job::default(); JOBS_MAX];
        assert!(matches!(act(&fake, &asked, &Caller::local("me")), Err(ActError::Usage(_))));
        assert!(fake.commands().is_empty());
    }
}
