//! What senders invent makes no metrics: paths, tenants, types and keys are theirs, label values are the operator's.

use std::thread;

use crate::harness::{Connection, Relay, Request};

const PATHS: usize = 20_000;
const TENANTS: usize = 20_000;
const CONNECTIONS: usize = 32;

/// Lines of metrics, each one a series.
fn series(relay: &Relay) -> Vec<String> {
    let text = relay.ask_admin("/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

/// A word that no other number has, with every kind of character that a path may hold.
fn word(number: usize) -> String {
    let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{mixed:x}-{number}.~%22%7B")
}

/// Sends a request for each number, on many connections; what was answered, each status with how often.
fn send_all(relay: &Relay, count: usize, request: impl Fn(usize) -> Request + Sync) -> Vec<(u16, usize)> {
    let (address, request) = (relay.address(), &request);
    let share = |first: usize| {
        let mut connection = Connection::open(address);
        let numbers = (first..count).step_by(CONNECTIONS);
        numbers.map(|number| connection.send(&request(number)).status).collect::<Vec<u16>>()
    };
    let mut statuses: Vec<u16> = thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..CONNECTIONS).map(|first| scope.spawn(move || share(first))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    statuses.chunk_by(|one, other| one == other).map(|same| (same[0], same.len())).collect()
}

#[test]
fn twenty_thousand_paths_and_as_many_tenants_make_no_metrics() {
    let relay = Relay::start(
        r#"
        [source.any]
        path = "/any/*"
        to = []
        type = ".kind"

        [source.shop]
        path = "/t/{tenant}/in"
        to = []
        dedupe = { key = ".id", window = "1h" }
        tenant = { capture = "tenant", budget = 2 }
        "#,
    );
    let path = |number: usize| {
        let word = word(number);
        // One in four is nobody's.
        let root = if number.is_multiple_of(4) { "" } else { "/any" };
        Request::post(&format!("{root}/{word}?{word}=1"), format!(r#"{{"kind":"{number}"}}"#))
            .header("Host", format!("h{number}.test"))
    };
    let tenant = |number: usize| {
        let body = format!(r#"{{"id":{number}}}"#);
        Request::post(&format!("/t/{}/in", word(number)), body).header("X-Tenant", word(number))
    };
    // One of each kind, so that all series that there are have begun.
    assert_eq!(send_all(&relay, 8, path), [(202, 6), (404, 2)]);
    assert_eq!(send_all(&relay, 1, tenant), [(202, 1)]);
    assert_eq!(send_all(&relay, 1, tenant), [(200, 1)]);
    let more = |number| Request::post(&format!("/t/{}/in", word(0)), format!(r#"{{"id":"more-{number}"}}"#));
    assert_eq!(send_all(&relay, 2, more), [(202, 1), (429, 1)]);
    let before = series(&relay);
    assert!(before.len() > 50, "{before:?}");

    assert_eq!(send_all(&relay, PATHS, path), [(202, PATHS / 4 * 3), (404, PATHS / 4)]);
    assert_eq!(send_all(&relay, TENANTS - 1, |number| tenant(number + 1)), [(202, TENANTS - 1)]);
    assert_eq!(series(&relay), before);
    assert_eq!(relay.metric("stagepost_tenants{source=\"shop\"}") as usize, TENANTS);
}
