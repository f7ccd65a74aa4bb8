//! Owns the names of the rules and their settings: plain, validated values.

use std::time::Duration;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// An upstream's attempts fail.
    Failures,
    /// Deliveries died.
    Dead,
    /// A share of an upstream's attempts fails.
    Errors,
    /// A share of a source's requests is refused.
    Refusals,
    /// An upstream is behind.
    Backlog,
    /// An upstream is slower than it is used to be.
    Latency,
    /// A source is silent for longer than it is used to be.
    Silence,
    /// A source sends the same again and again.
    Duplicates,
    /// Genuine requests come too late, or too early.
    Stale,
    /// Somebody forgot a hold.
    Hold,
    /// The store or its disk fills.
    Disk,
    /// An upstream's breaker stays open.
    Breaker,
    /// The last reload was refused.
    Reload,
    /// Senders were answered 503.
    Unavailable,
}

/// What the subject of a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Upstreams, by name.
    Upstreams,
    /// Sources, by name.
    Sources,
    /// Parts of the relay; at most a few.
    Parts,
}

impl Rule {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 14] = [
        Self::Failures,
        Self::Dead,
        Self::Errors,
        Self::Refusals,
        Self::Backlog,
        Self::Latency,
        Self::Silence,
        Self::Duplicates,
        Self::Stale,
        Self::Hold,
        Self::Disk,
        Self::Breaker,
        Self::Reload,
        Self::Unavailable,
    ];

    /// Its name, in the configuration and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Dead => "dead",
            Self::Errors => "errors",
            Self::Refusals => "refusals",
            Self::Backlog => "backlog",
            Self::Latency => "latency",
            Self::Silence => "silence",
            Self::Duplicates => "duplicates",
            Self::Stale => "stale",
            Self::Hold => "hold",
            Self::Disk => "disk",
            Self::Breaker => "breaker",
            Self::Reload => "reload",
            Self::Unavailable => "unavailable",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn subjects(self) -> Subjects {
        match self {
            Self::Failures | Self::Dead | Self::Errors | Self::Backlog | Self::Latency | Self::Hold | Self::Breaker => {
                Subjects::Upstreams
            }
            Self::Refusals | Self::Silence | Self::Duplicates | Self::Stale => Subjects::Sources,
            Self::Disk | Self::Reload | Self::Unavailable => Subjects::Parts,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody looks in the morning.
    Warning,
    /// Somebody gets up.
    Critical,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// All of `[alerts]` that the engine needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What stands is told again after this.
    pub repeat: Duration,
    /// For how long it must be calm before an alert is resolved.
    pub settle: Duration,
    /// The most notices of one severity in an hour.
    pub max_per_hour: u64,
    /// The rules.
    pub rules: Rules,
}

/// Each rule; None: switched off.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "named and documented as in `Rule`")]
pub struct Rules {
    pub failures: Option<Counted>,
    pub dead: Option<Counted>,
    pub errors: Option<Shared>,
    pub refusals: Option<Shared>,
    pub backlog: Option<Aged>,
    pub latency: Option<LatencyRule>,
    pub silence: Option<SilenceRule>,
    pub duplicates: Option<Shared>,
    pub stale: Option<Counted>,
    pub hold: Option<Aged>,
    pub disk: Option<DiskRule>,
    pub breaker: Option<Aged>,
    pub reload: Option<Plain>,
    pub unavailable: Option<Counted>,
}

/// So many in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How bad it is.
    pub severity: Severity,
    /// Raised at so many.
    pub threshold: u64,
    /// In this time.
    pub window: Duration,
}

/// A share of what happens in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shared {
    /// How bad it is.
    pub severity: Severity,
    /// Raised at this share, 0 to 1.
    pub share: f64,
    /// Of at least so many.
    pub minimum: u64,
    /// In this time.
    pub window: Duration,
}

/// A state that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aged {
    /// How bad it is.
    pub severity: Severity,
    /// Raised after this time.
    pub age: Duration,
}

/// A latency against what is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyRule {
    /// How bad it is.
    pub severity: Severity,
    /// Raised at so many times the usual p95.
    pub factor: f64,
    /// But never below this.
    pub floor: Duration,
    /// A p95 is taken of what was measured in this time.
    pub window: Duration,
    /// Of at least so many attempts.
    pub minimum: u64,
}

/// A silence against what is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SilenceRule {
    /// How bad it is.
    pub severity: Severity,
    /// Raised after so many times the longest usual silence.
    pub factor: f64,
    /// But never before this.
    pub floor: Duration,
    /// For how long a source is watched before anything is said.
    pub learn: Duration,
}

/// Shares of the space that are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskRule {
    /// Raised as `info` at this share, 0 to 1.
    pub info: f64,
    /// As `warning`.
    pub warning: f64,
    /// As `critical`.
    pub critical: f64,
    /// Raised as `warning` if there is no room left after this time, at the pace of the last hour.
    pub full_soon: Duration,
}

/// Nothing to set but how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// How bad it is.
    pub severity: Severity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_each_rule_is_its_name() {
        assert_eq!(Rule::ALL.map(Rule::as_str), crate::telemetry::ALERT_RULES);
    }
}
