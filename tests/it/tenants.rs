//! Rates and budgets of tenants, and loops, on the real binary.

use std::net::SocketAddr;

use serde_json::json;
use stagepost::clock::Clock;

use crate::harness::{Answer, Received, Relay, Request, Response, Upstream, exchange, wait_until};

/// Runs the steps again if midnight (UTC) came between them: budgets begin anew then.
fn within_a_day<T>(mut steps: impl FnMut() -> T) -> T {
    let day = || Clock::system().now().as_millis() / 86_400_000;
    loop {
        let begun = day();
        let outcome = steps();
        if day() == begun {
            return outcome;
        }
    }
}

fn with_tenants(upstream: &Upstream, tenant: &str) -> String {
    format!(
        "[source.app]\npath = '/in'\nto = ['app']\n[source.app.tenant]\nkey = '.account'\n{tenant}\n\
         [upstream.app]\nurl = '{}'",
        upstream.url()
    )
}

fn from(tenant: &str) -> Request {
    Request::post("/in", format!(r#"{{"account":"{tenant}"}}"#))
}

fn id(answer: &Response) -> String {
    answer.header("stagepost-event-id").unwrap().to_owned()
}

#[test]
fn a_tenant_over_budget_is_answered_429_the_others_are_served_and_the_log_knows_whose_events_they_are() {
    let (statuses, wait, relay) = within_a_day(|| {
        let upstream = Upstream::start();
        let relay = Relay::start(&with_tenants(&upstream, "budget = 2\nlimits.acme = { budget = 1 }"));
        let answers: Vec<Response> =
            ["a", "a", "a", "b", "acme", "acme"].iter().map(|tenant| relay.send(&from(tenant))).collect();
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let wait = answers[2].header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
        (statuses, wait, relay)
    });
    assert_eq!(statuses, [202, 202, 429, 202, 202, 429]);
    assert!(wait.is_some_and(|seconds| (1..=86_400).contains(&seconds)), "{wait:?}");
    let of = |tenant: &str| relay.cli(&["log", "--json", "--tenant", tenant]).done().lines().len();
    assert_eq!((of("a"), of("b"), of("acme"), of("c")), (2, 1, 1, 0));
    assert_eq!(relay.metric("stagepost_requests_total{source=\"app\",result=\"limited\"}"), 2.0);
    assert_eq!(relay.metric("stagepost_over_limit_total{source=\"app\",outcome=\"rejected\"}"), 2.0);
    // a and acme used their budgets up; b is at a half.
    assert_eq!(relay.metric("stagepost_tenant_warnings_total{level=\"100\"}"), 2.0);
    assert!(!relay.ask_admin("/metrics").text().contains("acme"), "no tenant is a label");
    assert!(relay.cli(&["refused"]).done().out.contains("over_budget"));
    relay.wait_for_diagnostics("a tenant used up its budget of today");
}

#[test]
fn what_was_spent_today_is_known_after_a_restart() {
    let statuses = within_a_day(|| {
        let upstream = Upstream::start();
        let mut relay = Relay::start(&with_tenants(&upstream, "budget = 2"));
        let mut statuses = vec![relay.send(&from("a")).status];
        assert_eq!(relay.stop(), 0);
        relay.run();
        statuses.push(relay.send(&from("a")).status);
        relay.stop();
        relay.run();
        statuses.extend(["a", "b"].map(|tenant| relay.send(&from(tenant)).status));
        statuses
    });
    assert_eq!(statuses, [202, 202, 429, 202]);
}

#[test]
fn a_tenant_over_budget_may_be_held_and_is_released_by_an_operator() {
    let upstream = Upstream::start();
    let (first, second, mut relay) = within_a_day(|| {
        let relay = Relay::start(&with_tenants(&upstream, "budget = 1\nover = 'hold'"));
        (id(&relay.send(&from("a"))), id(&relay.send(&from("a"))), relay)
    });
    relay.wait_for_state(&first, "delivered");
    let held = relay.wait_for_state(&second, "held");
    assert_eq!(held["deliveries"][0]["reason"], "over_budget");
    assert_eq!(relay.cli(&["log", "--json", "--reason", "over_budget"]).done().lines().len(), 1);
    wait_until("the gauge of what is held", || relay.metric("stagepost_held{upstream=\"app\"}") == 1.0);
    relay.restart();
    relay.wait_for_state(&second, "held");
    relay.cli(&["release", &second]).done();
    relay.wait_for_state(&second, "delivered");
}

#[test]
fn a_source_over_its_rate_is_answered_429() {
    let upstream = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.app]\npath = '/in'\nto = ['app']\nrate = '1/s'\nburst = 2\n[upstream.app]\nurl = '{}'",
        upstream.url()
    ));
    let mut refused = None;
    wait_until("more than the rate came in", || {
        let answer = relay.send(&Request::post("/in", "x"));
        refused = (answer.status == 429).then_some(answer);
        refused.is_some()
    });
    assert_eq!(refused.unwrap().header("retry-after"), Some("1"));
    assert!(relay.cli(&["refused"]).done().out.contains("source_over_rate"));
    wait_until("a second later there is room", || relay.send(&Request::post("/in", "x")).status == 202);
}

