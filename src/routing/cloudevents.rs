//! Owns how events become CloudEvents on the way to an upstream.

use http::HeaderValue;

use crate::expr::Expr;

/// The type of an event whose source knows none, unless the configuration says.
pub const CLOUDEVENT_TYPE: &str = "stagepost.event";

/// What an upstream gets in place of bare requests.
#[derive(Clone, Debug)]
pub struct CloudEvents {
    /// Where the attributes stand.
    pub mode: CloudEventsMode,
    /// In place of `/sources/NAME`.
    pub source: Option<Box<str>>,
    /// The type of an event that has none.
    pub default_type: Box<str>,
    /// Gives the subject; an error or what is no scalar gives none.
    pub subject: Option<Expr>,
    /// Nothing is sent before the upstream has permitted it; None: it is not asked.
    pub handshake: Option<Handshake>,
}

/// How an upstream is asked whether it wants events (HTTP 1.1 Web Hooks for Event Delivery, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Who asks: a DNS name, in lower case. Each request carries it as `Origin`.
    pub origin: HeaderValue,
}

/// Where the attributes of a CloudEvent stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudEventsMode {
    /// In the body, around the data.
    Structured,
    /// In headers; the body stays.
    Binary,
}
