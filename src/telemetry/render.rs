//! Owns the Prometheus text format (version 0.0.4) of the metrics.
//!
//! Promises the names of the contract, `# HELP` and `# TYPE` before each family, and escaped label values. Figures
//! of different families are not one snapshot: each counter is read on its own.

mod cache;
mod upgrade;

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError},
};

use super::{
    ALERT_RULES, ANSWERED, AdminRefusal, BUDGET_LEVELS, HANDSHAKES, Histogram, Metrics, NOTICES, OVER, QuarantineDrop,
    RequestResult, SHADOWED, SUBSCRIBER_STATES, Scale, SourceMetrics, TargetMetrics, UpstreamMetrics,
};
use crate::event::Outcome;

const OUTCOMES: [Outcome; 4] = [Outcome::Delivered, Outcome::Deferred, Outcome::Refused, Outcome::Degraded];

impl Metrics {
    /// The media type of the rendered text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Text(String::with_capacity(16 * 1024));
        sources(&mut out, &self.all_sources());
        let help = "Events that the relay itself published under a topic.";
        out.family("stagepost_published_total", "counter", help);
        for (topic, metrics) in self.all_topics() {
            out.sample("stagepost_published_total", &[("topic", &topic)], metrics.published.get());
        }
        upstreams(&mut out, &self.all_upstreams());
        out.family("stagepost_shadow_total", "counter", "Copies for shadows, by what became of them.");
        for (shadow, metrics) in self.all_shadows() {
            for (result, count) in SHADOWED.iter().zip(&metrics.copies) {
                out.sample("stagepost_shadow_total", &[("upstream", &shadow), ("result", result)], count.get());
            }
        }
        self.store(&mut out);
        self.quarantine(&mut out);
        self.process(&mut out);
        out.0
    }

    fn store(&self, out: &mut Text) {
        out.single("stagepost_store_bytes", "gauge", "Bytes of the log on disk.", self.store_bytes.get());
        out.single("stagepost_store_limit_bytes", "gauge", "The budget of the log.", self.store_limit_bytes.get());
        out.family("stagepost_fsync_seconds", "histogram", "Duration of the durability barrier.");
        out.histogram("stagepost_fsync_seconds", &[], &self.fsync);
        out.family("stagepost_commit_entries", "histogram", "Entries made durable by one commit.");
        out.histogram("stagepost_commit_entries", &[], &self.commit_entries);
        out.single("stagepost_seals_total", "counter", "Segments sealed.", self.seals.get());
        out.single("stagepost_checkpoints_total", "counter", "Checkpoints of the state.", self.checkpoints.get());
        out.family("stagepost_jobs", "gauge", "Replays of many deliveries that are under way.");
        out.sample("stagepost_jobs", &[("state", "running")], self.jobs_running.get());
        out.sample("stagepost_jobs", &[("state", "waiting")], self.jobs_waiting.get());
        let help = "Deliveries made due by jobs.";
        out.single("stagepost_job_deliveries_total", "counter", help, self.job_deliveries.get());
        out.single(
            "stagepost_feed_overflows_total",
            "counter",
            "Entries that did not fit in memory on their way to the planner and were read from the log again.",
            self.feed_overflows.get(),
        );
    }

    fn quarantine(&self, out: &mut Text) {
        let (entries, bytes) = (self.quarantine_entries.get(), self.quarantine_bytes.get());
        out.single("stagepost_quarantine_entries", "gauge", "Refused requests in quarantine.", entries);
        out.single("stagepost_quarantine_bytes", "gauge", "Bytes of the quarantine's files.", bytes);
        let name = "stagepost_quarantine_dropped_total";
        out.family(name, "counter", "Refused requests that were not kept in quarantine, or no longer are.");
        for why in QuarantineDrop::ALL {
            out.sample(name, &[("reason", why.as_str())], self.quarantine_drop(why).get());
        }
    }

    fn process(&self, out: &mut Text) {
        let help = "Requests refused before any source was known.";
        out.family("stagepost_unmatched_requests_total", "counter", help);
        for (result, count) in RequestResult::ALL.iter().zip(&self.unmatched) {
            out.sample("stagepost_unmatched_requests_total", &[("result", result.as_str())], count.get());
        }
        out.single("stagepost_connections", "gauge", "Connections open now.", self.connections.get());
        out.single(
            "stagepost_connections_refused_total",
            "counter",
            "Connections refused because of server.max_connections.",
            self.connections_refused.get(),
        );
        let name = "stagepost_subscribers";
        out.family(name, "gauge", "Subscribers that were registered at run time.");
        for (state, count) in SUBSCRIBER_STATES.iter().zip(&self.subscribers) {
            out.sample(name, &[("state", state)], count.get());
        }
        let (limit, refused) = (self.subscribers_limit.get(), self.subscribers_refused.get());
        out.single("stagepost_subscribers_limit", "gauge", "How many may be registered (subscribers.max).", limit);
        let help = "Registrations of subscribers that were refused.";
        out.single("stagepost_subscribers_refused_total", "counter", help, refused);
        let waiting = "Senders who wait for an upstream's answer.";
        out.single("stagepost_waiting_senders", "gauge", waiting, self.waiting_senders.get());
        out.single("stagepost_body_memory_bytes", "gauge", "Bytes of bodies in memory.", self.body_memory.get());
        out.single("stagepost_spool_bytes", "gauge", "Bytes of bodies spooled to disk.", self.spool_bytes.get());
        out.single(
            "stagepost_trailers_dropped_total",
            "counter",
            "Requests whose trailers were dropped.",
            self.trailers_dropped.get(),
        );
        out.family("stagepost_tenant_warnings_total", "counter", "Tenants that used up a share of their daily budget.");
        for (level, count) in BUDGET_LEVELS.iter().zip(&self.tenant_warnings) {
            out.sample("stagepost_tenant_warnings_total", &[("level", level)], count.get());
        }
        out.family("stagepost_key_fetches_total", "counter", "Documents with keys that were asked for.");
        let fetched = [("fetched", &self.keys_fetched), ("failed", &self.keys_not_fetched)];
        for (result, count) in fetched {
            out.sample("stagepost_key_fetches_total", &[("result", result)], count.get());
        }
        out.family("stagepost_alerts", "gauge", "Alerts that stand.");
        for (rule, count) in ALERT_RULES.iter().zip(&self.alerts) {
            out.sample("stagepost_alerts", &[("rule", rule)], count.get());
        }
        let spans = &self.traces;
        out.family("stagepost_spans_total", "counter", "Spans by what became of them.");
        let results = [("exported", &spans.exported), ("overflowed", &spans.overflowed), ("refused", &spans.refused)];
        for (result, count) in results {
            out.sample("stagepost_spans_total", &[("result", result)], count.get());
        }
        let dropped = "Notices of alerts that could not be published and were given up.";
        out.single("stagepost_alerts_dropped_total", "counter", dropped, self.alerts_dropped.get());
        let withheld = "Notices of alerts beyond the limit of an hour, told of as one.";
        out.single("stagepost_alerts_withheld_total", "counter", withheld, self.alerts_withheld.get());
        out.single(
            "stagepost_expressions_killed_total",
            "counter",
            "Expressions stopped at a limit.",
            self.expressions_killed.get(),
        );
        let name = "stagepost_admin_refused_total";
        out.family(
            name,
            "counter",
            "Requests to the admin address that were refused for want of a token, or of its rights.",
        );
        for why in AdminRefusal::ALL {
            out.sample(name, &[("reason", why.as_str())], self.admin_refused(why).get());
        }
        let (name, help) = ("stagepost_page_sessions", "Sessions of the web page that have not ended.");
        out.single(name, "gauge", help, self.page_sessions.get());
        out.single(
            "stagepost_last_reload_success",
            "gauge",
            "1 if the last reload of the configuration succeeded, else 0.",
            self.last_reload_success.get(),
        );
        out.single(
            "stagepost_reloads_rolled_back_total",
            "counter",
            "Configurations that failed their probation.",
            self.reloads_rolled_back.get(),
        );
        out.family("stagepost_config_info", "gauge", "The active configuration, by its hash.");
        let hash = self.config_hash.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.sample("stagepost_config_info", &[("hash", &hash)], 1);
    }
}

