//! Owns the answer to "why is this request refused?": which check failed, what exactly is signed, and which of the usual
//! mistakes would explain it.
//!
//! Promises that nothing it says holds a secret. For operators at their own machine, with requests that are at hand: it
//! tries many keys and texts, compares as it likes, and is never on the way of a request. Deliberately absent: mistakes
//! of two kinds at once, other than a secret's form together with an algorithm.

#[cfg(test)]
mod tests;
mod variants;

use std::{borrow::Cow, time::Duration};

use base64::Engine as _;
use http::HeaderName;

use super::{
    Algorithm, Encoding, Head, Kind, Refusal, Verified, Verifier,
    grammar::{BASE64, Written},
    json,
    mac::Mac,
    recipe::{Checker, Field, Key, Piece, Recipe},
    timestamp::Place,
    url::PublicUrl,
};
use crate::clock::Timestamp;

/// Texts in headers that are looked at as signatures; more are left alone.
const CANDIDATES_MAX: usize = 256;

/// A request that was captured, and when freshness is judged.
pub struct Captured<'a> {
    /// Its head.
    pub head: Head<'a>,
    /// Its body as received.
    pub body: &'a [u8],
    /// The time that counts.
    pub at: Timestamp,
}

/// What there is to say about a request.
pub struct Diagnosis {
    /// What the check says; None if it waits for a document from outside.
    pub verdict: Option<Result<Verified, Refusal>>,
    /// Where that document is.
    pub waits_for: Option<String>,
    /// What the verdict means, in words.
    pub meaning: String,
    /// The sender's timestamp minus the time that counts, in milliseconds, if there is one.
    pub skew_ms: Option<i64>,
    /// The signature is right, only the timestamp is too far off.
    pub only_the_clock: bool,
    /// What is signed, if the scheme is one of text and body.
    pub signed: Option<SignedText>,
    /// What would have matched.
    pub mistakes: Vec<Mistake>,
    /// How many were tried.
    pub tried: usize,
}

/// What is signed: these bytes, with the body between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedText {
    /// Before the body; a secret that is hashed first stands there as `{secret}`.
    pub before: Vec<u8>,
    /// After the body.
    pub after: Vec<u8>,
}

/// A mistake that explains the refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// A word for programs.
    pub kind: &'static str,
    /// What it is and what to do.
    pub text: String,
}

/// A text in a header that may be a signature.
struct Candidate {
    header: HeaderName,
    written: &'static str,
    bytes: Vec<u8>,
}

impl Verifier {
    /// Says why a request is refused, or that it is not.
    #[must_use]
    pub fn diagnose(&self, request: &Captured<'_>) -> Diagnosis {
        let verdict = self.judge(request);
        let mut diagnosis = Diagnosis {
            waits_for: verdict.as_ref().err().map(ToString::to_string),
            meaning: String::new(),
            skew_ms: None,
            only_the_clock: false,
            signed: None,
            mistakes: Vec::new(),
            tried: 0,
            verdict: verdict.ok(),
        };
        match &self.0 {
            Kind::Recipe(recipe) => recipe.explain(request, &mut diagnosis),
            Kind::Special(special) => {
                for (url, said) in special.url().map(|url| variants::urls(url, &request.head)).unwrap_or_default() {
                    let other = special.with_url(&url).map(Self::special);
                    self.retry(other.as_ref(), request, request.body, ("url", said), &mut diagnosis);
                }
                for (body, said) in variants::bodies(request.body) {
                    self.retry(Some(self), request, &body, ("body", said), &mut diagnosis);
                }
            }
            Kind::Open(_) => {}
        }
        diagnosis.meaning = diagnosis.mean(self);
        diagnosis
    }

    /// What the check says about a request; None if it waits for a document from outside.
    #[must_use]
    pub fn verdict(&self, request: &Captured<'_>) -> Option<Result<Verified, Refusal>> {
        self.judge(request).ok()
    }

