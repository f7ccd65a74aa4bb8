//! JSON Web Tokens of Google Pub/Sub, and the key sets they are checked with.
//!
//! Input: the value of `Authorization`; or, with nothing before the first mark, header, claims and signature of a token
//! before they are encoded.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::{Value, json};
use stagepost::verify::{Head, KeyDocument};

use super::{
    NOW_MS,
    genuine::{self, ACCOUNT, AUDIENCE, KEY_SET, KID, SOURCES},
    joined, pieces,
};

/// Takes any bytes.
pub fn run(data: &[u8]) -> bool {
    let [whole, header, claims, signature] = pieces(data);
    let composed = format!(
        "Bearer {}.{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims),
        URL_SAFE_NO_PAD.encode(signature)
    );
    let value = if whole.is_empty() { composed.as_bytes() } else { whole };
    if let Ok(set) = KeyDocument::key_set("file:any.json", data) {
        assert!(!set.has(""), "a key has an id");
    }
    let Ok(value) = HeaderValue::from_bytes(value) else { return false };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.clone());
    let head = Head { method: &Method::POST, path: "/in", query: None, headers: &headers };
    let source = SOURCES.iter().find(|source| source.name == "google-pubsub").unwrap();
    let verdict = super::headers::judge(&source.verifier, &head, data, &[data]);
    let begun = source.verifier.begin(&head, stagepost::clock::Timestamp::from_millis(NOW_MS));
    if begun.is_ok() {
        // What they say to a reader that knows nothing of them; it is stricter about claims that do not matter.
        let part = |which: usize| -> Option<Value> {
            let part = value.to_str().ok()?.split(' ').nth(1)?.split('.').nth(which)?;
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        let (Some(header), Some(claims)) = (part(0), part(1)) else { return false };
        assert_eq!((&header["alg"], &header["crit"]), (&json!("RS256"), &Value::Null));
        assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(ACCOUNT)));
        assert_eq!(claims["email_verified"], json!(true));
        assert!(claims["exp"].as_u64().unwrap() >= NOW_MS / 1000 - 300);
        assert!(claims["iat"].as_u64().unwrap() <= NOW_MS / 1000 + 300);
    }
    if verdict.is_ok() {
        let genuine = genuine_claims();
        let claims = value.to_str().unwrap().split('.').nth(1).unwrap();
        assert_eq!(claims, URL_SAFE_NO_PAD.encode(genuine.to_string()), "nobody signed these claims");
    }
    verdict.is_ok()
}

fn genuine_header() -> Value {
    json!({ "alg": "RS256", "kid": KID, "typ": "JWT" })
}

fn genuine_claims() -> Value {
    json!({
        "aud": AUDIENCE, "azp": "113", "email": ACCOUNT, "email_verified": true, "exp": NOW_MS / 1000 + 3600,
        "iat": NOW_MS / 1000, "iss": "https://accounts.google.com", "sub": "113",
    })
}

/// One token in both forms.
pub fn seeds() -> Vec<Vec<u8>> {
    let (header, claims) = (genuine_header().to_string(), genuine_claims().to_string());
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims));
    let signature = genuine::rsa(message.as_bytes());
    let whole = format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(&signature));
    // A signature may hold the mark between pieces: it is the last one.
    vec![whole.into_bytes(), joined(&[b"", header.as_bytes(), claims.as_bytes(), &signature])]
}

/// Inputs that are worth beginning with, though they are no tokens.
pub fn hints() -> Vec<Vec<u8>> {
    vec![KEY_SET.to_vec()]
}
