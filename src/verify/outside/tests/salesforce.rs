//! Salesforce.

use super::*;
use crate::verify::{NOTIFICATIONS_MAX, SalesforceSettings, hide_session_ids, notifications};

const ORGANIZATION: &str = "00DD0000000FOOaMAO";

fn verifier() -> Verifier {
    Verifier::salesforce(&SalesforceSettings::new("00DD0000000FOOa").unwrap())
}

fn notification(id: &str) -> String {
    format!(
        "<Notification><Id>{id}</Id><sObject xsi:type=\"sf:Account\" \
         xmlns:sf=\"urn:sobject.enterprise.soap.sforce.com\"><sf:Id>001x</sf:Id><sf:Name>A &amp; B \u{e9}</sf:Name>\
         </sObject></Notification>"
    )
}

fn message(organization: &str, notifications: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n\
         <soapenv:Body><notifications xmlns=\"http://soap.sforce.com/2005/09/outbound\">\
         <OrganizationId>{organization}</OrganizationId><ActionId>04kD00000004D2NIAU</ActionId>\
         <SessionId>00DD!live.credential</SessionId><EnterpriseUrl>https://x</EnterpriseUrl>\
         <PartnerUrl>https://y</PartnerUrl>{notifications}</notifications></soapenv:Body></soapenv:Envelope>\n"
    )
}

fn verdict_on(body: impl Into<Vec<u8>>) -> Result<Verified, Refusal> {
    verdict(&verifier(), &Request::new(&[("content-type", "text/xml")], b"").with_body(body))
}

#[test]
fn a_message_of_the_organization_is_taken_in_either_form_of_its_id() {
    let verified = verdict_on(message(ORGANIZATION, &notification("04l1"))).unwrap();
    assert_eq!((verified.scheme, verified.secret), ("salesforce", None));
    assert!(verdict_on(message("00DD0000000FOOa", &notification("04l1"))).is_ok());
    let long = Verifier::salesforce(&SalesforceSettings::new(ORGANIZATION).unwrap());
    assert!(verdict(&long, &Request::new(&[], message("00DD0000000FOOa", &notification("1")).as_bytes())).is_ok());
    let with_mark = format!("\u{feff}{}", message(ORGANIZATION, &notification("04l1")));
    assert!(verdict_on(with_mark).is_ok());
}

#[test]
fn another_organization_is_refused_also_if_only_the_case_is_different() {
    for other in ["00DD0000000BARa", "00DD0000000fOOa", "00DD0000000FOOAMAO"] {
        let verdict = verdict_on(message(other, &notification("04l1")));
        assert!(verdict == refused(Reason::OtherOrganization) || verdict == refused(Reason::MalformedBody), "{other}");
    }
    let wrong_suffix = verdict_on(message("00DD0000000FOOaAAA", &notification("04l1")));
    assert_eq!(wrong_suffix, refused(Reason::MalformedBody));
}

