//! Owns the keys of `[server]`, `[store]`, `[diagnostics]` and `[privacy]`, with their defaults.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::HeaderName;

use super::{
    chain::NOTICES_MAX,
    door::networks,
    reader::{Section, quoted},
    settings::{Access, DiagnosticsSettings, Format, ShutdownSettings, StoreSettings, WhenFull},
};
use crate::{
    expr::Mask,
    routing::{Limits, Privacy, QuarantinePolicy, Unmatched},
};

/// The longest path of a Unix socket on Linux, in bytes.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The smallest segment that is ever made, in bytes.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// The smallest quarantine, in bytes: a few of the largest requests.
const QUARANTINE_BYTES_MIN: u64 = 1 << 20;

/// The largest body that is kept in quarantine, in bytes: larger ones are spooled (see `log::PART_BYTES`).
const QUARANTINE_BODY_BYTES_MAX: u64 = 256 << 10;

/// The least and the most bytes of events that may wait for a commit. They wait in memory.
const QUEUE_BYTES_MIN: u64 = 1 << 20;
const QUEUE_BYTES_MAX: u64 = 16 << 30;

/// What an event needs in the queue besides its body: header block, path and the rest of its entry, in bytes.
pub(super) const QUEUE_BESIDE_BODY: u64 = 512 << 10;

/// `[server]`: the limits of the front door and what the sections below inherit.
pub(super) struct Server {
    pub(super) limits: Limits,
    pub(super) max_body: u64,
    pub(super) soft_bounce: bool,
    /// The topic under which dead deliveries are told of, unless an upstream says otherwise.
    pub(super) notify_dead: Option<Box<str>>,
    pub(super) notify_dead_max: u64,
    pub(super) shutdown: ShutdownSettings,
}

impl Server {
    pub(super) fn read(section: Section<'_>, quarantine: Section<'_>) -> Self {
        let max_body = section.size("max_body", "10MiB");
        let limits = Limits {
            max_connections: as_usize(section.count("max_connections", 10_000, 1..=1_000_000)),
            handshake_timeout: positive(&section, "handshake_timeout", "10s"),
            header_timeout: positive(&section, "header_timeout", "10s"),
            max_header_bytes: as_usize(section.size("max_header", "64KiB")),
            body_idle_timeout: positive(&section, "body_idle_timeout", "30s"),
            body_min_rate: section.byte_rate("body_min_rate", "1KiB/s"),
            idle_timeout: positive(&section, "idle_timeout", "75s"),
            body_memory: section.size("body_memory", "256MiB"),
            spool_size: section.size("spool_size", "4GiB"),
            trusted_proxies: networks(&section, "trusted_proxies").unwrap_or_else(|| {
                section.print("trusted_proxies", "[]");
                Vec::new()
            }),
            quarantine: quarantine_policy(quarantine, unmatched(&section)),
        };
        if !(8 << 10..=192 << 10).contains(&limits.max_header_bytes) {
            section.problem(
                "max_header",
                "must lie between 8KiB and 192KiB: with a body it must fit one entry of the log",
            );
        }
        if max_body > limits.spool_size {
            section.problem("max_body", "is larger than spool_size, so that such a body could never be taken");
        }
        let shutdown = ShutdownSettings {
            delay: section.duration("shutdown_delay", "0s"),
            timeout: section.duration("shutdown_timeout", "30s"),
        };
        let soft_bounce = section.flag("soft_bounce", false);
        let notify_dead = section.text("notify_dead").map(Box::from);
        let notify_dead_max = section.count("notify_dead_max", 60, 1..=NOTICES_MAX);
        section.finish();
        Self { limits, max_body, soft_bounce, notify_dead, notify_dead_max, shutdown }
    }
}

fn unmatched(section: &Section<'_>) -> Unmatched {
    let choices = [("refuse", Unmatched::Refuse), ("store", Unmatched::Store)];
    section.choice("unmatched", "refuse", &choices).unwrap_or(Unmatched::Refuse)
}

/// `[quarantine]`.
fn quarantine_policy(section: Section<'_>, unmatched: Unmatched) -> QuarantinePolicy {
    let policy = QuarantinePolicy {
        max_size: section.size("max_size", "64MiB"),
        max_body: section.size("max_body", "256KiB"),
        rate: section.rate("rate", "20/s"),
        total_rate: section.byte_rate("total_rate", "4MiB/s"),
        unmatched,
    };
    if !(QUARANTINE_BYTES_MIN..=1 << 30).contains(&policy.max_size) {
        section.problem("max_size", "must lie between 1MiB and 1GiB; quarantine = false at a source switches it off");
    }
    if policy.max_body > QUARANTINE_BODY_BYTES_MAX {
        section.problem("max_body", "must be at most 256KiB: larger bodies are not held in one piece");
    }
    section.finish();
    policy
}

