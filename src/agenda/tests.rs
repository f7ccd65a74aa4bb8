//! Owns the tests of the agenda: the core driven inline over a log in memory, and the thread once.

mod outage;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, mpsc},
    time::Duration,
};

use http::Method;
use proptest::prelude::*;

use super::{core::*, *};
use crate::{
    event::{Change, DeliveryState, Pos, Reason, Status},
    expr::{self, Expr},
    log::{
        Entry, Follower, Kind, Log,
        entry::{self, Action, Target},
    },
    routing::{
        DedupeRule, KeySelector, Limits, OnDuplicate, PathEdit, PathPattern, RetryPolicy, Route, Source, Table,
        TableParts, Target as Address, Upstream,
    },
    state::{State, testing::*},
};

mod again;
mod backlog;
mod closed;
mod door;
mod holds;
mod notices;
mod order;
mod published;
mod refused;

const START: Timestamp = Timestamp::from_millis(1_000_000_000);

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn route(name: &str, source: &str, to: &[&str]) -> Route {
    Route { sources: Some(vec![source.into()]), ..Route::new(name, to.iter().map(|name| (*name).into()).collect()) }
}

fn table(upstreams: &[&str], routes: Vec<Route>) -> Arc<Table> {
    let sources = ["s", "t", "discarded", "nobody"].map(|name| {
        Arc::new(Source {
            dedupe: Some(DedupeRule {
                key: KeySelector::Header(http::HeaderName::from_static("x-id")),
                window: Duration::from_secs(60),
                on_duplicate: OnDuplicate::Revive,
            }),
            ..Source::new(name, PathPattern::parse(&format!("/{name}")).unwrap())
        })
    });
    let upstream = |name: &&str| Upstream {
        concurrency: 4,
        ..Upstream::new(name, Address::Http("http://127.0.0.1:1".parse().unwrap()))
    };
    Arc::new(Table::new(TableParts {
        generation: 1,
        hash: String::new(),
        sources: sources.into(),
        routes,
        upstreams: upstreams.iter().map(|name| ((*name).into(), Arc::new(upstream(name)))).collect::<HashMap<_, _>>(),
        limits: Limits {
            max_connections: 10,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 64 << 10,
            body_idle_timeout: Duration::from_secs(30),
            body_min_rate: 1024,
            idle_timeout: Duration::from_secs(75),
            body_memory: 1 << 20,
            spool_size: 1 << 20,
            trusted_proxies: vec![],
            quarantine: crate::routing::QuarantinePolicy {
                max_size: 1 << 20,
                max_body: 64 << 10,
                rate: 20,
                total_rate: 1 << 20,
                unmatched: crate::routing::Unmatched::Refuse,
            },
        },
    }))
}

fn to_ab() -> Arc<Table> {
    table(&["a", "b"], vec![route("both", "s", &["a", "b"]), route("only-a", "t", &["a"])])
}

/// A core driven inline, over a log in memory.
struct Rig {
    log: Arc<TestLog>,
    core: Core,
    table: Arc<Table>,
    now: Timestamp,
    sent: Vec<Job>,
    asked: Vec<Question>,
    evaluator: Evaluator,
    bounds: Bounds,
}

impl Rig {
    fn new(table: Arc<Table>) -> Self {
        Self::over(TestLog::new(), table, Bounds::standard())
    }

    fn over(log: Arc<TestLog>, table: Arc<Table>, bounds: Bounds) -> Self {
        log.at(START);
        let evaluator = Evaluator::start(expr::Settings::standard());
        let mut state = State::new(log.log_id());
        crate::state::replay(&mut state, &*log, &mut |_| {}).unwrap();
        let core = Core::new(state, table.clone(), evaluator.clone(), bounds, START).unwrap();
        Self { log, core, table, now: START, sent: Vec::new(), asked: Vec::new(), evaluator, bounds }
    }

    /// The process dies and starts again with nothing but the log.
    fn restart(&mut self) {
        let mut state = State::new(self.log.log_id());
        crate::state::replay(&mut state, &*self.log, &mut |_| {}).unwrap();
        self.core = Core::new(state, self.table.clone(), self.evaluator.clone(), self.bounds, self.now).unwrap();
        self.sent.clear();
    }

