//! Owns the usual mistakes as variants of a body, a URL, a timestamp and a secret, each with the words for it.

use std::io;

use base64::Engine as _;
use serde_json::{
    Value,
    ser::{Formatter, PrettyFormatter, Serializer},
};
use zeroize::Zeroizing;

use serde::Serialize as _;

use super::super::{Algorithm, Head, TimestampUnit, grammar::BASE64, mac::Mac, url::PublicUrl};

/// The largest body that is parsed and written again, in bytes.
const REWRITTEN_BYTES_MAX: usize = 4 << 20;

/// The units of timestamps, with names for people.
pub(super) const UNITS: [(TimestampUnit, &str); 3] = [
    (TimestampUnit::Seconds, "seconds (\"s\")"),
    (TimestampUnit::Milliseconds, "milliseconds (\"ms\")"),
    (TimestampUnit::Rfc3339, "a date (\"rfc3339\")"),
];

/// What the body may have been when it was signed.
pub(super) fn bodies(body: &[u8]) -> Vec<(Vec<u8>, String)> {
    let mut found: Vec<(Vec<u8>, String)> = Vec::new();
    let mut add = |bytes: Vec<u8>, said: &str| {
        if bytes != body && !found.iter().any(|(other, _)| *other == bytes) {
            let text =
                format!("the body that was signed is {said}: what received it first has to pass it on unchanged");
            found.push((bytes, text));
        }
    };
    add(body.trim_ascii_end().to_vec(), "this one without the line end or space at its end");
    add(body.trim_ascii().to_vec(), "this one without space around it");
    add([body, b"\n"].concat(), "this one with a line end after it");
    add([body, b"\r\n"].concat(), "this one with CR LF after it");
    add(replaced(body, b"\r\n", b"\n"), "this one with LF in place of CR LF");
    add(replaced(&replaced(body, b"\r\n", b"\n"), b"\n", b"\r\n"), "this one with CR LF in place of LF");
    let value = (body.len() <= REWRITTEN_BYTES_MAX).then(|| serde_json::from_slice::<Value>(body).ok()).flatten();
    if let Some(value) = value {
        let mut sorted = value.clone();
        sorted.sort_all_objects();
        for (value, order) in [(&value, ""), (&sorted, ", its members sorted")] {
            let mut write = |formatter: Form, said: &str| {
                add(written(value, formatter), &format!("its JSON parsed and written again, {said}{order}"));
            };
            write(Form::Compact, "compact");
            write(Form::Spaced { ascii: true }, "as Python does");
            write(Form::Spaced { ascii: false }, "with spaces after commas and colons");
            write(Form::CompactAscii, "compact, with \\u escapes");
            write(Form::Pretty("  "), "indented by 2");
            write(Form::Pretty("    "), "indented by 4");
            write(Form::Pretty("\t"), "indented by tabs");
        }
    }
    add(Vec::new(), "empty");
    found
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(to);
        rest = rest.get(at + from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// How JSON is written.
#[derive(Clone, Copy)]
enum Form {
    Compact,
    CompactAscii,
    Spaced { ascii: bool },
    Pretty(&'static str),
}

fn written(value: &Value, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing a value to memory can't fail.
    let _infallible = match form {
        Form::Compact => value.serialize(&mut Serializer::new(&mut out)),
        Form::CompactAscii => {
            value.serialize(&mut Serializer::with_formatter(&mut out, Plain { space: "", ascii: true }))
        }
        Form::Spaced { ascii } => {
            value.serialize(&mut Serializer::with_formatter(&mut out, Plain { space: " ", ascii }))
        }
        Form::Pretty(indent) => {
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
    };
    out
}

/// One line of JSON, with a space after commas and colons or none, and escapes for what is not ASCII or none.
struct Plain {
    space: &'static str,
    ascii: bool,
}

impl Formatter for Plain {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { write!(writer, ",{}", self.space) }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { write!(writer, ",{}", self.space) }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        write!(writer, ":{}", self.space)
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for letter in fragment.chars() {
            if self.ascii && !letter.is_ascii() {
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            } else {
                write!(writer, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// What the URL may have been.
pub(super) fn urls(url: &PublicUrl, head: &Head<'_>) -> Vec<(PublicUrl, String)> {
    let text = url.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let other = if scheme == "https" { "http" } else { "https" };
    let mut texts = vec![format!("{other}://{authority}{path}")];
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            texts.push(format!("{scheme}://{host}{path}"));
            texts.push(format!("{other}://{host}{path}"));
        }
        _ => {
            texts.push(format!("{scheme}://{authority}:443{path}"));
            texts.push(format!("{scheme}://{authority}:80{path}"));
        }
    }
    texts.push(match path.strip_suffix('/') {
        Some(shorter) => format!("{scheme}://{authority}{shorter}"),
        None => format!("{scheme}://{authority}{path}/"),
    });
    texts.push(format!("{scheme}://{}{path}", authority.to_ascii_lowercase()));
    texts.push(format!("{scheme}://{authority}{}", head.path));
    let named = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    for host in named.into_iter() {
        for (scheme, path) in [("https", path), ("http", path), ("https", head.path), ("http", head.path)] {
            texts.push(format!("{scheme}://{host}{path}"));
        }
    }
    let mut found: Vec<(PublicUrl, String)> = Vec::new();
    for other in texts.into_iter().filter(|other| other != text) {
        let Ok(url) = PublicUrl::parse(&other) else { continue };
        if !found.iter().any(|(earlier, _)| *earlier == url) {
            found.push((url, format!("the URL that was signed is {other}: write that as public_url")));
        }
    }
    found
}

/// What the timestamp may have been in the text that was signed.
pub(super) fn stamps(stamp: &[u8]) -> Vec<(Vec<u8>, String)> {
    let mut found = Vec::new();
    for (unit, _) in UNITS {
        let Some(time) = unit.read(stamp).map(crate::clock::Timestamp::from_millis) else { continue };
        for (other, name) in UNITS.into_iter().filter(|(other, _)| *other != unit) {
            let text = format!("the timestamp was signed as {name}, and sent otherwise");
            found.push((other.write(time).into_bytes(), text));
        }
    }
    found
}

/// The forms in which a sender may use a secret, in words that follow "uses the secret … ".
pub(super) fn secrets(secret: &[u8]) -> Vec<(&'static str, Zeroizing<Vec<u8>>)> {
    let mut found: Vec<(&'static str, Zeroizing<Vec<u8>>)> = Vec::new();
    let mut add = |said, value: Vec<u8>| {
        let value = Zeroizing::new(value);
        if !value.is_empty() && !found.iter().any(|(_, other)| *other == value) {
            found.push((said, value));
        }
    };
    add("as it stands", secret.to_vec());
    add("without space around it", secret.trim_ascii().to_vec());
    add("with a line end after it", [secret, b"\n"].concat());
    let bare = secret.trim_ascii();
    let unquoted = bare.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    unquoted.into_iter().for_each(|text| add("without quotation marks", text.to_vec()));
    add("with whsec_ before it", [b"whsec_", bare].concat());
    if let Some(text) = bare.strip_prefix(b"whsec_") {
        add("without whsec_", text.to_vec());
        BASE64.decode(text).into_iter().for_each(|key| add("decoded from base64 after whsec_", key));
    }
    BASE64.decode(bare).into_iter().for_each(|key| add("decoded from base64", key));
    hex::decode(bare).into_iter().for_each(|key| add("decoded from hex", key));
    add("encoded in base64", base64::prelude::BASE64_STANDARD.encode(bare).into_bytes());
    found
}

/// A key worked into every algorithm.
pub(super) fn algorithms(key: &[u8]) -> [(&'static str, Mac); 5] {
    [
        ("HMAC-SHA256", Mac::new(Algorithm::Sha256, key)),
        ("HMAC-SHA1", Mac::new(Algorithm::Sha1, key)),
        ("HMAC-SHA384", Mac::new(Algorithm::Sha384, key)),
        ("HMAC-SHA512", Mac::new(Algorithm::Sha512, key)),
        ("a plain SHA-256 of secret and text", Mac::secret_first(key)),
    ]
}

/// What a header's value may present as a secret, in words that follow where it stands.
pub(super) fn tokens(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut found = vec![("", value.to_vec())];
    for (word, said) in
        [(b"Bearer ".as_slice(), ", after Bearer"), (b"Basic ", ", after Basic"), (b"Token ", ", after Token")]
    {
        if let Some((start, rest)) =
            value.split_at_checked(word.len()).filter(|(start, _)| start.eq_ignore_ascii_case(word))
        {
            debug_assert!(!start.is_empty());
            found.push((said, rest.to_vec()));
            BASE64.decode(rest).into_iter().for_each(|text| found.push((said, text)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_other_programs_do() {
        let body = "{\"b\":1, \"a\":[true,\"ü😀\"]}".as_bytes();
        let all: Vec<String> = bodies(body).into_iter().map(|(body, _)| String::from_utf8(body).unwrap()).collect();
        for expected in [
            "{\"b\":1,\"a\":[true,\"ü😀\"]}",
            "{\"b\": 1, \"a\": [true, \"\\u00fc\\ud83d\\ude00\"]}",
            "{\"b\": 1, \"a\": [true, \"ü😀\"]}",
            "{\"a\":[true,\"ü😀\"],\"b\":1}",
            "{\n  \"b\": 1,\n  \"a\": [\n    true,\n    \"ü😀\"\n  ]\n}",
            "{\"b\":1, \"a\":[true,\"ü😀\"]}\n",
            "",
        ] {
            assert!(all.iter().any(|body| body == expected), "{expected:?} in {all:?}");
        }
    }

    #[test]
    fn line_ends_are_turned_into_each_other() {
        assert_eq!(replaced(b"a\r\nb\r\n", b"\r\n", b"\n"), b"a\nb\n");
        let all: Vec<Vec<u8>> = bodies(b"a\nb").into_iter().map(|(body, _)| body).collect();
        assert!(all.contains(&b"a\r\nb".to_vec()) && !all.contains(&b"a\nb".to_vec()));
    }
}
