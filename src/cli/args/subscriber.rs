//! Owns the grammar of `stagepost subscriber`.

use clap::{Args, Subcommand};

use super::{JsonArgs, Where};
use crate::cli::units;

/// `stagepost subscriber`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stagepost subscriber add orders crm --url https://crm.example/hook --type 'invoice.*'
  stagepost subscriber list
  stagepost subscriber pause orders crm --for 2h --reason 'their maintenance'
  stagepost subscriber resume orders crm
  stagepost subscriber rotate-secret orders crm --overlap 24h
  stagepost subscriber remove orders crm

Subscribers that are added here live in the log; those of the configuration are listed, paused and resumed only.")]
pub(in crate::cli) struct SubscriberArgs {
    #[command(subcommand)]
    pub(in crate::cli) verb: SubscriberVerb,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SubscriberVerb {
    /// Register one; its name has to lead to public addresses, or to those in subscribers.allow
    #[command(after_help = "Examples:
  stagepost subscriber add orders crm --url https://crm.example/hook
  stagepost subscriber add orders audit --url https://audit.example/in --type 'invoice.*' --type paid --rate 10/s
  stagepost subscriber add orders big --url https://big.example/ --when '.amount > 1000' --secret env:BIG_SECRET

Without --secret one is generated, as Standard Webhooks writes it, and shown this once.")]
    Add(SubscriberAddArgs),
    /// All of them, also those of the configuration
    #[command(after_help = "Examples:
  stagepost subscriber list
  stagepost subscriber list --json")]
    List(JsonArgs),
    /// Hold what waits and what will come
    #[command(after_help = "Examples:
  stagepost subscriber pause orders crm
  stagepost subscriber pause orders crm --for 2h --reason 'their maintenance'")]
    Pause(SubscriberPauseArgs),
    /// Let a paused or disabled one go on
    #[command(after_help = "Examples:
  stagepost subscriber resume orders crm
  stagepost replay --upstream orders/crm --reason subscriber_disabled

What a disabled one did not get is dead; the second command sends it again.")]
    Resume(SubscriberNameArgs),
    /// Remove one; what it has not got dies
    #[command(after_help = "Examples:
  stagepost subscriber remove orders crm")]
    Remove(SubscriberNameArgs),
    /// Sign with another secret, and for a time with the old one too
    #[command(after_help = "Examples:
  stagepost subscriber rotate-secret orders crm
  stagepost subscriber rotate-secret orders crm --secret file:/etc/stagepost/crm.secret --overlap 7d
  stagepost subscriber rotate-secret orders crm --overlap 0s")]
    RotateSecret(SubscriberRotateArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubscriberNameArgs {
    #[command(flatten)]
    pub(in crate::cli) place: Where,
    /// The topic
    pub(in crate::cli) topic: String,
    /// The subscriber's name
    pub(in crate::cli) name: String,
    /// One JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubscriberAddArgs {
    #[command(flatten)]
    pub(in crate::cli) whom: SubscriberNameArgs,
    /// Where its events go, exactly
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) url: String,
    /// This type only, or a beginning with *; may be given more than once
    #[arg(long = "type", value_name = "TYPE")]
    pub(in crate::cli) types: Vec<String>,
    /// A jq expression that has to match besides
    #[arg(long, value_name = "JQ")]
    pub(in crate::cli) when: Option<String>,
    /// Sign with this: env:NAME, file:/path or credential:NAME, as the instance sees them
    #[arg(long, value_name = "REF")]
    pub(in crate::cli) secret: Option<String>,
    /// No faster than this, for example 10/s
    #[arg(long, value_name = "RATE")]
    pub(in crate::cli) rate: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubscriberPauseArgs {
    #[command(flatten)]
    pub(in crate::cli) whom: SubscriberNameArgs,
    /// Goes on by itself after this time, for example 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration_ms)]
    pub(in crate::cli) for_ms: Option<u64>,
    /// Recorded and shown
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubscriberRotateArgs {
    #[command(flatten)]
    pub(in crate::cli) whom: SubscriberNameArgs,
    /// The new secret: env:NAME, file:/path or credential:NAME [default: one is generated]
    #[arg(long, value_name = "REF")]
    pub(in crate::cli) secret: Option<String>,
    /// The old one signs as well for this time
    #[arg(long = "overlap", value_name = "DURATION", value_parser = units::duration_ms, default_value = "24h")]
    pub(in crate::cli) overlap_ms: u64,
}
