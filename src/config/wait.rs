//! Owns the keys of a source that say what its senders wait for: those of `mode = "proxy"`.

use std::collections::BTreeSet;

use super::{context::Context, problem::Place, reader::Section, source::own_reply};
use crate::routing::{OnError, Route, Source, WaitPolicy};

/// The keys that only a sender who waits has a use for.
const KEYS: [&str; 3] = ["reply_from", "fallback", "on_error"];

/// Reads them. None: the source answers when an event is durable. Whose answer it is may be left open here: see
/// [`reply_from`].
pub(super) fn read(source: &Section<'_>, waits: bool) -> Option<WaitPolicy> {
    if !waits {
        for key in KEYS.into_iter().filter(|key| source.has(key)) {
            source.problem(key, "has no effect without mode = \"proxy\"; write that or remove this");
        }
        // They are known, and read so that nothing is said twice.
        let _unused = (source.text("reply_from"), source.value("fallback"), source.text("on_error"));
        return None;
    }
    let reply_from = source.text("reply_from").unwrap_or_default().into();
    let fallback = source.optional_section("fallback").and_then(|section| {
        let reply = own_reply(&section, 599);
        section.finish();
        reply
    });
    let choices = [("fallback", OnError::Fallback), ("pass", OnError::Pass)];
    let on_error = source.choice("on_error", "fallback", &choices)?;
    Some(WaitPolicy { reply_from, fallback, on_error })
}

/// The upstream whose answer a source's senders get: the one that is named, or the only one that its routes lead to.
///
/// # Errors
/// The key, and what is wrong with it.
pub(super) fn reply_from<'r>(
    policy: &WaitPolicy,
    source: &Source,
    routes: impl Iterator<Item = &'r Route>,
) -> Result<Box<str>, (&'static str, String)> {
    let taken = routes.filter(|route| route.takes(&source.name));
    let names: BTreeSet<&str> = taken.flat_map(|route| route.to.iter().map(|name| &**name)).collect();
    let listed = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    match (&*policy.reply_from, names.len()) {
        (_, 0) => Err((
            "mode",
            "is \"proxy\", but no route leads its events to an upstream that could answer; add to = [\"…\"]".into(),
        )),
        ("", 1) => Ok(names.iter().copied().collect::<String>().into()),
        ("", _) => Err((
            "reply_from",
            format!(
                "is missing: its routes lead to several upstreams; name the one whose answer the sender gets: {listed}"
            ),
        )),
        (named, _) if names.contains(named) => Ok(named.into()),
        (named, _) => {
            Err(("reply_from", format!("names \"{named}\", which no route of the source leads to; it may be {listed}")))
        }
    }
}

/// Records what is wrong with it.
pub(super) fn check<'r>(cx: &Context<'_>, source: &Source, place: &Place, routes: impl Iterator<Item = &'r Route>) {
    if let Some(policy) = &source.wait
        && let Err((key, message)) = reply_from(policy, source, routes)
    {
        cx.problem(place, &format!("source.{}.{key}", source.name), message);
    }
}
