//! Owns plain paths: `.a.b[0]`, `.["x-y"]?`, `$headers["x-kind"]`, each also with `// "default"`.
//!
//! They run on the ack path. Promises one pass over the bytes, no value tree, and no allocation but the result, and the
//! same answers as jq: the last of equal keys wins, a body that is not JSON is null. Unlike jq it never looks into what
//! it passes over, so a body may be nested as deep as it likes there.

use bytes::Bytes;
use jaq_core::{
    load::{
        lex::StrPart,
        parse::{BinaryOp, Term},
    },
    path::{Opt, Part},
};
use jaq_json::Val;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{EvalError, INLINE_BODY_BYTES_MAX, Input, Output, bind, json};
use crate::event::is_form;

/// More steps than any real body has levels; it bounds the recursion.
const STEPS_MAX: usize = 64;

/// A plain path.
pub(super) struct Plain {
    root: Root,
    steps: Vec<Step>,
    /// JSON, in place of null, false and nothing.
    default: Option<Bytes>,
}

enum Root {
    Body,
    Variable(&'static str),
}

struct Step {
    key: Key,
    optional: bool,
}

enum Key {
    Name(Box<str>),
    Index(usize),
}

impl Plain {
    /// The plain path that a term is, if it is one.
    pub(super) fn of(term: &Term<&str>) -> Option<Self> {
        match term {
            Term::BinOp(left, BinaryOp::Alt, right) => {
                let mut plain = Self::of(left).filter(|plain| plain.default.is_none())?;
                plain.default = Some(literal(right)?);
                Some(plain)
            }
            Term::Id => Some(Self { root: Root::Body, steps: Vec::new(), default: None }),
            Term::Var(name) => {
                let name = bind::NAMES.iter().find(|known| *known == name)?;
                Some(Self { root: Root::Variable(name), steps: Vec::new(), default: None })
            }
            Term::Path(inner, path) => {
                let mut plain = Self::of(inner).filter(|plain| plain.default.is_none())?;
                for (part, option) in &path.0 {
                    let Part::Index(key) = part else { return None };
                    plain.steps.push(Step { key: key_of(key)?, optional: matches!(option, Opt::Optional) });
                }
                (plain.steps.len() <= STEPS_MAX).then_some(plain)
            }
            _ => None,
        }
    }

    /// Whether the body matters at all: variables but `$body` don't look at it.
    pub(super) fn needs_body(&self) -> bool {
        matches!(self.root, Root::Body | Root::Variable("$body"))
    }

    /// The answer; None if it takes more than a pass over the bytes, so that the pool has to give it: a large form, a
    /// large array or object as the result. `decoded` may be empty if the body does not matter.
    pub(super) fn eval(&self, input: &Input<'_>, decoded: &[u8]) -> Option<Result<Output, EvalError>> {
        let found = match self.root {
            Root::Body if !is_form(input.headers, decoded) => self.seek(decoded)?,
            _ if self.needs_body() && decoded.len() > INLINE_BODY_BYTES_MAX => return None,
            Root::Body => match bind::Body::of(input.headers, decoded) {
                bind::Body::Value(form) => self.walk(form),
                bind::Body::Json(..) => Ok(None),
            },
            Root::Variable("$headers") => match &self.steps[..] {
                [Step { key: Key::Name(name), .. }] => Ok(Some(header_json(input, name))),
                _ => self.walk(bind::variable("$headers", input, decoded)),
            },
            Root::Variable(name) => self.walk(bind::variable(name, input, decoded)),
        };
        Some(found.map(|found| self.output(found)))
    }

    fn output(&self, found: Option<Bytes>) -> Output {
        let found = match &self.default {
            Some(default) if found.as_deref().is_none_or(|value| value == b"null" || value == b"false") => {
                Some(default.clone())
            }
            _ => found,
        };
        Output { values: found.into_iter().collect() }
    }

    /// Finds the value in JSON text: Some(Ok(None)) for no output (a `?` that was needed), None if it is left to the
    /// pool.
    fn seek(&self, decoded: &[u8]) -> Option<Result<Option<Bytes>, EvalError>> {
        let null = || Some(Ok(Some(Bytes::from_static(b"null"))));
        let Ok(text) = std::str::from_utf8(decoded) else { return null() };
        let mut json = serde_json::Deserializer::from_str(text);
        let found = match (Seek { steps: &self.steps }).deserialize(&mut json) {
            Ok(found) if json.end().is_ok() => found,
            _ => return null(),
        };
        match found {
            Found::Null => null(),
            Found::Raw(raw) => compact(raw).map(|value| value.map(Some)),
            Found::Wrong { step, .. } if step.optional => Some(Ok(None)),
            Found::Wrong { what, step } => Some(Err(step.error(what))),
        }
    }

