//! Which deliveries a command takes.

use std::sync::Arc;

use super::*;
use crate::{
    admin::{access::Scope, fake::*, scoped::Scoped, wire::Filters},
    event::{Reason, Seq, Status},
};

fn me() -> Caller {
    Caller::local("me")
}

fn asked(verb: Verb) -> Act {
    Act {
        verb,
        ids: Vec::new(),
        filters: Filters::default(),
        all: false,
        to: None,
        interval_us: None,
        new_key: false,
        original: false,
        job: false,
        for_ms: None,
        reason: None,
        dry_run: false,
        before: None,
    }
}

/// One event dead for billing and delivered to crm, one pending and one held for billing.
fn three() -> (Fake, [EventId; 3]) {
    let fake = Fake::default();
    let ids = [fake.accept("stripe", b"1"), fake.accept("stripe", b"2"), fake.accept("app", b"3")];
    fake.plan(&[(ids[0], &["billing", "crm"]), (ids[1], &["billing"]), (ids[2], &["billing"])]);
    fake.set(ids[0], delivery("billing", Status::Dead(Reason::new("given_up"))));
    fake.set(ids[1], delivery("billing", Status::Pending { due: fake.clock() }));
    fake.set(ids[2], delivery("billing", Status::Held(Reason::new("operator"))));
    (fake, ids)
}

fn named(targets: &[Target]) -> Vec<(Seq, &str)> {
    targets.iter().map(|target| (target.event, &*target.upstream)).collect()
}

fn targets(fake: &Fake) -> Vec<(Seq, String)> {
    let commands = fake.commands();
    let targets = commands.iter().flat_map(|command| match &command.action {
        Action::Replay { targets, .. } | Action::Hold { targets, .. } | Action::Release { targets } => named(targets),
        Action::Delete { events } => events.iter().map(|event| (*event, "")).collect(),
        other => panic!("{other:?}"),
    });
    targets.map(|(seq, upstream)| (seq, upstream.to_owned())).collect()
}

#[test]
fn a_command_without_id_or_filter_is_refused_unless_everything_is_meant() {
    let (fake, _) = three();
    for verb in [Verb::Replay, Verb::Hold, Verb::Release, Verb::Delete] {
        assert!(matches!(act(&fake, &asked(verb), &me()), Err(ActError::Usage(_))));
        assert!(act(&fake, &Act { all: true, ..asked(verb) }, &me()).is_ok());
    }
}

#[test]
fn replay_by_filter_takes_dead_deliveries_only() {
    let (fake, ids) = three();
    let filters = Filters { source: Some("stripe".into()), ..Filters::default() };
    let acted = act(&fake, &Act { filters, ..asked(Verb::Replay) }, &me()).unwrap();
    assert_eq!((acted.count, acted.events), (1, 1));
    assert_eq!(targets(&fake), [(ids[0].pos.seq, "billing".into())]);
    assert_eq!(fake.commands()[0].actor, "me");
}

#[test]
fn replay_by_id_takes_every_delivery_and_replay_to_takes_one() {
    let (fake, ids) = three();
    let by_id = Act { ids: vec![ids[0].to_string()], ..asked(Verb::Replay) };
    assert_eq!(act(&fake, &by_id, &me()).unwrap().count, 2);
    act(&fake, &Act { to: Some("crm".into()), ..by_id.clone() }, &me()).unwrap();
    assert_eq!(targets(&fake)[2..], [(ids[0].pos.seq, "crm".into())]);
    let nowhere = Act { to: Some("nowhere".into()), ..by_id };
    assert!(matches!(act(&fake, &nowhere, &me()), Err(ActError::Usage(_))));
}

#[test]
fn an_unrouted_event_is_replayed_to_where_todays_routes_send_it() {
    let fake = Fake::default();
    let id = fake.accept("stripe", b"1");
    fake.plan(&[(id, &[])]);
    act(&fake, &Act { ids: vec![id.to_string()], ..asked(Verb::Replay) }, &me()).unwrap();
    assert_eq!(targets(&fake), [(id.pos.seq, "today".into())]);
}

#[test]
fn hold_with_an_upstream_and_nothing_else_holds_the_upstream() {
    let (fake, ids) = three();
    let filters = Filters { upstream: Some("billing".into()), ..Filters::default() };
    let whole = Act { filters: filters.clone(), for_ms: Some(1_000), ..asked(Verb::Hold) };
    assert_eq!(act(&fake, &whole, &me()).unwrap().upstream.as_deref(), Some("billing"));
    let expected = Action::HoldUpstream {
        upstream: "billing".into(),
        until_ms: Some(fake.clock().as_millis() + 1_000),
        reason: None,
    };
    assert_eq!(fake.commands()[0].action, expected);

    let narrower = Act { filters: Filters { source: Some("stripe".into()), ..filters }, ..asked(Verb::Hold) };
    let acted = act(&fake, &narrower, &me()).unwrap();
    assert_eq!((acted.upstream, acted.count), (None, 1));
    assert!(matches!(&fake.commands()[1].action, Action::Hold { targets, .. } if targets[0].event == ids[1].pos.seq));
}

