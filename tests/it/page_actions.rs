//! What operators press on the web page, in a real browser: each button is confirmed, and its effect is seen by other means.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    harness::{Answer, BINARY, Received, Scripts, Upstream, all_to, signed, wait_for, wait_until},
    page::{Desk, OPS},
};

impl Desk {
    /// Presses a button, and what confirms it on the page with this headline.
    fn press(&self, button: &str, headline: &str) {
        self.browser.click(button);
        self.browser.wait_for_text("h1", headline);
        self.browser.click("form.confirm button.main");
    }

    /// Nothing on this page keeps somebody out.
    fn is_fair(&self) {
        let faults = self.browser.faults();
        assert!(faults.is_empty(), "{}: {}", self.browser.address(), faults.join("\n"));
    }

    fn listed(&self, name: &str) -> Value {
        let all = self.relay.cli(&["subscriber", "list", "--json"]).done().lines();
        all.into_iter().find(|one| one["name"] == name).unwrap_or(Value::Null)
    }
}

/// As Standard Webhooks has it.
fn webhook_signature(secret: &str, got: &Received) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let header = |name| got.header(name).unwrap();
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), got.text());
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(signed);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_job_is_cancelled_from_its_page() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(422));
    let config = all_to(&upstream);
    let desk = Desk::before(Scripts::On, upstream, &config);
    let dead = desk.relay.accept("/x", "{}");
    desk.relay.wait_for_state(&dead, "dead");
    desk.relay.cli(&["hold", "--upstream", "app"]).done();
    let begun = desk.relay.cli(&["replay", "--job", "--yes", "--json", "--upstream", "app"]).done().json();
    let id = begun["job"].as_str().unwrap();
    let state = || desk.relay.cli(&["job", id, "--json"]).done().json()["state"].clone();
    wait_until("the job waits", || state() == "waiting");

    desk.login(OPS);
    desk.go("/jobs");
    desk.browser.wait_for_text("tbody", "app is held");
    desk.browser.click("form[action='/jobs/confirm'] button");
    desk.browser.wait_for_text("h1", &format!("Cancel the job {id}?"));
    assert_eq!(state(), "waiting", "nothing is done yet");
    desk.browser.click("form.confirm button.main");
    desk.browser.wait_for_text(".note", &format!("The job {id} is cancelled."));
    desk.browser.wait_for_text("tbody", "cancelled");
    assert_eq!(state(), "cancelled");
    assert_eq!(
        desk.browser.run("return document.querySelectorAll('main form').length"),
        0,
        "it can't be cancelled twice"
    );
    desk.relay.cli(&["release", "--upstream", "app"]).done();
    assert_eq!(desk.relay.show(&dead)["state"], "dead");
}

#[test]
fn a_subscriber_is_registered_paused_resumed_signed_anew_and_removed() {
    let upstream = Upstream::start();
    let config = "[source.shop]\npath = \"/*\"\n[topic.orders]\n[[route]]\nsource = \"shop\"\ntopic = \"orders\"\n\
                  [subscribers]\nallow = [\"127.0.0.0/8\"]\n";
    let desk = Desk::before(Scripts::On, upstream, config);
    desk.login(OPS);
    let browser = &desk.browser;
    let go = || {
        desk.go("/subscribers");
        browser.wait_for_text("tbody", "orders/crm");
    };

    // It is registered; what was refused is there to be put right.
    desk.go("/subscribers");
    browser.type_into("#f-topic", "orders");
    browser.type_into("#f-name", "crm");
    browser.type_into("#f-url", "ftp://crm.example");
    browser.click("form[action='/subscribers/new'] button.main");
    browser.wait_for_text(".note.bad", "orders/crm is refused: url");
    desk.is_fair();
    browser.run("document.querySelector('#f-url').value = ''");
    browser.type_into("#f-url", &desk.upstream.url());
    browser.click("form[action='/subscribers/new'] button.main");
    browser.wait_for_text(".note", "orders/crm gets what is published from now on.");
    let first_secret = browser.text("pre").unwrap();
    desk.is_fair();
    browser.click("main p a");
    browser.wait_for_text("tbody", &desk.upstream.url());
    assert!(!browser.source().contains(&first_secret), "it is shown once");

    go();
    browser.click("button[value=pause]");
    browser.wait_for_text("h1", "Pause orders/crm?");
    assert_eq!(desk.listed("crm")["state"], "active", "nothing is done yet");
    browser.type_into("#f-for", "2h");
    browser.type_into("#f-reason_text", "theirs");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Paused orders/crm.");
    browser.wait_for_text("tbody", "theirs");
    let paused = desk.listed("crm");
    assert_eq!((&paused["state"], &paused["why"]), (&json!("paused"), &json!("theirs")));
    let first = desk.relay.accept("/x", "{}");
    desk.relay.wait_for_state(&first, "held");

    desk.press("button[value=resume]", "Resume orders/crm?");
    browser.wait_for_text(".note", "Resumed orders/crm.");
    assert_eq!(desk.listed("crm")["state"], "active");
    desk.relay.wait_for_state(&first, "delivered");

    // The new secret is shown once, and signs; the old one is gone if nothing is left of its time.
    browser.click("button[value=rotate]");
    browser.wait_for_text("h1", "Rotate the secret of orders/crm?");
    browser.type_into("#f-overlap", "0s");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "orders/crm is signed with the new secret.");
    let secret = browser.text("pre").unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let second = desk.relay.accept("/x", r#"{"n":2}"#);
    desk.relay.wait_for_state(&second, "delivered");
    let got = desk.upstream.received();
    let got = got.iter().find(|got| got.header("webhook-id") == Some(&second)).unwrap();
    assert_eq!(got.header("webhook-signature"), Some(&*webhook_signature(&secret, got)));
    go();
    assert!(!browser.source().contains(&secret), "it is shown once");

    desk.press("button[value=remove]", "Remove orders/crm?");
    browser.wait_for_text(".note", "Removed orders/crm.");
    browser.wait_for_text(".empty", "There is none.");
    assert_eq!(desk.listed("crm"), Value::Null);
    let after = desk.relay.accept("/x", "{}");
    desk.relay.wait_for_state(&after, "ignored");
}

