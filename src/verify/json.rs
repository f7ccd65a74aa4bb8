//! Owns reading one scalar out of a JSON body, for schemes whose timestamp or secret stands there, and writing one
//! member into it.
//!
//! Promises that a body that is not JSON from end to end, or that names a member on the way twice, has no such scalar:
//! two readers could disagree about it; and that writing leaves every other byte as it was, so that numbers keep their
//! digits and objects their order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The string, decoded, or the number as it is written, at the end of a path of member names.
pub(super) fn scalar(body: &[u8], path: &[&str]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = Seek(path).deserialize(&mut json).ok()??.get();
    json.end().ok()?;
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'0'..=b'9' | b'-' => Some(raw.to_owned()),
        _ => None,
    }
}

/// The value at the end of a path of member names, as it is written. The outer None: not to be read, see the module.
fn found<'b>(text: &'b str, path: &[&str]) -> Option<Option<&'b str>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = Seek(path).deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(raw.map(RawValue::get))
}

/// The body with this value at the end of a path of member names: in place of what stands there, or added with the
/// objects on the way. None if the body is no such object, or not to be read.
pub(super) fn with_member(body: &[u8], path: &[&str], value: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    // Where a part of the text begins in it.
    let offset = |part: &str| part.as_ptr().addr().checked_sub(text.as_ptr().addr());
    if let Some(old) = found(text, path)? {
        let (before, rest) = text.split_at_checked(offset(old)?)?;
        return Some([before, value, rest.get(old.len()..)?].concat().into_bytes());
    }
    // The deepest object on the way that is there gets the rest of the way as its first member.
    for depth in (0..path.len()).rev() {
        let (there, missing) = path.split_at_checked(depth)?;
        let Some(object) = found(text, there)? else { continue };
        let inside = object.strip_prefix('{')?;
        let (name, deeper) = missing.split_first()?;
        let opened: String = deeper.iter().map(|name| format!("{{{}:", serde_json::Value::from(*name))).collect();
        let comma = if inside.trim_ascii_start().starts_with('}') { "" } else { "," };
        let member = format!("{}:{opened}{value}{}{comma}", serde_json::Value::from(*name), "}".repeat(deeper.len()));
        let (before, rest) = text.split_at_checked(offset(inside)?)?;
        return Some([before, &member, rest].concat().into_bytes());
    }
    None
}

struct Seek<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => <&RawValue as serde::Deserialize>::deserialize(json).map(Some),
            _ => json.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let Some((name, rest)) = self.0.split_first() else { return Ok(None) };
        let (mut found, mut seen) = (None, false);
        while let Some(key) = members.next_key::<std::borrow::Cow<'_, str>>()? {
            if key != **name {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen {
                return Err(A::Error::custom("the member stands there twice"));
            }
            seen = true;
            found = members.next_value_seed(Seek(rest))?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_written_and_every_other_byte_stays() {
        let write =
            |body: &str| with_member(body.as_bytes(), &["a", "b"], "7").map(|bytes| String::from_utf8(bytes).unwrap());
        let kept = r#" {"n":123456789012345678901234567890.10, "z":1e400,"a" : {"x":0,"b": "old" } ,"é":[{}]} "#;
        assert_eq!(write(kept).as_deref(), Some(kept.replace("\"old\"", "7").as_str()));
        for (body, expected) in [
            ("{}", r#"{"a":{"b":7}}"#),
            (r#"{ "c":1}"#, r#"{"a":{"b":7}, "c":1}"#),
            (r#"{"a":{ }}"#, r#"{"a":{"b":7 }}"#),
            (r#"{"c":1,"a":{"d":2}}"#, r#"{"c":1,"a":{"b":7,"d":2}}"#),
            (r#"{"a":{"b":{"deep":[1]}}}"#, r#"{"a":{"b":7}}"#),
        ] {
            assert_eq!(write(body).as_deref(), Some(expected), "{body}");
            assert_eq!(scalar(expected.as_bytes(), &["a", "b"]).as_deref(), Some("7"));
        }
        for body in ["", "[]", "1", "{}x", r#"{"a":1}"#, r#"{"a":{},"a":{}}"#, r#"{"a":{"b":1,"b":2}}"#] {
            assert_eq!(write(body), None, "{body}");
        }
        assert_eq!(with_member(b"{\"\xff\":1}", &["a"], "7"), None);
    }

    #[test]
    fn a_scalar_is_found_by_its_path_and_only_if_nobody_could_read_it_otherwise() {
        let read = |body: &str| scalar(body.as_bytes(), &["a", "b"]);
        assert_eq!(read(r#"{"x":[{}],"a":{"b":"t\u0031"}}"#).as_deref(), Some("t1"));
        assert_eq!(read(r#"{"a":{"b":1735689600000,"c":2}}"#).as_deref(), Some("1735689600000"));
        assert_eq!(read(r#"{"\u0061":{"b":1.50}}"#).as_deref(), Some("1.50"));
        for body in [
            "",
            "1",
            "[]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":{"b":null}}"#,
            r#"{"a":{"b":{}}}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":{"b":1},"a":{"b":1}}"#,
            r#"{"a":{"b":1}} x"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        assert_eq!(scalar(b"{\"a\":{\"b\":1},\"\xff\":0}", &["a", "b"]), None);
        let deep = format!("{{\"x\":{}{},\"a\":{{\"b\":1}}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _either = read(&deep);
    }
}
