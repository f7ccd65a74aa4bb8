//! Schemes whose keys come from outside, and `[keys]`.

use super::*;

const CERTIFICATE: &str = include_str!("../../../tests/fixtures/keys/certificate-one.pem");
const KEY_SET: &str = include_str!("../../../tests/fixtures/keys/keys.json");
const ARN: &str = "arn:aws:sns:us-east-1:123456789012:orders";

/// A configuration with one source whose `verify` is this.
fn text(verify: &str) -> String {
    format!(
        "[[listen]]\naddress='127.0.0.1:1'\n[source.x]\npath='/x'\nto=[]\nallow=['10.0.0.0/8']\n[source.x.verify]\n{verify}\n"
    )
}

fn directory(verify: &str) -> Directory {
    let directory = Directory::with(&text(verify));
    directory.write("a.pem", CERTIFICATE);
    directory.write("google.json", KEY_SET);
    directory.write("large.pem", vec![b' '; 70_000]);
    directory
}

/// The problems, each without its place.
fn problems(verify: &str) -> Vec<String> {
    let directory = directory(verify);
    let found = directory.load().err().map(|problems| directory.messages(&problems.0)).unwrap_or_default();
    let bare = found.iter().map(|text| text.split_once(": source.x.verify.").map_or(text.as_str(), |(_, rest)| rest));
    bare.map(str::to_owned).collect()
}

#[test]
fn what_is_missing_or_wrong_is_named_with_the_remedy() {
    let cases = [
        ("scheme='aws-sns'", "topic_arn: is missing; name the topic, such as \"arn:aws:sns:"),
        ("scheme='aws-sns'\ntopic_arn='orders'", "topic_arn: \"orders\" is no ARN of a topic; write it in full"),
        (
            "scheme='aws-sns'\ntopic_arn='arn:aws:sns:us-east-1:1:*'",
            "topic_arn: \"arn:aws:sns:us-east-1:1:*\" is no ARN",
        ),
        ("scheme='aws-sns'\ntopic_arn=[]", "topic_arn: is empty"),
        ("scheme='aws-sns'\nsecrets=['env:X']\ntopic_arn='ARN'", "secrets: has no use with this scheme"),
        (
            "scheme='aws-sns'\nsignature_version=3\ntopic_arn='ARN'",
            "signature_version: takes a whole number from 1 to 2",
        ),
        ("scheme='aws-sns'\ncertificate='gone.pem'\ntopic_arn='ARN'", "certificate: reading "),
        (
            "scheme='aws-sns'\ncertificate='google.json'\ntopic_arn='ARN'",
            "certificate: DIR/google.json is of no use: it holds no certificate in PEM form",
        ),
        ("scheme='aws-sns'\ncertificate='large.pem'\ntopic_arn='ARN'", "certificate: DIR/large.pem has 70000 bytes"),
        ("scheme='paypal'", "webhook_id: is missing; copy the webhook's ID from PayPal's developer dashboard"),
        ("scheme='paypal'\nwebhook_id='a|b'", "webhook_id: has letters, digits and - only"),
        ("scheme='google-pubsub'\nservice_account='a@b'", "audience: is missing; write the subscription's audience"),
        ("scheme='google-pubsub'\naudience='a'", "service_account: is missing; write the address of the account"),
        ("scheme='google-pubsub'\naudience='a'\nservice_account='a'", "service_account: is no address"),
        (
            "scheme='google-pubsub'\naudience='a'\nservice_account='a@b'\njwks='a.pem'",
            "jwks: DIR/a.pem is of no use: its JSON Web Key Set can't be read",
        ),
        ("scheme='google-pubsub'\naudience='a'\nservice_account='a@b'\ntolerance='2h'", "tolerance: is longer than 1h"),
        ("scheme='salesforce'", "organization_id: is missing; copy it from Salesforce: Setup, Company Information"),
        ("scheme='salesforce'\norganization_id='001'", "organization_id: is no id of an organization"),
        ("scheme='salesforce'\nconfirm=true\norganization_id='00DD0000000FOOa'", "confirm: unknown key"),
    ];
    for (verify, expected) in cases {
        let verify = verify.replace("ARN'", &format!("{ARN}'"));
        let found = problems(&verify);
        let expected = expected.replace("DIR/", "");
        assert_eq!(found.len(), 1, "{verify}: {found:?}");
        assert!(found[0].starts_with(&expected), "{verify}: {found:?}");
    }
}

