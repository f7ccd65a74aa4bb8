//! Owns what is kept of upstreams' answers for equal requests: by which key, how long, how much. The answers themselves
//! are not here.

use std::time::Duration;

use crate::expr::Expr;

/// Answers to requests of a source that are kept for others with the same key.
#[derive(Clone, Debug)]
pub struct CachePolicy {
    /// One output makes the key: any JSON but null and the empty text.
    pub key: Expr,
    /// How long an answer is good, from its end.
    pub ttl: Duration,
    /// Bytes of all answers of the source in memory.
    pub max_bytes: u64,
    /// Bytes of one answer's body; a longer one is not kept.
    pub max_entry_bytes: u64,
}