#[test]
fn what_was_refused_is_checked_again_admitted_and_deleted() {
    let upstream = Upstream::start();
    let config = format!(
        "[source.app]\npath = \"/*\"\nto = [\"app\"]\n[source.app.verify]\nscheme = \"hmac\"\nheader = \"X-Signature\"\n\
         prefix = \"sha256=\"\ntemplate = \"{{timestamp}}.{{body}}\"\n\
         timestamp = {{ header = \"X-Timestamp\", tolerance = \"5m\" }}\nsecrets = [\"literal:of yesterday\"]\n\
         [upstream.app]\nurl = \"{}\"\n",
        upstream.url()
    );
    let desk = Desk::before(Scripts::On, upstream, &config);
    for (body, secret) in [("ours", "of today"), ("forged", "of a forger")] {
        assert_eq!(desk.relay.send(&signed("/x", body, secret, 0)).status, 401);
    }
    let kept = |count: usize| {
        wait_for(&format!("{count} are kept"), || {
            let kept = desk.relay.cli(&["quarantine", "--json"]).done().lines();
            (kept.len() == count).then_some(kept)
        })
    };
    let all = kept(2);
    let (forged, ours) = (all[0]["id"].as_str().unwrap(), all[1]["id"].as_str().unwrap());
    let judged = |text: &str| desk.browser.wait_for_text("h1", text);
    desk.login(OPS);
    let browser = &desk.browser;

    // Of both, neither would be taken; when the secret is put right, one would.
    desk.go("/quarantine");
    browser.click("form[aria-label='All that these filters mean'] button[value=recheck]");
    judged("0 of 2 would be taken");
    desk.relay.configure(&desk.config.replace("literal:of yesterday", "literal:of today"));
    desk.relay.cli(&["reload"]).done();
    browser.click("main p a");
    browser.click("thead input[type=checkbox]");
    browser.click("form[data-choose] button[value=recheck]");
    judged("1 of 2 would be taken");
    assert!(desk.relay.events().is_empty(), "nothing is admitted yet");

    desk.go("/quarantine");
    browser.click(&format!("input[value='{ours}']"));
    desk.press("form[data-choose] button[value=admit]", "Admit 1 request?");
    judged("1 of 1 are events now");
    let event = kept(1).first().and(desk.relay.events().first().cloned()).unwrap();
    let shown = desk.relay.wait_for_state(event["id"].as_str().unwrap(), "delivered");
    assert_eq!(shown["verification"]["result"], "verified");
    assert_eq!(desk.upstream.wait_for_requests(1)[0].text(), "ours");

    // On the page of the request itself.
    desk.go(&format!("/quarantine/{forged}"));
    browser.click("form[aria-label='The request'] button[value=delete]");
    browser.wait_for_text("h1", "Delete 1 request?");
    kept(1);
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Deleted 1 request.");
    browser.wait_for_text(".empty", "There is none.");
    kept(0);
}