/// Sends what an upstream got back to a relay, with those of its headers that `kept` takes.
fn send_back(to: SocketAddr, got: &Received, kept: impl Fn(&str) -> bool) {
    send_back_to(to, "/in", got, kept);
}

fn send_back_to(to: SocketAddr, path: &str, got: &Received, kept: impl Fn(&str) -> bool) {
    let mut back = Request::post(path, &got.body);
    for (name, value) in got.headers.iter().filter(|(name, _)| kept(name)) {
        back = back.header(name, value.clone());
    }
    let answer = exchange(std::net::TcpStream::connect(to).unwrap(), &back).unwrap();
    assert_eq!(answer.status, 202);
}

#[test]
fn an_upstream_that_sends_everything_back_is_a_loop_that_is_cut_and_hurts_nobody_else() {
    // With all that the relay added, and with nothing but the event's id.
    for kept in [|name: &str| name.starts_with("stagepost-"), |name: &str| name == "stagepost-event-id"] {
        let (echo, quiet) = (Upstream::start(), Upstream::start());
        let relay = Relay::start(&format!(
            "[source.app]\npath = '/in'\nto = ['echo']\n[source.other]\npath = '/other'\nto = ['quiet']\n\
             [upstream.echo]\nurl = '{}'\n[upstream.quiet]\nurl = '{}'",
            echo.url(),
            quiet.url()
        ));
        let address = relay.address();
        echo.script(move |got| {
            send_back(address, got, kept);
            Answer::Status(200)
        });
        let first = relay.accept("/in", "around");
        relay.wait_for_state(&first, "delivered");
        let mut events = Vec::new();
        wait_until("the loop is cut", || {
            events = relay.events();
            events.iter().any(|event| event["state"] == "dead")
        });
        assert_eq!(events.len(), 2);
        let reason = events[0]["deliveries"][0]["reason"].as_str().unwrap().to_owned();
        assert_eq!(reason, format!("loop: event {first} came back to its source"));
        assert_eq!(relay.metric("stagepost_loops_total{source=\"app\"}"), 1.0);
        let dead = "stagepost_dead{upstream=\"echo\",reason=\"loop\"}";
        wait_until("the gauge of what is dead", || relay.metric(dead) == 1.0);
        let other = relay.accept("/other", "around");
        relay.wait_for_state(&other, "delivered");
        // The same body from somebody who never met the relay is no loop.
        echo.answer(Answer::Status(200));
        relay.wait_for_state(&relay.accept("/in", "around"), "delivered");
        assert_eq!(echo.received().len(), 2);
        // An operator may send it all the same.
        let cut = events[0]["id"].as_str().unwrap();
        relay.cli(&["replay", cut]).done();
        relay.wait_for_state(cut, "delivered");
    }
}

