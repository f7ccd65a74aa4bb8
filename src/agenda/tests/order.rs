//! Owns the tests of deliveries by key: one at a time in the order of the log, whatever happens to the first.

use super::*;
use crate::routing::{OnFailure, OrderKey, OrderPolicy, Priority};

fn policy(on_failure: OnFailure) -> OrderPolicy {
    let key = OrderKey::Expr(Expr::compile(".k").unwrap());
    OrderPolicy::new(key, on_failure, None, false).unwrap()
}

fn ordered(policy: OrderPolicy) -> Arc<Table> {
    table(&["a", "b"], vec![Route { order: Some(Arc::new(policy)), ..route("ordered", "t", &["a"]) }])
}

impl Rig {
    fn keyed(&self, body: &'static [u8]) -> Seq {
        self.log.put(Kind::Accepted, accepted("t", &Method::POST, body))
    }

    fn sent_to_a(&mut self) -> Vec<(Seq, u32)> {
        self.take().into_iter().map(|(_, event, number)| (event, number)).collect()
    }

    fn say(&mut self, event: Seq, number: u32, change: Change) {
        self.answer(&[job("a", event, number)], &change);
    }
}

#[test]
fn one_delivery_of_a_key_is_under_way_at_a_time_and_a_blocked_key_delays_no_other() {
    let mut rig = Rig::new(ordered(policy(OnFailure::Block)));
    let first: Vec<Seq> = (0..3).map(|_| rig.keyed(b"{\"k\":1}")).collect();
    let other = rig.keyed(b"{\"k\":2}");
    let keyless = rig.keyed(b"{}");
    rig.settle();
    assert_eq!(rig.sent_to_a(), [(first[0], 1), (other, 1), (keyless, 1)]);
    rig.say(first[0], 1, Change::Retry(at(60)));
    rig.say(other, 1, Change::Delivered);
    let more = rig.keyed(b"{\"k\":2}");
    rig.later(30);
    assert_eq!(rig.sent_to_a(), [(more, 1)], "those behind the first wait for its retry");
    rig.restart();
    rig.later(31);
    let mut sent = rig.sent_to_a();
    sent.sort_unstable();
    assert_eq!(sent, [(first[0], 2), (keyless, 1), (more, 1)], "also after a restart");
    rig.say(first[0], 2, Change::Die(Reason::new("given_up")));
    assert_eq!(rig.sent_to_a(), [(first[1], 1)], "when it is dead the next goes");
    rig.say(first[1], 1, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(first[2], 1)]);
}

#[test]
fn what_waited_behind_others_is_not_given_up_for_that() {
    let mut rig = Rig::new(ordered(policy(OnFailure::Block)));
    let (one, two) = (rig.keyed(b"{\"k\":1}"), rig.keyed(b"{\"k\":1}"));
    rig.settle();
    rig.say(one, 1, Change::Retry(at(1_000)));
    rig.later(1_000);
    rig.take();
    rig.say(one, 2, Change::Delivered);
    let job = rig.sent.pop().unwrap();
    assert_eq!((job.event.id.pos.seq, job.planned_at), (two, at(1_000)));
    rig.log.settle(&job, Change::Retry(at(1_060)));
    rig.settle();
    rig.restart();
    rig.later(60);
    assert_eq!(rig.sent.pop().unwrap().planned_at, at(1_000), "and that is stored");
}

#[test]
fn a_key_is_skipped_after_so_many_attempts_and_the_reason_tells_the_last_answer() {
    let mut rig = Rig::new(ordered(policy(OnFailure::Skip(2))));
    let (one, two) = (rig.keyed(b"{\"k\":1}"), rig.keyed(b"{\"k\":1}"));
    rig.settle();
    rig.say(one, 1, Change::Retry(at(10)));
    rig.later(10);
    assert_eq!(rig.sent_to_a(), [(one, 1), (one, 2)]);
    rig.say(one, 2, Change::Retry(at(20)));
    assert_eq!(rig.state_of(one, "a"), Some(DeliveryState::Dead));
    assert_eq!(rig.sent_to_a(), [(two, 1)]);
    let died = rig.log.all().into_iter().rev().filter(|entry| entry.kind == Kind::Attempted);
    let died = died.filter_map(|entry| entry::decode_attempted(&entry.payload)).find(|died| died.attempt.is_none());
    let Change::Die(reason) = died.unwrap().change else { panic!("it did not die") };
    assert_eq!(reason.code, "skipped");
    assert!(reason.to_string().contains("after 2 attempts, the last one: "), "{reason}");
}

