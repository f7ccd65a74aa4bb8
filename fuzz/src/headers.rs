//! Requests of every scheme: what their heads may look like, and that no change of a signed one is accepted.
//!
//! Input: scheme, method, path with query, header lines, body. With `+` before the scheme the request is signed first, and
//! must then be accepted, and with a changed bit of the body not.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use stagepost::{
    clock::Timestamp,
    verify::{Head, Refusal, Sample, Verified, Verifier},
};

use super::{
    NOW_MS,
    genuine::{self, BODY, SOURCES, Source},
    joined, pieces,
};

/// More header lines than any grammar looks at.
const LINES_MAX: usize = 64;
/// The widest tolerance of a preset.
const SKEW_MS_MAX: u64 = 600_000;

/// Takes any bytes.
pub fn run(data: &[u8]) -> bool {
    let [scheme, method, target, lines, body] = pieces(data);
    let (signing, scheme) = match scheme.strip_prefix(b"+") {
        Some(scheme) => (true, scheme),
        None => (false, scheme),
    };
    let source = source(scheme);
    let method = Method::from_bytes(method).unwrap_or(Method::POST);
    let Ok(target) = std::str::from_utf8(target) else { return false };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let headers = header_map(lines);
    if signing {
        return signs(source, &method, path, query, &headers, body);
    }
    let head = Head { method: &method, path, query, headers: &headers };
    let verdict = judge(&source.verifier, &head, body, &[body]);
    let (first, second) = body.split_at(data.len() % (body.len() + 1));
    assert_eq!(verdict, judge(&source.verifier, &head, body, &[first, b"", second]), "pieces make no difference");
    let Ok(verified) = verdict else { return false };
    if source.covers_body {
        assert_eq!(body, BODY, "{} took a body that nobody signed", source.name);
        assert!(verified.skew_ms.is_none_or(|skew| skew.unsigned_abs() <= SKEW_MS_MAX));
    }
    assert_eq!(verified.scheme, source.verifier.scheme());
    assert!(verified.secret.is_none_or(|secret| source.verifier.secret_references().contains(&&secret)));
    true
}

fn source(scheme: &[u8]) -> &'static Source {
    let named = SOURCES.iter().find(|source| source.name.as_bytes() == scheme);
    let any = scheme.iter().map(|byte| usize::from(*byte)).sum::<usize>() % SOURCES.len();
    named.unwrap_or(&SOURCES[any])
}

fn header_map(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(LINES_MAX) {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// As `ingress` goes about it.
pub fn judge(verifier: &Verifier, head: &Head<'_>, body: &[u8], pieces: &[&[u8]]) -> Result<Verified, Refusal> {
    let mut check = verifier.begin(head, Timestamp::from_millis(NOW_MS))?;
    for piece in pieces {
        check.update(piece);
    }
    let needs_body = check.needs_body();
    let whole = if needs_body { body } else { b"" };
    if check.wants(whole)?.is_some() {
        return Err(Refusal::BadSignature);
    }
    check.finish(whole)
}

fn signs(source: &Source, method: &Method, path: &str, query: Option<&str>, given: &HeaderMap, body: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    if let Some(kind) = given.get(http::header::CONTENT_TYPE) {
        headers.insert(http::header::CONTENT_TYPE, kind.clone());
    }
    let sample =
        Sample { method, path, query, headers: &headers, body, id: "msg_1", now: Timestamp::from_millis(NOW_MS) };
    let Ok(signed) = source.verifier.sign(&sample) else { return false };
    let mut headers = headers.clone();
    for (name, value) in signed.headers {
        headers.insert(name, value);
    }
    let head = Head { method, path: &signed.path, query: signed.query.as_deref(), headers: &headers };
    let verdict = judge(&source.verifier, &head, &signed.body, &[&signed.body]);
    // A form whose query carries a hash, or that is too long, is Twilio's business, see `forms`; and the scheme `path`
    // stands on routes that have the segment.
    let has_segment = path.starts_with('/') && path.split('/').nth(2).is_some_and(|segment| !segment.is_empty());
    if source.name != "twilio" && (source.name != "path" || has_segment) {
        assert!(verdict.is_ok(), "{} refused what it signed: {verdict:?}", source.name);
    }
    let is_form = headers.contains_key(http::header::CONTENT_TYPE) && source.name == "twilio";
    if source.covers_body && !is_form && !signed.body.is_empty() {
        let mut changed = signed.body.to_vec();
        let at = path.len() * 31 % (changed.len() * 8);
        changed[at / 8] ^= 1 << (at % 8);
        let verdict = judge(&source.verifier, &head, &changed, &[&changed]);
        assert!(verdict.is_err(), "{} took a body with a changed bit", source.name);
    }
    verdict.is_ok()
}

/// A signed request of every scheme.
pub fn seeds() -> Vec<Vec<u8>> {
    let signed = SOURCES.iter().filter_map(signed).collect::<Vec<_>>();
    let signing = SOURCES
        .iter()
        .filter(|source| source.verifier.can_sign().is_ok() && source.name != "salesforce")
        .map(|source| joined(&[format!("+{}", source.name).as_bytes(), b"POST", b"/in/a?q=1", b"", body_of(source)]));
    signed.into_iter().chain(signing).collect()
}

/// What a source's sender posts.
fn body_of(source: &Source) -> &'static [u8] {
    if source.name == "ms-graph" { br#"{"value":[{"id":"1"},{"id":"2"}]}"# } else { BODY }
}

fn signed(source: &Source) -> Option<Vec<u8>> {
    let seconds = (NOW_MS / 1000).to_string();
    let stamped = [seconds.as_bytes(), BODY].concat();
    let lines = match source.name {
        "discord" => format!("X-Signature-Timestamp: {seconds}\nX-Signature-Ed25519: {}", genuine::ed25519(&stamped)),
        "sendgrid" => format!(
            "X-Twilio-Email-Event-Webhook-Timestamp: {seconds}\nX-Twilio-Email-Event-Webhook-Signature: {}",
            genuine::ecdsa(&stamped)
        ),
        "paypal" => {
            let time = Timestamp::from_millis(NOW_MS).to_string();
            let signature = genuine::rsa(format!("tr-1|{time}|WH-1|{}", crc32(BODY)).as_bytes());
            format!(
                "PayPal-Transmission-Id: tr-1\nPayPal-Transmission-Time: {time}\nPayPal-Auth-Algo: SHA256withRSA\n\
                 PayPal-Cert-Url: https://api.paypal.com/v1/notifications/certs/CERT-1\n\
                 PayPal-Transmission-Sig: {}",
                BASE64_STANDARD.encode(signature)
            )
        }
        "salesforce" | "aws-sns" | "google-pubsub" => return None,
        _ => {
            let headers = HeaderMap::new();
            let sample = Sample {
                method: &Method::POST,
                path: "/in/a",
                query: Some("q=%40&r"),
                headers: &headers,
                body: body_of(source),
                id: "msg_1",
                now: Timestamp::from_millis(NOW_MS),
            };
            let signed = source.verifier.sign(&sample).ok()?;
            let target = match &signed.query {
                Some(query) => format!("{}?{query}", signed.path),
                None => signed.path.clone(),
            };
            let lines = signed.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
            let lines: String = lines.collect();
            let pieces = [source.name.as_bytes(), b"POST", target.as_bytes(), lines.as_bytes(), &signed.body];
            return Some(joined(&pieces));
        }
    };
    Some(joined(&[source.name.as_bytes(), b"POST", b"/in", lines.as_bytes(), BODY]))
}

/// ISO 3309, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
