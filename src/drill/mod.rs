//! Owns the drills on the operator's own machine: [`mod@bench`], how fast its disk makes requests durable, and [`torture`],
//! whether anything acknowledged is lost when the process is killed under load.
//!
//! Promises to touch nothing but a fresh directory of its own (removed afterwards, kept when something was lost), to
//! drive the same program that serves, as a separate process with a configuration like any other, and to be bounded in
//! memory by what it sends. Deliberately absent: measuring the instance that is running.

pub mod bench;
mod exchange;
mod relay;
pub mod torture;

pub use self::relay::Scratch;

/// Why a drill did not come to its end. What it found out is a result, not an error.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Files, sockets, processes.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program itself did not do what it is for.
    #[error("{0}")]
    Relay(String),
}

/// Names what was being done when the system said no.
fn doing(what: &'static str) -> impl FnOnce(std::io::Error) -> DrillError {
    move |source| DrillError::Io { what, source }
}

/// How long a waiter rests between two looks.
const LOOK: std::time::Duration = std::time::Duration::from_millis(1);
