//! Signs requests as providers document it, written apart from the engine: format strings and the plain primitives.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A request on its way to us.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) query: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

pub(super) const URL: &str = "https://hooks.example.com/in";
const ID: &str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";

/// HMAC-SHA256.
fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn mac_sha1(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Milliseconds as RFC 3339 with nanoseconds, whole seconds only.
fn rfc3339(at_ms: u64, fraction: &str) -> String {
    let text = crate::clock::Timestamp::from_millis(at_ms / 1000 * 1000).to_string();
    text.replace(".000Z", fraction)
}

/// The secret that a provider of this preset would hand out, one of two; and what it signs with.
pub(super) fn secret(preset: &str, which: u8) -> (String, Vec<u8>) {
    let raw = [which; 32];
    match preset {
        "standard-webhooks" | "svix" | "openai" | "gitlab" => (format!("whsec_{}", b64(raw)), raw.to_vec()),
        "discord" => {
            let pair = Ed25519KeyPair::from_seed_unchecked(&raw).unwrap();
            (hex::encode(pair.public_key()), raw.to_vec())
        }
        "sendgrid" => {
            // Two PKCS #8 keys, so that each test run has the same.
            let pkcs8 = BASE64_STANDARD.decode(P256_KEYS[usize::from(which % 2)]).unwrap();
            let pair = p256(&pkcs8);
            let mut spki = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
            spki.extend_from_slice(pair.public_key().as_ref());
            (b64(spki), pkcs8)
        }
        "postmark" => (format!("user:{}", hex::encode(raw)), format!("user:{}", hex::encode(raw)).into_bytes()),
        _ => (hex::encode(raw), hex::encode(raw).into_bytes()),
    }
}

fn p256(pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &ring::rand::SystemRandom::new()).unwrap()
}

/// Keys made for these tests.
const P256_KEYS: [&str; 2] = [
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgbJ8g9eprqQyhmKBYNA3gayypynJsU5o9kDdiFRVhG4ihRANCAAR5mlgoEyuH5pMbREXEoOIvmB555+5aNgvE05xcFaJlS2z+7ABhe3Lg5l5HDN1ZuwRtAHbiVlCuk071uTxCLC5I",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpAHUAse+1gbB7JAGPZBxBQx3mjlSWaWnzSUJCM+66cKhRANCAATLkl8XKZnjY6zmtwXw/8kJ0ASXicCcl+HDBoU+Ja8yEK4akCOxm4X0mBcqy8enHuuw7JkguhspHC7N+3d1cZDU",
];

