//! What a scheme brings to its source, what the source may say otherwise, and what is wrong with the two together.

use http::StatusCode;

use super::*;
use crate::{preset, routing::Challenge};

const START: &str = "[[listen]]\naddress='127.0.0.1:1'\n";

/// A secret in the form of the provider, as a literal.
fn secret(name: &str) -> String {
    let text = match name {
        "standard-webhooks" | "svix" | "gitlab" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=".to_owned(),
        "discord" => "ab".repeat(32),
        "postmark" => "user:password".to_owned(),
        "sendgrid" => "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw\
                       +2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
            .to_owned(),
        _ => "a-secret-of-the-tests".to_owned(),
    };
    format!("literal:{text}")
}

/// The presets that need nothing but secrets and perhaps a URL.
fn plain() -> impl Iterator<Item = &'static preset::Preset> {
    const OUTSIDE: [&str; 4] = ["aws-sns", "paypal", "google-pubsub", "salesforce"];
    preset::all().filter(|preset| !OUTSIDE.contains(&preset.name))
}

fn source(name: &str, more: &str) -> String {
    let url = match preset::find(name).is_some_and(|preset| preset.proof.needs_public_url()) {
        true => "public_url = 'https://hooks.example.com/in'\n",
        false => "",
    };
    let secret = secret(name);
    format!(
        "{START}[source.x]\npath = '/in'\nto = []\n{url}verify = {{ scheme = '{name}', secrets = ['{secret}'] }}\n{more}"
    )
}

fn taken(text: &str) -> std::sync::Arc<crate::routing::Source> {
    loaded(text).table.sources[0].clone()
}

fn said(text: &str) -> Vec<String> {
    let directory = Directory::with(text);
    match directory.load() {
        Ok(loaded) => directory.messages(&loaded.warnings),
        Err(problems) => directory.messages(&problems.0),
    }
}

#[test]
fn every_preset_fills_its_source_and_prints_what_loads_again() {
    for preset in plain() {
        let name = preset.name;
        let directory = Directory::with(&source(name, ""));
        let first = directory.load().unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let source = &first.table.sources[0];
        assert_eq!(source.verifier.scheme(), name);
        assert_eq!(source.methods, Some(vec![Method::POST]), "{name}");
        assert_eq!(source.dedupe.is_some(), preset.dedupe.is_some(), "{name}");
        assert_eq!(source.dedupe.as_ref().map(|rule| rule.window), preset.dedupe.map(|_| preset.window), "{name}");
        assert_eq!(source.event_type.is_some(), preset.event_type.is_some(), "{name}");
        assert_eq!(source.reply, preset.reply(), "{name}");
        assert_eq!(source.challenge.as_ref().map(|rule| rule.kind), preset.challenge, "{name}");
        assert_eq!(source.items.is_some(), preset.items.is_some(), "{name}");
        assert_eq!(source.numbering.is_some(), preset.numbering.is_some(), "{name}");
        let printed = effective(&first.config).to_owned();
        // The literal is not printed, so that it is put back by hand.
        directory.write("stagepost.toml", printed.replace("literal:…", &secret(name)));
        let second = directory.load().unwrap_or_else(|problems| panic!("{name}: {problems}\n{printed}"));
        assert_eq!(effective(&second.config), printed, "{name}");
    }
}

