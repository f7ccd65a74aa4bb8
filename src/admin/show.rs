//! Owns the full account of one event: as received, every delivery, every attempt.
//!
//! Promises that credentials are hidden unless they are asked for. The body is not part of it: it is fetched on its
//! own, as bytes.

use super::{
    find::{Found, History, history},
    line::{body_sha256, due_at, head, reason},
    ports::{DeliveryView, Reads},
    privacy::Hidden,
    wire,
};
use crate::{
    event::{Attempt, Event, EventId, Seq, topic_of_source},
    log::{Kind, Log, ReadError, entry, find_answer},
};

/// The account of an event.
///
/// # Errors
/// See [`ReadError`].
pub fn show(reads: &dyn Reads, found: &Found, reveal: bool) -> Result<wire::Show, ReadError> {
    let (log, event) = (reads.log(), &found.event);
    let (sha256, body_lost) = match body_sha256(&*log, event) {
        Ok(digest) => (hex::encode(digest), None),
        // The rest of the event is all that is left of it.
        Err(lost @ ReadError::Damaged { .. }) => (String::new(), Some(lost.to_string())),
        Err(error) => return Err(error),
    };
    let hidden = Hidden::new(reads, reveal);
    let shown = |delivery| shown(&*log, found, delivery, &sha256, &hidden);
    let deliveries = found.view.deliveries.iter().map(shown).collect::<Result<_, _>>()?;
    let answered = answered(&*log, event)?.to_owned();
    let account = account(reads, found, head(found, sha256.clone(), deliveries), &hidden, Some(answered));
    Ok(wire::Show { body_lost, ..account })
}

/// The account of an event whose deliveries are at hand.
pub(super) fn account(
    reads: &dyn Reads,
    found: &Found,
    line: wire::Line<wire::ShownDelivery>,
    hidden: &Hidden<'_>,
    answered: Option<String>,
) -> wire::Show {
    let event = &found.event;
    let (headers, mut names) = hidden.headers(&event.headers);
    let query = event.query.as_deref().map(|query| hidden.query(query, &mut names).into_owned());
    let unverified = &*event.verification.scheme == "none";
    wire::Show {
        event: line,
        query,
        headers,
        client: event.client.to_string(),
        verification: wire::Verification {
            scheme: event.verification.scheme.to_string(),
            result: if unverified { "unchecked" } else { "verified" }.to_owned(),
            secret: event.verification.secret.as_deref().map(str::to_owned),
        },
        schema_version: event.extras.as_deref().and_then(|extras| extras.schema_version.as_deref()).map(str::to_owned),
        answered,
        cached: event.extras.as_deref().and_then(|extras| extras.cached.as_ref()).map(|cached| wire::Cached {
            event: cached.event.as_deref().map(str::to_owned),
            upstream: cached.upstream.as_deref().map(str::to_owned),
        }),
        duplicates: found.view.duplicates,
        body_differs: found.view.body_differs,
        config: reads.config_hash(event.config_generation),
        scheme: event.scheme.as_str().to_owned(),
        planned: found.plan.is_some(),
        hidden: names,
        body_lost: None,
    }
}

/// Who answered the sender. What an upstream said is sought in the log where a sender waited for it.
fn answered(log: &dyn Log, event: &Event) -> Result<&'static str, ReadError> {
    Ok(match &event.extras {
        Some(extras) if extras.cached.is_some() => "cache",
        _ if event.method.is_safe() => "proxied",
        Some(extras) if extras.awaited => {
            if find_answer(log, event.id.pos.seq)?.is_some() {
                "upstream"
            } else {
                "fallback"
            }
        }
        _ => "ack",
    })
}

fn shown(
    log: &dyn Log,
    found: &Found,
    delivery: &DeliveryView,
    own_sha256: &str,
    hidden: &Hidden<'_>,
) -> Result<wire::ShownDelivery, ReadError> {
    let history = history(log, found.event.id.pos.seq, found.stored_at, delivery)?;
    let published = history.delivered_at.and_then(|seq| published(log, seq, found.event.id));
    let shown = shown_from(log, &found.event, delivery, history, own_sha256, hidden);
    Ok(wire::ShownDelivery { published: published.map(|id| id.to_string()), ..shown })
}

/// A delivery with what is known of its attempts.
pub(super) fn shown_from(
    log: &dyn Log,
    event: &Event,
    delivery: &DeliveryView,
    history: History,
    own_sha256: &str,
    hidden: &Hidden<'_>,
) -> wire::ShownDelivery {
    let attempts = history.attempts.into_iter().filter_map(|attempted| attempted.attempt);
    wire::ShownDelivery {
        upstream: delivery.upstream.to_string(),
        state: delivery.status.state().as_str().to_owned(),
        reason: reason(log, delivery),
        due_at: due_at(delivery, event.received_at),
        in_flight: delivery.in_flight,
        waits_for: delivery.waits_for.map(|event| event.to_string()),
        attempts_total: delivery.attempts,
        attempts: attempts.map(|attempt| tried(attempt, own_sha256, hidden)).collect(),
        damaged: history.damaged,
        published: None,
    }
}

/// The event that the answer became which settled a delivery: both are one decision of the log, and it stands before the
/// settlement.
fn published(log: &dyn Log, settled_at: Seq, parent: EventId) -> Option<EventId> {
    let entry = log.read(settled_at.checked_sub(1)?).ok().filter(|entry| entry.kind == Kind::Accepted)?;
    let event = entry::decode_event(&entry).filter(|event| topic_of_source(&event.source).is_some())?;
    let named = event.extras.as_deref().and_then(|extras| extras.parent.as_deref());
    (named == Some(parent.to_string().as_str())).then_some(event.id)
}

fn tried(attempt: Attempt, own_sha256: &str, hidden: &Hidden<'_>) -> wire::Attempt {
    wire::Attempt {
        number: attempt.number,
        at: attempt.at,
        outcome: attempt.outcome.as_str().to_owned(),
        status: attempt.status,
        error: attempt.error.map(Into::into),
        latency_ms: attempt.latency_ms,
        excerpt: hidden.beginning(attempt.excerpt),
        sent: wire::Sent {
            url: hidden.sent(&attempt.sent.url),
            sha256: attempt.sent.sha256.map_or_else(|| own_sha256.to_owned(), hex::encode),
            signed: attempt
                .sent
                .signed
                .map(|signed| wire::Signed { scheme: signed.scheme.into(), secret: signed.secret.map(Into::into) }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{fake::*, find},
        *,
    };

    #[test]
    fn the_account_of_an_event_is_the_golden_file() {
        let fake = Fake::default();
        let id = fake.accept("stripe", br#"{"id":1}"#);
        fake.plan(&[(id, &["billing"])]);
        fake.attempt(id, "billing", 1, Some(200), None);
        let found = find(&fake, id).unwrap();
        let json = serde_json::to_string_pretty(&show(&fake, &found, false).unwrap()).unwrap() + "\n";
        if std::env::var_os("STAGEPOST_WRITE_GOLDEN").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/show.golden.json"), &json).unwrap();
        }
        assert_eq!(json, include_str!("show.golden.json"));
        assert_eq!(serde_json::from_str::<wire::Show>(&json).unwrap(), show(&fake, &found, false).unwrap());
        assert!(!json.contains("sesame"), "a credential is shown");
        let revealed = serde_json::to_string(&show(&fake, &found, true).unwrap()).unwrap();
        assert!(revealed.contains("sesame"));
    }
}
