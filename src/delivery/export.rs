//! Owns the way of spans to a collector: OTLP over HTTP in its JSON form, one request for many.
//!
//! Promises that a collector that is dead or slow costs nothing but its spans: they are dropped and counted, and the queue
//! before this is bounded. JSON because it is part of OTLP and needs no other crate; a collector takes it at the same path
//! as the binary form.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    client::{Client, MakeRequest, Shared},
    names::Names,
    resolve::System,
};
use crate::{
    clock::Clock,
    routing::{Target, Upstream},
    telemetry::{Metrics, Span, SpanText},
};

/// Spans in one request.
const BATCH_MAX: usize = 512;

/// How long the first span of a request waits for others.
const LINGER: Duration = Duration::from_millis(500);

/// After a failure nothing is sent for so long; what comes meanwhile waits in the queue or is dropped there.
const PAUSE: Duration = Duration::from_secs(5);

/// Of a collector's answer that is read.
const ANSWER_BYTES_MAX: usize = 1024;

/// Sends spans until the queue is closed. `node` is the host's name.
pub async fn export(
    mut queue: mpsc::Receiver<Span>,
    collector: Arc<Upstream>,
    node: Arc<str>,
    metrics: Arc<Metrics>,
    clock: Clock,
) {
    // The collector is no upstream of the metrics.
    let names = Names::new(Arc::new(System), clock, Arc::default());
    let (mut client, shared) = (Client::default(), Shared::new(names));
    let mut failing = false;
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH_MAX
                && let Ok(span) = queue.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        let post = Post { collector: &collector, body: body(&batch, &node) };
        batch.clear();
        let answer = client.exchange(&post, &collector, &shared, ANSWER_BYTES_MAX).await;
        let why = match answer {
            Ok(answer) if answer.status.is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status)),
            Err(failure) => Some(failure.to_string()),
        };
        let Some(why) = why else {
            metrics.traces.exported.add(count);
            if failing {
                tracing::info!("the collector takes spans again");
            }
            failing = false;
            continue;
        };
        metrics.traces.refused.add(count);
        if !failing {
            tracing::warn!(why, "the collector takes no spans: they are dropped until it does");
        }
        failing = true;
        tokio::time::sleep(PAUSE).await;
    }
}

struct Post<'a> {
    collector: &'a Upstream,
    body: Bytes,
}

impl MakeRequest for Post<'_> {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        if let Target::Http(uri) | Target::Https(uri) = &self.collector.target {
            let authority = super::request::authority(uri);
            *request.uri_mut() = if http2 { uri.clone() } else { Uri::try_from(uri.path())? };
            if !http2 {
                request.headers_mut().insert(header::HOST, HeaderValue::try_from(authority)?);
            }
        }
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &self.collector.headers {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }
}

/// An `ExportTraceServiceRequest`.
fn body(spans: &[Span], node: &str) -> Bytes {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resource = [
        text("service.name", "stagepost"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("host.name", node),
    ];
    let spans: Vec<Value> = spans.iter().map(shown).collect();
    let scope = json!({"scope": {"name": "stagepost"}, "spans": spans});
    json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]}).to_string().into()
}

fn shown(span: &Span) -> Value {
    let attribute = |(key, value): &(&'static str, SpanText)| match value {
        SpanText::Text(text) => json!({"key": key, "value": {"stringValue": text}}),
        // 64-bit numbers are strings in the JSON form of protobuf.
        SpanText::Number(number) => json!({"key": key, "value": {"intValue": number.to_string()}}),
    };
    let mut shown = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.span),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "status": if span.is_error { json!({"code": 2}) } else { json!({}) },
    });
    if let (Some(parent), Some(fields)) = (span.parent, shown.as_object_mut()) {
        fields.insert("parentSpanId".to_owned(), format!("{parent:016x}").into());
    }
    shown
}
