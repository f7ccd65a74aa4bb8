//! Owns what the door does about rates, budgets and loops: asks what is used up, and says in the event what follows.
//!
//! Promises that only verified requests use anything up, that an event which is not stored costs nothing, and that a
//! loop is decided from a relay's own marks: a sender that never met a relay is never in one.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, request::Parts};

use super::{
    Gate,
    admit::{Admitted, Ask},
    door::{Door, Doors},
    reply::Refusal,
};
use crate::{
    event::{Event, EventId, Extras},
    expr::EvalError,
    log::{self, Appended, DedupeKey, Kind, Log},
    routing::{LoopRule, Over, Source, Table, TenantKey, TenantRule},
    tenant::{self, Bucket, Charge, Receipt, TENANT_BYTES_MAX, Units},
    verify::Head,
};

/// Look-ups of event ids under way at once, all shards together; beyond, the other signs of a loop must do.
pub(super) const LOOKUPS_MAX: usize = 16;

/// The tag of an event whose cost is no number.
const NO_COST: &str = "no_cost";

impl Gate {
    /// Whether the source's own rate leaves room; nothing is used up before a request is verified.
    pub(super) fn has_room(&self, doors: &Doors, source: &Arc<Source>) -> Result<(), Refusal> {
        match source.rate {
            None => Ok(()),
            Some(rate) => self.ask_bucket(doors, source, |bucket, now| bucket.room(rate, now)),
        }
    }

    /// Uses up one request of the source's own rate.
    pub(super) fn take_room(&self, doors: &Doors, source: &Arc<Source>) -> Result<(), Refusal> {
        match source.rate {
            None => Ok(()),
            Some(rate) => self.ask_bucket(doors, source, |bucket, now| bucket.take(rate, now)),
        }
    }

    fn ask_bucket(
        &self,
        doors: &Doors,
        source: &Arc<Source>,
        ask: impl FnOnce(&Bucket, Duration) -> Result<(), Duration>,
    ) -> Result<(), Refusal> {
        let Some(standing) = doors.door(source).and_then(|door| door.standing()) else { return Ok(()) };
        let asked = ask(&standing.bucket, self.ingress.clock.elapsed());
        asked.map_err(|wait| Refusal::Limited { word: "source_over_rate", wait })
    }

    /// Charges the event's tenant and stores the event, which says what follows if the tenant is over a limit.
    pub(super) async fn store_charged(
        &self,
        doors: &Doors,
        rule: &TenantRule,
        ask: &Ask<'_>,
        event_type: Option<&str>,
        dedupe: Option<DedupeKey>,
        admitted: &mut Admitted<'_>,
    ) -> Result<Appended, Refusal> {
        let mut extras = admitted.extras.take().unwrap_or_default();
        let receipt = self.charge(doors, rule, ask, &mut extras).await?;
        admitted.extras = Some(extras).filter(|extras| !extras.is_empty());
        let stored = self.store(ask, event_type, dedupe, admitted).await;
        if !matches!(stored, Ok(Appended::Appended(_))) {
            give_back(doors, ask.source, receipt);
        }
        stored
    }

    /// Charges the event's tenant; gives what is to be given back if the event is not stored.
    pub(super) async fn charge(
        &self,
        doors: &Doors,
        rule: &TenantRule,
        ask: &Ask<'_>,
        extras: &mut Extras,
    ) -> Result<Option<Receipt>, Refusal> {
        let name = self.tenant(rule, ask).await?;
        let cost = self.cost(rule, ask, extras).await?;
        let Some(door) = doors.door(ask.source) else { return Ok(None) };
        let Some(standing) = door.standing() else { return Ok(None) };
        let (limit, named) = rule.limit(name.as_deref());
        let key = name.as_deref().unwrap_or_default().as_bytes();
        let charged = standing.ledger.charge(&Charge {
            // No source is called like this: a tenant's name is no dedupe key.
            tenant: self.ingress.log.fingerprint(&format!("\0tenant{}", ask.source.name), key),
            named,
            limit,
            cost,
            tenants_max: rule.tenants_max,
            elapsed: self.ingress.clock.elapsed(),
            // Not the time of receipt: what comes from the quarantine may be older than today.
            now: self.ingress.clock.now(),
        });
        self.warn(door, ask, name.as_deref(), &charged);
        extras.tenant = name.map(Into::into);
        let Some((exceeded, wait)) = charged.exceeded else { return Ok(Some(charged.receipt)) };
        if let Some(count) = door.metrics.over_limit.get(limit.over as usize) {
            count.inc();
        }
        match limit.over {
            Over::Reject => return Err(Refusal::Limited { word: exceeded.as_str(), wait }),
            Over::Hold => {
                extras.tags.push(exceeded.as_str().into());
                extras.hold = Some(exceeded.as_str().into());
            }
            Over::Tag => extras.tags.push(exceeded.as_str().into()),
        }
        Ok(Some(charged.receipt))
    }