fn sources(out: &mut Text, all: &[(Box<str>, Arc<SourceMetrics>)]) {
    out.family("stagepost_requests_total", "counter", "Requests by source and result.");
    for (source, metrics) in all {
        for (result, count) in RequestResult::ALL.iter().zip(&metrics.requests) {
            let labels = [("source", &**source), ("result", result.as_str())];
            out.sample("stagepost_requests_total", &labels, count.get());
        }
    }
    out.family("stagepost_events_total", "counter", "Accepted events by source and configured type.");
    for (source, metrics) in all {
        for (kind, count) in metrics.events.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.sample("stagepost_events_total", &[("source", source), ("type", kind)], count.get());
        }
    }
    out.family("stagepost_duplicates_total", "counter", "Resends that were recognised.");
    for (source, metrics) in all {
        out.sample("stagepost_duplicates_total", &[("source", source)], metrics.duplicates.get());
    }
    out.family("stagepost_without_key_total", "counter", "Events without a usable dedupe key.");
    for (source, metrics) in all {
        out.sample("stagepost_without_key_total", &[("source", source)], metrics.without_key.get());
    }
    let violations = "Violations of the source's schema: bodies, or items of batches.";
    out.family("stagepost_schema_violations_total", "counter", violations);
    for (source, metrics) in all {
        out.sample("stagepost_schema_violations_total", &[("source", source)], metrics.violations.get());
    }
    out.family("stagepost_unsplit_total", "counter", "Bodies that were to be split and are no batch: stored whole.");
    for (source, metrics) in all {
        out.sample("stagepost_unsplit_total", &[("source", source)], metrics.unsplit.get());
    }
    out.family("stagepost_gaps_total", "counter", "Gaps in the numbers of senders who count their events.");
    for (source, metrics) in all {
        out.sample("stagepost_gaps_total", &[("source", source)], metrics.gaps.get());
    }
    out.family("stagepost_missing_numbers", "gauge", "Numbers of events that were left out and have not come since.");
    for (source, metrics) in all {
        out.sample("stagepost_missing_numbers", &[("source", source)], metrics.missing.get());
    }
    out.family("stagepost_over_limit_total", "counter", "Events of tenants over their rate or budget.");
    for (source, metrics) in all {
        for (outcome, count) in OVER.iter().zip(&metrics.over_limit) {
            out.sample("stagepost_over_limit_total", &[("source", source), ("outcome", outcome)], count.get());
        }
    }
    out.family("stagepost_tenants", "gauge", "Tenants that are told apart.");
    for (source, metrics) in all {
        out.sample("stagepost_tenants", &[("source", source)], metrics.tenants.get());
    }
    out.family("stagepost_tenants_displaced_total", "counter", "Tenants whose place was taken by another.");
    for (source, metrics) in all {
        out.sample("stagepost_tenants_displaced_total", &[("source", source)], metrics.tenants_displaced.get());
    }
    out.family("stagepost_loops_total", "counter", "Requests that were cut because they came back.");
    for (source, metrics) in all {
        out.sample("stagepost_loops_total", &[("source", source)], metrics.loops.get());
    }
    out.family("stagepost_proxied_total", "counter", "Senders who waited, by who answered them.");
    for (source, metrics) in all {
        for (answered, count) in ANSWERED.iter().zip(&metrics.answered) {
            out.sample("stagepost_proxied_total", &[("source", source), ("answered", answered)], count.get());
        }
    }
    cache::render(out, all);
    upgrade::render(out, all);
    let stale = "Requests whose signature was right and whose timestamp was not.";
    out.family("stagepost_stale_total", "counter", stale);
    for (source, metrics) in all {
        out.sample("stagepost_stale_total", &[("source", source)], metrics.stale.get());
    }
    out.family("stagepost_reply_seconds", "histogram", "Receipt of the head to the head of an awaited answer.");
    for (source, metrics) in all {
        out.histogram("stagepost_reply_seconds", &[("source", source)], &metrics.reply);
    }
    out.family("stagepost_ack_seconds", "histogram", "Receipt of the head to the answer.");
    for (source, metrics) in all {
        out.histogram("stagepost_ack_seconds", &[("source", source)], &metrics.ack);
    }
    let help = "Absolute difference between signed timestamps and the clock.";
    out.family("stagepost_signature_skew_seconds", "histogram", help);
    for (source, metrics) in all {
        out.histogram("stagepost_signature_skew_seconds", &[("source", source)], &metrics.skew);
    }
}

