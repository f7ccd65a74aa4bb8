//! Owns the names by which events are told apart that the relay itself makes.

/// Who such an event comes from: what stands in place of a client's address, and of a scheme of verification.
pub const RELAY: &str = "relay";

/// The type of an event that tells of a dead delivery.
pub const DEAD_TYPE: &str = "delivery.dead";

/// The type of an event that tells of dead deliveries of which there were too many to tell of each.
pub const DEAD_MORE_TYPE: &str = "delivery.dead.more";

/// What stands before the name of a topic in the name of a source. No configured source is called so.
const TOPIC: &str = "topic:";

/// How the topics begin that the relay itself publishes under.
pub const OWN_TOPICS: &str = "stagepost.";

/// The source of events that are published under a topic.
#[must_use]
pub fn topic_source(topic: &str) -> String {
    [TOPIC, topic].concat()
}

/// The topic, if a source of this name is one.
#[must_use]
pub fn topic_of_source(source: &str) -> Option<&str> {
    source.strip_prefix(TOPIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_topic_leads_back_to_it() {
        assert_eq!(topic_source("orders"), "topic:orders");
        assert_eq!((topic_of_source("topic:orders"), topic_of_source("orders")), (Some("orders"), None));
    }
}