#[test]
fn release_takes_what_is_held_and_delete_takes_events() {
    let (fake, ids) = three();
    let filters = Filters { source: Some("app".into()), ..Filters::default() };
    act(&fake, &Act { filters: filters.clone(), ..asked(Verb::Release) }, &me()).unwrap();
    act(&fake, &Act { filters, ..asked(Verb::Delete) }, &me()).unwrap();
    assert_eq!(targets(&fake), [(ids[2].pos.seq, "billing".into()), (ids[2].pos.seq, String::new())]);
}

#[test]
fn ids_that_lead_nowhere_and_deliveries_that_cannot_change_are_named() {
    let (fake, ids) = three();
    let missing = EventId { pos: crate::event::Pos { seq: 77, ..ids[0].pos }, ..ids[0] };
    let acted =
        act(&fake, &Act { ids: vec![missing.to_string(), ids[0].to_string()], ..asked(Verb::Hold) }, &me()).unwrap();
    assert_eq!((acted.count, acted.missing_count, acted.skipped.len()), (0, 1, 1));
    assert_eq!(acted.missing, [missing.to_string()]);
    let wrong = Act { ids: vec!["x".into()], ..asked(Verb::Hold) };
    assert!(matches!(act(&fake, &wrong, &me()), Err(ActError::Usage(_))));
}

#[test]
fn filters_narrow_what_ids_select() {
    let (fake, ids) = three();
    let by_id = |verb, filters| Act { ids: vec![ids[0].to_string(), ids[2].to_string()], filters, ..asked(verb) };
    let app = Filters { source: Some("app".into()), ..Filters::default() };
    let deleted = act(&fake, &by_id(Verb::Delete, app), &me()).unwrap();
    assert_eq!((deleted.count, deleted.skipped.len()), (1, 1));
    let dead = Filters { reason: Some("given_up".into()), state: Some("dead".into()), ..Filters::default() };
    assert_eq!(act(&fake, &Act { filters: dead, ..asked(Verb::Delete) }, &me()).unwrap().count, 1);
    assert_eq!(targets(&fake), [(ids[2].pos.seq, String::new()), (ids[0].pos.seq, String::new())]);
    let crm = Filters { status: Some("200".into()), upstream: Some("crm".into()), ..Filters::default() };
    fake.attempt(ids[0], "crm", 1, Some(200), None);
    let replayed = act(&fake, &by_id(Verb::Replay, crm), &me()).unwrap();
    assert_eq!(replayed.sample, [(ids[0].to_string(), Some("crm".to_owned()))]);
}

#[test]
fn a_state_that_cannot_be_read_is_an_error_and_not_nothing() {
    let (fake, ids) = three();
    fake.rebuilding.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(act(&fake, &Act { all: true, ..asked(Verb::Replay) }, &me()), Err(ActError::Query(_))));
    assert!(matches!(act(&fake, &Act { all: true, ..asked(Verb::Delete) }, &me()), Err(ActError::Query(_))));
    let by_id = Act { ids: vec![ids[0].to_string()], ..asked(Verb::Replay) };
    assert!(matches!(act(&fake, &by_id, &me()), Err(ActError::Query(_))));
    assert!(fake.commands().is_empty());
}

#[test]
fn an_expression_that_fails_takes_nothing_and_is_named() {
    let (fake, _) = three();
    let filters = Filters { expression: Some("error".into()), ..Filters::default() };
    let acted = act(&fake, &Act { filters, ..asked(Verb::Replay) }, &me()).unwrap();
    assert_eq!((acted.count, acted.skipped.len()), (0, 1));
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let (fake, _) = three();
    let acted = act(&fake, &Act { all: true, dry_run: true, ..asked(Verb::Delete) }, &me()).unwrap();
    assert_eq!((acted.count, acted.dry_run), (3, true));
    assert!(fake.commands().is_empty());
    fake.accept("late", b"4");
    let confirmed = Act { all: true, before: Some(acted.before), ..asked(Verb::Delete) };
    assert_eq!(act(&fake, &confirmed, &me()).unwrap().count, 3);
}

#[test]
fn many_targets_are_dealt_out_to_entries_that_the_log_takes_at_the_rate_that_was_asked_for() {
    let (fake, _) = three();
    let targets: Vec<Target> = (0..30_000).map(|event| Target { event, upstream: "billing".into() }).collect();
    let made = actions(&Act { interval_us: Some(100), ..asked(Verb::Replay) }, &fake, targets, false);
    assert!(made.len() > 1);
    let mut total = 0;
    for action in &made {
        let bytes = serde_json::to_vec(&Command::new("me", action.clone())).unwrap();
        assert!(bytes.len() < crate::log::ENTRY_BYTES_MAX);
        let Action::Replay { targets, interval_us, .. } = action else { panic!() };
        assert_eq!(*interval_us, Some(100 * made.len() as u64));
        total += targets.len();
    }
    assert_eq!(total, 30_000);
}