#[test]
fn an_id_of_an_organization_is_checked_when_it_is_configured() {
    for wrong in [
        "",
        "00D",
        "001D0000000FOOa",
        "00DD0000000FOOaAAA",
        "00DD0000000FOO!",
        "00DD0000000FOOaMAO1",
        "00DD0000000FOOa\u{e9}",
    ] {
        assert!(SalesforceSettings::new(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_document_that_is_more_than_a_message_is_refused() {
    let good = message(ORGANIZATION, &notification("04l1"));
    let (decl, rest) = good.split_once('\n').unwrap();
    let deep = format!("{}{}", "<a>".repeat(40), "</a>".repeat(40));
    let bodies = [
        String::new(),
        "{}".to_owned(),
        "<a/>".to_owned(),
        format!("{decl}<!DOCTYPE a [<!ENTITY b \"c\">]>{rest}"),
        format!("{decl}<?php echo 1 ?>{rest}"),
        good.replace("A &amp; B", "&b;").replace("<sf:Name>", "<OrganizationId>&evil;</OrganizationId><sf:Name>&evil;"),
        good.replace("</soapenv:Envelope>", ""),
        format!("{good}{rest}"),
        format!("{good}trailing"),
        good.replace("<ActionId>", &format!("<OrganizationId>{ORGANIZATION}</OrganizationId><ActionId>")),
        good.replace("soap.sforce.com", "soap.evil.example"),
        good.replace("schemas.xmlsoap.org", "schemas.evil.example"),
        good.replace("UTF-8", "UTF-16"),
        good.replace("<sObject", &format!("{deep}<sObject")),
        good.replace("<Id>04l1</Id>", ""),
        good.replace("<Id>04l1</Id>", "<Id></Id>"),
        good.replace("<Id>04l1</Id>", "<Id>04l1</Id><Id>04l2</Id>"),
        good.replace("<Id>04l1</Id>", "<Id>04l\"1</Id>"),
        good.replace("<Id>04l1</Id>", &format!("<Id>{}</Id>", "a".repeat(65))),
        message(ORGANIZATION, ""),
        message(ORGANIZATION, &notification("04l1").repeat(NOTIFICATIONS_MAX + 1)),
    ];
    for body in bodies {
        assert_eq!(verdict_on(body.clone()), refused(Reason::MalformedBody), "{body}");
    }
    assert_eq!(verdict_on(*b"\xff\xfe<\0a\0"), refused(Reason::MalformedBody));
    // An organization that stands elsewhere than in the message itself says nothing.
    let nested = good
        .replace(&format!("<OrganizationId>{ORGANIZATION}</OrganizationId>"), "")
        .replace("<sObject", &format!("<OrganizationId>{ORGANIZATION}</OrganizationId><sObject"));
    assert_eq!(verdict_on(nested), refused(Reason::MalformedBody));
}

#[test]
fn every_notification_is_found_with_its_exact_bytes() {
    let all: String = (0..NOTIFICATIONS_MAX).map(|n| format!("\n{}", notification(&format!("04l{n}")))).collect();
    for body in [message(ORGANIZATION, &all), format!("\u{feff}{}", message(ORGANIZATION, &all))] {
        let found = notifications(body.as_bytes()).unwrap();
        assert_eq!(found.len(), NOTIFICATIONS_MAX);
        for (n, one) in found.iter().enumerate() {
            assert_eq!(&*one.id, format!("04l{n}"));
            assert_eq!(&body[one.at.clone()], notification(&one.id));
        }
    }
    assert_eq!(notifications(b"<a/>"), None);
}

#[test]
fn a_body_that_is_made_to_be_slow_is_hidden_in_one_pass() {
    for piece in ["SessionId", "<", "<SessionId", "<SessionId/", "<SessionId/>", "</SessionId>", "<SessionId>"] {
        let body = piece.repeat(1 << 20);
        assert!(hide_session_ids(body.as_bytes()).len() <= body.len());
    }
}

/// A text of 200 characters has so many session ids at most, each shown as eight characters.
const HIDDEN_MORE: usize = 200 / "<SessionId>".len() * 8;

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "[<>/a:SessionId\\[\\]! &;\"=\u{e9}\u{feff}?-]{0,200}") {
        proptest::prop_assert!(hide_session_ids(text.as_bytes()).len() <= text.len() + HIDDEN_MORE);
        proptest::prop_assert!(notifications(text.as_bytes()).is_none_or(|found| !found.is_empty()));
        let body = message(ORGANIZATION, &text);
        let shown = hide_session_ids(body.as_bytes()).into_owned();
        proptest::prop_assert!(!String::from_utf8_lossy(&shown).contains("live.credential"));
        for found in notifications(body.as_bytes()).into_iter().flatten() {
            proptest::prop_assert!(body.as_bytes()[found.at].starts_with(b"<Notification"));
        }
    }
}

#[test]
fn a_session_id_is_never_shown() {
    let body = message(ORGANIZATION, &notification("04l1"));
    let shown = String::from_utf8(hide_session_ids(body.as_bytes()).into_owned()).unwrap();
    assert_eq!(shown, body.replace("00DD!live.credential", "[hidden]"));
    let cases = [
        ("<a>no session</a>", "<a>no session</a>"),
        ("<SessionId xsi:nil=\"true\"/><a/>", "<SessionId xsi:nil=\"true\"/><a/>"),
        ("<o:SessionId>x</o:SessionId>", "<o:SessionId>[hidden]</o:SessionId>"),
        ("<SessionId >x</SessionId >", "<SessionId >[hidden]</SessionId >"),
        ("<SessionId><![CDATA[a<b>c]]></SessionId>", "<SessionId>[hidden]</SessionId>"),
        ("<SessionId><![CDATA[a</b>c]]></SessionId>", "<SessionId>[hidden]</SessionId>"),
        ("<<SessionId>x</SessionId>", "<<SessionId>[hidden]</SessionId>"),
        ("<SessionId", "<SessionId"),
        ("<", "<"),
        ("", ""),
        ("<MySessionId>x</MySessionId>", "<MySessionId>x</MySessionId>"),
        ("<SessionId>cut off", "<SessionId>[hidden]"),
        (
            "<SessionId>a</SessionId><SessionId>b</SessionId>",
            "<SessionId>[hidden]</SessionId><SessionId>[hidden]</SessionId>",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(String::from_utf8_lossy(&hide_session_ids(body.as_bytes())), expected);
    }
}