#[test]
fn a_parked_key_waits_for_its_dead_until_they_are_replayed_deleted_or_let_go() {
    let end = |end: &str| {
        let mut rig = Rig::new(ordered(policy(OnFailure::Park)));
        let (one, two) = (rig.keyed(b"{\"k\":1}"), rig.keyed(b"{\"k\":1}"));
        rig.settle();
        rig.say(one, 1, Change::Die(Reason::new("refused")));
        rig.later(100);
        rig.restart();
        rig.later(100);
        assert_eq!(rig.sent_to_a(), [], "{end}: also after a restart");
        let targets = Rig::target(one, "a");
        rig.log.command(match end {
            "replay" => Action::Replay { targets, new_key: false, interval_us: None, created: false },
            "delete" => Action::Delete { events: vec![one] },
            _ => Action::LetGo { targets },
        });
        rig.later(1);
        if end == "replay" {
            assert_eq!(rig.sent_to_a(), [(one, 2)]);
            rig.say(one, 2, Change::Delivered);
        }
        assert_eq!(rig.sent_to_a(), [(two, 1)], "{end}");
        rig.restart();
        rig.settle();
        assert_eq!(rig.sent_to_a(), [(two, 1)], "{end}: and that survives a restart");
    };
    ["replay", "delete", "let go"].into_iter().for_each(end);
}

#[test]
fn an_older_version_than_the_newest_delivered_one_is_superseded_without_an_attempt() {
    let versioned = OrderPolicy { version: Some(Expr::compile(".v").unwrap()), ..policy(OnFailure::Block) };
    let mut rig = Rig::new(ordered(versioned));
    let newest = rig.keyed(b"{\"k\":1,\"v\":10}");
    rig.settle();
    let sent = rig.sent.pop().unwrap();
    rig.log.settle(&sent, Change::Delivered);
    rig.settle();
    rig.restart();
    let old = rig.keyed(b"{\"k\":1,\"v\":9}");
    let same = rig.keyed(b"{\"k\":1,\"v\":10.0}");
    let other = rig.keyed(b"{\"k\":2,\"v\":1}");
    let text = rig.keyed(b"{\"k\":2,\"v\":\"1\"}");
    rig.settle();
    let sent: Vec<Seq> = rig.sent.iter().map(|job| job.event.id.pos.seq).collect();
    assert_eq!(sent, [other, same], "{newest} was delivered, {old} is older");
    assert_eq!(rig.state_of(old, "a"), Some(DeliveryState::Superseded));
    rig.say(other, 1, Change::Delivered);
    assert_eq!(rig.sent.last().map(|job| job.event.id.pos.seq), Some(text), "a text is not compared with a number");
}

#[test]
fn of_first_attempts_that_wait_only_the_newest_of_a_key_is_sent() {
    let mut rig = Rig::new(ordered(OrderPolicy { coalesce: true, ..policy(OnFailure::Block) }));
    let events: Vec<Seq> = (0..600).map(|_| rig.keyed(b"{\"k\":1}")).collect();
    let other = rig.keyed(b"{\"k\":2}");
    rig.settle();
    assert_eq!(rig.sent_to_a(), [(events[0], 1), (other, 1)]);
    rig.say(events[0], 1, Change::Retry(at(10)));
    rig.later(10);
    assert_eq!(rig.sent_to_a(), [(events[0], 2)], "what was attempted is not coalesced");
    rig.say(events[0], 2, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(events[599], 1)]);
    for event in &events[1..599] {
        assert_eq!(rig.state_of(*event, "a"), Some(DeliveryState::Superseded));
    }
}

