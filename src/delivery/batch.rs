//! Owns attempts that hold several events: collecting them, sending or writing them together, and what follows for each.
//!
//! Promises that a batch is in the order in which the agenda gave its jobs, within its policy's events and bytes, and
//! ready after `max_wait` at the latest; that the gates see one attempt; that every job ends as it would alone. A
//! payload that the upstream refuses is found by halving: only an event that was refused alone dies, and an answer about
//! the endpoint only defers a batch. A body that stands in parts goes alone, so that batches never wait for each
//! other's memory.

mod encode;
mod post;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use self::post::Post;
use super::{
    adapt::Load,
    attempt,
    classify::{self, Health, Judgement},
    client::{Answer, EXCERPT_BYTES, Failure},
    gates::Ticket,
    lane::{Lane, lock},
    names::Names,
    pace::News,
    rehearse,
    request::{self, Draft},
    settle,
    sink::{Now, objects},
    targets::{Choice, Chosen, Clients},
};
use crate::{
    event::{Attempt, Body, Change, Job, Outcome, Reason, Sent},
    log::Done,
    routing::{BatchPolicy, FilePolicy, ObjectPolicy, Table, Target, Upstream},
};

/// So long a request that follows in the same attempt waits for the rate; then its events go back to the agenda.
const ANOTHER_WAITS: Duration = Duration::from_secs(60);

/// What is kept of an answer for each of several events: it is the same for all.
const SHARED_EXCERPT_BYTES: usize = 512;

/// One event of a batch.
struct Item<'a> {
    draft: Draft<'a>,
    /// As it stands in the batch.
    bytes: Bytes,
}

/// What became of one request or write.
struct Sending {
    url: Box<str>,
    judged: Judgement,
    status: Option<u16>,
    error: Option<Box<str>>,
    excerpt: Bytes,
    latency_ms: u32,
    news: News,
    /// It can't be sent at all.
    unsendable: Option<Box<str>>,
}

impl Sending {
    /// What became of a write, which has no answer.
    fn stored(url: String, judged: Judgement) -> Self {
        Self {
            url: url.into(),
            error: judged.words.clone(),
            judged,
            status: None,
            excerpt: Bytes::new(),
            latency_ms: 0,
            news: News { load: Load::Unsaid, latency: Duration::ZERO, quota: None },
            unsendable: None,
        }
    }
}

impl Lane {
    /// One attempt with all that comes in time. `first` has passed the gates.
    pub(super) async fn attempt_batch(
        self: &Arc<Self>,
        clients: &mut Clients,
        (first, ticket): (Job, Ticket),
        (table, upstream, policy): (&Table, &Arc<Upstream>, &BatchPolicy),
    ) {
        let jobs = self.collect(first, policy).await;
        if !self.may_go_on() {
            self.put_back();
            return self.give_back(jobs);
        }
        let chosen = match self.choose(clients, upstream).await {
            Choice::Nobody => {
                self.put_back();
                return self.give_back(jobs);
            }
            Choice::Only => None,
            Choice::One(chosen) => Some(chosen),
        };
        let upstream = chosen.as_ref().map_or(upstream, |chosen| &chosen.upstream);
        let mut items = Vec::with_capacity(jobs.len());
        let mut drafts = Vec::with_capacity(jobs.len());
        let (log, evaluator) = (&self.env.log, &self.env.evaluator);
        for job in &jobs {
            match request::prepare(job, upstream, table, log, evaluator, &self.large_bodies, self.env.clock.now()).await
            {
                Ok(draft) => drafts.push(draft),
                Err(unsent) => self.leave(job, unsent),
            }
        }
        if drafts.is_empty() {
            return self.put_back();
        }
        let encoded = encode::all(&drafts, &upstream.target).await;
        for draft in drafts.iter().skip(encoded.len()) {
            // The thread that put them into form is gone.
            self.env.signals.returned(draft.job().event.id.pos.seq, &self.name);
        }
        items.extend(drafts.into_iter().zip(encoded).map(|(draft, bytes)| Item { draft, bytes }));
        let mut groups = within_size(items, policy.max_bytes);
        // The first request has its token.
        let mut has_token = true;
        while let Some(mut group) = groups.pop_front() {
            if !has_token && !self.another().await {
                groups.push_front(group);
                break;
            }
            has_token = false;
            let done = self.send_group((clients, chosen.as_ref()), &group, (upstream, policy)).await;
            let payload = done.judged.outcome != Outcome::Delivered && done.judged.health == Health::Alive;
            if group.len() > 1 && (payload || done.unsendable.is_some()) {
                self.metrics.batch_splits.inc();
                let second = group.split_off(group.len() / 2);
                groups.push_front(second);
                groups.push_front(group);
                self.note(&done, ticket, upstream);
                continue;
            }
            let goes_on = done.judged.outcome != Outcome::Deferred;
            self.settle_group(&group, ticket, done, upstream);
            if !goes_on {
                break;
            }
        }
        if has_token {
            self.put_back();
        }
        let left = groups.iter().flatten();
        left.for_each(|item| self.env.signals.returned(item.draft.job().event.id.pos.seq, &self.name));
    }

