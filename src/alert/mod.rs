//! Owns alerts: the rules, what raises and resolves each, and what is said about it.
//!
//! Promises that an alert is raised once, told again on a schedule, and resolved once; that it neither rises nor falls
//! at a single figure that wavers, since between the two lies a gap and calm must last; that what was learned, what
//! stands and what is not told yet survives a restart; that a burst of notices is cut off and summed up; and that memory grows only with configured names. Pure: figures and time are arguments.
//! Deliberately absent: sending. A notice is an event of the topic [`TOPIC`], delivered like any other.

mod baseline;
mod engine;
mod notice;
mod outbox;
mod rhythm;
mod rules;
#[cfg(test)]
mod tests;
mod watch;
mod window;

pub use engine::{Engine, Figures, Saved, SourceFigures, Space, UpstreamFigures};
pub use notice::{Alert, News, Notice, Withheld};
pub use outbox::{Outbox, Taken, Told, UNTOLD_MAX};
pub use rules::{
    Aged, Counted, DiskRule, LatencyRule, Plain, Rule, Rules, Settings, Severity, Shared, SilenceRule, Subjects,
};

/// The topic that alerts are published on.
pub const TOPIC: &str = "stagepost.alerts";
