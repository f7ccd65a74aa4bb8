//! Owns the tests of what the log says about jobs, and of what else moves deliveries along.

use super::*;
use crate::log::entry::{JobEnd, JobProgress, JobSpec, ReplayStep};

fn started(id: Option<Seq>) -> Action {
    let spec = JobSpec {
        filters: "{}".into(),
        to: None,
        new_key: true,
        original: true,
        interval_us: Some(1_000_000),
        first: 0,
        before: 1_000,
    };
    Action::StartJob { id, spec, progress: JobProgress::default(), started_ms: 5_000 }
}

fn progress(next: Seq, deliveries: u64) -> JobProgress {
    JobProgress { next, deliveries, ..JobProgress::default() }
}

/// How many jobs are said again.
fn begun(expiry: &Expiry) -> usize {
    let command = |entry: &crate::log::NewEntry| entry::decode_json::<entry::Command>(&entry.payload);
    let actions = expiry.upkeep.iter().filter_map(command).map(|command| command.action);
    actions.filter(|action| matches!(action, Action::StartJob { .. })).count()
}

/// Two dead deliveries, and a step that takes them and makes one more.
fn with_a_step() -> (std::sync::Arc<TestLog>, Seq, Seq) {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a", "b"]);
    for upstream in ["a", "b"] {
        log.attempt(event, upstream, 1, Change::Die(Reason::new("refused")));
    }
    log.at(s(100));
    let job = log.command(started(None));
    log.command(Action::ReplayStep(ReplayStep {
        job: Some((job, progress(event + 1, 3))),
        from: Some(0),
        targets: vec![target(event, "a"), target(event, "b")],
        created: vec![target(event, "c")],
        new_key: true,
        original: true,
        interval_us: Some(1_000_000),
    }));
    (log, event, job)
}

#[test]
fn a_step_and_how_far_the_job_has_come_are_one() {
    let (log, event, id) = with_a_step();
    let state = rebuilt(&log);
    for (upstream, due, attempts) in [("a", 100, 1), ("b", 101, 1), ("c", 102, 0)] {
        let record = state.record(Key::new(event, state.id(upstream).unwrap())).unwrap().unwrap();
        assert_eq!(
            (record.state, record.due, record.attempts),
            (DeliveryState::Pending, s(due), attempts),
            "{upstream}"
        );
        assert!(record.original && record.replayed && record.new_keys == 1);
    }
    let job = state.jobs().iter().next().unwrap();
    assert_eq!((job.id, job.progress, job.started_at), (id, progress(event + 1, 3), s(5)));
    // The next replay says anew how the body goes.
    let targets = vec![target(event, "a")];
    log.command(Action::Replay { targets, new_key: false, interval_us: None, created: false });
    let state = rebuilt(&log);
    assert!(!state.record(Key::new(event, state.id("a").unwrap())).unwrap().unwrap().original);
}

#[test]
fn a_job_goes_on_from_a_checkpoint_and_from_a_log_that_lost_its_beginning() {
    let (log, event, id) = with_a_step();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    let (mut store, _) = Store::open(&dir, log.log_id(), log.end()).unwrap();
    let mut state = rebuilt(&log);
    drop(store.write(state.freeze(0)).unwrap());
    let (_store, loaded) = Store::open(&dir, log.log_id(), log.end()).unwrap();
    assert_eq!(loaded.jobs(), state.jobs());

    let keep = Keep { settled: Duration::from_secs(1), dead: Duration::from_secs(1) };
    let before = log.end();
    let expiry = state.plan_expiry(&*log, 0..before, s(200), keep, 100).unwrap();
    assert_eq!(begun(&expiry), 1);
    log.put_all(expiry.upkeep);
    log.expire(before);
    let later = rebuilt(&log);
    let job = later.jobs().iter().next().unwrap();
    assert_eq!((job.id, job.progress, &*job.actor), (id, progress(event + 1, 3), "uid 0 (root)"));
    replay(&mut state, &*log, &mut |_| {}).unwrap();
    assert_eq!(state.jobs(), later.jobs());
    assert_eq!(begun(&state.plan_expiry(&*log, 0..before, s(200), keep, 100).unwrap()), 0, "it was said again");

    log.command(Action::EndJob { job: id, end: JobEnd::Cancelled, why: None });
    let ended = rebuilt(&log);
    assert!(matches!(ended.jobs().iter().next().unwrap().ended, Some((_, JobEnd::Cancelled, None))));
    let expiry = ended.plan_expiry(&*log, 0..log.end(), s(200), keep, 100).unwrap();
    assert_eq!(begun(&expiry), 0, "nobody needs to know of it for ever");
}

