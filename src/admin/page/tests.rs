//! The table as a whole, over real sockets: who is shown what, and who may change something.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    admin::{fake::*, server::serve_tcp},
    log::entry::Action,
};

/// A page with somebody in front of it.
struct Desk {
    address: std::net::SocketAddr,
    fake: Arc<Fake>,
    event: String,
    server: tokio::task::JoinHandle<()>,
}

/// What came back.
struct Shown {
    status: u16,
    head: String,
    body: String,
}

impl Shown {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Desk {
    async fn new() -> Self {
        let fake = Fake::default();
        let id = fake.accept("stripe", br#"{"note":"<script>alert(1)</script>\u202e","card":"</pre><img src=x>"}"#);
        fake.plan(&[(id, &["billing"])]);
        let last = fake.attempt(id, "billing", 1, Some(503), None);
        let status = Status::Dead(Reason::with("given_up", "<b>bold</b>\u{202e}"));
        fake.set(id, crate::admin::DeliveryView { last: Some(last), ..delivery("billing", status) });
        let other = fake.accept("other", b"{}");
        fake.plan(&[(other, &["crm"])]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Arc::new(fake);
        let server = tokio::spawn(serve_tcp(listener, None, fake.clone()));
        Self { address, fake, event: id.to_string(), server }
    }

    async fn ask(&self, method: &str, path: &str, more: &str, form: Option<&str>) -> Shown {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = form.map_or(String::new(), |form| {
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len())
        });
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}{length}\r\n");
        stream.write_all((head + form.unwrap_or_default()).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Shown { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str, cookie: &str) -> Shown {
        self.ask("GET", path, &format!("Cookie: a=b; {cookie}\r\n"), None).await
    }

    async fn post(&self, path: &str, cookie: &str, form: &str) -> Shown {
        self.ask("POST", path, &format!("Cookie: {cookie}\r\nSec-Fetch-Site: same-origin\r\n"), Some(form)).await
    }

    /// Logs somebody in; the cookie and the mark of the forms.
    async fn login(&self, who: &str) -> (String, String) {
        let form = format!("token=secret+of+{who}");
        let shown = self.post("/login", "", &form).await;
        assert_eq!(shown.status, 303, "{}", shown.body);
        let cookie = shown.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let page = self.get("/", &cookie).await;
        let (_, after) = page.body.split_once("name=\"mark\" value=\"").unwrap();
        (cookie, after.split('"').next().unwrap().to_owned())
    }

    /// A path of the table with something in place of its variables.
    fn filled(&self, path: &str) -> String {
        path.replace("{id}", &self.event).replace("{name}", "billing")
    }

    /// Commands that are more than a record of something seen or asked.
    fn changes(&self) -> usize {
        let is_login = |action: &Action| matches!(action, Action::Noted { what, .. } if what.starts_with("login"));
        self.fake.commands().iter().filter(|command| !is_login(&command.action)).count()
    }
}

#[tokio::test]
async fn without_a_session_every_page_leads_to_the_login_and_every_form_is_refused() {
    let desk = Desk::new().await;
    for page in pages() {
        let path = desk.filled(page.path);
        match page.way {
            Way::Get if page.role == Role::Nobody => {}
            Way::Get => {
                let shown = desk.get(&path, "stagepost=00").await;
                let next = shown.header("location").unwrap_or_default();
                assert!(shown.status == 303 && next.starts_with("/login"), "{path}: {}", shown.head);
                assert!(!shown.body.contains("stripe"), "{path}");
            }
            Way::Post if page.role == Role::Nobody => {}
            Way::Post => {
                assert_eq!(desk.post(&path, "stagepost=00", "verb=replay&id=x&mark=").await.status, 401, "{path}")
            }
        }
    }
    assert_eq!(desk.changes(), 0);
}

#[tokio::test]
async fn somebody_who_may_only_look_sees_every_page_without_a_button_and_changes_nothing() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("eyes").await;
    for page in pages() {
        let path = desk.filled(page.path);
        match (page.way, page.role) {
            (_, Role::Nobody) => {}
            (Way::Get, _) => {
                let shown = desk.get(&path, &cookie).await;
                let is_there = shown.status == 200 || path.starts_with("/quarantine/");
                assert!(is_there, "{path}: {} {}", shown.head, shown.body);
                let forms = shown.body.matches("method=\"post\"").count();
                assert!(forms <= 1, "{path} has another form than the one that logs out");
                assert!(!shown.body.contains("name=\"verb\"") && !shown.body.contains("name=\"do\""), "{path}");
            }
            (Way::Post, Role::View) => assert_eq!(page.path, "/logout"),
            (Way::Post, _) => {
                let form = format!("mark={mark}&verb=delete&do=delete&id={}&all=yes", desk.event);
                assert_eq!(desk.post(&path, &cookie, &form).await.status, 403, "{path}");
            }
        }
    }
    assert_eq!(desk.changes(), 0);
}

#[tokio::test]
async fn a_visitor_with_limits_sees_and_touches_only_his_own() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("part").await;
    for page in pages().filter(|page| page.way == Way::Get && page.role > Role::Nobody) {
        let path = desk.filled(page.path);
        let shown = desk.get(&path, &cookie).await;
        assert_eq!(shown.status == 403, page.reach == Reach::Whole, "{path}: {}", shown.head);
        assert!(!shown.body.contains(">other<") && !shown.body.contains(">crm<"), "{path}: {}", shown.body);
    }
    let form = format!("mark={mark}&verb=hold&upstream=crm&back=/");
    assert_eq!(desk.post("/act", &cookie, &form).await.status, 400);
    assert_eq!(desk.changes(), 0);
}

#[tokio::test]
async fn a_form_without_the_mark_of_its_session_or_of_another_site_does_nothing() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("ops").await;
    let (_, others) = desk.login("ops").await;
    let form = |mark: &str| format!("mark={mark}&verb=replay&id={}&back=/letters", desk.event);
    for wrong in ["", &others, "x"] {
        assert_eq!(desk.post("/act", &cookie, &form(wrong)).await.status, 403);
    }
    for site in ["cross-site", "same-site"] {
        let more = format!("Cookie: {cookie}\r\nSec-Fetch-Site: {site}\r\n");
        assert_eq!(desk.ask("POST", "/act", &more, Some(&form(&mark))).await.status, 403);
    }
    for origin in ["http://evil.example", "evil", "http://127.0.0.1:1"] {
        let more = format!("Cookie: {cookie}\r\nOrigin: {origin}\r\n");
        assert_eq!(desk.ask("POST", "/act", &more, Some(&form(&mark))).await.status, 403, "{origin}");
    }
    assert_eq!(desk.changes(), 0);
    let shown = desk.post("/act", &cookie, &form(&mark)).await;
    assert_eq!((shown.status, shown.header("location")), (303, Some("/letters")));
    assert_eq!(desk.changes(), 1);
    for origin in ["http://X", "null"] {
        let more = format!("Cookie: {cookie}\r\nOrigin: {origin}\r\n");
        assert_eq!(desk.ask("POST", "/act", &more, Some(&form(&mark))).await.status, 303, "{origin}");
    }
    let command = desk.fake.commands().pop().unwrap();
    assert_eq!((&*command.actor, command.origin.as_deref()), ("token ops", Some("127.0.0.1")));
    let refresh = format!("Cookie: {cookie}\r\nStagepost-Refresh: 1\r\n");
    let refreshed = desk.ask("GET", "/letters", &refresh, None).await.body;
    assert!(!refreshed.contains("Replayed 1 delivery."), "a script shows parts of a page only");
    assert!(desk.get("/letters", &cookie).await.body.contains("Replayed 1 delivery."), "it is told once");
    assert!(!desk.get("/letters", &cookie).await.body.contains("Replayed 1 delivery."));
}

