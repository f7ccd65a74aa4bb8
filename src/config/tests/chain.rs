//! Answers that become events, and shadows.

use super::*;

const BASE: &str = "[[listen]]\naddress = '127.0.0.1:1'\n[source.app]\npath = '/x'\nto = ['u']\n[topic.done]\n\
                    [upstream.u]\nurl = 'http://x'\n";

fn load(text: &str) -> Loaded {
    Directory::with(&format!("{BASE}{text}")).load().unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn an_upstream_publishes_its_answers_and_that_is_printed_and_read_again() {
    let loaded = load("publish = 'done'\npublish_type = '.kind'\n");
    let policy = loaded.table.upstreams["u"].publish.as_ref().unwrap();
    assert_eq!((&*policy.topic, policy.event_type.as_ref().unwrap().text()), ("done", ".kind"));
    let directory = Directory::with(effective(&loaded.config));
    let again = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(effective(&again.config), effective(&loaded.config));
}

#[test]
fn a_shadow_is_no_upstream_of_a_route_and_belongs_to_the_one_that_is_named_or_stands_beside_it() {
    let named = load("[upstream.s]\nurl = 'http://y'\nshadow = true\nshadow_of = 'u'\n");
    let beside = load(
        "[upstream.s]\nurl = 'http://y'\nshadow = true\n[[route]]\nsource = 'app'\nwhen = '.a'\nto = ['u', 's']\n",
    );
    for loaded in [&named, &beside] {
        let shadows: Vec<&str> = loaded.table.shadows["u"].iter().map(|shadow| &*shadow.name).collect();
        assert_eq!(shadows, ["s"]);
        assert!(!loaded.table.upstreams.contains_key("s"));
        assert!(loaded.table.routes.iter().all(|route| !route.leads_to("s")));
        assert_eq!(loaded.table.shadows["u"][0].shadow.as_ref().unwrap().memory, 16 << 20);
    }
    assert!(diff(&named.config, &load("").config).removed_upstreams.is_empty(), "it has no deliveries to be held");
}

#[test]
fn notices_are_for_all_upstreams_or_for_single_ones() {
    let loaded = load(
        "[server]\nnotify_dead = 'done'\nnotify_dead_max = 7\n[upstream.v]\nurl = 'http://y'\nnotify_dead = false\n\
         [upstream.w]\nkind = 'file'\npath = '/tmp/{time}'\nnotify_dead = 'other'\nnotify_dead_max = 2\n[topic.other]\n",
    );
    let notify = |name: &str| {
        let policy = loaded.table.upstreams[name].notify.as_ref();
        policy.map(|policy| (&*policy.topic, policy.per_minute))
    };
    assert_eq!((notify("u"), notify("v"), notify("w")), (Some(("done", 7)), None, Some(("other", 2))));
    let directory = Directory::with(effective(&loaded.config));
    let again = directory.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(effective(&again.config), effective(&loaded.config));
}

#[test]
fn what_can_not_work_is_refused_with_its_key_and_the_remedy() {
    let shadow = "[upstream.s]\nurl = 'http://y'\nshadow = true\n";
    for (text, expected) in [
        ("publish = 'don'\n", "upstream.u.publish: names the unknown topic \"don\"; did you mean \"done\"?"),
        ("notify_dead = 'don'\n", "upstream.u.notify_dead: names the unknown topic \"don\"; did you mean \"done\"?"),
        ("[server]\nnotify_dead = 'don'\n", "server.notify_dead: names the unknown topic \"don\""),
        ("notify_dead_max = 3\n", "upstream.u.notify_dead_max: has no effect without notify_dead"),
        ("notify_dead = true\n", "upstream.u.notify_dead: takes a string, not"),
        ("publish_type = '.a'\n", "upstream.u.publish_type: has no effect without publish; add publish = \"TOPIC\""),
        ("publish = 'done'\npublish_type = '$path'\n", "upstream.u.publish_type: speaks of $path, which an answer"),
        ("publish = 'done'\nbatch = {}\n", "upstream.u.publish: makes an event of the answer to a single one"),
        ("shadow_of = 'u'\n", "upstream.u.shadow_of: has no effect without shadow = true; add that or remove it"),
        ("shadow_memory = '2MiB'\n", "upstream.u.shadow_memory: has no effect without shadow = true"),
        (shadow, "upstream.s.shadow_of: is missing; name the upstream whose answers are compared"),
        (&format!("{shadow}shadow_of = 'x'\n"), "upstream.s.shadow_of: names no upstream that gets deliveries: \"x\""),
        (&format!("{shadow}shadow_of = 's'\n"), "upstream.s.shadow_of: names no upstream that gets deliveries: \"s\""),
        (
            &format!("{shadow}shadow_of = 'u'\n[[route]]\nsource = 'app'\nto = ['s']\n"),
            "upstream.s.shadow: a route leads to the shadow and not to u: it would get nothing; add u there",
        ),
        (
            &format!("{shadow}shadow_of = 'u'\nretry = {{ attempts = 2 }}\n"),
            "upstream.s.retry: has no effect on a shadow: a copy is sent once at most and never judged; remove it",
        ),
        (
            &format!("{shadow}shadow_of = 'u'\nshadow_memory = '1KiB'\n"),
            "shadow_memory: must lie between 1MiB and 1GiB",
        ),
        (
            &format!("batch = {{}}\n{shadow}shadow_of = 'u'\n"),
            "upstream.s.shadow_of: names u, which takes batches or is files: there is nothing to compare",
        ),
        (
            &format!("accept = '.a'\nfallback = 's'\n{shadow}shadow_of = 'u'\n"),
            "upstream.u: leads to s, which is a shadow and gets copies only; name another upstream",
        ),
        (
            "[subscriber.s]\ntopic = 'done'\nurl = 'http://y'\nshadow = true\n",
            "subscriber.s.shadow: is for an upstream; a subscriber gets deliveries",
        ),
    ] {
        let directory = Directory::with(&format!("{BASE}{text}"));
        let problems = directory.load().err().unwrap_or_else(|| panic!("{text} is taken"));
        let messages = directory.messages(&problems.0).join("\n");
        assert!(messages.contains(expected), "{text}\n{messages}");
    }
}