    /// Takes what waits and what comes, until the batch is full, its first event has waited long enough, or a job does
    /// not fit.
    async fn collect(&self, first: Job, policy: &BatchPolicy) -> Vec<Job> {
        let mut bytes = weight(&first);
        let mut jobs = vec![first];
        let alone = |job: &Job| matches!(job.event.body, Body::Parts { .. });
        let is_alone = jobs.first().is_some_and(alone);
        let filled = async {
            loop {
                {
                    let mut hall = lock(&self.hall);
                    self.take_inbox(&mut hall);
                    loop {
                        let is_full = is_alone || jobs.len() >= policy.max_items || bytes >= policy.max_bytes;
                        if is_full || hall.closed || hall.gates.is_probing() {
                            return;
                        }
                        let Some(next) = hall.gates.queue.front() else { break };
                        if alone(next) || bytes.saturating_add(weight(next)) > policy.max_bytes {
                            return;
                        }
                        bytes += weight(next);
                        jobs.extend(hall.gates.queue.pop_front());
                    }
                }
                self.more.notified().await;
            }
        };
        // Cancel-safe: a job is taken and kept without an await between.
        let _full = tokio::time::timeout(policy.max_wait, filled).await;
        lock(&self.hall).collecting = false;
        // The steward finds another worker for what waits.
        self.ring();
        jobs
    }

    /// Whether the gates have not closed meanwhile.
    fn may_go_on(&self) -> bool {
        let hall = lock(&self.hall);
        !hall.closed && hall.gates.is_open()
    }

    /// Waits until the gates let another request of the same attempt begin. False if that is not soon.
    async fn another(&self) -> bool {
        let end = self.env.clock.elapsed().saturating_add(ANOTHER_WAITS);
        loop {
            let now = self.env.clock.elapsed();
            let answer = {
                let mut hall = lock(&self.hall);
                if hall.closed { Err(None) } else { hall.gates.another(now) }
            };
            match answer {
                Ok(()) => return true,
                Err(Some(until)) if until <= end => tokio::time::sleep(until.saturating_sub(now)).await,
                Err(_) => return false,
            }
        }
    }

    /// Takes note of what a request said about the pace that settles nothing yet.
    fn note(&self, done: &Sending, ticket: Ticket, upstream: &Upstream) {
        if done.unsendable.is_some() {
            return self.put_back();
        }
        let now = self.env.clock.elapsed();
        let mut hall = lock(&self.hall);
        let others = hall.gates.in_flight.saturating_sub(1);
        let _excused = hall.gates.pace.observe(&done.news, ticket.start, upstream, others, now);
    }

