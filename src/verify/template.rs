//! Owns the language of templates: text with placeholders that says what a sender signs.
//!
//! Promises that a template signs the body exactly once, never the signature itself, and the timestamp if one is
//! checked.

use http::HeaderName;

use super::{
    SettingsError,
    recipe::{Field, Piece},
    timestamp::TimestampRule,
};

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 1024;

/// What is signed before and after the body.
type Parts = (Vec<Piece>, Vec<Piece>);

/// Compiles a template against the headers that the signature and the timestamp stand in.
pub(super) fn signed_parts(
    template: &str,
    signature: &HeaderName,
    timestamp: Option<&TimestampRule>,
) -> Result<Parts, SettingsError> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(SettingsError::TooLong(template.len()));
    }
    let (before, after) = split_at_body(parse_template(template)?)?;
    let mut signs_timestamp = false;
    for piece in before.iter().chain(&after) {
        match (piece, timestamp) {
            (Piece::Field(Field::Timestamp), None) => return Err(SettingsError::TimestampNotSet),
            (Piece::Field(Field::Timestamp), Some(_)) => signs_timestamp = true,
            (Piece::Field(Field::Header(name)), _) if name == signature => {
                return Err(SettingsError::SignsItself(name.to_string()));
            }
            (Piece::Field(Field::Header(name)), Some(rule)) => signs_timestamp |= rule.header() == Some(name),
            _ => {}
        }
    }
    if timestamp.is_some() && !signs_timestamp {
        return Err(SettingsError::TimestampNotSigned);
    }
    Ok((before, after))
}

/// The pieces of a template; None stands for the body.
fn parse_template(template: &str) -> Result<Vec<Option<Piece>>, SettingsError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, tail) = rest.split_at(at);
        literal.push_str(text);
        if let Some(after) = tail.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = tail.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else {
            let unpaired = || SettingsError::Brace(template.len().saturating_sub(tail.len()));
            let (name, after) = tail.strip_prefix('{').and_then(|t| t.split_once('}')).ok_or_else(unpaired)?;
            push_literal(&mut pieces, &mut literal);
            pieces.push(placeholder(name)?);
            rest = after;
        }
    }
    literal.push_str(rest);
    push_literal(&mut pieces, &mut literal);
    Ok(pieces)
}

fn push_literal(pieces: &mut Vec<Option<Piece>>, literal: &mut String) {
    if !literal.is_empty() {
        pieces.push(Some(Piece::Literal(std::mem::take(literal).into_bytes().into())));
    }
}

fn placeholder(name: &str) -> Result<Option<Piece>, SettingsError> {
    let unknown = || SettingsError::Placeholder(name.to_owned());
    let field = match name {
        "body" => return Ok(None),
        "timestamp" => Field::Timestamp,
        "method" => Field::Method,
        "path" => Field::Path,
        "query" => Field::Query,
        other => Field::Header(other.strip_prefix("header:").and_then(|h| h.parse().ok()).ok_or_else(unknown)?),
    };
    Ok(Some(Piece::Field(field)))
}

fn split_at_body(pieces: Vec<Option<Piece>>) -> Result<Parts, SettingsError> {
    let (mut before, mut after, mut bodies) = (Vec::new(), Vec::new(), 0_u32);
    for piece in pieces {
        match piece {
            None => bodies = bodies.saturating_add(1),
            Some(piece) if bodies == 0 => before.push(piece),
            Some(piece) => after.push(piece),
        }
    }
    match bodies {
        0 => Err(SettingsError::NoBody),
        1 => Ok((before, after)),
        _ => Err(SettingsError::TwoBodies),
    }
}
