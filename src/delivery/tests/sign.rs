//! Signatures of attempts: our own, and the source's made anew.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};

use super::rig;
use crate::{
    clock::Timestamp,
    delivery::{
        client::MakeRequest as _,
        request::{LargeBodies, Unsent, prepare},
    },
    event::{Body, Change, Event, Sent, Verification},
    expr::Expr,
    log::Log,
    preset,
    routing::{HeaderEdit, PathPattern, Route, SignPolicy, Source, Table, TableParts, Target, Upstream},
    verify::{Head, PresetSettings, Refusal, Secret, Signer, SignerSettings, Verifier},
};

const RECEIVED_MS: u64 = 1_767_323_045_678;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(RECEIVED_MS).after(Duration::from_secs(seconds))
}

fn secret(text: &str) -> Secret {
    Secret::new("env:S", text.as_bytes().to_vec())
}

fn verifier(scheme: &str, secrets: &[&str]) -> Verifier {
    let preset = preset::find(scheme).unwrap();
    let secrets = secrets.iter().map(|text| secret(text)).collect();
    let public_url = Some("https://hooks.example/in".to_owned()).filter(|_| preset.proof.needs_public_url());
    let settings = PresetSettings { secrets, public_url, ..PresetSettings::default() };
    Verifier::of(preset.name, &preset.proof, settings).ok().unwrap()
}

/// An attempt of an event of one source to one upstream.
struct Case {
    verifier: Verifier,
    policy: Option<SignPolicy>,
    route: Route,
    headers: Vec<(&'static str, String)>,
    query: Option<&'static str>,
    body: &'static [u8],
}

impl Case {
    /// An event that a sender of this scheme signed as it came.
    fn received(scheme: &str, secrets: &[&str], headers: &[(&'static str, &str)], body: &'static [u8]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let route = Route::new("r", vec!["u".into()]);
        Self { verifier: verifier(scheme, secrets), policy: None, route, headers, query: None, body }
    }

    async fn sent(self, now: Timestamp) -> Result<(Request<Full<Bytes>>, Sent), Unsent> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
        }
        let event = Event {
            headers,
            query: self.query.map(Into::into),
            verification: Verification { scheme: self.verifier.scheme().into(), secret: None },
            body: Body::Inline(Bytes::from_static(self.body)),
            ..rig::event(7)
        };
        let upstream =
            Upstream { sign: self.policy, ..Upstream::new("u", Target::Http("http://127.0.0.1:1".parse().unwrap())) };
        let base = rig::table(vec![upstream], vec![self.route]);
        let source =
            Source { verifier: self.verifier, ..Source::new("app", PathPattern::parse("/hooks/app").unwrap()) };
        let table = Table::new(TableParts {
            generation: 1,
            hash: String::new(),
            sources: vec![Arc::new(source)],
            routes: base.routes,
            upstreams: base.upstreams,
            limits: base.limits,
        });
        let rig = rig::rig(Vec::new(), Vec::new());
        let log: Arc<dyn Log> = rig.log.clone();
        let job = rig::job(Arc::new(event), "u", Timestamp::ZERO);
        let (evaluator, large) = (rig::evaluator(), LargeBodies::default());
        let draft = prepare(&job, &table.upstreams["u"], &table, &log, &evaluator, &large, now).await?;
        Ok((draft.make(false).unwrap(), draft.sent()))
    }
}

async fn verdict(verifier: &Verifier, request: Request<Full<Bytes>>, now: Timestamp) -> Result<(), Refusal> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let head =
        Head { method: &parts.method, path: parts.uri.path(), query: parts.uri.query(), headers: &parts.headers };
    let mut check = verifier.begin(&head, now)?;
    check.update(&body);
    check.finish(&body).map(drop)
}

const OLD_STRIPE: (&str, &str) = ("stripe-signature", "t=1767323045,v1=00,v0=11");

