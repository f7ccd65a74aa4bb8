//! Owns the request of an attempt that is never made: for those who want to see what would be sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::request::{LargeBodies, Unsent, prepare};
use crate::{
    clock::Timestamp,
    event::{Change, Job},
    expr::Evaluator,
    log::Log,
    routing::{Table, Upstream},
};

/// What would be sent. Our own signature is not among the headers: it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: Box<str>,
    /// The headers, credentials included.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Makes the request of an attempt that would begin now (wall time).
///
/// # Errors
/// Why nothing would be sent, in words.
pub async fn preview(
    job: &Job,
    upstream: &Upstream,
    table: &Table,
    log: &Arc<dyn Log>,
    evaluator: &Evaluator,
    now: Timestamp,
) -> Result<Preview, String> {
    let room = LargeBodies::default();
    match prepare(job, upstream, table, log, evaluator, &room, now).await {
        Ok(draft) => Ok(Preview {
            method: draft.method.clone(),
            url: draft.sent().url,
            headers: draft.headers(),
            body: draft.body().clone(),
        }),
        Err(Unsent::Settled(Change::Die(reason))) => Err(reason.to_string()),
        Err(Unsent::Settled(Change::Ignore)) => Err("ignored: the transform gives nothing".into()),
        Err(Unsent::Settled(_)) => Err("settled without an attempt".into()),
        Err(Unsent::Later(why)) => Err(why.into()),
    }
}
