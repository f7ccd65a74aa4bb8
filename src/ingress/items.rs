//! Owns what a source does with the inside of a body: a batch becomes one event for each item, a schema is asked about
//! bodies or items.
//!
//! Promises that the events of a batch are durable together before its sender hears of it, or none of them is; that a
//! known item is left out alone; and that a body which is no batch is stored whole and says so. A large body is looked
//! into on a thread of its own.

use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    Gate,
    admit::{Admitted, Ask, Left},
    door::Doors,
    limits::give_back,
    reply::{Refusal, Taken},
    traced::Mark,
};
use crate::{
    event::{EventId, Extras},
    expr::{EvalError, decode_body},
    log::{Acked, Append, AppendError, Appended, BATCH_BYTES_MAX, Class, DedupeKey, Done, Kind, NewEntry, PART_BYTES},
    routing::{ItemForm, Items, KeySelector, NoItems, OnViolation, SchemaRule, Source, SplitRule},
    schema::Violation,
    tenant::Receipt,
    verify::{Notification, notifications},
};

/// A larger body is looked into on another thread, so that other requests of this one don't wait.
const INLINE_BYTES: usize = 64 * 1024;

/// A decoded body is at most so many times as large as it came.
const DECODED_MAX: usize = 10;

/// Bodies of one batch that stand in their entries; beyond, they stand in parts.
const INLINE_BATCH_BYTES: usize = BATCH_BYTES_MAX / 2;

/// The longest schema version that is kept, in bytes.
const VERSION_BYTES_MAX: usize = 64;

/// The tag of an event whose source splits batches and whose body is none.
const UNSPLIT: &str = "unsplit";

/// What a look into a body led to.
pub(super) enum Looked {
    /// It was a batch: its items are stored.
    Items(Box<Split>),
    /// It would be one.
    Rehearsed,
    /// It is to be stored as it is; what was found is among its extras.
    Whole,
}

/// A batch whose items are stored.
pub(super) struct Split {
    pub(super) taken: Taken,
    /// The batch's id.
    pub(super) batch: EventId,
    /// When they began to be stored.
    pub(super) appending: Mark,
}

/// What stands in a body.
enum Found {
    Whole(Option<Violation>),
    Items(Vec<Item>),
    TooMany,
}

/// An item of a batch.
struct Item {
    /// What expressions and the schema see.
    inner: Bytes,
    /// What is stored.
    body: Bytes,
    /// Its key, where the way to it is known to the source's scheme.
    key: Option<Box<str>>,
    violation: Option<Violation>,
}

impl Gate {
    /// Looks into a body as its source asks.
    pub(super) async fn look_into(
        &self,
        doors: &Doors,
        input: &Ask<'_>,
        admitted: &mut Admitted<'_>,
        rehearsing: bool,
    ) -> Result<Looked, Refusal> {
        let source = input.source;
        let mut extras = admitted.extras.take().unwrap_or_default();
        extras.schema_version = source.schema.as_ref().and_then(|rule| version(rule, &input.head.headers));
        let (asked, body, encoding) = (source.clone(), input.body.clone(), encoding(&input.head.headers));
        let mut bytes = body.len();
        if !encoding.is_empty() {
            bytes = bytes.saturating_mul(DECODED_MAX);
            admitted.body.charge(source.max_body.min(bytes as u64))?;
        }
        let found = aside(bytes, move || examine(&asked, &encoding, &body)).await?;
        match found {
            Found::TooMany => Err(Refusal::TooManyItems),
            Found::Items(items) => {
                judge(doors, input, items.iter().filter_map(|item| item.violation.as_ref()), rehearsing)?;
                if rehearsing {
                    return Ok(Looked::Rehearsed);
                }
                self.take_items(doors, input, admitted, items, &extras)
                    .await
                    .map(|split| Looked::Items(Box::new(split)))
            }
            Found::Whole(violation) => {
                judge(doors, input, violation.iter(), rehearsing)?;
                extras.violation = violation.map(|violation| violation.as_str().into());
                if source.split.is_some() {
                    extras.tags.push(UNSPLIT.into());
                    doors.door(source).into_iter().for_each(|door| door.metrics.unsplit.inc());
                }
                admitted.extras = Some(extras).filter(|extras| !extras.is_empty());
                Ok(Looked::Whole)
            }
        }
    }

