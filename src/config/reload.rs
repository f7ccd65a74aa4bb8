//! Owns what a reload changes: the difference of two configurations, and the taking over of running listeners.

use std::collections::BTreeSet;

use super::settings::Config;
use crate::{alert::TOPIC, routing::subscriber_name};

/// Keys (or beginnings of keys) that are read once, when the process starts.
const NEEDS_RESTART: [&str; 12] = [
    "server.max_connections",
    "server.handshake_timeout",
    "server.header_timeout",
    "server.max_header",
    "server.idle_timeout",
    "store.",
    "admin.socket",
    "admin.address",
    "admin.tls",
    "diagnostics.level",
    "diagnostics.format",
    "traces.",
];

/// What is different between the running configuration and a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Keys and addresses whose change takes effect at the next start only.
    pub needs_restart: Vec<String>,
    /// Paths (after their host) that no source has any longer: their senders get 404 now.
    pub removed_paths: Vec<String>,
    /// Upstreams that are gone: their deliveries are held until they return.
    pub removed_upstreams: Vec<String>,
    /// Every other key that was added, removed or changed.
    pub changed: Vec<String>,
}

impl ReloadReport {
    /// Whether no key is different. A reload is worth its while all the same: secrets and certificates may be new.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two configurations.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> ReloadReport {
    let mut report = ReloadReport::default();
    let keys: BTreeSet<&String> = old.values.keys().chain(new.values.keys()).collect();
    for key in keys {
        if old.values.get(key) == new.values.get(key) || key.starts_with("listen[") {
            continue;
        }
        let at_start_only = needs_restart(key);
        if at_start_only { &mut report.needs_restart } else { &mut report.changed }.push(key.clone());
    }
    diff_listeners(old, new, &mut report);
    let (paths, upstreams) = (|config| paths(config), |config| upstreams(config));
    report.removed_paths = paths(old).difference(&paths(new)).cloned().collect();
    report.removed_upstreams = upstreams(old).difference(&upstreams(new)).cloned().collect();
    report
}

fn diff_listeners(old: &Config, new: &Config, report: &mut ReloadReport) {
    for listen in &new.listen {
        let why = match old.listen.iter().find(|other| other.address == listen.address) {
            None => "is new",
            Some(other) if other.proxy_protocol != listen.proxy_protocol => "has another proxy_protocol",
            Some(other) if other.fixed != listen.fixed => "has other TLS settings",
            Some(_) => continue,
        };
        report.needs_restart.push(format!("listen {} {why}", listen.address));
    }
    for listen in &old.listen {
        if !new.listen.iter().any(|other| other.address == listen.address) {
            report.needs_restart.push(format!("listen {} is gone", listen.address));
        }
    }
}

fn paths(config: &Config) -> BTreeSet<String> {
    let sources = config.values.iter().filter_map(|(key, path)| {
        let name = key.strip_prefix("source.")?.strip_suffix(".path")?;
        let host = config.values.get(&format!("source.{name}.host")).map_or("", |host| host.trim_matches('"'));
        Some(format!("{host}{}", path.trim_matches('"')))
    });
    sources.collect()
}

fn upstreams(config: &Config) -> BTreeSet<String> {
    let is_shadow =
        |name: &str| config.values.get(&format!("upstream.{name}.shadow")).is_some_and(|flag| flag == "true");
    let urls = config.values.keys().filter_map(|key| key.strip_prefix("upstream.")?.strip_suffix(".url"));
    // What never had a delivery leaves none behind.
    let urls = urls.filter(|name| !is_shadow(name));
    let subscribers = config.values.iter().filter_map(|(key, topic)| {
        let name = key.strip_prefix("subscriber.")?.strip_suffix(".topic")?;
        Some(subscriber_name(topic.trim_matches('"'), name))
    });
    let alerts = config.values.keys().filter_map(|key| key.strip_prefix("alerts.to.")?.strip_suffix(".kind"));
    let alerts = alerts.map(|name| subscriber_name(TOPIC, name));
    urls.map(str::to_owned).chain(subscribers).chain(alerts).collect()
}

fn needs_restart(key: &str) -> bool {
    NEEDS_RESTART.iter().any(|beginning| key.starts_with(beginning))
}

impl Config {
    /// Makes this configuration the successor of the running one, after a reload that succeeded (and after [`diff`]):
    /// what can't change before the next start stays as it is, so that this says what really runs and a later `diff`
    /// still knows what waits for a restart; the running listeners get the new certificates, for the handshakes to come.
    pub fn take_over(&mut self, running: &Self) {
        let new = std::mem::replace(&mut self.listen, running.listen.clone());
        for listen in &self.listen {
            let renewed = new.iter().find(|other| other.address == listen.address);
            if let (Some(own), Some(renewed)) =
                (&listen.certificates, renewed.and_then(|new| new.certificates.as_ref()))
            {
                own.renew_from(renewed);
            }
        }
        self.store.clone_from(&running.store);
        let admin = std::mem::replace(&mut self.admin, running.admin.clone());
        if let (Some(own), Some(renewed)) = (&self.admin.certificates, &admin.certificates) {
            own.renew_from(renewed);
        }
        (self.admin.failed_logins, self.admin.tokens) = (admin.failed_logins, admin.tokens);
        self.admin.session_timeout = admin.session_timeout;
        self.diagnostics.level = running.diagnostics.level;
        self.diagnostics.format = running.diagnostics.format;
        self.traces.clone_from(&running.traces);
        self.values.retain(|key, _| !needs_restart(key));
        let kept = running.values.iter().filter(|(key, _)| needs_restart(key));
        self.values.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    }
}
