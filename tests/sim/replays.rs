//! What must be true of jobs, in the words of the model: a job makes due exactly what its filters mean, each delivery once,
//! in the order of the log, and nothing after its end.
//!
//! A delivery is owed to a job if it was meant when the job began and has been ever since; one that comes to be meant later
//! may be taken or not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use stagepost::{
    clock::Timestamp,
    event::Seq,
    log::entry::{JobEnd, JobSpec, ReplayStep, Target},
    state::Jobs as Known,
};

use crate::{
    checker::{Checker, Is, Key},
    office::LAG,
};

/// The age of what waits is known to about this.
const ABOUT_MS: u64 = 6_000;

/// The model of jobs.
#[derive(Default)]
pub struct Jobs {
    all: BTreeMap<Seq, Job>,
    /// The last step made nothing due: its job had ended, or had made it before.
    pub last_was_void: bool,
}

struct Job {
    wanted: Wanted,
    to: Option<String>,
    before: Seq,
    next: Seq,
    deliveries: u64,
    taken: BTreeSet<Key>,
    owed: BTreeSet<Key>,
    end: Option<JobEnd>,
    /// The process has died since its last step.
    interrupted: bool,
}

/// The filters that the simulation's operators use.
#[derive(Deserialize)]
struct Wanted {
    source: Option<String>,
    upstream: Option<String>,
    state: Option<String>,
}

fn key(target: &Target) -> Key {
    (target.event, target.upstream.to_string())
}

impl Jobs {
    /// The process died.
    pub fn crashed(&mut self) {
        self.all.values_mut().filter(|job| job.next > 0).for_each(|job| job.interrupted = true);
    }
}

impl Checker {
    /// Whether a job is about this delivery for sure.
    fn means(&self, job: &Job, key: &Key) -> bool {
        // Jobs look for plans in the log: one that stands there and is not applied yet may count or not.
        let is_planned =
            job.wanted.state.as_deref().is_none_or(|state| state == "dead") || self.planned.contains(&key.0);
        is_planned && self.may_mean(job, key)
    }

    fn may_mean(&self, job: &Job, key: &Key) -> bool {
        let Wanted { source, upstream, state } = &job.wanted;
        let is = self.deliveries.get(key).map(|known| known.is);
        let in_state = match state.as_deref() {
            None | Some("dead") => is == Some(Is::Dead),
            _ => is == Some(Is::Delivered),
        };
        in_state
            && key.0 < job.before
            && upstream.as_ref().is_none_or(|upstream| *upstream == key.1)
            && source.as_ref().is_none_or(|source| self.orders.sources.get(&key.0) == Some(source))
    }

    /// A job begins.
    pub fn begins(&mut self, id: Seq, spec: JobSpec) -> Result<(), String> {
        let mut job = Job {
            wanted: serde_json::from_str(&spec.filters).map_err(|why| why.to_string())?,
            to: spec.to.map(Into::into),
            before: spec.before,
            next: 0,
            deliveries: 0,
            taken: BTreeSet::new(),
            owed: BTreeSet::new(),
            end: None,
            interrupted: false,
        };
        job.owed = self.deliveries.keys().filter(|key| self.means(&job, key)).cloned().collect();
        self.jobs.all.insert(id, job);
        Ok(())
    }

    /// Something has changed: of one delivery, or of any.
    pub fn reconsider(&mut self, changed: Option<&Key>) {
        let mut all = std::mem::take(&mut self.jobs.all);
        for job in all.values_mut().filter(|job| job.end.is_none()) {
            let mut owed = std::mem::take(&mut job.owed);
            match changed {
                Some(key) if owed.contains(key) && !self.means(job, key) => drop(owed.remove(key)),
                Some(_) => {}
                None => owed.retain(|key| self.means(job, key)),
            }
            job.owed = owed;
        }
        self.jobs.all = all;
    }

