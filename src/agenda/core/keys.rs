//! Owns what an event's key and version are, by today's routes. Pure.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::{
    agenda::plan::{self, Orders},
    event::{Body, Event, Version},
    expr::{Evaluator, Expr},
    routing::OrderKey,
};

/// What a delivery's key is.
pub(super) enum Keyed {
    /// It has none.
    Free,
    /// The hash of the key, and the policy's number.
    Key(u64, u16),
    /// Its body has to be read first.
    NeedsBody,
}

/// The key of an event in words, by today's routes. None if it has none, or stands in a body that is not at hand.
#[must_use]
pub fn key_text(evaluator: &Evaluator, orders: &Orders, event: &Event) -> Option<String> {
    let (_, policy) = orders.of(&event.source)?;
    match &policy.key {
        OrderKey::Header(name) => event.headers.get(name)?.to_str().ok().map(str::to_owned),
        OrderKey::Expr(expr) => {
            let Body::Inline(body) = &event.body else { return None };
            let output = evaluator.now(expr, &plan::input(event, body))?.ok()?;
            output.scalar().map(Into::into)
        }
    }
}

/// The key of an event, by today's routes.
pub(super) fn key_of(evaluator: &Evaluator, log_id: u128, orders: &Orders, event: &Event) -> Keyed {
    let Some((number, policy)) = orders.of(&event.source) else { return Keyed::Free };
    let hash = |key: &[u8]| {
        // Keyed, so that no sender can choose keys that meet.
        let mut hasher = SipHasher24::new_with_keys(log_id as u64, (log_id >> 64) as u64);
        hasher.write(policy.key.text().as_bytes());
        hasher.write_u8(0xff);
        hasher.write(key);
        Keyed::Key(hasher.finish(), number)
    };
    match &policy.key {
        OrderKey::Header(name) => {
            let value = event.headers.get(name).map(http::HeaderValue::as_bytes);
            value.filter(|value| !value.is_empty()).map_or(Keyed::Free, hash)
        }
        OrderKey::Expr(expr) => {
            let Body::Inline(body) = &event.body else { return Keyed::NeedsBody };
            match evaluator.now(expr, &plan::input(event, body)) {
                Some(Ok(output)) => output.scalar().map_or(Keyed::Free, |key| hash(key.as_bytes())),
                Some(Err(_)) | None => Keyed::Free,
            }
        }
    }
}

/// The version of an event: a number or a text.
pub(super) fn version_of(evaluator: &Evaluator, expr: &Expr, event: &Event) -> Option<Version> {
    let Body::Inline(body) = &event.body else { return None };
    let output = evaluator.now(expr, &plan::input(event, body))?.ok()?;
    let text = output.scalar()?;
    match output.values.first()?.first()? {
        b'"' => Some(Version::Text((&*text).into())),
        b't' | b'f' => None,
        _ => Some(Version::Number((&*text).into())),
    }
}