    /// Counts what a charge showed, and tells about a budget that runs out.
    fn warn(&self, door: &Door, ask: &Ask<'_>, tenant: Option<&str>, charged: &tenant::Charged) {
        if charged.displaced {
            door.metrics.tenants_displaced.inc();
        }
        door.metrics.tenants.set(i64::try_from(charged.tenants).unwrap_or(i64::MAX));
        let (from, to) = charged.warnings;
        for count in self.ingress.metrics.tenant_warnings.iter().take(to).skip(from) {
            count.inc();
        }
        if charged.tells
            && let Some(percent) = to.checked_sub(1).and_then(|last| tenant::LEVELS.get(last))
        {
            let source = &*ask.source.name;
            tracing::warn!(source, tenant = ?tenant.unwrap_or_default(), percent, "a tenant used up its budget of today");
        }
    }

    /// The tenant's name; None if the request has none, or one that is too long.
    pub(super) async fn tenant(&self, rule: &TenantRule, ask: &Ask<'_>) -> Result<Option<String>, Refusal> {
        let name = match &rule.key {
            TenantKey::Capture(wanted) => {
                let captured = ask.captures.iter().find(|(name, _)| name == wanted);
                captured.map(|(_, value)| value.to_string())
            }
            TenantKey::Selected(selector) => match self.select(selector, ask).await {
                Err(error @ EvalError::Unavailable(_)) => return Err(Refusal::Key(error)),
                Err(_) => None,
                Ok(found) => found,
            },
        };
        Ok(name.filter(|name| !name.is_empty() && name.len() <= TENANT_BYTES_MAX))
    }

    /// What the event costs. What is no number costs 1 and is tagged.
    async fn cost(&self, rule: &TenantRule, ask: &Ask<'_>, extras: &mut Extras) -> Result<Units, Refusal> {
        let Some(expr) = &rule.cost else { return Ok(Units::ONE) };
        let number = match self.evaluate(expr, ask).await {
            Err(error @ EvalError::Unavailable(_)) => return Err(Refusal::Key(error)),
            Err(_) => None,
            Ok(output) => output.scalar().and_then(|text| Units::of(&text)),
        };
        Ok(number.unwrap_or_else(|| {
            extras.tags.push(NO_COST.into());
            Units::ONE
        }))
    }

    /// What follows from the marks of relays that a request carries, and from a signature for this id that may be our own:
    /// how many relays there were, and whether it is a loop. None if there was none after all.
    pub(super) async fn relayed(
        &self,
        doors: &Doors,
        ask: &Ask<'_>,
        hops: Option<u32>,
        signed: Option<EventId>,
    ) -> Option<Box<Extras>> {
        let returned = match signed {
            Some(id) => self.returned(doors, ask, id).await,
            None => None,
        };
        // Whoever left the other marks out can't make the way shorter.
        let hops = hops.max(returned.as_ref().map(Returned::hops))?;
        Some(self.looped(doors, ask, hops, returned).await)
    }

    async fn looped(&self, doors: &Doors, ask: &Ask<'_>, hops: u32, returned: Option<Returned>) -> Box<Extras> {
        let mut extras = Box::new(Extras { hops: Some(hops), ..Extras::default() });
        let Some(rule) = &ask.source.loops else { return extras };
        let Some(why) = self.why_loop(rule, ask, hops, returned).await else { return extras };
        if let Some(door) = doors.door(ask.source) {
            door.metrics.loops.inc();
        }
        let source = &*ask.source.name;
        tracing::info!(target: "access", source, why, hops, "a loop was cut");
        extras.cut = Some(why.into());
        extras
    }

