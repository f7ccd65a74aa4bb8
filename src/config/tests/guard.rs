//! `guard` of upstreams.

use super::*;
use crate::routing::PublicOnly;

fn upstream(url: &str, keys: &str) -> String {
    format!("{MINIMAL}\n[upstream.u]\nurl = '{url}'\n{keys}\n")
}

#[test]
fn a_guard_is_read_with_its_exceptions_and_is_off_by_default() {
    let of = |keys: &str| loaded(&upstream("http://app.example", keys)).table.upstreams["u"].guard.clone();
    assert_eq!(of(""), None);
    assert_eq!(of("guard = true"), Some(PublicOnly::default()));
    let allow = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!(of("guard = true\nguard_allow = ['10.0.0.0/8', '::1']"), Some(PublicOnly { allow }));
}

#[test]
fn a_guard_that_could_never_be_passed_is_refused_with_the_remedy() {
    for (url, keys, remedy) in [
        ("http://10.0.0.1", "guard = true", "add it to guard_allow"),
        ("http://[::ffff:127.0.0.1]:80", "guard = true", "which is loopback"),
        ("unix:/run/app.sock", "guard = true", "has no meaning for a unix: url"),
        ("http://app.example", "guard_allow = ['10.0.0.0/8']", "has no effect without guard = true"),
        ("http://app.example", "guard = true\nguard_allow = ['x']", "write an address or a CIDR"),
    ] {
        let directory = Directory::with(&upstream(url, keys));
        let problems = directory.load().err().unwrap();
        let said = directory.messages(&problems.0).join("\n");
        assert!(said.contains(remedy), "{url} {keys}: {said}");
    }
    loaded(&upstream("http://10.0.0.1", "guard = true\nguard_allow = ['10.0.0.1']"));
}
