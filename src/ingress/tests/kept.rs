//! What of refused requests is kept, and how it is judged again.

use std::{sync::Arc, time::Duration};

use hmac::Mac as _;

use super::{
    fake::{Door, id, table},
    *,
};
use crate::{
    clock::Timestamp,
    event::{Event, EventId},
    expr::Expr,
    quarantine::{BURST_S, Judgement, Purpose},
    routing::{DedupeRule, KeySelector, Limits, PathPattern, Source, Unmatched},
    telemetry::QuarantineDrop,
    verify::{Algorithm, Encoding, HmacSettings, Secret, TimestampSettings, TimestampUnit, Verifier},
};

const OLD: &str = "the secret of yesterday";
const NEW: &str = "the secret of today";
/// When the fake clock starts.
const START_S: u64 = 1_000;

fn source(secret: &str) -> Source {
    let settings = HmacSettings {
        algorithm: Algorithm::Sha256,
        header: "x-signature".to_owned(),
        encoding: Encoding::Hex,
        prefix: String::new(),
        template: Some("{timestamp}.{body}".to_owned()),
        timestamp: Some(TimestampSettings {
            header: "x-timestamp".to_owned(),
            unit: TimestampUnit::Seconds,
            tolerance: Duration::from_secs(60),
        }),
        secrets: vec![Secret::new("env:SECRET", secret.as_bytes().to_vec())],
    };
    Source {
        verifier: Verifier::hmac(settings).unwrap(),
        quarantine: true,
        dedupe: Some(DedupeRule {
            key: KeySelector::Expr(Expr::compile(".id").unwrap()),
            window: Duration::from_secs(100),
            on_duplicate: OnDuplicate::Ignore,
        }),
        max_body: 1 << 20,
        ..Source::new("app", PathPattern::parse("/t/{tenant}/in").unwrap())
    }
}

fn signed(secret: &str, body: &str, at_s: u64) -> Request<Full<Bytes>> {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at_s}.{body}").as_bytes());
    let mut request = post("/t/acme/in?a=1", body.to_owned());
    let headers = request.headers_mut();
    headers.insert("x-signature", hex::encode(mac.finalize().into_bytes()).parse().unwrap());
    headers.insert("x-timestamp", at_s.into());
    request
}

impl Door {
    /// A door with one source, which knows only the old secret.
    fn keeping(change: impl FnOnce(&mut Limits)) -> Self {
        let door = Self::open();
        door.use_source(source(OLD), change);
        door
    }

    fn use_source(&self, source: Source, change: impl FnOnce(&mut Limits)) {
        self.live.swap(table(vec![Arc::new(source)], change));
    }

    /// What is kept once everything that waits is written; nothing is kept from then on.
    fn kept(&self) -> Vec<EventId> {
        self.quarantine.close();
        self.quarantine.ids()
    }

    fn drops(&self, why: QuarantineDrop) -> u64 {
        self.metrics.quarantine_drop(why).get()
    }

    fn read(&self) -> u64 {
        self.ingress.refused().after(0).last().unwrap().size
    }

    async fn judge(&self, event: &Event, purpose: Purpose) -> Judgement {
        self.gate.judge_again(event, purpose).await
    }
}

