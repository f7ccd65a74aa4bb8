//! Owns the keys of the fuzzers and what only their owners can make: sources of every scheme, and signatures of those
//! providers who keep a private key.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use stagepost::{
    preset,
    verify::{
        Algorithm, Encoding, HmacSettings, KeyDocument, PayPalSettings, PresetSettings, PubSubSettings,
        SalesforceSettings, Secret, SignatureVersion, SnsSettings, TimestampSettings, TimestampUnit, Verifier,
    },
};

/// The only body that anybody signed.
pub const BODY: &[u8] = br#"{"id":"evt_1","type":"order.paid","webhookTimestamp":1767323045000,"data":{"amount":7}}"#;
/// Who may send to the Salesforce source.
pub const ORGANIZATION: &str = "00D000000000062";
/// Whom the tokens are for.
pub const AUDIENCE: &str = "https://hooks.example.com/pubsub";
/// Who pushes.
pub const ACCOUNT: &str = "push@project.iam.gserviceaccount.com";
/// The topic of the SNS source.
pub const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:orders";
/// The key id in the pinned key set.
pub const KID: &str = "one";

const RSA: &str = include_str!("../../tests/fixtures/keys/rsa-one.pem");
const CERTIFICATE: &[u8] = include_bytes!("../../tests/fixtures/keys/certificate-one.pem");
/// Google's keys, as far as the fuzzers are concerned.
pub const KEY_SET: &[u8] = include_bytes!("../../tests/fixtures/keys/keys.json");
const P256: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgbJ8g9eprqQyhmKBYNA3gayypynJsU5o9kDdiFRVhG4ihRANCAAR5mlgoEyuH5pMbREXEoOIvmB555+5aNgvE05xcFaJlS2z+7ABhe3Lg5l5HDN1ZuwRtAHbiVlCuk071uTxCLC5I";

/// A source of some scheme.
pub struct Source {
    /// The scheme.
    pub name: &'static str,
    /// What checks its requests.
    pub verifier: Verifier,
    /// Whether nobody can change the body without the secret.
    pub covers_body: bool,
}

/// One source of every scheme, with two secrets where it has secrets.
pub static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut sources: Vec<Source> = preset::all().map(of_preset).collect();
    let own = |name, verifier, covers_body| Source { name, verifier, covers_body };
    sources.push(own("hmac", Verifier::hmac(settings(TimestampUnit::Seconds, TEMPLATE)).unwrap(), true));
    sources.push(own("basic", Verifier::basic(secrets("basic")).unwrap(), false));
    sources.push(own("bearer", Verifier::bearer(secrets("bearer")).unwrap(), false));
    sources.push(own("token", Verifier::token("x-token", secrets("token")).unwrap(), false));
    sources.push(own("path", Verifier::path(1, secrets("path")).unwrap(), false));
    sources
});

const TEMPLATE: &str = "{method}|{path}|{query}|{header:X-Id}|{timestamp}|{body}|end";

/// The settings of the scheme `hmac`.
pub fn settings(unit: TimestampUnit, template: &str) -> HmacSettings {
    HmacSettings {
        algorithm: Algorithm::Sha256,
        header: "X-Signature".to_owned(),
        encoding: Encoding::Hex,
        prefix: "v=".to_owned(),
        template: Some(template.to_owned()),
        timestamp: Some(TimestampSettings {
            header: "X-Timestamp".to_owned(),
            unit,
            tolerance: Duration::from_secs(300),
        }),
        secrets: secrets("hmac"),
    }
}