    /// Stores the items of a batch that are not known yet.
    async fn take_items(
        &self,
        doors: &Doors,
        input: &Ask<'_>,
        admitted: &mut Admitted<'_>,
        items: Vec<Item>,
        extras: &Extras,
    ) -> Result<Split, Refusal> {
        let ingress = &*self.ingress;
        let Some(rule) = &input.source.split else { return Err(Refusal::TooManyItems) };
        let bytes: usize = items.iter().map(|item| item.body.len()).sum();
        admitted.body.charge(2 * bytes as u64 + items.len() as u64 * header_bytes(input.head))?;
        let head = head_of_items(input.head);
        let batch = EventId::of_batch(input.received_at, ingress.jitter.next_u64());
        let base = Extras { parent: Some(batch.to_string().into()), ..extras.clone() };
        let keys = self.item_keys(doors, input, &head, rule, &items).await?;
        let in_parts = bytes > INLINE_BATCH_BYTES;

        let asked = Batch { input, head: &head, rule, extras: &base, in_parts };
        let mut gathered = Gathered::default();
        if let Err(refusal) = self.gather(doors, &asked, admitted, items.into_iter().zip(keys), &mut gathered).await {
            gathered.items.into_iter().for_each(|item| give_back(doors, input.source, item.receipt));
            return Err(refusal);
        }
        let appending = ingress.mark();
        ingress.log.append_all(gathered.appends);

        let (mut first, mut stored, mut failed) = (gathered.known, None, None);
        for Waiting { acked, event_type, inner, receipt } in gathered.items {
            let appended = acked.await.unwrap_or(Err(AppendError::Closed));
            if !matches!(appended, Ok(Appended::Appended(_))) {
                give_back(doors, input.source, receipt);
            }
            match appended {
                Err(error) => failed = Some(Refusal::Append(error)),
                Ok(Appended::Duplicate { first: known, body_differs }) => {
                    first.get_or_insert(self.known(doors, input.source, known, body_differs, base.cut.is_some()));
                }
                Ok(Appended::Appended(id)) => {
                    let ask = Ask { head: &head, body: &inner, item: Some(rule), ..*input };
                    self.count_accepted(doors, &ask, event_type.as_deref()).await;
                    stored.get_or_insert(Taken::Accepted(id));
                }
            }
        }
        if let Some(refusal) = failed {
            return Err(refusal);
        }
        // A batch has at least one item, so that there is one or the other.
        let taken = stored.or(first).ok_or(Refusal::Append(AppendError::Closed))?;
        Ok(Split { taken, batch, appending })
    }

    /// Makes an append of each item that is not known yet, and charges its tenant.
    async fn gather(
        &self,
        doors: &Doors,
        asked: &Batch<'_>,
        admitted: &Admitted<'_>,
        items: impl Iterator<Item = (Item, Option<DedupeKey>)>,
        gathered: &mut Gathered,
    ) -> Result<(), Refusal> {
        let (ingress, input, mut payloads) = (&*self.ingress, asked.input, 0);
        for (index, (Item { inner, body, violation, .. }, mut key)) in items.enumerate() {
            if let Some(key) = &mut key
                && let Some((known, differs)) = ingress.log.seen(key, input.now).map_err(Refusal::Seen)?
            {
                let cut = asked.extras.cut.is_some();
                gathered.known.get_or_insert(self.known(doors, input.source, known, differs, cut));
                continue;
            }
            let ask = Ask { head: asked.head, body: &inner, item: Some(asked.rule), ..*input };
            let event_type = self.event_type(&ask).await;
            let mut extras = Extras {
                item: u32::try_from(index).ok(),
                violation: violation.map(|violation| violation.as_str().into()),
                ..asked.extras.clone()
            };
            let receipt = match &input.source.tenants {
                None => None,
                Some(rule) => self.charge(doors, rule, &ask, &mut extras).await?,
            };
            let (pieces, parts) = match asked.in_parts || body.len() > PART_BYTES {
                true => (None, parts_of(&body)),
                false => (Some(std::slice::from_ref(&body)), Vec::new()),
            };
            let length = body.len() as u64;
            let payload = admitted.encode(&ask, event_type.as_deref(), key, Some(&extras), (pieces, length));
            payloads += payload.len();
            let (done, acked) = Done::through(&self.lane);
            let entry = NewEntry { kind: Kind::Accepted, payload };
            let time = admitted.received_at;
            gathered.appends.push(Append { parts, entry, dedupe: key, class: Class::Event, time, done });
            gathered.items.push(Waiting { acked, event_type, inner, receipt });
        }
        match payloads > BATCH_BYTES_MAX {
            true => Err(Refusal::TooManyItems),
            false => Ok(()),
        }
    }

