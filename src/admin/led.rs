//! Owns which routes lead an event to its upstreams, as they are today: for the answer to "why is it there".
//!
//! Promises that a caller with limits hears of no route beyond them. What can't be evaluated now is left out.

use std::collections::BTreeMap;

use super::{find::Found, ports::Ports, wire::Route};
use crate::log::read_body;

/// By upstream, the routes that lead there; subscribers of topics, who are told of apart, left out.
pub(super) fn led(ports: &dyn Ports, found: &Found) -> BTreeMap<Box<str>, Vec<Route>> {
    let mut led: BTreeMap<Box<str>, Vec<Route>> = BTreeMap::new();
    let Ok(body) = read_body(&*ports.log(), &found.event) else { return led };
    let body = ports.decoded(&found.event, body);
    for route in ports.routes() {
        let to: Vec<&String> = route.to.iter().filter(|upstream| !upstream.contains('/')).collect();
        let takes = || ports.route(&route.name).is_some_and(|filter| (filter.takes)(&found.event, &body) == Ok(true));
        if to.is_empty() || !takes() {
            continue;
        }
        for upstream in to {
            led.entry(upstream.as_str().into()).or_default().push(route.clone());
        }
    }
    led
}
