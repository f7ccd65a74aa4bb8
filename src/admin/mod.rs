//! Owns the operators' side: the admin socket, the wire types of its JSON, and the questions that are answered from
//! the log and the state of deliveries.
//!
//! Promises that reading never changes anything, that memory is bounded whatever the log holds, and that a command
//! is durable when it is answered. What only a running instance can do stands behind [`Ports`]; what the directory
//! of a stopped one can answer needs [`Reads`] alone. Deliberately absent: printing, which is the CLI's.

mod access;
mod act;
mod api;
mod audit;
mod deliveries;
mod drain;
mod explain;
mod export;
mod filter;
mod find;
mod forward;
mod import;
pub mod jobs;
mod led;
mod line;
mod list;
mod logins;
mod page;
mod plan;
mod ports;
mod privacy;
mod quarantine;
pub mod queue;
mod quiet;
mod rehearse;
mod reload;
mod scoped;
pub mod server;
mod show;
mod socket;
mod subscribers;
pub mod wire;

#[cfg(test)]
pub(crate) mod fake;

pub use access::{Caller, Role, Scope, Token, Tokens};
pub use act::{ActError, JOB_ABOVE, SELECTED_MAX, act, rate};
pub use audit::{AuditFilter, audited};
pub use explain::{explain, for_ever};
pub use export::export;
pub use filter::{Compiled, FilterError};
pub use find::{FindError, Found, find};
pub use import::{Import, ImportError, LINE_BYTES_MAX, import, is_in_log, is_stored};
pub use line::listed;
pub use list::{Item, follow_once, newest};
pub use logins::LoginLimit;
pub use ports::{
    Compared, DeliveryView, EventView, PlannedFor, Ports, Predicate, QueryError, QueueCount, Reads, RouteFilter,
    TOO_SLOW, Trial, VIEWS_MAX,
};
pub use privacy::{BodyError, Hidden, HiddenNames, body};
#[cfg(test)]
pub(crate) use quarantine::tests as quarantine_tests;
pub use quarantine::{KeptBodyError, QUARANTINED, Wanted, kept_listed, quarantined_body, quarantined_show};
pub use quiet::Questions;
pub use reload::reload_by_signal;
pub use show::show;
pub use socket::{SocketError, bind, user_name};
pub use subscribers::{SECRETS_AT_ONCE, SubscriberError, shown_secrets};

pub use crate::{
    clock::{Clock, Timestamp},
    event::{EventId, IdError, Seq},
    quarantine::KeptError,
};
