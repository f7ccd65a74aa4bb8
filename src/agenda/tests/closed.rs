//! Owns the tests of subscribers that are disabled or removed.

use super::*;
use crate::log::entry::Written;

const DAY: u64 = 86_400;

/// `orders/a` is disabled after five days, `b` never.
fn subscribed() -> Arc<Table> {
    let plain = table(&["orders/a", "b"], vec![route("both", "s", &["orders/a", "b"]), route("a", "t", &["orders/a"])]);
    let mut changed = (*plain).clone();
    for upstream in changed.upstreams.values_mut() {
        let disable_after = upstream.name.contains('/').then_some(Duration::from_secs(5 * DAY));
        *upstream = Arc::new(Upstream { disable_after, ..(**upstream).clone() });
    }
    Arc::new(changed)
}

fn fail(rig: &mut Rig, seconds: u64) {
    rig.later(seconds);
    let jobs = rig.take();
    assert!(!jobs.is_empty(), "nothing is tried at {:?}", rig.now);
    rig.answer(&jobs, &Change::Retry(rig.now.after(Duration::from_secs(1))));
}

fn disabled(rig: &Rig) -> Option<String> {
    rig.core.state().subscribed().disabled("orders/a").map(|(why, _)| why.to_owned())
}

#[test]
fn a_subscriber_that_fails_for_five_days_without_a_success_is_disabled_and_what_it_has_not_got_dies() {
    let mut rig = Rig::new(subscribed());
    let event = rig.log.accept("s");
    rig.settle();
    fail(&mut rig, 0);
    for _ in 0..4 {
        fail(&mut rig, DAY);
    }
    assert_eq!(disabled(&rig), None, "four days are not five");
    let more: Vec<Seq> = (0..600).map(|_| rig.log.accept("t")).collect();
    fail(&mut rig, DAY + 60);
    let why = disabled(&rig).unwrap();
    assert!(why.contains("attempts failed and none succeeded since") && why.ends_with("the last: 503"), "{why}");
    // What was under way meanwhile fails, too.
    let under_way = rig.take();
    rig.answer(&under_way, &Change::Retry(rig.now));
    assert_eq!(rig.state_of(event, "orders/a"), Some(DeliveryState::Dead));
    assert_eq!(rig.state_of(event, "b"), Some(DeliveryState::Pending), "another upstream fails as long as it likes");
    for event in &more {
        assert_eq!(rig.state_of(*event, "orders/a"), Some(DeliveryState::Dead));
    }
    let view = rig.core.view(more[0]).unwrap().deliveries[0].clone().with_reason(&*rig.log);
    assert_eq!(view.status.reason().map(|reason| reason.code), Some("subscriber_disabled"));
    let by = rig.log.all().into_iter().filter(|entry| entry.kind == Kind::Command);
    let by: Vec<_> = by.filter_map(|entry| entry::decode_json::<entry::Command>(&entry.payload)).collect();
    assert_eq!((by.len(), by[0].actor.as_str()), (1, "relay"), "it is said once: {by:?}");

    // It is still so after a restart, and over when somebody says so.
    rig.restart();
    let late = rig.log.accept("t");
    rig.later(60);
    assert!(rig.take().iter().all(|(upstream, ..)| upstream == "b"));
    assert_eq!(rig.state_of(late, "orders/a"), Some(DeliveryState::Dead));
    rig.log.command(Action::EnableSubscriber { upstream: "orders/a".into() });
    let fresh = rig.log.accept("t");
    rig.log.command(Action::Replay {
        targets: Rig::target(late, "orders/a"),
        new_key: false,
        interval_us: None,
        created: false,
    });
    rig.later(60);
    let sent: Vec<Seq> =
        rig.take().into_iter().filter(|(to, ..)| to == "orders/a").map(|(_, event, _)| event).collect();
    assert_eq!(sent, [fresh, late]);
}

