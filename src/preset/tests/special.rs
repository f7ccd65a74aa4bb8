//! What single schemes promise beyond the matrix: rotation inside one header, renamed headers, pinned algorithms, forms.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    super::find,
    sender::{URL, secret, send},
};
use crate::{
    clock::Timestamp,
    verify::{Algorithm, Head, PresetSettings, Refusal, Sample, Secret, SettingsError, Verifier},
};

const NOW: u64 = 1_700_000_000_000;

fn settings(secrets: &[&str]) -> PresetSettings {
    let secrets = secrets.iter().map(|value| Secret::new("env:A", value.as_bytes().to_vec())).collect();
    PresetSettings { secrets, public_url: Some(URL.to_owned()), ..Default::default() }
}

fn made(name: &str, settings: PresetSettings) -> Result<Verifier, SettingsError> {
    let preset = find(name).unwrap();
    Verifier::of(preset.name, &preset.proof, settings)
}

fn verifier(name: &str, secrets: &[&str]) -> Verifier {
    made(name, settings(secrets)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn refused(name: &str, secrets: &[&str]) -> String {
    made(name, settings(secrets)).err().expect("it should be refused").to_string()
}

fn verdict(verifier: &Verifier, query: Option<&str>, pairs: &[(&str, &str)], body: &[u8]) -> Result<(), Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let head = Head { method: &Method::POST, path: "/in", query, headers: &headers };
    let mut check = verifier.begin(&head, Timestamp::from_millis(NOW))?;
    check.update(body);
    check.finish(body).map(drop)
}

/// The value of a header of a genuine request.
fn header(preset: &str, which: u8, name: &str) -> String {
    let request = send(preset, &secret(preset, which).1, b"{}", NOW);
    request.headers.into_iter().find(|(known, _)| known == name).unwrap().1
}

#[test]
fn any_of_several_signatures_in_one_header_may_match() {
    let stripe = verifier("stripe", &[&secret("stripe", 1).0]);
    let good = header("stripe", 1, "Stripe-Signature");
    let code = good.split_once(",v1=").unwrap().1;
    let old = "0".repeat(64);
    for value in [
        format!("t=1700000000,v1={old},v1={code},v0={old}"),
        format!("t=1700000000, v1={code}, v1={old}"),
        format!("v1={code},t=1700000000"),
    ] {
        assert_eq!(verdict(&stripe, None, &[("stripe-signature", &value)], b"{}"), Ok(()), "{value}");
    }
    for (value, refusal) in [
        (format!("t=1700000000,v0={code}"), Refusal::MalformedSignature),
        (format!("t=1700000000,v1={old}"), Refusal::BadSignature),
        (format!("t=1700000000,t=1700000000,v1={code}"), Refusal::MalformedTimestamp),
        (format!("v1={code}"), Refusal::MalformedTimestamp),
        (format!("t= 1700000000,v1={code}"), Refusal::MalformedTimestamp),
        (format!("t=1700000000,v1={}", code.to_uppercase()), Refusal::MalformedSignature),
    ] {
        assert_eq!(verdict(&stripe, None, &[("stripe-signature", &value)], b"{}"), Err(refusal), "{value}");
    }
    let paddle = verifier("paddle", &[&secret("paddle", 1).0]);
    let good = header("paddle", 1, "Paddle-Signature");
    let code = good.split_once(";h1=").unwrap().1;
    let value = format!("ts=1700000000;h1={code};h1={old}");
    assert_eq!(verdict(&paddle, None, &[("paddle-signature", &value)], b"{}"), Ok(()));
    let pagerduty = verifier("pagerduty", &[&secret("pagerduty", 1).0]);
    let good = header("pagerduty", 1, "X-PagerDuty-Signature");
    let value = format!("v1={old},{good}");
    assert_eq!(verdict(&pagerduty, None, &[("x-pagerduty-signature", &value)], b"{}"), Ok(()));
    let docusign = verifier("docusign", &[&secret("docusign", 1).0]);
    let other = header("docusign", 2, "X-DocuSign-Signature-1");
    let good = header("docusign", 1, "X-DocuSign-Signature-1");
    let pairs = [("x-docusign-signature-1", other.as_str()), ("x-docusign-signature-2", good.as_str())];
    assert_eq!(verdict(&docusign, None, &pairs, b"{}"), Ok(()));
    let twice = [pairs[0], pairs[1], pairs[1]];
    assert_eq!(verdict(&docusign, None, &twice, b"{}"), Err(Refusal::DuplicatedSignature));
    assert_eq!(verdict(&docusign, None, &[pairs[1]], b"{}"), Ok(()), "the first of two keys was removed");
    assert_eq!(verdict(&docusign, None, &[], b"{}"), Err(Refusal::MissingSignature));
}

#[test]
fn no_part_of_a_body_can_be_moved_into_a_signed_id() {
    let body = br#"{"name":".1700000000.","at":"2023-11-14T22:13:20Z","x":1}"#;
    for (preset, id, time, between) in [
        ("standard-webhooks", "webhook-id", "webhook-timestamp", ".1700000000."),
        ("svix", "svix-id", "svix-timestamp", ".1700000000."),
        ("twitch", "twitch-eventsub-message-id", "twitch-eventsub-message-timestamp", "2023-11-14T22:13:20Z"),
    ] {
        let (text, key) = secret(preset, 1);
        let genuine = send(preset, &key, body, NOW);
        let value = |name: &str| {
            let found = genuine.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.unwrap_or_else(|| panic!("{preset} has no {name}")).1.clone()
        };
        let (before, after) = std::str::from_utf8(body).unwrap().split_once(between).unwrap();
        let dot = if preset == "twitch" { "" } else { "." };
        let moved = format!("{}{dot}{}{dot}{before}", value(id), value(time));
        let headers: Vec<(String, String)> = genuine
            .headers
            .iter()
            .map(|(name, old)| match name {
                name if name.eq_ignore_ascii_case(id) => (name.clone(), moved.clone()),
                name if name.eq_ignore_ascii_case(time) => (name.clone(), between.trim_matches('.').to_owned()),
                name => (name.clone(), old.clone()),
            })
            .collect();
        let pairs: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let verdict = verdict(&verifier(preset, &[&text]), None, &pairs, after.as_bytes());
        assert_eq!(verdict, Err(Refusal::MalformedSignedHeader), "{preset}");
    }
}

#[test]
fn standard_webhooks_takes_public_keys_beside_secrets_and_never_one_for_the_other() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let public = format!("whpk_{}", BASE64_STANDARD.encode(pair.public_key()));
    let both = verifier("standard-webhooks", &[&secret("standard-webhooks", 1).0, &public]);
    let signature = BASE64_STANDARD.encode(pair.sign(b"id.1700000000.{}"));
    let send = |signature: &str| {
        let pairs = [("webhook-id", "id"), ("webhook-timestamp", "1700000000"), ("webhook-signature", signature)];
        verdict(&both, None, &pairs, b"{}")
    };
    let (_, key) = secret("standard-webhooks", 1);
    let headers = HeaderMap::new();
    let sample = Sample {
        method: &Method::POST,
        path: "/in",
        query: None,
        headers: &headers,
        body: b"{}",
        id: "id",
        now: Timestamp::from_millis(NOW),
    };
    let signed = both.sign(&sample).ok().unwrap();
    let own = signed.headers.iter().find(|(name, _)| name == "webhook-signature").unwrap().1.to_str().unwrap();
    assert_eq!(key.len(), 32);
    assert_eq!(send(own), Ok(()));
    assert_eq!(send(&format!("v1a,{signature}")), Ok(()));
    assert_eq!(send(&format!("v2,x v1a,{signature} {own}")), Ok(()));
    assert_eq!(send(&format!("v1,{signature}")), Err(Refusal::MalformedSignature));
    assert_eq!(send(&signature), Err(Refusal::MalformedSignature));
    let only_public = verifier("standard-webhooks", &[&public]);
    assert!(only_public.can_sign().is_err());
}

