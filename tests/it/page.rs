//! The web page of the real program in a real browser: an operator at work, with and without scripts, by day and by night.

use serde_json::Value;

use crate::harness::{Answer, Browser, Relay, Request, Scripts, Upstream, free_port, wait_until};

pub const OPS: &str = "a token of the operators";
const EYES: &str = "a token of those who look";

/// A body that wants to be more than text.
const MARKUP: &str = "{\"note\":\"<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>\",\
                      \"more\":\"</pre></td><svg onload=window.pwned=1></svg>\u{202e}\"}";

/// A relay, an upstream that says no at first, and somebody in front of the page.
pub struct Desk {
    pub relay: Relay,
    pub upstream: Upstream,
    pub browser: Browser,
    /// What the relay was started with.
    pub config: String,
    at: String,
}

impl Desk {
    fn new(scripts: Scripts) -> Self {
        let upstream = Upstream::start();
        upstream.script(|request| match request.text().contains("wrong") || request.text().contains("<script>") {
            true => Answer::With(422, Vec::new(), "<b>no such customer</b>"),
            false => Answer::Status(200),
        });
        let url = upstream.url();
        let config = format!(
            r#"
            [source.app]
            path = "/*"
            type = ".type"
            to = ["app", "crm"]
            [source.signed]
            path = "/signed"
            verify = {{ scheme = "hmac", header = "X-Signature", secrets = ["literal:a secret of ours"] }}
            to = ["app"]
            [upstream.app]
            url = "{url}"
            breaker = {{ failures = 50 }}
            retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
            [upstream.crm]
            url = "{url}"
            "#
        );
        Self::before(scripts, upstream, &config)
    }

    /// Before a relay with this configuration, to which the tokens are added.
    pub fn before(scripts: Scripts, upstream: Upstream, config: &str) -> Self {
        let port = free_port();
        let config = format!(
            r#"
            [admin]
            address = "127.0.0.1:{port}"
            [admin.token]
            ops = {{ role = "operate", secret = "literal:{OPS}" }}
            eyes = {{ role = "view", secret = "literal:{EYES}" }}
            {config}
            "#
        );
        let (relay, browser) = (Relay::start(&config), Browser::start(scripts));
        Self { relay, upstream, browser, config, at: format!("http://127.0.0.1:{port}") }
    }

    pub fn go(&self, path: &str) {
        self.browser.go(&format!("{}{path}", self.at));
    }

    pub fn login(&self, token: &str) {
        self.go("/login");
        self.browser.type_into("#token", token);
        self.browser.click("main button[type=submit]");
        self.browser.wait_for_text("h1", "Overview");
    }

