//! The tools for sources: `send`, `verify-signature`, `init`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use stagepost::{
    preset,
    verify::{OutsideScheme, Proof},
};

use crate::harness::{Authority, BINARY, Relay, Request, Upstream, cli, cli_with_input, sign, wait_for};

const SECRET: &str = "a-secret-of-the-tests";

/// The secret of a preset, in its form.
fn secret(name: &str) -> String {
    match name {
        "standard-webhooks" | "svix" | "openai" | "gitlab" => format!("whsec_{}", STANDARD.encode([5; 32])),
        "postmark" => "user:password".to_owned(),
        _ => SECRET.to_owned(),
    }
}

/// The presets whose signatures we can make, and whether they have a timestamp.
fn signable() -> Vec<(&'static str, bool)> {
    let outside = |proof: &Proof| {
        use OutsideScheme::{AwsSns, GooglePubSub, PayPal, Salesforce};
        matches!(proof, Proof::Outside(AwsSns | PayPal | GooglePubSub | Salesforce))
    };
    preset::all()
        .filter(|preset| !outside(&preset.proof) && !matches!(preset.name, "discord" | "sendgrid"))
        .map(|preset| (preset.name, preset.proof.has_timestamp()))
        .collect()
}

fn all_sources() -> String {
    let mut config = String::new();
    for (name, _) in signable() {
        let secret = secret(name);
        let url = match preset::find(name).unwrap().proof.needs_public_url() {
            true => format!("public_url = \"https://hooks.example.com/hooks/{name}\"\n"),
            false => String::new(),
        };
        config.push_str(&format!(
            "[source.{name}]\npath = \"/hooks/{name}\"\n{url}to = []\n\
             verify = {{ scheme = \"{name}\", secrets = [\"literal:{secret}\"] }}\n"
        ));
    }
    config
}

#[test]
fn a_sample_of_every_provider_is_taken_a_spoilt_one_is_not_nor_a_stale_one() {
    let relay = Relay::start(&all_sources());
    let to = format!("http://{}", relay.address());
    let mut kinds = 0;
    for (name, has_timestamp) in signable() {
        let sent = cli(relay.directory(), &["send", "--source", name, "--to", &to]);
        assert_eq!(sent.code, 0, "{name}: {sent:?}");
        assert!(sent.out.contains("stagepost-event-id: "), "{name}: {sent:?}");
        let spoilt = cli(relay.directory(), &["send", "--source", name, "--to", &to, "--bad-signature"]);
        assert_eq!(spoilt.code, 0, "{name}: {spoilt:?}");
        assert!(spoilt.out.contains("401"), "{name}: {spoilt:?}");
        let stale = cli(relay.directory(), &["send", "--source", name, "--to", &to, "--stale"]);
        match has_timestamp {
            true => assert_eq!(stale.code, 0, "{name}: {stale:?}"),
            false => assert!(stale.code == 64 && stale.err.contains("no timestamp"), "{name}: {stale:?}"),
        }
        for said in [&sent, &spoilt, &stale] {
            assert!(!said.out.contains(&secret(name)) && !said.err.contains(&secret(name)), "{name}: {said:?}");
        }
        kinds += 1;
    }
    assert!(kinds >= 33, "{kinds}");
    assert_eq!(relay.events().len(), kinds, "what was refused is not stored");
}

#[test]
fn a_sample_has_the_type_that_is_asked_for_and_a_second_one_is_a_duplicate() {
    let relay = Relay::start(&all_sources());
    let to = format!("http://{}", relay.address());
    cli(relay.directory(), &["send", "--source", "github", "--to", &to, "--type", "pull_request.closed"]).done();
    assert_eq!(relay.events()[0]["type"], "pull_request.closed");
    for name in ["stripe", "github", "hubspot", "google-calendar", "twilio", "standard-webhooks", "ms-graph"] {
        let twice = cli(relay.directory(), &["send", "--source", name, "--to", &to, "--duplicate"]);
        let expected = i32::from(name == "ms-graph");
        assert_eq!(twice.code, expected, "{name}: {twice:?}");
    }
    let body = "{\"id\":\"mine\", \"type\":\"t\"}";
    let own = cli_with_input(relay.directory(), &["send", "--source", "stripe", "--to", &to, "--body", "-"], body);
    assert_eq!(own.code, 0, "{own:?}");
    let id = relay.events()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(relay.cli(&["show", &id, "--body"]).out, body);
}