#[test]
fn one_success_or_few_attempts_keep_a_subscriber() {
    let mut rig = Rig::new(subscribed());
    rig.log.accept("t");
    rig.settle();
    fail(&mut rig, 0);
    for _ in 0..3 {
        fail(&mut rig, 3 * DAY);
    }
    assert_eq!(disabled(&rig), None, "four attempts are too few");
    let other = rig.log.accept("t");
    rig.later(3 * DAY);
    let jobs = rig.take();
    let (good, bad): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, event, _)| *event == other);
    rig.answer(&good, &Change::Delivered);
    rig.answer(&bad, &Change::Retry(rig.now));
    for _ in 0..4 {
        fail(&mut rig, DAY);
    }
    assert_eq!(disabled(&rig), None, "it begins anew after a success");
    fail(&mut rig, DAY);
    assert!(disabled(&rig).is_some());
}

#[test]
fn an_attempt_under_way_is_waited_for_and_what_was_removed_begins_anew_when_it_is_registered_again() {
    let mut rig = Rig::new(subscribed());
    let put = || Action::PutSubscriber { written: Written::Added, registration: registration_of("a"), streak: None };
    rig.log.command(put());
    let under_way = rig.log.accept("t");
    rig.settle();
    let jobs = rig.take();
    rig.log.command(Action::RemoveSubscriber { upstream: "orders/a".into() });
    let late = rig.log.accept("t");
    rig.settle();
    assert_eq!(rig.state_of(under_way, "orders/a"), Some(DeliveryState::Pending));
    assert_eq!(rig.state_of(late, "orders/a"), Some(DeliveryState::Dead));
    rig.answer(&jobs, &Change::Delivered);
    assert_eq!(rig.state_of(under_way, "orders/a"), None, "it was delivered");
    rig.log.command(put());
    let fresh = rig.log.accept("t");
    rig.settle();
    assert_eq!(rig.take(), [job("orders/a", fresh, 1)]);
}

fn registration_of(name: &str) -> Box<entry::Registration> {
    Box::new(registration(name))
}

#[test]
fn whoever_composes_the_table_hears_of_subscribers_before_what_comes_after_is_planned() {
    struct Composer(std::sync::Mutex<Vec<(usize, bool)>>, Live, Arc<Table>);
    impl Dispatch for Composer {
        fn dispatch(&self, _: Job) {}
        fn subscribed(&self, subscribed: crate::state::Subscribed) {
            let count = subscribed.registered.len();
            self.0.lock().unwrap().push((count, subscribed.disabled("orders/a").is_some()));
            if count > 0 {
                self.1.swap((*self.2).clone());
            }
        }
    }
    let log = TestLog::new();
    let none = table(&[], vec![route("t", "t", &[])]);
    let live = Live::new((*none).clone());
    let composer = Arc::new(Composer(std::sync::Mutex::default(), live.clone(), subscribed()));
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let keep = crate::state::Keep { settled: Duration::from_secs(DAY), dead: Duration::from_secs(DAY) };
    let deps = Deps {
        log: log.clone(),
        live,
        evaluator: Evaluator::start(expr::Settings::standard()),
        clock: Clock::system(),
        metrics: Arc::default(),
        dispatch: composer.clone(),
        runtime: runtime.handle().clone(),
    };
    let agenda = Agenda::start(Settings::standard(dir.path().to_owned(), keep), deps).unwrap();
    assert!(agenda.ask(|core, _| core.state().subscribed().registered.is_empty()).unwrap());
    let command = |action| agenda.command(&entry::Command::new("me", action)).unwrap().wait().unwrap();
    command(Action::PutSubscriber { written: Written::Added, registration: registration_of("a"), streak: None });
    let last = command(Action::DisableSubscriber { upstream: "orders/a".into(), why: "why".into(), since_ms: None });
    agenda.applied(last).unwrap();
    assert_eq!(*composer.0.lock().unwrap(), [(0, false), (1, false), (1, true)]);
    agenda.stop();
}

