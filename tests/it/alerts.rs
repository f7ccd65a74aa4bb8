//! Alerts: told once to whom they concern, durable, and over when they are over.

use serde_json::Value;

use crate::harness::{Answer, Relay, Upstream, wait_for, wait_until};

const FAST: &str = "[alerts]\nevery = \"100ms\"\nsettle = \"0s\"\n[alerts.rule.disk]\nenabled = false\n";

/// The bodies that a destination got.
fn told(upstream: &Upstream) -> Vec<Value> {
    upstream.received().iter().map(|request| serde_json::from_str(&request.text()).unwrap()).collect()
}

fn of_type<'a>(told: &'a [Value], kind: &str) -> Vec<&'a Value> {
    told.iter().filter(|body| body["type"] == kind).collect()
}

#[test]
fn failures_of_an_upstream_are_told_once_signed_to_whom_they_concern_also_after_a_restart() {
    let (app, ops, others) = (Upstream::start(), Upstream::start(), Upstream::start());
    app.answer(Answer::Status(500));
    let mut relay = Relay::start(&format!(
        "{FAST}\n[source.app]\npath = \"/*\"\nto = [\"app\"]\n[upstream.app]\nurl = \"{}\"\n\
         [alerts.rule.failures]\nthreshold = 2\nseverity = \"critical\"\n\
         [alerts.to.ops]\nurl = \"{}/alerts\"\nsecrets = [\"literal:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n\
         severity = \"critical\"\nupstreams = [\"app\"]\n[alerts.to.others]\nurl = \"{}\"\nrules = [\"disk\"]\nseverity = \"critical\"\n",
        app.url(),
        ops.url(),
        others.url(),
    ));
    assert!(relay.cli(&["alerts"]).done().out.contains("no alert stands"));
    relay.accept("/a", "1");
    relay.accept("/b", "2");
    let got = ops.wait_for_requests(1).remove(0);
    assert_eq!((got.target.as_str(), got.method.as_str()), ("/alerts", "POST"));
    assert!(got.header("webhook-signature").unwrap().starts_with("v1,"));
    let body: Value = serde_json::from_str(&got.text()).unwrap();
    assert_eq!((&body["type"], &body["data"]["rule"]), (&"alert.raised".into(), &"failures".into()));
    assert_eq!((&body["data"]["upstream"], &body["data"]["source"]), (&"app".into(), &Value::Null));
    let listed = wait_for("the alert is listed", || relay.cli(&["alerts", "--json"]).done().lines().first().cloned());
    assert_eq!((&listed["rule"], &listed["upstream"]), (&"failures".into(), &"app".into()));
    wait_until("it is counted", || (relay.metric("stagepost_alerts{rule=\"failures\"}") - 1.0).abs() < 0.1);
    let event = relay.events().into_iter().find(|event| event["source"] == "topic:stagepost.alerts").unwrap();
    assert_eq!(event["type"], "alert.raised");

    relay.restart();
    let again = relay.cli(&["alerts", "--json"]).done().lines();
    assert_eq!(again[0]["rule"], "failures");
    // What comes behind a notice that should not be there would come behind it.
    relay.cli(&["alerts", "test", "ops"]).done();
    let all = wait_for("the test", || Some(told(&ops)).filter(|told| !of_type(told, "alert.test").is_empty()));
    assert_eq!(of_type(&all, "alert.raised").len(), 1, "{all:#?}");
    assert!(told(&others).is_empty());
}

