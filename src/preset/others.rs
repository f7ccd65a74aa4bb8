//! Owns the rows of providers whose scheme has code of its own.

use super::{Answer, EMPTY_202, EMPTY_204, ItemPlan, KeyPlan, Preset, ROW, hours};
use crate::{
    routing::Challenge,
    verify::{OutsideScheme, Proof},
};

/// Without it Salesforce sends a message again, for a day.
const SALESFORCE_ACK: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope \
                              xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>\
                              <notificationsResponse xmlns=\"http://soap.sforce.com/2005/09/outbound\"><Ack>true</Ack>\
                              </notificationsResponse></soapenv:Body></soapenv:Envelope>";

pub(super) const ROWS: &[Preset] = &[
    Preset {
        name: "twilio",
        title: "Twilio",
        proof: Proof::Twilio,
        answer: Answer::Fixed { status: 200, content_type: "text/xml", body: "<Response/>" },
        dedupe: Some(KeyPlan::Header("i-twilio-idempotency-token")),
        ..ROW
    },
    Preset {
        name: "mailgun",
        title: "Mailgun",
        proof: Proof::Mailgun,
        // The token counts once: the rest of the body is not signed.
        dedupe: Some(KeyPlan::FirstOf(&[KeyPlan::Jq(".signature.token"), KeyPlan::Jq(".token")])),
        retries_for: hours(8),
        event_type: Some(KeyPlan::FirstOf(&[KeyPlan::Jq(".[\"event-data\"].event"), KeyPlan::Jq(".event")])),
        ..ROW
    },
    Preset {
        name: "ms-graph",
        title: "Microsoft Graph",
        proof: Proof::GraphClientState,
        // Bodies repeat: nothing tells a second change from a repeated notice of the first.
        dedupe: None,
        retries_for: hours(4),
        event_type: Some(KeyPlan::ItemTypes(ItemPlan { array: "value[]", key: &[], kind: Some("changeType") })),
        items: Some(ItemPlan { array: "value[]", key: &[], kind: Some("changeType") }),
        challenge: Some(Challenge::MsGraph),
        ..ROW
    },
    Preset {
        name: "aws-sns",
        title: "Amazon SNS",
        proof: Proof::Outside(OutsideScheme::AwsSns),
        // Both stand in headers too, where they are not signed.
        dedupe: Some(KeyPlan::Jq(".MessageId")),
        retries_for: hours(1),
        event_type: Some(KeyPlan::Jq(".Type")),
        challenge: Some(Challenge::Sns),
        ..ROW
    },
    Preset {
        name: "paypal",
        title: "PayPal",
        proof: Proof::Outside(OutsideScheme::PayPal),
        dedupe: Some(KeyPlan::Jq(".id")),
        retries_for: hours(72),
        event_type: Some(KeyPlan::Jq(".event_type")),
        ..ROW
    },
    Preset {
        name: "google-pubsub",
        title: "Google Pub/Sub",
        proof: Proof::Outside(OutsideScheme::GooglePubSub),
        answer: EMPTY_204,
        dedupe: Some(KeyPlan::Jq(".message.messageId")),
        // Until the subscription's retention is over, by default seven days.
        retries_for: hours(7 * 24),
        ..ROW
    },
    Preset {
        name: "salesforce",
        title: "Salesforce",
        proof: Proof::Outside(OutsideScheme::Salesforce),
        answer: Answer::Fixed { status: 200, content_type: "text/xml", body: SALESFORCE_ACK },
        dedupe: Some(KeyPlan::Notifications),
        retries_for: hours(24),
        ..ROW
    },
    Preset {
        name: "cloudevents",
        title: "CloudEvents",
        proof: Proof::BearerIfSet,
        answer: EMPTY_202,
        // Source and id together are unique (CloudEvents 1.0, section 3.1): binary mode, then structured.
        dedupe: Some(KeyPlan::FirstOf(&[
            KeyPlan::Joined(&[KeyPlan::Header("ce-source"), KeyPlan::Header("ce-id")]),
            KeyPlan::Joined(&[KeyPlan::Jq(".source"), KeyPlan::Jq(".id")]),
        ])),
        event_type: Some(KeyPlan::FirstOf(&[KeyPlan::Header("ce-type"), KeyPlan::Jq(".type")])),
        challenge: Some(Challenge::CloudEvents),
        ..ROW
    },
];
