//! Owns the question how much waits, and for how long, for each upstream.
//!
//! Promises to count and to read no event: its cost does not grow with what waits.

use super::{
    ports::{QueueCount, Reads},
    wire::{Queue, QueueRow},
};
use crate::{clock::Timestamp, event::DeliveryState};

/// The upper ends of the ages, in minutes; what is older stands in one more column.
const BOUNDS_MIN: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// The states that are meant.
///
/// # Errors
/// What can be meant, in words.
pub fn which(state: Option<&str>) -> Result<Vec<DeliveryState>, String> {
    let known = [DeliveryState::Pending, DeliveryState::Held, DeliveryState::Dead];
    match state {
        None => Ok(vec![DeliveryState::Pending, DeliveryState::Held]),
        Some(word) => match known.iter().find(|state| state.as_str() == word) {
            Some(state) => Ok(vec![*state]),
            None => Err(format!("--state {word:?}: the queue has what is pending, held or dead")),
        },
    }
}

/// Counts what is in these states; pending and held together if none is named.
///
/// # Errors
/// Why that can't be told, in words.
pub fn queue(reads: &dyn Reads, state: Option<&str>) -> Result<Queue, String> {
    let states = which(state)?;
    let now = reads.now();
    // Ascending times: the oldest bound first.
    let since: Vec<Timestamp> = BOUNDS_MIN.iter().rev().map(|minutes| now.before(minutes_of(*minutes))).collect();
    let QueueCount { upstreams, unplanned } = reads.queue(&states, &since)?;
    let rows = upstreams.into_iter().map(|(upstream, ages)| {
        let ages: Vec<u64> = ages.into_iter().rev().collect();
        QueueRow { upstream: upstream.into(), total: ages.iter().sum(), ages }
    });
    let mut rows: Vec<QueueRow> = rows.filter(|row| row.total > 0).collect();
    rows.sort_by(|one, two| two.total.cmp(&one.total).then_with(|| one.upstream.cmp(&two.upstream)));
    Ok(Queue {
        at: now,
        states: states.iter().map(|state| state.as_str().to_owned()).collect(),
        bounds_s: BOUNDS_MIN.iter().map(|minutes| minutes * 60).collect(),
        rows,
        unplanned,
    })
}

const fn minutes_of(minutes: u64) -> std::time::Duration {
    std::time::Duration::from_secs(minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::*;

    #[test]
    fn only_what_waits_or_is_dead_stands_in_a_queue() {
        assert_eq!(which(None), Ok(vec![DeliveryState::Pending, DeliveryState::Held]));
        assert_eq!(which(Some("dead")), Ok(vec![DeliveryState::Dead]));
        assert!(which(Some("delivered")).is_err());
    }

    #[test]
    fn the_largest_queue_comes_first_and_the_youngest_column() {
        let fake = Fake::default();
        let ids = [fake.accept("a", b"1"), fake.accept("a", b"2"), fake.accept("a", b"3")];
        for id in ids {
            fake.set(id, delivery("billing", Status::Pending { due: fake.clock() }));
        }
        fake.set(ids[0], delivery("audit", Status::Pending { due: fake.clock() }));
        fake.set(ids[0], delivery("crm", Status::Dead(Reason::new("refused"))));
        let counted = queue(&fake, None).unwrap();
        let rows: Vec<(&str, u64, u64)> =
            counted.rows.iter().map(|row| (&*row.upstream, row.total, row.ages[0])).collect();
        assert_eq!(rows, [("billing", 3, 3), ("audit", 1, 1)]);
        assert_eq!(counted.rows[0].ages.len(), counted.bounds_s.len() + 1);
    }
}
