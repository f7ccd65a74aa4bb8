//! Owns attempts whose sender waits for the answer: handing it out as it comes, and storing it for who sends again.
//!
//! Promises: 2xx to 4xx go to the sender and settle the delivery; a 5xx or no answer gives the sender its fallback and
//! the delivery goes on, unless the source passes errors: then the 5xx goes out once the end of the delivery and of its
//! dedupe key are durable. An answer is never held in memory whole unless it is small: at most [`PIECES`] pieces are
//! under way, and the upstream is read as fast as the sender reads. A sender that goes away changes nothing about the
//! delivery. Kept for duplicates: answers of at most `max_reply` bytes.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::{
    Engine, Env,
    attempt::{Concluded, judge},
    classify::Judgement,
    client::{Answer, Client, Cut, EXCERPT_BYTES, Failure},
    gates::Ticket,
    lane::Lane,
    pace::News,
    proxy::end_to_end,
    request::Draft,
    settle,
    targets::Chosen,
    waiters::Claim,
};
use crate::{
    event::{Body as Stored, Change, Job, Outcome, Reason, Seq},
    log::{Append, Appended, Class, Done, Kind, NewEntry, PART_BYTES, entry, publish::Publication},
    routing::{PublishPolicy, Upstream},
};

/// Pieces of an answer on their way to the sender.
pub(crate) const PIECES: usize = 4;

/// An answer that says it is at most so long is handed over whole: one wake-up, and what breaks off is no answer.
pub(crate) const SMALL_BYTES: u64 = 16 * 1024;

/// The body of an upstream's answer: whole, or as it comes.
pub struct Answered(From);

enum From {
    Whole(Option<Bytes>),
    Pieces {
        pieces: mpsc::Receiver<Result<Bytes, Cut>>,
        /// Of the declared length.
        left: Option<u64>,
    },
}

