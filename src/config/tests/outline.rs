//! What is told of a configuration that can't be served by.

use super::*;

/// Where the instance of this text is, without the directory.
fn located(text: &str) -> Result<(String, Option<String>), String> {
    let directory = Directory::with(text);
    let shown = |path: PathBuf| path.display().to_string().replace(&format!("{}/", directory.0.path().display()), "");
    let found = locate(&directory.path("stagepost.toml"));
    found
        .map(|found| (shown(found.socket), found.data.map(shown)))
        .map_err(|problems| directory.messages(&problems.0).join("\n"))
}

#[test]
fn an_instance_is_found_whatever_else_is_wrong_with_its_configuration() {
    let both = |socket: &str, data: &str| Ok((socket.to_owned(), Some(data.to_owned())));
    let secret = "[source.a]\npath = '/a'\nverify = { scheme = 'stripe', secrets = ['env:STAGEPOST_TEST_UNSET'] }\n";
    for (text, expected) in [
        (secret.to_owned(), both("/var/lib/stagepost/admin.sock", "/var/lib/stagepost")),
        (format!("{secret}[store]\npath = 'data'\nmax_size = 1"), both("data/admin.sock", "data")),
        ("nonsense = 1\n[admin]\nsocket = 'a.sock'".to_owned(), both("a.sock", "/var/lib/stagepost")),
        ("include = 'gone.toml'\nstore.path = '/d'".to_owned(), both("/d/admin.sock", "/d")),
        ("store.path = '/d'\n[server]\nmax_body = \n".to_owned(), both("/d/admin.sock", "/d")),
        (
            "[store]\npath = '${STAGEPOST_TEST_UNSET}'\n[admin]\nsocket = '/a.sock'".to_owned(),
            Ok(("/a.sock".to_owned(), None)),
        ),
    ] {
        assert_eq!(located(&text), expected, "{text}");
    }
}

#[test]
fn what_a_configuration_does_not_tell_for_sure_is_not_guessed() {
    for (text, expected) in [
        ("include = 'gone.toml'", "stagepost.toml:1: include: gone.toml can't be read: "),
        ("[server]\nmax_body = \n", "stagepost.toml:2: not valid TOML: "),
        ("[store]\npath = '/d\n", "stagepost.toml:2: not valid TOML: "),
        ("[store]\npath = 5\n", "stagepost.toml:2: store.path: takes a string, not a number"),
        (
            "store.path = '/d'\nadmin.socket = '${STAGEPOST_TEST_UNSET}'",
            "stagepost.toml:2: admin.socket: the environment",
        ),
        ("store = 5", "stagepost.toml:1: store: takes a table"),
    ] {
        let told = located(text);
        assert!(told.as_ref().is_err_and(|told| told.starts_with(expected)), "{text}\n{told:?}");
    }
}

#[test]
fn an_outline_has_names_routes_and_what_is_hidden() {
    let directory = Directory::with(
        "[privacy]\nhide_headers = ['X-Key']\n[source.a]\npath = '/a'\nto = ['u']\n\
         verify = { scheme = 'stripe', secrets = ['env:STAGEPOST_TEST_UNSET'] }\n\
         [upstream.u]\nurl = 'ftp://x'\n[subscriber.crm]\ntopic = 't'\n[alerts.to.ops]\nkind = 'slack'\n\
         [[route]]\nname = 'r'\nwhen = '.x'\nto = []\n",
    );
    let found = outline(&directory.path("stagepost.toml"));
    assert_eq!(found.privacy.hide_headers, ["x-key"]);
    assert_eq!(found.routes.iter().map(|route| &*route.name).collect::<Vec<_>>(), ["a", "r"]);
    let mut names: Vec<String> = found.upstreams.into_iter().collect();
    names.sort();
    assert_eq!(names, ["stagepost.alerts/ops", "t/crm", "u"]);
    directory.write("stagepost.toml", "store.segment_size = '2MiB'\nnonsense = 1");
    assert_eq!(store_of(Some(&directory.path("stagepost.toml"))).segment_bytes, 2 << 20);
    assert_eq!(store_of(None), loaded(MINIMAL).config.store);
}