#[tokio::test]
async fn a_dated_signature_is_made_anew_after_sixty_seconds_and_not_before() {
    let case = || Case::received("stripe", &["whsec_new", "whsec_old"], &[OLD_STRIPE, OLD_STRIPE], b"{\"id\":1}");
    let (fresh, sent) = case().sent(at(60)).await.ok().unwrap();
    let values: Vec<&[u8]> = fresh.headers().get_all("stripe-signature").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!((values, sent.signed), (vec![OLD_STRIPE.1.as_bytes(); 2], None));
    let late = at(61 + 3 * 86_400);
    let (request, sent) = case().sent(late).await.ok().unwrap();
    assert_eq!(request.headers().get_all("stripe-signature").iter().count(), 1, "never doubled");
    assert_eq!(verdict(&verifier("stripe", &["whsec_new"]), request, late).await, Ok(()), "with the first secret");
    let signed = sent.signed.unwrap();
    assert_eq!((&*signed.scheme, signed.secret.as_deref(), sent.sha256), ("stripe", Some("env:S"), None));
    let never = Case { policy: Some(SignPolicy::Never), ..case() };
    assert_eq!(never.sent(late).await.ok().unwrap().1.signed, None);
}

#[tokio::test]
async fn what_a_route_takes_away_is_not_put_back_unasked() {
    let remove = vec![HeaderName::from_static("stripe-signature")];
    let case = |policy| {
        let mut case = Case::received("stripe", &["whsec_x"], &[OLD_STRIPE], b"{}");
        case.route.headers = HeaderEdit { remove: remove.clone(), ..HeaderEdit::default() };
        Case { policy, ..case }
    };
    let (request, sent) = case(None).sent(at(900)).await.ok().unwrap();
    assert!(!request.headers().contains_key("stripe-signature") && sent.signed.is_none());
    let (request, _) = case(Some(SignPolicy::Source)).sent(at(900)).await.ok().unwrap();
    assert!(request.headers().contains_key("stripe-signature"));
}

#[tokio::test]
async fn the_headers_are_those_that_the_event_came_with_and_its_id_stays() {
    let key = format!("whsec_{}", "A".repeat(32));
    for start in ["svix", "webhook"] {
        let names: [&'static str; 3] = match start {
            "svix" => ["svix-id", "svix-timestamp", "svix-signature"],
            _ => ["webhook-id", "webhook-timestamp", "webhook-signature"],
        };
        let old = [(names[0], "msg_1"), (names[1], "1767323045"), (names[2], "v1,AAAA")];
        let (request, _) = Case::received("svix", &[&key], &old, b"x").sent(at(600)).await.ok().unwrap();
        assert_eq!(request.headers()[names[0]], "msg_1");
        assert_ne!(request.headers()[names[1]], "1767323045");
        let signatures = request.headers().keys().filter(|name| name.as_str().ends_with("-signature")).count();
        assert_eq!(signatures, 1, "{start}");
        assert_eq!(verdict(&verifier("svix", &[&key]), request, at(600)).await, Ok(()), "{start}");
    }
}

#[tokio::test]
async fn a_date_inside_the_body_is_renewed_and_every_other_byte_stays() {
    let body = br#"{ "n":12345678901234567890123.10,"webhookTimestamp" : 1767323045678, "z":1e400}"#;
    let case = Case::received("linear", &["lin"], &[("linear-signature", "00")], body);
    let (request, sent) = case.sent(at(600)).await.ok().unwrap();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let expected = r#"{ "n":12345678901234567890123.10,"webhookTimestamp" : 1767323645678, "z":1e400}"#;
    assert_eq!(&body[..], expected.as_bytes());
    assert!(sent.sha256.is_some(), "the body is another one");
    let request = Request::from_parts(parts, Full::new(body));
    assert_eq!(verdict(&verifier("linear", &["lin"]), request, at(600)).await, Ok(()));
    let odd = Case::received(
        "linear",
        &["lin"],
        &[("linear-signature", "00")],
        b"{\"webhookTimestamp\":1,\"webhookTimestamp\":2}",
    );
    let (request, sent) = odd.sent(at(600)).await.ok().unwrap();
    assert_eq!((&request.headers()["linear-signature"], sent.signed), (&HeaderValue::from_static("00"), None));
}

