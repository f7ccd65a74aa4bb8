//! The admin API of the real program: tokens over TCP, what they see, what is hidden, and the audit trail.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Answer, Authority, Relay, Request, Response, Upstream, all_to, exchange, free_port, wait_until};

const OPS: &str = "a token of the operators";
const EYES: &str = "a token of those who look";
const PART: &str = "a token of one team alone";

/// A relay with tokens, and where they are shown.
struct Api {
    relay: Relay,
    port: u16,
}

impl Api {
    fn start(more: &str, config: &str) -> Self {
        let port = free_port();
        let relay = Relay::start(&Self::config(port, more, config));
        Self { relay, port }
    }

    fn config(port: u16, more: &str, config: &str) -> String {
        format!(
            "[admin]\naddress = \"127.0.0.1:{port}\"\n{more}\n\
             [admin.token]\n\
             ops = {{ role = \"operate\", secret = \"literal:{OPS}\" }}\n\
             eyes = {{ role = \"view\", secret = \"literal:{EYES}\" }}\n\
             part = {{ role = \"operate\", secret = \"literal:{PART}\", sources = [\"app\"] }}\n{config}"
        )
    }

    fn send(&self, token: &str, request: Request) -> Response {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        exchange(stream, &request.header("Authorization", format!("Bearer {token}"))).unwrap()
    }

    fn get(&self, token: &str, path: &str) -> Response {
        self.send(token, Request::get(path))
    }

    fn post(&self, token: &str, path: &str, body: &Value) -> Response {
        self.send(token, Request::post(path, body.to_string()))
    }
}