#[test]
fn what_is_requeued_is_due_now_and_what_is_given_up_is_dead_with_the_words_of_the_operator() {
    let log = TestLog::new();
    let events = [log.accept("s"), log.accept("s"), log.accept("s")];
    for event in events {
        log.plan(event, &["a"]);
        log.attempt(event, "a", 1, Change::Retry(s(9_000)));
    }
    log.attempt(events[2], "a", 2, Change::Delivered);
    log.command(Action::Hold { targets: vec![target(events[1], "a")], until_ms: None, reason: None });
    log.at(s(60));
    let all = || events.iter().map(|event| target(*event, "a")).collect::<Vec<_>>();
    log.command(Action::Requeue { targets: all() });
    let state = rebuilt(&log);
    assert_eq!(status(&state, events[0], "a"), Some(Status::Pending { due: s(60) }));
    assert_eq!(status(&state, events[1], "a"), Some(Status::Held(Reason::new("operator"))));
    assert_eq!(status(&state, events[2], "a"), Some(Status::Delivered));
    log.command(Action::Expire { targets: all(), reason: Some("too old".into()) });
    let state = rebuilt(&log);
    for event in &events[..2] {
        let view = state.view(*event, &|_| true).unwrap().deliveries.pop().unwrap().with_reason(&*log);
        assert_eq!(view.status, Status::Dead(Reason::with("operator", "too old")));
    }
    assert_eq!(status(&state, events[2], "a"), Some(Status::Delivered));
}

#[test]
fn a_step_that_comes_after_the_end_of_its_job_or_twice_is_void() {
    let (log, event, id) = with_a_step();
    let step = |from: Option<Seq>, next: Seq| {
        let (targets, created) = (vec![target(event, "a")], Vec::new());
        let job = Some((id, progress(next, 4)));
        let (new_key, original, interval_us) = (false, false, None);
        Action::ReplayStep(ReplayStep { job, from, targets, created, new_key, original, interval_us })
    };
    let replays = |log: &TestLog| {
        let state = rebuilt(log);
        state.record(Key::new(event, state.id("a").unwrap())).unwrap().unwrap().replays
    };
    // Whoever gave it was not told that it was stored, and gave it again, or one like it.
    log.command(step(Some(0), event + 1));
    log.command(step(Some(0), event + 9));
    assert_eq!(replays(&log), 1);
    assert_eq!(rebuilt(&log).jobs().iter().next().unwrap().progress, progress(event + 1, 3));
    log.command(step(Some(event + 1), event + 9));
    assert_eq!(replays(&log), 2);
    // It was on its way when an operator ended the job.
    log.command(Action::EndJob { job: id, end: JobEnd::Cancelled, why: None });
    log.command(step(Some(event + 9), event + 10));
    assert_eq!(replays(&log), 2);
}

#[test]
fn an_attempt_that_was_under_way_when_its_delivery_was_given_up_is_counted_and_changes_nothing_else() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.attempt(event, "a", 1, Change::Retry(s(9_000)));
    log.command(Action::Expire { targets: vec![target(event, "a")], reason: Some("too old".into()) });
    let last = log.attempt(event, "a", 2, Change::Delivered);
    let state = rebuilt(&log);
    let record = state.record(Key::new(event, state.id("a").unwrap())).unwrap().unwrap();
    assert_eq!((record.state, record.attempts, record.last), (DeliveryState::Dead, 2, Some(last)));
    let view = state.view(event, &|_| true).unwrap().deliveries.pop().unwrap().with_reason(&*log);
    assert_eq!(view.status, Status::Dead(Reason::with("operator", "too old")));
}