    async fn send_group(
        &self,
        (clients, chosen): (&mut Clients, Option<&Chosen>),
        group: &[Item<'_>],
        (upstream, policy): (&Arc<Upstream>, &BatchPolicy),
    ) -> Sending {
        self.metrics.batch_items.observe_number(group.len() as u64);
        let started = self.env.clock.elapsed();
        let rehearsal = self.rehearsal.load_full();
        let mut done = match (&upstream.target, &rehearsal) {
            (target, Some(rehearsal)) => {
                let url = match target {
                    Target::File(files) => format!("file://{}", files.pattern().display()).into(),
                    _ => Post::new(group, upstream, policy.format).url(),
                };
                let result = rehearsal.exchange(upstream, self.env.clock.steady()).await;
                let mut done = self.answered(url, result, (upstream, false));
                self.rehearsed(rehearsal, &mut done.judged);
                done.error = done.judged.words.clone();
                done
            }
            (Target::File(files), None) => self.write_group(group, files).await,
            (Target::Objects(policy), None) => put_group(group, (upstream, &self.names), policy).await,
            _ => {
                let post = Post::new(group, upstream, policy.format);
                let protocol = chosen.map_or(&self.protocol, |chosen| &*chosen.protocol);
                let result = clients.to(chosen).exchange(&post, upstream, protocol, EXCERPT_BYTES).await;
                let excused = chosen.is_some_and(|chosen| {
                    let status = result.as_ref().map(|answer| answer.status);
                    self.balancer.observe(chosen, status, self.env.clock.steady())
                });
                let mut done = self.answered(post.url(), result, (upstream, group.len() > 1));
                done.judged.excuse(excused);
                done
            }
        };
        let latency = self.env.clock.elapsed().saturating_sub(started);
        self.metrics.attempt.observe(latency);
        done.news.latency = latency;
        done.latency_ms = u32::try_from(latency.as_millis()).unwrap_or(u32::MAX);
        done
    }

    fn answered(
        &self,
        url: Box<str>,
        result: Result<Answer, Failure>,
        (upstream, several): (&Upstream, bool),
    ) -> Sending {
        let mut judged = attempt::judge(&result, upstream, self.env.clock.now());
        if several && judged.outcome == Outcome::Refused && judged.endpoint {
            // It says nothing about the events.
            judged.outcome = Outcome::Deferred;
        }
        let news = News::of(&result, Duration::ZERO, &mut judged, upstream, self.env.clock.now());
        let unsendable = match &result {
            Err(Failure::Unsendable(words)) => Some(words.clone()),
            _ => None,
        };
        let (status, error) =
            (result.as_ref().ok().map(|answer| answer.status.as_u16()), attempt::error_words(&result, &judged));
        let mut excerpt = result.map(|answer| answer.body).unwrap_or_default();
        if several {
            excerpt = Bytes::copy_from_slice(excerpt.get(..SHARED_EXCERPT_BYTES).unwrap_or(&excerpt));
        }
        Sending { url, judged, status, error, excerpt, latency_ms: 0, news, unsendable }
    }

    /// Lines of a file, on a blocking thread.
    async fn write_group(&self, group: &[Item<'_>], policy: &Arc<FilePolicy>) -> Sending {
        let lines: Vec<Bytes> = group.iter().map(|item| item.bytes.clone()).collect();
        let now = Now { wall: self.env.clock.now(), steady: self.env.clock.steady() };
        let (files, policy) = (self.files.clone(), policy.clone());
        let pattern = policy.pattern();
        let written = tokio::task::spawn_blocking(move || files.write(&policy, &lines.concat(), now)).await;
        self.count_files();
        // The steward looks again at when the file is too old.
        self.ring();
        let written = match written {
            Ok(Ok(url)) => Ok(url),
            Ok(Err(error)) => Err(format!("the file can't be written: {error}")),
            Err(gone) => Err(format!("the file can't be written: {gone}")),
        };
        let (url, judged) = match written {
            Ok(url) => (url, classify::written()),
            Err(words) => (format!("file://{}", pattern.display()), classify::unwritable(words.into())),
        };
        Sending::stored(url, judged)
    }

    /// Writes what became of each event; the gates are told once.
    fn settle_group(self: &Arc<Self>, group: &[Item<'_>], ticket: Ticket, done: Sending, upstream: &Upstream) {
        if let Some(words) = done.unsendable {
            self.put_back();
            for item in group {
                let change = Change::Die(Reason::with("unsendable", &words));
                self.write(settle::attempted(&item.draft.job().into(), None, change), Done::nobody());
            }
            return;
        }
        let (env, judged) = (&self.env, &done.judged);
        let (at, now) = (env.clock.now(), env.clock.steady());
        let mut open = None;
        for item in group {
            let job = item.draft.job();
            if let Some(counter) = self.metrics.attempts.get(judged.outcome as usize) {
                counter.inc();
            }
            if judged.outcome == Outcome::Delivered {
                self.metrics.delivery.observe(at.since(job.event.received_at));
            }
            let attempt = Attempt {
                number: rehearse::number(job, judged),
                at,
                outcome: judged.outcome,
                status: done.status,
                error: done.error.clone(),
                latency_ms: done.latency_ms,
                excerpt: done.excerpt.clone(),
                sent: Sent { url: done.url.clone(), sha256: item.draft.sent().sha256, signed: None },
            };
            match open {
                None => open = Some(self.settle((job, ticket), attempt, (judged, &done.news), upstream)),
                Some(open) => {
                    self.trace(job, &attempt);
                    let change = settle::change(job, judged, &upstream.retry, open, &env.jitter, now);
                    self.write(settle::attempted(&job.into(), Some(attempt), change), Done::nobody());
                }
            }
        }
    }

    /// Ends what an earlier process left of files.
    pub(super) async fn recover_files(self: &Arc<Self>) {
        let table = self.env.live.snapshot();
        let Some(Target::File(policy)) = table.upstreams.get(&*self.name).map(|upstream| upstream.target.clone())
        else {
            return;
        };
        let files = self.files.clone();
        self.told(tokio::task::spawn_blocking(move || files.recover(&policy)).await);
    }

    /// Finishes the open file if it is old enough, or `anyway`. A drain waits for it.
    pub(super) async fn finish_files(self: &Arc<Self>, anyway: bool) {
        self.env.begin();
        let (files, now) = (self.files.clone(), self.env.clock.steady());
        let finished = tokio::task::spawn_blocking(move || files.finish_old(now, anyway)).await;
        if !self.told(finished) {
            // The steward would come back at once.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.env.end();
    }

    fn told(&self, result: Result<std::io::Result<()>, tokio::task::JoinError>) -> bool {
        self.count_files();
        let error = match result {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(gone) => gone.to_string(),
        };
        tracing::warn!(upstream = &*self.name, error, "a file of events could not be finished; it is tried again");
        false
    }

    fn count_files(&self) {
        self.metrics.sink_files.add(self.files.take_finished());
        self.metrics.sink_open_bytes.set(i64::try_from(self.files.open_bytes()).unwrap_or(i64::MAX));
    }
}

/// One object of a store.
async fn put_group(group: &[Item<'_>], upstream: (&Upstream, &Arc<Names>), policy: &ObjectPolicy) -> Sending {
    let jobs: Vec<&Job> = group.iter().map(|item| item.draft.job()).collect();
    let lines = group.iter().map(|item| item.bytes.clone()).collect();
    let (url, judged) = match objects::put(upstream, policy, &jobs, lines).await {
        Ok(url) => (url, classify::written()),
        Err(words) => (policy.place.to_string(), classify::unwritable(words)),
    };
    Sending::stored(url, judged)
}

/// What a job counts towards the bytes of a batch before it is put together.
fn weight(job: &Job) -> usize {
    usize::try_from(job.event.body.length()).unwrap_or(usize::MAX)
}

/// Groups of neighbours that fit; what is larger by itself stands alone.
fn within_size(items: Vec<Item<'_>>, max_bytes: usize) -> VecDeque<Vec<Item<'_>>> {
    let mut groups: VecDeque<Vec<Item<'_>>> = VecDeque::new();
    let mut bytes = 0_usize;
    for item in items {
        bytes = bytes.saturating_add(item.bytes.len());
        match groups.back_mut() {
            Some(group) if bytes <= max_bytes => group.push(item),
            _ => {
                bytes = item.bytes.len();
                groups.push_back(vec![item]);
            }
        }
    }
    groups
}
