//! Owns answers that become events: what is published of a good answer, and that it becomes durable with the settlement.
//!
//! Promises that both are one decision of the log: no crash leaves a delivered event whose answer was not published, and an
//! attempt that is made again after one publishes nothing twice. An answer is published whole or not at all: one that
//! broke off is asked for again, one that is longer than `max_reply` refuses the delivery. Deliberately absent: who gets
//! what is published.

use std::sync::Arc;

use super::{
    classify::{Health, Judgement},
    client::{Answer, Cut},
    headers,
    lane::Lane,
    policy,
};
use crate::{
    event::{Job, Outcome},
    log::{
        Append, AppendError, Class, Done, NewEntry,
        publish::{self, Publication, Publishing},
    },
    routing::{PublishPolicy, Upstream},
};

/// The longest type of an event, in bytes: longer ones are none.
const TYPE_BYTES_MAX: usize = 256;

impl Lane {
    /// What is published of an answer that was judged good. An answer that can't be published is judged again.
    pub(super) async fn published(
        &self,
        policy: &PublishPolicy,
        (job, answer): (&Job, &Answer),
        judged: &mut Judgement,
        upstream: &Upstream,
    ) -> Option<Box<Publication>> {
        if let Some(cut) = &answer.cut {
            unpublishable(cut, judged, upstream);
            return None;
        }
        let table = self.env.live.snapshot();
        // Without its topic nobody could get it: the configuration has changed since.
        let topic = table.topic(&policy.topic).filter(|_| !answer.body.is_empty())?;
        let event_type = match &policy.event_type {
            Some(expr) => policy::text_of(expr, answer, &self.env.evaluator).await,
            None => None,
        };
        let event_type = event_type.filter(|kind| !kind.is_empty() && kind.len() <= TYPE_BYTES_MAX);
        let mut headers = publish::representation(&answer.headers);
        headers::continue_trace(job, &mut headers);
        Some(Box::new(Publication {
            topic: policy.topic.clone(),
            event_type: event_type.map(Into::into),
            headers,
            body: answer.body.clone(),
            extras: publish::descent(&job.event, topic.max_hops),
            key: Some(key(job)),
            generation: table.generation,
        }))
    }

    /// Queues a settlement together with what follows from it: both become durable, or none.
    pub(super) fn write_both(self: &Arc<Self>, published: Box<Publication>, entry: NewEntry, done: Done) {
        let (env, now) = (&self.env, self.env.clock.now());
        let made = match publish::prepare(&*env.log, &env.metrics, &published, now, Done::nobody()) {
            Ok(Publishing::New(append)) => append,
            Ok(Publishing::Known(..)) => return self.write(entry, done),
            Err(error) => {
                tracing::warn!(upstream = &*self.name, %error, "an answer can't be published now: it is tried again");
                return self.refused(AppendError::Busy, (Some(published), entry), done);
            }
        };
        let (lane, kept) = (self.clone(), (Some(published), entry.clone()));
        let done = done.or_else(Box::new(move |why, done| lane.refused(why, kept, done)));
        let settlement = Append { parts: Vec::new(), entry, dedupe: None, class: Class::Upkeep, time: now, done };
        env.log.append_all(vec![*made, settlement]);
    }
}

/// An answer that is not whole is no event.
fn unpublishable(cut: &Cut, judged: &mut Judgement, upstream: &Upstream) {
    match cut {
        Cut::Longer => {
            judged.outcome = Outcome::Refused;
            judged.code = "unpublishable";
            let most = upstream.max_reply;
            judged.words = Some(
                format!("the answer is longer than max_reply, {most} bytes, so that it can't be published").into(),
            );
        }
        broken => {
            judged.outcome = Outcome::Deferred;
            judged.health = Health::Failing;
            judged.words = Some(broken.to_string().into());
        }
    }
}

/// The same for an attempt that is made again, another one for a replay: who replays wants another answer.
fn key(job: &Job) -> Vec<u8> {
    let replays = job.replays.to_be_bytes();
    [&b"answer\0"[..], &job.event.id.to_ascii(), job.upstream.as_bytes(), b"\0", &replays].concat()
}
