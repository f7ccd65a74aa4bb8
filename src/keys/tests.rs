//! Tests of fetching, keeping and renewing, against real TLS servers.

use std::{sync::Arc, time::Duration};

use super::{
    testing::{Page, Web},
    *,
};
use crate::{
    clock::{ManualClock, Timestamp},
    verify::{
        Place, Publisher,
        testing::{Authority, NOW_MS, ONE, TWO, key_set},
    },
};

const GOOGLE: &str = "https://www.googleapis.com/oauth2/v3/certs";
const SNS: &str = "https://sns.us-east-1.amazonaws.com/a.pem";
const NAMES: [&str; 3] = ["www.googleapis.com", "sns.us-east-1.amazonaws.com", "api.paypal.com"];

struct Rig {
    web: Arc<Web>,
    keys: Keys,
    time: Arc<ManualClock>,
    metrics: Arc<Metrics>,
}

impl Rig {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let web = Web::start(&NAMES).await;
        let mut settings = web.settings();
        change(&mut settings);
        let (clock, time) = Clock::manual(Timestamp::from_millis(NOW_MS));
        let metrics = Arc::new(Metrics::default());
        let keys = Keys::new(web.clone(), clock, metrics.clone(), Some(settings));
        Self { web, keys, time, metrics }
    }

    /// The key set with these ids, under Google's address.
    fn publish(&self, kids: &[&str], max_age: Option<u64>) {
        let keys: Vec<(&str, &str)> = kids.iter().map(|kid| (*kid, ONE)).collect();
        let mut page = Page::new(key_set(&keys));
        if let Some(seconds) = max_age {
            page = page.with("cache-control", &format!("public, max-age={seconds}"));
        }
        self.web.put(GOOGLE, Some(page));
    }

    /// Asks until the answer is this one: for what happens behind.
    async fn until(&self, wanted: &Wanted, is: impl Fn(&Outcome) -> bool) {
        loop {
            let outcome = self.keys.get(wanted).await;
            if is(&outcome) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn google(kid: &str) -> Wanted {
    Wanted { publisher: Publisher::Google, place: Place::google_keys(), kid: Some(kid.into()) }
}

fn sns(address: &str) -> Wanted {
    Wanted { publisher: Publisher::AwsSns, place: Place::certificate(Publisher::AwsSns, address).unwrap(), kid: None }
}

#[tokio::test]
async fn a_key_set_is_fetched_over_tls_once_and_kept() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], None);
    for _ in 0..3 {
        assert!(rig.keys.get(&google("one")).await.unwrap().has("one"));
    }
    assert_eq!(rig.web.asked(), [GOOGLE]);
    assert_eq!(rig.web.dialled(), [("www.googleapis.com".to_owned(), 443)]);
    assert_eq!((rig.metrics.keys_fetched.get(), rig.metrics.keys_not_fetched.get()), (1, 0));
}

#[tokio::test]
async fn a_signing_certificate_counts_only_with_a_chain() {
    let rig = Rig::start(|_| {}).await;
    rig.web.put(SNS, Some(Page::new(rig.web.authority.certify("sns.amazonaws.com", ONE, |_| {}))));
    assert!(rig.keys.get(&sns(SNS)).await.is_ok());
    let other = "https://sns.us-east-1.amazonaws.com/b.pem";
    rig.web.put(other, Some(Page::new(Authority::new("stranger").certify("sns.amazonaws.com", TWO, |_| {}))));
    let error = rig.keys.get(&sns(other)).await.err().unwrap();
    assert!(matches!(error, KeysError::Unusable(_, DocumentError::Untrusted(_))), "{error}");
}

#[tokio::test]
async fn an_issuer_that_is_missing_comes_from_the_settings_or_from_its_authority() {
    // caIssuers: http://crt.example.amazontrust.com/i.cer, as DER.
    let access = |uri: &str| {
        let uri: Vec<u8> = [&[0x86, u8::try_from(uri.len()).unwrap()], uri.as_bytes()].concat();
        let method = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];
        let length = |n: usize| u8::try_from(n).unwrap();
        let entry = [&[0x30, length(method.len() + uri.len())], &method[..], &uri].concat();
        [&[0x30, length(entry.len())], &entry[..]].concat()
    };
    let signed = |issuer: &Authority, uri: &str| {
        let content = access(uri);
        issuer.certify("sns.amazonaws.com", ONE, |params| {
            let extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content);
            params.custom_extensions.push(extension);
        })
    };
    let rig = Rig::start(|_| {}).await;
    let issuer = rig.web.authority.below("issuer");
    let der = issuer.certificate.der().to_vec();
    rig.web.put("http://crt.example.amazontrust.com/i.cer", Some(Page::new(der.clone())));
    rig.web.put("http://evil.example/i.cer", Some(Page::new(der.clone())));
    rig.web.put(SNS, Some(Page::new(signed(&issuer, "http://crt.example.amazontrust.com/i.cer"))));
    assert!(rig.keys.get(&sns(SNS)).await.is_ok());
    let elsewhere = "https://sns.us-east-1.amazonaws.com/elsewhere.pem";
    rig.web.put(elsewhere, Some(Page::new(signed(&issuer, "http://evil.example/i.cer"))));
    assert!(rig.keys.get(&sns(elsewhere)).await.is_err());
    assert!(rig.web.dialled().iter().all(|(host, _)| host != "evil.example"), "{:?}", rig.web.dialled());
    let known = Settings { issuers: Arc::from([der]), ..rig.web.settings() };
    rig.keys.configure(Some(known));
    rig.time.advance(FAILED_FOR);
    assert!(rig.keys.get(&sns(elsewhere)).await.is_ok());
}

