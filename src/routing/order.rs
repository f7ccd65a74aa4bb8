//! Owns the order of a route's deliveries: where the key stands, what a failure does to those behind it, and which of
//! several events of a key still count.
//!
//! Promises that whatever is asked of an event here is answered on the caller's thread: expressions that need the pool
//! of evaluators are refused.

use http::HeaderName;

use crate::expr::Expr;

/// Where the key of an event stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderKey {
    /// In a header.
    Header(HeaderName),
    /// By jq.
    Expr(Expr),
}

impl OrderKey {
    /// As it was written: keys of two selectors are never the same key.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Header(name) => name.as_str(),
            Self::Expr(expr) => expr.text(),
        }
    }
}

/// What happens to those behind a delivery that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// They wait through all its retries, until it is delivered or dead.
    Block,
    /// They wait for so many of its attempts; then it is dead (`skipped`).
    Skip(u32),
    /// They wait through all its retries, and when it is dead, until it is replayed and settled, or deleted, or let go.
    Park,
}

/// One delivery of a key at a time, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderPolicy {
    /// Where the key stands.
    pub key: OrderKey,
    /// What a failure does to those behind.
    pub on_failure: OnFailure,
    /// Where the version stands: an event older than the newest delivered one of its key is not sent.
    pub version: Option<Expr>,
    /// Of first attempts that wait only the newest is sent.
    pub coalesce: bool,
}

/// Why there is no such policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The key's expression can't be evaluated on the caller's thread.
    #[error(
        "needs the pool of evaluators, which answers too late to keep an order; write a path such as \".account.id\", \
         or jq without recursion, ranges and reductions"
    )]
    Key,
    /// The version's expression can't.
    #[error(
        "needs the pool of evaluators, which answers too late; write a path such as \".version\", or jq without \
         recursion, ranges and reductions"
    )]
    Version,
    /// No attempt at all.
    #[error("skips before the first attempt; write {{ skip = 1 }} or more")]
    NoAttempt,
}

impl OrderPolicy {
    /// A policy.
    ///
    /// # Errors
    /// [`OrderError`] if an expression needs the pool, or nothing would ever be tried.
    pub fn new(
        key: OrderKey,
        on_failure: OnFailure,
        version: Option<Expr>,
        coalesce: bool,
    ) -> Result<Self, OrderError> {
        if matches!(&key, OrderKey::Expr(expr) if !expr.is_inline()) {
            return Err(OrderError::Key);
        }
        if version.as_ref().is_some_and(|expr| !expr.is_inline()) {
            return Err(OrderError::Version);
        }
        if on_failure == OnFailure::Skip(0) {
            return Err(OrderError::NoAttempt);
        }
        Ok(Self { key, on_failure, version, coalesce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(text: &str) -> Expr {
        Expr::compile(text).unwrap()
    }

    #[test]
    fn an_expression_that_needs_the_pool_is_refused() {
        let slow = "[range(.n)] | length";
        let policy = |key: &str, version: Option<&str>| {
            OrderPolicy::new(OrderKey::Expr(expr(key)), OnFailure::Block, version.map(expr), false)
        };
        assert!(policy(".account.id", Some(".version")).is_ok());
        assert_eq!(policy(slow, None), Err(OrderError::Key));
        assert_eq!(policy(".id", Some(slow)), Err(OrderError::Version));
        let key = OrderKey::Header(HeaderName::from_static("x-account"));
        assert_eq!(OrderPolicy::new(key, OnFailure::Skip(0), None, false), Err(OrderError::NoAttempt));
    }
}