#[test]
fn an_upstream_that_nobody_knows_or_that_lies_outside_the_callers_part_is_not_released() {
    let (fake, _) = three();
    let release = |upstream: &str| Act {
        filters: Filters { upstream: Some(upstream.into()), ..Filters::default() },
        ..asked(Verb::Release)
    };
    assert!(matches!(act(&fake, &release("nope"), &me()), Err(ActError::Usage(_))));
    let fake = Arc::new(fake);
    let scope = Arc::new(Scope::new(None, Some(vec!["billing".into()])));
    let caller = Caller { scope, ..me() };
    let ports = Scoped::for_caller(fake.clone(), &caller);
    for verb in [Verb::Hold, Verb::Release] {
        assert!(matches!(act(&*ports, &Act { verb, ..release("crm") }, &caller), Err(ActError::Usage(_))));
    }
    assert!(fake.commands().is_empty());
    act(&*ports, &release("billing"), &caller).unwrap();
    assert_eq!(fake.commands()[0].action, Action::ReleaseUpstream { upstream: "billing".into() });
}

#[test]
fn a_replay_of_one_delivery_takes_as_long_as_an_attempt_and_not_as_the_last_minute_was_quiet() {
    let (fake, ids) = three();
    let dry = Act { ids: vec![ids[0].to_string()], dry_run: true, ..asked(Verb::Replay) };
    let billing = Act { filters: Filters { upstream: Some("billing".into()), ..Filters::default() }, ..dry };
    assert_eq!(act(&fake, &billing, &me()).unwrap().estimate_s, None);
    let metrics = fake.metered().upstream("billing");
    metrics.attempt.observe(std::time::Duration::from_secs(1));
    metrics.attempt.observe(std::time::Duration::from_secs(3));
    assert_eq!(act(&fake, &billing, &me()).unwrap().estimate_s, Some(2));
}

#[test]
fn a_time_that_nobody_means_and_a_reason_that_no_table_shows_are_refused_by_name() {
    let (fake, _) = three();
    let whole = |for_ms, reason: String| {
        let filters = Filters { upstream: Some("billing".into()), ..Filters::default() };
        act(&fake, &Act { filters, for_ms: Some(for_ms), reason: Some(reason), ..asked(Verb::Hold) }, &me())
    };
    let day = 86_400_000;
    assert!(whole(3_650 * day, "x".repeat(REASON_BYTES_MAX)).is_ok());
    let told = |result: Result<Acted, ActError>| result.unwrap_err().to_string();
    assert!(told(whole(3_000_000 * day, String::new())).starts_with("for_ms (--for): at most 3650d"));
    assert!(told(whole(u64::MAX, String::new())).starts_with("for_ms (--for)"));
    assert!(told(whole(day, "x".repeat(70_000))).starts_with("reason has 70000 bytes"));
    assert_eq!(fake.commands().len(), 1);
}

#[test]
fn the_record_of_a_replay_has_its_rate_and_how_it_was_made() {
    let replay = Act { ids: vec!["X".into()], interval_us: Some(3_333), new_key: true, ..asked(Verb::Replay) };
    let words = asked_for(&Act { original: true, ..replay }).unwrap();
    assert_eq!(words, "X --rate 300/s --new-key --transform original");
    for (interval, expected) in [(1, "1000000/s"), (1_000_000, "1/s"), (2_000_000, "30/m"), (1_800_000_000, "2/h")] {
        assert_eq!(rate(interval), expected);
    }
}

#[test]
fn what_is_damaged_can_be_given_up_and_deleted_but_not_sent() {
    let (fake, ids) = three();
    fake.damage(ids[2].pos.seq);
    let by_id = |verb| Act { ids: vec![ids[2].to_string()], ..asked(verb) };
    assert!(matches!(act(&fake, &by_id(Verb::Replay), &me()), Err(ActError::Query(_))));
    let filters = Filters { upstream: Some("billing".into()), state: Some("held".into()), ..Filters::default() };
    let by_filter = Act { filters, ..asked(Verb::Expire) };
    let more = Filters { source: Some("app".into()), ..by_filter.filters.clone() };
    assert_eq!(act(&fake, &Act { filters: more, ..asked(Verb::Expire) }, &me()).unwrap().count, 0, "whose is it?");
    for act_on in [by_id(Verb::Expire), by_filter, by_id(Verb::Delete)] {
        let acted = act(&fake, &act_on, &me()).unwrap();
        assert_eq!((acted.count, acted.events), (1, 1));
        match &fake.commands().last().unwrap().action {
            Action::Expire { targets, .. } => assert_eq!(named(targets), [(ids[2].pos.seq, "billing")]),
            Action::Delete { events } => assert_eq!(events[..], [ids[2].pos.seq]),
            other => panic!("{other:?}"),
        }
    }
}