    /// Some of everything that pages show. Gives the id of a dead event.
    fn filled(&self) -> String {
        for number in 0..5 {
            self.relay.accept("/hooks/app", format!(r#"{{"type":"invoice.paid","number":{number}}}"#));
        }
        let refused = self.relay.send(&Request::post("/signed", "{}").header("X-Signature", "00"));
        assert_eq!(refused.status, 401);
        let id = self
            .relay
            .accept("/hooks/app?a=1", r#"{"type":"invoice.wrong","customer":"cus_42","big":12345678901234567890}"#);
        self.relay.wait_for_state(&id, "dead");
        id
    }
}

#[test]
fn an_operator_finds_an_event_reads_its_attempts_replays_it_and_holds_an_upstream() {
    let desk = Desk::new(Scripts::On);
    let id = desk.filled();
    let browser = &desk.browser;
    desk.go("/events");
    assert!(browser.address().ends_with("/login?next=%2Fevents"), "{}", browser.address());
    browser.type_into("#token", OPS);
    browser.click("main button[type=submit]");
    browser.wait_for_text("h1", "Events");

    // Finds it by its text.
    browser.type_into("#f-grep", "cus_42");
    browser.click("form.filters button.main");
    browser.wait_for_text("tbody", "invoice.wrong");
    assert_eq!(browser.run("return document.querySelectorAll('tbody tr').length"), 1);
    browser.click(&format!("a[href='/events/{id}']"));
    browser.wait_for_text("h1", &id);

    // Reads its attempts, its body, and why it is where it is.
    browser.wait_for_text("#why + p", "came to source app");
    browser.wait_for_text("table.attempts", "422");
    browser.wait_for_text("section[aria-labelledby=body] pre", "12345678901234567890");

    // Replays it, and sees it delivered without loading the page again.
    desk.upstream.answer(Answer::Status(200));
    browser.click("form[aria-label='The event'] button[value=replay]");
    browser.wait_for_text("h1", "Replay 2 deliveries?");
    assert_eq!(desk.relay.show(&id)["state"], "dead", "nothing is done yet");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Replayed 2 deliveries.");
    browser.wait_for_text("h1", "delivered");
    browser.wait_for_text("table.attempts", "200");
    desk.relay.wait_for_state(&id, "delivered");

    // Holds an upstream.
    let held = || desk.relay.upstream("app")["held_until"] != Value::Null;
    desk.go("/upstreams");
    browser.click("a[href='/upstreams/app']");
    browser.click("form[aria-label='The upstream'] button[value=hold]");
    browser.wait_for_text("h1", "Hold the upstream app?");
    assert!(!held());
    browser.type_into("#f-for", "10m");
    browser.type_into("#f-reason_text", "migration");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Held the upstream app.");
    browser.wait_for_text("table", "migration");
    wait_until("the upstream is held", held);
    browser.click("form[aria-label='The upstream'] button[value=release]");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Released the upstream app.");
    wait_until("the upstream is released", || !held());

    // It is on record who did it.
    desk.go("/audit");
    browser.wait_for_text("tbody", "token ops");
    browser.wait_for_text("tbody", "migration");

    // What comes appears by itself.
    desk.go("/events");
    let fresh = desk.relay.accept("/hooks/app", r#"{"type":"just.now"}"#);
    browser.wait_for_text(&format!("tr[data-id='{fresh}']"), "just.now");
    browser.wait_for_text(&format!("tr[data-id='{fresh}']"), "delivered");
    browser.wait_for_text("[data-told]", "1 event has come");

    browser.click("form.who button");
    browser.wait_for_text("h1", "Log in");
    desk.go("/events");
    assert!(browser.address().contains("/login"));
}

#[test]
fn dead_letters_are_chosen_counted_and_replayed_together() {
    let desk = Desk::new(Scripts::On);
    for number in 0..3 {
        let id = desk.relay.accept("/hooks/app", format!(r#"{{"type":"wrong","number":{number}}}"#));
        desk.relay.wait_for_state(&id, "dead");
    }
    desk.upstream.answer(Answer::Status(200));
    desk.login(OPS);
    let browser = &desk.browser;
    desk.go("/letters?upstream=app");
    browser.click("thead input[type=checkbox]");
    browser.click("form[data-choose] button[value=replay]");
    browser.wait_for_text("h1", "Replay 3 deliveries?");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Replayed 3 deliveries.");
    wait_until("app has none left", || desk.relay.upstream("app")["dead"] == 0);
    assert_eq!(desk.relay.upstream("crm")["dead"], 3, "those of another upstream were not chosen");
    desk.go("/letters");
    browser.click("form[aria-label='All that these filters mean'] button[value=replay]");
    browser.wait_for_text("h1", "Replay 3 deliveries?");
    browser.click("form.confirm button.main");
    wait_until("none is left", || desk.relay.upstream("crm")["dead"] == 0);
}

#[test]
fn no_page_keeps_somebody_out_by_day_or_by_night_on_any_screen() {
    let desk = Desk::new(Scripts::On);
    let id = desk.filled();
    let kept = desk.relay.cli(&["quarantine", "--json"]).done().lines();
    let kept = kept.first().and_then(|one| one["id"].as_str()).unwrap().to_owned();
    let browser = &desk.browser;
    let mut wrong = Vec::new();
    let mut look = |name: &str| {
        for (scheme, width) in [("light", 1400), ("dark", 1400), ("light", 400), ("dark", 400)] {
            browser.prefer(scheme);
            browser.resize(width, 1000);
            browser.picture(&format!("{name}-{scheme}-{width}"));
            wrong.extend(browser.faults().into_iter().map(|fault| format!("{name}, {scheme}, {width}: {fault}")));
            let wide =
                browser.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth");
            if wide == true {
                wrong.push(format!("{name}: wider than a screen of {width}"));
            }
        }
    };
    desk.go("/login");
    look("login");
    desk.login(OPS);
    for (name, path) in [
        ("overview", "/"),
        ("events", "/events"),
        ("found", "/events?grep=cus_42&status=4xx"),
        ("event", &format!("/events/{id}")),
        ("missing", "/events/01M7XP4BQR0000000000010001"),
        ("letters", "/letters"),
        ("held", "/letters?state=held"),
        ("upstreams", "/upstreams"),
        ("upstream", "/upstreams/app"),
        ("sources", "/sources"),
        ("quarantine", "/quarantine"),
        ("kept", &format!("/quarantine/{kept}")),
        ("refused", "/refused"),
        ("keys", "/keys"),
        ("subscribers", "/subscribers"),
        ("jobs", "/jobs"),
        ("audit", "/audit"),
        ("configuration", "/configuration"),
    ] {
        desk.go(path);
        look(name);
    }
    desk.go(&format!("/events/{id}"));
    browser.click("form[aria-label='The event'] button[value=replay]");
    browser.wait_for_text("h1", "Replay 2 deliveries?");
    look("confirm");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn everything_can_be_read_and_done_without_scripts() {
    let desk = Desk::new(Scripts::Off);
    let id = desk.filled();
    desk.login(OPS);
    let browser = &desk.browser;
    desk.go("/events?grep=cus_42");
    browser.wait_for_text("tbody", "invoice.wrong");
    browser.click(&format!("a[href='/events/{id}']"));
    browser.wait_for_text("table.attempts", "422");
    browser.wait_for_text("section[aria-labelledby=body] pre", "cus_42");
    for path in ["/letters", "/upstreams", "/sources", "/quarantine", "/refused", "/audit", "/configuration"] {
        desk.go(path);
        browser.wait_for("h1");
    }
    desk.upstream.answer(Answer::Status(200));
    desk.go(&format!("/events/{id}"));
    browser.click("form[aria-label='The event'] button[value=replay]");
    browser.click("form.confirm button.main");
    browser.wait_for_text(".note", "Replayed 2 deliveries.");
    desk.relay.wait_for_state(&id, "delivered");
}

#[test]
fn a_body_full_of_markup_stays_text() {
    let desk = Desk::new(Scripts::On);
    let request = Request::post("/hooks/%3Cimg%20src=x%3E?q=%3Csvg%2Fonload=window.pwned=1%3E", MARKUP)
        .header("X-Customer", "<script>window.pwned=1</script>")
        .header("Content-Type", "text/html");
    let answer = desk.relay.send(&request);
    let id = answer.header("stagepost-event-id").unwrap().to_owned();
    desk.relay.wait_for_state(&id, "dead");
    desk.login(OPS);
    let browser = &desk.browser;
    for path in
        [format!("/events/{id}"), "/events".to_owned(), "/events?grep=%3Cscript%3E".to_owned(), "/letters".to_owned()]
    {
        desk.go(&path);
        browser.wait_for_text("main", &id);
        assert_eq!(browser.run("return window.pwned === undefined"), true, "{path}: a script ran");
        let made = "return document.querySelectorAll('main script, main img, main svg, main b').length";
        assert_eq!(browser.run(made), 0, "{path}: an element was made of it");
    }
    desk.go(&format!("/events/{id}"));
    let text = browser.text("main").unwrap();
    for part in ["<script>window.pwned=1</script>", "<img src=x onerror=", "⟨U+202E⟩"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn somebody_who_may_only_look_finds_no_button() {
    let desk = Desk::new(Scripts::On);
    let id = desk.filled();
    desk.login(EYES);
    let browser = &desk.browser;
    for path in [&format!("/events/{id}"), "/events?state=dead", "/letters", "/upstreams/app", "/quarantine"] {
        desk.go(path);
        browser.wait_for("h1");
        let forms =
            "return [...document.querySelectorAll('form[method=post]')].map((form) => form.getAttribute('action'))";
        assert_eq!(browser.run(forms), serde_json::json!(["/logout"]), "{path}");
    }
}
