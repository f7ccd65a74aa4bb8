//! Owns positions in the log and the event ids made of them.
//!
//! An id is 128 bits written as 26 characters of Crockford base32 (<https://www.crockford.com/base32.html>):
//! 48 bits of milliseconds that never go back, 16 bits of partition, 64 bits of sequence number. It leads to the
//! stored event without an index and grants nothing to whoever knows it.

use std::{fmt, str::FromStr};

use crate::clock::Timestamp;

/// A sequence number in one partition of the log: ascending, with gaps, never used twice.
pub type Seq = u64;

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// The partition, 0 on a single node.
    pub partition: u16,
    /// The sequence number in the partition.
    pub seq: Seq,
}

/// The partition of ids that lead to the quarantine and not to the log: no log has so many partitions.
pub const QUARANTINE: u16 = u16::MAX;

/// The id of an event, as users see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// When the event was appended: milliseconds, never going back along the log.
    pub time: Timestamp,
    /// Where it stands.
    pub pos: Pos,
}

/// What is wrong with a text that should be an event id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an event id: expected 26 characters of 0-9 and A-Z without I, L, O, U")]
pub struct IdError(pub String);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 26;

/// The partition in the ids of batches: no log has it, so that such an id never leads to an event.
pub const BATCH_PARTITION: u16 = 0xFFFE;

impl EventId {
    /// Whether it leads to the quarantine.
    #[must_use]
    pub const fn is_quarantined(self) -> bool {
        self.pos.partition == QUARANTINE
    }

    /// The id of a batch that was split into events.
    #[must_use]
    pub const fn of_batch(time: Timestamp, random: u64) -> Self {
        Self { time, pos: Pos { partition: BATCH_PARTITION, seq: random } }
    }

    /// The id as 26 ASCII characters.
    #[must_use]
    pub fn to_ascii(self) -> [u8; LENGTH] {
        let mut bits = (u128::from(self.time.as_millis() & 0xFFFF_FFFF_FFFF) << 80)
            | (u128::from(self.pos.partition) << 64)
            | u128::from(self.pos.seq);
        let mut text = [b'0'; LENGTH];
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET.get((bits & 31) as usize).copied().unwrap_or(b'0');
            bits >>= 5;
        }
        text
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.to_ascii()).unwrap_or_default())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    /// Lower case and the letters that Crockford maps (I, L to 1; O to 0) are accepted.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError(text.chars().take(64).collect());
        if text.len() != LENGTH {
            return Err(wrong());
        }
        let mut bits: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let upper = match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                other => other,
            };
            let digit = ALPHABET.iter().position(|known| *known == upper).ok_or_else(wrong)?;
            if index == 0 && digit > 7 {
                return Err(wrong());
            }
            bits = (bits << 5) | digit as u128;
        }
        Ok(Self {
            time: Timestamp::from_millis((bits >> 80) as u64),
            pos: Pos { partition: (bits >> 64) as u16, seq: bits as u64 },
        })
    }
}

impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, partition: u16, seq: u64) -> EventId {
        EventId { time: Timestamp::from_millis(ms), pos: Pos { partition, seq } }
    }

    #[test]
    fn an_id_survives_text_and_sorts_by_time_then_position() {
        let cases =
            [id(0, 0, 0), id(1, 0, 1), id(1_767_323_045_678, 3, 1 << 40), id((1 << 48) - 1, u16::MAX, u64::MAX)];
        for case in cases {
            assert_eq!(case.to_string().parse::<EventId>(), Ok(case));
            assert_eq!(case.to_string().to_lowercase().parse::<EventId>(), Ok(case));
        }
        let texts: Vec<String> = cases.iter().map(ToString::to_string).collect();
        assert!(texts.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(texts.iter().all(|text| text.len() == 26));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "0", "U0000000000000000000000000", "80000000000000000000000000", "0000000000000000000000000é"]
        {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }
}
