//! The engine: it answers by script, late, or never, and time passes meanwhile.

use std::time::Duration;

use crate::{
    checker::Key,
    pieces::{Fate, Sabotage, Working},
    table::{SUBSCRIBERS, everybody},
    world::World,
};
use bytes::Bytes;
use stagepost::{
    event::{Attempt, Change, Diversion, Job, Outcome, Reason, Sent, Turn},
    log::{
        Kind,
        entry::{self, Attempted},
    },
};

impl World {
    pub fn dispatch(&mut self, job: Job) -> Result<(), String> {
        let (seq, upstream) = (job.event.id.pos.seq, job.upstream.to_string());
        self.note(&format!("dispatch {seq} {upstream} {}", job.number));
        let live = self.table.upstreams.contains_key(&*upstream);
        let window = self.windows.get(&upstream).copied().unwrap_or(16);
        let now = self.now();
        let about = (now.as_millis(), &*self.table, self.plain);
        self.checker.dispatched(&job, window, live, about)?;
        self.starving.dispatched(&job)?;
        if self.sabotage == Sabotage::DispatchTwice && self.up_to(50) == 0 {
            self.checker.dispatched(&job, window, live, about)?;
        }
        let soon = now.after(Duration::from_millis(self.up_to(3_000)));
        let retry = now.after(Duration::from_millis(1_000 + self.up_to(60_000)));
        let fails = self.failing.iter().any(|failing| **failing == *upstream);
        let (at, fate) = match if self.draining { 0 } else { self.up_to(20) } {
            _ if fails => {
                let again = now.after(Duration::from_millis(1_000 + self.up_to(10_000)));
                (soon, Fate::Settle(Change::Retry(again), true))
            }
            // Only to where the event does not go anyway.
            0 if upstream == "a" && &*job.event.source == "one" && !self.draining => {
                let reason = Reason::new("diverted");
                let diversion = Diversion { to: "b".into(), due: retry, reason };
                (soon, Fate::Settle(Change::Divert(Box::new(diversion)), true))
            }
            0..9 => (soon, Fate::Settle(Change::Delivered, true)),
            9..12 => (soon, Fate::Settle(Change::Retry(retry), true)),
            12..14 => (soon, Fate::Settle(Change::Die(Reason::new("refused")), true)),
            14 => (soon, Fate::Settle(Change::Postpone(retry), false)),
            15 => (soon, Fate::Settle(Change::Ignore, false)),
            16..18 => (soon, Fate::Return),
            // It hangs until its time is up.
            18 => (now.after(Duration::from_secs(30)), Fate::Settle(Change::Retry(retry), true)),
            // Its settlement is lost: the lease ends by itself.
            _ => {
                self.checker.in_flight.remove(&(seq, upstream));
                return Ok(());
            }
        };
        self.working.push(Working { job, at, fate });
        Ok(())
    }

    pub fn pass_time(&mut self) -> Result<(), String> {
        let by = match self.up_to(30) {
            0 => 1_000 * self.up_to(1_200),
            _ => self.up_to(3_000),
        };
        self.advance(Duration::from_millis(by))
    }

    /// Time passes, and the engine does what is due by then.
    pub fn advance(&mut self, by: Duration) -> Result<(), String> {
        self.hand.advance(by);
        let now = self.now();
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.working).into_iter().partition(|working| working.at <= now);
        self.working = later;
        due.sort_by_key(|working| working.at);
        for Working { job, fate, .. } in due {
            let key: Key = (job.event.id.pos.seq, job.upstream.to_string());
            self.checker.in_flight.remove(&key);
            match fate {
                Fate::Return => {
                    self.starving.returned(&key);
                    if self.sabotage != Sabotage::ForgetReturned {
                        self.core.returned(key.0, &key.1, now).map_err(|why| why.to_string())?;
                    }
                }
                Fate::Settle(change, attempted) => self.settle(&job, key, change, attempted),
            }
        }
        Ok(())
    }

    pub fn settle(&mut self, job: &Job, key: Key, change: Change, attempted: bool) {
        if change == Change::Delivered && self.sabotage != Sabotage::SettleWithoutSending {
            *self.checker.arrived.entry(key.clone()).or_default() += 1;
        }
        self.note(&format!("settle {key:?} {change:?}"));
        if matches!(change, Change::Ignore) {
            self.ignored.insert(key.clone());
        }
        let attempt = attempted.then(|| Attempt {
            number: job.number,
            at: self.clock.now(),
            outcome: if change == Change::Delivered { Outcome::Delivered } else { Outcome::Deferred },
            status: Some(200),
            error: None,
            latency_ms: 1,
            excerpt: Bytes::new(),
            sent: Sent { url: "http://127.0.0.1:1/".into(), sha256: None, signed: None },
        });
        let (event, upstream) = (key.0, key.1.as_str().into());
        let (previous, replays) = (job.previous, Some(job.replays));
        let mut turn = job.turn.as_deref().cloned();
        if self.sabotage == Sabotage::ForgetVersions {
            turn = turn.map(|turn| Turn { key: !turn.key, ..turn });
        }
        let payload = entry::encode_attempted(&Attempted { event, upstream, attempt, change, previous, replays, turn });
        self.append(Kind::Attempted, payload);
    }

    /// The engine wants more or less at once; 0 while its breaker is open.
    pub fn set_window(&mut self) {
        let upstream = everybody().nth(self.up_to(5) as usize).unwrap();
        let window = [0, 1, 4, 16, 64][self.up_to(5) as usize];
        let now = self.now();
        let told = if self.sabotage == Sabotage::CloseWindow { 0 } else { window };
        self.core.window(upstream, told);
        self.core.paused(upstream, window == 0, now);
        self.breakers.remove(upstream);
        self.breakers.extend((window == 0).then_some(upstream));
        // What is under way beyond a window that shrank is finished.
        let under_way = self.checker.in_flight.iter().filter(|(_, name)| name == upstream).count();
        self.windows.insert(upstream.into(), window.max(under_way));
        self.told.insert(upstream.into(), window);
    }

    /// The endpoint of a subscriber breaks or is mended.
    pub fn fail_or_not(&mut self) {
        let name = SUBSCRIBERS[self.up_to(2) as usize];
        if !self.failing.remove(name) {
            self.failing.insert(name);
        }
    }
}