#[test]
fn with_pinned_files_nothing_is_fetched() {
    let pinned = [
        format!("scheme='aws-sns'\ntopic_arn=['{ARN}']\ncertificate='a.pem'"),
        "scheme='paypal'\nwebhook_id='1JE4'\ncertificate='a.pem'".to_owned(),
        "scheme='google-pubsub'\naudience='a'\nservice_account='a@b'\njwks='google.json'".to_owned(),
        "scheme='salesforce'\norganization_id='00DD0000000FOOaMAO'".to_owned(),
    ];
    for verify in pinned {
        let directory = directory(&verify);
        let loaded = directory.load().unwrap_or_else(|problems| panic!("{verify}: {problems}"));
        assert!(loaded.config.keys.is_none(), "{verify}");
        let watched = ["a.pem", "google.json"].iter().any(|name| loaded.files.contains(&directory.path(name)));
        assert_eq!(watched, !verify.contains("salesforce"), "{verify}: a pinned file is watched");
        assert_eq!(loaded.warnings.len(), 0, "{verify}");
    }
}

#[test]
fn without_pinned_files_keys_are_fetched_as_the_section_says() {
    let verify = format!(
        "scheme='aws-sns'\ntopic_arn='{ARN}'\n[keys]\nca='a.pem'\nissuers='a.pem'\ntimeout='3s'\nmax_documents=7"
    );
    let loaded = directory(&verify).load().unwrap_or_else(|problems| panic!("{problems}"));
    let keys = loaded.config.keys.unwrap();
    assert_eq!((keys.timeout, keys.refresh), (Duration::from_secs(3), Duration::from_secs(86_400)));
    assert_eq!((keys.max_documents, keys.max_fetches, keys.issuers.len()), (7, 4, 1));
    assert!(keys.tls.alpn_protocols == [b"http/1.1".to_vec()]);
    let bad = directory(&format!("scheme='aws-sns'\ntopic_arn='{ARN}'\n[keys]\nca='google.json'\ntimeout='1m'"));
    let said = bad.messages(&bad.load().err().unwrap().0).join("\n");
    assert!(said.contains("keys.ca: ") && said.contains("keys.timeout: is longer than 30s"), "{said}");
}

#[test]
fn doubtful_settings_are_warned_about() {
    let old = directory(&format!("scheme='aws-sns'\ntopic_arn='{ARN}'\nsignature_version=1\ncertificate='a.pem'"));
    let warnings = old.messages(&old.load().unwrap().warnings);
    assert!(warnings.iter().any(|text| text.contains("attribute SignatureVersion to 2 at SNS")), "{warnings:?}");
    let open = Directory::with(
        &text("scheme='salesforce'\norganization_id='00DD0000000FOOaMAO'").replace("allow=['10.0.0.0/8']\n", ""),
    );
    let warnings = open.messages(&open.load().unwrap().warnings);
    assert!(warnings.iter().any(|text| text.contains("add client_certificate")), "{warnings:?}");
}

#[test]
fn the_rows_of_these_schemes_bring_answer_key_and_type() {
    let source = |verify: &str| directory(verify).load().unwrap().table.sources[0].clone();
    let salesforce = source("scheme='salesforce'\norganization_id='00DD0000000FOOaMAO'");
    assert!(String::from_utf8_lossy(&salesforce.reply.as_ref().unwrap().body).contains("<Ack>true</Ack>"));
    assert!(matches!(salesforce.dedupe.as_ref().unwrap().key, KeySelector::Notifications));
    let sns = source(&format!("scheme='aws-sns'\ntopic_arn='{ARN}'\ncertificate='a.pem'"));
    assert!(sns.challenge.is_some() && sns.dedupe.is_some() && sns.event_type.is_some());
    assert!(sns.verifier.confirms_subscriptions());
    let quiet = source(&format!("scheme='aws-sns'\ntopic_arn='{ARN}'\ncertificate='a.pem'\nconfirm=false"));
    assert!(!quiet.verifier.confirms_subscriptions());
}
