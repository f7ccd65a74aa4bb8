//! The world of one history: log, agenda, engine, clock and operators, all driven by one seed on one thread.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stagepost::{
    agenda::{
        Bounds, Feed, Next,
        core::{Core, Hurry, Purpose, Question, Read, ReadOrder},
        plan::{Answer, NoAnswer},
        read_events,
    },
    clock::{Clock, ManualClock, Timestamp},
    event::{Attempt, Change, Job, Outcome, Reason, Sent, Seq, Turn},
    expr::{self, EvalError, Evaluator},
    jitter::Jitter,
    log::{
        Acked, Append, Appended, Class, DedupeKey, Done, Entry, Kind, Log, NewEntry,
        entry::{self, Action, Attempted, Command, Target},
        memory::MemoryLog,
    },
    routing::Table,
    state::{Key as StateKey, NEVER, State, UpstreamId, replay},
};
use tokio::sync::oneshot;

use crate::{
    checker::{Checker, Is, Key},
    pieces::{accepted, feed, target, told},
    table::{Mode, PLAIN, SOURCES, UPSTREAMS, table},
};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// How long a key counts.
const DEDUPE: Duration = Duration::from_secs(3_600);

/// Everything must have its end within so many rounds of letting time pass.
const DRAIN_ROUNDS: usize = 3_000;

/// What is broken on purpose, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// A restart takes the end of the log for applied without applying it.
    ForgetAtRestart,
    /// The engine claims a delivery that it never made.
    SettleWithoutSending,
    /// A job is handed to the engine twice.
    DispatchTwice,
    /// The agenda is not told that there is an order.
    ForgetOrder,
    /// Deliveries are stored without their versions.
    ForgetVersions,
}

/// A send whose answer is awaited.
struct Sending {
    answer: oneshot::Receiver<Acked>,
    body: Vec<u8>,
    key: u64,
    at: Timestamp,
}

/// What the engine does with a job, and when.
enum Fate {
    Settle(Change, bool),
    Return,
}

struct Working {
    job: Job,
    at: Timestamp,
    fate: Fate,
}

