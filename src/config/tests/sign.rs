//! The key `sign` of an upstream.

use super::*;
use crate::routing::SignPolicy;

fn loaded_with(upstream: &str, source: &str) -> Result<(Loaded, Directory), (Problems, Directory)> {
    let text = format!(
        "[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/x'\nto = ['u']\n{source}\n\
         [upstream.u]\nurl = 'http://x'\n{upstream}\n"
    );
    let directory = Directory::with(&text);
    directory.write("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    directory.write("raw", "a key");
    match directory.load() {
        Ok(loaded) => Ok((loaded, directory)),
        Err(problems) => Err((problems, directory)),
    }
}

fn refused(upstream: &str) -> String {
    let (problems, directory) = loaded_with(upstream, "").err().unwrap_or_else(|| panic!("{upstream} is taken"));
    directory.messages(&problems.0).join("\n")
}

#[test]
fn every_form_loads_and_its_effective_form_loads_again() {
    for (form, own) in [
        ("", false),
        ("sign = 'auto'", false),
        ("sign = 'none'", false),
        ("cloudevents = 'structured'", false),
        ("cloudevents = { mode = 'binary', source = '/shop', type = 'order', subject = '.id' }", false),
        ("cloudevents = { mode = 'binary', handshake = true, origin = 'Hooks.Example.com' }", false),
        ("sign = { secrets = ['file:key', 'file:raw'] }", true),
        (
            "sign = { secrets = ['file:raw'], header = 'X-S', template = '{timestamp}.{body}', prefix = 'sha256=', encoding = 'base64', \
          timestamp = { header = 'X-T', unit = 'ms' }, id = { header = 'X-Id' } }",
            true,
        ),
    ] {
        let (loaded, directory) = loaded_with(form, "").unwrap_or_else(|(problems, _)| panic!("{problems}"));
        assert_eq!(matches!(loaded.table.upstreams["u"].sign, Some(SignPolicy::Own(_))), own, "{form}");
        directory.write("stagepost.toml", effective(&loaded.config));
        let again = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(effective(&again.config), effective(&loaded.config));
        assert!(!effective(&again.config).contains("whsec_"));
    }
}

#[test]
fn what_can_not_work_is_refused_with_its_key_and_the_remedy() {
    for (form, expected) in [
        (
            "sign = 'hunter2:x'",
            "upstream.u.sign: takes \"auto\", \"source\", \"none\" or { secrets = [\"env:SECRET\"] }; secrets stand in a table",
        ),
        ("sign = 5", "upstream.u.sign: takes a string or a table, not a number"),
        ("sign = {}", "upstream.u.sign.secrets: is missing; name at least one, such as [\"env:SECRET\"]"),
        ("sign = { secrets = ['file:key'], prefix = 'x' }", "upstream.u.sign.prefix: has no effect without header;"),
        (
            "sign = { secrets = ['file:key', 'file:raw'], header = 'X' }",
            "upstream.u.sign.secrets: secrets has 2 entries, but a header of your own carries one",
        ),
        (
            "sign = { secrets = ['file:key'], header = 'X', template = 'x' }",
            "upstream.u.sign.template: template has no {body}",
        ),
        (
            "sign = { secrets = ['file:key'], header = 'X', timestamp = {} }",
            "upstream.u.sign.timestamp.header: is missing; name the header that carries the timestamp",
        ),
        (
            "sign = { secrets = ['file:key'], header = 'X', id = { header = 'x' } }",
            "upstream.u.sign.id.header: id.header is also the header of the signature",
        ),
        (
            "cloudevents = 'batch'",
            "upstream.u.cloudevents: cloudevents \"batch\" is not known; known: structured, binary",
        ),
        ("cloudevents = {}", "upstream.u.cloudevents.mode: is missing; write \"structured\" or \"binary\""),
        (
            "cloudevents = { mode = 'binary', source = 'a b' }",
            "upstream.u.cloudevents.source: is no URI; write one without spaces",
        ),
        ("cloudevents = { mode = 'binary', subject = '.[' }", "upstream.u.cloudevents.subject: is no valid jq"),
        (
            "cloudevents = { mode = 'binary', handshake = 'yes' }",
            "upstream.u.cloudevents.handshake: takes true or false, not a string",
        ),
        (
            "cloudevents = { mode = 'binary', origin = 'hooks.example.com' }",
            "upstream.u.cloudevents.origin: has no effect without handshake = true; add that or remove it",
        ),
        (
            "cloudevents = { mode = 'binary', handshake = true, origin = 'https://hooks.example.com' }",
            "upstream.u.cloudevents.origin: \"https://hooks.example.com\" is no name; write one such as \"hooks.example.com\"",
        ),
        (
            "cloudevents = { mode = 'binary', handshake = true, origin = 'a' }\nheaders = { Origin = 'b' }",
            "upstream.u.headers: Origin is set by the handshake; write cloudevents.origin in its place",
        ),
        ("sign = { secrets = ['file:key'], key = 1 }", "upstream.u.sign.key: unknown key"),
    ] {
        let said = refused(form);
        assert!(said.contains(expected), "{form}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_source_that_only_its_provider_can_sign_for_is_named() {
    let key = format!(
        "verify = {{ scheme = 'discord', secrets = ['literal:{}'] }}",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    );
    let (problems, directory) = loaded_with("sign = 'source'", &key).err().unwrap();
    let said = directory.messages(&problems.0).join("\n");
    assert!(
        said.contains("upstream.u: is \"source\"")
            || said.contains("upstream.u.sign: is \"source\", but only the provider can sign for source.app (discord)"),
        "{said}"
    );
    let (loaded, directory) = loaded_with("sign = 'source'", "").ok().unwrap();
    let said = directory.messages(&loaded.warnings).join("\n");
    assert!(
        said.contains("upstream.u.sign: has no effect on the events of source.app, whose scheme none signs nothing"),
        "{said}"
    );
    let stripe = "verify = { scheme = 'stripe', secrets = ['file:raw'] }";
    let (loaded, _) = loaded_with("sign = 'source'", stripe).ok().unwrap();
    assert!(matches!(loaded.table.upstreams["u"].sign, Some(SignPolicy::Source)));
}

#[test]
fn a_raw_secret_for_standard_webhooks_is_pointed_out() {
    let (loaded, directory) = loaded_with("sign = { secrets = ['file:raw'] }", "").ok().unwrap();
    let said = directory.messages(&loaded.warnings).join("\n");
    assert!(said.contains("upstream.u.sign.secrets: the secret file:raw does not begin with whsec_"), "{said}");
}

#[test]
fn who_asks_for_a_permission_is_written_or_the_machine_and_asks_one_url() {
    let origin = |form: &str| {
        let (loaded, _directory) = loaded_with(form, "").unwrap_or_else(|(problems, _)| panic!("{problems}"));
        let handshake = loaded.table.upstreams["u"].handshake().cloned();
        handshake.map(|handshake| handshake.origin.to_str().unwrap().to_owned())
    };
    assert_eq!(origin("cloudevents = 'binary'"), None);
    assert_eq!(origin("cloudevents = { mode = 'binary', handshake = false }"), None);
    let written = "cloudevents = { mode = 'binary', handshake = true, origin = 'Hooks.Example.com' }";
    assert_eq!(origin(written).as_deref(), Some("hooks.example.com"));
    let machine = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    assert_eq!(origin("cloudevents = { mode = 'structured', handshake = true }"), Some(machine));
    let several = "[[listen]]\naddress = '127.0.0.1:1'\n[upstream.u]\nurl = ['http://a', 'http://b']\n\
                   cloudevents = { mode = 'binary', handshake = true, origin = 'a' }\n";
    let directory = Directory::with(several);
    let said = directory.messages(&directory.load().err().unwrap().0).join("\n");
    assert!(
        said.contains("upstream.u.cloudevents.handshake: asks one url for its permission; write one url"),
        "{said}"
    );
}
