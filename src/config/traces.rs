//! Owns the keys of `[traces]`: where spans go.

use std::sync::Arc;

use super::{
    reader::{Section, quoted},
    server::positive,
    settings::TraceSettings,
    upstream::{self, MachineRoots},
};
use crate::routing::{Target, Upstream};

/// What the collector's upstream is called in diagnostics; no configured one is called so.
const NAME: &str = "traces:";

/// Reads the section. None without an endpoint: then nothing is traced.
pub(super) fn read(section: Section<'_>, machine: &MachineRoots) -> Option<TraceSettings> {
    let example = "write \"http://127.0.0.1:4318/v1/traces\"";
    let written = section.has("endpoint");
    let endpoint = section.expanded("endpoint");
    let target = endpoint.and_then(|url| section.accept("endpoint", upstream::target(&section, &url)));
    let target = target.and_then(|(shown, target)| match target {
        Target::Http(_) | Target::Https(_) => {
            section.print("endpoint", &quoted(&shown));
            Some(target)
        }
        _ => {
            section.problem("endpoint", format!("is no http:// or https:// url; {example}"));
            None
        }
    });
    let sample = section.number("sample", 1.0, 0.0..=1.0);
    let queue = section.count("queue", 4_096, 1..=1_000_000);
    let timeout = positive(&section, "timeout", "5s");
    let headers = upstream::headers(&section);
    let is_https = matches!(target, Some(Target::Https(_)));
    if section.has("tls") && target.is_some() && !is_https {
        section.problem("tls", "has no effect without an https:// endpoint; remove it");
    }
    let tls = is_https.then(|| upstream::client_tls(section.section("tls"), machine));
    if !written {
        for key in ["headers", "tls"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, format!("has no effect without endpoint; {example}"));
        }
    }
    section.finish();
    let tls = match tls {
        Some(loaded) => Some(Arc::new(loaded?)),
        None => None,
    };
    let collector = Upstream { tls, headers, timeout, ..Upstream::new(NAME, target?) };
    Some(TraceSettings { collector: Arc::new(collector), sample, queue: usize::try_from(queue).unwrap_or(usize::MAX) })
}
