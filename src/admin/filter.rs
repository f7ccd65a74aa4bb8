//! Owns filters: checked and compiled once, then asked about many events, the cheap questions first.
//!
//! Promises that what a filter can't mean is an error before anything is read. Within one delivery all of
//! `upstream`, `route`, `state`, `status` and `reason` must hold; they do not add up over several deliveries.

use bytes::Bytes;
use memchr::memmem;

use super::{
    access::Scope,
    ports::{DeliveryView, EventView, Reads, RouteFilter},
    privacy::{shown_body, without_hidden},
    wire::Filters,
};
use crate::event::{DeliveryState, Event, EventState, Reason};

/// A filter that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No such state.
    #[error("{0:?} is no state: use pending, held, review, dead, delivered, superseded, ignored or unrouted")]
    State(String),
    /// No such HTTP status.
    #[error("{0:?} is no HTTP status: use one such as 503, or a class such as 5xx")]
    Status(String),
    /// No such route, or no configuration to look it up in.
    #[error("there is no route {0:?} in the configuration")]
    Route(String),
    /// A question that only events have an answer to.
    #[error("--{0} means nothing in quarantine: use source, tenant, status, reason, since, until, grep or where")]
    NotInQuarantine(&'static str),
    /// The expression is none.
    #[error("--where: {0}")]
    Expression(String),
}

/// HTTP statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusFilter {
    One(u16),
    Class(u16),
}

impl StatusFilter {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(class) = text.strip_suffix("xx") {
            return class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class);
        }
        text.parse().ok().filter(|status| (100..=599).contains(status)).map(Self::One)
    }

    pub(super) const fn matches(self, status: u16) -> bool {
        match self {
            Self::One(one) => status == one,
            Self::Class(class) => status / 100 == class,
        }
    }
}

/// Filters, ready to be asked.
pub struct Compiled {
    filters: Filters,
    scope: Scope,
    status: Option<StatusFilter>,
    expression: Option<super::ports::Predicate>,
    route: Option<RouteFilter>,
}

