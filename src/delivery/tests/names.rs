//! Upstreams that are reached by a name: looking it up, the guard.

use std::sync::Arc;

use super::rig::{Act, Peer, Rig, ok, peer, rig_with, upstream};
use crate::{
    clock::Clock,
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
