//! Owns the tests of backlogs that are larger than the memory they may take.

use super::*;

#[test]
fn a_backlog_beyond_memory_is_read_back_in_order() {
    let log = TestLog::new();
    let events: Vec<Seq> = (0..3_000).map(|_| log.accept("t")).collect();
    let bounds = Bounds { events_bytes: 0, retries_each: 1_000, retries_all: 1_000, ordered_each: 1_000 };
    let mut rig = Rig::over(log, to_ab(), bounds);
    let mut seen = Vec::new();
    rig.settle();
    loop {
        let jobs = rig.take();
        if jobs.is_empty() {
            break;
        }
        seen.extend(jobs.iter().map(|(_, event, _)| *event));
        rig.answer(&jobs, &Change::Retry(at(100)));
    }
    assert_eq!(seen, events);
    rig.later(101);
    let mut again = Vec::new();
    loop {
        let jobs = rig.take();
        if jobs.is_empty() {
            break;
        }
        again.extend(jobs.iter().map(|(_, event, _)| *event));
        rig.answer(&jobs, &Change::Delivered);
    }
    again.sort_unstable();
    assert_eq!(again, events, "retries beyond the bound in memory are found in the records");
}

#[test]
fn retries_beyond_memory_go_on_though_the_search_still_sees_those_settled_since_the_checkpoint() {
    let log = TestLog::new();
    let events: Vec<Seq> = (0..3_000).map(|_| log.accept("t")).collect();
    let bounds = Bounds { events_bytes: 0, retries_each: 1_000, retries_all: 1_000, ordered_each: 1_000 };
    let mut rig = Rig::over(log, to_ab(), bounds);
    rig.settle();
    loop {
        let jobs = rig.take();
        if jobs.is_empty() {
            break;
        }
        rig.answer(&jobs, &Change::Retry(at(100)));
    }
    let _written = rig.core.state_mut().freeze(0);
    rig.later(101);
    let mut again = Vec::new();
    loop {
        let jobs = rig.take();
        if jobs.is_empty() {
            break;
        }
        again.extend(jobs.iter().map(|(_, event, _)| *event));
        rig.answer(&jobs, &Change::Delivered);
    }
    again.sort_unstable();
    assert!(again == events, "{} of {} retries were sent", again.len(), events.len());
}