#[test]
fn a_target_is_drained_and_undrained_from_the_page_of_its_upstream() {
    let (upstream, other) = (Upstream::start(), Upstream::start());
    let config = format!(
        "[source.app]\npath = \"/*\"\nto = [\"app\"]\n[upstream.app]\nurl = [\"{}\", \"{}\"]\n",
        upstream.url(),
        other.url()
    );
    let desk = Desk::before(Scripts::On, upstream, &config);
    let drained = || {
        let targets = desk.relay.upstream("app")["targets"].clone();
        let targets = targets.as_array().unwrap().iter().filter(|target| target["state"] == "drained");
        targets.map(|target| target["url"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let button = |target: &Upstream| format!("button[aria-label$='drain {}']", target.url());
    desk.login(OPS);
    let browser = &desk.browser;
    desk.go("/upstreams/app");
    browser.wait_for_text("section[aria-labelledby=lately]", "failed attempts");
    browser.click(&button(&desk.upstream));
    browser.wait_for_text("h1", &format!("Drain {} of app?", desk.upstream.url()));
    browser.wait_for_text("main", "1 other target works");
    assert!(drained().is_empty(), "nothing is done yet");
    browser.type_into("#f-reason_text", "new kernel");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", &format!("Drained {}.", desk.upstream.url()));
    browser.wait_for_text("main", "by token ops: new kernel");
    assert_eq!(drained(), [desk.upstream.url()]);
    desk.is_fair();
    for n in 0..3 {
        let id = desk.relay.accept("/x", format!("{n}"));
        desk.relay.wait_for_state(&id, "delivered");
    }
    assert_eq!((desk.upstream.received().len(), other.received().len()), (0, 3));

    // The last one that works takes a tick more.
    browser.click(&button(&other));
    browser.wait_for_text(".note.bad", "No other target works");
    desk.is_fair();
    browser.click("form.confirm button.main");
    assert_eq!(drained().len(), 1, "the browser asks for the tick");
    browser.click("input[name=force]");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", &format!("Drained {}.", other.url()));
    assert_eq!(drained().len(), 2);
    for target in [&desk.upstream, &other] {
        desk.press(&button(target), &format!("Undrain {} of app?", target.url()));
        browser.wait_for_text(".note", &format!("Undrained {}.", target.url()));
    }
    assert!(drained().is_empty());
}

#[test]
fn a_followed_list_shows_what_becomes_of_events_that_it_has_listed_before() {
    let upstream = Upstream::start();
    upstream.answer(Answer::Status(422));
    let config = all_to(&upstream);
    let desk = Desk::before(Scripts::On, upstream, &config);
    let ids: Vec<String> = (0..30).map(|n| desk.relay.accept("/x", format!("{n}"))).collect();
    for id in &ids {
        desk.relay.wait_for_state(id, "dead");
    }
    desk.login(OPS);
    desk.go("/events?state=dead");
    let row = |id: &String| format!("tr[data-id='{id}']");
    desk.browser.wait_for_text(&row(&ids[0]), "dead");
    desk.browser.run("window.isTheSame = true");
    desk.upstream.answer(Answer::Status(200));
    for id in [&ids[0], &ids[29]] {
        desk.relay.cli(&["replay", id]).done();
        desk.browser.wait_for_text(&row(id), "delivered");
    }
    assert!(desk.browser.text(&row(&ids[1])).unwrap().contains("dead"));
    assert_eq!(desk.browser.run("return window.isTheSame"), true, "the page was not loaded again");
}

#[test]
fn the_export_that_is_shown_writes_what_the_list_shows() {
    let upstream = Upstream::start();
    let config = all_to(&upstream);
    let desk = Desk::before(Scripts::On, upstream, &config);
    let wanted = desk.relay.accept("/x", "it's $(touch pwned); `touch pwned` \"a\"");
    let other = desk.relay.accept("/x", "something else");
    for id in [&wanted, &other] {
        desk.relay.wait_for_state(id, "delivered");
    }
    desk.login(OPS);
    desk.go("/events");
    desk.browser.type_into("#f-grep", "it's $(touch pwned); `touch pwned` \"");
    desk.browser.type_into("#f-since", "1h");
    desk.browser.click("form.filters button.main");
    desk.browser.wait_for(&format!("a[href='/events/{wanted}']"));
    desk.browser.click("main > details > summary");
    desk.is_fair();
    let command = desk.browser.text("main > details pre").unwrap();
    let script = format!("stagepost() {{ '{BINARY}' \"$@\" --data '{}'; }}\n{command}\n", desk.relay.data().display());
    let ran = Command::new("sh").arg("-euc").arg(script).current_dir(desk.relay.directory()).status().unwrap();
    assert!(ran.success(), "{command}");
    let written = fs::read_to_string(desk.relay.directory().join("events.ndjson")).unwrap();
    let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written.iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(), [&wanted]);
    assert!(!desk.relay.directory().join("pwned").exists(), "{command}");
    assert!(desk.relay.cli(&["audit"]).done().out.contains("export"));
}
