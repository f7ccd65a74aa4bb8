//! Presets against the providers' own packages: what those sign and find good, a running relay takes and stores as it was
//! sent; what is changed or forged on the way both refuse.
//!
//! `scripts/sdks.sh` installs the packages; the programs in `tests/sdk` ask them.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stagepost::clock::Clock;

use crate::harness::{Relay, Request};

/// In every body, to be changed on the way.
const MARK: &str = "tamper-me";
const HOUR_S: u64 = 3600;
const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:orders";

/// Two keys made for these tests.
const P256_KEYS: [&str; 2] = [
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgbJ8g9eprqQyhmKBYNA3gayypynJsU5o9kDdiFRVhG4ihRANCAAR5mlgoEyuH5pMbREXEoOIvmB555+5aNgvE05xcFaJlS2z+7ABhe3Lg5l5HDN1ZuwRtAHbiVlCuk071uTxCLC5I",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpAHUAse+1gbB7JAGPZBxBQx3mjlSWaWnzSUJCM+66cKhRANCAATLkl8XKZnjY6zmtwXw/8kJ0ASXicCcl+HDBoU+Ja8yEK4akCOxm4X0mBcqy8enHuuw7JkguhspHC7N+3d1cZDU",
];
const RSA_KEYS: [(&str, &str); 2] = [
    (include_str!("../fixtures/keys/rsa-one.pem"), include_str!("../fixtures/keys/certificate-one.pem")),
    (include_str!("../fixtures/keys/rsa-two.pem"), include_str!("../fixtures/keys/certificate-two.pem")),
];

/// What a package is known for.
struct Preset {
    name: &'static str,
    /// The header of the signature; empty if it stands in the body.
    signature: &'static str,
    /// Whether a time is signed.
    stamped: bool,
    /// Whether the package looks at the time itself.
    judges_past: bool,
    judges_future: bool,
    /// Whether the query is signed.
    signs_query: bool,
}

const fn preset(name: &'static str, signature: &'static str) -> Preset {
    Preset { name, signature, stamped: false, judges_past: false, judges_future: false, signs_query: false }
}

/// Python's.
const PYTHON: [Preset; 10] = [
    Preset { stamped: true, judges_past: true, ..preset("stripe", "stripe-signature") },
    Preset {
        stamped: true,
        judges_past: true,
        judges_future: true,
        ..preset("standard-webhooks", "webhook-signature")
    },
    Preset { stamped: true, judges_past: true, judges_future: true, ..preset("svix", "svix-signature") },
    Preset { stamped: true, judges_past: true, judges_future: true, ..preset("openai", "webhook-signature") },
    Preset { stamped: true, judges_past: true, judges_future: true, ..preset("slack", "x-slack-signature") },
    Preset { signs_query: true, ..preset("twilio", "x-twilio-signature") },
    Preset { stamped: true, judges_past: true, signs_query: true, ..preset("hubspot", "x-hubspot-signature-v3") },
    preset("hubspot-v1", "x-hubspot-signature"),
    Preset { signs_query: true, ..preset("hubspot-v2", "x-hubspot-signature") },
    Preset { stamped: true, ..preset("sendgrid", "x-twilio-email-event-webhook-signature") },
];

/// Node's.
const NODE: [Preset; 7] = [
    preset("github", "x-hub-signature-256"),
    preset("square", "x-square-hmacsha256-signature"),
    Preset { stamped: true, ..preset("discord", "x-signature-ed25519") },
    Preset { stamped: true, judges_past: true, ..preset("paddle", "paddle-signature") },
    preset("shopify", "x-shopify-hmac-sha256"),
    Preset { stamped: true, judges_past: true, judges_future: true, ..preset("linear", "linear-signature") },
    preset("aws-sns", ""),
];

#[test]
fn what_the_packages_of_python_sign_is_taken_and_what_is_changed_on_the_way_is_refused() {
    let sdks = installed("python/bin/python");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/oracle.py");
    let mut command = Command::new(sdks.join("python/bin/python"));
    agree(&PYTHON, Oracle::start(command.arg(program)));
}

#[test]
fn what_the_packages_of_node_sign_is_taken_and_what_is_changed_on_the_way_is_refused() {
    let sdks = installed("node/node_modules");
    // As an argument, so that packages are looked for where they are installed.
    let own = sdks.join("python/bin/node");
    let mut command = Command::new(if own.exists() { own.as_os_str() } else { "node".as_ref() });
    command.args(["--input-type=module", "--eval", include_str!("../sdk/oracle.mjs")]).current_dir(sdks.join("node"));
    agree(&NODE, Oracle::start(&mut command));
}

/// Where the packages are.
fn installed(part: &str) -> PathBuf {
    let sdks = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sdks");
    let is_there = sdks.join(part).exists() && sdks.join("installed").exists();
    assert!(is_there, "the providers' packages are not in {}: run scripts/sdks.sh", sdks.display());
    sdks
}

