//! Owns the tests of attempts that hold several events.

use std::{fs, sync::Arc, time::Duration};

use super::rig::{Said, ok, peer, rig, say, upstream};
use crate::{
    event::{Change, Outcome},
    routing::{
        BatchFormat, BatchPolicy, Compression, Content, FilePolicy, Pace, PaceRate, SignPolicy, Target, Upstream,
    },
};

fn batched(target: Target, items: usize, wait: Duration) -> Upstream {
    let policy = BatchPolicy::new(items, 1 << 20, wait, BatchFormat::Ndjson).unwrap();
    Upstream { concurrency: 1, batch: Some(policy), sign: Some(SignPolicy::Never), ..upstream("u", target) }
}

const LONG: Duration = Duration::from_secs(50);

#[tokio::test]
async fn full_batches_go_at_once_in_the_order_of_the_jobs_and_settle_every_event() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![batched(peer.target.clone(), 5, LONG)], Vec::new());
    rig.signals.wait(&Said::Window("u".into(), 16)).await;
    rig.dispatch(1..=10, "u");
    let entries = rig.log.wait(10).await;
    assert_eq!(entries.iter().map(|entry| entry.event).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert!(
        entries.iter().all(|entry| entry.change == Change::Delivered && entry.attempt.as_ref().unwrap().number == 1)
    );
    let requests = peer.requests(2).await;
    for request in &requests {
        let head = request.to_ascii_lowercase();
        assert!(head.starts_with("post / http/1.1") && head.contains("stagepost-batch-size: 5"), "{head}");
        assert!(head.contains("content-type: application/x-ndjson") && !head.contains("x-kind"), "{head}");
        assert!(request.ends_with(&"{\"a\":1}\n".repeat(5)), "{request}");
    }
    let key = |request: &str| request.lines().find(|line| line.starts_with("idempotency-key")).unwrap().to_owned();
    assert_ne!(key(&requests[0]), key(&requests[1]));
}

#[tokio::test]
async fn a_batch_that_does_not_fill_goes_when_its_first_event_has_waited_long_enough() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![batched(peer.target.clone(), 100, Duration::from_millis(20))], Vec::new());
    rig.dispatch(1..=3, "u");
    let entries = rig.log.wait(3).await;
    assert!(entries.iter().all(|entry| entry.change == Change::Delivered));
}

#[tokio::test]
async fn a_refused_batch_is_halved_until_the_bad_event_stands_alone_and_only_that_one_dies() {
    // 1 2 3 4, then 1 2, then 3 4, 3, 4.
    let bad = || say("400 Bad Request", "", "");
    let peer = peer(vec![bad(), ok(), bad(), ok(), bad()]).await;
    let rig = rig(vec![batched(peer.target.clone(), 4, LONG)], Vec::new());
    rig.dispatch(1..=4, "u");
    let entries = rig.log.wait(4).await;
    let changes: Vec<(u64, bool)> =
        entries.iter().map(|entry| (entry.event, entry.change == Change::Delivered)).collect();
    assert_eq!(changes, [(1, true), (2, true), (3, true), (4, false)]);
    assert!(matches!(&entries[3].change, Change::Die(reason) if reason.code == "refused"));
    assert_eq!(rig.metrics.upstream("u").batch_splits.get(), 2);
    assert_eq!(peer.requests(5).await.len(), 5);
}

#[tokio::test]
async fn a_batch_is_one_attempt_for_the_rate_and_each_part_of_one_that_is_halved_is_another() {
    let peer = peer(vec![say("400 Bad Request", "", ""), ok()]).await;
    let rate = Some(PaceRate::new(20, Duration::from_secs(1), Some(1)).unwrap());
    let pace = Pace { rate, ..Pace::standard() };
    let one = Upstream { pace, ..batched(peer.target.clone(), 4, Duration::from_millis(20)) };
    let rig = rig(vec![one], Vec::new());
    let started = rig.clock.elapsed();
    rig.dispatch(1..=4, "u");
    assert!(rig.log.wait(4).await.iter().all(|entry| entry.change == Change::Delivered));
    peer.requests(3).await;
    // The bucket begins empty: the third request is no earlier than three tokens.
    assert!(rig.clock.elapsed() - started >= Duration::from_millis(145));
    rig.dispatch(5..=8, "u");
    assert_eq!(peer.requests(4).await.len(), 4, "no token is spent on a batch that has ended");
}

