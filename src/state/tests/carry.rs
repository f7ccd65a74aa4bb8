//! Owns the tests of what is said again before its segment goes, while operators say something else.

use super::*;
use crate::log::entry::{JobEnd, JobProgress, JobSpec};

const KEEP: Keep = Keep { settled: Duration::from_secs(1_000_000), dead: Duration::from_secs(1_000_000) };

/// What retention would say again now, before everything that stands in the log goes.
fn planned(log: &TestLog) -> (Expiry, Seq) {
    let before = log.end();
    (rebuilt(log).plan_expiry(log, 0..before, s(500), KEEP, 100).unwrap(), before)
}

/// Appends it.
fn append(log: &TestLog, expiry: Expiry) {
    log.put_all(expiry.upkeep);
    for order in expiry.carry {
        let original = log.read(order.stored_at).unwrap();
        let carried = Carried { id: original.id(), history: order.history, accepted: original.payload };
        log.put(Kind::Carried, entry::encode_carried(&carried));
        log.put_all(order.then);
    }
}

/// The state that has seen all of it, and the one that is made anew of what is left.
fn lived_and_rebuilt(log: &TestLog, before: Seq) -> [State; 2] {
    let mut lived = rebuilt(log);
    log.expire(before);
    while !lived.forget(before, &mut Forgetting::default(), 100).unwrap() {}
    [lived, rebuilt(log)]
}

fn state_of(state: &State, event: Seq, upstream: &str) -> Option<DeliveryState> {
    status(state, event, upstream).map(|status| status.state())
}

/// One event whose delivery to `a` is changed like this at its first attempt.
fn with(change: Change) -> (std::sync::Arc<TestLog>, Seq) {
    let log = TestLog::new();
    log.at(s(100));
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.attempt(event, "a", 1, change);
    (log, event)
}

fn replay_of(event: Seq) -> Action {
    Action::Replay { targets: vec![target(event, "a")], new_key: false, interval_us: None, created: false }
}

#[test]
fn a_replay_given_while_a_dead_delivery_is_carried_counts() {
    let (log, event) = with(Change::Die(Reason::new("refused")));
    let (expiry, before) = planned(&log);
    log.command(replay_of(event));
    append(&log, expiry);
    for state in lived_and_rebuilt(&log, before) {
        assert_eq!(state_of(&state, event, "a"), Some(DeliveryState::Pending));
    }
}

#[test]
fn an_attempt_that_is_under_way_while_its_delivery_is_carried_is_not_over() {
    let (log, event) = with(Change::Die(Reason::new("refused")));
    let (expiry, _) = planned(&log);
    log.command(replay_of(event));
    let mut state = rebuilt(&log);
    append(&log, expiry);
    let mut notes = Vec::new();
    super::super::replay_telling(&mut state, &*log, &mut |_| {}, &mut |_, note| notes.push(note)).unwrap();
    assert_eq!(notes, [], "nothing is different");
    log.attempt(event, "a", 2, Change::Delivered);
    assert_eq!(state_of(&rebuilt(&log), event, "a"), Some(DeliveryState::Delivered));
}

#[test]
fn a_replay_of_a_delivered_one_is_sent_although_its_event_is_carried() {
    let (log, event) = with(Change::Retry(s(200)));
    log.attempt(event, "a", 2, Change::Delivered);
    let (expiry, before) = planned(&log);
    log.command(replay_of(event));
    append(&log, expiry);
    for state in lived_and_rebuilt(&log, before) {
        assert_eq!(state_of(&state, event, "a"), Some(DeliveryState::Pending));
    }
}

#[test]
fn what_was_carried_is_known_with_its_reason_and_is_not_told_of_again() {
    let (log, event) = with(Change::Die(Reason::with("refused", "404 Not Found")));
    let (expiry, before) = planned(&log);
    append(&log, expiry);
    let mut lived = rebuilt(&log);
    log.expire(before);
    while !lived.forget(before, &mut Forgetting::default(), 100).unwrap() {}
    let (mut anew, mut notes) = (State::new(log.log_id()), Vec::new());
    super::super::replay_telling(&mut anew, &*log, &mut |_| {}, &mut |_, note| notes.push(note)).unwrap();
    assert!(!notes.iter().any(|note| matches!(note, Note::Died(..))), "{notes:?}");
    for state in [lived, anew] {
        let delivery = state.view(event, &|_| true).unwrap().deliveries.remove(0).with_reason(&*log);
        assert_eq!(delivery.status, Status::Dead(Reason::with("refused", "404 Not Found")));
    }
}

