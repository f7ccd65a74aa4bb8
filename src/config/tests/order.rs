//! What is read and refused about order, priorities and shares.

use super::*;
use crate::routing::{OnFailure, OrderKey, Priority, Share};

fn with_routes(routes: &str) -> String {
    format!(
        "[[listen]]\naddress='127.0.0.1:1'\n[source.s]\npath='/s'\n[source.t]\npath='/t'\n[upstream.u]\nurl='http://x'\n\
         {routes}"
    )
}

fn problem(text: &str) -> String {
    let directory = Directory::with(text);
    let problems = directory.load().err().unwrap_or_else(|| panic!("{text} was taken"));
    let said = directory.messages(&problems.0);
    assert_eq!(said.len(), 1, "{said:?}");
    said.concat()
}

#[test]
fn an_order_a_priority_and_shares_are_read() {
    let text = with_routes(
        "retry = { share = 0.5 }\nreplay_share = 0.01\n[[route]]\nname='r'\nto=['u']\norder_by='.k'\n\
         on_failure={skip=3}\nversion='.v'\ncoalesce=true\npriority='high'\n[[route]]\nname='h'\nto=[]\n\
         order_by={header='X-Account'}\non_failure='park'",
    );
    let directory = Directory::with(&text);
    let loaded = directory.load().unwrap();
    let route = |name: &str| loaded.table.routes.iter().find(|route| &*route.name == name).unwrap();
    let order = route("r").order.as_ref().unwrap();
    assert_eq!((order.key.text(), order.on_failure, order.coalesce), (".k", OnFailure::Skip(3), true));
    assert_eq!(route("r").priority, Priority::High);
    let order = route("h").order.as_ref().unwrap();
    assert!(matches!(&order.key, OrderKey::Header(name) if name == "x-account"));
    assert_eq!((order.on_failure, route("h").priority), (OnFailure::Park, Priority::Normal));
    let turns = loaded.table.upstreams["u"].turns;
    assert_eq!((turns.retries, turns.replays), (Share::new(0.5).unwrap(), Share::new(0.01).unwrap()));
}

#[test]
fn what_an_order_can_not_be_is_refused_with_its_key_and_a_remedy() {
    let cases = [
        ("on_failure='park'", "on_failure: has no effect without order_by; add order_by"),
        ("coalesce=true", "coalesce: has no effect without order_by"),
        ("version='.v'", "version: has no effect without order_by"),
        ("order_by='[range(.n)]|length'", "order_by: needs the pool of evaluators, which answers too late"),
        ("order_by='.k'\nversion='[range(.n)]|length'", "version: needs the pool of evaluators"),
        (
            "order_by='.k'\non_failure='wait'",
            "on_failure: \"wait\" is not known; write \"block\", \"park\" or { skip = 3 }",
        ),
        ("order_by='.k'\non_failure={skip=0}", "skip: takes a whole number from 1 to"),
        ("order_by='.k'\non_failure={}", "skip: is missing; write on_failure = { skip = 3 }"),
        ("order_by={}", "header: is missing; write order_by = { header = \"X-Account\" }"),
        ("priority='urgent'", "priority: "),
    ];
    for (lines, expected) in cases {
        let said = problem(&with_routes(&format!("[[route]]\nname='r'\nto=['u']\n{lines}\n")));
        assert!(said.contains(expected), "{said}");
    }
    let said = problem(&with_routes("replay_share = 0.0\n[[route]]\nname='r'\nto=['u']\n"));
    assert!(said.contains("upstream.u.replay_share: "), "{said}");
}

#[test]
fn two_routes_from_one_source_to_one_upstream_say_the_same_about_the_order() {
    let routes = |second: &str| {
        with_routes(&format!(
            "[[route]]\nname='one'\nsource='s'\nto=['u']\norder_by='.k'\n[[route]]\nname='two'\nto=['u']\n{second}\n"
        ))
    };
    for second in ["", "order_by='.other'", "order_by='.k'\non_failure='park'"] {
        let said = problem(&routes(second));
        assert!(said.contains("order_by: routes one and two lead from one source to one upstream"), "{said}");
        assert!(said.contains("give both the same order_by"), "{said}");
    }
    for second in ["order_by='.k'", "source='t'"] {
        assert!(Directory::with(&routes(second)).load().is_ok(), "{second}");
    }
}