/// The packages, in a process of their own.
struct Oracle {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.input, "{question}").unwrap();
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended at {question}");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{answer} at {question}");
        answer
    }

    fn sign(&mut self, name: &str, key: &Key, body: &[u8], query: Option<&str>, at: u64, id: &str) -> Signed {
        let signed = self.ask(&json!({
            "do": "sign", "preset": name, "secret": key.public, "private": key.private, "topic": TOPIC,
            "body": STANDARD.encode(body), "query": query, "at": at, "id": id,
        }));
        let header = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned());
        Signed {
            headers: signed["headers"].as_array().unwrap().iter().map(header).collect(),
            query: signed["query"].as_str().map(str::to_owned),
            body: STANDARD.decode(signed["body"].as_str().unwrap()).unwrap(),
        }
    }

    fn finds_good(&mut self, name: &str, key: &Key, signed: &Signed) -> Value {
        let headers: Vec<_> = signed.headers.iter().map(|(name, value)| json!([name, value])).collect();
        self.ask(&json!({
            "do": "verify", "preset": name, "secret": key.public, "headers": headers, "query": signed.query,
            "body": STANDARD.encode(&signed.body),
        }))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What a provider hands out, and what it keeps.
struct Key {
    public: String,
    private: Option<String>,
}

/// One of three keys, of which two are configured; the other one is a forger's.
fn key(name: &str, which: u8) -> Key {
    let plain = |public: String| Key { public, private: None };
    match name {
        "standard-webhooks" | "svix" | "openai" => plain(format!("whsec_{}", STANDARD.encode([which; 32]))),
        "discord" => {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[which; 32]).unwrap();
            Key { public: hex::encode(pair.public_key()), private: Some(hex::encode([which; 32])) }
        }
        "sendgrid" => {
            let private = P256_KEYS[usize::from(which) % 2];
            let pkcs8 = STANDARD.decode(private).unwrap();
            let random = ring::rand::SystemRandom::new();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random).unwrap();
            let mut spki = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
            spki.extend_from_slice(pair.public_key().as_ref());
            Key { public: STANDARD.encode(spki), private: Some(private.to_owned()) }
        }
        "aws-sns" => {
            let (private, certificate) = RSA_KEYS[usize::from(which) % 2];
            Key { public: certificate.to_owned(), private: Some(private.to_owned()) }
        }
        _ => plain(format!("{name}-secret-{}", hex::encode([which; 12]))),
    }
}

/// The keys that sign well. Of `SendGrid` and SNS there are but two, so that one of them is the forger's.
fn configured(name: &str) -> &'static [u8] {
    if ["sendgrid", "aws-sns"].contains(&name) { &[1] } else { &[1, 2] }
}

const FORGER: u8 = 4;

#[derive(Clone)]
struct Signed {
    headers: Vec<(String, String)>,
    query: Option<String>,
    body: Vec<u8>,
}

