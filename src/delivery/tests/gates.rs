//! Owns the tests of what stands between jobs and attempts: breaker, pauses, concurrency, reconfiguration, drain.

use std::time::Duration;

use super::rig::{Act, Said, ok, peer, rig, rig_on, say, table, upstream};
use crate::{
    delivery::BreakerState,
    event::{Change, Outcome},
    routing::Upstream,
};

fn window(size: usize) -> Said {
    Said::Window("u".into(), size)
}

#[tokio::test]
async fn endpoint_refusals_open_the_breaker_and_become_pending_again() {
    let not_found = say("404 Not Found", "", "");
    let mut acts = vec![not_found; 6];
    acts.push(ok());
    let peer = peer(acts).await;
    let mut one = upstream("u", peer.target.clone());
    one.concurrency = 1;
    one.breaker.cool_down = Duration::from_millis(30);
    let rig = rig(vec![one], Vec::new());
    rig.signals.wait(&window(16)).await;

    rig.dispatch(1..=7, "u");
    // Four died, the fifth opened the breaker and stays pending; the four are revived; what waited came back.
    let entries = rig.log.wait(9).await;
    for entry in &entries[..4] {
        assert!(matches!(&entry.change, Change::Die(reason) if reason.code == "refused"));
    }
    assert!(matches!(entries[4].change, Change::Postpone(_)));
    let seqs = rig.log.seqs();
    for (index, entry) in entries[5..9].iter().enumerate() {
        assert_eq!((entry.event, entry.attempt.is_none()), (index as u64 + 1, true));
        assert!(matches!(entry.change, Change::Replay(_)));
        assert_eq!(entry.previous, Some(seqs[index]), "the history leads to the refused attempt");
    }
    let said = rig.signals.wait(&window(1)).await;
    for expected in
        [Said::Paused("u".into(), true), window(0), Said::Returned(6, "u".into()), Said::Returned(7, "u".into())]
    {
        assert!(said.contains(&expected), "{expected:?} in {said:?}");
    }

    // The first probe is refused: pending again, open again.
    rig.signals.clear();
    rig.dispatch([6], "u");
    assert!(matches!(rig.log.wait(10).await[9].change, Change::Postpone(_)));
    rig.signals.wait(&window(1)).await;
    // The second closes it.
    rig.dispatch([6], "u");
    assert_eq!(rig.log.wait(11).await[10].change, Change::Delivered);
    let said = rig.signals.wait(&window(16)).await;
    assert!(said.contains(&Said::Paused("u".into(), false)));
    assert_eq!(rig.engine.breakers()[0].state, BreakerState::Closed);
}

#[tokio::test]
async fn while_the_breaker_is_open_no_attempt_is_spent() {
    let peer = peer(vec![Act::Close]).await;
    let mut one = upstream("u", peer.target.clone());
    one.concurrency = 1;
    let rig = rig(vec![one], Vec::new());
    for seq in 1..=5 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
    }
    rig.signals.wait(&window(0)).await;
    let view = rig.engine.breakers().remove(0);
    assert_eq!((view.state, view.failures), (BreakerState::Open, 5));
    rig.dispatch([6], "u");
    rig.signals.wait(&Said::Returned(6, "u".into())).await;
    assert_eq!(peer.requests(5).await.len(), 5);
}

#[tokio::test]
async fn retry_after_with_429_holds_the_whole_upstream_back_and_is_no_failure() {
    let peer = peer(vec![say("429 Too Many Requests", "retry-after: 9\r\n", ""), ok()]).await;
    let mut one = upstream("u", peer.target.clone());
    one.concurrency = 1;
    one.retry.retry_after_max = Duration::from_millis(50);
    let rig = rig(vec![one], Vec::new());
    rig.signals.wait(&window(16)).await;
    rig.signals.clear();
    rig.dispatch(1..=3, "u");
    assert!(matches!(rig.log.wait(1).await[0].change, Change::Retry(_)));
    let said = rig.signals.wait(&window(16)).await;
    assert_eq!(
        said,
        [window(0), Said::Returned(2, "u".into()), Said::Returned(3, "u".into()), window(16)],
        "no pause of the breaker"
    );
    rig.dispatch([2], "u");
    assert_eq!(rig.log.wait(2).await[1].change, Change::Delivered);
}

#[tokio::test]
async fn attempts_under_way_never_exceed_the_concurrency() {
    let peer = peer(vec![Act::SayAndHang(String::new())]).await;
    let mut one = upstream("u", peer.target.clone());
    one.concurrency = 3;
    let rig = rig(vec![one], Vec::new());
    rig.dispatch(1..=9, "u");
    peer.requests(3).await;
    assert_eq!((peer.connections(), rig.engine.breakers()[0].in_flight), (3, 3));
}

#[tokio::test]
async fn a_hanging_upstream_delays_no_other() {
    let (hanging, good) = (peer(vec![Act::SayAndHang(String::new())]).await, peer(vec![ok()]).await);
    let rig = rig(vec![upstream("hanging", hanging.target.clone()), upstream("good", good.target.clone())], Vec::new());
    rig.dispatch(1..=32, "hanging");
    rig.dispatch(101..=200, "good");
    let entries = rig.log.wait(100).await;
    assert!(entries.iter().all(|entry| &*entry.upstream == "good" && entry.change == Change::Delivered));
}

