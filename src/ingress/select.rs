//! Owns finding keys and types in a request: in a header, by jq, by the body's hash, by the items of a batch, or put
//! together of these.

use std::{borrow::Cow, future::Future, pin::Pin};

use http::{header::CONTENT_ENCODING, request::Parts};
use sha2::{Digest as _, Sha256};

use super::{Gate, admit::Ask};
use crate::{
    expr::{EvalError, decode_body},
    routing::{BATCH, ItemRule, Items, KeySelector},
    verify::notifications,
};

/// The head of a request without its `Content-Encoding`, if the body is text as it stands; None for all others. No scheme
/// signs this header, so that whoever sends a genuine body again could hide its key by it.
pub(super) fn undisguised(input: &Ask<'_>) -> Option<Parts> {
    if !input.head.headers.contains_key(CONTENT_ENCODING) || std::str::from_utf8(input.body).is_err() {
        return None;
    }
    let mut plain = input.head.clone();
    plain.headers.remove(CONTENT_ENCODING);
    Some(plain)
}

/// An answer that is computed elsewhere: boxed, so that the rare selectors don't make every request's future larger.
type Later<'a> = Pin<Box<dyn Future<Output = Result<Option<String>, EvalError>> + Send + 'a>>;

impl Gate {
    /// The scalar that a selector points at; None if there is none.
    pub(super) async fn select(&self, selector: &KeySelector, input: &Ask<'_>) -> Result<Option<String>, EvalError> {
        match selector {
            KeySelector::Header(name) => {
                let mut values = input.head.headers.get_all(name).iter();
                let single = values.next().filter(|_| values.next().is_none());
                let text = single.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
                Ok(text.map(str::trim).filter(|text| !text.is_empty()).map(Into::into))
            }
            KeySelector::Expr(expr) => {
                let output = self.evaluate(expr, input).await?;
                Ok(output.scalar().map(Cow::into_owned))
            }
            // Requests without a body have nothing in common.
            KeySelector::BodyHash => Ok((!input.body.is_empty()).then(|| hex::encode(Sha256::digest(input.body)))),
            KeySelector::Items(rule) => of_batch(rule, input, ItemRule::keys_of),
            KeySelector::ItemTypes(rule) => of_batch(rule, input, ItemRule::types_of),
            KeySelector::Notifications => {
                let body = decode_body(&input.head.headers, input.body, input.source.max_body)?;
                let mut ids: Vec<Box<str>> =
                    notifications(&body).into_iter().flatten().map(|notification| notification.id).collect();
                ids.sort_unstable();
                Ok((!ids.is_empty()).then(|| ids.join("\n")))
            }
            KeySelector::Joined(_) | KeySelector::FirstOf(_) | KeySelector::Dotted(_) => {
                self.put_together(selector, input).await
            }
        }
    }

    fn put_together<'a>(&'a self, selector: &'a KeySelector, input: &'a Ask<'_>) -> Later<'a> {
        Box::pin(async move {
            match selector {
                KeySelector::Joined(parts) => {
                    let mut found = Vec::with_capacity(parts.len());
                    for part in parts {
                        let Some(text) = self.select(part, input).await? else { return Ok(None) };
                        found.push(text);
                    }
                    Ok(serde_json::to_string(&found).ok())
                }
                KeySelector::FirstOf(parts) => {
                    for part in parts {
                        match self.select(part, input).await {
                            Ok(None) => {}
                            // What the sender sent makes the expression fail: it is not there.
                            Err(error) if !matches!(error, EvalError::Unavailable(_)) => {}
                            found => return found,
                        }
                    }
                    Ok(None)
                }
                KeySelector::Dotted(parts) => {
                    let [kind, action] = &**parts;
                    let Some(kind) = self.select(kind, input).await? else { return Ok(None) };
                    let action = self.select(action, input).await;
                    Ok(Some(match action {
                        Ok(Some(action)) if action == BATCH => action,
                        Ok(Some(action)) => format!("{kind}.{action}"),
                        Ok(None) | Err(_) => kind,
                    }))
                }
                simple => self.select(simple, input).await,
            }
        })
    }
}

fn of_batch(
    rule: &ItemRule,
    input: &Ask<'_>,
    find: impl Fn(&ItemRule, &[u8]) -> Option<String>,
) -> Result<Option<String>, EvalError> {
    if let Some(split) = input.item {
        let Items::Json(whole) = &split.items else { return Ok(None) };
        return Ok(rule.inside(whole).and_then(|rule| find(&rule, input.body)));
    }
    let body = decode_body(&input.head.headers, input.body, input.source.max_body)?;
    Ok(find(rule, &body))
}