    /// Runs until nothing more happens at this time.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the agenda goes round in circles");
            let entries = self.log.scan(self.core.state().next, 1 << 20).unwrap();
            let effects = self.core.step(&entries, self.now, &self.table).unwrap();
            let quiet = entries.is_empty() && effects.append.is_empty() && effects.read.is_empty();
            self.log.put_all(effects.append);
            self.sent.extend(effects.dispatch);
            self.asked.extend(effects.ask);
            for order in effects.read {
                let events = read::read(&*self.log, &order);
                self.core.loaded(order.purpose, events, self.now).unwrap();
            }
            let refills = effects.refill.len();
            for upstream in effects.refill {
                let most = self.core.refill_most(upstream);
                let (found, until) =
                    read::refill(&self.core.state().layers().lower(), upstream, most, self.now).unwrap();
                self.core.refilled(upstream, &found, until, self.now);
            }
            if quiet && refills == 0 {
                return;
            }
        }
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.log.at(self.now);
        self.settle();
    }

    /// Takes the jobs sent so far: upstream, event and number.
    fn take(&mut self) -> Vec<(String, Seq, u32)> {
        let jobs = std::mem::take(&mut self.sent);
        jobs.into_iter().map(|job| (job.upstream.to_string(), job.event.id.pos.seq, job.number)).collect()
    }

    fn answer(&mut self, jobs: &[(String, Seq, u32)], change: &Change) {
        for (upstream, event, number) in jobs {
            self.log.attempt(*event, upstream, *number, change.clone());
        }
        self.settle();
    }

    fn state_of(&self, event: Seq, upstream: &str) -> Option<DeliveryState> {
        let view = self.core.view(event).unwrap();
        let found = view.deliveries.iter().find(|delivery| &*delivery.upstream == upstream);
        found.map(|delivery| delivery.status.state())
    }

    fn target(event: Seq, upstream: &str) -> Vec<Target> {
        vec![Target { event, upstream: upstream.into() }]
    }
}

fn job(upstream: &str, event: Seq, number: u32) -> (String, Seq, u32) {
    (upstream.to_owned(), event, number)
}

#[test]
fn an_event_is_planned_once_and_sent_to_every_upstream_of_its_routes() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("s");
    let safe = rig.log.put(Kind::Accepted, accepted("s", &Method::GET, b""));
    let nobody = rig.log.accept("nobody");
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1), job("b", event, 1)]);
    let plans: Vec<_> = rig.log.all().into_iter().filter(|entry| entry.kind == Kind::Planned).collect();
    let planned = entry::decode_planned(&plans[0].payload).unwrap();
    assert_eq!(plans.len(), 1, "one entry for the batch");
    let targets: Vec<_> = planned.events.iter().map(|event| (event.event, event.targets.len())).collect();
    assert_eq!(targets, [(event, 2), (nobody, 0)], "{safe} is answered directly and never planned");
    rig.restart();
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1), job("b", event, 1)], "what was in flight is sent again");
    assert_eq!(rig.log.all().iter().filter(|entry| entry.kind == Kind::Planned).count(), 1);
}

#[test]
fn what_was_accepted_but_not_planned_before_a_crash_is_planned_after_it() {
    let log = TestLog::new();
    let event = log.accept("t");
    let mut rig = Rig::over(log, to_ab(), Bounds::standard());
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1)]);
}

#[test]
fn routes_that_disagree_make_a_dead_delivery_and_an_empty_route_discards() {
    let moved =
        Route { path: PathEdit { path: Some("/x".into()), ..PathEdit::default() }, ..route("two", "s", &["a"]) };
    let routes = vec![route("one", "s", &["a", "b"]), moved, route("none", "discarded", &[])];
    let mut rig = Rig::new(table(&["a", "b"], routes));
    let event = rig.log.accept("s");
    let discarded = rig.log.accept("discarded");
    rig.settle();
    assert_eq!(rig.take(), [job("b", event, 1)]);
    let view = rig.core.view(event).unwrap().deliveries[0].clone().with_reason(&*rig.log);
    assert_eq!(view.status, Status::Dead(Reason::with("conflicting_routes", "one, two")));
    let plans = rig.log.all().into_iter().filter(|entry| entry.kind == Kind::Planned);
    let planned = plans.filter_map(|entry| entry::decode_planned(&entry.payload)).next().unwrap();
    assert!(planned.events.iter().any(|event| event.event == discarded && event.ignored));
}

