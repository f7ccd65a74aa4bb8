//! Owns the objects of an upstream of `kind = "object_store"`: each batch becomes one object, in a bucket or a directory.
//!
//! Promises that an object is there as a whole or not at all, that the same events have the same key, so that a batch that
//! is put again after a crash replaces itself, and that other events never have it. Requests go over our own client, with
//! its limits of time; nothing is tried again here, that is the agenda's business.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::AmazonS3Builder,
    client::{
        ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    },
    local::LocalFileSystem,
    path::Path,
};
use sha2::{Digest as _, Sha256};

use super::writer::packed;
use crate::{
    delivery::{
        client::{Client, Failure, MakeRequest, Shared},
        names::Names,
    },
    event::Job,
    routing::{Bucket, Compression, ObjectPlace, ObjectPolicy, Target, Upstream},
};

/// What is kept of an answer: errors are short documents.
const ANSWER_BYTES: usize = 16 * 1024;

/// What is kept of an error's words: it becomes part of an entry of the log.
const WORDS_CHARS_MAX: usize = 400;

/// Puts a batch and gives the object's URL.
pub(crate) async fn put(
    (upstream, names): (&Upstream, &Arc<Names>),
    policy: &ObjectPolicy,
    jobs: &[&Job],
    lines: Vec<Bytes>,
) -> Result<String, Box<str>> {
    let key = key(policy, jobs);
    let compression = policy.compression;
    let body = tokio::task::spawn_blocking(move || packed(compression, &lines.concat()).map(|body| body.into_owned()));
    let body = body.await.map_err(io::Error::other).and_then(|packed| packed).map_err(|error| words(&error))?;
    let url = format!("{}/{key}", policy.place);
    let store = store(upstream, policy, names).await?;
    store.put(&Path::from(key), PutPayload::from(body)).await.map_err(|error| words(&error))?;
    Ok(url)
}

/// `PREFIX/2026/01/02/20260102T030405678Z-ID-HASH.ndjson`: the first event's time and id, and a hash of all ids.
fn key(policy: &ObjectPolicy, jobs: &[&Job]) -> String {
    let mut hash = Sha256::new();
    for job in jobs {
        hash.update(job.event.id.to_ascii());
    }
    let hash: String = hex::encode(hash.finalize()).chars().take(16).collect();
    let first = jobs.first().map(|job| &job.event);
    let time = first.map(|event| event.received_at.to_string()).unwrap_or_default();
    let day: String = time.chars().take(10).map(|letter| if letter == '-' { '/' } else { letter }).collect();
    let time: String = time.chars().filter(|letter| !matches!(letter, '-' | ':' | '.')).collect();
    let id = first.map(|event| event.id.to_string()).unwrap_or_default();
    let end = match policy.compression {
        Compression::None => "ndjson",
        Compression::Zstd => "ndjson.zst",
    };
    let prefix = match &policy.place {
        ObjectPlace::Bucket(bucket) if !bucket.prefix.is_empty() => format!("{}/", bucket.prefix),
        _ => String::new(),
    };
    format!("{prefix}{day}/{time}-{id}-{hash}.{end}")
}

async fn store(
    upstream: &Upstream,
    policy: &ObjectPolicy,
    names: &Arc<Names>,
) -> Result<Box<dyn ObjectStore>, Box<str>> {
    match &policy.place {
        ObjectPlace::Directory(directory) => {
            let directory = directory.clone();
            let opened = tokio::task::spawn_blocking(move || LocalFileSystem::new_with_prefix(directory)).await;
            let store = opened.map_err(|gone| words(&gone))?.map_err(|error| words(&error))?;
            Ok(Box::new(store.with_fsync(true)))
        }
        ObjectPlace::Bucket(bucket) => s3(upstream, bucket, names.clone()),
    }
}