    /// The relay wants to make this step now, by what is applied so far.
    pub fn may_step(&self, step: &ReplayStep, wall: Timestamp, steady: Timestamp) -> Result<(), String> {
        let Some((id, _)) = step.job else { return Err("a step of no job".to_owned()) };
        let job = self.jobs.all.get(&id).ok_or_else(|| format!("a step of job {id}, which nobody began"))?;
        let of = |event: Seq| self.deliveries.range((event, String::new())..(event + 1, String::new()));
        for target in &step.targets {
            let key = key(target);
            let meant = match &job.to {
                Some(to) => *to == key.1 && of(key.0).any(|(key, _)| self.may_mean(job, key)),
                None => self.may_mean(job, &key),
            };
            if !meant {
                return Err(format!("job {id} takes {key:?}, which it does not mean: {:?}", self.deliveries.get(&key)));
            }
        }
        for target in &step.created {
            let key = key(target);
            let meant = job.to.as_ref() == Some(&key.1) && of(key.0).any(|(key, _)| self.means(job, key));
            if !meant || self.deliveries.contains_key(&key) {
                return Err(format!("job {id} makes {key:?}: {:?}", self.deliveries.get(&key)));
            }
        }
        let upstreams: BTreeSet<&str> = step.targets.iter().chain(&step.created).map(|to| &*to.upstream).collect();
        for upstream in upstreams {
            if self.holds.get(upstream).is_some_and(|until| until.is_none_or(|until| until > steady.as_millis())) {
                return Err(format!("job {id} goes on although {upstream} is held"));
            }
            let mut waiting = self.deliveries.iter().filter(|((_, name), known)| name == upstream && known.waits);
            let lags = |event: Seq| {
                let since = self.accepted_at.get(&event).map_or(0, |at| at.as_millis());
                wall.as_millis().saturating_sub(since) > LAG.as_millis() as u64 + ABOUT_MS
            };
            if let Some(((event, _), _)) = waiting.find(|((event, _), _)| self.planned.contains(event) && lags(*event))
            {
                return Err(format!("job {id} goes on although event {event} waits for {upstream}"));
            }
        }
        Ok(())
    }

    /// A step stands in the log.
    pub fn steps(&mut self, step: &ReplayStep) -> Result<(), String> {
        let Some((id, progress)) = step.job else { return Err("a step of no job".to_owned()) };
        let Some(job) = self.jobs.all.get_mut(&id) else {
            return Err(format!("a step of job {id}, which never began"));
        };
        self.jobs.last_was_void = job.end.is_some() || step.from.is_some_and(|from| from < job.next);
        if self.jobs.last_was_void {
            return Ok(());
        }
        for target in step.targets.iter().chain(&step.created) {
            let key = key(target);
            if key.0 < job.next || key.0 >= progress.next.min(job.before) {
                return Err(format!("job {id} takes {key:?} between {} and {}", job.next, progress.next));
            }
            if !job.taken.insert(key.clone()) {
                return Err(format!("job {id} takes {key:?} twice"));
            }
            job.deliveries += 1;
        }
        let goes_on = std::mem::take(&mut job.interrupted);
        job.next = progress.next;
        if job.deliveries != progress.deliveries {
            return Err(format!(
                "job {id} has made {} deliveries due and says {}",
                job.deliveries, progress.deliveries
            ));
        }
        let made = |key: &Key| job.taken.contains(&(key.0, job.to.clone().unwrap_or_else(|| key.1.clone())));
        if let Some(key) = job.owed.iter().find(|key| key.0 < job.next && !made(key)) {
            return Err(format!("job {id} leaves {key:?} out"));
        }
        job.owed.retain(|key| key.0 >= progress.next);
        if goes_on {
            self.reach("step after a crash");
        }
        Ok(())
    }

    /// A job ends.
    pub fn ends(&mut self, id: Seq, end: JobEnd, why: Option<&str>) -> Result<(), String> {
        let Some(job) = self.jobs.all.get_mut(&id) else { return Err(format!("job {id} ends and never began")) };
        if job.end.is_some() {
            return Ok(());
        }
        job.end = Some(end);
        let (is_begun, left) = (job.next > 0, job.owed.first().cloned());
        self.reach(match end {
            JobEnd::Cancelled if is_begun => "job cancelled between steps",
            _ => "job ended",
        });
        match (end, left) {
            (JobEnd::Failed, _) => Err(format!("job {id} has failed: {why:?}")),
            (JobEnd::Done, Some(key)) => Err(format!("job {id} is done and has left {key:?} out")),
            _ => Ok(()),
        }
    }

    /// A job that has not come to its end, in words.
    pub fn unfinished_job(&self) -> Option<String> {
        self.jobs.all.iter().find(|(_, job)| job.end.is_none()).map(|(id, _)| format!("job {id} does not end"))
    }

    /// The state knows the same.
    pub fn same_jobs(&self, known: &Known) -> Result<(), String> {
        let ours: Vec<_> = self.jobs.all.iter().map(|(id, job)| (*id, job.next, job.deliveries, job.end)).collect();
        let end = |job: &stagepost::state::Job| job.ended.as_ref().map(|(_, end, _)| *end);
        let theirs: Vec<_> =
            known.iter().map(|job| (job.id, job.progress.next, job.progress.deliveries, end(job))).collect();
        if ours == theirs { Ok(()) } else { Err(format!("jobs are {ours:?}, but the state says {theirs:?}")) }
    }
}
