//! An upstream with several urls.

use super::*;
use crate::routing::Balance;

fn text(upstream: &str) -> String {
    format!("[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/x'\nto = ['u']\n[upstream.u]\n{upstream}\n")
}

#[test]
fn several_urls_are_targets_with_everything_else_in_common() {
    let written = "url = ['http://a:1/x', 'http://b']\nbalance = 'least_in_flight'\nconcurrency = 3\n\
                   health = { path = '/h?x=1', status = ['204', '3xx'] }\neject = { for = '1m' }";
    let loaded = Directory::with(&text(written)).load().unwrap();
    let upstream = &loaded.table.upstreams["u"];
    let targets = upstream.targets.as_ref().unwrap();
    let urls: Vec<&str> = targets.members.iter().map(|member| &*member.url).collect();
    assert_eq!((urls, targets.balance), (vec!["http://a:1/x", "http://b"], Balance::LeastInFlight));
    assert!(targets.members[0].upstream.target == upstream.target && targets.members[1].upstream.concurrency == 3);
    let health = targets.health.as_ref().unwrap();
    assert_eq!((&*health.path, &health.status[..]), ("/h?x=1", &[(204, 204), (300, 399)][..]));
    assert_eq!((targets.eject.failures, targets.eject.time.as_secs()), (5, 60));

    let printed = effective(&loaded.config);
    let again = Directory::with(printed).load().unwrap();
    assert_eq!(effective(&again.config), printed);
}

#[test]
fn batches_may_have_several_targets_and_a_name_is_good_for_as_long_as_it_says() {
    let written = "url = ['http://a:1/x', 'http://b']\nbatch = { max_items = 2 }\ndns_refresh = '5m'";
    let loaded = Directory::with(&text(written)).load().unwrap();
    let upstream = &loaded.table.upstreams["u"];
    let members = &upstream.targets.as_ref().unwrap().members;
    assert!(
        members.iter().all(|member| member.upstream.batch.is_some() && member.upstream.dns_refresh.as_secs() == 300)
    );
    let standard = Directory::with(&text("url = 'http://a'")).load().unwrap();
    assert_eq!(standard.table.upstreams["u"].dns_refresh.as_secs(), 30);
}

#[test]
fn one_url_has_no_targets() {
    let loaded = Directory::with(&text("url = 'http://a'")).load().unwrap();
    assert!(loaded.table.upstreams["u"].targets.is_none());
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key_and_a_remedy() {
    let two = "url = ['http://a', 'http://b']";
    for (upstream, key, part) in [
        ("url = ['http://a']".to_owned(), "upstream.u.url", "from 2 to 64"),
        ("url = []".to_owned(), "upstream.u.url", "from 2 to 64"),
        ("url = ['http://a', 'http://a']".to_owned(), "upstream.u.url", "twice"),
        ("url = ['http://a', 'https://b']".to_owned(), "upstream.u.url", "mixes"),
        ("url = ['http://a', 'http://u:p@b']".to_owned(), "upstream.u.url", "user or a password"),
        ("url = 'http://a'\ndns_refresh = 'soon'".to_owned(), "upstream.u.dns_refresh", ""),
        ("url = 'http://a'\ndns_refresh = 5".to_owned(), "upstream.u.dns_refresh", ""),
        ("url = 'http://a'\nbalance = 'round_robin'".to_owned(), "upstream.u.balance", "with one url"),
        ("url = 'http://a'\nhealth = { path = '/' }".to_owned(), "upstream.u.health", "with one url"),
        ("url = 'http://a'\neject = { failures = 1 }".to_owned(), "upstream.u.eject", "with one url"),
        (format!("{two}\nbalance = 'random'"), "upstream.u.balance", "not known"),
        (format!("{two}\nhealth = {{ every = '1s' }}"), "upstream.u.health.path", "is missing"),
        (format!("{two}\nhealth = {{ path = 'x' }}"), "upstream.u.health.path", "begins with /"),
        (format!("{two}\nhealth = {{ path = '/', every = '0s' }}"), "upstream.u.health.every", ""),
        (format!("{two}\nhealth = {{ path = '/', status = '1xx' }}"), "upstream.u.health.status", "2xx"),
        (format!("{two}\neject = {{ max = 1.0 }}"), "upstream.u.eject", "below 1"),
        (format!("{two}\neject = {{ for = '2h' }}"), "upstream.u.eject", "1h"),
        (format!("{two}\neject = {{ failures = 0 }}"), "upstream.u.eject.failures", ""),
    ] {
        let directory = Directory::with(&text(&upstream));
        let problems = directory.load().err().unwrap_or_else(|| panic!("{upstream} is taken"));
        let messages = directory.messages(&problems.0).join("\n");
        assert!(messages.contains(key) && messages.contains(part), "{upstream}: {messages}");
        assert!(!messages.contains("u:p"), "{messages}");
    }
}
