//! Questions about a quarantine on a real directory, judged by the fake instance.

use http::{HeaderMap, HeaderValue, Method};

use super::{super::fake::Fake, *};
use crate::{
    clock::Timestamp,
    event::{Scheme, Seq},
    log::entry::Accepting,
    quarantine::{Bounds, Keep},
    telemetry::Metrics,
};

const START: u64 = 1_767_323_045_678;

fn me() -> Caller {
    Caller::local("me")
}

/// An instance that keeps these bodies, each received a second after the one before; the last for no source.
pub(crate) fn keeping(bodies: &[&str]) -> (Fake, Vec<EventId>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::open(directory.path(), std::sync::Arc::new(Metrics::default())).unwrap();
    let bounds = Bounds { max_size: 1 << 20, rate: 1_000, total_rate: 1 << 30 };
    for (n, body) in (0_u64..).zip(bodies) {
        let is_last = n as usize + 1 == bodies.len();
        let received_at = Timestamp::from_millis(START + n * 1_000);
        let headers = HeaderMap::from_iter([
            ("host".parse().unwrap(), HeaderValue::from_static("relay.example")),
            ("x-signature".parse().unwrap(), HeaderValue::from_static("sesame")),
        ]);
        let accepted = Accepting {
            received_at,
            source: if is_last { "" } else { "stripe" },
            event_type: None,
            method: &Method::POST,
            scheme: Scheme::Https,
            path: "/hooks/stripe",
            query: Some("a=1"),
            headers: &headers,
            client: "192.0.2.7",
            proxy: None,
            captures: &[("tenant".into(), "acme".into())],
            verification_scheme: "stripe",
            verification_secret: None,
            config_generation: 1,
            dedupe: None,
            extras: None,
            body: Some(&[Bytes::copy_from_slice(body.as_bytes())]),
            body_length: body.len() as u64,
        };
        let (reason, status) = if is_last { ("not_found", 404) } else { ("bad_signature", 401) };
        quarantine.keep(Keep { received_at, reason, status, accepted: accepted.encode() }, &bounds, received_at);
    }
    quarantine.close();
    let ids = quarantine.ids();
    let mut fake = Fake::default();
    fake.quarantine = Some(quarantine.into());
    (fake, ids, directory)
}

fn by_id(ids: &[EventId]) -> Pick {
    Pick { ids: ids.iter().map(ToString::to_string).collect(), ..Pick::default() }
}

fn by(change: impl FnOnce(&mut Filters)) -> Pick {
    let mut filters = Filters::default();
    change(&mut filters);
    Pick { filters, ..Pick::default() }
}

fn listed(fake: &Fake, filters: Filters, limit: usize) -> Vec<QuarantineReply> {
    let mut replies = Vec::new();
    kept_listed(fake, &Wanted::new(filters, fake).unwrap(), limit, &mut |reply| {
        replies.push(reply);
        ControlFlow::Continue(())
    });
    replies
}

fn ids_of(replies: &[QuarantineReply]) -> Vec<String> {
    let id = |reply: &QuarantineReply| match reply {
        QuarantineReply::Kept(kept) => kept.id.clone(),
        other => panic!("{other:?}"),
    };
    replies.iter().map(id).collect()
}

fn judged(fake: &Fake, pick: Pick, admit: bool) -> Vec<QuarantineReply> {
    let selected = Selected::to_recheck(fake, &Recheck { pick, admit }).unwrap();
    let mut replies = Vec::new();
    recheck(fake, selected, admit, &Caller::local("uid 1000 (alice)"), &mut |reply| {
        replies.push(reply);
        ControlFlow::Continue(())
    });
    replies
}

fn results(replies: &[QuarantineReply]) -> Vec<&str> {
    let result = |reply: &QuarantineReply| match reply {
        QuarantineReply::Judged(judged) => match judged.result.as_str() {
            "verified" => "verified",
            "admitted" => "admitted",
            "duplicate" => "duplicate",
            "no_event" => "no_event",
            "refused" => "refused",
            other => panic!("{other}"),
        },
        QuarantineReply::Missing(_) => "missing",
        other => panic!("{other:?}"),
    };
    replies.iter().map(result).collect()
}

