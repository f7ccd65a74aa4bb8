//! Outbound messages of Salesforce: XML that anybody may have written.
//!
//! Input: the document.

use http::{HeaderMap, Method};
use stagepost::verify::{Head, NOTIFICATIONS_MAX, SalesforceSettings, Verifier, hide_session_ids, notifications};

use super::genuine::ORGANIZATION;

/// Takes any bytes.
pub fn run(body: &[u8]) -> bool {
    let found = notifications(body);
    let verifier = Verifier::salesforce(&SalesforceSettings::new(ORGANIZATION).unwrap());
    let headers = HeaderMap::new();
    let head = Head { method: &Method::POST, path: "/in", query: None, headers: &headers };
    let accepted = super::headers::judge(&verifier, &head, body, &[body]).is_ok();
    let hidden = hide_session_ids(body);
    assert_eq!(hide_session_ids(&hidden), hidden, "what is hidden stays as it is");
    let Some(found) = found else {
        assert!(!accepted, "no message, no sender");
        return false;
    };
    let text = std::str::from_utf8(body).unwrap();
    // A reference or a comment may stand in the middle of an id.
    let is_plain = !text.contains(['&', '!']);
    assert!((1..=NOTIFICATIONS_MAX).contains(&found.len()));
    let mut end = 0;
    for one in &found {
        assert!(end <= one.at.start && one.at.start < one.at.end, "one after the other");
        end = one.at.end;
        let element = text.get(one.at.clone()).expect("elements are whole characters");
        assert!(element.starts_with('<') && element.ends_with('>'), "an element from end to end: {element:?}");
        assert!(!is_plain || element.contains(&*one.id), "the id stands in the element: {element:?}");
    }
    assert!(!accepted || !is_plain || text.contains(ORGANIZATION), "another organization's");
    assert!(!text.contains("<!DOCTYPE"), "no document type");
    if is_plain {
        for secret in session_ids(text).filter(|secret| text.matches(secret).count() == 1) {
            assert!(!String::from_utf8_lossy(&hidden).contains(secret), "{secret:?} is shown");
        }
    }
    accepted
}

/// What stands in elements that are written in the plainest way, if it is long enough to be found again.
fn session_ids(text: &str) -> impl Iterator<Item = &str> {
    let opened = text.split("<sf:SessionId>").skip(1).chain(text.split("<SessionId>").skip(1));
    opened.filter_map(|rest| rest.split('<').next()).filter(|secret| secret.len() >= 8)
}

/// A message with one notification, and one with two, with references and a character data section.
pub fn seeds() -> Vec<Vec<u8>> {
    let one = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
         xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><notifications \
         xmlns=\"http://soap.sforce.com/2005/09/outbound\"><OrganizationId>{ORGANIZATION}</OrganizationId>\
         <ActionId>04k000000000001AAA</ActionId><SessionId>00Dx!AQoAQPsession</SessionId><EnterpriseUrl>https://a.test\
         </EnterpriseUrl><Notification><Id>04l000000000001AAA</Id><sObject xsi:type=\"sf:Account\" \
         xmlns:sf=\"urn:sobject.enterprise.soap.sforce.com\"><sf:Id>001</sf:Id><sf:Name>A &amp; B</sf:Name></sObject>\
         </Notification></notifications></soapenv:Body></soapenv:Envelope>"
    );
    let two = format!(
        "\u{feff}<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Header/><e:Body><o:notifications \
         xmlns:o=\"http://soap.sforce.com/2005/09/outbound\"><o:OrganizationId>&#48;{}</o:OrganizationId>\
         <SessionId xmlns=\"\">secret-secret</SessionId><o:Notification><o:Id>04l1</o:Id></o:Notification>\
         <!-- between --><o:Notification><o:Id><![CDATA[04l2]]></o:Id></o:Notification></o:notifications></e:Body>\
         </e:Envelope>\n",
        ORGANIZATION.strip_prefix('0').unwrap_or_default()
    );
    vec![one.into_bytes(), two.into_bytes()]
}
