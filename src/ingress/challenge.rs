//! Owns the answers to providers' challenges: requests that ask whether we are who we say, and are no events.
//!
//! Promises that a challenge is answered at the door, never stored and never forwarded; that what is echoed is at most
//! [`ECHO_BYTES_MAX`] long, printable ASCII without angle brackets, and served as `text/plain` with `nosniff`; and that
//! what is signed for a stranger (X, Zoom) can be neither a JSON object nor a signed string of the same provider.
//!
//! Providers that sign their challenge are verified first, like any request of theirs.

use bytes::Bytes;
use form_urlencoded::parse;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde::Deserialize;

use super::reply::{Refusal, ReplyBody};
use crate::{
    clock::Timestamp,
    routing::{Challenge, ChallengeRule, Source},
    verify::{Head, hmac_sha256, matching},
};

/// The longest value that is echoed, in bytes.
pub(super) const ECHO_BYTES_MAX: usize = 1024;

/// The largest body that may be a challenge, in bytes; providers send a few hundred.
const BODY_BYTES_MAX: usize = 16 * 1024;

const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;
const OKTA_CHALLENGE: HeaderName = HeaderName::from_static("x-okta-verification-challenge");
const TWITCH_TYPE: HeaderName = HeaderName::from_static("twitch-eventsub-message-type");
const GOOGLE_STATE: HeaderName = HeaderName::from_static("x-goog-resource-state");
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// What is wrong with a challenge. The words are for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A value is missing, stands there twice, is too long, or holds what is not echoed.
    Malformed,
    /// Meta's verify token is not ours.
    VerifyToken,
    /// The source does not take events from this origin.
    Origin,
}

impl Fault {
    /// The word in `stagepost refused`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_challenge",
            Self::VerifyToken => "wrong_verify_token",
            Self::Origin => "origin_not_allowed",
        }
    }
}

/// Answers a challenge that is told by the request's head; None if it is none. `now` is for the verifier.
pub(super) fn of_head(
    rule: &ChallengeRule,
    source: &Source,
    head: &Parts,
    now: Timestamp,
) -> Result<Option<Response<ReplyBody>>, Refusal> {
    let query = head.uri.query().unwrap_or_default();
    match (rule.kind, &head.method) {
        (Challenge::Meta, &Method::GET) if param(query, "hub.mode")?.as_deref() == Some("subscribe") => {
            let token = param(query, "hub.verify_token")?.unwrap_or_default();
            matching(&rule.secrets, token.as_bytes()).ok_or(Refusal::Challenge(Fault::VerifyToken))?;
            echo(&param(query, "hub.challenge")?.ok_or(MALFORMED)?).map(Some)
        }
        (Challenge::Dropbox, &Method::GET) => param(query, "challenge")?.map(|value| echo(&value)).transpose(),
        (Challenge::MsGraph, &Method::POST) if has_no_body(&head.headers) => {
            param(query, "validationToken")?.map(|value| echo(&value)).transpose()
        }
        (Challenge::X, &Method::GET) => param(query, "crc_token")?.map(|token| crc(rule, &token)).transpose(),
        (Challenge::Okta, &Method::GET) => {
            let Some(value) = only(&head.headers, &OKTA_CHALLENGE)? else { return Ok(None) };
            if head.headers.contains_key(header::AUTHORIZATION) {
                let about = Head { method: &head.method, path: head.uri.path(), query: None, headers: &head.headers };
                let check = source.verifier.begin(&about, now).map_err(|refusal| Refusal::Unverified(refusal, None))?;
                check.finish(&[]).map_err(|refusal| Refusal::Unverified(refusal, None))?;
            }
            let value = echoed(value)?;
            Ok(Some(json(&serde_json::json!({ "verification": value }))))
        }
        (Challenge::CloudEvents, &Method::OPTIONS) => {
            only(&head.headers, &REQUEST_ORIGIN)?.map(|origin| permission(rule, origin)).transpose()
        }
        _ => Ok(None),
    }
}

/// Answers a challenge that is told by the body or by a header of a request that was verified; None if it is none.
pub(super) fn of_body(rule: &ChallengeRule, head: &Parts, body: &[u8]) -> Result<Option<Response<ReplyBody>>, Refusal> {
    if head.method != Method::POST || body.len() > BODY_BYTES_MAX {
        return Ok(None);
    }
    match rule.kind {
        Challenge::Slack => {
            let Some(Slack { kind, challenge }) = read(body) else { return Ok(None) };
            if kind.as_deref() != Some("url_verification") {
                return Ok(None);
            }
            echo(&challenge.ok_or(MALFORMED)?).map(Some)
        }
        Challenge::Twitch => {
            if only(&head.headers, &TWITCH_TYPE)? != Some("webhook_callback_verification") {
                return Ok(None);
            }
            let asked: Option<Slack> = read(body);
            echo(&asked.and_then(|asked| asked.challenge).ok_or(MALFORMED)?).map(Some)
        }
        Challenge::Zoom => {
            let Some(Zoom { event, payload }) = read(body) else { return Ok(None) };
            if event.as_deref() != Some("endpoint.url_validation") {
                return Ok(None);
            }
            zoom(rule, payload.and_then(|payload| payload.plain_token)).map(Some)
        }
        Challenge::Discord => {
            // An event of the events API has type 1 as well, and carries its event.
            let ping = read(body).filter(|ping: &Discord| ping.event.is_none() && ping.data.is_none());
            Ok(match ping.and_then(|ping| ping.kind) {
                Some(0) => Some(empty(StatusCode::NO_CONTENT)),
                Some(1) => Some(json(&serde_json::json!({ "type": 1 }))),
                _ => None,
            })
        }
        Challenge::GoogleCalendar => {
            Ok((only(&head.headers, &GOOGLE_STATE)? == Some("sync")).then(|| empty(StatusCode::OK)))
        }
        _ => Ok(None),
    }
}

