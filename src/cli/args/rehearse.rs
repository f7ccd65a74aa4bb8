//! Owns the grammar of `stagepost rehearse`.

use clap::Args;

use super::Where;
use crate::cli::units;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("fault").required(true))]
pub(in crate::cli) struct RehearseArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// The upstream
    pub(in crate::cli) upstream: String,
    /// Answer with this status, 400 to 599
    #[arg(long, value_name = "STATUS", group = "fault")]
    pub(in crate::cli) status: Option<u16>,
    /// Do not answer within the time-out
    #[arg(long, group = "fault")]
    pub(in crate::cli) hang: bool,
    /// Break the connection before the answer
    #[arg(long, group = "fault")]
    pub(in crate::cli) reset: bool,
    /// End it now
    #[arg(long, group = "fault")]
    pub(in crate::cli) stop: bool,
    /// For this time, at most 1h
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration_ms, required_unless_present = "stop")]
    pub(in crate::cli) for_ms: Option<u64>,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
