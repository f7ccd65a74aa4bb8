//! Owns the engine's side of the tools for sources: explaining a captured request, and making samples.

use std::{path::Path, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    Exit, Failure,
    ask::{Capture, Door, Explained, Explanation, Fault, SampleAsk, Sampled, SignedAround},
};
use crate::{
    admin::wire::Text,
    clock::Timestamp,
    config::{self, Loaded},
    preset::samples,
    routing::{SECRET_SEGMENT, Source},
    verify::{Captured, Head, PATH_SCHEME, Refusal, Sample, Signed, Verifier},
};

/// How old a stale sample is: older than any tolerance makes sense, in milliseconds.
const STALE_MS: u64 = 400 * 24 * 60 * 60 * 1000;

fn source<'l>(loaded: &'l Loaded, name: &str) -> Result<&'l Arc<Source>, Failure> {
    let sources = &loaded.table.sources;
    sources.iter().find(|source| &*source.name == name).ok_or_else(|| {
        let names: Vec<&str> = sources.iter().map(|source| &*source.name).collect();
        Failure::usage(format!("no source is called {name:?}; there are: {}", names.join(", ")))
    })
}

pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    config::load(path).map_err(|problems| super::host::refused(path, &problems))
}

/// Why a captured request is refused.
pub(super) fn explain(config: &Path, name: &str, capture: &Capture) -> Result<Explained, Failure> {
    let loaded = load(config)?;
    let source = source(&loaded, name)?;
    if source.verifier.scheme() == PATH_SCHEME && capture.path.split('/').any(|segment| segment == SECRET_SEGMENT) {
        let message = "the secret segment of a path is never stored: such a request can't be checked again";
        return Err(Failure::usage(message));
    }
    let method = method(&capture.method)?;
    let headers = header_map(&capture.headers)?;
    let head = Head { method: &method, path: &capture.path, query: capture.query.as_deref(), headers: &headers };
    let diagnosis = source.verifier.diagnose(&Captured { head, body: &capture.body, at: capture.at });
    let verified = diagnosis.verdict.as_ref().and_then(|verdict| verdict.as_ref().ok());
    let refused = diagnosis.verdict.as_ref().and_then(|verdict| verdict.as_ref().err());
    let signed = diagnosis.signed.as_ref().map(|signed| SignedAround {
        before: Text::new(&signed.before),
        body_bytes: capture.body.len() as u64,
        after: Text::new(&signed.after),
    });
    Ok(Explained {
        source: source.name.to_string(),
        scheme: source.verifier.scheme().to_owned(),
        verifies: diagnosis.is_taken(),
        reason: refused.map(|refusal| refusal.as_str().to_owned()),
        secret: verified.and_then(|verified| verified.secret.as_deref()).map(str::to_owned),
        skew_ms: diagnosis.skew_ms,
        only_the_clock: diagnosis.only_the_clock,
        signed,
        mistakes: diagnosis
            .mistakes
            .iter()
            .map(|mistake| Explanation { kind: mistake.kind.to_owned(), text: mistake.text.clone() })
            .collect(),
        tried: diagnosis.tried,
        meaning: diagnosis.meaning,
    })
}

fn method(text: &str) -> Result<Method, Failure> {
    Method::from_bytes(text.as_bytes()).map_err(|_| Failure::usage(format!("{text:?} is no method")))
}

fn header_map(headers: &[(String, Vec<u8>)]) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| Failure::usage(format!("{name:?} is no header name")))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| Failure::usage(format!("the value of {name} can't stand in a header")))?;
        map.append(name, value);
    }
    Ok(map)
}