const MALFORMED: Refusal = Refusal::Challenge(Fault::Malformed);

/// Slack and Twitch.
#[derive(Deserialize)]
struct Slack {
    #[serde(rename = "type")]
    kind: Option<String>,
    challenge: Option<String>,
}

#[derive(Deserialize)]
struct Zoom {
    event: Option<String>,
    payload: Option<ZoomPayload>,
}

#[derive(Deserialize)]
struct ZoomPayload {
    #[serde(rename = "plainToken")]
    plain_token: Option<String>,
}

#[derive(Deserialize)]
struct Discord {
    #[serde(rename = "type")]
    kind: Option<u64>,
    event: Option<serde::de::IgnoredAny>,
    data: Option<serde::de::IgnoredAny>,
}

/// What a JSON object says; None for what is none, or says it in another form: then it is no challenge.
fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// The value of a parameter of the query, decoded; a second one makes it unclear what was asked.
fn param(query: &str, name: &str) -> Result<Option<String>, Refusal> {
    let mut values = parse(query.as_bytes()).filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(MALFORMED),
        (value, None) => Ok(value.map(|(_, value)| value.into_owned())),
    }
}

/// The value of a header that may stand there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_odd| MALFORMED),
        (Some(_), Some(_)) => Err(MALFORMED),
    }
}

fn has_no_body(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0")
}

/// A value that may be echoed: short, printable, and no markup.
fn echoed(value: &str) -> Result<&str, Refusal> {
    let fits = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'<' | b'>');
    if value.is_empty() || value.len() > ECHO_BYTES_MAX || !value.bytes().all(fits) {
        return Err(MALFORMED);
    }
    Ok(value)
}

fn echo(value: &str) -> Result<Response<ReplyBody>, Refusal> {
    Ok(answer(HeaderValue::from_static("text/plain"), Bytes::copy_from_slice(echoed(value)?.as_bytes())))
}

/// A token that we sign: letters, digits and what base64 and UUIDs need. So it can't be an event.
fn signable(token: &str) -> Result<&str, Refusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/' | b'=' | b'.');
    // A body that is a number or a word would be JSON, too.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(token).is_ok();
    if token.is_empty() || token.len() > ECHO_BYTES_MAX || !token.bytes().all(fits) || is_json {
        return Err(MALFORMED);
    }
    Ok(token)
}

/// X: `{"response_token": "sha256=…"}` under the first secret.
fn crc(rule: &ChallengeRule, token: &str) -> Result<Response<ReplyBody>, Refusal> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let secret = rule.secrets.first().ok_or(MALFORMED)?;
    let proof = STANDARD.encode(hmac_sha256(secret, signable(token)?.as_bytes()));
    Ok(json(&serde_json::json!({ "response_token": format!("sha256={proof}") })))
}

/// Zoom: the token and its HMAC under the first secret.
fn zoom(rule: &ChallengeRule, token: Option<String>) -> Result<Response<ReplyBody>, Refusal> {
    let (secret, token) = (rule.secrets.first().ok_or(MALFORMED)?, token.ok_or(MALFORMED)?);
    // No colon fits, which every string that Zoom signs has.
    let proof = hex::encode(hmac_sha256(secret, signable(&token)?.as_bytes()));
    Ok(json(&serde_json::json!({ "plainToken": token, "encryptedToken": proof })))
}

/// CloudEvents: the permission to send, at a rate. Without it the headers are left out.
fn permission(rule: &ChallengeRule, origin: &str) -> Result<Response<ReplyBody>, Refusal> {
    let origin = echoed(origin)?.to_ascii_lowercase();
    if !rule.origins.is_empty() && !rule.origins.iter().any(|allowed| **allowed == *origin) {
        return Err(Refusal::Challenge(Fault::Origin));
    }
    let origin = HeaderValue::from_str(&origin).map_err(|_odd| MALFORMED)?;
    let mut response = empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    headers.insert(ALLOWED_ORIGIN, if rule.origins.is_empty() { HeaderValue::from_static("*") } else { origin });
    headers.insert(ALLOWED_RATE, rule.rate.map_or(HeaderValue::from_static("*"), HeaderValue::from));
    Ok(response)
}

fn json(value: &serde_json::Value) -> Response<ReplyBody> {
    answer(HeaderValue::from_static("application/json"), value.to_string().into())
}

pub(super) fn empty(status: StatusCode) -> Response<ReplyBody> {
    let mut response = answer(HeaderValue::from_static("text/plain"), Bytes::new());
    *response.status_mut() = status;
    response
}

fn answer(kind: HeaderValue, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}