#[test]
fn a_reload_that_begins_or_ends_an_order_forgets_nothing() {
    let mut rig = Rig::new(to_ab());
    let events: Vec<Seq> = (0..3).map(|_| rig.keyed(b"{\"k\":1}")).collect();
    rig.settle();
    let jobs = rig.take();
    assert_eq!(jobs.len(), 3, "without an order all go at once");
    rig.table = ordered(policy(OnFailure::Block));
    rig.settle();
    rig.say(events[2], 1, Change::Retry(at(10)));
    rig.say(events[1], 1, Change::Retry(at(20)));
    rig.later(60);
    assert_eq!(rig.sent_to_a(), [], "the first of them is still under way");
    rig.say(events[0], 1, Change::Delivered);
    rig.later(1);
    assert_eq!(rig.sent_to_a(), [(events[1], 2)]);
    rig.table = to_ab();
    rig.later(1);
    assert_eq!(rig.sent_to_a(), [(events[2], 2)]);
}

#[test]
fn an_order_that_begins_waits_for_all_of_a_key_that_are_under_way() {
    let mut rig = Rig::new(to_ab());
    let events: Vec<Seq> = (0..3).map(|_| rig.keyed(b"{\"k\":1}")).collect();
    rig.settle();
    assert_eq!(rig.take().len(), 3, "without an order all go at once");
    rig.say(events[0], 1, Change::Retry(at(10)));
    rig.table = ordered(policy(OnFailure::Block));
    rig.settle();
    rig.say(events[2], 1, Change::Delivered);
    rig.later(60);
    assert_eq!(rig.sent_to_a(), [], "another newer one is still under way");
    rig.say(events[1], 1, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(events[0], 2)]);
}

#[test]
fn a_state_that_was_rebuilt_knows_whose_keys_are_under_way() {
    let mut rig = Rig::new(to_ab());
    rig.core.window("a", 1_000);
    let old = rig.keyed(b"{\"k\":1}");
    // More than are looked at in one go.
    let others: Vec<Seq> = (0..600).map(|_| rig.keyed(b"{}")).collect();
    let new = rig.keyed(b"{\"k\":1}");
    rig.settle();
    assert_eq!(rig.take().len(), others.len() + 2);
    rig.say(old, 1, Change::Retry(at(10)));
    rig.table = ordered(policy(OnFailure::Block));
    rig.settle();
    let state = rig.core.state().clone();
    rig.core.replace_state(state, rig.now).unwrap();
    rig.later(60);
    assert_eq!(rig.sent_to_a(), [], "the newer one is still under way");
    rig.say(new, 1, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(old, 2)]);
}

#[test]
fn an_event_that_is_planned_while_an_order_begins_waits_for_its_key_under_way() {
    let slow = Expr::compile("[range(.n // 1)] | length > 0").unwrap();
    let routes = |order: Option<Arc<OrderPolicy>>| {
        let slow = Route { when: Some(slow.clone()), order: order.clone(), ..route("slow", "s", &["a"]) };
        table(&["a", "b"], vec![slow, Route { order, ..route("quick", "t", &["a"]) }])
    };
    let mut rig = Rig::new(routes(None));
    let old = rig.log.put(Kind::Accepted, accepted("s", &Method::POST, b"{\"k\":1}"));
    let new = rig.keyed(b"{\"k\":1}");
    rig.settle();
    assert_eq!(rig.sent_to_a(), [(new, 1)]);
    rig.table = routes(Some(Arc::new(policy(OnFailure::Block))));
    let mut reads = rig.core.step(&[], rig.now, &rig.table).unwrap().read;
    let question = rig.asked.pop().unwrap();
    rig.core.answered(&question, &[(question.ask[0], Ok(true))]).unwrap();
    let effects = rig.core.step(&[], rig.now, &rig.table).unwrap();
    assert!(effects.dispatch.is_empty(), "the key of the one under way is not known yet");
    rig.log.put_all(effects.append);
    reads.extend(effects.read);
    for order in reads {
        let events = read::read(&*rig.log, &order);
        rig.core.loaded(order.purpose, events, rig.now).unwrap();
    }
    rig.settle();
    assert_eq!(rig.sent_to_a(), [], "the newer one is still under way");
    rig.say(new, 1, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(old, 1)]);
}

