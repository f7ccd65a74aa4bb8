//! Owns the tests of what happens again: replays beside attempts under way, plans and reads that are repeated.

use super::*;

impl Rig {
    /// One step; what is to be appended is given back instead of being appended.
    fn step(&mut self) -> Vec<crate::log::NewEntry> {
        let entries = self.log.scan(self.core.state().next, 1 << 20).unwrap();
        let effects = self.core.step(&entries, self.now, &self.table).unwrap();
        self.sent.extend(effects.dispatch);
        self.asked.extend(effects.ask);
        assert!(effects.read.is_empty(), "everything is at hand");
        effects.append
    }

    /// The engine settles a job that it was given.
    fn settled(&mut self, job: &Job, change: Change) {
        self.log.settle(job, change);
        self.settle();
    }

    fn replay(&mut self, event: Seq, upstream: &str) {
        let targets = Self::target(event, upstream);
        self.log.command(Action::Replay { targets, new_key: false, interval_us: None, created: false });
        self.settle();
    }
}

#[test]
fn a_delivery_settled_before_its_plan_is_written_puts_the_other_deliveries_of_the_event_nowhere() {
    let mut rig = Rig::new(to_ab());
    rig.core.window("b", 0);
    let (first, second) = (rig.log.accept("s"), rig.log.accept("s"));
    // The log's queue is full: the plan waits, and the first delivery is settled before it.
    let plan = rig.step();
    assert_eq!(rig.take(), [job("a", first, 1), job("a", second, 1)]);
    rig.log.attempt(first, "a", 1, Change::Delivered);
    rig.step();
    rig.core.window("b", 16);
    rig.step();
    rig.log.put_all(plan);
    rig.settle();
    assert_eq!(rig.take(), [job("b", first, 1), job("b", second, 1)], "in the order of the log");
}

#[test]
fn a_crash_between_a_delivery_s_death_and_its_plan_lets_it_die_once() {
    let slow = Expr::compile("[range(.n // 1)] | length > 0").unwrap();
    let routes = vec![Route { when: Some(slow), ..route("slow", "s", &["b"]) }];
    let mut rig = Rig::new(table(&["a", "b"], routes));
    let event = rig.log.accept("s");
    rig.step();
    let late = [(0, Err(expr::EvalError::TooSlow(100).into()))];
    let question = rig.asked.pop().unwrap();
    rig.core.answered(&question, &late).unwrap();
    let written = rig.step();
    assert_eq!(written.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Attempted, Kind::Planned]);
    // Only the death reaches the disk.
    rig.log.put_all(written.into_iter().take(1).collect());
    rig.restart();
    rig.settle();
    let question = rig.asked.pop().unwrap();
    rig.core.answered(&question, &late).unwrap();
    rig.settle();
    assert_eq!(rig.state_of(event, "b"), Some(DeliveryState::Dead));
    let deaths = rig.log.all().iter().filter(|entry| entry.kind == Kind::Attempted).count();
    assert_eq!((deaths, rig.core.state().unplanned().len()), (1, 0), "one death, and it is planned now");
}

#[test]
fn a_replay_beside_an_attempt_under_way_is_one_more_attempt_whatever_became_of_the_first() {
    let later = Change::Retry(at(3_600));
    for change in [Change::Delivered, later, Change::Die(Reason::new("refused")), Change::Ignore] {
        let mut rig = Rig::new(to_ab());
        let event = rig.log.accept("t");
        rig.settle();
        let under_way = rig.sent.pop().unwrap();
        rig.replay(event, "a");
        assert!(rig.sent.is_empty(), "it is under way");
        rig.settled(&under_way, change.clone());
        rig.later(1);
        let again = rig.sent.pop().unwrap_or_else(|| panic!("the replay was absorbed by {change:?}"));
        assert_eq!((again.number, again.replays, again.previous.is_some()), (2, 1, true));
        rig.settled(&again, Change::Delivered);
        rig.later(7_200);
        assert_eq!(rig.take(), []);
        let delivery = rig.core.view(event).unwrap().deliveries.remove(0);
        assert_eq!((delivery.status, delivery.attempts), (Status::Delivered, 2));
    }
}

#[test]
fn a_replay_of_what_was_handed_back_or_waits_is_one_attempt() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let returned = rig.sent.pop().unwrap();
    rig.replay(event, "a");
    rig.core.returned(event, &returned.upstream, rig.now).unwrap();
    rig.later(1);
    let again = rig.sent.pop().unwrap();
    assert_eq!((again.number, again.replays), (1, 1), "no attempt was made");
    rig.settled(&again, Change::Delivered);
    rig.later(10);
    assert_eq!(rig.take(), []);
}