#[test]
fn a_filter_decides_at_once_or_when_the_pool_answers_and_a_failure_is_a_dead_delivery() {
    let when = |name: &str, text: &str, to: &str| Route {
        when: Some(Expr::compile(text).unwrap()),
        ..route(name, "s", &[to])
    };
    let slow = "[range(.n // 1)] | length > 0";
    let routes = vec![when("plain", ".yes", "a"), when("slow", slow, "b"), when("bad", slow, "c")];
    let mut rig = Rig::new(table(&["a", "b", "c"], routes));
    let event = rig.log.put(Kind::Accepted, accepted("s", &Method::POST, b"{\"yes\":true}"));
    rig.settle();
    assert!(rig.take().is_empty(), "nothing is sent before all filters have answered");
    let question = rig.asked.pop().unwrap();
    assert_eq!(question.ask, [1, 2]);
    rig.core.answered(&question, &[(1, Ok(true)), (2, Err(expr::EvalError::TooSlow(100).into()))]).unwrap();
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1), job("b", event, 1)]);
    assert_eq!(rig.state_of(event, "c"), Some(DeliveryState::Dead));
}

#[test]
fn a_deferred_delivery_is_tried_again_when_it_is_due_and_not_before() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs, &Change::Retry(at(30)));
    rig.later(29);
    assert!(rig.take().is_empty());
    assert_eq!(rig.core.next_due(rig.now), Some(at(30)));
    rig.restart();
    rig.later(2);
    assert_eq!(rig.take(), [job("a", event, 2)], "a restart in between changes nothing");
}

#[test]
fn an_upstream_that_hangs_never_delays_another() {
    let mut rig = Rig::new(to_ab());
    for round in 0..20 {
        let events: Vec<Seq> = (0..50).map(|_| rig.log.accept("s")).collect();
        rig.settle();
        let jobs = rig.take();
        let (hanging, healthy): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(upstream, ..)| upstream == "a");
        assert_eq!(hanging.len(), if round == 0 { 16 } else { 0 }, "no more than the window");
        let mut answered = healthy;
        let mut seen = Vec::new();
        while !answered.is_empty() {
            seen.extend(answered.iter().map(|(_, event, _)| *event));
            rig.answer(&answered, &Change::Delivered);
            answered = rig.take();
        }
        assert_eq!(seen, events, "the healthy one gets everything, in order");
    }
    assert_eq!(
        rig.core.upstream_stats().iter().map(|stats| stats.pending).collect::<Vec<_>>().iter().max(),
        Some(&1000)
    );
}

#[test]
fn retries_get_a_turn_while_fresh_events_never_end_and_replays_come_last() {
    let mut rig = Rig::new(to_ab());
    rig.core.window("a", 4);
    let old: Vec<Seq> = (0..4).map(|_| rig.log.accept("t")).collect();
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs[..2], &Change::Retry(at(1)));
    rig.answer(&jobs[2..], &Change::Die(Reason::new("refused")));
    rig.log.command(Action::Replay {
        targets: Rig::target(old[2], "a"),
        new_key: false,
        interval_us: None,
        created: false,
    });
    let fresh: Vec<Seq> = (0..100).map(|_| rig.log.accept("t")).collect();
    rig.later(2);
    let mut order = Vec::new();
    loop {
        let jobs = rig.take();
        if jobs.is_empty() {
            break;
        }
        order.extend(jobs.iter().map(|(_, event, _)| *event));
        rig.answer(&jobs, &Change::Delivered);
    }
    let place = |event: Seq| order.iter().position(|sent| *sent == event).unwrap();
    assert_eq!(order.len(), 103);
    assert!(place(old[0]) < 20 && place(old[1]) < 30, "{order:?}");
    assert!(place(old[2]) > place(old[1]) && place(old[2]) < place(fresh[99]), "{order:?}");
}

