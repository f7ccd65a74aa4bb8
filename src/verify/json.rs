//! Owns reading one scalar out of a JSON body, for schemes whose timestamp or secret stands there.
//!
//! Promises that a body that is not JSON from end to end, or that names a member on the way twice, has no such scalar:
//! two readers could disagree about it.

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
