//! Owns the admission pipeline: [`Gate::admit`] reads as the specification, its helpers do one step each.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;
use http::{header, request::Parts};
use http_body::Body as HttpBody;
use tokio::sync::oneshot;

use super::{
    Gate,
    body::{self, Content, Received, Room},
    cached::{Recalled, again},
    challenge,
    client::Caller,
    door::Doors,
    head::{declared_length, host, is_not_grpc, is_possible_method, is_safe, may_speak, takes_method},
    items::Looked,
    limits,
    proxy::{Expected, ProxyError, SafeRequest},
    reply::{Refusal, ReplyBody, Taken},
    secret_path, select,
    traced::Marks,
    upgrade,
    wait::Waits,
};
use crate::{
    clock::Timestamp,
    event::{Body, Event, EventId, Extras, Pos, Proxy, Scheme, Verification},
    expr::{EvalError, Expr, Input, Output},
    log::{Acked, Append, AppendError, Appended, Class, DedupeKey, Done, Kind, NewEntry, entry::Accepting},
    quarantine::Purpose,
    routing::{Challenge, DedupeRule, Lookup, Matched, OnDuplicate, Source, SplitRule},
    tenant,
    verify::{self, Check, Head, Verified},
};

/// How far a request came, for the record of refusals.
#[derive(Default)]
pub(super) struct Progress {
    /// The source that was found.
    pub(super) source: Option<Arc<Source>>,
    /// Bytes of the body that were read.
    pub(super) read: u64,
    /// When its steps began and ended, if spans are wanted.
    pub(super) marks: Marks,
}

/// What is left of a request that was refused after reading, for the quarantine.
pub(super) struct Left {
    /// When it was received.
    pub(super) received_at: Timestamp,
    /// None if it is larger than is kept in one piece.
    pub(super) body: Option<Bytes>,
}

/// What is known of a request once its body is read and verified.
pub(super) struct Admitted<'a> {
    pub(super) received_at: Timestamp,
    client: Arc<str>,
    /// Boxed: it is rare, and who is admitted is moved.
    proxy: Option<Box<Proxy>>,
    scheme: Scheme,
    verified: Verified,
    pub(super) body: Received<'a>,
    generation: u64,
    pub(super) extras: Option<Box<Extras>>,
    /// The place of a sender who waits for an answer.
    pub(super) expected: Option<Box<Expected>>,
}

impl Admitted<'_> {
    /// Whether it is part of a loop.
    pub(super) fn is_cut(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.cut.is_some())
    }
}

impl Gate {
    /// Takes a request or says why not.
    pub(super) async fn admit<B>(
        &self,
        doors: &Doors,
        caller: &Caller,
        head: &mut Parts,
        body: &mut B,
        progress: &mut Progress,
    ) -> Result<Taken, Refusal>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let ingress = &*self.ingress;
        let table = &doors.table;

        is_possible_method(&head.method)?;
        let Matched { source, mut captures } = match table.find(host(head)?, head.uri.path()) {
            Lookup::Found(matched) => matched,
            Lookup::NotFound => return Err(Refusal::NotFound),
            Lookup::DotSegments => return Err(Refusal::DotSegments),
        };
        let source = &*progress.source.insert(source);
        let received_at = caller.again().map_or_else(|| ingress.clock.now(), |again| again.received_at);
        let by_path = secret_path::unlock(source, head, &mut captures, received_at)?;
        let head = &*head;
        // Address and certificate were those of the connection, and held before anything was kept.
        if let Some(guard) = source.guard.as_ref().filter(|_| caller.again().is_none()) {
            may_speak(guard, caller, &head.headers, &table.limits.trusted_proxies)?;
        }
        if let Some(rule) = &source.challenge
            && let Some(answer) = challenge::of_head(rule, source, head, received_at)?
        {
            return Ok(Taken::Challenged(answer));
        }
        takes_method(source, &head.method)?;
        if caller.again().is_none() {
            self.has_room(doors, source)?;
        }
        let declared = declared_length(&head.headers, source.max_body)?;
        is_not_grpc(&head.headers)?;

        progress.marks.set(ingress, |steps| &mut steps.checking);
        let (path, query) = (head.uri.path(), head.uri.query());
        let about = Head { method: &head.method, path, query, headers: &head.headers };
        let mut check = match by_path {
            Some(verified) => Check::decided(verified),
            None => source.verifier.begin(&about, received_at).map_err(|refusal| Refusal::Unverified(refusal, None))?,
        };

