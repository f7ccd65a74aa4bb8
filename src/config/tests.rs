//! Loading as a whole: what a configuration becomes. What is refused is in `errors`, certificates are in `tls`.

mod admin;
mod alerts;
mod batch;
mod chain;
mod door;
mod errors;
mod failure;
mod guard;
mod order;
mod outline;
mod outside;
mod presets;
mod sign;
mod sink;
mod targets;
mod tls;
mod topic;

use std::{fs, path::Path, time::Duration};

use http::Method;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Timestamp,
    routing::{HostPolicy, KeySelector, Listener, Lookup, OnDuplicate, RetryPolicy, Schedule, Target},
    verify::Head,
};

/// A directory with a configuration file.
struct Directory(TempDir);

impl Directory {
    fn with(text: &str) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        directory.write("stagepost.toml", text);
        directory
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        self.load_with(&|_| None)
    }

    fn load_with(&self, env: Env<'_>) -> Result<Loaded, Problems> {
        super::load_with(&self.path("stagepost.toml"), env)
    }

    /// Every message, without the directory.
    fn messages(&self, list: &[Problem]) -> Vec<String> {
        let prefix = format!("{}/", self.0.path().display());
        list.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }
}

fn loaded(text: &str) -> Loaded {
    Directory::with(text).load().unwrap_or_else(|problems| panic!("{problems}"))
}

/// The least that loads.
const MINIMAL: &str = "
    [[listen]]
    address = '127.0.0.1:8080'
    [source.app]
    path = '/hooks/app'
    to = ['billing']
    [upstream.billing]
    url = 'http://127.0.0.1:3000'
";

const CONTRACT: &str = r#"
include = ["conf.d/*.toml"]

[server]
max_connections = 10000
max_body = "10MiB"
trusted_proxies = []          # CIDRs
shutdown_timeout = "30s"

[[listen]]
address = "0.0.0.0:8443"
tls = { certificate = "fullchain.pem", key = "fullchain.key" }
proxy_protocol = false

[store]
path = "/var/lib/stagepost"
retention = "7d"
dead_retention = "30d"
max_size = "20GiB"
when_full = "reclaim"

[admin]
socket = "/run/stagepost/admin.sock"
address = "127.0.0.1:9480"
token.ops = { role = "operate", secret = "file:ops.token" }

[diagnostics]
level = "info"
format = "text"
access = "refused"

[source.stripe]
path = "/hooks/stripe"
verify = { scheme = "stripe", secrets = ["file:stripe-secret"] }
dedupe = { key = ".id", window = "7d" }
to = ["billing"]

[source.app]
path = "/hooks/app"
type = ".event"

[source.app.verify]
scheme = "hmac"
algorithm = "sha256"
header = "X-Signature"
encoding = "hex"
prefix = "sha256="
template = "{timestamp}.{body}"
timestamp = { header = "X-Timestamp", unit = "s", tolerance = "5m" }
secrets = ["literal:one", "file:previous-secret"]

[upstream.billing]
url = "http://127.0.0.1:3000"
headers = { Authorization = "Bearer file:token" }
tls = { ca = "corp-ca.pem" }
timeout = "10s"
retry = { schedule = ["1s", "5s", "30s"], jitter = 0.5, give_up_after = "5d" }
breaker = { failures = 5, cool_down = "60s" }
concurrency = 64
rate = "200/s"
sign = { secrets = ["file:signing-secret"] }

[[route]]
name = "paid-invoices"
source = "stripe"
when = '(.type // "") | startswith("invoice.")'
to = ["billing"]
transform = '{id, type, customer: .data.object.customer}'
headers = { set = { X-Kind = "invoice" }, remove = ["Cookie"] }
"#;

