//! Rates, tenants and loops at the door, with a clock that the tests move.

use std::{collections::HashMap, time::Duration};

use super::{
    fake::{Behaviour, Door, id, source, table},
    *,
};
use crate::{
    expr::Expr,
    routing::{KeySelector, LoopRule, Over, Rate, Source, TenantKey, TenantLimit, TenantRule},
    tenant,
};

fn limit(budget: u64, over: Over) -> TenantLimit {
    TenantLimit { rate: None, budget: Some(budget), over }
}

fn rule(usual: TenantLimit) -> TenantRule {
    TenantRule {
        key: TenantKey::Selected(KeySelector::Expr(Expr::compile(".account").unwrap())),
        cost: None,
        usual,
        named: HashMap::from([("acme".into(), limit(1, usual.over))]),
        tenants_max: 100,
    }
}

fn door(source: Source) -> Door {
    let door = Door::open();
    door.live.swap(table(vec![source.into()], |_| {}));
    door
}

fn tenants(rule: TenantRule) -> Door {
    door(Source { tenants: Some(rule), ..source("app", "/in") })
}

fn relayed(body: &str, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = post("/in", body.to_owned());
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_source_over_its_rate_answers_429_and_says_when() {
    let door = door(Source { rate: Some(Rate { per_second: 1, burst: 2 }), ..source("app", "/in") });
    assert_eq!(door.ask(post("/in", "1")).await.status, 202);
    assert_eq!(door.ask(post("/in", "2")).await.status, 202);
    let answer = door.ask(post("/in", "3")).await;
    assert_eq!((answer.status, &answer.headers[header::RETRY_AFTER]), (429, &"1".parse().unwrap()));
    assert_eq!((door.last_reason(), door.count("app", RequestResult::Limited)), ("source_over_rate", 1));
    door.time.advance(Duration::from_secs(1));
    assert_eq!(door.ask(post("/in", "4")).await.status, 202);
}

#[tokio::test]
async fn who_is_not_verified_uses_nothing_up() {
    let rate = Some(Rate { per_second: 1, burst: 1 });
    let usual = limit(1, Over::Reject);
    let door = door(Source { rate, tenants: Some(rule(usual)), verifier: fake::verifier(), ..source("app", "/in") });
    for _ in 0..3 {
        assert_eq!(door.ask(post("/in", r#"{"account":"a"}"#)).await.status, 401);
    }
    let body = r#"{"account":"a"}"#;
    let mut request = post("/in", body);
    request.headers_mut().insert("x-signature", signed(body.as_bytes()).parse().unwrap());
    assert_eq!(door.ask(request).await.status, 202);
}

#[tokio::test]
async fn a_tenant_over_budget_is_rejected_until_midnight_and_the_others_are_not() {
    let door = tenants(rule(limit(2, Over::Reject)));
    let a = || post("/in", r#"{"account":"a"}"#);
    assert_eq!([door.ask(a()).await.status, door.ask(a()).await.status], [202, 202]);
    let answer = door.ask(a()).await;
    // The clock stands 1,000 s after midnight.
    assert_eq!((answer.status, &answer.headers[header::RETRY_AFTER]), (429, &"85400".parse().unwrap()));
    assert_eq!(door.last_reason(), "over_budget");
    assert_eq!(door.ask(post("/in", r#"{"account":"b"}"#)).await.status, 202);
    assert_eq!(door.log.event(0).extras.unwrap().tenant.as_deref(), Some("a"));
    door.time.advance(Duration::from_secs(85_400));
    assert_eq!(door.ask(a()).await.status, 202);
    let warned: Vec<u64> = door.metrics.tenant_warnings.iter().map(Counter::get).collect();
    assert_eq!(warned, [1, 1, 1], "a reached every level, once");
    assert_eq!(door.metrics.source("app").over_limit[0].get(), 1);
}

#[tokio::test]
async fn a_named_tenant_has_its_own_limit() {
    let door = tenants(rule(limit(2, Over::Reject)));
    let acme = || post("/in", r#"{"account":"acme"}"#);
    assert_eq!([door.ask(acme()).await.status, door.ask(acme()).await.status], [202, 429]);
}

#[tokio::test]
async fn events_without_a_usable_tenant_share_one_budget() {
    let door = tenants(rule(limit(2, Over::Reject)));
    assert_eq!(door.ask(post("/in", "no json")).await.status, 202);
    assert_eq!(door.ask(post("/in", r#"{"account":{}}"#)).await.status, 202);
    let long = format!(r#"{{"account":"{}"}}"#, "x".repeat(tenant::TENANT_BYTES_MAX + 1));
    assert_eq!(door.ask(post("/in", long)).await.status, 429);
    assert!(door.log.event(0).extras.is_none());
}

#[tokio::test]
async fn a_tenant_over_its_limit_may_be_held_or_tagged() {
    for (over, hold) in [(Over::Hold, Some("over_budget")), (Over::Tag, None)] {
        let door = tenants(rule(limit(1, over)));
        for _ in 0..2 {
            assert_eq!(door.ask(post("/in", r#"{"account":"a"}"#)).await.status, 202);
        }
        assert!(door.log.event(0).extras.unwrap().tags.is_empty());
        let extras = door.log.event(1).extras.unwrap();
        assert_eq!((&*extras.tags, extras.hold.as_deref()), (&["over_budget".into()][..], hold));
        assert_eq!(door.metrics.source("app").over_limit[over as usize].get(), 1);
    }
}

#[tokio::test]
async fn a_cost_is_what_the_expression_says_and_nonsense_costs_one() {
    let cost = Some(Expr::compile(".size // 1").unwrap());
    let door = tenants(TenantRule { cost, ..rule(limit(10, Over::Reject)) });
    assert_eq!(door.ask(post("/in", r#"{"account":"a","size":8.5}"#)).await.status, 202);
    assert_eq!(door.ask(post("/in", r#"{"account":"a","size":2}"#)).await.status, 429);
    assert_eq!(door.ask(post("/in", r#"{"account":"a","size":-5}"#)).await.status, 202);
    assert_eq!(&*door.log.event(1).extras.unwrap().tags, ["no_cost".into()]);
    assert_eq!(door.ask(post("/in", r#"{"account":"a"}"#)).await.status, 429, "a negative cost gives nothing back");
}

#[tokio::test]
async fn a_header_or_a_capture_names_the_tenant() {
    let header = TenantKey::Selected(KeySelector::Header("x-tenant".parse().unwrap()));
    let by_header = tenants(TenantRule { key: header, ..rule(limit(1, Over::Reject)) });
    by_header.ask(relayed("x", &[("x-tenant", "t1")])).await;
    assert_eq!(by_header.log.event(0).extras.unwrap().tenant.as_deref(), Some("t1"));
    let capture = TenantRule { key: TenantKey::Capture("who".into()), ..rule(limit(1, Over::Reject)) };
    let by_path = door(Source { tenants: Some(capture), ..source("app", "/t/{who}/in") });
    by_path.ask(post("/t/t2/in", "x")).await;
    assert_eq!(by_path.log.event(0).extras.unwrap().tenant.as_deref(), Some("t2"));
}

#[tokio::test]
async fn what_is_not_stored_costs_nothing() {
    let door = tenants(rule(limit(1, Over::Reject)));
    let a = || post("/in", r#"{"account":"a"}"#);
    door.log.behave(Behaviour::Refuse(AppendError::Full));
    assert_eq!([door.ask(a()).await.status, door.ask(a()).await.status], [503, 503]);
    door.log.behave(Behaviour::Accept);
    assert_eq!([door.ask(a()).await.status, door.ask(a()).await.status], [202, 429]);
}

#[tokio::test]
async fn twenty_thousand_tenants_leave_the_number_of_series_unchanged() {
    let door = tenants(TenantRule { tenants_max: 1000, ..rule(limit(1, Over::Reject)) });
    let series = |door: &Door| door.metrics.render().lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(door.ask(post("/in", r#"{"account":"first"}"#)).await.status, 202);
    let before = series(&door);
    for tenant in 0..20_000 {
        door.ask(post("/in", format!(r#"{{"account":"tenant-{tenant}"}}"#))).await;
    }
    assert_eq!(series(&door), before);
    assert!(door.metrics.source("app").tenants.get() <= 1000);
    assert!(door.metrics.source("app").tenants_displaced.get() > 10_000);
    assert!(!door.metrics.render().contains("tenant-"));
}

#[tokio::test]
async fn twenty_thousand_paths_leave_the_number_of_series_unchanged() {
    let door = Door::open();
    let series = |door: &Door| door.metrics.render().lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!([door.ask(post("/nobody", "")).await.status, door.ask(post("/tree/x", "")).await.status], [404, 202]);
    let before = series(&door);
    for path in 0..20_000 {
        door.ask(post(&format!("/nobody-{path}"), "")).await;
        door.ask(post(&format!("/tree/path-{path}"), "")).await;
    }
    assert_eq!(series(&door), before);
    assert!(!door.metrics.render().contains("path-"));
}

#[tokio::test]
async fn too_many_relays_make_a_loop() {
    let door = door(source("app", "/in"));
    for (hops, cut) in [("1", false), ("9", false), ("10", true), ("4000000000", true)] {
        let stored = door.log.appended();
        assert_eq!(door.ask(relayed("x", &[("stagepost-hops", hops)])).await.status, 202);
        let extras = door.log.event(stored).extras.unwrap();
        assert_eq!((extras.hops.map(|hops| hops.to_string()).as_deref(), extras.cut.is_some()), (Some(hops), cut));
    }
    assert_eq!(door.metrics.source("app").loops.get(), 2);
}

#[tokio::test]
async fn an_event_of_ours_that_comes_back_to_its_source_is_a_loop_and_anybody_elses_is_none() {
    let door = door(source("app", "/in"));
    let id = id(5);
    let own = format!("{:032x}", crate::log::origin(&*door.log, "app", id));
    let other = format!("{:032x}", crate::log::origin(&*door.log, "other", id));
    let id = id.to_string();
    for (mark, cut) in [(Some(&*own), true), (Some(&*other), false), (Some("nonsense"), false), (None, false)] {
        let stored = door.log.appended();
        let mut headers = vec![("stagepost-event-id", &*id)];
        headers.extend(mark.map(|mark| ("stagepost-origin", mark)));
        assert_eq!(door.ask(relayed("x", &headers)).await.status, 202);
        assert_eq!(door.log.event(stored).extras.unwrap().cut.is_some(), cut, "{mark:?}");
    }
}

#[tokio::test]
async fn the_same_body_through_a_relay_is_a_loop_after_some_times_and_without_one_never() {
    let rule = LoopRule { max_hops: 10, bounces: 3, window: Duration::from_secs(60) };
    let door = door(Source { loops: Some(rule), ..source("app", "/in") });
    for _ in 0..10 {
        assert_eq!(door.ask(post("/in", "heartbeat")).await.status, 202);
    }
    assert!((0..10).all(|index| door.log.event(index).extras.is_none()));
    for _ in 0..5 {
        door.ask(relayed("ping", &[("via", "1.1 stagepost")])).await;
    }
    let cut: Vec<bool> = (10..15).map(|index| door.log.event(index).extras.unwrap().cut.is_some()).collect();
    assert_eq!(cut, [false, false, false, true, true]);
    door.time.advance(Duration::from_secs(61));
    door.ask(relayed("ping", &[("via", "1.1 stagepost")])).await;
    assert!(door.log.event(15).extras.unwrap().cut.is_none(), "a new window");
}

#[tokio::test]
async fn a_source_may_take_loops_for_granted_and_relays_are_still_counted() {
    let door = door(Source { loops: None, ..source("app", "/in") });
    door.ask(relayed("x", &[("stagepost-hops", "500")])).await;
    let extras = door.log.event(0).extras.unwrap();
    assert_eq!((extras.hops, extras.cut), (Some(500), None));
}

#[tokio::test]
async fn a_safe_request_in_a_loop_is_answered_508() {
    let door = door(source("app", "/in"));
    let get = |hops: &str| {
        let request = Request::get("/in").header("host", "relay.example").header("stagepost-hops", hops);
        request.body(Full::new(Bytes::new())).unwrap()
    };
    assert_eq!(door.ask(get("3")).await.status, 203);
    assert_eq!(door.ask(get("10")).await.status, 508);
    assert_eq!((door.last_reason(), door.log.appended()), ("loop", 1));
}
