//! Owns the two ports through which ingress speaks of deliveries without knowing them: answers of upstreams, to safe
//! methods and to senders who wait, and resends.

use std::{error::Error, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::BoxBody;

use super::upgrade::Upgrading;
use crate::{
    event::{Event, EventId},
    routing::{OnDuplicate, Source, Table, WaitPolicy},
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
    /// It is to become a WebSocket connection; dropped when that is over.
    pub upgrade: Option<Upgrading>,
}

/// An answer on its way.
pub type Forwarding =
    Pin<Box<dyn Future<Output = Result<Response<BoxBody<Bytes, Box<dyn Error + Send + Sync>>>, ProxyError>> + Send>>;

/// The answer that the sender of an event waits for; None: there will be none.
pub type Awaiting = Pin<Box<dyn Future<Output = Option<Response<Passed>>> + Send>>;

/// The body of an upstream's answer.
pub type Passed = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A place among those who wait for the answer to an event.
pub struct Expected {
    /// To be told when the event is stored, before it is handed to anybody. Must not block.
    pub stored: Arc<dyn Fn(EventId) + Send + Sync>,
    /// The answer; None: there will be none. Whoever drops it waits no more.
    pub answer: Pin<Box<dyn Future<Output = Option<Response<Passed>>> + Send + Sync>>,
}

/// An answer as it was given.
pub struct Kept {
    /// Its status.
    pub status: StatusCode,
    /// Headers, without those of the hop.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Has answers of upstreams.
pub trait Proxy: Send + Sync {
    /// A place for the sender of an event that is about to be stored, under this dedupe key. None if there will be no
    /// answer: the upstream takes nothing now, or too many wait.
    fn expect(&self, policy: &WaitPolicy, dedupe: Option<u128>) -> Option<Expected>;

    /// The answer that the first sender of an event got from the upstream, waited for if it is under way; None if it
    /// got none, or it was not kept.
    fn first_answer(&self, first: EventId) -> Awaiting;

    /// Stores an answer that the sender of an event got without its upstream, for who sends the same again. Must not block.
    fn keep(&self, event: EventId, answer: Kept);

    /// Sends the request to the first upstream that its source's routes name. The answer comes without
    /// hop-by-hop headers. The caller waits at most the source's `reply_timeout` for its head and then drops the future.
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