#[test]
fn how_long_a_subscriber_fails_is_told_by_one_clock_although_the_wall_clock_stepped() {
    let mut rig = Rig::new(subscribed());
    rig.log.accept("t");
    // The wall clock, and with it the log, has been ahead of the steady one ever since.
    let ahead = Duration::from_secs(10 * DAY);
    for (seconds, expected) in [(0, false), (DAY, false), (DAY, false), (DAY, false), (DAY, false), (DAY + 60, true)] {
        rig.now = rig.now.after(Duration::from_secs(seconds));
        rig.log.at(rig.now.after(ahead));
        rig.settle();
        let jobs = rig.take();
        rig.answer(&jobs, &Change::Retry(rig.now.after(Duration::from_secs(1))));
        assert_eq!(disabled(&rig).is_some(), expected, "at {:?}", rig.now);
    }
}

#[test]
fn what_was_put_back_without_an_attempt_disables_nobody() {
    let mut rig = Rig::new(subscribed());
    rig.log.accept("t");
    rig.settle();
    for _ in 0..5 {
        fail(&mut rig, 60);
    }
    rig.later(6 * DAY);
    assert_eq!(rig.take().len(), 1);
    let event = rig.log.all()[0].pos.seq;
    let (upstream, change) = ("orders/a".into(), Change::Postpone(rig.now.after(Duration::from_secs(1))));
    let put_back =
        entry::Attempted { event, upstream, attempt: None, change, previous: None, replays: None, turn: None };
    rig.log.put(Kind::Attempted, entry::encode_attempted(&put_back));
    rig.settle();
    assert_eq!(disabled(&rig), None, "nothing has failed for six days");
    fail(&mut rig, 60);
    assert!(disabled(&rig).is_some());
}

#[test]
fn what_was_at_hand_for_a_removed_subscriber_is_sent_if_it_comes_back_before_the_plan_is_stored() {
    let mut rig = Rig::new(subscribed());
    let put = || Action::PutSubscriber { written: Written::Added, registration: registration_of("a"), streak: None };
    rig.log.command(put());
    rig.settle();
    rig.core.window("orders/a", 0);
    let event = rig.log.accept("t");
    let entries = |rig: &Rig| rig.log.scan(rig.core.state().next, 1 << 20).unwrap();
    let planned = rig.core.step(&entries(&rig), rig.now, &rig.table).unwrap().append;
    assert_eq!(planned.len(), 1);
    // The plan stands in the log after this.
    rig.log.command(Action::RemoveSubscriber { upstream: "orders/a".into() });
    let nothing = rig.core.step(&entries(&rig), rig.now, &rig.table).unwrap();
    assert!(nothing.append.is_empty() && nothing.dispatch.is_empty());
    rig.log.command(put());
    let later = rig.log.accept("t");
    rig.core.window("orders/a", 4);
    let effects = rig.core.step(&entries(&rig), rig.now, &rig.table).unwrap();
    let sent: Vec<Seq> = effects.dispatch.iter().map(|job| job.event.id.pos.seq).collect();
    assert_eq!(sent, [event, later], "it keeps its place");
}

#[test]
fn another_secret_while_a_subscriber_is_being_disabled_does_not_disable_it_twice() {
    let mut rig = Rig::new(subscribed());
    let put = |written| Action::PutSubscriber { written, registration: registration_of("a"), streak: None };
    rig.log.command(put(Written::Added));
    for _ in 0..2 {
        rig.log.accept("t");
    }
    rig.settle();
    for _ in 0..3 {
        fail(&mut rig, 60);
    }
    rig.later(6 * DAY);
    let jobs = rig.take();
    rig.log.attempt(jobs[0].1, &jobs[0].0, jobs[0].2, Change::Retry(rig.now));
    rig.log.command(put(Written::SecretRotated));
    rig.answer(&jobs[1..], &Change::Retry(rig.now));
    assert!(disabled(&rig).is_some());
    let commands = rig.log.all().into_iter().filter(|entry| entry.kind == Kind::Command);
    let commands = commands.filter_map(|entry| entry::decode_json::<entry::Command>(&entry.payload));
    let told = commands.filter(|command| matches!(command.action, Action::DisableSubscriber { .. }));
    assert_eq!(told.count(), 1);
}
