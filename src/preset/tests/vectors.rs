//! The vectors that providers have published, whole.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;

use super::find;
use crate::{
    clock::Timestamp,
    verify::{Head, PresetSettings, Refusal, Secret, Verifier},
};

#[derive(Deserialize)]
struct Vector {
    provider: String,
    secret: String,
    method: String,
    url: String,
    headers: std::collections::BTreeMap<String, String>,
    body: String,
    now: Option<u64>,
    expect: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../tests/fixtures/published-vectors.json")).unwrap()
}

/// The presets that a vector speaks of.
fn presets(provider: &str) -> &'static [&'static str] {
    match provider {
        "github" => &["github", "meta"],
        "atlassian" => &["bitbucket", "jira"],
        "slack" => &["slack"],
        "standardwebhooks" => &["standard-webhooks", "svix", "openai", "gitlab"],
        "twilio_form" | "twilio_form_dup" | "twilio_port443" | "twilio_json" => &["twilio"],
        "sendgrid" => &["sendgrid"],
        "square" => &["square"],
        "hubspot_v1" => &["hubspot-v1"],
        "hubspot_v2_get" => &["hubspot-v2"],
        "zendesk_OLD_ORDER_body_then_ts" => &["zendesk"],
        other => panic!("nobody knows {other}"),
    }
}

fn verdict(name: &str, vector: &Vector, public_url: &str) -> Result<(), Refusal> {
    let preset = find(name).unwrap();
    let settings = PresetSettings {
        secrets: vec![Secret::new("env:SECRET", vector.secret.clone().into_bytes())],
        public_url: Some(public_url.to_owned()),
        ..Default::default()
    };
    let verifier = Verifier::of(preset.name, &preset.proof, settings).unwrap_or_else(|error| panic!("{name}: {error}"));
    let pairs = vector
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()));
    let headers: HeaderMap = pairs.collect();
    let method: Method = vector.method.parse().unwrap();
    let uri: Uri = vector.url.parse().unwrap();
    let head = Head { method: &method, path: uri.path(), query: uri.query(), headers: &headers };
    let mut check = verifier.begin(&head, Timestamp::from_millis(vector.now.unwrap_or(1_627_207_200) * 1000))?;
    check.update(vector.body.as_bytes());
    check.finish(vector.body.as_bytes()).map(drop)
}

#[test]
fn every_published_vector_gives_the_published_verdict() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 13);
    for vector in &vectors {
        for name in presets(&vector.provider) {
            let expected = if vector.expect.is_some() { Err(Refusal::BadSignature) } else { Ok(()) };
            assert_eq!(verdict(name, vector, &vector.url), expected, "{}", vector.provider);
            let changed = Vector { body: format!("{}x=1", vector.body), ..copy(vector) };
            assert_eq!(verdict(name, &changed, &vector.url), Err(Refusal::BadSignature), "{}", vector.provider);
        }
    }
}

fn copy(vector: &Vector) -> Vector {
    Vector {
        provider: vector.provider.clone(),
        secret: vector.secret.clone(),
        method: vector.method.clone(),
        url: vector.url.clone(),
        headers: vector.headers.clone(),
        body: vector.body.clone(),
        now: vector.now,
        expect: vector.expect.clone(),
    }
}

#[test]
fn twilio_s_vectors_hold_whether_the_port_is_configured_or_not_and_for_plain_http() {
    let mut vector = vectors().into_iter().find(|vector| vector.provider == "twilio_form").unwrap();
    for url in ["https://mycompany.com/myapp.php", "https://mycompany.com:443/myapp.php?foo=1"] {
        assert_eq!(verdict("twilio", &vector, url), Ok(()), "{url}");
    }
    for url in ["https://mycompany.com/myapp.php/", "http://mycompany.com/myapp.php", "https://mycompany.org/myapp.php"]
    {
        assert_eq!(verdict("twilio", &vector, url), Err(Refusal::BadSignature), "{url}");
    }
    vector.headers.insert("X-Twilio-Signature".to_owned(), "0ZXoZLH/DfblKGATFgpif+LLRf4=".to_owned());
    assert_eq!(verdict("twilio", &vector, "http://mycompany.com/myapp.php"), Ok(()));
    vector.headers.insert("X-Twilio-Signature".to_owned(), "kvajT1Ptam85bY51eRf/AJRuM3w=".to_owned());
    assert_eq!(verdict("twilio", &vector, "https://mycompany.com/myapp.php"), Ok(()));
}
