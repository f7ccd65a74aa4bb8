//! Owns the key `cloudevents` of `[upstream.NAME]`.

use super::{
    reader::{Section, quoted},
    source::expression,
    tree::Value,
};
use crate::routing::{CLOUDEVENT_TYPE, CloudEvents, CloudEventsMode};

const MODES: [(&str, CloudEventsMode); 2] =
    [("structured", CloudEventsMode::Structured), ("binary", CloudEventsMode::Binary)];

/// Reads the key of an upstream.
pub(super) fn read(upstream: &Section<'_>) -> Option<CloudEvents> {
    match upstream.value("cloudevents")? {
        Value::Table(_) => table(upstream.section("cloudevents")),
        _ => {
            let mode = upstream.choice("cloudevents", "", &MODES)?;
            Some(CloudEvents { mode, source: None, default_type: CLOUDEVENT_TYPE.into(), subject: None })
        }
    }
}

fn table(section: Section<'_>) -> Option<CloudEvents> {
    if !section.has("mode") {
        section.problem("mode", "is missing; write \"structured\" or \"binary\"");
    }
    let mode = if section.has("mode") { section.choice("mode", "", &MODES) } else { None };
    let source = section.text("source");
    if source.is_some_and(|source| !source.bytes().all(|byte| byte.is_ascii_graphic())) {
        section.problem("source", "is no URI; write one without spaces, such as \"/shop/orders\" or \"https://…\"");
    }
    let default_type = section.text("type").unwrap_or_else(|| {
        section.print("type", &quoted(CLOUDEVENT_TYPE));
        CLOUDEVENT_TYPE
    });
    let subject = expression(&section, "subject");
    let (source, default_type) = (source.map(Box::from), default_type.into());
    section.finish();
    Some(CloudEvents { mode: mode?, source, default_type, subject })
}
