//! Owns the states of deliveries and events and the single function that changes a delivery's state.
//!
//! Promises that an impossible change is an error, never a silent repair. Nothing here knows why a change happens
//! beyond the reason it carries as evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream took it.
    Delivered,
    /// A transient failure: to be tried again.
    Deferred,
    /// A permanent failure.
    Refused,
    /// Answered, but not acceptably.
    Degraded,
}

impl Outcome {
    /// The word used in metrics, JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Degraded => "degraded",
        }
    }
}

/// Why a delivery is dead or held: a code from a closed set (a metric label) and an optional detail for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// One of a closed set of words, see the constructors.
    pub code: &'static str,
    /// What a person needs to know beyond the code, for example `404 Not Found` or a jq error.
    pub detail: Option<Box<str>>,
}

/// Every reason code there is; anything else read from disk becomes `other`.
const CODES: [&str; 28] = [
    "refused",
    "given_up",
    "transform_failed",
    "filter_failed",
    "conflicting_routes",
    "upstream_removed",
    "upstream_held",
    "operator",
    "unsendable",
    "body_unreadable",
    "redirect",
    "other",
    "loop",
    "over_rate",
    "over_budget",
    "skipped",
    "key_parked",
    "stale",
    "coalesced",
    "not_accepted",
    "diverted",
    "policy",
    "rehearsal",
    "answered_error",
    "subscriber_disabled",
    "address_refused",
    "unwritable",
    "unpublishable",
];

impl Reason {
    /// A reason without detail. A code outside the closed set becomes `other`.
    #[must_use]
    pub fn new(code: &str) -> Self {
        Self { code: CODES.iter().find(|known| **known == code).copied().unwrap_or("other"), detail: None }
    }

    /// The stored number of the code: its place in the closed set, which only ever grows at its end.
    #[must_use]
    pub fn number(&self) -> u8 {
        CODES.iter().position(|known| *known == self.code).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
    }

    /// A reason without detail from its stored number; an unknown number becomes `other`.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self { code: CODES.get(usize::from(number)).copied().unwrap_or("other"), detail: None }
    }

    /// A reason with detail, cut at 500 characters.
    #[must_use]
    pub fn with(code: &str, detail: impl AsRef<str>) -> Self {
        Self { detail: Some(detail.as_ref().chars().take(500).collect()), ..Self::new(code) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.detail, self.code) {
            (Some(detail), "conflicting_routes") => write!(f, "conflicting routes {detail}"),
            (Some(detail), code) => write!(f, "{code}: {detail}"),
            (None, code) => f.write_str(code),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The state of a delivery with its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waiting for an attempt, not before `due`.
    Pending {
        /// Steady time.
        due: Timestamp,
    },
    /// The upstream has it.
    Delivered,
    /// Given up.
    Dead(Reason),
    /// Kept back until an operator or a returning upstream lets it go.
    Held(Reason),
    /// Answered unacceptably; waits for a person.
    Review(Reason),
    /// Another delivery took its place: a newer event's, or one to another upstream.
    Superseded(Reason),
    /// Settled without sending: a transform said `empty`, or a route with no upstream matched.
    Ignored,
}

/// The word for a state, without evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are defined in the contract")]
pub enum DeliveryState {
    Pending,
    Delivered,
    Dead,
    Held,
    Review,
    Superseded,
    Ignored,
}

impl DeliveryState {
    /// The word used in metrics, JSON, filters and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Held => "held",
            Self::Review => "review",
            Self::Superseded => "superseded",
            Self::Ignored => "ignored",
        }
    }
}

/// What may happen to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt succeeded.
    Delivered,
    /// An attempt was deferred; the next is due then.
    Retry(Timestamp),
    /// Put back without spending an attempt (breaker, drain); due then.
    Postpone(Timestamp),
    /// Given up.
    Die(Reason),
    /// Settled without sending.
    Ignore,
    /// Held back.
    Hold(Reason),
    /// Let go again; due then.
    Release(Timestamp),
    /// Made due again by an operator or a resend, whatever it was.
    Replay(Timestamp),
    /// Answered unacceptably: a person decides.
    Review(Reason),
    /// Another delivery takes its place.
    Supersede(Reason),
    /// A delivery of the same event to another upstream takes its place, and is made by this change: one entry of the
    /// log decides both, so that no crash leaves one without the other.
    Divert(Box<Diversion>),
    /// An operator took what was answered for good.
    Resolve,
}

/// Where a delivery goes in place of its own upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversion {
    /// The other upstream.
    pub to: Box<str>,
    /// When its delivery is due (steady time).
    pub due: Timestamp,
    /// Why.
    pub reason: Reason,
}

impl Change {
    /// The reason it carries.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Die(reason) | Self::Hold(reason) | Self::Review(reason) | Self::Supersede(reason) => Some(reason),
            Self::Divert(diversion) => Some(&diversion.reason),
            _ => None,
        }
    }
}

/// A change that makes no sense in the state the delivery is in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {from} delivery can't change by {change:?}", from = from.as_str())]
pub struct Impossible {
    /// The state it was in.
    pub from: DeliveryState,
    /// What was asked.
    pub change: Change,
}

