//! Where jobs run: the program's own runner, and what it asks of the process that it runs in.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use stagepost::{
    admin::{DeliveryView, EventView, HiddenNames, PlannedFor, Predicate, QueueCount, Reads, RouteFilter},
    app::jobs::{Ground, Runner},
    clock::Timestamp,
    event::{DeliveryState, Event, Seq},
    log::Kind,
    log::{
        Log,
        entry::{Action, Command, Target, encode_command},
    },
    quarantine::Quarantine,
    state::{Job, deliveries},
    telemetry::Metrics,
};

use crate::{pieces::Sabotage, world::World};

/// First attempts may wait so long before jobs pause.
pub const LAG: Duration = Duration::from_secs(30);

/// A runner that knows of nothing, as a process begins.
pub fn runner() -> Runner {
    Runner::new(LAG)
}

impl World {
    /// The thread of the jobs makes a round.
    pub fn work_on_jobs(&mut self) -> Result<(), String> {
        let mut jobs = std::mem::replace(&mut self.jobs, runner());
        let metrics = std::mem::take(&mut self.metrics);
        jobs.round(&Office { world: Mutex::new(self), metrics: &metrics });
        (self.jobs, self.metrics) = (jobs, metrics);
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        if self.doomed { self.crash() } else { Ok(()) }
    }

    /// A command of a job, and what comes of it: durable and applied, or not, or nobody knows.
    fn give(&mut self, mut command: Command) -> Result<(), String> {
        if self.doomed {
            return Err("the process is dead".to_owned());
        }
        if let Action::ReplayStep(step) = &mut command.action {
            if self.sabotage == Sabotage::LeaveOut {
                step.targets.pop();
            }
            let (wall, steady) = (self.clock.now(), self.now());
            self.wrong = self.checker.may_step(step, wall, steady).err();
        }
        self.note(&format!("{:?}", command.action));
        let luck = if self.draining { u64::MAX } else { self.up_to(24) };
        if luck == 0 {
            return Err("the log is busy".to_owned());
        }
        self.append(Kind::Command, encode_command(&command, self.now()));
        if luck == 1 {
            self.doomed = true;
            return Err("the process dies".to_owned());
        }
        let committed = self.commit();
        if luck == 2 {
            self.doomed = true;
        }
        let through = committed.and_then(|()| {
            let end = self.log.end();
            // Too many questions wait: whoever gave the command hears nothing of its effect.
            while !(2..5).contains(&luck) && self.core.state().next < end {
                self.step()?;
            }
            Ok(())
        });
        self.wrong = self.wrong.take().or(through.err());
        if (2..5).contains(&luck) {
            Err("the command is stored, but its effect is not known".to_owned())
        } else {
            Ok(())
        }
    }
}

struct Office<'a> {
    world: Mutex<&'a mut World>,
    metrics: &'a Metrics,
}

impl<'a> Office<'a> {
    fn world(&self) -> MutexGuard<'_, &'a mut World> {
        self.world.lock().unwrap()
    }

    /// The agenda has too many questions now and then.
    fn is_busy(&self) -> Result<(), String> {
        let world = self.world();
        if world.draining || world.up_to(50) > 0 { Ok(()) } else { Err("the agenda is busy".to_owned()) }
    }
}

