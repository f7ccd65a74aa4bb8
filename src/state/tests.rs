//! Owns the tests of the state: histories, crashes, damage, carrying.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::{testing::TestLog, *};
use crate::{
    clock::Timestamp,
    event::{Change, DeliveryState, Reason, Status},
    log::{
        Kind, Log,
        entry::{self, Action, Carried, Duplicate, Target},
    },
};

mod carry;
mod jobs;

const UPSTREAMS: [&str; 3] = ["a", "b", "c"];

const fn s(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn rebuilt(log: &TestLog) -> State {
    let mut state = State::new(log.log_id());
    replay(&mut state, log, &mut |_| {}).unwrap();
    state
}

fn target(event: Seq, upstream: &str) -> Target {
    Target { event, upstream: upstream.into() }
}

fn status(state: &State, event: Seq, upstream: &str) -> Option<Status> {
    let view = state.view(event, &|_| true).unwrap();
    view.deliveries.into_iter().find(|delivery| &*delivery.upstream == upstream).map(|delivery| delivery.status)
}

type Summary =
    (Vec<Seq>, Vec<Seq>, BTreeMap<String, (Vec<Seq>, Vec<Seq>, Vec<Seq>, Vec<Seq>, [u64; 32])>, Vec<EventView>);

/// Everything a state says, by name.
fn summary(state: &State) -> Summary {
    let list = |set: &RoaringTreemap| set.iter().collect::<Vec<_>>();
    let upstreams = state.upstreams().iter().map(|upstream| {
        let sets = [&upstream.waiting, &upstream.pending, &upstream.held, &upstream.dead].map(list);
        let [waiting, pending, held, dead] = sets;
        (upstream.name.to_string(), (waiting, pending, held, dead, upstream.dead_by_reason))
    });
    let views = (0..state.next).step_by(3).map(|event| state.view(event, &|_| true).unwrap());
    (list(&state.unplanned), list(&state.deleted), upstreams.collect(), views.collect())
}

#[test]
fn a_delivery_delivered_at_the_first_attempt_leaves_no_record() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    assert_eq!(status(&rebuilt(&log), event, "a"), Some(Status::Pending { due: s(0) }));
    log.attempt(event, "a", 1, Change::Delivered);
    let state = rebuilt(&log);
    assert_eq!(state.layers().changed(), 0);
    let all = deliveries(&["a".into()], &state.view(event, &|_| true).unwrap());
    assert_eq!((all[0].status.clone(), all[0].attempts), (Status::Delivered, 1));
}

#[test]
fn a_delivery_whose_plan_is_in_the_log_but_not_applied_yet_waits_for_its_first_attempt() {
    let log = TestLog::new();
    let before = rebuilt(&log);
    let event = log.accept("s");
    let accepted = rebuilt(&log);
    log.plan(event, &["a"]);
    for state in [before, accepted] {
        let all = deliveries(&["a".into()], &state.view(event, &|_| true).unwrap());
        assert_eq!((all[0].status.state(), all[0].attempts), (DeliveryState::Pending, 0));
    }
}

#[test]
fn a_first_attempt_that_succeeds_days_later_keeps_its_time_of_settlement() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.at(s(86_400));
    log.attempt(event, "a", 1, Change::Delivered);
    let state = rebuilt(&log);
    assert_eq!(state.record(Key::new(event, 0)).unwrap().unwrap().settled_at, s(86_400));
}

#[test]
fn a_second_plan_and_impossible_changes_alter_nothing() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.attempt(event, "a", 1, Change::Delivered);
    let before = summary(&rebuilt(&log)).2;
    log.plan(event, &["a", "b"]);
    log.attempt(event, "a", 2, Change::Retry(s(9)));
    let mut after = summary(&rebuilt(&log)).2;
    after.remove("b");
    assert_eq!(after, before);
    assert_eq!(status(&rebuilt(&log), event, "b"), None);
}

