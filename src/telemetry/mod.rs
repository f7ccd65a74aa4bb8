//! Owns what the process says about itself: diagnostics set-up and the metrics struct.
//!
//! Promises that labels come only from configured names, so that nobody outside can grow a metric.

mod metrics;

pub use metrics::{BUCKETS_US, Counter, Gauge, Histogram, Metrics, RequestResult, SourceMetrics, UpstreamMetrics};
