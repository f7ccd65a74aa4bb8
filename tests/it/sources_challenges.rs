//! Challenges of providers, on sources that say no more than the preset's name and its secrets.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::Sha256;
use stagepost::clock::Clock;

use crate::harness::{Relay, Request, Response, sign};

const SECRET: &str = "a-secret-of-the-tests";
/// Any 32 bytes are an Ed25519 key.
const SEED: [u8; 32] = [7; 32];

fn discord() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap()
}

fn presets() -> Relay {
    let mut relay = Relay::stopped(
        r#"
        [source.slack]
        path = "/slack"
        verify = { scheme = "slack", secrets = ["env:S"] }
        to = []

        [source.zoom]
        path = "/zoom"
        verify = { scheme = "zoom", secrets = ["env:S"] }
        to = []

        [source.twitch]
        path = "/twitch"
        verify = { scheme = "twitch", secrets = ["env:S"] }
        to = []

        [source.discord]
        path = "/discord"
        verify = { scheme = "discord", secrets = ["env:DISCORD"] }
        to = []

        [source.meta]
        path = "/meta"
        verify = { scheme = "meta", secrets = ["env:S"], verify_token = "env:META_TOKEN" }
        to = []

        [source.dropbox]
        path = "/dropbox"
        verify = { scheme = "dropbox", secrets = ["env:S"] }
        to = []

        [source.x]
        path = "/x"
        verify = { scheme = "x", secrets = ["env:S"] }
        to = []

        [source.okta]
        path = "/okta"
        verify = { scheme = "okta", secrets = ["env:S"] }
        to = []

        [source.graph]
        path = "/graph"
        verify = { scheme = "ms-graph", secrets = ["env:S"] }
        to = []

        [source.calendar]
        path = "/calendar"
        verify = { scheme = "google-calendar", secrets = ["env:S"] }
        to = []

        [source.ce]
        path = "/ce"
        verify = { scheme = "cloudevents", allowed_origins = ["eventgrid.azure.net"], allowed_rate = 600 }
        to = []
        "#,
    );
    relay.environment("S", SECRET);
    relay.environment("META_TOKEN", "token-of-meta");
    relay.environment("DISCORD", &hex::encode(discord().public_key()));
    relay.run();
    relay
}

fn now_s() -> u64 {
    Clock::system().now().as_millis() / 1000
}

/// As Slack and Zoom sign, apart from the names of the headers.
fn v0(path: &str, names: [&str; 2], body: &str) -> Request {
    let now = now_s();
    let signature = sign(SECRET, format!("v0:{now}:{body}").as_bytes());
    Request::post(path, body).header(names[0], now.to_string()).header(names[1], format!("v0={signature}"))
}

fn slack(body: &str) -> Request {
    v0("/slack", ["X-Slack-Request-Timestamp", "X-Slack-Signature"], body)
}

fn zoom(body: &str) -> Request {
    v0("/zoom", ["x-zm-request-timestamp", "x-zm-signature"], body)
}

fn twitch(kind: &str, body: &str) -> Request {
    let now = Clock::system().now().to_string();
    let signature = sign(SECRET, format!("message-1{now}{body}").as_bytes());
    Request::post("/twitch", body)
        .header("Twitch-Eventsub-Message-Id", "message-1")
        .header("Twitch-Eventsub-Message-Timestamp", now)
        .header("Twitch-Eventsub-Message-Signature", format!("sha256={signature}"))
        .header("Twitch-Eventsub-Message-Type", kind)
}

fn discord_post(body: &str) -> Request {
    let now = now_s();
    let signature = discord().sign(format!("{now}{body}").as_bytes());
    Request::post("/discord", body)
        .header("X-Signature-Timestamp", now.to_string())
        .header("X-Signature-Ed25519", hex::encode(signature))
}