#[test]
fn a_death_written_before_the_plan_outlives_the_plan() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.attempt(event, "a", 0, Change::Die(Reason::with("conflicting_routes", "x, y")));
    log.plan(event, &["a", "b"]);
    let state = rebuilt(&log);
    let view = state.view(event, &|_| true).unwrap();
    let dead = view.deliveries[0].clone().with_reason(&*log);
    assert_eq!(dead.status, Status::Dead(Reason::with("conflicting_routes", "x, y")));
    assert_eq!(status(&state, event, "b"), Some(Status::Pending { due: s(0) }));
}

#[test]
fn a_replay_makes_a_delivery_due_whatever_it_was_and_makes_new_ones() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a", "b"]);
    log.attempt(event, "a", 1, Change::Delivered);
    log.attempt(event, "b", 1, Change::Die(Reason::new("refused")));
    log.at(s(60));
    let targets = vec![target(event, "a"), target(event, "b"), target(event, "new")];
    log.command(Action::Replay { targets, new_key: true, interval_us: Some(2_000_000), created: false });
    let state = rebuilt(&log);
    for (upstream, due) in [("a", 60), ("b", 62), ("new", 64)] {
        assert_eq!(status(&state, event, upstream), Some(Status::Pending { due: s(due) }));
        let record = state.record(Key::new(event, state.id(upstream).unwrap())).unwrap().unwrap();
        assert_eq!((record.replays, record.new_keys, record.planned_at), (1, 1, s(due)));
    }
    assert_eq!(state.upstream(1).unwrap().dead.len(), 0);
}

#[test]
fn holds_survive_outcomes_and_end_by_release() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.command(Action::Hold { targets: vec![target(event, "a")], until_ms: Some(90_000), reason: Some("why".into()) });
    log.attempt(event, "a", 1, Change::Retry(s(5)));
    let state = rebuilt(&log);
    let delivery = state.view(event, &|_| true).unwrap().deliveries[0].clone().with_reason(&*log);
    assert_eq!(delivery.status, Status::Held(Reason::with("operator", "why")));
    assert_eq!(delivery.due, Some(s(90)));
    log.at(s(7));
    log.command(Action::Release { targets: vec![target(event, "a")] });
    assert_eq!(status(&rebuilt(&log), event, "a"), Some(Status::Pending { due: s(7) }));
}

#[test]
fn what_waits_for_a_held_or_removed_upstream_is_shown_as_held() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.command(Action::HoldUpstream { upstream: "a".into(), until_ms: None, reason: Some("migration".into()) });
    let state = rebuilt(&log);
    assert_eq!(status(&state, event, "a"), Some(Status::Held(Reason::with("upstream_held", "migration"))));
    let view = state.view(event, &|_| false).unwrap();
    assert_eq!(view.deliveries[0].status, Status::Held(Reason::new("upstream_removed")));
    assert_eq!(state.list(DeliveryState::Pending, Some("a"), None, 10).len(), 1);
}

#[test]
fn a_hold_without_a_reason_leaves_the_reason_that_is_known() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    let hold = |until_ms, reason: Option<&str>| {
        log.command(Action::HoldUpstream { upstream: "a".into(), until_ms, reason: reason.map(str::to_owned) });
    };
    let held = || status(&rebuilt(&log), event, "a");
    hold(None, Some("migration"));
    hold(Some(u64::MAX), None);
    assert_eq!(held(), Some(Status::Held(Reason::with("upstream_held", "migration"))));
    hold(None, Some("audit"));
    assert_eq!(held(), Some(Status::Held(Reason::with("upstream_held", "audit"))));
    log.command(Action::ReleaseUpstream { upstream: "a".into() });
    hold(None, None);
    assert_eq!(held(), Some(Status::Held(Reason::new("upstream_held"))));
}