impl Compiled {
    /// Checks and compiles.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn new(filters: Filters, reads: &dyn Reads) -> Result<Self, FilterError> {
        if let Some(state) = &filters.state
            && !STATES.iter().any(|known| known.as_str() == state)
        {
            return Err(FilterError::State(state.clone()));
        }
        let parse = |text: &String| StatusFilter::parse(text).ok_or_else(|| FilterError::Status(text.clone()));
        let status = filters.status.as_ref().map(parse).transpose()?;
        let find = |name: &String| reads.route(name).ok_or_else(|| FilterError::Route(name.clone()));
        let route = filters.route.as_ref().map(find).transpose()?;
        let compile = |text: &String| reads.filter(text).map_err(FilterError::Expression);
        let expression = filters.expression.as_ref().map(compile).transpose()?;
        Ok(Self { filters, scope: reads.scope().clone(), status, expression, route })
    }

    /// What was asked for.
    #[must_use]
    pub const fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Whether the last answer's status is asked for, which is not in an [`EventView`].
    #[must_use]
    pub const fn wants_status(&self) -> bool {
        self.status.is_some()
    }

    /// The questions that the stored head of the event answers.
    #[must_use]
    pub fn takes_event(&self, event: &Event) -> bool {
        let filters = &self.filters;
        let captured = || event.captures.iter().find(|(name, _)| &**name == "tenant").map(|(_, value)| &**value);
        let tenant = || event.extras.as_ref().and_then(|extras| extras.tenant.as_deref()).or_else(captured);
        self.scope.takes_source(&event.source)
            && filters.source.as_deref().is_none_or(|source| source == &*event.source)
            && filters.event_type.as_deref().is_none_or(|wanted| event.event_type.as_deref() == Some(wanted))
            && filters.since.is_none_or(|since| event.received_at >= since)
            && filters.until.is_none_or(|until| event.received_at < until)
            && filters.tenant.as_deref().is_none_or(|wanted| tenant() == Some(wanted))
    }

    /// Whether one delivery is meant; `status` gives the last answer's status.
    pub fn takes_delivery(
        &self,
        delivery: &DeliveryView,
        status: &mut dyn FnMut(&DeliveryView) -> Option<u16>,
    ) -> bool {
        let filters = &self.filters;
        self.on_path(&delivery.upstream)
            && filters.state.as_deref().is_none_or(|state| state == delivery.status.state().as_str())
            && filters.reason.as_deref().is_none_or(|wanted| delivery.status.reason().is_some_and(|r| means(r, wanted)))
            && self.status.is_none_or(|wanted| status(delivery).is_some_and(|status| wanted.matches(status)))
    }

    /// Whether the deliveries of an event, or its state, are meant.
    pub fn takes_deliveries(
        &self,
        view: &EventView,
        state: EventState,
        status: &mut dyn FnMut(&DeliveryView) -> Option<u16>,
    ) -> bool {
        let filters = &self.filters;
        if self.scope.limits_upstreams() && view.deliveries.is_empty() {
            return false;
        }
        let of_deliveries = filters.upstream.is_some() || filters.reason.is_some() || self.status.is_some();
        if !of_deliveries && filters.state.as_deref().is_none_or(|wanted| wanted == state.as_str()) {
            return true;
        }
        view.deliveries.iter().any(|delivery| self.takes_delivery(delivery, status))
    }

    /// Whether a text is all that is asked of the body: that is cheaper than the question for the state of deliveries.
    #[must_use]
    pub const fn asks_text_only(&self) -> bool {
        self.filters.grep.is_some() && self.expression.is_none() && self.route.is_none()
    }

    /// The questions that need the body, which is `None` if none of them is asked.
    ///
    /// # Errors
    /// An expression that failed, in words.
    pub fn takes_content(
        &self,
        event: &Event,
        body: &dyn Fn() -> Result<Bytes, String>,
        reads: &dyn Reads,
    ) -> Result<bool, String> {
        if self.filters.grep.is_none() && self.expression.is_none() && self.route.is_none() {
            return Ok(true);
        }
        let body = body()?;
        if let Some(route) = &self.route
            && !(route.takes)(event, &body)?
        {
            return Ok(false);
        }
        if !reads.sees_hidden() {
            // Who may not see a credential must not find it by asking for its letters either.
            let shown = without_hidden(reads, event);
            return self.takes_shown(&shown, shown_body(reads, event, body, false)?, reads);
        }
        self.takes_shown(event, body, reads)
    }

    fn takes_shown(&self, event: &Event, body: Bytes, reads: &dyn Reads) -> Result<bool, String> {
        if let Some(text) = &self.filters.grep
            && !contains(event, text, || reads.decoded(event, body.clone()))
        {
            return Ok(false);
        }
        self.expression.as_ref().map_or(Ok(true), |expression| expression(event, &body))
    }

    /// Whether deliveries to this upstream can be meant at all.
    fn on_path(&self, upstream: &str) -> bool {
        self.filters.upstream.as_deref().is_none_or(|wanted| wanted == upstream)
            && self.route.as_ref().is_none_or(|route| route.to.iter().any(|to| &**to == upstream))
    }
}

const STATES: [EventState; 8] = [
    EventState::Pending,
    EventState::Held,
    EventState::Review,
    EventState::Dead,
    EventState::Delivered,
    EventState::Superseded,
    EventState::Ignored,
    EventState::Unrouted,
];

/// The state of which records are kept, so that they are found without reading the whole log.
#[must_use]
pub(super) fn recorded(state: &str) -> Option<DeliveryState> {
    [DeliveryState::Dead, DeliveryState::Held, DeliveryState::Review].into_iter().find(|known| known.as_str() == state)
}

fn means(reason: &Reason, wanted: &str) -> bool {
    reason.code == wanted || reason.to_string().contains(wanted)
}

