//! Owns what `.` and the variables of an expression stand for: the way from a request to jq values.

use http::HeaderMap;
use jaq_json::{Map, Val};

use super::{EvalError, Input, json::Survey};
use crate::event::is_form;

/// The variables, in the order in which they are bound.
pub(super) const NAMES: [&str; 10] =
    ["$headers", "$query", "$path", "$captures", "$method", "$source", "$id", "$received_at", "$body", "$status"];

/// Which variables a text names. Errs on the side of more.
#[derive(Clone, Copy)]
pub(super) struct Uses([bool; NAMES.len()]);

impl Uses {
    pub(super) fn of(text: &str) -> Self {
        Self(NAMES.map(|name| text.contains(name)))
    }
}

/// The values of the variables, in the order of [`NAMES`]; those that are not used are null.
pub(super) fn variables(uses: Uses, input: &Input<'_>, decoded: &[u8]) -> Vec<Val> {
    NAMES.iter().zip(uses.0).map(|(name, used)| if used { variable(name, input, decoded) } else { Val::Null }).collect()
}

/// One variable.
pub(super) fn variable(name: &str, input: &Input<'_>, decoded: &[u8]) -> Val {
    match name {
        "$headers" => headers(input.headers),
        "$query" => pairs(input.query.unwrap_or_default().as_bytes()),
        "$path" => text(input.path),
        "$captures" => Val::obj(input.captures.iter().map(|(name, value)| (text(name), text(value))).collect()),
        "$method" => text(input.method),
        "$source" => text(input.source),
        "$id" => input.id.map_or(Val::Null, |id| text(&id.to_string())),
        "$received_at" => text(&input.received_at.to_string()),
        // An answer has its status where a request has its method; no method of HTTP is a number.
        "$status" => input.method.parse::<u16>().map_or(Val::Null, |status| Val::from(usize::from(status))),
        "$body" => text(&String::from_utf8_lossy(decoded)),
        _ => Val::Null,
    }
}

/// The decoded body as `.`: JSON, a form as an object, else null.
pub(super) enum Body<'a> {
    Value(Val),
    Json(&'a str, Survey),
}

impl<'a> Body<'a> {
    pub(super) fn of(headers: &HeaderMap, decoded: &'a [u8]) -> Self {
        if is_form(headers, decoded) {
            return Self::Value(pairs(decoded));
        }
        match Survey::of(decoded) {
            Some((text, survey)) => Self::Json(text, survey),
            None => Self::Value(Val::Null),
        }
    }

    /// Whether it may be read on the caller's thread.
    pub(super) fn is_light(&self) -> bool {
        match self {
            Self::Value(_) => true,
            Self::Json(_, survey) => survey.is_light(),
        }
    }

    pub(super) fn read(self) -> Result<Val, EvalError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Json(text, survey) => survey.read(text),
        }
    }
}

/// The values of one header, joined as RFC 9110 says. None if it is absent.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let mut joined = String::from_utf8_lossy(values.next()?.as_bytes()).into_owned();
    for value in values {
        joined.push_str(", ");
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(joined)
}

fn headers(headers: &HeaderMap) -> Val {
    Val::obj(
        headers
            .keys()
            .filter_map(|name| header(headers, name.as_str()).map(|value| (text(name.as_str()), text(&value))))
            .collect(),
    )
}

/// `a=1&b=2` as an object, percent-decoded; a repeated key has an array of its values.
fn pairs(encoded: &[u8]) -> Val {
    let mut map = Map::<Val, Vec<Val>>::default();
    for (key, value) in form_urlencoded::parse(encoded) {
        map.entry(text(&key)).or_default().push(text(&value));
    }
    let single = |mut values: Vec<Val>| match (values.len(), values.pop()) {
        (1, Some(value)) => value,
        (_, last) => values.into_iter().chain(last).collect(),
    };
    Val::obj(map.into_iter().map(|(key, values)| (key, single(values))).collect())
}

fn text(text: &str) -> Val {
    Val::from(text.to_owned())
}
