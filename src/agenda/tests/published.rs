//! Owns the tests of events that the relay itself publishes: who gets them.

use super::*;
use crate::routing::{Subscriber, Topic, Types, subscriber_name};

fn topics(routes: Vec<Route>) -> Arc<Table> {
    let mut table = Arc::into_inner(table(&["a", "b"], routes)).unwrap();
    table.declare(vec![Topic { name: "done".into(), max_subscribers: 10, max_hops: 10 }]);
    let subscriber = |name: &str, types: &[&str]| Subscriber {
        topic: "done".into(),
        types: Types::new(types.iter().map(|kind| Box::from(*kind))).ok(),
        when: None,
        upstream: Arc::new(Upstream::new(
            &subscriber_name("done", name),
            Address::Http("http://127.0.0.1:1".parse().unwrap()),
        )),
    };
    table.subscribe(&[subscriber("all", &[]), subscriber("paid", &["paid"])]).unwrap();
    Arc::new(table)
}

#[test]
fn what_is_published_goes_to_the_subscribers_of_its_topic_and_to_routes_that_name_it_and_to_no_others() {
    let everything = Route::new("everything", vec!["a".into()]);
    let mut rig = Rig::new(topics(vec![everything, route("named", "topic:done", &["b"])]));
    let (published, gone) = (rig.log.accept("topic:done"), rig.log.accept("topic:gone"));
    rig.settle();
    let mut sent = rig.take();
    sent.sort();
    assert_eq!(sent, [job("b", published, 1), job("done/all", published, 1)]);
    assert!(rig.core.view(gone).unwrap().deliveries.is_empty(), "a topic that is not configured any more");
}

#[test]
fn what_nobody_subscribes_to_is_ignored_and_not_unrouted() {
    let mut table = Arc::into_inner(table(&["a"], Vec::new())).unwrap();
    table.declare(vec![Topic { name: "done".into(), max_subscribers: 10, max_hops: 10 }]);
    let event = crate::delivery::tests::rig::event(1);
    let event = crate::event::Event { source: "topic:done".into(), ..event };
    let evaluator = Evaluator::start(expr::Settings::standard());
    let plan::Verdict::Decided(decision) = plan::Routes::new(Arc::new(table)).plan(&event, &evaluator, &[]) else {
        panic!("nothing is to be asked")
    };
    assert!(decision.ignored && decision.targets.is_empty());
}