#[test]
fn header_names_that_a_provider_changed_are_known_but_never_mixed() {
    let svix = verifier("svix", &[&secret("svix", 1).0]);
    let request = send("svix", &secret("svix", 1).1, b"{}", NOW);
    let renamed: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.replace("svix-", "webhook-"), value.clone())).collect();
    let pairs = |headers: &[(String, String)]| -> Vec<(String, String)> { headers.to_vec() };
    let send = |headers: &[(String, String)]| {
        let pairs: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        verdict(&svix, None, &pairs, b"{}")
    };
    assert_eq!((send(&request.headers), send(&renamed)), (Ok(()), Ok(())));
    let mut mixed = pairs(&renamed);
    mixed.retain(|(name, _)| name != "webhook-signature");
    mixed.push(request.headers.iter().find(|(name, _)| name == "svix-signature").unwrap().clone());
    assert_eq!(send(&mixed), Err(Refusal::MalformedTimestamp));
    // The id is the dedupe key: one that is not signed must not stand beside one that is.
    let mut resent = pairs(&renamed);
    resent.push(("svix-id".to_owned(), "msg_of_somebody".to_owned()));
    assert_eq!(send(&resent), Err(Refusal::MissingSignature));

    let shopify = verifier("shopify", &[&secret("shopify", 1).0]);
    let code = header("shopify", 1, "X-Shopify-Hmac-Sha256");
    assert_eq!(verdict(&shopify, None, &[("shopify-hmac-sha256", &code)], b"{}"), Ok(()));
}