#[test]
fn what_comes_back_with_nothing_but_our_own_signature_is_a_loop_and_a_way_to_another_source_is_not() {
    let sign = "sign = { secrets = ['literal:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'] }";
    for (path, cut) in [("/in", true), ("/other", false)] {
        let (echo, quiet) = (Upstream::start(), Upstream::start());
        let relay = Relay::start(&format!(
            "[source.app]\npath = '/in'\nto = ['echo']\n[source.other]\npath = '/other'\nto = ['quiet']\n\
             [upstream.echo]\nurl = '{}'\n{sign}\n[upstream.quiet]\nurl = '{}'",
            echo.url(),
            quiet.url()
        ));
        let address = relay.address();
        echo.script(move |got| {
            send_back_to(address, path, got, |name| name.starts_with("webhook-"));
            Answer::Status(200)
        });
        let first = relay.accept("/in", "around");
        relay.wait_for_state(&first, "delivered");
        if cut {
            wait_until("the loop is cut", || relay.metric("stagepost_loops_total{source=\"app\"}") == 1.0);
            let dead = relay.cli(&["log", "--json", "--state", "dead"]).done().lines();
            let reason = format!("loop: event {first} came back to its source with our own signature");
            assert_eq!(dead[0]["deliveries"][0]["reason"], reason.as_str());
            assert_eq!(echo.received().len(), 1);
        } else {
            // It is counted as one more hop, though nothing said so but the signature.
            assert_eq!(quiet.wait_for_requests(1)[0].header("stagepost-hops"), Some("2"));
            assert_eq!(relay.metric("stagepost_loops_total{source=\"other\"}"), 0.0);
        }
        // The same from somebody else, with a signature that is not ours.
        let body = Request::post("/in", "around").header("webhook-id", &first).header("webhook-timestamp", "1");
        let answer = relay.send(&body.header("webhook-signature", "v1,AAAA"));
        echo.answer(Answer::Status(200));
        relay.wait_for_state(&id(&answer), "delivered");
    }
}

#[test]
fn relays_in_a_chain_count_themselves_and_deliver() {
    let upstream = Upstream::start();
    let chained = |to: &str| format!("[source.app]\npath = '/in'\nto = ['next']\n[upstream.next]\nurl = '{to}'");
    let second = Relay::start(&chained(&upstream.url()));
    let first = Relay::start(&chained(&format!("http://{}", second.address())));
    for body in ["one", "one", "two"] {
        first.accept("/in", body);
    }
    for got in upstream.wait_for_requests(3) {
        assert_eq!(got.header("stagepost-hops"), Some("2"));
    }
    assert_eq!(second.metric("stagepost_loops_total{source=\"app\"}"), 0.0);
    assert!(second.events().iter().all(|event| event["state"] != "dead"));
}

#[test]
fn a_ring_of_sources_is_cut_after_some_rounds() {
    let echo = Upstream::start();
    let relay = Relay::start(&format!(
        "[source.a]\npath = '/a'\nto = ['echo']\n[source.b]\npath = '/in'\nto = ['echo']\nloop = {{ max_hops = 3 }}\n\
         [upstream.echo]\nurl = '{}'",
        echo.url()
    ));
    let address = relay.address();
    // It forgets whose event it was, and keeps the count.
    echo.script(move |got| {
        send_back(address, got, |name| name == "stagepost-hops");
        Answer::Status(200)
    });
    relay.accept("/a", "around");
    let mut dead = Vec::new();
    wait_until("the ring is cut", || {
        dead = relay.cli(&["log", "--json", "--state", "dead"]).done().lines();
        !dead.is_empty()
    });
    assert_eq!(dead[0]["deliveries"][0]["reason"], "loop: it came through 3 relays");
    assert_eq!((dead.len(), echo.received().len(), relay.events().len()), (1, 3, 4));
}

#[test]
fn a_batch_is_charged_item_by_item_and_costs_nothing_if_one_of_its_tenants_is_over_its_budget() {
    let (statuses, events) = within_a_day(|| {
        let relay = Relay::start(
            "[source.s]\npath = '/in'\nto = []\nsplit = true\ndedupe = { key = '.id', window = '1h' }\n\
             [source.s.tenant]\nkey = '.who'\nbudget = 2\n",
        );
        let send = |items: &[(&str, &str)]| {
            let items: Vec<_> = items.iter().map(|(id, who)| json!({ "id": id, "who": who })).collect();
            relay.send(&Request::post("/in", json!(items).to_string())).status
        };
        let statuses = [
            send(&[("1", "a"), ("2", "b"), ("1", "a")]),
            // The second is one too many, and the first costs nothing then.
            send(&[("3", "b"), ("4", "b")]),
            send(&[("5", "b")]),
            // Nor did the duplicate in the first batch.
            send(&[("6", "a")]),
            send(&[("7", "a")]),
        ];
        (statuses, relay.events())
    });
    assert_eq!(statuses, [202, 429, 202, 202, 429]);
    let tenants: Vec<_> = events.iter().map(|event| event["tenant"].clone()).collect();
    assert_eq!(tenants, [json!("a"), json!("b"), json!("b"), json!("a")]);
}