#[tokio::test]
async fn a_batch_goes_although_the_rate_lets_the_next_one_begin_much_later() {
    let peer = peer(vec![ok()]).await;
    let rate = Some(PaceRate::new(1, Duration::from_millis(1500), Some(1)).unwrap());
    let pace = Pace { rate, ..Pace::standard() };
    let one = Upstream { pace, ..batched(peer.target.clone(), 100, Duration::from_millis(50)) };
    let rig = rig(vec![one], Vec::new());
    // Nothing may begin for long: whatever comes now goes back, until the window opens.
    rig.signals.wait(&Said::Window("u".into(), 0)).await;
    loop {
        let said = rig.signals.said();
        if said.iter().any(|one| matches!(one, Said::Window(_, window) if *window > 0)) {
            break;
        }
        tokio::task::yield_now().await;
    }
    rig.dispatch(1..=3, "u");
    assert!(rig.log.wait(3).await.iter().all(|entry| entry.change == Change::Delivered));
    assert_eq!(peer.requests(1).await.len(), 1, "three events in one request");
}

#[tokio::test]
async fn an_answer_about_the_endpoint_defers_a_whole_batch_and_counts_once_for_the_breaker() {
    let peer = peer(vec![say("404 Not Found", "", "")]).await;
    let rig = rig(vec![batched(peer.target.clone(), 4, LONG)], Vec::new());
    rig.dispatch(1..=4, "u");
    for entry in rig.log.wait(4).await {
        assert_eq!(entry.attempt.unwrap().outcome, Outcome::Deferred);
        assert!(matches!(entry.change, Change::Retry(_)), "{:?}", entry.change);
    }
    assert_eq!(rig.engine.breakers()[0].failures, 1);
}

#[tokio::test]
async fn a_drain_gives_back_what_was_being_collected() {
    let peer = peer(vec![ok()]).await;
    let rig = rig(vec![batched(peer.target.clone(), 100, LONG)], Vec::new());
    rig.dispatch(1..=3, "u");
    rig.engine.drain(Duration::from_secs(20)).await;
    for seq in 1..=3 {
        rig.signals.wait(&Said::Returned(seq, "u".into())).await;
    }
    assert!(rig.log.seqs().is_empty());
}

#[tokio::test]
async fn lines_are_on_disk_before_their_deliveries_settle_and_what_can_not_be_written_waits() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    let hour = (1 << 20, Duration::from_secs(3600));
    let policy = FilePolicy::new(&inner.join("e-{time}"), Content::Event, hour, Compression::None).unwrap();
    let rig = rig(vec![batched(Target::File(Arc::new(policy)), 2, LONG)], Vec::new());
    rig.dispatch(1..=2, "u");
    for entry in rig.log.wait(2).await {
        let attempt = entry.attempt.unwrap();
        assert_eq!((attempt.outcome, attempt.status), (Outcome::Deferred, None));
        assert!(attempt.error.unwrap().starts_with("the file can't be written: "));
    }
    fs::create_dir(&inner).unwrap();
    rig.dispatch(3..=4, "u");
    let delivered = rig.log.wait(4).await.split_off(2);
    assert!(delivered.iter().all(|entry| entry.change == Change::Delivered));
    let url = &delivered[0].attempt.as_ref().unwrap().sent.url;
    let path = format!("{}.part", url.strip_prefix("file://").unwrap());
    let text = fs::read_to_string(path).unwrap();
    let ids: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ids.len(), 2);
    rig.engine.drain(Duration::from_secs(20)).await;
}