fn of_preset(row: &'static preset::Preset) -> Source {
    let pinned = || Some(Arc::new(KeyDocument::pinned_certificates("file:key.pem", CERTIFICATE).unwrap()));
    let tolerance = Duration::from_secs(300);
    let verifier = match row.name {
        "aws-sns" => sns(),
        "paypal" => Verifier::paypal(PayPalSettings { webhook_id: "WH-1".to_owned(), tolerance, pinned: pinned() }),
        "google-pubsub" => Verifier::google_pubsub(PubSubSettings {
            audience: AUDIENCE.to_owned(),
            service_account: ACCOUNT.to_owned(),
            tolerance,
            pinned: Some(Arc::new(KeyDocument::key_set("file:google.json", KEY_SET).unwrap())),
        }),
        "salesforce" => Verifier::salesforce(&SalesforceSettings::new(ORGANIZATION).unwrap()),
        name => {
            let settings = PresetSettings {
                secrets: secrets(name),
                public_url: Some("https://hooks.example.com/in".to_owned()),
                ..PresetSettings::default()
            };
            Verifier::of(row.name, &row.proof, settings).ok().unwrap()
        }
    };
    // Of the others some carry a secret, Mailgun signs a token, Google a time, and a body of PayPal's has a CRC.
    let open = [
        "mailgun",
        "ms-graph",
        "gitlab-token",
        "telegram",
        "google-calendar",
        "okta",
        "postmark",
        "cloudevents",
        "google-pubsub",
        "salesforce",
        "paypal",
        "aws-sns",
    ];
    Source { name: row.name, verifier, covers_body: !open.contains(&row.name) }
}

/// The SNS source, with a pinned certificate.
pub fn sns() -> Verifier {
    Verifier::aws_sns(SnsSettings {
        topics: vec![TOPIC.to_owned()],
        signature_version: SignatureVersion::Two,
        confirm: true,
        tolerance: Duration::from_secs(3600),
        pinned: Some(Arc::new(KeyDocument::pinned_certificates("file:key.pem", CERTIFICATE).unwrap())),
    })
}

/// Two secrets as a provider hands them out. The first one signs.
fn secrets(scheme: &str) -> Vec<Secret> {
    let secret = |which: u8| {
        let raw = [which; 32];
        let text = match scheme {
            "standard-webhooks" | "svix" | "openai" | "gitlab" => format!("whsec_{}", BASE64_STANDARD.encode(raw)),
            "discord" => hex(Ed25519KeyPair::from_seed_unchecked(&raw).unwrap().public_key().as_ref()),
            "sendgrid" => {
                let mut spki = vec![
                    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
                    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
                ];
                spki.extend_from_slice(p256().public_key().as_ref());
                BASE64_STANDARD.encode(spki)
            }
            "postmark" | "basic" => format!("user:{}", hex(&raw)),
            _ => hex(&raw),
        };
        Secret::new(if which == 1 { "env:ONE" } else { "env:TWO" }, text.into_bytes())
    };
    vec![secret(1), secret(2)]
}

/// The first secret of schemes whose secrets are plain text.
pub fn plain_secret() -> String {
    hex(&[1; 32])
}

fn p256() -> EcdsaKeyPair {
    let pkcs8 = BASE64_STANDARD.decode(P256).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &SystemRandom::new()).unwrap()
}

/// As Discord signs: hex.
pub fn ed25519(message: &[u8]) -> String {
    hex(Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap().sign(message).as_ref())
}

/// As `SendGrid` signs: base64.
pub fn ecdsa(message: &[u8]) -> String {
    BASE64_STANDARD.encode(p256().sign(&SystemRandom::new(), message).unwrap())
}

/// As SNS, PayPal and Google sign.
pub fn rsa(message: &[u8]) -> Vec<u8> {
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(RSA.as_bytes()).unwrap() else {
        panic!("the key is PKCS #8")
    };
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// HMAC-SHA256 with the plain secret: hex.
pub fn hmac_hex(message: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(plain_secret().as_bytes()).unwrap();
    mac.update(message);
    hex(&mac.finalize().into_bytes())
}

/// HMAC-SHA1 with the plain secret: base64.
pub fn hmac_sha1_base64(message: &[u8]) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(plain_secret().as_bytes()).unwrap();
    mac.update(message);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