        let room = Room {
            memory: &ingress.memory,
            spool_budget: &ingress.spool_budget,
            spool: &ingress.spool,
            limits: &table.limits,
            metrics: &ingress.metrics,
            max_body: source.max_body,
            declared,
        };
        let received = body::read(body, &room, &mut check, &mut progress.read).await?;
        let (verified, received) = if check.needs_body() {
            Box::pin(self.judge(check, received, received_at)).await?
        } else {
            let verified = check.finish(&[]);
            (verified.map_err(|refusal| Left::unverified(&received, received_at, refusal))?, received)
        };
        progress.marks.set(ingress, |steps| &mut steps.checked);
        let rehearsing = caller.again().is_some_and(|again| again.purpose == Purpose::Recheck);
        if rehearsing && source.schema.is_none() {
            return Ok(Taken::Rehearsed);
        }
        // A recheck has no effects, and answering a challenge may have some.
        if let (Some(rule), Content::Whole(body), false) = (&source.challenge, &received.content, rehearsing)
            && let Some(answer) = match rule.kind {
                Challenge::Sns => self.subscribe(source, body)?,
                _ => challenge::of_body(rule, head, body)?,
            }
        {
            return Ok(Taken::Challenged(answer));
        }
        // What an operator admits was held up already.
        if caller.again().is_none() {
            self.take_room(doors, source)?;
        }
        let hops = tenant::hops(&head.headers);
        // Boxed: it is rare, and every request would have room for it.
        let signed = limits::signed_id(table, &head.headers).map(Box::new);
        let (client, scheme) = caller.client(&head.headers, &table.limits.trusted_proxies);
        let proxy = caller.proxy(&table.limits.trusted_proxies).map(Box::new);
        let mut body = received.into_memory().await?;
        let asked = source.event_type.is_some()
            || source.dedupe.is_some()
            || source.numbering.is_some()
            || source.split.is_some()
            || source.schema.is_some()
            || limits::looks_inside(source, hops.is_some() || signed.is_some())
            || is_safe(&head.method);
        let whole = if asked { body.whole()? } else { Bytes::new() };
        let (generation, extras) = (table.generation, None);
        let mut admitted =
            Admitted { received_at, client, proxy, scheme, verified, body, generation, extras, expected: None };
        if let (Some(skew), Some(door)) = (admitted.verified.skew_ms, doors.door(source)) {
            door.metrics.skew.observe(std::time::Duration::from_millis(skew.unsigned_abs()));
        }

