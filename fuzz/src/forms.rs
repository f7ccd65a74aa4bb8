//! Twilio's form: what is signed of it, against a second reader, and what may change without notice.
//!
//! Input: the query; the form.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use stagepost::{
    clock::Timestamp,
    verify::{FORM_FIELDS_MAX, Head, Sample, Verifier},
};

use super::{
    NOW_MS,
    genuine::{self, SOURCES},
    joined, pieces,
};

/// Takes any bytes.
pub fn run(data: &[u8]) -> bool {
    let [query, form] = pieces(data);
    let Ok(query) = std::str::from_utf8(query) else { return false };
    let verifier = &SOURCES.iter().find(|source| source.name == "twilio").unwrap().verifier;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8"));
    let query = Some(query).filter(|query| !query.is_empty());
    let sample = Sample {
        method: &Method::POST,
        path: "/in",
        query,
        headers: &headers,
        body: form,
        id: "msg_1",
        now: Timestamp::from_millis(NOW_MS),
    };
    let Ok(signed) = verifier.sign(&sample) else {
        assert!(form.split(|byte| *byte == b'&').count() > FORM_FIELDS_MAX, "a form can be signed");
        return false;
    };
    assert_eq!((&*signed.body, signed.query.as_deref()), (form, query), "a form is signed as it is");
    for (name, value) in signed.headers {
        headers.insert(name, value);
    }
    let accepts = |form: &[u8]| judge(verifier, query, &headers, form);
    // A query that carries a hash is about a body that is no form.
    let has_hash =
        query.is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "bodySHA256"));
    if has_hash {
        return false;
    }
    if !form.is_empty() && form_urlencoded::parse(form).all(|(name, value)| name.is_empty() && value.is_empty()) {
        assert!(!accepts(form), "nothing of a form without fields is signed");
        return true;
    }
    assert!(accepts(form), "what is signed is accepted");
    let fields: Vec<&[u8]> = form.split(|byte| *byte == b'&').collect();
    if fields.len() * 2 <= FORM_FIELDS_MAX && !form.is_empty() {
        assert!(accepts(&[form, b"&", form].concat()), "fields that are equal count once");
    }
    let turned: Vec<&[u8]> = fields.iter().rev().copied().collect();
    assert!(accepts(&turned.join(&b'&')), "the order does not matter");
    let Some(text) = signed_text(form) else { return true };
    let url = match query {
        Some(query) => format!("https://hooks.example.com/in?{query}"),
        None => "https://hooks.example.com/in".to_owned(),
    };
    let expected = genuine::hmac_sha1_base64(format!("{url}{text}").as_bytes());
    assert_eq!(headers["x-twilio-signature"].to_str().unwrap(), expected, "another reader signs the same");
    if fields.len() < FORM_FIELDS_MAX {
        let more = [form, b"&AddOns=7"].concat();
        assert_eq!(accepts(&more), signed_text(&more).as_ref() == Some(&text), "a field more");
    }
    true
}

fn judge(verifier: &Verifier, query: Option<&str>, headers: &HeaderMap, form: &[u8]) -> bool {
    let head = Head { method: &Method::POST, path: "/in", query, headers };
    super::headers::judge(verifier, &head, form, &[form]).is_ok()
}

/// Names and values, sorted, each pair once. None if the form is not UTF-8, which this reader can't tell apart.
fn signed_text(form: &[u8]) -> Option<String> {
    let pairs: BTreeSet<(String, String)> = form_urlencoded::parse(form).into_owned().collect();
    let text: String = pairs.into_iter().flat_map(|(name, value)| [name, value]).collect();
    (!text.contains('\u{fffd}')).then_some(text)
}

/// Forms as Twilio posts them.
pub fn seeds() -> Vec<Vec<u8>> {
    let forms: [(&str, &str); 5] = [
        ("", "CallSid=CA1234567890ABCDE&Caller=%2B14158675310&Digits=1234&From=%2B14158675310&To=%2B18005551212"),
        ("foo=1&bar=2", "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234"),
        ("a=%40", "Body=na%C3%AFve+text%21&Empty=&&Bare&=nameless"),
        ("", ""),
        ("a", "a=%F&b=%zz%&c=%FF%fe"),
    ];
    forms.iter().map(|(query, form)| joined(&[query.as_bytes(), form.as_bytes()])).collect()
}