fn upstreams(out: &mut Text, all: &[(Box<str>, Arc<UpstreamMetrics>)]) {
    out.family("stagepost_attempts_total", "counter", "Attempts by upstream and outcome.");
    for (upstream, metrics) in all {
        for (outcome, count) in OUTCOMES.iter().zip(&metrics.attempts) {
            let labels = [("upstream", &**upstream), ("outcome", outcome.as_str())];
            out.sample("stagepost_attempts_total", &labels, count.get());
        }
    }
    let help = "Outcomes of attempts that the log refused to store, each time it did.";
    out.family("stagepost_settlements_refused_total", "counter", help);
    for (upstream, metrics) in all {
        let labels = [("upstream", &**upstream)];
        out.sample("stagepost_settlements_refused_total", &labels, metrics.settlements_refused.get());
    }
    let help = "Attempts that dialled nothing, because the guard takes none of the upstream's addresses.";
    out.family("stagepost_addresses_refused_total", "counter", help);
    for (upstream, metrics) in all {
        out.sample("stagepost_addresses_refused_total", &[("upstream", upstream)], metrics.addresses_refused.get());
    }
    names(out, all);
    out.family("stagepost_batch_items", "histogram", "Events in one request or one write.");
    for (upstream, metrics) in all {
        out.histogram("stagepost_batch_items", &[("upstream", upstream)], &metrics.batch_items);
    }
    out.family("stagepost_batch_splits_total", "counter", "Batches halved because the upstream refused them.");
    for (upstream, metrics) in all {
        out.sample("stagepost_batch_splits_total", &[("upstream", upstream)], metrics.batch_splits.get());
    }
    out.family("stagepost_sink_files_total", "counter", "Files of events that were finished.");
    for (upstream, metrics) in all {
        out.sample("stagepost_sink_files_total", &[("upstream", upstream)], metrics.sink_files.get());
    }
    out.family("stagepost_sink_open_bytes", "gauge", "Bytes of the file of events that is being written.");
    for (upstream, metrics) in all {
        out.sample("stagepost_sink_open_bytes", &[("upstream", upstream)], metrics.sink_open_bytes.get());
    }
    let help = "Attempts for which the signature of the event's source was made anew.";
    out.family("stagepost_resigned_total", "counter", help);
    for (upstream, metrics) in all {
        out.sample("stagepost_resigned_total", &[("upstream", upstream)], metrics.resigned.get());
    }
    out.family("stagepost_attempt_seconds", "histogram", "Duration of attempts.");
    for (upstream, metrics) in all {
        out.histogram("stagepost_attempt_seconds", &[("upstream", upstream)], &metrics.attempt);
    }
    out.family("stagepost_delivery_seconds", "histogram", "Receipt of an event to its delivery.");
    for (upstream, metrics) in all {
        out.histogram("stagepost_delivery_seconds", &[("upstream", upstream)], &metrics.delivery);
    }
    let help = "Deliveries that went to another upstream in place of this one.";
    out.family("stagepost_diverted_total", "counter", help);
    for (upstream, metrics) in all {
        out.sample("stagepost_diverted_total", &[("upstream", upstream)], metrics.diverted.get());
    }
    out.family("stagepost_notices_total", "counter", "Dead deliveries of upstreams that have them told of.");
    for (upstream, metrics) in all {
        for (result, count) in NOTICES.iter().zip(&metrics.notices) {
            out.sample("stagepost_notices_total", &[("upstream", upstream), ("result", result)], count.get());
        }
    }
    let help = "Attempts that failed because a rehearsal told them to.";
    out.family("stagepost_rehearsed_total", "counter", help);
    for (upstream, metrics) in all {
        out.sample("stagepost_rehearsed_total", &[("upstream", upstream)], metrics.rehearsed.get());
    }
    type Read = fn(&UpstreamMetrics) -> i64;
    let gauges: [(&str, &str, Read); 10] = [
        ("stagepost_pending", "Deliveries that wait for an attempt.", |metrics| metrics.pending.get()),
        ("stagepost_oldest_pending_seconds", "Age of the oldest pending delivery.", |metrics| {
            metrics.oldest_pending_seconds.get()
        }),
        ("stagepost_held", "Deliveries held.", |metrics| metrics.held.get()),
        ("stagepost_review", "Deliveries whose answer a person must judge.", |metrics| metrics.review.get()),
        ("stagepost_breaker_state", "0 closed, 1 half-open, 2 open.", |metrics| metrics.breaker_state.get()),
        ("stagepost_in_flight", "Attempts under way.", |metrics| metrics.in_flight.get()),
        ("stagepost_blocked_keys", "Keys whose first delivery failed, is held or parks its key.", |metrics| {
            metrics.blocked_keys.get()
        }),
        ("stagepost_keys_unknown", "Undelivered events whose key is not looked at.", |metrics| {
            metrics.keys_unknown.get()
        }),
        ("stagepost_concurrency_limit", "Attempts that may be under way at once.", |metrics| {
            metrics.concurrency_limit.get()
        }),
        ("stagepost_throttled", "1 if deliveries wait for the rate or for a pause that was asked for.", |metrics| {
            metrics.throttled.get()
        }),
    ];
    for (name, help, read) in gauges {
        out.family(name, "gauge", help);
        for (upstream, metrics) in all {
            out.sample(name, &[("upstream", upstream)], read(metrics));
        }
    }
    targets(out, all);
    ordered(out, all);
    handshakes(out, all);
    out.family("stagepost_rate_limit", "gauge", "Attempts that may begin in a second, where anything bounds them.");
    for (upstream, metrics) in all {
        if let Some(rate) = metrics.rate_limit() {
            out.sample("stagepost_rate_limit", &[("upstream", upstream)], rate);
        }
    }
    out.family("stagepost_dead", "gauge", "Dead deliveries by reason.");
    for (upstream, metrics) in all {
        for (reason, count) in metrics.dead.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.sample("stagepost_dead", &[("upstream", upstream), ("reason", reason)], count);
        }
    }
}