#[tokio::test]
async fn a_bad_signature_is_kept_with_everything_that_was_received() {
    let door = Door::keeping(|_| {});
    let answer = door.ask(signed(NEW, r#"{"id":1}"#, START_S)).await;
    assert_eq!((answer.status, door.last_reason()), (401, "bad_signature"));
    let ids = door.kept();
    let kept = door.quarantine.read(ids[0]).unwrap();
    assert_eq!((ids.len(), &*kept.reason, kept.status), (1, "bad_signature", 401));
    let event = kept.event;
    assert_eq!((&*event.source, &*event.path, event.query.as_deref()), ("app", "/t/acme/in", Some("a=1")));
    assert_eq!((&*event.client, event.received_at), ("192.0.2.1", Timestamp::from_millis(START_S * 1_000)));
    assert_eq!(event.captures, [("tenant".into(), "acme".into())]);
    assert_eq!(event.headers["x-timestamp"], "1000");
    assert!(matches!(&event.body, Stored::Inline(body) if body == r#"{"id":1}"#));
    assert_eq!((door.log.appended(), door.used()), (0, (0, 0)));
}

#[tokio::test]
async fn what_no_secret_would_make_welcome_is_not_kept() {
    let door = Door::keeping(|_| {});
    let good = || signed(OLD, "{}", START_S);
    let mut unsigned = good();
    unsigned.headers_mut().remove("x-signature");
    let mut twice = good();
    twice.headers_mut().append("x-signature", "00".parse().unwrap());
    let mut safe = signed(NEW, "", START_S);
    *safe.method_mut() = Method::GET;
    for request in [unsigned, twice, safe] {
        assert_eq!(door.ask(request).await.status, 401);
    }
    assert_eq!(door.ask(post("/nobody", "x")).await.status, 404);
    door.use_source(Source { quarantine: false, ..source(OLD) }, |_| {});
    assert_eq!(door.ask(signed(NEW, "{}", START_S)).await.status, 401);
    assert_eq!(door.kept().len(), 0);
    assert_eq!(QuarantineDrop::ALL.map(|why| door.drops(why)), [0; 6], "what is not wanted is not counted");
}

#[tokio::test]
async fn a_stale_a_future_and_an_unreadable_one_are_read_and_kept() {
    let door = Door::keeping(|_| {});
    let mut unreadable = signed(NEW, "{}", START_S);
    unreadable.headers_mut().insert("x-signature", "in another encoding".parse().unwrap());
    for (request, reason) in [
        (signed(OLD, "{}", START_S - 100), "stale"),
        (signed(OLD, "{}", START_S + 100), "future"),
        (unreadable, "malformed_signature"),
    ] {
        assert_eq!(door.ask(request).await.status, 401);
        assert_eq!((door.last_reason(), door.read()), (reason, 2));
    }
    assert_eq!(door.kept().len(), 3);
}

#[tokio::test]
async fn what_is_genuine_but_for_its_time_is_counted_whether_it_is_kept_or_not() {
    let door = Door::keeping(|limits| limits.quarantine.rate = 1);
    let stale = |door: &Door| door.metrics.source("app").stale.get();
    for (quarantine, expected) in [(true, 2), (false, 4)] {
        door.use_source(Source { quarantine, ..source(OLD) }, |limits| limits.quarantine.rate = 1);
        for (secret, at) in [(OLD, START_S - 100), (OLD, START_S + 100), (NEW, START_S - 100), (NEW, START_S)] {
            assert_eq!(door.ask(signed(secret, "{}", at)).await.status, 401);
        }
        assert_eq!(stale(&door), expected, "forged ones are none, and neither are others in time");
    }
    // No more is read of a client than could be kept of it.
    for _ in 0..2 * BURST_S {
        assert_eq!(door.ask(signed(OLD, "{}", START_S - 100)).await.status, 401);
    }
    assert_eq!((door.read(), stale(&door)), (0, 4 + BURST_S - 7));
    assert_eq!(door.drops(QuarantineDrop::Rate), 0, "what is not wanted is not counted");
    assert_eq!(door.kept().len(), 4);
}

#[tokio::test]
async fn a_client_above_its_rate_is_not_even_read() {
    let door = Door::keeping(|limits| limits.quarantine.rate = 1);
    for _ in 0..2 * BURST_S {
        assert_eq!(door.ask(signed(OLD, "{}", START_S - 100)).await.status, 401);
    }
    assert_eq!((door.read(), door.drops(QuarantineDrop::Rate)), (0, BURST_S));
    assert_eq!(door.kept().len() as u64, BURST_S);
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_refused_as_ever_and_counted() {
    let door = Door::keeping(|limits| limits.quarantine.max_body = 10);
    for (body, at) in [("eleven byte", START_S), ("eleven byte", START_S - 100), (&*"x".repeat(300 << 10), START_S)] {
        assert_eq!(door.ask(signed(NEW, body, at)).await.status, 401);
    }
    assert_eq!(door.ask(signed(NEW, "ten bytes!", START_S)).await.status, 401);
    assert_eq!(door.drops(QuarantineDrop::Unread), 3);
    assert_eq!((door.kept().len(), door.used(), door.spooled_files()), (1, (0, 0), 0));
}

#[tokio::test]
async fn requests_for_unknown_paths_are_kept_if_that_is_wanted() {
    let door = Door::keeping(|limits| limits.quarantine.unmatched = Unmatched::Store);
    assert_eq!(door.ask(post("/nobody?x=1", "lost")).await.status, 404);
    let mut expects = post("/nobody", "lost");
    expects.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
    assert_eq!(door.ask(expects).await.status, 404);
    let scan = Request::get("/wp-login.php").header("host", "x").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(door.ask(scan).await.status, 404);
    // Each segment would be compared with every secret: too many are not looked at, and the request not kept.
    assert_eq!(door.ask(post(&"/a".repeat(65), "deep")).await.status, 404);
    let ids = door.kept();
    assert_eq!(ids.len(), 1);
    let kept = door.quarantine.read(ids[0]).unwrap();
    assert_eq!((&*kept.reason, kept.status, &*kept.event.source), ("not_found", 404, ""));

    assert_eq!(door.judge(&kept.event, Purpose::Admit).await, Judgement::Refused("not_found"));
    let open = Source::new("late", PathPattern::parse("/nobody").unwrap());
    door.use_source(open, |_| {});
    assert_eq!(door.judge(&kept.event, Purpose::Admit).await, Judgement::Admitted(id(0)));
    assert_eq!((&*door.log.event(0).source, door.log.event(0).query.as_deref()), ("late", Some("x=1")));
}

#[tokio::test]
async fn a_recheck_changes_nothing_and_an_admission_makes_the_event_that_should_have_been() {
    let door = Door::keeping(|_| {});
    door.ask(signed(NEW, r#"{"id":"a"}"#, START_S)).await;
    let kept = door.quarantine.read(door.kept()[0]).unwrap().event;
    assert_eq!(door.judge(&kept, Purpose::Recheck).await, Judgement::Refused("bad_signature"));

    door.use_source(source(NEW), |_| {});
    // Long after the tolerance of the timestamp: what counts is when it was received.
    door.time.advance(Duration::from_secs(7_200));
    let before = door.count("app", RequestResult::Accepted);
    assert_eq!(door.judge(&kept, Purpose::Recheck).await, Judgement::Taken);
    assert_eq!(door.log.appended(), 0);
    assert_eq!(door.judge(&kept, Purpose::Admit).await, Judgement::Admitted(id(0)));
    let event = door.log.event(0);
    assert_eq!((event.received_at, &*event.client), (kept.received_at, "192.0.2.1"));
    assert_eq!((&event.headers, &event.captures), (&kept.headers, &kept.captures));
    assert_eq!(event.verification.secret.as_deref(), Some("env:SECRET"));
    assert!(matches!(&event.body, Stored::Inline(body) if body == r#"{"id":"a"}"#));
    let key = door.log.key(0).unwrap();
    assert_eq!(key.expires_at, Timestamp::from_millis((START_S + 7_200 + 100) * 1_000), "the window begins now");
    assert_eq!(door.count("app", RequestResult::Accepted), before, "nobody sent it now");
}

#[tokio::test]
async fn an_admission_is_deduplicated_and_what_was_stale_stays_stale() {
    let door = Door::keeping(|_| {});
    door.ask(signed(NEW, r#"{"id":"a"}"#, START_S)).await;
    door.ask(signed(NEW, r#"{"id":"b"}"#, START_S - 100)).await;
    let [first, stale] = door.kept()[..] else { panic!("two are kept") };
    let event = |id| door.quarantine.read(id).unwrap().event;
    door.use_source(source(NEW), |_| {});
    assert_eq!(door.judge(&event(stale), Purpose::Admit).await, Judgement::Refused("stale"));
    door.log.remember(Ok(Some((id(77), false))));
    assert_eq!(door.judge(&event(first), Purpose::Admit).await, Judgement::Duplicate(id(77)));
    door.log.remember(Ok(None));
    door.log.behave(fake::Behaviour::Refuse(AppendError::Full));
    assert_eq!(door.judge(&event(first), Purpose::Admit).await, Judgement::Refused("log_full"));
}

#[tokio::test]
async fn ten_thousand_forged_posts_cost_a_bounded_ring_and_nobody_else() {
    let door = Door::keeping(|limits| (limits.quarantine.max_size, limits.quarantine.rate) = (1 << 20, 100_000));
    let series = |door: &Door| door.metrics.render().lines().count();
    assert_eq!(door.ask(signed(OLD, r#"{"id":"first"}"#, START_S)).await.status, 202);
    let before = series(&door);
    for n in 0..10_000_u64 {
        let (body, at) = (format!("{{\"id\":{n},\"pad\":\"{}\"}}", "x".repeat(500)), START_S - (n % 2) * 100);
        assert_eq!(door.ask(signed("a guess", &body, at)).await.status, 401);
        if n % 1_000 == 0 {
            assert_eq!(door.ask(signed(OLD, &format!("{{\"id\":\"honest {n}\"}}"), START_S)).await.status, 202);
        }
    }
    assert_eq!((door.log.appended(), door.used(), door.spooled_files()), (11, (0, 0), 0));
    let (kept, figures) = (door.kept().len(), door.quarantine.figures());
    assert!(kept > 0 && figures.bytes <= 1 << 20, "{kept} kept in {} bytes", figures.bytes);
    let dropped: u64 = QuarantineDrop::ALL.into_iter().map(|why| door.drops(why)).sum();
    assert_eq!(kept as u64 + dropped, 10_000);
    assert_eq!(series(&door), before, "nobody outside adds a metric");
}
