//! Owns one attempt of a delivery, from the configuration of its moment to the entry in the log.
//!
//! Promises that every attempt ends in an `attempted` entry or is given back, and that the gates hear of each. What an
//! answer means is `classify`'s and the operator's own rules' (`policy`), what follows `settle`'s; when an attempt may
//! begin is decided by `gates`, who makes it by `lane`.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::Step,
    classify::{self, Judgement, Rules},
    client::{Answer, Cut, EXCERPT_BYTES, Failure},
    gates::{Admitted, Evidence, Now, Ticket},
    lane::{Lane, events_each, lock},
    pace::News,
    policy, program, rehearse,
    request::{self, Draft, Unsent},
    settle, shadow,
    targets::{Choice, Chosen, Clients},
};
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, Job, Outcome, Reason},
    log::{Done, publish::Publication},
    routing::{AnswerPolicy, Target, Upstream},
    telemetry::{SpanText, Stretch},
};

/// When an attempt that failed on our side (an expression worker gone, the disk unreadable) is made again.
const OUR_FAULT_DELAY: Duration = Duration::from_secs(5);

impl Lane {
    /// One attempt, from the configuration of this moment to the entry in the log. Gives the concurrency to go on with.
    pub(super) async fn attempt(self: &Arc<Self>, clients: &mut Clients, admitted: Admitted) -> usize {
        let (env, Admitted { job, ticket }) = (&self.env, admitted);
        let table = env.live.snapshot();
        let Some(upstream) = table.upstreams.get(&*self.name) else {
            self.put_back();
            self.give_back([job]);
            return 0;
        };
        if let Some(policy) = &upstream.batch {
            self.attempt_batch(clients, (job, ticket), (&table, upstream, policy)).await;
            return upstream.concurrency;
        }
        let chosen = match self.choose(clients, upstream).await {
            Choice::Nobody => {
                self.put_back();
                self.give_back([job]);
                return upstream.concurrency;
            }
            Choice::Only => None,
            Choice::One(chosen) => Some(chosen),
        };
        let upstream = chosen.as_ref().map_or(upstream, |chosen| &chosen.upstream);
        let now = env.clock.now();
        match request::prepare(&job, upstream, &table, &env.log, &env.evaluator, &self.large_bodies, now).await {
            Ok(draft) => self.send((clients, chosen.as_ref()), &draft, (&job, ticket), upstream).await,
            Err(unsent) => {
                self.put_back();
                self.leave(&job, unsent);
            }
        }
        upstream.concurrency
    }

    /// What becomes of a delivery that can't be attempted.
    pub(super) fn leave(self: &Arc<Self>, job: &Job, unsent: Unsent) {
        self.env.waiters.returned(job.event.id.pos.seq, &self.name);
        let change = match unsent {
            Unsent::Settled(change) => change,
            Unsent::Later(words) => {
                tracing::warn!(upstream = &*self.name, event = %job.event.id, reason = &*words, "an attempt is put off");
                Change::Postpone(self.env.clock.steady().after(OUR_FAULT_DELAY))
            }
        };
        self.write(settle::attempted(&job.into(), None, change), Done::nobody());
    }

    async fn send(
        self: &Arc<Self>,
        (clients, chosen): (&mut Clients, Option<&Chosen>),
        draft: &Draft<'_>,
        (job, ticket): (&Job, Ticket),
        upstream: &Arc<Upstream>,
    ) {
        let env = &self.env;
        if let Some(rehearsal) = self.rehearsal.load_full() {
            return Box::pin(self.send_rehearsed(&rehearsal, draft, (job, ticket), upstream)).await;
        }
        if let Some(claim) = env.waiters.claim(job.event.id.pos.seq, &self.name) {
            // Boxed: what few sources ask for does not make every attempt larger.
            return Box::pin(self.send_awaited((clients.to(chosen), chosen), draft, (job, ticket), upstream, claim))
                .await;
        }
        let (at, started) = (env.clock.now(), env.clock.elapsed());
        let protocol = chosen.map_or(&self.protocol, |chosen| &*chosen.protocol);
        let keep = kept_bytes(upstream, self.is_shadowed());
        let result = match &upstream.target {
            Target::Command(argv) => Box::pin(program::run(argv, draft.body(), upstream.timeout)).await,
            _ => clients.to(chosen).exchange(draft, upstream, protocol, keep).await,
        };
        let excused = chosen.is_some_and(|chosen| {
            self.balancer.observe(chosen, result.as_ref().map(|answer| answer.status), env.clock.steady())
        });
        let latency = env.clock.elapsed().saturating_sub(started);
        if let Err(Failure::Unsendable(words)) = &result {
            self.put_back();
            let change = Change::Die(Reason::with("unsendable", words));
            return self.write(settle::attempted(&job.into(), None, change), Done::nobody());
        }
        let mut judged = judge(&result, upstream, env.clock.now());
        let news = News::of(&result, latency, &mut judged, upstream, env.clock.now());
        judged.excuse(excused);
        self.conclude((job, ticket), draft, result, (judged, &news), (at, latency), upstream).await;
    }

