//! Owns the tests of which dead deliveries are told of.

use super::*;
use crate::routing::NotifyPolicy;

fn notifying(per_minute: u32) -> Arc<Table> {
    let mut table = Arc::into_inner(to_ab()).unwrap();
    let told = table.upstreams["a"].clone();
    let notify = Some(NotifyPolicy { topic: "deaths".into(), per_minute });
    table.upstreams.insert("a".into(), Arc::new(Upstream { notify, ..(*told).clone() }));
    Arc::new(table)
}

fn die() -> Change {
    Change::Die(Reason::with("refused", "404 Not Found"))
}

/// Applies what is new and gives what is to be told.
fn told(rig: &mut Rig) -> Vec<Notice> {
    let entries = rig.log.scan(rig.core.state().next, 1 << 20).unwrap();
    let effects = rig.core.step(&entries, rig.now, &rig.table).unwrap();
    rig.log.put_all(effects.append);
    effects.notices
}

fn accepted(rig: &mut Rig, count: usize) -> Vec<Seq> {
    let events = (0..count).map(|_| rig.log.accept("s")).collect();
    rig.settle();
    events
}

#[test]
fn a_death_is_told_of_once_for_each_upstream_that_says_so() {
    let mut rig = Rig::new(notifying(10));
    let event = accepted(&mut rig, 1)[0];
    for upstream in ["a", "b"] {
        rig.log.attempt(event, upstream, 3, die());
    }
    let notices = told(&mut rig);
    let [Notice::Death(death)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((&*death.upstream, &*death.topic, death.stored_at), ("a", "deaths", event));
    assert_eq!((death.attempts, death.reason.code), (3, "refused"));
    // The same again changes nothing.
    rig.log.attempt(event, "a", 4, die());
    assert_eq!(told(&mut rig), []);
}

#[test]
fn beyond_a_number_a_minute_all_others_are_told_of_at_its_end_as_one() {
    let mut rig = Rig::new(notifying(2));
    for event in accepted(&mut rig, 5) {
        rig.log.attempt(event, "a", 1, die());
    }
    assert_eq!(told(&mut rig).len(), 2);
    rig.core.end_minutes(rig.now);
    assert_eq!(told(&mut rig), [], "the minute is not over");
    rig.now = rig.now.after(Duration::from_secs(60));
    rig.core.end_minutes(rig.now);
    let notices = told(&mut rig);
    let [Notice::More(more)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((&*more.upstream, more.reasons.get("refused")), ("a", Some(&3)));
    for event in accepted(&mut rig, 1) {
        rig.log.attempt(event, "a", 1, die());
    }
    assert_eq!(told(&mut rig).len(), 1, "a new minute");
}

#[test]
fn what_dies_of_its_plan_is_told_of() {
    let mut rig = Rig::new(notifying(10));
    let extras = crate::event::Extras { cut: Some("it came back".into()), ..Default::default() };
    rig.log.accept_noticed("t", &extras);
    let mut notices = Vec::new();
    for _ in 0..4 {
        notices.extend(told(&mut rig));
    }
    let [Notice::Death(death)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((death.reason.code, death.attempts), ("loop", 0));
}