#[test]
fn a_returned_job_is_due_again_without_an_attempt() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1)]);
    rig.core.window("a", 0);
    rig.core.paused("a", true, rig.now);
    rig.core.returned(event, "a", rig.now).unwrap();
    rig.later(60);
    assert!(rig.take().is_empty());
    rig.core.paused("a", false, rig.now);
    rig.core.window("a", 1);
    rig.settle();
    assert_eq!(rig.sent[0].paused, Duration::from_secs(60));
    assert_eq!(rig.take(), [job("a", event, 1)]);
}

#[test]
fn resends_are_counted_at_most_once_a_minute_and_revive_dead_deliveries() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs, &Change::Die(Reason::new("refused")));
    for second in 0..50 {
        rig.core.resent(event, 2, 1, at(second));
        rig.later(1);
    }
    assert_eq!(rig.take(), [job("a", event, 2)]);
    let view = rig.core.view(event).unwrap();
    assert_eq!((view.duplicates, view.body_differs), (100, 50), "also what is not written yet");
    let entries = || rig.log.all().into_iter().filter(|entry| entry.kind == Kind::Duplicate).count();
    assert_eq!(entries(), 1);
    rig.later(60);
    assert_eq!(rig.log.all().iter().filter(|entry| entry.kind == Kind::Duplicate).count(), 2);
    let view = rig.core.view(event).unwrap();
    assert_eq!((view.duplicates, view.body_differs), (100, 50));
}

#[test]
fn a_replay_to_another_upstream_makes_a_delivery() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs, &Change::Delivered);
    rig.log.command(Action::Replay {
        targets: Rig::target(event, "b"),
        new_key: true,
        interval_us: None,
        created: false,
    });
    rig.later(1);
    assert_eq!((rig.sent[0].replays, rig.sent[0].new_keys), (1, 1));
    assert_eq!(&*rig.sent[0].upstream, "b");
}

#[test]
fn a_full_feed_remembers_a_gap_and_order_is_kept() {
    let metrics = Arc::new(Metrics::default());
    let feed = Feed::new(1_000, Bell::default(), metrics.clone());
    let entry = |seq| Entry {
        pos: Pos { partition: 0, seq },
        time: START,
        kind: Kind::Config,
        refs: Vec::new(),
        payload: bytes::Bytes::from_static(&[0; 400]),
    };
    for seq in 0..5 {
        feed.committed(vec![entry(seq)]);
    }
    assert_eq!(metrics.feed_overflows.get(), 4);
    assert!(matches!(feed.take(9), feed::Next::Entries(entries) if entries.len() == 1));
    feed.committed(vec![entry(5)]);
    assert!(matches!(feed.take(9), feed::Next::Gap(5)));
    assert!(matches!(feed.take(9), feed::Next::Entries(entries) if entries[0].pos.seq == 5));
    assert!(matches!(feed.take(9), feed::Next::Nothing));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_through_crashes_and_nothing_is_in_flight_twice(steps in proptest::collection::vec((0_u8..8, any::<u8>()), 1..80)) {
        let mut rig = Rig::new(to_ab());
        let mut open: Vec<(String, Seq, u32)> = Vec::new();
        let mut delivered: BTreeMap<(String, Seq), u32> = BTreeMap::new();
        let mut accepted = Vec::new();
        for (step, pick) in steps {
            match step {
                0..=2 => accepted.push(rig.log.accept("s")),
                3 => {
                    rig.restart();
                    open.clear();
                }
                4 => rig.later(3),
                5 if !open.is_empty() => {
                    let job = open.remove(usize::from(pick) % open.len());
                    rig.core.returned(job.1, &job.0, rig.now).unwrap();
                }
                _ if !open.is_empty() => {
                    let job = open.remove(usize::from(pick) % open.len());
                    if pick % 2 == 0 {
                        *delivered.entry((job.0.clone(), job.1)).or_default() += 1;
                        rig.answer(&[job], &Change::Delivered);
                    } else {
                        let due = rig.now.after(Duration::from_secs(5));
                        rig.answer(&[job], &Change::Retry(due));
                    }
                }
                _ => {}
            }
            rig.settle();
            for job in rig.take() {
                prop_assert!(open.iter().all(|other| (&other.0, other.1) != (&job.0, job.1)), "in flight twice: {job:?}");
                open.push(job);
            }
        }
        for _ in 0..200 {
            for job in std::mem::take(&mut open) {
                *delivered.entry((job.0.clone(), job.1)).or_default() += 1;
                rig.answer(&[job], &Change::Delivered);
            }
            rig.later(60);
            open = rig.take();
            if open.is_empty() {
                break;
            }
        }
        let expected: BTreeMap<_, _> =
            accepted.iter().flat_map(|event| ["a", "b"].map(|name| ((name.to_owned(), *event), 1))).collect();
        prop_assert_eq!(delivered, expected, "each delivery settles exactly once");
        for (id, _) in (0..).zip(rig.core.state().upstreams()) {
            prop_assert_eq!(rig.core.lane(id).0, 0);
        }
    }
}