/// Makes a sample of a source's events.
pub(super) fn sample(config: &Path, ask: &SampleAsk) -> Result<Sampled, Failure> {
    let loaded = load(config)?;
    let source = source(&loaded, &ask.source)?;
    let verifier = &source.verifier;
    let scheme = verifier.scheme();
    verifier.can_sign().map_err(|error| Failure::usage(error.to_string()))?;
    let path = concrete(&source.pattern.text);
    // Ids of samples differ as far as their times do.
    let id = format!("sample{}", ask.now.as_millis());
    let (mut headers, text) = samples::of(scheme).filled(ask.kind.as_deref(), &id, ask.now);
    let body = ask.body.clone().unwrap_or_else(|| text.into_bytes());
    if ask.body.is_none() && body.is_empty() {
        headers.retain(|(name, _)| name != "content-type");
    }
    let headers: Vec<(String, Vec<u8>)> = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    let method = source.methods.as_ref().and_then(|methods| methods.first()).cloned().unwrap_or(Method::POST);
    let own = header_map(&headers)?;
    let signed_at = match ask.fault {
        Fault::Stale => Timestamp::from_millis(ask.now.as_millis().saturating_sub(STALE_MS)),
        Fault::None | Fault::BadSignature => ask.now,
    };
    let sample =
        Sample { method: &method, path: &path, query: None, headers: &own, body: &body, id: &id, now: signed_at };
    let signed = verifier.sign(&sample).map_err(|error| Failure::usage(error.to_string()))?;
    let mut made = Made { signed, own: own.clone(), method: method.clone() };
    let expected = match ask.fault {
        Fault::None => None,
        _ if verifier.is_open() => return Err(Failure::usage("the source checks nothing: nothing is refused")),
        Fault::Stale if made.refusal(verifier, ask.now).is_none() => {
            return Err(Failure::usage(format!("{scheme} has no timestamp: nothing is ever stale")));
        }
        Fault::Stale => Some(401),
        Fault::BadSignature => {
            made.spoil(verifier, ask.now)?;
            Some(if scheme == PATH_SCHEME { 404 } else { 401 })
        }
    };
    let door = door(&loaded, source, ask.to.as_deref())?;
    let host = source.host.as_deref().unwrap_or(match &door.tls {
        Some((name, _)) => name,
        None => "localhost",
    });
    let mut sent = vec![("host".to_owned(), host.as_bytes().to_vec())];
    let all = made.headers();
    sent.extend(all.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())));
    let query = made.signed.query.as_deref().map_or(String::new(), |query| format!("?{query}"));
    let shown = if scheme == PATH_SCHEME { path.clone() } else { made.signed.path.clone() };
    Ok(Sampled {
        scheme: scheme.to_owned(),
        method: made.method.as_str().to_owned(),
        shown: format!("{shown}{query}"),
        target: format!("{}{query}", made.signed.path),
        headers: sent,
        body: made.signed.body.to_vec(),
        expected,
        door,
    })
}

