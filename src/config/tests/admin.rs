//! What `[admin]` takes and refuses.

use super::*;

const TOKEN: &str = "token.ops = { role = 'operate', secret = 'literal:0123456789abcdef' }";

/// What is said about `[admin]` with these lines in a configuration that is otherwise right.
fn said(lines: &str) -> Vec<String> {
    let text = format!("{MINIMAL}\n[admin]\n{lines}\n");
    let directory = Directory::with(&text);
    let messages = match directory.load() {
        Ok(loaded) => directory.messages(&loaded.warnings),
        Err(problems) => directory.messages(&problems.0),
    };
    messages.into_iter().map(|message| message.split_once(": ").unwrap().1.to_owned()).collect()
}

#[test]
fn tokens_are_read_with_their_roles_and_limits() {
    let loaded = loaded(&format!(
        "{MINIMAL}\n[admin]\naddress = '127.0.0.1:1'\n{TOKEN}\n\
         token.eyes = {{ role = 'view', secret = 'literal:fedcba9876543210', sources = 'app', upstreams = ['billing'] }}"
    ));
    let admin = &loaded.config.admin;
    assert_eq!(admin.failed_logins, (10, Duration::from_secs(60)));
    assert_eq!(admin.session_timeout, Duration::from_secs(3600));
    let [eyes, ops] = &admin.tokens[..] else { panic!("{}", admin.tokens.len()) };
    assert_eq!((eyes.role, &*eyes.name), (TokenRole::View, "eyes"));
    assert_eq!(eyes.sources.as_deref(), Some(&["app".into()][..]));
    assert_eq!(eyes.upstreams.as_deref(), Some(&["billing".into()][..]));
    assert_eq!((ops.role, ops.sources.is_none()), (TokenRole::Operate, true));
    let printed = effective(&loaded.config);
    assert!(printed.contains("[admin.token.ops]") && !printed.contains("0123456789abcdef"), "{printed}");
}

#[test]
fn tokens_that_protect_nothing_or_reach_nothing_are_refused() {
    let address = "address = '127.0.0.1:1'";
    let secret = "secret = 'literal:0123456789abcdef'";
    for (lines, expected) in [
        (TOKEN.to_owned(), "admin.token: has no effect without address; add address = \"127.0.0.1:9480\" or remove it"),
        (
            format!("{address}\ntoken.ops = {{ role = 'admin', {secret} }}"),
            "admin.token.ops.role: role \"admin\" is not known; known: view, operate",
        ),
        (
            format!("{address}\ntoken.ops = {{ {secret} }}"),
            "admin.token.ops.role: is missing; write \"view\" or \"operate\"",
        ),
        (
            format!("{address}\ntoken.ops = {{ role = 'view' }}"),
            "admin.token.ops.secret: is missing; name one, such as \"file:/etc/stagepost/admin.token\"",
        ),
        (
            format!("{address}\ntoken.ops = {{ role = 'view', secret = 'literal:short' }}"),
            "admin.token.ops.secret: literal:… is shorter than 16 bytes and could be guessed; make one with openssl rand \
             -hex 32",
        ),
        (
            format!("{address}\ntoken.ops = {{ role = 'view', secret = ['env:A', 'env:B'] }}"),
            "admin.token.ops.secret: takes one secret; write a second token for another",
        ),
        (
            format!("{address}\ntoken.ops = {{ role = 'view', {secret}, sources = ['ap'] }}"),
            "admin.token.ops.sources: no source is named \"ap\"; did you mean \"app\"?",
        ),
        (
            format!("{address}\ntoken.ops = {{ role = 'view', {secret}, upstreams = [] }}"),
            "admin.token.ops.upstreams: is empty, so that the token could see nothing; name at least one, or remove it for all",
        ),
        (
            format!("{address}\ntoken.'a b' = {{ role = 'view', {secret} }}"),
            "admin.token.a b: \"a b\" is no name; use letters, digits, _, - and ., at most 64",
        ),
        (
            format!("{address}\n{TOKEN}\ntoken.eyes = {{ role = 'view', {secret} }}"),
            "admin.token.ops.secret: is the secret of the token eyes, too; each needs its own, since it says who asks",
        ),
        (
            format!("{address}\nfailed_logins = 'never'"),
            "admin.failed_logins: \"never\" is no rate; write a whole number in a second, minute, hour or day, such as \
             \"100/s\" or \"30/m\"",
        ),
        (format!("{address}\nsession_timeout = '0s'"), "admin.session_timeout: must be longer than zero"),
        (
            "tls = { certificate = 'a.pem', key = 'a.key' }".to_owned(),
            "admin.tls: has no effect without address; add address = \"127.0.0.1:9480\" or remove it",
        ),
        (
            format!("address = '0.0.0.0:1'\n{TOKEN}"),
            "admin.address: is not a loopback address and has no tls: whoever can listen in reads tokens; add tls",
        ),
        (
            "address = '0.0.0.0:1'".to_owned(),
            "admin.address: is not a loopback address: whoever reaches it reads the metrics",
        ),
    ] {
        let said = said(&lines);
        assert!(said.iter().any(|message| message == expected), "{expected}\n{said:#?}");
    }
}

#[test]
fn tokens_change_with_a_reload_and_the_address_does_not() {
    let with = |lines: &str| loaded(&format!("{MINIMAL}\n[admin]\naddress = '127.0.0.1:1'\n{lines}")).config;
    let (old, mut new) = (with(""), with(&format!("{TOKEN}\nfailed_logins = '5/h'")));
    assert!(diff(&old, &new).needs_restart.is_empty());
    assert!(!diff(&old, &new).changed.is_empty());
    new.take_over(&old);
    assert_eq!((new.admin.tokens.len(), new.admin.failed_logins.0), (1, 5));
    let moved = loaded(&format!("{MINIMAL}\n[admin]\naddress = '127.0.0.1:2'")).config;
    assert_eq!(diff(&old, &moved).needs_restart, ["admin.address"]);
}

#[test]
fn parameters_that_are_hidden_are_names() {
    let loaded = loaded(&format!("{MINIMAL}\n[privacy]\nhide_query = ['customer_id', 'k']"));
    assert_eq!(loaded.config.privacy.hide_query.len(), 2);
    for name in ["=", "a=b", "a&b", "--"] {
        let problems = Directory::with(&format!("{MINIMAL}\n[privacy]\nhide_query = ['{name}']")).load().err().unwrap();
        let expected = format!("\"{name}\" is no name of a parameter, such as \"customer_id\"");
        assert_eq!(problems.0[0].message, expected);
    }
}

#[test]
fn paths_that_are_hidden_are_plain_paths() {
    let loaded = loaded(&format!("{MINIMAL}\n[privacy]\nhide = ['.card.number', '.items[].token']"));
    assert_eq!(loaded.config.privacy.hide.len(), 2);
    let problems = Directory::with(&format!("{MINIMAL}\n[privacy]\nhide = '.a | .b'")).load().err().unwrap();
    let expected = "\".a | .b\" is no plain path; write names and brackets only, such as \".card.number\" or \
                    \".items[].token\"";
    assert_eq!(problems.0[0].message, expected);
}
