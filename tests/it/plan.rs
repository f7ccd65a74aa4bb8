//! `stagepost plan`: a configuration against what is stored, without anything becoming active.

use crate::harness::{Output, Relay, Request, Upstream, wait_until};

fn configuration(upstream: &Upstream) -> String {
    format!(
        r#"
[source.app]
path = "/hooks/*"
type = ".type"

[source.app.dedupe]
key = ".id"
window = "1d"

[upstream.app]
url = "{url}"

[upstream.other]
url = "{url}"

[[route]]
name = "all"
source = "app"
to = ["app"]
transform = '{{id, type}}'
"#,
        url = upstream.url(),
    )
}

/// Tries a configuration.
fn plan(relay: &Relay, text: &str, arguments: &[&str]) -> Output {
    // What the harness adds stands in the file of the relay.
    let added = std::fs::read_to_string(relay.directory().join("stagepost.toml")).unwrap();
    let added = added.split("\n[source.app]").next().unwrap().to_owned();
    relay.write("new.toml", added + text);
    let mut line = vec!["plan", "new.toml"];
    line.extend_from_slice(arguments);
    relay.cli(&line)
}

#[test]
fn a_plan_says_what_would_be_refused_routed_and_sent_otherwise_and_changes_nothing() {
    let upstream = Upstream::start();
    let today = configuration(&upstream);
    let relay = Relay::start(&today);
    let paid = relay.accept("/hooks/a", r#"{"id":1,"type":"paid","amount":"<b>5</b>"}"#);
    let other = relay.accept("/hooks/b", r#"{"id":2,"type":"opened"}"#);
    for id in [&paid, &other] {
        relay.wait_for_state(id, "delivered");
    }
    let delivered = upstream.received().len();
    // What the file of the instance says is what is active.
    let same = relay.cli(&["plan"]).done();
    assert!(same.out.contains("0 of 2 requests would fare otherwise"), "{same:?}");

    // Another transform and another upstream for some.
    let changed = today.replace("'{id, type}'", "'{id, type, amount}'").replace(
        "[[route]]",
        "[[route]]\nname = \"opened\"\nsource = \"app\"\nwhen = '.type == \"opened\"'\nto = [\"other\"]\n\n[[route]]",
    );
    let told = plan(&relay, &changed, &["--json"]).done().lines();
    let summary = &told.last().unwrap()["summary"];
    assert_eq!(
        (&summary["events"], &summary["different"], &summary["rerouted"], &summary["changed"]),
        (&2.into(), &2.into(), &1.into(), &2.into()),
        "{told:?}"
    );
    let of = |id: &str| told.iter().find(|line| line["event"]["id"] == id).unwrap()["event"]["differences"].clone();
    let body = of(&paid).as_array().unwrap().iter().find(|one| one["what"] == "body").unwrap().clone();
    assert_eq!(body["upstream"], "app");
    assert_eq!(body["after"], r#"{"id":1,"type":"paid","amount":"<b>5</b>"}"#);
    assert!(of(&other).as_array().unwrap().iter().any(|one| one["what"] == "added" && one["upstream"] == "other"));
    let shown = plan(&relay, &changed, &["-n", "1"]).done().out;
    assert!(shown.contains("other: would get it") && shown.contains("1 of 1 requests"), "{shown}");
    let shown = plan(&relay, &changed, &["--grep", "paid"]).done().out;
    assert!(shown.contains("+  \"amount\": \"<b>5</b>\""), "{shown}");

    // A signature that nobody made, and a path that is gone.
    let signed = today.replace("[source.app.dedupe]", "[source.app.verify]\nscheme = \"hmac\"\nalgorithm = \"sha256\"\nheader = \"X-Signature\"\nencoding = \"hex\"\nsecrets = [\"literal:a-secret-of-some-length\"]\n\n[source.app.dedupe]");
    let summary = plan(&relay, &signed, &["--json"]).done().lines().pop().unwrap();
    assert_eq!(summary["summary"]["refused"], 2, "{summary}");
    let moved = today.replace("/hooks/*", "/hooks/a");
    let summary = plan(&relay, &moved, &["--json"]).done().lines().pop().unwrap();
    assert_eq!((&summary["summary"]["moved"], &summary["summary"]["refused"]), (&1.into(), &1.into()), "{summary}");

    // A configuration that is wrong is refused with its place.
    let wrong = plan(&relay, &today.replace("to = [\"app\"]", "to = [\"nobody\"]"), &[]);
    assert_eq!(wrong.code, 78, "{wrong:?}");
    assert!(wrong.err.contains("nobody"), "{wrong:?}");

    // Nothing of it has become active, and nothing was sent.
    let id = relay.accept("/hooks/b", r#"{"id":3,"type":"opened"}"#);
    relay.wait_for_state(&id, "delivered");
    assert_eq!(upstream.received().len(), delivered + 1);
}

#[test]
fn a_plan_shows_nothing_that_is_hidden_when_the_request_is_shown() {
    let upstream = Upstream::start();
    let today = configuration(&upstream);
    let relay = Relay::start(&format!("[privacy]\nhide = [\".amount\"]\n{today}"));
    let id = relay.accept("/hooks/a?a=1&token=sesame", r#"{"id":1,"type":"paid","amount":"sesame"}"#);
    relay.wait_for_state(&id, "delivered");
    let changed = today
        .replace("'{id, type}'", "'{id, type, amount}'")
        .replace("[upstream.other]", "path = \"/elsewhere\"\n\n[upstream.other]");
    let told = plan(&relay, &changed, &["--json"]).done().out;
    assert!(told.contains("/elsewhere?a=1&token=[hidden]"), "{told}");
    assert!(told.contains("amount") && !told.contains("sesame"), "{told}");
}

#[test]
fn a_configuration_on_probation_goes_back_by_itself_when_requests_are_refused() {
    let upstream = Upstream::start();
    let today = configuration(&upstream);
    let relay = Relay::start(&today);
    relay.accept("/hooks/a", r#"{"id":0,"type":"paid"}"#);
    let hash = relay.cli(&["status", "--json"]).json()["config"]["hash"].clone();
    let signed = today.replace(
        "[source.app.dedupe]",
        "[source.app.verify]\nscheme = \"hmac\"\nheader = \"X-Signature\"\nsecrets = \"literal:a-secret-of-some-length\"\n\n\
         [source.app.dedupe]",
    );
    let signed = signed.replace(
        "secrets = \"literal:a-secret-of-some-length\"",
        "algorithm = \"sha256\"\nencoding = \"hex\"\nsecrets = [\"literal:a-secret-of-some-length\"]",
    );
    relay.configure(&signed);
    let told = relay.cli(&["reload", "--probation", "1h"]).done().out;
    assert!(told.contains("on probation until"), "{told}");
    let status = relay.cli(&["status", "--json"]).json();
    assert!(status["config"]["probation_until"].is_string() && status["config"]["hash"] != hash, "{status}");
    for number in 1..=10 {
        assert_eq!(relay.send(&Request::post("/hooks/a", format!("{{\"id\":{number}}}"))).status, 401);
    }
    wait_until("the configuration before is active again", || {
        relay.cli(&["status", "--json"]).json()["config"]["hash"] == hash
    });
    relay.accept("/hooks/a", r#"{"id":11,"type":"paid"}"#);
    assert_eq!(relay.metric("stagepost_reloads_rolled_back_total") as u64, 1);
    assert_eq!(relay.metric("stagepost_last_reload_success") as u64, 0, "what is on disk is not what is active");
    let audit = relay.cli(&["audit", "--json"]).done();
    let noted = audit.lines().into_iter().find(|line| line["action"] == "reload_rolled_back");
    assert!(noted.is_some_and(|line| line["actor"] == "relay" && line["reason"].is_string()), "{audit:?}");
    // Without a probation it stays, whatever comes of it.
    relay.cli(&["reload"]).done();
    assert_ne!(relay.cli(&["status", "--json"]).json()["config"]["hash"], hash);
}
