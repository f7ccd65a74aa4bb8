//! Tests of the composition of the live table, with a name server by hand.

use std::collections::BTreeSet;

use super::*;
use crate::{
    config::load_with,
    delivery::Lookup,
    routing::SignPolicy,
    state::{Closed, testing::registration},
};

/// Leads names ending in `.inside` to a private address, `both.example` to two, `nothing.example` to none, all others to
/// a public one.
struct Names;

impl Resolve for Names {
    fn resolve(&self, host: &str, port: u16) -> Lookup {
        let addresses: &[&str] = match host {
            "both.example" => &["8.8.8.8", "10.0.0.1"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            "nothing.example" => &[],
            host if host.ends_with(".inside") => &["10.0.0.1"],
            _ => &["8.8.8.8"],
        };
        let found: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
        Box::pin(async move { Ok(found) })
    }
}

fn config(text: &str) -> (Table, SubscribersSettings) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stagepost.toml");
    let head = "[[listen]]\naddress = '127.0.0.1:0'\n[source.shop]\npath = '/*'\n[[route]]\nsource = 'shop'\nto = []\n";
    std::fs::write(&path, format!("{head}{text}")).unwrap();
    let loaded = load_with(&path, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    (loaded.table, loaded.config.subscribers)
}

const TOPIC: &str = "topic = 'orders'\n[topic.orders]\nmax_subscribers = 3\n";

pub(in crate::app) fn composed(text: &str) -> (Subscribers, Live, Arc<Metrics>) {
    let (base, settings) = config(text);
    let (live, metrics) = (Live::new(base.clone()), Arc::<Metrics>::default());
    let (clock, _) = Clock::manual(Timestamp::from_millis(10_000));
    let made = Subscribers::new(live.clone(), base, settings, clock, metrics.clone(), log(), Arc::new(Names));
    (made, live, metrics)
}

fn log() -> Arc<dyn Log> {
    crate::log::memory::MemoryLog::automatic()
}

#[test]
fn where_alerts_go_is_told_without_a_path_that_may_be_a_credential() {
    let alerts = "topic = 'orders'\n[topic.orders]\n[subscriber.crm]\ntopic = 'orders'\nurl = 'http://crm/hook'\n\
                  [alerts.to.chat]\nkind = 'slack'\nurl = 'literal:https://hooks.example:8443/T0/s3cret'\n\
                  [alerts.to.ops]\nurl = 'http://ops/s3cret'\n";
    let (subscribers, ..) = composed(alerts);
    let told: Vec<(String, String)> =
        subscribers.configured().into_iter().map(|(name, url)| (name.into(), url)).collect();
    let expected = [
        ("orders/crm", "http://crm/hook"),
        ("stagepost.alerts/chat", "https://hooks.example:8443/…"),
        ("stagepost.alerts/ops", "http://ops/…"),
    ];
    assert_eq!(told, expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
}

fn known(names: &[&str]) -> Subscribed {
    let all = names.iter().map(|name| (format!("orders/{name}").into(), registered(registration(name))));
    Subscribed { registered: Arc::new(all.collect()), ..Subscribed::default() }
}

fn registered(mut registration: Registration) -> Registered {
    registration.url = "http://app.example/hook".into();
    Registered { registration, seq: 1 }
}

/// What the routes of the live table lead to.
fn led_to(live: &Live) -> BTreeSet<String> {
    live.snapshot().routes.iter().flat_map(|route| &route.to).map(ToString::to_string).collect()
}

#[test]
fn what_the_log_says_is_in_the_table_and_a_disabled_one_gets_nothing() {
    let (subscribers, live, metrics) = composed(TOPIC);
    subscribers.changed(known(&["a", "b"]));
    assert_eq!(led_to(&live), ["orders/a".to_owned(), "orders/b".to_owned()].into());
    assert!(live.snapshot().upstreams["orders/a"].guard.is_some());
    let before = live.snapshot().upstreams["orders/a"].clone();
    let mut disabled = known(&["a", "b"]);
    let closed = Closed { seq: 2, since: Timestamp::ZERO, disabled: Some("why".into()), actor: "relay".into() };
    disabled.closed.insert("orders/b".into(), closed);
    disabled.held.insert("orders/a".into());
    subscribers.changed(disabled);
    assert_eq!(led_to(&live), ["orders/a".to_owned()].into());
    assert!(live.snapshot().upstreams.contains_key("orders/b"), "what is under way is finished");
    assert!(Arc::ptr_eq(&before, &live.snapshot().upstreams["orders/a"]), "connections are kept");
    let counts: Vec<i64> = metrics.subscribers.iter().map(crate::telemetry::Gauge::get).collect();
    assert_eq!(counts, [0, 1, 1, 0]);
    subscribers.changed(known(&[]));
    assert_eq!(led_to(&live), BTreeSet::new());
}

#[test]
fn the_configuration_wins_and_what_has_no_place_in_it_is_kept_off_until_it_has_again() {
    let (subscribers, live, _) = composed(TOPIC);
    subscribers.changed(known(&["a", "b"]));
    let (base, settings) = config(&format!("{TOPIC}[subscriber.a]\ntopic = 'orders'\nurl = 'http://config.example'\n"));
    let told = subscribers.reconfigure(base, settings);
    assert_eq!(
        told,
        [
            "warning: subscriber orders/a is off: the configuration has a subscriber of this name; its deliveries are held"
        ]
    );
    assert_eq!(led_to(&live).len(), 2);
    assert!(live.snapshot().upstreams["orders/a"].guard.is_none(), "it is the one of the configuration");
    let (base, settings) = config("");
    let told = subscribers.reconfigure(base, settings);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("the configuration has no topic \"orders\""), "{told:?}");
    assert!(live.snapshot().upstreams.is_empty());
    let (base, settings) = config(TOPIC);
    assert!(subscribers.reconfigure(base, settings).is_empty());
    assert_eq!(led_to(&live).len(), 2);
}

#[test]
fn a_registration_is_refused_if_there_is_no_room_or_its_name_leads_inside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (subscribers, ..) = composed(&format!("{TOPIC}[subscribers]\nmax = 2\n"));
    let check = |change: &dyn Fn(&mut Registration)| {
        let mut one = registered(registration("new")).registration;
        change(&mut one);
        subscribers.check(&one, true).err().unwrap_or_default()
    };
    let urls = [
        ("http://app.example/", ""),
        ("http://app.inside/", "app.inside leads to 10.0.0.1, which is private"),
        ("http://both.example/", "leads to 10.0.0.1, which is private"),
        ("http://mapped.example/", "which is loopback"),
        ("http://nothing.example/", "nothing.example has no address"),
        ("http://10.0.0.1/", "leads to 10.0.0.1, which is private"),
    ];
    for (url, why) in urls {
        let said = check(&|one| one.url = url.into());
        assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{url}: {said}");
    }
    assert!(check(&|one| one.topic = "other".into()).contains("no topic \"other\""));
    assert!(check(&|one| one.when = Some("(".into())).starts_with("when: "));
    subscribers.changed(known(&["new"]));
    assert!(check(&|_| ()).contains("orders/new is registered already"));
    subscribers.changed(known(&["a", "b"]));
    assert!(check(&|_| ()).contains("subscribers.max allows no more"));
    let few = "topic = 'orders'\n[topic.orders]\nmax_subscribers = 1\n";
    let (base, settings) = config(&format!("{few}[subscriber.c]\ntopic = 'orders'\nurl = 'http://x'\n"));
    subscribers.reconfigure(base, settings);
    assert!(check(&|_| ()).contains("max_subscribers allows no more"));
}

#[test]
fn a_secret_stops_signing_when_its_overlap_ends() {
    let (base, settings) = config(TOPIC);
    let live = Live::new(base.clone());
    let (clock, hand) = Clock::manual(Timestamp::from_millis(10_000));
    let subscribers = Subscribers::new(live.clone(), base, settings, clock, Arc::default(), log(), Arc::new(Names));
    let mut known = known(&["a"]);
    let all = Arc::make_mut(&mut known.registered).get_mut("orders/a").unwrap();
    let mut old = all.registration.secrets[0].clone();
    old.until_ms = Some(15_000);
    all.registration.secrets.push(old);
    subscribers.changed(known);
    let secrets = |live: &Live| match &live.snapshot().upstreams["orders/a"].sign {
        Some(SignPolicy::Own(signer)) => signer.references().split(", ").count(),
        _ => 0,
    };
    assert_eq!(secrets(&live), 2);
    hand.advance(Duration::from_millis(4_999));
    subscribers.tick();
    assert_eq!(secrets(&live), 2);
    hand.advance(Duration::from_millis(1));
    subscribers.tick();
    assert_eq!(secrets(&live), 1);
}