impl Status {
    /// The only function that changes the state of a delivery.
    ///
    /// # Errors
    /// [`Impossible`] if the change makes no sense in this state; the state is unchanged then.
    pub fn change(&self, change: Change) -> Result<Self, Impossible> {
        match (self, change) {
            (Self::Pending { .. } | Self::Held(_), Change::Delivered) => Ok(Self::Delivered),
            (Self::Pending { .. }, Change::Retry(due) | Change::Postpone(due)) => Ok(Self::Pending { due }),
            (Self::Held(reason), Change::Retry(_) | Change::Postpone(_)) => Ok(Self::Held(reason.clone())),
            (Self::Pending { .. } | Self::Held(_), Change::Die(reason)) => Ok(Self::Dead(reason)),
            (Self::Pending { .. } | Self::Held(_), Change::Ignore) => Ok(Self::Ignored),
            (Self::Pending { .. } | Self::Held(_), Change::Hold(reason)) => Ok(Self::Held(reason)),
            (Self::Pending { .. } | Self::Held(_), Change::Review(reason)) => Ok(Self::Review(reason)),
            (Self::Pending { .. } | Self::Held(_), Change::Supersede(reason)) => Ok(Self::Superseded(reason)),
            (Self::Pending { .. } | Self::Held(_), Change::Divert(diversion)) => Ok(Self::Superseded(diversion.reason)),
            (Self::Review(_), Change::Resolve) => Ok(Self::Delivered),
            (Self::Held(_), Change::Release(due)) => Ok(Self::Pending { due }),
            (_, Change::Replay(due)) => Ok(Self::Pending { due }),
            (from, change) => Err(Impossible { from: from.state(), change }),
        }
    }

    /// The word for this state.
    #[must_use]
    pub const fn state(&self) -> DeliveryState {
        match self {
            Self::Pending { .. } => DeliveryState::Pending,
            Self::Delivered => DeliveryState::Delivered,
            Self::Dead(_) => DeliveryState::Dead,
            Self::Held(_) => DeliveryState::Held,
            Self::Review(_) => DeliveryState::Review,
            Self::Superseded(_) => DeliveryState::Superseded,
            Self::Ignored => DeliveryState::Ignored,
        }
    }

    /// Whether nothing more will happen by itself (dead and review count as settled, pending and held do not).
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !matches!(self, Self::Pending { .. } | Self::Held(_))
    }

    /// The reason it is dead, held, in review or superseded.
    #[must_use]
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Dead(reason) | Self::Held(reason) | Self::Review(reason) | Self::Superseded(reason) => Some(reason),
            _ => None,
        }
    }
}

/// The state of an event, seen from its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are defined in the contract")]
pub enum EventState {
    Pending,
    Held,
    Review,
    Dead,
    Delivered,
    Superseded,
    Ignored,
    Unrouted,
}

impl EventState {
    /// The word used in JSON, filters and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Review => "review",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::Ignored => "ignored",
            Self::Unrouted => "unrouted",
        }
    }
}

/// The state of a planned event from the states of its deliveries; no delivery at all means unrouted.
#[must_use]
pub fn event_state(deliveries: &[DeliveryState]) -> EventState {
    let any = |state| deliveries.contains(&state);
    match () {
        () if deliveries.is_empty() => EventState::Unrouted,
        () if any(DeliveryState::Pending) => EventState::Pending,
        () if any(DeliveryState::Held) => EventState::Held,
        () if any(DeliveryState::Review) => EventState::Review,
        () if any(DeliveryState::Dead) => EventState::Dead,
        () if any(DeliveryState::Delivered) => EventState::Delivered,
        () if any(DeliveryState::Superseded) => EventState::Superseded,
        () => EventState::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(5);

    #[test]
    fn a_settled_delivery_changes_only_by_replay() {
        for settled in [
            Status::Delivered,
            Status::Dead(Reason::new("given_up")),
            Status::Ignored,
            Status::Superseded(Reason::new("stale")),
        ] {
            for change in [Change::Delivered, Change::Retry(T), Change::Release(T), Change::Ignore] {
                assert!(settled.change(change).is_err());
            }
            assert_eq!(settled.change(Change::Replay(T)), Ok(Status::Pending { due: T }));
        }
    }

    #[test]
    fn only_what_waits_for_a_person_is_resolved_by_one() {
        let review = Status::Review(Reason::new("not_accepted"));
        assert_eq!(review.change(Change::Resolve), Ok(Status::Delivered));
        assert_eq!(review.change(Change::Replay(T)), Ok(Status::Pending { due: T }));
        for other in [Status::Pending { due: T }, Status::Delivered, Status::Dead(Reason::new("refused"))] {
            assert!(other.change(Change::Resolve).is_err());
        }
    }

    #[test]
    fn a_diverted_delivery_is_superseded_and_a_settled_one_is_never_diverted() {
        let reason = Reason::new("diverted");
        let divert = Change::Divert(Box::new(Diversion { to: "b".into(), due: T, reason: reason.clone() }));
        assert_eq!(Status::Pending { due: T }.change(divert.clone()), Ok(Status::Superseded(reason)));
        assert!(Status::Delivered.change(divert).is_err());
    }

    #[test]
    fn a_hold_survives_the_outcome_of_an_attempt_that_was_under_way() {
        let held = Status::Held(Reason::new("operator"));
        assert_eq!(held.change(Change::Retry(T)), Ok(held.clone()));
        assert_eq!(held.change(Change::Delivered), Ok(Status::Delivered));
        assert_eq!(held.change(Change::Release(T)), Ok(Status::Pending { due: T }));
    }

    #[test]
    fn the_state_of_an_event_follows_the_order_of_the_contract() {
        use DeliveryState as D;
        let cases: [(&[D], EventState); 7] = [
            (&[], EventState::Unrouted),
            (&[D::Delivered, D::Pending, D::Dead], EventState::Pending),
            (&[D::Delivered, D::Held, D::Dead], EventState::Held),
            (&[D::Dead, D::Delivered], EventState::Dead),
            (&[D::Ignored, D::Delivered], EventState::Delivered),
            (&[D::Ignored, D::Superseded], EventState::Superseded),
            (&[D::Ignored], EventState::Ignored),
        ];
        for (deliveries, expected) in cases {
            assert_eq!(event_state(deliveries), expected);
        }
    }
}
