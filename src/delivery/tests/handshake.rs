//! Upstreams that are asked for their permission before anything is sent.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::rig::{Act, Peer, Rig, Said, cloudevents, ok, peer, rig, rig_with, say, table, upstream};
use crate::{
    clock::Clock,
    delivery::{Throttle, resolve::testing::Told},
    routing::{Handshake, PaceRate, PublicOnly, Target, Upstream},
};

fn asked(target: Target) -> Upstream {
    let handshake = Handshake { origin: HeaderValue::from_static("us.example") };
    Upstream { cloudevents: Some(cloudevents(Some(handshake))), ..upstream("u", target) }
}

fn permits(headers: &str) -> Act {
    say("200 OK", &format!("webhook-allowed-origin: *\r\n{headers}"), "")
}

fn window(size: usize) -> Said {
    Said::Window("u".into(), size)
}

/// Waits until this came of so many questions: granted, refused or unanswered.
async fn heard(rig: &Rig, result: usize, count: u64) {
    let metrics = rig.metrics.upstream("u");
    while metrics.handshakes[result].get() < count {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn methods(requests: &[String]) -> Vec<&str> {
    requests.iter().map(|request| request.split(' ').next().unwrap()).collect()
}

fn throttle(rig: &Rig) -> Option<Throttle> {
    rig.engine.breakers()[0].throttled.map(|(throttle, _)| throttle)
}

#[tokio::test]
async fn nothing_is_sent_before_the_permission_and_what_is_sent_names_its_origin() {
    let peer = peer(vec![permits(""), ok()]).await;
    let rig = rig(vec![asked(peer.target.clone())], Vec::new());
    rig.dispatch([1], "u");
    // It came before the gate could be told closed; the agenda sends it again when the window opens.
    let said = rig.signals.wait(&window(32)).await;
    assert!(said.contains(&Said::Paused("u".into(), true)) && said.last() == Some(&window(32)), "{said:?}");
    assert!(said.contains(&Said::Returned(1, "u".into())), "{said:?}");
    rig.dispatch([1], "u");
    rig.log.wait(1).await;
    let requests = peer.requests(2).await;
    assert_eq!(methods(&requests), ["OPTIONS", "POST"]);
    assert!(requests[0].contains("webhook-request-origin: us.example") && !requests[0].contains("request-rate"));
    assert!(requests[1].contains("\r\norigin: us.example\r\n"), "{}", requests[1]);
    assert_eq!((rig.engine.breakers()[0].handshake.as_deref(), throttle(&rig)), (Some("granted"), None));
}

#[tokio::test]
async fn without_a_permission_nothing_is_spent_and_it_is_asked_again_and_again() {
    let no = say("405 Method Not Allowed", "", "");
    let peer = peer(vec![no, Act::Close, permits("webhook-allowed-rate: 600\r\n"), ok()]).await;
    let rig = rig(vec![asked(peer.target.clone())], Vec::new());
    heard(&rig, 1, 1).await;
    rig.dispatch([1], "u");
    rig.signals.wait(&Said::Returned(1, "u".into())).await;
    let view = rig.engine.breakers().remove(0);
    assert_eq!((view.limit, view.failures), (Some(0), 0));
    assert_eq!(throttle(&rig), Some(Throttle::Handshake));
    assert_eq!(view.handshake.as_deref(), Some("refused: it answered 405"));
    pass(Duration::from_secs(6)).await;
    heard(&rig, 2, 1).await;
    assert!(rig.engine.breakers()[0].handshake.as_deref().unwrap().starts_with("unanswered: the connection broke"));
    pass(Duration::from_secs(11)).await;
    heard(&rig, 0, 1).await;
    rig.signals.wait(&Said::Paused("u".into(), false)).await;
    let view = rig.engine.breakers().remove(0);
    assert_eq!((view.handshake.as_deref(), view.rate), (Some("granted"), Some(10.0)));
    assert!(rig.log.seqs().is_empty(), "nothing was written about the delivery");
}

#[tokio::test]
async fn a_permission_is_asked_for_anew_each_day_and_one_that_is_taken_back_closes_the_gate() {
    let peer = peer(vec![permits(""), permits(""), say("410 Gone", "", "")]).await;
    let rig = rig(vec![asked(peer.target.clone())], Vec::new());
    heard(&rig, 0, 1).await;
    rig.signals.wait(&Said::Paused("u".into(), false)).await;
    pass(Duration::from_secs(24 * 3600 + 1)).await;
    heard(&rig, 0, 2).await;
    assert_eq!(throttle(&rig), None);
    rig.signals.clear();
    pass(Duration::from_secs(24 * 3600 + 1)).await;
    heard(&rig, 1, 1).await;
    rig.signals.wait(&window(0)).await;
    rig.signals.wait(&Said::Paused("u".into(), true)).await;
    assert_eq!(throttle(&rig), Some(Throttle::Handshake));
}

#[tokio::test]
async fn a_reload_asks_at_once_what_was_refused_and_a_permission_that_is_not_needed_any_more_is_not_missed() {
    let peer = peer(vec![say("403 Forbidden", "", ""), permits("")]).await;
    let rig = rig(vec![asked(peer.target.clone())], Vec::new());
    heard(&rig, 1, 1).await;
    rig.live.swap(table(vec![asked(peer.target.clone())], Vec::new()));
    rig.engine.configure();
    heard(&rig, 0, 1).await;
    rig.signals.wait(&window(32)).await;

    let (silent, free): (Peer, Upstream) =
        (super::rig::peer(vec![Act::SayAndHang(String::new())]).await, upstream("u", peer.target.clone()));
    rig.live.swap(table(vec![asked(silent.target.clone())], Vec::new()));
    rig.engine.configure();
    silent.requests(1).await;
    rig.signals.wait(&window(0)).await;
    rig.signals.clear();
    rig.live.swap(table(vec![free], Vec::new()));
    rig.engine.configure();
    rig.signals.wait(&window(32)).await;
    assert_eq!((rig.engine.breakers()[0].handshake.clone(), throttle(&rig)), (None, None));
}

#[tokio::test]
async fn the_permitted_rate_can_only_slow_and_a_configured_one_is_asked_for() {
    let peer = peer(vec![permits("webhook-allowed-rate: 1\r\n")]).await;
    let rate = PaceRate::new(5, Duration::from_secs(1), None).unwrap();
    let mut one = asked(peer.target.clone());
    one.pace.rate = Some(rate);
    let rig = rig(vec![one], Vec::new());
    rig.signals.wait(&Said::Paused("u".into(), false)).await;
    assert!(peer.requests(1).await[0].contains("webhook-request-rate: 300\r\n"));
    assert_eq!(rig.engine.breakers()[0].rate, Some(1.0 / 60.0));
    rig.dispatch([1], "u");
    rig.signals.wait(&Said::Returned(1, "u".into())).await;
    assert_eq!(throttle(&rig), Some(Throttle::AllowedRate));
}

#[tokio::test]
async fn the_guard_judges_the_address_that_is_asked() {
    let (told, peer) = (Told::default(), peer(vec![permits("")]).await);
    told.tell("hook.test", &["127.0.0.1"]);
    let Target::Http(uri) = &peer.target else { unreachable!() };
    let named = Target::Http(format!("http://hook.test:{}/", uri.port_u16().unwrap()).parse().unwrap());
    let guarded = Upstream { guard: Some(PublicOnly { allow: Vec::new() }), ..asked(named) };
    let here = tokio::runtime::Handle::current();
    let rig = rig_with((&[here], Clock::system()), Arc::new(told), vec![guarded], Vec::new());
    heard(&rig, 2, 1).await;
    let said = rig.engine.breakers()[0].handshake.clone().unwrap();
    assert!(said.contains("127.0.0.1 is loopback"), "{said}");
    assert_eq!(peer.connections(), 0);
}