/// Of upstreams that are asked for their permission.
fn handshakes(out: &mut Text, all: &[(Box<str>, Arc<UpstreamMetrics>)]) {
    let asked = || all.iter().filter(|(_, metrics)| metrics.permitted.get() > 0);
    let name = "stagepost_handshakes_total";
    out.family(name, "counter", "Times that the upstream was asked for its permission, by what came of it.");
    for (upstream, metrics) in asked() {
        for (result, count) in HANDSHAKES.iter().zip(&metrics.handshakes) {
            out.sample(name, &[("upstream", upstream), ("result", result)], count.get());
        }
    }
    let name = "stagepost_handshake_permitted";
    out.family(name, "gauge", "1 if the upstream permits deliveries, 0 if it has not.");
    for (upstream, metrics) in asked() {
        out.sample(name, &[("upstream", upstream)], metrics.permitted.get() - 1);
    }
}

fn names(out: &mut Text, all: &[(Box<str>, Arc<UpstreamMetrics>)]) {
    let name = "stagepost_name_lookups_total";
    out.family(name, "counter", "Times that a name of the upstream was looked up.");
    for (upstream, metrics) in all {
        let failed = metrics.lookups_failed.get();
        let found = metrics.lookups.get().saturating_sub(failed);
        for (result, count) in [("found", found), ("failed", failed)] {
            out.sample(name, &[("upstream", upstream), ("result", result)], count);
        }
    }
    out.family("stagepost_addresses", "gauge", "Addresses that the names of the upstream have.");
    for (upstream, metrics) in all {
        out.sample("stagepost_addresses", &[("upstream", upstream)], metrics.addresses.get());
    }
}