        if hops.is_some() || signed.is_some() {
            let input =
                Ask { head, body: &whole, captures: &captures, source, received_at, now: received_at, item: None };
            // Boxed, as is the pool below: what is rare does not make the future of every request larger.
            admitted.extras = Box::pin(self.relayed(doors, &input, hops, signed.map(|id| *id))).await;
        }
        if is_safe(&head.method) {
            if admitted.is_cut() {
                return Err(Refusal::Loop);
            }
            return Box::pin(self.pass(doors, source, head, captures, whole, admitted)).await;
        }
        // Only who waits is told how long that takes.
        let begun = if source.wait.is_some() { ingress.clock.elapsed() } else { Default::default() };
        // The window of what comes from quarantine begins now.
        let now = caller.again().map_or(received_at, |_| ingress.clock.now());
        let input = Ask { head, body: &whole, captures: &captures, source, received_at, now, item: None };
        if source.split.is_some() || source.schema.is_some() {
            match Box::pin(self.look_into(doors, &input, &mut admitted, rehearsing)).await? {
                Looked::Items(split) => {
                    progress.marks.batch(ingress, split.batch, split.appending);
                    return Ok(split.taken);
                }
                Looked::Rehearsed => return Ok(Taken::Rehearsed),
                Looked::Whole if rehearsing => return Ok(Taken::Rehearsed),
                Looked::Whole => {}
            }
        }
        let event_type = self.event_type(&input).await;
        let mut dedupe = self.dedupe_key(doors, &input).await?;
        if let Some(key) = &mut dedupe
            && let Some((first, body_differs)) = ingress.log.seen(key, now).map_err(Refusal::Seen)?
        {
            return match &source.wait {
                None => Ok(self.known(doors, source, first, body_differs, admitted.is_cut())),
                Some(_) => Ok(Box::pin(self.resent(doors, source, caller, (first, body_differs), &admitted)).await),
            };
        }
        let wait = source.wait.as_ref().filter(|_| caller.again().is_none());
        let looked = match &source.cache {
            Some(_) if wait.is_some() && !admitted.is_cut() => Box::pin(self.consult(doors, &input)).await,
            _ => None,
        };
        if let Some(policy) = wait {
            self.prepare(policy, dedupe, looked.as_ref(), &mut admitted);
        }
        let kind = event_type.as_deref();
        progress.marks.set(ingress, |steps| &mut steps.appending);
        let stored = match &source.tenants {
            None => self.store(&input, kind, dedupe, &admitted).await?,
            Some(rule) => Box::pin(self.store_charged(doors, rule, &input, kind, dedupe, &mut admitted)).await?,
        };
        progress.marks.set(ingress, |steps| &mut steps.appended);
        match stored {
            Appended::Duplicate { first, body_differs } => match &source.wait {
                None => Ok(self.known(doors, source, first, body_differs, admitted.is_cut())),
                Some(_) => Ok(Box::pin(self.resent(doors, source, caller, (first, body_differs), &admitted)).await),
            },
            Appended::Appended(id) => {
                self.count_accepted(doors, &input, event_type.as_deref()).await;
                match wait {
                    None => Ok(Taken::Accepted(id)),
                    Some(policy) => {
                        let expected = admitted.expected.take();
                        let (headers, is_keyed) = (&head.headers, dedupe.is_some());
                        let waits = Waits { id, expected, looked, headers, begun, is_keyed };
                        Ok(Box::pin(self.answered(source, policy, waits)).await)
                    }
                }
            }
        }
    }

    /// Counts an event by its type, and looks at its number.
    pub(super) async fn count_accepted(&self, doors: &Doors, ask: &Ask<'_>, event_type: Option<&str>) {
        let Some(door) = doors.door(ask.source) else { return };
        door.count_type(event_type);
        if let Some(numbering) = ask.source.numbering.as_ref().filter(|numbering| numbering.consecutive)
            && let Ok(Some(number)) = self.select(&numbering.key, ask).await
        {
            door.note_number(&number);
        }
    }

    /// Appends the event and waits until it is durable.
    pub(super) async fn store(
        &self,
        ask: &Ask<'_>,
        event_type: Option<&str>,
        dedupe: Option<DedupeKey>,
        admitted: &Admitted<'_>,
    ) -> Result<Appended, Refusal> {
        // A log that ends without an answer has stored nothing that it promised.
        self.offer(ask, event_type, dedupe, admitted)?
            .await
            .unwrap_or(Err(AppendError::Closed))
            .map_err(Refusal::Append)
    }

    /// Appends the event. Apart from the waiting, whose future stays small.
    fn offer(
        &self,
        ask: &Ask<'_>,
        event_type: Option<&str>,
        dedupe: Option<DedupeKey>,
        admitted: &Admitted<'_>,
    ) -> Result<oneshot::Receiver<Acked>, Refusal> {
        let (inline, parts) = match &admitted.body.content {
            Content::Whole(bytes) => (Some(std::slice::from_ref(bytes)), Vec::new()),
            Content::Parts(parts) => {
                (None, parts.iter().map(|part| NewEntry { kind: Kind::Part, payload: part.clone() }).collect())
            }
            Content::Spooled(_) => return Err(Refusal::Spool(std::io::Error::other("the body is still in the spool"))),
        };
        let body = (inline, admitted.body.length);
        let payload = admitted.encode(ask, event_type, dedupe, admitted.extras.as_deref(), body);
        let (mut done, acked) = Done::through(&self.lane);
        if let Some(expected) = &admitted.expected {
            let stored = expected.stored.clone();
            done = done.first_telling(Box::new(move |id| stored(id)));
        }
        self.ingress.log.append(Append {
            parts,
            entry: NewEntry { kind: Kind::Accepted, payload },
            dedupe,
            class: Class::Event,
            time: admitted.received_at,
            done,
        });
        Ok(acked)
    }

    /// A safe method: stored (unless the source says otherwise), sent once, answered with the upstream's answer.
    async fn pass(
        &self,
        doors: &Doors,
        source: &Arc<Source>,
        head: &Parts,
        captures: Vec<(Box<str>, Box<str>)>,
        body: Bytes,
        mut admitted: Admitted<'_>,
    ) -> Result<Taken, Refusal> {
        let (received_at, begun) = (admitted.received_at, self.ingress.clock.elapsed());
        let ask = Ask { head, body: &body, captures: &captures, source, received_at, now: received_at, item: None };
        let upgrade = upgrade::place(doors, source, head)?;
        let looked = if upgrade.is_some() { None } else { self.consult(doors, &ask).await };
        if let Some(cached) = looked.as_ref().and_then(|looked| looked.noted(None)) {
            admitted.extras.get_or_insert_default().cached = Some(cached);
        }
        let id = if source.record_safe {
            match self.store(&ask, None, None, &admitted).await? {
                Appended::Appended(id) => Some(id),
                // Without a key there is nothing to be a duplicate of.
                Appended::Duplicate { first, .. } => Some(first),
            }
        } else {
            None
        };
        if let Some(Recalled::Hit(cache, known)) = &looked {
            return Ok(Taken::Proxied(id, again(cache, known)));
        }
        let waited = self.ingress.clock.elapsed().saturating_sub(begun);
        let nowhere = EventId { time: Timestamp::ZERO, pos: Pos { partition: 0, seq: 0 } };
        let event = Event {
            id: id.unwrap_or(nowhere),
            received_at: admitted.received_at,
            source: (&*source.name).into(),
            event_type: None,
            method: head.method.clone(),
            scheme: admitted.scheme,
            path: head.uri.path().into(),
            query: head.uri.query().map(Into::into),
            headers: head.headers.clone(),
            client: (&*admitted.client).into(),
            proxy: admitted.proxy.map(|proxy| *proxy),
            captures,
            verification: Verification {
                scheme: admitted.verified.scheme.into(),
                secret: admitted.verified.secret.as_deref().map(Into::into),
            },
            config_generation: admitted.generation,
            dedupe: None,
            extras: admitted.extras,
            body: Body::Inline(body),
        };
        let request = SafeRequest { event, id, source: source.clone(), table: doors.table.clone(), upgrade };
        let left = source.reply_timeout.saturating_sub(waited);
        let answer = tokio::time::timeout(left, self.ingress.proxy.forward(request));
        match answer.await {
            Ok(Ok(response)) => Ok(Taken::Proxied(
                id,
                match looked {
                    None => response.map(ReplyBody::passed),
                    Some(looked) => looked.record(response, &head.headers, id),
                },
            )),
            Ok(Err(ProxyError::Unreachable(why))) => Err(Refusal::Unreachable(why)),
            Ok(Err(ProxyError::Late)) | Err(_) => Err(Refusal::Late),
        }
    }

    /// The event type; None if the source has no rule or the rule finds nothing. A type is a convenience: whatever
    /// goes wrong with it never keeps an event out.
    pub(super) async fn event_type(&self, input: &Ask<'_>) -> Option<String> {
        let found = self.select(input.source.event_type.as_ref()?, input).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(%error, source = &*input.source.name, "the event type could not be evaluated");
            None
        })
    }

    /// The dedupe key; None if the source does not deduplicate or the request has no key.
    async fn dedupe_key(&self, doors: &Doors, input: &Ask<'_>) -> Result<Option<DedupeKey>, Refusal> {
        let Some(rule) = &input.source.dedupe else { return Ok(None) };
        let text = self.key_text(doors, input).await?;
        Ok(text.map(|text| self.keyed(input, rule, &text, input.body)))
    }

    /// What makes two requests, or two items, one event; None if there is no such rule or nothing is found.
    pub(super) async fn key_text(&self, doors: &Doors, input: &Ask<'_>) -> Result<Option<String>, Refusal> {
        let Some(rule) = &input.source.dedupe else { return Ok(None) };
        if rule.on_duplicate == OnDuplicate::Accept {
            return Ok(None);
        }
        if let Some(plain) = select::undisguised(input)
            && let Ok(Some(key)) = Box::pin(self.select(&rule.key, &Ask { head: &plain, ..*input })).await
        {
            return Ok(Some(key));
        }
        match self.select(&rule.key, input).await {
            Err(error @ EvalError::Unavailable(_)) => Err(Refusal::Key(error)),
            // What the sender sent makes the expression fail: the request has no key.
            Err(_) | Ok(None) => {
                if let Some(door) = doors.door(input.source) {
                    door.metrics.without_key.inc();
                }
                Ok(None)
            }
            Ok(Some(key)) => Ok(Some(key)),
        }
    }

    /// The key as the log knows it.
    pub(super) fn keyed(&self, input: &Ask<'_>, rule: &DedupeRule, text: &str, body: &[u8]) -> DedupeKey {
        let log = &self.ingress.log;
        DedupeKey {
            fingerprint: log.fingerprint(&input.source.name, text.as_bytes()),
            expires_at: input.now.after(rule.window),
            body: log.fingerprint("", body) as u64,
            runs_version: 0,
        }
    }

    pub(super) async fn evaluate(&self, expr: &Expr, ask: &Ask<'_>) -> Result<Output, EvalError> {
        let input = Input {
            body: ask.body,
            headers: &ask.head.headers,
            query: ask.head.uri.query(),
            path: ask.head.uri.path(),
            captures: ask.captures,
            method: ask.head.method.as_str(),
            source: &ask.source.name,
            id: None,
            received_at: ask.received_at,
        };
        match self.ingress.evaluator.now(expr, &input) {
            Some(output) => output,
            None => Box::pin(self.ingress.evaluator.eval(expr, &input)).await,
        }
    }

    /// A resend, whose sender may be one who waits.
    async fn resent(
        &self,
        doors: &Doors,
        source: &Arc<Source>,
        caller: &Caller,
        (first, body_differs): (EventId, bool),
        admitted: &Admitted<'_>,
    ) -> Taken {
        let known = self.known(doors, source, first, body_differs, admitted.is_cut());
        match source.wait.as_ref().filter(|_| caller.again().is_none()) {
            None => known,
            Some(policy) => Box::pin(self.answered_again(source, policy, first)).await,
        }
    }

    /// A resend: told to whoever revives, answered like the first. One that is `cut` out of a loop revives nothing.
    pub(super) fn known(
        &self,
        doors: &Doors,
        source: &Arc<Source>,
        first: EventId,
        body_differs: bool,
        cut: bool,
    ) -> Taken {
        if let Some(door) = doors.door(source) {
            door.metrics.duplicates.inc();
        }
        if let Some(rule) = &source.dedupe {
            let on_duplicate = if cut { OnDuplicate::Ignore } else { rule.on_duplicate };
            self.ingress.duplicates.duplicate(first, body_differs, on_duplicate);
        }
        Taken::Duplicate(first)
    }
}