#[test]
fn beyond_the_bound_on_keys_what_is_known_goes_first_and_the_rest_follows() {
    let bounds = Bounds { ordered_each: 10, ..Bounds::standard() };
    let mut rig = Rig::over(TestLog::new(), ordered(policy(OnFailure::Block)), bounds);
    let blocked: Vec<Seq> = (0..5).map(|_| rig.keyed(b"{\"k\":1}")).collect();
    let others: Vec<Seq> = (0..100).map(|_| rig.keyed(b"{\"k\":2}")).collect();
    rig.settle();
    rig.take();
    rig.say(blocked[0], 1, Change::Retry(at(10_000)));
    let mut sent = vec![others[0]];
    for round in 0..100 {
        rig.say(sent[round], 1, Change::Delivered);
        sent.extend(rig.sent_to_a().into_iter().map(|(event, _)| event));
    }
    assert_eq!(sent, others);
}

#[test]
fn priorities_survive_a_restart_and_hold_for_a_backlog_on_disk() {
    let bounds = Bounds { events_bytes: 0, ..Bounds::standard() };
    let routes = || {
        let priority = |name: &str, source: &str, priority| Route { priority, ..route(name, source, &["a"]) };
        vec![priority("low", "s", Priority::Low), priority("high", "t", Priority::High)]
    };
    let mut rig = Rig::over(TestLog::new(), table(&["a", "b"], routes()), bounds);
    rig.core.window("a", 0);
    let put = |rig: &Rig, source: &str| rig.log.put(Kind::Accepted, accepted(source, &Method::POST, b"{}"));
    let low: Vec<Seq> = (0..2_000).map(|_| put(&rig, "s")).collect();
    let high: Vec<Seq> = (0..320).map(|_| put(&rig, "t")).collect();
    rig.settle();
    rig.restart();
    rig.core.window("a", 1);
    rig.settle();
    let mut sent = Vec::new();
    while sent.len() < 340 {
        let jobs = rig.take();
        sent.extend(jobs.iter().map(|(_, event, _)| *event));
        rig.answer(&jobs, &Change::Delivered);
    }
    let urgent = sent.iter().filter(|event| high.contains(event)).count();
    assert_eq!(urgent, 320, "of 21 turns at most one is that of a low one while high ones wait");
    assert_eq!(low[..20], sent.into_iter().filter(|event| low.contains(event)).collect::<Vec<_>>());
}

#[test]
fn the_order_holds_for_an_event_whose_filter_takes_a_while() {
    let slow = Expr::compile("[range(.n // 1)] | length > 0").unwrap();
    let order = Some(Arc::new(policy(OnFailure::Block)));
    let slow = Route { when: Some(slow), order: order.clone(), ..route("slow", "s", &["a"]) };
    let mut rig = Rig::new(table(&["a", "b"], vec![slow, Route { order, ..route("quick", "t", &["a"]) }]));
    let first = rig.log.put(Kind::Accepted, accepted("s", &Method::POST, b"{\"k\":1}"));
    let (second, other) = (rig.keyed(b"{\"k\":1}"), rig.keyed(b"{\"k\":2}"));
    rig.settle();
    assert_eq!(rig.sent_to_a(), [(other, 1)]);
    let question = rig.asked.pop().unwrap();
    let asked = question.ask[0];
    rig.core.answered(&question, &[(asked, Ok(true))]).unwrap();
    rig.settle();
    assert_eq!(rig.sent_to_a(), [(first, 1)]);
    rig.say(first, 1, Change::Delivered);
    assert_eq!(rig.sent_to_a(), [(second, 1)]);
}
