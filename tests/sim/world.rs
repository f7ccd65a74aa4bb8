//! The world of one history: log, agenda, engine, clock and operators, all driven by one seed on one thread.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    checker::{Checker, Is, Key},
    office::runner,
    pieces::{Sabotage, Sending, Working, accepted, feed, target, told},
    starving::Starving,
    table::{Mode, PLAIN, SOURCES, UPSTREAMS, everybody, table},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use stagepost::{
    agenda::{
        Bounds, Feed,
        core::{Core, Question, ReadOrder},
    },
    app::jobs::Runner,
    clock::{Clock, ManualClock, Timestamp},
    event::Seq,
    expr::{self, Evaluator},
    jitter::Jitter,
    log::{
        Append, Appended, Class, DedupeKey, Done, Kind, Log, NewEntry,
        entry::{Action, Command, Target, encode_command},
        memory::MemoryLog,
    },
    routing::Table,
    state::State,
    telemetry::Metrics,
};

pub const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// How long a key counts.
const DEDUPE: Duration = Duration::from_secs(3_600);

/// Everything must have its end within so many rounds of letting time pass.
const DRAIN_ROUNDS: usize = 3_000;

pub struct World {
    pub random: Jitter,
    pub sabotage: Sabotage,
    pub clock: Clock,
    pub hand: Arc<ManualClock>,
    pub log: Arc<MemoryLog>,
    pub feed: Arc<Feed>,
    pub core: Core,
    pub evaluator: Evaluator,
    pub table: Arc<Table>,
    /// What routes ask for; a third of the histories ask for nothing from beginning to end.
    pub mode: Mode,
    pub plain: bool,
    pub bounds: Bounds,
    pub live: Vec<&'static str>,
    pub generation: u64,
    pub gap: Option<Seq>,
    pub checkpoints: Vec<State>,
    pub sending: Vec<Sending>,
    pub offered: VecDeque<NewEntry>,
    pub orders: Vec<ReadOrder>,
    pub questions: Vec<Question>,
    pub working: Vec<Working>,
    pub windows: BTreeMap<String, usize>,
    /// What the agenda was told last; 0 where it may think otherwise since.
    pub told: BTreeMap<String, usize>,
    pub keys: BTreeMap<u64, (Seq, Timestamp)>,
    pub ignored: BTreeSet<Key>,
    pub next_key: u64,
    pub uncommitted: bool,
    pub draining: bool,
    /// Upstreams whose breakers are open.
    pub breakers: BTreeSet<&'static str>,
    /// Subscribers whose endpoints take nothing now.
    pub failing: BTreeSet<&'static str>,
    pub jobs: Runner,
    pub metrics: Metrics,
    /// The process dies as soon as the commands of this moment are through.
    pub doomed: bool,
    /// What was wrong where nobody could be told.
    pub wrong: Option<String>,
    pub checker: Checker,
    pub starving: Starving,
    pub trace: Sha256,
    /// The history is printed as it happens.
    pub spoken: bool,
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> Self {
        let (clock, hand) = Clock::manual(START);
        let evaluator = Evaluator::start(expr::Settings::standard());
        let plain = seed.is_multiple_of(3);
        let mode = if plain { Mode::Plain } else { Mode::Ordered };
        // Now and then there is hardly room for keys.
        let bounds = Bounds { ordered_each: [500_000, 12][(seed % 2) as usize], ..Bounds::standard() };
        let (log, table) = (MemoryLog::stepped(), table(&UPSTREAMS, 1, mode));
        let feed = feed();
        log.follow(feed.clone());
        let state = State::new(log.log_id());
        let core = Core::new(state, told(sabotage, &table), evaluator.clone(), bounds, START).unwrap();
        Self {
            random: Jitter::seeded(seed),
            sabotage,
            clock,
            hand,
            log,
            feed,
            core,
            evaluator,
            table,
            mode,
            plain,
            bounds,
            live: UPSTREAMS.to_vec(),
            generation: 1,
            gap: None,
            checkpoints: Vec::new(),
            sending: Vec::new(),
            offered: VecDeque::new(),
            orders: Vec::new(),
            questions: Vec::new(),
            working: Vec::new(),
            windows: BTreeMap::new(),
            told: BTreeMap::new(),
            keys: BTreeMap::new(),
            ignored: BTreeSet::new(),
            next_key: 0,
            uncommitted: false,
            draining: false,
            breakers: BTreeSet::new(),
            failing: BTreeSet::new(),
            jobs: runner(),
            metrics: Metrics::default(),
            doomed: false,
            wrong: None,
            checker: Checker::default(),
            starving: Starving::default(),
            trace: Sha256::new(),
            spoken: std::env::var_os("STAGEPOST_SIM_TRACE").is_some(),
        }
    }