impl Signed {
    fn request(&self, name: &str) -> Request {
        let target = match &self.query {
            Some(query) => format!("/{name}?{query}"),
            None => format!("/{name}"),
        };
        let request = Request::post(&target, &self.body);
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn with_body(&self, body: Vec<u8>) -> Self {
        Self { body, ..self.clone() }
    }

    fn with_headers(&self, change: impl Fn(&str, &str) -> Option<String>) -> Self {
        let kept = self.headers.iter().filter_map(|(name, value)| Some((name.clone(), change(name, value)?)));
        Self { headers: kept.collect(), ..self.clone() }
    }
}

fn source(preset: &Preset) -> String {
    let name = preset.name;
    let verify = match name {
        "aws-sns" => format!("scheme = \"aws-sns\", topic_arn = \"{TOPIC}\", certificate = \"sns.pem\""),
        _ => {
            let secrets: Vec<_> =
                configured(name).iter().map(|which| format!("\"literal:{}\"", key(name, *which).public)).collect();
            format!("scheme = \"{name}\", secrets = [{}]", secrets.join(", "))
        }
    };
    let url = match name {
        "twilio" | "square" | "hubspot" | "hubspot-v2" => {
            format!("public_url = \"https://hooks.example.com/{name}\"\n")
        }
        _ => String::new(),
    };
    format!("[source.{name}]\npath = \"/{name}\"\nto = []\nverify = {{ {verify} }}\n{url}\n")
}

/// Bodies as providers send them, each with a number of its own.
fn bodies(name: &str, next: &mut u32) -> Vec<Vec<u8>> {
    let mut number = || {
        *next += 1;
        *next
    };
    let mut bodies = vec![
        format!(r#"{{"id":"evt-{}","type":"a.b","note":"{MARK}"}}"#, number()),
        format!("{{\"id\":\"evt-{}\",\"note\":\"na\u{ef}ve \u{2603}\u{1f600} \\u00e4 \\/ {MARK}\"}}", number()),
        format!("{{\r\n  \"id\": \"evt-{}\",\r\n  \"note\":\t\"{MARK}\"\r\n}}\r\n", number()),
        format!(r#"{{"id":"evt-{}","filler":"{}","note":"{MARK}"}}"#, number(), "x".repeat(64 << 10)),
    ];
    if name == "twilio" {
        bodies.push(format!("MessageSid=SM{}&Body={MARK}&From=%2B14158675310&To=%2B18005551212", number()));
        bodies.push(format!("Sid={}&A=2&A=1&A=1&Empty=&Body=na%C3%AFve+text%20{MARK}%26&a=lower&%C3%A9=1", number()));
    }
    bodies.into_iter().map(String::into_bytes).collect()
}

/// Signs, changes and sends.
fn agree(presets: &[Preset], mut oracle: Oracle) {
    let mut relay = Relay::stopped(&presets.iter().map(source).collect::<String>());
    relay.write("sns.pem", key("aws-sns", 1).public);
    relay.run();
    let now = || Clock::system().now().as_millis() / 1000;
    let (mut number, mut good, mut refused) = (0, BTreeSet::new(), 0);
    for preset in presets {
        let name = preset.name;
        let first = configured(name)[0];
        for which in configured(name) {
            for body in bodies(name, &mut number) {
                let id = format!("msg_{}", good.len());
                let query = preset.signs_query.then_some("page=2&of=a+b");
                let signed = oracle.sign(name, &key(name, *which), &body, query, now(), &id);
                let verdict = oracle.finds_good(name, &key(name, *which), &signed);
                assert_eq!(verdict["valid"], true, "{name}: its own package refuses: {verdict}");
                let answer = relay.send(&signed.request(name));
                assert!((200..300).contains(&answer.status), "{name}: {answer:?}");
                assert_eq!(answer.header("stagepost-duplicate"), None, "{name}: {answer:?}");
                let event = answer.header("stagepost-event-id").unwrap_or_else(|| panic!("{name}: {answer:?}"));
                good.insert((event.to_owned(), hex::encode(Sha256::digest(&signed.body))));
            }
        }
        for body in bodies(name, &mut number) {
            for (what, changed, judged) in changes(preset, &mut oracle, first, &body, now()) {
                let verdict = oracle.finds_good(name, &key(name, first), &changed);
                assert!(!judged || verdict["valid"] == false, "{name}, {what}: its own package takes it");
                let answer = relay.send(&changed.request(name));
                assert_eq!(answer.status, 401, "{name}, {what}: {answer:?}");
                refused += 1;
            }
        }
    }
    assert!(good.len() >= 4 * presets.len() && refused >= 20 * presets.len(), "{} and {refused}", good.len());
    let stored: BTreeSet<(String, String)> = relay
        .events()
        .iter()
        .map(|event| (event["id"].as_str().unwrap().to_owned(), event["sha256"].as_str().unwrap().to_owned()))
        .collect();
    assert!(stored == good, "every good request is stored as it was sent, and no other");
}

/// A good request in every way that it may be changed: what was done, the request, and whether the package looks at that.
fn changes(
    preset: &Preset,
    oracle: &mut Oracle,
    which: u8,
    body: &[u8],
    now: u64,
) -> Vec<(&'static str, Signed, bool)> {
    let name = preset.name;
    let query = preset.signs_query.then_some("page=2");
    let mut sign = |which, at| oracle.sign(name, &key(name, which), body, query, at, "msg_changed");
    let good = sign(which, now);
    let text = String::from_utf8(good.body.clone()).unwrap();
    assert!(text.contains(MARK));
    let mut all = vec![
        ("the body changed", good.with_body(text.replace(MARK, "tamper-mf").into_bytes()), true),
        ("another key", sign(FORGER, now), true),
    ];
    if !preset.signature.is_empty() {
        let is_signature = |header: &str| header.eq_ignore_ascii_case(preset.signature);
        let other = |value: &str| {
            let at = value.len() - 12;
            let letter = if value[at..].starts_with('0') { "1" } else { "0" };
            Some([&value[..at], letter, &value[at + 1..]].concat())
        };
        let kept = |value: &str| Some(value.to_owned());
        all.extend([
            ("a longer body", good.with_body([&good.body[..], b" "].concat()), true),
            ("a shorter body", good.with_body(good.body[..good.body.len() - 1].to_vec()), true),
            ("no body", good.with_body(Vec::new()), true),
            ("no signature", good.with_headers(|name, value| (!is_signature(name)).then(|| value.to_owned())), true),
            (
                "another signature",
                good.with_headers(|name, value| if is_signature(name) { other(value) } else { kept(value) }),
                true,
            ),
        ]);
    }
    if preset.stamped {
        all.push(("an hour late", sign(which, now - HOUR_S), preset.judges_past));
        all.push(("an hour early", sign(which, now + HOUR_S), preset.judges_future));
        let (signed_at, later) = (now.to_string(), (now + 1).to_string());
        let moved = good.with_headers(|_, value| Some(value.replace(&signed_at, &later)));
        if moved.headers != good.headers {
            all.push(("another time", moved, true));
        }
    }
    if preset.signs_query {
        let query = good.query.as_ref().map(|query| query.replace("page=2", "page=3"));
        all.push(("another query", Signed { query, ..good.clone() }, true));
    }
    let renamed = good.with_headers(|name, value| Some(if name.ends_with("-id") { "msg_2" } else { value }.to_owned()));
    if ["standard-webhooks", "svix", "openai"].contains(&name) {
        all.push(("another id", renamed, true));
    }
    all
}
