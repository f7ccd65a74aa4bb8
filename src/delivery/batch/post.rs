//! Owns the request that holds several events.
//!
//! Promises the configured headers and none of the senders': the events may come from anywhere. A second request with
//! the same events has the same idempotency key.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::Item;
use crate::{
    delivery::{
        client::MakeRequest,
        request::{authority, own_path},
    },
    routing::{BatchFormat, HostPolicy, Target, Upstream},
};

const BATCH_SIZE: HeaderName = HeaderName::from_static("stagepost-batch-size");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const VIA: HeaderValue = HeaderValue::from_static("1.1 stagepost");

/// A request with several events.
pub(super) struct Post<'a> {
    upstream: &'a Upstream,
    items: usize,
    key: String,
    format: BatchFormat,
    path: String,
    body: Bytes,
}

impl<'a> Post<'a> {
    pub(super) fn new(group: &[Item<'_>], upstream: &'a Upstream, format: BatchFormat) -> Self {
        let mut hash = Sha256::new();
        for item in group {
            let job = item.draft.job();
            hash.update(job.event.id.to_ascii());
            hash.update(job.new_keys.to_be_bytes());
        }
        let key = format!("{}-{}", hex::encode(hash.finalize()), upstream.name);
        let path = own_path(upstream);
        let body = body(group, format);
        Self { upstream, items: group.len(), key, format, path, body }
    }

    /// Where it goes.
    pub(super) fn url(&self) -> Box<str> {
        let mut url = String::new();
        match &self.upstream.target {
            Target::Http(uri) => url.extend(["http://", &authority(uri)]),
            Target::Https(uri) => url.extend(["https://", &authority(uri)]),
            Target::Unix(socket) => drop(write!(url, "unix:{}:", socket.display())),
            Target::File(_) | Target::Objects(_) | Target::Command(_) => {}
        }
        url.push_str(&self.path);
        url.into()
    }

    fn host(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if let Some(configured) = headers.get(header::HOST) {
            return Some(configured.clone());
        }
        match (&self.upstream.host, &self.upstream.target) {
            (HostPolicy::Name(name), _) => Some(name.clone()),
            (_, Target::Http(uri) | Target::Https(uri)) => HeaderValue::from_str(&authority(uri)).ok(),
            _ => Some(HeaderValue::from_static("localhost")),
        }
    }
}

fn body(group: &[Item<'_>], format: BatchFormat) -> Bytes {
    let mut body = Vec::with_capacity(group.iter().map(|item| item.bytes.len() + 1).sum::<usize>() + 2);
    for (index, item) in group.iter().enumerate() {
        match format {
            BatchFormat::Array => body.push(if index == 0 { b'[' } else { b',' }),
            BatchFormat::Ndjson => {}
        }
        body.extend_from_slice(&item.bytes);
        if format == BatchFormat::Ndjson {
            body.push(b'\n');
        }
    }
    if format == BatchFormat::Array {
        body.push(b']');
    }
    body.into()
}

impl MakeRequest for Post<'_> {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut headers = HeaderMap::with_capacity(self.upstream.headers.len() + 6);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(match self.format {
                BatchFormat::Ndjson => "application/x-ndjson",
                BatchFormat::Array => "application/json",
            }),
        );
        headers.insert(BATCH_SIZE, HeaderValue::from(self.items));
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(&self.key)?);
        headers.insert(header::VIA, VIA);
        for (name, value) in &self.upstream.headers {
            headers.insert(name, value.clone());
        }
        let host = self.host(&headers);
        let uri = if http2 {
            headers.remove(header::HOST);
            let authority = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
            let target: PathAndQuery = self.path.parse()?;
            Uri::builder().scheme("https").authority(authority).path_and_query(target).build()?
        } else {
            if let Some(host) = host {
                headers.insert(header::HOST, host);
            }
            self.path.parse()?
        };
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}