/// The data directory, unless the configuration says otherwise.
pub(super) fn usual_data() -> PathBuf {
    PathBuf::from("/var/lib/stagepost")
}

/// `[store]`.
pub(super) fn store(section: Section<'_>) -> StoreSettings {
    let path = section.path("path").unwrap_or_else(|| {
        let path = usual_data();
        section.print("path", &quoted(&path.to_string_lossy()));
        path
    });
    let max_size = section.size("max_size", "20GiB");
    let segment_default = if max_size / 8 < 64 << 20 { (max_size / 8).max(SEGMENT_BYTES_MIN) } else { 64 << 20 };
    let settings = StoreSettings {
        path,
        retention: positive(&section, "retention", "7d"),
        dead_retention: positive(&section, "dead_retention", "30d"),
        max_size,
        when_full: section
            .choice("when_full", "reclaim", &[("reclaim", WhenFull::Reclaim), ("refuse", WhenFull::Refuse)])
            .unwrap_or(WhenFull::Reclaim),
        reserve: section.size("reserve", "64MiB"),
        segment_bytes: section.size("segment_size", &format!("{segment_default}B")),
        queue_events: as_usize(section.count("queue_events", 20_000, 1..=10_000_000)),
        queue_bytes: section.size("queue_size", "64MiB"),
    };
    if !(QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX).contains(&settings.queue_bytes) {
        section.problem("queue_size", "must lie between 1MiB and 16GiB");
    }
    if settings.max_size < SEGMENT_BYTES_MIN {
        section.problem("max_size", "must be at least 1MiB");
    }
    if !(SEGMENT_BYTES_MIN..=1 << 30).contains(&settings.segment_bytes) {
        section.problem("segment_size", "must lie between 1MiB and 1GiB");
    }
    section.finish();
    settings
}

/// `[diagnostics]`.
pub(super) fn diagnostics(section: Section<'_>) -> DiagnosticsSettings {
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    let settings = DiagnosticsSettings {
        level: section.choice("level", "info", &levels).unwrap_or("info"),
        format: section
            .choice("format", "text", &[("text", Format::Text), ("json", Format::Json)])
            .unwrap_or(Format::Text),
        access: section
            .choice("access", "refused", &[("off", Access::Off), ("refused", Access::Refused), ("all", Access::All)])
            .unwrap_or(Access::Refused),
    };
    section.finish();
    settings
}

/// `[privacy]`.
pub(super) fn privacy(section: Section<'_>) -> Privacy {
    let words = section.words("hide_headers").unwrap_or_default();
    let hide_headers: Vec<HeaderName> =
        words.iter().filter_map(|(word, _)| header_name(&section, "hide_headers", word)).collect();
    section.print_words("hide_headers", hide_headers.iter().map(HeaderName::as_str));
    let words = section.words("hide_query").unwrap_or_default();
    let hide_query: Vec<Box<str>> = words.iter().filter_map(|(word, _)| parameter_name(&section, word)).collect();
    section.print_words("hide_query", &hide_query);
    let words = section.words("hide").unwrap_or_default();
    let hide: Vec<Mask> = words.iter().filter_map(|(word, _)| section.accept("hide", Mask::parse(word))).collect();
    section.print_words("hide", hide.iter().map(ToString::to_string));
    section.finish();
    Privacy { hide_headers, hide_query, hide }
}

/// The name of a parameter of a query: letters and digits tell it from others.
fn parameter_name(section: &Section<'_>, name: &str) -> Option<Box<str>> {
    let is_name = name.bytes().any(|byte| byte.is_ascii_alphanumeric()) && !name.contains(['=', '&', ';', '?', '%']);
    let wrong = || format!("\"{name}\" is no name of a parameter, such as \"customer_id\"");
    section.accept("hide_query", is_name.then(|| name.into()).ok_or_else(wrong))
}

/// A header's name, in any case.
pub(super) fn header_name(section: &Section<'_>, key: &str, name: &str) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    section.accept(key, parsed.map_err(|_| format!("\"{name}\" is no name of a header, such as \"X-Request-Id\"")))
}

/// A duration that is not zero.
pub(super) fn positive(section: &Section<'_>, key: &'static str, default: &str) -> Duration {
    let duration = section.duration(key, default);
    if duration.is_zero() {
        section.problem(key, "must be longer than zero");
    }
    duration
}

/// An IP address with a port; `localhost` stands for 127.0.0.1.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("\"{text}\" is no address; write an IP address and a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"")
    })
}

pub(super) fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
