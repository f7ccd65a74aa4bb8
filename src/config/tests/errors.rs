//! What is refused or doubted, and in which words.

use super::*;

/// Loads `text` and expects exactly these messages.
fn check(text: &str, expected: &[&str]) {
    let directory = Directory::with(text);
    let found = match directory.load() {
        Ok(_) => Vec::new(),
        Err(problems) => directory.messages(&problems.0),
    };
    assert_eq!(found, expected, "{text}");
}

/// As [`check`], for one line added to a section of a configuration that is otherwise right.
fn check_line(section: &str, line: &str, expected: &str) {
    let url = if section == "[upstream.x]" && !line.starts_with("url") { "url = 'http://x'\n" } else { "" };
    let path = if section == "[source.x]" && !line.starts_with("path") { "path = '/x'\n" } else { "" };
    let text = format!("[[listen]]\naddress='127.0.0.1:1'\n{section}\n{line}\n{url}{path}");
    check(&text, &[&format!("stagepost.toml:4: {expected}")]);
}

#[test]
fn all_problems_are_reported_at_once_with_file_line_and_key() {
    check(
        "[servr]\n[[listen]]\naddress = '1.2.3.4'\n[store]\nretention = 7\nmax_sze = '1GiB'\n[source.a]\nto = 'u'\n",
        &[
            "stagepost.toml:1: servr: unknown key; did you mean \"server\"?",
            "stagepost.toml:3: listen[1].address: \"1.2.3.4\" is no address; write an IP address and a port, such as \
             \"0.0.0.0:8080\" or \"[::]:8080\"",
            "stagepost.toml:5: store.retention: takes a string, not a number",
            "stagepost.toml:6: store.max_sze: unknown key; did you mean \"max_size\"?",
            "stagepost.toml:7: source.a.path: is missing; write an exact path such as \"/hooks/app\" or a subtree \
             \"/hooks/*\"",
            "stagepost.toml:8: source.a.to: names the unknown upstream \"u\"; known here: nothing",
        ],
    );
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_line_and_nothing_else_is_said() {
    let problems = Directory::with("[store]\npath = \n[source.a]\nmax_body = 1MB\n").load().err().unwrap();
    assert!(problems.0.iter().all(|problem| problem.message.starts_with("not valid TOML: ")), "{problems}");
    assert_eq!(problems.0[0].place.line, 2);
    assert!(problems.0.iter().any(|problem| problem.place.line == 4), "{problems}");
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let directory = Directory::with("include = 'gone.toml'");
    let problems = directory.load().err().unwrap();
    let said = directory.messages(&problems.0);
    assert!(said[0].starts_with("stagepost.toml:1: include: gone.toml can't be read: "), "{said:?}");
    let problems = super::super::load(&directory.path("other.toml")).err().unwrap();
    assert!(directory.messages(&problems.0)[0].starts_with("other.toml: other.toml can't be read: "));
}

#[test]
fn limits_that_limit_nothing_or_name_nothing_are_refused() {
    for (line, expected) in [
        ("rate = '100/m'", "source.x.rate: \"100/m\" is no rate; write a whole number a second, such as \"100/s\""),
        ("burst = 5", "source.x.burst: has no effect without rate; add rate = \"100/s\" or remove it"),
        (
            "tenant = { budget = 5 }",
            "source.x.tenant.key: is missing; write key = \".account_id\" (jq), header = \"X-Tenant\" or capture = \"tenant\"",
        ),
        (
            "tenant = { key = '.t', header = 'X', budget = 5 }",
            "source.x.tenant.key: is one of key, header and capture; keep one of them",
        ),
        (
            "tenant = { capture = 'tenant', budget = 5 }",
            "source.x.tenant.capture: \"tenant\" is not captured by path; write a segment {tenant} there",
        ),
        (
            "tenant = { key = '.t' }",
            "source.x.tenant.rate: is missing, as are budget and limits, so that nothing is limited; write one of them",
        ),
        (
            "tenant = { key = '.t', budget = 5, over = 'drop' }",
            "source.x.tenant.over: over \"drop\" is not known; known: reject, hold, tag",
        ),
        (
            "tenant = { key = '.t', budget = 5, limits = { acme = { budgets = 3 } } }",
            "source.x.tenant.limits.acme.budgets: unknown key; did you mean \"budget\"?",
        ),
        ("loop = { max_hops = 0 }", "source.x.loop.max_hops: takes a whole number from 1 to 1000"),
    ] {
        check_line("[source.x]", line, expected);
    }
}

#[test]
fn an_upgrade_that_can_not_begin_is_refused() {
    for (line, expected) in [
        (
            "upgrade = true\nmethods = ['POST']",
            "source.x.upgrade: has no effect: a WebSocket begins with a GET, which methods does not list; add it there",
        ),
        ("upgrade = 'yes'", "source.x.upgrade: takes true or false, not a string"),
        ("upgrade = { max = 0 }", "source.x.upgrade.max: takes a whole number from 1 to 1000000"),
        ("upgrade = { idle_timeout = '0s' }", "source.x.upgrade.idle_timeout: must be longer than zero"),
        ("upgrade = { idle = '1s' }", "source.x.upgrade.idle: unknown key; known here: idle_timeout, max"),
    ] {
        check_line("[source.x]", line, expected);
    }
}

#[test]
fn a_cache_that_keeps_nothing_or_knows_no_key_is_refused() {
    for (line, expected) in [
        (
            "cache = { ttl = '1m' }",
            "source.x.cache.key: is missing; write jq that gives what makes two requests equal, such as \"[.model, .prompt]\"",
        ),
        ("cache = { key = '.a', ttl = '0s' }", "source.x.cache.ttl: must be longer than zero"),
        (
            "cache = { key = '.a', max_size = '1KiB', max_entry = '1KiB' }",
            "source.x.cache.max_size: must lie between 64KiB and 64GiB: it is held in memory",
        ),
        (
            "cache = { key = '.a', max_size = '1MiB', max_entry = '2MiB' }",
            "source.x.cache.max_entry: must lie between 1B and max_size, or nothing of that length is ever kept",
        ),
        (
            "cache = { key = '.a', size = '1MiB' }",
            "source.x.cache.size: unknown key; known here: key, max_entry, max_size, ttl",
        ),
    ] {
        check_line("[source.x]", line, expected);
    }
    check_line(
        "[source.x]",
        "cache = { key = '.a' }\nmethods = ['POST']",
        "source.x.cache: has no effect: nobody waits for an answer here; write mode = \"proxy\", list GET in methods, or \
         remove it",
    );
}

#[test]
fn keys_of_features_this_version_does_not_have_are_refused() {
    check_line(
        "[source.x]",
        "verify = { scheme = 'strip' }",
        "source.x.verify.scheme: scheme \"strip\" is not known; did you mean \"stripe\"?",
    );
}

#[test]
fn types_that_can_be_no_labels_are_refused() {
    for (types, expected) in [
        ("'a', 'other'", "names \"other\", which stands for every type that is not named; remove it"),
        ("'a', 'b', 'a'", "names \"a\" twice"),
        ("\"a\\nb\"", "\"a\\nb\" is no type; at most 128 bytes, none of control"),
    ] {
        check_line("[source.x]", &format!("types = [{types}]\ntype = '.t'"), &format!("source.x.types: {expected}"));
    }
    let without = "source.x.types: has no effect without type, which says where the type stands";
    check_line("[source.x]", "types = 'a'", without);
    let many: Vec<String> = (0..201).map(|n| format!("'t{n}'")).collect();
    let line = format!("types = [{}]\ntype = '.t'", many.join(","));
    check_line("[source.x]", &line, "source.x.types: names 201 types, each a metric of its own; at most 200");
}

#[test]
fn values_in_another_form_are_refused_with_an_example() {
    for (section, line, expected) in [
        (
            "[server]",
            "max_body = '10MB'",
            "server.max_body: \"10MB\" is no size; write a whole number with B, KiB, MiB, GiB or TiB, such as \"10MiB\"",
        ),
        (
            "[store]",
            "retention = '1w'",
            "store.retention: \"1w\" is no duration; write a whole number with ms, s, m, h or d, such as \"10s\" or \"5d\"",
        ),
        ("[server]", "max_connections = 0", "server.max_connections: takes a whole number from 1 to 1000000"),
        ("[server]", "soft_bounce = 'yes'", "server.soft_bounce: takes true or false, not a string"),
        (
            "[server]",
            "trusted_proxies = ['x']",
            "server.trusted_proxies: \"x\" is no network; write an address or a CIDR such as \"10.0.0.0/8\"",
        ),
        ("[server]", "header_timeout = '0s'", "server.header_timeout: must be longer than zero"),
        (
            "[server]",
            "body_min_rate = '1KiB'",
            "server.body_min_rate: \"1KiB\" is no rate of bytes; write a size a second, such as \"1KiB/s\"",
        ),
        ("[store]", "queue_events = 0", "store.queue_events: takes a whole number from 1 to 10000000"),
        ("[store]", "queue_size = '1KiB'", "store.queue_size: must lie between 1MiB and 16GiB"),
        ("[upstream.x]", "max_reply = '1GiB'", "upstream.x.max_reply: must lie between 1B and 256MiB"),
        (
            "[source.x]",
            "max_body = '64MiB'",
            "source.x.max_body: 64MiB (its own or that of [server]) does not fit into store.queue_size, 64MiB with \
             512KiB to spare, so that such a body could never be stored; raise store.queue_size",
        ),
        ("[store]", "when_full = 'stop'", "store.when_full: when_full \"stop\" is not known; known: reclaim, refuse"),
        (
            "[store]",
            "path = '${NOT_SET}/x'",
            "store.path: the environment variable NOT_SET is not set; set it or write \"${NOT_SET:-default}\"",
        ),
        (
            "[admin]",
            "address = '127.0.0.1:1'",
            "admin.address: is an address of [[listen]] too; senders and operators need one each",
        ),
        ("[diagnostics]", "level = 1", "diagnostics.level: takes a string, not a number"),
        (
            "[privacy]",
            "hide_headers = ['a b']",
            "privacy.hide_headers: \"a b\" is no name of a header, such as \"X-Request-Id\"",
        ),
        ("[source.x]", "path = 'hooks'", "source.x.path: the path \"hooks\" must begin with /"),
        (
            "[source.x]",
            "host = 'a:80'",
            "source.x.host: \"a:80\" is no host; write a name without port, such as \"hooks.example.com\"",
        ),
        ("[source.x]", "methods = ['post']", "source.x.methods: methods are written in upper case: \"POST\""),
        ("[source.x]", "methods = ['TRACE']", "source.x.methods: TRACE is never taken; remove it"),
        (
            "[source.x]",
            "methods = []",
            "source.x.methods: is empty, so that nothing could come in; leave it out to take every method",
        ),
        ("[source.x]", "reply = { status = 404 }", "source.x.reply.status: takes a whole number from 200 to 299"),
        (
            "[source.x]",
            "reply = { status = 204, body = 'x' }",
            "source.x.reply.body: can't be sent with status 204; use 200 or remove it",
        ),
        ("[source.x]", "dedupe = {}", "source.x.dedupe.key: is missing; write key = \".id\" (jq) or header = \"X-Id\""),
        (
            "[source.x]",
            "dedupe = { key = '.a', header = 'b' }",
            "source.x.dedupe.header: stands beside key; keep one of them",
        ),
        (
            "[source.x]",
            "path = '/x'\nto = ['u', 'u']\n[upstream.u]\nurl = 'http://u'",
            "source.x.to: names \"u\" twice; an event is delivered to an upstream once",
        ),
        (
            "[source.x]",
            "verify = { scheme = 'hmac', header = 'X', secrets = [] }",
            "source.x.verify.secrets: secrets is empty: name at least one, for example [\"env:SECRET\"]",
        ),
        (
            "[source.x]",
            "verify = { scheme = 'hmac', header = 'X', secrets = ['hunter2'] }",
            "source.x.verify.secrets: this is not a reference to a secret: write env:NAME, file:/path, credential:NAME or literal:VALUE",
        ),
        (
            "[source.x]",
            "verify = { scheme = 'hmac', header = 'X', algorithm = 'md5', secrets = ['literal:a'] }",
            "source.x.verify.algorithm: algorithm \"md5\" is not known; known: sha256, sha384, sha512, sha1",
        ),
        (
            "[source.x]",
            "verify = { scheme = 'hmac', header = 'X', template = 'a', secrets = ['literal:a'] }",
            "source.x.verify.template: template has no {body}: anybody could change the body, add {body}",
        ),
        (
            "[upstream.x]",
            "url = 'ftp://x'",
            "upstream.x.url: has an unknown scheme; write \"http://127.0.0.1:3000/base\", \"https://…\" or \"unix:/run/app.sock\"",
        ),
        (
            "[upstream.x]",
            "url = 'http://me:pw@x'",
            "upstream.x.url: holds a user or a password; use headers = { Authorization = \"Basic env:NAME\" }",
        ),
        (
            "[upstream.x]",
            "url = 'http://x/?a=b'",
            "upstream.x.url: has a query or a fragment; the request's own query is sent, remove it",
        ),
        (
            "[upstream.x]",
            "headers = { Host = 'x' }",
            "upstream.x.headers: Host is set by the key host of the upstream; use that",
        ),
        (
            "[upstream.x]",
            "headers = { Stagepost-Attempt = '1' }",
            "upstream.x.headers: stagepost-attempt is set by stagepost itself; remove it",
        ),
        (
            "[upstream.x]",
            "headers = { A = 'Bearer file:none/such' }",
            "upstream.x.headers: A: reading the secret file:none/such from none/such: No such file or directory (os error 2)",
        ),
        (
            "[upstream.x]",
            "retry = { schedule = ['1s'], first = '1s' }",
            "upstream.x.retry.schedule: stands beside first, factor, max or attempts; keep one of the two forms",
        ),
        (
            "[upstream.x]",
            "retry = { schedule = [] }",
            "upstream.x.retry: schedule is empty: name at least one delay, for example [\"10s\"]",
        ),
        ("[upstream.x]", "retry = { jitter = 2 }", "upstream.x.retry.jitter: takes a number from 0 to 1"),
        (
            "[upstream.x]",
            "breaker = { window = '1s' }",
            "upstream.x.breaker.window: has no effect without error_rate; add error_rate = 0.5 or remove it",
        ),
        ("[upstream.x]", "path = 'x'", "upstream.x.path: \"x\" is no path; it begins with / and has no query"),
        ("[upstream.x]", "concurrency = 0", "upstream.x.concurrency: takes a whole number from 1 to 65536"),
        (
            "[upstream.x]",
            "concurrency = '8'",
            "upstream.x.concurrency: takes a whole number, or { min = 1, max = 64 }, not a string",
        ),
        (
            "[upstream.x]",
            "concurrency = { min = 9, max = 8 }",
            "upstream.x.concurrency.min: is 9, more than max (8); lower it, raise max, or write one number for a fixed one",
        ),
        (
            "[upstream.x]",
            "concurrency = { max = 0 }",
            "upstream.x.concurrency.max: takes a whole number from 1 to 65536",
        ),
        ("[upstream.x]", "concurrency = { mn = 9 }", "upstream.x.concurrency.mn: unknown key; did you mean \"min\"?"),
        (
            "[upstream.x]",
            "rate = '0/s'",
            "upstream.x.rate: \"0/s\" is no rate; write a whole number in a second, minute, hour or day, such as \"100/s\" \
             or \"30/m\"",
        ),
        (
            "[upstream.x]",
            "burst = 5",
            "upstream.x.burst: has no effect without rate; add rate = \"100/s\" or remove it",
        ),
        (
            "[upstream.x]",
            "rate_headers = 'obey'",
            "upstream.x.rate_headers: rate_headers \"obey\" is not known; known: follow, ignore",
        ),
        (
            "[upstream.'a b']",
            "url = 'http://x'",
            "upstream.a b: \"a b\" is no name; use letters, digits, _, - and ., at most 64",
        ),
        ("[[route]]", "name = 'r'", "route[1].to: is missing; name the upstreams, or write [] to discard on purpose"),
        ("[[route]]", "to = 5", "route[1].to: takes a list of strings, not a number"),
        (
            "[[listen]]",
            "address = '127.0.0.1:1'",
            "listen[2].address: \"127.0.0.1:1\" is listened on at stagepost.toml:1 too; keep one of them",
        ),
    ] {
        let found = Directory::with(&prepared(section, line));
        let problems = found.load().err().unwrap_or_else(|| panic!("{section} {line}"));
        let said = found.messages(&problems.0).into_iter().map(|said| said.split_once(": ").unwrap().1.to_owned());
        assert_eq!(said.collect::<Vec<_>>(), [expected], "{section} {line}");
    }
}

fn prepared(section: &str, line: &str) -> String {
    let rest = match section {
        "[upstream.x]" if !line.starts_with("url") => "url = 'http://x'",
        "[source.x]" if !line.starts_with("path") => "path = '/x'",
        _ => "",
    };
    format!("[[listen]]\naddress='127.0.0.1:1'\n{section}\n{line}\n{rest}\n")
}

#[test]
fn a_delivery_may_not_outlive_its_event() {
    check(
        &format!("{MINIMAL}\n[store]\nretention = '4d'"),
        &["stagepost.toml:7: upstream.billing.retry.give_up_after: deliveries are tried for 5d, longer than \
           store.retention (4d) keeps their events; shorten it or raise store.retention"],
    );
    check(
        &format!("{MINIMAL}\nretry = {{ schedule = ['1d', '2d'] }}\n[store]\nretention = '2d'"),
        &["stagepost.toml:10: upstream.billing.retry.give_up_after: deliveries are tried for 3d, longer than \
           store.retention (2d) keeps their events; shorten it or raise store.retention"],
    );
}

#[test]
fn names_that_nobody_has_are_refused() {
    check(
        "[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/a'\nto = ['biling']\n[upstream.billing]\n\
         url = 'http://x'\n[[route]]\nname = 'r'\nsource = ['ap', 'app']\nto = []\n[[route]]\nname = 'r'\nto = []\n",
        &[
            "stagepost.toml:5: source.app.to: names the unknown upstream \"biling\"; did you mean \"billing\"?",
            "stagepost.toml:8: route.r: names the unknown source \"ap\"; did you mean \"app\"?",
            "stagepost.toml:12: route.r: the route at stagepost.toml:8 has the same name; every route has its own (a \
             source's to makes a route named after the source)",
        ],
    );
}

#[test]
fn two_sources_may_not_take_the_same_requests() {
    let sources = "[source.a]\npath = '/t/{x}'\n[source.b]\npath = '/t/{y}'\n[source.c]\nhost = 'h'\npath = '/t/{y}'\n";
    check(
        &format!("[[listen]]\naddress = '127.0.0.1:1'\n{sources}"),
        &["stagepost.toml:5: source.b.path: \"/t/{y}\" takes the same requests as \"/t/{x}\" of source.a at \
           stagepost.toml:3; give them different paths or hosts"],
    );
}

#[test]
fn doubtful_things_are_warned_about() {
    let directory = Directory::with(
        "[[listen]]\naddress = '0.0.0.0:1'\n[admin]\naddress = '0.0.0.0:2'\n[source.a]\npath = '/a'\nto = ['u']\n\
         [source.b]\npath = '/b'\n[upstream.u]\nurl = 'http://u'\nheaders = { Authorization = 'Bearer abc' }\n\
         [upstream.v]\nurl = 'http://v'\n[[route]]\nname = 'r'\nsource = 'a'\nto = ['u']\ntransform = '.x'\n\
         [[route]]\nname = 's'\nsource = 'a'\nwhen = 'false'\nto = []\n",
    );
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        directory.messages(&loaded.warnings),
        [
            "stagepost.toml:4: admin.address: is not a loopback address: whoever reaches it reads the metrics",
            "stagepost.toml:5: source.a.verify: no check at all: whoever reaches 0.0.0.0:1 can post here",
            "stagepost.toml:8: source.b: no route takes its events: they are stored and go nowhere; add to = [\"…\"]",
            "stagepost.toml:8: source.b.verify: no check at all: whoever reaches 0.0.0.0:1 can post here",
            "stagepost.toml:12: upstream.u.headers: Authorization: a credential stands in the configuration; use env: or \
             file:",
            "stagepost.toml:13: upstream.v: no route leads to it",
            "stagepost.toml:15: route.r: routes a and r change the same events differently for upstream u: such deliveries die; \
             join the routes or add conditions (the first stands at stagepost.toml:7)",
            "stagepost.toml:23: route[2].when: never matches: the route is dead",
        ]
    );
    assert!(!effective(&loaded.config).contains("Bearer abc"));
}

