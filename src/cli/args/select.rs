//! Owns the part of the grammar that many commands share: which instance, which events, which filters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    admin::{Timestamp, wire::Filters},
    cli::{Failure, units},
};

/// Which instance.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Where {
    /// The instance of this configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "data"])]
    pub(in crate::cli) config: Option<PathBuf>,
    /// The instance that answers on this socket
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) socket: Option<PathBuf>,
    /// The instance of this data directory
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) data: Option<PathBuf>,
}

/// Ids or filters, and what all commands that change something have.
#[derive(Debug, Args)]
pub(in crate::cli) struct SelectArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Events; - reads ids from standard input
    #[arg(value_name = "ID")]
    pub(in crate::cli) ids: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) filters: FilterArgs,
    /// Everything, on purpose
    #[arg(long, help_heading = "Options", conflicts_with = "ids")]
    pub(in crate::cli) all: bool,
    /// Do not ask
    #[arg(long, help_heading = "Options", short = 'y')]
    pub(in crate::cli) yes: bool,
    /// Count and show, change nothing
    #[arg(long, help_heading = "Options")]
    pub(in crate::cli) dry_run: bool,
    /// One JSON object
    #[arg(long, help_heading = "Options")]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArgs {
    #[command(flatten)]
    pub(in crate::cli) select: SelectArgs,
    /// To this upstream
    #[arg(long, value_name = "UPSTREAM", help_heading = "Options")]
    pub(in crate::cli) to: Option<String>,
    /// No faster than this, for example 100/s
    #[arg(long, value_name = "RATE", value_parser = units::interval_us, help_heading = "Options")]
    pub(in crate::cli) rate: Option<u64>,
    /// With a fresh idempotency key
    #[arg(long, help_heading = "Options")]
    pub(in crate::cli) new_key: bool,
    /// current: today's transform; original: the body as it was received, without any
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Transform::Current, help_heading = "Options")]
    pub(in crate::cli) transform: Transform,
    /// As a job, however few there are
    #[arg(long, help_heading = "Options", conflicts_with = "ids")]
    pub(in crate::cli) job: bool,
}

/// What a replay sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Transform {
    /// What today's routes make of the body.
    Current,
    /// The body as it was received.
    Original,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HoldArgs {
    #[command(flatten)]
    pub(in crate::cli) select: SelectArgs,
    /// Goes on by itself after this time, for example 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration_ms, help_heading = "Options")]
    pub(in crate::cli) for_ms: Option<u64>,
    /// With --upstream alone: wait so long until no attempt is under way, for example 60s
    #[arg(long, value_name = "DURATION", value_parser = units::duration_ms, help_heading = "Options")]
    pub(in crate::cli) wait: Option<u64>,
}

/// FILTERS: all that are given must hold.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(in crate::cli) struct FilterArgs {
    /// The source that took it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// A delivery to this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// What this route takes
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// The event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Whose event it is (the source's tenant, or what the path captured as {tenant})
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// pending, held, review, dead, delivered, superseded, ignored, unrouted
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// The last answer's HTTP status, for example 503 or 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Why a delivery is dead or held
    #[arg(long, value_name = "REASON")]
    pub(in crate::cli) reason: Option<String>,
    /// Received since: RFC 3339 with zone, or 10m ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Received before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// A text in headers, path, query or body
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// A jq expression that is true
    #[arg(long = "where", value_name = "JQ")]
    expression: Option<String>,
}

impl FilterArgs {
    /// The filters with their times resolved.
    pub(in crate::cli) fn resolve(&self, now: Timestamp) -> Result<Filters, Failure> {
        Ok(Filters {
            source: self.source.clone(),
            upstream: self.upstream.clone(),
            route: self.route.clone(),
            event_type: self.event_type.clone(),
            tenant: self.tenant.clone(),
            state: self.state.clone(),
            status: self.status.clone(),
            reason: self.reason.clone(),
            since: units::moment("since", self.since.as_deref(), now)?,
            until: units::moment("until", self.until.as_deref(), now)?,
            grep: self.grep.clone(),
            expression: self.expression.clone(),
        })
    }
}