fn s3(upstream: &Upstream, bucket: &Bucket, names: Arc<Names>) -> Result<Box<dyn ObjectStore>, Box<str>> {
    let secret = |secret: &crate::verify::Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    let target = match bucket.endpoint.scheme_str() {
        Some("http") => Target::Http(bucket.endpoint.clone()),
        _ => Target::Https(bucket.endpoint.clone()),
    };
    let endpoint = Upstream {
        tls: upstream.tls.clone(),
        timeout: upstream.timeout,
        connect_timeout: upstream.connect_timeout,
        idle_timeout: upstream.idle_timeout,
        ..Upstream::new(&upstream.name, target)
    };
    let url = bucket.endpoint.to_string();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&*bucket.name)
        .with_region(&*bucket.region)
        .with_endpoint(url.trim_end_matches('/'))
        .with_allow_http(bucket.endpoint.scheme_str() == Some("http"))
        .with_access_key_id(secret(&bucket.access_key))
        .with_secret_access_key(secret(&bucket.secret_key))
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_http_connector(Ours(Arc::new(endpoint), names));
    if let Some(token) = &bucket.session_token {
        builder = builder.with_token(secret(token));
    }
    Ok(Box::new(builder.build().map_err(|error| words(&error))?))
}

/// Our client in the place of the crate's own.
struct Ours(Arc<Upstream>, Arc<Names>);

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ours")
    }
}

impl HttpConnector for Ours {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Self(self.0.clone(), self.1.clone())))
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Ours {
    fn call<'life0, 'async_trait>(&'life0 self, request: HttpRequest) -> Answering<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let request = Put { request: Request::from_parts(parts, body) };
            let shared = Shared::new(self.1.clone());
            let answer = Client::default().exchange(&request, &self.0, &shared, ANSWER_BYTES).await;
            let answer = answer.map_err(|failure| {
                let kind = match failure {
                    Failure::Connect(_) | Failure::ConnectLate(_) | Failure::AddressRefused(_) => {
                        HttpErrorKind::Connect
                    }
                    Failure::Late(_) => HttpErrorKind::Timeout,
                    Failure::Broken(_) | Failure::Unsendable(_) | Failure::Program(_) => HttpErrorKind::Request,
                };
                HttpError::new(kind, failure)
            })?;
            let mut response = Response::new(answer.body.into());
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response)
        })
    }
}

/// A signed request, for one protocol or the other.
struct Put {
    request: Request<Bytes>,
}

impl MakeRequest for Put {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::new(Full::new(self.request.body().clone()));
        *request.method_mut() = self.request.method().clone();
        *request.headers_mut() = self.request.headers().clone();
        let uri = self.request.uri();
        let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        if http2 {
            *request.uri_mut() = uri.clone();
        } else {
            if let Some(authority) = uri.authority() {
                request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
            }
            *request.uri_mut() = Uri::from(target);
        }
        Ok(request)
    }
}

/// What went wrong, with its causes.
fn words(error: &(dyn std::error::Error + '_)) -> Box<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.chars().take(WORDS_CHARS_MAX).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, delivery::tests::rig, routing::Content};

    #[test]
    fn the_same_events_have_the_same_key_and_others_never_have_it() {
        let place = ObjectPlace::Directory("/x".into());
        let policy = ObjectPolicy { place, content: Content::Event, compression: Compression::Zstd };
        let jobs: Vec<Job> = (1..=3).map(|seq| rig::job(rig::event(seq).into(), "u", Timestamp::ZERO)).collect();
        let of = |range: std::ops::Range<usize>| key(&policy, &jobs[range].iter().collect::<Vec<_>>());
        assert_eq!(of(0..3), of(0..3));
        assert_ne!(of(0..3), of(0..2), "a shorter batch would replace events that count as delivered");
        assert_ne!(of(0..2), of(1..3));
        let id = rig::event(1).id;
        assert!(of(0..1).starts_with(&format!("2026/01/02/20260102T030405678Z-{id}-")), "{}", of(0..1));
        assert!(of(0..1).ends_with(".ndjson.zst"));
    }
}