#[tokio::test]
async fn what_is_confirmed_says_how_much_it_is_and_changes_nothing_yet() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("ops").await;
    for (form, told) in [
        (format!("verb=replay&id={}", desk.event), "Replay 1 delivery?"),
        ("verb=replay&state=dead".to_owned(), "Replay 1 delivery?"),
        ("verb=hold&upstream=billing".to_owned(), "Hold the upstream billing?"),
        (format!("verb=delete&id={}", desk.event), "Delete 1 event?"),
    ] {
        let shown = desk.post("/act/confirm", &cookie, &format!("mark={mark}&back=/letters&{form}")).await;
        assert!(shown.status == 200 && shown.body.contains(told), "{form}: {}", shown.body);
    }
    for form in ["verb=replay", "verb=hold&state=dead", "verb=explode&id=x", "verb=hold&upstream=billing&for=ever"] {
        let shown = desk.post("/act/confirm", &cookie, &format!("mark={mark}&{form}")).await;
        assert_eq!(shown.status, 400, "{form}: {}", shown.body);
    }
    assert_eq!(desk.changes(), 0);
}

#[tokio::test]
async fn the_last_target_that_works_is_drained_only_on_purpose() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("ops").await;
    let page = desk.get("/upstreams/crm", &cookie).await.body;
    assert!(page.contains("drain http://b:1") && page.contains("undrain http://c:1"), "{page}");
    let form = format!("mark={mark}&do=drain&upstream=crm&target=http://b:1&back=/upstreams/crm");
    let shown = desk.post("/targets/confirm", &cookie, &form).await;
    assert!(shown.status == 200 && shown.body.contains("No other target works"), "{}", shown.body);
    assert_eq!(desk.post("/targets", &cookie, &form).await.status, 400);
    assert_eq!(desk.changes(), 0);
    let shown = desk.post("/targets", &cookie, &format!("{form}&force=yes&reason_text=kernel")).await;
    assert_eq!((shown.status, shown.header("location")), (303, Some("/upstreams/crm")));
    let command = desk.fake.commands().pop().unwrap();
    assert!(matches!(&command.action, Action::DrainTarget { reason: Some(why), .. } if why == "kernel"), "{command:?}");
    assert_eq!(&*command.actor, "token ops");
    let undo = format!("mark={mark}&do=undrain&upstream=crm&target=http://c:1&back=/upstreams/crm");
    assert_eq!(desk.post("/targets", &cookie, &undo).await.status, 303);
    assert_eq!(desk.changes(), 2);
    // A target is for all sources, and the other upstream is none of theirs.
    let (cookie, mark) = desk.login("part").await;
    let form = format!("mark={mark}&do=drain&upstream=crm&target=http://b:1&force=yes");
    assert!(matches!(desk.post("/targets", &cookie, &form).await.status, 400 | 403));
    assert_eq!(desk.changes(), 2);
}