impl Answered {
    /// All of it.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self(From::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    pub(crate) const fn pieces(pieces: mpsc::Receiver<Result<Bytes, Cut>>, declared: Option<u64>) -> Self {
        Self(From::Pieces { pieces, left: declared })
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            From::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            From::Pieces { pieces, left } => pieces.poll_recv(cx).map(|piece| {
                Some(match piece? {
                    Ok(bytes) => {
                        *left = left.map(|left| left.saturating_sub(bytes.len() as u64));
                        Ok(Frame::data(bytes))
                    }
                    Err(cut) => Err(cut.into()),
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            From::Whole(bytes) => bytes.is_none(),
            From::Pieces { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            From::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            From::Pieces { left, .. } => left.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

/// What the sender was told, or is about to be.
struct Told {
    status: StatusCode,
    headers: HeaderMap,
    /// None: longer than is kept, or not whole.
    body: Option<Bytes>,
}

impl Lane {
    /// One attempt whose sender waits for the answer.
    pub(super) async fn send_awaited(
        self: &Arc<Self>,
        (client, chosen): (&mut Client, Option<&Chosen>),
        draft: &Draft<'_>,
        (job, ticket): (&Job, Ticket),
        upstream: &Arc<Upstream>,
        mut claim: Claim,
    ) {
        let env = &self.env;
        let (at, started) = (env.clock.now(), env.clock.elapsed());
        let protocol = chosen.map_or(&self.protocol, |chosen| &*chosen.protocol);
        let begun = client.begin(draft, upstream, protocol).await;
        // How long the upstream took: a sender who reads slowly says nothing about it.
        let head = env.clock.elapsed().saturating_sub(started);
        let excused = chosen.is_some_and(|chosen| {
            self.balancer.observe(chosen, begun.as_ref().map(Response::status), self.env.clock.steady())
        });
        let (result, told) = match begun {
            Ok(response) => {
                let (answer, told) = hand_over(client, response, upstream, &mut claim, draft.is_head()).await;
                (Ok(answer), told)
            }
            Err(failure) => {
                claim.fall_back();
                (Err(failure), None)
            }
        };
        let latency = env.clock.elapsed().saturating_sub(started);
        if let Err(Failure::Unsendable(words)) = &result {
            self.put_back();
            let change = Change::Die(Reason::with("unsendable", words));
            return self.write(settle::attempted(&job.into(), None, change), Done::nobody());
        }
        let mut judged = judge(&result, upstream, env.clock.now());
        let news = News::of(&result, head, &mut judged, upstream, env.clock.now());
        judged.excuse(excused);
        let Some(told) = told else {
            return self.conclude((job, ticket), draft, result, (judged, &news), (at, latency), upstream).await;
        };
        if !told.status.is_server_error() {
            let mut judged = final_for_sender(judged);
            let published = match &upstream.publish {
                Some(policy) if judged.outcome == Outcome::Delivered => {
                    Box::pin(self.published_of_told(policy, (job, &told), &result, &mut judged, upstream)).await
                }
                _ => None,
            };
            let copies = match (&result, &told.body) {
                (Ok(answer), Some(body)) if self.is_shadowed() => {
                    let whole = answered(answer, body.clone(), None);
                    self.copies(draft, &whole, upstream)
                }
                _ => Vec::new(),
            };
            let attempt = self.made(job, draft, result, &judged, (at, latency));
            self.keep(job, told, claim);
            self.settle((job, ticket), Concluded { attempt, published, copies }, (&judged, &news), upstream);
            return;
        }
        let ending = Judgement { code: "answered_error", ..final_for_sender(judged.clone()) };
        let attempt = self.made(job, draft, result, &ending, (at, latency));
        let end = settle::attempted(&job.into(), Some(attempt.clone()), Change::Die(ending.reason()));
        if self.end(job, end, &told, &claim).await {
            let body = Answered::whole(told.body.clone().unwrap_or_default());
            let _gone = claim.answer(made(&told, body));
            self.observe((job, ticket), (&ending, &news), upstream);
        } else {
            claim.fall_back();
            self.settle((job, ticket), attempt, (&judged, &news), upstream);
        }
    }

    /// What is published of an answer that its sender has already: nothing is tried again because of it.
    async fn published_of_told(
        &self,
        policy: &PublishPolicy,
        (job, told): (&Job, &Told),
        result: &Result<Answer, Failure>,
        judged: &mut Judgement,
        upstream: &Upstream,
    ) -> Option<Box<Publication>> {
        let answer = result.as_ref().ok()?;
        let (body, cut) = match &told.body {
            Some(body) => (body.clone(), None),
            None => (Bytes::new(), Some(answer.cut.clone().unwrap_or(Cut::Longer))),
        };
        let whole = answered(answer, body, cut);
        let published = self.published(policy, (job, &whole), judged, upstream).await;
        if judged.outcome == Outcome::Deferred {
            (judged.outcome, judged.code) = (Outcome::Refused, "unpublishable");
        }
        published
    }

    /// Stores what the sender was told, for who sends the same again; then it is over.
    fn keep(self: &Arc<Self>, job: &Job, mut told: Told, claim: Claim) {
        told.body = told.body.filter(|_| claim.awaited.dedupe.is_some());
        // A refusal drops the claim too: a duplicate gets the fallback then.
        let done = Done::nobody().first_telling(Box::new(move |id| claim.stored_at(id.pos.seq)));
        self.env.keep(job.event.id.pos.seq, told, done);
    }

    /// Makes the end of a delivery and of its dedupe key durable. False if the log refused.
    async fn end(self: &Arc<Self>, job: &Job, end: NewEntry, told: &Told, claim: &Claim) -> bool {
        let forgotten = claim.awaited.dedupe;
        let (event, status) = (job.event.id.pos.seq, told.status.as_u16());
        let answer = entry::Answer { event, status, kept: None, forgotten };
        let (done, stored) = Done::channel();
        let ended = Append { entry: end, ..self.env.upkeep(Vec::new(), &answer, Done::nobody()) };
        self.env.log.append_all(vec![ended, self.env.upkeep(Vec::new(), &answer, done)]);
        let is_stored = matches!(stored.await, Ok(Ok(Appended::Appended(_))));
        if let (true, Some(fingerprint)) = (is_stored, forgotten) {
            self.env.log.forget(fingerprint);
        }
        is_stored
    }
}

impl Engine {
    /// Stores an answer that the sender of an event got without an attempt, for who sends the same again.
    pub fn keep(&self, event: Seq, status: StatusCode, headers: HeaderMap, body: Bytes) {
        let env = self.0.env.clone();
        let waiters = env.waiters.clone();
        let done = Done::nobody().first_telling(Box::new(move |id| waiters.remember(event, Some(id.pos.seq))));
        env.keep(event, Told { status, headers, body: Some(body) }, done);
    }
}

impl Env {
    fn keep(&self, event: Seq, told: Told, done: Done) {
        let mut parts = Vec::new();
        let kept = told.body.map(|body| {
            if body.len() <= PART_BYTES {
                return (told.headers, Stored::Inline(body));
            }
            let length = body.len() as u64;
            let mut rest = body;
            while !rest.is_empty() {
                let payload = rest.split_to(PART_BYTES.min(rest.len()));
                parts.push(NewEntry { kind: Kind::Part, payload });
            }
            (told.headers, Stored::Parts { seqs: Vec::new(), length })
        });
        let answer = entry::Answer { event, status: told.status.as_u16(), kept, forgotten: None };
        self.log.append(self.upkeep(parts, &answer, done));
    }

    fn upkeep(&self, parts: Vec<NewEntry>, answer: &entry::Answer, done: Done) -> Append {
        Append {
            parts,
            entry: NewEntry { kind: Kind::Answer, payload: entry::encode_answer(answer) },
            dedupe: None,
            class: Class::Upkeep,
            time: self.clock.now(),
            done,
        }
    }
}

/// What an answer means that the sender has: nothing is tried again, whatever it speaks of.
fn final_for_sender(judged: Judgement) -> Judgement {
    match judged.outcome {
        Outcome::Delivered => judged,
        _ => Judgement { outcome: Outcome::Refused, endpoint: false, ..judged },
    }
}

/// Hands an answer to the sender, or says that there is none. What the sender was told is given too; a 5xx is told
/// later, by the caller.
async fn hand_over(
    client: &mut Client,
    response: Response<hyper::body::Incoming>,
    upstream: &Arc<Upstream>,
    claim: &mut Claim,
    is_head: bool,
) -> (Answer, Option<Told>) {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    let mut answer = Answer { status, headers: parts.headers, body: Bytes::new(), cut: None };
    let is_error = status.is_server_error();
    if status.is_informational() || (is_error && !claim.awaited.pass_errors) {
        claim.fall_back();
        client.finish(body, &mut answer, upstream, EXCERPT_BYTES).await;
        return (answer, None);
    }
    let headers = end_to_end(&answer.headers, is_head);
    let declared = body.size_hint().exact();
    if is_error || declared.is_some_and(|length| length <= SMALL_BYTES) {
        client.finish(body, &mut answer, upstream, upstream.max_reply.max(EXCERPT_BYTES)).await;
        let whole = answer.body.clone();
        answer.body.truncate(EXCERPT_BYTES);
        if answer.cut.is_some() {
            claim.fall_back();
            return (answer, None);
        }
        let told = Told { status, headers, body: Some(whole.clone()) };
        let answered = is_error || claim.answer(made(&told, Answered::whole(whole)));
        return (answer, answered.then_some(told));
    }
    let (out, pieces) = mpsc::channel(PIECES);
    let mut told = Told { status, headers, body: None };
    if !claim.answer(made(&told, Answered::pieces(pieces, declared))) {
        client.finish(body, &mut answer, upstream, EXCERPT_BYTES).await;
        return (answer, None);
    }
    let (kept, cut) = client.relay(body, upstream, upstream.max_reply, out).await;
    if cut.is_none() {
        told.body = Some(kept.clone());
    }
    answer.body = kept;
    answer.body.truncate(EXCERPT_BYTES);
    answer.cut = cut;
    (answer, Some(told))
}

/// The same answer with the body that its sender got.
fn answered(answer: &Answer, body: Bytes, cut: Option<Cut>) -> Answer {
    Answer { status: answer.status, headers: answer.headers.clone(), body, cut }
}

fn made(told: &Told, body: Answered) -> Response<Answered> {
    let mut response = Response::new(body);
    *response.status_mut() = told.status;
    *response.headers_mut() = told.headers.clone();
    response
}