/// An engine that delivers at once and says so.
struct Deliver {
    log: Arc<TestLog>,
    sent: mpsc::SyncSender<Seq>,
}

impl Dispatch for Deliver {
    fn dispatch(&self, job: Job) {
        let seq = job.event.id.pos.seq;
        let payload = attempted(seq, &job.upstream, job.number, Change::Delivered);
        self.log.append(crate::log::Append {
            parts: Vec::new(),
            entry: crate::log::NewEntry { kind: Kind::Attempted, payload },
            dedupe: None,
            class: crate::log::Class::Upkeep,
            time: START,
            done: crate::log::Done::nobody(),
        });
        self.sent.send(seq).unwrap();
    }
}

fn accept(log: &dyn Log, source: &str) -> Seq {
    let (done, answer) = crate::log::Done::channel();
    log.append(crate::log::Append {
        parts: Vec::new(),
        entry: crate::log::NewEntry { kind: Kind::Accepted, payload: accepted(source, &Method::POST, b"{}") },
        dedupe: None,
        class: crate::log::Class::Event,
        time: START,
        done,
    });
    match answer.blocking_recv().unwrap().unwrap() {
        crate::log::Appended::Appended(id) => id.pos.seq,
        other => panic!("{other:?}"),
    }
}

/// What the thread works with, over a log in memory.
fn thread_deps(log: &Arc<TestLog>, sent: &mpsc::SyncSender<Seq>, runtime: &tokio::runtime::Runtime) -> Deps {
    Deps {
        log: log.clone(),
        live: Live::new(Arc::into_inner(to_ab()).unwrap()),
        evaluator: Evaluator::start(expr::Settings::standard()),
        clock: Clock::manual(START).0,
        metrics: Arc::default(),
        dispatch: Arc::new(Deliver { log: log.clone(), sent: sent.clone() }),
        runtime: runtime.handle().clone(),
    }
}

#[test]
fn a_log_that_can_not_be_read_keeps_nobody_from_ending_the_process() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let log = TestLog::new();
    log.fail_scans();
    let keep = crate::state::Keep { settled: Duration::from_secs(9), dead: Duration::from_secs(9) };
    let settings = Settings::standard(home.path().join("state"), keep);
    let agenda = Agenda::start(settings, thread_deps(&log, &mpsc::sync_channel(1).0, &runtime)).unwrap();
    let asking = std::thread::spawn({
        let agenda = agenda.clone();
        move || agenda.oldest_live()
    });
    assert!(!agenda.is_ready());
    agenda.stop();
    assert_eq!(asking.join().unwrap(), Err(AskError::Stopped));
}