    /// Follows the steps in a value that is already there.
    fn walk(&self, mut value: Val) -> Result<Option<Bytes>, EvalError> {
        for step in &self.steps {
            value = match (&value, &step.key) {
                (Val::Null, _) | (Val::Obj(_), Key::Index(_)) => Val::Null,
                (Val::Obj(members), Key::Name(name)) => {
                    members.get(&Val::from(name.to_string())).cloned().unwrap_or(Val::Null)
                }
                (Val::Arr(items), Key::Index(index)) => items.get(*index).cloned().unwrap_or(Val::Null),
                _ if step.optional => return Ok(None),
                (Val::Arr(_), _) => return Err(step.error("an array")),
                _ => return Err(step.error("a string")),
            };
        }
        written(&value).map(Some)
    }
}

impl Step {
    fn error(&self, what: &str) -> EvalError {
        EvalError::Failed(match &self.key {
            Key::Name(name) => format!("cannot index {what} with {name:?}"),
            Key::Index(index) => format!("cannot index {what} with {index}"),
        })
    }
}

fn header_json(input: &Input<'_>, name: &str) -> Bytes {
    // Names are lower case: `$headers["X-Kind"]` is null, as it would be in jq.
    match bind::header(input.headers, name) {
        Some(value) if !name.bytes().any(|byte| byte.is_ascii_uppercase()) => json::quote(&value),
        _ => Bytes::from_static(b"null"),
    }
}

/// A value found in the text as its canonical JSON: numbers as they stand, strings with the fewest escapes. None if it
/// is an array or object that is too large or too tangled to be read here.
fn compact(raw: &RawValue) -> Option<Result<Bytes, EvalError>> {
    let text = raw.get();
    Some(Ok(match text.as_bytes().first() {
        Some(b'"') if text.contains('\\') => match serde_json::from_str::<String>(text) {
            Ok(decoded) => json::quote(&decoded),
            Err(_) => Bytes::from_static(b"null"),
        },
        Some(b'[' | b'{') => {
            if text.len() > INLINE_BODY_BYTES_MAX {
                return None;
            }
            let (text, survey) = json::Survey::of(text.as_bytes()).filter(|(_, survey)| survey.is_light())?;
            return Some(survey.read(text).and_then(|value| written(&value)));
        }
        _ => Bytes::copy_from_slice(text.as_bytes()),
    }))
}

fn written(value: &Val) -> Result<Bytes, EvalError> {
    let mut sink = json::Sink::new(u64::MAX);
    sink.push(value)?;
    Ok(sink.into_values().pop().unwrap_or_default())
}

fn key_of(term: &Term<&str>) -> Option<Key> {
    match term {
        Term::Num(digits) => digits.parse().ok().map(Key::Index),
        other => plain_string(other).map(|name| Key::Name(name.into())),
    }
}

fn literal(term: &Term<&str>) -> Option<Bytes> {
    match term {
        Term::Call(name, arguments) if arguments.is_empty() && ["null", "true", "false"].contains(name) => {
            Some(Bytes::copy_from_slice(name.as_bytes()))
        }
        Term::Num(digits) => digits.parse::<u32>().ok().map(|number| Bytes::from(number.to_string())),
        other => plain_string(other).map(|text| json::quote(&text)),
    }
}

/// The text of a string without interpolation and format.
pub(super) fn plain_string(term: &Term<&str>) -> Option<String> {
    let Term::Str(None, parts) = term else { return None };
    let mut text = String::new();
    for part in parts {
        match part {
            StrPart::Str(piece) => text.push_str(piece),
            StrPart::Char(character) => text.push(*character),
            StrPart::Term(_) => return None,
        }
    }
    Some(text)
}

/// What the steps led to.
enum Found<'de, 'p> {
    Null,
    Raw(&'de RawValue),
    Wrong { what: &'static str, step: &'p Step },
}

/// Follows the steps through the text.
struct Seek<'p> {
    steps: &'p [Step],
}

impl<'de, 'p> DeserializeSeed<'de> for Seek<'p> {
    type Value = Found<'de, 'p>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.steps {
            [] => serde::Deserialize::deserialize(json).map(Found::Raw),
            [step, rest @ ..] => json.deserialize_any(Follow { step, rest }),
        }
    }
}

struct Follow<'p> {
    step: &'p Step,
    rest: &'p [Step],
}

impl<'p> Follow<'p> {
    fn wrong<'de, E>(self, what: &'static str) -> Result<Found<'de, 'p>, E> {
        Ok(Found::Wrong { what, step: self.step })
    }
}

impl<'de, 'p> Visitor<'de> for Follow<'p> {
    type Value = Found<'de, 'p>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::Null;
        let Key::Name(name) = &self.step.key else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(found);
        };
        while let Some(matches) = members.next_key_seed(Matches(name))? {
            if matches {
                found = members.next_value_seed(Seek { steps: self.rest })?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Key::Index(index) = self.step.key else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return self.wrong("an array");
        };
        let mut found = Found::Null;
        for _ in 0..index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
        }
        if let Some(item) = items.next_element_seed(Seek { steps: self.rest })? {
            found = item;
            while items.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(found)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        self.wrong("a boolean")
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        self.wrong("a number")
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        self.wrong("a number")
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        self.wrong("a number")
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        self.wrong("a string")
    }
}

/// Whether a key is the wanted one, without keeping it.
struct Matches<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Matches<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Matches<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<bool, E> {
        Err(E::custom("a key is text"))
    }
}
