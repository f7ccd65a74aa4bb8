//! Owns the wiring: the only place that names concrete engines, starts threads in order and stops them in order.
//!
//! Promises that nothing is accepted before the log is recovered, that a stop loses nothing that was begun, and that
//! a poisoned log ends the process with an error. Deliberately absent: decisions. Each belongs to a stage.

mod alerts;
mod backup;
mod decide;
mod hashes;
mod janitor;
pub mod jobs;
mod links;
mod listing;
mod notices;
mod parts;
mod ports;
mod probation;
mod probe;
mod reads;
mod reload;
mod rounds;
mod serve;
mod status;
mod subscribers;
mod trial;
mod watch;

pub use backup::OfflineImport;
pub use reads::OfflineReads;
pub use reload::Origin;
pub use serve::{App, Ended, RunOptions, StartError};