    async fn why_loop(&self, rule: &LoopRule, ask: &Ask<'_>, hops: u32, returned: Option<Returned>) -> Option<String> {
        if hops >= rule.max_hops {
            return Some(format!("it came through {hops} relays"));
        }
        if let Some(Returned(event)) = returned.filter(|Returned(event)| *event.source == *ask.source.name) {
            return Some(format!("event {} came back to its source with our own signature", event.id));
        }
        if let Some(id) = self.own_event(ask.source, ask.head).await {
            return Some(format!("event {id} came back to its source"));
        }
        let log = &self.ingress.log;
        let body = log.fingerprint(&format!("\0bounce{}", ask.source.name), ask.body);
        let count = self.ingress.tenants.bounces.count(body, rule.window, self.ingress.clock.elapsed());
        (count > rule.bounces).then(|| format!("the same body came {count} times through a relay"))
    }

    /// The event of this source that the request was sent for, by this relay: by its mark, or without one by the id if
    /// that is stored here.
    async fn own_event(&self, source: &Source, head: &Parts) -> Option<EventId> {
        let id: EventId = single(&head.headers, &tenant::EVENT_ID)?.parse().ok()?;
        let log = &self.ingress.log;
        if let Some(mark) = single(&head.headers, &tenant::ORIGIN) {
            let own = log::origin(&**log, &source.name, id);
            return (u128::from_str_radix(mark, 16) == Ok(own)).then_some(id);
        }
        if id.pos.seq >= log.end() || id.time > self.ingress.clock.now() {
            return None;
        }
        let _place = self.ingress.lookups.try_acquire().ok()?;
        let (reader, name) = (log.clone(), source.name.clone());
        let read = tokio::task::spawn_blocking(move || {
            stored(&*reader, id).filter(|event| *event.source == *name).map(|event| event.id)
        });
        read.await.ok().flatten()
    }

    /// The event of this relay that a request was sent for, if an upstream of the event's source signs so.
    async fn returned(&self, doors: &Doors, ask: &Ask<'_>, id: EventId) -> Option<Returned> {
        if id.pos.seq >= self.ingress.log.end() || id.time > self.ingress.clock.now() {
            return None;
        }
        let _place = self.ingress.lookups.try_acquire().ok()?;
        let (log, table, body) = (self.ingress.log.clone(), doors.table.clone(), ask.body.clone());
        let (method, uri, headers) = (ask.head.method.clone(), ask.head.uri.clone(), ask.head.headers.clone());
        let read = tokio::task::spawn_blocking(move || {
            let (event, text) = (stored(&*log, id)?, id.to_string());
            let head = Head { method: &method, path: uri.path(), query: uri.query(), headers: &headers };
            let is_ours = table.signers(&event.source).any(|signer| signer.made(&head, &body, &text));
            is_ours.then_some(Returned(Box::new(event)))
        });
        read.await.ok().flatten()
    }
}

/// An event that came back with the signature it was sent with.
struct Returned(Box<Event>);

impl Returned {
    /// How many relays it came through, this one included.
    fn hops(&self) -> u32 {
        self.0.extras.as_ref().and_then(|extras| extras.hops).unwrap_or(0).saturating_add(1)
    }
}

/// The event of this id, if it is stored under it.
fn stored(log: &dyn Log, id: EventId) -> Option<Event> {
    let entry = log.read(id.pos.seq).ok().filter(|entry| entry.kind == Kind::Accepted && entry.id() == id)?;
    log::entry::decode_event(&entry)
}

/// The id beside a signature that may be our own; for almost all requests this costs a look-up for each form in which we
/// sign.
pub(super) fn signed_id(table: &Table, headers: &HeaderMap) -> Option<EventId> {
    let mut marks = table.own_marks().iter().filter(|(_, signature)| headers.contains_key(signature));
    marks.find_map(|(id, _)| single(headers, id)?.parse().ok())
}

/// What was charged for an event that is not stored.
pub(super) fn give_back(doors: &Doors, source: &Arc<Source>, receipt: Option<Receipt>) {
    let standing = doors.door(source).and_then(|door| door.standing());
    if let (Some(receipt), Some(standing)) = (receipt, standing) {
        standing.ledger.give_back(receipt);
    }
}

/// The value of a header that stands once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

/// Whether the body is looked into.
pub(super) const fn looks_inside(source: &Source, is_marked: bool) -> bool {
    source.tenants.is_some() || is_marked
}
