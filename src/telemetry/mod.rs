//! Owns what the process says about itself: diagnostics set-up, the metrics struct and its text, spans on their way out, and
//! the messages to the service manager.
//!
//! Promises that labels come only from configured names, so that nobody outside can grow a metric, and that text
//! from outside can't break out of its line of diagnostics. Deliberately absent: pushing metrics anywhere.

mod cache;
pub mod diagnostics;
mod groups;
mod metrics;
mod render;
pub mod systemd;
mod trace;
mod upgrade;

pub use cache::{CacheMetrics, CacheResult};
pub use metrics::{
    ALERT_RULES, ANSWERED, AdminRefusal, BUCKETS_COUNT, BUCKETS_US, BUDGET_LEVELS, Count, Counter, Gauge, HANDSHAKES,
    Histogram, Latency, Metrics, NOTICES, OVER, QuarantineDrop, RequestResult, SHADOWED, SUBSCRIBER_STATES, Scale,
    ShadowMetrics, SourceMetrics, TargetMetrics, TopicMetrics, UpstreamMetrics,
};
pub use trace::{Span, SpanKind, Standing, Stretch, Text as SpanText, Traces};
pub use upgrade::UpgradeMetrics;
