//! Owns the tests of guarded upstreams: what a name may lead to, at every connection anew.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::rig::{Act, Rig, ok, peer, rig_with, say, upstream};
use crate::{
    clock::Clock,
    delivery::{Lookup, Resolve, System},
    event::Change,
    routing::{PublicOnly, Target, Upstream},
};

/// A name server that answers something else each time; the last answer repeats.
struct Fickle(Vec<Vec<SocketAddr>>, AtomicUsize);

impl Resolve for Fickle {
    fn resolve(&self, _host: &str, _port: u16) -> Lookup {
        let at = self.1.fetch_add(1, Ordering::SeqCst).min(self.0.len() - 1);
        let answer = self.0[at].clone();
        Box::pin(async move { Ok(answer) })
    }
}

fn rig(resolver: Arc<dyn Resolve>, upstream: Upstream) -> Rig {
    rig_with((&[tokio::runtime::Handle::current()], Clock::system()), resolver, vec![upstream], Vec::new())
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_at_the_next_connection_is_refused_there_and_nothing_is_dialled() {
    // The first answer closes the connection.
    let peer = peer(vec![say("200 OK", "connection: close\r\n", "fine"), ok()]).await;
    let Target::Http(uri) = &peer.target else { panic!() };
    let public: SocketAddr = uri.authority().unwrap().as_str().parse().unwrap();
    // Whoever dialled it would reach the same peer.
    let private = SocketAddr::new("127.0.0.2".parse().unwrap(), public.port());
    let resolver = Arc::new(Fickle(vec![vec![public], vec![private]], AtomicUsize::new(0)));
    let mut guarded = upstream("orders/crm", Target::Http("http://crm.example/".parse().unwrap()));
    guarded.guard = Some(PublicOnly { allow: vec!["127.0.0.1/32".parse().unwrap()] });
    guarded.dns_refresh = std::time::Duration::ZERO;
    let rig = rig(resolver.clone(), guarded);
    rig.dispatch([7], "orders/crm");
    assert_eq!(rig.log.wait(1).await[0].change, Change::Delivered);
    rig.dispatch([8], "orders/crm");
    let refused = rig.log.wait(2).await.remove(1).attempt.unwrap();
    let why = refused.error.unwrap();
    assert!(why.contains("address refused: 127.0.0.2 is loopback"), "{why}");
    assert_eq!((peer.connections(), resolver.1.load(Ordering::SeqCst)), (1, 2), "one look-up for a connection");
    assert_eq!(rig.metrics.upstream("orders/crm").addresses_refused.get(), 1);
}

#[tokio::test]
async fn a_redirect_is_refused_and_nobody_goes_where_it_leads() {
    let inner = peer(vec![ok()]).await;
    let Target::Http(uri) = &inner.target else { panic!() };
    let outer = peer(vec![say("302 Found", &format!("location: {uri}\r\n"), "")]).await;
    let mut guarded = upstream("orders/crm", outer.target.clone());
    guarded.guard = Some(PublicOnly { allow: vec!["127.0.0.1/32".parse().unwrap()] });
    let rig = rig(Arc::new(System), guarded);
    rig.dispatch([7], "orders/crm");
    let entry = rig.log.wait(1).await.remove(0);
    assert!(matches!(&entry.change, Change::Die(reason) if reason.code == "redirect"), "{:?}", entry.change);
    assert_eq!((outer.connections(), inner.connections()), (1, 0));
}

#[tokio::test]
async fn of_several_addresses_only_those_that_may_be_are_dialled() {
    let peer = peer(vec![ok(), Act::Close]).await;
    let Target::Http(uri) = &peer.target else { panic!() };
    let port = uri.port_u16().unwrap();
    let addresses = ["127.0.0.3", "127.0.0.1", "127.0.0.2"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    let mut guarded = upstream("u", Target::Http("http://crm.example/".parse().unwrap()));
    guarded.guard = Some(PublicOnly { allow: vec!["127.0.0.1/32".parse().unwrap()] });
    let rig = rig(Arc::new(Fickle(vec![addresses.to_vec()], AtomicUsize::new(0))), guarded);
    rig.dispatch([7], "u");
    assert_eq!(rig.log.wait(1).await[0].change, Change::Delivered);
    assert_eq!(peer.connections(), 1);
}