    /// Why a request is refused; None if it is taken, or waits for a document from outside.
    #[must_use]
    pub fn refusal(&self, request: &Captured<'_>) -> Option<Refusal> {
        self.judge(request).ok().and_then(Result::err)
    }

    /// Whether a request that is refused for its timestamp would be taken if it had come when it says it was signed.
    /// Only of schemes that are recipes; others are never known to be genuine.
    #[must_use]
    pub fn is_genuine_but_for_its_time(&self, request: &Captured<'_>) -> bool {
        let Kind::Recipe(recipe) = &self.0 else { return false };
        let is_fallback = |recipe: &Recipe| recipe.fallback.is_some() && !recipe.speaks(request.head.headers);
        let speaks = if is_fallback(recipe) { recipe.fallback.as_ref().unwrap_or(recipe) } else { recipe };
        let stamp = speaks.stamp(request);
        let Some(skew) = speaks.skew(stamp.as_deref(), request.at) else { return false };
        let off = Duration::from_millis(skew.unsigned_abs());
        let at = if skew < 0 { request.at.before(off) } else { request.at.after(off) };
        matches!(self.judge(&Captured { head: Head { ..request.head }, body: request.body, at }), Ok(Ok(_)))
    }

    /// The check as it is made of a request; the error is what it waits for.
    fn judge(&self, request: &Captured<'_>) -> Result<Result<Verified, Refusal>, String> {
        let mut check = match self.begin(&request.head, request.at) {
            Ok(check) => check,
            Err(refusal) => return Ok(Err(refusal)),
        };
        check.update(request.body);
        match check.wants(request.body) {
            Ok(None) => Ok(check.finish(request.body)),
            Ok(Some(wanted)) => Err(wanted.place.shown()),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Notes a mistake if `other` takes the request with this body although it is refused as it is.
    fn retry(
        &self,
        other: Option<&Self>,
        request: &Captured<'_>,
        body: &[u8],
        (kind, text): (&'static str, String),
        diagnosis: &mut Diagnosis,
    ) {
        let Some(other) = other.filter(|_| matches!(diagnosis.verdict, Some(Err(_)))) else { return };
        diagnosis.tried += 1;
        let head = Head { ..request.head };
        if matches!(other.judge(&Captured { head, body, at: request.at }), Ok(Ok(_))) {
            diagnosis.mistakes.push(Mistake { kind, text });
        }
    }
}

impl Diagnosis {
    /// Whether the request would be taken.
    #[must_use]
    pub const fn is_taken(&self) -> bool {
        matches!(self.verdict, Some(Ok(_)))
    }

    fn mean(&self, verifier: &Verifier) -> String {
        let refusal = match (&self.verdict, &self.waits_for) {
            (Some(Ok(_)), _) if verifier.is_open() => return "the source checks nothing".to_owned(),
            (Some(Ok(_)), _) => return "the request is genuine".to_owned(),
            (Some(Err(refusal)), _) => *refusal,
            (None, Some(place)) => {
                return format!(
                    "the signature is made with a key from {place}, which is not fetched here: pin the document in the \
                     configuration to check it"
                );
            }
            (None, None) => return String::new(),
        };
        let off = self.skew_ms.map_or(String::new(), |skew| format!(": it is {} off", shown(skew)));
        match refusal {
            Refusal::Stale => format!("the timestamp lies too far in the past{off}"),
            Refusal::Future => format!("the timestamp lies too far in the future{off}"),
            Refusal::MissingSignature => "the header of the signature is missing".to_owned(),
            Refusal::DuplicatedSignature => "the header of the signature stands there more than once".to_owned(),
            Refusal::MalformedSignature => "the header of the signature is not written as it should be".to_owned(),
            Refusal::MalformedTimestamp => {
                "the timestamp is missing, stands there twice, or is not written as it should be".to_owned()
            }
            Refusal::MalformedSignedHeader => "a header that is signed is missing or stands there twice".to_owned(),
            Refusal::BadSignature => "no secret makes this signature of this request".to_owned(),
            Refusal::UnreadableBody => "the scheme reads the body, which can't be read".to_owned(),
            Refusal::MissingCredentials => "the body has no secret where the scheme has one".to_owned(),
            Refusal::BadCredentials => "the secret that is presented is none of the configured ones".to_owned(),
            Refusal::UnknownPath => "the secret segment of the path is wrong".to_owned(),
            Refusal::Outside(reason) => {
                let advice = reason.advice().map_or(String::new(), |advice| format!(": {advice}"));
                format!("{}{advice}", reason.as_str().replace('_', " "))
            }
        }
    }
}

/// A difference of times for people.
fn shown(skew_ms: i64) -> String {
    let seconds = skew_ms.unsigned_abs() / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What a message is made of.
#[derive(Clone, Copy)]
struct Parts<'a> {
    head: &'a Head<'a>,
    body: &'a [u8],
    stamp: Option<&'a [u8]>,
    url: Option<&'a PublicUrl>,
}

impl Recipe {
    fn explain(&self, request: &Captured<'_>, diagnosis: &mut Diagnosis) {
        let headers = request.head.headers;
        if let Some(fallback) = &self.fallback
            && !self.signature.is_present(headers)
            && fallback.signature.is_present(headers)
        {
            return fallback.explain(request, diagnosis);
        }
        let candidates = candidates(headers);
        if self.signs_nothing() {
            if !diagnosis.is_taken() {
                self.explain_token(request, diagnosis);
            }
            return;
        }
        let stamp = self.stamp(request);
        let parts = Parts { head: &request.head, body: request.body, stamp: stamp.as_deref(), url: self.url.as_ref() };
        diagnosis.skew_ms = self.skew(parts.stamp, request.at);
        let Some((before, after)) = self.around(&parts) else { return };
        let hashed = self.keys.iter().any(|key| matches!(key.checker, Checker::Mac(Mac::SecretFirst(_))));
        let before_shown = if hashed { [b"{secret}", before.as_slice()].concat() } else { before.clone() };
        diagnosis.signed = Some(SignedText { before: before_shown, after: after.clone() });
        if diagnosis.is_taken() {
            return;
        }
        let message = [&before, request.body, &after].concat();
        for key in &self.keys {
            diagnosis.tried += 1;
            if let Some(found) = matching(&candidates, &key.checker, &message) {
                return self.explain_form(found, parts.stamp, request.at, diagnosis);
            }
        }
        self.explain_secret(&candidates, &message, diagnosis);
        for (kind, said, message) in self.messages(&parts) {
            diagnosis.tried += 1;
            if self.keys.iter().any(|key| matching(&candidates, &key.checker, &message).is_some()) {
                diagnosis.mistakes.push(Mistake { kind, text: said });
            }
        }
    }

    /// The signature is there and right: what else is wrong.
    fn explain_form(&self, found: &Candidate, stamp: Option<&[u8]>, at: Timestamp, diagnosis: &mut Diagnosis) {
        let mut note = |kind, text| diagnosis.mistakes.push(Mistake { kind, text });
        let expected = match self.signature.encoding {
            Written::LowerHex => "hex in lower case",
            Written::Encoded(Encoding::Hex) => "hex",
            Written::Encoded(Encoding::Base64) | Written::PlainBase64 => "base64",
            Written::Encoded(Encoding::Base64Url) => "base64url",
            Written::Plain => "plain",
        };
        match diagnosis.verdict {
            Some(Err(Refusal::Stale | Refusal::Future)) => {
                diagnosis.only_the_clock = true;
                if let Some(unit) = self.other_unit(stamp, at) {
                    note("timestamp_unit", unit);
                }
            }
            Some(Err(Refusal::MalformedTimestamp)) => {
                if let Some(unit) = self.other_unit(stamp, at) {
                    note("timestamp_unit", unit);
                }
            }
            Some(Err(Refusal::DuplicatedSignature)) => {}
            _ if found.header != self.signature.name => note(
                "header",
                format!("the right signature stands in {}, not in {}", found.header, self.signature.name),
            ),
            _ if !expected.starts_with(found.written) || found.written != "hex" && found.written != expected => note(
                "encoding",
                format!("the signature is right, but it is written in {} and not in {expected}", found.written),
            ),
            _ => note(
                "prefix",
                format!("the signature is right, but {} has other text around it than the scheme", found.header),
            ),
        }
    }

    /// A unit in which the timestamp would be near.
    fn other_unit(&self, stamp: Option<&[u8]>, at: Timestamp) -> Option<String> {
        let rule = self.timestamp.as_ref()?;
        let others = variants::UNITS.iter().filter(|(unit, _)| *unit != rule.unit);
        let near = |ms: u64| ms.abs_diff(at.as_millis()) <= rule.tolerance_ms;
        let (_, name) = others.into_iter().find(|(unit, _)| unit.read(stamp.unwrap_or_default()).is_some_and(near))?;
        Some(format!("the timestamp is written as {name}, which the scheme does not expect: set the unit"))
    }

    /// Another form of a secret, another algorithm, or both.
    fn explain_secret(&self, candidates: &[Candidate], message: &[u8], diagnosis: &mut Diagnosis) {
        for Key { reference, checker, secret } in &self.keys {
            let Checker::Mac(own) = checker else { continue };
            let own_tag = own.clone().finish();
            for (form, value) in variants::secrets(secret.expose()) {
                let is_own = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512, Algorithm::Sha1]
                    .iter()
                    .map(|algorithm| Mac::new(*algorithm, &value))
                    .chain([Mac::secret_first(&value)])
                    .any(|mac| mac.finish().as_slice() == own_tag.as_slice());
                for (algorithm, mac) in variants::algorithms(&value) {
                    diagnosis.tried += 1;
                    if matching(candidates, &Checker::Mac(mac.clone()), message).is_none() {
                        continue;
                    }
                    let same = mac.finish().as_slice() == own_tag.as_slice();
                    match (is_own, same) {
                        (true, true) => {}
                        (true, false) => diagnosis.mistakes.push(Mistake {
                            kind: "algorithm",
                            text: format!("it is signed with {algorithm}, which is not what the scheme has"),
                        }),
                        (false, _) => diagnosis.mistakes.push(Mistake {
                            kind: "secret_form",
                            text: format!("the sender uses the secret {reference} {form}, with {algorithm}"),
                        }),
                    }
                }
            }
        }
    }

    /// A secret that is presented as it is.
    fn explain_token(&self, request: &Captured<'_>, diagnosis: &mut Diagnosis) {
        let values = request.head.headers.iter().take(CANDIDATES_MAX);
        for (name, value) in values {
            for (said, text) in variants::tokens(value.as_bytes()) {
                for Key { reference, secret, .. } in &self.keys {
                    for (form, wanted) in variants::secrets(secret.expose()) {
                        diagnosis.tried += 1;
                        if wanted.as_slice() == &*text {
                            let text = format!("the secret {reference} stands in {name} {form}{said}");
                            diagnosis.mistakes.push(Mistake { kind: "secret_form", text });
                        }
                    }
                }
            }
        }
    }

    /// Other messages that a sender may have signed by mistake, or that this one was before something changed it.
    fn messages(&self, parts: &Parts<'_>) -> Vec<(&'static str, String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut add = |kind, said: String, parts: &Parts<'_>| {
            if let Some((before, after)) = self.around(parts) {
                found.push((kind, said, [&before, parts.body, &after].concat()));
            }
        };
        for (body, said) in variants::bodies(parts.body) {
            add("body", said, &Parts { body: &body, ..*parts });
        }
        if let Some(url) = parts.url {
            for (url, said) in variants::urls(url, parts.head) {
                add("url", said, &Parts { url: Some(&url), ..*parts });
            }
            if parts.head.query.is_some() {
                let head = Head { query: None, ..*parts.head };
                add("url", "the URL was signed without its query".to_owned(), &Parts { head: &head, ..*parts });
            }
        }
        for (stamp, said) in variants::stamps(parts.stamp.unwrap_or_default()) {
            add("timestamp_unit", said, &Parts { stamp: Some(&stamp), ..*parts });
        }
        if let Some((before, after)) = self.around(parts)
            && !(before.is_empty() && after.is_empty())
        {
            found.push(("template", "the body alone was signed".to_owned(), parts.body.to_vec()));
            let turned = [parts.body, &before, &after].concat();
            found.push(("template", "the body was signed before the other parts".to_owned(), turned));
        }
        found
    }

    /// The timestamp's text, wherever it stands.
    fn stamp<'a>(&self, request: &Captured<'a>) -> Option<Cow<'a, [u8]>> {
        let rule = self.timestamp.as_ref()?;
        match &rule.place {
            Place::Header(name) => request.head.headers.get(name).map(|value| Cow::Borrowed(value.as_bytes())),
            Place::SignatureField => {
                let presented = self.signature.read(request.head.headers).ok()?;
                presented.timestamp.map(Cow::Borrowed)
            }
            Place::Json(path) => json::scalar(request.body, path).map(|text| Cow::Owned(text.into_bytes())),
        }
    }

    fn skew(&self, stamp: Option<&[u8]>, at: Timestamp) -> Option<i64> {
        let sent = self.timestamp.as_ref()?.unit.read(stamp?)?;
        i64::try_from(i128::from(sent) - i128::from(at.as_millis())).ok()
    }

    /// What is signed around the body; None if something of it is missing.
    fn around(&self, parts: &Parts<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
        let join = |pieces: &[Piece]| {
            let mut all = Vec::new();
            for piece in pieces {
                match (piece, parts.url) {
                    (Piece::Field(Field::Url), Some(url)) => all.extend_from_slice(url.of(parts.head).as_bytes()),
                    (Piece::Field(Field::HubSpotUrl), Some(url)) => {
                        all.extend_from_slice(url.hubspot(parts.head).as_bytes());
                    }
                    _ => all.extend_from_slice(&self.bytes_of(piece, parts.head, parts.stamp).ok()?),
                }
            }
            Some(all)
        };
        Some((join(&self.before)?, join(&self.after)?))
    }
}

