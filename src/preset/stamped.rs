//! Owns the rows of providers that sign a timestamp or the URL with the body.

use super::{Answer, BODY_WINDOW, EMPTY_204, ItemPlan, KeyPlan, Preset, ROW, hours, minutes};
use crate::{
    routing::Challenge,
    verify::{
        Algorithm, Encoding, Grammar, KeyForm, Part, Plan, Primitive, Proof, SignaturePlan, TOLERANCE, TimestampPlace,
        TimestampPlan, TimestampUnit,
    },
};

use std::time::Duration;

/// HMAC-SHA256 over some parts, with a key that is taken as it stands.
const fn hmac(signed: &'static [Part], signature: SignaturePlan, timestamp: Option<TimestampPlan>) -> Plan {
    Plan {
        primitive: Primitive::Hmac(Algorithm::Sha256),
        key: KeyForm::Text,
        signature,
        signed,
        timestamp,
        renamed: None,
        instead: None,
    }
}

const fn whole(header: &'static str, prefix: &'static str, encoding: Encoding) -> SignaturePlan {
    SignaturePlan { header, grammar: Grammar::Whole { prefix }, encoding }
}

/// Pairs with a timestamp among them.
const fn pairs(header: &'static str, separator: u8, wanted: &'static str, timestamp: &'static str) -> SignaturePlan {
    let grammar = Grammar::Pairs { separator, wanted, timestamp: Some(timestamp) };
    SignaturePlan { header, grammar, encoding: Encoding::Hex }
}

const fn seconds_in(header: &'static str) -> Option<TimestampPlan> {
    stamp(TimestampPlace::Header(header), TimestampUnit::Seconds, TOLERANCE)
}

/// Seconds in the signature header.
const FIELD: Option<TimestampPlan> = stamp(TimestampPlace::SignatureField, TimestampUnit::Seconds, TOLERANCE);

const fn stamp(place: TimestampPlace, unit: TimestampUnit, tolerance: Duration) -> Option<TimestampPlan> {
    Some(TimestampPlan { place, unit, tolerance })
}

/// <https://www.standardwebhooks.com>, with keys of one form or another.
const fn standard_webhooks(key: KeyForm) -> Plan {
    Plan {
        key,
        ..hmac(
            &[Part::Header("webhook-id"), Part::Text("."), Part::Timestamp, Part::Text("."), Part::Body],
            SignaturePlan {
                header: "webhook-signature",
                grammar: Grammar::Versions { mac: "v1", public: "v1a" },
                encoding: Encoding::Base64,
            },
            seconds_in("webhook-timestamp"),
        )
    }
}

const ANY_LENGTH: KeyForm = KeyForm::StandardWebhooks { min: 24, max: 64 };

/// The sum of the schedule that the specification advises, with jitter.
const STANDARD_RETRIES: Option<Duration> = hours(84);

const STANDARD_ROW: Preset = Preset {
    proof: Proof::Plan(standard_webhooks(ANY_LENGTH)),
    answer: Answer::Id,
    dedupe: Some(KeyPlan::Header("webhook-id")),
    event_type: Some(KeyPlan::Jq(".type")),
    ..ROW
};

/// What makes an event of `HubSpot` one: its `eventId` is not unique.
const HUBSPOT_ITEMS: ItemPlan = ItemPlan {
    array: "[]",
    key: &["eventId", "subscriptionId", "objectId", "occurredAt"],
    kind: Some("subscriptionType"),
};

const HUBSPOT_ROW: Preset = Preset {
    title: "HubSpot",
    dedupe: Some(KeyPlan::Items(HUBSPOT_ITEMS)),
    event_type: Some(KeyPlan::ItemTypes(HUBSPOT_ITEMS)),
    items: Some(HUBSPOT_ITEMS),
    ..ROW
};

/// The hash that the first two versions of `HubSpot`'s signature are.
const fn hubspot_hash(signed: &'static [Part]) -> Proof {
    Proof::Plan(Plan {
        primitive: Primitive::SecretFirstHash,
        ..hmac(signed, whole("x-hubspot-signature", "", Encoding::Hex), None)
    })
}