#[test]
fn the_contracts_own_example_loads() {
    let directory = Directory::with(CONTRACT);
    directory.write("previous-secret", "two\n");
    directory.write("token", "t0ken\n");
    directory.write("stripe-secret", "whsec_of_stripe\n");
    directory.write("ops.token", "0123456789abcdef\n");
    directory.write("signing-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    tls::write_certificate(&directory, "fullchain", &["hooks.example"]);
    let Loaded { config, table, warnings, files, .. } =
        directory.load().unwrap_or_else(|problems| panic!("{problems}"));

    let Lookup::Found(stripe) = table.find("any.host", "/hooks/stripe") else { panic!("no source") };
    let dedupe = stripe.source.dedupe.as_ref().unwrap();
    assert!(matches!(&dedupe.key, KeySelector::Expr(expr) if expr.text() == ".id"));
    assert_eq!(dedupe.on_duplicate, OnDuplicate::Revive);
    let Lookup::Found(app) = table.find("", "/hooks/app") else { panic!("no source") };
    let references: Vec<&str> =
        app.source.verifier.secret_references().into_iter().map(|reference| &**reference).collect();
    assert_eq!(references, ["literal:…", "file:previous-secret"]);

    let billing = &table.upstreams["billing"];
    assert_eq!(billing.headers[0].1, "Bearer t0ken");
    assert!(billing.headers[0].1.is_sensitive());
    assert_eq!(billing.retry.give_up_after, Some(Duration::from_secs(5 * 86_400)));
    assert_eq!(billing.host, HostPolicy::Preserve);

    let names: Vec<&str> = table.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["stripe", "paid-invoices"]);
    assert_eq!(config.admin.address.map(|address| address.port()), Some(9480));
    assert_eq!(table.hash, config.hash);
    let watched = [
        "fullchain.key",
        "fullchain.pem",
        "ops.token",
        "previous-secret",
        "signing-secret",
        "stagepost.toml",
        "stripe-secret",
        "token",
    ];
    assert_eq!(files, watched.map(|name| directory.path(name)));
    let said = directory.messages(&warnings).join("\n");
    assert!(said.contains("source.app.verify.secrets: a literal secret"), "{said}");
    assert!(said.contains("upstream.billing.tls: has no effect without an https:// url"), "{said}");
    assert!(said.contains("source.app: no route takes its events"), "{said}");
    assert!(!effective(&config).contains("t0ken") && !effective(&config).contains("literal:one"));
}

#[test]
fn the_commented_example_is_the_defaults() {
    let example = loaded(include_str!("../../config/stagepost.toml"));
    assert_eq!(effective(&example.config), effective(&loaded(MINIMAL).config));
    assert_eq!(example.table.upstreams["billing"].retry, RetryPolicy::standard());
    assert_eq!(example.table.upstreams["billing"].breaker, routing::BreakerPolicy::standard());
}