#[test]
fn the_algorithm_is_the_configured_one_whatever_the_request_has() {
    let github = verifier("github", &["It's a Secret to Everybody"]);
    // The same body with the same secret, SHA-1.
    let sha1 = ("x-hub-signature", "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59");
    let body = b"Hello, World!";
    assert_eq!(verdict(&github, None, &[sha1], body), Err(Refusal::MissingSignature));
    let pinned = PresetSettings { algorithm: Some(Algorithm::Sha1), ..settings(&["It's a Secret to Everybody"]) };
    let legacy = made("github", pinned).ok().unwrap();
    assert_eq!(verdict(&legacy, None, &[sha1], body), Ok(()));
    for name in ["stripe", "bitbucket"] {
        let pinned = PresetSettings { algorithm: Some(Algorithm::Sha1), ..settings(&["k"]) };
        let error = made(name, pinned).err().unwrap();
        assert_eq!(error.field(), "algorithm");
        assert!(error.to_string().contains("remove it"), "{error}");
    }
    let bitbucket = verifier("bitbucket", &["It's a Secret to Everybody"]);
    assert_eq!(verdict(&bitbucket, None, &[sha1], body), Err(Refusal::MalformedSignature));

    let headers = HeaderMap::new();
    let sample = Sample {
        method: &Method::POST,
        path: "/in",
        query: None,
        headers: &headers,
        body: b"",
        id: "",
        now: Timestamp::ZERO,
    };
    let pinned = PresetSettings { algorithm: Some(Algorithm::Sha256), ..settings(&["k"]) };
    let (old, new) = (verifier("twilio", &["k"]), made("twilio", pinned).ok().unwrap());
    let of = |verifier: &Verifier| verifier.sign(&sample).ok().unwrap().headers[0].1.to_str().unwrap().to_owned();
    let (sha1, sha256) = (of(&old), of(&new));
    let said = ("x-twilio-webhooks-signature-settings", "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256");
    let send = |verifier: &Verifier, code: &str, more: &[(&str, &str)]| {
        verdict(verifier, None, &[&[("x-twilio-signature", code)], more].concat(), b"")
    };
    assert_eq!(
        (send(&old, &sha1, &[]), send(&new, &sha256, &[said]), send(&new, &sha256, &[])),
        (Ok(()), Ok(()), Ok(()))
    );
    assert_eq!(send(&old, &sha256, &[said]), Err(Refusal::MalformedSignature));
    assert_eq!(send(&old, &sha1, &[said]), Err(Refusal::MalformedSignature));
    assert_eq!(send(&new, &sha1, &[]), Err(Refusal::MalformedSignature));
    let unknown = ("x-twilio-webhooks-signature-settings", "key=a,algorithm=HMAC_MD5");
    assert_eq!(send(&new, &sha256, &[unknown]), Err(Refusal::MalformedSignature));
    assert_eq!(send(&new, &sha256, &[said, said]), Err(Refusal::DuplicatedSignature));
}

