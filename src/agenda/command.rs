//! Owns operators' commands on their way in: they are entries of the log first and take effect when they come back
//! through the feed, so that they are durable and replayable.

use tokio::sync::oneshot;

use super::{Agenda, AskError};
use crate::{
    event::{EventId, Seq},
    log::{
        Acked, Append, AppendError, Appended, Class, Done, Kind, NewEntry,
        entry::{Action, Command, encode_command},
    },
};

/// The most targets or events in one command: its entry stays far below the largest. Ask for more in pieces.
pub const TARGETS_MAX: usize = 2_000;

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It names too many deliveries.
    #[error("a command takes at most {TARGETS_MAX} deliveries: give it in pieces")]
    TooMany,
    /// The log did not take it.
    #[error("the command is not stored")]
    Append(#[from] AppendError),
    /// It is stored, but the agenda does not answer.
    #[error("the command is stored, but its effect is not known")]
    Ask(#[from] AskError),
}

/// A command on its way into the log.
#[must_use = "a command is not durable before its ticket says so"]
pub struct Ticket {
    answer: oneshot::Receiver<Acked>,
    agenda: Agenda,
}

impl Ticket {
    /// Waits until the command is durable; it takes effect a moment later. Cancel-safe: the command goes on.
    ///
    /// # Errors
    /// [`CommandError::Append`].
    pub async fn durable(self) -> Result<EventId, CommandError> {
        stored(self.answer.await.unwrap_or(Err(AppendError::Closed)))
    }

    /// Waits until the command has taken effect. Blocks: not for async threads.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn wait(self) -> Result<Seq, CommandError> {
        let id = stored(self.answer.blocking_recv().unwrap_or(Err(AppendError::Closed)))?;
        self.agenda.applied(id.pos.seq)?;
        Ok(id.pos.seq)
    }
}

fn stored(acked: Acked) -> Result<EventId, CommandError> {
    match acked? {
        Appended::Appended(id) | Appended::Duplicate { first: id, .. } => Ok(id),
    }
}

impl Agenda {
    /// The command with the end of a hold, which the operator's clock knows, in steady time.
    fn in_steady_time(&self, command: &Command) -> Command {
        let clock = &self.0.deps.clock;
        let (wall, steady) = (clock.now().as_millis(), clock.steady().as_millis());
        let mut command = command.clone();
        if let Action::HoldUpstream { until_ms: Some(until), .. } | Action::Hold { until_ms: Some(until), .. } =
            &mut command.action
        {
            *until = until.saturating_add(steady).saturating_sub(wall);
        }
        command
    }

    /// Gives a command. Never blocks.
    ///
    /// # Errors
    /// [`CommandError::TooMany`].
    pub fn command(&self, command: &Command) -> Result<Ticket, CommandError> {
        let count = match &command.action {
            Action::Hold { targets, .. }
            | Action::Release { targets }
            | Action::Replay { targets, .. }
            | Action::Resolve { targets, .. }
            | Action::Expire { targets, .. }
            | Action::Requeue { targets }
            | Action::LetGo { targets } => targets.len(),
            Action::ReplayStep(step) => step.targets.len() + step.created.len(),
            Action::Delete { events } => events.len(),
            Action::HoldUpstream { .. }
            | Action::ReleaseUpstream { .. }
            | Action::DrainTarget { .. }
            | Action::UndrainTarget { .. }
            | Action::Rehearse { .. }
            | Action::StartJob { .. }
            | Action::EndJob { .. }
            | Action::EndRehearsal { .. }
            | Action::PutSubscriber { .. }
            | Action::RemoveSubscriber { .. }
            | Action::RefuseSubscriber { .. }
            | Action::DisableSubscriber { .. }
            | Action::EnableSubscriber { .. }
            | Action::Noted { .. }
            | Action::Past { .. } => 0,
        };
        if count > TARGETS_MAX {
            return Err(CommandError::TooMany);
        }
        let (done, answer) = Done::channel();
        self.0.deps.log.append(Append {
            parts: Vec::new(),
            entry: NewEntry {
                kind: Kind::Command,
                payload: encode_command(&self.in_steady_time(command), self.0.deps.clock.steady()),
            },
            dedupe: None,
            class: Class::Upkeep,
            time: self.0.deps.clock.now(),
            done,
        });
        Ok(Ticket { answer, agenda: self.clone() })
    }
}
