//! Owns the grammar of the commands that look at a whole instance, move its events about, or come with the program.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{FilterArgs, Where};
use crate::cli::units;

/// `stagepost queue`.
#[derive(Debug, Args)]
pub(in crate::cli) struct QueueArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// pending, held or dead only
    #[arg(long, value_name = "STATE")]
    pub(in crate::cli) state: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `stagepost top`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Look so often, for example 2s [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = units::duration_ms)]
    pub(in crate::cli) every: Option<u64>,
}

/// `stagepost jobs`.
#[derive(Debug, Args)]
pub(in crate::cli) struct JobsArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Ended ones, too
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `stagepost job` and `stagepost cancel`.
#[derive(Debug, Args)]
pub(in crate::cli) struct JobArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Its name, as `stagepost jobs` shows it
    #[arg(value_name = "JOB")]
    pub(in crate::cli) job: String,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `stagepost export`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    #[command(flatten)]
    pub(in crate::cli) filters: FilterArgs,
    /// Without credentials in headers: such an export can't be imported
    #[arg(long, help_heading = "Options")]
    pub(in crate::cli) hide_credentials: bool,
}

/// `stagepost import`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// What `stagepost export` wrote; - for standard input
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Route and deliver the events as if they came now
    #[arg(long)]
    pub(in crate::cli) deliver: bool,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `stagepost backup`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BackupArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Where to: a new directory, or that of an earlier backup of the same instance
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: PathBuf,
    /// Copy segments although they could be linked: the backup shares no block with the original then
    #[arg(long)]
    pub(in crate::cli) copy: bool,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `stagepost completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// For this shell
    pub(in crate::cli) shell: Shell,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// `stagepost man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// Write a page for each command there
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReloadArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// Go back by itself if refusals or failures jump in this time: 1s to 1d
    #[arg(long, value_name = "DURATION", value_parser = units::probation_ms)]
    pub(in crate::cli) probation: Option<u64>,
}