pub struct World {
    random: Jitter,
    sabotage: Sabotage,
    clock: Clock,
    hand: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    feed: Arc<Feed>,
    core: Core,
    evaluator: Evaluator,
    table: Arc<Table>,
    /// What routes ask for; a third of the histories ask for nothing from beginning to end.
    mode: Mode,
    plain: bool,
    bounds: Bounds,
    live: Vec<&'static str>,
    generation: u64,
    gap: Option<Seq>,
    checkpoints: Vec<State>,
    sending: Vec<Sending>,
    offered: VecDeque<NewEntry>,
    orders: Vec<ReadOrder>,
    questions: Vec<Question>,
    working: Vec<Working>,
    windows: BTreeMap<String, usize>,
    keys: BTreeMap<u64, (Seq, Timestamp)>,
    ignored: BTreeSet<Key>,
    next_key: u64,
    uncommitted: bool,
    draining: bool,
    checker: Checker,
    trace: Sha256,
    /// The history is printed as it happens.
    spoken: bool,
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
        let core = Core::new(state, told(sabotage == Sabotage::ForgetOrder, &table), evaluator.clone(), bounds, START)
            .unwrap();
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
            keys: BTreeMap::new(),
            ignored: BTreeSet::new(),
            next_key: 0,
            uncommitted: false,
            draining: false,
            checker: Checker::default(),
            trace: Sha256::new(),
            spoken: std::env::var_os("STAGEPOST_SIM_TRACE").is_some(),
        }
    }

    /// The hash of all that happened.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    fn note(&mut self, what: &str) {
        self.tell(|| format!("{} {what}", self.now().as_millis() - START.as_millis()));
        self.trace.update(what.as_bytes());
        self.trace.update(b"\n");
    }

    /// Prints, if somebody wants to read this history.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.spoken {
            eprintln!("{}", what());
        }
    }

    fn up_to(&self, most: u64) -> u64 {
        self.random.next_u64() % most
    }

    fn now(&self) -> Timestamp {
        self.clock.steady()
    }

    /// One thing happens.
    pub fn turn(&mut self) -> Result<(), String> {
        match self.up_to(100) {
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
            _ => self.compare()?,
        }
        Ok(())
    }

    /// Lets everything that is under way come to its end and asks the checker.
    pub fn drain(&mut self) -> Result<(), String> {
        self.draining = true;
        self.live = UPSTREAMS.to_vec();
        self.swap_table();
        for upstream in UPSTREAMS {
            self.core.window(upstream, 64);
            self.core.paused(upstream, false, self.now());
            self.windows.insert(upstream.into(), 64);
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
    fn send(&mut self) {
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

    fn commit(&mut self) -> Result<(), String> {
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

    /// One turn of the agenda's thread.
    fn step(&mut self) -> Result<(), String> {
        let entries = self.entries();
        let now = self.now();
        for entry in &entries {
            if entry.pos.seq >= self.core.state().next {
                self.tell(|| {
                    let attempted = entry::decode_attempted(&entry.payload);
                    format!("  applied {} {:?} {attempted:?}", entry.pos.seq, entry.kind)
                });
                self.checker.applied(entry)?;
            }
        }
        let told = told(self.sabotage == Sabotage::ForgetOrder, &self.table);
        let effects = self.core.step(&entries, now, &told).map_err(|why| why.to_string())?;
        for entry in effects.append {
            self.note(&format!("append {:?} {}", entry.kind, hex::encode(&entry.payload)));
            self.offered.push_back(entry);
        }
        self.offer_all();
        for job in effects.dispatch {
            self.dispatch(job)?;
        }
        self.orders.extend(effects.read);
        self.questions.extend(effects.ask);
        // An order that ends leaves what was behind it to a search; otherwise all due times fit into memory.
        if !effects.refill.is_empty() && self.plain {
            return Err("a search of stored records was ordered below the bound".into());
        }
        for id in effects.refill {
            self.refill(id)?;
        }
        // Leases are long: what was settled before they end has been heard of.
        if self.log.end() <= self.core.state().next && !self.uncommitted {
            self.core.end_old_leases(now).map_err(|why| why.to_string())?;
        }
        Ok(())
    }

    /// Searches the stored records of an upstream, as the upkeep does.
    fn refill(&mut self, id: UpstreamId) -> Result<(), String> {
        let mut found = Vec::new();
        for record in self.core.state().layers().scan(StateKey::new(0, 0)) {
            let (key, record) = record.map_err(|why| why.to_string())?;
            if key.upstream == id && matches!(record.state.as_str(), "pending" | "held") && record.due != NEVER {
                found.push((key, record));
            }
        }
        let now = self.now();
        self.core.refilled(id, &found, None, now);
        Ok(())
    }

    /// What was committed since, from the feed or from the log where the feed has a gap.
    fn entries(&mut self) -> Vec<Entry> {
        if self.gap.is_none() {
            match self.feed.take(1 + self.up_to(64) as usize) {
                Next::Nothing => return Vec::new(),
                Next::Entries(entries) => return entries,
                Next::Gap(until) => self.gap = Some(until),
            }
        }
        let next = self.core.state().next;
        if self.gap.is_some_and(|until| next >= until) {
            self.gap = None;
            return Vec::new();
        }
        self.log.scan(next, 2_000).unwrap()
    }

    /// As the agenda's thread does: in order, behind what found the log's queue full.
    fn offer_all(&mut self) {
        while let Some(entry) = self.offered.pop_front() {
            // The log's queue is full now and then.
            if !self.draining && self.up_to(20) == 0 {
                self.offered.push_front(entry);
                return;
            }
            self.append(entry.kind, entry.payload);
        }
    }

    fn dispatch(&mut self, job: Job) -> Result<(), String> {
        let (seq, upstream) = (job.event.id.pos.seq, job.upstream.to_string());
        self.note(&format!("dispatch {seq} {upstream} {}", job.number));
        let live = self.live.contains(&&*upstream);
        let window = self.windows.get(&upstream).copied().unwrap_or(16);
        let now = self.now();
        let about = (now.as_millis(), &*self.table, self.plain);
        self.checker.dispatched(&job, window, live, about)?;
        if self.sabotage == Sabotage::DispatchTwice && self.up_to(50) == 0 {
            self.checker.dispatched(&job, window, live, about)?;
        }
        let soon = now.after(Duration::from_millis(self.up_to(3_000)));
        let retry = now.after(Duration::from_millis(1_000 + self.up_to(60_000)));
        let (at, fate) = match if self.draining { 0 } else { self.up_to(20) } {
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

    /// Some of the reads that were ordered, in any order; some are put off.
    fn read_some(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let order = self.orders.remove(self.up_to(self.orders.len() as u64) as usize);
        let mut read = read_events(&*self.log, &order);
        // What does not fit is put off, from some event on; what is to be planned stays in order only if it is at once.
        if !self.draining && self.up_to(4) == 0 {
            let hurry = match order.purpose {
                Purpose::Plan => Hurry::AtOnce,
                _ if self.up_to(2) == 0 => Hurry::AtOnce,
                _ => Hurry::AfterAWhile,
            };
            let from = self.up_to(read.len() as u64 + 1) as usize;
            for (_, read) in read.iter_mut().skip(from) {
                *read = Read::Later(hurry);
            }
        }
        let now = self.now();
        self.core.loaded(order.purpose, read, now).unwrap();
    }

    /// The pool answers one question.
    fn answer_some(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let question = self.questions.remove(self.up_to(self.questions.len() as u64) as usize);
        let answers: Vec<_> = question.ask.iter().map(|route| (*route, self.answer())).collect();
        self.core.answered(&question, &answers).unwrap();
    }

    fn answer(&self) -> Answer {
        match self.up_to(if self.draining { 6 } else { 8 }) {
            0 => Err(NoAnswer::Failed(EvalError::TooSlow(250))),
            1..3 => Ok(false),
            6 => Err(EvalError::Unavailable("the pool is busy".into()).into()),
            7 => Err(NoAnswer::Later("the disk does not answer".into())),
            _ => Ok(true),
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let by = match self.up_to(30) {
            0 => 1_000 * self.up_to(1_200),
            _ => self.up_to(3_000),
        };
        self.advance(Duration::from_millis(by))
    }

    /// Time passes, and the engine does what is due by then.
    fn advance(&mut self, by: Duration) -> Result<(), String> {
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
                Fate::Return => self.core.returned(key.0, &key.1, now).map_err(|why| why.to_string())?,
                Fate::Settle(change, attempted) => self.settle(&job, key, change, attempted),
            }
        }
        Ok(())
    }

    fn settle(&mut self, job: &Job, key: Key, change: Change, attempted: bool) {
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

    fn append(&mut self, kind: Kind, payload: Bytes) {
        self.uncommitted = true;
        let (parts, class, time) = (Vec::new(), Class::Upkeep, self.clock.now());
        let entry = NewEntry { kind, payload };
        self.log.append(Append { parts, entry, dedupe: None, class, time, done: Done::nobody() });
    }

    fn command(&mut self, action: Action) {
        self.note(&format!("{action:?}"));
        self.append(Kind::Command, entry::encode_json(&Command::new("operator", action)));
    }

    /// An operator does something.
    fn operate(&mut self) {
        let count = self.checker.deliveries.len() as u64;
        let some = |world: &Self| {
            let from = world.up_to(count.max(1)) as usize;
            let chosen = world.checker.deliveries.keys().skip(from).step_by(1 + world.up_to(3) as usize);
            chosen.take(1 + world.up_to(4) as usize).map(|(event, name)| target(*event, name)).collect::<Vec<_>>()
        };
        let upstream: Box<str> = UPSTREAMS[self.up_to(3) as usize].into();
        let until = self.now().after(Duration::from_secs(self.up_to(60))).as_millis();
        let until_ms = (self.up_to(2) == 0).then_some(until);
        let action = match self.up_to(14) {
            0 => Action::HoldUpstream { upstream, until_ms, reason: None },
            1..3 => Action::ReleaseUpstream { upstream },
            3..5 => Action::Hold { targets: some(self), until_ms, reason: Some("for repairs".into()) },
            5..8 => Action::Release { targets: some(self) },
            8..11 => Action::Replay {
                targets: some(self),
                new_key: self.up_to(2) == 0,
                interval_us: Some(1_000),
                created: false,
            },
            11..13 => Action::LetGo { targets: some(self) },
            _ => {
                let Some(event) = self.checker.acknowledged.keys().nth(self.up_to(1 + count) as usize) else { return };
                Action::Delete { events: vec![*event] }
            }
        };
        self.command(action);
    }

    /// The process dies and starts again: from nothing or from a checkpoint of any age.
    fn crash(&mut self) -> Result<(), String> {
        self.note("crash");
        // What was committed and never reached the agenda is in the log.
        let mut next = self.core.state().next;
        loop {
            let entries = self.log.scan(next, 1 << 20).unwrap();
            let Some(last) = entries.last() else { break };
            next = last.pos.seq + 1;
            for entry in &entries {
                self.checker.applied(entry)?;
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
        let core = Core::new(
            state,
            told(self.sabotage == Sabotage::ForgetOrder, &self.table),
            self.evaluator.clone(),
            self.bounds,
            now,
        );
        self.core = core.map_err(|why| why.to_string())?;
        self.gap = None;
        self.sending.clear();
        self.offered.clear();
        self.orders.clear();
        self.questions.clear();
        self.working.clear();
        self.windows.clear();
        self.checker.crashed();
        self.compare()
    }

    /// Another configuration: an upstream goes or comes back.
    fn reload(&mut self) -> Result<(), String> {
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
            None => {
                // Until the engine says otherwise, the window is a standard one.
                let window = self.windows.entry(upstream.into()).or_insert(16);
                *window = (*window).max(16);
                self.live.push(upstream);
            }
        }
        self.swap_table();
        self.step()
    }

    fn swap_table(&mut self) {
        self.generation += 1;
        self.table = table(&self.live, self.generation, self.mode);
        self.note(&format!("reload {:?} {:?}", self.live, self.mode));
    }

    /// The engine wants more or less at once; 0 while its breaker is open.
    fn set_window(&mut self) {
        let upstream = UPSTREAMS[self.up_to(3) as usize];
        let window = [0, 1, 4, 16, 64][self.up_to(5) as usize];
        let now = self.now();
        self.core.window(upstream, window);
        self.core.paused(upstream, window == 0, now);
        // What is under way beyond a window that shrank is finished.
        let under_way = self.checker.in_flight.iter().filter(|(_, name)| name == upstream).count();
        self.windows.insert(upstream.into(), window.max(under_way));
    }

    /// The wall clock steps, up to an hour back or ahead.
    fn step_clock(&mut self) {
        let to = self.clock.now().after(Duration::from_secs(self.up_to(3_600))).before(Duration::from_secs(1_800));
        self.hand.step_wall(to);
    }

    /// The agenda's state says the same as the model, as far as it has read.
    fn compare(&mut self) -> Result<(), String> {
        let state = self.core.state();
        for ((event, upstream), known) in &self.checker.deliveries {
            let id = state.id(upstream).ok_or_else(|| format!("upstream {upstream} is not known"))?;
            let record = state.record(StateKey::new(*event, id)).map_err(|why| why.to_string())?;
            let is = record.map_or(Is::Settled, |record| match record.state.as_str() {
                "pending" => Is::Pending,
                "held" => Is::Held,
                "dead" => Is::Dead,
                _ => Is::Settled,
            });
            // Of an event that is not planned, what waits has no record.
            if is != known.is && (record.is_some() || self.checker.planned.contains(event)) {
                return Err(format!("delivery of {event} to {upstream} is {:?}, but the state says {is:?}", known.is));
            }
        }
        for event in self.checker.acknowledged.keys().filter(|event| **event < state.next) {
            let gone = self.checker.planned.contains(event) || self.checker.deleted.contains(event);
            if !gone && !state.unplanned().contains(*event) {
                return Err(format!("event {event} waits for its plan, and the state has forgotten it"));
            }
        }
        Ok(())
    }
}
