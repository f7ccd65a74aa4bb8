//! Owns the `command` entry: what an operator did, as JSON.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    JobEnd, JobProgress, JobSpec, ReplayStep, decode_json, encode_json,
    subscriber::{Registration, Streak, Written},
};
use crate::{clock::Timestamp, event::Seq};

/// One delivery, named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The event's own sequence number.
    pub event: Seq,
    /// The upstream's name.
    pub upstream: Box<str>,
}

/// An operator's command, stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who: `uid 1000 (alice)`, `token ops`, `relay` for what the relay does by itself.
    pub actor: String,
    /// What.
    pub action: Action,
    /// From where: `socket`, `signal`, a client's address. None for what the relay does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// In the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was asked for, if that is more than its targets say: the filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// Which entry of a command that needs several; 0 is the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub piece: u64,
    /// Deliveries or events that all its entries are about; 0 if its targets say it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total: u64,
    /// It only says again, before its segment goes, what was known before this entry: without effect if an operator has
    /// changed anything of the kind since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Seq>,
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Command {
    /// A command without anything that is optional.
    #[must_use]
    pub fn new(actor: impl Into<String>, action: Action) -> Self {
        Self { actor: actor.into(), action, origin: None, reason: None, asked: None, piece: 0, total: 0, as_of: None }
    }
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Holds all there is and all that will come for an upstream.
    HoldUpstream {
        /// Its name.
        upstream: Box<str>,
        /// Milliseconds since the epoch at which it goes on by itself.
        until_ms: Option<u64>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Ends a hold of an upstream.
    ReleaseUpstream {
        /// Its name.
        upstream: Box<str>,
    },
    /// Holds deliveries that exist.
    Hold {
        /// Which.
        targets: Vec<Target>,
        /// Milliseconds since the epoch at which they go on by themselves.
        until_ms: Option<u64>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Lets held deliveries go.
    Release {
        /// Which.
        targets: Vec<Target>,
    },
    /// Makes deliveries due again (or makes new ones, for an upstream the event had not been planned for).
    Replay {
        /// Which.
        targets: Vec<Target>,
        /// A fresh idempotency key: the number of the replay is added to it.
        new_key: bool,
        /// Microseconds between two of them at the least, if a rate was given.
        interval_us: Option<u64>,
        /// These deliveries did not exist before: their first attempt is number 1.
        #[serde(default)]
        created: bool,
    },
    /// Lets those go that wait behind dead deliveries of the same key.
    LetGo {
        /// The dead ones.
        targets: Vec<Target>,
    },
    /// Settles deliveries that wait for a person as delivered.
    Resolve {
        /// Which.
        targets: Vec<Target>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Hides events at once; their bytes go with the segment.
    Delete {
        /// Sequence numbers of events.
        events: Vec<Seq>,
    },
    /// Attempts of an upstream fail as told, without touching the network. Recorded only: a restart ends it.
    Rehearse {
        /// Its name.
        upstream: Box<str>,
        /// How.
        fault: Fault,
        /// For how long.
        for_ms: u64,
    },
    /// Makes deliveries due again: a step of a job, or a replay that needs to say more than [`Action::Replay`].
    ReplayStep(ReplayStep),
    /// Begins a job; or says again what is known of one before the entry that began it goes with its segment.
    StartJob {
        /// None: the number of this entry.
        id: Option<Seq>,
        /// What it is to do.
        spec: JobSpec,
        /// How far it has come.
        progress: JobProgress,
        /// Milliseconds since the epoch at which it began.
        started_ms: u64,
    },
    /// Ends a job.
    EndJob {
        /// Which.
        job: Seq,
        /// How.
        end: JobEnd,
        /// Why it can't go on.
        why: Option<String>,
    },
    /// Gives deliveries up that wait or are held.
    Expire {
        /// Which.
        targets: Vec<Target>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// Makes deliveries that wait for a retry due now. Not a replay: they stay what they are.
    Requeue {
        /// Which.
        targets: Vec<Target>,
    },
    /// A target of an upstream gets no new attempts.
    DrainTarget {
        /// The upstream's name.
        upstream: Box<str>,
        /// The target's url as configured.
        target: Box<str>,
        /// In the operator's words.
        reason: Option<String>,
    },
    /// It gets attempts again.
    UndrainTarget {
        /// The upstream's name.
        upstream: Box<str>,
        /// The target's url.
        target: Box<str>,
    },
    /// Ends a rehearsal before its time.
    EndRehearsal {
        /// Of which upstream.
        upstream: Box<str>,
    },
    /// Registers a subscriber at run time, whole: in place of what was registered under its name before.
    PutSubscriber {
        /// What for.
        written: Written,
        /// All of it.
        registration: Box<Registration>,
        /// Carried along with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        streak: Option<Streak>,
    },
    /// Removes a subscriber that was registered at run time; what it has not got dies.
    RemoveSubscriber {
        /// The upstream that it is.
        upstream: Box<str>,
    },
    /// A registration that was refused. Changes nothing.
    RefuseSubscriber {
        /// The upstream that it would have been.
        upstream: Box<str>,
        /// Where it should have led, without credentials.
        url: Box<str>,
        /// Why not.
        why: String,
    },
    /// Sends a subscriber nothing more; what it has not got dies.
    DisableSubscriber {
        /// The upstream that it is.
        upstream: Box<str>,
        /// Why.
        why: String,
        /// Since when, milliseconds since the epoch, if it is carried.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ms: Option<u64>,
    },
    /// Sends to a disabled subscriber again.
    EnableSubscriber {
        /// The upstream that it is.
        upstream: Box<str>,
    },
    /// Changes no delivery: it stands here for the record alone.
    Noted {
        /// What was done, in a word: `reload`, `reveal`, `login_failed`.
        what: Box<str>,
        /// To what, as shown to operators: ids, names; the first of them.
        targets: Vec<Box<str>>,
        /// How many there were.
        count: u64,
    },
    /// What a command was, without its effect: its own entry went with its segment.
    Past {
        /// Its own sequence number.
        seq: Seq,
        /// When it was given, milliseconds since the epoch.
        at_ms: u64,
        /// What it was, in a word.
        was: Box<str>,
        /// To what, as far as it says that in words.
        targets: Vec<Box<str>>,
        /// How many deliveries or events it was about.
        count: u64,
    },
}

impl Action {
    /// What it is, in a word.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::HoldUpstream { .. } => "hold_upstream",
            Self::ReleaseUpstream { .. } => "release_upstream",
            Self::Hold { .. } => "hold",
            Self::Release { .. } => "release",
            Self::Replay { .. } => "replay",
            Self::LetGo { .. } => "let_go",
            Self::Resolve { .. } => "resolve",
            Self::Delete { .. } => "delete",
            Self::Rehearse { .. } => "rehearse",
            Self::EndRehearsal { .. } => "end_rehearsal",
            Self::ReplayStep(_) => "replay",
            Self::StartJob { .. } => "start_job",
            Self::EndJob { .. } => "end_job",
            Self::Expire { .. } => "expire",
            Self::Requeue { .. } => "requeue",
            Self::DrainTarget { .. } => "drain",
            Self::UndrainTarget { .. } => "undrain",
            Self::PutSubscriber { written: Written::SecretRotated, .. } => "rotate_subscriber_secret",
            Self::PutSubscriber { .. } => "add_subscriber",
            Self::RemoveSubscriber { .. } => "remove_subscriber",
            Self::RefuseSubscriber { .. } => "refuse_subscriber",
            Self::DisableSubscriber { .. } => "disable_subscriber",
            Self::EnableSubscriber { .. } => "enable_subscriber",
            Self::Noted { what, .. } => what,
            Self::Past { was, .. } => was,
        }
    }
}

impl Command {
    /// What it was done to, as far as it says that in words: upstreams, ids, names.
    #[must_use]
    pub fn targets(&self) -> Vec<Box<str>> {
        match &self.action {
            Action::HoldUpstream { upstream, .. }
            | Action::ReleaseUpstream { upstream }
            | Action::Rehearse { upstream, .. }
            | Action::EndRehearsal { upstream }
            | Action::RemoveSubscriber { upstream }
            | Action::DisableSubscriber { upstream, .. }
            | Action::EnableSubscriber { upstream } => vec![upstream.clone()],
            Action::PutSubscriber { registration, .. } => vec![registration.upstream(), registration.url.clone()],
            Action::RefuseSubscriber { upstream, url, .. } => vec![upstream.clone(), url.clone()],
            Action::DrainTarget { upstream, target, .. } | Action::UndrainTarget { upstream, target } => {
                vec![upstream.clone(), target.clone()]
            }
            Action::Noted { targets, .. } | Action::Past { targets, .. } => targets.clone(),
            _ => Vec::new(),
        }
    }

    /// How many deliveries, events or things it is about, with all of its pieces.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.action {
            _ if self.total > 0 => self.total,
            Action::Hold { targets, .. }
            | Action::Release { targets }
            | Action::Replay { targets, .. }
            | Action::LetGo { targets }
            | Action::Expire { targets, .. }
            | Action::Requeue { targets }
            | Action::Resolve { targets, .. } => targets.len() as u64,
            Action::ReplayStep(step) => (step.targets.len() + step.created.len()) as u64,
            Action::Delete { events } => events.len() as u64,
            Action::Noted { count, .. } | Action::Past { count, .. } => *count,
            _ => 1,
        }
    }
}

/// How attempts fail in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An answer with this status and no body.
    Status(u16),
    /// No answer within the upstream's time-out.
    Hang,
    /// The connection breaks before the answer.
    Reset,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Hang => f.write_str("hang"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// A command with the steady time at which it was given, so that a step of the wall clock (and with it of the log's
/// times) never moves what becomes due by it.
#[derive(Serialize)]
struct Stamping<'a> {
    #[serde(flatten)]
    command: &'a Command,
    at_ms: u64,
}

#[derive(Deserialize)]
struct Stamp {
    at_ms: Option<u64>,
}

/// Encodes a command with its steady time.
#[must_use]
pub fn encode_command(command: &Command, at: Timestamp) -> Bytes {
    encode_json(&Stamping { command, at_ms: at.as_millis() })
}

/// The steady time at which a command was given. None if it was stored without one.
#[must_use]
pub fn command_time(payload: &Bytes) -> Option<Timestamp> {
    decode_json::<Stamp>(payload)?.at_ms.map(Timestamp::from_millis)
}
