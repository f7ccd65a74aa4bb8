//! Owns one request to a place: connect, ask, read within bounds, and make a document of what came.
//!
//! A signing certificate comes without those between it and its authority. They are taken from the settings, or asked
//! for where the certificate says they stand (RFC 5280 section 4.2.2.1), over plain HTTP as authorities serve them and
//! only at the authorities of the two publishers: what comes proves nothing by itself, the chain does.

use std::{error::Error, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Dial, KeysError, Settings};
use crate::{
    clock::Timestamp,
    verify::{DOCUMENT_BYTES_MAX, DocumentError, KeyDocument, Place, Publisher, Unproven, Wanted},
};

/// The largest header block of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Certificates that are asked for between a signing certificate and its authority.
const ISSUERS_MAX: usize = 3;

/// Where the authorities of Amazon and of PayPal serve their certificates.
const AUTHORITIES: [&str; 2] = [".amazontrust.com", ".digicert.com"];

/// A document, and how long its server says it may be used.
pub(super) struct Got {
    pub(super) document: KeyDocument,
    pub(super) max_age: Option<Duration>,
}

/// Gets the document that somebody wants. Ends with the timeout at the latest.
pub(super) async fn document(
    wanted: &Wanted,
    settings: &Settings,
    dial: &dyn Dial,
    now: Timestamp,
) -> Result<Got, KeysError> {
    let shown = wanted.place.shown();
    timeout(settings.timeout, read(wanted, settings, dial, now))
        .await
        .unwrap_or(Err(KeysError::Late(shown, settings.timeout)))
}

async fn read(wanted: &Wanted, settings: &Settings, dial: &dyn Dial, now: Timestamp) -> Result<Got, KeysError> {
    let place = &wanted.place;
    let (headers, body) = ask(place, settings, dial).await?;
    let unusable = |error| KeysError::Unusable(place.shown(), error);
    let document = match wanted.publisher {
        Publisher::Google => KeyDocument::key_set(&place.shown(), &body).map_err(unusable)?,
        Publisher::AwsSns | Publisher::PayPal => {
            let mut unproven = Unproven::read(wanted.publisher, place, &body).map_err(unusable)?;
            for issuer in &*settings.issuers {
                unproven.add(issuer.clone());
            }
            prove(unproven, settings, dial, now).await.map_err(unusable)?
        }
    };
    Ok(Got { document, max_age: max_age(&headers) })
}

/// Looks for a chain, and for what it may be missing.
async fn prove(
    mut unproven: Unproven,
    settings: &Settings,
    dial: &dyn Dial,
    now: Timestamp,
) -> Result<KeyDocument, DocumentError> {
    for _ in 0..ISSUERS_MAX {
        let untrusted = match unproven.prove(&settings.anchors, now) {
            Err(error @ DocumentError::Untrusted(_)) => error,
            other => return other,
        };
        let Some((host, target)) = unproven.issuer_address() else { return Err(untrusted) };
        if !AUTHORITIES.iter().any(|domain| host.ends_with(domain)) {
            return Err(untrusted);
        }
        let Ok(stream) = dial.dial(&host, 80).await else { return Err(untrusted) };
        let Ok((_, der)) = exchange(stream, &host, &target).await else { return Err(untrusted) };
        unproven.add_issuer(der.to_vec());
    }
    unproven.prove(&settings.anchors, now)
}

/// Asks a place. Anything but 200 is an error.
pub(super) async fn ask(place: &Place, settings: &Settings, dial: &dyn Dial) -> Result<(HeaderMap, Bytes), KeysError> {
    let unreachable = |error: String| KeysError::Unreachable(place.shown(), error);
    let tcp = dial.dial(place.host(), 443).await.map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from(place.host().to_owned()).map_err(|error| unreachable(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(&settings.tls));
    let tls = connector.connect(name, tcp).await.map_err(|error| unreachable(error.to_string()))?;
    exchange(tls, place.host(), place.target()).await.map_err(|failed| match failed {
        Failed::Io(words) => unreachable(words),
        Failed::Status(status) => KeysError::Status(place.shown(), status.as_u16()),
        Failed::TooLarge => KeysError::Unusable(place.shown(), DocumentError::TooLarge),
    })
}

enum Failed {
    Io(String),
    Status(StatusCode),
    TooLarge,
}

impl From<hyper::Error> for Failed {
    fn from(error: hyper::Error) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Io(format!("{error}{cause}"))
    }
}

/// One request on a connection of its own.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    target: &str,
) -> Result<(HeaderMap, Bytes), Failed> {
    let (mut sender, driver) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
    // The driver ends when this function does.
    let mut drivers = JoinSet::new();
    drivers.spawn(async move { drop(driver.await) });
    let request = Request::get(target)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("stagepost/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failed::Io(io::Error::other(error).to_string()))?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(Failed::Status(response.status()));
    }
    let (head, mut body) = response.into_parts();
    let mut document = BytesMut::new();
    while let Some(frame) = Pin::new(&mut body).frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        if document.len() + piece.len() > DOCUMENT_BYTES_MAX {
            return Err(Failed::TooLarge);
        }
        document.extend_from_slice(&piece);
    }
    Ok((head.headers, document.freeze()))
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1); zero for `no-store` and `no-cache`.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL);
    let directives = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let ages = directives.filter_map(|directive| match directive.trim().to_ascii_lowercase().as_str() {
        "no-store" | "no-cache" => Some(0),
        other => other.strip_prefix("max-age=").and_then(|age| age.trim_matches('"').parse().ok()),
    });
    ages.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_shortest_age_of_cache_control_counts() {
        let cases: [(&[&str], Option<u64>); 6] = [
            (&[], None),
            (&["public, max-age=19800, must-revalidate"], Some(19_800)),
            (&["Max-Age=60", "max-age=30"], Some(30)),
            (&["max-age=30, no-store"], Some(0)),
            (&["max-age=soon"], None),
            (&["private"], None),
        ];
        for (values, seconds) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