#[test]
fn a_replay_that_is_held_waits_for_its_release_though_the_attempt_under_way_delivers() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let under_way = rig.sent.pop().unwrap();
    rig.replay(event, "a");
    rig.log.command(Action::Hold { targets: Rig::target(event, "a"), until_ms: None, reason: None });
    rig.settle();
    rig.settled(&under_way, Change::Delivered);
    rig.later(10);
    assert_eq!((rig.take(), rig.state_of(event, "a")), (vec![], Some(DeliveryState::Held)));
    rig.restart();
    rig.log.command(Action::Release { targets: Rig::target(event, "a") });
    rig.later(1);
    assert_eq!(rig.take(), [job("a", event, 2)]);
}

/// One route from `s` to `a` with a filter that is answered at once if the body is at hand.
fn filtered() -> Arc<Table> {
    let yes = Route { when: Some(Expr::compile(".yes").unwrap()), ..route("filtered", "s", &["a"]) };
    table(&["a"], vec![yes, route("all", "t", &["a"])])
}

#[test]
fn a_filter_that_can_not_answer_now_is_asked_again_after_a_while_and_no_delivery_dies_of_it() {
    let mut rig = Rig::new(filtered());
    let event = rig.log.accept_large("s", b"{\"yes\":true}");
    rig.settle();
    for why in [plan::NoAnswer::Later("reading: the disk does not answer".into()), busy().into()] {
        let question = rig.asked.pop().unwrap();
        rig.core.answered(&question, &[(0, Err(why))]).unwrap();
        rig.later(4);
        assert!(rig.asked.is_empty(), "not before 5 s have passed");
        assert_eq!(rig.core.next_due(rig.now), Some(rig.now.after(Duration::from_secs(1))));
        rig.later(1);
    }
    let question = rig.asked.pop().unwrap();
    rig.core.answered(&question, &[(0, Ok(true))]).unwrap();
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1)]);
}

fn busy() -> expr::EvalError {
    expr::EvalError::Unavailable("1024 evaluations wait already".into())
}

#[test]
fn a_filter_whose_body_is_damaged_makes_a_dead_delivery_that_says_so() {
    let mut rig = Rig::new(filtered());
    let event = rig.log.accept_large("s", b"{\"yes\":true}");
    rig.settle();
    let question = rig.asked.pop().unwrap();
    rig.core.answered(&question, &[(0, Err(plan::NoAnswer::Unreadable("damaged between 3 and 4".into())))]).unwrap();
    rig.settle();
    let view = rig.core.view(event).unwrap().deliveries.remove(0).with_reason(&*rig.log);
    assert_eq!(view.status, Status::Dead(Reason::with("body_unreadable", "damaged between 3 and 4")));
}

#[test]
fn a_resend_revives_a_dead_delivery_though_its_event_could_not_be_read_at_first() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs, &Change::Die(Reason::new("refused")));
    rig.log.fail_reads(1);
    rig.core.resent(event, 1, 0, rig.now);
    rig.settle();
    assert_eq!((rig.log.failed_reads(), rig.take()), (1, vec![]));
    rig.later(4);
    assert_eq!(rig.take(), [], "not before 5 s have passed");
    assert!(rig.core.next_due(rig.now).is_some_and(|due| due <= rig.now.after(Duration::from_secs(1))));
    rig.later(1);
    assert_eq!(rig.take(), [job("a", event, 2)]);
}

#[test]
fn the_thread_asks_a_filter_again_when_a_large_body_could_not_be_read_and_says_when_it_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let log = TestLog::new();
    log.at(START);
    let (sent, delivered) = mpsc::sync_channel(100);
    let (clock, hand) = Clock::manual(START);
    let deps = Deps {
        log: log.clone(),
        live: Live::new(Arc::into_inner(filtered()).unwrap()),
        evaluator: Evaluator::start(expr::Settings::standard()),
        clock,
        metrics: Arc::default(),
        dispatch: Arc::new(Deliver { log: log.clone(), sent }),
        runtime: runtime.handle().clone(),
    };
    let keep = crate::state::Keep { settled: Duration::from_secs(9), dead: Duration::from_secs(9) };
    let agenda = Agenda::start(Settings::standard(home.path().join("state"), keep), deps).unwrap();
    assert!(agenda.upstreams().is_ok(), "it has caught up: what comes now is told by the log");
    log.fail_reads(1);
    let event = log.accept_large("s", b"{\"yes\":true}");
    // Time passes in steps until the delivery went out; the thread looks at the clock when it is told something.
    let arrived = (0..400).find_map(|_| {
        hand.advance(Duration::from_secs(5));
        agenda.configured();
        delivered.recv_timeout(Duration::from_millis(50)).ok()
    });
    assert_eq!((arrived, log.failed_reads()), (Some(event), 1));
    let lost = log.accept_with_part("s", 12, event + 1);
    let dead = (0..400).find_map(|_| {
        let _nothing = delivered.recv_timeout(Duration::from_millis(20)).is_err();
        agenda.list(DeliveryState::Dead, None, None, 9).unwrap().pop()
    });
    assert_eq!(dead.map(|listed| listed.event), Some(lost));
    agenda.stop();
}