/// A request that a provider would send at a time, signed with a key.
pub(super) fn send(preset: &str, key: &[u8], body: &[u8], at_ms: u64) -> Request {
    let s = (at_ms / 1000).to_string();
    let t = s.as_bytes();
    let ms = at_ms.to_string();
    let mut request = Request { method: "POST", query: None, headers: Vec::new(), body: body.to_vec() };
    let prefixed = |prefix: &str, code: Vec<u8>| format!("{prefix}{}", hex::encode(code));
    let mut set = |name: &str, value: String| request.headers.push((name.to_owned(), value));
    match preset {
        "github" => {
            set("X-Hub-Signature-256", prefixed("sha256=", mac(key, body)));
            set("X-GitHub-Delivery", ID.to_owned());
        }
        "meta" => set("X-Hub-Signature-256", prefixed("sha256=", mac(key, body))),
        "bitbucket" | "jira" => set("X-Hub-Signature", prefixed("sha256=", mac(key, body))),
        "intercom" => set("X-Hub-Signature", prefixed("sha1=", mac_sha1(key, body))),
        "shopify" => set("X-Shopify-Hmac-Sha256", b64(mac(key, body))),
        "dropbox" => set("X-Dropbox-Signature", hex::encode(mac(key, body))),
        "x" => set("x-twitter-webhooks-signature", format!("sha256={}", b64(mac(key, body)))),
        "pagerduty" => set("X-PagerDuty-Signature", prefixed("v1=", mac(key, body))),
        "docusign" => set("X-DocuSign-Signature-1", b64(mac(key, body))),
        "linear" => {
            let body = if body.starts_with(b"{") {
                cat(&[format!("{{\"webhookTimestamp\":{ms},").as_bytes(), &body[1..]])
            } else {
                body.to_vec()
            };
            set("Linear-Signature", hex::encode(mac(key, &body)));
            request.body = body;
        }
        "standard-webhooks" | "openai" | "gitlab" | "svix" => {
            let start = if preset == "svix" { "svix" } else { "webhook" };
            set(&format!("{start}-id"), ID.to_owned());
            set(&format!("{start}-timestamp"), s.clone());
            let code = mac(key, &cat(&[ID.as_bytes(), b".", t, b".", body]));
            set(&format!("{start}-signature"), format!("v1,{}", b64(code)));
        }
        "stripe" => {
            let code = mac(key, &cat(&[t, b".", body]));
            set("Stripe-Signature", prefixed(&format!("t={s},v1="), code));
        }
        "calendly" => {
            let code = mac(key, &cat(&[t, b".", body]));
            set("Calendly-Webhook-Signature", prefixed(&format!("t={s},v1="), code));
        }
        "paddle" => {
            let code = mac(key, &cat(&[t, b":", body]));
            set("Paddle-Signature", prefixed(&format!("ts={s};h1="), code));
        }
        "slack" => {
            set("X-Slack-Request-Timestamp", s.clone());
            set("X-Slack-Signature", prefixed("v0=", mac(key, &cat(&[b"v0:", t, b":", body]))));
        }
        "zoom" => {
            set("x-zm-request-timestamp", s.clone());
            set("x-zm-signature", prefixed("v0=", mac(key, &cat(&[b"v0:", t, b":", body]))));
        }
        "zendesk" => {
            let at = rfc3339(at_ms, "Z");
            set("X-Zendesk-Webhook-Signature", b64(mac(key, &cat(&[at.as_bytes(), body]))));
            set("X-Zendesk-Webhook-Signature-Timestamp", at);
        }
        "twitch" => {
            let at = rfc3339(at_ms, ".634234626Z");
            set("Twitch-Eventsub-Message-Id", ID.to_owned());
            let code = mac(key, &cat(&[ID.as_bytes(), at.as_bytes(), body]));
            set("Twitch-Eventsub-Message-Timestamp", at);
            set("Twitch-Eventsub-Message-Signature", prefixed("sha256=", code));
        }
        "hubspot" => {
            request.query = Some("to=a%40b%2Fc%20d".to_owned());
            let url = format!("{URL}?to=a@b/c%20d");
            let code = mac(key, &cat(&[b"POST", url.as_bytes(), body, ms.as_bytes()]));
            set("X-HubSpot-Request-Timestamp", ms.clone());
            set("X-HubSpot-Signature-v3", b64(code));
        }
        "hubspot-v1" => {
            set("X-HubSpot-Signature-Version", "v1".to_owned());
            set("X-HubSpot-Signature", hex::encode(Sha256::digest(cat(&[key, body]))));
        }
        "hubspot-v2" => {
            request.query = Some("a=%40".to_owned());
            let url = format!("{URL}?a=%40");
            set("X-HubSpot-Signature-Version", "v2".to_owned());
            set("X-HubSpot-Signature", hex::encode(Sha256::digest(cat(&[key, b"POST", url.as_bytes(), body]))));
        }
        "square" => {
            set("x-square-hmacsha256-signature", b64(mac(key, &cat(&[URL.as_bytes(), body]))));
        }
        "discord" => {
            let pair = Ed25519KeyPair::from_seed_unchecked(key).unwrap();
            set("X-Signature-Timestamp", s.clone());
            set("X-Signature-Ed25519", hex::encode(pair.sign(&cat(&[t, body]))));
        }
        "sendgrid" => {
            let signature = p256(key).sign(&ring::rand::SystemRandom::new(), &cat(&[t, body])).unwrap();
            set("X-Twilio-Email-Event-Webhook-Signature", b64(signature));
            set("X-Twilio-Email-Event-Webhook-Timestamp", s.clone());
        }
        "twilio" => {
            let query = format!("bodySHA256={}", hex::encode(Sha256::digest(body)));
            set("Content-Type", "application/json".to_owned());
            set("X-Twilio-Signature", b64(mac_sha1(key, format!("{URL}?{query}").as_bytes())));
            request.query = Some(query);
        }
        "mailgun" => {
            let token = "d".repeat(50);
            let code = hex::encode(mac(key, format!("{s}{token}").as_bytes()));
            let inside = format!(r#"{{"timestamp":"{s}","token":"{token}","signature":"{code}"}}"#);
            let rest = if body.starts_with(b"{") { &body[1..] } else { body };
            request.body = cat(&[b"{\"signature\":", inside.as_bytes(), b",", rest]);
        }
        "ms-graph" => {
            let key = String::from_utf8(key.to_vec()).unwrap();
            request.body = format!(r#"{{"value":[{{"clientState":"{key}"}},{{"a":1,"clientState":"{key}"}}]}}"#).into();
        }
        "gitlab-token" => set("X-Gitlab-Token", String::from_utf8(key.to_vec()).unwrap()),
        "telegram" => set("X-Telegram-Bot-Api-Secret-Token", String::from_utf8(key.to_vec()).unwrap()),
        "google-calendar" => set("X-Goog-Channel-Token", String::from_utf8(key.to_vec()).unwrap()),
        "okta" => set("Authorization", String::from_utf8(key.to_vec()).unwrap()),
        "postmark" => set("Authorization", format!("Basic {}", b64(key))),
        "cloudevents" => set("Authorization", format!("Bearer {}", String::from_utf8(key.to_vec()).unwrap())),
        other => panic!("no sender for {other}"),
    }
    request
}
