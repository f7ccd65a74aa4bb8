//! Owns the metrics of upstreams whose names come from outside, since they are subscribers that were registered at run
//! time: each counts for itself and all of a topic are shown as one, `TOPIC/*`.
//!
//! Promises that the number of series follows the configured topics only, and that a sum never falls because a member
//! leaves. Deliberately absent: targets and rate limits, which such upstreams do not have in common.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use super::{Counter, Gauge, UpstreamMetrics};

/// The upstreams that are shown together.
#[derive(Default)]
pub(super) struct Groups {
    /// By name, with the topic.
    members: BTreeMap<Box<str>, (Box<str>, Arc<UpstreamMetrics>)>,
    /// By topic: what those have counted that left, and the gauges of those that are gone.
    gone: BTreeMap<Box<str>, Arc<UpstreamMetrics>>,
}

impl Groups {
    /// The handle of a member.
    pub(super) fn member(&self, name: &str) -> Option<Arc<UpstreamMetrics>> {
        self.members.get(name).map(|(_, metrics)| metrics.clone())
    }

    /// These are the members now: name and topic.
    pub(super) fn set(&mut self, members: &[(&str, &str)]) {
        let before = std::mem::take(&mut self.members);
        for (name, topic) in members {
            let known = before.get(*name).map(|(_, metrics)| metrics.clone());
            self.gone.entry((*topic).into()).or_default();
            self.members.insert((*name).into(), ((*topic).into(), known.unwrap_or_default()));
        }
        for (name, (topic, metrics)) in before {
            if !self.members.contains_key(&name) {
                add_counts(&self.gone(&topic), &metrics);
            }
        }
    }

    /// Those of a topic that are gone.
    pub(super) fn gone(&mut self, topic: &str) -> Arc<UpstreamMetrics> {
        self.gone.entry(topic.into()).or_default().clone()
    }

    /// All topics with a group.
    pub(super) fn topics(&self) -> Vec<Box<str>> {
        self.gone.keys().cloned().collect()
    }

    /// The sum of each group, under the name that it is shown by.
    pub(super) fn summed(&self) -> Vec<(Box<str>, Arc<UpstreamMetrics>)> {
        let all = self.gone.iter().map(|(topic, gone)| {
            let sum = UpstreamMetrics::default();
            let own = self.members.values().filter(|(of, _)| of == topic).map(|(_, metrics)| metrics);
            for metrics in own.chain([gone]) {
                add_counts(&sum, metrics);
                add_gauges(&sum, metrics);
            }
            (format!("{topic}/*").into(), Arc::new(sum))
        });
        all.collect()
    }
}

/// Adds what only grows.
fn add_counts(sum: &UpstreamMetrics, one: &UpstreamMetrics) {
    type Of = fn(&UpstreamMetrics) -> &Counter;
    let counters: [Of; 12] = [
        |metrics| &metrics.lookups,
        |metrics| &metrics.lookups_failed,
        |metrics| &metrics.diverted,
        |metrics| &metrics.rehearsed,
        |metrics| &metrics.unordered,
        |metrics| &metrics.uncompared,
        |metrics| &metrics.settlements_refused,
        |metrics| &metrics.addresses_refused,
        |metrics| &metrics.batch_splits,
        |metrics| &metrics.sink_files,
        |metrics| &metrics.resigned,
        |metrics| &metrics.failovers,
    ];
    for counter in counters {
        counter(sum).add(counter(one).get());
    }
    for (sum, one) in sum.attempts.iter().zip(&one.attempts) {
        sum.add(one.get());
    }
    for (sum, one) in sum.notices.iter().zip(&one.notices) {
        sum.add(one.get());
    }
    sum.attempt.add(&one.attempt);
    sum.delivery.add(&one.delivery);
    sum.batch_items.add(&one.batch_items);
}

/// Adds what goes up and down; of ages and states the largest counts.
fn add_gauges(sum: &UpstreamMetrics, one: &UpstreamMetrics) {
    type Of = fn(&UpstreamMetrics) -> &Gauge;
    let added: [Of; 8] = [
        |metrics| &metrics.addresses,
        |metrics| &metrics.pending,
        |metrics| &metrics.held,
        |metrics| &metrics.review,
        |metrics| &metrics.in_flight,
        |metrics| &metrics.blocked_keys,
        |metrics| &metrics.keys_unknown,
        |metrics| &metrics.concurrency_limit,
    ];
    for gauge in added {
        gauge(sum).add(gauge(one).get());
    }
    let largest: [Of; 3] =
        [|metrics| &metrics.oldest_pending_seconds, |metrics| &metrics.breaker_state, |metrics| &metrics.throttled];
    for gauge in largest {
        gauge(sum).set(gauge(sum).get().max(gauge(one).get()));
    }
    let mut dead = sum.dead.lock().unwrap_or_else(PoisonError::into_inner);
    for (code, count) in one.dead.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        *dead.entry(*code).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::telemetry::Metrics;

    fn shown(metrics: &Metrics, of: &str) -> Vec<String> {
        let all = metrics.render();
        all.lines().filter(|line| line.starts_with(of)).map(|line| line[of.len()..].to_owned()).collect()
    }

    #[test]
    fn a_thousand_subscribers_leave_the_number_of_series_unchanged_and_their_sum_never_falls() {
        let metrics = Metrics::default();
        metrics.upstream("configured").attempts[0].inc();
        metrics.group_upstreams(&[("orders/a", "orders")]);
        let series = metrics.render().lines().count();
        let names: Vec<String> = (0..1_000).map(|number| format!("orders/{number}")).collect();
        let members: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "orders")).collect();
        metrics.group_upstreams(&members);
        for (age, name) in (0..).zip(&names) {
            let one = metrics.upstream(name);
            one.attempts[0].inc();
            one.attempt.observe(Duration::from_millis(1));
            one.pending.set(2);
            one.oldest_pending_seconds.set(age);
        }
        assert_eq!(metrics.render().lines().count(), series);
        let of = "stagepost_attempts_total{upstream=\"orders/*\",outcome=\"delivered\"}";
        assert_eq!(shown(&metrics, of), [" 1000"]);
        assert_eq!(shown(&metrics, "stagepost_pending{upstream=\"orders/*\"}"), [" 2000"]);
        assert_eq!(shown(&metrics, "stagepost_oldest_pending_seconds{upstream=\"orders/*\"}"), [" 999"]);
        metrics.group_upstreams(&[("orders/7", "orders")]);
        assert_eq!(shown(&metrics, of), [" 1000"]);
        assert_eq!(shown(&metrics, "stagepost_attempt_seconds_count{upstream=\"orders/*\"}"), [" 1000"]);
        assert_eq!(shown(&metrics, "stagepost_pending{upstream=\"orders/*\"}"), [" 2"]);
        assert!(!metrics.render().contains("orders/7"));
        assert!(metrics.known_upstream("orders/8").is_none() && metrics.known_upstream("orders/7").is_some());
    }
}