impl Ground for Office<'_> {
    fn reads(&self) -> &dyn Reads {
        self
    }

    fn known_jobs(&self) -> Result<Vec<Job>, String> {
        self.is_busy()?;
        Ok(self.world().core.state().jobs().iter().cloned().collect())
    }

    fn elapsed(&self) -> Duration {
        self.world().clock.elapsed()
    }

    fn standing_still(&self, upstreams: &[Box<str>]) -> Option<String> {
        let world = self.world();
        let state = world.core.state();
        let is_held = |name: &str| state.upstream(state.id(name)?)?.hold.as_ref();
        let is_open = |name: &str| world.breakers.contains(name);
        upstreams
            .iter()
            .find(|name| is_held(name).is_some() || is_open(name))
            .map(|name| format!("{name} stands still"))
    }

    fn live_since(&self, upstream: &str) -> Result<Option<Timestamp>, String> {
        self.is_busy()?;
        let world = self.world();
        let state = world.core.state();
        let upstream = state.id(upstream).and_then(|id| state.upstream(id));
        let since = upstream.and_then(|upstream| state.oldest_waiting(upstream));
        Ok(since.filter(|_| world.sabotage != Sabotage::OverlookLag))
    }

    fn give(&self, command: Command) -> Result<(), String> {
        self.world().give(command)
    }

    fn waits(&self, job: Seq, why: Option<String>) {
        let mut world = self.world();
        world.note(&format!("job {job} waits: {why:?}"));
        for (words, what) in [
            ("live events wait", "job waits for live events"),
            ("stands still", "job waits for an upstream"),
            ("of the last step", "job waits for attempts"),
        ] {
            if why.as_ref().is_some_and(|why| why.contains(words)) {
                world.checker.reach(what);
            }
        }
    }

    fn counters(&self) -> &Metrics {
        self.metrics
    }
}

/// What a job never asks for here.
fn unasked<T>() -> Result<T, String> {
    Err("nobody knows".to_owned())
}

impl Reads for Office<'_> {
    fn log(&self) -> Arc<dyn Log> {
        self.world().log.clone()
    }

    fn now(&self) -> Timestamp {
        self.world().clock.now()
    }

    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String> {
        self.is_busy()?;
        let world = self.world();
        let one = |asked: &PlannedFor| {
            let view = world.core.view(asked.event).map_err(|why| why.to_string())?;
            let deliveries = deliveries(&asked.upstreams, &view).into_iter().map(|delivery| DeliveryView {
                upstream: (&*delivery.upstream).into(),
                status: delivery.status,
                attempts: delivery.attempts,
                last: delivery.last,
                due: delivery.due,
                in_flight: delivery.in_flight,
                waits_for: None,
            });
            let deliveries = deliveries.collect();
            Ok(EventView {
                deliveries,
                deleted: view.deleted,
                planned: view.planned,
                duplicates: view.duplicates,
                body_differs: view.body_differs,
            })
        };
        events.iter().map(one).collect()
    }

    fn records(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Target>, String> {
        let listed = self.world().core.state().list(state, upstream, after, limit).into_iter();
        Ok(listed.map(|one| Target { event: one.event, upstream: (&*one.upstream).into() }).collect())
    }

    fn queue(&self, _: &[DeliveryState], _: &[Timestamp]) -> Result<QueueCount, String> {
        unasked()
    }

    fn stored_at(&self, _: Seq) -> Result<Option<Seq>, String> {
        Ok(None)
    }

    fn carried(&self, _: Seq, _: usize) -> Result<Vec<(Seq, Seq)>, String> {
        Ok(Vec::new())
    }

    fn filter(&self, _: &str) -> Result<Predicate, String> {
        unasked()
    }

    fn route(&self, _: &str) -> Option<RouteFilter> {
        None
    }

    fn decoded(&self, _: &Event, body: Bytes) -> Bytes {
        body
    }

    fn hidden_names(&self) -> HiddenNames {
        HiddenNames::default()
    }

    fn masked_beginning(&self, body: Bytes) -> Option<Bytes> {
        Some(body)
    }

    fn masked(&self, _: &Event, _: Bytes) -> Result<Bytes, String> {
        unasked()
    }

    fn quarantine(&self) -> Arc<Quarantine> {
        unreachable!("a job does not look at refused requests")
    }

    fn audited(&self, _: Option<Seq>, _: usize) -> Result<Vec<(Seq, Seq)>, String> {
        unasked()
    }

    fn config_hash(&self, _: u64) -> Option<String> {
        None
    }

    fn routed(&self, _: &Event, _: &[u8]) -> Result<Vec<Box<str>>, String> {
        unasked()
    }
}
