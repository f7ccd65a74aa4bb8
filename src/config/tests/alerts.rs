//! Alerts: rules and destinations.

use super::*;
use crate::{
    alert::Rules,
    routing::{SignPolicy, Target},
};

const BASE: &str = "[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/x'\nto = ['billing']\n\
                    [upstream.billing]\nurl = 'http://x'\n";

fn with(text: &str) -> Directory {
    let directory = Directory::with(&format!("{BASE}{text}"));
    directory.write("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    directory.write("slack", "https://hooks.example/services/T0/B0");
    directory
}

#[test]
fn without_a_word_every_rule_is_on_and_nobody_is_told() {
    let loaded = with("").load().unwrap_or_else(|problems| panic!("{problems}"));
    let settings = &loaded.config.alerts;
    let Rules { failures, dead, errors, refusals, backlog, latency, silence, .. } = &settings.engine.rules;
    assert!(failures.is_some() && dead.is_some() && errors.is_some() && refusals.is_some() && backlog.is_some());
    assert!(latency.is_some() && silence.is_some());
    assert_eq!((loaded.table.upstreams.len(), loaded.table.topics.len()), (1, 0));
    let off = with("[alerts]\nenabled = false\n").load().unwrap();
    assert_eq!(off.config.alerts.engine.rules, Rules::default());
    let one = with("[alerts.rule.dead]\nenabled = false\n").load().unwrap();
    assert!(one.config.alerts.engine.rules.dead.is_none() && one.config.alerts.engine.rules.stale.is_some());
}

#[test]
fn a_destination_is_an_upstream_with_a_route_from_the_topic_of_alerts() {
    let directory = with(
        "[alerts.to.ops]\nurl = 'http://ops/alerts'\nsecrets = ['file:key']\nseverity = 'warning'\nrules = ['dead', 'disk']\n\
         upstreams = ['billing']\nsources = ['app']\n[alerts.to.chat]\nkind = 'slack'\nurl = 'file:slack'\n\
         [alerts.to.pager]\nkind = 'command'\nargv = ['page', '-x']\n",
    );
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let upstream = |name: &str| &loaded.table.upstreams[&*format!("stagepost.alerts/{name}")];
    assert!(matches!(upstream("ops").sign, Some(SignPolicy::Own(_))));
    assert!(upstream("chat").hides_url);
    assert!(matches!(&upstream("pager").target, Target::Command(argv) if argv.len() == 2));
    let route = loaded.table.routes.iter().find(|route| &*route.name == "alerts:ops").unwrap();
    assert_eq!(
        route.when.as_ref().unwrap().text(),
        r#".data.to == "ops" or (.data.to == null and .data.upstream != "stagepost.alerts/ops" and (.data.state == "withheld" or (.data.rule == "dead" or .data.rule == "disk")) and (.data.severity == "warning" or .data.severity == "critical") and (.data.state == "withheld" or (.data.upstream == "billing") or (.data.source == "app")))"#
    );
    assert_eq!(loaded.table.topics.len(), 1);
    let printed = effective(&loaded.config);
    assert!(!printed.contains("whsec_") && !printed.contains("services"), "{printed}");
    directory.write("stagepost.toml", printed);
    let again = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(effective(&again.config), printed);
    let none = with("").load().unwrap();
    let gone = ["stagepost.alerts/chat", "stagepost.alerts/ops", "stagepost.alerts/pager"];
    assert_eq!(diff(&loaded.config, &none.config).removed_upstreams, gone);
    let subscribed = with("[subscriber.all]\nurl = 'http://x'\ntopic = 'stagepost.alerts'\n").load().unwrap();
    assert!(subscribed.table.upstreams.contains_key("stagepost.alerts/all") && subscribed.warnings.len() == 1);
}

#[test]
fn what_can_not_work_is_refused_with_its_key_and_the_remedy() {
    for (text, expected) in [
        ("[alerts]\nevery = '1h'\n", "alerts.every: must lie between 100ms and 1m"),
        ("[alerts]\nrepeat = '0s'\n", "alerts.repeat: must be longer than zero"),
        ("[alerts.rule.dad]\n", "alerts.rule.dad: unknown key; did you mean \"dead\"?"),
        ("[alerts.rule.dead]\nthreshold = 0\n", "alerts.rule.dead.threshold: takes a whole number from 1"),
        ("[alerts.rule.dead]\nwindow = '1s'\n", "alerts.rule.dead.window: must lie between 10s and 7d"),
        ("[alerts.rule.errors]\nshare = 2\n", "alerts.rule.errors.share: takes a number from 0.001 to 1"),
        ("[alerts.rule.errors]\nminimum = 0\n", "alerts.rule.errors.minimum: takes a whole number from 1"),
        ("[alerts.rule.latency]\nfactor = 1\n", "alerts.rule.latency.factor: takes a number from 1.1"),
        ("[alerts.rule.silence]\nfactor = 0\n", "alerts.rule.silence.factor: takes a number from 1"),
        ("[alerts]\nmax_per_hour = 0\n", "alerts.max_per_hour: takes a whole number from 1 to 10000"),
        ("[alerts.rule.hold]\nage = '0s'\n", "alerts.rule.hold.age: must be longer than zero"),
        (
            "[alerts.rule.disk]\ninfo = 0.9\n",
            "alerts.rule.disk.info: must not be above warning, nor that above critical",
        ),
        ("[alerts.rule.reload]\nseverity = 'bad'\n", "severity \"bad\" is not known; known: info, warning, critical"),
        (
            "[alerts]\nenabled = false\n[alerts.to.a]\nurl = 'http://x'\n",
            "alerts.enabled: is false although there are destinations: nothing would reach them",
        ),
        ("[alerts.to.a]\n", "alerts.to.a.url: is missing"),
        ("[alerts.to.a]\nkind = 'mail'\n", "kind \"mail\" is not known; known: webhook, slack, command"),
        ("[alerts.to.a]\nurl = 'http://x'\nargv = ['x']\n", "alerts.to.a.argv: unknown key"),
        (
            "[alerts.to.a]\nurl = 'http://x'\nrules = ['dad']\n",
            "names the unknown rule \"dad\"; did you mean \"dead\"?",
        ),
        ("[alerts.to.a]\nurl = 'http://x'\nrules = []\n", "alerts.to.a.rules: is empty, so that nothing goes there"),
        (
            "[alerts.to.a]\nurl = 'http://x'\nupstreams = ['biling']\n",
            "alerts.to.a.upstreams: names \"biling\", which is not there; did you mean \"billing\"?",
        ),
        ("[alerts.to.a]\nurl = 'http://x'\nsources = ['ap']\n", "alerts.to.a.sources: names \"ap\""),
        ("[alerts.to.a]\nurl = 'http://x'\nsources = []\n", "alerts.to.a.sources: is empty; leave it out"),
        ("[alerts.to.a]\nkind = 'slack'\n", "alerts.to.a.url: is missing; write a reference such as \"env:SLACK_URL\""),
        ("[alerts.to.a]\nkind = 'slack'\nurl = 'https://x'\n", "alerts.to.a.url:"),
        ("[alerts.to.a]\nkind = 'slack'\nurl = ['file:slack', 'file:slack']\n", "alerts.to.a.url: takes one;"),
        ("[alerts.to.a]\nkind = 'slack'\nurl = 'file:key'\n", "alerts.to.a.url: has an unknown scheme"),
        ("[alerts.to.a]\nkind = 'command'\n", "alerts.to.a.argv: is missing; write a list such as"),
        (
            "[alerts.to.a]\nkind = 'command'\nargv = 'page ops'\n",
            "alerts.to.a.argv: takes the program and its arguments",
        ),
        (
            "[alerts.to.a]\nkind = 'command'\nargv = ['x']\nconcurrency = 17\n",
            "concurrency: takes a whole number from 1 to 16",
        ),
        ("[alerts.to.'a/b']\nurl = 'http://x'\n", "\"a/b\" is no name;"),
        ("[topic.'stagepost.alerts']\n", "is the relay's own topic and there without a section; remove it"),
        (
            "[alerts.to.a]\nurl = 'http://x'\n[[route]]\ntopic = 'stagepost.alerts'\n",
            "publishes under stagepost.alerts, where only the relay's own alerts belong",
        ),
        (
            "[alerts.to.a]\nurl = 'http://x'\n[subscriber.a]\nurl = 'http://x'\ntopic = 'stagepost.alerts'\n",
            "alerts.to.a: has the name of a subscriber of stagepost.alerts; rename one of the two",
        ),
    ] {
        let directory = with(text);
        let problems = directory.load().err().unwrap_or_else(|| panic!("{text} is taken"));
        let messages = directory.messages(&problems.0).join("\n");
        assert!(messages.contains(expected), "{text}: {messages}");
        assert!(!messages.contains("services"), "{messages}");
    }
}

#[test]
fn traces_go_to_an_http_url_and_their_keys_need_one() {
    let loaded = with("[traces]\nendpoint = 'http://127.0.0.1:4318/v1/traces'\nsample = 0.5\n").load().unwrap();
    let traces = loaded.config.traces.as_ref().unwrap();
    assert_eq!((traces.sample, traces.queue), (0.5, 4_096));
    assert!(with("").load().unwrap().config.traces.is_none());
    for (text, expected) in [
        (
            "endpoint = 'unix:/x'",
            "traces.endpoint: is no http:// or https:// url; write \"http://127.0.0.1:4318/v1/traces\"",
        ),
        ("endpoint = 'http://u:p@x'", "traces.endpoint: holds a user or a password"),
        ("headers = { X = '1' }", "traces.headers: has no effect without endpoint"),
        ("endpoint = 'http://x'\nsample = 2", "traces.sample: takes a number from 0 to 1"),
        ("endpoint = 'http://x'\nqueue = 0", "traces.queue: takes a whole number from 1 to 1000000"),
        ("endpoint = 'http://x'\ntimeout = '0s'", "traces.timeout: must be longer than zero"),
        ("endpoint = 'http://x'\ntls = {}", "traces.tls: has no effect without an https:// endpoint; remove it"),
        ("endpont = 'http://x'", "traces.endpont: unknown key; did you mean \"endpoint\"?"),
    ] {
        let directory = with(&format!("[traces]\n{text}\n"));
        let problems = directory.load().err().unwrap_or_else(|| panic!("{text} is taken"));
        let messages = directory.messages(&problems.0).join("\n");
        assert!(messages.contains(expected), "{text}: {messages}");
    }
}
