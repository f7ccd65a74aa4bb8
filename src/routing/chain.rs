//! Owns what follows from deliveries, as validated values: what becomes of an upstream's answers, and who gets copies.

use crate::expr::Expr;

/// The good answers of an upstream become events.
#[derive(Clone, Debug)]
pub struct PublishPolicy {
    /// Under this topic.
    pub topic: Box<str>,
    /// Their type, by jq over the answer; None: they have none.
    pub event_type: Option<Expr>,
}

/// An upstream that gets copies of what another one answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowPolicy {
    /// The other one; None: that of the routes that name the shadow.
    pub of: Option<Box<str>>,
    /// Bytes of copies that wait or are under way; beyond, they are dropped.
    pub memory: u64,
}

/// Dead deliveries are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyPolicy {
    /// Under this topic.
    pub topic: Box<str>,
    /// At most so many of the upstream in a minute; what dies besides is counted in one event at its end.
    pub per_minute: u32,
}
