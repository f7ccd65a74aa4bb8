//! Owns the scheme of Microsoft Graph: every item of the body repeats the `clientState` that was agreed on.
//!
//! <https://learn.microsoft.com/graph/change-notifications-delivery-webhooks>. Nothing is signed. Promises that a body
//! without items is refused, and that each item carries a secret: one that does not spoils the batch.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{CannotSign, Head, Refusal, Resigning, Sample, Secret, Signed, Special, Started, Verified, Whole, json};
use crate::clock::Timestamp;

/// The most items of one body; more are refused.
pub const ITEMS_MAX: usize = 10_000;

/// A source of change notifications.
pub(super) struct GraphRecipe {
    scheme: &'static str,
    keys: Arc<[(Arc<str>, [u8; 32])]>,
    /// For making samples.
    first: Option<Secret>,
}

struct Waiting {
    scheme: &'static str,
    keys: Arc<[(Arc<str>, [u8; 32])]>,
}

/// A body, as far as it is looked at. Members that stand there twice are refused.
#[derive(Deserialize)]
struct Body {
    value: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "clientState")]
    client_state: String,
}

/// A sample's items, as they are written.
#[derive(Deserialize)]
struct List<'b> {
    #[serde(borrow)]
    value: Vec<&'b RawValue>,
}

impl GraphRecipe {
    pub(super) fn new(scheme: &'static str, secrets: Vec<Secret>) -> Self {
        let key = |secret: &Secret| (secret.reference().clone(), Sha256::digest(secret.expose()).into());
        Self { scheme, keys: secrets.iter().map(key).collect(), first: secrets.into_iter().next() }
    }
}

impl Special for GraphRecipe {
    fn scheme(&self) -> &'static str {
        self.scheme
    }

    fn references(&self) -> Vec<&Arc<str>> {
        self.keys.iter().map(|(reference, _)| reference).collect()
    }

    fn can_sign(&self) -> bool {
        true
    }

    /// Nothing is signed: what repeats the secret stands in the body, and stays there.
    fn resigning(&self) -> Resigning {
        Resigning::Nothing
    }

    fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let refused = || CannotSign::Body(self.scheme, "a JSON object with a list `value` of 1 to 10,000 objects");
        let secret = self.first.as_ref().ok_or(CannotSign::PrivateKey(self.scheme))?;
        let state = std::str::from_utf8(secret.expose()).map_err(|_| refused())?;
        let state = serde_json::Value::from(state).to_string();
        let list: List<'_> = serde_json::from_slice(sample.body).map_err(|_| refused())?;
        if list.value.is_empty() || list.value.len() > ITEMS_MAX {
            return Err(refused());
        }
        let mut items = Vec::with_capacity(list.value.len());
        for item in list.value {
            let written = json::with_member(item.get().as_bytes(), &["clientState"], &state).ok_or_else(refused)?;
            items.push(String::from_utf8(written).map_err(|_| refused())?);
        }
        let items = format!("[{}]", items.join(","));
        let body = json::with_member(sample.body, &["value"], &items).ok_or_else(refused)?;
        Ok(Signed { body: body.into(), ..sample.with_headers(Vec::new()) })
    }

    fn begin(&self, _head: &Head<'_>, _now: Timestamp) -> Result<Started, Refusal> {
        Ok(Started::Whole(Box::new(Waiting { scheme: self.scheme, keys: self.keys.clone() })))
    }
}

impl Whole for Waiting {
    fn finish(self: Box<Self>, body: &[u8]) -> Result<Verified, Refusal> {
        let text = std::str::from_utf8(body).map_err(|_| Refusal::UnreadableBody)?;
        let body: Body = serde_json::from_str(text).map_err(|error| match error.is_data() {
            true => Refusal::MissingCredentials,
            false => Refusal::UnreadableBody,
        })?;
        if body.value.is_empty() || body.value.len() > ITEMS_MAX {
            return Err(Refusal::MissingCredentials);
        }
        let mut matched = u32::MAX;
        let mut all = Choice::from(1);
        for item in &body.value {
            let digest = Sha256::digest(item.client_state.as_bytes());
            let mut any = Choice::from(0);
            for (index, (_, key)) in (0_u32..).zip(&*self.keys) {
                let same = digest.as_slice().ct_eq(key);
                matched.conditional_assign(&index, same);
                any |= same;
            }
            all &= any;
        }
        let key = usize::try_from(matched).ok().and_then(|index| self.keys.get(index));
        match key.filter(|_| bool::from(all)) {
            Some((reference, _)) => {
                Ok(Verified { scheme: self.scheme, secret: Some(reference.clone()), skew_ms: None })
            }
            None => Err(Refusal::BadCredentials),
        }
    }
}