#[test]
fn a_refused_reload_is_told_to_slack_and_is_over_after_one_that_succeeds() {
    let slack = Upstream::start();
    let mut relay = Relay::stopped("");
    let config = format!("{FAST}\n[alerts.to.chat]\nkind = \"slack\"\nurl = \"env:SLACK_URL\"\n");
    relay.configure(&config);
    relay.environment("SLACK_URL", &format!("{}/services/T0/secret", slack.url()));
    relay.run();
    relay.configure(&format!("{config}\n[nonsense]\n"));
    assert_eq!(relay.cli(&["reload"]).code, 78);
    let got = slack.wait_for_requests(1).remove(0);
    assert_eq!(got.target, "/services/T0/secret");
    let body: Value = serde_json::from_str(&got.text()).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1);
    assert!(body["text"].as_str().unwrap().contains("the last reload was refused"), "{body}");
    relay.configure(&config);
    relay.cli(&["reload"]).done();
    let got = slack.wait_for_requests(2);
    assert!(got[1].text().contains("resolved on"), "{}", got[1].text());
    let event = relay.events().into_iter().next().unwrap();
    let shown = relay.wait_for_state(event["id"].as_str().unwrap(), "delivered");
    assert!(!shown.to_string().contains("T0"), "{shown:#}");
    assert!(!relay.cli_by_config(&["check", "--print"]).out.contains("T0"));
}

#[test]
fn a_command_gets_the_alert_on_standard_input_and_is_tried_again_if_it_fails() {
    let relay = Relay::start(
        "[alerts.to.pager]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"test -e ready || exit 75; cat > told.json\"]\nretry = { schedule = [\"1s\"] }\n",
    );
    let tested = relay.cli(&["alerts", "test", "pager"]).done().out;
    let id = tested.trim().rsplit(' ').next().unwrap().to_owned();
    wait_until("the first attempt failed", || relay.show(&id)["deliveries"][0]["attempts"][0]["outcome"] == "deferred");
    relay.write("ready", "");
    let shown = relay.wait_for_state(&id, "delivered");
    let attempts = shown["deliveries"][0]["attempts"].as_array().unwrap();
    assert!(attempts[0]["error"].as_str().unwrap().contains("exit status: 75"), "{attempts:#?}");
    assert_eq!(attempts[0]["sent"]["url"], "command:sh");
    let told = std::fs::read(relay.directory().join("told.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((&told["type"], &told["data"]["to"]), (&"alert.test".into(), &"pager".into()));
    let wrong = relay.cli(&["alerts", "test", "nobody"]);
    assert!(wrong.code != 0 && wrong.err.contains("there are: pager"), "{wrong:?}");
}

#[test]
fn a_burst_is_cut_off_for_those_who_are_told_and_for_nobody_who_asks_and_a_crash_tells_nothing_twice() {
    let (app, other, ops) = (Upstream::start(), Upstream::start(), Upstream::start());
    for upstream in [&app, &other] {
        upstream.answer(Answer::Status(500));
    }
    let fast = FAST.replace("[alerts]\n", "[alerts]\nmax_per_hour = 1\n");
    let mut relay = Relay::start(&format!(
        "{fast}\n[source.app]\npath = \"/*\"\nto = [\"app\", \"other\"]\n[upstream.app]\nurl = \"{}\"\n\
         [upstream.other]\nurl = \"{}\"\n[alerts.rule.failures]\nthreshold = 1\n[alerts.to.ops]\nurl = \"{}/alerts\"\n",
        app.url(),
        other.url(),
        ops.url(),
    ));
    relay.accept("/a", "1");
    wait_until("both alerts are listed", || relay.cli(&["alerts", "--json"]).done().lines().len() == 2);
    wait_until("one is withheld", || relay.metric("stagepost_alerts_withheld_total") > 0.5);
    ops.wait_for_requests(1);
    relay.kill();
    relay.run();
    relay.cli(&["alerts", "test", "ops"]).done();
    wait_until("the test", || !of_type(&told(&ops), "alert.test").is_empty());
    // A delivery may be made twice after a crash; an event is none the more.
    let events = relay.events();
    assert_eq!(events.iter().filter(|event| event["type"] == "alert.raised").count(), 1, "{events:#?}");
    assert_eq!(relay.cli(&["alerts", "--json"]).done().lines().len(), 2);
}
