//! Owns what a source knows of its provider's challenge: the question that is asked before events come.
//!
//! Which requests are challenges and how they are answered is the front door's business; here are only the values
//! that the configuration gives.

use crate::verify::Secret;

/// Whose challenge a source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Challenge {
    /// Slack: a signed `url_verification`, answered with its `challenge`.
    Slack,
    /// Meta: GET with `hub.mode=subscribe`, answered if `hub.verify_token` is one of ours.
    Meta,
    /// Zoom: a signed `endpoint.url_validation`, answered with an HMAC of its `plainToken`.
    Zoom,
    /// Dropbox: GET with `challenge`, echoed.
    Dropbox,
    /// Microsoft Graph: POST with `validationToken` and no body, echoed.
    MsGraph,
    /// X: GET with `crc_token`, answered with an HMAC of it.
    X,
    /// Twitch: a signed `webhook_callback_verification`, answered with its `challenge`.
    Twitch,
    /// Okta: GET with `X-Okta-Verification-Challenge`, answered as JSON.
    Okta,
    /// Discord: a signed PING, of events (type 0) or interactions (type 1).
    Discord,
    /// CloudEvents (HTTP 1.1 Web Hooks, section 4): OPTIONS with `WebHook-Request-Origin`.
    CloudEvents,
    /// Google Calendar: the first message of a channel, `X-Goog-Resource-State: sync`.
    GoogleCalendar,
    /// Amazon SNS: a signed `SubscriptionConfirmation`.
    Sns,
}

/// A challenge with what is needed to answer it.
#[derive(Clone)]
pub struct ChallengeRule {
    /// Whose.
    pub kind: Challenge,
    /// Meta: the accepted verify tokens. Zoom and X: the first one makes the answer's HMAC. Else empty.
    pub secrets: Vec<Secret>,
    /// CloudEvents: origins that may send, in lower case; empty: any.
    pub origins: Vec<Box<str>>,
    /// CloudEvents: events a minute that may be sent; None: any number.
    pub rate: Option<u32>,
}

impl ChallengeRule {
    /// A rule that needs nothing but the kind.
    #[must_use]
    pub const fn new(kind: Challenge) -> Self {
        Self { kind, secrets: Vec::new(), origins: Vec::new(), rate: None }
    }
}