#[tokio::test]
async fn a_subscriber_is_registered_by_the_rules_of_the_api_and_its_secret_shown_once() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("ops").await;
    let form = |url: &str, secret: &str| {
        format!("mark={mark}&topic=orders&name=crm&url={url}&types=invoice.*,+order&rate=&secret={secret}")
    };
    // What was refused is there to be put right, less what was to be a secret.
    let shown = desk.post("/subscribers/new", &cookie, &form("http://10.0.0.1/%22%3E%3Cimg", "")).await;
    assert_eq!(shown.status, 400);
    assert!(
        shown.body.contains("leads to 10.0.0.1") && shown.body.contains("value=\"http://10.0.0.1/&quot;&gt;&lt;img\"")
    );
    let shown = desk.post("/subscribers/new", &cookie, &form("https://a.example", "literal:hunter2")).await;
    assert!(shown.status == 400 && !shown.body.contains("hunter2"), "{}", shown.body);
    let shown = desk.post("/subscribers/new", &cookie, &form("https://a.example", "")).await;
    assert!(shown.status == 200 && shown.body.contains("whsec_"), "{}", shown.body);
    let put = desk.fake.commands().into_iter().find_map(|command| match command.action {
        Action::PutSubscriber { registration, .. } => Some((registration, command.actor)),
        _ => None,
    });
    let (registration, actor) = put.unwrap();
    let types: Vec<&str> = registration.types.iter().map(|one| &**one).collect();
    assert_eq!((types, &*actor, registration.rate), (vec!["invoice.*", "order"], "token ops", None));
    assert!(!desk.get("/subscribers", &cookie).await.body.contains("whsec_"));
}