#[test]
fn a_held_delivery_keeps_the_end_of_its_hold_and_its_release_counts_while_it_is_carried() {
    let (log, event) = with(Change::Retry(s(200)));
    let hold = Action::Hold { targets: vec![target(event, "a")], until_ms: Some(900_000), reason: Some("why".into()) };
    log.command(hold);
    let (expiry, before) = planned(&log);
    let released = log.cut(log.all().len());
    append(&log, expiry.clone());
    for state in lived_and_rebuilt(&log, before) {
        let delivery = state.view(event, &|_| true).unwrap().deliveries.remove(0).with_reason(&*log);
        assert_eq!((delivery.status, delivery.due), (Status::Held(Reason::with("operator", "why")), Some(s(900))));
    }
    released.command(Action::Release { targets: vec![target(event, "a")] });
    append(&released, expiry);
    assert_eq!(state_of(&rebuilt(&released), event, "a"), Some(DeliveryState::Pending));
}

#[test]
fn a_deleted_event_stays_deleted_although_it_is_carried() {
    let (log, event) = with(Change::Retry(s(200)));
    let (expiry, before) = planned(&log);
    log.command(Action::Delete { events: vec![event] });
    append(&log, expiry);
    for state in lived_and_rebuilt(&log, before) {
        assert!(state.is_deleted(event));
        assert_eq!(state.oldest_live(), None);
    }
}

fn held(state: &State) -> bool {
    state.upstreams().iter().any(|upstream| upstream.hold.is_some())
}

fn drained(state: &State) -> usize {
    state.upstreams().iter().map(|upstream| upstream.drained.len()).sum()
}

fn running(state: &State) -> usize {
    state.jobs().iter().filter(|job| job.ended.is_none()).count()
}

fn start() -> Action {
    let (filters, to, interval_us) = ("{}".into(), None, None);
    let spec = JobSpec { filters, to, new_key: false, original: false, interval_us, first: 0, before: 1_000 };
    Action::StartJob { id: None, spec, progress: JobProgress::default(), started_ms: 5_000 }
}

#[test]
fn what_an_operator_ends_while_it_is_said_again_has_ended() {
    let hold = || Action::HoldUpstream { upstream: "a".into(), until_ms: None, reason: None };
    let drain = || Action::DrainTarget { upstream: "a".into(), target: "http://x".into(), reason: None };
    type Case = (Action, fn(Seq) -> Action, fn(&State) -> usize);
    let cases: [Case; 3] = [
        (hold(), |_| Action::ReleaseUpstream { upstream: "a".into() }, |state| held(state).into()),
        (drain(), |_| Action::UndrainTarget { upstream: "a".into(), target: "http://x".into() }, drained),
        (start(), |job| Action::EndJob { job, end: JobEnd::Cancelled, why: None }, running),
    ];
    for (begin, end, count) in cases {
        let log = TestLog::new();
        let begun = log.command(begin);
        let (expiry, before) = planned(&log);
        let undisturbed = log.cut(log.all().len());
        append(&undisturbed, expiry.clone());
        for state in lived_and_rebuilt(&undisturbed, before) {
            assert_eq!(count(&state), 1, "what nobody ended goes on");
        }
        log.command(end(begun));
        append(&log, expiry);
        for state in lived_and_rebuilt(&log, before) {
            assert_eq!(count(&state), 0);
        }
    }
}

#[test]
fn what_had_no_effect_is_said_again_until_it_has() {
    let log = TestLog::new();
    log.command(Action::HoldUpstream { upstream: "a".into(), until_ms: None, reason: None });
    let (expiry, before) = planned(&log);
    // Another one's command may be about the same.
    log.command(Action::ReleaseUpstream { upstream: "b".into() });
    append(&log, expiry);
    let again = rebuilt(&log).plan_expiry(&*log, 0..before, s(500), KEEP, 100).unwrap();
    assert!(!again.upkeep.is_empty());
    append(&log, again);
    let done = rebuilt(&log).plan_expiry(&*log, 0..before, s(500), KEEP, 100).unwrap();
    assert!(done.upkeep.is_empty());
    for state in lived_and_rebuilt(&log, before) {
        assert!(held(&state));
    }
}
