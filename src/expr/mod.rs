//! Owns compiled jq expressions and their limits: filters, transforms, keys.
//!
//! Promises that a runaway expression costs one delivery its life and nobody else a millisecond: what could run
//! away is evaluated in a pool of worker processes of the same binary, limited in CPU and memory, killed at the deadline.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;

use crate::{clock::Timestamp, event::EventId};

/// A compiled expression. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Expr {
    text: Arc<str>,
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// What is wrong, with the place.
    pub message: String,
}

/// Why an evaluation gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression itself failed.
    #[error("{0}")]
    Failed(String),
    /// It ran longer than it may.
    #[error("the expression ran longer than {0} ms")]
    TooSlow(u64),
    /// It used more memory or wrote more output than it may.
    #[error("the expression used more than {0} bytes")]
    TooLarge(u64),
    /// The body can't be decoded (`Content-Encoding`).
    #[error("the body can't be decoded: {0}")]
    Undecodable(String),
    /// The pool of evaluators can't be reached; try again.
    #[error("no evaluator is available: {0}")]
    Unavailable(String),
}

/// What an expression may speak of. The body is as received; it is decoded by its `Content-Encoding` here.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "named as the variables of the contract, section 4")]
pub struct Input<'a> {
    pub body: &'a [u8],
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
    pub path: &'a str,
    pub captures: &'a [(Box<str>, Box<str>)],
    pub method: &'a str,
    pub source: &'a str,
    pub id: Option<EventId>,
    pub received_at: Timestamp,
}

/// What an expression gave: JSON texts, compact, numbers with the digits and objects with the order they had.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// One JSON text for each output.
    pub values: Vec<Bytes>,
}

impl Output {
    /// Whether a `when` matches: there is an output and the first is neither false nor null.
    #[must_use]
    pub fn truthy(&self) -> bool {
        self.values.first().is_some_and(|value| &value[..] != b"null" && &value[..] != b"false")
    }

    /// The single output as a key: a non-empty string (decoded), a number or a boolean. None for anything else.
    #[must_use]
    pub fn scalar(&self) -> Option<Cow<'_, str>> {
        None
    }
}

/// Evaluates expressions. Cheap to clone; all clones share the pool.
#[derive(Clone)]
pub struct Evaluator;

impl Expr {
    /// Compiles a jq expression with the variables of the contract bound.
    ///
    /// # Errors
    /// [`CompileError`] with the place in the text.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        Ok(Self { text: text.into() })
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is evaluated on the caller's thread, in time linear in the body (plain paths and what else can't
    /// run away), so that [`Evaluator::now`] gives an answer.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        true
    }
}

impl Evaluator {
    /// Evaluates at once if the expression can't run away; None if it needs the pool.
    #[must_use]
    pub fn now(&self, _expr: &Expr, _input: &Input<'_>) -> Option<Result<Output, EvalError>> {
        None
    }

    /// Evaluates, in the pool if need be.
    ///
    /// # Errors
    /// [`EvalError`].
    pub async fn eval(&self, expr: &Expr, input: &Input<'_>) -> Result<Output, EvalError> {
        self.now(expr, input).unwrap_or_else(|| Ok(Output::default()))
    }
}