#[test]
fn what_a_preset_brings_is_printed_as_it_takes_effect() {
    let printed = effective(&loaded(&source("stripe", "")).config).to_owned();
    for line in [
        "scheme = \"stripe\"",
        "tolerance = \"5m\"",
        "methods = [\"POST\"]",
        "# the preset's key: .id",
        "window = \"7d\"",
        "# the preset's type: .type",
        "# the preset's reply: 200",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    let printed = effective(&loaded(&source("github", "")).config).to_owned();
    assert!(printed.contains("max_body = \"25MiB\"") && !printed.contains("tolerance"), "{printed}");
}

#[test]
fn a_source_may_say_otherwise() {
    let more = "methods = ['POST', 'PUT']\nmax_body = '1MiB'\ntype = '.kind'\nreply = { status = 201, body = 'ok' }\n\
                dedupe = { header = 'X-Id', on_duplicate = 'accept' }\n";
    let source = taken(&source("github", more));
    assert_eq!(source.methods, Some(vec![Method::POST, Method::PUT]));
    assert_eq!(source.max_body, 1 << 20);
    assert!(matches!(&source.event_type, Some(KeySelector::Expr(expr)) if expr.text() == ".kind"));
    assert_eq!(source.reply.as_ref().map(|reply| reply.status), Some(StatusCode::CREATED));
    let rule = source.dedupe.as_ref().unwrap();
    assert!(matches!(&rule.key, KeySelector::Header(name) if name == "x-id"));
    assert_eq!((rule.window, rule.on_duplicate), (Duration::from_secs(7 * 86_400), OnDuplicate::Accept));
}

#[test]
fn a_window_alone_keeps_the_preset_s_key_and_one_that_ends_before_the_retries_is_warned_about() {
    let source_of = |window: &str| source("stripe", &format!("dedupe = {{ window = '{window}' }}\n"));
    let rule = taken(&source_of("4d")).dedupe.clone().unwrap();
    assert!(matches!(&rule.key, KeySelector::Expr(expr) if expr.text() == ".id"));
    assert_eq!(rule.window, Duration::from_secs(4 * 86_400));
    let warned = |window: &str| said(&source_of(window)).into_iter().any(|line| line.contains("dedupe.window"));
    assert!(warned("1h") && !warned("3d") && !warned("7d"));
    let line = said(&source_of("1h")).into_iter().find(|line| line.contains("dedupe.window")).unwrap();
    assert!(line.contains("Stripe") && line.contains("3d"), "{line}");
    assert!(!said(&source("zoom", "")).iter().any(|line| line.contains("dedupe.window")), "a default is no mistake");
}

#[test]
fn a_scheme_and_its_source_must_fit() {
    let check = |body: &str, expected: &str| {
        let lines = said(&format!("{START}[source.x]\nto = []\n{body}"));
        assert!(lines.iter().any(|line| line.contains(expected)), "{body}\n{}", lines.join("\n"));
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:?}");
    };
    let scheme = |name: &str, more: &str| format!("path = '/x'\nverify = {{ scheme = '{name}', {more} }}");
    check(&scheme("stipe", ""), "source.x.verify.scheme: scheme \"stipe\" is not known; did you mean \"stripe\"?");
    check(&scheme("stripe", "secrets = []"), "source.x.verify.secrets: secrets is empty");
    check(&scheme("stripe", ""), "source.x.verify.secrets: secrets is empty");
    check(
        &scheme("square", "secrets = ['literal:a']"),
        "source.x.public_url: square signs the URL: write public_url on the source",
    );
    check(
        &format!("public_url = 'hooks.example.com/in'\n{}", scheme("square", "secrets = ['literal:a']")),
        "source.x.public_url: ",
    );
    check(
        &format!("public_url = 'https://a.example/in'\n{}", scheme("stripe", "secrets = ['literal:a']")),
        "source.x.public_url: is not used: scheme \"stripe\" does not sign the URL",
    );
    check(
        &scheme("gitlab", "secrets = ['literal:hunter2']"),
        "source.x.verify.secrets: the secret literal:… is neither",
    );
    check(&scheme("standard-webhooks", "secrets = ['literal:whsec_aGk=']"), "has 2 bytes after whsec_");
    check(&scheme("stripe", "secrets = ['literal:a'], tolerance = '0s'"), "source.x.verify.tolerance: ");
    check(&scheme("github", "secrets = ['literal:a'], tolerance = '1m'"), "source.x.verify.tolerance: unknown key");
    check(&scheme("stripe", "secrets = ['literal:a'], algorithm = 'sha1'"), "stripe has one algorithm; remove it");
    check(&scheme("github", "secrets = ['literal:a'], algorithm = 'sha512'"), "github takes only algorithm = \"sha1\"");
    check(&scheme("stripe", "secrets = ['literal:a'], header = 'X'"), "source.x.verify.header: unknown key");
    check(&scheme("token", "secrets = ['literal:a']"), "source.x.verify.header: is missing");
    check(&scheme("basic", "secrets = ['literal:hunter2']"), "write it as user:password");
    check(&scheme("path", "secrets = ['literal:a']"), "source.x.path: has no {secret}");
    check(
        &scheme("path", "secrets = ['literal:hunter 2']").replace("'/x'", "'/x/{secret}'"),
        "source.x.verify.secrets: the secret literal:… can't stand in a path",
    );
    check(
        &scheme("none", "").replace("'/x'", "'/x/{secret}'").replace(", }", " }"),
        "source.x.path: captures {secret}, which is stored and shown",
    );
}

#[test]
fn the_schemes_without_a_provider_are_taken() {
    for (name, path, more) in [
        ("basic", "/x", "secrets = ['literal:u:p']"),
        ("bearer", "/x", "secrets = ['literal:t']"),
        ("token", "/x", "header = 'X-Token', secrets = ['literal:t']"),
        ("path", "/x/{secret}/y", "secrets = ['literal:t']"),
    ] {
        let text = format!("{START}[source.x]\npath = '{path}'\nto = []\nverify = {{ scheme = '{name}', {more} }}\n");
        let source = taken(&text);
        assert_eq!(source.verifier.scheme(), name);
        assert_eq!(source.verifier.secret_segment(), (name == "path").then_some(1));
        assert!(source.methods.is_none() && source.dedupe.is_none() && !source.verifier.is_open());
    }
}

#[test]
fn a_source_without_any_check_is_warned_about_wherever_it_listens() {
    let warned = |verify: &str| {
        let text = format!("{START}[source.x]\npath = '/x'\nto = []\n{verify}");
        said(&text).iter().any(|line| line.contains("source.x.verify: no check at all"))
    };
    assert!(warned("") && warned("verify = { scheme = 'cloudevents' }\n"));
    assert!(!warned("verify = { scheme = 'cloudevents', secrets = ['literal:t'] }\n"));
    let challenge = taken(&source("cloudevents", "")).challenge.as_ref().map(|rule| rule.kind);
    assert_eq!(challenge, Some(Challenge::CloudEvents));
}
