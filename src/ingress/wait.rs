//! Owns what senders who wait are told (`mode = "proxy"`): the upstream's answer, the first answer once more, or the
//! fallback. They wait when their event is durable, never before, and no longer than the source's `reply_timeout`.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use super::{
    Gate,
    proxy::Expected,
    reply::{DUPLICATE, EVENT_ID, ReplyBody, Taken, acknowledge},
};
use crate::{
    event::EventId,
    routing::{Source, WaitPolicy},
    telemetry::{RequestResult, SourceMetrics},
};

/// What a sender who waited is told.
pub(super) struct Answered {
    pub(super) id: EventId,
    by: By,
    duplicate: bool,
    response: Response<ReplyBody>,
}

/// Who answered; the numbers are indexes of [`crate::telemetry::ANSWERED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Upstream = 0,
    Fallback = 1,
    Repeated = 2,
}

impl Answered {
    /// The metric label.
    pub(super) const fn result(&self) -> RequestResult {
        match (self.duplicate, self.by) {
            (true, _) => RequestResult::Duplicate,
            (false, By::Fallback) => RequestResult::Accepted,
            (false, _) => RequestResult::Proxied,
        }
    }

    pub(super) fn measure(&self, metrics: &SourceMetrics, took: Duration) {
        if let Some(counter) = metrics.answered.get(self.by as usize) {
            counter.inc();
        }
        metrics.reply.observe(took);
    }

    /// The whole answer.
    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let mut response = self.response;
        if let Ok(id) = HeaderValue::from_bytes(&self.id.to_ascii()) {
            response.headers_mut().insert(EVENT_ID, id);
        }
        if self.duplicate {
            response.headers_mut().insert(DUPLICATE, HeaderValue::from_static("true"));
        }
        response
    }
}

impl Gate {
    /// A place for the sender of an event that is about to be stored.
    pub(super) fn expect(&self, source: &Source, dedupe: Option<u128>) -> Option<Expected> {
        self.ingress.proxy.expect(source.wait.as_ref()?, dedupe)
    }

    /// Waits for the answer to an event that is stored.
    pub(super) async fn answered(
        &self,
        source: &Source,
        policy: &WaitPolicy,
        id: EventId,
        expected: Option<Box<Expected>>,
    ) -> Taken {
        let response = match expected {
            None => None,
            Some(expected) => timeout(source.reply_timeout, expected.answer).await.ok().flatten(),
        };
        let (by, response) = match response {
            Some(response) => (By::Upstream, response.map(ReplyBody::passed)),
            None => (By::Fallback, fall_back(source, policy, id, StatusCode::ACCEPTED)),
        };
        Taken::Answered(Box::new(Answered { id, by, duplicate: false, response }))
    }

    /// Tells the sender of a duplicate what the first sender was told.
    pub(super) async fn answered_again(&self, source: &Arc<Source>, policy: &WaitPolicy, first: EventId) -> Taken {
        let response = timeout(source.reply_timeout, self.ingress.proxy.first_answer(first)).await.ok().flatten();
        let (by, response) = match response {
            Some(response) => (By::Repeated, response.map(ReplyBody::passed)),
            None => (By::Fallback, fall_back(source, policy, first, StatusCode::OK)),
        };
        Taken::Answered(Box::new(Answered { id: first, by, duplicate: true, response }))
    }
}

fn fall_back(source: &Source, policy: &WaitPolicy, id: EventId, status: StatusCode) -> Response<ReplyBody> {
    acknowledge(id, status, policy.fallback.as_ref().or(source.reply.as_ref()))
}
