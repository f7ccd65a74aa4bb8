//! Owns the tests of what the door decided about an event: deliveries that are dead or held from the beginning.

use super::*;
use crate::event::{Cached, Extras};

fn held() -> Extras {
    Extras { hold: Some("over_budget".into()), ..Extras::default() }
}

#[test]
fn an_event_that_is_part_of_a_loop_dies_without_an_attempt_and_may_be_replayed() {
    let mut rig = Rig::new(to_ab());
    let extras = Extras { cut: Some("it came back".into()), hops: Some(3), ..Extras::default() };
    let event = rig.log.accept_noticed("s", &extras);
    rig.settle();
    assert_eq!(rig.take(), []);
    for upstream in ["a", "b"] {
        assert_eq!(rig.state_of(event, upstream), Some(DeliveryState::Dead));
    }
    let view = rig.core.view(event).unwrap();
    assert_eq!(view.deliveries[0].status.reason().unwrap().code, "loop");
    let targets = Rig::target(event, "a");
    rig.log.command(Action::Replay { targets, new_key: false, interval_us: None, created: false });
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1)]);
}

#[test]
fn an_event_answered_from_the_cache_goes_to_the_others_only_and_may_be_replayed() {
    let mut rig = Rig::new(to_ab());
    let cached = Cached { event: Some("E".into()), upstream: Some("a".into()) };
    let extras = Extras { cached: Some(cached), ..Extras::default() };
    let event = rig.log.accept_noticed("s", &extras);
    rig.settle();
    assert_eq!(rig.take(), [job("b", event, 1)]);
    assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Ignored));
    rig.restart();
    rig.settle();
    assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Ignored));
    assert_eq!(rig.take(), [job("b", event, 1)]);
    let targets = Rig::target(event, "a");
    rig.log.command(Action::Replay { targets, new_key: false, interval_us: None, created: false });
    rig.settle();
    assert_eq!(rig.take(), [job("a", event, 1)]);
}

#[test]
fn an_event_held_at_the_door_waits_for_its_release_also_over_a_restart() {
    let mut rig = Rig::new(to_ab());
    let (event, other) = (rig.log.accept_noticed("s", &held()), rig.log.accept("t"));
    rig.settle();
    assert_eq!(rig.take(), [job("a", other, 1)]);
    rig.restart();
    rig.settle();
    for upstream in ["a", "b"] {
        assert_eq!(rig.state_of(event, upstream), Some(DeliveryState::Held));
    }
    assert_eq!(rig.core.view(event).unwrap().deliveries[0].status.reason().unwrap().code, "over_budget");
    rig.take();
    rig.log.command(Action::Release { targets: Rig::target(event, "b") });
    rig.settle();
    assert_eq!(rig.take(), [job("b", event, 1)]);
    assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Held));
}

#[test]
fn a_crash_between_a_hold_and_its_plan_holds_once_and_never_again_what_was_released() {
    let mut rig = Rig::new(to_ab());
    let event = rig.log.accept_noticed("t", &held());
    let entries = rig.log.scan(rig.core.state().next, 1 << 20).unwrap();
    let written = rig.core.step(&entries, rig.now, &rig.table).unwrap().append;
    assert_eq!(written.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Attempted, Kind::Planned]);
    // Only the hold reaches the disk, and an operator releases it.
    rig.log.put_all(written.into_iter().take(1).collect());
    rig.log.command(Action::Release { targets: Rig::target(event, "a") });
    rig.restart();
    rig.settle();
    assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Pending));
    assert_eq!((rig.take(), rig.core.state().unplanned().len()), (vec![job("a", event, 1)], 0));
}

#[test]
fn an_event_that_is_only_stored_goes_nowhere_whatever_the_routes_say() {
    let mut rig = Rig::new(to_ab());
    let extras = Extras { imported: Some("01K".into()), stored_only: true, ..Extras::default() };
    let event = rig.log.accept_noticed("s", &extras);
    rig.settle();
    assert_eq!((rig.take(), rig.core.state().unplanned().len()), (vec![], 0));
    rig.restart();
    rig.settle();
    assert_eq!((rig.take(), rig.state_of(event, "a")), (vec![], None));
}
