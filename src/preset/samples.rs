//! Owns a small sample of each provider's events, for `stagepost send`: enough for its dedupe key and its type.
//!
//! In the texts `%id%` stands for an id of its own, `%type%` for the type, `%type0%` and `%type1%` for what stands before
//! and after its first dot, `%time%`, `%s%` and `%ms%` for the time. Deliberately absent: samples of providers that sign
//! with a private key, and numbers of Telegram, which would leave a gap.

/// A sample of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The type, unless another is asked for.
    pub event_type: &'static str,
    /// Besides those that the signature brings.
    pub headers: &'static [(&'static str, &'static str)],
    /// May be empty.
    pub body: &'static str,
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// What any application may understand.
const GENERIC: Sample =
    Sample { event_type: "sample", headers: &[JSON], body: r#"{"id":"%id%","type":"%type%","sample":true}"# };

const fn json(event_type: &'static str, body: &'static str) -> Sample {
    Sample { event_type, headers: &[JSON], body }
}

const HUBSPOT: Sample = json(
    "contact.creation",
    r#"[{"eventId":%ms%,"subscriptionId":1,"objectId":1,"occurredAt":%ms%,"subscriptionType":"%type%"}]"#,
);

const STANDARD: Sample = json("sample.event", r#"{"type":"%type%","timestamp":"%time%","data":{"id":"%id%"}}"#);

/// The sample of a scheme; a general one if it has none of its own.
#[must_use]
pub fn of(scheme: &str) -> Sample {
    SAMPLES.iter().find(|(name, _)| *name == scheme).map_or(GENERIC, |(_, sample)| *sample)
}

const SAMPLES: &[(&str, Sample)] = &[
    (
        "stripe",
        json(
            "charge.succeeded",
            r#"{"id":"evt_%id%","object":"event","type":"%type%","created":%s%,"data":{"object":{"id":"ch_sample"}}}"#,
        ),
    ),
    (
        "github",
        Sample {
            event_type: "issues.opened",
            headers: &[JSON, ("x-github-delivery", "%id%"), ("x-github-event", "%type0%")],
            body: r#"{"action":"%type1%","repository":{"full_name":"sample/sample"},"sender":{"login":"sample"}}"#,
        },
    ),
    (
        "gitlab",
        Sample {
            event_type: "Push Hook",
            headers: &[JSON, ("x-gitlab-event", "%type%")],
            body: r#"{"object_kind":"push","project":{"name":"sample"}}"#,
        },
    ),
    (
        "gitlab-token",
        Sample {
            event_type: "Push Hook",
            headers: &[JSON, ("x-gitlab-event", "%type%"), ("x-gitlab-event-uuid", "%id%")],
            body: r#"{"object_kind":"push","project":{"name":"sample"}}"#,
        },
    ),
    (
        "bitbucket",
        Sample {
            event_type: "repo:push",
            headers: &[JSON, ("x-event-key", "%type%"), ("x-request-uuid", "%id%")],
            body: r#"{"repository":{"full_name":"sample/sample"}}"#,
        },
    ),
    (
        "jira",
        Sample {
            event_type: "jira:issue_updated",
            headers: &[JSON, ("x-atlassian-webhook-identifier", "%id%")],
            body: r#"{"timestamp":%ms%,"webhookEvent":"%type%","issue":{"key":"SAMPLE-1"}}"#,
        },
    ),
    (
        "shopify",
        Sample {
            event_type: "orders/create",
            headers: &[
                JSON,
                ("x-shopify-topic", "%type%"),
                ("x-shopify-webhook-id", "%id%"),
                ("x-shopify-event-id", "%id%"),
            ],
            body: r#"{"id":1,"name":"sample"}"#,
        },
    ),
    (
        "slack",
        json("message", r#"{"type":"event_callback","event_id":"Ev%id%","event":{"type":"%type%","text":"sample"}}"#),
    ),
    (
        "twilio",
        Sample {
            event_type: "",
            headers: &[("content-type", "application/x-www-form-urlencoded"), ("i-twilio-idempotency-token", "%id%")],
            body: "MessageSid=SM%id%&MessageStatus=delivered&From=%2B15005550006",
        },
    ),
    ("hubspot", HUBSPOT),
    ("hubspot-v1", HUBSPOT),
    ("hubspot-v2", HUBSPOT),
    (
        "google-calendar",
        Sample {
            event_type: "exists",
            headers: &[
                ("x-goog-channel-id", "sample"),
                ("x-goog-message-number", "%ms%"),
                ("x-goog-resource-id", "sample"),
                ("x-goog-resource-state", "%type%"),
            ],
            body: "",
        },
    ),
    ("zoom", json("meeting.started", r#"{"event":"%type%","event_ts":%ms%,"payload":{"object":{"id":"%id%"}}}"#)),
    (
        "meta",
        json(
            "whatsapp_business_account.messages",
            r#"{"object":"%type0%","entry":[{"id":"0","changes":[{"field":"%type1%","value":{"messages":[{"id":"wamid.%id%"}]}}]}]}"#,
        ),
    ),
    ("square", json("payment.updated", r#"{"event_id":"%id%","type":"%type%","data":{"id":"sample"}}"#)),
    (
        "intercom",
        json(
            "conversation.user.created",
            r#"{"type":"notification_event","id":"notif_%id%","topic":"%type%","data":{}}"#,
        ),
    ),
    (
        "linear",
        Sample {
            event_type: "Issue.create",
            headers: &[JSON, ("linear-delivery", "%id%"), ("linear-event", "%type0%")],
            body: r#"{"type":"%type0%","action":"%type1%","data":{"title":"sample"}}"#,
        },
    ),
    (
        "paddle",
        json(
            "transaction.completed",
            r#"{"event_id":"evt_%id%","notification_id":"ntf_%id%","event_type":"%type%","data":{}}"#,
        ),
    ),
    ("telegram", json("", r#"{"message":{"message_id":1,"text":"sample %id%"}}"#)),
    ("openai", json("response.completed", STANDARD.body)),
    ("standard-webhooks", STANDARD),
    ("svix", STANDARD),
    (
        "twitch",
        Sample {
            event_type: "channel.follow",
            headers: &[
                JSON,
                ("twitch-eventsub-message-type", "notification"),
                ("twitch-eventsub-subscription-type", "%type%"),
            ],
            body: r#"{"subscription":{"type":"%type%"},"event":{"user_name":"sample"}}"#,
        },
    ),
    (
        "okta",
        json(
            "user.session.start",
            r#"{"eventType":"com.okta.event_hook","eventId":"%id%","data":{"events":[{"uuid":"%id%","eventType":"%type%"}]}}"#,
        ),
    ),
    ("mailgun", json("delivered", r#"{"event-data":{"event":"%type%","id":"%id%"}}"#)),
    ("postmark", json("Delivery", r#"{"RecordType":"%type%","MessageID":"%id%","ReceivedAt":"%time%"}"#)),
    (
        "docusign",
        json("envelope-completed", r#"{"event":"%type%","generatedDateTime":"%time%","data":{"envelopeId":"%id%"}}"#),
    ),
    (
        "zendesk",
        Sample {
            event_type: "zen:event-type:ticket.created",
            headers: &[JSON, ("x-zendesk-webhook-invocation-id", "%id%")],
            body: r#"{"type":"%type%","detail":{"id":"1"}}"#,
        },
    ),
    ("calendly", json("invitee.created", r#"{"event":"%type%","payload":{"name":"sample %id%"}}"#)),
    ("pagerduty", json("incident.triggered", r#"{"event":{"id":"%id%","event_type":"%type%","data":{}}}"#)),
    ("dropbox", json("", r#"{"list_folder":{"accounts":["dbid:%id%"]}}"#)),
    ("x", json("", r#"{"for_user_id":"0","tweet_create_events":[{"id_str":"%id%"}]}"#)),
    ("ms-graph", json("created", r#"{"value":[{"changeType":"%type%","resource":"sample/%id%"}]}"#)),
    (
        "cloudevents",
        Sample {
            event_type: "com.example.sample",
            headers: &[("content-type", "application/cloudevents+json")],
            body: r#"{"specversion":"1.0","id":"%id%","source":"/sample","type":"%type%","data":{}}"#,
        },
    ),
];

impl Sample {
    /// Its headers and its body, filled in. `kind` is what it is to be an event of.
    #[must_use]
    pub fn filled(
        &self,
        kind: Option<&str>,
        id: &str,
        time: crate::clock::Timestamp,
    ) -> (Vec<(String, String)>, String) {
        let kind = kind.unwrap_or(self.event_type);
        let (first, second) = kind.split_once('.').unwrap_or((kind, ""));
        let ms = time.as_millis();
        let fill = |text: &str, quote: &dyn Fn(&str) -> String| {
            text.replace("%id%", id)
                .replace("%time%", &time.to_string())
                .replace("%ms%", &ms.to_string())
                .replace("%s%", &(ms / 1000).to_string())
                .replace("%type0%", &quote(first))
                .replace("%type1%", &quote(second))
                .replace("%type%", &quote(kind))
        };
        let plain = |text: &str| text.to_owned();
        let headers = self.headers.iter().map(|(name, value)| ((*name).to_owned(), fill(value, &plain)));
        (headers.collect(), fill(self.body, &in_json))
    }
}

/// As it stands in a string of JSON.
fn in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;

    #[test]
    fn every_sample_is_of_a_preset_and_is_json_where_it_says_so() {
        for (name, sample) in SAMPLES {
            assert!(preset::find(name).is_some(), "{name}");
            let (headers, body) = sample.filled(Some("a\"b.c\\d"), "7", crate::clock::Timestamp::from_millis(1_000));
            assert!(!body.contains("%type") && !body.contains("%id%"), "{name}: {body}");
            if headers.iter().any(|(_, value)| value.ends_with("json")) {
                serde_json::from_str::<serde_json::Value>(&body)
                    .unwrap_or_else(|error| panic!("{name}: {error}: {body}"));
            }
        }
    }
}