fn proof(message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[test]
fn every_provider_gets_the_answer_that_it_documents_and_nothing_is_stored() {
    let relay = presets();
    let zoom_body = r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1654503849680,"event":"endpoint.url_validation"}"#;
    let zoom_answer = format!(
        r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{}"}}"#,
        hex::encode(proof("qgg8vlvZRS6UYooatFL8Aw"))
    );
    let x_answer = format!(r#"{{"response_token":"sha256={}"}}"#, STANDARD.encode(proof("challenge_string")));
    let meta = "/meta?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=token-of-meta";
    let okta =
        Request::get("/okta").header("Authorization", SECRET).header("X-Okta-Verification-Challenge", "is it you");
    let sync = Request::post("/calendar", "").header("X-Goog-Channel-Token", SECRET);
    let options = Request::new("OPTIONS", "/ce").header("WebHook-Request-Origin", "eventgrid.azure.net");
    let cases: [(&str, Request, u16, &str); 12] = [
        (
            "slack",
            slack(r#"{"token":"x","challenge":"3eZbrw1aBm2rZgRN","type":"url_verification"}"#),
            200,
            "3eZbrw1aBm2rZgRN",
        ),
        ("zoom", zoom(zoom_body), 200, &zoom_answer),
        (
            "twitch",
            twitch("webhook_callback_verification", r#"{"challenge":"pogchamp-kappa-360"}"#),
            200,
            "pogchamp-kappa-360",
        ),
        ("discord", discord_post(r#"{"version":1,"application_id":"1","type":0}"#), 204, ""),
        ("discord", discord_post(r#"{"type":1,"id":"1","token":"t"}"#), 200, r#"{"type":1}"#),
        ("meta", Request::get(meta), 200, "1158201444"),
        ("dropbox", Request::get("/dropbox?challenge=abc123"), 200, "abc123"),
        ("x", Request::get("/x?crc_token=challenge_string&nonce=1"), 200, &x_answer),
        ("okta", okta, 200, r#"{"verification":"is it you"}"#),
        (
            "graph",
            Request::post("/graph?validationToken=Validation%3A%20Testing%20client", ""),
            200,
            "Validation: Testing client",
        ),
        ("calendar", sync.clone().header("X-Goog-Resource-State", "sync"), 200, ""),
        ("ce", options.header("WebHook-Request-Rate", "1000"), 200, ""),
    ];
    for (source, request, status, body) in cases {
        let answer = relay.send(&request);
        assert_eq!((answer.status, &*answer.text()), (status, body), "{source}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{source}");
        assert!(answer.header("content-type").is_some(), "{source}");
        assert!(answer.header("stagepost-event-id").is_none(), "{source}");
        if source == "ce" {
            assert_eq!(answer.header("webhook-allowed-origin"), Some("eventgrid.azure.net"));
            assert_eq!(answer.header("webhook-allowed-rate"), Some("600"));
            assert_eq!(answer.header("allow"), Some("POST"));
        }
        let counted = relay.metric(&format!("stagepost_requests_total{{source=\"{source}\",result=\"challenge\"}}"));
        assert!(counted >= 1.0, "{source}");
    }
    assert!(relay.events().is_empty());
    relay.wait_for_diagnostics("answered a challenge");
    assert!(!relay.diagnostics().contains("token-of-meta") && !relay.diagnostics().contains(SECRET));
}

#[test]
fn who_can_not_be_asked_for_is_told_no_more_than_any_stranger() {
    let relay = presets();
    let forged = |mut request: Request| {
        request.body.push(b' ');
        request
    };
    let refused: [(Request, u16); 11] = [
        (forged(slack(r#"{"challenge":"x","type":"url_verification"}"#)), 401),
        (forged(zoom(r#"{"event":"endpoint.url_validation","payload":{"plainToken":"x"}}"#)), 401),
        (zoom(r#"{"event":"endpoint.url_validation","payload":{"plainToken":"v0:1:{}"}}"#), 400),
        (forged(twitch("webhook_callback_verification", r#"{"challenge":"x"}"#)), 401),
        // Discord asks with bad signatures and removes who takes them.
        (forged(discord_post(r#"{"type":1}"#)), 401),
        (Request::post("/discord", r#"{"type":1}"#), 401),
        (Request::get("/meta?hub.mode=subscribe&hub.challenge=1&hub.verify_token=guessed"), 403),
        (Request::get("/x?crc_token=%7B%22forged%22%3Atrue%7D"), 400),
        (Request::get("/dropbox?challenge=%3Cscript%3E"), 400),
        (Request::post("/calendar", "").header("X-Goog-Resource-State", "sync"), 401),
        (Request::new("OPTIONS", "/ce").header("WebHook-Request-Origin", "example.com"), 405),
    ];
    for (request, expected) in &refused {
        let answer: Response = relay.send(request);
        assert_eq!(answer.status, *expected, "{request:?}");
        assert!(answer.header("webhook-allowed-origin").is_none());
    }
    assert!(relay.events().is_empty());
    assert_eq!(relay.cli(&["refused", "--json"]).lines().len(), refused.len());
}

#[test]
fn methods_that_only_challenges_need_are_not_taken_for_events() {
    let relay = presets();
    for path in ["/meta", "/dropbox", "/x", "/okta", "/slack"] {
        let answer = relay.send(&Request::get(path));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{path}");
    }
}
