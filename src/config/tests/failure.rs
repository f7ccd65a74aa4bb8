//! The keys of an upstream that say what its failures and answers lead to.

use super::*;
use crate::routing::{Accept, FailureAction};

const HEAD: &str = "[[listen]]\naddress='127.0.0.1:1'\n[source.x]\npath='/x'\nto=['x']\n\
                    [upstream.y]\nurl='http://y'\n[upstream.x]\nurl='http://x'\n";

#[test]
fn rows_accept_and_fallback_are_read_and_an_upstream_without_them_has_none() {
    let text = format!(
        "{HEAD}accept = '.ok'\nfallback = 'y'\n[[upstream.x.failure]]\nstatus = ['5xx']\nwhen = '$status == 503'\n\
         action = 'retry'\ndelay = '10m'\n[[upstream.x.failure]]\nerror = 'tls'\naction = 'divert'\nto = 'y'\n"
    );
    let config = Directory::with(&text).load().unwrap();
    assert!(config.table.upstreams["y"].answers.is_none());
    let answers = config.table.upstreams["x"].answers.as_ref().unwrap();
    assert!(matches!(answers.accept, Some(Accept::Expr(_))));
    let delay = std::time::Duration::from_secs(600);
    let actions: Vec<_> = answers.failures.iter().map(|row| row.action.clone()).collect();
    assert_eq!(actions, [FailureAction::Retry(Some(delay)), FailureAction::Divert("y".into())]);
    let printed = crate::config::effective(&config.config);
    for line in ["[[upstream.x.failure]]", "status = [\"5xx\"]", "delay = \"10m\"", "fallback = \"y\""] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn what_is_wrong_with_a_row_is_said_with_its_remedy() {
    let row = "[[upstream.x.failure]]\n";
    for (lines, what) in [
        (format!("{row}status = '500'"), "upstream.x.failure[1].action: is missing; write \"retry\""),
        (format!("{row}action = 'dead'\nstatus = '700'"), "upstream.x.failure[1].status: \"700\" is no status"),
        (format!("{row}action = 'dead'\nerror = 'dns'"), "upstream.x.failure[1].error: error \"dns\" is not known"),
        (format!("{row}action = 'divert'"), "upstream.x.failure[1].to: is missing"),
        (format!("{row}action = 'dead'\ndelay = '1s'"), "upstream.x.failure[1].delay: has no effect without"),
        (format!("{row}action = 'retry'\nto = 'y'"), "upstream.x.failure[1].to: has no effect without"),
        (format!("{row}action = 'dead'\nerror = 'tls'\nwhen = '.x'"), "upstream.x.failure[1].when: looks at an answer"),
        (format!("{row}action = 'dead'\nwhen = '$path == 1'"), "upstream.x.failure[1].when: speaks of $path"),
        (format!("{row}action = 'dead'\nwhen = '.['"), "upstream.x.failure[1].when: is no valid jq"),
        (
            format!("{row}action = 'dead'\nstatus = '4xx'\n{row}action = 'hold'\nstatus = '404'"),
            "upstream.x.failure[2]: never matches",
        ),
        (format!("{row}action = 'divert'\nto = 'z'"), "upstream.x.failure: names the unknown upstream \"z\""),
        (format!("{row}action = 'divert'\nto = 'x'"), "upstream.x.failure: leads back"),
        ("fallback = 'y'".to_owned(), "upstream.x.fallback: has no effect without accept"),
        ("accept = {}".to_owned(), "upstream.x.accept.schema: is missing"),
        ("accept = { schema = 'gone.json' }".to_owned(), "upstream.x.accept.schema: "),
        (
            "accept = '.a'\nfallback = 'y'\n[upstream.y2]\nurl='http://y'\n[[upstream.y2.failure]]\naction='divert'\nto='nil'"
                .to_owned(),
            "upstream.y2.failure: names the unknown upstream \"nil\"",
        ),
    ] {
        let said = Directory::with(&format!("{HEAD}{lines}\n")).load().err().unwrap().to_string();
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
}