#[test]
fn twilio_s_body_is_covered_by_the_form_or_by_its_hash_or_is_not_taken() {
    let twilio = verifier("twilio", &["k"]);
    let form = ("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
    let json = ("content-type", "application/json");
    let headers: HeaderMap = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(form.1))]);
    let empty = HeaderMap::new();
    let signed = |headers: &HeaderMap, body: &[u8]| {
        let sample = Sample {
            method: &Method::POST,
            path: "/in",
            query: Some("a=1"),
            headers,
            body,
            id: "",
            now: Timestamp::ZERO,
        };
        let signed = twilio.sign(&sample).ok().unwrap();
        (signed.query.unwrap(), signed.headers[0].1.to_str().unwrap().to_owned())
    };
    let (query, code) = signed(&headers, b"B=2&A=1");
    let code = ("x-twilio-signature", code.as_str());
    assert_eq!(verdict(&twilio, Some(&query), &[code, form], b"B=2&A=1"), Ok(()));
    assert_eq!(verdict(&twilio, Some(&query), &[code, form], b"A=1&B=2&A=1"), Ok(()), "the same fields");
    assert_eq!(verdict(&twilio, Some(&query), &[code, form], b"A=1&B=3"), Err(Refusal::BadSignature));
    assert_eq!(verdict(&twilio, Some(&query), &[code, json], b"B=2&A=1"), Err(Refusal::BadSignature));
    assert_eq!(verdict(&twilio, Some("a=2"), &[code, form], b"B=2&A=1"), Err(Refusal::BadSignature));
    // The URL alone is signed: nobody may add a body to it.
    let (query, code) = signed(&empty, b"");
    let code = ("x-twilio-signature", code.as_str());
    assert_eq!(verdict(&twilio, Some(&query), &[code], b""), Ok(()));
    assert_eq!(verdict(&twilio, Some(&query), &[code], b"{}"), Err(Refusal::BadSignature));
    assert_eq!(verdict(&twilio, Some(&query), &[code, json], b"{}"), Err(Refusal::BadSignature));
    let (query, code) = signed(&empty, b"{}");
    let code = ("x-twilio-signature", code.as_str());
    assert_eq!(verdict(&twilio, Some(&query), &[code], b"{}"), Ok(()));
    assert_eq!(verdict(&twilio, Some(&query), &[code], b"{ }"), Err(Refusal::BadSignature));
    // What is called a form and has no fields is covered by nothing but the hash.
    for body in [&b""[..], b"&", b"=", b"=&="] {
        assert_eq!(verdict(&twilio, Some(&query), &[code, form], body), Err(Refusal::BadSignature), "{body:?}");
    }
    let twice = format!("{query}&{query}");
    assert_eq!(verdict(&twilio, Some(&twice), &[code], b"{}"), Err(Refusal::DuplicatedSignature));
}