#[tokio::test]
async fn what_can_not_be_had_is_an_error_for_a_while_and_then_asked_for_again() {
    let rig = Rig::start(|_| {}).await;
    let failed = Err(KeysError::Status(GOOGLE.to_owned(), 404));
    let words = |outcome: Outcome| outcome.map(|_| ());
    assert_eq!(words(rig.keys.get(&google("one")).await), failed);
    rig.publish(&["one"], None);
    rig.time.advance(FAILED_FOR - Duration::from_millis(1));
    assert_eq!(words(rig.keys.get(&google("one")).await), failed);
    assert_eq!(rig.web.asked().len(), 1, "a failure is the answer for all who ask");
    rig.time.advance(Duration::from_millis(1));
    assert_eq!(words(rig.keys.get(&google("one")).await), Ok(()));
    assert_eq!((rig.metrics.keys_fetched.get(), rig.metrics.keys_not_fetched.get()), (1, 1));
}

#[tokio::test]
async fn every_kind_of_bad_answer_is_an_error_with_words() {
    let rig = Rig::start(|settings| settings.max_fetches = 1).await;
    let large = vec![b' '; crate::verify::DOCUMENT_BYTES_MAX + 1];
    let redirect = Page { status: 302, headers: vec![("location", SNS.to_owned())], ..Page::new("") };
    let unusable = |error| KeysError::Unusable(GOOGLE.to_owned(), error);
    let cases = [
        (Page::new(large), unusable(DocumentError::TooLarge)),
        (redirect, KeysError::Status(GOOGLE.to_owned(), 302)),
        (Page::new("<html>"), unusable(DocumentError::Malformed("JSON Web Key Set"))),
        (Page::new(r#"{"keys":[]}"#), unusable(DocumentError::NoKey)),
        (Page { status: 500, ..Page::new("") }, KeysError::Status(GOOGLE.to_owned(), 500)),
    ];
    for (page, expected) in cases {
        rig.web.put(GOOGLE, Some(page));
        assert_eq!(rig.keys.get(&google("one")).await.err(), Some(expected));
        rig.time.advance(FAILED_FOR);
    }
    assert!(rig.web.asked().iter().all(|asked| asked == GOOGLE), "no redirect is followed");
}

#[tokio::test]
async fn a_server_that_no_authority_certifies_is_not_asked() {
    let rig = Rig::start(|settings| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(Authority::new("stranger").certificate.der().clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        settings.tls = Arc::new(tls.with_no_client_auth());
    })
    .await;
    rig.publish(&["one"], None);
    let error = rig.keys.get(&google("one")).await.err().unwrap();
    assert!(matches!(&error, KeysError::Unreachable(_, words) if words.contains("certificate")), "{error}");
    assert_eq!(rig.web.asked(), [""; 0]);
    // Its certificate is good, but for other names.
    let rig = Rig::start(|_| {}).await;
    let error = rig.keys.get(&sns("https://sns.eu-west-1.amazonaws.com/a.pem")).await.err().unwrap();
    assert!(matches!(&error, KeysError::Unreachable(_, words) if words.contains("certificate")), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_after_the_timeout() {
    let rig = Rig::start(|settings| settings.timeout = Duration::from_millis(100)).await;
    rig.web.answers.forget_permits(usize::MAX);
    rig.publish(&["one"], None);
    let error = rig.keys.get(&google("one")).await.err();
    assert_eq!(error, Some(KeysError::Late(GOOGLE.to_owned(), Duration::from_millis(100))));
}

#[tokio::test]
async fn everybody_who_waits_for_a_place_waits_for_one_request() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], None);
    rig.web.answers.forget_permits(usize::MAX);
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let keys = rig.keys.clone();
            tokio::spawn(async move { keys.get(&google("one")).await.is_ok() })
        })
        .collect();
    rig.web.asked_times(1).await;
    // One who stops waiting stops nothing.
    let given_up = tokio::time::timeout(Duration::ZERO, rig.keys.get(&google("one"))).await;
    assert!(given_up.is_err());
    rig.web.answers.add_permits(1);
    for waiting in waiting {
        assert!(waiting.await.unwrap());
    }
    assert_eq!(rig.web.asked().len(), 1);
}

