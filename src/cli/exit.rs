//! Owns exit codes (contract, section 5) and the failure that leads to one.

use std::{io, process::ExitCode};

use crate::log::tells_of_damage;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Done in part: some of what was asked for.
    Partly = 1,
    /// The command line means nothing.
    Usage = 64,
    /// Stored data is damaged.
    Damage = 65,
    /// No event has this id.
    NoSuchId = 66,
    /// No instance answers.
    NotRunning = 69,
    /// Reading or writing went wrong.
    Io = 74,
    /// Another process has the directory.
    Busy = 75,
    /// Not allowed.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended without doing what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For the operator, one or more lines.
    pub message: String,
}

impl Exit {
    /// After a note: done in part, or with 65 if it tells of damage, which a later note does not undo.
    #[must_use]
    pub fn noted(self, note: &str) -> Self {
        match self {
            Self::Damage => Self::Damage,
            _ if tells_of_damage(note) => Self::Damage,
            _ => Self::Partly,
        }
    }
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<io::Error> for Failure {
    /// An error of the output: a reader that closed the pipe has seen enough and is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            io::ErrorKind::PermissionDenied => Self::new(Exit::Permission, error.to_string()),
            _ => Self::new(Exit::Io, error.to_string()),
        }
    }
}