/// The candidate that is this key's signature of a message.
fn matching<'c>(candidates: &'c [Candidate], checker: &Checker, message: &[u8]) -> Option<&'c Candidate> {
    match checker {
        Checker::Mac(mac) => {
            let mut mac = mac.clone();
            mac.update(message);
            let tag = mac.finish();
            candidates.iter().find(|candidate| candidate.bytes == tag.as_slice())
        }
        Checker::Public(public) => candidates.iter().find(|candidate| public.verifies(message, &candidate.bytes)),
        Checker::Equal(..) => None,
    }
}

/// Whatever in the headers may be a signature, in every encoding that it may be in.
fn candidates(headers: &http::HeaderMap) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (name, value) in headers {
        let text = value.as_bytes();
        let items = text.split(|byte| matches!(byte, b',' | b';' | b' '));
        let after = items.clone().filter_map(|item| {
            let at = item.iter().position(|byte| matches!(byte, b'=' | b':'))?;
            item.get(at + 1..)
        });
        for item in items.chain(after).filter(|item| item.len() >= 26) {
            let mut add = |written, bytes: Option<Vec<u8>>| {
                if let Some(bytes) = bytes.filter(|bytes| bytes.len() >= 20) {
                    found.push(Candidate { header: name.clone(), written, bytes });
                }
            };
            let is_upper = item.iter().any(u8::is_ascii_uppercase);
            add(if is_upper { "hex in upper case" } else { "hex" }, hex::decode(item).ok());
            add("base64", BASE64.decode(item).ok());
            add("base64url", base64::prelude::BASE64_URL_SAFE.decode(item).ok());
            add("base64url", base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(item).ok());
        }
        if found.len() >= CANDIDATES_MAX {
            break;
        }
    }
    found
}
