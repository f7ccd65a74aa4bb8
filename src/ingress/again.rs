//! Owns the second admission of a request from quarantine: by the rules of today, as of the time of its receipt.
//!
//! Promises that it passes the same checks as a request that comes in now, in the same order, and that its signature's
//! timestamp is compared with the time at which it was received: what was stale then stays stale. The window of its
//! dedupe key begins now. Deliberately absent: removing it from quarantine.

use bytes::Bytes;
use http::{Request, Version, header, request::Parts};
use http_body_util::Full;

use super::{Gate, admit::Progress, client::Caller, reply::Taken};
use crate::{
    event::{Body, Event},
    quarantine::{Judgement, Purpose},
};

impl Gate {
    /// Judges a request from quarantine, and takes it if that is the purpose: then it is durable when this returns.
    pub async fn judge_again(&self, event: &Event, purpose: Purpose) -> Judgement {
        let doors = self.doors();
        let (Some(mut head), Body::Inline(body)) = (head_of(event), &event.body) else {
            return Judgement::Refused("malformed");
        };
        let (caller, mut body) = (Caller::of(event, purpose), Full::<Bytes>::new(body.clone()));
        let mut progress = Progress::default();
        match self.admit(&doors, &caller, &mut head, &mut body, &mut progress).await {
            Ok(Taken::Rehearsed) => Judgement::Taken,
            Ok(Taken::Accepted(id)) => Judgement::Admitted(id),
            Ok(Taken::Duplicate(first)) => Judgement::Duplicate(first),
            Ok(Taken::Answered(answered)) => Judgement::Admitted(answered.id),
            Ok(Taken::Proxied(..) | Taken::Challenged(_)) => Judgement::NoEvent,
            Err(refusal) => Judgement::Refused(refusal.word()),
        }
    }
}

/// The head as it was received. None if it is none, which the quarantine never keeps.
fn head_of(event: &Event) -> Option<Parts> {
    let target = match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.to_string(),
    };
    let request = Request::builder().method(event.method.clone()).uri(target).body(()).ok()?;
    let mut head = request.into_parts().0;
    head.headers.clone_from(&event.headers);
    // HTTP/2 and 3 are given a Host when they are received; without one it was HTTP/1.0.
    head.version = if head.headers.contains_key(header::HOST) { Version::HTTP_11 } else { Version::HTTP_10 };
    Some(head)
}