#[test]
fn the_thread_delivers_survives_a_restart_and_obeys_commands() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let log = TestLog::new();
    log.at(START);
    let (sent, delivered) = mpsc::sync_channel(100);
    let deps = |log: &Arc<TestLog>| thread_deps(log, &sent, &runtime);
    let keep = crate::state::Keep { settled: Duration::from_secs(9), dead: Duration::from_secs(9) };
    let settings = || Settings::standard(home.path().join("state"), keep);
    let agenda = Agenda::start(settings(), deps(&log)).unwrap();
    let first = accept(&*log, "t");
    assert_eq!(delivered.recv().unwrap(), first);
    let hold = |action| entry::Command::new("uid 0 (root)", action);
    let held = hold(Action::HoldUpstream { upstream: "a".into(), until_ms: None, reason: None });
    agenda.command(&held).unwrap().wait().unwrap();
    let second = accept(&*log, "t");
    // The next entry is its plan.
    agenda.applied(second + 1).unwrap();
    assert_eq!(agenda.view(&[second]).unwrap()[0].deliveries.len(), 1);
    agenda.measure();
    assert_eq!(agenda.0.deps.metrics.upstream("a").held.get(), 1, "the clock stands still: nobody else has measured");
    agenda.stop();
    assert_eq!(agenda.oldest_live(), Err(AskError::Stopped));

    let agenda = Agenda::start(settings(), deps(&log)).unwrap();
    assert_eq!(agenda.oldest_live().unwrap(), Some(second));
    assert_eq!(agenda.list(DeliveryState::Pending, None, None, 10).unwrap().len(), 1);
    agenda.command(&hold(Action::ReleaseUpstream { upstream: "a".into() })).unwrap().wait().unwrap();
    assert_eq!(delivered.recv().unwrap(), second);
    let replay = Action::Replay { targets: Rig::target(first, "b"), new_key: false, interval_us: None, created: false };
    agenda.command(&hold(replay)).unwrap().wait().unwrap();
    assert_eq!(delivered.recv().unwrap(), first);
    agenda.stop();
    assert!(home.path().join("state/MANIFEST").exists());
}

#[test]
fn a_command_that_is_stored_is_waited_for_however_much_waits_to_be_heard() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let log = TestLog::new();
    log.at(START);
    let deps = Deps {
        log: log.clone(),
        live: Live::new(Arc::into_inner(to_ab()).unwrap()),
        evaluator: Evaluator::start(expr::Settings::standard()),
        clock: Clock::manual(START).0,
        metrics: Arc::default(),
        dispatch: Arc::new(Deliver { log, sent: mpsc::sync_channel(100).0 }),
        runtime: runtime.handle().clone(),
    };
    let keep = crate::state::Keep { settled: Duration::from_secs(9), dead: Duration::from_secs(9) };
    let agenda = Agenda::start(Settings::standard(home.path().join("state"), keep), deps).unwrap();
    let (begun, is_busy) = mpsc::sync_channel(1);
    let (free, is_free) = mpsc::sync_channel(1);
    let asking = agenda.clone();
    let asker = std::thread::spawn(move || {
        asking.ask(move |_, _| {
            begun.send(()).unwrap();
            is_free.recv().unwrap();
        })
    });
    is_busy.recv().unwrap();
    (0..ASKS_MAX).for_each(|_| agenda.window("a", 1));
    assert_eq!(agenda.ask(|_, _| ()), Err(AskError::Busy));
    let hold = Action::HoldUpstream { upstream: "a".into(), until_ms: None, reason: None };
    let ticket = agenda.command(&entry::Command::new("me", hold)).unwrap();
    let waiter = std::thread::spawn(move || ticket.wait());
    while agenda.0.inbox.lock().unwrap().len() <= ASKS_MAX && !waiter.is_finished() {
        std::thread::yield_now();
    }
    free.send(()).unwrap();
    assert!(waiter.join().unwrap().is_ok());
    assert_eq!(asker.join().unwrap(), Ok(()));
    agenda.stop();
}

#[test]
fn a_state_that_knows_more_than_the_log_is_noticed_although_numbers_jump_at_a_start() {
    let scratch = crate::log::sled::tests::Scratch::default();
    let log = scratch.open();
    let event = accept(&*log, "t");
    log.close();
    drop(log);
    let log = scratch.open();
    assert!(log.end() > event + 1000);
    assert_eq!(written_end(&*log), event + 1);
}
