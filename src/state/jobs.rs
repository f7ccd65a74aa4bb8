//! Owns what the log says about jobs: what each is to do, how far it has come, how it ended.
//!
//! Promises at most [`ENDED_MAX`] ended ones; who begins one bounds those that run. Deliberately absent: making the steps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    event::Seq,
    log::entry::{JobEnd, JobProgress, JobSpec},
};

/// Ended jobs that are remembered.
pub const ENDED_MAX: usize = 100;

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The number of the entry that began it.
    pub id: Seq,
    /// Who began it.
    pub actor: String,
    /// When, wall time.
    pub started_at: Timestamp,
    /// What it is to do.
    pub spec: JobSpec,
    /// How far it has come.
    pub progress: JobProgress,
    /// When and how it ended, and why.
    pub ended: Option<(Timestamp, JobEnd, Option<String>)>,
    /// The last entry that says all of this.
    pub(super) stored_at: Seq,
}

/// All jobs that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs(BTreeMap<Seq, Job>);

impl Jobs {
    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.0.values()
    }

    pub(super) fn start(&mut self, job: Job) {
        match self.0.get_mut(&job.id) {
            Some(known) => known.stored_at = job.stored_at,
            None => drop(self.0.insert(job.id, job)),
        }
    }

    /// Whether a step that was looked up when everything before `from` was done comes too late: the job has ended, or this
    /// or another step was made since. Of a job whose beginning is not known nothing can be said.
    pub(super) fn is_void(&self, id: Seq, from: Option<Seq>) -> bool {
        let has_gone_on = |job: &Job| job.ended.is_some() || from.is_some_and(|from| from < job.progress.next);
        self.0.get(&id).is_some_and(has_gone_on)
    }

    /// A step of a job whose beginning is not known changes nothing here.
    pub(super) fn step(&mut self, id: Seq, progress: JobProgress) {
        if let Some(job) = self.0.get_mut(&id) {
            job.progress = progress;
        }
    }

    pub(super) fn end(&mut self, id: Seq, at: Timestamp, end: JobEnd, why: Option<String>) {
        let Some(job) = self.0.get_mut(&id).filter(|job| job.ended.is_none()) else { return };
        job.ended = Some((at, end, why));
        let ended: Vec<Seq> = self.iter().filter(|job| job.ended.is_some()).map(|job| job.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            self.0.remove(id);
        }
    }

    /// Those that run and whose entry goes.
    pub(super) fn to_carry(&self, before: Seq) -> impl Iterator<Item = &Job> {
        self.iter().filter(move |job| job.ended.is_none() && job.stored_at < before)
    }

    /// Ended ones whose entry has gone are forgotten, as a state that is rebuilt would not know them.
    pub(super) fn forget(&mut self, first: Seq) {
        self.0.retain(|_, job| job.ended.is_none() || job.stored_at >= first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: Seq) -> Job {
        let spec = JobSpec {
            filters: "{}".into(),
            to: None,
            new_key: false,
            original: false,
            interval_us: None,
            first: 1,
            before: id,
        };
        let (actor, started_at) = ("me".to_owned(), Timestamp::from_millis(id));
        Job { id, actor, started_at, spec, progress: JobProgress::default(), ended: None, stored_at: id }
    }

    #[test]
    fn ended_jobs_are_bounded_and_those_that_run_are_carried() {
        let mut jobs = Jobs::default();
        for id in 1..=ENDED_MAX as Seq + 2 {
            jobs.start(job(id));
            if id != 1 {
                jobs.end(id, Timestamp::ZERO, JobEnd::Done, None);
            }
        }
        let ids: Vec<Seq> = jobs.iter().map(|job| job.id).collect();
        assert_eq!((ids.len(), ids[0], ids[1]), (ENDED_MAX + 1, 1, 3));
        assert_eq!(jobs.to_carry(50).map(|job| job.id).collect::<Vec<_>>(), [1]);
        jobs.start(Job { stored_at: 60, ..job(1) });
        assert_eq!(jobs.to_carry(50).count(), 0);
        jobs.forget(90);
        assert!(jobs.iter().all(|job| job.id == 1 || job.id >= 90));
    }

    #[test]
    fn a_job_ends_once_and_a_carried_beginning_changes_nothing() {
        let mut jobs = Jobs::default();
        jobs.start(job(5));
        let progress = JobProgress { next: 7, deliveries: 3, ..JobProgress::default() };
        jobs.step(5, progress);
        jobs.start(Job { stored_at: 9, ..job(5) });
        jobs.end(5, Timestamp::ZERO, JobEnd::Cancelled, None);
        jobs.end(5, Timestamp::ZERO, JobEnd::Done, None);
        let one = jobs.iter().next().unwrap();
        assert_eq!((one.progress, one.stored_at), (progress, 9));
        assert!(matches!(one.ended, Some((_, JobEnd::Cancelled, None))));
    }
}