impl Left {
    /// The refusal of a request whose body was read to its end.
    pub(super) fn unverified(received: &Received<'_>, received_at: Timestamp, refusal: verify::Refusal) -> Refusal {
        let body = match &received.content {
            Content::Whole(bytes) => Some(bytes.clone()),
            Content::Spooled(_) | Content::Parts(_) => None,
        };
        Refusal::Unverified(refusal, Some(Box::new(Self { received_at, body })))
    }
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never a body.
        f.debug_struct("Left").field("received_at", &self.received_at).finish_non_exhaustive()
    }
}

impl Admitted<'_> {
    /// The payload of the entry: the request as it was received, and what was found out about it. `body` is its pieces
    /// (None: it stands in parts) and its length.
    pub(super) fn encode(
        &self,
        ask: &Ask<'_>,
        event_type: Option<&str>,
        dedupe: Option<DedupeKey>,
        extras: Option<&Extras>,
        (body, body_length): (Option<&[Bytes]>, u64),
    ) -> Bytes {
        Accepting {
            received_at: self.received_at,
            source: &ask.source.name,
            event_type,
            method: &ask.head.method,
            scheme: self.scheme,
            path: ask.head.uri.path(),
            query: ask.head.uri.query(),
            headers: &ask.head.headers,
            client: &self.client,
            proxy: self.proxy.as_deref(),
            captures: ask.captures,
            verification_scheme: self.verified.scheme,
            verification_secret: self.verified.secret.as_deref(),
            config_generation: self.generation,
            dedupe: dedupe.map(|key| (key.fingerprint, key.expires_at, key.body)),
            extras,
            body,
            body_length,
        }
        .encode()
    }
}

impl Progress {
    /// Whether more of the request is left than is worth reading, or its sender still waits for a `100 Continue`:
    /// then the connection ends with the answer.
    pub(super) fn leaves_much(&self, head: &Parts, at_end: bool) -> bool {
        /// A rest this small is read and thrown away.
        const WORTH_READING: u64 = 16 * 1024;
        let declared = declared_length(&head.headers, WORTH_READING);
        let small = matches!(declared, Ok(Some(_)));
        !at_end && (!small || head.headers.contains_key(header::EXPECT))
    }
}

/// What an expression may ask about.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) head: &'a Parts,
    /// In one piece.
    pub(super) body: &'a Bytes,
    pub(super) captures: &'a [(Box<str>, Box<str>)],
    pub(super) source: &'a Arc<Source>,
    pub(super) received_at: Timestamp,
    /// Later than that, if it comes from quarantine: dedupe windows begin here.
    pub(super) now: Timestamp,
    /// It is an item of a batch that is split so; `body` is the item then.
    pub(super) item: Option<&'a SplitRule>,
}
