//! Owns the two ports through which ingress speaks of deliveries without knowing them: answers of upstreams to safe
//! methods, and resends.

use std::{error::Error, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::BoxBody;

use crate::{
    event::{Event, EventId},
    routing::{OnDuplicate, Source, Table},
};

/// A request with a safe method (GET, HEAD, OPTIONS), verified and (unless the source says otherwise) stored.
pub struct SafeRequest {
    /// The request; the body is inline. The id is [`SafeRequest::id`], or zero if it was not stored.
    pub event: Event,
    /// Its id, if it was stored.
    pub id: Option<EventId>,
    /// The source that took it.
    pub source: Arc<Source>,
    /// The snapshot of the routing table that decides where it goes.
    pub table: Arc<Table>,
}

/// An answer on its way.
pub type Forwarding =
    Pin<Box<dyn Future<Output = Result<Response<BoxBody<Bytes, Box<dyn Error + Send + Sync>>>, ProxyError>> + Send>>;

/// Sends safe requests to upstreams, once.
pub trait Proxy: Send + Sync {
    /// Sends the request to the first upstream that its source's routes name. The caller waits at most the source's
    /// `reply_timeout` and then drops the future.
    fn forward(&self, request: SafeRequest) -> Forwarding;
}

/// Why an upstream gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It can't be reached, or no route names one: 502.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time: 504.
    #[error("the upstream did not answer in time")]
    Late,
}

/// Is told about resends, which were answered already. Must not block.
pub trait DuplicateSink: Send + Sync {
    /// An event with this dedupe key was accepted before.
    fn duplicate(&self, first: EventId, body_differs: bool, on_duplicate: OnDuplicate);
}