    /// The dedupe key of each item.
    async fn item_keys(
        &self,
        doors: &Doors,
        input: &Ask<'_>,
        head: &Parts,
        rule: &SplitRule,
        items: &[Item],
    ) -> Result<Vec<Option<DedupeKey>>, Refusal> {
        let Some(dedupe) = &input.source.dedupe else { return Ok(vec![None; items.len()]) };
        let mut texts = Vec::with_capacity(items.len());
        if is_of_item(&dedupe.key) {
            for item in items {
                let ask = Ask { head, body: &item.inner, item: Some(rule), ..*input };
                texts.push(match (&dedupe.key, &item.key) {
                    (KeySelector::Notifications, Some(key)) => Some(key.to_string()),
                    _ => self.key_text(doors, &ask).await?,
                });
            }
        } else {
            let whole = self.key_text(doors, input).await?;
            texts = vec![whole; items.len()];
        }
        // What all items of a batch have in common is the batch's key: each of them is the item at its place.
        let is_common = texts.windows(2).all(|pair| matches!(pair, [one, other] if one == other));
        let are_equal = items.windows(2).all(|pair| matches!(pair, [one, other] if one.inner == other.inner));
        if is_common && !(are_equal && is_of_item(&dedupe.key)) && (items.len() > 1 || !is_of_item(&dedupe.key)) {
            for (index, text) in texts.iter_mut().enumerate() {
                *text = text.take().map(|text| format!("{text}#{index}"));
            }
        }
        let key =
            |(text, item): (Option<String>, &Item)| text.map(|text| self.keyed(input, dedupe, &text, &item.inner));
        Ok(texts.into_iter().zip(items).map(key).collect())
    }
}

/// A batch whose items become events.
struct Batch<'a> {
    input: &'a Ask<'a>,
    head: &'a Parts,
    rule: &'a SplitRule,
    /// What all items share.
    extras: &'a Extras,
    in_parts: bool,
}

/// What becomes of the items of a batch.
#[derive(Default)]
struct Gathered {
    /// The answer, if none is new: to the first that is known.
    known: Option<Taken>,
    appends: Vec<Append>,
    /// One for each append.
    items: Vec<Waiting>,
}

/// An item on its way into the log.
struct Waiting {
    acked: oneshot::Receiver<Acked>,
    event_type: Option<String>,
    inner: Bytes,
    receipt: Option<Receipt>,
}

/// Whether a selector looks at the item rather than at the request that brought it.
fn is_of_item(selector: &KeySelector) -> bool {
    match selector {
        KeySelector::Header(_) | KeySelector::BodyHash => false,
        KeySelector::Expr(_) | KeySelector::Items(_) | KeySelector::ItemTypes(_) | KeySelector::Notifications => true,
        KeySelector::Joined(parts) | KeySelector::FirstOf(parts) => parts.iter().any(is_of_item),
        KeySelector::Dotted(parts) => parts.iter().any(is_of_item),
    }
}

/// Counts violations, and refuses if the source wants that.
fn judge<'v>(
    doors: &Doors,
    input: &Ask<'_>,
    violations: impl Iterator<Item = &'v Violation>,
    rehearsing: bool,
) -> Result<(), Refusal> {
    let mut violations = violations.peekable();
    let Some(first) = violations.peek().map(|first| (*first).clone()) else { return Ok(()) };
    if let Some(door) = doors.door(input.source).filter(|_| !rehearsing) {
        door.metrics.violations.add(violations.count() as u64);
    }
    match input.source.schema.as_ref().map(|rule| rule.on_violation) {
        None | Some(OnViolation::Tag) => Ok(()),
        Some(OnViolation::Quarantine) => {
            let left = Left { received_at: input.received_at, body: Some(input.body.clone()) };
            Err(Refusal::Schema { violation: first, keep: Some(Box::new(left)) })
        }
        Some(OnViolation::Reject) => Err(Refusal::Schema { violation: first, keep: None }),
    }
}

