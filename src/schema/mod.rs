//! Owns JSON Schema: compiling a source's schema when the configuration is read, and judging bodies by it.
//!
//! Promises that nothing is fetched (a reference that leads out of the file is an error), that patterns are matched in
//! linear time (look-around and back-references are errors), and that a [`Violation`] says where and what is wrong
//! without repeating the value that is wrong. Draft 2020-12 unless the schema's `$schema` names another one.
//!
//! Deliberately absent: what follows from a violation; that is `ingress`'s.

use std::fmt;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

/// The longest violation, in characters.
pub const VIOLATION_CHARS_MAX: usize = 300;

/// The largest schema, in bytes.
pub const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// A compiled schema. Bodies are judged by any number of threads at once.
pub struct Schema(Validator);

/// Why a schema can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// It is no JSON.
    #[error("is no JSON: {0}")]
    Json(String),
    /// It is JSON, but no schema that can be used.
    #[error("is no usable schema at {pointer}: {what}")]
    Schema {
        /// A JSON pointer (RFC 6901) into the schema; `/` alone is the whole of it.
        pointer: String,
        /// What is wrong there.
        what: String,
    },
}

/// What is wrong with a body: the place as a JSON pointer and what was expected there; at most
/// [`VIOLATION_CHARS_MAX`] characters, none of control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(Box<str>);

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// [`SchemaError`], with the place.
    pub fn compile(text: &[u8]) -> Result<Self, SchemaError> {
        let schema: Value = serde_json::from_slice(text).map_err(|error| SchemaError::Json(error.to_string()))?;
        let options = jsonschema::options().offline().with_pattern_options(PatternOptions::regex());
        let validator = options
            .build(&schema)
            .map_err(|error| SchemaError::Schema { pointer: pointer(&error), what: bounded(&error.to_string()) })?;
        Ok(Self(validator))
    }

    /// Judges a body that is not encoded.
    ///
    /// # Errors
    /// The first violation; a body that is no JSON, or nested deeper than 128 levels, is one.
    pub fn check(&self, body: &[u8]) -> Result<(), Violation> {
        let value: Value = serde_json::from_slice(body).map_err(|_unreadable| Violation::new("the body is no JSON"))?;
        self.0
            .validate(&value)
            .map_err(|error| Violation::new(&format!("{}: {}", pointer(&error), error.masked_with("the value"))))
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

impl Violation {
    /// In these words, bounded.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(bounded(text).into())
    }

    /// The same of one item of a batch.
    #[must_use]
    pub fn of_item(self, index: usize) -> Self {
        Self::new(&format!("item {index}: {}", self.0))
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn pointer(error: &ValidationError<'_>) -> String {
    let pointer = error.instance_path().to_string();
    if pointer.is_empty() { "/".to_owned() } else { pointer }
}

fn bounded(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == VIOLATION_CHARS_MAX - 1 && text.chars().nth(index + 1).is_some() {
            shown.push('…');
            break;
        }
        shown.push(if character.is_control() { ' ' } else { character });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVOICE: &[u8] = br#"{
        "type": "object",
        "required": ["id", "amount"],
        "properties": {"id": {"type": "string", "pattern": "^in_[a-z]+$"}, "amount": {"type": "integer", "minimum": 0}},
        "additionalProperties": false
    }"#;

    #[test]
    fn a_body_is_judged_and_the_first_violation_names_its_place_but_not_its_value() {
        let schema = Schema::compile(INVOICE).unwrap();
        assert_eq!(schema.check(br#"{"id": "in_a", "amount": 3}"#), Ok(()));
        let cases: [(&[u8], &str, &str); 6] = [
            (br#"{"id": "in_a"}"#, "/: ", "required"),
            (br#"{"id": "in_a", "amount": "secret-value"}"#, "/amount: ", "integer"),
            (br#"{"id": "secret-value", "amount": 1}"#, "/id: ", "in_"),
            (br#"{"id": "in_a", "amount": 1, "other": "secret-value"}"#, "/: ", "other"),
            (b"not json", "the body is no JSON", ""),
            (b"", "the body is no JSON", ""),
        ];
        for (body, place, what) in cases {
            let violation = schema.check(body).unwrap_err();
            let text = violation.as_str();
            assert!(text.starts_with(place) && text.contains(what), "{text}");
            assert!(!text.contains("secret-value"), "{text}");
        }
    }

    #[test]
    fn a_schema_that_is_none_or_leads_out_of_its_file_is_an_error_with_its_place() {
        let place = |text: &str| match Schema::compile(text.as_bytes()).unwrap_err() {
            SchemaError::Schema { pointer, .. } => pointer,
            SchemaError::Json(_) => "json".to_owned(),
        };
        assert_eq!(place("{"), "json");
        assert_eq!(place(r#"{"properties": {"a": {"type": "strin"}}}"#), "/properties/a/type");
        for schema in [
            r#"{"$ref": "https://schemas.example/other.json"}"#,
            r#"{"$ref": "file:///etc/passwd"}"#,
            r#"{"pattern": "(?=a)b"}"#,
            r#"{"pattern": "(a)\\1"}"#,
        ] {
            assert!(Schema::compile(schema.as_bytes()).is_err(), "{schema}");
        }
        let inside = r##"{"$defs": {"n": {"type": "number"}}, "items": {"$ref": "#/$defs/n"}}"##;
        let schema = Schema::compile(inside.as_bytes()).unwrap();
        assert!(schema.check(b"[1, 2]").is_ok() && schema.check(b"[1, \"2\"]").is_err());
    }

    #[test]
    fn a_pattern_made_to_backtrack_and_a_deep_body_cost_nothing_special() {
        let schema = Schema::compile(br#"{"pattern": "^(a+)+$"}"#).unwrap();
        let hostile = format!("\"{}b\"", "a".repeat(100_000));
        assert!(schema.check(hostile.as_bytes()).is_err());
        let deep = "[".repeat(100_000);
        assert_eq!(schema.check(deep.as_bytes()), Err(Violation::new("the body is no JSON")));
    }

    #[test]
    fn a_violation_is_bounded_and_has_no_control_characters() {
        let violation = Violation::new(&format!("a\n\u{1b}[31m{}", "x".repeat(1_000)));
        assert_eq!(violation.as_str().chars().count(), VIOLATION_CHARS_MAX);
        assert!(!violation.as_str().chars().any(char::is_control));
        assert_eq!(Violation::new("/a: wrong").of_item(3).as_str(), "item 3: /a: wrong");
    }
}