#[tokio::test]
async fn mailgun_keeps_its_token_and_every_digit() {
    let body = br#"{"signature":{"timestamp":"1767323045","token":"tok","signature":"00"},"event-data":{"n":0.10000000000000000001}}"#;
    let (request, _) = Case::received("mailgun", &["mg"], &[], body).sent(at(600)).await.ok().unwrap();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        text.contains("\"token\":\"tok\"") && text.ends_with(r#","event-data":{"n":0.10000000000000000001}}"#),
        "{text}"
    );
    let request = Request::from_parts(parts, Full::new(body));
    assert_eq!(verdict(&verifier("mailgun", &["mg"]), request, at(600)).await, Ok(()));
}

#[tokio::test]
async fn a_transformed_body_is_signed_as_it_is_sent() {
    let transformed = |scheme, headers: &[(&'static str, &str)], query| {
        let mut case = Case::received(scheme, &["s3cret-s3cret"], headers, b"{\"a\":1}");
        case.route.transform = Some(Expr::compile("{b: .a}").unwrap());
        Case { policy: Some(SignPolicy::Source), query, ..case }
    };
    for (scheme, header) in
        [("github", "x-hub-signature-256"), ("slack", "x-slack-signature"), ("twilio", "x-twilio-signature")]
    {
        let (request, sent) = transformed(scheme, &[(header, "old")], Some("x=1")).sent(at(1)).await.ok().unwrap();
        assert_eq!(request.headers().get_all(header).iter().count(), 1);
        assert!(sent.signed.is_some());
        assert_eq!(verdict(&verifier(scheme, &["s3cret-s3cret"]), request, at(1)).await, Ok(()), "{scheme}");
    }
    let untouched = Case::received("github", &["s3cret-s3cret"], &[("x-hub-signature-256", "old")], b"{}");
    let (request, sent) = Case { policy: Some(SignPolicy::Source), ..untouched }.sent(at(900)).await.ok().unwrap();
    assert_eq!((&request.headers()["x-hub-signature-256"], sent.signed), (&HeaderValue::from_static("old"), None));
}

#[tokio::test]
async fn our_own_signature_replaces_the_senders_and_a_missing_header_is_said() {
    let own = SignPolicy::standard_webhooks(&[secret("k1"), secret("k2")]).ok().unwrap();
    let old = [("webhook-id", "theirs"), ("webhook-signature", "v1,x"), ("webhook-signature", "v1,y")];
    let case = Case { policy: Some(own), ..Case::received("stripe", &["whsec_x"], &old, b"{}") };
    let (request, sent) = case.sent(at(900)).await.ok().unwrap();
    assert_eq!(request.headers()["webhook-id"], rig::event(7).id.to_string().as_str());
    let values: Vec<_> = request.headers().get_all("webhook-signature").iter().collect();
    assert_eq!((values.len(), values[0].to_str().unwrap().split(' ').count()), (1, 2));
    let signed = sent.signed.unwrap();
    assert_eq!((&*signed.scheme, signed.secret.as_deref()), ("standard-webhooks", Some("env:S, env:S")));

    let custom = |template: &str| {
        Some(SignPolicy::Own(
            Signer::custom(SignerSettings {
                algorithm: crate::verify::Algorithm::Sha256,
                header: "X-S".into(),
                encoding: crate::verify::Encoding::Hex,
                prefix: String::new(),
                template: Some(template.into()),
                timestamp: None,
                id: None,
                secrets: vec![secret("k")],
            })
            .ok()
            .unwrap(),
        ))
    };
    let case = |template| Case { policy: custom(template), ..Case::received("stripe", &["whsec_x"], &[], b"{}") };
    assert!(case("{header:host}{header:stagepost-event-id}{path}{body}").sent(at(1)).await.is_ok());
    let Err(Unsent::Settled(Change::Die(reason))) = case("{header:x-gone}{body}").sent(at(1)).await else { panic!() };
    assert!(reason.to_string().contains("unsendable") && reason.to_string().contains("x-gone"), "{reason}");
}