/// Looks for items, and asks the schema about each of them or about the whole.
fn examine(source: &Source, encoding: &HeaderMap, body: &Bytes) -> Found {
    let schema = source.schema.as_ref().and_then(|rule| rule.schema.as_ref());
    let decoded = match decode_body(encoding, body, source.max_body) {
        Ok(std::borrow::Cow::Borrowed(_)) => body.clone(),
        Ok(std::borrow::Cow::Owned(decoded)) => decoded.into(),
        Err(error) => {
            return Found::Whole(schema.map(|_| Violation::new(&format!("the body can't be decoded: {error}"))));
        }
    };
    let check = |body: &[u8]| schema.and_then(|schema| schema.check(body).err());
    let Some(rule) = &source.split else { return Found::Whole(check(&decoded)) };
    let found = match &rule.items {
        Items::Json(items) => {
            items.items_up_to(&decoded, rule.max_items).map(|items| json_items(rule, &decoded, &items))
        }
        Items::Notifications => match notifications(&decoded) {
            Some(found) if found.len() > rule.max_items => Err(NoItems::TooMany),
            Some(found) if !found.is_empty() => Ok(xml_items(rule, &decoded, &found)),
            _ => Err(NoItems::NoBatch),
        },
    };
    match found {
        Err(NoItems::TooMany) => Found::TooMany,
        Err(NoItems::NoBatch) => Found::Whole(check(&decoded)),
        Ok(mut items) => {
            for (index, item) in items.iter_mut().enumerate() {
                item.violation = check(&item.inner).map(|violation| violation.of_item(index));
            }
            Found::Items(items)
        }
    }
}

fn json_items(rule: &SplitRule, body: &Bytes, items: &[&RawValue]) -> Vec<Item> {
    let item = |item: &&RawValue| {
        let inner = body.slice_ref(item.get().as_bytes());
        let body = match rule.form {
            ItemForm::Bare => inner.clone(),
            ItemForm::Wrapped => [b"[", &inner[..], b"]"].concat().into(),
        };
        Item { inner, body, key: None, violation: None }
    };
    items.iter().map(item).collect()
}

fn xml_items(rule: &SplitRule, body: &Bytes, items: &[Notification]) -> Vec<Item> {
    // What stands before the first and after the last of them is the message itself.
    let before = items.first().and_then(|first| body.get(..first.at.start)).unwrap_or_default();
    let after = items.last().and_then(|last| body.get(last.at.end..)).unwrap_or_default();
    let item = |found: &Notification| {
        let inner = body.slice_ref(body.get(found.at.clone()).unwrap_or_default());
        let body = match rule.form {
            ItemForm::Bare => inner.clone(),
            ItemForm::Wrapped => [before, &inner[..], after].concat().into(),
        };
        Item { inner, body, key: Some(found.id.clone()), violation: None }
    };
    items.iter().map(item).collect()
}

/// Does work here, or on another thread if it is much.
async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    if bytes <= INLINE_BYTES {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::Key(EvalError::Unavailable(error.to_string())))
}

/// What undoing the encoding needs to know.
fn encoding(headers: &HeaderMap) -> HeaderMap {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut only = HeaderMap::new();
    for value in values {
        only.append(header::CONTENT_ENCODING, value.clone());
    }
    only
}

/// The request's head without what was said of the bytes of the whole body.
fn head_of_items(head: &Parts) -> Parts {
    let mut head = head.clone();
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    head
}

fn header_bytes(head: &Parts) -> u64 {
    head.headers.iter().map(|(name, value)| (name.as_str().len() + value.len() + 4) as u64).sum()
}

fn parts_of(body: &Bytes) -> Vec<NewEntry> {
    let pieces = body.chunks(PART_BYTES);
    pieces.map(|piece| NewEntry { kind: Kind::Part, payload: body.slice_ref(piece) }).collect()
}

fn version(rule: &SchemaRule, headers: &HeaderMap) -> Option<Box<str>> {
    let text = headers.get(rule.version_header.as_ref()?)?.to_str().ok()?;
    (text.len() <= VERSION_BYTES_MAX).then(|| text.into())
}