/// A path that a pattern takes. The secret segment stays what it is: the signature fills it in.
fn concrete(pattern: &str) -> String {
    let segments = pattern.split('/').map(|segment| match segment {
        "*" => "",
        SECRET_SEGMENT => segment,
        capture if capture.starts_with('{') => "sample",
        other => other,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// A signed sample.
struct Made<'a> {
    signed: Signed<'a>,
    own: HeaderMap,
    method: Method,
}

impl Made<'_> {
    fn headers(&self) -> HeaderMap {
        let mut all = self.own.clone();
        for (name, value) in &self.signed.headers {
            all.insert(name.clone(), value.clone());
        }
        all
    }

    fn refusal(&self, verifier: &Verifier, at: Timestamp) -> Option<Refusal> {
        let headers = self.headers();
        let (path, query) = (self.signed.path.as_str(), self.signed.query.as_deref());
        let head = Head { method: &self.method, path, query, headers: &headers };
        verifier.refusal(&Captured { head, body: &self.signed.body, at })
    }

    /// Whether it is refused because it is not genuine, and not because it can't be read.
    fn is_spoilt(&self, verifier: &Verifier, at: Timestamp) -> bool {
        let refusal = self.refusal(verifier, at);
        matches!(refusal, Some(Refusal::BadSignature | Refusal::BadCredentials | Refusal::UnknownPath))
    }

    /// Changes one letter or digit of what proves that it is genuine: of a header, of the path, or of the body.
    fn spoil(&mut self, verifier: &Verifier, at: Timestamp) -> Result<(), Failure> {
        for index in 0..self.signed.headers.len() {
            let Some((_, value)) = self.signed.headers.get(index) else { continue };
            let before = value.clone();
            // The middle: the beginning may be a word that has to be there, and the end may hold bits that do not count.
            let order = (0..before.len()).map(|step| (before.len() / 2 + step) % before.len());
            for at_byte in order {
                let Some(other) =
                    turned(before.as_bytes(), at_byte).and_then(|text| HeaderValue::from_bytes(&text).ok())
                else {
                    continue;
                };
                if let Some((_, value)) = self.signed.headers.get_mut(index) {
                    *value = other;
                }
                if self.is_spoilt(verifier, at) {
                    return Ok(());
                }
            }
            if let Some((_, value)) = self.signed.headers.get_mut(index) {
                *value = before;
            }
        }
        let path = self.signed.path.clone();
        for at_byte in (0..path.len()).rev() {
            let other = turned(path.as_bytes(), at_byte).and_then(|text| String::from_utf8(text).ok());
            self.signed.path = other.unwrap_or_else(|| path.clone());
            if self.is_spoilt(verifier, at) {
                return Ok(());
            }
        }
        self.signed.path = path;
        let body = self.signed.body.clone();
        for at_byte in (0..body.len()).rev() {
            let Some(other) = turned(&body, at_byte) else { continue };
            self.signed.body = other.into();
            if self.is_spoilt(verifier, at) {
                return Ok(());
            }
        }
        Err(Failure::usage("nothing of this sample proves that it is genuine: there is nothing to spoil"))
    }
}

/// The text with another letter or digit there; None if there is neither.
fn turned(text: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut other = text.to_vec();
    let byte = other.get_mut(at)?;
    *byte = match *byte {
        b'a' => b'b',
        b'A' => b'B',
        b'0' => b'1',
        byte if byte.is_ascii_lowercase() => b'a',
        byte if byte.is_ascii_uppercase() => b'A',
        byte if byte.is_ascii_digit() => b'0',
        _ => return None,
    };
    Some(other)
}

/// Where a source's senders connect.
fn door(loaded: &Loaded, source: &Source, to: Option<&str>) -> Result<Door, Failure> {
    let listen = &loaded.config.listen;
    let (address, tls) = match to {
        Some(to) => {
            let (scheme, rest) = to.split_once("://").unwrap_or(("unix", to));
            let rest = if scheme == "unix" { rest } else { rest.trim_end_matches('/') };
            match scheme {
                "unix" if rest.starts_with("unix:") => (rest.to_owned(), false),
                "http" | "https" if !rest.is_empty() && !rest.contains(['/', '?', '#', '@']) => {
                    let tls = scheme == "https";
                    (with_port(rest, if tls { 443 } else { 80 }), tls)
                }
                _ => {
                    let message =
                        "--to takes http://HOST:PORT, https://HOST:PORT or unix:PATH; the path is the source's";
                    return Err(Failure::usage(message));
                }
            }
        }
        None => {
            let known =
                listen.iter().find(|listen| !listen.address.starts_with("systemd:") && !listen.address.ends_with(":0"));
            let listen = known.ok_or_else(|| {
                Failure::usage("no listener of the configuration has an address to connect to: name it with --to")
            })?;
            (reachable(&listen.address), listen.certificates.is_some())
        }
    };
    if !tls {
        return Ok(Door { address, tls: None });
    }
    let client = config::front_client(listen).map_err(|error| Failure::new(Exit::Config, error))?;
    let of_address = to.and_then(|_| address.rsplit_once(':')).map(|(host, _)| host.trim_matches(['[', ']']));
    let name = source.host.as_deref().or(of_address).unwrap_or("localhost").to_owned();
    Ok(Door { address, tls: Some((name, Arc::new(client))) })
}

fn with_port(authority: &str, port: u16) -> String {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if has_port && !authority.ends_with(']') { authority.to_owned() } else { format!("{authority}:{port}") }
}

/// A listening address as one to connect to: all addresses are reached by the loopback one.
fn reachable(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_gives_a_path_that_it_takes() {
        assert_eq!(concrete("/hooks/app"), "/hooks/app");
        assert_eq!(concrete("/hooks/*"), "/hooks/");
        assert_eq!(concrete("/t/{tenant}/in"), "/t/sample/in");
        assert_eq!(concrete("/in/{secret}"), "/in/{secret}");
    }

    #[test]
    fn a_listening_address_is_one_that_can_be_reached() {
        for (address, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("unix:/run/in.sock", "unix:/run/in.sock"),
        ] {
            assert_eq!(reachable(address), reached);
        }
        assert_eq!(with_port("a.example", 443), "a.example:443");
        assert_eq!(with_port("a.example:8443", 443), "a.example:8443");
        assert_eq!(with_port("[::1]", 80), "[::1]:80");
        assert_eq!(with_port("[::1]:81", 80), "[::1]:81");
    }

    #[test]
    fn a_letter_or_digit_is_turned_into_another_one() {
        assert_eq!(turned(b"a9-", 0), Some(b"b9-".to_vec()));
        assert_eq!(turned(b"a9-", 1), Some(b"a0-".to_vec()));
        assert_eq!(turned(b"a9-", 2), None);
        assert_eq!(turned(b"", 0), None);
    }
}
