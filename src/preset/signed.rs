//! Owns the rows of providers that sign the body alone, or carry a plain secret: there is no timestamp, so that only the
//! dedupe rule recognises what is sent again.

use super::{BODY_WINDOW, EMPTY_202, EMPTY_204, ItemPlan, KeyPlan, NumberingPlan, Preset, ROW, hours, minutes};
use crate::{
    routing::Challenge,
    verify::{
        Algorithm, Encoding, Grammar, KeyForm, Part, Plan, Primitive, Proof, SignaturePlan, TimestampPlace,
        TimestampPlan, TimestampUnit,
    },
};

use std::time::Duration;

/// HMAC-SHA256 over the body, hex after a prefix.
const fn body_hex(header: &'static str, prefix: &'static str) -> Plan {
    body(Algorithm::Sha256, header, prefix, Encoding::Hex)
}

/// HMAC-SHA256 over the body, base64 after a prefix.
const fn body_base64(header: &'static str, prefix: &'static str) -> Plan {
    body(Algorithm::Sha256, header, prefix, Encoding::Base64)
}

const fn body(algorithm: Algorithm, header: &'static str, prefix: &'static str, encoding: Encoding) -> Plan {
    Plan {
        primitive: Primitive::Hmac(algorithm),
        key: KeyForm::Text,
        signature: SignaturePlan { header, grammar: Grammar::Whole { prefix }, encoding },
        signed: &[Part::Body],
        timestamp: None,
        renamed: None,
        instead: None,
    }
}

/// The secret itself in a header.
const fn token(header: &'static str, key: KeyForm) -> Proof {
    Proof::Plan(Plan {
        primitive: Primitive::Equal,
        key,
        signature: SignaturePlan { header, grammar: Grammar::Whole { prefix: "" }, encoding: Encoding::Hex },
        signed: &[],
        timestamp: None,
        renamed: None,
        instead: None,
    })
}

/// GitHub's older signature, which it still sends beside the newer one.
const GITHUB_SHA1: Plan = body(Algorithm::Sha1, "x-hub-signature", "sha1=", Encoding::Hex);