#[test]
fn what_is_kept_is_listed_newest_first_with_the_names_of_an_event() {
    let (fake, ids, _directory) = keeping(&["1", "2", "3"]);
    let all = listed(&fake, Filters::default(), 2);
    assert_eq!(ids_of(&all), [ids[2].to_string(), ids[1].to_string()]);
    assert!(listed(&fake, Filters::default(), 0).is_empty());
    let json = serde_json::to_string(&all[1]).unwrap();
    let expected = format!(
        concat!(
            r#"{{"kept":{{"id":"{}","received_at":"2026-01-02T03:04:06.678Z","source":"stripe","method":"POST","#,
            r#""path":"/hooks/stripe","size":1,"sha256":"{}","reason":"bad_signature","status":401,"#,
            r#""client":"192.0.2.7"}}}}"#
        ),
        ids[1],
        hex::encode(Sha256::digest("2"))
    );
    assert_eq!(json, expected);
}

#[test]
fn filters_ask_what_a_refused_request_can_answer() {
    let (fake, ids, _directory) = keeping(&["1", "2", "3"]);
    type Case = (fn(&mut Filters), &'static [usize]);
    let cases: [Case; 9] = [
        (|f| f.source = Some("stripe".into()), &[1, 0]),
        (|f| f.reason = Some("not_found".into()), &[2]),
        (|f| f.status = Some("404".into()), &[2]),
        (|f| f.status = Some("4xx".into()), &[2, 1, 0]),
        (|f| f.tenant = Some("acme".into()), &[2, 1, 0]),
        (|f| f.since = Some(Timestamp::from_millis(START + 1_000)), &[2, 1]),
        (|f| f.until = Some(Timestamp::from_millis(START + 1_000)), &[0]),
        (|f| f.grep = Some("sesame".into()), &[2, 1, 0]),
        (|f| f.expression = Some("2".into()), &[1]),
    ];
    for (change, expected) in cases {
        let mut filters = Filters::default();
        change(&mut filters);
        let expected: Vec<String> = expected.iter().map(|n| ids[*n].to_string()).collect();
        assert_eq!(ids_of(&listed(&fake, filters.clone(), 10)), expected, "{filters:?}");
    }
    type Wrong = fn(&mut Filters);
    let wrong: [Wrong; 5] = [
        |f| f.upstream = Some("billing".into()),
        |f| f.route = Some("paid".into()),
        |f| f.state = Some("dead".into()),
        |f| f.event_type = Some("invoice.paid".into()),
        |f| f.status = Some("6xx".into()),
    ];
    for change in wrong {
        let mut filters = Filters::default();
        change(&mut filters);
        assert!(Wanted::new(filters.clone(), &fake).is_err(), "{filters:?}");
    }
    let failing = Filters { expression: Some("error".into()), ..Filters::default() };
    assert!(listed(&fake, failing, 10).iter().all(|reply| matches!(reply, QuarantineReply::Note(_))));
}

#[test]
fn a_request_is_shown_like_an_event_with_its_credentials_hidden() {
    let (fake, ids, _directory) = keeping(&["body", "other"]);
    let show = quarantined_show(&fake, ids[0], false).unwrap();
    assert_eq!((show.event.id.as_str(), show.event.state.as_str()), (&*ids[0].to_string(), QUARANTINED));
    assert_eq!(
        (show.event.source.as_str(), show.query.as_deref(), show.answered.as_deref()),
        ("stripe", Some("a=1"), Some("401"))
    );
    assert_eq!((show.verification.scheme.as_str(), show.verification.result.as_str()), ("stripe", "bad_signature"));
    assert_eq!(show.hidden, ["x-signature"]);
    assert!(!serde_json::to_string(&show).unwrap().contains("sesame"));
    let revealed = quarantined_show(&fake, ids[0], true).unwrap();
    assert!(serde_json::to_string(&revealed).unwrap().contains("sesame"));
    assert_eq!(quarantined_body(&fake, ids[0], false).unwrap(), "body");
    let event = EventId { pos: crate::event::Pos { partition: 0, ..ids[0].pos }, ..ids[0] };
    assert!(matches!(quarantined_show(&fake, event, false), Err(KeptError::NoSuch(_))));
}

#[test]
fn a_recheck_of_everything_changes_nothing() {
    let (fake, ids, _directory) = keeping(&["1", "forged", "ping", "known"]);
    let replies = judged(&fake, Pick::default(), false);
    assert_eq!(results(&replies), ["verified", "refused", "no_event", "verified"]);
    let QuarantineReply::Judged(refused) = &replies[1] else { panic!("{replies:?}") };
    assert_eq!((refused.id.as_str(), refused.reason.as_str()), (&*ids[1].to_string(), "bad_signature"));
    assert_eq!((refused.why.as_deref(), refused.event.as_deref()), (Some("bad_signature"), None));
    assert_eq!(fake.quarantine().ids(), ids);
}

#[test]
fn what_is_admitted_or_a_duplicate_leaves_the_quarantine_and_the_rest_stays() {
    let (fake, ids, _directory) = keeping(&["7", "forged", "ping", "known"]);
    assert_eq!(results(&judged(&fake, by(|f| f.source = Some("nobody".into())), true)), [""; 0]);
    let replies = judged(&fake, Pick { all: true, ..Pick::default() }, true);
    assert_eq!(results(&replies), ["admitted", "refused", "no_event", "duplicate"]);
    let QuarantineReply::Judged(admitted) = &replies[0] else { panic!("{replies:?}") };
    let seven: EventId = admitted.event.as_deref().unwrap().parse().unwrap();
    assert_eq!(seven.pos.seq, 7 as Seq);
    assert_eq!(fake.quarantine().ids(), ids[1..3]);
    let again = judged(&fake, by_id(&[ids[0], ids[1]]), true);
    assert_eq!(results(&again), ["missing", "refused"]);
}

#[test]
fn nothing_is_admitted_or_deleted_without_an_id_a_filter_or_all() {
    let (fake, ids, _directory) = keeping(&["1", "2"]);
    let admit = Recheck { pick: Pick::default(), admit: true };
    assert!(matches!(Selected::to_recheck(&fake, &admit), Err(QuarantineError::Usage(_))));
    let nothing = Discard { pick: Pick::default(), dry_run: false };
    assert!(matches!(delete(&fake, &nothing, &me()), Err(QuarantineError::Usage(_))));
    let no_id = Discard { pick: Pick { ids: vec!["x".into()], ..Pick::default() }, dry_run: false };
    assert!(matches!(delete(&fake, &no_id, &me()), Err(QuarantineError::Id(_))));
    assert_eq!(fake.quarantine().ids(), ids);
}

#[test]
fn deleting_counts_first_and_names_what_is_missing() {
    let (fake, ids, _directory) = keeping(&["1", "2", "3"]);
    let asked = Discard { pick: by(|f| f.source = Some("stripe".into())), dry_run: true };
    let acted = delete(&fake, &asked, &me()).unwrap();
    assert_eq!((acted.count, acted.dry_run, fake.quarantine().ids().len()), (2, true, 3));
    let acted = delete(&fake, &Discard { dry_run: false, ..asked }, &me()).unwrap();
    assert_eq!((acted.count, acted.sample[0].0.as_str()), (2, &*ids[0].to_string()));
    let acted = delete(&fake, &Discard { pick: by_id(&[ids[0], ids[2]]), dry_run: false }, &me()).unwrap();
    assert_eq!((acted.count, acted.missing_count, acted.missing[0].as_str()), (1, 1, &*ids[0].to_string()));
    assert!(fake.quarantine().ids().is_empty());
}