fn targets(out: &mut Text, all: &[(Box<str>, Arc<UpstreamMetrics>)]) {
    type Read = fn(&TargetMetrics) -> i64;
    let gauges: [(&str, &str, Read); 3] = [
        ("stagepost_target_up", "1 if the target gets attempts, 0 if it is left out.", |metrics| metrics.up.get()),
        ("stagepost_target_drained", "1 if an operator took the target out.", |metrics| metrics.drained.get()),
        ("stagepost_target_in_flight", "Attempts under way at the target.", |metrics| metrics.in_flight.get()),
    ];
    for (name, help, read) in gauges {
        out.family(name, "gauge", help);
        for (upstream, metrics) in all {
            for (target, metrics) in metrics.targets() {
                out.sample(name, &[("upstream", upstream), ("target", &target)], read(&metrics));
            }
        }
    }
    let name = "stagepost_target_ejections_total";
    out.family(name, "counter", "Times that the target was left out for its answers to deliveries.");
    for (upstream, metrics) in all {
        for (target, metrics) in metrics.targets() {
            out.sample(name, &[("upstream", upstream), ("target", &target)], metrics.ejections.get());
        }
    }
    let help = "Attempts that went to another target because the first could not be connected to.";
    out.family("stagepost_target_failovers_total", "counter", help);
    for (upstream, metrics) in all {
        out.sample("stagepost_target_failovers_total", &[("upstream", upstream)], metrics.failovers.get());
    }
    out.family("stagepost_targets_panic", "gauge", "1 while no target is up and all of them are tried.");
    for (upstream, metrics) in all {
        out.sample("stagepost_targets_panic", &[("upstream", upstream)], metrics.panic.get());
    }
}

