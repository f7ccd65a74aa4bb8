//! Owns the decision how much of the log may go: by age, and by the budget. Pure.
//!
//! Segments go oldest first only: a hole would resurrect settled deliveries. What is still needed in a segment that
//! goes is carried forward first; that is the caller's work.

use std::time::Duration;

use crate::{clock::Timestamp, event::Seq};

/// One segment, as far as retention cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The sequence number after its last.
    pub end: Seq,
    /// Time of its last entry.
    pub last_time: Timestamp,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What retention is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Sealed segments go when their last entry is older than this.
    pub retention: Duration,
    /// The budget of the store in bytes.
    pub max_size: u64,
    /// Whether segments go before their time when the budget is nearly used.
    pub reclaim: bool,
}

/// Above this share of the budget (in percent) segments are reclaimed …
const RECLAIM_ABOVE: u64 = 92;
/// … until the store is below this share.
const RECLAIM_BELOW: u64 = 85;

/// The sequence number before which everything may go; None if nothing may. `sealed` is in order, `used` is the whole
/// store's bytes.
#[must_use]
pub fn expire_before(sealed: &[Candidate], used: u64, now: Timestamp, rules: &Rules) -> Option<Seq> {
    let mut used = used;
    let mut before = None;
    let over = rules.reclaim && used > rules.max_size / 100 * RECLAIM_ABOVE;
    for segment in sealed {
        let aged = now.since(segment.last_time) >= rules.retention;
        let reclaimed = over && used > rules.max_size / 100 * RECLAIM_BELOW;
        if !(aged || reclaimed) {
            break;
        }
        used = used.saturating_sub(segment.bytes);
        before = Some(segment.end);
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn segments(ages_in_days: &[u64]) -> Vec<Candidate> {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let made = |(index, age): (usize, &u64)| Candidate {
            end: (index as Seq + 1) * 100,
            last_time: now.before(DAY * u32::try_from(*age).unwrap()),
            bytes: 1000,
        };
        ages_in_days.iter().enumerate().map(made).collect()
    }

    #[test]
    fn age_and_budget_take_the_oldest_segments_and_leave_no_hole() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let rules = |max_size, reclaim| Rules { retention: DAY * 7, max_size, reclaim };
        let cases = [
            (&[9, 8, 3, 1][..], 4_000, 100_000, true, Some(200)),
            (&[3, 9, 1], 3_000, 100_000, true, None),
            (&[3, 2, 1, 0], 4_000, 4_200, true, Some(100)),
            (&[3, 2, 1, 0], 4_000, 4_200, false, None),
            (&[3, 2, 1, 0], 4_000, 1_000, true, Some(400)),
            (&[], 4_000, 1_000, true, None),
        ];
        for (ages, used, max_size, reclaim, expected) in cases {
            let got = expire_before(&segments(ages), used, now, &rules(max_size, reclaim));
            assert_eq!(got, expected, "{ages:?} {used} {max_size} {reclaim}");
        }
    }
}