#[tokio::test]
async fn markup_and_steering_characters_from_outside_are_text_on_every_page() {
    let desk = Desk::new().await;
    let (cookie, _) = desk.login("ops").await;
    for page in pages().filter(|page| page.way == Way::Get && page.role > Role::Nobody) {
        let path = desk.filled(page.path);
        if path.ends_with("/body") {
            continue;
        }
        let shown = desk.get(&path, &cookie).await;
        for part in ["<script>alert", "<img", "<b>bold", "\u{202e}", "\u{1b}", "style=\"", "onclick", "javascript:"] {
            assert!(!shown.body.contains(part), "{path} has {part:?}: {}", shown.body);
        }
    }
    let event = desk.get(&format!("/events/{}", desk.event), &cookie).await.body;
    assert!(event.contains("&lt;script&gt;alert(1)") && event.contains("&lt;b&gt;bold&lt;/b&gt;⟨U+202E⟩"), "{event}");
    assert!(!event.contains("sesame") && event.contains("[hidden]"), "a credential is shown");
    let found = desk.get("/events?grep=%3Cscript%3E%22%27", &cookie).await.body;
    assert!(found.contains("value=\"&lt;script&gt;&quot;'\""), "{found}");
    assert!(desk.get("/refused", &cookie).await.body.contains("\u{241b}[2J"));
}

