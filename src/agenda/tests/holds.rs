//! Owns the tests of what is held: by an operator, for a time, or because its upstream is gone.

use super::*;

#[test]
fn a_held_upstream_gets_nothing_and_goes_on_by_itself_when_its_time_has_come() {
    let mut rig = Rig::new(to_ab());
    rig.log.command(Action::HoldUpstream { upstream: "a".into(), until_ms: Some(at(60).as_millis()), reason: None });
    let event = rig.log.accept("s");
    rig.settle();
    assert_eq!(rig.take(), [job("b", event, 1)]);
    assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Held));
    rig.restart();
    rig.later(61);
    let job = rig.sent.iter().find(|job| &*job.upstream == "a").unwrap();
    assert!(job.paused >= Duration::from_secs(60), "{:?} does not count towards giving up", job.paused);
    assert!(rig.core.state().upstreams().iter().all(|upstream| upstream.hold.is_none()));
}

#[test]
fn a_held_delivery_waits_for_its_release_by_hand_or_by_time() {
    let mut rig = Rig::new(to_ab());
    rig.core.window("a", 0);
    let (one, two) = (rig.log.accept("t"), rig.log.accept("t"));
    rig.settle();
    rig.log.command(Action::Hold { targets: Rig::target(one, "a"), until_ms: None, reason: None });
    let until_ms = Some(at(10).as_millis());
    rig.log.command(Action::Hold { targets: Rig::target(two, "a"), until_ms, reason: None });
    rig.core.window("a", 9);
    rig.later(5);
    assert!(rig.take().is_empty());
    rig.later(6);
    assert_eq!(rig.take(), [job("a", two, 1)]);
    rig.log.command(Action::Release { targets: Rig::target(one, "a") });
    rig.later(1);
    assert_eq!(rig.take(), [job("a", one, 1)]);
}

#[test]
fn deliveries_of_a_removed_upstream_are_held_until_it_returns() {
    let mut rig = Rig::new(to_ab());
    rig.core.window("b", 0);
    let event = rig.log.accept("s");
    rig.settle();
    rig.take();
    rig.table = table(&["a"], vec![route("both", "s", &["a"])]);
    rig.settle();
    rig.later(100);
    assert_eq!(rig.state_of(event, "b"), Some(DeliveryState::Held));
    assert!(rig.take().is_empty());
    rig.table = to_ab();
    rig.later(1);
    assert_eq!(rig.sent[0].paused, Duration::from_secs(101));
    assert_eq!(rig.take(), [job("b", event, 1)]);
}