#[test]
fn a_drained_target_is_one_until_it_is_undrained_and_is_carried_on() {
    let log = TestLog::new();
    let drain = |target: &str| Action::DrainTarget { upstream: "a".into(), target: target.into(), reason: None };
    log.command(drain("http://x"));
    log.command(drain("http://y"));
    log.command(Action::UndrainTarget { upstream: "a".into(), target: "http://x".into() });
    log.command(drain("http://y"));
    let state = rebuilt(&log);
    let drained = |state: &State| -> Vec<Box<str>> {
        let all = state.upstreams().iter().flat_map(|upstream| &upstream.drained);
        all.map(|drained| drained.target.clone()).collect()
    };
    assert_eq!(drained(&state), ["http://y".into()]);
    let keep = Keep { settled: Duration::from_secs(100), dead: Duration::from_secs(100) };
    let expiry = state.plan_expiry(&*log, 0..log.end(), s(500), keep, 100).unwrap();
    let after = TestLog::new();
    after.put_all(expiry.upkeep);
    assert_eq!(drained(&rebuilt(&after)), drained(&state), "what came before may go");
}

#[test]
fn a_replay_is_due_when_it_was_given_however_the_wall_clock_has_stepped() {
    let log = TestLog::new();
    let event = log.accept("s");
    log.plan(event, &["a"]);
    log.attempt(event, "a", 1, Change::Die(Reason::new("refused")));
    let action =
        Action::Replay { targets: vec![target(event, "a")], new_key: false, interval_us: None, created: false };
    let given = s(1);
    log.at(s(3_600));
    let payload = entry::encode_command(&entry::Command::new("uid 0 (root)", action), given);
    let stored = log.put(Kind::Command, payload);
    assert!(log.read(stored).unwrap().time > given, "the log's time is that of the wall");
    assert_eq!(status(&rebuilt(&log), event, "a"), Some(Status::Pending { due: given }));
}

#[test]
fn a_deleted_event_is_never_due_again() {
    let log = TestLog::new();
    let (one, two) = (log.accept("s"), log.accept("s"));
    log.plan(one, &["a"]);
    log.command(Action::Delete { events: vec![one, two] });
    log.attempt(one, "a", 1, Change::Retry(s(5)));
    log.command(Action::Replay { targets: vec![target(one, "a")], new_key: false, interval_us: None, created: false });
    let state = rebuilt(&log);
    assert!(state.is_deleted(one) && state.is_deleted(two) && state.unplanned.is_empty());
    assert_eq!(state.oldest_live(), None);
}

#[test]
fn a_million_waiting_events_cost_little_memory() {
    let mut state = State::new(7);
    let id = state.intern("a");
    let upstream = state.upstream_mut(id).unwrap();
    for event in 0..1_000_000_u64 {
        upstream.waiting.insert(event * 3);
    }
    assert!(upstream.waiting.serialized_size() < 1 << 20);
}

/// Random histories: each number is an action on one of twenty events.
fn history(log: &TestLog, actions: &[(u8, u8, u8)]) {
    let mut events = vec![log.accept("s")];
    for (step, (action, which, upstream)) in actions.iter().enumerate() {
        log.at(s(step as u64 * 40));
        let event = events[usize::from(*which) % events.len()];
        let upstream = UPSTREAMS[usize::from(*upstream) % 3];
        let targets = vec![target(event, upstream)];
        match action % 12 {
            0 | 1 => {
                events.push(log.accept("s"));
                0
            }
            2 | 3 => log.plan(event, &UPSTREAMS[..1 + usize::from(*which) % 3]),
            4 => log.attempt(event, upstream, 1, Change::Delivered),
            5 => log.attempt(event, upstream, 2, Change::Retry(s(step as u64 + 99))),
            6 => log.attempt(event, upstream, 3, Change::Die(Reason::new("given_up"))),
            7 => log.command(Action::Hold { targets, until_ms: None, reason: None }),
            8 => log.command(Action::Release { targets }),
            9 => log.command(Action::Replay { targets, new_key: true, interval_us: None, created: false }),
            10 => log.command(Action::Delete { events: vec![event] }),
            _ => {
                let duplicate = Duplicate { first: event, count: 2, body_differs: 1 };
                log.put(Kind::Duplicate, entry::encode_duplicate(&duplicate))
            }
        };
    }
}

