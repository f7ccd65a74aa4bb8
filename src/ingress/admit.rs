//! Owns the admission pipeline: [`Gate::admit`] reads as the specification, its helpers do one step each.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http::{header, request::Parts};
use http_body::Body as HttpBody;

use super::{
    Gate,
    body::{self, Content, Received, Room},
    challenge,
    client::Caller,
    door::Doors,
    head::{declared_length, host, is_not_grpc, is_possible_method, is_safe, may_speak, takes_method},
    proxy::{ProxyError, SafeRequest},
    reply::{Refusal, ReplyBody, Taken},
    secret_path,
};
use crate::{
    clock::Timestamp,
    event::{Body, Event, EventId, Pos, Proxy, Scheme, Verification},
    expr::{EvalError, Expr, Input, Output},
    log::{Append, AppendError, Appended, Class, DedupeKey, Done, Kind, NewEntry, entry::Accepting},
    routing::{Challenge, Lookup, Matched, OnDuplicate, Source},
    verify::{Check, Head, Verified},
};

/// How far a request came, for the record of refusals.
#[derive(Default)]
pub(super) struct Progress {
    /// The source that was found.
    pub(super) source: Option<Arc<Source>>,
    /// Bytes of the body that were read.
    pub(super) read: u64,
}

/// What is known of a request once its body is read and verified.
struct Admitted<'a> {
    received_at: Timestamp,
    client: Arc<str>,
    proxy: Option<Proxy>,
    scheme: Scheme,
    verified: Verified,
    body: Received<'a>,
    generation: u64,
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
        let received_at = ingress.clock.now();
        let by_path = secret_path::unlock(source, head, &mut captures, received_at)?;
        let head = &*head;
        if let Some(guard) = &source.guard {
            may_speak(guard, caller, &head.headers, &table.limits.trusted_proxies)?;
        }
        if let Some(rule) = &source.challenge
            && let Some(answer) = challenge::of_head(rule, source, head, received_at)?
        {
            return Ok(Taken::Challenged(answer));
        }
        takes_method(source, &head.method)?;
        let declared = declared_length(&head.headers, source.max_body)?;
        is_not_grpc(&head.headers)?;

        let (path, query) = (head.uri.path(), head.uri.query());
        let about = Head { method: &head.method, path, query, headers: &head.headers };
        let mut check = match by_path {
            Some(verified) => Check::decided(verified),
            None => source.verifier.begin(&about, received_at).map_err(Refusal::Unverified)?,
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
            Box::pin(self.judge(check, received)).await?
        } else {
            (check.finish(&[]).map_err(Refusal::Unverified)?, received)
        };
        if let (Some(rule), Content::Whole(body)) = (&source.challenge, &received.content)
            && let Some(answer) = match rule.kind {
                Challenge::Sns => self.subscribe(source, body)?,
                _ => challenge::of_body(rule, head, body)?,
            }
        {
            return Ok(Taken::Challenged(answer));
        }
        let (client, scheme) = caller.client(&head.headers, &table.limits.trusted_proxies);
        let proxy = caller.proxy(&table.limits.trusted_proxies);
        let mut body = received.into_memory().await?;
        let asked = source.event_type.is_some()
            || source.dedupe.is_some()
            || source.numbering.is_some()
            || is_safe(&head.method);
        let whole = if asked { body.whole()? } else { Bytes::new() };
        let admitted = Admitted { received_at, client, proxy, scheme, verified, body, generation: table.generation };
        if let (Some(skew), Some(door)) = (admitted.verified.skew_ms, doors.door(source)) {
            door.metrics.skew.observe(std::time::Duration::from_millis(skew.unsigned_abs()));
        }

        if is_safe(&head.method) {
            // Boxed, as is the pool below: what is rare does not make the future of every request larger.
            return Box::pin(self.pass(doors, source, head, captures, whole, admitted)).await;
        }
        let input = Ask { head, body: &whole, captures: &captures, source, received_at };
        let event_type = self.event_type(&input).await;
        let mut dedupe = self.dedupe_key(doors, &input).await?;
        if let Some((key, _)) = &mut dedupe
            && let Some((first, body_differs)) = ingress.log.seen(key, received_at).map_err(Refusal::Seen)?
        {
            return Ok(self.known(doors, source, first, body_differs));
        }
        let key = dedupe.map(|(key, _)| key);
        match self.store(source, head, &captures, event_type.as_deref(), key, &admitted).await? {
            Appended::Duplicate { first, body_differs } => Ok(self.known(doors, source, first, body_differs)),
            Appended::Appended(id) => {
                if let Some(door) = doors.door(source) {
                    door.count_type(event_type.as_deref());
                    if let Some(numbering) = source.numbering.as_ref().filter(|numbering| numbering.consecutive)
                        && let Ok(Some(number)) = self.select(&numbering.key, &input).await
                    {
                        door.note_number(&number);
                    }
                }
                Ok(Taken::Accepted(id))
            }
        }
    }

    /// Appends the event and waits until it is durable.
    async fn store(
        &self,
        source: &Source,
        head: &Parts,
        captures: &[(Box<str>, Box<str>)],
        event_type: Option<&str>,
        dedupe: Option<DedupeKey>,
        admitted: &Admitted<'_>,
    ) -> Result<Appended, Refusal> {
        let (inline, parts) = match &admitted.body.content {
            Content::Whole(bytes) => (Some(std::slice::from_ref(bytes)), Vec::new()),
            Content::Parts(parts) => {
                (None, parts.iter().map(|part| NewEntry { kind: Kind::Part, payload: part.clone() }).collect())
            }
            Content::Spooled(_) => return Err(Refusal::Spool(std::io::Error::other("the body is still in the spool"))),
        };
        let payload = Accepting {
            received_at: admitted.received_at,
            source: &source.name,
            event_type,
            method: &head.method,
            scheme: admitted.scheme,
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
            client: &admitted.client,
            proxy: admitted.proxy.as_ref(),
            captures,
            verification_scheme: admitted.verified.scheme,
            verification_secret: admitted.verified.secret.as_deref(),
            config_generation: admitted.generation,
            dedupe: dedupe.map(|key| (key.fingerprint, key.expires_at, key.body)),
            extras: None,
            body: inline,
            body_length: admitted.body.length,
        }
        .encode();
        let (done, acked) = Done::through(&self.lane);
        self.ingress.log.append(Append {
            parts,
            entry: NewEntry { kind: Kind::Accepted, payload },
            dedupe,
            class: Class::Event,
            time: admitted.received_at,
            done,
        });
        // A log that ends without an answer has stored nothing that it promised.
        acked.await.unwrap_or(Err(AppendError::Closed)).map_err(Refusal::Append)
    }

    /// A safe method: stored (unless the source says otherwise), sent once, answered with the upstream's answer.
    async fn pass(
        &self,
        doors: &Doors,
        source: &Arc<Source>,
        head: &Parts,
        captures: Vec<(Box<str>, Box<str>)>,
        body: Bytes,
        admitted: Admitted<'_>,
    ) -> Result<Taken, Refusal> {
        let id = if source.record_safe {
            match self.store(source, head, &captures, None, None, &admitted).await? {
                Appended::Appended(id) => Some(id),
                // Without a key there is nothing to be a duplicate of.
                Appended::Duplicate { first, .. } => Some(first),
            }
        } else {
            None
        };
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
            proxy: admitted.proxy,
            captures,
            verification: Verification {
                scheme: admitted.verified.scheme.into(),
                secret: admitted.verified.secret.as_deref().map(Into::into),
            },
            config_generation: admitted.generation,
            dedupe: None,
            extras: None,
            body: Body::Inline(body),
        };
        let request = SafeRequest { event, id, source: source.clone(), table: doors.table.clone() };
        let answer = tokio::time::timeout(source.reply_timeout, self.ingress.proxy.forward(request));
        match answer.await {
            Ok(Ok(response)) => Ok(Taken::Proxied(id, response.map(ReplyBody::passed))),
            Ok(Err(ProxyError::Unreachable(why))) => Err(Refusal::Unreachable(why)),
            Ok(Err(ProxyError::Late)) | Err(_) => Err(Refusal::Late),
        }
    }

    /// The event type; None if the source has no rule or the rule finds nothing. A type is a convenience: whatever
    /// goes wrong with it never keeps an event out.
    async fn event_type(&self, input: &Ask<'_>) -> Option<String> {
        let found = self.select(input.source.event_type.as_ref()?, input).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(%error, source = &*input.source.name, "the event type could not be evaluated");
            None
        })
    }

    /// The dedupe key, and what a resend does; None if the source does not deduplicate or the request has no key.
    async fn dedupe_key(&self, doors: &Doors, input: &Ask<'_>) -> Result<Option<(DedupeKey, OnDuplicate)>, Refusal> {
        let Some(rule) = &input.source.dedupe else { return Ok(None) };
        if rule.on_duplicate == OnDuplicate::Accept {
            return Ok(None);
        }
        let key = match self.select(&rule.key, input).await {
            Err(error @ EvalError::Unavailable(_)) => return Err(Refusal::Key(error)),
            // What the sender sent makes the expression fail: the request has no key.
            Err(_) | Ok(None) => {
                if let Some(door) = doors.door(input.source) {
                    door.metrics.without_key.inc();
                }
                return Ok(None);
            }
            Ok(Some(key)) => key,
        };
        let log = &self.ingress.log;
        let key = DedupeKey {
            fingerprint: log.fingerprint(&input.source.name, key.as_bytes()),
            expires_at: input.received_at.after(rule.window),
            body: log.fingerprint("", input.body) as u64,
            runs_version: 0,
        };
        Ok(Some((key, rule.on_duplicate)))
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

    /// A resend: told to whoever revives, answered like the first.
    fn known(&self, doors: &Doors, source: &Arc<Source>, first: EventId, body_differs: bool) -> Taken {
        if let Some(door) = doors.door(source) {
            door.metrics.duplicates.inc();
        }
        if let Some(rule) = &source.dedupe {
            self.ingress.duplicates.duplicate(first, body_differs, rule.on_duplicate);
        }
        Taken::Duplicate(first)
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
pub(super) struct Ask<'a> {
    pub(super) head: &'a Parts,
    /// In one piece.
    pub(super) body: &'a Bytes,
    pub(super) captures: &'a [(Box<str>, Box<str>)],
    pub(super) source: &'a Arc<Source>,
    pub(super) received_at: Timestamp,
}
