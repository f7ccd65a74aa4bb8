//! Owns the spans of a request: receipt, check, append. Only called while spans are wanted.

use std::{num::NonZeroU64, time::Duration};

use http::{StatusCode, request::Parts};

use super::{
    Ingress,
    admit::Progress,
    reply::{Refusal, Taken},
};
use crate::{
    event::{BATCH_PARTITION, EventId, Step},
    telemetry::{SpanText, Stretch},
};

/// A moment by the clock's own scale, in microseconds.
pub(super) type Mark = Option<NonZeroU64>;

/// When the steps of a request began and ended; nothing unless spans are wanted.
#[derive(Default)]
pub(super) struct Marks(Option<Box<Steps>>);

#[derive(Default)]
pub(super) struct Steps {
    pub(super) checking: Mark,
    pub(super) checked: Mark,
    pub(super) appending: Mark,
    pub(super) appended: Mark,
    /// The batch that it was: its items stand in one trace.
    pub(super) batch: Option<EventId>,
}

impl Marks {
    /// Notes that a step begins or ends now.
    pub(super) fn set(&mut self, ingress: &Ingress, step: fn(&mut Steps) -> &mut Mark) {
        if let Some(now) = ingress.mark() {
            *step(self.0.get_or_insert_default()) = Some(now);
        }
    }

    /// Notes that it was a batch whose items are stored now.
    pub(super) fn batch(&mut self, ingress: &Ingress, batch: EventId, appending: Mark) {
        self.set(ingress, |steps| &mut steps.appended);
        if let Some(steps) = &mut self.0 {
            (steps.batch, steps.appending) = (Some(batch), appending);
        }
    }
}

impl Ingress {
    /// The time, if spans are wanted.
    pub(super) fn mark(&self) -> Mark {
        let micros = || u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        NonZeroU64::new(if self.metrics.traces.is_on() { micros().max(1) } else { 0 })
    }

    /// Tells what became of a request that was taken.
    pub(super) fn trace_taken(&self, head: &Parts, progress: &Progress, begun: Duration, taken: &Taken) {
        let id = match taken {
            Taken::Accepted(id) | Taken::Duplicate(id) => Some(*id),
            Taken::Proxied(id, _) => *id,
            Taken::Answered(answered) => Some(answered.id),
            Taken::Rehearsed | Taken::Challenged(_) => None,
        };
        let result = taken.result().as_str();
        self.trace(head, progress, begun, id.filter(|id| id.pos.partition < BATCH_PARTITION), (result, None));
    }

    /// Tells why a request was not taken.
    pub(super) fn trace_refused(&self, head: &Parts, progress: &Progress, begun: Duration, refusal: &Refusal) {
        self.trace(head, progress, begun, None, (refusal.word(), Some(refusal.status())));
    }

    fn trace(
        &self,
        head: &Parts,
        progress: &Progress,
        begun: Duration,
        id: Option<EventId>,
        (result, refused): (&'static str, Option<StatusCode>),
    ) {
        let traces = &self.metrics.traces;
        let traceparent = head.headers.get("traceparent").map(http::HeaderValue::as_bytes);
        let marks = progress.marks.0.as_deref();
        let received = marks.and_then(|marks| marks.batch).or(id);
        let Some(standing) = traces.standing(received, traceparent) else { return };
        let (now, end_ms) = (self.clock.elapsed(), self.clock.now().as_millis());
        let stretch = |began: Duration, ended: Duration| Stretch {
            end_ms,
            began: now.saturating_sub(began),
            ended: now.saturating_sub(ended),
        };
        let mut attributes = vec![
            ("http.request.method", SpanText::Text(head.method.as_str().into())),
            ("stagepost.result", SpanText::Text(result.into())),
        ];
        if let Some(source) = &progress.source {
            attributes.push(("stagepost.source", SpanText::Text((&*source.name).into())));
        }
        if let Some(id) = id {
            attributes.push(("stagepost.event.id", SpanText::Text(id.to_string().into())));
        }
        if let Some(status) = refused {
            attributes.push(("http.response.status_code", SpanText::Number(status.as_u16().into())));
        }
        traces.tell(&standing, Step::Receive, stretch(begun, now), refused.is_some(), attributes);
        let at = |mark: NonZeroU64| Duration::from_micros(mark.get());
        let (Some(marks), Some(_)) = (marks, received) else { return };
        if let (Some(began), Some(ended)) = (marks.checking, marks.checked) {
            traces.tell(&standing, Step::Verify, stretch(at(began), at(ended)), false, Vec::new());
        }
        if let (Some(began), Some(ended)) = (marks.appending, marks.appended) {
            traces.tell(&standing, Step::Append, stretch(at(began), at(ended)), false, Vec::new());
        }
    }
}