#[test]
fn mailgun_takes_json_forms_and_a_parent_s_signature_and_refuses_doubled_members() {
    let mailgun = verifier("mailgun", &["parent-key"]);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let headers: HeaderMap = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(form.1))]);
    let sample = Sample {
        method: &Method::POST,
        path: "/in",
        query: None,
        headers: &headers,
        body: b"event=opened",
        id: "1",
        now: Timestamp::from_millis(NOW),
    };
    let body = mailgun.sign(&sample).ok().unwrap().body;
    assert_eq!(verdict(&mailgun, None, &[form], &body), Ok(()));
    let twice = [&body[..], b"&token=x"].concat();
    assert_eq!(verdict(&mailgun, None, &[form], &twice), Err(Refusal::DuplicatedSignature));
    assert_eq!(verdict(&mailgun, None, &[form], b"event=opened"), Err(Refusal::MissingSignature));
    // The dedupe rule, which alone keeps the token from being used twice, must see the form where the verifier does.
    let almost = ("content-type", "application/x-www-form-urlencodedish");
    assert_eq!(verdict(&mailgun, None, &[almost], &body), Err(Refusal::UnreadableBody));
    // So must what is a form and JSON in one, and what is a form and, to whoever decodes it, something else.
    let both = [&b"{\"x\":\"&"[..], &body, b"&y=\"}"].concat();
    assert_eq!(verdict(&mailgun, None, &[form], &both), Err(Refusal::MissingSignature));
    let encoded = [&b"\x1f\x8b&"[..], &body].concat();
    assert_eq!(verdict(&mailgun, None, &[form, ("content-encoding", "gzip")], &encoded), Err(Refusal::UnreadableBody));
    let text = String::from_utf8(body.to_vec()).unwrap();
    let code = text.split("signature=").nth(1).unwrap();
    let token = text.split("token=").nth(1).unwrap().split('&').next().unwrap();
    let json = |own: &str, parent: &str| {
        format!(
            r#"{{"signature":{{"timestamp":"1700000000","token":"{token}","signature":"{own}","parent-signature":"{parent}"}}}}"#
        )
    };
    let other = "0".repeat(64);
    assert_eq!(verdict(&mailgun, None, &[], json(code, &other).as_bytes()), Ok(()));
    assert_eq!(verdict(&mailgun, None, &[], json(&other, code).as_bytes()), Ok(()), "a subaccount's event");
    assert_eq!(verdict(&mailgun, None, &[], json(&other, &other).as_bytes()), Err(Refusal::BadSignature));
    let doubled = json(code, &other).replace("}}", &format!("}},\"signature\":{}}}", "{}"));
    assert!(verdict(&mailgun, None, &[], doubled.as_bytes()).is_err());
    for body in ["", "[]", "{}", r#"{"signature":{}}"#, r#"{"signature":"x"}"#, "{"] {
        assert!(verdict(&mailgun, None, &[], body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn one_foreign_item_spoils_a_batch_of_microsoft_graph() {
    let graph = verifier("ms-graph", &["one", "two"]);
    let send = |body: &str| verdict(&graph, None, &[], body.as_bytes());
    assert_eq!(send(r#"{"value":[{"clientState":"one"},{"clientState":"two"}]}"#), Ok(()));
    assert_eq!(send(r#"{"value":[{"clientState":"one"},{"clientState":"x"}]}"#), Err(Refusal::BadCredentials));
    for body in [
        r#"{"value":[{"clientState":"one"},{}]}"#,
        r#"{"value":[]}"#,
        r#"{}"#,
        r#"{"value":[{"clientState":null}]}"#,
        r#"{"value":[{"clientState":"one","clientState":"one"}]}"#,
    ] {
        assert_eq!(send(body), Err(Refusal::MissingCredentials), "{body}");
    }
    assert_eq!(send("{"), Err(Refusal::UnreadableBody));
}

#[test]
fn secrets_in_a_wrong_form_are_refused_with_the_remedy_and_never_repeated() {
    for (name, secret, remedy) in [
        ("standard-webhooks", "hunter2hunter2", "whsec_"),
        ("standard-webhooks", "whsec_", "whsec_"),
        ("standard-webhooks", "whsec_hunter2!", "whsec_"),
        ("standard-webhooks", "whpk_aHVudGVyMg==", "32 bytes"),
        ("gitlab", "hunter2", "whsec_"),
        ("openai", "whsec_hunter2!", "base64"),
        ("twitch", "hunter2", "10 to 100"),
        ("telegram", "hunter2 hunter2", "letters, digits"),
        ("discord", "hunter2", "64 hex digits"),
        ("sendgrid", "hunter2", "MFkw"),
        ("postmark", "hunter2", "user:password"),
    ] {
        let message = refused(name, &[secret]);
        assert!(message.contains(remedy) && message.contains("env:A"), "{name}: {message}");
        assert!(!message.contains("hunter2"), "{name}: {message}");
    }
    assert!(refused("stripe", &[]).contains("at least one"));
    assert!(refused("stripe", &["k"; 17]).contains("at most 16"));
    let zero = PresetSettings { tolerance: Some(Duration::ZERO), ..settings(&["k"]) };
    assert!(made("stripe", zero).err().unwrap().to_string().contains("5m"));
    let nowhere = |url: Option<&str>| {
        let settings = PresetSettings { public_url: url.map(str::to_owned), ..settings(&["k"]) };
        made("square", settings).err().map(|error| (error.field(), error.to_string())).unwrap()
    };
    assert_eq!(nowhere(None).0, "public_url");
    assert!(nowhere(None).1.contains("write public_url"));
    assert!(nowhere(Some("/in")).1.contains("whole URL"));
}

#[test]
fn secrets_of_an_unusual_length_are_advised_against() {
    let standard = &find("standard-webhooks").unwrap().proof;
    let advice = |text: &str| crate::verify::advice(standard, &[Secret::new("env:A", text.as_bytes().to_vec())]);
    assert_eq!(advice("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Vec::<String>::new());
    let said = advice("whsec_aHVudGVyMg==");
    assert!(said[0].contains("env:A has 7 bytes") && said[0].contains("24 to 64"), "{said:?}");
}

#[test]
fn schemes_without_a_provider_present_the_secret_itself() {
    let secrets =
        |values: &[&str]| values.iter().map(|v| Secret::new("env:A", v.as_bytes().to_vec())).collect::<Vec<_>>();
    let basic = Verifier::basic(secrets(&["user:pass:word", "u:p"])).ok().unwrap();
    let send = |verifier: &Verifier, name: &str, value: &str| verdict(verifier, None, &[(name, value)], b"any");
    assert_eq!(send(&basic, "authorization", "Basic dXNlcjpwYXNzOndvcmQ="), Ok(()));
    assert_eq!(send(&basic, "authorization", "basic dTpw"), Ok(()));
    assert_eq!(send(&basic, "authorization", "Basic dTpx"), Err(Refusal::BadCredentials));
    assert_eq!(send(&basic, "authorization", "Basic u:p"), Err(Refusal::MalformedSignature));
    assert!(Verifier::basic(secrets(&["nocolon"])).is_err());
    let bearer = Verifier::bearer(secrets(&["t0ken"])).ok().unwrap();
    assert_eq!(send(&bearer, "authorization", "bearer t0ken"), Ok(()));
    assert_eq!(send(&bearer, "authorization", "Bearer t0keN"), Err(Refusal::BadCredentials));
    assert_eq!(send(&bearer, "authorization", "t0ken"), Err(Refusal::MalformedSignature));
    assert_eq!(verdict(&bearer, None, &[], b""), Err(Refusal::MissingSignature));
    let token = Verifier::token("X-Token", secrets(&["one", "two"])).ok().unwrap();
    assert_eq!((send(&token, "x-token", "two"), token.scheme()), (Ok(()), "token"));
    assert_eq!(send(&token, "x-token", "tw"), Err(Refusal::BadCredentials));
    assert_eq!(
        verdict(&token, None, &[("x-token", "one"), ("x-token", "one")], b""),
        Err(Refusal::DuplicatedSignature)
    );
    assert!(Verifier::token("X Token", secrets(&["one"])).is_err());
}

#[test]
fn a_secret_segment_is_found_by_its_place_and_a_wrong_one_is_no_path() {
    let secrets = vec![Secret::new("env:A", b"s3cret".to_vec()), Secret::new("env:B", b"older".to_vec())];
    let verifier = Verifier::path(1, secrets).ok().unwrap();
    assert_eq!((verifier.secret_segment(), verifier.scheme()), (Some(1), "path"));
    let open = |path: &str| {
        let head = Head { method: &Method::POST, path, query: None, headers: &HeaderMap::new() };
        let verified = verifier.begin(&head, Timestamp::ZERO)?.finish(b"")?;
        Ok(verified.secret.unwrap().to_string())
    };
    assert_eq!(open("/hooks/s3cret/in"), Ok("env:A".to_owned()));
    assert_eq!(open("/hooks/older"), Ok("env:B".to_owned()));
    for path in ["/hooks/s3cre", "/hooks/S3cret", "/s3cret/hooks", "/hooks", "", "/hooks/s3cret%00"] {
        assert_eq!(open(path), Err(Refusal::UnknownPath), "{path}");
    }
    for odd in ["a/b", "a b", "..", "ä"] {
        assert!(Verifier::path(0, vec![Secret::new("env:A", odd.as_bytes().to_vec())]).is_err(), "{odd}");
    }
    let sample = Sample {
        method: &Method::POST,
        path: "/hooks/{secret}/in",
        query: None,
        headers: &HeaderMap::new(),
        body: b"",
        id: "",
        now: Timestamp::ZERO,
    };
    assert_eq!(verifier.sign(&sample).ok().unwrap().path, "/hooks/s3cret/in");
}

#[test]
fn a_cloud_event_may_come_without_a_secret_only_if_none_is_configured() {
    let open = made("cloudevents", PresetSettings::default()).ok().unwrap();
    assert!(open.is_open());
    assert_eq!(verdict(&open, None, &[], b"{}"), Ok(()));
    let closed = verifier("cloudevents", &["t"]);
    assert!(!closed.is_open());
    assert_eq!(verdict(&closed, None, &[], b"{}"), Err(Refusal::MissingSignature));
    assert_eq!(verdict(&closed, None, &[("authorization", "Bearer t")], b"{}"), Ok(()));
}

#[test]
fn a_url_that_twilio_signed_with_a_hash_is_not_good_for_a_form_without_fields() {
    let twilio = verifier("twilio", &[&secret("twilio", 1).0]);
    let request = send("twilio", &secret("twilio", 1).1, b"{\"a\":1}", NOW);
    let (query, signature) = (request.query.as_deref(), request.headers[1].1.as_str());
    let sent = |kind, body| verdict(&twilio, query, &[("content-type", kind), ("x-twilio-signature", signature)], body);
    assert_eq!(sent("application/json", b"{\"a\":1}"), Ok(()));
    assert_eq!(sent("application/x-www-form-urlencoded", b""), Err(Refusal::BadSignature));
    assert_eq!(sent("application/x-www-form-urlencoded", b"&"), Err(Refusal::BadSignature));
}

#[test]
fn a_form_of_mailgun_that_is_signed_again_carries_one_signature_and_keeps_its_other_bytes() {
    let mailgun = verifier("mailgun", &[&secret("mailgun", 1).0]);
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let mut headers = HeaderMap::new();
    headers.insert(kind.0, HeaderValue::from_static(kind.1));
    let body = b"event=opened&sign%61ture=old&a=\xff&timestamp=1&token=2&signature=3&empty=";
    let sample = Sample {
        method: &Method::POST,
        path: "/in",
        query: None,
        headers: &headers,
        body,
        id: "msg_1",
        now: Timestamp::from_millis(NOW),
    };
    let signed = mailgun.sign(&sample).unwrap();
    assert!(signed.body.starts_with(b"event=opened&a=\xff&empty=&timestamp=1700000000&token="), "{:?}", signed.body);
    assert_eq!(verdict(&mailgun, None, &[kind], &signed.body), Ok(()));
}