fn contains(event: &Event, text: &str, body: impl FnOnce() -> Bytes) -> bool {
    let needle = memmem::Finder::new(text.as_bytes());
    let found = |hay: &[u8]| needle.find(hay).is_some();
    found(event.path.as_bytes())
        || event.query.as_deref().is_some_and(|query| found(query.as_bytes()))
        || event
            .headers
            .iter()
            .any(|(name, value)| found(&[name.as_str().as_bytes(), b": ", value.as_bytes()].concat()))
        || found(&body())
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};
    use crate::{clock::Timestamp, event::Status};

    fn compiled(change: impl FnOnce(&mut Filters)) -> Result<Compiled, FilterError> {
        let mut filters = Filters::default();
        change(&mut filters);
        Compiled::new(filters, &Fake::default())
    }

    #[test]
    fn what_a_filter_cannot_mean_is_an_error_that_says_what_can_be_meant() {
        assert!(matches!(compiled(|f| f.state = Some("done".into())), Err(FilterError::State(_))));
        assert!(matches!(compiled(|f| f.route = Some("none".into())), Err(FilterError::Route(_))));
        assert!(matches!(compiled(|f| f.expression = Some("(".into())), Err(FilterError::Expression(_))));
        for status in ["6xx", "99", "x", "5x", "600"] {
            assert!(matches!(compiled(|f| f.status = Some(status.into())), Err(FilterError::Status(_))), "{status}");
        }
    }

    #[test]
    fn the_head_of_an_event_is_asked_for_all_that_is_given() {
        let fake = Fake::default();
        let event = fake.event(fake.accept("stripe", b"{}"));
        type Case = (fn(&mut Filters), bool);
        let cases: [Case; 7] = [
            (|_| {}, true),
            (|f| f.source = Some("stripe".into()), true),
            (|f| f.source = Some("strip".into()), false),
            (|f| f.event_type = Some("invoice.paid".into()), true),
            (|f| f.tenant = Some("acme".into()), true),
            (|f| f.since = Some(Timestamp::from_millis(u64::MAX)), false),
            (|f| f.until = Some(Timestamp::from_millis(1)), false),
        ];
        for (change, expected) in cases {
            assert_eq!(compiled(change).unwrap().takes_event(&event), expected);
        }
    }

    #[test]
    fn all_questions_about_deliveries_are_asked_of_the_same_delivery() {
        let view = EventView {
            deliveries: vec![
                delivery("billing", Status::Dead(Reason::with("refused", "404 Not Found"))),
                delivery("crm", Status::Delivered),
            ],
            ..EventView::default()
        };
        let takes = |change: fn(&mut Filters)| {
            compiled(change)
                .unwrap()
                .takes_deliveries(&view, EventState::Dead, &mut |found| (&*found.upstream == "billing").then_some(404))
        };
        assert!(takes(|f| f.state = Some("dead".into())));
        assert!(takes(|f| f.state = Some("delivered".into())));
        assert!(!takes(|f| f.state = Some("held".into())));
        assert!(!takes(|f| (f.state, f.upstream) = (Some("dead".into()), Some("crm".into()))));
        assert!(takes(|f| f.reason = Some("refused".into())));
        assert!(takes(|f| f.reason = Some("Not Found".into())));
        assert!(!takes(|f| f.reason = Some("given_up".into())));
        assert!(takes(|f| f.status = Some("4xx".into())));
        assert!(!takes(|f| (f.status, f.upstream) = (Some("404".into()), Some("crm".into()))));
    }

    #[test]
    fn a_text_is_sought_in_headers_path_query_and_decoded_body() {
        let fake = Fake::default();
        let event = fake.event(fake.accept("stripe", b"the body"));
        for (text, expected) in
            [("the body", true), ("x-kind: test", true), ("/hooks", true), ("a=1", true), ("absent", false)]
        {
            let compiled = compiled(|f| f.grep = Some(text.to_owned())).unwrap();
            let taken = compiled.takes_content(&event, &|| Ok(Bytes::from_static(b"the body")), &fake);
            assert_eq!(taken, Ok(expected), "{text}");
        }
    }
}
