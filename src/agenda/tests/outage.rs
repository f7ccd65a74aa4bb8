//! Owns the test of a long outage: an hour of the timetable, with restarts.

use super::*;
use crate::jitter::Jitter;

/// How late a retry may be: due times beyond ten minutes are rounded to a minute (`retry.rs`), and the test looks once
/// a second.
const LATE: Duration = Duration::from_secs(62);

#[test]
fn an_upstream_that_answers_500_for_an_hour_gets_each_event_by_its_timetable_and_in_the_end_all() {
    let policy = RetryPolicy::standard();
    let delay = |number| policy.delay_after(number, &Jitter::none()).unwrap();
    let mut rig = Rig::new(to_ab());
    let events: Vec<Seq> = (0..50).map(|_| rig.log.accept("s")).collect();
    let mut failed: BTreeMap<Seq, Vec<Timestamp>> = BTreeMap::new();
    let mut healthy = Vec::new();
    rig.settle();
    for second in 0..2 * 3_600 {
        loop {
            let (ours, others): (Vec<_>, Vec<_>) = rig.take().into_iter().partition(|(upstream, ..)| upstream == "a");
            if ours.is_empty() && others.is_empty() {
                break;
            }
            healthy.extend(others.iter().map(|(_, event, _)| *event));
            rig.answer(&others, &Change::Delivered);
            for (upstream, event, number) in ours {
                let change = if second < 3_600 {
                    failed.entry(event).or_default().push(rig.now);
                    Change::Retry(rig.now.after(delay(number)))
                } else {
                    Change::Delivered
                };
                rig.answer(&[(upstream, event, number)], &change);
            }
        }
        assert!(second > 0 || healthy == events, "the other upstream waits for nobody");
        if second % 1_000 == 999 {
            rig.restart();
        }
        rig.later(1);
    }
    for event in events {
        assert_eq!(rig.state_of(event, "a"), Some(DeliveryState::Delivered), "event {event}");
        let times = &failed[&event];
        assert_eq!(times.len(), 7, "after 0 s, 1 s, 6 s, 36 s, 156 s, 756 s and 2,556 s: {times:?}");
        for (number, pair) in (1..).zip(times.windows(2)) {
            let waited = pair[1].since(pair[0]);
            assert!(waited >= delay(number) && waited <= delay(number) + LATE, "attempt {number}: {waited:?}");
        }
    }
}