#[test]
fn the_commented_example_names_every_key() {
    let example = include_str!("../../config/stagepost.toml");
    let verify = "[source.app]\npath = '/'\n[source.app.verify]\nscheme = 'hmac'\nheader = 'X'\n";
    for section in [
        "",
        "[server]\n",
        "[[listen]]\n",
        "[[listen]]\n[[listen.tls]]\n",
        "[store]\n",
        "[admin]\n",
        "[admin.token.ops]\n",
        "[diagnostics]\n",
        "[privacy]\n",
        "[source.app]\n",
        verify,
        &format!("{verify}[source.app.verify.timestamp]\n"),
        "[keys]\n",
        "[source.app.client_certificate]\n",
        "[source.app.sequence]\n",
        "[source.app.dedupe]\n",
        "[source.app.reply]\n",
        "[source.app.loop]\n",
        "[source.app.tenant]\n",
        "[source.app.tenant.limits.acme]\n",
        "[upstream.billing]\n",
        "[upstream.billing.batch]\n",
        "[upstream.billing]\nurl = 'https://x'\n[upstream.billing.tls]\n",
        "[upstream.billing.retry]\n",
        "[upstream.billing.retry]\nattempts = 3\n",
        "[upstream.billing.breaker]\nerror_rate = 0.5\n",
        "[subscribers]\n",
        "[subscriber.crm]\n",
        "[traces]\n",
        "[alerts.rule.failures]\n",
        "[alerts.rule.dead]\n",
        "[alerts.rule.errors]\n",
        "[alerts.rule.refusals]\n",
        "[alerts.rule.backlog]\n",
        "[alerts.rule.latency]\n",
        "[alerts.rule.silence]\n",
        "[alerts.rule.duplicates]\n",
        "[alerts.rule.stale]\n",
        "[alerts.rule.hold]\n",
        "[alerts.rule.disk]\n",
        "[alerts.rule.breaker]\n",
        "[alerts.rule.reload]\n",
        "[alerts.rule.unavailable]\n",
        "[alerts.to.a]\nurl = 'http://x'\n",
        "[alerts.to.a]\nkind = 'command'\n",
        "[[route]]\n",
        "[[route]]\n[route.headers]\n",
    ] {
        let problems = Directory::with(&format!("{section}zzzzzzzzzzzzzzzzzz = 1\n")).load().err().unwrap();
        let unknown = problems.0.iter().find(|problem| problem.message.starts_with("unknown key")).unwrap();
        let (_, known) = unknown.message.split_once("known here: ").unwrap_or_else(|| panic!("{unknown}"));
        for key in known.split(", ") {
            let is_there = [format!("{key} ="), format!("[{key}"), format!(".{key}]"), format!("[[{key}")]
                .iter()
                .any(|form| example.contains(form.as_str()));
            assert!(is_there, "{key} of {section} is not in config/stagepost.toml");
        }
    }
}

#[test]
fn the_other_examples_load_up_to_the_secrets_and_certificates_they_name() {
    for (text, missing) in [
        (include_str!("../../config/examples/sidecar.toml"), "STAGEPOST"),
        (include_str!("../../config/examples/archive.toml"), "STAGEPOST"),
        (include_str!("../../config/examples/unix-socket.toml"), "/etc/stagepost/secret"),
        (include_str!("../../config/examples/mtls.toml"), "tls/"),
        (include_str!("../../config/examples/order.toml"), "CRM_SECRET"),
    ] {
        let text = text.replace("WEBHOOK_SECRET", "STAGEPOST_TEST_UNSET");
        let problems = Directory::with(&text).load().err().unwrap();
        assert!(problems.0.iter().all(|problem| problem.message.contains(missing)), "{problems}");
    }
}

