//! Owns the ports: what the admin side asks of the rest of the process, implemented by `app`.
//!
//! Promises that nothing here is called on an async thread, unless it says that it never blocks: every other call may
//! read the disk or wait for the committer.

use std::{
    path::Path,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{
    access::{Scope, Tokens, WHOLE},
    privacy::HiddenNames,
    quiet::Questions,
    wire,
};
use crate::{
    clock::Timestamp,
    event::{DeliveryState, Event, EventId, Seq, Status},
    log::{
        Log, ReadError,
        entry::{Command, Fault, Registration, Target},
    },
    quarantine::{Judgement, Purpose, Quarantine},
    state::Subscribed,
    telemetry::Metrics,
};
use bytes::Bytes;

/// The most events in one question for their states.
pub const VIEWS_MAX: usize = 500;

/// Why a question has no answer. A failed read is never taken for "nothing there".
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state of deliveries can't be read.
    #[error("the state of deliveries can't be read: {0}")]
    State(String),
    /// The expression ran for too long on so many events.
    #[error(
        "the expression ran for too long on {0} events: narrow the search by source, type or time, or write it shorter"
    )]
    TooSlow(u32),
}

/// What the error of a [`Predicate`] begins with that ran for too long.
pub const TOO_SLOW: &str = "too slow: ";

/// Whether an expression or a route takes an event with this body (as received).
pub type Predicate = Box<dyn Fn(&Event, &[u8]) -> Result<bool, String> + Send + Sync>;

/// An event and the upstreams that its `planned` entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFor {
    /// The event's own sequence number.
    pub event: Seq,
    /// Empty if it is not planned yet, or goes nowhere.
    pub upstreams: Vec<Box<str>>,
}

/// What the state of deliveries knows about one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventView {
    /// One for each planned upstream, in that order, then those that a replay added.
    pub deliveries: Vec<DeliveryView>,
    /// An operator deleted it: it is to be treated as if it were not there.
    pub deleted: bool,
    /// Routing has decided, as far as the state knows.
    pub planned: bool,
    /// Resends so far.
    pub duplicates: u64,
    /// Of these, with another body.
    pub body_differs: u64,
}

/// The state of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// Its upstream.
    pub upstream: Box<str>,
    /// Its state, with the detail of its reason: filters look at it. Where the detail is missing, a listing reads it
    /// from the last attempt.
    pub status: Status,
    /// Attempts so far.
    pub attempts: u32,
    /// The last `attempted` entry; the history is walked back from there. None: no attempt yet, or delivered at the
    /// first, which leaves no record.
    pub last: Option<Seq>,
    /// When the next attempt is due, steady time.
    pub due: Option<Timestamp>,
    /// An attempt is under way.
    pub in_flight: bool,
    /// The event whose delivery goes before it, since both have the same key.
    pub waits_for: Option<EventId>,
}

/// How many deliveries there are, by the age of their events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueCount {
    /// By upstream: those accepted before the first of the times that were asked for, before the second, …, the rest.
    pub upstreams: Vec<(Box<str>, Vec<u64>)>,
    /// Events that are not routed yet.
    pub unplanned: u64,
}

/// A configured route, as a filter.
pub struct RouteFilter {
    /// Whether its sources and its `when` take the event.
    pub takes: Predicate,
    /// Its upstreams.
    pub to: Vec<Box<str>>,
}

/// What the directory of an instance answers, running or stopped.
pub trait Reads: Send + Sync {
    /// The log.
    fn log(&self) -> Arc<dyn Log>;

    /// Wall time.
    fn now(&self) -> Timestamp;

    /// What is shown and touched at all: of the log, only events of its sources.
    fn scope(&self) -> &Scope {
        &WHOLE
    }

    /// Whether filters may look at what is hidden when it is shown.
    fn sees_hidden(&self) -> bool {
        true
    }