#[test]
fn events_are_listed_in_pages_and_acted_on_over_tcp_with_a_token() {
    let upstream = Upstream::start();
    let api = Api::start("", &all_to(&upstream));
    let ids: Vec<String> = (0..7).map(|n| api.relay.accept("/x", format!(r#"{{"n":{n}}}"#))).collect();
    for id in &ids {
        api.relay.wait_for_state(id, "delivered");
    }
    let (mut found, mut path) = (Vec::new(), "/v1/events?limit=3".to_owned());
    loop {
        let page = api.get(EYES, &path).json();
        found.extend(page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/events?limit=3&after={next}");
    }
    found.reverse();
    assert_eq!(found, ids);
    let some = api.get(EYES, "/v1/events?where=.n%20%3E%204&state=delivered").json();
    assert_eq!(some["events"].as_array().unwrap().len(), 2);
    let asked = json!({"verb": "replay", "ids": [ids[0]], "reason": "they asked for it"});
    assert_eq!(api.post(EYES, "/v1/act", &asked).status, 403);
    assert_eq!(api.post(OPS, "/v1/act", &asked).status, 200);
    upstream.wait_for_requests(8);
    let told = api.relay.cli(&["audit", "--json"]).done().json();
    assert_eq!(told["actor"], "token ops");
    assert_eq!(told["origin"], "127.0.0.1");
    assert_eq!((&told["action"], &told["reason"]), (&json!("replay"), &json!("they asked for it")));
    assert_eq!(told["asked"], ids[0].as_str());
}

#[test]
fn what_is_configured_and_stored_is_shown_and_secrets_are_references() {
    let upstream = Upstream::start();
    let api = Api::start("", &all_to(&upstream));
    let id = api.relay.accept("/x", "x");
    api.relay.wait_for_state(&id, "delivered");
    let config = api.get(EYES, "/v1/config");
    let tag = config.header("etag").unwrap().to_owned();
    let text = config.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("[admin.token.ops]") && text.contains("literal:…") && !text.contains(OPS), "{text}");
    assert_eq!(api.get(EYES, "/v1/sources").json()["sources"][0]["requests"]["accepted"], 1);
    assert_eq!(api.get(EYES, "/v1/routes").json()["routes"][0]["to"], json!(["app"]));
    assert_eq!(api.get(EYES, "/v1/upstreams/app").json()["breaker"], "closed");
    assert_eq!(api.get(EYES, "/v1/upstreams/none").status, 404);
    assert_eq!(api.get(EYES, "/v1/segments").json()["segments"][0]["sealed"], false);
    assert_eq!(api.get(EYES, "/v1/dead").json()["deliveries"], json!([]));
    assert_eq!(api.get(EYES, "/v1/openapi.json").json()["openapi"], "3.1.0");
    let reload = |tag: &str| api.send(OPS, Request::post("/v1/reload", "").header("If-Match", tag));
    assert_eq!(reload("\"another\"").status, 412);
    assert_eq!(reload(&tag).status, 200);
}

#[test]
fn dead_letters_are_listed_with_their_reasons() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(422));
    let api = Api::start("", &all_to(&upstream));
    let id = api.relay.accept("/x", "x");
    api.relay.wait_for_state(&id, "dead");
    let dead = api.get(EYES, "/v1/dead?upstream=app").json();
    assert_eq!(dead["deliveries"][0]["event"], id.as_str());
    assert!(dead["deliveries"][0]["reason"].as_str().unwrap().contains("422"), "{dead}");
}

#[test]
fn a_token_that_is_limited_to_sources_sees_no_event_of_others() {
    let upstream = Upstream::start();
    let two = format!("{}\n[source.other]\npath = \"/other\"\nto = [\"app\"]\n", all_to(&upstream));
    let api = Api::start("", &two);
    let (own, other) = (api.relay.accept("/x", "own"), api.relay.accept("/other", "other"));
    for id in [&own, &other] {
        api.relay.wait_for_state(id, "delivered");
    }
    let seen = api.get(PART, "/v1/events").json();
    assert_eq!(seen["events"].as_array().unwrap().iter().map(|event| &event["id"]).collect::<Vec<_>>(), [own.as_str()]);
    assert_eq!(api.get(PART, &format!("/v1/events/{own}")).status, 200);
    for path in ["", "/body", "/explain"] {
        assert_eq!(api.get(PART, &format!("/v1/events/{other}{path}")).status, 404);
    }
    let acted = api.post(PART, "/v1/act", &json!({"verb": "delete", "ids": [own, other]})).json();
    assert_eq!((&acted["count"], &acted["missing"]), (&json!(1), &json!([other])));
    assert_eq!(api.get(OPS, &format!("/v1/events/{other}")).status, 200);
    for path in ["/v1/config", "/v1/audit", "/v1/segments"] {
        assert_eq!(api.get(PART, path).status, 403, "{path}");
    }
    assert_eq!(api.post(PART, "/v1/reload", &Value::Null).status, 403);
}

#[test]
fn tokens_change_with_a_reload_and_wrong_ones_are_limited_counted_and_recorded() {
    let upstream = Upstream::start();
    let api = Api::start("failed_logins = \"3/h\"", &all_to(&upstream));
    assert_eq!(api.get(EYES, "/v1/status").status, 200);
    let config = Api::config(api.port, "failed_logins = \"3/h\"", &all_to(&upstream));
    api.relay.configure(&config.replace(EYES, "another token for them"));
    let told = api.relay.cli_by_config(&["reload"]).done();
    assert!(!told.err.contains("restart"), "{}", told.err);
    assert_eq!(api.get("another token for them", "/v1/status").status, 200);
    for _ in 0..3 {
        let refused = api.get(EYES, "/v1/status");
        assert_eq!(refused.status, 401);
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    let refused = api.get(OPS, "/v1/status");
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1_000);
    let metric =
        |reason: &str| api.relay.metric(&format!("stagepost_admin_refused_total{{reason=\"{reason}\"}}")) as u64;
    assert_eq!((metric("wrong_token"), metric("too_many_failures")), (3, 1));
    wait_until("the failures are in the audit trail", || {
        let told = api.relay.cli(&["audit", "--action", "login_failed", "--json"]).done().out;
        told.contains("127.0.0.1")
    });
}

#[test]
fn what_the_configuration_hides_is_hidden_until_an_operator_reveals_it() {
    let upstream = Upstream::start();
    let api = Api::start("", &format!("[privacy]\nhide = [\".card.number\"]\n{}", all_to(&upstream)));
    let id = api.relay.accept("/x", r#"{"card":{"number":"4111","cvc":1.10}}"#);
    api.relay.wait_for_state(&id, "delivered");
    assert!(upstream.wait_for_requests(1)[0].text().contains("4111"), "what is sent is what came");
    let body = |token: &str, query: &str| api.get(token, &format!("/v1/events/{id}/body{query}"));
    let hidden = r#"{"card":{"number":"[hidden]","cvc":1.10}}"#;
    assert_eq!((body(EYES, "").text().as_str(), body(OPS, "").text().as_str()), (hidden, hidden));
    assert_eq!(body(EYES, "?reveal=true").status, 403);
    assert!(body(OPS, "?reveal=true").text().contains("4111"));
    assert_eq!(api.relay.cli(&["show", &id, "--body"]).done().out, hidden);
    assert_eq!(api.get(EYES, "/v1/events?grep=4111").json()["events"], json!([]));
    assert_eq!(api.get(OPS, "/v1/events?grep=4111").json()["events"].as_array().unwrap().len(), 1);
    let told = api.relay.cli(&["audit", "--action", "reveal", "--json"]).done().json();
    assert_eq!((&told["actor"], &told["targets"]), (&json!("token ops"), &json!([id])));
}

#[test]
fn credentials_in_queries_and_hidden_paths_of_answers_are_shown_to_nobody_who_does_not_reveal_them() {
    let upstream = Upstream::start();
    upstream.answer(Answer::With(200, Vec::new(), r#"{"card":{"number":"4111","cvc":1.10}}"#));
    let hide = "[privacy]\nhide = [\".card.number\"]\nhide_query = [\"Customer\"]\n";
    let api = Api::start("", &format!("{hide}{}", all_to(&upstream)));
    let path = "/x?a=1&access_token=sesame-1&CUSTOMER=sesame-2&X-Amz-Signature=sesame-3";
    let id = api.relay.accept(path, "x");
    api.relay.wait_for_state(&id, "delivered");
    assert_eq!(upstream.wait_for_requests(1)[0].target, path, "what is sent is what came");
    let shown = api.get(OPS, &format!("/v1/events/{id}")).json();
    assert_eq!(shown["query"], "a=1&access_token=[hidden]&CUSTOMER=[hidden]&X-Amz-Signature=[hidden]");
    assert_eq!(shown["deliveries"][0]["attempts"][0]["excerpt"], json!(r#"{"card":{"number":"[hidden]","cvc":1.10}}"#));
    let hides = |text: &str| !text.contains("sesame") && !text.contains("4111");
    for path in ["", "/explain"] {
        let text = api.get(EYES, &format!("/v1/events/{id}{path}")).text();
        assert!(hides(&text), "{path}: {text}");
    }
    for arguments in
        [&["show", &id][..], &["show", &id, "--http"], &["show", &id, "--curl"], &["explain", &id], &["log"]]
    {
        let told = api.relay.cli(arguments).done().out;
        assert!(hides(&told), "{arguments:?}: {told}");
    }
    assert_eq!(api.get(EYES, "/v1/events?grep=sesame").json()["events"], json!([]));
    assert_eq!(api.get(EYES, &format!("/v1/events/{id}?reveal=true")).status, 403);
    let revealed = api.get(OPS, &format!("/v1/events/{id}?reveal=true")).text();
    for part in ["sesame-1", "sesame-2", "sesame-3", "4111"] {
        assert!(revealed.contains(part), "{part}: {revealed}");
    }
    let told = api.relay.cli(&["audit", "--action", "reveal", "--json"]).done().json();
    assert_eq!((&told["actor"], &told["targets"]), (&json!("token ops"), &json!([id])));
    let exported = api.relay.cli(&["export"]).done().out;
    assert!(exported.contains("sesame-1") && exported.contains("4111"), "an export is faithful: {exported}");
    let without = api.relay.cli(&["export", "--hide-credentials"]).done().out;
    assert!(hides(&without), "{without}");
    assert!(!api.relay.diagnostics().contains("sesame"));
}

#[test]
fn every_deed_is_in_the_audit_trail_also_after_a_restart_and_of_a_stopped_instance() {
    let upstream = Upstream::start();
    let mut relay = Relay::start(&all_to(&upstream));
    let id = relay.accept("/x", "x");
    relay.wait_for_state(&id, "delivered");
    relay.cli(&["hold", "--upstream", "app", "--for", "1h", "--reason", "migration"]).done();
    relay.cli(&["release", "--upstream", "app"]).done();
    relay.cli(&["replay", &id]).done();
    relay.cli_by_config(&["reload"]).done();
    relay.cli(&["rehearse", "app", "--status", "500", "--for", "1s"]).done();
    relay.cli(&["show", &id, "--reveal", "--json"]).done();
    relay.cli(&["quarantine", "delete", "--all", "--yes"]).done();
    relay.cli(&["delete", &id, "--yes"]).done();
    let expected =
        ["delete", "quarantine_delete", "reveal", "rehearse", "reload", "replay", "release_upstream", "hold_upstream"];
    let actions = |relay: &Relay| -> Vec<String> {
        let all = relay.cli(&["audit", "--json"]).done().lines();
        all.iter().map(|one| one["action"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(actions(&relay), expected);
    let first = relay.cli(&["audit", "--json", "--action", "hold_upstream"]).done().json();
    assert!(first["actor"].as_str().unwrap().starts_with("uid "), "{first}");
    assert_eq!((&first["origin"], &first["reason"]), (&json!("socket"), &json!("migration")));
    assert!(first["until"].is_string());
    relay.restart();
    assert_eq!(actions(&relay), expected);
    assert!(relay.cli(&["audit"]).done().out.contains("migration"));
    assert_eq!(relay.stop(), 0);
    assert_eq!(actions(&relay), expected);
    assert_eq!(relay.cli(&["audit", "-n", "2", "--json"]).done().lines().len(), 2);
    assert_eq!(relay.cli(&["audit", "--since", "tomorrow"]).code, 64);
}

#[test]
fn the_address_speaks_tls_if_it_has_a_certificate_and_takes_a_renewed_one() {
    let (upstream, authority, port) = (Upstream::start(), Authority::new(), free_port());
    let mut relay = Relay::stopped(&format!(
        "[admin]\naddress = \"127.0.0.1:{port}\"\ntls = {{ certificate = \"admin.pem\", key = \"admin.key\" }}\n\
         token.ops = {{ role = \"operate\", secret = \"literal:{OPS}\" }}\n{}",
        all_to(&upstream)
    ));
    let write = |relay: &Relay| {
        let identity = authority.identity("admin.example");
        relay.write("admin.key", &identity.key_pem);
        relay.write("admin.pem", &identity.pem);
    };
    write(&relay);
    relay.run();
    let request = Request::get("/v1/status").header("Authorization", format!("Bearer {OPS}"));
    let presented = || {
        let mut stream = authority.connect(([127, 0, 0, 1], port).into(), "admin.example", &["http/1.1"], None);
        assert_eq!(exchange(&mut stream, &request).unwrap().status, 200);
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = presented();
    write(&relay);
    relay.cli_by_config(&["reload"]).done();
    assert_ne!(presented(), first);
    let plain = exchange(TcpStream::connect(("127.0.0.1", port)).unwrap(), &request);
    assert!(plain.is_err(), "{plain:?}");
}

/// The words of a line of shell; quotes are undone.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut letters) = (vec![String::new()], line.chars());
    while let Some(letter) = letters.next() {
        match letter {
            ' ' => words.push(String::new()),
            quote @ ('"' | '\'') => {
                words.last_mut().unwrap().extend(letters.by_ref().take_while(|letter| *letter != quote));
            }
            other => words.last_mut().unwrap().push(other),
        }
    }
    words
}

#[test]
fn the_examples_of_the_documentation_with_curl_are_answered() {
    let upstream = Upstream::start();
    let api = Api::start("", &all_to(&upstream));
    let text = include_str!("../../docs/api.md");
    let mut asked = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("$ curl ")) {
        let words = words(&line.replace("$STAGEPOST_ADMIN_TOKEN", OPS));
        let after = |name: &str| words.iter().position(|word| word == name).map(|at| words[at + 1].clone());
        let url = words.iter().find(|word| word.starts_with("http://")).unwrap();
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap();
        let mut request = after("-d").map_or_else(|| Request::get(&path), |body| Request::post(&path, body));
        if let Some((name, value)) = after("-H").as_deref().and_then(|header| header.split_once(": ")) {
            request = request.header(name, value);
        }
        let answer = match after("--unix-socket") {
            Some(_) => api.relay.ask_admin(&path),
            None => exchange(TcpStream::connect(("127.0.0.1", api.port)).unwrap(), &request).unwrap(),
        };
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        asked += 1;
    }
    assert!(asked >= 6, "only {asked} examples were found");
}
