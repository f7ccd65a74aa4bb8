//! What befalls the process: it dies and starts again, gets another configuration, and its clock steps.

use std::{sync::Arc, time::Duration};

use crate::{
    office::runner,
    pieces::{Sabotage, feed, told},
    table::{Mode, UPSTREAMS, everybody, table, with_subscribers},
    world::World,
};
use stagepost::{
    agenda::core::Core,
    log::Log,
    routing::Table,
    state::{State, Subscribed, replay},
};

impl World {
    /// The process dies and starts again: from nothing or from a checkpoint of any age.
    pub fn crash(&mut self) -> Result<(), String> {
        self.note("crash");
        // What was committed and never reached the agenda is in the log.
        let mut next = self.core.state().next;
        loop {
            let entries = self.log.scan(next, 1 << 20).unwrap();
            let Some(last) = entries.last() else { break };
            next = last.pos.seq + 1;
            for entry in &entries {
                self.checker.applied(entry)?;
                self.starving.applied(entry, &self.checker);
            }
        }
        self.log = self.log.after_crash();
        self.feed = feed();
        self.log.follow(self.feed.clone());
        let ages = self.checkpoints.len() as u64 + 1;
        let mut state = match self.checkpoints.get(self.up_to(ages) as usize) {
            Some(checkpoint) => checkpoint.clone(),
            None => State::new(self.log.log_id()),
        };
        if self.sabotage == Sabotage::ForgetAtRestart {
            state.next = self.log.end();
        }
        replay(&mut state, &*self.log, &mut |_| {}).map_err(|why| why.to_string())?;
        let now = self.now();
        self.table = self.composed(&state.subscribed());
        let core = Core::new(state, told(self.sabotage, &self.table), self.evaluator.clone(), self.bounds, now);
        self.core = core.map_err(|why| why.to_string())?;
        (self.jobs, self.doomed) = (runner(), false);
        self.gap = None;
        self.sending.clear();
        self.offered.clear();
        self.orders.clear();
        self.questions.clear();
        self.working.clear();
        self.windows.clear();
        self.breakers.clear();
        self.told.clear();
        self.checker.crashed();
        self.starving.crashed();
        self.compare()
    }

    /// Another configuration: an upstream goes or comes back.
    pub fn reload(&mut self) -> Result<(), String> {
        if !self.plain {
            self.mode = match self.up_to(8) {
                0 => Mode::Plain,
                1 => Mode::Otherwise,
                2 => Mode::Priorities,
                _ => Mode::Ordered,
            };
        }
        let upstream = UPSTREAMS[self.up_to(3) as usize];
        match self.live.iter().position(|live| *live == upstream) {
            Some(index) => drop(self.live.remove(index)),
            None => self.live.push(upstream),
        }
        self.swap_table();
        self.step()
    }

    pub fn swap_table(&mut self) {
        self.generation += 1;
        let known = self.core.state().subscribed();
        self.subscribed(&known);
        self.note(&format!("reload {:?} {:?}", self.live, self.mode));
    }

    /// The table with the subscribers that the log knows, from now on.
    pub fn subscribed(&mut self, known: &Subscribed) {
        let table = self.composed(known);
        for upstream in everybody() {
            let is_live = table.upstreams.contains_key(upstream);
            if self.table.upstreams.contains_key(upstream) == is_live {
                continue;
            }
            // Until the engine says otherwise, the window is a standard one.
            let window = self.windows.entry(upstream.into()).or_insert(16);
            *window = if is_live { (*window).max(16) } else { *window };
            self.told.insert(upstream.into(), 0);
        }
        self.table = table;
    }

    fn composed(&self, known: &Subscribed) -> Arc<Table> {
        with_subscribers(&table(&self.live, self.generation, self.mode), known)
    }

    /// The wall clock steps, up to an hour back or ahead.
    pub fn step_clock(&mut self) {
        let to = self.clock.now().after(Duration::from_secs(self.up_to(3_600))).before(Duration::from_secs(1_800));
        self.hand.step_wall(to);
    }
}