    /// Applies the operator's own rules to an attempt, and settles it.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        (job, ticket): (&Job, Ticket),
        draft: &Draft<'_>,
        result: Result<Answer, Failure>,
        (mut judged, news): (Judgement, &News),
        times: (Timestamp, Duration),
        upstream: &Arc<Upstream>,
    ) {
        if let Some(answers) = &upstream.answers {
            // Boxed: what few upstreams ask for does not make every attempt larger.
            Box::pin(policy::apply(answers, &result, &mut judged, &self.env.evaluator)).await;
        }
        let published = match (&upstream.publish, &result) {
            (Some(policy), Ok(answer)) if judged.outcome == Outcome::Delivered => {
                Box::pin(self.published(policy, (job, answer), &mut judged, upstream)).await
            }
            _ => None,
        };
        let copies = match &result {
            Ok(answer) => self.copies(draft, answer, upstream),
            Err(_) => Vec::new(),
        };
        let attempt = self.made(job, draft, result, &judged, times);
        self.settle((job, ticket), Concluded { attempt, published, copies }, (&judged, news), upstream);
    }

    /// Counts an attempt that was made, and describes it.
    pub(super) fn made(
        &self,
        job: &Job,
        draft: &Draft<'_>,
        result: Result<Answer, Failure>,
        judged: &Judgement,
        (at, latency): (Timestamp, Duration),
    ) -> Attempt {
        self.metrics.attempt.observe(latency);
        if matches!(result, Err(Failure::AddressRefused(_))) {
            self.metrics.addresses_refused.inc();
        }
        if draft.is_resigned() {
            self.metrics.resigned.inc();
        }
        if let Some(counter) = self.metrics.attempts.get(judged.outcome as usize) {
            counter.inc();
        }
        if judged.outcome == Outcome::Delivered {
            self.metrics.delivery.observe(self.env.clock.now().since(job.event.received_at));
        }
        Attempt {
            number: rehearse::number(job, judged),
            at,
            outcome: judged.outcome,
            status: result.as_ref().ok().map(|answer| answer.status.as_u16()),
            error: error_words(&result, judged),
            latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
            excerpt: result.map(excerpt).unwrap_or_default(),
            sent: draft.sent(),
        }
    }

    /// Tells the gates and the log what became of an attempt, and what is published because of it. Gives whether the
    /// breaker is open after it.
    pub(super) fn settle(
        self: &Arc<Self>,
        work: (&Job, Ticket),
        concluded: impl Into<Concluded>,
        said: (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        let concluded = concluded.into();
        self.trace(work.0, &concluded.attempt);
        self.settle_by(work, Some(concluded), said, upstream)
    }

    /// Tells whoever collects spans about an attempt.
    pub(super) fn trace(&self, job: &Job, attempt: &Attempt) {
        let traces = &self.env.metrics.traces;
        let Some(standing) = traces.standing_of(&job.event) else { return };
        let latency = Duration::from_millis(attempt.latency_ms.into());
        let stretch = Stretch { end_ms: attempt.at.after(latency).as_millis(), began: latency, ended: Duration::ZERO };
        let mut attributes = vec![
            ("stagepost.upstream", SpanText::Text((&*self.name).into())),
            ("stagepost.attempt", SpanText::Number(job.number.into())),
            ("stagepost.outcome", SpanText::Text(attempt.outcome.as_str().into())),
            ("stagepost.event.id", SpanText::Text(job.event.id.to_string().into())),
        ];
        if let Some(status) = attempt.status {
            attributes.push(("http.response.status_code", SpanText::Number(status.into())));
        }
        let step = crate::event::Step::Attempt { upstream: &self.name, number: job.number };
        traces.tell(&standing, step, stretch, attempt.outcome != Outcome::Delivered, attributes);
    }

    /// Tells the gates alone: the log knows already.
    pub(super) fn observe(
        self: &Arc<Self>,
        work: (&Job, Ticket),
        said: (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        self.settle_by(work, None, said, upstream)
    }

    fn settle_by(
        self: &Arc<Self>,
        (job, ticket): (&Job, Ticket),
        concluded: Option<Concluded>,
        (judged, news): (&Judgement, &News),
        upstream: &Upstream,
    ) -> bool {
        let env = &self.env;
        let now = Now::of(&env.clock);
        let mut hall = lock(&self.hall);
        let observed = hall.gates.observe((judged, news), (job.event.id.pos.seq, ticket), upstream, now);
        let window = hall.gates.new_window(upstream.concurrency, events_each(upstream), now.elapsed);
        self.show(&hall.gates, upstream.concurrency, now);
        let failures = hall.gates.breaker.failures();
        drop(hall);

        if let Some(Concluded { attempt, published, copies }) = concluded {
            let change = settle::change(job, judged, &upstream.retry, observed.open, &env.jitter, now.time);
            if matches!(change, Change::Divert(_)) {
                self.metrics.diverted.inc();
            }
            let mut done = observed.done;
            if !copies.is_empty() && shadow::is_final(&change) {
                let lane = self.clone();
                done = done.first_telling(Box::new(move |_| lane.show_shadows(copies)));
            }
            let entry = settle::attempted(&job.into(), Some(attempt), change);
            match published {
                Some(published) => self.write_both(published, entry, done),
                None => self.write(entry, done),
            }
        }
        if window.is_some() || observed.step != Step::Same {
            self.tell(observed.step, window, failures, judged);
        }
        if news.quota.is_some() {
            self.bell.notify_one();
        }
        self.give_back(observed.returned);
        if !observed.revive.is_empty() {
            tokio::spawn(self.clone().revive(observed.revive));
        }
        observed.open
    }

    /// An attempt sent nothing: its token is free.
    pub(super) fn put_back(&self) {
        lock(&self.hall).gates.pace.put_back(self.env.clock.elapsed());
    }

    fn tell(&self, step: Step, window: Option<usize>, failures: u32, judged: &Judgement) {
        let upstream = &*self.name;
        match step {
            Step::Opened => {
                let reason = judged.words.as_deref().unwrap_or_default();
                tracing::warn!(upstream, failures, reason, "the breaker opened");
                self.signal(|signals| signals.paused(upstream, true));
            }
            Step::Closed => {
                tracing::info!(upstream, "the breaker closed");
                // What is rehearsed goes on not to count towards giving up.
                let paused = self.rehearsal.load().is_some() || lock(&self.hall).gates.stopped;
                self.signal(|signals| signals.paused(upstream, paused));
            }
            Step::Same | Step::Grew => {}
        }
        if let Some(window) = window {
            self.signal(|signals| signals.window(upstream, window));
        }
        self.bell.notify_one();
    }

    /// Makes deliveries pending again that died of the answers that opened the breaker.
    async fn revive(self: Arc<Self>, deliveries: impl IntoIterator<Item = Evidence> + Send) {
        let deliveries: Vec<Evidence> = deliveries.into_iter().collect();
        for Evidence { event, entry } in deliveries {
            // Without its entry the delivery never died; it is still leased, and made again after a restart.
            if let Ok(Ok(crate::log::Appended::Appended(id))) = entry.await {
                let named = settle::Named {
                    event,
                    upstream: &self.name,
                    previous: Some(id.pos.seq),
                    replays: None,
                    turn: None,
                };
                let change = Change::Replay(self.env.clock.steady());
                self.write(settle::attempted(&named, None, change), Done::nobody());
            }
        }
    }
}

/// An attempt that was made, and what follows from it besides its settlement.
pub(super) struct Concluded {
    pub(super) attempt: Attempt,
    /// Becomes an event.
    pub(super) published: Option<Box<Publication>>,
    /// For shadows, if the settlement is final.
    pub(super) copies: Vec<shadow::Copy>,
}

impl From<Attempt> for Concluded {
    fn from(attempt: Attempt) -> Self {
        Self { attempt, published: None, copies: Vec::new() }
    }
}

/// Bytes of an answer that are kept until it is judged.
fn kept_bytes(upstream: &Upstream, is_shadowed: bool) -> usize {
    let is_judged = upstream.answers.as_ref().is_some_and(AnswerPolicy::reads_bodies);
    let is_read = is_shadowed || is_judged || upstream.publish.is_some();
    if is_read { upstream.max_reply.max(EXCERPT_BYTES) } else { EXCERPT_BYTES }
}

/// What the log keeps of an answer's body. A longer one is copied, so that the rest is not kept alive by it.
fn excerpt(answer: Answer) -> bytes::Bytes {
    match answer.body.get(..EXCERPT_BYTES) {
        Some(beginning) if answer.body.len() > EXCERPT_BYTES => bytes::Bytes::copy_from_slice(beginning),
        _ => answer.body,
    }
}

pub(super) fn judge(result: &Result<Answer, Failure>, upstream: &Upstream, now: Timestamp) -> Judgement {
    let rules = Rules { soft_bounce: upstream.soft_bounce, retry_after_max: upstream.retry.retry_after_max };
    match result {
        Ok(answer) => classify::answer(answer.status, &answer.headers, rules, now),
        Err(failure @ Failure::AddressRefused(_)) => {
            Judgement { code: "address_refused", ..classify::no_answer(failure.to_string().into()) }
        }
        Err(failure) => classify::no_answer(failure.to_string().into()),
    }
}

/// What went wrong, for people: the failure or the status in words, or why a good answer's body is not whole.
pub(super) fn error_words(result: &Result<Answer, Failure>, judged: &Judgement) -> Option<Box<str>> {
    let cut = result.as_ref().ok().and_then(|answer| answer.cut.as_ref());
    let cut = cut.filter(|cut| **cut != Cut::Longer);
    judged.words.clone().or_else(|| cut.map(|cut| cut.to_string().into()))
}