    /// The states of events; as many as were asked for, in that order. Never asked for more than [`VIEWS_MAX`]. A
    /// planned delivery without a record is delivered at the first attempt unless it still waits.
    ///
    /// # Errors
    /// Why the state can't be read, in words: it is being rebuilt, or damaged.
    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String>;

    /// About `limit` deliveries in a state that keeps records (dead, held, review), in the order of the log, of
    /// events after the given one; of one upstream, or of all. The deliveries of one event come together.
    ///
    /// # Errors
    /// As for [`Reads::views`].
    fn records(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Target>, String>;

    /// How many deliveries are in one of these states (pending, held or dead), by the age of their events. The times
    /// ascend. Costs the same whatever there is.
    ///
    /// # Errors
    /// As for [`Reads::views`].
    fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Result<QueueCount, String>;

    /// Where the event with this original sequence number stands now, if it was carried.
    ///
    /// # Errors
    /// As for [`Reads::views`].
    fn stored_at(&self, event: Seq) -> Result<Option<Seq>, String>;

    /// Events that were carried, newest first, those before `before`, at most `limit`: own number and where it is stored.
    ///
    /// # Errors
    /// As for [`Reads::views`].
    fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, String>;

    /// Compiles an expression to a filter.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn filter(&self, expression: &str) -> Result<Predicate, String>;

    /// A configured route. None if there is none of this name, or no configuration at hand.
    fn route(&self, name: &str) -> Option<RouteFilter>;

    /// The body without its `Content-Encoding`, for searching; as it is if it can't be decoded within the limits.
    fn decoded(&self, event: &Event, body: Bytes) -> Bytes;

    /// What is hidden besides the built-in lists.
    fn hidden_names(&self) -> HiddenNames;

    /// A body without what the configuration hides in bodies.
    ///
    /// # Errors
    /// It can't be decoded, in words: what is in it is not known.
    fn masked(&self, event: &Event, body: Bytes) -> Result<Bytes, String>;

    /// A text without headers, or its beginning, without what the configuration hides in bodies. None: something is
    /// hidden, and it can't be told what that is here, since it is no JSON or was cut.
    fn masked_beginning(&self, body: Bytes) -> Option<Bytes>;

    /// The refused requests that are kept.
    fn quarantine(&self) -> Arc<Quarantine>;

    /// Where commands of operators stand in the log, newest first, those before `before`, at most `limit`: own number
    /// and place.
    ///
    /// # Errors
    /// As for [`Reads::views`].
    fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, String>;

    /// The hash of the configuration of a generation.
    fn config_hash(&self, generation: u64) -> Option<String>;

    /// Where today's routes send an event.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn routed(&self, event: &Event, body: &[u8]) -> Result<Vec<Box<str>>, String>;
}

/// A configuration that is tried.
pub trait Trial: Send {
    /// Its hash.
    fn hash(&self) -> &str;

    /// What it is warned about.
    fn warnings(&self) -> &[String];

    /// How a stored request would fare under it in another way than it does under the active one.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn compare(&self, event: &Event, body: &Bytes) -> Result<Compared, String>;
}

/// How a request would fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What would be different.
    pub differences: Vec<wire::Difference>,
    /// It can't be verified again.
    pub unverified: bool,
}

