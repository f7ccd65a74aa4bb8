//! Owns the key `cloudevents` of `[upstream.NAME]`.

use http::HeaderValue;

use super::{
    door,
    reader::{Section, quoted},
    source::expression,
    tree::Value,
};
use crate::routing::{CLOUDEVENT_TYPE, CloudEvents, CloudEventsMode, Handshake};

const MODES: [(&str, CloudEventsMode); 2] =
    [("structured", CloudEventsMode::Structured), ("binary", CloudEventsMode::Binary)];

/// Reads the key of an upstream.
pub(super) fn read(upstream: &Section<'_>) -> Option<CloudEvents> {
    match upstream.value("cloudevents")? {
        Value::Table(_) => table(upstream, upstream.section("cloudevents")),
        _ => {
            let mode = upstream.choice("cloudevents", "", &MODES)?;
            let default_type = CLOUDEVENT_TYPE.into();
            Some(CloudEvents { mode, source: None, default_type, subject: None, handshake: None })
        }
    }
}

fn table(upstream: &Section<'_>, section: Section<'_>) -> Option<CloudEvents> {
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
    let handshake = handshake(upstream, &section);
    section.finish();
    Some(CloudEvents { mode: mode?, source, default_type, subject, handshake: handshake? })
}

/// `handshake` and `origin`. None: there was a problem.
#[expect(clippy::option_option, reason = "the outer one is that of all readers")]
fn handshake(upstream: &Section<'_>, section: &Section<'_>) -> Option<Option<Handshake>> {
    let is_asked = section.flag("handshake", false);
    let written = section.expanded("origin");
    if !is_asked {
        if section.has("origin") {
            section.problem("origin", "has no effect without handshake = true; add that or remove it");
        }
        return Some(None);
    }
    if upstream.is_list("url") {
        section.problem("handshake", "asks one url for its permission; write one url in place of a list, or remove it");
    }
    let origin = match (written, section.has("origin")) {
        (Some(name), _) => section.accept("origin", door::name(&name))?,
        (None, true) => return None,
        (None, false) => {
            let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let named = door::name(&machine).map_err(|_| {
                format!(
                    "is missing, and the machine's name \"{machine}\" is none; write one such as \"hooks.example.com\""
                )
            });
            let name = section.accept("origin", named)?;
            section.note(&format!("origin: {name}"));
            return Some(Some(Handshake { origin: HeaderValue::from_str(&name).ok()? }));
        }
    };
    section.print("origin", &quoted(&origin));
    Some(Some(Handshake { origin: HeaderValue::from_str(&origin).ok()? }))
}
