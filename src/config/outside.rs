//! Owns the keys of `verify` for the schemes whose keys come from outside (`aws-sns`, `paypal`, `google-pubsub`), and
//! for `salesforce`.

use std::{path::Path, sync::Arc, time::Duration};

use super::{reader::Section, server::positive, source::chain};
use crate::verify::{
    DOCUMENT_BYTES_MAX, DocumentError, KeyDocument, OutsideScheme, PayPalSettings, PubSubSettings, SalesforceSettings,
    SignatureVersion, SnsSettings, Verifier,
};

/// Reads what one of them needs.
pub(super) fn read(scheme: OutsideScheme, section: &Section<'_>, source: &Section<'_>) -> Option<Verifier> {
    if section.has("secrets") {
        section.problem("secrets", "has no use with this scheme, whose keys are public; remove it");
    }
    match scheme {
        OutsideScheme::AwsSns => aws_sns(section),
        OutsideScheme::PayPal => paypal(section),
        OutsideScheme::GooglePubSub => google_pubsub(section),
        OutsideScheme::Salesforce => salesforce(section, source),
    }
}

fn aws_sns(section: &Section<'_>) -> Option<Verifier> {
    let topics = topics(section);
    let signature_version = match section.count("signature_version", 2, 1..=2) {
        1 => SignatureVersion::One,
        _ => SignatureVersion::Two,
    };
    if signature_version == SignatureVersion::One {
        section.warn(
            "signature_version",
            "takes SHA-1; set the topic's attribute SignatureVersion to 2 at SNS and remove this key",
        );
    }
    let confirm = section.flag("confirm", true);
    // SNS tries for an hour at most.
    let tolerance = positive(section, "tolerance", "1d");
    let pinned = pinned(section, "certificate", KeyDocument::pinned_certificates)?;
    Some(Verifier::aws_sns(SnsSettings { topics: topics?, signature_version, confirm, tolerance, pinned }))
}

fn topics(section: &Section<'_>) -> Option<Vec<String>> {
    if !section.has("topic_arn") {
        section.problem(
            "topic_arn",
            "is missing; name the topic, such as \"arn:aws:sns:us-east-1:123456789012:orders\": everybody's topics are \
             signed by the same key",
        );
    }
    let words = section.words("topic_arn")?;
    let is_arn = |word: &str| {
        let mut parts = word.splitn(6, ':');
        let head = [parts.next(), parts.next(), parts.next()];
        let rest: Vec<&str> = parts.collect();
        matches!(head, [Some("arn"), Some(partition), Some("sns")] if partition.starts_with("aws"))
            && rest.len() == 3
            && rest.iter().all(|part| !part.is_empty() && !part.contains([':', ' ', '*']))
    };
    for (word, _) in words.iter().filter(|(word, _)| !is_arn(word)) {
        let message = format!(
            "\"{word}\" is no ARN of a topic; write it in full, such as \
             \"arn:aws:sns:us-east-1:123456789012:orders\""
        );
        section.problem("topic_arn", message);
    }
    if words.is_empty() {
        section.problem("topic_arn", "is empty, so that nothing could come in; name the topic");
    }
    section.print_words("topic_arn", words.iter().map(|(word, _)| word));
    Some(words.into_iter().map(|(word, _)| word.to_owned()).collect())
}

fn paypal(section: &Section<'_>) -> Option<Verifier> {
    let webhook_id = needed(section, "webhook_id", "copy the webhook's ID from PayPal's developer dashboard");
    // PayPal tries for three days.
    let tolerance = positive(section, "tolerance", "4d");
    let pinned = pinned(section, "certificate", KeyDocument::pinned_certificates)?;
    let webhook_id = webhook_id.filter(|id| {
        let fits = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !fits {
            section.problem("webhook_id", "has letters, digits and - only; copy it from PayPal's developer dashboard");
        }
        fits
    });
    Some(Verifier::paypal(PayPalSettings { webhook_id: webhook_id?, tolerance, pinned }))
}

fn google_pubsub(section: &Section<'_>) -> Option<Verifier> {
    let audience = needed(section, "audience", "write the subscription's audience; by default it is its push endpoint");
    let account = needed(
        section,
        "service_account",
        "write the address of the account that the subscription pushes as, such as \
         \"pusher@project.iam.gserviceaccount.com\"",
    );
    let tolerance = section.duration("tolerance", "5m");
    if tolerance > Duration::from_secs(3600) {
        section.problem("tolerance", "is longer than 1h, for which Google's tokens are valid anyway; write \"5m\"");
    }
    let pinned = pinned(section, "jwks", KeyDocument::key_set)?;
    let account = account.filter(|account| {
        let fits = account.contains('@');
        if !fits {
            section.problem("service_account", "is no address; write it in full, with what stands after the @");
        }
        fits
    });
    let (audience, service_account) = (audience?, account?);
    Some(Verifier::google_pubsub(PubSubSettings { audience, service_account, tolerance, pinned }))
}

fn salesforce(section: &Section<'_>, source: &Section<'_>) -> Option<Verifier> {
    let id = needed(section, "organization_id", "copy it from Salesforce: Setup, Company Information")?;
    let settings = section.accept("organization_id", SalesforceSettings::new(&id))?;
    if !source.has("allow") && !source.has("client_certificate") {
        section.warn(
            "scheme",
            "messages of Salesforce carry no signature and an organization's id is no secret: add client_certificate (the \
             one Salesforce sends) or allow (its addresses) to the source",
        );
    }
    Some(Verifier::salesforce(&settings))
}

fn needed(section: &Section<'_>, key: &'static str, remedy: &str) -> Option<String> {
    if !section.has(key) {
        section.problem(key, format!("is missing; {remedy}"));
    }
    section.text(key).map(str::to_owned)
}

/// A document that the operator put there, so that nothing is fetched. None when there are problems.
fn pinned(
    section: &Section<'_>,
    key: &'static str,
    read: fn(&str, &[u8]) -> Result<KeyDocument, DocumentError>,
) -> Option<Option<Arc<KeyDocument>>> {
    if !section.has(key) {
        return Some(None);
    }
    let path = section.path(key)?;
    section.cx.watch(&path);
    let document = document(&path).and_then(|bytes| {
        let reference = format!("file:{}", path.display());
        read(&reference, &bytes).map_err(|error| format!("{} is of no use: {error}", path.display()))
    });
    section.accept(key, document).map(|document| Some(Arc::new(document)))
}

fn document(path: &Path) -> Result<Vec<u8>, String> {
    let reading = |error: std::io::Error| format!("reading {}: {}", path.display(), chain(&error));
    let size = std::fs::metadata(path).map_err(reading)?.len();
    if size > DOCUMENT_BYTES_MAX as u64 {
        return Err(format!("{} has {size} bytes, more than any certificate or key set", path.display()));
    }
    std::fs::read(path).map_err(reading)
}
