//! Owns what a sender waits for (`mode = "proxy"`): whose answer, how long, and what it gets instead.

use super::Reply;

/// The sender of an event waits for an upstream's answer. How long is the source's `reply_timeout`.
#[derive(Clone, Debug)]
pub struct WaitPolicy {
    /// Whose answer.
    pub reply_from: Box<str>,
    /// What the sender gets when there is none; None: the source's own reply.
    pub fallback: Option<Reply>,
    /// What follows from a 5xx.
    pub on_error: OnError,
}

/// What a 5xx means for a sender who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The sender gets the fallback, and the delivery is tried again behind its back.
    Fallback,
    /// The sender gets the 5xx and the delivery ends: it is the sender who tries again, with a new event.
    Pass,
}