fn ordered(out: &mut Text, all: &[(Box<str>, Arc<UpstreamMetrics>)]) {
    type Read = fn(&UpstreamMetrics) -> u64;
    let counters: [(&str, &str, Read); 2] = [
        ("stagepost_unordered_total", "Events without a key in a route that asks for an order.", |metrics| {
            metrics.unordered.get()
        }),
        ("stagepost_uncompared_total", "Turns of events whose version could not be compared.", |metrics| {
            metrics.uncompared.get()
        }),
    ];
    for (name, help, read) in counters {
        out.family(name, "counter", help);
        for (upstream, metrics) in all {
            out.sample(name, &[("upstream", upstream)], read(metrics));
        }
    }
}

/// The text under construction. Writing to a `String` can't fail.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push_str(if index == 0 { "{" } else { "," });
            self.0.push_str(label);
            self.0.push_str("=\"");
            self.label_value(text);
            self.0.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.0, "{close} {value}");
    }

    fn label_value(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }

    fn histogram<S: Scale>(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram<S>) {
        let (counts, sum) = histogram.read();
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in S::BOUNDS.iter().zip(counts) {
            below += count;
            let le = scaled::<S>(*bound);
            self.sample(&bucket, &[labels, &[("le", &le)]].concat(), below);
        }
        let all: u64 = counts.iter().sum();
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), all);
        self.sample(&format!("{name}_sum"), labels, scaled::<S>(sum));
        self.sample(&format!("{name}_count"), labels, all);
    }
}

