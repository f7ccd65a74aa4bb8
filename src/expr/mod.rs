//! Owns compiled jq expressions and their limits: filters, transforms, keys.
//!
//! Promises that a runaway expression costs one evaluation its life and nobody else a millisecond. Three tiers, chosen
//! when the text is compiled: *plain paths* (`.a.b[0] // "x"`) are read straight from the bytes; jq whose cost is
//! provably linear (`safe`) runs on the caller's thread; everything else runs in a pool of worker processes of
//! the same binary, limited in CPU and memory and killed at the deadline (`pool`, `worker`).
//!
//! Deliberately absent: modules (`import`, `include`), `input`, `env`, `$ENV`, `halt` and `now`: an expression sees the
//! request and nothing else, so that it gives the same answer on every attempt.

mod bind;
mod child;
mod decode;
mod json;
mod mask;
mod plain;
mod pool;
mod program;
mod safe;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderMap;

pub use self::{
    decode::decode_body,
    mask::{Mask, MaskError},
    pool::{Evaluator, Settings},
    program::panic_is_expected,
    worker::worker_main,
};
use self::{plain::Plain, program::Program};
use crate::{clock::Timestamp, event::EventId};

/// The longest text that is compiled, in bytes: it bounds the recursion of the parser.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The largest body, as received or decoded, that jq is given on the caller's thread; larger ones go to the pool.
/// Plain paths take JSON of any size there, as long as it is not encoded and the result is not itself so large an array
/// or object.
pub const INLINE_BODY_BYTES_MAX: usize = 256 * 1024;

/// How many evaluations an expression that ran away stays in the slow lane (see [`Evaluator`]).
const PENALTY: u32 = 64;

/// A compiled expression. Cheap to clone.
#[derive(Clone)]
pub struct Expr(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    tier: Tier,
    /// Above zero while the expression is suspected of running away; clones share it.
    penalty: AtomicU32,
}

enum Tier {
    Plain(Plain),
    Inline { program: Box<Program>, body_bytes_max: usize },
    Pool,
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

/// What a transform says should be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SingleBody {
    /// The transform gave nothing (`empty`): the delivery is settled as ignored.
    Empty,
    /// These bytes: the text of a string, the JSON of anything else.
    Send(Bytes),
}

impl Expr {
    /// Compiles a jq expression with the variables of the contract bound.
    ///
    /// # Errors
    /// [`CompileError`] with the place in the text. Texts longer than [`TEXT_BYTES_MAX`] are refused.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        let (program, shape) = program::compile_apart(text)?;
        let tier = match shape {
            program::Shape::Plain(plain) => Tier::Plain(plain),
            program::Shape::Linear { body_bytes_max } => Tier::Inline { program: Box::new(program), body_bytes_max },
            program::Shape::Unbounded => Tier::Pool,
        };
        Ok(Self(Arc::new(Compiled { text: text.into(), tier, penalty: AtomicU32::new(0) })))
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether it is evaluated on the caller's thread, in time linear in the body (plain paths and what else can't
    /// run away). Then [`Evaluator::now`] gives an answer unless the body is large (see [`INLINE_BODY_BYTES_MAX`]).
    #[must_use]
    pub fn is_inline(&self) -> bool {
        !matches!(self.0.tier, Tier::Pool)
    }

    /// Whether it ran away lately.
    fn is_suspect(&self) -> bool {
        self.0.penalty.load(Ordering::Relaxed) > 0
    }

    /// Remembers how an evaluation in the pool ended.
    fn note<T>(&self, result: &Result<T, EvalError>) {
        let penalty = &self.0.penalty;
        match result {
            Err(EvalError::TooSlow(_) | EvalError::TooLarge(_)) => penalty.store(PENALTY, Ordering::Relaxed),
            // Lost updates only shorten or lengthen the penalty a little.
            _ => penalty.store(penalty.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expr").field(&self.0.text).finish()
    }
}

impl PartialEq for Expr {
    /// Equal texts mean equal expressions.
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Expr {}

impl Output {
    /// Whether a `when` matches: there is an output and the first is neither false nor null.
    #[must_use]
    pub fn truthy(&self) -> bool {
        self.values.first().is_some_and(|value| &value[..] != b"null" && &value[..] != b"false")
    }

    /// The single output as a key: a non-empty string (decoded), a number or a boolean. None for anything else.
    #[must_use]
    pub fn scalar(&self) -> Option<Cow<'_, str>> {
        let [value] = &self.values[..] else { return None };
        match value.first()? {
            b'"' => Some(json::string(value)?).filter(|text| !text.is_empty()),
            b'n' | b'[' | b'{' => None,
            _ => std::str::from_utf8(value).ok().map(Cow::Borrowed),
        }
    }

    /// The body that a transform asks for: exactly one output; a string is sent as it is, anything else as JSON.
    ///
    /// # Errors
    /// [`EvalError::Failed`] if there is more than one output.
    pub fn single_body(&self) -> Result<SingleBody, EvalError> {
        match &self.values[..] {
            [] => Ok(SingleBody::Empty),
            [value] if value.first() == Some(&b'"') => match json::string(value) {
                Some(text) => Ok(SingleBody::Send(Bytes::from(text.into_owned()))),
                None => Err(EvalError::Failed("the output is a string that can't be read".into())),
            },
            [value] => Ok(SingleBody::Send(value.clone())),
            more => {
                Err(EvalError::Failed(format!("a transform gives exactly one output, this one gave {}", more.len())))
            }
        }
    }
}