fn actions() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((any::<u8>(), 0_u8..20, any::<u8>()), 1..120)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn checkpoints_killed_anywhere_and_the_tail_give_the_same_state_as_a_rebuild(
        actions in actions(),
        every in 1_usize..12,
        kills in proptest::collection::vec(0_u32..9, 1..40),
    ) {
        let log = TestLog::new();
        history(&log, &actions);
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        let (mut store, mut state) = Store::open(&dir, log.log_id(), log.end()).unwrap();
        let mut kills = kills.into_iter().cycle();
        for (index, entry) in log.all().iter().enumerate() {
            state.apply(entry, &mut |_| {}).unwrap();
            if index % every == 0 {
                store.steps_left = kills.next();
                let frozen = state.freeze(0);
                if let Ok(written) = store.write(frozen) {
                    state.layers_mut().written(written.runs);
                    prop_assert!(state.layers().runs().len() <= 8);
                } else if index % 2 == 0 {
                    // Power is gone: only the directory, as it is now, and the durable log remain.
                    (store, state) = Store::open(&dir, log.log_id(), log.end()).unwrap();
                    prop_assert!(state.next <= entry.pos.seq + 1);
                    let durable = log.cut(index + 1);
                    replay(&mut state, &*durable, &mut |_| {}).unwrap();
                }
            }
        }
        prop_assert_eq!(summary(&state), summary(&rebuilt(&log)));

        // A directory of any age with a log of any age: never a wrong state.
        let old = home.path().join("old");
        copy(&dir, &old);
        let shorter = log.cut(log.all().len() / 2);
        let (_store, mut state) = Store::open(&old, shorter.log_id(), shorter.end()).unwrap();
        replay(&mut state, &*shorter, &mut |_| {}).unwrap();
        prop_assert_eq!(summary(&state), summary(&rebuilt(&shorter)));
    }
}

#[test]
fn a_damaged_file_of_the_state_means_a_rebuild_and_offline_changes_no_file() {
    let log = TestLog::new();
    for _ in 0..50 {
        let event = log.accept("s");
        log.plan(event, &["a"]);
        log.attempt(event, "a", 1, Change::Die(Reason::new("refused")));
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("state");
    let (mut store, mut state) = Store::open(&dir, log.log_id(), log.end()).unwrap();
    replay(&mut state, &*log, &mut |_| {}).unwrap();
    store.write(state.freeze(0)).unwrap();
    let expected = summary(&state);
    for file in fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()) {
        let whole = fs::read(&file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&file, &damaged).unwrap();
            let offline = Offline::open(&dir, &*log).unwrap();
            assert_eq!(summary(&offline.state), expected, "{} byte {at}", file.display());
            assert_eq!(fs::read(&file).unwrap(), damaged, "offline reading writes nothing");
        }
        fs::write(&file, &whole).unwrap();
    }
    let other = State::new(8);
    assert!(store::load(&dir, other.log_id, log.end()).is_err());
    assert!(store::load(&dir, log.log_id(), 1).is_err(), "ahead of the log");
}

