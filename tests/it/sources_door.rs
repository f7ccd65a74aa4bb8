//! Conditions of a source besides its signature, and the numbers of senders who count their events.

use serde_json::json;

use crate::harness::{Authority, Identity, Relay, Request, exchange};

#[test]
fn addresses_are_those_behind_trusted_proxies_and_others_are_403_before_their_body_is_read() {
    let relay = Relay::start(
        r#"
        [server]
        trusted_proxies = ["127.0.0.1"]

        [source.s]
        path = "/in"
        to = []
        allow = ["192.0.2.0/24", "2001:db8::7"]
        "#,
    );
    let from = |client: &str| Request::post("/in", "x").header("X-Forwarded-For", client);
    assert_eq!(relay.send(&from("192.0.2.9")).status, 202);
    assert_eq!(relay.send(&from("2001:db8::7")).status, 202);
    // The address that a stranger claims stands left of the one that the proxy saw.
    for client in ["198.51.100.1", "192.0.2.9, 198.51.100.1", "nonsense"] {
        assert_eq!(relay.send(&from(client)).status, 403, "{client}");
    }
    let waiting = from("198.51.100.1").header("Expect", "100-continue").header("Content-Length", "5");
    let waiting = Request { body: Vec::new(), ..waiting };
    assert_eq!(relay.send(&waiting).status, 403, "nothing is read of who may not speak");
    let refused = relay.cli(&["refused", "--json"]).lines();
    assert!(refused.iter().all(|line| line["reason"] == "address_not_allowed" && line["source"] == "s"), "{refused:?}");
    assert_eq!(relay.metric("stagepost_requests_total{source=\"s\",result=\"forbidden\"}") as u64, 4);
    assert_eq!(relay.events().len(), 2);
}

fn write(relay: &Relay, name: &str, identity: &Identity) {
    relay.write(&format!("{name}.pem"), &identity.pem);
    relay.write(&format!("{name}.key"), &identity.key_pem);
}

#[test]
fn a_certificate_is_a_condition_of_one_source_and_not_of_the_others() {
    let authority = Authority::new();
    let known = authority.identity("known.example");
    let mut relay = Relay::stopped(
        r#"
        [[listen]]
        address = "127.0.0.1:0"
        tls = { certificate = "a.pem", key = "a.key", client_ca = "ca.pem", client_auth = "optional" }

        [source.open]
        path = "/open"
        to = []

        [source.any]
        path = "/any"
        to = []
        client_certificate = true

        [source.one]
        path = "/one"
        to = []
        client_certificate = { san = ["Known.example"] }
        "#,
    );
    write(&relay, "a", &authority.identity("a.example"));
    relay.write("ca.pem", &authority.pem);
    relay.run();
    let send = |path: &str, client: Option<&Identity>| {
        let stream = authority.connect(relay.address(), "a.example", &["http/1.1"], client);
        exchange(stream, &Request::post(path, "x")).unwrap().status
    };
    let other = authority.identity("other.example");
    for (path, expected) in [("/open", [202, 202, 202]), ("/any", [403, 202, 202]), ("/one", [403, 403, 202])] {
        let got = [send(path, None), send(path, Some(&other)), send(path, Some(&known))];
        assert_eq!(got, expected, "{path}");
    }
    assert_eq!(relay.cli(&["refused", "--json"]).lines()[0]["reason"], "client_certificate_not_allowed");
}

#[test]
fn a_certificate_that_nobody_is_asked_for_is_refused_by_check() {
    let relay = Relay::stopped("[source.s]\npath = \"/in\"\nto = []\nclient_certificate = true\n");
    let told = relay.cli_by_config(&["check"]);
    assert_eq!(told.code, 78);
    assert!(told.err.contains("client_certificate") && told.err.contains("client_ca"), "{}", told.err);
}

#[test]
fn numbers_that_a_sender_left_out_are_counted_and_listed_until_they_come() {
    let mut relay = Relay::start(
        r#"
        [source.bot]
        path = "/bot"
        to = []
        dedupe = { key = ".update_id" }
        sequence = ".update_id"

        [source.other]
        path = "/other"
        to = []
        "#,
    );
    let send =
        |relay: &Relay, number: u64| relay.send(&Request::post("/bot", format!(r#"{{"update_id":{number}}}"#))).status;
    for number in [7, 8, 11, 12] {
        assert_eq!(send(&relay, number), 202);
    }
    assert_eq!(send(&relay, 8), 200, "a duplicate is no gap");
    assert_eq!(relay.send(&Request::post("/bot", "no number")).status, 202);
    let gaps = |relay: &Relay| relay.cli(&["status", "--json"]).done().json()["gaps"].clone();
    assert_eq!(gaps(&relay), json!([{ "source": "bot", "highest": 12, "missing": 2, "ranges": [[9, 10]] }]));
    let page = relay.cli(&["status"]).done().out;
    assert!(page.contains("source bot: 2 of the sender's numbers are missing, the first 9"), "{page}");
    assert_eq!(send(&relay, 10), 202);
    assert_eq!(gaps(&relay)[0]["ranges"], json!([[9, 9]]));
    assert_eq!(relay.metric("stagepost_gaps_total{source=\"bot\"}") as u64, 1);
    assert_eq!(relay.metric("stagepost_missing_numbers{source=\"bot\"}") as u64, 1);

    relay.restart();
    assert_eq!(relay.metric("stagepost_missing_numbers{source=\"bot\"}") as u64, 1);
    assert_eq!(send(&relay, 14), 202);
    assert_eq!(gaps(&relay)[0]["ranges"], json!([[9, 9], [13, 13]]));
}
