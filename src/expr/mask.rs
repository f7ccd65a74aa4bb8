//! Owns masks: plain paths whose values are replaced in a body before it is shown.
//!
//! Promises that everything else stays byte for byte as it was (digits, order, spaces inside values), that every value
//! that a path leads to is replaced, the second of two equal names included, and work linear in the body for each path's
//! length. Deliberately absent: bodies that are neither JSON nor a form; a path leads nowhere in them.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{EvalError, decode_body};

/// In place of a value.
const HIDDEN: &str = "[hidden]";

/// Steps of one path.
const STEPS_MAX: usize = 64;

/// A path such as `.card.number`, `.items[].token` or `."a b"[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    text: Box<str>,
    steps: Box<[Step]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(Box<str>),
    Index(usize),
    All,
}

/// A text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no plain path; write names and brackets only, such as \".card.number\" or \".items[].token\"")]
pub struct MaskError(Box<str>);

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Mask {
    /// Parses a path.
    ///
    /// # Errors
    /// [`MaskError`].
    pub fn parse(text: &str) -> Result<Self, MaskError> {
        let steps = steps(text).filter(|steps| (1..=STEPS_MAX).contains(&steps.len()));
        let steps = steps.ok_or_else(|| MaskError(text.into()))?;
        Ok(Self { text: text.into(), steps: steps.into() })
    }

    /// The body with what the masks lead to replaced; as it is if they lead nowhere. An encoded body comes decoded if
    /// something was replaced in it.
    ///
    /// # Errors
    /// [`EvalError`] if it can't be decoded within `max_bytes`: what is in it is not known.
    pub fn apply(masks: &[Self], headers: &HeaderMap, body: Bytes, max_bytes: u64) -> Result<Bytes, EvalError> {
        if masks.is_empty() {
            return Ok(body);
        }
        let decoded = decode_body(headers, &body, max_bytes)?;
        let masked = match is_form(headers) {
            true => in_form(masks, &decoded).map(Bytes::from),
            false => in_json(masks, &decoded).map(Bytes::from),
        };
        drop(decoded);
        Ok(masked.unwrap_or(body))
    }

    /// The same for a text that comes without headers. None if it is no JSON, so that it can't be told where the masks
    /// lead in it.
    #[must_use]
    pub fn apply_to_json(masks: &[Self], text: Bytes) -> Option<Bytes> {
        if masks.is_empty() || text.is_empty() {
            return Some(text);
        }
        serde_json::from_slice::<&RawValue>(&text).ok()?;
        Some(in_json(masks, &text).map_or(text, Bytes::from))
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let (mut steps, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        // A bracket may follow a name without a dot, and must follow the first dot if there is none.
        rest = match rest.strip_prefix('.') {
            Some(after) => after,
            None if !steps.is_empty() && rest.starts_with('[') => rest,
            None => return None,
        };
        if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = match after.strip_prefix('"') {
                Some(_) => {
                    quoted(after).and_then(|(name, after)| Some((Step::Name(name), after.strip_prefix(']')?)))?
                }
                None => {
                    let (inside, after) = after.split_once(']')?;
                    let step = if inside.is_empty() { Step::All } else { Step::Index(inside.parse().ok()?) };
                    (step, after)
                }
            };
            steps.push(inside);
            rest = after;
        } else if rest.starts_with('"') {
            let (name, after) = quoted(rest)?;
            steps.push(Step::Name(name));
            rest = after;
        } else {
            let is_end = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
            let end = rest.find(is_end).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.is_empty() || name.starts_with(|letter: char| letter.is_ascii_digit()) {
                return None;
            }
            steps.push(Step::Name(name.into()));
            rest = after;
        }
    }
    Some(steps)
}

/// A name in quotes at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(Box<str>, &str)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = stream.next()?.ok()?;
    Some((name.into(), text.get(stream.byte_offset()..)?))
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// A form is an object of its fields.
fn in_form(masks: &[Mask], body: &[u8]) -> Option<String> {
    let hides =
        |name: &str| masks.iter().any(|mask| matches!(mask.steps.first(), Some(Step::Name(known)) if **known == *name));
    let (mut changed, mut out) = (false, form_urlencoded::Serializer::new(String::new()));
    for (name, value) in form_urlencoded::parse(body) {
        let is_hidden = hides(&name);
        changed |= is_hidden;
        out.append_pair(&name, if is_hidden { HIDDEN } else { &value });
    }
    changed.then(|| out.finish())
}

fn in_json(masks: &[Mask], body: &[u8]) -> Option<String> {
    let whole: &RawValue = serde_json::from_slice(body).ok()?;
    let paths: Vec<&[Step]> = masks.iter().map(|mask| &*mask.steps).collect();
    masked(whole.get(), &paths)
}