#[test]
fn what_is_undelivered_or_dead_is_carried_and_known_after_its_segment_is_gone() {
    let log = TestLog::new();
    let keep = Keep { settled: Duration::from_secs(100), dead: Duration::from_secs(10_000) };
    let events: Vec<Seq> = (0..6).map(|_| log.accept("s")).collect();
    for event in &events[..5] {
        log.plan(*event, &["a", "b"]);
        log.attempt(*event, "b", 1, Change::Delivered);
    }
    let [waiting, retried, dead, held, delivered, unplanned] = events[..] else { panic!("six events") };
    log.attempt(retried, "a", 3, Change::Retry(s(50)));
    log.attempt(dead, "a", 1, Change::Die(Reason::with("refused", "404 Not Found")));
    log.command(Action::Hold { targets: vec![target(held, "a")], until_ms: None, reason: None });
    log.attempt(delivered, "a", 1, Change::Delivered);
    log.command(Action::HoldUpstream { upstream: "b".into(), until_ms: None, reason: None });
    log.at(s(500));
    let mut state = rebuilt(&log);
    let before = log.end();
    let expiry = state.plan_expiry(&*log, 0..before, s(500), keep, 100).unwrap();
    let carried: Vec<Seq> = expiry.carry.iter().map(|order| order.event).collect();
    assert_eq!(carried, [waiting, retried, dead, held, unplanned]);
    let mut pieces = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let piece = state.plan_expiry(&*log, at..before, s(500), keep, 1).unwrap();
        assert!(piece.carry.len() <= 1 && piece.next.is_none_or(|next| next > at));
        pieces.extend(piece.carry.iter().map(|order| order.event));
        from = piece.next;
    }
    assert_eq!(pieces, carried, "in pieces it is the same");
    for order in expiry.carry {
        let original = log.read(order.stored_at).unwrap();
        let carried = Carried { id: original.id(), history: order.history, accepted: original.payload };
        log.put(Kind::Carried, entry::encode_carried(&carried));
        log.put_all(order.then);
    }
    log.put_all(expiry.upkeep);
    replay(&mut state, &*log, &mut |_| {}).unwrap();
    assert!(state.plan_expiry(&*log, 0..before, s(500), keep, 100).unwrap().carry.is_empty(), "all of it was carried");
    log.expire(before);
    let mut at = Forgetting::default();
    let slices = (1..1000).find(|_| state.forget(before, &mut at, 2).unwrap());
    assert!(slices.is_some_and(|slices| slices > 2), "in slices of two look-ups: {slices:?}");

    for state in [state, rebuilt(&log)] {
        assert_eq!(status(&state, waiting, "a").map(|status| status.state()), Some(DeliveryState::Pending));
        assert_eq!(status(&state, retried, "a").map(|status| status.state()), Some(DeliveryState::Pending));
        assert_eq!(status(&state, dead, "a").map(|status| status.state()), Some(DeliveryState::Dead));
        assert_eq!(status(&state, held, "a").map(|status| status.state()), Some(DeliveryState::Held));
        assert!(state.unplanned.contains(unplanned));
        assert!(state.upstreams().iter().any(|upstream| &*upstream.name == "b" && upstream.hold.is_some()));
        let stored_at = state.stored_at(dead).unwrap();
        assert!(stored_at >= before);
        assert_eq!(entry::decode_event(&log.read(stored_at).unwrap()).unwrap().id.pos.seq, dead);
        assert_eq!(state.upstreams().iter().map(|upstream| upstream.dead_by_reason[0]).sum::<u64>(), 1);
    }
}

#[test]
fn a_store_full_of_carried_events_is_asked_about_and_forgotten_in_pieces() {
    let log = TestLog::new();
    let keep = Keep { settled: Duration::from_secs(100), dead: Duration::from_secs(10_000) };
    let events: Vec<Seq> = (0..100).map(|_| log.accept("s")).collect();
    let before = log.end();
    for event in &events {
        let original = log.read(*event).unwrap();
        let history = vec![("a".into(), 0)];
        log.put(
            Kind::Carried,
            entry::encode_carried(&Carried { id: original.id(), history, accepted: original.payload }),
        );
    }
    let again = log.end();
    let mut state = rebuilt(&log);
    let mut questions = 0;
    let mut from = Some(0);
    while let Some(at) = from {
        let piece = state.plan_expiry(&*log, at..before, s(500), keep, 1).unwrap();
        assert!(piece.carry.is_empty());
        (from, questions) = (piece.next, questions + 1);
    }
    assert!(questions > 5, "{questions} questions about 100 events, 16 at once");

    // Nothing of it is forgotten while it stands further on, and all of it when that is gone, too.
    for (first, left) in [(before, 100), (again, 0)] {
        let mut at = Forgetting::default();
        let slices = (1..100).find(|_| state.forget(first, &mut at, 30).unwrap());
        assert_eq!((slices, state.upstreams()[0].waiting.len()), (Some(4), left));
    }
}