#[tokio::test]
async fn an_aged_document_is_used_while_a_new_one_is_fetched() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], Some(600));
    rig.keys.get(&google("one")).await.unwrap();
    rig.publish(&["one", "two"], Some(600));
    rig.time.advance(Duration::from_millis(599_999));
    assert!(!rig.keys.get(&google("one")).await.unwrap().has("two"));
    assert_eq!(rig.web.asked().len(), 1);
    rig.time.advance(Duration::from_millis(1));
    rig.web.answers.forget_permits(usize::MAX);
    assert!(!rig.keys.get(&google("one")).await.unwrap().has("two"), "nobody waits");
    rig.web.asked_times(2).await;
    rig.web.answers.add_permits(1);
    rig.until(&google("one"), |outcome| outcome.as_ref().is_ok_and(|document| document.has("two"))).await;
    assert_eq!(rig.web.asked().len(), 2);
}

#[tokio::test]
async fn an_outage_is_survived_for_the_grace_and_no_longer() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], Some(600));
    rig.keys.get(&google("one")).await.unwrap();
    rig.web.put(GOOGLE, None);
    rig.time.advance(Duration::from_secs(600) + GRACE - Duration::from_millis(1));
    assert!(rig.keys.get(&google("one")).await.is_ok());
    rig.web.asked_times(2).await;
    // The fetch behind has failed; the document still counts, until its time is over.
    while rig.metrics.keys_not_fetched.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(rig.keys.get(&google("one")).await.is_ok());
    rig.time.advance(FAILED_FOR);
    assert_eq!(rig.keys.get(&google("one")).await.err(), Some(KeysError::Status(GOOGLE.to_owned(), 404)));
    rig.publish(&["one"], None);
    rig.time.advance(FAILED_FOR);
    assert!(rig.keys.get(&google("one")).await.is_ok());
}

#[tokio::test]
async fn the_age_of_a_document_is_bounded_below_and_above() {
    for (max_age, fresh) in
        [(Some(0), FRESH_MIN), (Some(1_000_000), Duration::from_secs(86_400)), (None, Duration::from_secs(86_400))]
    {
        let rig = Rig::start(|_| {}).await;
        rig.publish(&["one"], max_age);
        rig.keys.get(&google("one")).await.unwrap();
        rig.time.advance(fresh - Duration::from_millis(1));
        rig.keys.get(&google("one")).await.unwrap();
        assert_eq!(rig.web.asked().len(), 1, "{max_age:?}");
        rig.time.advance(Duration::from_millis(1));
        rig.keys.get(&google("one")).await.unwrap();
        rig.web.asked_times(2).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_not_used_whatever_its_age() {
    let rig = Rig::start(|_| {}).await;
    let pem = rig.web.authority.certify("sns.amazonaws.com", ONE, |params| {
        params.not_after = rcgen::date_time_ymd(2026, 1, 3);
    });
    rig.web.put(SNS, Some(Page::new(pem)));
    let not_after = rig.keys.get(&sns(SNS)).await.unwrap().not_after.unwrap();
    rig.time.advance(not_after.since(Timestamp::from_millis(NOW_MS)) + Duration::from_secs(1));
    let error = rig.keys.get(&sns(SNS)).await.err();
    assert!(matches!(error, Some(KeysError::Unusable(_, DocumentError::Untrusted(_)))), "{error:?}");
}

#[tokio::test]
async fn an_unknown_key_id_asks_again_at_most_once_a_minute() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], None);
    rig.keys.get(&google("one")).await.unwrap();
    for _ in 0..5 {
        assert!(!rig.keys.get(&google("forged")).await.unwrap().has("forged"));
    }
    assert_eq!(rig.web.asked().len(), 1);
    rig.publish(&["one", "two"], None);
    rig.time.advance(KID_EVERY);
    assert!(rig.keys.get(&google("two")).await.unwrap().has("two"), "a rotated key is found");
    assert!(!rig.keys.get(&google("forged")).await.unwrap().has("forged"));
    assert_eq!(rig.web.asked().len(), 2);
    // While the set can't be had, it is not said that there is no such key.
    rig.web.put(GOOGLE, None);
    rig.time.advance(KID_EVERY);
    assert!(rig.keys.get(&google("three")).await.is_err());
    assert!(rig.keys.get(&google("three")).await.is_err());
    assert!(rig.keys.get(&google("one")).await.is_ok(), "known keys go on");
    assert_eq!(rig.web.asked().len(), 3);
}