/// A value with what the paths lead to replaced. None if they lead nowhere.
fn masked(value: &str, paths: &[&[Step]]) -> Option<String> {
    if paths.iter().any(|path| path.is_empty()) {
        return Some(format!("\"{HIDDEN}\""));
    }
    match value.as_bytes().first()? {
        b'{' => {
            let members: Members<'_> = serde_json::from_str(value).ok()?;
            let mut parts = Vec::with_capacity(members.0.len());
            let mut changed = false;
            for (name, value) in &members.0 {
                let inside = inside(paths, |step| matches!(step, Step::Name(known) if **known == **name));
                let new = if inside.is_empty() { None } else { masked(value.get(), &inside) };
                changed |= new.is_some();
                let name = serde_json::Value::from(&**name).to_string();
                parts.push(format!("{name}:{}", new.as_deref().unwrap_or(value.get())));
            }
            changed.then(|| format!("{{{}}}", parts.join(",")))
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(value).ok()?;
            let mut parts: Vec<Cow<'_, str>> = Vec::with_capacity(items.len());
            let mut changed = false;
            for (index, item) in items.into_iter().enumerate() {
                let inside = inside(paths, |step| match step {
                    Step::Index(wanted) => *wanted == index,
                    Step::All => true,
                    Step::Name(_) => false,
                });
                let new = if inside.is_empty() { None } else { masked(item.get(), &inside) };
                changed |= new.is_some();
                parts.push(new.map_or(Cow::Borrowed(item.get()), Cow::Owned));
            }
            changed.then(|| format!("[{}]", parts.join(",")))
        }
        _ => None,
    }
}

/// What is left of the paths whose first step is one of these. `.[]` takes the members of an object, too.
fn inside<'p>(paths: &[&'p [Step]], takes: impl Fn(&Step) -> bool) -> Vec<&'p [Step]> {
    let rest = paths.iter().filter_map(|path| path.split_first());
    rest.filter(|(step, _)| takes(step) || matches!(step, Step::All)).map(|(_, rest)| rest).collect()
}

/// The members of an object in their order, equal names included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &RawValue>()? {
                    members.push((Cow::Owned(member.0), member.1));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(paths: &[&str], body: &str) -> String {
        let masks: Vec<Mask> = paths.iter().map(|path| Mask::parse(path).unwrap()).collect();
        let shown = Mask::apply(&masks, &HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes()), 1 << 20).unwrap();
        String::from_utf8(shown.to_vec()).unwrap()
    }

    #[test]
    fn what_a_path_leads_to_is_replaced_and_all_else_stays_as_it_was() {
        for (paths, body, expected) in [
            (
                &[".card.number"][..],
                r#"{"card":{"number":"4111","cvc":1.10}}"#,
                r#"{"card":{"number":"[hidden]","cvc":1.10}}"#,
            ),
            (
                &[".a[].t"],
                r#"{"a":[{"t":1},{"u":2},{"t":{"x":1}}]}"#,
                r#"{"a":[{"t":"[hidden]"},{"u":2},{"t":"[hidden]"}]}"#,
            ),
            (&[".a[1]"], r#"{"a":[1,2,3]}"#, r#"{"a":[1,"[hidden]",3]}"#),
            (&[".[]"], r#"["x","y"]"#, r#"["[hidden]","[hidden]"]"#),
            (&[".\"a b\"", ".[\"c\"]"], r#"{"a b":1,"c":2,"d":3}"#, r#"{"a b":"[hidden]","c":"[hidden]","d":3}"#),
            (&[".a"], r#"{"a":1,"a":2}"#, r#"{"a":"[hidden]","a":"[hidden]"}"#),
            (&[".\u{61}"], "{\"\\u0061\":1}", r#"{"a":"[hidden]"}"#),
            (&[".absent", ".x.y"], r#"{ "x" : 12345678901234567890.0 }"#, r#"{ "x" : 12345678901234567890.0 }"#),
            (&[".a"], "not JSON", "not JSON"),
        ] {
            assert_eq!(shown(paths, body), expected, "{paths:?}");
        }
    }

    #[test]
    fn in_a_text_that_is_no_json_or_was_cut_nobody_knows_what_to_hide() {
        let masks = [Mask::parse(".token").unwrap()];
        let shown =
            |masks: &[Mask], text: &'static str| Mask::apply_to_json(masks, Bytes::from_static(text.as_bytes()));
        assert_eq!(shown(&masks, r#"{"token":1,"a":2}"#).unwrap(), r#"{"token":"[hidden]","a":2}"#);
        assert_eq!(shown(&masks, r#" {"a":1} "#).unwrap(), r#" {"a":1} "#);
        for text in [r#"{"a":{"token":1},"token":"se"#, "token=sesame", "ok"] {
            assert_eq!(shown(&masks, text), None, "{text}");
            assert_eq!(shown(&[], text).unwrap(), text);
        }
        assert_eq!(shown(&masks, "").unwrap(), "");
    }

    #[test]
    fn fields_of_a_form_and_encoded_bodies_are_masked_too() {
        let masks = [Mask::parse(".token").unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"));
        let form = Mask::apply(&masks, &headers, Bytes::from_static(b"a=1&token=sesame"), 100).unwrap();
        assert_eq!(&form[..], b"a=1&token=%5Bhidden%5D");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, br#"{"token":"sesame"}"#).unwrap();
        let body = Bytes::from(gzip.finish().unwrap());
        let headers = HeaderMap::from_iter([("content-encoding".parse().unwrap(), HeaderValue::from_static("gzip"))]);
        let shown = Mask::apply(&masks, &headers, body.clone(), 1 << 20).unwrap();
        assert_eq!(&shown[..], br#"{"token":"[hidden]"}"#);
        assert!(Mask::apply(&masks, &headers, body.slice(..9), 1 << 20).is_err(), "nobody knows what is in it");
    }

    #[test]
    fn what_is_no_plain_path_is_refused() {
        for text in ["", ".", "a", "..a", ".a | .b", ".a[", ".a[-1]", ".a[\"b]", ".1", ".a.", ".a b", "[0]"] {
            assert!(Mask::parse(text).is_err(), "{text}");
        }
        assert!(Mask::parse(&".a".repeat(STEPS_MAX + 1)).is_err());
    }
}
