//! Owns the tests of making the steps of jobs; what a step takes has its own, and the simulation runs all of it.

use super::*;
use crate::{
    admin::fake::{Fake, Reason, Status, delivery},
    event::EventId,
    state::testing::empty_job,
};

/// An instance by hand.
#[derive(Default)]
struct Site {
    fake: Fake,
    job: Mutex<Option<Job>>,
    given: Mutex<Vec<Action>>,
    metrics: Metrics,
    held: Mutex<bool>,
    /// So many commands are stored, and who gave them does not hear of it.
    unheard: Mutex<usize>,
    /// The state can't be read from the moment at which it is known that nothing is in the way.
    breaks: bool,
}

impl Site {
    /// Dead deliveries to `billing`, and a job that is to replay them.
    fn new(dead: usize) -> (Self, Vec<EventId>) {
        let site = Self::default();
        let ids: Vec<EventId> = (0..dead).map(|_| site.fake.accept("stripe", b"{}")).collect();
        for id in &ids {
            site.fake.plan(&[(*id, &["billing"])]);
            site.fake.set(*id, delivery("billing", Status::Dead(Reason::new("refused"))));
        }
        let mut job = empty_job();
        (job.spec.before, job.progress.next) = (site.fake.log().end(), 0);
        *site.job.lock().unwrap() = Some(job);
        (site, ids)
    }

    fn taken(&self) -> Vec<Vec<Seq>> {
        let steps = std::mem::take(&mut *self.given.lock().unwrap()).into_iter();
        steps
            .filter_map(|action| match action {
                Action::ReplayStep(step) => Some(all_of(&step).map(|target| target.event).collect()),
                _ => None,
            })
            .collect()
    }

    fn ended(&self) -> Option<JobEnd> {
        self.job.lock().unwrap().as_ref()?.ended.as_ref().map(|(_, end, _)| *end)
    }
}

impl Ground for Site {
    fn reads(&self) -> &dyn Reads {
        &self.fake
    }
    fn known_jobs(&self) -> Result<Vec<Job>, String> {
        Ok(self.job.lock().unwrap().iter().cloned().collect())
    }
    fn elapsed(&self) -> Duration {
        Duration::from_secs(9)
    }
    fn standing_still(&self, _: &[Box<str>]) -> Option<String> {
        self.fake.rebuilding.store(self.breaks, std::sync::atomic::Ordering::SeqCst);
        self.held.lock().unwrap().then(|| "billing is held".to_owned())
    }
    fn live_since(&self, _: &str) -> Result<Option<Timestamp>, String> {
        Ok(None)
    }
    fn give(&self, command: Command) -> Result<(), String> {
        self.given.lock().unwrap().push(command.action.clone());
        let mut unheard = self.unheard.lock().unwrap();
        if *unheard > 0 {
            *unheard -= 1;
            return Err("its effect is not known".to_owned());
        }
        let mut job = self.job.lock().unwrap();
        let job = job.as_mut().unwrap();
        match command.action {
            Action::ReplayStep(step) if step.from == Some(job.progress.next) => job.progress = step.job.unwrap().1,
            Action::EndJob { end, why, .. } => job.ended = Some((Timestamp::ZERO, end, why)),
            _ => {}
        }
        Ok(())
    }
    fn waits(&self, _: Seq, _: Option<String>) {}
    fn counters(&self) -> &Metrics {
        &self.metrics
    }
}

#[test]
fn what_a_step_takes_is_what_is_meant_when_it_is_made_and_not_when_it_began_to_wait() {
    let (site, ids) = Site::new(2);
    let mut runner = Runner::new(Duration::from_secs(30));
    *site.held.lock().unwrap() = true;
    runner.round(&site);
    assert!(site.taken().is_empty());
    // Somebody else has replayed it meanwhile, and it was delivered.
    site.fake.set(ids[0], delivery("billing", Status::Delivered));
    runner.round(&site);
    *site.held.lock().unwrap() = false;
    runner.round(&site);
    assert_eq!(site.taken(), [[ids[1].pos.seq]]);
    assert_eq!(site.ended(), Some(JobEnd::Done));
}

#[test]
fn a_step_whose_effect_is_not_known_is_looked_up_again_and_ends_no_job() {
    let (site, ids) = Site::new(2);
    let mut runner = Runner::new(Duration::from_secs(30));
    *site.unheard.lock().unwrap() = 1;
    runner.round(&site);
    assert_eq!(site.ended(), None);
    // It takes effect a moment later: the step that is given now is void.
    runner.round(&site);
    let both: Vec<Seq> = ids.iter().map(|id| id.pos.seq).collect();
    assert_eq!(site.taken(), [both.clone(), both]);
    assert_eq!((site.ended(), site.metrics.job_deliveries.get()), (Some(JobEnd::Done), 2));
}

#[test]
fn a_state_that_can_not_be_read_now_fails_no_job() {
    let (mut site, _) = Site::new(1);
    site.breaks = true;
    let mut runner = Runner::new(Duration::from_secs(30));
    runner.round(&site);
    assert_eq!((site.taken().len(), site.ended()), (0, None));
}
