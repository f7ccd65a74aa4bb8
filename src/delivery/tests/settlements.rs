//! Owns the tests of outcomes that the log refuses.

use super::rig::{PATIENCE, Rig, Said, ok, peer, rig, say, upstream};
use crate::{event::Change, log::AppendError};

fn refuse(rig: &Rig, refusals: &[AppendError]) {
    rig.log.refusals.lock().unwrap().extend(refusals.iter().rev());
}

fn refused(rig: &Rig) -> u64 {
    rig.metrics.upstream("u").settlements_refused.get()
}

#[tokio::test]
async fn an_outcome_that_the_log_has_no_room_for_is_offered_until_it_is_taken_and_counted() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    refuse(&rig, &[AppendError::Full, AppendError::Busy, AppendError::Full]);
    rig.dispatch([1], "u");
    let entries = rig.log.wait(1).await;
    assert_eq!((&entries[0].change, entries[0].attempt.as_ref().unwrap().number), (&Change::Delivered, 1));
    assert_eq!((refused(&rig), peer.requests(1).await.len()), (3, 1), "one attempt");
    assert!(!rig.signals.said().contains(&Said::Returned(1, "u".into())), "it stays in hand");
}

#[tokio::test]
async fn a_drain_waits_for_outcomes_that_the_log_has_no_room_for() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    refuse(&rig, &[AppendError::Busy; 3]);
    rig.dispatch([1], "u");
    peer.requests(1).await;
    rig.engine.drain(PATIENCE).await;
    assert_eq!((rig.log.seqs().len(), refused(&rig)), (1, 3));
}

#[tokio::test]
async fn an_outcome_that_is_refused_for_good_is_counted_and_not_offered_again() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    refuse(&rig, &[AppendError::Poisoned]);
    rig.dispatch([1], "u");
    peer.requests(1).await;
    rig.engine.drain(PATIENCE).await;
    assert_eq!((rig.log.seqs().len(), refused(&rig)), (0, 1));
}

#[tokio::test]
async fn a_death_that_had_to_wait_for_room_is_taken_back_when_the_breaker_opens() {
    let peer = peer(vec![say("404 Not Found", "", "")]).await;
    let mut one = upstream("u", peer.target.clone());
    (one.concurrency, one.breaker.failures) = (1, 2);
    let rig = rig(vec![one], Vec::new());
    refuse(&rig, &[AppendError::Busy]);
    rig.dispatch([1, 2], "u");
    let mut entries = rig.log.wait(3).await;
    entries.retain(|entry| entry.event == 1);
    assert!(matches!(entries[0].change, Change::Die(_)) && matches!(entries[1].change, Change::Replay(_)));
}
