//! Owns what admission does for schemes of which the verdict needs the whole body, and perhaps a document from outside.
//!
//! Promises that only such a request waits for a document, and that a document that can't be had is a fault of ours. A
//! subscription of SNS that was verified is confirmed in the background, if the source wants that.

use http::{Response, StatusCode};

use super::{
    Gate,
    admit::Left,
    body::Received,
    challenge,
    reply::{Refusal, ReplyBody},
};
use crate::{
    clock::Timestamp,
    routing::Source,
    verify::{Check, Verified, subscription},
};

impl Gate {
    /// The verdict about a request whose check needs the body in one piece.
    pub(super) async fn judge<'a>(
        &self,
        mut check: Check,
        received: Received<'a>,
        received_at: Timestamp,
    ) -> Result<(Verified, Received<'a>), Refusal> {
        let mut received = received.into_memory().await?;
        let body = received.whole()?;
        let wanted = match check.wants(&body) {
            Ok(wanted) => wanted,
            Err(refusal) => return Err(Left::unverified(&received, received_at, refusal)),
        };
        if let Some(wanted) = wanted {
            let document = self.ingress.keys.get(&wanted).await.map_err(Refusal::Keys)?;
            check.provide(document);
        }
        match check.finish(&body) {
            Ok(verified) => Ok((verified, received)),
            Err(refusal) => Err(Left::unverified(&received, received_at, refusal)),
        }
    }

    /// Answers a verified message of SNS that asks to confirm a subscription; None if it is none. Without
    /// `verify.confirm` the operator finds the address in the diagnostics.
    pub(super) fn subscribe(&self, source: &Source, body: &[u8]) -> Result<Option<Response<ReplyBody>>, Refusal> {
        let Some(asked) = subscription(body) else { return Ok(None) };
        let confirms = source.verifier.confirms_subscriptions();
        let (source, topic) = (&*source.name, asked.topic);
        match asked.place {
            None => tracing::warn!(source, topic, "a subscription was not confirmed: its address is not one of SNS's"),
            Some(place) if confirms => self.ingress.keys.confirm(&topic, place).map_err(Refusal::Keys)?,
            Some(place) => tracing::warn!(
                source,
                topic,
                address = %place,
                "a subscription waits to be confirmed: open the address, or set verify.confirm = true"
            ),
        }
        Ok(Some(challenge::empty(StatusCode::OK)))
    }
}
