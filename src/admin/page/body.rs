//! Owns how a body is shown: as text, laid out if it is JSON or a form, or as bytes.
//!
//! Promises that it is only ever text; that laying out JSON changes white space alone, never a number or the order; and that
//! at most [`SHOWN_MAX`] bytes are shown: the rest is in the file that can be saved.

use bytes::Bytes;
use maud::{Markup, html};

use super::parts::{scroll, size};
use crate::event::is_object_or_array;

/// Bytes of a body on a page.
const SHOWN_MAX: usize = 128 * 1024;

/// Bytes of a body that is no text.
const DUMPED_MAX: usize = 2 * 1024;

/// A body on a page. `decoded` is without its `Content-Encoding`.
pub(super) fn body(kind: &str, decoded: &Bytes, save: &str) -> Markup {
    let shown = decoded.get(..SHOWN_MAX).unwrap_or(decoded);
    let is_cut = shown.len() < decoded.len();
    let pretty = if is_cut { None } else { laid_out(kind, shown) };
    html! {
        p.buttons { a href=(save) download="" { "Save as a file" } span.calm { (size(decoded.len() as u64)) } }
        @if is_cut { p.note { "Only the first " (size(SHOWN_MAX as u64)) " are shown." } }
        @match (pretty, text(shown, is_cut)) {
            _ if decoded.is_empty() => { p.empty { "It is empty." } }
            (Some(pretty), Some(raw)) => {
                (pretty)
                details { summary { "As received" } (pre("The body as received", raw)) }
            }
            (Some(pretty), None) => { (pretty) }
            (None, Some(raw)) => { (pre("The body", raw)) }
            (None, None) => {
                p.note { "It is no text. Its first bytes:" }
                (pre("The first bytes of the body", &dump(shown)))
            }
        }
    }
}

/// A block of text.
pub(super) fn pre(label: &str, text: &str) -> Markup {
    html! { pre.body tabindex="0" role="region" aria-label=(label) { (text) } }
}

/// The text of bytes that are UTF-8; of a beginning the last letter may be in pieces.
fn text(bytes: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()
        }
        _ => None,
    }
}

fn laid_out(kind: &str, bytes: &[u8]) -> Option<Markup> {
    if kind.starts_with("application/x-www-form-urlencoded") && !is_object_or_array(bytes) {
        let table = html! {
            table {
                caption { "The fields of the form" }
                thead { tr { th scope="col" { "Field" } th scope="col" { "Value" } } }
                tbody { @for (name, value) in form_urlencoded::parse(bytes) { tr { th scope="row" { (name) } td.value { (value) } } } }
            }
        };
        return Some(scroll("The fields of the form", &table));
    }
    if !is_object_or_array(bytes) {
        return None;
    }
    Some(pre("The body, laid out", &indented(std::str::from_utf8(bytes).ok()?)))
}

/// JSON with other white space. What is given is valid.
fn indented(json: &str) -> String {
    let mut laid = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    let mut letters = json.chars().peekable();
    let line = |laid: &mut String, depth: usize| {
        laid.push('\n');
        laid.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(letter) = letters.next() {
        if in_text {
            laid.push(letter);
            (in_text, is_escaped) = (is_escaped || letter != '"', !is_escaped && letter == '\\');
            continue;
        }
        match letter {
            ' ' | '\t' | '\r' | '\n' => continue,
            '{' | '[' => {
                while letters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                laid.push(letter);
                match letters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => laid.push(end),
                    None => {
                        depth += 1;
                        line(&mut laid, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut laid, depth);
                laid.push(letter);
            }
            ',' => {
                laid.push(letter);
                line(&mut laid, depth);
            }
            ':' => laid.push_str(": "),
            letter => {
                in_text = letter == '"';
                laid.push(letter);
            }
        }
    }
    laid
}

/// Bytes in hexadecimal and as letters, 16 a line.
fn dump(bytes: &[u8]) -> String {
    let lines = bytes.get(..DUMPED_MAX).unwrap_or(bytes).chunks(16).enumerate().map(|(number, line)| {
        let letters: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        let codes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:06x}  {:<47}  {letters}", number * 16, codes.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_without_a_change_of_its_values() {
        let laid = indented(r#"{"a":[1.0,12345678901234567890123,{}],"b":{"c":"x\"{,}: \\","d":[ ]},"a":null}"#);
        let expected = "{\n  \"a\": [\n    1.0,\n    12345678901234567890123,\n    {}\n  ],\n  \"b\": {\n    \"c\": \
                        \"x\\\"{,}: \\\\\",\n    \"d\": []\n  },\n  \"a\": null\n}";
        assert_eq!(laid, expected);
        assert_eq!(indented(&laid), laid);
    }

    #[test]
    fn json_that_is_called_a_form_is_laid_out_as_json() {
        let form = "application/x-www-form-urlencoded";
        let shown = |bytes: &'static [u8]| body(form, &Bytes::from_static(bytes), "/x").0;
        assert!(shown(br#"{"a":"&b=c"}"#).contains("The body, laid out"));
        assert!(shown(b"a={}").contains("The fields of the form"));
    }

    #[test]
    fn markup_in_a_body_is_text() {
        for bytes in [&b"<script>alert(1)</script>"[..], br#"{"a":"<img src=x onerror=alert(1)>"}"#, b"a=<b>&<i>=c"] {
            for kind in ["text/html", "application/json", "application/x-www-form-urlencoded"] {
                let shown = body(kind, &Bytes::copy_from_slice(bytes), "/x").0;
                assert!(!shown.contains("<script") && !shown.contains("<img") && !shown.contains("<i>"), "{shown}");
                assert!(shown.contains("&lt;"), "{shown}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_shown_in_hexadecimal() {
        let shown = body("", &Bytes::from_static(b"\xff\x00<b>"), "/x").0;
        assert!(shown.contains("000000  ff 00 3c 62 3e") && !shown.contains("<b>"), "{shown}");
        assert!(body("", &Bytes::new(), "/x").0.contains("It is empty."));
    }

    #[test]
    fn a_large_body_is_cut_between_letters() {
        let large = Bytes::from("ü".repeat(SHOWN_MAX));
        let shown = body("text/plain", &large.slice(1..), "/x").0;
        assert!(shown.contains("Only the first"), "it does not begin with a letter, so that it is shown as bytes");
        let odd = Bytes::from(format!("a{}", "ü".repeat(SHOWN_MAX)));
        assert!(body("text/plain", &odd, "/x").0.contains("aüü"));
    }
}