    /// The hash of all that happened.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    pub fn note(&mut self, what: &str) {
        self.tell(|| format!("{} {what}", self.now().as_millis() - START.as_millis()));
        self.trace.update(what.as_bytes());
        self.trace.update(b"\n");
    }

    /// Prints, if somebody wants to read this history.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.spoken {
            eprintln!("{}", what());
        }
    }

    pub fn up_to(&self, most: u64) -> u64 {
        self.random.next_u64() % most
    }

    pub fn now(&self) -> Timestamp {
        self.clock.steady()
    }

    /// One thing happens.
    pub fn turn(&mut self) -> Result<(), String> {
        match self.up_to(110) {
            0..25 => self.send(),
            25..40 => self.commit()?,
            40..65 => self.step()?,
            65..75 => self.read_some(),
            75..78 => self.answer_some(),
            78..86 => self.pass_time()?,
            86..92 => self.operate(),
            92..93 => self.crash()?,
            93..95 => self.reload()?,
            95..97 => self.set_window(),
            97..98 => self.checkpoints.push(self.core.state().clone()),
            98..99 => self.step_clock(),
            99..103 => self.work_on_jobs()?,
            103..105 => self.fail_or_not(),
            105..109 => self.operate(),
            _ => self.compare()?,
        }
        Ok(())
    }

    /// Lets everything that is under way come to its end and asks the checker.
    pub fn drain(&mut self) -> Result<(), String> {
        self.draining = true;
        self.live = UPSTREAMS.to_vec();
        self.swap_table();
        self.failing.clear();
        self.breakers.clear();
        for upstream in everybody() {
            self.core.window(upstream, 64);
            self.core.paused(upstream, false, self.now());
            self.windows.insert(upstream.into(), 64);
            self.told.insert(upstream.into(), 64);
            self.command(Action::ReleaseUpstream { upstream: upstream.into() });
        }
        for _ in 0..DRAIN_ROUNDS {
            for _ in 0..4 {
                self.commit()?;
                self.step()?;
                while !self.orders.is_empty() {
                    self.read_some();
                }
                while !self.questions.is_empty() {
                    self.answer_some();
                }
                self.work_on_jobs()?;
            }
            let held = self.checker.deliveries.iter().filter(|(_, known)| known.is == Is::Held);
            let held: Vec<Target> = held.map(|((event, upstream), _)| target(*event, upstream)).collect();
            if !held.is_empty() {
                self.command(Action::Release { targets: held });
            }
            // Keys that the dead park are let go.
            let dead = self.checker.deliveries.iter().filter(|(_, known)| known.is == Is::Dead && !known.let_go);
            let dead: Vec<Target> = dead.map(|((event, upstream), _)| target(*event, upstream)).collect();
            if !dead.is_empty() {
                self.command(Action::LetGo { targets: dead });
            }
            let quiet = self.working.is_empty() && self.sending.is_empty() && self.offered.is_empty();
            if quiet && self.checker.unfinished().is_none() {
                self.compare()?;
                return self.checker.ended(&self.ignored);
            }
            self.advance(Duration::from_secs(60))?;
        }
        let unfinished = self.checker.unfinished().unwrap_or_default();
        Err(format!("after {DRAIN_ROUNDS} rounds something is forgotten: {unfinished}"))
    }

    /// A few senders at once; some send again what was acknowledged.
    pub fn send(&mut self) {
        for _ in 0..1 + self.up_to(6) {
            let (now, again) = (self.clock.now(), self.up_to(8) == 0);
            let known = self.keys.keys().nth(self.up_to(self.keys.len().max(1) as u64) as usize).copied();
            let key = known.filter(|_| again).unwrap_or_else(|| {
                self.next_key += 1;
                self.next_key
            });
            let k = if self.up_to(10) == 0 { String::new() } else { format!("\"k\":{},", self.up_to(3)) };
            let (n, v) = (self.up_to(5), self.up_to(30));
            let body = format!("{{\"key\":{key},{k}\"n\":{n},\"v\":{v}}}").into_bytes();
            let sources = if self.plain { PLAIN } else { SOURCES.len() };
            let source = SOURCES[(key % sources as u64) as usize];
            let dedupe = DedupeKey {
                fingerprint: self.log.fingerprint(source, &key.to_be_bytes()),
                expires_at: now.after(DEDUPE),
                body: body.len() as u64,
                runs_version: 0,
            };
            let (done, answer) = Done::channel();
            let entry = NewEntry { kind: Kind::Accepted, payload: accepted(source, &body, now) };
            let append =
                Append { parts: Vec::new(), entry, dedupe: Some(dedupe), class: Class::Event, time: now, done };
            self.log.append(append);
            self.sending.push(Sending { answer, body, key, at: now });
        }
    }

    pub fn commit(&mut self) -> Result<(), String> {
        self.log.commit();
        self.uncommitted = false;
        for mut sending in std::mem::take(&mut self.sending) {
            match sending.answer.try_recv() {
                Ok(Ok(Appended::Appended(id))) => {
                    let until = sending.at.after(DEDUPE);
                    if let Some((first, until)) = self.keys.insert(sending.key, (id.pos.seq, until))
                        && until > sending.at
                    {
                        return Err(format!("event {} repeats event {first}", id.pos.seq));
                    }
                    self.note(&format!("accepted {}", id.pos.seq));
                    self.checker.acknowledged.insert(id.pos.seq, sending.body);
                }
                Ok(Ok(Appended::Duplicate { first, .. })) => {
                    if !self.checker.acknowledged.contains_key(&first.pos.seq) {
                        return Err(format!("a resend was answered with {first}, which was never acknowledged"));
                    }
                    let now = self.now();
                    self.core.resent(first.pos.seq, 1, 0, now);
                }
                Ok(Err(why)) => return Err(format!("an append was refused: {why}")),
                Err(_) => self.sending.push(sending),
            }
        }
        Ok(())
    }

    pub fn append(&mut self, kind: Kind, payload: Bytes) {
        self.uncommitted = true;
        let (parts, class, time) = (Vec::new(), Class::Upkeep, self.clock.now());
        let entry = NewEntry { kind, payload };
        self.log.append(Append { parts, entry, dedupe: None, class, time, done: Done::nobody() });
    }

    pub fn command(&mut self, action: Action) {
        self.note(&format!("{action:?}"));
        self.append(Kind::Command, encode_command(&Command::new("operator", action), self.now()));
    }
}