#[test]
fn tls_of_an_upstream_that_is_not_asked_over_tls_is_doubted_and_not_read() {
    let directory = Directory::with(&format!("{MINIMAL}\ntls = {{ ca = 'none.pem', server_name = 'x' }}\n"));
    let loaded = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    let said = directory.messages(&loaded.warnings);
    let expected =
        "stagepost.toml:10: upstream.billing.tls: has no effect without an https:// url; change the url or remove it";
    assert!(said.iter().any(|message| message == expected), "{said:#?}");
    assert!(loaded.table.upstreams["billing"].tls.is_none());
    check(
        &format!("{MINIMAL}\ntls = {{ c = 'x' }}\n"),
        &["stagepost.toml:10: upstream.billing.tls.c: unknown key; did you mean \"ca\"?"],
    );
}

#[test]
fn names_in_to_are_checked_also_where_the_check_of_a_source_has_a_problem() {
    check(
        "[[listen]]\naddress = '127.0.0.1:1'\n[upstream.billing]\nurl = 'http://x'\n[source.a]\npath = '/a'\n\
         to = ['biling']\nverify = { scheme = 'stripe', secrets = ['hunter2'] }\n",
        &[
            "stagepost.toml:7: source.a.to: names the unknown upstream \"biling\"; did you mean \"billing\"?",
            "stagepost.toml:8: source.a.verify.secrets: this is not a reference to a secret: write env:NAME, file:/path, \
             credential:NAME or literal:VALUE",
        ],
    );
}
