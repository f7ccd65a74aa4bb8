//! The operators: a command now and then, about deliveries that exist, jobs and subscribers.

use std::time::Duration;

use crate::{
    pieces::target,
    table::{SOURCES, SUBSCRIBERS, TOPIC, everybody},
    world::World,
};
use stagepost::{
    event::Seq,
    log::{
        Log,
        entry::{Action, JobEnd, JobProgress, JobSpec, Registration, Target, Written},
    },
};

/// Jobs that are under way at once.
const JOBS_MAX: usize = 3;

impl World {
    /// An operator does something.
    pub fn operate(&mut self) {
        let upstream: Box<str> = everybody().nth(self.up_to(5) as usize).unwrap().into();
        let until = self.now().after(Duration::from_secs(self.up_to(60))).as_millis();
        let until_ms = (self.up_to(2) == 0).then_some(until);
        let action = match self.up_to(26) {
            0 => Some(Action::HoldUpstream { upstream, until_ms, reason: None }),
            1..3 => Some(Action::ReleaseUpstream { upstream }),
            3..5 => Some(Action::Hold { targets: self.some(), until_ms, reason: Some("for repairs".into()) }),
            5..8 => Some(Action::Release { targets: self.some() }),
            8..11 => Some(Action::Replay {
                targets: self.some(),
                new_key: self.up_to(2) == 0,
                interval_us: Some(1_000),
                created: false,
            }),
            11..13 => Some(Action::LetGo { targets: self.some() }),
            13 => {
                let nth = self.up_to(1 + self.checker.deliveries.len() as u64) as usize;
                self.checker.acknowledged.keys().nth(nth).map(|event| Action::Delete { events: vec![*event] })
            }
            14..16 => Some(Action::Expire { targets: self.some(), reason: Some("too old".into()) }),
            16..18 => Some(Action::Requeue { targets: self.some() }),
            18..20 => self.job(),
            20 => self.a_job().map(|job| Action::EndJob { job, end: JobEnd::Cancelled, why: None }),
            _ => Some(self.subscription()),
        };
        if let Some(action) = action {
            self.command(action);
        }
    }

    /// Some deliveries.
    fn some(&self) -> Vec<Target> {
        let from = self.up_to(self.checker.deliveries.len().max(1) as u64) as usize;
        let chosen = self.checker.deliveries.keys().skip(from).step_by(1 + self.up_to(3) as usize);
        chosen.take(1 + self.up_to(4) as usize).map(|(event, name)| target(*event, name)).collect()
    }

    /// The beginning of a job, unless enough are under way.
    fn job(&self) -> Option<Action> {
        if self.core.state().jobs().iter().filter(|job| job.ended.is_none()).count() >= JOBS_MAX {
            return None;
        }
        let source = (self.up_to(2) == 0).then(|| SOURCES[self.up_to(SOURCES.len() as u64) as usize]);
        let upstream = everybody().nth(self.up_to(10) as usize);
        let state = [None, Some("dead"), Some("delivered")][self.up_to(3) as usize];
        // Only to where the events do not go anyway.
        let to = (source == Some("one") && upstream.is_none() && self.up_to(2) == 0).then(|| "b".into());
        let spec = JobSpec {
            filters: serde_json::json!({ "source": source, "upstream": upstream, "state": state }).to_string(),
            to,
            new_key: self.up_to(2) == 0,
            original: self.up_to(2) == 0,
            interval_us: [None, Some(500_000), Some(2_000_000)][self.up_to(3) as usize],
            first: self.log.stats().first_seq,
            before: self.log.end(),
        };
        let started_ms = self.clock.now().as_millis();
        Some(Action::StartJob { id: None, spec, progress: JobProgress::default(), started_ms })
    }

    /// One of the jobs that there are, ended or not.
    fn a_job(&self) -> Option<Seq> {
        let jobs: Vec<Seq> = self.core.state().jobs().iter().map(|job| job.id).collect();
        jobs.get(self.up_to(jobs.len().max(1) as u64) as usize).copied()
    }

    /// Somebody subscribes, changes a secret, is removed or is let in again.
    fn subscription(&self) -> Action {
        let upstream = SUBSCRIBERS[self.up_to(2) as usize];
        let is_known = self.core.state().is_registered(upstream);
        match self.up_to(6) {
            0 if is_known => Action::RemoveSubscriber { upstream: upstream.into() },
            1..3 if is_known => Action::EnableSubscriber { upstream: upstream.into() },
            _ => {
                let registration = Registration {
                    topic: TOPIC.into(),
                    name: upstream.trim_start_matches("news/").into(),
                    url: "http://127.0.0.1:1/".into(),
                    types: Vec::new(),
                    when: None,
                    secrets: Vec::new(),
                    rate: None,
                    since_ms: self.clock.now().as_millis(),
                    by: "operator".into(),
                };
                let written = if is_known { Written::SecretRotated } else { Written::Added };
                Action::PutSubscriber { written, registration: Box::new(registration), streak: None }
            }
        }
    }
}