#[tokio::test]
async fn the_documents_that_were_not_used_for_longest_go_first() {
    let rig = Rig::start(|settings| settings.max_documents = 2).await;
    let place = |name: &str| format!("https://sns.us-east-1.amazonaws.com/{name}.pem");
    let pem = rig.web.authority.certify("sns.amazonaws.com", ONE, |_| {});
    for name in ["a", "b", "c"] {
        rig.web.put(&place(name), Some(Page::new(pem.clone())));
    }
    for name in ["a", "b", "a", "c", "a", "b"] {
        rig.keys.get(&sns(&place(name))).await.unwrap();
    }
    let asked: Vec<String> = ["a", "b", "c", "b"].map(place).into();
    assert_eq!(rig.web.asked(), asked);
}

#[tokio::test]
async fn places_that_senders_make_up_are_bounded_and_cost_nobody_else_a_document() {
    let rig = Rig::start(|_| {}).await;
    rig.publish(&["one"], None);
    rig.keys.get(&google("one")).await.unwrap();
    let mut refused = 0;
    for round in 0..3 {
        for n in 0..NEW_PER_MINUTE {
            let address = format!("https://sns.us-east-1.amazonaws.com/forged-{round}-{n}.pem");
            let error = rig.keys.get(&sns(&address)).await.err().unwrap();
            refused += u32::from(matches!(error, KeysError::Busy(_)));
        }
        rig.time.advance(Duration::from_secs(60));
    }
    assert_eq!(refused, 1, "the first minute had one more new place");
    assert!(rig.keys.0.cache().len() <= FAILURES_MAX + 1);
    rig.keys.get(&google("one")).await.unwrap();
    assert_eq!(rig.web.asked().iter().filter(|asked| *asked == GOOGLE).count(), 1);
}

#[tokio::test]
async fn no_more_documents_are_got_at_once_than_allowed() {
    let rig = Rig::start(|settings| settings.max_fetches = 1).await;
    rig.publish(&["one"], None);
    rig.web.answers.forget_permits(usize::MAX);
    let keys = rig.keys.clone();
    let first = tokio::spawn(async move { keys.get(&google("one")).await.is_ok() });
    rig.web.asked_times(1).await;
    assert_eq!(rig.keys.get(&sns(SNS)).await.err(), Some(KeysError::Busy(SNS.to_owned())));
    rig.web.answers.add_permits(1);
    assert!(first.await.unwrap());
    assert_eq!(rig.web.asked(), [GOOGLE]);
}

#[tokio::test]
async fn nothing_is_asked_when_the_configuration_fetches_nothing() {
    let rig = Rig::start(|_| {}).await;
    rig.keys.configure(None);
    assert_eq!(rig.keys.get(&google("one")).await.err(), Some(KeysError::Off(GOOGLE.to_owned())));
    let place = Place::confirmation("https://sns.us-east-1.amazonaws.com/?Token=1").unwrap();
    assert!(rig.keys.confirm("topic", place).is_err());
    assert_eq!(rig.web.dialled(), []);
}

#[tokio::test]
async fn a_subscription_is_confirmed_by_its_address_and_tried_again() {
    let address = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=1";
    let rig = Rig::start(|_| {}).await;
    rig.web.answers.forget_permits(usize::MAX);
    let place = Place::confirmation(address).unwrap();
    rig.keys.confirm("topic", place.clone()).unwrap();
    rig.keys.confirm("topic", place.clone()).unwrap();
    rig.web.asked_times(1).await;
    // The first try gets 404, the second is answered.
    rig.web.answers.add_permits(1);
    rig.web.asked_times(2).await;
    rig.web.put(address, Some(Page::new("<ConfirmSubscriptionResponse/>")));
    rig.web.answers.add_permits(1);
    while !rig.keys.0.pending().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.web.asked(), [address, address], "a second request while it is under way begins nothing");
}

#[tokio::test]
async fn confirmations_under_way_are_bounded() {
    let rig = Rig::start(|_| {}).await;
    rig.web.answers.forget_permits(usize::MAX);
    let place = |n| Place::confirmation(&format!("https://sns.us-east-1.amazonaws.com/?Token={n}")).unwrap();
    for n in 0..PENDING_MAX {
        rig.keys.confirm("topic", place(n)).unwrap();
    }
    assert!(matches!(rig.keys.confirm("topic", place(PENDING_MAX)), Err(KeysError::Busy(_))));
}
