//! Owns what senders who wait are told (`mode = "proxy"`): the upstream's answer, the first answer once more, an answer to
//! an equal request, or the fallback. They wait when their event is durable, never before, and no longer than the source's `reply_timeout`.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use super::{
    Gate,
    admit::Admitted,
    cached::{Recalled, again, missed},
    proxy::{Expected, Kept},
    reply::{DUPLICATE, EVENT_ID, ReplyBody, Taken, acknowledge},
};
use crate::{
    event::EventId,
    log::DedupeKey,
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
    Cache = 3,
}

/// A sender whose event is stored.
pub(super) struct Waits<'a> {
    pub(super) id: EventId,
    /// Its place among those who wait for an upstream.
    pub(super) expected: Option<Box<Expected>>,
    /// What is known of equal requests.
    pub(super) looked: Option<Recalled>,
    /// Those of the request.
    pub(super) headers: &'a HeaderMap,
    /// When it began to wait (time since the start).
    pub(super) begun: Duration,
    /// Who sends the same again is to get the same answer.
    pub(super) is_keyed: bool,
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
    /// Before the event is stored: a place for its sender, who may be answered before anybody here is woken; or the word
    /// that its answer is there already.
    pub(super) fn prepare(
        &self,
        policy: &WaitPolicy,
        dedupe: Option<DedupeKey>,
        looked: Option<&Recalled>,
        admitted: &mut Admitted<'_>,
    ) {
        let extras = admitted.extras.get_or_insert_default();
        extras.cached = looked.and_then(|looked| looked.noted(Some(&policy.reply_from)));
        if extras.cached.is_none() {
            extras.awaited = true;
            let expected = self.ingress.proxy.expect(policy, dedupe.map(|key| key.fingerprint));
            admitted.expected = expected.map(Box::new);
        }
    }

    /// Waits for the answer to an event that is stored.
    pub(super) async fn answered(&self, source: &Source, policy: &WaitPolicy, waits: Waits<'_>) -> Taken {
        let Waits { id, expected, looked, headers, begun, is_keyed } = waits;
        if let Some(Recalled::Hit(cache, known)) = &looked {
            if is_keyed {
                let (headers, body) = (known.headers.clone(), known.body.clone());
                self.ingress.proxy.keep(id, Kept { status: known.status, headers, body });
            }
            let response = again(cache, known);
            return Taken::Answered(Box::new(Answered { id, by: By::Cache, duplicate: false, response }));
        }
        // The time that it waited for another's answer counts.
        let waited = looked.as_ref().map(|_| self.ingress.clock.elapsed().saturating_sub(begun));
        let left = source.reply_timeout.saturating_sub(waited.unwrap_or_default());
        let response = match expected {
            None => None,
            Some(expected) => timeout(left, expected.answer).await.ok().flatten(),
        };
        let (by, response) = match (response, looked) {
            (Some(response), Some(looked)) => (By::Upstream, looked.record(response, headers, Some(id))),
            (Some(response), None) => (By::Upstream, response.map(ReplyBody::passed)),
            (None, Some(_)) => (By::Fallback, missed(fall_back(source, policy, id, StatusCode::ACCEPTED))),
            (None, None) => (By::Fallback, fall_back(source, policy, id, StatusCode::ACCEPTED)),
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
