//! Owns the way between JSON text and jq values, and the checks before it: strict JSON, bounded depth, bounded numbers.
//!
//! Promises that reading and writing never recurse deeper than [`DEPTH_MAX`] and [`OUTPUT_DEPTH_MAX`], that numbers keep
//! their digits and objects their order, and that what is written is JSON (jq's values are a superset of it).

use std::{borrow::Cow, io::Write as _};

use bytes::Bytes;
use jaq_json::{Num, Val, read};
use serde::de::IgnoredAny;

use super::EvalError;

/// The deepest nesting of a body that expressions see.
pub(super) const DEPTH_MAX: usize = 128;

/// The deepest nesting of an output.
pub(super) const OUTPUT_DEPTH_MAX: usize = 512;

/// The longest number on the caller's thread: reading and writing huge integers takes quadratic time.
const INLINE_DIGITS_MAX: usize = 1_000;

/// What each output costs beside its own bytes, so that endless empty outputs are bounded too.
const OUTPUT_OVERHEAD_BYTES: usize = 8;

/// What a look at a text tells without reading it into values.
pub(super) struct Survey {
    depth: usize,
    digits: usize,
}

impl Survey {
    /// None if the text is not JSON.
    pub(super) fn of(text: &[u8]) -> Option<(&str, Self)> {
        let text = std::str::from_utf8(text).ok()?;
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let (mut depth, mut deepest, mut run, mut digits) = (0_usize, 0, 0_usize, 0);
        let (mut quoted, mut escaped) = (false, false);
        for byte in text.bytes() {
            if quoted {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => quoted = false,
                    _ => {}
                }
                continue;
            }
            run = if byte.is_ascii_digit() { run + 1 } else { 0 };
            digits = digits.max(run);
            match byte {
                b'"' => quoted = true,
                b'[' | b'{' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        Some((text, Self { depth: deepest, digits }))
    }

    /// Whether the text may be read on the caller's thread.
    pub(super) fn is_light(&self) -> bool {
        self.digits <= INLINE_DIGITS_MAX
    }

    /// Reads the text this is a survey of; null if jq can't (an escaped lone surrogate).
    pub(super) fn read(&self, text: &str) -> Result<Val, EvalError> {
        if self.depth > DEPTH_MAX {
            return Err(EvalError::Failed(format!("the body is nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(read::parse_single(text.as_bytes()).unwrap_or(Val::Null))
    }
}

/// The text of a JSON string, borrowed if it has no escapes.
pub(super) fn string(json: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(json).ok()?;
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(text).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// A string as JSON.
pub(super) fn quote(text: &str) -> Bytes {
    // Writing a string into memory can't go wrong.
    Bytes::from(serde_json::to_vec(text).unwrap_or_default())
}

/// Collects outputs up to a limit in bytes.
pub(super) struct Sink {
    values: Vec<Bytes>,
    left: usize,
    limit: u64,
}

impl Sink {
    pub(super) fn new(limit: u64) -> Self {
        Self { values: Vec::new(), left: usize::try_from(limit).unwrap_or(usize::MAX), limit }
    }

    /// Takes one output.
    pub(super) fn push(&mut self, value: &Val) -> Result<(), EvalError> {
        let mut text = Vec::new();
        let room = self.left.checked_sub(OUTPUT_OVERHEAD_BYTES).ok_or(EvalError::TooLarge(self.limit))?;
        Writer { out: &mut text, room, limit: self.limit }.value(value, 0)?;
        self.left = room.saturating_sub(text.len());
        self.values.push(Bytes::from(text));
        Ok(())
    }

    pub(super) fn into_values(self) -> Vec<Bytes> {
        self.values
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
    limit: u64,
}

impl Writer<'_> {
    fn value(&mut self, value: &Val, depth: usize) -> Result<(), EvalError> {
        if depth > OUTPUT_DEPTH_MAX {
            return Err(EvalError::Failed(format!("an output is nested deeper than {OUTPUT_DEPTH_MAX} levels")));
        }
        match value {
            Val::Null => self.put(b"null"),
            Val::Bool(true) => self.put(b"true"),
            Val::Bool(false) => self.put(b"false"),
            Val::Num(number) => self.number(number),
            Val::TStr(text) | Val::BStr(text) => self.text(text),
            Val::Arr(items) => {
                self.put(b"[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    self.value(item, depth + 1)?;
                }
                self.put(b"]")
            }
            Val::Obj(members) => {
                self.put(b"{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    match key {
                        Val::TStr(key) => self.text(key)?,
                        _ => return Err(EvalError::Failed("an object key in the output is not a string".into())),
                    }
                    self.put(b":")?;
                    self.value(value, depth + 1)?;
                }
                self.put(b"}")
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EvalError> {
        if self.out.len() + bytes.len() > self.room {
            return Err(EvalError::TooLarge(self.limit));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes that are not UTF-8 (decoded base64) become U+FFFD, as in jq.
    fn text(&mut self, text: &[u8]) -> Result<(), EvalError> {
        if self.out.len() + text.len() > self.room {
            return Err(EvalError::TooLarge(self.limit));
        }
        serde_json::to_writer(&mut *self.out, &String::from_utf8_lossy(text))
            .map_err(|error| EvalError::Failed(error.to_string()))?;
        self.put(b"")
    }

    /// As jq: what is no number is null, infinity the largest double, and a whole double has no fraction.
    fn number(&mut self, number: &Num) -> Result<(), EvalError> {
        const WHOLE_MAX: f64 = 1e17;
        match number {
            Num::Float(float) if float.is_nan() => self.put(b"null"),
            Num::Float(float) if float.is_infinite() => {
                self.put(if *float > 0.0 { b"1.7976931348623157e+308" } else { b"-1.7976931348623157e+308" })
            }
            Num::Float(float) if float.fract() == 0.0 && float.abs() < WHOLE_MAX => {
                self.put(format!("{float:.0}").as_bytes())
            }
            Num::Dec(digits) if serde_json::from_str::<IgnoredAny>(digits).is_err() => {
                // Text that jq reads as a number but JSON does not (`fromjson` takes `+1.5`).
                self.number(&Num::from_dec_str(digits))
            }
            other => {
                let mut digits = Vec::new();
                let _written = write!(digits, "{other}");
                self.put(&digits)
            }
        }
    }
}
