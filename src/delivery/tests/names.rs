//! Upstreams that are reached by a name: looking it up, the guard.

use std::{sync::Arc, time::Duration};

use super::rig::{Act, Peer, Rig, ok, peer, peer_at, rig_with, upstream};
use crate::{
    clock::{Clock, ManualClock, Timestamp},
    delivery::resolve::testing::Told,
    event::Outcome,
    routing::{PublicOnly, Target, Upstream},
};

/// An engine whose names lead where `told` says.
fn rig(told: &Told, upstreams: Vec<Upstream>) -> Rig {
    let here = tokio::runtime::Handle::current();
    rig_with((&[here], Clock::system()), Arc::new(told.clone()), upstreams, Vec::new())
}

/// A url with this name that leads to the peer's port.
fn named(name: &str, peer: &Peer) -> Target {
    let Target::Http(uri) = &peer.target else { unreachable!() };
    Target::Http(format!("http://{name}:{}/", uri.port_u16().unwrap()).parse().unwrap())
}

#[tokio::test]
async fn a_guarded_name_is_judged_by_the_address_that_is_dialled() {
    let (told, peer) = (Told::default(), peer(vec![ok()]).await);
    let guarded = |allow: &[&str]| PublicOnly { allow: allow.iter().map(|net| net.parse().unwrap()).collect() };
    let target = named("hook.test", &peer);
    let refused = Upstream { guard: Some(guarded(&[])), ..upstream("refused", target.clone()) };
    let allowed = Upstream { guard: Some(guarded(&["127.0.0.0/8"])), ..upstream("allowed", target) };
    let rig = rig(&told, vec![refused, allowed]);
    told.tell("hook.test", &["127.0.0.1"]);
    rig.dispatch([1], "refused");
    let attempt = rig.log.wait(1).await.remove(0).attempt.unwrap();
    assert!(attempt.error.unwrap().contains("127.0.0.1 is loopback"));
    assert_eq!((attempt.outcome, peer.connections()), (Outcome::Deferred, 0));
    rig.dispatch([2], "allowed");
    assert_eq!(rig.log.wait(2).await.remove(1).attempt.unwrap().outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_name_that_nobody_knows_defers_and_is_looked_up_again() {
    let (told, peer) = (Told::default(), peer(vec![Act::Close]).await);
    let rig = rig(&told, vec![upstream("u", named("hook.test", &peer))]);
    rig.dispatch([1], "u");
    let attempt = rig.log.wait(1).await.remove(0).attempt.unwrap();
    assert_eq!((attempt.error.as_deref(), told.asked("hook.test")), (Some("can't connect: the name is not known"), 1));
    rig.dispatch([2], "u");
    rig.log.wait(2).await;
    assert_eq!(told.asked("hook.test"), 2);
}

/// A peer on each of these addresses of this machine, all on one port; every one answers 200.
async fn peers(addresses: &[&str]) -> (u16, Vec<Peer>) {
    'port: loop {
        let mut peers = vec![peer_at(&format!("{}:0", addresses[0]), vec![ok()]).await.unwrap()];
        let Target::Http(uri) = &peers[0].target else { unreachable!() };
        let port = uri.port_u16().unwrap();
        for address in &addresses[1..] {
            match peer_at(&format!("{address}:{port}"), vec![ok()]).await {
                Ok(peer) => peers.push(peer),
                Err(_taken) => continue 'port,
            }
        }
        return (port, peers);
    }
}

fn clocked(told: &Told, upstream: Upstream) -> (Rig, Arc<ManualClock>) {
    let (clock, hand) = Clock::manual(Timestamp::from_millis(1_000_000));
    let here = tokio::runtime::Handle::current();
    (rig_with((&[here], clock), Arc::new(told.clone()), vec![upstream], Vec::new()), hand)
}

#[tokio::test]
async fn a_connection_to_an_address_that_is_gone_is_not_used_again_after_the_refresh() {
    let (told, (port, peers)) = (Told::default(), peers(&["127.0.0.1", "127.0.0.2"]).await);
    told.tell("app.test", &["127.0.0.1"]);
    let target = Target::Http(format!("http://app.test:{port}/").parse().unwrap());
    let (rig, hand) = clocked(&told, Upstream { concurrency: 1, ..upstream("u", target) });
    for seq in 1..4 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
    }
    assert_eq!((peers[0].requests(3).await.len(), peers[0].connections(), told.asked("app.test")), (3, 1, 1));
    told.tell("app.test", &["127.0.0.2"]);
    hand.advance(Duration::from_secs(31));
    // The first that finds the addresses too old has somebody look them up, and does not wait for that.
    let mut seq = 4;
    while peers[1].connections() == 0 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
        seq += 1;
    }
    let before = peers[0].requests(3).await.len();
    for seq in seq..seq + 5 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
    }
    assert_eq!((peers[0].requests(3).await.len(), told.asked("app.test")), (before, 2));
    // A look-up that fails changes nothing.
    told.tell("app.test", &[]);
    hand.advance(Duration::from_secs(31));
    let next = seq + 5;
    for seq in next..next + 5 {
        rig.dispatch([seq], "u");
        assert_eq!(
            rig.log.wait(seq as usize).await.last().unwrap().attempt.as_ref().unwrap().outcome,
            Outcome::Delivered
        );
    }
    assert_eq!((peers[0].connections(), peers[1].connections()), (1, 1));
}

#[tokio::test]
async fn connections_are_spread_over_all_addresses_and_one_that_is_dead_is_left_out() {
    let (told, (port, peers)) = (Told::default(), peers(&["127.0.0.1", "127.0.0.3"]).await);
    told.tell("app.test", &["127.0.0.2", "127.0.0.1", "127.0.0.3"]);
    let target = Target::Http(format!("http://app.test:{port}/").parse().unwrap());
    let (rig, _hand) = clocked(&told, Upstream { concurrency: 6, ..upstream("u", target) });
    rig.dispatch(1..61, "u");
    let attempted = rig.log.wait(60).await;
    assert!(attempted.iter().all(|one| one.attempt.as_ref().unwrap().outcome == Outcome::Delivered));
    let (one, other) = (peers[0].connections(), peers[1].connections());
    assert!(one.min(other) >= 3 && one + other <= 12, "{one} and {other}: each worker moves once at the most");
    assert_eq!(told.asked("app.test"), 1, "one look-up for all workers");
}

#[tokio::test]
async fn an_address_where_no_answer_comes_is_left_out_for_a_while() {
    let told = Told::default();
    let (port, good) = peers(&["127.0.0.2"]).await;
    let silent = peer_at(&format!("127.0.0.1:{port}"), vec![Act::Close]).await.unwrap();
    told.tell("app.test", &["127.0.0.1", "127.0.0.2"]);
    let target = Target::Http(format!("http://app.test:{port}/").parse().unwrap());
    let (rig, _hand) = clocked(&told, Upstream { concurrency: 1, ..upstream("u", target) });
    for seq in 1..6 {
        rig.dispatch([seq], "u");
        rig.log.wait(seq as usize).await;
    }
    assert_eq!((silent.connections(), good[0].requests(4).await.len()), (1, 4));
}
