//! Owns the record of one delivery: what is kept when there is more to say than "delivered at the first attempt".
//!
//! A record is 16 bytes of key and 56 bytes of value, so that millions of them are a flat, sorted file. The text of
//! a reason is not here: it stands in the log entry that [`Record::reason_at`] names.

use crate::{
    clock::Timestamp,
    event::{DeliveryState, Reason, Seq, Status},
};

/// The number of an upstream inside one state: an index into its table of names, never reused.
pub type UpstreamId = u32;

/// The upstream number under which facts about the event itself are kept.
pub const EVENT: UpstreamId = UpstreamId::MAX;

/// The bytes of a stored record, key included.
pub(super) const RECORD_BYTES: usize = 72;

/// Which delivery a record is about: sorts by event, then by upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The event's own (first) sequence number.
    pub event: Seq,
    /// Which upstream, or [`EVENT`].
    pub upstream: UpstreamId,
}

impl Key {
    /// A key.
    #[must_use]
    pub const fn new(event: Seq, upstream: UpstreamId) -> Self {
        Self { event, upstream }
    }

    /// The stored form, big-endian so that bytes sort as keys do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.event) << 64) | (u128::from(self.upstream) << 32)).to_be_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        Self { event: (bits >> 64) as u64, upstream: (bits >> 32) as u32 }
    }
}

/// What is known of a delivery that is not simply waiting for its first attempt or delivered by it. Under [`EVENT`]
/// it is about the event: `attempts` counts its duplicates, `replays` those with another body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its state.
    pub state: DeliveryState,
    /// The stored number of the reason's code, for dead, held, review and superseded.
    pub reason: u8,
    /// A replay made it due; cleared by the next attempt.
    pub replayed: bool,
    /// It was replayed without a trace of earlier attempts: it was delivered at the first, or is new.
    pub origin_unknown: bool,
    /// Dead, and an operator let those behind it of its key go.
    pub let_go: bool,
    /// A replay said that the body goes as it was received: no transform.
    pub original: bool,
    /// Attempts made.
    pub attempts: u32,
    /// Replays by operators or resends.
    pub replays: u32,
    /// Replays that asked for a fresh idempotency key.
    pub new_keys: u32,
    /// Pending: not before. Held: released then by itself ([`NEVER`] for most).
    pub due: Timestamp,
    /// When it was planned or last replayed.
    pub planned_at: Timestamp,
    /// When it was settled last.
    pub settled_at: Timestamp,
    /// The last `attempted` entry.
    pub last: Option<Seq>,
    /// The entry that carries the text of the reason. Under [`EVENT`]: where the event is stored now.
    pub reason_at: Option<Seq>,
}

/// A time that does not come.
pub const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

const NO_SEQ: u64 = u64::MAX;

impl Record {
    /// A delivery that waits and was never attempted.
    #[must_use]
    pub const fn waiting(planned_at: Timestamp) -> Self {
        Self {
            state: DeliveryState::Pending,
            reason: 0,
            replayed: false,
            origin_unknown: false,
            let_go: false,
            original: false,
            attempts: 0,
            replays: 0,
            new_keys: 0,
            due: planned_at,
            planned_at,
            settled_at: Timestamp::ZERO,
            last: None,
            reason_at: None,
        }
    }

    /// The state with its evidence; the reason comes without its text.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.state {
            DeliveryState::Pending => Status::Pending { due: self.due },
            DeliveryState::Delivered => Status::Delivered,
            DeliveryState::Dead => Status::Dead(Reason::from_number(self.reason)),
            DeliveryState::Held => Status::Held(Reason::from_number(self.reason)),
            DeliveryState::Review => Status::Review(Reason::from_number(self.reason)),
            DeliveryState::Superseded => Status::Superseded(Reason::from_number(self.reason)),
            DeliveryState::Ignored => Status::Ignored,
        }
    }

    /// Takes a new state over; what the state does not speak of stays.
    pub fn set_status(&mut self, status: &Status, at: Timestamp) {
        let same = self.state == status.state();
        self.state = status.state();
        match status {
            Status::Pending { due } => self.due = *due,
            Status::Dead(reason) | Status::Held(reason) | Status::Review(reason) | Status::Superseded(reason) => {
                self.reason = reason.number();
                if !same {
                    self.due = NEVER;
                }
            }
            _ => {}
        }
        if status.is_settled() {
            self.settled_at = at;
        }
    }

    /// The stored form, key first.
    #[must_use]
    pub fn encode(&self, key: Key) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(slot) = out.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        let flags = u8::from(self.replayed)
            | u8::from(self.origin_unknown) << 1
            | u8::from(self.let_go) << 2
            | u8::from(self.original) << 3;
        put(&key.to_bytes());
        put(&[state_number(self.state), self.reason, flags, 0]);
        for number in [self.attempts, self.replays, self.new_keys] {
            put(&number.to_le_bytes());
        }
        for number in [
            self.due.as_millis(),
            self.planned_at.as_millis(),
            self.settled_at.as_millis(),
            self.last.unwrap_or(NO_SEQ),
            self.reason_at.unwrap_or(NO_SEQ),
        ] {
            put(&number.to_le_bytes());
        }
        out
    }

    /// The way back. None for bytes that [`Record::encode`] never writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Key, Self)> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let seq = |at: usize| Some(Some(long(at)?).filter(|seq| *seq != NO_SEQ));
        let key = Key::from_bytes(bytes.get(..16)?.try_into().ok()?);
        let flags = *bytes.get(18)?;
        let record = Self {
            state: state_from(*bytes.get(16)?)?,
            reason: *bytes.get(17)?,
            replayed: flags & 1 != 0,
            origin_unknown: flags & 2 != 0,
            let_go: flags & 4 != 0,
            original: flags & 8 != 0,
            attempts: word(20)?,
            replays: word(24)?,
            new_keys: word(28)?,
            due: Timestamp::from_millis(long(32)?),
            planned_at: Timestamp::from_millis(long(40)?),
            settled_at: Timestamp::from_millis(long(48)?),
            last: seq(56)?,
            reason_at: seq(64)?,
        };
        Some((key, record))
    }
}

/// The stored numbers of the states; they never change.
const STATES: [DeliveryState; 7] = [
    DeliveryState::Pending,
    DeliveryState::Delivered,
    DeliveryState::Dead,
    DeliveryState::Held,
    DeliveryState::Review,
    DeliveryState::Superseded,
    DeliveryState::Ignored,
];

fn state_number(state: DeliveryState) -> u8 {
    STATES.iter().position(|known| *known == state).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

fn state_from(number: u8) -> Option<DeliveryState> {
    STATES.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_stored_form_in_every_state() {
        for state in STATES {
            let record = Record {
                state,
                reason: 3,
                replayed: true,
                let_go: true,
                original: true,
                attempts: 7,
                new_keys: 2,
                due: NEVER,
                last: Some(12),
                ..Record::waiting(Timestamp::from_millis(5))
            };
            let key = Key::new(1 << 40, 9);
            assert_eq!(Record::decode(&record.encode(key)), Some((key, record)));
        }
    }

    #[test]
    fn stored_keys_sort_by_event_and_then_by_upstream() {
        let keys = [Key::new(1, 5), Key::new(1, EVENT), Key::new(256, 0), Key::new(1 << 33, 1)];
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes()));
    }

    #[test]
    fn bytes_of_another_length_or_state_are_no_record() {
        assert_eq!(Record::decode(&[0; 12]), None);
        let mut bytes = Record::waiting(Timestamp::ZERO).encode(Key::new(1, 1));
        bytes[16] = 99;
        assert_eq!(Record::decode(&bytes), None);
    }
}
