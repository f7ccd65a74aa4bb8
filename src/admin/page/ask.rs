//! Owns one request for a page on its way to what draws it: who asks, what the address and the form say.
//!
//! Promises that an empty field is one that was not filled in, and that a time or a duration that means nothing is an error
//! that says what does.

use std::{sync::Arc, time::Duration};

use super::{Guest, session::Held};
use crate::{
    admin::{
        access::{Caller, Role},
        api::Refusal,
        ports::Ports,
        wire::Filters,
    },
    clock::Timestamp,
    event::EventId,
};

/// Fields of a filter, in the order of the form.
pub(super) const FILTERS: [&str; 12] =
    ["source", "upstream", "route", "type", "tenant", "state", "status", "reason", "since", "until", "grep", "where"];

/// Names and values, as forms and addresses have them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// From `a=1&b=2`.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The first value of a name that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a name that are not empty.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let own = self.0.iter().filter(move |(known, _)| known == name);
        own.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether a box is ticked.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The same with another value of a name, or without it.
    pub(super) fn with(&self, name: &str, value: Option<&str>) -> Self {
        let others = self.0.iter().filter(|(known, value)| known != name && !value.trim().is_empty());
        let mut pairs: Vec<(String, String)> = others.cloned().collect();
        pairs.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        Self(pairs)
    }

    /// As an address on this site.
    pub(super) fn address(&self, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.0.iter().filter(|(_, value)| !value.trim().is_empty()));
        match query.finish().as_str() {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }

    /// The filters among them. Times may be given as `10m`, meaning so long ago.
    pub(super) fn filters(&self, now: Timestamp) -> Result<Filters, Refusal> {
        let text = |name: &str| self.get(name).map(str::to_owned);
        let time = |name: &str| self.get(name).map(|text| moment(text, now)).transpose();
        Ok(Filters {
            source: text("source"),
            upstream: text("upstream"),
            route: text("route"),
            event_type: text("type"),
            tenant: text("tenant"),
            state: text("state"),
            status: text("status"),
            reason: text("reason"),
            since: time("since")?,
            until: time("until")?,
            grep: text("grep"),
            expression: text("where"),
        })
    }
}

/// One request.
pub(super) struct Ask {
    /// The instance as a whole, for what concerns no source and no upstream.
    pub(super) instance: Arc<dyn Ports>,
    /// The instance, as this visitor sees it.
    pub(super) ports: Arc<dyn Ports>,
    /// The connection.
    pub(super) guest: Guest,
    /// Who asks.
    pub(super) caller: Caller,
    /// The session; None on pages for everybody.
    pub(super) held: Option<Held>,
    /// A script asks, and shows parts of the page only.
    pub(super) is_refresh: bool,
    pub(super) variables: Vec<String>,
    pub(super) query: Pairs,
    pub(super) form: Pairs,
}

impl Ask {
    /// Whether the visitor sees what changes something.
    pub(super) fn operates(&self) -> bool {
        self.caller.role >= Role::Operate
    }

    /// A variable of the path.
    pub(super) fn variable(&self, index: usize) -> &str {
        self.variables.get(index).map_or("", String::as_str)
    }

    /// The first variable of the path as an id.
    pub(super) fn id(&self) -> Result<EventId, Refusal> {
        Ok(self.variable(0).parse()?)
    }

    /// Where the log was reached by an earlier page: `after` of the address.
    pub(super) fn cursor(&self) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| u64::from_str_radix(text, 16).map_err(|_| Refusal::bad("after: no page ends there"));
        self.query.get("after").map(parse).transpose()
    }

    /// Leaves something to be told on the next page.
    pub(super) fn tell(&self, lines: Vec<String>) {
        if let Some(held) = &self.held {
            self.guest.site.sessions.tell(held, lines);
        }
    }

    /// Where a form wants to go back to, if that is a place on this site.
    pub(super) fn back(&self) -> String {
        local(self.form.get("back")).unwrap_or("/").to_owned()
    }
}

/// A place on this site: never one that a browser could take for another host.
pub(super) fn local(given: Option<&str>) -> Option<&str> {
    given.filter(|path| {
        path.starts_with('/')
            && !path.starts_with("//")
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    })
}

/// `10s`, `5m`, `2h`, `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    number.checked_mul(seconds).filter(|seconds| (1..=366 * 86_400).contains(seconds)).map(Duration::from_secs)
}

/// RFC 3339 with a zone, the same without one (UTC), or so long ago.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    let ago = || duration(text).map(|ago| now.before(ago));
    let in_utc = |end: &str| Timestamp::parse_rfc3339(&format!("{}{end}", text.replace(' ', "T")));
    let found = Timestamp::parse_rfc3339(text).or_else(ago);
    found.or_else(|| in_utc("Z")).or_else(|| in_utc(":00Z")).or_else(|| in_utc("T00:00:00Z")).ok_or_else(|| {
        Refusal::bad(format!("{text:?} is no time: use one such as 2026-01-02T03:04:05Z, or 10m for ten minutes ago"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_ages() {
        let now = Timestamp::parse_rfc3339("2026-01-02T03:04:05Z").unwrap();
        for (text, expected) in [
            ("10m", "2026-01-02T02:54:05Z"),
            ("2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z"),
            ("2026-01-01T10:30", "2026-01-01T10:30:00Z"),
            ("2026-01-01 10:30:59", "2026-01-01T10:30:59Z"),
            ("2026-01-01", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text, now).ok(), Timestamp::parse_rfc3339(expected), "{text}");
        }
        for text in ["yesterday", "10", "m", "0m", "10y", "99999999999999999999s"] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn only_places_on_this_site_are_gone_back_to() {
        for (given, expected) in [
            ("/events?grep=a%20b", true),
            ("/", true),
            ("//elsewhere.example", false),
            ("/\\elsewhere.example", false),
            ("https://elsewhere.example", false),
            ("/a\r\nSet-Cookie: x=y", false),
            ("", false),
        ] {
            assert_eq!(local(Some(given)).is_some(), expected, "{given:?}");
        }
    }

    #[test]
    fn an_empty_field_asks_for_nothing() {
        let pairs = Pairs::parse(b"source=&type=paid&state=+&grep=a%26b&id=1&id=&id=2");
        let filters = pairs.filters(Timestamp::ZERO).unwrap();
        assert_eq!(
            filters,
            Filters { event_type: Some("paid".into()), grep: Some("a&b".into()), ..Filters::default() }
        );
        assert_eq!(pairs.all("id").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(pairs.with("id", None).with("after", Some("ff")).address("/x"), "/x?type=paid&grep=a%26b&after=ff");
    }
}
