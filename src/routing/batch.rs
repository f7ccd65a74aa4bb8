//! Owns what a source does with the inside of a body: splitting a batch into events, judging by a schema.

use std::sync::Arc;

use http::HeaderName;

use super::ItemRule;
use crate::schema::Schema;

/// How a source splits batches.
#[derive(Clone, Debug)]
pub struct SplitRule {
    /// Where the items stand.
    pub items: Items,
    /// What the body of an item's event is.
    pub form: ItemForm,
    /// A batch with more items is refused.
    pub max_items: usize,
}

/// Where the items of a batch stand.
#[derive(Clone, Debug)]
pub enum Items {
    /// In an array of a JSON body.
    Json(ItemRule),
    /// Each notification of an outbound message of Salesforce.
    Notifications,
}

/// What the body of an item's event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemForm {
    /// The item's own bytes.
    Bare,
    /// A batch of one: the item's own bytes between brackets; of an XML message the message with this item alone.
    Wrapped,
}

/// What a source asks of bodies, or of the items of a batch.
#[derive(Clone, Debug)]
pub struct SchemaRule {
    /// None: only the version is kept.
    pub schema: Option<Arc<Schema>>,
    /// What follows from a violation.
    pub on_violation: OnViolation,
    /// The header that says by which version of the schema the sender wrote.
    pub version_header: Option<HeaderName>,
}

/// What follows from a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// The event is taken and says what is wrong with it.
    Tag,
    /// The request is refused and kept in quarantine.
    Quarantine,
    /// The request is refused.
    Reject,
}

/// The way to the items of a batch as people write it (`.data.events`, `.value[]`, `.`), as [`ItemRule::array`] has it.
///
/// # Errors
/// What is wrong with the text, in words for its author.
pub fn item_path(text: &str) -> Result<Box<str>, String> {
    let wrong =
        || format!("\"{text}\" is no way to an array; write names with dots between them, such as \".data.events\"");
    let path = text.strip_prefix('.').ok_or_else(wrong)?;
    let is_name = |part: &str| {
        let name = part.trim_end_matches("[]");
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-@$".contains(&byte))
    };
    let is_whole = matches!(path, "" | "[]");
    if !is_whole && !path.split('.').all(is_name) {
        return Err(wrong());
    }
    Ok(if path.ends_with("[]") { path.into() } else { format!("{path}[]").into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_items_is_written_as_in_jq() {
        for (text, path) in [
            (".", "[]"),
            (".[]", "[]"),
            (".data.events", "data.events[]"),
            (".value[]", "value[]"),
            (".entry[].changes", "entry[].changes[]"),
        ] {
            assert_eq!(item_path(text).as_deref(), Ok(path), "{text}");
        }
        for text in ["", "data", ".a..b", ".a | .b", ".a[0]", ". ", ".\"a\""] {
            assert!(item_path(text).is_err(), "{text}");
        }
    }
}