impl Rig {
    /// One step; what is to be read is given back.
    fn orders(&mut self) -> Vec<ReadOrder> {
        let entries = self.log.scan(self.core.state().next, 1 << 20).unwrap();
        let effects = self.core.step(&entries, self.now, &self.table).unwrap();
        self.sent.extend(effects.dispatch);
        effects.read
    }

    fn load(&mut self, order: &ReadOrder) {
        self.core.loaded(order.purpose, read::read(&*self.log, order), self.now).unwrap();
    }
}

/// An event whose first attempt was deferred until ten seconds from the start, and whose plan a crash took away.
fn retried_without_a_plan() -> (Rig, Seq) {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    let _lost = rig.step();
    rig.log.attempt(event, "a", 1, Change::Retry(at(10)));
    rig.restart();
    (rig, event)
}

#[test]
fn a_delivery_under_way_is_not_handed_out_again_when_its_event_is_planned_anew() {
    let (mut rig, event) = retried_without_a_plan();
    rig.now = at(11);
    let orders = rig.orders();
    let (plan, retry): (Vec<_>, Vec<_>) = orders.into_iter().partition(|order| order.purpose == Purpose::Plan);
    rig.load(&retry[0]);
    rig.orders();
    assert_eq!(rig.take(), [job("a", event, 2)]);
    rig.load(&plan[0]);
    rig.settle();
    assert_eq!(rig.take(), []);
    assert!(rig.core.state().unplanned().is_empty());
}

#[test]
fn a_delivery_that_waits_for_its_retry_is_not_sent_early_when_its_event_is_planned_anew() {
    let (mut rig, event) = retried_without_a_plan();
    rig.settle();
    assert_eq!(rig.take(), [], "ten seconds are not over");
    rig.later(11);
    assert_eq!(rig.take(), [job("a", event, 2)]);
}

#[test]
fn a_replay_is_not_forgotten_when_the_read_for_a_retry_is_put_off() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.answer(&jobs, &Change::Retry(at(10)));
    rig.now = at(11);
    let retry = rig.orders().remove(0);
    let targets = Rig::target(event, "a");
    rig.log.command(Action::Replay { targets, new_key: false, interval_us: None, created: false });
    assert!(rig.orders().is_empty(), "it is being read already");
    rig.core.loaded(retry.purpose, vec![(event, Read::Later(Hurry::AtOnce))], rig.now).unwrap();
    rig.later(1);
    let sent = rig.sent.pop().map(|job| (job.event.id.pos.seq, job.number, job.replays));
    assert_eq!(sent, Some((event, 2, 1)));
}

#[test]
fn a_job_that_waits_in_the_engine_behind_slow_ones_is_not_sent_twice_and_one_that_was_lost_is() {
    let mut table = to_ab();
    let parts = Arc::get_mut(&mut table).unwrap();
    let upstream = parts.upstreams.get_mut("a").map(|upstream| Arc::get_mut(upstream).unwrap()).unwrap();
    (upstream.concurrency, upstream.timeout) = (1, Duration::from_secs(100));
    let mut rig = Rig::new(table);
    let events: Vec<Seq> = (0..16).map(|_| rig.log.accept("t")).collect();
    rig.settle();
    assert_eq!(rig.take().len(), 16, "the engine has all of them");
    for event in &events[..14] {
        rig.later(99);
        rig.core.end_old_leases(rig.now).unwrap();
        rig.settle();
        assert_eq!(rig.take(), [], "each is still in the engine's hands");
        rig.answer(&[job("a", *event, 1)], &Change::Delivered);
    }
    rig.later(3 * 3_600);
    rig.core.end_old_leases(rig.now).unwrap();
    rig.settle();
    assert_eq!(rig.take(), [job("a", events[14], 1), job("a", events[15], 1)], "the engine has lost them");
}
