//! The servers over real sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::admin::{
    fake::{Fake, Reason, Status, delivery},
    wire::{self, Act, Query, Reply},
};
use crate::log::entry::Action;

async fn ask(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

async fn over_socket(fake: Fake, request: &str) -> (String, Arc<Fake>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let ports = Arc::new(fake);
    let server = tokio::spawn(serve_socket(crate::admin::bind(&path, None).unwrap(), ports.clone()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let answer = ask(&mut stream, request).await;
    server.abort();
    (answer, ports)
}

#[tokio::test]
async fn the_tcp_address_has_probes_and_metrics_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_tcp(listener, None, Arc::new(Fake::default())));
    for (request, status, part) in [
        (get("/livez"), "200", "ok"),
        (get("/readyz"), "503", "the log is full"),
        (get("/metrics"), "200", "# TYPE stagepost_requests_total counter"),
        (get("/v1/status"), "401", "problem+json"),
        (post("/metrics", ""), "405", ""),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    server.abort();
}

#[tokio::test]
async fn the_socket_lists_events_line_by_line() {
    let fake = Fake::default();
    let ids: Vec<String> = (0..5).map(|_| fake.accept("stripe", b"{}").to_string()).collect();
    let query = serde_json::to_string(&Query { limit: 2, ..Query::default() }).unwrap();
    let (answer, _) = over_socket(fake, &post("/v1/log", &query)).await;
    let lines: Vec<Reply> =
        answer.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<&str> = lines
        .iter()
        .map(|reply| match reply {
            Reply::Event(line) => line.id.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [&ids[4], &ids[3]]);
}

#[tokio::test]
async fn a_command_is_recorded_with_the_user_of_the_peer() {
    let fake = Fake::default();
    let filters = wire::Filters { upstream: Some("billing".into()), ..wire::Filters::default() };
    let asked = Act {
        verb: wire::Verb::Hold,
        ids: Vec::new(),
        filters,
        all: false,
        to: None,
        interval_us: None,
        new_key: false,
        original: false,
        job: false,
        for_ms: None,
        reason: None,
        dry_run: false,
        before: None,
    };
    let (answer, ports) = over_socket(fake, &post("/v1/act", &serde_json::to_string(&asked).unwrap())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ports.commands()[0].actor.starts_with("uid "));
}

#[tokio::test]
async fn errors_are_told_apart_by_status() {
    let missing = "/v1/events/00000000000000000000000000";
    for (request, status) in [
        (get(missing), "404"),
        (get("/v1/events/x"), "400"),
        (post("/v1/reload", ""), "409"),
        (post("/v1/log", "{"), "400"),
        (post("/v1/log", r#"{"filters":{"state":"x"},"limit":1,"follow":false}"#), "400"),
        (get("/v1/nothing"), "404"),
    ] {
        let (answer, _) = over_socket(Fake::default(), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
    }
}

#[tokio::test]
async fn a_body_comes_as_the_bytes_that_were_received() {
    let fake = Fake::default();
    let id = fake.accept("stripe", b"exactly this");
    let (answer, _) = over_socket(fake, &get(&format!("/v1/events/{id}/body"))).await;
    assert!(answer.ends_with("\r\n\r\nexactly this"), "{answer}");
}

/// A server over TCP with the tokens of the fake instance.
struct Door {
    address: std::net::SocketAddr,
    ports: Arc<Fake>,
    server: tokio::task::JoinHandle<()>,
}

impl Door {
    async fn open(fake: Fake) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ports = Arc::new(fake);
        let server = tokio::spawn(serve_tcp(listener, None, ports.clone()));
        Self { address, ports, server }
    }

    /// Asks with the token of this name, or with none.
    async fn ask(&self, request: &str, token: Option<&str>) -> (u16, String) {
        let header = token.map_or(String::new(), |name| format!("Authorization: Bearer secret of {name}\r\n"));
        let request = request.replacen("Host: x\r\n", &format!("Host: x\r\n{header}"), 1);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let answer = ask(&mut stream, &request).await;
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A request for a route, its variables filled in.
fn request_for(route: &api::Route, id: &str, more: &str) -> String {
    let path = route.path.replace("{id}", id).replace("{name}", "billing");
    let required: Vec<String> =
        route.params().filter(|param| param.required).map(|param| format!("{}=dead", param.name)).collect();
    let query = [required.join("&"), more.to_owned()].join("&");
    let path = format!("{path}?{}", query.trim_matches('&'));
    match route.way {
        api::Way::Get => get(&path),
        api::Way::Post => post(&path, "{}"),
    }
}

#[tokio::test]
async fn without_a_token_there_are_probes_and_metrics_and_nothing_else() {
    let door = Door::open(Fake::default()).await;
    let mut open = Vec::new();
    for route in api::routes() {
        let request = request_for(route, "00000000000000000000000000", "");
        let (status, answer) = door.ask(&request, None).await;
        if status == 401 {
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        } else {
            open.push(route.path);
        }
        let (status, _) = door.ask(&request, Some("nobody we know")).await;
        assert!(matches!(status, 200 | 401 | 429 | 503), "{} with a wrong token: {status}", route.path);
    }
    assert_eq!(open, ["/livez", "/readyz", "/metrics"]);
    for path in ["/anything", "/v1", "/v1/nothing", "/livez/x"] {
        assert_eq!(door.ask(&get(path), None).await.0, 401, "{path}");
    }
}

#[tokio::test]
async fn a_token_to_view_changes_nothing_and_reveals_nothing_on_any_route() {
    let fake = Fake::default();
    let id = fake.accept("stripe", b"{}");
    fake.plan(&[(id, &["billing"])]);
    let door = Door::open(fake).await;
    for route in api::routes() {
        let (status, answer) = door.ask(&request_for(route, &id.to_string(), ""), Some("eyes")).await;
        assert_eq!(status == 403, route.role == Role::Operate, "{}: {answer}", route.path);
        assert_ne!(status, 401, "{}", route.path);
        if route.params().any(|param| param.name == "reveal") {
            let (status, answer) = door.ask(&request_for(route, &id.to_string(), "reveal=true"), Some("eyes")).await;
            assert_eq!(status, 403, "{}: {answer}", route.path);
            assert!(!answer.contains("sesame"));
        }
    }
    assert!(door.ports.commands().is_empty());
}

#[tokio::test]
async fn a_token_with_limits_sees_and_touches_its_own_alone() {
    let fake = Fake::default();
    let own = fake.accept("stripe", b"{}");
    let other = fake.accept("other", b"{}");
    let elsewhere = fake.accept("stripe", b"{}");
    for (id, upstream) in [(own, "billing"), (other, "billing"), (elsewhere, "crm")] {
        fake.plan(&[(id, &[upstream])]);
        let dead = Status::Dead(Reason::new("refused"));
        fake.set(id, delivery(upstream, dead));
    }
    let door = Door::open(fake).await;
    for route in api::routes().filter(|route| route.role > Role::Nobody) {
        for token in ["part", "glimpse"] {
            let (status, answer) = door.ask(&request_for(route, &other.to_string(), ""), Some(token)).await;
            // Counted for all sources; a token that is limited to upstreams alone sees those.
            let is_whole = route.reach == api::Reach::Whole || route.path == "/v1/queue";
            let is_refused = is_whole || (token == "glimpse" && route.role == Role::Operate);
            assert_eq!(status == 403, is_refused, "{} as {token}: {answer}", route.path);
            if !is_refused && route.path.contains("{id}") {
                assert_eq!(status, 404, "{} shows an event of another source", route.path);
            }
            for hidden in [other.to_string(), elsewhere.to_string(), "\"crm\"".to_owned(), "\"other\"".to_owned()] {
                let asked_for = status == 404 || route.path == "/v1/openapi.json";
                assert!(asked_for || !answer.contains(&hidden), "{} shows {hidden}: {answer}", route.path);
            }
        }
    }
    let act = |verb: &str, rest: &str| post("/v1/act", &format!(r#"{{"verb":"{verb}",{rest}}}"#));
    for (request, expected) in [
        (act("replay", r#""all":true"#), 200),
        (act("hold", r#""filters":{"upstream":"crm"}"#), 400),
        (act("hold", r#""filters":{"upstream":"billing"}"#), 403),
        (act("delete", &format!(r#""ids":["{own}"]"#)), 403),
        (act("replay", &format!(r#""ids":["{own}"],"to":"crm""#)), 400),
        (post("/v1/rehearse", r#"{"upstream":"billing","fault":"hang","for_ms":1000}"#), 403),
    ] {
        let (status, answer) = door.ask(&request, Some("part")).await;
        assert_eq!(status, expected, "{request}: {answer}");
    }
    let mut commands = door.ports.commands();
    commands.retain(|command| command.action.word() != "quarantine_recheck");
    let [command] = &commands[..] else { panic!("{commands:?}") };
    let Action::Replay { targets, .. } = &command.action else { panic!("{command:?}") };
    assert_eq!(targets.iter().map(|target| target.event).collect::<Vec<_>>(), [own.pos.seq]);
    assert_eq!((&*command.actor, command.origin.as_deref()), ("token part", Some("127.0.0.1")));
    let unlimited = door.ask(&get(&format!("/v1/events/{other}")), Some("eyes")).await;
    assert_eq!(unlimited.0, 200);
}

#[tokio::test]
async fn a_client_that_tries_tokens_is_not_heard_for_a_while_whatever_it_shows() {
    let door = Door::open(Fake::default()).await;
    for _ in 0..3 {
        assert_eq!(door.ask(&get("/v1/status"), Some("a guess")).await.0, 401);
    }
    let (status, answer) = door.ask(&get("/v1/status"), Some("ops")).await;
    assert_eq!(status, 429);
    assert!(answer.contains("retry-after: 20"), "{answer}");
    assert_eq!(door.ask(&get("/metrics"), Some("ops")).await.0, 200, "what is open needs no token");
    let metrics = door.ports.metered();
    assert_eq!(metrics.admin_refused(AdminRefusal::WrongToken).get(), 3);
    assert_eq!(metrics.admin_refused(AdminRefusal::TooManyFailures).get(), 1);
    let told = loop {
        let commands = door.ports.commands();
        if let Some(first) = commands.into_iter().next() {
            break first;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(told.action, Action::Noted { what, .. } if &*what == "login_failed"));
    assert_eq!(told.origin.as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn what_is_revealed_is_recorded_first() {
    let fake = Fake::default();
    let id = fake.accept("stripe", b"sesame");
    let door = Door::open(fake).await;
    let shown = |path: String| get(&path);
    let (_, hidden) = door.ask(&shown(format!("/v1/events/{id}/body")), Some("ops")).await;
    assert!(hidden.ends_with("[hidden]"), "{hidden}");
    assert!(door.ports.commands().is_empty());
    let (_, whole) = door.ask(&shown(format!("/v1/events/{id}/body?reveal=true")), Some("ops")).await;
    assert!(whole.ends_with("sesame"), "{whole}");
    let (_, head) = door.ask(&shown(format!("/v1/events/{id}?reveal=true")), Some("ops")).await;
    assert!(head.contains("Bearer sesame"), "{head}");
    let commands = door.ports.commands();
    assert_eq!(commands.len(), 2);
    assert!(commands.iter().all(|command| command.targets() == [id.to_string().into()]));
}

#[tokio::test]
async fn who_may_not_see_a_credential_does_not_find_it_by_its_letters() {
    let fake = Fake::default();
    fake.accept("stripe", b"sesame");
    let door = Door::open(fake).await;
    for (filter, ops, eyes) in
        [("grep=Bearer%20sesame", 1, 0), ("grep=x-kind", 1, 1), ("grep=sesame", 1, 0), ("where=sesame", 1, 0)]
    {
        for (token, expected) in [("ops", ops), ("eyes", eyes)] {
            let (status, answer) = door.ask(&get(&format!("/v1/events?{filter}")), Some(token)).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer.matches("received_at").count(), expected, "{filter} as {token}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_query_has_the_parameters_of_its_route_and_no_others() {
    for query in ["x=1", "limit=0", "limit=ten", "limit=5&limit=6", "state=lost", "since=yesterday", "after=zz"] {
        let (answer, _) = over_socket(Fake::default(), &get(&format!("/v1/events?{query}"))).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
    }
    let (answer, _) = over_socket(Fake::default(), &get("/v1/deliveries")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("state"), "{answer}");
    let (answer, _) = over_socket(Fake::default(), &post("/v1/status", "")).await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
}

#[tokio::test]
async fn a_reload_can_be_tied_to_the_configuration_that_was_looked_at() {
    let reload =
        |tag: &str| post("/v1/reload", "").replacen("Host: x\r\n", &format!("Host: x\r\nIf-Match: {tag}\r\n"), 1);
    let (answer, ports) = over_socket(Fake::default(), &reload("\"another\"")).await;
    assert!(answer.starts_with("HTTP/1.1 412"), "{answer}");
    assert!(ports.commands().is_empty());
    let (answer, ports) = over_socket(Fake::default(), &reload("*")).await;
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    assert_eq!(ports.commands()[0].action.word(), "reload_refused");
}