#[test]
fn what_can_not_be_sent_is_said_to_be_so() {
    let relay = Relay::stopped(
        "[source.d]\npath = \"/d\"\nto = []\n\
         verify = { scheme = \"discord\", secrets = [\"literal:3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29\"] }\n\
         [source.p]\npath = \"/p/{secret}/*\"\nto = []\nverify = { scheme = \"path\", secrets = [\"literal:hidden-word\"] }\n",
    );
    let private = cli(relay.directory(), &["send", "--source", "d", "--to", "http://127.0.0.1:1"]);
    assert!(private.code == 64 && private.err.contains("private key"), "{private:?}");
    let unknown = cli(relay.directory(), &["send", "--source", "x", "--to", "http://127.0.0.1:1"]);
    assert!(unknown.code == 64 && unknown.err.contains("there are: "), "{unknown:?}");
    let nowhere = cli(relay.directory(), &["send", "--source", "p"]);
    assert!(nowhere.code == 64 && nowhere.err.contains("--to"), "{nowhere:?}");
    let absent = cli(relay.directory(), &["send", "--source", "p", "--to", "unix:absent.sock"]);
    assert_eq!(absent.code, 69, "{absent:?}");
    assert!(absent.out.contains("/p/{secret}/") && !absent.out.contains("hidden-word"), "{absent:?}");
}

#[test]
fn the_secret_of_a_path_is_filled_in_and_a_spoilt_one_is_an_unknown_path() {
    let relay = Relay::start(
        "[source.p]\npath = \"/p/{secret}/in\"\nto = []\nverify = { scheme = \"path\", secrets = [\"literal:hidden-word\"] }\n",
    );
    let to = format!("http://{}", relay.address());
    let sent = cli(relay.directory(), &["send", "--source", "p", "--to", &to]).done();
    assert!(!sent.out.contains("hidden-word"), "{sent:?}");
    let spoilt = cli(relay.directory(), &["send", "--source", "p", "--to", &to, "--bad-signature"]).done();
    assert!(spoilt.out.contains("404"), "{spoilt:?}");
}

