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

/// A pass that leaves more than this share (in percent) of the events it met in place was not worth its writing.
const LIVE_SHARE_MAX: u64 = 90;

/// One pass of reclaiming over the store: everything that was there when it began is met once. If nearly all of it is
/// still needed, another pass would only copy the same events again: it must wait until some are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    until: Seq,
    met: u64,
    carried: u64,
}

impl Pass {
    /// Begins a pass over what stands before `end`.
    #[must_use]
    pub fn beginning(end: Seq) -> Self {
        Self { until: end, met: 0, carried: 0 }
    }

    /// A segment of `met` events went, of which `carried` were appended again.
    pub fn took(&mut self, met: u64, carried: u64) {
        self.met = self.met.saturating_add(met);
        self.carried = self.carried.saturating_add(carried);
    }

    /// Whether the pass is over, given where the oldest segment begins now; and if it is, whether it was worth it.
    #[must_use]
    pub fn over(&self, oldest: Seq) -> Option<bool> {
        (oldest >= self.until).then(|| self.carried.saturating_mul(100) <= self.met.saturating_mul(LIVE_SHARE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_ends_where_it_began_and_is_worth_it_if_a_tenth_could_go() {
        let mut pass = Pass::beginning(1_000);
        pass.took(100, 100);
        assert_eq!(pass.over(500), None);
        assert_eq!(pass.over(1_000), Some(false), "everything was copied");
        pass.took(100, 80);
        assert_eq!(pass.over(1_200), Some(true));
        pass.took(100, 91);
        assert_eq!(pass.over(1_200), Some(false));
    }

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