#[tokio::test]
async fn an_upstream_that_is_removed_gives_its_jobs_back_and_one_that_returns_takes_them() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![upstream("u", peer.target.clone())], Vec::new());
    rig.signals.wait(&Said::Window("u".into(), 32)).await;
    rig.live.swap(table(Vec::new(), Vec::new()));
    rig.engine.configure();
    rig.signals.wait(&window(0)).await;
    rig.dispatch([1], "u");
    rig.signals.wait(&Said::Returned(1, "u".into())).await;

    rig.signals.clear();
    rig.live.swap(table(vec![upstream("u", peer.target.clone())], Vec::new()));
    rig.engine.configure();
    rig.signals.wait(&window(32)).await;
    rig.dispatch([1], "u");
    assert_eq!(rig.log.wait(1).await[0].change, Change::Delivered);
}

#[tokio::test]
async fn an_upstream_that_is_removed_and_returns_at_once_has_one_lane_and_its_window() {
    let peer = peer(vec![Act::SayAndHang(String::new()), ok()]).await;
    let only = || Upstream { concurrency: 1, ..upstream("u", peer.target.clone()) };
    let rig = rig(vec![only()], Vec::new());
    rig.dispatch(1..=3, "u");
    peer.requests(1).await;
    rig.signals.clear();
    // The old lane has no moment to look between the two.
    for upstreams in [Vec::new(), vec![only()]] {
        rig.live.swap(table(upstreams, Vec::new()));
        rig.engine.configure();
    }
    let said = rig.signals.wait(&Said::Returned(3, "u".into())).await;
    assert!(said.contains(&Said::Returned(2, "u".into())), "{said:?}");
    rig.dispatch([4], "u");
    // The attempt under way hangs until its own limit; the new lane does not wait for it.
    assert!(rig.log.wait(1).await.iter().any(|entry| (entry.event, &entry.change) == (4, &Change::Delivered)));
    let said = rig.signals.said();
    let windows = said.iter().filter_map(|one| if let Said::Window(_, window) = one { Some(*window) } else { None });
    let windows: Vec<usize> = windows.collect();
    assert!(windows.first() == Some(&0) && windows.iter().skip(1).all(|window| *window > 0), "{windows:?}");
}

#[tokio::test]
async fn a_changed_concurrency_is_told_and_a_changed_address_is_used() {
    let (old, new) = (peer(vec![ok()]).await, peer(vec![ok()]).await);
    let rig = rig(vec![upstream("u", old.target.clone())], Vec::new());
    rig.dispatch([1], "u");
    rig.log.wait(1).await;
    let mut changed = upstream("u", new.target.clone());
    changed.concurrency = 100;
    rig.live.swap(table(vec![changed], Vec::new()));
    rig.engine.configure();
    rig.signals.wait(&window(400)).await;
    rig.dispatch([2], "u");
    new.requests(1).await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_gives_the_rest_back() {
    let slow = peer(vec![Act::SayAndHang(String::new())]).await;
    let mut one = upstream("u", slow.target.clone());
    (one.concurrency, one.timeout) = (1, Duration::from_millis(200));
    let rig = rig(vec![one], Vec::new());
    rig.dispatch(1..=3, "u");
    slow.requests(1).await;
    rig.engine.drain(super::rig::PATIENCE).await;
    let entries = rig.log.wait(1).await;
    assert_eq!(entries[0].attempt.as_ref().unwrap().outcome, Outcome::Deferred);
    let said = rig.signals.said();
    assert!([2, 3].iter().all(|seq| said.contains(&Said::Returned(*seq, "u".into()))), "{said:?}");
    rig.dispatch([4], "u");
    rig.signals.wait(&Said::Returned(4, "u".into())).await;
}

/// Two shards as in production: runtimes of one thread each, ended with the sender.
fn shards() -> (Vec<tokio::runtime::Handle>, Vec<tokio::sync::oneshot::Sender<()>>) {
    let start = |_| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(ended).is_ok());
        (handle, end)
    };
    (0..2).map(start).unzip()
}

#[tokio::test]
async fn every_job_dispatched_from_another_thread_ends_in_one_entry() {
    let (shards, _ends) = shards();
    let peers = [peer(vec![ok()]).await, peer(vec![ok()]).await, peer(vec![ok()]).await];
    let names = ["a", "b", "c"];
    let upstreams = names.iter().zip(&peers).map(|(name, peer)| upstream(name, peer.target.clone())).collect();
    let rig = rig_on(&shards, upstreams, Vec::new());
    let (engine, planned_at) = (rig.engine.clone(), rig.clock.steady());
    let dispatcher = std::thread::spawn(move || {
        for seq in 0..900 {
            let upstream = names[seq as usize % 3];
            engine.dispatch(super::rig::job(super::rig::event(seq).into(), upstream, planned_at));
        }
    });
    let entries = rig.log.wait(900).await;
    dispatcher.join().unwrap();
    let mut events: Vec<_> = entries.iter().map(|entry| entry.event).collect();
    events.sort_unstable();
    assert!(events.into_iter().eq(0..900));
    assert!(entries.iter().all(|entry| entry.change == Change::Delivered));
    rig.engine.drain(super::rig::PATIENCE).await;
    assert!(rig.engine.breakers().is_empty());
    assert!(peers.iter().all(|peer| peer.connections() <= 8));
}
