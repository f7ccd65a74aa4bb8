//! Owns the plain data everything else speaks of: ids, positions, events, deliveries, attempts and their outcomes.
//!
//! Promises that these types know nothing of sockets, files or configuration. Behaviour lives elsewhere, except
//! the one function that changes the state of a delivery ([`Status::change`]).

mod delivery;
mod id;
mod published;
mod record;
mod trace;
mod turn;

pub use delivery::{Change, DeliveryState, Diversion, EventState, Impossible, Outcome, Reason, Status, event_state};
pub use id::{BATCH_PARTITION, EventId, IdError, Pos, QUARANTINE, Seq};
pub use published::{DEAD_MORE_TYPE, DEAD_TYPE, RELAY, topic_of_source, topic_source};
pub use record::{Attempt, Body, Cached, Event, Extras, Job, Proxy, Scheme, Sent, Verification};
pub use trace::{Step, TraceParent, own_trace, received_with, span_of};
pub use turn::{Turn, Version};