#[tokio::test]
async fn every_page_has_the_headers_that_keep_it_what_it_is() {
    let desk = Desk::new().await;
    let (cookie, _) = desk.login("ops").await;
    for path in ["/", "/login", "/events", "/events/x", "/upstreams/none", &format!("/events/{}/body", desk.event)] {
        let shown = desk.get(path, &cookie).await;
        let policy = shown.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {}", shown.head);
        assert_eq!(shown.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(shown.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(shown.header("cache-control"), Some("no-store"), "{path}");
    }
    let body = desk.get(&format!("/events/{}/body", desk.event), &cookie).await;
    assert_eq!(body.header("content-type"), Some("application/octet-stream"));
    assert!(body.header("content-disposition").unwrap().starts_with("attachment; filename=\""));
    let page = desk.get("/login", "").await.body;
    let (_, style) = page.split_once("rel=\"stylesheet\" href=\"").unwrap();
    let style = desk.get(style.split('"').next().unwrap(), "").await;
    assert_eq!(style.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(desk.get("/assets/page-0000000000000000.css", "").await.status, 404);
}

#[tokio::test]
async fn logins_are_counted_their_cookie_is_strict_and_logging_out_ends_the_session() {
    let desk = Desk::new().await;
    let shown = desk.post("/login", "", "token=secret+of+ops&next=//elsewhere.example").await;
    let cookie = shown.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/"), "{cookie}");
    assert_eq!(shown.header("location"), Some("/"), "another host is no place to go on to");
    let shown = desk.post("/login", "", "token=secret+of+ops&next=/events?grep=a").await;
    assert_eq!(shown.header("location"), Some("/events?grep=a"));

    let (cookie, mark) = desk.login("ops").await;
    assert_eq!(desk.get("/events", &cookie).await.status, 200);
    assert_eq!(desk.post("/logout", &cookie, &format!("mark={mark}")).await.status, 303);
    assert_eq!(desk.get("/events", &cookie).await.status, 303);

    for _ in 0..3 {
        assert_eq!(desk.post("/login", "", "token=wrong").await.status, 401);
    }
    assert_eq!(desk.post("/login", "", "token=secret+of+ops").await.status, 429);
    let bearer = desk.ask("GET", "/v1/status", "Authorization: Bearer secret of ops\r\n", None).await;
    assert_eq!(bearer.status, 429, "the API counts the same failures");
}

#[tokio::test]
async fn a_browser_that_asks_for_a_page_that_is_not_there_is_told_so_in_html() {
    let desk = Desk::new().await;
    let shown = desk.ask("GET", "/event", "Accept: text/html,*/*;q=0.8\r\n", None).await;
    assert_eq!((shown.status, shown.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(shown.body.contains("there is no such page"), "{}", shown.body);
    assert_eq!(desk.ask("GET", "/event", "", None).await.status, 401);
    assert_eq!(desk.ask("GET", "/v1/event", "Accept: text/html\r\n", None).await.status, 401);
}

#[tokio::test]
async fn a_session_opens_no_other_door_than_the_page() {
    let desk = Desk::new().await;
    let (cookie, _) = desk.login("ops").await;
    let shown = desk.get("/v1/status", &cookie).await;
    assert_eq!(shown.status, 401, "the API takes tokens, so that no other site can use a cookie there");
}

#[tokio::test]
async fn a_link_from_another_site_is_followed_once_more_by_ourselves() {
    let desk = Desk::new().await;
    let shown = desk.ask("GET", "/events?state=dead", "Sec-Fetch-Site: cross-site\r\n", None).await;
    assert!(shown.status == 200 && shown.body.contains("0; url=/events?state=dead"), "{}", shown.body);
    let shown = desk.ask("GET", "/events?state=dead", "Sec-Fetch-Site: same-origin\r\n", None).await;
    assert_eq!(shown.header("location"), Some("/login?next=%2Fevents%3Fstate%3Ddead"));
}

#[tokio::test]
async fn what_is_hidden_is_shown_to_operators_who_ask_and_that_is_recorded() {
    let desk = Desk::new().await;
    let (cookie, mark) = desk.login("ops").await;
    let path = format!("/events/{}", desk.event);
    assert!(desk.post(&path, &cookie, &format!("mark={mark}")).await.body.contains("Bearer sesame"));
    let command = desk.fake.commands().pop().unwrap();
    assert!(matches!(&command.action, Action::Noted { what, .. } if &**what == "reveal"), "{command:?}");
}

#[tokio::test]
async fn the_tail_gives_what_came_and_where_to_go_on() {
    let desk = Desk::new().await;
    let (cookie, _) = desk.login("eyes").await;
    let page = desk.get("/events", &cookie).await.body;
    let (_, address) = page.split_once("data-tail=\"").unwrap();
    let address = address.split('"').next().unwrap().replace("&amp;", "&");
    let news = |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap();
    let none = news(&desk.get(&address, &cookie).await.body);
    assert_eq!(none["rows"].as_array().unwrap().len(), 0);
    let id = desk.fake.accept("stripe", b"{}").to_string();
    let next = none["next"].as_str().unwrap().to_owned();
    let one = news(&desk.get(&next, &cookie).await.body);
    assert_eq!(one["rows"][0]["id"], id.as_str());
    let after = news(&desk.get(one["next"].as_str().unwrap(), &cookie).await.body);
    assert_eq!(after["rows"].as_array().unwrap().len(), 0, "it came once");
}

#[tokio::test]
async fn rows_that_are_listed_are_drawn_again_a_bounded_number_at_once_and_only_to_those_who_may_see_them() {
    let desk = Desk::new().await;
    let (cookie, _) = desk.login("eyes").await;
    let id = desk.fake.accept("stripe", b"{}");
    let other = desk.fake.accept("other", b"{}");
    let path = format!("/tail/rows?id={id}&id={other}&id=01M7XP4BQR0000000000010001");
    let rows = |shown: &Shown| serde_json::from_str::<serde_json::Value>(&shown.body).unwrap()["rows"].clone();
    let before = rows(&desk.get(&path, &cookie).await);
    assert_eq!((before.as_array().unwrap().len(), &before[0]["id"]), (2, &id.to_string().into()));
    assert!(before[0]["html"].as_str().unwrap().contains("pending"), "it is not planned yet: {before}");
    desk.fake.plan(&[(id, &["billing"])]);
    desk.fake.set(id, delivery("billing", Status::Dead(Reason::with("given_up", "<b>bold</b>"))));
    let row = rows(&desk.get(&path, &cookie).await)[0]["html"].as_str().unwrap().to_owned();
    assert!(row.contains("dead") && row.contains("&lt;b&gt;bold"), "{row}");
    let (part, _) = desk.login("glimpse").await;
    assert_eq!(rows(&desk.get(&path, &part).await).as_array().unwrap().len(), 1);
    let many = vec![format!("id={id}"); 26].join("&");
    assert_eq!(desk.get(&format!("/tail/rows?{many}"), &cookie).await.status, 400);
    assert_eq!(desk.get("/tail/rows?id=x", &cookie).await.status, 400);
}

#[tokio::test]
async fn the_command_that_exports_is_shown_to_those_who_could_run_it() {
    let desk = Desk::new().await;
    for (who, sees) in [("ops", true), ("eyes", false), ("part", false)] {
        let (cookie, _) = desk.login(who).await;
        let page = desk.get("/events?source=stripe&grep=%3Cscript%3E", &cookie).await.body;
        let command = "stagepost export --source=stripe --grep='&lt;script&gt;' &gt; events.ndjson";
        assert_eq!(page.contains(command), sees, "{who}: {page}");
    }
}

#[test]
fn pages_are_told_apart() {
    let mut seen = std::collections::BTreeSet::new();
    for page in pages() {
        assert!(seen.insert((page.path, format!("{:?}", page.way))), "{} stands twice", page.path);
        assert!(!page.path.starts_with("/v1"), "{} is the API's", page.path);
    }
}
