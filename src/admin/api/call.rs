//! Owns one request to the admin interfaces on its way to a handler: who asks, the variables of its path, its query,
//! its body.
//!
//! Promises that a query has the parameters that its route declares and no others, each once and in its form.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::{Route, answer::Refusal, param::Param};
use crate::{
    admin::{
        access::{Caller, Role},
        ports::Ports,
        wire::Filters,
    },
    clock::Timestamp,
    event::EventId,
};

/// One request.
pub(in crate::admin) struct Call {
    /// The instance, as this caller sees it.
    pub(in crate::admin) ports: Arc<dyn Ports>,
    /// Who asks.
    pub(in crate::admin) caller: Caller,
    /// The request's headers.
    pub(in crate::admin) headers: HeaderMap,
    /// Empty unless the route takes one.
    pub(in crate::admin) body: Bytes,
    variables: Vec<String>,
    query: HashMap<&'static str, String>,
}

impl Call {
    /// Takes a request for a route apart.
    ///
    /// # Errors
    /// 400 if its query is not one of the route.
    pub(in crate::admin) fn new(
        route: &Route,
        ports: Arc<dyn Ports>,
        caller: Caller,
        variables: Vec<String>,
        query: &str,
    ) -> Result<Self, Refusal> {
        let query = parsed(route, query)?;
        Ok(Self { ports, caller, headers: HeaderMap::new(), body: Bytes::new(), variables, query })
    }

    /// A variable of the path, by its number.
    pub(in crate::admin) fn variable(&self, index: usize) -> &str {
        self.variables.get(index).map_or("", String::as_str)
    }

    /// The first variable of the path as an id.
    pub(in crate::admin) fn id(&self) -> Result<EventId, Refusal> {
        Ok(self.variable(0).parse()?)
    }

    /// A parameter of the query, if it is given.
    pub(in crate::admin) fn text(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// A number of the query. Its range was checked.
    pub(in crate::admin) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A time of the query.
    pub(in crate::admin) fn time(&self, name: &str) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.text(name)?)
    }

    /// How many things may be on the page.
    pub(in crate::admin) fn limit(&self) -> usize {
        usize::try_from(self.number("limit").unwrap_or(super::PAGE)).unwrap_or(usize::MAX)
    }

    /// A flag of the query; false if it is not given.
    pub(in crate::admin) fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A cursor that an earlier answer gave.
    pub(in crate::admin) fn cursor(&self) -> Option<u64> {
        u64::from_str_radix(self.text("after")?, 16).ok()
    }

    /// The filters in the query.
    pub(in crate::admin) fn filters(&self) -> Result<Filters, Refusal> {
        let given = super::param::FILTERS.iter().filter_map(|param| {
            let value = self.query.get(param.name)?;
            Some((param.name.to_owned(), serde_json::Value::String(value.clone())))
        });
        let given = serde_json::Value::Object(given.collect());
        serde_json::from_value(given).map_err(|error| Refusal::bad(error.to_string()))
    }

    /// Whether what is hidden is to be shown.
    ///
    /// # Errors
    /// 403 if the caller may not see it.
    pub(in crate::admin) fn reveals(&self) -> Result<bool, Refusal> {
        match self.flag("reveal") {
            true if self.caller.role < Role::Operate => {
                Err(Refusal::forbidden("to reveal credentials takes a token with role = \"operate\""))
            }
            reveals => Ok(reveals),
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 if it is not what the route takes.
    pub(in crate::admin) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Refusal::bad(format!("the request is not understood: {error}")))
    }

    /// Writes to the log what the caller does and what changes no delivery.
    ///
    /// # Errors
    /// 503: then it must not be done.
    pub(in crate::admin) fn note(&self, what: &str, target: &str) -> Result<(), Refusal> {
        let command = self.caller.noted(what, vec![target.into()], 1);
        self.ports.command(command).map_err(|error| Refusal::unavailable(format!("it can't be recorded: {error}")))
    }
}

fn parsed(route: &Route, query: &str) -> Result<HashMap<&'static str, String>, Refusal> {
    let mut found = HashMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(param) = route.params().find(|param| param.name == name) else {
            let known: Vec<&str> = route.params().map(|param| param.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Refusal::bad(format!("{name:?} is no parameter of this request; there are: {known}")));
        };
        check(param, &value)?;
        if found.insert(param.name, value.into_owned()).is_some() {
            return Err(Refusal::bad(format!("{name:?} is given twice")));
        }
    }
    if let Some(missing) = route.params().find(|param| param.required && !found.contains_key(param.name)) {
        return Err(Refusal::bad(format!("{:?} is missing", missing.name)));
    }
    Ok(found)
}

fn check(param: &Param, value: &str) -> Result<(), Refusal> {
    match param.kind.wants(value) {
        None => Ok(()),
        Some(wanted) => Err(Refusal::bad(format!("{}: {value:?} is not {wanted}", param.name))),
    }
}

/// The values of the variables of a pattern such as `/v1/events/{id}/body`, if the path is of that form.
pub(in crate::admin) fn variables(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(wanted), Some(given)) if wanted.starts_with('{') => {
                let value = percent_decode_str(given).decode_utf8().ok().filter(|value| !value.is_empty())?;
                found.push(value.into_owned());
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::param::Kind, *};

    #[test]
    fn a_path_is_taken_apart_by_its_pattern() {
        let of = |pattern, path| variables(pattern, path);
        assert_eq!(of("/v1/status", "/v1/status"), Some(vec![]));
        assert_eq!(of("/v1/events/{id}/body", "/v1/events/A/body"), Some(vec!["A".to_owned()]));
        assert_eq!(of("/v1/upstreams/{name}", "/v1/upstreams/orders%2Fcrm"), Some(vec!["orders/crm".to_owned()]));
        for path in ["/v1/events/", "/v1/events", "/v1/events/A/b", "/v1/events/%ff"] {
            assert_eq!(of("/v1/events/{id}", path), None, "{path}");
        }
    }

    #[test]
    fn a_value_has_the_form_that_its_parameter_asks_for() {
        for (kind, good, bad) in [
            (Kind::Flag, "true", "yes"),
            (Kind::Number(1..=10), "10", "11"),
            (Kind::Number(0..=9), "0", "-1"),
            (Kind::Time, "2026-01-02T03:04:05Z", "10m"),
            (Kind::OneOf(&["dead", "held"]), "held", "lost"),
            (Kind::Cursor, "ff", "not one"),
        ] {
            assert_eq!(kind.wants(good), None, "{good}");
            assert!(kind.wants(bad).is_some(), "{bad}");
        }
    }
}