pub(super) const ROWS: &[Preset] = &[
    Preset {
        name: "github",
        title: "GitHub",
        proof: Proof::Plan(Plan {
            instead: Some((Algorithm::Sha1, &GITHUB_SHA1)),
            ..body_hex("x-hub-signature-256", "sha256=")
        }),
        dedupe: Some(KeyPlan::Header("x-github-delivery")),
        event_type: Some(KeyPlan::Dotted(&[KeyPlan::Header("x-github-event"), KeyPlan::Jq(".action")])),
        max_body: Some(25 << 20),
        ..ROW
    },
    Preset {
        name: "bitbucket",
        title: "Bitbucket",
        proof: Proof::Plan(body_hex("x-hub-signature", "sha256=")),
        // Bitbucket Cloud, and Bitbucket Data Center.
        dedupe: Some(KeyPlan::FirstOf(&[KeyPlan::Header("x-request-uuid"), KeyPlan::Header("x-request-id")])),
        event_type: Some(KeyPlan::Header("x-event-key")),
        ..ROW
    },
    Preset {
        name: "jira",
        title: "Jira",
        proof: Proof::Plan(body_hex("x-hub-signature", "sha256=")),
        dedupe: Some(KeyPlan::Header("x-atlassian-webhook-identifier")),
        retries_for: minutes(30),
        event_type: Some(KeyPlan::Jq(".webhookEvent")),
        ..ROW
    },
    Preset {
        name: "shopify",
        title: "Shopify",
        proof: Proof::Plan(Plan {
            renamed: Some(("x-shopify-", "shopify-")),
            ..body_base64("x-shopify-hmac-sha256", "")
        }),
        dedupe: Some(KeyPlan::FirstOf(&[
            KeyPlan::Header("x-shopify-webhook-id"),
            KeyPlan::Header("shopify-webhook-id"),
        ])),
        retries_for: hours(4),
        event_type: Some(KeyPlan::FirstOf(&[KeyPlan::Header("x-shopify-topic"), KeyPlan::Header("shopify-topic")])),
        ..ROW
    },
    Preset {
        name: "meta",
        title: "Meta and WhatsApp",
        proof: Proof::Plan(body_hex("x-hub-signature-256", "sha256=")),
        dedupe: Some(KeyPlan::FirstOf(&[
            KeyPlan::Items(ItemPlan { array: "entry[].changes[].value.messages[]", key: &["id"], kind: None }),
            KeyPlan::BodyHash,
        ])),
        window: BODY_WINDOW,
        event_type: Some(KeyPlan::Dotted(&[
            KeyPlan::Jq(".object"),
            KeyPlan::ItemTypes(ItemPlan { array: "entry[].changes[]", key: &[], kind: Some("field") }),
        ])),
        items: Some(ItemPlan { array: "entry[]", key: &[], kind: None }),
        challenge: Some(Challenge::Meta),
        ..ROW
    },
    Preset {
        name: "intercom",
        title: "Intercom",
        // SHA-1 is all that Intercom has.
        proof: Proof::Plan(body(Algorithm::Sha1, "x-hub-signature", "sha1=", Encoding::Hex)),
        dedupe: Some(KeyPlan::Jq(".id")),
        event_type: Some(KeyPlan::Jq(".topic")),
        ..ROW
    },
    Preset {
        name: "linear",
        title: "Linear",
        proof: Proof::Plan(Plan {
            timestamp: Some(TimestampPlan {
                // Its SDK does not trust the header of the same meaning.
                place: TimestampPlace::Json(&["webhookTimestamp"]),
                unit: TimestampUnit::Milliseconds,
                tolerance: Duration::from_secs(60),
            }),
            ..body_hex("linear-signature", "")
        }),
        dedupe: Some(KeyPlan::Header("linear-delivery")),
        retries_for: hours(8),
        event_type: Some(KeyPlan::Dotted(&[
            KeyPlan::FirstOf(&[KeyPlan::Header("linear-event"), KeyPlan::Jq(".type")]),
            KeyPlan::Jq(".action"),
        ])),
        ..ROW
    },
    Preset {
        name: "pagerduty",
        title: "PagerDuty",
        proof: Proof::Plan(Plan {
            signature: SignaturePlan {
                header: "x-pagerduty-signature",
                grammar: Grammar::Pairs { separator: b',', wanted: "v1", timestamp: None },
                encoding: Encoding::Hex,
            },
            ..body_hex("x-pagerduty-signature", "")
        }),
        answer: EMPTY_202,
        dedupe: Some(KeyPlan::Jq(".event.id")),
        event_type: Some(KeyPlan::Jq(".event.event_type")),
        ..ROW
    },
    Preset {
        name: "docusign",
        title: "DocuSign Connect",
        proof: Proof::Plan(Plan {
            signature: SignaturePlan {
                header: "x-docusign-signature-",
                grammar: Grammar::Family,
                encoding: Encoding::Base64,
            },
            ..body_base64("", "")
        }),
        // None of them is unique alone.
        dedupe: Some(KeyPlan::Joined(&[
            KeyPlan::Jq(".data.envelopeId"),
            KeyPlan::Jq(".event"),
            KeyPlan::Jq(".generatedDateTime"),
        ])),
        event_type: Some(KeyPlan::Jq(".event")),
        ..ROW
    },
    Preset {
        name: "dropbox",
        title: "Dropbox",
        proof: Proof::Plan(body_hex("x-dropbox-signature", "")),
        // Bodies list accounts alone and repeat: nothing tells a second notice from a repeated one.
        dedupe: None,
        retries_for: minutes(10),
        challenge: Some(Challenge::Dropbox),
        ..ROW
    },
    Preset {
        name: "x",
        title: "X",
        proof: Proof::Plan(body_base64("x-twitter-webhooks-signature", "sha256=")),
        dedupe: Some(KeyPlan::BodyHash),
        window: BODY_WINDOW,
        challenge: Some(Challenge::X),
        ..ROW
    },
    Preset {
        name: "gitlab-token",
        title: "GitLab, secret token",
        proof: token("x-gitlab-token", KeyForm::Text),
        dedupe: Some(KeyPlan::FirstOf(&[KeyPlan::Header("idempotency-key"), KeyPlan::Header("x-gitlab-event-uuid")])),
        event_type: Some(KeyPlan::Header("x-gitlab-event")),
        ..ROW
    },
    Preset {
        name: "telegram",
        title: "Telegram",
        proof: token("x-telegram-bot-api-secret-token", KeyForm::Word { max: 256 }),
        dedupe: Some(KeyPlan::Jq(".update_id")),
        numbering: Some(NumberingPlan { key: KeyPlan::Jq(".update_id"), consecutive: true }),
        ..ROW
    },
    Preset {
        name: "google-calendar",
        title: "Google Calendar",
        proof: token("x-goog-channel-token", KeyForm::Text),
        answer: EMPTY_204,
        dedupe: Some(KeyPlan::Joined(&[
            KeyPlan::Header("x-goog-channel-id"),
            KeyPlan::Header("x-goog-message-number"),
        ])),
        event_type: Some(KeyPlan::Header("x-goog-resource-state")),
        challenge: Some(Challenge::GoogleCalendar),
        numbering: Some(NumberingPlan { key: KeyPlan::Header("x-goog-message-number"), consecutive: false }),
        ..ROW
    },
    Preset {
        name: "okta",
        title: "Okta",
        proof: token("authorization", KeyForm::Text),
        dedupe: Some(KeyPlan::FirstOf(&[
            KeyPlan::Items(ItemPlan { array: "data.events[]", key: &["uuid"], kind: None }),
            KeyPlan::Jq(".eventId"),
        ])),
        event_type: Some(KeyPlan::ItemTypes(ItemPlan { array: "data.events[]", key: &[], kind: Some("eventType") })),
        items: Some(ItemPlan { array: "data.events[]", key: &["uuid"], kind: Some("eventType") }),
        challenge: Some(Challenge::Okta),
        ..ROW
    },
    Preset {
        name: "postmark",
        title: "Postmark",
        proof: Proof::Plan(Plan {
            primitive: Primitive::Equal,
            key: KeyForm::UserPassword,
            signature: SignaturePlan {
                header: "authorization",
                grammar: Grammar::Whole { prefix: "Basic " },
                encoding: Encoding::Base64,
            },
            signed: &[],
            timestamp: None,
            renamed: None,
            instead: None,
        }),
        // Every open and click of a message has its MessageID.
        dedupe: Some(KeyPlan::Joined(&[
            KeyPlan::Jq(".MessageID"),
            KeyPlan::Jq(".RecordType"),
            KeyPlan::FirstOf(&[KeyPlan::Jq(".ReceivedAt"), KeyPlan::BodyHash]),
        ])),
        event_type: Some(KeyPlan::Jq(".RecordType")),
        ..ROW
    },
];