/// A counted number in units of the metric, as a decimal without rounding.
fn scaled<S: Scale>(number: u64) -> String {
    let (whole, rest) = (number / S::UNIT, number % S::UNIT);
    if rest == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{rest:06}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample() -> Metrics {
        let metrics = Metrics::default();
        let source = metrics.source("stripe");
        source.requests[RequestResult::Accepted as usize].add(3);
        source.requests[RequestResult::Unauthorized as usize].inc();
        source.events.lock().unwrap().entry("invoice.\"paid\"\n\\".into()).or_default().add(2);
        source.duplicates.inc();
        source.ack.observe(Duration::from_micros(300));
        source.ack.observe(Duration::from_secs(3600));
        let upstream = metrics.upstream("billing");
        upstream.attempts[1].add(4);
        upstream.pending.set(7);
        upstream.dead.lock().unwrap().insert("given_up", 2);
        upstream.breaker_state.set(2);
        upstream.concurrency_limit.set(12);
        upstream.set_rate_limit(Some(0.5));
        upstream.handshakes[1].inc();
        upstream.permitted.set(1);
        let target = upstream.target("http://a:1/base");
        target.up.set(1);
        target.in_flight.set(3);
        metrics.topic("orders").published.add(5);
        metrics.shadow("next").copies[1].add(2);
        metrics.commit_entries.observe_number(3);
        metrics.commit_entries.observe_number(900);
        metrics.fsync.observe(Duration::from_micros(250));
        metrics.store_limit_bytes.set(20 << 30);
        *metrics.config_hash.lock().unwrap() = "abc".to_owned();
        metrics
    }

    #[test]
    fn the_rendered_text_is_the_golden_file() {
        let rendered = sample().render();
        if std::env::var_os("STAGEPOST_WRITE_GOLDEN").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/telemetry/metrics.golden.txt"), &rendered)
                .unwrap();
        }
        assert_eq!(rendered, include_str!("metrics.golden.txt"));
    }

    #[test]
    fn every_name_of_the_contract_is_there() {
        let rendered = sample().render();
        for name in [
            "requests_total",
            "events_total",
            "duplicates_total",
            "ack_seconds",
            "attempts_total",
            "attempt_seconds",
            "delivery_seconds",
            "pending",
            "oldest_pending_seconds",
            "dead",
            "held",
            "breaker_state",
            "store_bytes",
            "store_limit_bytes",
            "fsync_seconds",
            "commit_entries",
            "last_reload_success",
            "config_info",
            "signature_skew_seconds",
        ] {
            assert!(rendered.contains(&format!("# TYPE stagepost_{name} ")), "{name}");
            assert!(rendered.contains(&format!("# HELP stagepost_{name} ")), "{name}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let rendered = sample().render();
        for line in [
            "stagepost_ack_seconds_bucket{source=\"stripe\",le=\"0.00025\"} 0",
            "stagepost_ack_seconds_bucket{source=\"stripe\",le=\"600\"} 1",
            "stagepost_ack_seconds_bucket{source=\"stripe\",le=\"+Inf\"} 2",
            "stagepost_ack_seconds_sum{source=\"stripe\"} 3600.0003",
            "stagepost_commit_entries_bucket{le=\"4\"} 1",
            "stagepost_commit_entries_bucket{le=\"+Inf\"} 2",
            "stagepost_commit_entries_sum 903",
            "stagepost_dead{upstream=\"billing\",reason=\"given_up\"} 2",
            r#"stagepost_events_total{source="stripe",type="invoice.\"paid\"\n\\"} 2"#,
        ] {
            assert!(rendered.lines().any(|found| found == line), "{line}");
        }
    }
}