pub(super) const ROWS: &[Preset] = &[
    Preset { name: "standard-webhooks", title: "Standard Webhooks", retries_for: STANDARD_RETRIES, ..STANDARD_ROW },
    Preset {
        name: "svix",
        title: "Svix",
        proof: Proof::Plan(Plan {
            signature: SignaturePlan {
                header: "svix-signature",
                grammar: Grammar::Versions { mac: "v1", public: "v1a" },
                encoding: Encoding::Base64,
            },
            signed: &[Part::Header("svix-id"), Part::Text("."), Part::Timestamp, Part::Text("."), Part::Body],
            timestamp: seconds_in("svix-timestamp"),
            renamed: Some(("svix-", "webhook-")),
            ..standard_webhooks(ANY_LENGTH)
        }),
        dedupe: Some(KeyPlan::FirstOf(&[KeyPlan::Header("svix-id"), KeyPlan::Header("webhook-id")])),
        ..STANDARD_ROW
    },
    Preset {
        name: "openai",
        title: "OpenAI",
        proof: Proof::Plan(standard_webhooks(KeyForm::WhsecOrText)),
        retries_for: hours(72),
        ..STANDARD_ROW
    },
    Preset {
        name: "gitlab",
        title: "GitLab, signing token",
        proof: Proof::Plan(standard_webhooks(KeyForm::StandardWebhooks { min: 32, max: 32 })),
        dedupe: Some(KeyPlan::Header("webhook-id")),
        event_type: Some(KeyPlan::Header("x-gitlab-event")),
        ..ROW
    },
    Preset {
        name: "stripe",
        title: "Stripe",
        proof: Proof::Plan(hmac(
            &[Part::Timestamp, Part::Text("."), Part::Body],
            pairs("stripe-signature", b',', "v1", "t"),
            FIELD,
        )),
        dedupe: Some(KeyPlan::Jq(".id")),
        retries_for: hours(72),
        event_type: Some(KeyPlan::Jq(".type")),
        ..ROW
    },
    Preset {
        name: "slack",
        title: "Slack",
        proof: Proof::Plan(hmac(
            &[Part::Text("v0:"), Part::Timestamp, Part::Text(":"), Part::Body],
            whole("x-slack-signature", "v0=", Encoding::Hex),
            seconds_in("x-slack-request-timestamp"),
        )),
        dedupe: Some(KeyPlan::Jq(".event_id")),
        retries_for: minutes(10),
        event_type: Some(KeyPlan::Jq(".event.type")),
        challenge: Some(Challenge::Slack),
        ..ROW
    },
    Preset {
        name: "zoom",
        title: "Zoom",
        proof: Proof::Plan(hmac(
            &[Part::Text("v0:"), Part::Timestamp, Part::Text(":"), Part::Body],
            whole("x-zm-signature", "v0=", Encoding::Hex),
            seconds_in("x-zm-request-timestamp"),
        )),
        dedupe: Some(KeyPlan::BodyHash),
        window: BODY_WINDOW,
        retries_for: minutes(60),
        event_type: Some(KeyPlan::Jq(".event")),
        challenge: Some(Challenge::Zoom),
        ..ROW
    },
    Preset {
        name: "paddle",
        title: "Paddle",
        // Its SDK allows 5 s into the past alone; a retry and a slow network need more.
        proof: Proof::Plan(hmac(
            &[Part::Timestamp, Part::Text(":"), Part::Body],
            pairs("paddle-signature", b';', "h1", "ts"),
            FIELD,
        )),
        dedupe: Some(KeyPlan::Jq(".event_id")),
        retries_for: hours(72),
        event_type: Some(KeyPlan::Jq(".event_type")),
        ..ROW
    },
    Preset {
        name: "calendly",
        title: "Calendly",
        proof: Proof::Plan(hmac(
            &[Part::Timestamp, Part::Text("."), Part::Body],
            pairs("calendly-webhook-signature", b',', "v1", "t"),
            FIELD,
        )),
        dedupe: Some(KeyPlan::BodyHash),
        window: BODY_WINDOW,
        event_type: Some(KeyPlan::Jq(".event")),
        ..ROW
    },
    Preset {
        name: "zendesk",
        title: "Zendesk",
        // An older page of its documentation has body and timestamp the other way round.
        proof: Proof::Plan(hmac(
            &[Part::Timestamp, Part::Body],
            whole("x-zendesk-webhook-signature", "", Encoding::Base64),
            stamp(TimestampPlace::Header("x-zendesk-webhook-signature-timestamp"), TimestampUnit::Rfc3339, TOLERANCE),
        )),
        dedupe: Some(KeyPlan::Header("x-zendesk-webhook-invocation-id")),
        event_type: Some(KeyPlan::Jq(".type")),
        ..ROW
    },
    Preset {
        name: "twitch",
        title: "Twitch EventSub",
        proof: Proof::Plan(Plan {
            key: KeyForm::Ascii { min: 10, max: 100 },
            ..hmac(
                &[Part::Header("twitch-eventsub-message-id"), Part::Timestamp, Part::Body],
                whole("twitch-eventsub-message-signature", "sha256=", Encoding::Hex),
                stamp(
                    TimestampPlace::Header("twitch-eventsub-message-timestamp"),
                    TimestampUnit::Rfc3339,
                    Duration::from_secs(600),
                ),
            )
        }),
        dedupe: Some(KeyPlan::Header("twitch-eventsub-message-id")),
        event_type: Some(KeyPlan::Header("twitch-eventsub-subscription-type")),
        challenge: Some(Challenge::Twitch),
        ..ROW
    },
    Preset {
        name: "hubspot",
        proof: Proof::Plan(hmac(
            &[Part::Method, Part::HubSpotUrl, Part::Body, Part::Timestamp],
            whole("x-hubspot-signature-v3", "", Encoding::Base64),
            stamp(TimestampPlace::Header("x-hubspot-request-timestamp"), TimestampUnit::Milliseconds, TOLERANCE),
        )),
        ..HUBSPOT_ROW
    },
    Preset { name: "hubspot-v1", proof: hubspot_hash(&[Part::Body]), ..HUBSPOT_ROW },
    Preset { name: "hubspot-v2", proof: hubspot_hash(&[Part::Method, Part::Url, Part::Body]), ..HUBSPOT_ROW },
    Preset {
        name: "square",
        title: "Square",
        proof: Proof::Plan(hmac(
            &[Part::Url, Part::Body],
            whole("x-square-hmacsha256-signature", "", Encoding::Base64),
            None,
        )),
        dedupe: Some(KeyPlan::Jq(".event_id")),
        retries_for: hours(24),
        event_type: Some(KeyPlan::Jq(".type")),
        ..ROW
    },
    Preset {
        name: "discord",
        title: "Discord",
        proof: Proof::Plan(Plan {
            primitive: Primitive::Ed25519,
            key: KeyForm::Hex,
            ..hmac(
                &[Part::Timestamp, Part::Body],
                whole("x-signature-ed25519", "", Encoding::Hex),
                seconds_in("x-signature-timestamp"),
            )
        }),
        answer: EMPTY_204,
        dedupe: Some(KeyPlan::BodyHash),
        window: BODY_WINDOW,
        retries_for: minutes(10),
        event_type: Some(KeyPlan::Jq(".event.type")),
        challenge: Some(Challenge::Discord),
        ..ROW
    },
    Preset {
        name: "sendgrid",
        title: "SendGrid",
        proof: Proof::Plan(Plan {
            primitive: Primitive::EcdsaP256,
            key: KeyForm::Spki,
            ..hmac(
                &[Part::Timestamp, Part::Body],
                whole("x-twilio-email-event-webhook-signature", "", Encoding::Base64),
                seconds_in("x-twilio-email-event-webhook-timestamp"),
            )
        }),
        dedupe: Some(KeyPlan::Items(ItemPlan { array: "[]", key: &["sg_event_id"], kind: None })),
        event_type: Some(KeyPlan::ItemTypes(ItemPlan { array: "[]", key: &[], kind: Some("event") })),
        items: Some(ItemPlan { array: "[]", key: &["sg_event_id"], kind: Some("event") }),
        ..ROW
    },
];