/// What only a running instance can do.
pub trait Ports: Reads + 'static {
    /// The tokens that are valid now. Never blocks.
    fn tokens(&self) -> Arc<Tokens>;

    /// Where requests are counted. Never blocks.
    fn metered(&self) -> Arc<Metrics>;

    /// The questions that are being answered. Never blocks.
    fn questions(&self) -> &Questions;

    /// Steady time. Never blocks.
    fn steady(&self) -> Timestamp;

    /// The figures of `stagepost status`.
    fn status(&self) -> wire::Status;

    /// Applies the configuration as it stands on disk, whole or not at all. With a probation the one before becomes active
    /// again by itself if refusals or failures jump in that time.
    ///
    /// # Errors
    /// The problems; the old configuration is still active.
    fn reload(&self, probation: Option<Duration>) -> Result<wire::Reloaded, wire::ReloadRefused>;

    /// Appends a command. Durable and applied when it returns.
    ///
    /// # Errors
    /// Why it was not appended, in words.
    fn command(&self, command: Command) -> Result<(), String>;

    /// Appends a command and gives the number of its entry. Durable and applied when it returns.
    ///
    /// # Errors
    /// Why it was not appended, in words.
    fn command_at(&self, command: Command) -> Result<Seq, String>;

    /// Replays of many deliveries, under way and ended, oldest first.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn jobs(&self) -> Result<Vec<wire::Job>, String>;

    /// Lets an upstream's attempts fail as told for a time, or ends that. False if there is no such upstream, or nothing
    /// to end.
    fn rehearse(&self, upstream: &str, how: Option<(Fault, Duration)>) -> bool;

    /// What today's configuration says about a request from quarantine; to admit it makes it durable in the log. It stays
    /// in quarantine.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn judge(&self, event: &Event, purpose: Purpose) -> Result<Judgement, String>;

    /// The refused requests with numbers above `after`, oldest first, at most 1,000.
    fn refused(&self, after: u64) -> Vec<wire::Refused>;

    /// Keys that are blocked, of one upstream or of all.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn blocked_keys(&self, upstream: Option<&str>) -> Result<Vec<wire::BlockedKey>, String>;

    /// All subscribers, by name.
    ///
    /// # Errors
    /// Why that can't be told, in words.
    fn subscribers(&self) -> Result<Vec<wire::Subscriber>, String>;

    /// What the log says about subscribers.
    fn subscribed(&self) -> Subscribed;

    /// Whether a subscriber could be registered like this; if it is new, also whether there is room for it and whether its
    /// name leads only to where it may.
    ///
    /// # Errors
    /// Why not, in words, beginning with what is wrong.
    fn check_subscriber(&self, registration: &Registration, is_new: bool) -> Result<(), String>;

    /// Whoever changes subscribers holds this: one at a time.
    fn subscribers_turn(&self) -> MutexGuard<'_, ()>;

    /// Counts a registration that was refused.
    fn subscriber_refused(&self);

    /// Bytes that nobody can guess. None if there are none to be had.
    fn secret_bytes(&self) -> Option<[u8; 32]>;

    /// The configured sources.
    fn sources(&self) -> Vec<wire::Source>;

    /// The configured routes.
    fn routes(&self) -> Vec<wire::Route>;

    /// The stored segments, oldest first.
    fn segments(&self) -> Vec<wire::Segment>;

    /// The active configuration.
    fn configuration(&self) -> wire::Configuration;

    /// The names of the configured upstreams.
    fn upstreams(&self) -> Vec<Box<str>>;

    /// The generation of the active configuration.
    fn generation(&self) -> u64;

    /// What a backup consists of. With `now`, everything stored so far is sealed before it answers, which may take a while.
    ///
    /// # Errors
    /// Why that can't be had now, in words.
    fn backup_point(&self, now: bool) -> Result<wire::BackupPoint, String>;

    /// A configuration, to be tried against stored requests; the one of this file, or the one that a reload would read.
    /// Nothing becomes active.
    ///
    /// # Errors
    /// The problems of the configuration.
    fn trial(&self, file: Option<&Path>) -> Result<Box<dyn Trial>, Vec<String>>;
    /// The alerts that stand, the worst first.
    fn alerts(&self) -> Vec<wire::Alert>;

    /// Publishes an event that tries one destination of alerts; its id. Durable when it returns.
    ///
    /// # Errors
    /// Why not, in words.
    fn test_alert(&self, to: &str) -> Result<String, String>;

    /// The metrics in the Prometheus text format.
    fn metrics(&self) -> String;

    /// Whether new events can be stored. May write to the disk at most once a second; never asks an upstream.
    ///
    /// # Errors
    /// Why not, in words without paths.
    fn ready(&self) -> Result<(), String>;
}
