//! Owns what the process says about itself: diagnostics set-up, the metrics struct and its text, spans on their way out, and
//! the messages to the service manager.
//!
//! Promises that labels come only from configured names, so that nobody outside can grow a metric, and that text
//! from outside can't break out of its line of diagnostics. Deliberately absent: pushing metrics anywhere.

mod cache;
mod count;
pub mod diagnostics;
mod groups;
mod metrics;
mod render;
pub mod systemd;
mod trace;
mod upgrade;

pub use cache::{CacheMetrics, CacheResult};
pub use count::{BUCKETS_COUNT, BUCKETS_US, Count, Counter, Gauge, Histogram, Latency, Scale};
pub use metrics::{
    ALERT_RULES, ANSWERED, AdminRefusal, BUDGET_LEVELS, HANDSHAKES, Metrics, NOTICES, OVER, QuarantineDrop,
    RequestResult, SHADOWED, SUBSCRIBER_STATES, ShadowMetrics, SourceMetrics, TargetMetrics, TopicMetrics,
    UpstreamMetrics,
};
pub use trace::{Span, SpanKind, Standing, Stretch, Text as SpanText, Traces};
pub use upgrade::UpgradeMetrics;
