//! Owns the keys of a route that say in which order and how soon its deliveries are made.

use std::sync::Arc;

use super::{
    context::Context,
    problem::Place,
    reader::{Section, quoted},
    source::{expression, header_selector},
    tree::Value,
};
use crate::routing::{KeySelector, OnFailure, OrderError, OrderKey, OrderPolicy, Priority, Route};

/// The most attempts that a key may be kept waiting for before it is skipped.
const SKIP_MAX: u64 = 1_000_000;

/// `priority`.
pub(super) fn priority(section: &Section<'_>) -> Priority {
    let choices = [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];
    section.choice("priority", "normal", &choices).unwrap_or(Priority::Normal)
}

/// `order_by` and what goes with it.
pub(super) fn order(section: &Section<'_>) -> Option<Arc<OrderPolicy>> {
    if !section.has("order_by") {
        for key in ["on_failure", "version", "coalesce"] {
            if section.has(key) {
                section.problem(key, "has no effect without order_by; add order_by = \".account\" or remove it");
            }
        }
        return None;
    }
    let key = key(section);
    let on_failure = on_failure(section);
    let version = expression(section, "version");
    let coalesce = section.flag("coalesce", false);
    match OrderPolicy::new(key?, on_failure?, version, coalesce) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(why) => {
            let place = match why {
                OrderError::Key => "order_by",
                OrderError::Version => "version",
                OrderError::NoAttempt => "on_failure",
            };
            section.problem(place, why.to_string());
            None
        }
    }
}

fn key(section: &Section<'_>) -> Option<OrderKey> {
    if !matches!(section.value("order_by"), Some(Value::Table(_))) {
        return expression(section, "order_by").map(OrderKey::Expr);
    }
    let inner = section.section("order_by");
    if !inner.has("header") {
        inner.problem("header", "is missing; write order_by = { header = \"X-Account\" } or jq such as \".account\"");
    }
    let selector = header_selector(&inner);
    inner.finish();
    match selector? {
        KeySelector::Header(name) => Some(OrderKey::Header(name)),
        _ => None,
    }
}

fn on_failure(section: &Section<'_>) -> Option<OnFailure> {
    if matches!(section.value("on_failure"), Some(Value::Table(_))) {
        let inner = section.section("on_failure");
        if !inner.has("skip") {
            inner.problem("skip", "is missing; write on_failure = { skip = 3 }, \"block\" or \"park\"");
        }
        let attempts = inner.optional_count("skip", 1..=SKIP_MAX);
        inner.finish();
        return attempts.and_then(|attempts| u32::try_from(attempts).ok()).map(OnFailure::Skip);
    }
    let text = section.text("on_failure").unwrap_or("block");
    match text {
        "block" => {
            if !section.has("on_failure") {
                section.print("on_failure", &quoted("block"));
            }
            Some(OnFailure::Block)
        }
        "park" => Some(OnFailure::Park),
        other => {
            let message = format!("\"{other}\" is not known; write \"block\", \"park\" or {{ skip = 3 }}");
            section.problem("on_failure", message);
            None
        }
    }
}

/// Two routes from one source to one upstream must say the same about order: whose event it is would not be known
/// before their conditions are asked, and not even then if both match.
pub(super) fn check<'a>(
    cx: &Context<'_>,
    sources: &[&str],
    routes: impl Iterator<Item = (&'a Route, &'a Place, String)>,
) {
    let routes: Vec<_> = routes.collect();
    for (index, (route, place, key)) in routes.iter().enumerate() {
        let before = routes.iter().take(index).find(|(other, _, _)| {
            let upstream = route.to.iter().any(|upstream| other.leads_to(upstream));
            let source = sources.iter().any(|source| route.takes(source) && other.takes(source));
            upstream && source && other.order != route.order
        });
        if let Some((other, _, _)) = before {
            let message = format!(
                "routes {} and {} lead from one source to one upstream and say different things about the order; give \
                 both the same order_by (such as \".order // .refund\"), on_failure, version and coalesce",
                other.name, route.name
            );
            cx.problem(place, &format!("{key}.order_by"), message);
        }
    }
}