#[test]
fn our_own_certificate_is_trusted_whatever_its_name_and_no_other_is() {
    let authority = Authority::new();
    let config = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = { certificate = \"a.pem\", key = \"a.key\" }\n\
                  [source.s]\npath = \"/in\"\nto = []\nverify = { scheme = \"stripe\", secrets = [\"literal:s\"] }\n";
    let stopped = || {
        let relay = Relay::stopped(config);
        let identity = authority.identity("a.example");
        relay.write("a.pem", &identity.pem);
        relay.write("a.key", &identity.key_pem);
        relay
    };
    let (mut relay, other) = (stopped(), stopped());
    relay.run();
    let to = format!("https://{}", relay.address());
    cli(relay.directory(), &["send", "--source", "s", "--to", &to]).done();
    let refused = cli(other.directory(), &["send", "--source", "s", "--to", &to]);
    assert_eq!(refused.code, 74, "{refused:?}");
    assert_eq!(relay.events().len(), 1);
}

fn github_relay() -> Relay {
    Relay::start(&format!(
        "[source.g]\npath = \"/in\"\nto = []\nverify = {{ scheme = \"github\", secrets = [\"literal:{SECRET}\"] }}\n"
    ))
}

#[test]
fn an_event_is_verified_again_while_the_instance_runs_and_when_it_has_stopped() {
    let mut relay = github_relay();
    let body = "{\"action\":\"opened\"}";
    let signature = format!("sha256={}", sign(SECRET, body.as_bytes()));
    let request = Request::post("/in", body).header("X-Hub-Signature-256", signature).header("X-GitHub-Delivery", "1");
    assert_eq!(relay.send(&request).status, 200);
    let id = relay.events()[0]["id"].as_str().unwrap().to_owned();
    let running = relay.cli(&["verify-signature", &id]);
    assert_eq!(running.code, 0, "{running:?}");
    assert!(running.out.contains("the request is genuine"), "{running:?}");
    assert_eq!(relay.stop(), 0);
    let stopped = cli(relay.directory(), &["verify-signature", &id, "--source", "g", "--json"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(stopped.json()["verifies"], true);
    let nothing = cli(relay.directory(), &["verify-signature", "01KDYAK3SF0000000000000001"]);
    assert_eq!(nothing.code, 66, "{nothing:?}");
}

#[test]
fn a_request_in_quarantine_is_explained_by_its_id() {
    let mut relay = github_relay();
    let signature = format!("sha256={}", sign(SECRET, b"{\"a\":1}"));
    let changed = Request::post("/in", "{\"a\": 1}").header("X-Hub-Signature-256", signature);
    assert_eq!(relay.send(&changed).status, 401);
    let kept = wait_for("the request is in quarantine", || {
        relay.cli(&["quarantine", "--json"]).done().lines().first().cloned()
    });
    let id = kept["id"].as_str().unwrap();
    for is_running in [true, false] {
        let told = match is_running {
            true => relay.cli(&["verify-signature", id]),
            false => {
                relay.stop();
                cli(relay.directory(), &["verify-signature", id])
            }
        };
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.out.contains("parsed and written again, compact"), "{told:?}");
    }
}

#[test]
fn a_captured_request_is_explained_and_no_secret_is_shown() {
    let relay = github_relay();
    let sent = "{\"action\": \"opened\", \"number\": 1}";
    let signature = sign(SECRET, sent.as_bytes());
    let captured = |body: &str, signature: &str| {
        format!("POST /in HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: sha256={signature}\r\n\r\n{body}")
    };
    for (body, signature, code, kind) in [
        (sent, signature.as_str(), 0, ""),
        ("{\"action\":\"opened\",\"number\":1}", &signature, 1, "body"),
        ("{\"action\": \"opened\", \"number\": 1}\n", &signature, 1, "body"),
        (sent, &signature.to_uppercase(), 1, "encoding"),
        (sent, &STANDARD.encode(hex::decode(&signature).unwrap()), 1, "encoding"),
        (sent, &sign("another-secret", sent.as_bytes()), 1, "none"),
    ] {
        relay.write("request.http", captured(body, signature));
        let told = relay.cli(&["verify-signature", "--source", "g", "request.http", "--json"]);
        assert_eq!(told.code, code, "{told:?}");
        let json = told.json();
        let kinds: Vec<&str> =
            json["mistakes"].as_array().unwrap().iter().map(|mistake| mistake["kind"].as_str().unwrap()).collect();
        match kind {
            "" => assert!(kinds.is_empty() && json["verifies"] == true, "{told:?}"),
            "none" => assert!(kinds.is_empty() && json["reason"] == "bad_signature", "{told:?}"),
            kind => assert!(kinds.contains(&kind), "{kind}: {told:?}"),
        }
        let page = relay.cli(&["verify-signature", "--source", "g", "request.http"]);
        assert!(page.out.contains("Signed     {"), "{page:?}");
        for said in [&told.out, &page.out, &page.err] {
            assert!(!said.contains(SECRET), "{said}");
        }
    }
    let piped =
        cli_with_input(relay.directory(), &["verify-signature", "--source", "g", "-"], &captured(sent, &signature));
    assert_eq!(piped.code, 0, "{piped:?}");
    let no_source = relay.cli(&["verify-signature", "request.http"]);
    assert!(no_source.code == 64 && no_source.err.contains("--source"), "{no_source:?}");
    let absent = relay.cli(&["verify-signature", "--source", "g", "absent.http"]);
    assert_eq!(absent.code, 74, "{absent:?}");
}

#[test]
fn an_old_capture_is_judged_by_the_time_that_is_named() {
    let relay = Relay::stopped(
        "[source.s]\npath = \"/in\"\nto = []\nverify = { scheme = \"stripe\", secrets = [\"literal:s\"] }\n",
    );
    let signature = sign("s", b"1767323045.{}");
    relay.write(
        "request.http",
        format!("POST /in HTTP/1.1\nStripe-Signature: t=1767323045,v1={signature}\nContent-Length: 2\n\n{{}}\n"),
    );
    let today = cli(relay.directory(), &["verify-signature", "--source", "s", "request.http"]);
    assert!(today.code == 1 && today.out.contains("refused, stale"), "{today:?}");
    assert!(today.out.contains("right; only the timestamp is refused"), "{today:?}");
    assert!(today.out.contains("Signed     1767323045.{}"), "{today:?}");
    let then =
        cli(relay.directory(), &["verify-signature", "--source", "s", "request.http", "--at", "2026-01-02T03:04:30Z"]);
    assert_eq!(then.code, 0, "{then:?}");
}

fn init(directory: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(directory).env_remove("STAGEPOST_CONFIG").env("GITHUB_SECRET", SECRET).arg("init").args(args);
    command
}

#[test]
fn init_writes_what_serves_says_what_to_do_and_sees_the_first_delivery() {
    let upstream = Upstream::start();
    let mut relay = Relay::stopped("");
    let url = upstream.url();
    let refused = init(relay.directory(), &["github", "--to", &url, "--no-wait"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "a file that is there is left alone: {refused:?}");
    let written = init(relay.directory(), &["github", "--to", &url, "--no-wait", "--force"])
        .env("LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&written.stdout).into_owned();
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    assert!(said.contains("https://hooks.example.com/hooks/github") && said.contains("GITHUB_SECRET"), "{said}");

    let said = first_delivery(&mut relay, "github", "GITHUB_SECRET", &url, |_| {});
    assert!(said.contains("The first event came: ") && said.contains("type issues.opened"), "{said}");
    assert!(said.contains("It was delivered.") && !said.contains("challenge"), "{said}");
}

/// Runs `init` until it has seen a delivery; gives what it said while it waited.
fn first_delivery(relay: &mut Relay, preset: &str, name: &str, url: &str, before: impl Fn(&Relay)) -> String {
    let mut waiting = init(relay.directory(), &[preset, "--to", url, "--force"])
        .env("LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    relay.environment(name, SECRET);
    relay.environment("LISTEN", "127.0.0.1:0");
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines().map_while(Result::ok);
    // It writes the file anew, and is done with it when it waits.
    assert!(lines.any(|line| line.starts_with("Waiting for the first event")));
    relay.run();
    before(relay);
    let mut send = Command::new(BINARY);
    let to = format!("http://{}", relay.address());
    send.current_dir(relay.directory()).env(name, SECRET).env("LISTEN", "127.0.0.1:0");
    let sent = send.args(["send", "--source", preset, "--to", &to]).output().unwrap();
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let said: Vec<String> = lines.collect();
    let said = said.join("\n");
    assert_eq!(waiting.wait().unwrap().code(), Some(0), "{said}");
    said
}

#[test]
fn init_sees_the_challenge_also_where_it_lacks_the_secret_itself() {
    let upstream = Upstream::start();
    let mut relay = Relay::stopped("");
    let said = first_delivery(&mut relay, "dropbox", "DROPBOX_APP_SECRET", &upstream.url(), |relay| {
        assert_eq!(relay.send(&Request::get("/hooks/dropbox?challenge=abc")).status, 200);
        assert_eq!(relay.send(&Request::post("/hooks/dropbox", "{}")).status, 401);
    });
    for line in ["A challenge was answered.", "A request was refused: missing_signature", "It was delivered."] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn init_knows_its_providers() {
    let directory = tempfile::tempdir().unwrap();
    let unknown = init(directory.path(), &["gihub", "--to", "http://127.0.0.1:1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean \"github\""), "{unknown:?}");
    let signs_url = init(directory.path(), &["square", "--to", "http://127.0.0.1:1", "--no-wait"]).output().unwrap();
    assert!(String::from_utf8_lossy(&signs_url.stderr).contains("--public-url"), "{signs_url:?}");
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing is written");
    for preset in preset::all() {
        let url = "https://a.example/x";
        let args = [preset.name, "--to", "http://127.0.0.1:1", "--public-url", url, "--no-wait", "--force"];
        let written = init(directory.path(), &args).output().unwrap();
        assert_eq!(written.status.code(), Some(0), "{}: {written:?}", preset.name);
    }
}