#[test]
fn the_printed_configuration_loads_again_and_prints_the_same() {
    let directory = Directory::with(&format!(
        "{MINIMAL}
        headers = {{ X-A = \"q\\\"uote\", Authorization = 'Bearer file:token' }}
        retry = {{ first = '2s', factor = 3, max = '1m', attempts = 4 }}
        breaker = {{ failures = 3, error_rate = 0.5 }}
        path = '/x'
        [source.api]
        host = 'API.example.com'
        path = '/t/{{tenant}}/in'
        methods = ['POST', 'GET']
        type = {{ header = 'X-Event' }}
        dedupe = {{ header = 'X-Id', window = '90m', on_duplicate = 'accept' }}
        rate = '500/s'
        burst = 2000
        loop = {{ max_hops = 3 }}
        reply = {{ status = 201, headers = {{ X-B = 'b' }}, body = \"line\\n\" }}
        verify = {{ scheme = 'hmac', header = 'X-Sig', secrets = ['file:token'] }}
        [source.api.tenant]
        capture = 'tenant'
        rate = '100/s'
        budget = 1000
        cost = '.size // 1'
        over = 'tag'
        max_tenants = 5
        [source.api.tenant.limits.acme]
        rate = '5/s'
        burst = 50
        over = 'hold'
        [source.api.tenant.limits.'big corp']
        budget = 0
        [[route]]
        source = 'api'
        to = ['billing']
        when = '.a'
        headers = {{ set = {{ X-C = 'c' }}, remove = ['Cookie'] }}
        [[route]]
        name = 'nothing'
        to = []
        [admin]
        address = '127.0.0.1:9480'
        token.ops = {{ role = 'operate', secret = 'file:ops' }}
        "
    ));
    directory.write("token", "t0ken\n");
    directory.write("ops", "0123456789abcdef\n");
    let first = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let printed = effective(&first.config).to_owned();
    directory.write("stagepost.toml", &printed);
    let second = directory.load().unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
    assert_eq!(effective(&second.config), printed);
    assert_eq!(second.config.hash, first.config.hash);
    assert!(printed.contains("#   0s 2s 8s 26s\n#   dead after the last\n"), "{printed}");
    assert!(printed.contains("name = \"route-1\""), "{printed}");
    assert_eq!(diff(&first.config, &second.config), ReloadReport::default());
}

#[test]
fn includes_are_merged_and_their_relative_paths_start_at_themselves() {
    let directory = Directory::with(
        "include = ['conf.d/*.toml', 'last.toml']\n[[listen]]\naddress = '127.0.0.1:1'\n[server]\nmax_body = '1MiB'",
    );
    directory.write(
        "conf.d/b.toml",
        "[source.b]\npath = '/b'\nto = ['u']\nverify = { scheme = 'hmac', header = 'X', secrets = ['file:secret'] }",
    );
    directory.write("conf.d/a.toml", "[[listen]]\naddress = 'unix:in.sock'\n[upstream.u]\nurl = 'unix:u.sock'");
    directory.write("conf.d/secret", "s");
    directory.write("conf.d/.hidden.toml", "nonsense = 1");
    directory.write("conf.d/note.txt", "nonsense = 1");
    // Includes the first one again: a file is read once.
    directory.write("last.toml", "include = 'stagepost.toml'\n[server]\nmax_connections = 7");
    let Loaded { config, table, files, patterns, .. } =
        directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(table.limits.max_connections, 7);
    assert_eq!(table.sources[0].max_body, 1 << 20);
    assert_eq!(table.upstreams["u"].target, Target::Unix(directory.path("conf.d/u.sock")));
    assert!(matches!(&config.listen[1].listener, Listener::Unix(path) if *path == directory.path("conf.d/in.sock")));
    let names = ["conf.d/a.toml", "conf.d/b.toml", "conf.d/secret", "last.toml", "stagepost.toml"];
    assert_eq!(files, names.map(|name| directory.path(name)));
    let [pattern] = &patterns[..] else { panic!("{patterns:?}") };
    assert_eq!(pattern.files().unwrap(), ["conf.d/a.toml", "conf.d/b.toml"].map(|name| directory.path(name)));
    directory.write("conf.d/c.toml", "");
    assert_eq!(pattern.files().unwrap().last(), Some(&directory.path("conf.d/c.toml")));
}

#[test]
fn what_stands_in_two_files_is_a_problem_that_names_both_places() {
    let directory = Directory::with(&format!("include = ['more.toml']\n{MINIMAL}\n[server]\nmax_body = '1MiB'"));
    directory.write("more.toml", "[server]\nmax_body = '2MiB'\n[source.app]\npath = '/other'");
    let problems = directory.load().err().unwrap();
    assert_eq!(
        directory.messages(&problems.0),
        [
            "more.toml:2: server.max_body: stands at stagepost.toml:12 too; keep one of them",
            "more.toml:3: source.app: stands at stagepost.toml:5 too; keep one of them",
        ]
    );
}

#[test]
fn the_environment_stands_in_addresses_urls_paths_hosts_sizes_and_durations_only() {
    let directory = Directory::with(
        "
        [[listen]]
        address = '${IP:-127.0.0.1}:${PORT}'
        [server]
        max_body = '${SIZE}MiB'
        [store]
        path = '${DATA:-data}'
        retention = '${DAYS:-7}d'
        [source.app]
        host = '${HOST}'
        path = '/${HOST}/in'
        type = '\"${HOST}\"'
        to = ['u']
        [upstream.u]
        url = 'http://${HOST}:1/base'
        retry = { schedule = ['${STEP:-3}s'] }
        ",
    );
    let env = |name: &str| match name {
        "PORT" => Some("81".to_owned()),
        "SIZE" => Some("3".to_owned()),
        "HOST" => Some("h.example".to_owned()),
        _ => None,
    };
    let Loaded { config, table, .. } = directory.load_with(&env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.listen[0].address, "127.0.0.1:81");
    assert_eq!(config.store.path, directory.path("data"));
    assert_eq!(config.admin.socket, directory.path("data/admin.sock"));
    let source = &table.sources[0];
    assert_eq!((source.host.as_deref(), &*source.pattern.text), (Some("h.example"), "/h.example/in"));
    assert_eq!(source.max_body, 3 << 20);
    assert!(matches!(&source.event_type, Some(KeySelector::Expr(expr)) if expr.text() == "\"${HOST}\""));
    assert_eq!(table.upstreams["u"].target, Target::Http("http://h.example:1/base".parse().unwrap()));
    assert_eq!(table.upstreams["u"].retry.schedule, Schedule::Steps(vec![Duration::from_secs(3)]));
}

#[test]
fn without_a_file_everything_goes_to_one_upstream_unchecked() {
    let Loaded { config, table, warnings, files, .. } =
        quick("0.0.0.0:8080", "http://127.0.0.1:3000", Path::new("d")).unwrap();
    assert_eq!(config.admin.socket, Path::new("d/admin.sock"));
    let Lookup::Found(matched) = table.find("any", "/a/b") else { panic!("no source") };
    let (method, headers) = (Method::PUT, http::HeaderMap::new());
    let head = Head { method: &method, path: "/a/b", query: None, headers: &headers };
    assert!(matched.source.verifier.begin(&head, Timestamp::ZERO).is_ok());
    assert_eq!((&*matched.source.name, &matched.source.methods), ("default", &None));
    assert_eq!(table.routes[0].to, ["default".into()]);
    assert_eq!(warnings[0].key, "source.default.verify");
    assert!(files.is_empty());
    let problems = quick("nowhere", "ftp://x", Path::new("d")).err().unwrap();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(problems.to_string().starts_with("command line:1: listen[1].address: \"nowhere\" is no address"));
}

#[test]
fn a_reload_says_what_needs_a_restart_and_which_paths_and_upstreams_are_gone() {
    let old =
        loaded(&format!("{MINIMAL}\n[source.b]\nhost = 'h'\npath = '/b'\nto = ['c']\n[upstream.c]\nurl = 'http://c'"));
    let new = loaded(
        &MINIMAL
            .replace(":8080", ":8081")
            .replace("'http://127.0.0.1:3000'", "'http://127.0.0.1:3001'\n[store]\npath = '/elsewhere'"),
    );
    let report = diff(&old.config, &new.config);
    assert_eq!(
        report.needs_restart,
        ["admin.socket", "store.path", "listen 127.0.0.1:8081 is new", "listen 127.0.0.1:8080 is gone"]
    );
    assert_eq!(report.removed_paths, ["h/b"]);
    assert_eq!(report.removed_upstreams, ["c"]);
    assert!(report.changed.contains(&"upstream.billing.url".to_owned()));
    assert!(diff(&old.config, &old.config).is_empty());

    let (mut running, mut later) = (new.config, loaded(MINIMAL).config);
    running.take_over(&old.config);
    assert_eq!((&*running.listen[0].address, &running.store), ("127.0.0.1:8080", &old.config.store));
    assert!(diff(&running, &later).needs_restart.is_empty());
    later.take_over(&running);
    assert!(diff(&later, &loaded(MINIMAL).config).is_empty());
}

#[test]
fn a_small_store_has_small_segments() {
    assert_eq!(loaded(&format!("{MINIMAL}\n[store]\nmax_size = '64MiB'")).config.store.segment_bytes, 8 << 20);
    assert_eq!(loaded(MINIMAL).config.store.segment_bytes, 64 << 20);
}
